"""Records of step n → one packed batch on the mesh.

The encoder gives one vector a segment; `anchor_n` and `key_n` say where each pair's are. Which tokens a step has is
decided by the records alone: rows and mesh only place them.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import Mesh

from univar_jax.dataset.shards import Pair, Shards
from univar_jax.encoders import mesh as meshes
from univar_jax.encoders import packing
from univar_jax.encoders.packing import Layout, Plan, Shape

_AHEAD = 2  # batches composed before they are asked for


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """Packed rows: int32 ids_rt, segment_rt and position_rt; see packing's drawing."""

    ids_rt: jax.Array
    segment_rt: jax.Array
    position_rt: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """A packed batch of pairs.

    Attributes:
      groups: rows of one length each.
      anchor_n, key_n: int32; where the vector of a pair's view is among those of all segments of all rows of all
        groups, in this order.
      source_n: int32; the pair's source.
    """

    groups: tuple[Rows, ...]
    anchor_n: jax.Array
    key_n: jax.Array
    source_n: jax.Array


def compose(pairs: Sequence[Pair], layout: Layout, shape: Shape) -> Batch:
    """One step's pairs as a batch on the host; anchors first, then keys."""
    views = [p.anchor for p in pairs] + [p.key for p in pairs]
    groups, place_v, start = [], np.zeros(len(views), np.int32), 0
    for rows, group in zip(packing.arrange([len(v) for v in views], layout), shape, strict=True):
        *rows_rt, places = packing.lay(views, rows, group)
        groups.append(Rows(*rows_rt))
        place_v[list(places)] = start + np.array(list(places.values()))
        start += group.rows * group.segments
    anchor_n, key_n = place_v[: len(pairs)], place_v[len(pairs) :]
    return Batch(tuple(groups), anchor_n, key_n, np.array([p.source for p in pairs], np.int32))


def shardings(mesh: Mesh, groups: int) -> Batch:
    """Rows over all devices; the small per-pair arrays everywhere."""
    rows, whole = meshes.rows(mesh), meshes.whole(mesh)
    return Batch((Rows(rows, rows, rows),) * groups, whole, whole, whole)


def abstract(pairs: int, shape: Shape, mesh: Mesh) -> Batch:
    """A batch of jax.ShapeDtypeStruct, to compile for."""

    def array(sharding: jax.sharding.Sharding, *size: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(size, np.int32, sharding=sharding)

    rows, whole = meshes.rows(mesh), meshes.whole(mesh)
    groups = tuple(Rows(*[array(rows, group.rows, group.tokens)] * 3) for group in shape)
    return Batch(groups, *[array(whole, pairs)] * 3)


def feed(shards: Shards, steps: range, pairs: int, plan: Plan, mesh: Mesh) -> Iterator[Batch]:
    """Batches of these steps on the mesh, composed ahead by one thread.

    Step n holds records n·pairs … (n+1)·pairs-1, whatever was read before: there is no iterator to save. A process
    reads those of its own rows; of the others their lengths are enough.
    """

    def batch(step: int) -> Batch:
        numbers, shape = range(step * pairs, (step + 1) * pairs), plan.shapes[plan.shape_n[step]]
        made = _read(shards, numbers, plan.layout, shape, mesh)
        return meshes.place(compose(made, plan.layout, shape), shardings(mesh, len(shape)))

    with ThreadPoolExecutor(1, "feed") as thread:
        ahead = [thread.submit(batch, step) for step in steps[:_AHEAD]]
        for step in steps:
            if step + _AHEAD < steps.stop:
                ahead.append(thread.submit(batch, step + _AHEAD))
            yield ahead.pop(0).result()


def _read(shards: Shards, numbers: range, layout: Layout, shape: Shape, mesh: Mesh) -> list[Pair]:
    """A step's records; of those without a view in rows of this process's devices only lengths and source are right."""
    if jax.process_count() == 1:
        return [shards.read(i) for i in numbers]
    lengths_n2, source_n = shards.lengths()[numbers], shards.sources_of()[numbers]
    needed_v = np.zeros(lengths_n2.size, bool)
    for rows, group in zip(packing.arrange(lengths_n2.T.ravel().tolist(), layout), shape, strict=True):
        for part, *_ in meshes.rows(mesh).addressable_devices_indices_map((group.rows, group.tokens)).values():
            needed_v[[view for row in rows[part] for view in row]] = True
    needed_n = needed_v.reshape(2, -1).any(axis=0)
    blank = lambda n: Pair(*(np.zeros(length, np.int32) for length in lengths_n2[n]), source_n[n])  # noqa: E731
    return [shards.read(i) if needed_n[n] else blank(n) for n, i in enumerate(numbers)]
