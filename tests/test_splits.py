"""Splits by count as the paper's, equal sizes, equal lengths, and copies found on both sides."""

import numpy as np
import pytest

from univar_jax.statistics import splits


def objects(*values):
    return [np.array(v, object) for v in values]


@pytest.mark.parametrize(
    ("corpus", "rows", "fit"),
    [("ValuePrism", 1250, 1000), ("PVQ-RR", 168, 128), ("globe", 84, 54), ("WVS", 251, 201), ("LIMA", 985, 735)],
)
def test_by_count_is_the_papers_split(corpus, rows, fit):
    sources, sets = objects(["a$eng", "b$eng"] * rows, [corpus] * 2 * rows)
    fit_n = splits.by_count(sources, sets, 0)
    assert [fit_n[sources == s].sum() for s in ("a$eng", "b$eng")] == [fit, fit]
    assert (fit_n != splits.by_count(sources, sets, 1)).any()


def test_by_count_takes_four_fifths_of_each_source_in_each_other_corpus():
    sources, sets = objects(["a"] * 10 + ["b"] * 5 + ["a"] * 5 + ["c"], ["x"] * 15 + ["y"] * 6)
    fit_n = splits.by_count(sources, sets, 0)
    found = [fit_n[(sources == s) & (sets == d)].sum() for s, d in (("a", "x"), ("b", "x"), ("a", "y"), ("c", "y"))]
    assert found == [8, 4, 4, 0]


def test_values_and_control_of_one_size_have_the_same_sources_and_rows():
    draws = np.random.default_rng(0)
    sources = np.array(list("abcd"), object)[draws.integers(4, size=400)]
    control_n, fit_n = draws.random(400) < 0.3, draws.random(400) < 0.7
    control_n[sources == "d"] = False  # d has no control row
    fit_n[(sources == "c") & control_n] = True  # and c none to score
    keep_n = splits.same_size(sources, control_n, fit_n, 0)
    for s in "abcd":
        for side in (fit_n, ~fit_n):
            of = [int((keep_n & (sources == s) & side & kind).sum()) for kind in (control_n, ~control_n)]
            assert of[0] == of[1] and bool(of[0]) == (s in "ab")


def test_matched_lengths_are_distributed_equally():
    draws = np.random.default_rng(0)
    sources = np.array(["short", "long"], object)[np.arange(2000) % 2]
    lengths = draws.gamma(3, np.where(sources == "short", 60, 120)).astype(int)
    fit_n = draws.random(2000) < 0.7
    keep_n = splits.length_matched(lengths, sources, fit_n, 0)
    edges = np.quantile(lengths, np.arange(1, 10) / 10)
    for side in (fit_n, ~fit_n):
        short, long = (
            np.bincount(np.searchsorted(edges, lengths[keep_n & side & (sources == s)], "right"), minlength=10)
            for s in ("short", "long")
        )
        np.testing.assert_array_equal(short, long)
    assert 700 < keep_n.sum() < 1800  # and of each tenth as many as the rarer source has
    before, after = ([np.median(lengths[m & (sources == s)]) for s in ("short", "long")] for m in (lengths > 0, keep_n))
    assert before[1] / before[0] > 1.8 and after[1] / after[0] < 1.1


def test_a_source_of_its_own_lengths_is_left_out_of_the_matching():
    sources = np.array(list("abcd"), object)[np.arange(400) % 4]
    lengths = np.where(sources == "d", 5000, np.random.default_rng(0).integers(10, 900, 400))
    fit_n = np.arange(400) < 280
    keep_n = splits.length_matched(lengths, sources, fit_n, 0)
    assert set(sources[keep_n]) == set("abc") and keep_n.sum() > 150


def test_no_common_length_leaves_no_row():
    sources, fit_n = np.array(["a", "b"], object)[np.arange(40) % 2], np.arange(40) < 20
    assert not splits.length_matched(np.where(sources == "a", 10, 1000), sources, fit_n, 0).any()
    assert splits.length_matched(np.zeros(0, int), sources[:0], fit_n[:0], 0).shape == (0,)


def test_copies_are_counted_by_text_and_by_source():
    texts, sources, questions = objects(
        ["Q: x A: 1", "Q: y A: 1", "Q: x A: 1", "Q: y A: 1", "Q: y A: 2", "Q: z A: 1"], list("abaabb"), list("xyxyyz")
    )
    found = splits.leakage(texts, sources, questions, np.arange(6) < 2)
    assert found == {"rows": 2, "of_source": 1, "questions": 3}
