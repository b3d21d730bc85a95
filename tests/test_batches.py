"""Packing places views and changes nothing else."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from univar_jax.config import complete
from univar_jax.dataset import shards
from univar_jax.dataset.shards import Pair
from univar_jax.encoders import encoder, mesh, models, packing
from univar_jax.encoders.packing import Group
from univar_jax.training import batches, step


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


LONG, BOTH = packing.Layout(64), packing.Layout(64, short_tokens=16, short_rows=2)


@pytest.mark.parametrize(("layout", "shape"), [(LONG, (Group(5, 64, 8),)), (BOTH, (Group(5, 64, 8), Group(2, 16, 4)))])
def test_rows_hold_the_views_tokens_with_positions_that_restart(layout, shape):
    made = pairs(6, 20)
    batch = batches.compose(made, layout, shape)
    segments = [np.arange(g.rows * g.segments).reshape(g.rows, g.segments) for g in shape]
    starts = np.cumsum([0] + [s.size for s in segments])
    for n, pair in enumerate(made):
        for place, ids in ((batch.anchor_n[n], pair.anchor), (batch.key_n[n], pair.key)):
            group = int(np.searchsorted(starts, place, side="right")) - 1
            row, segment = divmod(place - starts[group], shape[group].segments)
            rows = batch.groups[group]
            cells = rows.segment_rt[row] == segment + 1
            assert rows.ids_rt[row][cells].tolist() == ids.tolist()
            assert rows.position_rt[row][cells].tolist() == list(range(len(ids)))
    placed = sum((rows.segment_rt > 0).sum() for rows in batch.groups)
    assert placed == sum(len(p.anchor) + len(p.key) for p in made)


def results(tiny, batch, shape, over, **values):
    graph, params = tiny
    config = complete(ConfigDict(values))
    objective = step.objective(graph, config, shape, over)
    return jax.jit(jax.value_and_grad(lambda p: objective(p, batch)[0]))({"encoder": params})


def same(one, other):
    assert float(one[0]) == pytest.approx(float(other[0]), abs=1e-5)
    for a, b in zip(jax.tree.leaves(one[1]), jax.tree.leaves(other[1]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1, float(np.abs(b).max())))


@pytest.fixture(scope="module")
def alone(tiny, meshes):
    """Loss and gradients of eight pairs with one view a row."""
    made, shape = pairs(8, 60), (Group(16, 64, 1),)
    views = [p.anchor for p in made] + [p.key for p in made]
    *rows, places = packing.lay(views, [[v] for v in range(16)], shape[0])
    where = np.array([places[v] for v in range(16)])
    batch = batches.Batch((batches.Rows(*rows),), where[:8], where[8:], np.array([p.source for p in made]))
    return results(tiny, batch, shape, meshes(1))


@pytest.mark.parametrize(
    ("layout", "shape", "values"),
    [
        (LONG, (Group(16, 64, 8),), {}),
        (BOTH, (Group(14, 64, 8), Group(2, 16, 4)), {}),
        (LONG, (Group(16, 64, 8),), {"rows_per_chunk": 8}),
        (LONG, (Group(16, 64, 8),), {"rows_per_chunk": 4, "remat": "full"}),
        (BOTH, (Group(16, 64, 8), Group(2, 16, 4)), {"rows_per_chunk": 4}),
    ],
)
def test_packed_loss_and_gradients_equal_those_of_one_view_a_row(tiny, alone, meshes, layout, shape, values):
    batch = batches.compose(pairs(8, 60), layout, shape)
    assert any((rows.segment_rt > 1).any() for rows in batch.groups)  # or nothing was packed
    same(results(tiny, batch, shape, meshes(1), **values), alone)


@pytest.mark.parametrize("chunk", [0, 8])
def test_chunks_over_devices_are_the_same_and_no_row_travels(tiny, alone, chunk):
    devices, shape = mesh.make(0, 1), (Group(16, 64, 8),)
    batch = jax.device_put(batches.compose(pairs(8, 60), LONG, shape), batches.shardings(devices, 1))
    same(results(tiny, batch, shape, devices, rows_per_chunk=chunk), alone)
    graph, params = tiny
    objective = step.objective(graph, complete(ConfigDict({"rows_per_chunk": chunk})), shape, devices)
    compiled = jax.jit(jax.grad(lambda p, b: objective(p, b)[0])).lower({"encoder": params}, batch).compile()
    assert "collective-permute" not in compiled.as_text() and "all-to-all" not in compiled.as_text()


def test_chunks_take_less_memory(tiny, meshes):
    shape = (Group(64, 64, 8),)
    config = ConfigDict({"pairs": 64, "rows_per_chunk": 0})

    def temporaries(chunk):
        config.rows_per_chunk = chunk
        graph, params = tiny
        objective = step.objective(graph, complete(config), shape, meshes(1))
        batch = batches.abstract(64, shape, meshes(1))
        lowered = jax.jit(jax.grad(lambda p, b: objective(p, b)[0])).lower({"encoder": params}, batch)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporaries(8) < 0.4 * temporaries(0)


class Records:
    """Stands for shards: record i is a function of i."""

    def __init__(self):
        self.asked = []

    def read(self, i):
        self.asked.append(i)
        return pairs(1, 60, seed=i)[0]


def test_a_step_is_its_records_wherever_the_feed_starts():
    devices, shapes = mesh.make(0, 1), ((Group(8, 64, 8),), (Group(16, 64, 8),))
    plan = packing.Plan(LONG, shapes, np.array([0, 1, 0, 1, 0]), 0, 0)
    whole = list(batches.feed(Records(), range(0, 5), 4, plan, devices))
    later = list(batches.feed(Records(), range(3, 5), 4, plan, devices))
    assert [len(batch.groups[0].ids_rt) for batch in whole] == [8, 16, 8, 16, 8]
    assert len(whole) == 5 and len(later) == 2
    for a, b in zip(whole[3:], later, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    records = Records()
    list(batches.feed(records, range(2, 4), 4, plan, devices))
    assert records.asked == list(range(8, 16))


def test_rows_lie_over_all_devices():
    devices = mesh.make(4, 2)
    plan = packing.Plan(LONG, ((Group(8, 64, 8),),), np.array([0]), 0, 0)
    batch = next(iter(batches.feed(Records(), range(1), 4, plan, devices)))
    assert {s.data.shape for s in batch.groups[0].ids_rt.addressable_shards} == {(1, 64)}
    assert {s.data.shape for s in batch.source_n.addressable_shards} == {(4,)}


def test_what_is_compiled_for_is_what_comes():
    devices, shape = mesh.make(0, 1), (Group(8, 64, 8), Group(8, 16, 4))
    layout = packing.Layout(64, 8, 16, 0)
    plan = packing.Plan(layout, (shape[:1],), np.array([0]), 0, 0)
    batch = next(iter(batches.feed(Records(), range(1), 4, plan, devices)))
    tell = lambda x: (x.shape, x.dtype, x.sharding)  # noqa: E731
    assert jax.tree.map(tell, batch) == jax.tree.map(tell, batches.abstract(4, shape[:1], devices))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux says which files are open")
def test_shards_that_nobody_reads_any_more_are_closed(tiny_data):
    manifest = shards.read_manifest(str(tiny_data))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        shards.Shards(tiny_data, manifest, "train").read(0)
    assert len(os.listdir("/proc/self/fd")) < before + 20
