"""Votes by hand, a planted gap recovered, and every way a file of predictions can be wrong."""

import itertools

import numpy as np
import pytest

from univar_jax.cli import UserError
from univar_jax.statistics import predictions, recovered, resamples
from univar_jax.statistics.predictions import HARD, SOFT, Predicted

HEAD = "item,group,truth,role,name,taught_by,seed,label"


def table(lines, head=HEAD):
    return predictions.read("p.csv", "\n".join([head, *lines]).encode())


def by_hand(*rows, p=True):
    """One teacher a row of probabilities, of one item."""
    return [Predicted(np.array([np.argmax(row)]), np.array([row]) if p else None) for row in rows]


@pytest.mark.parametrize(
    ("rows", "soft", "hard"),
    [
        # Two are a little for 0, one is sure of 1: means .37, .63, 0; votes 2, 1, 0.
        (([0.55, 0.45, 0], [0.55, 0.45, 0], [0, 1, 0]), (1, 0), (0, 0)),
        # One vote each: the tie goes to the larger mean, .37 of 0, .33 of 1, .3 of 2.
        (([0.5, 0.3, 0.2], [0.3, 0.4, 0.3], [0.3, 0.3, 0.4]), (0, 0), (0, 1)),
        (([0.2, 0.5, 0.3], [0.1, 0.3, 0.6]), (2, 0), (2, 1)),
        # All equal: the first class by name.
        (([0, 0.5, 0.5], [0, 0.5, 0.5]), (1, 1), (1, 0)),
        (([0, 1, 0], [0, 0, 1]), (1, 1), (1, 1)),
    ],
)
def test_votes_by_hand(rows, soft, hard):
    for how, want in ((SOFT, soft), (HARD, hard)):
        said, ties = predictions.vote(by_hand(*rows), how)
        assert (said.label_m[0], ties) == want, how


def test_a_hard_vote_needs_no_probabilities_and_a_soft_one_does():
    three = by_hand([0, 1, 0], [0, 0, 1], [0, 0, 1], p=False)
    said, ties = predictions.vote(three, HARD)
    assert said.label_m.tolist() == [2] and ties == 0 and said.p_mc is None
    assert predictions.vote(three[:2], HARD)[0].label_m.tolist() == [1]
    with pytest.raises(ValueError, match="probabilities of all"):
        predictions.vote(three, SOFT)


def planted(seed, groups=80, per=5, accs=(0.6, 0.75, 0.9), seeds="012"):
    """weak, student and ceiling right on shares of the items, groups harder or easier for all of them alike."""
    draws, lines = np.random.default_rng(seed), []
    hard_g = draws.uniform(-0.08, 0.08, groups)
    for run, (role, name, acc) in itertools.product(
        seeds, zip(("weak", "student", "ceiling"), ("small", "big", "big"), accs, strict=True)
    ):
        for g, i in itertools.product(range(groups), range(per)):
            truth = "ab"[(g + i) % 2]
            label = truth if draws.random() < acc + hard_g[g] else "ab"[(g + i + 1) % 2]
            lines.append(f"{g}-{i},{g},{truth},{role},{name},,{run},{label}")
    return lines


def test_a_planted_gap_is_recovered_and_told():
    found = recovered.measure(table(planted(0)), 0)
    (student,) = found["students"]
    assert student["taught_by"] == "small" and student["seeds"] == 3
    assert student["ci"][0] <= 0.5 <= student["ci"][1] and student["ci"][1] - student["ci"][0] < 0.3
    assert student["verdict"] == recovered.HOLDS and student["gain"]["groups"] == 80
    assert all(0.2 < one < 0.8 for one in student["by_seed"].values())
    assert found["chance"] == 0.5 and found["items"] == 400 and not found["few_clusters"]
    accs = {a["role"]: a["acc"] for a in found["accuracies"]}
    assert student["pgr"] == pytest.approx((student["student"] - accs["weak"]) / (accs["ceiling"] - accs["weak"]))


@pytest.mark.parametrize(("accs", "truth"), [((0.6, 0.6, 0.9), 0), ((0.6, 0.75, 0.9), 0.5), ((0.6, 0.9, 0.9), 1)])
def test_pgr_intervals_cover_the_truth_as_often_as_they_say(accs, truth, monkeypatch):
    monkeypatch.setattr(resamples, "RESAMPLES", 400)
    inside = []
    for seed in range(200):
        (student,) = recovered.measure(table(planted(seed, 40, 3, accs, "0")), seed)["students"]
        if student["pgr"] is not None:
            inside.append(student["ci"][0] <= truth <= student["ci"][1])
    print(f"planted PGR {truth}: covered {np.mean(inside):.3f} of {len(inside)}")
    assert len(inside) > 180 and 0.9 <= np.mean(inside) <= 0.985


def test_without_a_gap_there_is_no_pgr_and_the_need_is_told():
    (student,) = recovered.measure(table(planted(0, 30, 2, (0.75, 0.75, 0.77), "0")), 0)["students"]
    assert student["pgr"] is None and student["no_pgr"] == recovered.NO_GAP
    assert student["groups_needed"] is None or student["groups_needed"] > 30
    (student,) = recovered.measure(table(planted(0, 80, 5, (0.8, 0.6, 0.9))), 0)["students"]
    assert student["verdict"] == recovered.FAILS and student["pgr"] < 0
    (student,) = recovered.measure(table(planted(0, 6, 5)), 0)["students"]
    assert student["verdict"] == "not enough" and student["groups_needed"] == 10


