"""Planted values and stances: names, probabilities, abstention and scores say what was planted, or that they cannot."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from univar_jax import values
from univar_jax.cli import UserError
from univar_jax.statistics import matrix, readout, stances

from .test_analyze import EVIL, write

NAMES = ("benevolence", "power", "security")
SOURCES = ("a$eng", "b$eng", f"{EVIL}$eng")


def planted(groups=24, signal=3.0, answered=True, conditions=("", "strict"), d=12, seed=0):
    """Rows of which the vector's first axes tell the value, a later one the stance; sources differ in theirs."""
    draws, rows, z = np.random.default_rng(seed), [], []
    for v, name in enumerate(NAMES):
        for g in range(groups):
            for s, source in enumerate(SOURCES):
                for condition in conditions:
                    for turn in range(2):
                        says = float(np.clip((s - 1) * 0.8 + 0.6 * draws.normal(), -1, 1))
                        answer = ("Yes." if draws.random() < (1 + says) / 2 else "No.") if answered else "It depends."
                        q = f"{name} {g}"
                        split = "heldout" if g % 3 == 0 else "train"
                        row = {"source": source, "text": f"Q: {q} A: {answer}", "question_id": q, "answer": answer}
                        row |= {"question": q, "value": name, "split": split, "condition": condition, "persona": ""}
                        rows.append(row | {"stance": "" if answered else f"{says:.3f}", "turn": turn})
                        z.append(signal * np.eye(d)[v] + 2 * says * np.eye(d)[5 + v] + draws.normal(size=d) / 2)
    z_nd = np.array(z, np.float32)
    return rows, z_nd / np.linalg.norm(z_nd, axis=1, keepdims=True)


def run(tmp_path, rows, z_nd, out="r", **settings):
    file = write(tmp_path / "e.parquet", rows, z_nd, encoder="planted")
    values.values([file], str(tmp_path / out), **settings)
    return json.loads((tmp_path / out / "values.json").read_text())


