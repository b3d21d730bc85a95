"""prepare as a user runs it: processes that are killed, workers and hash seeds, flags, and one line a mistake."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import ROOT

QUICK = {"encoder": "minilm", "config": "configs/lambda5.py", "config__max_tokens": 48, "config__epochs": 65}


@pytest.fixture(scope="module")
def qa_file(tmp_path_factory):
    """Three sources of 30 questions; with 65 epochs two train shards and one of eval."""
    path = tmp_path_factory.mktemp("qa") / "mine.csv"
    rows = [(m, "eng", f"What is {i}?", f"{m} says {i * i}.", "") for i in range(30) for m in ("ada", "bob", "cy")]
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("model", "lang", "question", "answer", "value_relevant"), *rows])
    return path


def start(qa_file, out, workers, hash_seed="random"):
    flags = [f"--{key.replace('__', '.')}={value}" for key, value in (QUICK | {"qa": qa_file, "out": out}).items()]
    command = [sys.executable, "-m", "univar_jax.prepare", *flags, f"--workers={workers}"]
    env = os.environ | {"PYTHONHASHSEED": hash_seed}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=env, start_new_session=True, **pipes)


def content(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def data(qa_file, tmp_path_factory):
    """A finished folder, by one worker."""
    out = tmp_path_factory.mktemp("data") / "data"
    run = start(qa_file, out, workers=1, hash_seed="0")
    stdout, stderr = run.communicate()
    assert (run.returncode, stderr) == (0, ""), stderr
    assert f"wrote {out}" in stdout
    return out


def test_several_shards_are_there_to_be_shared(data):
    assert sorted(name for name in content(data) if "tfrecord" in name) == [
        "univar-eval.tfrecord-00000-of-00001",
        "univar-train.tfrecord-00000-of-00002",
        "univar-train.tfrecord-00001-of-00002",
    ]


def test_three_workers_and_another_hash_seed_write_the_same_bytes(data, qa_file, tmp_path):
    run = start(qa_file, tmp_path / "data", workers=3, hash_seed="1")
    assert run.communicate()[1] == ""
    assert content(tmp_path / "data") == content(data)


def alive(group):
    """(process id, parent's, its command) of what runs in a process group, zombies not."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent, its_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            command = (folder / "cmdline").read_text()
        except OSError:  # ended meanwhile
            continue
        if int(its_group) == group and state != "Z":
            yield int(folder.name), int(parent), command


def wait_for(happened, seconds=30):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the workers in Linux's /proc")
def test_killed_and_started_again_writes_the_same_bytes(data, qa_file, tmp_path):
    out = tmp_path / "data"
    # First a worker dies while it writes: that is one line.
    run = start(qa_file, out, workers=1)
    wait_for(lambda: list(out.glob(".univar-train*.tmp")))
    worker = next(pid for pid, parent, command in alive(run.pid) if parent == run.pid and "spawn_main" in command)
    os.kill(worker, signal.SIGKILL)
    stderr = run.communicate()[1]
    assert run.returncode == 2 and stderr.count("\n") == 1, stderr
    assert stderr.startswith("error: a worker was killed; run the same command again")
    # Then the parent dies when one shard is whole: its workers, busy or idle, must not outlive it.
    run = start(qa_file, out, workers=2)
    wait_for(lambda: list(out.glob("univar-*")))
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert not (out / "manifest.json").exists()
    try:
        wait_for(lambda: not list(alive(run.pid)))
    finally:  # a failing test leaves none either
        for pid, *_ in alive(run.pid):
            os.kill(pid, signal.SIGKILL)
    run = start(qa_file, out, workers=2)
    stdout, stderr = run.communicate()
    assert (run.returncode, stderr) == (0, "") and "unfinished: going on" in stdout
    assert content(out) == content(data)
    assert not [p for p in out.iterdir() if p.is_dir()]


def test_finished_and_the_same_is_0_and_said(data, qa_file, stage):
    before = content(data)
    done = stage("prepare", qa=qa_file, out=data, **QUICK)
    assert (done.returncode, done.stderr) == (0, "") and "finished and the same" in done.stdout
    assert content(data) == before


def test_verify_needs_no_other_flag_and_names_a_flipped_byte(data, stage, tmp_path):
    done = stage("prepare", verify=data)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].endswith("records in 2 shards, whole")
    for name, whole in content(data).items():
        (tmp_path / name).write_bytes(whole)
    name = "univar-train.tfrecord-00001-of-00002"
    damaged = bytearray((tmp_path / name).read_bytes())
    damaged[1000] ^= 4
    (tmp_path / name).write_bytes(damaged)
    assert_one_line(stage("prepare", verify=tmp_path), f"{tmp_path}/{name} record", "remove the folder")


def assert_one_line(done, *words):
    """Code 2, and one line on stderr that holds the words."""
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ") and all(word in done.stderr for word in words), done.stderr


def test_help_is_0_and_explains_every_flag(stage):
    done = stage("prepare", help="true")
    assert (done.returncode, done.stderr) == (0, "")
    flags = ("qa", "encoder", "out", "lang", "include_control", "workers", "verify", "config")
    assert all(f"--{name}" in done.stdout or f"--[no]{name}" in done.stdout for name in flags)


MISTAKES = {
    "no config": ({"config": None}, ("--config is missing", "configs/lambda1.py")),
    "no qa": ({"qa": None}, ("--qa is missing",)),
    "unknown key": ({"config__max_qa": 3}, ("unknown config key", "max_qa", "max_qas")),
    "other out": ({"config__seed": 7}, ("was prepared from other answers", "give another --out")),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_and_touches_nothing(data, qa_file, stage, case):
    change, told = MISTAKES[case]
    before = content(data)
    values = QUICK | {"qa": qa_file, "out": data} | change
    if values["config"] is None:
        values = {k: v for k, v in values.items() if not k.startswith("config__")}
    assert_one_line(stage("prepare", **{k: v for k, v in values.items() if v is not None}), *told)
    assert content(data) == before


def test_a_broken_row_is_one_line_and_makes_no_folder(stage, tmp_path):
    (tmp_path / "x.csv").write_text('model,lang,question,answer\na,eng,q,"never closed\n')
    done = stage("prepare", **QUICK | {"qa": tmp_path / "x.csv", "out": tmp_path / "data"})
    assert_one_line(done, "x.csv row 1 (line 2)", "close the quote")
    assert done.stdout == "" and not (tmp_path / "data").exists()
