"""What has to hold for each fault, how often it held, and the table for README.md."""

import dataclasses
from typing import Any

from tests.faults import hosts, lives

GRACE = 30.0  # seconds in which a run that is told to stop has saved
# Lines of metrics.jsonl past the newest finished checkpoint, where each step is saved: while the save of step n waits
# for that of n - 1, step n is computed, and nothing after it.
_AGAIN = 2


@dataclasses.dataclass(frozen=True)
class Row:
    """How often one thing held.

    Attributes:
      fault: what was done.
      law: what has to hold then.
      held: how often it did.
      of: how often it was asked.
    """

    fault: str
    law: str
    held: int
    of: int


def rows(found: dict[str, Any]) -> list[Row]:
    """The counts of all parts that were measured; found: their results by name, as faults.json has them."""
    parts = {"kills": _kills, "terms": _terms, "flips": _flips, "exchanged": _exchanged, "hosts": _hosts}
    return [row for name, told in parts.items() if name in found for row in told(found[name])]


def table(rows: list[Row]) -> str:
    """The rows in Markdown; a fault is named in its first row."""
    lines = ["| fault | what has to hold | held |", "|---|---|---|"]
    for before, row in zip([None, *rows], rows, strict=False):
        first = row.fault if before is None or before.fault != row.fault else ""
        lines.append(f"| {first} | {row.law} | {row.held:,} of {row.of:,} |")
    return "\n".join(lines) + "\n"


def _kills(found: dict[str, Any]) -> list[Row]:
    trials = found["trials"]
    inside = sum(trial["inside_save"] for trial in trials)
    early = sum(trial["doing"] in lives.STARTING for trial in trials)
    fault = f"`kill -9`: {len(trials)} in {len(found['runs'])} run(s), {inside} inside a save, {early} before the loop"
    again = [trial["computed"] - trial["newest"] for trial in trials if trial["doing"] not in lives.STARTING]
    laws = [
        (f"a checkpoint a step: at most {_AGAIN} steps are computed again", [n <= _AGAIN for n in again]),
        *_resumed(found),
    ]
    return [Row(fault, law, sum(held), len(held)) for law, held in laws]


def _terms(found: dict[str, Any]) -> list[Row]:
    trials = found["trials"]
    slowest = max(trial["seconds"] for trial in trials)
    good = [
        trial["code"] == 0 and trial["seconds"] <= GRACE and trial["saved"] == trial["newest"] == trial["computed"]
        for trial in trials
    ]
    law = f"the last step saved, exit code 0 within {GRACE:g} s (slowest {slowest:.1f} s)"
    laws = [(law, good), *_resumed(found)]
    fault = f"SIGTERM: {len(trials)} in {len(found['runs'])} run(s)"
    return [Row(fault, law, sum(held), len(held)) for law, held in laws]


def _resumed(found: dict[str, Any]) -> list[tuple[str, list[bool]]]:
    """What holds for both: by law, whether it held in each trial."""
    trials, runs = found["trials"], found["runs"]
    end = lambda *keys: [all(runs[trial["run"]].get(key) for key in keys) for trial in trials]  # noqa: E731
    return [
        ("no step lost beyond the newest finished checkpoint", [t["went_on"] == t["newest"] for t in trials]),
        ("that checkpoint bit-identical to the uninterrupted run's", [t["same"] for t in trials if t["newest"]]),
        ("final parameters and moments bit-identical", end("params", "moments")),
        ("each step once in metrics.jsonl, with the same loss", end("steps_once", "losses")),
        ("nothing unfinished left in RUN", [runs[trial["run"]].get("left") == [] for trial in trials]),
    ]


def _flips(found: dict[str, Any]) -> list[Row]:
    fault = f"one byte flipped, {found['shards']} shards"
    laws = {"training": "training names file and record, before the step", "verify": "`prepare --verify` names them"}
    return [Row(fault, law, found["record"][reader], found["count"]) for reader, law in laws.items()]


def _exchanged(found: dict[str, dict[str, bool]]) -> list[Row]:
    fault = f"a shard {', '.join(found)}"
    laws = {"training": "training names the file", "verify": "`prepare --verify` names it"}
    return [Row(fault, law, sum(f[reader] for f in found.values()), len(found)) for reader, law in laws.items()]


def _hosts(apart: list[float]) -> list[Row]:
    law = f"each step's loss equal to {hosts.LIMIT:g} (furthest apart {max(apart):.1e})"
    return [Row("2 processes of 4 devices beside 1 of 8", law, sum(x <= hosts.LIMIT for x in apart), len(apart))]
