"""metrics.jsonl and TensorBoard events of a run."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import tensorboardX

from univar_jax import files
from univar_jax.files import Place
from univar_jax.training import hosts

_METRICS, _BOARD = "metrics.jsonl", "tensorboard"
_EVERY = 60.0  # seconds between copies to a bucket


class Log:
    """metrics.jsonl and TensorBoard events, each step once; written by one of many processes.

    Nothing can be appended to an object of a bucket: there both are written on this machine's disk and copied whole,
    now and then and by `sync`.

    Args:
      workdir: RUN.
      step: finished steps of the checkpoint that the run goes on from; later lines are cut.
    """

    def __init__(self, workdir: str, step: int) -> None:
        self._file = None
        if not hosts.speaks():
            return
        self._folder = files.place(workdir, "workdir")
        text = "".join(json.dumps(line) + "\n" for line in lines(self._folder) if line["step"] <= step)
        files.write(self._folder / _METRICS, text.encode())
        self._aside = tempfile.TemporaryDirectory() if files.remote(self._folder) else None
        self._here = Path(self._aside.name) if self._aside else Path(self._folder)
        if self._aside:
            (self._here / _METRICS).write_text(text)
        self._file = open(self._here / _METRICS, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._board = tensorboardX.SummaryWriter(str(self._here / _BOARD), purge_step=step + 1)
        self._copied = time.monotonic()

    def write(self, line: dict[str, Any]) -> None:
        """Appends a line; its `step` counts finished steps from 1."""
        if self._file is None:
            return
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for key, value in line.items():
            if key != "step":
                self._board.add_scalar(key, value, line["step"])
        if time.monotonic() - self._copied > _EVERY:
            self.sync()

    def sync(self) -> None:
        """Makes the folder hold all that was written so far; before a checkpoint of these steps is."""
        if self._file is None or self._aside is None:
            return
        self._board.flush()
        files.copy_folder(self._here, self._folder, _METRICS)
        self._copied = time.monotonic()

    def close(self) -> None:
        """Flushes both."""
        if self._file is not None:
            self._file.close()
            self._board.close()
            if self._aside:
                files.copy_folder(self._here, self._folder, _METRICS)
                self._aside.cleanup()


def lines(folder: Place) -> list[dict]:
    """The whole lines of RUN/metrics.jsonl; one that a crash cut short is left out."""
    path = folder / _METRICS
    if not path.exists():
        return []
    found = []
    for text in path.read_text("utf-8").split("\n"):
        try:
            found.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return found
