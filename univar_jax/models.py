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
    position_start: int = 0  # rows of the position table before the first token's
    buckets: int = 0  # of distances, each with a learned score per head; 0 where there are none
    prenorm: bool = False  # norms before attention and feed-forward, the first one left out, and one at the end
    norm_biases: bool = True
    local_theta: float = 0.0  # instead of rope_theta in layers with a window
    windows: tuple[int | None, ...] = ()  # by layer, how many tokens to each side are seen; None is all; () no layer


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
_LEARNED = {"position": "learned", "gated": False, "biases": True}
_ROTARY = {"position": "rotary", "gated": True, "biases": False}
_FIXED = {
    "bert": _LEARNED,
    "roberta": _LEARNED,
    "xlm-roberta": _LEARNED,
    "distilbert": _LEARNED,
    "mpnet": _LEARNED,
    "nomic_bert": _ROTARY,
    "modernbert": _ROTARY | {"prenorm": True, "norm_biases": False},
}
# What transformers' config objects call the same thing, where it is not as in BERT; a number is the code's own.
_BERT_NAMES = {
    "ff": "intermediate_size",
    "types": "type_vocab_size",
    "eps": "layer_norm_eps",
    "activation": "hidden_act",
    "dropout": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
}
_OWN_NAMES = {
    "distilbert": {
        "ff": "hidden_dim",
        "types": 0,
        "eps": 1e-12,
        "activation": "activation",
        "dropout": ("dropout", "attention_dropout"),
    },
    "mpnet": {"types": 0},
    "modernbert": {
        "types": 0,
        "eps": "norm_eps",
        "activation": "hidden_activation",
        "dropout": ("embedding_dropout", "attention_dropout", "mlp_dropout"),
    },
}
# Keys that would change the result, with the values that are computed; None in a list is a key left out.
_KNOWN = {
    "bert": {"position_embedding_type": ["absolute", None]},
    "nomic_bert": {"position_embedding_type": ["absolute", None], "rope_parameters.rope_type": ["default"]},
    "mpnet": {"relative_attention_num_buckets": [32], "pad_token_id": [1]},  # fixed in transformers' code
    "modernbert": {"norm_bias": [False], "attention_bias": [False], "mlp_bias": [False]},
}
_KNOWN["roberta"] = _KNOWN["xlm-roberta"] = _KNOWN["bert"]
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
    names = _BERT_NAMES | _OWN_NAMES.get(kind, {})
    named = {ours: getattr(full, key) if isinstance(key, str) else key for ours, key in names.items()}
    known_values = {names["activation"]: _ACTIVATIONS, "is_decoder": [False, None]} | _KNOWN.get(kind, {})
    for key, known in known_values.items():
        if (value := _value(full, key)) not in known:
            raise _unknown(path, key, value, known)
    named["dropout"] = float(max(getattr(full, key) for key in names["dropout"]))
    return EncoderConfig(
        architecture=kind,
        vocab=full.vocab_size,
        width=full.hidden_size,
        layers=full.num_hidden_layers,
        heads=full.num_attention_heads,
        head_width=getattr(full, "head_dim", None) or full.hidden_size // full.num_attention_heads,
        pad=full.pad_token_id or 0,
        **named | _FIXED[kind] | _positions(path, full),
    )


def _value(full: Any, key: str) -> object:
    """What a config object says under a key with dots, None where it has no such key."""
    for part in key.split("."):
        full = full.get(part) if isinstance(full, dict) else getattr(full, part, None)
    return full


def _positions(path: epath.Path, full: Any) -> dict:
    """The fields of an EncoderConfig that say where tokens are, as far as the architecture does not fix them."""
    found = {"positions": full.max_position_embeddings, "rope_theta": 0.0}
    match full.model_type:
        case "roberta" | "xlm-roberta":
            if full.pad_token_id is None:
                raise _unknown(path, "pad_token_id", None, ["a token's number"])
            # Padding has the row of its own number, and the tokens those after it.
            found |= {"position_start": full.pad_token_id + 1, "positions": found["positions"] - full.pad_token_id - 1}
        case "mpnet":
            found |= {"position_start": 2, "positions": found["positions"] - 2}
            found["buckets"] = full.relative_attention_num_buckets
        case "nomic_bert":
            found["rope_theta"] = float(full.rope_parameters["rope_theta"])
        case "modernbert":
            found |= _windows(path, full)
    return found


def _windows(path: epath.Path, full: Any) -> dict:
    """ModernBERT's layers: most see a window of tokens and turn by an angle of their own."""
    window = {"full_attention": None, "sliding_attention": full.sliding_window}
    if full.num_hidden_layers < 2:
        raise _unknown(path, "num_hidden_layers", full.num_hidden_layers, ["2 and more"])
    if len(full.layer_types) != full.num_hidden_layers or set(full.layer_types) - set(window):
        raise _unknown(path, "layer_types", full.layer_types, [f"{full.num_hidden_layers} of {', '.join(window)}"])
    for key, known in (("rope_type", ["default"]), ("rope_theta", None)):
        for kind in window:
            value = full.rope_parameters[kind].get(key)
            if value not in known if known else not isinstance(value, (int, float)):
                raise _unknown(path, f"rope_parameters.{kind}.{key}", value, known or ["a number"])
    thetas = [float(full.rope_parameters[kind]["rope_theta"]) for kind in window]
    windows = tuple(window[kind] for kind in full.layer_types)
    return {"rope_theta": thetas[0], "local_theta": thetas[1], "windows": windows}


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
