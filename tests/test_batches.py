"""Packing places views and changes nothing else."""

import jax
import numpy as np
import pytest

from univar_jax import batches, encoder, mesh, models, step
from univar_jax.batches import Shape
from univar_jax.config import complete, defaults
from univar_jax.shards import Pair


@pytest.fixture(scope="module")
def tiny():
    config = models.EncoderConfig(
        architecture="bert", vocab=100, width=32, layers=2, heads=2, head_width=16, ff=64, positions=64, types=2,
        eps=1e-12, activation="gelu", position="learned", rope_theta=0, gated=False, biases=True, pad=0, dropout=0,
    )  # fmt: skip
    shapes = encoder.abstract_params(config)
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    drawn = [jax.random.normal(k, s.shape) * 0.1 for k, s in zip(keys, leaves, strict=True)]
    return encoder.build(config), jax.tree.unflatten(tree, drawn)


def pairs(n, longest, seed=0):
    rng = np.random.default_rng(seed)
    ids = lambda: rng.integers(1, 100, rng.integers(3, longest + 1)).astype(np.uint16)  # noqa: E731
    return [Pair(ids(), ids(), int(rng.integers(3))) for _ in range(n)]


@pytest.mark.parametrize("seed", range(5))
def test_every_view_is_placed_once_and_no_row_overflows(seed):
    lengths = np.random.default_rng(seed).integers(1, 65, 100)
    rows = batches.pack(lengths, 64)
    assert sorted(v for row in rows for v in row) == list(range(100))
    assert max(lengths[row].sum() for row in rows) <= 64
    assert len(rows) <= 1.1 * np.ceil(lengths.sum() / 64)  # best fit decreasing leaves little


def test_most_segments_of_a_row_are_kept_to():
    rows = batches.pack([1] * 100, 64, segments=7)
    assert max(map(len, rows)) == 7 and len(rows) == 15


def test_rows_hold_the_views_tokens_with_positions_that_restart():
    made = pairs(6, 20)
    batch = batches.compose(made, Shape(5, 64, 8))
    flat = [(r, t) for r in range(5) for t in range(64)]
    for n, pair in enumerate(made):
        for place, ids in ((batch.anchor_n[n], pair.anchor), (batch.key_n[n], pair.key)):
            row, segment = place // 8, place % 8 + 1
            cells = [(r, t) for r, t in flat if r == row and batch.segment_rt[r, t] == segment]
            assert [batch.ids_rt[c] for c in cells] == ids.tolist()
            assert [batch.position_rt[c] for c in cells] == list(range(len(ids)))
    assert (batch.segment_rt > 0).sum() == sum(len(p.anchor) + len(p.key) for p in made)


def test_packed_loss_and_gradients_equal_those_of_one_view_a_row(tiny):
    graph, params = tiny
    config, made, devices = complete(defaults()), pairs(8, 60), mesh.make(0, 1)
    results = []
    for form in (Shape(16, 64, 8), Shape(16, 64, 1)):
        if form.segments == 1:
            views = [p.anchor for p in made] + [p.key for p in made]
            *rows, place = batches.lay(views, [[v] for v in range(16)], form)
            batch = batches.Batch(*rows, place[:8], place[8:], np.array([p.source for p in made]))
        else:
            batch = batches.compose(made, form)
            assert (batch.segment_rt > 1).any()  # or nothing was packed
        objective = lambda p, b=batch, f=form: step.objective(graph, config, f.segments, devices)(p, b)[0]  # noqa: E731
        results.append(jax.jit(jax.value_and_grad(objective))({"encoder": params}))
    (packed, packed_grads), (alone, alone_grads) = results
    assert float(packed) == pytest.approx(float(alone), abs=1e-5)
    for a, b in zip(jax.tree.leaves(packed_grads), jax.tree.leaves(alone_grads), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1, float(np.abs(b).max())))


class Records:
    """Stands for shards: record i is a function of i."""

    def __init__(self):
        self.asked = []

    def read(self, i):
        self.asked.append(i)
        return pairs(1, 60, seed=i)[0]


def test_a_step_is_its_records_wherever_the_feed_starts():
    form, devices = Shape(8, 64, 8), mesh.make(0, 1)
    whole = list(batches.feed(Records(), range(0, 5), 4, form, devices))
    later = list(batches.feed(Records(), range(3, 5), 4, form, devices))
    assert len(whole) == 5 and len(later) == 2
    for a, b in zip(whole[3:], later, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    records = Records()
    list(batches.feed(records, range(2, 4), 4, form, devices))
    assert records.asked == list(range(8, 16))


def test_the_shape_holds_every_step_and_divides_over_the_devices():
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 65, (40, 2))
    form = batches.shape(lengths, 8, 5, 64, devices=8)
    assert form.rows % 8 == 0
    for i in range(5):
        rows = batches.pack(lengths[i * 8 : i * 8 + 8].ravel(), 64)
        assert len(rows) <= form.rows and max(map(len, rows)) <= form.segments


def test_rows_lie_over_all_devices():
    devices = mesh.make(4, 2)
    batch = next(iter(batches.feed(Records(), range(1), 4, Shape(8, 64, 8), devices)))
    assert {s.data.shape for s in batch.ids_rt.addressable_shards} == {(1, 64)}
    assert {s.data.shape for s in batch.source_n.addressable_shards} == {(4,)}
