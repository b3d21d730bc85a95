"""The launchers, as far as they go without their clusters."""

import hashlib
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.conftest import ROOT

# Two tasks of one step, with the variables that SLURM gives them.
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
export SLURM_JOB_ID=7 SLURM_NTASKS=2 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NODELIST=localhost SLURM_STEP_NUM_NODES=1
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" & first=$!
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" & second=$!
wait $first && wait $second
"""

# Of a venv: a server that tells when it is stopped, and an elicit that answers with a code or does not end.
PYTHON = """#!/usr/bin/env bash
echo "$*" >> $LOG
case $2 in
*serve)
  [[ $SERVES == yes ]] || { echo "error: no model" >&2; exit 2; }
  trap 'echo stopped >> $LOG; exit 0' TERM
  echo "http://127.0.0.1:7/v1 small-llm with 1 slot(s)"
  while :; do sleep 0.02; done ;;
*elicit) [[ $CODE == hangs ]] && exec sleep 5; exit $CODE ;;
esac
"""


@pytest.fixture
def commands(tmp_path):
    """A folder for PATH; commands(name, script) puts a command there."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def put(name: str, script: str) -> Path:
        path = folder / name
        path.write_text(script)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return folder

    return put


@pytest.mark.slow
def test_the_slurm_script_runs_two_tasks_as_one_run(tmp_path, commands, tiny_data):
    commands("srun", SRUN)
    commands("scontrol", f"#!/bin/sh\necho $@ > {tmp_path}/requeued\n")
    folder = commands("python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    folder.joinpath("activate").write_text("")
    (tmp_path / "config.py").write_text(
        "from univar_jax import config\n\n\ndef get_config():\n    values = config.defaults()\n"
        "    values.update({'max_qas': 2, 'max_tokens': 128, 'pairs': 16, 'epochs': 1, 'lr': 1e-3, 'warmup_steps': 2,\n"
        "        'log_every_steps': 1, 'steps': 3})\n    return values\n"
    )
    env = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "VENV": str(tmp_path), "DATA": str(tiny_data)}
    env |= {"RUN": str(tmp_path / "run"), "CONFIG": str(tmp_path / "config.py"), "SLURM_JOB_ID": "7"}
    env["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    run = subprocess.run(
        ["bash", "launch/slurm.sbatch"], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "2 process(es)" in run.stdout and "finished 3 steps" in run.stdout
    assert not (tmp_path / "requeued").exists()


def test_the_slurm_script_requeues_what_is_not_finished(tmp_path, commands):
    commands("srun", "#!/bin/sh\nexit 0\n")
    commands("scontrol", f"#!/bin/sh\necho $@ > {tmp_path}/requeued\n")
    folder = commands("python", "#!/bin/sh\necho 'now      stopped by SIGTERM'\n")
    folder.joinpath("activate").write_text("")
    env = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "VENV": str(tmp_path), "SLURM_JOB_ID": "7"}
    env |= {"DATA": "data", "RUN": "run", "CONFIG": "config"}
    subprocess.run(["bash", "launch/slurm.sbatch"], cwd=ROOT, env=env, check=True)
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


def test_the_tpu_script_says_its_commands(tmp_path):
    given = {"DRY": "1", "NAME": "n", "TYPE": "v5litepod-16", "ZONE": "z", "CONFIG": "c.py", "DATA": "/d", "RUN": "/r"}
    command = ["bash", "launch/tpu_vm.sh", "--config.keep=5"]
    said = subprocess.run(command, cwd=ROOT, env=os.environ | given, capture_output=True, text=True, check=True).stdout
    create, copy, install, train = said.splitlines()
    assert (
        "queued-resources create n --node-id=n --zone=z --accelerator-type=v5litepod-16" in create
        and "--spot" in create
    )
    assert "tpu-vm scp" in copy and "--worker=all" in copy
    assert "pip\\ install" in install and "tpu" in install
    assert "--worker=all" in train
    for word in ("--config=c.py", "--data=/d", "--workdir=/r", "--config.keep=5"):
        assert word in train.replace("\\", "")