def several(taught=("w1", "w2", "w3", SOFT, HARD)):
    """Three teachers that err on different items, students as good as who taught them, a ceiling that is right."""
    lines = []
    for i in range(60):
        truth, other = ("a", "b") if i % 2 else ("b", "a")
        said = {f"w{t}": truth if i % 5 != t else other for t in (1, 2, 3)}
        p = lambda label: "0.9,0.1" if label == "a" else "0.1,0.9"  # noqa: E731
        lines += [f"{i},{i},{truth},weak,{w},,0,{label},{p(label)}" for w, label in said.items()]
        lines += [f"{i},{i},{truth},student,big,{by},0,{said.get(by, truth)},{p(said.get(by, truth))}" for by in taught]
        lines.append(f"{i},{i},{truth},ceiling,big,,0,{truth},{p(truth)}")
    return lines


def test_votes_of_teachers_and_of_their_students():
    found = recovered.measure(table(several(), HEAD + ",p_a,p_b"), 0)
    accs = {a["name"]: a["acc"] for a in found["accuracies"] if a["role"] == "weak"}
    assert accs == {"w1": 0.8, "w2": 0.8, "w3": 0.8, SOFT: 1.0, HARD: 1.0}
    students = {(x["taught_by"], x["ensemble"]): x for x in found["students"]}
    assert set(students) == {*((by, None) for by in accs), (SOFT, SOFT), (HARD, HARD)}
    assert students["w1", None]["pgr"] == 0 and students["w1", None]["verdict"] == recovered.NOT_SHOWN
    assert students[SOFT, SOFT]["weak"] == students[SOFT, SOFT]["student"] == 1.0
    assert students[SOFT, None]["no_pgr"] == recovered.NO_GAP
    assert found["ties"] == dict.fromkeys(found["ties"], 0) and len(found["ties"]) == 4


def test_items_that_not_all_predicted_are_left_out_and_counted():
    lines = planted(0, 12, 2, seeds="0")
    found = table(
        [line for line in lines if not line.startswith("3-1,3,a,weak") and not line.startswith("3-1,3,b,weak")]
    )
    assert found.left_out == 1 and len(found.truth_m) == 23
    assert table(sorted(lines)).truth_m.tolist() == table(lines).truth_m.tolist()


GOOD = "1,1,a,weak,w,,0,a"


@pytest.mark.parametrize(
    ("lines", "head", "says"),
    [
        (["1,a"], "item,truth", r"p.csv: no column role, name, label \(there: item, truth\)"),
        ([GOOD + ",x"], HEAD + ",colour", "column 'colour' is unknown; known are item"),
        ([GOOD + ",x"], HEAD + ",seed", "column 'seed' stands twice"),
        ([GOOD, "1,1"], HEAD, "row 2: 2 values for 8 columns"),
        ([], HEAD, "0 rows"),
        (["1,1,a,weak,,,0,a"], HEAD, "row 1: name is empty"),
        (["1,1,a,strong,w,,0,a"], HEAD, "row 1: role='strong'; use weak, student, ceiling"),
        ([GOOD, GOOD], HEAD, "row 2: item '1' of this model and seed is in row 1 too"),
        ([GOOD, "1,1,b,ceiling,s,,0,b"], HEAD, "row 2: truth of item '1' is 'b', before it was 'a'"),
        ([GOOD, "1,2,a,ceiling,s,,0,b"], HEAD, "row 2: group of item '1' is '2', before it was '1'"),
        ([GOOD, "1,1,a,student,s,wx,0,b"], HEAD, "row 2: taught_by='wx' is no weak model; did you mean w"),
        ([GOOD, "2,1,a,ceiling,s,,0,b"], HEAD, "none of 2 items was predicted by all 2 models"),
        ([GOOD + ",.4,.4"], HEAD + ",p_a,p_b", "row 1: probabilities sum to 0.800"),
        ([GOOD + ",.4,x"], HEAD + ",p_a,p_b", "row 1: could not convert string to float: 'x'"),
        ([GOOD + ",.4,"], HEAD + ",p_a,p_b", "row 1: could not convert string to float"),
        ([GOOD + ",1.5,-.5"], HEAD + ",p_a,p_b", "row 1: probabilities sum to"),
        (["1,1,a,weak,soft vote,,0,a"], HEAD, "a weak model is named 'soft vote', as a vote is"),
        (['1,1,a,weak,"w,,0,a'], HEAD, "p.csv line 2: not a whole CSV .unexpected end of data"),
    ],
)
def test_a_bad_file_is_told_with_its_row(lines, head, says):
    with pytest.raises(UserError, match=says):
        table(lines, head)


@pytest.mark.parametrize(
    ("drop", "says"),
    [
        (",student,", "1 weak models and 0 students"),
        (",ceiling,", "student 'big' has no ceiling; give rows of role ceiling by its name"),
        (",ceiling,big,,2,", "seed '2' is not there of all; there are 0, 1"),
    ],
)
def test_a_file_without_one_of_the_three_is_an_error(drop, says):
    lines = [line for line in planted(0, 4, 2) if drop not in line]
    with pytest.raises(UserError, match=says):
        recovered.measure(table(lines), 0)


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(UserError, match=r"--predictions=.*no such file; give a CSV with the columns item, truth"):
        predictions.content(str(tmp_path / "no.csv"))
    with pytest.raises(UserError, match=r"not UTF-8 \(byte 0\)"):
        predictions.read("p.csv", b"\xff")
