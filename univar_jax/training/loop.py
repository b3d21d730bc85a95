"""The only loop: batch → step → metrics, and now and then a score, a checkpoint, or the end that a scheduler wants."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator

import jax
from ml_collections import ConfigDict

from univar_jax import files
from univar_jax.training import batches, hosts, patience
from univar_jax.training import step as steps_
from univar_jax.training.progress import Progress


@dataclasses.dataclass(frozen=True)
class Run:
    """What the loop calls.

    Attributes:
      update: (number of the step from 0, state, batch) → (state, metrics).
      scores: the encoder's parameters → eval/… numbers.
      save: starts saving (finished steps, state, scores).
      tell: says in RUN/status.json what the run is at.
      stop: whether to save and end after this step.
      profile: steps, counted from 1, that are traced into `trace`; an empty range = none.
      trace: a folder.
      past: the scores of the evaluations before the first step, for config.patience.
    """

    update: Callable[[int, steps_.State, batches.Batch], tuple[steps_.State, dict]]
    scores: Callable[[dict], dict[str, float]]
    save: Callable[[int, steps_.State, dict[str, float]], None]
    tell: Callable[[str], None]
    stop: Callable[[int], bool]
    profile: range
    trace: files.Place
    past: list[float] = dataclasses.field(default_factory=list)


def run(
    config: ConfigDict, calls: Run, state: steps_.State, feed: Iterator[batches.Batch], steps: range, progress: Progress
) -> int:
    """Runs the steps; how many are finished at the end, fewer than all where SIGTERM came or patience ended.

    The order matters: a step is finished before it is scored, scored before it is saved, and saved before the
    next batch is taken, so that a checkpoint, its metrics and its place in the data belong together.
    """
    saved, past = time.monotonic(), list(calls.past)
    calls.tell("the first step")
    with contextlib.ExitStack() as traced:
        for n in range(steps.start + 1, steps.stop + 1):  # finished steps, counted from 1
            asked = time.monotonic()
            batch = next(feed)
            waited = time.monotonic() - asked
            if n in calls.profile and n in (calls.profile.start, steps.start + 1):
                folder = traced.enter_context(files.through(calls.trace))
                traced.enter_context(jax.profiler.trace(str(folder)))
            # A copy between host and device that nobody wrote down would stall every step: here it is an error.
            with jax.transfer_guard("disallow"):
                state, metrics = calls.update(n - 1, state, batch)
            # One step stays in flight while the host prepares the next; its numbers come one step late.
            progress.add(n, metrics, waited)
            if n == calls.profile.stop - 1:
                progress.retire()
                traced.close()
            ended = calls.stop(n)
            last = n == steps.stop
            score = last or _due(n, config.eval_every_steps)
            found: dict[str, float] = {}
            if score:
                calls.tell(f"the scores of step {n}")
                found = progress.retire(lambda: calls.scores(state["params"]["encoder"]))  # noqa: B023 (called at once)
                past += [found[patience.SCORE]] if patience.SCORE in found else []
                ended = patience.over(past, config.patience) or ended
            due = last or ended or _due(n, config.save_every_steps) or _late(n, saved, config)
            if due:
                calls.tell(f"saving step {n}")
                progress.retire()
                calls.save(n, state, found)
                saved = time.monotonic()
            if score or due:
                calls.tell(f"steps after {n}")
                progress.restart()
            if ended:
                return n
    return steps.stop


def _due(n: int, every: int) -> bool:
    return bool(every) and n % every == 0


def _late(n: int, saved: float, config: ConfigDict) -> bool:
    minutes = config.save_every_minutes
    # Many processes go by one clock, and ask for it seldom: it takes a round trip that waits for the step.
    if not minutes or (jax.process_count() > 1 and n % config.log_every_steps):
        return False
    return hosts.agreed((time.monotonic() - saved) / 60 >= minutes)
