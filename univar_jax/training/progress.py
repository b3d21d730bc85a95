"""Finished steps → lines of metrics.jsonl and of the screen, with the time left."""

import math
import time
from collections.abc import Callable

import jax
import numpy as np
from ml_collections import ConfigDict

from univar_jax.cli import UserError
from univar_jax.training import hosts, logs


class Progress:
    """Turns finished steps into lines of metrics.jsonl and of the screen.

    Args:
      log: where lines go.
      config: complete.
      lengths_n2: tokens of each record's views.
      slots_n: tokens that each step's rows have room for.
      steps: that are to run.
      ideal_n: seconds that each step would take at the devices' peak; None = not known, and no line has an mfu.
    """

    def __init__(
        self,
        log: logs.Log,
        config: ConfigDict,
        lengths_n2: np.ndarray,
        slots_n: np.ndarray,
        steps: range,
        ideal_n: np.ndarray | None = None,
    ) -> None:
        self._log, self._config, self._slots, self._steps = log, config, slots_n, steps
        self._ideal = ideal_n
        tokens_n = lengths_n2[: steps.stop * config.pairs].sum(1)
        self._tokens = tokens_n.reshape(steps.stop, config.pairs).sum(1)
        self._pending: tuple[int, dict] | None = None
        self._paces: list[float] = []
        self.restart()

    def restart(self) -> None:
        """Starts a new interval, so that evaluation and saving count for no speed."""
        self._began, self._done, self._real, self._room, self._waited = time.monotonic(), 0, 0, 0, 0.0

    def add(self, n: int, metrics: dict, waited: float) -> None:
        """Takes step n, not finished yet, after waiting `waited` seconds for its batch; retires the one before."""
        self.retire()
        self._pending = n, metrics
        self._waited += waited

    def retire(self, scores: Callable[[], dict[str, float]] | None = None) -> dict[str, float]:
        """Waits for the pending step and writes its line where one is due.

        Args:
          scores: evaluated once the step is done; its eval/… go into the line.

        Returns:
          What scores gave.

        Raises:
          UserError: the loss is not finite.
        """
        if self._pending is None:
            return {}
        (n, metrics), self._pending = self._pending, None
        values = {key: float(value) for key, value in jax.device_get(metrics).items()}
        if not math.isfinite(values["loss"]):
            raise UserError(
                f"the loss is {values['loss']} at step {n}; checkpoints hold earlier steps only; "
                f"lower --config.lr={self._config.lr} in a new --workdir"
            )
        self._done += 1
        self._real += int(self._tokens[n - 1])
        self._room += int(self._slots[n - 1])
        if scores or n % self._config.log_every_steps == 0:
            seconds = time.monotonic() - self._began
            found = scores() if scores else {}
            self._write(n, values, seconds, found)
            self.restart()
            return found
        return {}

    def _write(self, n: int, values: dict, seconds: float, extra: dict) -> None:
        pairs = self._done * self._config.pairs
        line = {"step": n, **values, "pairs_per_s": pairs / seconds, "tokens_per_s": self._real / seconds}
        line |= {"fill": self._real / self._room, "host_wait_s": self._waited, **extra}
        if self._ideal is not None:
            line["mfu"] = float(self._ideal[n - self._done : n].sum()) / seconds
        self._log.write(line)
        self._paces.append(seconds / self._done)
        left = (self._steps.stop - n) * float(np.median(self._paces))
        hosts.say(
            f"step {n}/{self._steps.stop}  loss {values['loss']:.3f} (floor {values['loss_floor']:.3f})  "
            f"accuracy {values['accuracy']:.2f}  "
            f"{line['pairs_per_s']:.1f} pairs/s  {line['tokens_per_s']:,.0f} tokens/s  fill {line['fill']:.2f}  "
            + (f"mfu {line['mfu']:.2f}  " if "mfu" in line else "")
            + "".join(f"{key} {value:.3f}  " for key, value in extra.items())
            + f"{_clock(left)} left"
        )


def _clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
