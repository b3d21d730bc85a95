"""Weights of a folder ⇄ ours, both ways through one table of names. numpy; torch only where weights are pickled.

Ours is a nested dict of float32 arrays; a path as `blocks/attention/qkv/kernel` names a leaf.
"""

import hashlib
import importlib.util
import json

import huggingface_hub
import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from univar_jax.cli import UserError, one_line
from univar_jax.encoders.hfconfig import read_json
from univar_jax.encoders.models import EncoderConfig
from univar_jax.encoders.names import CARRIED, PREFIXES, TABLES

# A file of an export holds no more, as transformers' own.
MOST_BYTES = 5 * 10**9
_WHOLE, _INDEX, _PICKLED = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
_WIDE = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}


def load(folder: epath.Path, config: EncoderConfig) -> dict:
    """Reads a folder's weights.

    Args:
      folder: has model.safetensors, or an index and its parts; any float type, names with or without a prefix.
        Pickled weights (pytorch_model.bin) are read where torch is installed, by its weights_only.
      config: the folder's config.

    Returns:
      Nested dict of float32 arrays, as `encoder.abstract_params` says.

    Raises:
      UserError: no such file, a weight missing or left over, a shape that config.json does not say.
    """
    found = {name: x for name, x in _tensors(folder).items() if not name.startswith(CARRIED[config.architecture])}
    sizes = _sizes(config)
    params = {}
    for ours, (axes, names) in TABLES[config.architecture].items():
        layers = [
            np.concatenate([_take(found, folder, n.format(l=layer), axes, sizes) for n in names])
            for layer in _layers(ours, names, config)
        ]
        if ours.endswith("kernel"):
            layers = [x.T for x in layers]
        _put(params, ours, np.stack(layers) if "{l}" in names[0] else layers[0])
    if found:
        some = ", ".join(sorted(found)[:3])
        raise UserError(
            f"{folder}: {len(found)} weights are left over, no {config.architecture} of {config.layers} layers "
            f"has them: {some}; is config.json of another model?"
        )
    return params


def carried(folder: epath.Path, config: EncoderConfig) -> dict[str, np.ndarray]:
    """The folder's tensors that are not trained (a pooler, heads, buffers), by their names there, unchanged."""
    return {name: x for name, x in _tensors(folder).items() if name.startswith(CARRIED[config.architecture])}


def save(
    params: dict,
    config: EncoderConfig,
    carried: dict[str, np.ndarray],
    folder: epath.Path,
    dtype: str = "float32",
    shard_bytes: int = MOST_BYTES,
) -> None:
    """Writes a folder's weights under the Hugging Face names; equal weights give equal bytes.

    Args:
      params: nested dict of float32 arrays.
      config: the encoder's.
      carried: tensors that go along by their names: as they are for float32, else floats in `dtype` too.
      folder: gets model.safetensors, or parts of it and their index where it would be larger than shard_bytes.
      dtype: float32 or bfloat16 (rounded to the nearest).
      shard_bytes: most bytes of tensors in a file.
    """
    flat = flatten(params)
    tensors = dict(carried)
    for ours, (_, names) in TABLES[config.architecture].items():
        stack = flat[ours] if "{l}" in names[0] else [flat[ours]]
        for layer, x in zip(_layers(ours, names, config), stack, strict=True):
            x = np.asarray(x, np.float32)
            parts = np.split(x.T if ours.endswith("kernel") else x, len(names))
            for name, part in zip(names, parts, strict=True):
                tensors[name.format(l=layer)] = np.ascontiguousarray(part)
    if dtype == "bfloat16":
        short = ml_dtypes.bfloat16
        tensors = {k: x.astype(short) if np.issubdtype(x.dtype, np.floating) else x for k, x in tensors.items()}
    _write(epath.Path(folder), dict(sorted(tensors.items())), shard_bytes)


def _write(folder: epath.Path, tensors: dict[str, np.ndarray], shard_bytes: int) -> None:
    plan = huggingface_hub.split_state_dict_into_shards_factory(
        tensors,
        get_storage_size=lambda x: x.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=shard_bytes,
    )
    for file, members in plan.filename_to_tensors.items():
        # "format": transformers refuses a file that does not say which library's layout it has.
        part = safetensors.numpy.save({name: tensors[name] for name in members}, metadata={"format": "pt"})
        (folder / file).write_bytes(part)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / _INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def digest(params: dict) -> str:
    """sha256 over the leaves' sorted names, shapes and float32 bytes: which weights these are."""
    total = hashlib.sha256()
    for name, x in sorted(flatten(params).items()):
        total.update(f"{name} {x.shape}\n".encode())
        total.update(np.ascontiguousarray(x, np.float32))
    return total.hexdigest()


