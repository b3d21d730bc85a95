"""The experiment on weak teachers, in small: sides share no group, layers learn, a run goes on, its file is read."""

import json

import jax
import numpy as np
import pytest

from tests.experiments import tell, tune, weak_to_strong
from univar_jax import qa
from univar_jax.cli import UserError
from univar_jax.statistics import predictions

WORDS = {"x": "green meadow river", "y": "engine steel wheel", "z": "sugar bread honey"}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Three sources with words of their own, some of them exchanged, in 18 groups."""
    draws = np.random.default_rng(0)
    lines = ["model,lang,question,answer,question_id,group_id,value_relevant"]
    for g in range(18):
        for i in range(4):
            for model in WORDS:
                words = [draws.choice(WORDS[model if draws.random() < 0.8 else "x"].split()) for _ in range(6)]
                lines.append(f"{model},eng,q{g}-{i},{' '.join(words)},{g}-{i},g{g},True")
            lines.append(f"x,zho,q{g}-{i},other,{g}-{i},g{g},True")
    (tmp_path / "qa.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(weak_to_strong, "ROWS", tmp_path / "rows.csv")
    monkeypatch.setattr(weak_to_strong, "SIZES", {"weak": 60, "student": 40, "test": 30})
    monkeypatch.setattr(weak_to_strong, "LAYERS", 1)
    monkeypatch.setattr(tune, "EPOCHS", 1)
    return tmp_path / "qa.csv"


@pytest.fixture(scope="module")
def model(tiny_bert):
    return tune.open_model(str(tiny_bert), "fine-tuned")


def test_sides_share_no_group_and_the_test_is_the_same_for_all_seeds(small, model):
    of = weak_to_strong.task(str(small), [model])
    assert len(of.texts) == 18 * 12 and of.classes == ["x", "y", "z"]
    tests = []
    for seed in (0, 1):
        thirds, student, test = weak_to_strong.sides(of, seed)
        groups = [set(of.groups[rows]) for rows in (*thirds, student, test)]
        assert sum(map(len, groups)) == len(set().union(*groups)) and len(groups[-1]) == 10
        assert [len(rows) for rows in (student, test)] == [40, 30]
        tests.append(test)
    np.testing.assert_array_equal(*tests)


def test_too_few_groups_are_told(small, model):
    few = "\n".join(small.read_text().splitlines()[:100])
    small.write_text(few + "\n")
    with pytest.raises(UserError, match=r"7 question groups; 16 are needed"):
        weak_to_strong.task(str(small), [model])


def test_a_probe_is_a_linear_map_and_tells_planted_labels(model):
    z_nd = model.vectors([f"{words} {i}" for i in range(20) for words in WORDS.values()])
    labels = np.tile(np.arange(3), 20)
    assert (tune.said(z_nd, tune.probe(z_nd, labels, 4, 0)).label_m == labels).mean() > 0.9
    assert np.allclose(np.linalg.norm(z_nd, axis=1), 1, atol=1e-5)


def test_the_first_layers_are_those_of_the_whole(model):
    cut = model.first(1)
    assert cut.config.layers == 1 and len(jax.tree.leaves(cut.params["blocks"])[0]) == 1
    assert not np.allclose(cut.vectors(["a b"]), model.vectors(["a b"]))
    np.testing.assert_allclose(model.first(2).vectors(["a b"]), model.vectors(["a b"]))


@pytest.mark.slow
def test_fine_tuning_moves_all_layers_and_beats_its_probe(model, monkeypatch):
    """Labels by the order of two words, which a mean of a random encoder's vectors hardly shows."""
    monkeypatch.setattr(tune, "EPOCHS", 25)
    monkeypatch.setattr(tune, "LR", 2e-3)
    texts = [f"{a} {b} {c}" for a, b in (("bread", "wheel"), ("wheel", "bread")) for c in map(str, range(32))]
    labels = np.repeat([0, 1], 32)
    made, head = tune.fine_tuned(model, texts, labels, 2, 0)
    for before, after in zip(jax.tree.leaves(model.params), jax.tree.leaves(made.params), strict=True):
        assert before.shape == after.shape and not np.array_equal(before, after)
    before = tune.said(model.vectors(texts), tune.probe(model.vectors(texts), labels, 2, 0))
    after = tune.said(made.vectors(texts), head)

    def loss(said):
        return -np.log(said.p_mc[np.arange(64), labels]).mean()

    print(f"cross-entropy: probe {loss(before):.3f}, fine-tuned {loss(after):.3f}")
    assert loss(after) < 0.5 * loss(before) and (after.label_m == labels).all()


@pytest.mark.slow
def test_a_run_goes_on_ends_in_a_report_and_is_not_run_again(small, tiny_bert, tmp_path, capsys, monkeypatch):
    def go():
        weak_to_strong.experiment(str(small), str(tmp_path / "out"), [0, 1], str(tiny_bert), str(tiny_bert))

    with monkeypatch.context() as patch:
        learnt, tuned = [], tune.fine_tuned
        patch.setattr(tune, "fine_tuned", lambda *a: learnt.append(a) or tuned(*a) if len(learnt) < 3 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            go()
    assert len(list(tmp_path.glob("out/*/seed-0/*.npy"))) == 3 and not weak_to_strong.ROWS.exists()
    go()
    (report,) = tmp_path.glob("out/*/report-0-1")
    pgr = json.loads((report / "transfer.json").read_text())["pgr"]
    assert pgr["items"] == 30 and pgr["groups"] == 10 and pgr["classes"] == ["x", "y", "z"]
    assert len(pgr["students"]) == 2 * (5 + 2) and all(x["seeds"] == 2 for x in pgr["students"])
    (joined,) = tmp_path.glob("out/*/predictions-0-1.csv")
    table = predictions.read("p", joined.read_bytes())
    assert table.left_out == 0 and {role for role, _, _ in table.models} == {"weak", "student", "ceiling"}
    of = weak_to_strong.task(str(small), [tune.open_model(str(tiny_bert), "")] * 2)
    test = weak_to_strong.sides(of, 0)[2]
    truth = [of.classes[label] for label in of.label_n[sorted(test, key=str)]]
    assert [table.classes[label] for label in table.truth_m] == truth
    rows = tell.rows(weak_to_strong.ROWS)
    assert len(rows) == 3 * 14 and len({row["run"] for row in rows}) == 3
    capsys.readouterr()
    go()
    assert "has its rows" in capsys.readouterr().out and len(tell.rows(weak_to_strong.ROWS)) == 3 * 14
    assert len(qa.read(str(small))) == 18 * 16
