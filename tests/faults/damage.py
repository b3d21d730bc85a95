"""Damaged shards: whether training and prepare --verify name what is damaged, whatever byte it is."""

import contextlib
import io
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.place import SAMPLE, Place
from univar_jax.cli import UserError
from univar_jax.dataset import shards

_READERS = ("training", "verify")


class Data:
    """A prepared folder and where its records lie.

    Args:
      folder: DATA.
      pairs: records of a step.
    """

    def __init__(self, folder: Path, pairs: int) -> None:
        self.folder, self._pairs = folder, pairs
        self._manifest = shards.read_manifest(str(folder))
        self._index = {split: shards.Shards(folder, self._manifest, split).index for split in self._manifest["splits"]}

    def files(self) -> list[tuple[str, int, dict]]:
        """Split, number in it and the manifest's entry of each shard."""
        splits = self._manifest["splits"].items()
        return [(name, number, entry) for name, split in splits for number, entry in enumerate(split["shards"])]

    def record(self, split: str, number: int, offset: int) -> int:
        """The record, counted in its shard, whose bytes hold this offset of the shard."""
        first = self._index[split]["offset"][number * shards.PER_SHARD :][: shards.PER_SHARD]
        return int(np.searchsorted(first, offset, "right")) - 1

    def training(self, split: str, number: int, record: int | None = None) -> str:
        """What training says when it reads a shard: the records of the step that has `record`, or all; "" = nothing."""
        there = range(number * shards.PER_SHARD, min((number + 1) * shards.PER_SHARD, len(self._index[split])))
        if record is not None:
            step = (there.start + record) // self._pairs
            there = range(step * self._pairs, min((step + 1) * self._pairs, len(self._index[split])))

        def read() -> None:
            found = shards.Shards(self.folder, shards.read_manifest(str(self.folder)), split)
            for i in there:
                found.read(i)

        return _said(read)

    def verify(self) -> str:
        """What prepare --verify says; "" = nothing, all is whole."""
        return _said(lambda: shards.verify(str(self.folder)))


def flips(place: Place, count: int, seed: int) -> dict[str, Any]:
    """Flips one byte of the shards at a time, reads, and puts it back.

    Args:
      place: whose DATA is damaged, and whole again at the end.
      count: flips.
      seed: of bytes and values.

    Returns:
      By reader how many were "found" (the error names the file) and how many of them with the right "record";
      "missed", what was said of the others; and the number of "shards".
    """
    data = Data(place.data, place.config.pairs)
    files, missed = data.files(), []
    ends = np.cumsum([entry["bytes"] for *_, entry in files])
    found, right = dict.fromkeys(_READERS, 0), dict.fromkeys(_READERS, 0)
    for trial in range(count):
        draw = np.random.Generator(np.random.Philox(key=np.array([seed, trial], np.uint64)))
        at, change = int(draw.integers(ends[-1])), int(draw.integers(1, 256))  # never 0: the byte is another one
        shard = int(np.searchsorted(ends, at, "right"))
        split, number, entry = files[shard]
        offset = at - int(ends[shard]) + entry["bytes"]
        record = data.record(split, number, offset)
        with _flipped(data.folder / entry["file"], offset, change):
            said = {"training": data.training(split, number, record), "verify": data.verify()}
        for reader, words in said.items():
            named = entry["file"] in words
            found[reader] += named
            right[reader] += named and re.search(rf"record {record}\b", words) is not None
            if not named:
                missed.append({"trial": trial, "reader": reader, "file": entry["file"], "byte": offset, "said": words})
    _whole(data)
    return {"count": count, "shards": len(files), "found": found, "record": right, "missed": missed}


def exchanged(place: Place) -> dict[str, dict[str, bool]]:
    """A shard that is cut short, missing, of another prepare: by damage and reader whether the file was named."""
    data = Data(place.data, place.config.pairs)
    split, number, entry = data.files()[0]
    path, aside = data.folder / entry["file"], place.out / "aside"
    changed = {
        "cut short": lambda: path.write_bytes(path.read_bytes()[: entry["bytes"] * 2 // 3]),
        "missing": path.unlink,
        "of another prepare": lambda: shutil.copy(_other(place) / entry["file"], path),
    }
    found = {}
    for name, damage in changed.items():
        shutil.copy(path, aside)
        damage()
        said = {"training": data.training(split, number), "verify": data.verify()}
        shutil.copy(aside, path)
        found[name] = {reader: entry["file"] in words for reader, words in said.items()}
    _whole(data)
    return found


def _other(place: Place) -> Path:
    """DATA of the sample with one word exchanged for one of as many tokens: every record has its place and length.

    Of all other prepares it is the hardest to tell from DATA: the index fits, and so does each crc.
    """
    qa, out = place.fresh("other-qa"), place.out / "other"
    qa.mkdir()
    for path in SAMPLE.glob("*.csv"):
        (qa / path.name).write_text(path.read_text("utf-8").replace(" people ", " things "), "utf-8")
    place.prepare(qa, out)
    mine, theirs = (shards.read_manifest(str(folder))["splits"]["train"] for folder in (place.data, out))
    if mine["index"] != theirs["index"] or mine["shards"] == theirs["shards"]:
        raise SystemExit("the other prepare's records are not of the same lengths, or they are the same")
    return out


@contextlib.contextmanager
def _flipped(path: Path, offset: int, change: int) -> Iterator[None]:
    with open(path, "r+b", buffering=0) as file:
        file.seek(offset)
        [byte] = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ change]))
        try:
            yield
        finally:
            file.seek(offset)
            file.write(bytes([byte]))


def _said(read: Callable[[], None]) -> str:
    """The one line that a user would see; "" where nothing was wrong."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            read()
    except UserError as error:
        return str(error)
    except Exception as error:  # a traceback names nothing to a user, and is not counted as found
        return f"a fault of ours: {type(error).__name__}"
    return ""


def _whole(data: Data) -> None:
    """Finds that the harness put everything back.

    Raises:
      SystemExit: something is still damaged, so that the counts are of more than one damage at a time.
    """
    said = [data.verify(), *(data.training(split, number) for split, number, _ in data.files())]
    if any(said):
        raise SystemExit(f"the shards are not what they were before: {said}")
