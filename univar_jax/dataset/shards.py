"""Pairs in TFRecord shards with TFDS metadata: written once, read by record number; no tensorflow, no jax."""

import hashlib
import json
import os
import weakref
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO

import numpy as np
import tensorflow_datasets as tfds

from univar_jax import config, files
from univar_jax.cli import UserError
from univar_jax.dataset import records
from univar_jax.dataset.records import Pair
from univar_jax.files import Place

# Records of a shard: what a killed prepare may lose of a worker's time, and at λ = 80 some 130 MB.
PER_SHARD = 4096
MANIFEST = "manifest.json"
_NAME = "univar"
_AHEAD = ThreadPoolExecutor(1, "shards")  # one for all: a disk or a network is not read faster by more

# Where a record lies, how long its views are and whose: what a host needs of records that another one reads.
INDEX = np.dtype([("offset", "<u8"), ("anchor", "<u4"), ("key", "<u4"), ("source", "<u4")])


def features(ids_dtype: np.dtype, sources: Sequence[str]) -> tfds.features.FeaturesDict:
    """The record's codec, TFDS's own: ids as the bytes of little-endian `ids_dtype`."""
    ids = tfds.features.Tensor(shape=(None,), dtype=np.dtype(ids_dtype), encoding="bytes")
    names = tfds.features.ClassLabel(names=list(sources))
    return tfds.features.FeaturesDict({"anchor_ids": ids, "key_ids": ids, "source": names})


def file_name(split: str, shard: int, shards: int) -> str:
    """TFDS's name of a shard."""
    return f"{_NAME}-{split}.tfrecord-{shard:05d}-of-{shards:05d}"


def write(path: Place, pairs: Iterable[Pair], codec: tfds.features.FeaturesDict) -> tuple[np.ndarray, dict]:
    """Writes a shard, which has its name once it is whole.

    Returns:
      Its part of the index (INDEX [records]) and its `bytes` and their `sha256`.
    """
    entries, offset, sha256 = [], 0, hashlib.sha256()
    with files.whole(path) as file:
        for pair in pairs:
            record = records.frame(pair, codec)
            file.write(record)
            sha256.update(record)
            entries.append((offset, len(pair.anchor), len(pair.key), pair.source))
            offset += len(record)
    return np.array(entries, INDEX), {"bytes": offset, "sha256": sha256.hexdigest()}


def scan(path: Place, codec: tfds.features.FeaturesDict) -> tuple[np.ndarray, str]:
    """Reads a whole shard, every crc checked.

    Returns:
      Its part of the index (INDEX [records]) and the sha256 of its bytes.

    Raises:
      UserError: naming the file and the first broken record.
    """
    data = _read(path)
    view, entries, offset = memoryview(data), [], 0
    while offset < len(data):
        pair = records.parse(view[offset:], _dtype(codec), path, len(entries))
        entries.append((offset, len(pair.anchor), len(pair.key), pair.source))
        offset += records.size(data, offset)
    return np.array(entries, INDEX), hashlib.sha256(data).hexdigest()


def read_manifest(data: str) -> dict:
    """DATA's manifest; it is written last, so a folder without one is not whole.

    Raises:
      UserError: there is none, or it is broken.
    """
    path = files.place(data, "data") / MANIFEST
    try:
        manifest = dict(json.loads(path.read_text("utf-8")))
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing, so the folder is not there or not whole; run univar_jax.prepare --out={data}"
        ) from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is broken ({error}); {records.AGAIN}") from error
    stated = manifest.pop("sha256", None)
    if stated != config.digest(manifest):
        raise UserError(f"{path} is damaged: it has not the sha256 that it states; {records.AGAIN}")
    return manifest | {"sha256": stated}