def flatten(params: dict, above: str = "") -> dict[str, np.ndarray]:
    """Nested dict → {path: array}, a path as `embed/norm/bias`."""
    flat = {}
    for name, x in params.items():
        flat |= flatten(x, f"{above}{name}/") if isinstance(x, dict) else {above + name: np.asarray(x)}
    return flat


def _layers(ours: str, names: list[str], config: EncoderConfig) -> range:
    """The layers that a leaf is stacked of; for one that no layer has, a single number that no name shows."""
    if "{l}" not in names[0]:
        return range(1)
    return range(1 if ours.startswith("later_") else 0, config.layers)


def _sizes(config: EncoderConfig) -> dict[str, int]:
    inner = config.heads * config.head_width
    sizes = {"v": config.vocab, "p": config.position_start + config.positions, "y": config.types, "b": config.buckets}
    sizes |= {"h": config.heads, "d": config.width, "f": config.ff, "g": 2 * config.ff}
    return sizes | {"a": inner, "c": 3 * inner}


def _take(found: dict, folder: epath.Path, name: str, axes: str, sizes: dict[str, int]) -> np.ndarray:
    if name not in found:
        raise UserError(f"{folder}: the weight {name} is missing; is config.json of another model?")
    x = found.pop(name)
    shape = tuple(sizes[axis] for axis in axes)
    if x.shape != shape:
        raise UserError(f"{folder}: the weight {name} has shape {x.shape}, config.json says {shape}")
    return x.astype(np.float32)


def _put(tree: dict, path: str, x: np.ndarray) -> None:
    *above, leaf = path.split("/")
    for name in above:
        tree = tree.setdefault(name, {})
    tree[leaf] = np.ascontiguousarray(x)


def _tensors(folder: epath.Path) -> dict[str, np.ndarray]:
    """All tensors of a folder, without prefix and with today's names."""
    folder = epath.Path(folder)
    found = {}
    for whole, index, read in ((_WHOLE, _INDEX, _safe), (_PICKLED, _PICKLED + ".index.json", _pickled)):
        if (folder / whole).exists():
            found = read(folder / whole)
        elif (folder / index).exists():
            for name in sorted(set(read_json(folder / index)["weight_map"].values())):
                found |= read(folder / name)
        if found:
            return {_plain(name): x for name, x in found.items()}
    raise UserError(
        f"{folder} has no {_WHOLE}; save the model once more by save_pretrained of the package transformers"
    )


def _safe(file: epath.Path) -> dict[str, np.ndarray]:
    try:
        entries = safetensors.deserialize(file.read_bytes())
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{file}: the weights cannot be read ({error}); fetch the file again") from error
    return {name: _array(file, name, entry) for name, entry in entries}


def _pickled(file: epath.Path) -> dict[str, np.ndarray]:
    """Tensors out of a pickle, by the reader of torch that runs no code."""
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            f"{file}: pickled weights can run code and are read by torch's weights_only alone: pip install "
            "'univar_jax[torch]', or save the model once more as safetensors by save_pretrained of transformers"
        )
    import torch

    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
        return {name: (x.float() if x.is_floating_point() else x).numpy() for name, x in found.items()}
    except Exception as error:  # UnpicklingError for code in it, a dozen others for a damaged file
        raise UserError(
            f"{file}: torch's weights_only refuses it ({one_line(error)[:120]}); nothing of it was run: save the "
            "model once more as safetensors by save_pretrained of the package transformers"
        ) from error


def _plain(name: str) -> str:
    prefix = next((p for p in PREFIXES if name.startswith(p)), "")
    # TensorFlow's words for a LayerNorm's two vectors live on in the oldest BERT files.
    return (
        name.removeprefix(prefix)
        .replace("LayerNorm.gamma", "LayerNorm.weight")
        .replace("LayerNorm.beta", "LayerNorm.bias")
    )


def _array(file: epath.Path, name: str, entry: dict) -> np.ndarray:
    if entry["dtype"] == "BF16":  # numpy has none; it is the upper half of a float32
        x = (np.frombuffer(entry["data"], "<u2").astype("<u4") << 16).view("<f4")
    elif entry["dtype"] in _WIDE:
        x = np.frombuffer(entry["data"], _WIDE[entry["dtype"]])
    else:
        raise UserError(f"{file}: the weight {name} is {entry['dtype']}; known: BF16, {', '.join(_WIDE)}")
    return x.reshape(entry["shape"])
