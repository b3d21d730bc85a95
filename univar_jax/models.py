"""The word MODEL: a folder in Hugging Face layout, its plain config, its tokenizer. No jax, no torch."""

import dataclasses
import json
from typing import Any

from etils import epath

from univar_jax import minilm
from univar_jax.cli import UserError, one_line


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """An encoder as plain values; what the architectures differ in is said here, not by their names."""

    architecture: str  # config.json's model_type; picks the table of weight names
    vocab: int
    width: int
    layers: int
    heads: int
    head_width: int
    ff: int
    positions: int  # longest text in tokens
    types: int
    eps: float
    activation: str
    position: str  # learned or rotary
    rope_theta: float  # 0 where positions are learned
    gated: bool
    biases: bool
    pad: int
    dropout: float  # what config.json asks for and training never does


def folder(model: str) -> epath.Path:
    """The folder of MODEL: of `minilm`, of a path (local or remote), or of a hub id (owner/name), got where needed.

    Raises:
      UserError: there is none with a config.json, or it cannot be had from here.
    """
    if model == "minilm":
        return epath.Path(minilm.folder())
    path = epath.Path(model).expanduser()
    if (path / "config.json").exists():
        return path
    if path.exists() or "://" in model or model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise UserError(
            f"{model!r} is no encoder: no config.json in such a folder; give a folder in the "
            "Hugging Face layout, a hub id (owner/name) or minilm"
        )
    return epath.Path(_from_hub(model))


def _from_hub(model: str) -> str:
    import huggingface_hub  # half a second, and folders do without it

    wanted, not_ours = ["*.json", "*.safetensors", "vocab.txt"], ["onnx/*", "openvino/*"]
    try:
        return huggingface_hub.snapshot_download(model, allow_patterns=wanted, ignore_patterns=not_ours)
    except Exception as error:
        # The hub's client raises a dozen kinds (network, no such repository, gated, offline mode): all end here.
        raise UserError(
            f"{model!r} is no folder here and could not be had from the hub ({one_line(error)}); "
            "give a local folder, or minilm, which needs no hub"
        ) from error


def tokenizer(folder: epath.Path) -> Any:
    """The folder's tokenizers.Tokenizer, with the truncation and padding that files have baked in switched off."""
    import tokenizers

    path = epath.Path(folder) / "tokenizer.json"
    if not path.exists():
        raise UserError(
            f"{path} is missing; make it once by AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) "
            "of the package transformers"
        )
    # MiniLM's file cuts and pads at 128 tokens: without this every longer view would be cut in silence.
    try:
        found = tokenizers.Tokenizer.from_str(path.read_text())
    except Exception as error:  # the one kind that tokenizers raises
        raise UserError(
            f"{path} is no tokenizer of the package tokenizers ({one_line(error)}); save it again"
        ) from error
    found.no_truncation()
    found.no_padding()
    return found


# What config.json cannot say because the architecture fixes it.
_FIXED = {
    "bert": {"position": "learned", "gated": False, "biases": True},
    "nomic_bert": {"position": "rotary", "gated": True, "biases": False},
}
_ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu")

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


def native_config(folder: epath.Path) -> dict:
    """config.json with the keys of transformers' own classes, and without those that name remote code."""
    path = epath.Path(folder) / "config.json"
    try:
        given = json.loads(path.read_text())
        given.pop("auto_map", None)
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} cannot be read as a JSON object ({one_line(error)})") from error
    if given.get("model_type") != "nomic_bert":
        return given
    for key, known in _NOMIC_ONLY.items():
        if (value := given.pop(key, known)) not in (known, None):
            raise _unknown(path, key, value, [known])
    trained, scaled = given.pop("max_trained_positions", None), given.pop("rotary_scaling_factor", None)
    for old, new in _NOMIC_NAMES.items():
        if given.get(old) is not None:
            given[new] = given.pop(old)
    if scaled and trained:
        # Its angles change with the length of the batch past this length; up to it they are the plain ones.
        given["max_position_embeddings"] = trained
    if (theta := given.pop("rotary_emb_base", None)) is not None and "rope_parameters" not in given:
        given["rope_parameters"] = {"rope_type": "default", "rope_theta": float(theta)}
    return given


def read_config(folder: epath.Path) -> EncoderConfig:
    """The encoder's config; what config.json leaves out has transformers' own default.

    Raises:
      UserError: an architecture, activation, rotary type or pooling that is not computed here, by key and value.
    """
    path = epath.Path(folder) / "config.json"
    given = native_config(folder)
    kind = given.get("model_type")
    if kind not in _FIXED:
        raise _unknown(path, "model_type", kind, _FIXED)
    _check_pooling(epath.Path(folder) / "1_Pooling" / "config.json")
    full = _complete(path, kind, given)
    rope = getattr(full, "rope_parameters", None) or {}
    for key, value, known in (
        ("hidden_act", full.hidden_act, _ACTIVATIONS),
        ("position_embedding_type", given.get("position_embedding_type", "absolute"), ["absolute"]),
        ("rope_parameters.rope_type", rope.get("rope_type", "default"), ["default"]),
        ("is_decoder", getattr(full, "is_decoder", False), [False]),
    ):
        if value not in known:
            raise _unknown(path, key, value, known)
    return EncoderConfig(
        architecture=kind,
        vocab=full.vocab_size,
        width=full.hidden_size,
        layers=full.num_hidden_layers,
        heads=full.num_attention_heads,
        head_width=getattr(full, "head_dim", None) or full.hidden_size // full.num_attention_heads,
        ff=full.intermediate_size,
        positions=full.max_position_embeddings,
        types=full.type_vocab_size,
        eps=full.layer_norm_eps,
        activation=full.hidden_act,
        rope_theta=float(rope.get("rope_theta", 0)),
        pad=full.pad_token_id or 0,
        dropout=float(max(full.hidden_dropout_prob, full.attention_probs_dropout_prob)),
        **_FIXED[kind],
    )


def _complete(path: epath.Path, kind: str, given: dict) -> Any:
    """transformers' config object: the given keys over its defaults."""
    from transformers import AutoConfig  # seconds where torch is installed too, so only here

    try:
        return AutoConfig.for_model(kind, **{k: v for k, v in given.items() if k != "model_type"})
    except Exception as error:  # its strict dataclasses raise their own kinds for a value of the wrong type
        raise UserError(f"{path}: {one_line(error)}") from error


def _check_pooling(path: epath.Path) -> None:
    if not path.exists():
        return
    try:
        pooling = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read as a JSON object ({one_line(error)})") from error
    # sentence-transformers writes pooling_mode since version 6, one switch a mode before.
    old = "pooling_mode_"
    modes = pooling.get(old[:-1]) or [k.removeprefix(old) for k, v in pooling.items() if k.startswith(old) and v]
    if modes not in ("mean", ["mean"], ["mean_tokens"]):
        raise _unknown(path, "pooling_mode", modes, ["mean"])


def _unknown(path: epath.Path, key: str, value: object, known: Any) -> UserError:
    return UserError(f"{path}: {key}={value!r} is not computed here; known: {', '.join(map(str, known))}")