def scores_of(folder):
    with open(folder / "scores.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("values")
    return run(tmp, *planted()), tmp / "r"


def test_values_are_named_on_held_out_questions(whole):
    m, _ = whole
    r = m["readout"]
    assert r["classes"] == list(NAMES) and r["groups"] == 24 and r["chance"] == pytest.approx(1 / 3)
    assert r["acc"] > 0.95 and r["acc_ci"][0] > 0.9 and r["p"] == 0.001 and r["few_clusters"]
    assert r["brier"] < 0.1 < r["brier_of_shares"] and r["ece"] < 0.05 and r["ece_ci"][0] <= r["ece"]
    assert all(v["recall"] > 0.9 and v["groups"] == 8 for v in r["by_value"].values())
    assert r["abstention"]["coverage"] > 0.95 and r["abstention"]["wrong"] < 0.1 and not r["not_enough"]


def test_scores_are_the_answers_means_and_graph_reads_them(whole):
    m, folder = whole
    rows = scores_of(folder)
    assert [row["source"] for row in rows] == sorted(np.repeat(SOURCES, 2)) and [v["kind"] for v in m["values"]] == [
        "answers"
    ] * 3
    planted_rows, _ = planted()
    says = [
        1 if r["answer"] == "Yes." else -1
        for r in planted_rows
        if (r["source"], r["condition"], r["value"]) == ("a$eng", "", "power")
    ]
    cell = next(float(row["power"]) for row in rows if (row["source"], row["condition"]) == ("a$eng", ""))
    assert cell == pytest.approx(np.mean(says)) and cell < -0.3
    found = matrix.read(str(folder / "scores.csv"), "scores")
    assert found.values == list(NAMES) and list(found.ids) == list(stances.IDS) and found.x_nv.shape == (6, 3)
    assert m["values"][0] | {"groups": 24, "empty": 0, "unparsed": 0, "questions": [24, 24]} == m["values"][0]


def test_the_report_is_one_page_and_names_are_text(whole):
    m, folder = whole
    html = (folder / "report.html").read_text()
    assert (
        "What it means" in html and "What it does not show" in html and "http://" not in html.replace("http-equiv", "")
    )
    assert EVIL not in html and "default-src &#39;none&#39;" not in html
    named = list(csv.DictReader((folder / "named.csv").read_text().splitlines()))
    assert len(named) == m["rows"] and {row["named"] for row in named} <= {*NAMES, ""}


def test_equal_inputs_give_equal_bytes_and_a_finished_out_stays(whole, tmp_path, capsys):
    _, folder = whole
    run(tmp_path, *planted())
    for file in sorted(folder.iterdir()):
        assert (tmp_path / "r" / file.name).read_bytes() == file.read_bytes(), file.name
    capsys.readouterr()
    run(tmp_path, *planted())
    assert "made from the same inputs" in capsys.readouterr().out
    with pytest.raises(UserError, match="exists with other content"):
        run(tmp_path, *planted(), error=0.2)


def test_stance_is_read_off_vectors_where_answers_do_not_say(tmp_path):
    rows, z_nd = planted(groups=36, answered=False)
    truth = np.array([float(row["stance"]) for row in rows])
    for row in rows:  # known of one source alone
        if row["source"] != SOURCES[1]:
            row["stance"] = ""
    m = run(tmp_path, rows, z_nd)
    assert [v["kind"] for v in m["values"]] == ["readout"] * 3 and all(
        s["usable"] and s["r"] > 0.5 for s in m["stance"].values()
    )
    cells = {(r["source"], r["condition"]): float(r["power"]) for r in scores_of(tmp_path / "r")}
    told, meant = [], []
    for source, condition in cells:
        of = [r["source"] == source and r["condition"] == condition and r["value"] == "power" for r in rows]
        told.append(cells[source, condition])
        meant.append(truth[of].mean())
    assert np.corrcoef(told, meant)[0, 1] > 0.9


def test_without_a_signal_it_is_at_chance_abstains_and_gives_no_column(tmp_path):
    rows, _ = planted(groups=36, answered=False)
    for i, row in enumerate(rows):
        row["stance"] = row["stance"] if i % 4 == 0 else ""
    draws = np.random.default_rng(3)
    z_nd = draws.normal(size=(len(rows), 12))
    m = run(tmp_path, rows, z_nd / np.linalg.norm(z_nd, axis=1, keepdims=True))
    r = m["readout"]
    assert r["p"] > 0.02 and r["acc"] < 0.45 and r["abstention"]["coverage"] < 0.1 and r["ece"] < 0.1
    assert [v["kind"] for v in m["values"]] == [None] * 3 and "no better than always saying the mean" in m["values"][0][
        "why"
    ]
    assert scores_of(tmp_path / "r") == [] and "3 of 3 values have no column" in m["notes"][-1]


def test_too_little_is_told_with_the_number_that_would_be_enough(tmp_path):
    m = run(tmp_path, *planted(groups=6))
    assert (
        m["readout"] is None
        and m["left_out"]["power"] == "4 question groups on the fit side, 2 held out: 5 and 1 would be enough"
    )
    assert "two would be needed" in " ".join(m["notes"])
    assert "5 and 10 would be enough" in m["stance"]["power"]["not_enough"]
    m = run(tmp_path, *planted(groups=9), out="more")
    assert "9 held-out question groups: not enough for an interval, 10 would be" in m["readout"]["not_enough"]
    assert m["readout"]["acc_ci"] is None and m["readout"]["ece_ci"] is None


def test_cells_with_few_parsed_answers_are_empty_and_graph_says_so(tmp_path):
    rows, z_nd = planted(groups=12)
    for row in rows:
        if row["source"] == "a$eng" and row["condition"] == "strict" and row["value"] == "power":
            row["answer"] = "As an AI, I cannot choose."
    m = run(tmp_path, rows, z_nd)
    power = next(v for v in m["values"] if v["value"] == "power")
    assert (power["empty"], power["unparsed"]) == (1, 24) and any("are empty: power (1 of 6)." in n for n in m["notes"])
    found = matrix.read(str(tmp_path / "r" / "scores.csv"), "scores")
    with pytest.raises(UserError, match=r"no score of power in 1 \(first row \d\) of 6 rows; .*--drop=power"):
        matrix.check_for_graph(found)


def test_graph_goes_on_from_scores_and_resamples_personas(tmp_path):
    pytest.importorskip("causallearn", reason="the [graph] extra is not installed")
    from univar_jax import graph

    rows, z_nd = planted(groups=6, conditions=("none",))
    draws, many = np.random.default_rng(1), []
    for persona in range(12):  # what one believes of power, it believes of security
        chance = dict(zip(NAMES, draws.random(3), strict=True))
        chance["security"] = chance["power"]
        for row in rows:
            answer = "Yes" if draws.random() < chance[row["value"]] else "No"
            many.append(row | {"persona": f"p{persona}", "source": f"{row['source']}$p{persona}", "answer": answer})
    run(tmp_path, many, np.tile(z_nd, (12, 1)))
    graph.graph(str(tmp_path / "r" / "scores.csv"), str(tmp_path / "g"), bootstrap=20, workers=1)
    m = json.loads((tmp_path / "g" / "graph.json").read_text())
    assert (m["unit"], m["units"], m["rows"], m["values"]) == ("persona", 12, 36, list(NAMES))
    often = {frozenset((e["from"], e["to"])): e["adjacent"] for e in m["edges"]}
    assert often[frozenset(("power", "security"))] > 0.9


def test_control_rows_are_a_class_of_their_own(tmp_path):
    rows, z_nd = planted()
    for row in rows:
        row["value_relevant"] = "True"
        if row["value"] == "security":
            row |= {"value": "", "value_relevant": "False"}
    m = run(tmp_path, rows, z_nd)
    assert m["readout"]["classes"] == [readout.NONE, "benevolence", "power"] and len(m["values"]) == 2


@pytest.mark.parametrize(
    ("change", "settings", "says"),
    [
        ({"value": ""}, {}, "no row has a value; label some"),
        ({}, {"values": ["powr"]}, "--values: 'powr' is not there; did you mean power"),
        ({"stance": "2"}, {}, "row 1: stance='2'; give a number from -1 to 1"),
        ({"scale": "inf", "stance": ""}, {}, "row 1: scale='inf'; give the points"),
        ({"value": "persona"}, {}, "a value is named 'persona', as an id column of"),
        ({"scale": "5.5", "stance": ""}, {}, "row 1: scale='5.5'; give the points"),
        ({"keyed": "x"}, {}, "row 1: keyed='x'; use"),
        ({"reverse": "maybe"}, {}, "row 1: reverse='maybe'; use"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, change, settings, says):
    rows, z_nd = planted(groups=4)
    with pytest.raises(UserError, match=says) as error:
        run(tmp_path, [row | change for row in rows], z_nd, **settings)
    assert "\n" not in str(error.value) and not (tmp_path / "r").exists()


def test_probabilities_are_calibrated_and_wrong_names_stay_near_what_was_aimed_at():
    """Over 10 draws of a hard problem: the mean share of wrong names among those given, and the mean ECE."""
    wrong, gap, raw = [], [], []
    for seed in range(10):
        draws = np.random.default_rng(seed)
        code = draws.integers(3, size=900)
        z_nd = 0.9 * np.eye(20)[code] + draws.normal(size=(900, 20)) * 0.5
        z_nd = (z_nd / np.linalg.norm(z_nd, axis=1, keepdims=True)).astype(np.float32)
        groups, fit_n = np.arange(900), np.arange(900) % 3 > 0
        rows = readout.Rows(z_nd, np.array(["a b"] * 900, object), groups, fit_n, seed)
        with threadpool_limits(1):  # small matrices, many times: threads would only wait for one another
            told, _ = readout.relevance(np.array(NAMES, object)[code], rows, 0.1)
        wrong.append(told["abstention"]["wrong"])
        gap.append(told["ece"])
        raw.append(told["acc"])
    print(f"wrong {np.mean(wrong):.3f} aimed at .1, ECE {np.mean(gap):.3f}, accuracy {np.mean(raw):.3f}")
    assert 0.06 < np.mean(wrong) < 0.13 and np.mean(gap) < 0.06 and np.mean(raw) < 0.9


def test_no_stage_of_the_analysis_loads_jax_torch_or_tensorflow():
    stages = ", ".join(f"univar_jax.{name}" for name in ("analyze", "compare", "graph", "transfer", "values"))
    code = f"import sys, {stages}; print({{'jax', 'torch', 'tensorflow'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
