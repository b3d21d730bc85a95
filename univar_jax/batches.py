"""Records of step n → one packed batch on the mesh.

Views lie beside one another in rows of a fixed number of tokens:

    ids       [CLS] a a a [SEP] [CLS] b b [SEP]  0  0
    segment     1   1 1 1   1     2   2 2   2    0  0
    position    0   1 2 3   4     0   1 2   3    0  0

The encoder gives one vector a segment; `place` says where each view's is. Which tokens a step has is decided
by the records alone: rows and mesh only place them.
"""

import bisect
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import Mesh

from univar_jax import mesh as meshes
from univar_jax.shards import Pair, Shards

_AHEAD = 2  # batches composed before they are asked for


@dataclasses.dataclass(frozen=True)
class Shape:
    """The static shape of a packed batch: rows, tokens of a row, most segments of a row."""

    rows: int
    tokens: int
    segments: int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """A packed batch of pairs.

    Attributes:
      ids_rt, segment_rt, position_rt: int32; see the drawing above.
      anchor_n, key_n: int32; where the vector of a pair's view is in z_rsd with r and s flattened.
      source_n: int32; the pair's source.
    """

    ids_rt: jax.Array
    segment_rt: jax.Array
    position_rt: jax.Array
    anchor_n: jax.Array
    key_n: jax.Array
    source_n: jax.Array


def pack(lengths: Sequence[int], tokens: int, segments: int = sys.maxsize) -> list[list[int]]:
    """Best fit, longest first: which views lie in which row, in order.

    A function of the lengths alone, so that every host makes the same plan.

    Args:
      lengths: tokens of each view, each at most `tokens`.
      tokens: of a row.
      segments: most views of a row.

    Returns:
      For each row the numbers of its views.
    """
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (tokens left, row), sorted
    for view in sorted(range(len(lengths)), key=lambda v: -lengths[v]):
        best = bisect.bisect_left(rooms, (lengths[view], 0))
        if best == len(rooms):  # none has the room
            room, row = tokens, len(rows)
            rows.append([])
        else:
            room, row = rooms.pop(best)
        rows[row].append(view)
        if len(rows[row]) < segments:
            bisect.insort(rooms, (room - lengths[view], row))
    return rows


def shape(lengths_n2: np.ndarray, pairs: int, steps: int, tokens: int, devices: int) -> Shape:
    """The one shape that holds every step's views, known before the first step.

    Args:
      lengths_n2: tokens of each record's anchor and key.
      pairs: records of a step.
      steps: of the run.
      tokens: of a row.
      devices: that the rows divide over.
    """
    plans = [pack(lengths_n2[i * pairs : (i + 1) * pairs].ravel(), tokens) for i in range(steps)]
    rows = max(map(len, plans))
    return Shape(rows + -rows % devices, tokens, max(len(row) for plan in plans for row in plan))


def lay(
    views: Sequence[np.ndarray], rows: Sequence[Sequence[int]], form: Shape
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Lays views into rows as `pack` planned.

    Returns:
      ids_rt, segment_rt, position_rt (int32), and place_v (int32) with row · segments + segment of each view.
    """
    ids_rt, segment_rt, position_rt = np.zeros((3, form.rows, form.tokens), np.int32)
    place_v = np.zeros(len(views), np.int32)
    for row, members in enumerate(rows):
        start = 0
        for segment, view in enumerate(members):
            stop = start + len(views[view])
            ids_rt[row, start:stop] = views[view]
            segment_rt[row, start:stop] = segment + 1
            position_rt[row, start:stop] = np.arange(stop - start)
            place_v[view] = row * form.segments + segment
            start = stop
    return ids_rt, segment_rt, position_rt, place_v


def compose(pairs: Sequence[Pair], form: Shape) -> Batch:
    """One step's pairs as a batch on the host; anchors first, then keys."""
    views = [p.anchor for p in pairs] + [p.key for p in pairs]
    rows = pack([len(v) for v in views], form.tokens)
    ids_rt, segment_rt, position_rt, place_v = lay(views, rows, form)
    anchor_n, key_n = place_v[: len(pairs)], place_v[len(pairs) :]
    return Batch(ids_rt, segment_rt, position_rt, anchor_n, key_n, np.array([p.source for p in pairs], np.int32))


def shardings(mesh: Mesh) -> Batch:
    """Rows over all devices; the small per-pair arrays everywhere."""
    rows, whole = meshes.rows(mesh), meshes.whole(mesh)
    return Batch(rows, rows, rows, whole, whole, whole)


def feed(shards: Shards, steps: range, pairs: int, form: Shape, mesh: Mesh) -> Iterator[Batch]:
    """Batches of these steps on the mesh, composed ahead by one thread.

    Step n holds records n·pairs … (n+1)·pairs-1, whatever was read before: there is no iterator to save.
    """

    def batch(step: int) -> Batch:
        records = range(step * pairs, (step + 1) * pairs)
        return jax.device_put(compose([shards.read(i) for i in records], form), shardings(mesh))

    with ThreadPoolExecutor(1, "feed") as thread:
        ahead = [thread.submit(batch, step) for step in steps[:_AHEAD]]
        for step in steps:
            if step + _AHEAD < steps.stop:
                ahead.append(thread.submit(batch, step + _AHEAD))
            yield ahead.pop(0).result()
