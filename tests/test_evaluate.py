"""k-NN, probe and F1 against sklearn, against known truths, and against themselves."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

from univar_jax.statistics import evaluate


def vectors(seed, rows, d=8):
    z_nd = np.random.default_rng(seed).normal(size=(rows, d))
    return z_nd / np.linalg.norm(z_nd, axis=1, keepdims=True)


@pytest.mark.parametrize("k", [1, 2, 4, 7, 60])
@pytest.mark.parametrize("block", [13, 1024])
def test_knn_is_sklearns_ties_included(k, block):
    labels = np.array(["c", "a", "b", "d"])[np.random.default_rng(1).integers(4, size=60)]
    fit_nd, query_nd = vectors(2, 60), vectors(3, 200)
    theirs = KNeighborsClassifier(k).fit(fit_nd, labels)
    # Even k among four labels ties often; were it never so, the rule would not be tested.
    votes = theirs.predict_proba(query_nd)
    assert k in (1, 60) or (np.sort(votes)[:, -1] == np.sort(votes)[:, -2]).any()
    np.testing.assert_array_equal(evaluate.knn(fit_nd, labels, query_nd, k, block), theirs.predict(query_nd))


def test_knn_is_euclidean_off_the_unit_sphere_too():
    fit_nd, query_nd = vectors(4, 50) * np.arange(1, 51)[:, None], vectors(5, 40) * 9
    theirs = KNeighborsClassifier(3).fit(fit_nd, np.arange(50) % 3).predict(query_nd)
    np.testing.assert_array_equal(evaluate.knn(fit_nd, np.arange(50) % 3, query_nd, 3), theirs)


def test_of_equally_near_rows_the_first_votes():
    fit_nd = np.tile(vectors(6, 1), (4, 1))
    assert evaluate.knn(fit_nd, np.array([2, 0, 1, 1]), fit_nd[:1], 1) == [2]
    assert evaluate.knn(fit_nd, np.array([2, 2, 1, 1]), fit_nd[:1], 3) == [2]


def test_knn_names_the_voters_it_can_have():
    with pytest.raises(ValueError, match=r"k=5 voters of 4 fit rows; use 1\.\.4"):
        evaluate.knn(vectors(0, 4), np.arange(4), vectors(1, 2), 5)


def planted(rows, sources, noise, seed=0, d=32):
    """Unit vectors around one direction a source."""
    codes = np.arange(rows) % sources
    z_nd = vectors(100, sources, d)[codes] + noise * vectors(seed, rows, d)
    return (z_nd / np.linalg.norm(z_nd, axis=1, keepdims=True)).astype(np.float32), codes


def test_probe_reaches_what_logistic_regression_reaches():
    fit_nd, fit_codes = planted(6000, 12, 1.2, seed=1)
    query_nd, codes = planted(600, 12, 1.2, seed=2)
    theirs = LogisticRegression(max_iter=300).fit(fit_nd, fit_codes).score(query_nd, codes)
    # 20 epochs over so few rows are 240 small steps; the optimum takes more.
    ours = np.mean(evaluate.linear_probe(fit_nd, fit_codes, query_nd, 12, epochs=150).argmax(1) == codes)
    assert theirs > 0.9 and ours > theirs - 0.01


def test_probe_takes_the_papers_steps():
    """Adam's first step is lr in every entry, against the gradient's sign; the next epoch's lr is lr/2 of two."""
    fit_nd, codes = planted(300, 4, 1.0)
    queries = np.concatenate([np.zeros((1, 32)), np.eye(32)])  # read bias and weights off the logits

    def layer(epochs):
        logits = evaluate.linear_probe(fit_nd, codes, queries, 4, epochs=epochs)
        return np.concatenate([logits[:1], logits[1:] - logits[:1]])

    start, one, two = layer(0), layer(1), layer(2)
    assert np.abs(start).max() <= 1 / np.sqrt(32)
    np.testing.assert_allclose(np.abs(one - start), 2e-3, rtol=0.01)
    assert 0 < np.abs(two - one).max() < 0.0021  # a whole batch again, so nearly the first step's direction
    np.testing.assert_allclose(np.abs(two - one).mean(), 1e-3, rtol=0.05)


def test_probe_is_a_function_of_its_seed():
    fit_nd, codes = planted(700, 3, 1.0)
    one, two, other = (evaluate.linear_probe(fit_nd, codes, fit_nd[:5], 3, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - other).max() > 0


@pytest.mark.parametrize(("sources", "there"), [(2, {1}), (3, {1}), (4, {1, 3}), (6, {1, 3, 5}), (11, {1, 3, 5, 10})])
def test_acc_at_k_is_left_out_where_it_says_nothing(sources, there):
    z_nd, codes = planted(220, sources, 0.1)
    groups, fit_n = np.arange(220) // sources, np.arange(220) < 110
    out, right_m = evaluate.score(z_nd, codes, groups, fit_n, k=3)
    assert set(out["linear"]) == {"f1"} | {f"acc@{k}" for k in there}
    assert out["chance"] == 1 / sources and out["n_scored"] == len(right_m) == 110
    assert out["permutation_p"] == 0.001 and out["permutation_unit"] == "group"


def test_labels_are_exchanged_within_the_finest_unit_that_is_given():
    z_nd, codes = planted(120, 3, 9.0)
    fit_n, groups = np.arange(120) < 60, np.arange(120) // 12
    units = [("question", np.arange(120) // 3), ("question group", groups)]
    out, right_m = evaluate.score(z_nd, codes, groups, fit_n, 5, units=units)
    assert out["permutation_unit"] == "question" and 0.001 < out["permutation_p"] <= 1
    assert right_m.mean() == out["knn"]["acc"]


def test_sources_that_lack_a_side_are_named():
    sources, fit_n = np.array(list("aabbcd")), np.array([1, 0, 0, 1, 1, 0], bool)
    keep_n, left_out = evaluate.on_both_sides(sources, fit_n)
    assert keep_n.tolist() == [True] * 4 + [False] * 2 and left_out == ["c", "d"]


def test_weighted_f1_is_sklearns():
    draws = np.random.default_rng(0)
    truth, said = draws.integers(5, size=300), draws.integers(7, size=300)
    assert evaluate.weighted_f1(truth, said) == pytest.approx(f1_score(truth, said, average="weighted"))
