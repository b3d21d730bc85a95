"""Intervals cover what they should, p-values are uniform where there is nothing, labels stay in their cells."""

import itertools

import numpy as np
import pytest
from scipy import stats

from univar_jax.statistics import resamples


def uniform(p_values, levels=(0.05, 0.2, 0.5)):
    """Whether as many are below each level as chance allows, by a binomial test that errs once in a thousand."""
    below = [int(np.sum(np.array(p_values) <= level)) for level in levels]
    return all(stats.binomtest(b, len(p_values), at).pvalue > 1e-3 for b, at in zip(below, levels, strict=True))


def test_interval_covers_the_truth_as_often_as_it_says():
    """Rows of a group are all alike here: an interval that resampled rows would be √10 too narrow."""
    draws, inside = np.random.default_rng(0), []
    groups = np.repeat(np.arange(60), 10)
    for seed in range(300):
        right = np.repeat(draws.random(60) < 0.4, 10).astype(float)
        lo, hi = resamples.interval(right, groups, seed, resamples=400)
        inside.append(lo <= 0.4 <= hi)
    assert 0.9 <= np.mean(inside) <= 0.99


def test_an_interval_needs_two_groups():
    assert resamples.interval(np.ones(5), ["q"] * 5) is None
    assert resamples.interval(np.ones(5), ["q"] * 4 + ["p"]) == [1, 1]


def test_paired_differences_and_their_verdicts():
    groups = np.repeat(np.arange(50), 4)
    right = (np.random.default_rng(0).random(200) < 0.5).astype(float)
    same = resamples.paired(right, right, groups)
    assert same == {"difference": 0.0, "ci": [0.0, 0.0], "groups": 50, "verdict": "no difference shown"}
    assert resamples.paired(np.ones(200), right, groups)["verdict"] == "above"
    assert resamples.paired(np.zeros(200), right, groups)["verdict"] == "below"


def test_ratio_interval_covers_a_planted_ratio(monkeypatch):
    """.6 over .3 with whole groups right or wrong: the interval holds 2 as often as it says."""
    monkeypatch.setattr(resamples, "RESAMPLES", 400)
    draws, inside = np.random.default_rng(0), []
    groups = np.repeat(np.arange(80), 3)
    for seed in range(200):
        values, control = (np.repeat(draws.random(80) < share, 3).astype(float) for share in (0.6, 0.3))
        found = resamples.ratio(values, groups, control, groups, seed)
        assert found["ratio"] == pytest.approx(values.mean() / control.mean())
        inside.append(found["ci"][0] <= 2 <= found["ci"][1])
    assert 0.9 <= np.mean(inside) <= 0.99


def test_a_ratio_over_nothing_is_no_number():
    groups = np.arange(20)
    none = resamples.ratio(np.ones(20), groups, np.zeros(20), groups)
    assert none == {"ratio": None, "ci": [None, None]}
    few = resamples.ratio(np.ones(20), groups, np.eye(20)[0], groups)
    assert few["ratio"] == 20 and few["ci"][1] is None and 0 < few["ci"][0] < 20
    assert resamples.ratio(np.ones(3), groups[:3], np.ones(3), [0] * 3)["ci"] is None


@pytest.mark.parametrize("exchange", [resamples.exchanged, resamples.exchanged_whole])
def test_counts_and_streams_of_exchanges(exchange, monkeypatch):
    cells = np.array([2, 0, 2, 1, 0, 2])
    one = np.concatenate(list(exchange(cells, 10, resamples.draws(3, resamples.LABELS))))
    monkeypatch.setattr(resamples, "_AT_ONCE", 7)  # one permutation at a time
    two = np.concatenate(list(exchange(cells, 10, resamples.draws(3, resamples.LABELS))))
    np.testing.assert_array_equal(one, two)
    assert one.shape == (10, 6)


def test_labels_stay_in_their_cells_and_reach_every_order():
    cells = np.array([2, 0, 2, 1, 0, 2])
    (taken_pn,) = resamples.exchanged(cells, 2000, resamples.draws(0, resamples.LABELS))
    assert (cells[taken_pn] == cells).all() and (np.sort(taken_pn) == np.arange(6)).all()
    orders, times = np.unique(taken_pn, axis=0, return_counts=True)
    assert len(orders) == 12 and stats.chisquare(times).pvalue > 1e-3  # 3! · 2! · 1!


def test_whole_cells_change_places():
    labels, cells = np.array(list("aabbbc")), np.array([5, 5, 7, 7, 7, 9])
    (taken_pn,) = resamples.exchanged_whole(cells, 500, resamples.draws(0, resamples.LABELS))
    found = {"".join(labels[taken]) for taken in taken_pn}
    assert found == {a * 2 + b * 3 + c for a, b, c in itertools.permutations("abc")}


def test_the_unit_is_the_finest_in_which_labels_meet():
    truth, alone, pairs = np.arange(8) % 2, np.arange(8), np.arange(8) // 2
    assert resamples.label_p(truth, truth, [("question", pairs), ("group", pairs // 2)])[1] == "question"
    assert resamples.label_p(truth, truth, [("question", alone), ("group", pairs)])[1] == "group"
    assert resamples.label_p(truth, truth, [("question", alone), ("group", truth)])[1] == "whole group"
    assert resamples.mixed_share(truth, np.array([0, 0, 1, 1, 2, 3, 2, 3])) == 0.5


def test_label_p_is_never_zero_and_uniform_where_predictions_know_nothing(monkeypatch):
    truth, cells = np.tile(np.arange(5), 40), np.repeat(np.arange(40), 5)
    assert resamples.label_p(truth, truth, [("question", cells)])[0] == 0.001
    monkeypatch.setattr(resamples, "PERMUTATIONS", 99)
    draws = np.random.default_rng(0)
    p = [resamples.label_p(draws.integers(5, size=200), truth, [("question", cells)], s)[0] for s in range(400)]
    # An accuracy is a whole number of hits: ties make p a little too large, never too small.
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 3.1 * np.sqrt(0.05 * 0.95 / 400)
    assert np.mean(np.array(p) <= 0.05) >= 0.02 and 0.4 <= np.mean(np.array(p) <= 0.5) <= 0.58


def test_predictions_of_the_question_alone_are_no_evidence():
    """All rows of a question get one label: right as often as by chance, in every exchange exactly as often."""
    truth, cells = np.tile(np.arange(4), 30), np.repeat(np.arange(30), 4)
    voted = np.repeat(np.random.default_rng(0).integers(4, size=30), 4)
    assert resamples.label_p(voted, truth, [("question", cells)])[0] == 1
