"""A run that is hit by a signal again and again, each time started by the same command, until it is finished."""

import dataclasses
import itertools
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.faults import place as places
from tests.faults.place import TOTAL, Place, Process
from univar_jax.encoders import weights
from univar_jax.training import logs, runs

# What RUN/status.json says before the loop; "" is before it says anything.
STARTING = ("", "restoring", "preparing the state", "compiling")
_POLL = 0.01  # seconds
# Of a line of metrics.jsonl, without what the clock says.
_KEYS = ("step", "loss", "accuracy", "grad_norm", "lr", "scale", "fill", "eval/knn")


@dataclasses.dataclass(frozen=True)
class Moment:
    """When a process is hit.

    Attributes:
      trial: its number.
      kind: "anywhere": after a share of the time that starts with the process and ends after some steps; "loop": the
        same from the first step; "save": then in the next save.
      share: of that time.
      within: share of a step's time that the save has already taken.
    """

    trial: int
    kind: str
    share: float
    within: float


def moments(seed: int, anywhere: float = 0.0, save: float = 0.0) -> Iterator[Moment]:
    """Moment after moment, each a function of (seed, trial); shares of the kinds, the others are of the loop."""
    for trial in itertools.count():
        draw = np.random.Generator(np.random.Philox(key=np.array([seed, trial], np.uint64)))
        kind, share, within = draw.random(3)
        word = "anywhere" if kind < anywhere else "save" if kind < anywhere + save else "loop"
        yield Moment(trial, word, float(share), float(within))


@dataclasses.dataclass
class Pace:
    """Seconds that a process takes to its first step, and then for one step, as measured."""

    start: float
    step: float


@dataclasses.dataclass(frozen=True)
class Reference:
    """The run that nothing interrupted, all its checkpoints kept.

    Attributes:
      workdir: RUN.
      saving: its pace, with a checkpoint after each step.
      plain: the same without the time that checkpoints took.
    """

    workdir: Path
    saving: Pace
    plain: Pace


@dataclasses.dataclass(frozen=True)
class Life:
    """One process of a run, from its start to its end.

    Attributes:
      moment: when it was hit; None where it ended by itself.
      doing: what status.json said when it was hit.
      code: its exit code.
      seconds: from the signal to its end.
      before: the newest finished checkpoint when it started.
      after: the same when it had ended.
      computed: the step of the last line of metrics.jsonl when it had ended.
      inside_save: whether it left a checkpoint unfinished.
      same: whether the checkpoint `after` is the uninterrupted run's of that step; None where there is none.
      went_on: the step that it said to go on after; None where it was hit before that.
      said: all that it said.
    """

    moment: Moment | None
    doing: str
    code: int
    seconds: float
    before: int
    after: int
    computed: int
    inside_save: bool
    same: bool | None
    went_on: int | None
    said: str


def reference(place: Place) -> Reference:
    """Runs from beginning to end, keeps every checkpoint, and takes the time."""
    workdir, began = place.fresh("reference"), time.monotonic()
    [process] = place.train(workdir, "--config.keep=1000")
    _reach_loop(process)
    start, first = time.monotonic() - began, time.time()
    places.wait([process])
    saving = ((workdir / "metrics.jsonl").stat().st_mtime - first) / TOTAL
    plain = float(np.median([place.config.pairs / line["pairs_per_s"] for line in places.lines(workdir)]))
    return Reference(workdir, Pace(start, saving), Pace(start, plain))


@dataclasses.dataclass(frozen=True)
class Way:
    """How runs are hit.

    Attributes:
      place: where they are.
      against: the uninterrupted run.
      sign: the signal.
      pace: by which moments become seconds; its start is measured anew each time.
      stretch: steps of a process in which it is hit.
      words: flags of all processes.
    """

    place: Place
    against: Reference
    sign: signal.Signals
    pace: Pace
    stretch: int
    words: tuple[str, ...] = ()


def chain(way: Way, workdir: Path, drawn: Iterator[Moment]) -> list[Life]:
    """Starts, hits and starts again, until a process ends by itself.

    Args:
      way: how.
      workdir: RUN, not begun yet.
      drawn: a moment a process; those after the last one are let finish.
    """
    lives: list[Life] = []
    while not lives or lives[-1].moment:
        lives.append(_live(way, workdir, next(drawn, None)))
    return lives


