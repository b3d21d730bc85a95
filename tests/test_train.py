"""The loop: resume is exact, the mesh changes nothing, mistakes end in one line."""

import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from univar_jax.cli import UserError
from univar_jax.prepare import prepare
from univar_jax.train import train
from univar_jax.training import checkpoints, loop, runs
from univar_jax.training.patience import over


def with_(config, **values):
    changed = config.copy_and_resolve_references()
    changed.unlock()
    changed.update(values)
    return changed


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def config(tiny_config):
    return with_(tiny_config, steps=6, eval_every_steps=3, save_every_steps=2, keep=2)


@pytest.fixture(scope="module")
def whole(config, tiny_data, tmp_path_factory):
    """A run of six steps that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    train(config, str(tiny_data), str(workdir))
    return workdir


def interrupted(monkeypatch, step):
    """Ends the loop as a crash would, after `step` was saved."""
    save = checkpoints.save

    def dies(store, finished, *rest):
        save(store, finished, *rest)
        if finished == step:
            store.wait_until_finished()
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", dies)


def test_stop_and_go_on_is_bit_identical(config, tiny_data, whole, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupted(patch, 4)
        train(config, str(tiny_data), str(workdir))
    with open(workdir / "metrics.jsonl", "a") as file:  # steps past the checkpoint, the last one cut short
        file.write('{"step": 5, "loss": 0}\n{"step": 6, "lo')
    assert runs.read(str(workdir)).step == 4
    train(config, str(tiny_data), str(workdir))
    a, b = runs.read(str(workdir)), runs.read(str(whole))
    assert a.step == b.step == 6
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)
    keys = ("step", "loss", "accuracy", "grad_norm", "lr", "scale", "fill", "eval/knn")
    pick = lambda path: [{k: line[k] for k in keys if k in line} for line in lines(path)]  # noqa: E731
    assert pick(workdir) == pick(whole)


def scored(workdir):
    return [line["eval/knn"] for line in lines(workdir) if "eval/knn" in line]


def test_patience_ends_a_run_at_the_same_step_whether_it_was_interrupted_or_not(
    config, tiny_data, tmp_path, monkeypatch, capsys
):
    """Scores are played: the best is the second, so that two worse ones end it at the fourth, step 4 of 6."""
    played = {1: 0.2, 2: 0.5, 3: 0.4, 4: 0.5, 5: 0.9, 6: 0.9}
    now = {}
    monkeypatch.setattr("univar_jax.train._evaluation", lambda *_: lambda _: {"eval/knn": played[now["step"]]})
    tell = loop.Run.__init__

    def listens(self, **values):
        update = values["update"]
        values["update"] = lambda n, *rest: (now.update(step=n + 1), update(n, *rest))[1]
        tell(self, **values)

    monkeypatch.setattr(loop.Run, "__init__", listens)
    config = with_(config, eval_every_steps=1, patience=2, save_every_steps=1, keep=9)
    train(config, str(tiny_data), str(tmp_path / "whole"))
    assert scored(tmp_path / "whole") == [0.2, 0.5, 0.4, 0.5]
    assert "is finished after step 4 of 6: no better eval/knn in 2 evaluations" in capsys.readouterr().out
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupted(patch, 3)
        train(config, str(tiny_data), str(tmp_path / "cut"))
    train(config, str(tiny_data), str(tmp_path / "cut"))
    assert scored(tmp_path / "cut") == scored(tmp_path / "whole") and runs.read(str(tmp_path / "cut")).step == 4
    before = contents(tmp_path / "cut")
    train(config, str(tiny_data), str(tmp_path / "cut"))
    assert "is finished after step 4 of 6" in capsys.readouterr().out and contents(tmp_path / "cut") == before
    train(with_(config, patience=3), str(tiny_data), str(tmp_path / "cut"))  # waits longer: goes on
    assert scored(tmp_path / "cut") == list(played.values())


@pytest.mark.parametrize(
    ("scores", "patience", "ends"),
    [
        *[
            ([], 1, False),
            ([0.5], 1, False),
            ([0.5, 0.5], 1, True),
            ([0.5, 0.6], 1, False),
            ([0.5, 0.4, 0.3], 0, False),
        ],
        *[([0.5, 0.4, 0.3], 2, True), ([0.5, 0.4, 0.6], 2, False), ([0.2, 0.5, 0.4], 2, False)],
    ],
)
def test_patience_counts_evaluations_without_a_better_one(scores, patience, ends):
    assert over(scores, patience) is ends


def test_metrics_hold_each_step_once_with_the_promised_keys(whole):
    found = lines(whole)
    assert [line["step"] for line in found] == [1, 2, 3, 4, 5, 6]
    promised = {"step", "loss", "accuracy", "pairs_per_s", "tokens_per_s", "fill", "host_wait_s"}
    promised |= {"grad_norm", "lr", "scale", "loss_floor"}
    assert all(promised <= set(line) for line in found)
    assert [line["step"] for line in found if "eval/knn" in line] == [3, 6]
    assert all(0 < line["fill"] <= 1 for line in found)


def test_the_loss_falls_on_pairs_it_has_not_seen(tiny_bert, tiny_config, tmp_path):
    words = {"a": "green meadow river", "b": "engine steel wheel", "c": "sugar bread honey"}  # each source has its own
    rows = [f"{m},eng,Question {i}?,Answer {i} is {text}." for i in range(150) for m, text in words.items()]
    (tmp_path / "qa.csv").write_text("\n".join(["model,lang,question,answer", *rows]))
    config = with_(tiny_config, lr=1e-2, steps=20, save_every_steps=0, eval_every_steps=0)
    prepare(str(tmp_path / "qa.csv"), str(tiny_bert), str(tmp_path / "data"), config, workers=1)
    train(config, str(tmp_path / "data"), str(tmp_path / "run"))
    found = lines(tmp_path / "run")
    losses = [line["loss"] for line in found]  # one epoch: each step's pairs are new
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.05
    assert found[-1]["eval/knn"] > found[-1]["eval/chance"] + 0.1


def test_only_the_newest_checkpoints_stay(whole):
    assert sorted(int(p.name) for p in (whole / "checkpoints").iterdir()) == [4, 6]


def test_a_checkpoint_is_plain_dicts_that_orbax_alone_restores(whole):
    found = ocp.StandardCheckpointer().restore((whole / "checkpoints" / "6" / "params").absolute())
    kernel = found["encoder"]["blocks"]["mlp"]["up"]["kernel"]
    assert kernel.shape == (2, 32, 64) and isinstance(found["encoder"], dict)


def test_finished_and_the_same_says_so_and_touches_nothing(config, tiny_data, whole, capsys):
    before = contents(whole)
    train(config, str(tiny_data), str(whole))
    assert "finished and the same" in capsys.readouterr().out
    assert contents(whole) == before


@pytest.mark.parametrize(
    "machine",
    [{"mesh_data": 4, "mesh_fsdp": 2, "spread": "ring"}, pytest.param({"mesh_fsdp": 8}, marks=pytest.mark.slow)],
)
def test_another_mesh_or_spread_goes_on_with_the_same_batches(config, tiny_data, whole, tmp_path, monkeypatch, machine):
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupted(patch, 2)
        train(config, str(tiny_data), str(workdir))
    monkeypatch.setattr("univar_jax.encoders.mesh._LARGE", 1024)  # so that the small arrays of this test are split too
    train(with_(config, **machine), str(tiny_data), str(workdir))
    for mine, theirs in zip(lines(workdir), lines(whole), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-4)


def test_fsdp_splits_large_arrays_along_their_largest_axis(monkeypatch):
    from univar_jax.encoders import mesh

    devices = mesh.make(1, 8)
    tree = {"table": jax.ShapeDtypeStruct((30528, 64), np.float32), "bias": jax.ShapeDtypeStruct((64,), np.float32)}
    placed = mesh.state(devices, tree)
    assert placed["table"].spec == jax.sharding.PartitionSpec("fsdp")
    assert placed["bias"].is_fully_replicated


MISTAKES = {
    "another tokenizer": ({}, "tokenizer"),
    "more steps than records": ({"steps": 10**6}, "--config.steps="),
    "more pairs than records": ({"pairs": 10**6}, "records"),
    "other views than prepared": ({"max_qas": 3}, "was prepared with 2"),
    "a mesh of other devices": ({"mesh_data": 3}, "8 devices"),
    "pairs that do not divide": ({"pairs": 12}, "8 devices; use --config.pairs=16 or --config.spread=dense"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_before_the_workdir_exists(name, config, tiny_data, tiny_bert, tmp_path):
    values, words = MISTAKES[name]
    model = ""
    if name == "another tokenizer":
        model = tmp_path / "other"
        model.mkdir()
        for file in tiny_bert.iterdir():
            text = file.read_bytes()
            (model / file.name).write_bytes(text.replace(b'"##s":', b'"##z!":') if "tokenizer" in file.name else text)
    with pytest.raises(UserError, match=words):
        train(with_(config, **values), str(tiny_data), str(tmp_path / "run"), str(model or ""))
    assert not (tmp_path / "run").exists()


def test_a_workdir_of_another_run_is_left_alone(config, tiny_data, whole):
    before = contents(whole)
    with pytest.raises(UserError, match=r"config\.lr=0\.5 was 0\.001"):
        train(with_(config, lr=0.5), str(tiny_data), str(whole))
    assert contents(whole) == before


def test_a_checkpoint_of_another_run_is_refused(config, tiny_data, whole, tmp_path):
    workdir = tmp_path / "run"
    other = with_(config, seed=config.seed, scale=20.0, steps=2)
    train(other, str(tiny_data), str(workdir))
    about = json.loads((whole / "config.json").read_text())
    (workdir / "config.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="checkpoint of another run"):
        train(config, str(tiny_data), str(workdir))


def test_a_loss_that_is_not_finite_stops_the_run(config, tiny_data, tmp_path):
    wild = with_(config, lr=1e30, clip_norm=1e30, warmup_steps=1)
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step \d"):
        train(wild, str(tiny_data), str(tmp_path / "run"))


def test_a_folder_that_is_no_run_has_nothing_to_read(tmp_path):
    with pytest.raises(UserError, match="is no run"):
        runs.read(str(tmp_path))
