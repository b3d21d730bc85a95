"""packing: every view once, few shapes, the same plan from the lengths alone."""

import itertools

import numpy as np
import pytest

from univar_jax.encoders import packing
from univar_jax.encoders.packing import Layout


@pytest.mark.parametrize("seed", range(5))
def test_every_view_is_placed_once_and_no_row_overflows(seed):
    lengths = np.random.default_rng(seed).integers(1, 65, 100)
    rows = packing.pack(lengths, 64)
    assert sorted(v for row in rows for v in row) == list(range(100))
    assert max(lengths[row].sum() for row in rows) <= 64
    assert len(rows) <= 1.1 * np.ceil(lengths.sum() / 64)  # best fit decreasing leaves little


def test_most_segments_of_a_row_are_kept_to():
    rows = packing.pack([1] * 100, 64, segments=7)
    assert max(map(len, rows)) == 7 and len(rows) == 15


@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_few_counts_are_the_best_there_are(seed, most):
    needs = np.random.default_rng(seed).integers(30, 60, 40)
    chosen = packing.few(needs, most)
    cost = lambda counts: sum(min(c for c in counts if c >= need) for need in needs)  # noqa: E731
    best = min(
        cost([*rest, needs.max()]) for rest in itertools.combinations_with_replacement(np.unique(needs), most - 1)
    )
    assert len(chosen) <= most and chosen[-1] == needs.max() and cost(chosen) == best


def test_a_count_that_saves_next_to_nothing_is_not_compiled():
    needs = np.array([100] * 99 + [101])
    assert packing.few(needs, 3) == [100, 101] or packing.few(needs, 3) == [101]
    assert packing.few(np.array([40] * 10), 3) == [40]
    assert packing.few(np.array([1000] * 10 + [999]), 3) == [1000]


LAYOUTS = [Layout(64), Layout(128, 8), Layout(64, 4, 16), Layout(128, 1, 32)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_plan_holds_every_step(layout):
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.geometric(0.05, (400, 2)) + 2, 64)
    plan = packing.plan(lengths, 16, 25, layout)
    assert 1 <= len(plan.shapes) <= 3
    real = slots = 0
    for n in range(25):
        views = lengths[16 * n : 16 * n + 16].ravel()
        groups, shape = packing.arrange(views, plan.layout), plan.shapes[plan.shape_n[n]]
        assert sorted(view for rows in groups for row in rows for view in row) == list(range(32))
        for rows, group in zip(groups, shape, strict=True):
            assert len(rows) <= group.rows and max(map(len, rows)) <= group.segments
            assert max(views[row].sum() for row in rows) <= group.tokens
        assert shape[0].rows % layout.unit == 0 and plan.layout.short_rows % plan.layout.short_unit == 0
        real, slots = real + views.sum(), slots + sum(group.slots for group in shape)
    assert plan.fill == pytest.approx(real / slots) and plan.fill <= plan.ceiling <= 1
    assert plan.slots().sum() == slots


def test_short_rows_spare_attention_and_are_full():
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.geometric(0.05, (640, 2)) + 2, 256)
    long, both = (packing.plan(lengths, 64, 10, Layout(256, 1, short)) for short in (0, 64))
    squares = [sum(sum(g.rows * g.tokens**2 for g in plan.shapes[s]) for s in plan.shape_n) for plan in (long, both)]
    assert both.layout.short_rows > 20 and squares[1] < 0.5 * squares[0] and both.fill > 0.9
    for n in range(10):
        views = lengths[64 * n : 64 * n + 64].ravel()
        _, short = packing.arrange(views, both.layout)
        assert len(short) == both.layout.short_rows
        assert min(views[row].sum() for row in short) >= 0.95 * 64