def compare(workdir: Path, against: Reference) -> dict[str, bool | list[str]]:
    """Whether a finished run is what the uninterrupted one is, and what it left unfinished in its folder."""
    mine, theirs = runs.read(str(workdir)), runs.read(str(against.workdir))
    pick = lambda folder: [{key: line.get(key) for key in _KEYS} for line in places.lines(folder)]  # noqa: E731
    found = pick(workdir)
    left = [path.name for path in (*workdir.glob(".*.tmp"), *(workdir / "checkpoints").glob("*tmp*"))]
    return {
        "params": mine.step == theirs.step == TOTAL
        and places.same_bits(weights.flatten(mine.params), weights.flatten(theirs.params)),
        "moments": _same_checkpoint(workdir, against, TOTAL),
        "steps_once": [line["step"] for line in found] == list(range(1, TOTAL + 1)),
        "losses": found == pick(against.workdir),
        "left": left,
    }


def _same_checkpoint(workdir: Path, against: Reference, step: int) -> bool:
    """Whether a checkpoint's parameters and moments are, bit by bit, the uninterrupted run's after as many steps."""
    try:
        mine = places.state(workdir, step)
    except Exception as error:  # a checkpoint that cannot be read is a finding, not the end of the harness
        print(f"{workdir}: the checkpoint of step {step} cannot be read: {error}", flush=True)
        return False
    return places.same_bits(mine, places.state(against.workdir, step))


def _live(way: Way, workdir: Path, moment: Moment | None) -> Life:
    before, began = places.newest(workdir), time.time()
    [process] = way.place.train(workdir, *way.words)
    hit, doing, sent = False, "", 0.0
    try:
        hit = moment is not None and _reach(process, moment, way.pace, min(way.stretch, TOTAL - before))
        if hit:
            sent = time.monotonic()
            process.send_signal(way.sign)
            doing = process.doing()
        process.wait(300)
        seconds = time.monotonic() - sent
    finally:
        process.kill()
        process.wait()
    hit = hit and not (way.sign == signal.SIGKILL and process.returncode == 0)  # it was faster
    after, said = places.newest(workdir), process.said()
    unfinished = [path.stat() for path in process.unfinished()]
    return Life(
        moment=moment if hit else None,
        doing=doing,
        code=process.returncode,
        seconds=seconds if hit else 0.0,
        before=before,
        after=after,
        computed=max((line["step"] for line in logs.lines(workdir)), default=0),
        inside_save=any(max(stat.st_mtime, stat.st_ctime) >= began for stat in unfinished),
        same=_same_checkpoint(workdir, way.against, after) if after else None,
        went_on=_went_on(said),
        said=said,
    )


def _reach(process: Process, moment: Moment, pace: Pace, stretch: int) -> bool:
    """Waits until the moment, in the start or in the first `stretch` steps; False where the process ended earlier."""
    began = time.monotonic()
    span = stretch * pace.step
    if moment.kind == "anywhere":
        span += pace.start
    else:
        if not _reach_loop(process):
            return False
        pace.start = time.monotonic() - began
    deadline = time.monotonic() + moment.share * span
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(min(_POLL, max(0.0, deadline - time.monotonic())))
    if moment.kind == "save":
        return _reach_save(process, moment.within * pace.step)
    return process.poll() is None


def _reach_save(process: Process, seconds: float) -> bool:
    """Waits until a save has taken so long, or, where it takes less, until the next one has begun."""
    began = None
    while process.poll() is None:
        if not process.unfinished():
            seconds, began = 0.0 if began else seconds, None
        elif time.monotonic() - (began := began or time.monotonic()) >= seconds:
            return True
        time.sleep(_POLL / 10)
    return False


def _reach_loop(process: Process) -> bool:
    """Waits until its first step; False where it ended before."""
    while process.doing() in STARTING:
        if process.poll() is not None:
            return False
        time.sleep(_POLL)
    return True


def _went_on(said: str) -> int | None:
    found = re.search(r"is finished and the same: (\d+) of", said) or re.search(
        r"^steps +\d+(?:, going on after step (\d+))?$", said, re.MULTILINE
    )
    return int(found[1] or 0) if found else None
