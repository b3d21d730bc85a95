"""Where tokens are to each other: rotary angles, windows, and what is added to the scores of far and near ones."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from univar_jax.encoders.models import EncoderConfig

_FARTHEST = 128  # MPNet: from this distance on there is one bucket


def angles(position_rt: jax.Array, theta: jax.Array | float, head_width: int) -> jax.Array:
    """The rotary angles of tokens, rtk with half a head's width; theta is one number, or one a token (rt)."""
    exponent_k = np.arange(0, head_width, 2, dtype=np.float32) / head_width
    if np.ndim(theta):
        return position_rt[:, :, None] / theta[:, :, None] ** exponent_k
    return position_rt[:, :, None] * (1 / np.float32(theta) ** exponent_k)


def stretched(segment_rt: jax.Array, segments: int, config: EncoderConfig) -> jax.Array:
    """Dynamic NTK's theta for each token, rt, by the length of its text: the plain one up to plain_positions.

    Equation: theta · (f · max(L, M) / M - (f - 1)) ^ (k / (k - 2)) for a text of L tokens, f = config.stretch,
    M = config.plain_positions and head width k, as transformers' rope_type `dynamic` for a text by itself.
    """
    length_rs = jnp.sum(segment_rt[:, :, None] == jnp.arange(segments + 1), axis=1)
    length_rt = jnp.take_along_axis(length_rs, segment_rt, axis=1)
    plain, factor, width = config.plain_positions, config.stretch, config.head_width
    grown_rt = factor * jnp.maximum(length_rt, plain) / plain - (factor - 1)
    return config.rope_theta * grown_rt ** (width / (width - 2))


def rotate(x_rthk: jax.Array, angle_rtk: jax.Array) -> jax.Array:
    """Rotary positions: turns the pairs (i, i + k/2) by their angles; computed in f32."""
    cos, sin = jnp.cos(angle_rtk)[:, :, None], jnp.sin(angle_rtk)[:, :, None]
    first, second = jnp.split(x_rthk.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_rthk.dtype)


def window(reach: jax.Array, tokens: int) -> jax.Array:
    """Which keys of a row a query sees, qt bool: up to `reach` tokens to each side.

    By place in the row, not by position: in a segment, whose tokens lie together, the two differ by a constant.
    """
    place_t = jnp.arange(tokens)
    return jnp.abs(place_t[:, None] - place_t) <= reach


def relative(table_bh: jax.Array, tokens: int) -> jax.Array:
    """MPNet's learned scores of distances for a row, hqt; by place in the row, as `window`.

    Args:
      table_bh: a score for each bucket and head.
      tokens: of a row.
    """
    # The places of a key seen from a query, -(t - 1) … t - 1, and one never used that makes them 2t.
    score_ho = table_bh.T[:, buckets(np.arange(2 * tokens) - tokens + 1, len(table_bh))]
    # Turned so that place 0 comes first; repeated and cut into lines of 2t - 1, each line begins one place earlier.
    # A lookup of all t · t pairs would be simpler, but its gradient adds them up one by one.
    line_ho = jnp.roll(score_ho, 1 - tokens, axis=1)
    line_ho = jnp.tile(line_ho, (1, tokens))[:, : tokens * (2 * tokens - 1)]
    return line_ho.reshape(-1, tokens, 2 * tokens - 1)[:, :, :tokens]


def buckets(place_o: np.ndarray, count: int) -> np.ndarray:
    """The bucket of each relative place, key less query: half for each side, near ones alone, far ones by their log."""
    side = count // 2
    exact = side // 2
    distance_o = np.abs(place_o)
    # f32 in this order, as in transformers' code: at 16, 32 and 64 the last digit decides.
    log_o = np.log(np.maximum(distance_o, 1).astype(np.float32) / np.float32(exact))
    far_o = exact + (log_o / np.float32(math.log(_FARTHEST / exact)) * np.float32(side - exact)).astype(np.int64)
    return np.where(distance_o < exact, distance_o, np.minimum(far_o, side - 1)) + side * (place_o > 0)
