"""Pairs in TFRecord shards with TFDS metadata: written once, read by record number; no tensorflow, no jax."""

import dataclasses
import hashlib
import json
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import google_crc32c
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from univar_jax import config, files
from univar_jax.cli import UserError

# Records of a shard: what a killed prepare may lose of a worker's time, and at λ = 80 some 130 MB.
PER_SHARD = 4096
MANIFEST = "manifest.json"
_AGAIN = "remove the folder and prepare it again"
_NAME = "univar"
_HEAD, _FOOT = struct.Struct("<QI"), struct.Struct("<I")

# Where a record lies, how long its views are and whose: what a host needs of records that another one reads.
INDEX = np.dtype([("offset", "<u8"), ("anchor", "<u4"), ("key", "<u4"), ("source", "<u4")])


@dataclasses.dataclass(frozen=True)
class Pair:
    """One record: the token ids of two views of one source, special tokens included; source counts the names."""

    anchor: np.ndarray
    key: np.ndarray
    source: int


def features(ids_dtype: np.dtype, sources: Sequence[str]) -> tfds.features.FeaturesDict:
    """The record's codec, TFDS's own: ids as the bytes of little-endian `ids_dtype`."""
    ids = tfds.features.Tensor(shape=(None,), dtype=np.dtype(ids_dtype), encoding="bytes")
    names = tfds.features.ClassLabel(names=list(sources))
    return tfds.features.FeaturesDict({"anchor_ids": ids, "key_ids": ids, "source": names})


def file_name(split: str, shard: int, shards: int) -> str:
    """TFDS's name of a shard."""
    return f"{_NAME}-{split}.tfrecord-{shard:05d}-of-{shards:05d}"


def write(path: Path, pairs: Iterable[Pair], codec: tfds.features.FeaturesDict) -> np.ndarray:
    """Writes a shard aside, syncs it and only then gives it its name; its part of the index."""
    entries, offset = [], 0
    with files.whole(path) as file:
        for pair in pairs:
            record = _frame(pair, codec)
            file.write(record)
            entries.append((offset, len(pair.anchor), len(pair.key), pair.source))
            offset += len(record)
    return np.array(entries, INDEX)


def _frame(pair: Pair, codec: tfds.features.FeaturesDict) -> bytes:
    """TFRecord: length, crc of the length, tf.train.Example, crc of the example."""
    example = codec.serialize_example({"anchor_ids": pair.anchor, "key_ids": pair.key, "source": pair.source})
    # A protobuf map has no order of its own; without this the bytes differ from process to process.
    payload = tf_example_pb2.Example.FromString(example).SerializeToString(deterministic=True)
    head = _HEAD.pack(len(payload), _masked_crc(struct.pack("<Q", len(payload))))
    return head + payload + _FOOT.pack(_masked_crc(payload))


def scan(path: Path, codec: tfds.features.FeaturesDict) -> tuple[np.ndarray, str]:
    """Reads a whole shard, every crc checked.

    Returns:
      Its part of the index (INDEX [records]) and the sha256 of its bytes.

    Raises:
      UserError: naming the file and the first broken record.
    """
    data = _read(path)
    view, entries, offset = memoryview(data), [], 0
    while offset < len(data):
        pair = _parse(view[offset:], _dtype(codec), path, len(entries))
        entries.append((offset, len(pair.anchor), len(pair.key), pair.source))
        offset += _HEAD.size + _HEAD.unpack_from(data, offset)[0] + _FOOT.size
    return np.array(entries, INDEX), hashlib.sha256(data).hexdigest()


def read_manifest(data: str) -> dict:
    """DATA's manifest; it is written last, so a folder without one is not whole.

    Raises:
      UserError: there is none, or it is broken.
    """
    path = files.local(data, "data") / MANIFEST
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing, so the folder is not there or not whole; run univar_jax.prepare --out={data}"
        ) from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is broken ({error}); {_AGAIN}") from error


def verify(data: str) -> None:
    """Checks every byte of DATA against its manifest and every record against its crc.

    Raises:
      UserError: naming the first file that is missing, changed or damaged.
    """
    folder, manifest = files.local(data, "verify"), read_manifest(data)
    if manifest.pop("sha256", None) != config.digest(manifest):
        raise UserError(f"{folder / MANIFEST} is damaged: it has not the sha256 that it states; {_AGAIN}")
    for name, sha256 in manifest["metadata"].items():
        if hashlib.sha256(_read(folder / name)).hexdigest() != sha256:
            raise UserError(f"{folder / name} is not the file that {MANIFEST} names; {_AGAIN}")
    codec = features(np.dtype(manifest["ids_dtype"]), manifest["sources"])
    for split in manifest["splits"]:
        index = Shards(folder, manifest, split).index
        entries = manifest["splits"][split]["shards"]
        for number, entry in enumerate(entries):
            path = folder / entry["file"]
            found, sha256 = scan(path, codec)
            expected = index[number * PER_SHARD :][: entry["records"]]
            if sha256 != entry["sha256"] or not np.array_equal(found, expected):
                raise UserError(f"{path}: whole records, but not the manifest's; {_AGAIN}")
        print(f"{split}: {len(index):,} records in {len(entries)} shards, whole", flush=True)


