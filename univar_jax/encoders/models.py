"""The word MODEL: a folder in Hugging Face layout, its plain config, its tokenizer. No jax, no torch."""

import dataclasses
from typing import Any

from etils import epath

from univar_jax.cli import UserError, one_line
from univar_jax.encoders import hfconfig, minilm, modules
from univar_jax.encoders.hfconfig import unknown


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
    pooling: str = "mean"  # of a text's states: mean, or cls, the first one
    stretch: float = 0.0  # by how much rope_theta grows with the length of a text (dynamic NTK); 0: not at all
    plain_positions: int = 0  # the length up to which it does not


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
        got = huggingface_hub.snapshot_download(model, allow_patterns=wanted, ignore_patterns=not_ours)
        if not any(epath.Path(got).glob("*.safetensors")):  # an older folder: its weights are pickled
            got = huggingface_hub.snapshot_download(model, allow_patterns=["pytorch_model*.bin"])
        return got
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
    try:
        found = tokenizers.Tokenizer.from_str(path.read_text())
    except Exception as error:  # the one kind that tokenizers raises
        raise UserError(
            f"{path} is no tokenizer of the package tokenizers ({one_line(error)}); save it again"
        ) from error
    # MiniLM's file cuts and pads at 128 tokens: without this every longer view would be cut in silence.
    found.no_truncation()
    found.no_padding()
    if modules.lower_cases(folder):
        before = [tokenizers.normalizers.Lowercase(), *([found.normalizer] if found.normalizer else [])]
        found.normalizer = tokenizers.normalizers.Sequence(before)
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
    "nomic_bert": {
        "position_embedding_type": ["absolute", None],
        "rope_parameters.rope_type": ["default", "dynamic"],
        "rope_parameters.partial_rotary_factor": [1.0, None],
    },
    "mpnet": {"relative_attention_num_buckets": [32], "pad_token_id": [1]},  # fixed in transformers' code
    "modernbert": {"norm_bias": [False], "attention_bias": [False], "mlp_bias": [False]},
}
_KNOWN["roberta"] = _KNOWN["xlm-roberta"] = _KNOWN["bert"]
_ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu")


def read_config(folder: epath.Path) -> EncoderConfig:
    """The encoder's config; what config.json leaves out has transformers' own default.

    Raises:
      UserError: an architecture, activation, rotary type or pooling that is not computed here, by key and value.
    """
    path = epath.Path(folder) / "config.json"
    given = hfconfig.read(folder)
    kind = given.get("model_type")
    if kind not in _FIXED:
        raise unknown(path, "model_type", kind, _FIXED)
    full = hfconfig.complete(folder, given)
    names = _BERT_NAMES | _OWN_NAMES.get(kind, {})
    named = {ours: getattr(full, key) if isinstance(key, str) else key for ours, key in names.items()}
    known_values = {names["activation"]: _ACTIVATIONS, "is_decoder": [False, None]} | _KNOWN.get(kind, {})
    for key, known in known_values.items():
        if (value := hfconfig.value_of(full, key)) not in known:
            raise unknown(path, key, value, known)
    named["dropout"] = float(max(getattr(full, key) for key in names["dropout"]))
    return EncoderConfig(
        architecture=kind,
        vocab=full.vocab_size,
        width=full.hidden_size,
        layers=full.num_hidden_layers,
        heads=full.num_attention_heads,
        head_width=getattr(full, "head_dim", None) or full.hidden_size // full.num_attention_heads,
        pad=full.pad_token_id or 0,
        pooling=modules.pooling(folder),
        **named | _FIXED[kind] | _positions(path, full),
    )


def _positions(path: epath.Path, full: Any) -> dict:
    """The fields of an EncoderConfig that say where tokens are, as far as the architecture does not fix them."""
    found = {"positions": full.max_position_embeddings, "rope_theta": 0.0}
    match full.model_type:
        case "roberta" | "xlm-roberta":
            if full.pad_token_id is None:
                raise unknown(path, "pad_token_id", None, ["a token's number"])
            # Padding has the row of its own number, and the tokens those after it.
            found |= {"position_start": full.pad_token_id + 1, "positions": found["positions"] - full.pad_token_id - 1}
        case "mpnet":
            found |= {"position_start": 2, "positions": found["positions"] - 2}
            found["buckets"] = full.relative_attention_num_buckets
        case "nomic_bert":
            found |= _stretch(path, full)
        case "modernbert":
            found |= _windows(path, full)
    return found


def _stretch(path: epath.Path, full: Any) -> dict:
    """NomicBERT's rotary angles, plain or with a base that grows with a text past a length (dynamic NTK)."""
    rope = full.rope_parameters
    found = {"rope_theta": float(rope["rope_theta"])}
    if rope["rope_type"] == "dynamic":
        if not (factor := rope.get("factor") or 0) >= 1:
            raise unknown(path, "rope_parameters.factor", factor, ["1 and more"])
        plain = full.max_position_embeddings
        longest = getattr(full, "n_positions", None) or int(plain * factor)
        found |= {"stretch": float(factor), "plain_positions": plain, "positions": longest}
    return found


def _windows(path: epath.Path, full: Any) -> dict:
    """ModernBERT's layers: most see a window of tokens and turn by an angle of their own."""
    window = {"full_attention": None, "sliding_attention": full.sliding_window}
    if full.num_hidden_layers < 2:
        raise unknown(path, "num_hidden_layers", full.num_hidden_layers, ["2 and more"])
    if len(full.layer_types) != full.num_hidden_layers or set(full.layer_types) - set(window):
        raise unknown(path, "layer_types", full.layer_types, [f"{full.num_hidden_layers} of {', '.join(window)}"])
    for key, known in (("rope_type", ["default"]), ("rope_theta", None)):
        for kind in window:
            value = full.rope_parameters[kind].get(key)
            if value not in known if known else not isinstance(value, (int, float)):
                raise unknown(path, f"rope_parameters.{kind}.{key}", value, known or ["a number"])
    thetas = [float(full.rope_parameters[kind]["rope_theta"]) for kind in window]
    windows = tuple(window[kind] for kind in full.layer_types)
    return {"rope_theta": thetas[0], "local_theta": thetas[1], "windows": windows}
