"""Two processes are one run: the same losses, one who writes, and both stop at the same step."""

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from univar_jax.cli import UserError
from univar_jax.train import train
from univar_jax.training import hosts, runs, status

CONFIG = """
from univar_jax import config


def get_config():
    values = config.defaults()
    values.update({values})
    return values
"""
VALUES = {
    "max_qas": 2, "max_tokens": 128, "pairs": 16, "epochs": 1, "lr": 1e-3, "warmup_steps": 2, "log_every_steps": 1,
    "save_every_steps": 4, "steps": 8,
}  # fmt: skip


@pytest.fixture
def start(tmp_path, tiny_data):
    """start(processes, devices of each, workdir, largest_file) → the processes of one run, begun."""
    (tmp_path / "config.py").write_text(CONFIG.replace("{values}", str(VALUES)))
    begun = []

    def start(count: int, devices: int, workdir: Path, *words: str, largest_file: int = 0) -> list[subprocess.Popen]:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        env = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        # Writing past a limit fails as on a full disk.
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))  # noqa: E731
        command = [sys.executable, "-m", "univar_jax.train", f"--config={tmp_path / 'config.py'}", *words]
        command += [f"--data={tiny_data}", f"--workdir={workdir}"]
        for n in range(count):
            own = [f"--coordinator=localhost:{port}", f"--num_processes={count}", f"--process_id={n}"]
            pipes = {
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                "text": True,
                "preexec_fn": limit if largest_file else None,
            }
            begun.append(subprocess.Popen(command + own * (count > 1), cwd=ROOT, env=env, **pipes))
        return begun[-count:]

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def ended(processes):
    found = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), found
    return found


@pytest.mark.slow
def test_two_processes_give_one_runs_losses_and_another_mesh_goes_on(tmp_path, start):
    (said, _), (quiet, _) = ended(start(2, 4, tmp_path / "two", "--config.mesh_fsdp=2"))
    assert "2 process(es)" in said
    assert "finished 8 steps" in said
    assert [line for line in quiet.splitlines() if not line.startswith("[Gloo]")] == []
    ended(start(1, 8, tmp_path / "one"))
    two, one = metrics(tmp_path / "two"), metrics(tmp_path / "one")
    assert [line["step"] for line in two] == list(range(1, 9))
    np.testing.assert_allclose([x["loss"] for x in two], [x["loss"] for x in one], atol=1e-5)
    # From the checkpoint of step 4, saved by two processes of four devices, one of four and one of eight go on.
    for devices, fsdp in ((4, 4), (8, 1)):
        shutil.rmtree(tmp_path / "two" / "checkpoints" / "8")
        (said, _), *_ = ended(start(1, devices, tmp_path / "two", f"--config.mesh_fsdp={fsdp}"))
        assert "going on after step 4" in said
        again = metrics(tmp_path / "two")
        assert [line["step"] for line in again] == list(range(1, 9))
        np.testing.assert_allclose([x["loss"] for x in again], [x["loss"] for x in one], atol=1e-4)


@pytest.mark.slow
def test_a_disk_that_takes_no_more_ends_the_run_and_leaves_the_last_good_step(tmp_path, start):
    ended(start(1, 1, tmp_path / "run"))
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "8")
    before = contents(tmp_path / "run" / "checkpoints" / "4")
    [full] = start(1, 1, tmp_path / "run", largest_file=100_000)
    _, told = full.communicate(timeout=300)
    assert full.returncode == 2
    last = told.splitlines()[-1]
    assert "a checkpoint could not be written" in last and "the last good one is of step 4" in last
    assert contents(tmp_path / "run" / "checkpoints" / "4") == before
    (said, _), *_ = ended(start(1, 1, tmp_path / "run"))
    assert "going on after step 4" in said and "finished 8 steps" in said


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_sigterm_to_one_saves_everywhere_at_one_step(tmp_path, start, count):
    processes = start(count, 2, tmp_path / "run")
    while not (tmp_path / "run" / "metrics.jsonl").exists() or not metrics(tmp_path / "run"):
        assert all(process.poll() is None for process in processes), processes[0].communicate()
        time.sleep(0.05)
    processes[-1].send_signal(signal.SIGTERM)
    (said, _), *_ = ended(processes)
    saved = max(step for step, _ in runs.overview(str(tmp_path / "run"))[2])
    last = metrics(tmp_path / "run")[-1]["step"]
    assert saved == last  # nothing that was computed is lost
    if saved < 8:  # the signal may come when all is done
        assert f"SIGTERM: saved after step {saved} of 8" in said
        assert "stopped by SIGTERM" in status.show(str(tmp_path / "run"))
    ended(start(1, 2, tmp_path / "run"))
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, 9))
    assert "finished" in status.show(str(tmp_path / "run"))


def test_sigterm_again_and_again_changes_nothing(tmp_path, start):
    [process] = start(1, 2, tmp_path / "run")
    while not (tmp_path / "run" / "metrics.jsonl").exists() or not metrics(tmp_path / "run"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    while process.poll() is None:  # until the very end, as a batch script and its scheduler may both do
        process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
    ended([process])


def test_a_late_host_is_named(tmp_path):
    script = (
        "import sys, time; from univar_jax.training import hosts\n"
        "n = int(sys.argv[2]); hosts.join('localhost:' + sys.argv[1], 2, n)\n"
        "if n == 1: time.sleep(8)\n"
        "try: hosts.meet('start', 2)\n"
        "except Exception as e: print(e)\n"
        "import os; sys.stdout.flush(); os._exit(0)\n"
    )
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    run = lambda n: subprocess.Popen([sys.executable, "-c", script, port, n], stdout=subprocess.PIPE, text=True)  # noqa: E731
    first, second = run("0"), run("1")
    said, _ = first.communicate(timeout=120)
    second.kill()
    second.communicate()
    assert f"{socket.gethostname()} (process 1) did not come to 'start' within 2 s" in said


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, {}),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "2"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, {}),
        ({"TPU_WORKER_HOSTNAMES": "a"}, None),
        (
            {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"},
            {"num_processes": 2, "process_id": 1},
        ),
    ],
)
def test_clusters_are_found_by_their_variables(monkeypatch, environment, found):
    for name in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "TPU_WORKER_HOSTNAMES", "JAX_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert hosts._found() == found


@pytest.mark.parametrize("given", [("a:1", None, None), (None, 2, 0), ("a:1", 2, None)])
def test_flags_of_processes_go_together(given):
    with pytest.raises(UserError, match="missing: many processes need"):
        hosts.join(*given)
    with pytest.raises(UserError, match="is not below --num_processes=2"):
        hosts.join("a:1", 2, 2)


@pytest.mark.slow
def test_a_trace_is_written_of_the_steps_that_were_asked_for(tmp_path, tiny_data, tiny_config):
    config = tiny_config.copy_and_resolve_references()
    config.unlock()
    config.steps = 4
    train(config, str(tiny_data), str(tmp_path / "run"), profile=range(2, 4))
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
