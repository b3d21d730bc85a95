"""config.json → a config object of transformers whose every key is understood; others are refused by name."""

import json
from collections.abc import Iterable
from typing import Any

from etils import epath

from univar_jax.cli import UserError, one_line

# Keys of config.json that say nothing of the result: training, heads, speed, where the file came from. The keys of
# transformers' own classes, and what is switched off (null, false, nought, empty), need no mention.
_SILENT = {
    *("torch_dtype", "gradient_checkpointing", "output_past", "use_cache", "torchscript", "finetuning_task"),
    *("task_specific_params", "directionality", "matryoshka_dimensions", "max_length", "model_max_length"),
    *("architectures", "sentence_transformers", "reference_compile", "repad_logits_with_grad", "num_labels"),
    *("language", "xla_device", "tie_weights_"),
    # Older names that transformers' classes turn into their own.
    *("rope_theta", "rope_scaling", "global_rope_theta", "local_rope_theta", "global_attn_every_n_layers"),
    *("sliding_window", "position_embedding_type"),
}
_SILENT_STARTS = ("_", "pooler_", "classifier_", "tokenizer_", "summary_")

# NomicBERT's first config.json took GPT-2's names, which transformers' own class passes over in silence.
_NOMIC_NAMES = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_positions": "max_position_embeddings",
    "layer_norm_epsilon": "layer_norm_eps",
    "resid_pdrop": "hidden_dropout_prob",
    "attn_pdrop": "attention_probs_dropout_prob",
}
# Switches of that first code which transformers' class does not have, with the one value that it computes.
_NOMIC_ONLY = {"activation_function": "swiglu", "rotary_emb_fraction": 1.0, "rotary_emb_scale_base": None}
_NOMIC_ONLY |= dict.fromkeys(("prenorm", "parallel_block", "causal", "use_rms_norm", "qkv_proj_bias"), False)
_NOMIC_ONLY |= dict.fromkeys(("mlp_fc1_bias", "mlp_fc2_bias", "rotary_emb_interleaved"), False)
_NOMIC_ONLY |= {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}
# Those that change nothing: its kernels, and what its code never reads.
_NOMIC_SILENT = ("dense_seq_output", "fused_bias_fc", "fused_dropout_add_ln", "pad_vocab_size_multiple", "embd_pdrop")
_NOMIC_SILENT += ("parallel_block_tied_norm", "reorder_and_upcast_attn", "use_flash_attn", "use_xentropy")


def read(folder: epath.Path) -> dict:
    """config.json with the keys of transformers' own classes, and without those that name remote code.

    A NomicBERT whose angles change beyond the length it was trained at (rotary_scaling_factor) keeps its full length
    as `n_positions`: transformers has no key for it.

    Raises:
      UserError: the file is not there or no JSON object, or a NomicBERT has a switch that transformers does not.
    """
    path = epath.Path(folder) / "config.json"
    given = read_json(path)
    given.pop("auto_map", None)
    if given.get("model_type") != "nomic_bert":
        return given
    for key, known in _NOMIC_ONLY.items():
        if (value := given.pop(key, known)) not in (known, None):
            raise unknown(path, key, value, [known])
    trained, factor = given.pop("max_trained_positions", None), given.pop("rotary_scaling_factor", None)
    theta, first = given.pop("rotary_emb_base", None), "n_embd" in given
    grows = factor or value_of(given, "rope_parameters.rope_type") == "dynamic"
    kept = {"n_positions": given["n_positions"]} if grows and given.get("n_positions") else {}
    for old, new in _NOMIC_NAMES.items():
        if (value := given.pop(old, None)) is not None:
            given.setdefault(new, value)
    for key in [key for key in given if key in _NOMIC_SILENT or key.startswith("summary_")]:
        del given[key]
    if "rope_parameters" not in given and (first or factor or theta is not None):
        if theta is None:  # that code has another default than transformers
            raise unknown(path, "rotary_emb_base", None, ["a number"])
        given["rope_parameters"] = {"rope_type": "default", "rope_theta": float(theta)}
    if factor:
        given["max_position_embeddings"] = trained or given["max_position_embeddings"]
        given["rope_parameters"] |= {"rope_type": "dynamic", "factor": float(factor)}
    return given | kept


def complete(folder: epath.Path, given: dict) -> Any:
    """transformers' config object: the given keys over its defaults.

    Args:
      folder: named in errors.
      given: from `read`.

    Raises:
      UserError: a value of a wrong type, or a key that the architecture does not know and that is not off.
    """
    from transformers import AutoConfig  # seconds where torch is installed too, so only here

    path, kind = epath.Path(folder) / "config.json", given["model_type"]
    try:
        blank = AutoConfig.for_model(kind)
        full = AutoConfig.for_model(kind, **{k: v for k, v in given.items() if k != "model_type"})
    except Exception as error:  # its strict dataclasses raise their own kinds for a value of the wrong type
        raise UserError(f"{path}: {one_line(error)}") from error
    known = {*blank.to_dict(), *blank.attribute_map, *_SILENT} | ({"n_positions"} if kind == "nomic_bert" else set())
    for key, value in given.items():
        if value and key not in known and not key.startswith(_SILENT_STARTS):
            raise UserError(
                f"{path}: {kind} has no key {key} (={str(value)[:60]!r}), which may change the result; "
                "take it out of a copy of the folder if it does not"
            )
    return full


def value_of(full: Any, key: str) -> object:
    """What a config, an object or a dict, says under a key with dots; None where it has no such key."""
    for part in key.split("."):
        full = full.get(part) if isinstance(full, dict) else getattr(full, part, None)
    return full


def unknown(path: epath.Path, key: str, value: object, known: Iterable) -> UserError:
    """The error for a key whose value is none that is computed."""
    return UserError(f"{path}: {key}={value!r} is not computed here; known: {', '.join(map(str, known))}")


def read_json(path: epath.Path) -> dict:
    """A file's JSON object.

    Raises:
      UserError: it is not there or none.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a JSON object ({one_line(error)})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} cannot be read as a JSON object (it holds a {type(found).__name__})")
    return found