def verify(data: str) -> None:
    """Checks every byte of DATA against its manifest and every record against its crc.

    Raises:
      UserError: naming the first file that is missing, changed or damaged.
    """
    folder, manifest = files.place(data, "verify"), read_manifest(data)
    for name, sha256 in manifest["metadata"].items():
        if hashlib.sha256(_read(folder / name)).hexdigest() != sha256:
            raise UserError(f"{folder / name} is not the file that {MANIFEST} names; {records.AGAIN}")
    codec = features(np.dtype(manifest["ids_dtype"]), manifest["sources"])
    for split in manifest["splits"]:
        index = Shards(folder, manifest, split).index
        entries = manifest["splits"][split]["shards"]
        for number, entry in enumerate(entries):
            path = folder / entry["file"]
            found, sha256 = scan(path, codec)
            expected = index[number * PER_SHARD :][: entry["records"]]
            if sha256 != entry["sha256"] or not np.array_equal(found, expected):
                raise _other(path, len(found), entry["records"])
        print(f"{split}: {len(index):,} records in {len(entries)} shards, whole", flush=True)


class Shards:
    """The records of one split of a prepared folder, by number.

    A shard's every byte is checked when its first record, or one of the shard before, is asked for; each record's crc
    when it is read. Of a bucket whole shards are copied to this machine's disk.

    Attributes:
      index: INDEX [records].
      sources: the sources' names.

    Raises:
      UserError: index or shards are not those that the manifest names, or a shard is missing.
    """

    def __init__(self, folder: Place, manifest: dict, split: str) -> None:
        self._folder = folder
        self._shards: list[dict] = manifest["splits"][split]["shards"]
        self.sources: list[str] = manifest["sources"]
        self._codec = features(np.dtype(manifest["ids_dtype"]), manifest["sources"])
        entry = manifest["splits"][split]["index"]
        path = folder / entry["file"]
        data = _read(path)
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise UserError(f"{path} is not the index that {folder / MANIFEST} names; {records.AGAIN}")
        if len(data) != INDEX.itemsize * sum(entry["records"] for entry in self._shards):
            raise UserError(f"{path} is of another version of univar_jax; {records.AGAIN}")
        self.index = np.frombuffer(data, INDEX)
        there = {file.name for file in folder.iterdir()}  # in a bucket one question, not one a shard
        for shard in self._shards:
            if shard["file"] not in there:
                raise UserError(f"{folder / shard['file']} is missing; {records.AGAIN}")
        self._files: dict[int, Future[FileIO]] = {}
        weakref.finalize(self, _close, self._files)

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
          UserError: naming file and record where the shard is missing, cut short, another or does not match its crc.
        """
        shard, inside = divmod(record, PER_SHARD)
        start = int(self.index["offset"][record])
        last = inside + 1 == self._shards[shard]["records"]
        stop = self._shards[shard]["bytes"] if last else int(self.index["offset"][record + 1])
        data = os.pread(self._file(shard).fileno(), stop - start, start)
        return records.parse(data, _dtype(self._codec), self._folder / self._shards[shard]["file"], inside)

    def _file(self, shard: int) -> FileIO:
        for near in (shard, shard + 1):  # the next one is copied and checked while this one is read
            if near < len(self._shards) and near not in self._files:
                self._files[near] = _AHEAD.submit(self._open, near)
        return self._files[shard].result()

    def _open(self, shard: int) -> FileIO:
        """A shard on this machine's disk with every byte of the manifest's."""
        path, sha256 = self._folder / self._shards[shard]["file"], self._shards[shard]["sha256"]
        try:
            copy = files.copied(path, sha256)
            if files.hash_of(copy) == sha256:
                return copy.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise UserError(f"{path} is missing; {records.AGAIN}") from error
        found, _ = scan(path, self._codec)  # names the first record that is damaged
        raise _other(path, len(found), self._shards[shard]["records"])


def _close(files: dict[int, Future[FileIO]]) -> None:
    for file in files.values():
        if file.done() and not file.exception():
            file.result().close()


def _other(path: Place, found: int, expected: int) -> UserError:
    """What is wrong with a shard of whole records only."""
    if found < expected:
        return UserError(
            f"{path} record {found}: cut short, the shard has {found} of {expected} records; {records.AGAIN}"
        )
    return UserError(f"{path}: whole records, but of another prepare; {records.AGAIN}")


def _dtype(codec: tfds.features.FeaturesDict) -> np.dtype:
    return np.dtype(codec["anchor_ids"].np_dtype)


def _read(path: Place) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; {records.AGAIN}") from error


def write_metadata(folder: Place, codec: tfds.features.FeaturesDict, splits: dict[str, dict]) -> dict[str, str]:
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
