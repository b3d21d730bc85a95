"""What a run is at: RUN/status.json while it runs, and one screen for who comes in the morning."""

import datetime
import importlib.metadata
import json
import os
import platform
import socket
import statistics
import subprocess
import time
from pathlib import Path

from jax.sharding import Mesh

from univar_jax import files
from univar_jax.encoders import mesh as meshes
from univar_jax.training import hosts, runs

_FILE = "status.json"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "transformers")


def tell(workdir: str, steps: int, doing: str) -> None:
    """Writes what the run is at, by the process that writes files.

    Args:
      workdir: RUN.
      steps: of the whole run.
      doing: in words.
    """
    if hosts.speaks():
        now = {
            "doing": doing,
            "since": time.time(),
            "steps": steps,
            "process": os.getpid(),
            "host": socket.gethostname(),
        }
        files.write(files.place(workdir, "workdir") / _FILE, json.dumps(now).encode())


def environment(mesh: Mesh) -> dict:
    """Versions, devices, mesh, hosts and git revision, for RUN/config.json."""
    return {
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "devices": meshes.table(mesh),
        "hosts": hosts.names(),
        "git": _revision(),
    }


def _revision() -> str | None:
    """Of the checkout that this package lies in; None where it lies in none, or was installed."""
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def show(workdir: str) -> str:
    """The run on one screen, from its folder alone.

    Raises:
      UserError: no run there.
    """
    about, lines, finished = runs.overview(workdir)
    folder = files.place(workdir, "workdir")
    try:
        now = json.loads((folder / _FILE).read_text("utf-8"))
    except (OSError, ValueError):
        now = {}
    step, total = lines[-1]["step"] if lines else 0, now.get("steps", 0)
    rates = [line["pairs_per_s"] for line in lines[-10:]]
    pace = statistics.median(rates) if rates else 0.0
    pairs = about["config"]["pairs"]
    left = f"{datetime.timedelta(seconds=round((total - step) * pairs / pace))} left" if pace and total else ""
    environment = about.get("environment", {})
    screen = {
        "run": f"{folder}, {about['identity'][:8]}",
        "started": f"from {about['encoder']['model']} on data {about['data']['fingerprint'][:8]}, git "
        f"{environment.get('git') or 'not known'}, univar_jax {about['version']}",
        "devices": environment.get("devices", "not known") + f"; hosts {', '.join(environment.get('hosts', []))}",
        "step": f"{step} of {total or 'unknown'}" + (f", loss {lines[-1]['loss']:.3f}" if lines else ""),
        "speed": f"{pace:.1f} pairs/s by the last {len(rates)} lines of metrics.jsonl; {left}"
        if rates
        else "no line yet",
        "waits": _share(lines),
        "scores": _scores(lines),
        "saved": f"step {finished[-1][0]}, {_ago(finished[-1][1])} ago; all: {', '.join(str(n) for n, _ in finished)}"
        if finished
        else "no checkpoint yet",
        "now": _now(now),
    }
    return "\n".join(f"{key:8s} {value}" for key, value in screen.items())


def _now(now: dict) -> str:
    if not now:
        return "never started"
    alive = ""
    if now["doing"] not in ("finished", "stopped by SIGTERM") and now["host"] == socket.gethostname():
        alive = (
            "" if Path(f"/proc/{now['process']}").exists() or not Path("/proc").exists() else "; ITS PROCESS IS GONE"
        )
    return f"{now['doing']}, for {_ago(now['since'])} (process {now['process']} on {now['host']}){alive}"


def _share(lines: list[dict]) -> str:
    if not lines:
        return "no line yet"
    return f"{lines[-1]['host_wait_s']:.2f} s for batches in the last line's steps"


def _scores(lines: list[dict]) -> str:
    scored = [line for line in lines if "eval/knn" in line]
    if not scored:
        return "none yet"
    best = max(scored, key=lambda line: line["eval/knn"])
    return (
        f"k-NN {scored[-1]['eval/knn']:.3f} at step {scored[-1]['step']}, best {best['eval/knn']:.3f} at {best['step']}"
    )


def _ago(since: float) -> str:
    return str(datetime.timedelta(seconds=round(max(0, time.time() - since))))
