"""A run's configuration: flat plain values, the paper's as defaults, checked before anything starts."""

import difflib
import hashlib
import json

from ml_collections import ConfigDict

from univar_jax.cli import UserError

# Every key with the paper's value for λ = 1 (arXiv 2404.07900 and its training code).
_DEFAULTS = {
    # The draws of views, of the held-out questions and of nothing else.
    "seed": 42,
    # -- the pairs -------------------------------------------------------------------------------------------
    # Pairs of views in one step of the whole world, not of a device: each anchor meets pairs - 1 negatives.
    "pairs": 64,
    # λ: a view holds uniform 1..max_qas QAs of its source.
    "max_qas": 1,
    # Cap of a view in tokens, [CLS] and [SEP] included; at most the encoder's positions.
    "max_tokens": 256,
    # Tokens of a packed row; 0 = max_tokens. Longer rows fill better where a step has few of them.
    "row_tokens": 0,
    # Tokens of the rows that short views get for themselves, a divisor of row_tokens; 0 = there are none. Attention
    # is paid by the row's length.
    "short_row_tokens": 0,
    # prepare writes epochs × (number of training QAs) pairs, fresh ones each epoch.
    "epochs": 3,
    # Training steps; 0 = all records.
    "steps": 0,
    # Whether the two views of a pair may not share a QA; the paper's may.
    "disjoint_views": False,
    # Share of question groups that never enter a training pair.
    "holdout": 0.2,
    # -- the loss --------------------------------------------------------------------------------------------
    # False: only anchor → key, as the paper's code; True: the mean of both directions.
    "symmetric": False,
    # Other pairs of the anchor's own source as negatives: keep (the paper) or mask.
    "same_source": "keep",
    # 1 / temperature, and whether it is learnt.
    "scale": 50.0,
    "learn_scale": False,
    # How the loss over the global batch is computed: dense (all logits at once), gathered (each device's anchors
    # meet a copy of all keys, by blocks) or ring (the keys walk from device to device, for tens of thousands of pairs).
    "spread": "gathered",
    # Sizes of the leading parts of the vector that are trained too; () = only the whole.
    "matryoshka_dims": (),
    # -- the encoder -----------------------------------------------------------------------------------------
    # Which attention runs: xla, splash (TPU; rows of a multiple of 128 tokens) or cudnn (CUDA; bfloat16).
    "kernel": "xla",
    # Rows that are encoded at a time, a multiple of the devices; 0 = all at once. Saves memory, costs a third more.
    "rows_per_chunk": 0,
    # What the backward pass computes again instead of keeping: none, dots (all but linear maps) or full (every layer).
    "remat": "none",
    # float32 or bfloat16: the type of the matrix products; parameters and sums stay float32.
    "matmul_dtype": "float32",
    # -- the optimiser (AdamW, betas .9 and .999) ------------------------------------------------------------
    "lr": 2e-4,
    # Linear rise, then lr · sqrt(warmup_steps / step).
    "warmup_steps": 700,
    # Not on vectors, biases and the scale.
    "weight_decay": 0.01,
    # Largest global norm of the gradient.
    "clip_norm": 1.0,
    # -- the machine -----------------------------------------------------------------------------------------
    # Mesh: batch over both axes, parameters over fsdp; mesh_data = 0: all devices that fsdp leaves.
    "mesh_data": 0,
    "mesh_fsdp": 1,
    # -- the run's records -----------------------------------------------------------------------------------
    "save_every_steps": 2500,
    "save_every_minutes": 10.0,
    # Newest checkpoints that stay.
    "keep": 3,
    "log_every_steps": 10,
    # k-NN by source on held-out questions; 0 = only at the end.
    "eval_every_steps": 500,
    # Evaluations in a row without a better k-NN after which the run ends; 0 = never.
    "patience": 0,
}

