"""kill -9 and SIGTERM at random moments: what was lost, how long it took, and whether the end is the same."""

import itertools
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from typing import Any

from tests.faults import lives
from tests.faults.lives import Life, Moment, Reference, Way
from tests.faults.place import TOTAL, Place

_CHAIN = 5  # hits of one run before it is let finish
_STRETCH = 2 * TOTAL // _CHAIN + 1  # steps in which each falls, so that on the average the last one is near the end
_ANYWHERE, _SAVE = 0.2, 0.4  # shares of the kills that may come before the loop, too, and that are aimed at a save


def kills(place: Place, against: Reference, count: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Kills runs `count` times while they save after each step.

    Args:
      place: where.
      against: the uninterrupted run.
      count: kills that hit.
      seed: of the moments.

    Returns:
      "trials", one dict a kill, and "runs", one dict a run that was killed and started until it ended.
    """
    way = Way(place, against, signal.SIGKILL, against.saving, _STRETCH)
    return _hit(way, count, lives.moments(seed, _ANYWHERE, _SAVE), _killed)


def terms(place: Place, against: Reference, count: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Sends SIGTERM to runs `count` times in their loop, which saves at nothing else; args and result as `kills`."""
    way = Way(place, against, signal.SIGTERM, against.plain, _STRETCH, ("--config.save_every_steps=0",))
    return _hit(way, count, lives.moments(seed), _stopped)


def _hit(
    way: Way, count: int, drawn: Iterator[Moment], facts: Callable[[Life], dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    trials: list[dict] = []
    runs: list[dict] = []
    while len(trials) < count:
        workdir = way.place.fresh(f"{way.sign.name.lower()}-{len(runs)}")
        chain = lives.chain(way, workdir, itertools.islice(drawn, min(_CHAIN, count - len(trials))))
        for number, life in enumerate(chain[:-1], 1):
            # A process that was hit before it said where it goes on leaves that to the next one.
            went_on = next((later.went_on for later in chain[number:] if later.went_on is not None), None)
            when = {"trial": life.moment.trial, "kind": life.moment.kind, "run": len(runs)}
            trials.append(when | {"went_on": went_on} | facts(life))
            print(f"{way.sign.name} {len(trials)} of {count}: {trials[-1]}", flush=True)
        end = {"code": chain[-1].code, "hits": len(chain) - 1, "words": chain[-1].said.splitlines()[-1:]}
        finished = chain[-1].code == 0
        runs.append(end | (lives.compare(workdir, way.against) if finished else {}))
        print(f"run {len(runs)}: {runs[-1]}", flush=True)
        if finished:  # else it stays, to be looked at
            shutil.rmtree(workdir)
    return {"trials": trials, "runs": runs}


def _killed(life: Life) -> dict[str, Any]:
    return {
        "doing": life.doing,
        "inside_save": life.inside_save,
        "newest": life.after,
        "computed": life.computed,
        "same": life.same,
    }


def _stopped(life: Life) -> dict[str, Any]:
    said = re.search(r"SIGTERM: saved after step (\d+) of", life.said)
    saved = int(said[1]) if said else TOTAL if f"finished {TOTAL} steps" in life.said else None
    return {
        "doing": life.doing,
        "code": life.code,
        "seconds": life.seconds,
        "saved": saved,
        "newest": life.after,
        "computed": life.computed,
        "same": life.same,
    }
