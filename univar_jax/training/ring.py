"""The loss's terms where each device has its own anchors: all keys visit them at once, or one device's after another.

No more than a block of logits lives at a time, in the backward pass either; see `loss.contrast` for the equation.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from univar_jax.encoders.mesh import AXES

# Logits of a device that live at a time: 16 MB in float32. Up to 2,048 pairs on one device are one block.
_BLOCK = 2**22


class _Side(NamedTuple):
    """Vectors of one side of some pairs (or of one pair), with the pairs' sources and numbers."""

    z_nd: jax.Array
    source_n: jax.Array
    number_n: jax.Array


def terms(
    anchor_nd: jax.Array, key_nd: jax.Array, source_n: jax.Array, scale: jax.Array | float, *, spread: str, mesh: Mesh
) -> tuple[jax.Array, jax.Array]:
    """The terms of the loss, one an anchor, and which anchors' own keys are nearest; global arrays in and out.

    Equation: logsumexp_m(s_nm) - s_nn and s_nn >= max_m(s_nm), with s_nm = scale · <anchor_n, key_m> or, for other
    pairs of the anchor's source, -inf.

    Args:
      anchor_nd, key_nd: float32.
      source_n: int.
      scale: float32 [].
      spread: gathered, each device has a copy of all keys; ring, the keys walk from device to device.
      mesh: whose devices share the pairs; their number divides that of the pairs.

    Returns:
      term_n and near_n, float32.
    """

    def local(anchor: _Side, key: _Side, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
        # As a number that each device has for itself: else each block would sum its gradient over all devices.
        scale = jax.lax.pcast(scale, AXES, to="varying")
        if spread == "gathered":
            key = jax.lax.all_gather(key, AXES, tiled=True)
        return _visited(anchor, key, scale, visits)

    visits = {"gathered": 1, "ring": mesh.size}[spread]
    number_n, over, whole = jnp.arange(len(source_n)), PartitionSpec(AXES), PartitionSpec()
    spread_out = jax.shard_map(local, mesh=mesh, in_specs=(over, over, whole), out_specs=(over, over))
    return spread_out(_Side(anchor_nd, source_n, number_n), _Side(key_nd, source_n, number_n), jnp.float32(scale))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _visited(anchor: _Side, key: _Side, scale: jax.Array, visits: int) -> tuple[jax.Array, jax.Array]:
    """term_n and near_n of one device's anchors, when its keys and those of visits - 1 other devices have passed.

    The gradient is written out because a differentiated scan keeps what visited, which in the end is all keys.
    """
    return _forward(anchor, key, scale, visits)[0]


def _forward(anchor: _Side, key: _Side, scale: jax.Array, visits: int) -> tuple:
    def visit(carry: tuple, _: None) -> tuple:
        key, seen = carry

        def row(anchor: _Side, best: jax.Array, total: jax.Array, own: jax.Array) -> tuple:
            s_m, own_m = _logits(anchor, key, scale)
            top = jnp.maximum(best, s_m.max())
            total = total * jnp.exp(best - top) + jnp.exp(s_m - top).sum()  # of exp(s - top), over all that was seen
            return top, total, own + jnp.where(own_m, s_m, 0).sum()

        return (_pass_on(key, visits), _by_blocks(row, len(key.z_nd), anchor, *seen)), None

    nought_n = jax.lax.pcast(jnp.zeros(len(anchor.z_nd)), AXES, to="varying")
    # The own key is among the first that come, so that the greatest logit is finite from there on.
    (_, seen), _ = jax.lax.scan(visit, (key, (nought_n - jnp.inf, nought_n, nought_n)), length=visits)
    best_n, total_n, own_n = seen
    logsumexp_n = best_n + jnp.log(total_n)
    near_n = (own_n >= best_n).astype(jnp.float32)
    return (logsumexp_n - own_n, near_n), (anchor, key, scale, logsumexp_n)


def _backward(visits: int, kept: tuple, slopes: tuple) -> tuple:
    """The keys walk once more: d term_n = sum over m of exp(s_nm - logsumexp_n) · ds_nm, less ds_nn."""
    anchor, key, scale, logsumexp_n = kept
    slope_n, _ = slopes

    def visit(carry: tuple, _: None) -> tuple:
        key, to_key_md, to_own = carry

        # With logsumexp_n for a number that is known, the derivative of this is the one above.
        def value(key_md: jax.Array, anchor_nd: jax.Array, scale: jax.Array) -> jax.Array:
            def row(anchor: _Side, logsumexp: jax.Array, slope: jax.Array) -> jax.Array:
                s_m, own_m = _logits(anchor, key._replace(z_nd=key_md), scale)
                return slope * (jnp.exp(s_m - logsumexp).sum() - jnp.where(own_m, s_m, 0).sum())

            # Or every block's logits would be kept. Nothing is computed twice: the value itself is never asked for.
            row = jax.checkpoint(row, prevent_cse=False)
            return _by_blocks(row, len(key_md), anchor._replace(z_nd=anchor_nd), logsumexp_n, slope_n).sum()

        more_md, *more = jax.grad(value, (0, 1, 2))(key.z_nd, anchor.z_nd, scale)
        # What a key is to get walks with it, and is whole when both are home.
        key, to_key_md = _pass_on((key, to_key_md + more_md), visits)
        return (key, to_key_md, [a + b for a, b in zip(to_own, more, strict=True)]), None

    start = (key, 0 * key.z_nd, [0 * anchor.z_nd, 0 * scale])
    (_, to_key_md, (to_anchor_nd, to_scale)), _ = jax.lax.scan(visit, start, length=visits)
    return _Side(to_anchor_nd, None, None), _Side(to_key_md, None, None), to_scale


_visited.defvjp(_forward, _backward)


def _logits(anchor: _Side, key: _Side, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One anchor's s_m, and where in it its own key is."""
    s_m = scale * jnp.einsum("d,md->m", anchor.z_nd, key.z_nd, precision=jax.lax.Precision.HIGHEST)
    own_m = key.number_n == anchor.number_n
    return jnp.where((key.source_n == anchor.source_n) & ~own_m, -jnp.inf, s_m), own_m


def _by_blocks(row: Callable, width: int, *rows: Any) -> Any:
    """row(*r) for each r of rows, as many together as have _BLOCK logits, `width` each."""
    return jax.lax.map(lambda r: row(*r), rows, batch_size=max(1, _BLOCK // width))


def _pass_on(visitors: Any, devices: int) -> Any:
    """Each device's visitors go to the next one."""
    if devices == 1:
        return visitors
    return jax.lax.ppermute(visitors, AXES, [(i, (i + 1) % devices) for i in range(devices)])
