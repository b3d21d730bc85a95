"""A run's folder: told from other folders, read from anywhere, damaged in one line."""

import json
import os
import shutil

import jax.numpy as jnp
import pytest

from univar_jax import embed
from univar_jax.cli import UserError
from univar_jax.export import export
from univar_jax.train import train
from univar_jax.training import checkpoints, runs, step

from .conftest import SAMPLE


@pytest.fixture(scope="module")
def config(tiny_config):
    changed = tiny_config.copy_and_resolve_references()
    changed.unlock()
    changed.update(steps=2, save_every_steps=1, eval_every_steps=0)
    return changed


@pytest.fixture(scope="module")
def place(config, tiny_data, tmp_path_factory):
    """A folder with a run in it that was started by a relative path, and saved more than once."""
    folder, here = tmp_path_factory.mktemp("place"), os.getcwd()
    os.chdir(folder)
    try:
        train(config, str(tiny_data), "run")
    finally:
        os.chdir(here)
    return folder


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_relative_run_is_trained_read_and_embedded(place, monkeypatch):
    monkeypatch.chdir(place)
    assert runs.read("run").step == 2
    assert runs.read("run", 1).step == 1
    embed.embed("run", str(SAMPLE / "smollm2-135m-instruct.csv"), "e.parquet", max_tokens=32)
    assert (place / "e.parquet").exists()


def test_a_step_that_was_not_saved_is_told_with_those_that_were(place):
    with pytest.raises(UserError, match=r"no finished checkpoint of step 7 \(there: steps 1, 2\)"):
        runs.read(str(place / "run"), 7)


def test_what_a_kill_left_unfinished_is_no_hindrance_and_goes(config, tiny_data, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".config.json.77.tmp").write_text("{")  # killed in the run's first moment
    train(config, str(tiny_data), str(run))
    shutil.rmtree(run / "checkpoints" / "2")
    shutil.copytree(run / "checkpoints" / "1", run / "checkpoints" / "7.orbax-checkpoint-tmp")
    (run / ".status.json.78.tmp").write_text("{")
    assert runs.read(str(run)).step == 1  # who only reads leaves it: it may be a save that goes on
    assert (run / "checkpoints" / "7.orbax-checkpoint-tmp").exists()
    train(config, str(tiny_data), str(run))
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["1", "2"]
    assert list(run.glob(".*")) == []


def test_the_best_checkpoint_stays_also_after_a_restart(config, tmp_path):
    state = step.init(config, {"kernel": jnp.ones((2, 2))})
    for saved in ({1: 0.9, 2: 0.1}, {3: 0.5, 4: 0.2}):
        with checkpoints.manager(str(tmp_path), keep=1) as store:
            for finished, score in saved.items():
                checkpoints.save(store, finished, state, "me", {"eval/knn": score})
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [1, 4]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_type": "bert"}'])
def test_another_programs_config_json_is_no_run_and_stays(content, config, tiny_data, tmp_path):
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "mine.txt").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(UserError, match="is no run"):
        train(config, str(tiny_data), str(tmp_path))
    with pytest.raises(UserError, match="is no run"):
        export(str(tmp_path), str(tmp_path / "out"), None)
    assert contents(tmp_path) == before
    assert not (tmp_path / "checkpoints").exists()  # or the folder would pass for a run from now on


def test_looking_at_a_finished_run_with_other_machine_keys_changes_nothing(config, place, tiny_data, capsys):
    before = contents(place / "run")
    other = config.copy_and_resolve_references()
    other.update(log_every_steps=7, mesh_data=4, mesh_fsdp=2)
    train(other, str(tiny_data), str(place / "run"))
    assert "finished and the same" in capsys.readouterr().out
    assert contents(place / "run") == before


def test_a_checkpoint_that_is_cut_is_told_in_one_line(config, place, tiny_data, tmp_path):
    shutil.copytree(place / "run", tmp_path / "run")
    files = [p for p in (tmp_path / "run" / "checkpoints" / "2" / "params").rglob("*") if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    with pytest.raises(UserError, match="checkpoints/2 is damaged"):
        runs.read(str(tmp_path / "run"))
    assert runs.read(str(tmp_path / "run"), 1).step == 1


def test_config_json_explains_the_run(place, tiny_data):
    about = json.loads((place / "run" / "config.json").read_text())
    manifest = json.loads((tiny_data / "manifest.json").read_text())
    assert about["config"]["steps"] == 2 and about["data"]["fingerprint"] == manifest["fingerprint"]
    assert len(about["encoder"]["weights"]) == len(about["identity"]) == 64
