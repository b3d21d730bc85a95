"""Kills, stops and damages runs and data, and counts what held: python -m tests.faults.run --out=OUT

Writes faults.md and faults.json into --out, and ends with 1 where anything held less often than it was asked. All
moments and bytes are functions of --seed; when a process is hit also depends on how fast this machine is.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

from absl import app, flags, logging

from tests.faults import damage, hits, hosts, lives, tell
from tests.faults.place import Place

_FLAGS = flags.FLAGS
flags.DEFINE_string("out", None, "Folder for the table, the figures and all runs.", required=True)
flags.DEFINE_integer("kills", 50, "kill -9 of a training process.", lower_bound=0)
flags.DEFINE_integer("terms", 20, "SIGTERM to a training process.", lower_bound=0)
flags.DEFINE_integer("flips", 1000, "Flips of one byte of the shards.", lower_bound=0)
flags.DEFINE_boolean("hosts", True, "Whether two processes are compared with one.")
flags.DEFINE_integer("seed", 0, "Of the moments and the bytes.", lower_bound=0)


def main(_: list[str]) -> None:
    """Measures the parts that the flags ask for, writes and prints the table."""
    logging.set_verbosity(logging.ERROR)  # Orbax tells each file it reads
    began = time.monotonic()
    place = Place(Path(_FLAGS.out))
    found: dict[str, Any] = {"seed": _FLAGS.seed, "seconds": {}}

    def part(name: str, measure: Callable[[], Any]) -> None:
        start = time.monotonic()
        found[name] = measure()
        found["seconds"][name] = time.monotonic() - start
        print(f"{name}: {found['seconds'][name]:.0f} s", flush=True)

    if _FLAGS.flips:
        part("flips", lambda: damage.flips(place, _FLAGS.flips, _FLAGS.seed))
        part("exchanged", lambda: damage.exchanged(place))
    if _FLAGS.kills or _FLAGS.terms:
        against = lives.reference(place)
    if _FLAGS.kills:
        part("kills", lambda: hits.kills(place, against, _FLAGS.kills, _FLAGS.seed))
    if _FLAGS.terms:
        part("terms", lambda: hits.terms(place, against, _FLAGS.terms, _FLAGS.seed))
    if _FLAGS.hosts:
        part("hosts", lambda: hosts.measure(place))
    found["seconds"]["all"] = time.monotonic() - began
    rows = tell.rows(found)
    (place.out / "faults.json").write_text(json.dumps(found, indent=1) + "\n")
    (place.out / "faults.md").write_text(tell.table(rows))
    print(f"\n{tell.table(rows)}\ntook {found['seconds']['all'] / 60:.1f} minutes", flush=True)
    short = [row for row in rows if row.held < row.of or not row.of]
    if short:
        raise SystemExit(f"held less often than it was asked: {len(short)} of {len(rows)} rows")


if __name__ == "__main__":
    app.run(main)