class Shards:
    """The records of one split of a prepared folder, by number.

    Attributes:
      index: INDEX [records].
      sources: the sources' names.
    """

    def __init__(self, folder: Path, manifest: dict, split: str) -> None:
        self._folder = folder
        self._entry = manifest["splits"][split]
        self.sources: list[str] = manifest["sources"]
        self._dtype = np.dtype(manifest["ids_dtype"])
        path = folder / self._entry["index"]["file"]
        data = _read(path)
        if hashlib.sha256(data).hexdigest() != self._entry["index"]["sha256"]:
            raise UserError(f"{path} is not the index that {folder / MANIFEST} names; {_AGAIN}")
        if len(data) != INDEX.itemsize * sum(entry["records"] for entry in self._entry["shards"]):
            raise UserError(f"{path} is of another version of univar_jax; {_AGAIN}")
        self.index = np.frombuffer(data, INDEX)
        self._files: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.index)

    def lengths(self) -> np.ndarray:
        """Tokens of each record's views: int [records, 2], anchor and key."""
        return np.stack([self.index["anchor"], self.index["key"]], 1).astype(np.int64)

    def sources_of(self) -> np.ndarray:
        """Each record's source: int [records]."""
        return self.index["source"].astype(np.int64)

    def read(self, record: int) -> Pair:
        """Record number `record` of the split.

        Raises:
          UserError: naming file and record where the shard is missing, cut short or does not match its crc.
        """
        shard, inside = divmod(record, PER_SHARD)
        name = self._entry["shards"][shard]["file"]
        if shard not in self._files:
            try:
                self._files[shard] = os.open(self._folder / name, os.O_RDONLY)
            except FileNotFoundError as error:
                raise UserError(f"{self._folder / name} is missing; {_AGAIN}") from error
        start = int(self.index["offset"][record])
        last = inside + 1 == self._entry["shards"][shard]["records"]
        stop = self._entry["shards"][shard]["bytes"] if last else int(self.index["offset"][record + 1])
        data = os.pread(self._files[shard], stop - start, start)
        return _parse(data, self._dtype, self._folder / name, inside)


def _dtype(codec: tfds.features.FeaturesDict) -> np.dtype:
    return np.dtype(codec["anchor_ids"].np_dtype)


def _parse(data: bytes | memoryview, dtype: np.dtype, path: Path, record: int) -> Pair:
    """The record at the start of `data`.

    Reads the same fields as TFDS's codec, which takes four times as long: a feed that a device waits for.
    """
    try:
        return _parsed(data, dtype)
    except UserError as error:
        raise UserError(f"{path} record {record}: {error}; the shard is damaged; {_AGAIN}") from error


def _parsed(data: bytes | memoryview, dtype: np.dtype) -> Pair:
    if len(data) < _HEAD.size:
        raise UserError(f"cut short at {len(data)} bytes")
    length, crc = _HEAD.unpack_from(data)
    if _masked_crc(bytes(data[:8])) != crc:
        raise UserError("the crc of its length does not match")
    if len(data) < _HEAD.size + length + _FOOT.size:
        raise UserError(f"cut short, {len(data)} bytes of {_HEAD.size + length + _FOOT.size}")
    payload = bytes(data[_HEAD.size : _HEAD.size + length])
    if _FOOT.unpack_from(data, _HEAD.size + length)[0] != _masked_crc(payload):
        raise UserError("its crc does not match")
    found = tf_example_pb2.Example.FromString(payload).features.feature
    anchor, key = (np.frombuffer(found[name].bytes_list.value[0], dtype) for name in ("anchor_ids", "key_ids"))
    return Pair(anchor, key, found["source"].int64_list.value[0])


def _masked_crc(data: bytes) -> int:
    """TFRecord's checksum: crc32c, rotated and shifted so that a crc of crcs stays sound."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; {_AGAIN}") from error


def write_metadata(folder: Path, codec: tfds.features.FeaturesDict, splits: dict[str, dict]) -> dict[str, str]:
    """Writes dataset_info.json and features.json, so that tfds.builder_from_directory opens the folder.

    Args:
      folder: where the shards are.
      codec: `features`.
      splits: name → {"shards": [{"records", "bytes", …}, …]}.

    Returns:
      Name and sha256 of each file that was written.
    """
    template = tfds.core.ShardedFileTemplate(data_dir=folder, dataset_name=_NAME, filetype_suffix="tfrecord")
    infos = [
        tfds.core.SplitInfo(
            name=name,
            shard_lengths=[s["records"] for s in split["shards"]],
            num_bytes=sum(s["bytes"] for s in split["shards"]),
            filename_template=template.replace(split=name),
        )
        for name, split in splits.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=codec,
        split_infos=infos,
        filename_template=template,
        version="1.0.0",  # else a folder named like a version would write itself into the file
        check_data=False,  # it would need tensorflow
    )
    names = ("dataset_info.json", "features.json", "source.labels.txt")
    return {name: hashlib.sha256(_read(folder / name)).hexdigest() for name in names}
