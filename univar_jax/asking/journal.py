"""The journal of a model: one JSON line an answer, on the disk before it counts; nothing paid for is lost."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from univar_jax.cli import UserError


class Journal:
    """What a model's journal holds, and a way to add to it.

    Its first line has the settings of the run that made it, each other line a record with the key of its request.

    Attributes:
      settings: of the run; None where there is no journal yet.
      records: key → record, in the order in which they came.
    """

    def __init__(self, path: Path) -> None:
        """Reads what is there and changes nothing; a line that a killed process did not finish is not counted."""
        self._path, self._file = path, -1
        self._read()

    def __len__(self) -> int:
        return len(self.records)

    def _read(self) -> None:
        self.settings: dict | None = None
        self.records: dict[str, dict] = {}
        data = self._path.read_bytes() if self._path.exists() else b""
        self._size = data.rfind(b"\n") + 1  # bytes of whole lines
        for number, line in enumerate(data[: self._size].splitlines(), 1):
            try:
                record = json.loads(line)
                if number == 1:
                    self.settings = record["settings"]
                else:
                    self.records[record["key"]] = record
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{self._path} line {number} is broken; take a whole copy, or delete that line"
                    + (" and its question is asked again" if number > 1 else " with the whole file")
                ) from error

    @contextmanager
    def writing(self, settings: dict) -> Iterator["Journal"]:
        """Opens it for `add`, with what is on the disk by then; makes it where there is none.

        Settings of a journal without answers are replaced: nothing rests on them.

        Raises:
          UserError: another process writes it, or has begun it with other settings since it was read.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: what a write call has not taken can be told and cut away.
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # freed by the system at any death
            except BlockingIOError as error:
                raise UserError(
                    f"{self._path} is being written by another elicit; wait, or give another --out"
                ) from error
            self._read()  # again: it may have grown before the lock was ours
            if self.records and self.settings != settings:
                raise UserError(f"{self._path} was begun with other settings just now; give another --out")
            if self.settings != settings:
                self._size = 0
            os.ftruncate(self._file, self._size)
            if not self._size:
                self._append({"settings": settings})
                self.settings = settings
            yield self
        finally:
            os.close(self._file)  # and with it the lock goes

    def add(self, key: str, record: dict) -> None:
        """Adds a record; once this returns it is on the disk.

        Raises:
          UserError: the disk takes no more; the journal stays as it was before.
        """
        self._append({"key": key, **record})
        self.records[key] = {"key": key, **record}

    def _append(self, value: dict) -> None:
        line = memoryview(json.dumps(value).encode() + b"\n")  # ASCII: half an emoji is escaped, not refused
        try:
            done = 0
            while done < len(line):
                done += os.pwrite(self._file, line[done:], self._size + done)
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise UserError(
                f"{self._path}: {error.strerror}; the {len(self)} answers in it are safe; "
                "make room and run the same command again"
            ) from error
        self._size += len(line)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Waits until no other process is in this block with the same folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