_CHOICES = {
    "same_source": ("keep", "mask"),
    "spread": ("dense", "gathered", "ring"),
    "kernel": ("xla", "splash", "cudnn"),
    "remat": ("none", "dots", "full"),
    "matmul_dtype": ("float32", "bfloat16"),
}
_AT_LEAST = {
    "pairs": 2,
    "max_qas": 1,
    "max_tokens": 8,
    "epochs": 1,
    "mesh_fsdp": 1,
    "keep": 1,
    "log_every_steps": 1,
}
_POSITIVE = ("scale", "lr", "clip_norm")

# What decides the records; train takes only data that was prepared with the same values of these.
PREPARE_KEYS = ("seed", "max_qas", "max_tokens", "epochs", "disjoint_views", "holdout")

# What may change when a run goes on: where and how fast it computes and what it writes, never what it learns.
MACHINE_KEYS = (
    *("spread", "kernel", "rows_per_chunk", "remat", "row_tokens", "short_row_tokens"),
    *("mesh_data", "mesh_fsdp"),
    *("save_every_steps", "save_every_minutes", "keep", "log_every_steps", "eval_every_steps"),
    "patience",  # whoever waits longer goes on with the same steps
)


def defaults() -> ConfigDict:
    """Every key with its default, to be changed by a config file's get_config()."""
    return ConfigDict(_DEFAULTS)


def complete(config: ConfigDict | None) -> ConfigDict:
    """The user's config over the defaults, every value checked.

    Args:
      config: what --config gave; None where the flag was left out.

    Returns:
      A locked ConfigDict that has exactly the keys of `defaults`.

    Raises:
      UserError: no config or no such file; an unknown key (with near spellings); a value out of its range.
    """
    if config is None:
        raise UserError("--config is missing; give a file, for example --config=configs/lambda1.py")
    try:
        given = dict(config.items())
    except (OSError, AttributeError) as error:
        why = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"--config: {why}; give a Python file whose get_config() returns a ConfigDict") from error
    full = defaults()
    for key, value in given.items():
        if key not in full:
            near = difflib.get_close_matches(key, full.keys())
            raise UserError(f"unknown config key {key!r}; near: {', '.join(near) or 'none'}")
        try:
            full[key] = value
        except TypeError as error:
            raise UserError(f"config.{key}={value!r} should be a {type(full[key]).__name__}") from error
        if full[key] is None:  # the one wrong type that ConfigDict lets through
            raise UserError(f"config.{key}=None should be a {type(defaults()[key]).__name__}")
    _check(full)
    return full.lock()


def _check(config: ConfigDict) -> None:
    for key, choices in _CHOICES.items():
        if config[key] not in choices:
            raise UserError(f"config.{key}={config[key]!r} is not one of {', '.join(choices)}")
    for key, value in config.items():
        least = _AT_LEAST.get(key, 0)
        if isinstance(value, int | float) and not least <= value < 2**63:  # nan and inf are not either
            raise UserError(f"config.{key}={value} must be at least {least} and below 2**63")
    for key in _POSITIVE:
        if not config[key] > 0:
            raise UserError(f"config.{key}={config[key]} must be above 0")
    if config.holdout >= 1:
        raise UserError(f"config.holdout={config.holdout} is a share of the questions and must be below 1")
    if config.row_tokens and config.row_tokens < config.max_tokens:
        raise UserError(
            f"config.row_tokens={config.row_tokens} is shorter than a view may be "
            f"(max_tokens={config.max_tokens}); use 0 or at least {config.max_tokens}"
        )
    dims = config.matryoshka_dims
    if any(not isinstance(d, int) or d < 1 for d in dims) or len(set(dims)) < len(dims):
        raise UserError(f"config.matryoshka_dims={dims} must be different whole numbers above 0, as (64, 128)")
    row, short = config.row_tokens or config.max_tokens, config.short_row_tokens
    if short and (row % short or short == row):
        raise UserError(f"config.short_row_tokens={short} must divide the {row} tokens of a row and be shorter; or 0")


def mathematics(config: ConfigDict | dict) -> dict:
    """The config without the machine's keys: what two runs that learn the same have in common."""
    return {key: value for key, value in dict(config).items() if key not in MACHINE_KEYS}


def digest(values: object) -> str:
    """sha256 of plain values written as JSON with sorted keys; 64 hex digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
