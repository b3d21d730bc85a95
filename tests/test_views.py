"""views: every draw is a function of (seed, split, i), fair, without repetition, and stays what it is."""

import collections
import dataclasses

import numpy as np
import pytest
from scipy import stats

from univar_jax.dataset.views import Law

LAW = Law(seed=42, split="train", sizes=(5, 0, 12, 3, 40), max_qas=5, disjoint=False)
EPOCH = sum(LAW.sizes)
PINNED = {
    False: [
        (4, [9], [33, 37]),
        (4, [8, 38, 28, 34], [15, 26]),
        (4, [36, 23], [1, 34, 9, 26, 31]),
        (4, [25], [24, 39, 19, 10, 36]),
    ],
    True: [
        (4, [9], [34, 37]),
        (4, [8, 38, 28, 34], [17, 27]),
        (4, [36, 23], [3, 35, 11, 27, 31]),
        (4, [25], [0, 39, 20, 11, 36]),
    ],
}


def pairs(law, records):
    return [law.pair(i) for i in records]


def test_the_law_is_what_it_was():
    # Folders on disk carry these draws: who changes them must raise prepare.LAW_VERSION.
    assert pairs(LAW, (0, 1, 59, 10**6)) == PINNED[False]
    assert pairs(dataclasses.replace(LAW, disjoint=True), (0, 1, 59, 10**6)) == PINNED[True]


def test_a_pair_does_not_know_what_was_drawn_before_it():
    in_order = pairs(LAW, range(3 * EPOCH))
    for i in np.random.default_rng(0).permutation(3 * EPOCH).tolist():
        assert LAW.pair(i) == in_order[i]
    again = Law(42, "train", (5, 0, 12, 3, 40), 5, False)
    assert again.pair(2 * EPOCH + 1) == in_order[2 * EPOCH + 1]


def test_an_epoch_visits_each_source_as_often_as_it_has_qas():
    for epoch in range(4):
        visits = np.bincount([LAW.source(i) for i in range(epoch * EPOCH, (epoch + 1) * EPOCH)], minlength=5)
        assert tuple(visits) == LAW.sizes
    assert LAW.pair(7)[0] == LAW.source(7)


@pytest.mark.parametrize("change", [{"seed": 43}, {"split": "eval"}, {"seed": 42 + 2**32}])
def test_seeds_and_splits_have_draws_of_their_own(change):
    other = dataclasses.replace(LAW, **change)
    assert [LAW.source(i) for i in range(EPOCH)] != [other.source(i) for i in range(EPOCH)]
    # One source: whatever the order of the visits, the views themselves must differ.
    one, two = dataclasses.replace(LAW, sizes=(1000,)), dataclasses.replace(other, sizes=(1000,))
    assert sum(a == b for a, b in zip(pairs(one, range(100)), pairs(two, range(100)), strict=True)) < 3


def test_epochs_have_orders_and_views_of_their_own():
    order = [[LAW.source(e * EPOCH + i) for i in range(EPOCH)] for e in range(2)]
    assert order[0] != order[1]
    one = dataclasses.replace(LAW, sizes=(1000,))
    assert sum(one.pair(i) == one.pair(1000 + i) for i in range(100)) < 3


def assert_fair(values, low, high):
    """Chi-square against uniform low..high; the draws are fixed, so it passes for ever or never."""
    counts = np.bincount(values, minlength=high + 1)
    assert counts[:low].sum() == 0 and len(counts) == high + 1
    assert stats.chisquare(counts[low:]).pvalue > 1e-3


@pytest.mark.parametrize("disjoint", [False, True])
@pytest.mark.parametrize("max_qas", [2, 4, 20])
def test_both_sizes_are_uniform_and_independent(max_qas, disjoint):
    law = Law(0, "train", (60,), max_qas, disjoint)
    drawn = pairs(law, range(6000))
    sizes = np.array([(len(a), len(k)) for _, a, k in drawn])
    assert_fair(sizes[:, 0], 1, max_qas)
    assert_fair(sizes[:, 1], 1, max_qas)
    assert_fair((sizes - 1) @ [max_qas, 1], 0, max_qas**2 - 1)


def test_every_qa_is_drawn_alike_in_every_place():
    drawn = pairs(Law(1, "train", (12,), 12, False), range(6000))
    firsts, lasts = [a[0] for _, a, _ in drawn], [k[-1] for _, _, k in drawn]
    assert_fair(firsts, 0, 11)
    assert_fair(lasts, 0, 11)
    # The two views know nothing of each other.
    assert_fair(np.array(firsts) * 12 + [k[0] for _, _, k in drawn], 0, 143)


@pytest.mark.parametrize("disjoint", [False, True])
@pytest.mark.parametrize("max_qas", [1, 3, 80])
def test_views_hold_qas_of_their_source_and_none_twice(max_qas, disjoint):
    law = dataclasses.replace(LAW, sizes=(2, 3, 0, 7, 30), max_qas=max_qas, disjoint=disjoint)
    for source, *views in pairs(law, range(1000)):
        size = law.sizes[source]
        for view in views:
            assert 1 <= len(view) == len(set(view)) <= min(max_qas, size // 2 if disjoint else size)
            assert all(type(qa) is int and 0 <= qa < size for qa in view)
        assert not disjoint or not set(views[0]) & set(views[1])


def test_a_source_smaller_than_max_qas_gives_up_to_all_it_has():
    lengths = collections.Counter(
        len(a) for s, a, _ in pairs(dataclasses.replace(LAW, max_qas=80), range(1200)) if s == 3
    )
    assert set(lengths) == {1, 2, 3}


def test_views_that_may_share_do():
    assert any(set(a) & set(k) for _, a, k in pairs(LAW, range(100)))


def test_a_source_without_qas_is_never_drawn():
    assert 1 not in {LAW.source(i) for i in range(5 * EPOCH)}
    ends = dataclasses.replace(LAW, sizes=(0, 3, 0, 0, 2, 0))
    assert {ends.source(i) for i in range(50)} == {1, 4}


def test_large_sources_and_far_records_are_no_different():
    law = Law(2**63 - 1, "train", (100_000, 2), 3, False)
    source, anchor, key = law.pair(10**12)
    assert source in (0, 1) and 1 <= len(anchor) <= 3 and max(anchor + key) < 100_000