def test_the_jobset_names_each_host_once_and_gives_time_to_save():
    job = yaml.safe_load((ROOT / "launch" / "gke.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    [replicated] = job["spec"]["replicatedJobs"]
    spec = replicated["template"]["spec"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert (
        spec["parallelism"]
        == spec["completions"]
        == rows * columns // container["resources"]["limits"]["google.com/tpu"]
    )
    assert pod["terminationGracePeriodSeconds"] >= 60
    assert pod["restartPolicy"] == "Never" and spec["backoffLimit"] == 0  # the JobSet restarts all hosts together
    script = container["args"][0]
    subprocess.run(["bash", "-n", "-c", script], check=True)
    assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in pod["volumes"]}


def test_the_jobs_of_the_jobset_are_kubernetes_own():
    job = yaml.safe_load((ROOT / "launch" / "gke.yaml").read_text())
    assert set(job["spec"]) <= {
        "failurePolicy",
        "network",
        "replicatedJobs",
        "startupPolicy",
        "successPolicy",
        "suspend",
    }
    [replicated] = job["spec"]["replicatedJobs"]
    assert set(replicated) <= {"name", "replicas", "template", "dependsOn"}
    # JobSet's template is a whole batch/v1 Job's, for which the published schema is there.
    plain = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "train"}} | replicated["template"]
    version = kubernetes_validate.latest_version()
    kubernetes_validate.validate(plain, version, strict=True)
    plain["spec"]["template"]["spec"]["nodeSelecter"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="nodeSelecter"):
        kubernetes_validate.validate(plain, version, strict=True)


@pytest.fixture
def elicit_local(tmp_path, commands):
    """elicit_local(*words, **env): launch/elicit_local.sh started in a venv of stand-ins, and a reader of their log."""
    commands("python", PYTHON)
    extras = hashlib.sha256((ROOT / "setup.py").read_bytes()).hexdigest()[:16]
    (tmp_path / f".univar_jax-local,elicit-{extras}").touch()  # nothing to install
    log = tmp_path / "log"
    log.touch()

    def start(*words: str, **env: str):
        env = os.environ | {"VENV": str(tmp_path), "LOG": str(log), "SERVES": "yes", "CODE": "0"} | env
        command = ["env", "--default-signal=INT", "bash", "launch/elicit_local.sh", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(
            command, cwd=ROOT, env=env, start_new_session=True, **pipes
        ), lambda: log.read_text().splitlines()

    return start


def until(lines, last: str) -> list[str]:
    for _ in range(200):
        if (found := lines()) and found[-1].startswith(last):
            return found
        time.sleep(0.05)
    raise AssertionError(f"no {last!r} at the end of {lines()}")


@pytest.mark.parametrize("code", [0, 2, 3])
def test_a_local_llm_is_asked_and_stopped_whatever_elicit_says(elicit_local, code):
    script, lines = elicit_local("OUT", "--samples=2", CODE=str(code), MODEL="m.gguf")
    said, _ = script.communicate(timeout=20)
    assert script.returncode == code
    serve, elicit, _ = until(lines, "stopped")
    assert serve == "-m univar_jax.serve --model=m.gguf --slots=1"
    assert "--base_url=http://127.0.0.1:7/v1 --model=small-llm --out=OUT --samples=2" in elicit
    assert ("OUT/qa/small-llm.csv" in said) == (code == 0)


def test_a_local_llm_that_does_not_start_is_not_asked(elicit_local):
    script, lines = elicit_local(SERVES="no")
    _, said = script.communicate(timeout=20)
    assert (script.returncode, said) == (2, "error: no model\n")
    assert [line.split()[1] for line in lines()] == ["univar_jax.serve"]


@pytest.mark.parametrize("to_all", [signal.SIGINT, None], ids=["ctrl_c", "sigterm"])
def test_a_local_llm_is_stopped_with_its_script(elicit_local, to_all):
    script, lines = elicit_local(CODE="hangs")
    until(lines, "-m univar_jax.elicit")
    if to_all:
        os.killpg(script.pid, to_all)  # as a terminal does; the server is left to the script
    else:
        script.terminate()
    assert script.wait(timeout=5) != 0
    until(lines, "stopped")
