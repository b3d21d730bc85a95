"""metrics.jsonl and TensorBoard events of a run."""

import json
from pathlib import Path
from typing import Any

import tensorboardX

from univar_jax import files, hosts

_METRICS = "metrics.jsonl"


class Log:
    """metrics.jsonl and TensorBoard events, each step once; written by one of many processes.

    Args:
      workdir: RUN.
      step: finished steps of the checkpoint that the run goes on from; later lines are cut.
    """

    def __init__(self, workdir: str, step: int) -> None:
        self._file = None
        if not hosts.speaks():
            return
        folder = files.local(workdir, "workdir")
        path = folder / _METRICS
        kept = [line for line in lines(folder) if line["step"] <= step]
        files.write(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._board = tensorboardX.SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, line: dict[str, Any]) -> None:
        """Appends a line; its `step` counts finished steps from 1."""
        if self._file is None:
            return
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for key, value in line.items():
            if key != "step":
                self._board.add_scalar(key, value, line["step"])

    def close(self) -> None:
        """Flushes both."""
        if self._file is not None:
            self._file.close()
            self._board.close()


def lines(folder: Path) -> list[dict]:
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
