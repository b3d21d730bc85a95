"""The experiments: names, rows, the set that is scored, and that README shows the rows and no other figures."""

import csv

import pytest

from tests.experiments import run, tell
from univar_jax import config as configs
from univar_jax import qa
from univar_jax.cli import UserError

HEAD = "model,lang,question,answer,question_id,group_id,value_relevant\n"


@pytest.fixture
def rows_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tell, "RUNS", tmp_path / "runs.csv")
    return tmp_path / "runs.csv"


@pytest.mark.parametrize("name", [*run.PLAN, "lambda80-keep-free-s1", "lambda5-mask-apart-s2-pct"])
def test_every_runs_config_is_one_that_the_package_takes(name):
    made = run.Run(name).config
    assert made.items() <= dict(configs.complete(configs.ConfigDict(made))).items()


@pytest.mark.parametrize("name", ["lambda2-keep-free-s0", "lambda1-keep-s0", "lambda1-keep-free-0x", "lambda1"])
def test_a_name_that_is_none_is_refused_with_the_form(name):
    with pytest.raises(UserError, match="is not LAMBDA-keep"):
        _ = run.Run(name).words


def test_runs_that_differ_in_the_loss_alone_share_their_records():
    keep, mask, apart = (run.Run(f"lambda1-{words}-s0") for words in ("keep-free", "mask-free", "mask-apart"))
    assert keep.data == mask.data != apart.data


def test_finished_runs_keep_their_rows_and_a_new_column_does_not_shift_them(rows_file):
    tell.append({"name": "a", "knn": ".5"})
    tell.append({"name": "b", "knn": ".6", "across": "x, y"})
    assert tell.rows() == [{"name": "a", "knn": ".5", "across": ""}, {"name": "b", "knn": ".6", "across": "x, y"}]


def test_a_run_that_has_its_row_is_not_run_again(rows_file, monkeypatch, capsys):
    tell.append({"name": run.PLAN[0]})
    done = []
    monkeypatch.setattr(run, "measure", lambda r, *_: done.append(r.name) or {"name": r.name, "knn": 0, "paired": 0})
    run.experiments("in", "out", run.PLAN[:2], "minilm")
    assert done == [run.PLAN[1]] and f"{run.PLAN[0]}: has its row" in capsys.readouterr().out
    assert "--config.same_source=keep" in tell.rows()[1]["command"]


def test_the_scored_set_has_whole_questions_of_english_sources_with_answers_about_values(tmp_path, monkeypatch):
    corpora = {"v": "True", "c": "False"}
    for corpus, relevant in corpora.items():
        (tmp_path / corpus).mkdir()
        rows = [f"{m},{lang},q,a,{i},{i},{relevant}" for i in range(40) for m in "xy" for lang in ("eng", "zho")]
        rows += [f"z,eng,q,a,{i},{i},{relevant}" for i in range(40) if corpus == "c"]
        (tmp_path / corpus / "a.csv").write_text(HEAD + "\n".join(rows) + "\n")
    monkeypatch.setattr(run, "SCORED", {"all": {"v": (0.5, "values"), "c": (0.25, "c")}})
    assert run.scored(tmp_path, tmp_path / "out", "all") == run.scored(tmp_path, tmp_path / "again", "all")
    found = qa.read(str(tmp_path / "out")).columns
    assert set(found["model"]) == {"x", "y"} and set(found["lang"]) == {"eng"}
    assert set(found["dataset"]) == {"values", "c"}
    with open(tmp_path / "out" / "v.csv", newline="") as file:
        each = [row["question_id"] for row in csv.DictReader(file)]
    assert 10 < len(set(each)) < 30 and all(each.count(i) == 2 for i in each)


def test_readme_shows_the_rows():
    text = tell.README.read_text(encoding="utf-8")
    assert tell.table(tell.rows()) in text
