"""Vectors of any number of texts, without gradients: packed, encoded and put back into their order."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from univar_jax.encoders import encoder, mesh, packing

# Slots of a batch: enough to keep a device busy, few enough for a laptop's memory.
_SLOTS = 4096
# Shortest row, and most views in one: short views share a row, longer ones get rows of twice the tokens.
_ROW, _SEGMENTS = 128, 32
# A last batch is as many such parts of a whole one as it needs: its shape is one more to compile.
_PARTS = 8


def embedder(graph: nnx.GraphDef, devices: Mesh) -> Callable[[dict, Sequence[np.ndarray]], np.ndarray]:
    """A function (params, token ids of n views) → z_nd, float32, unit norm, in the views' order."""
    rows = mesh.rows(devices)
    encode = jax.jit(
        lambda params, *rows_rt: encoder.apply(graph, params, *rows_rt, segments=_SEGMENTS),
        out_shardings=mesh.whole(devices),
    )

    def embed(params: dict, ids: Sequence[np.ndarray]) -> np.ndarray:
        order, parts = [], []
        for here, (*rows_rt, places) in _packed(ids, devices.size):
            z_rsd = np.asarray(encode(params, *mesh.place(rows_rt, [rows] * 3)))
            order.append(here[list(places)])
            parts.append(z_rsd.reshape(-1, z_rsd.shape[-1])[list(places.values())])
        z_nd = np.concatenate(parts)
        z_nd[np.concatenate(order)] = z_nd.copy()
        return z_nd

    return embed


def _packed(ids: Sequence[np.ndarray], devices: int) -> Iterator[tuple[np.ndarray, tuple]]:
    """Batches of rows with the numbers of the views in them; a handful of shapes serves all lengths."""
    width_n = np.array([max(_ROW, 1 << (len(x) - 1).bit_length()) for x in ids])
    for width in np.unique(width_n).tolist():
        members = np.flatnonzero(width_n == width)
        rows = packing.pack([len(ids[m]) for m in members], width, _SEGMENTS)
        count = max(1, _SLOTS // width)
        count += -count % devices
        part = max(1, count // _PARTS)
        part += -part % devices
        for i in range(0, len(rows), count):
            some = rows[i : i + count]
            group = packing.Group(min(count, len(some) + -len(some) % part), width, _SEGMENTS)
            here = members[np.concatenate(some)]
            bounds = np.cumsum([0] + [len(row) for row in some])
            laid = [range(a, b) for a, b in itertools.pairwise(bounds)]
            yield here, packing.lay([ids[v] for v in here], laid, group)
