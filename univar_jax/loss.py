"""InfoNCE over the global batch."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

# Largest scale that is learnt, as CLIP's: beyond it one hard negative's gradient drowns the batch's.
MAX_SCALE = 100.0


def infonce(
    anchor_nd: jax.Array,
    key_nd: jax.Array,
    source_n: jax.Array,
    scale: jax.Array | float,
    *,
    symmetric: bool = False,
    same_source: str = "keep",
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of each anchor's own key among all keys of the batch.

    Equation: mean over n of logsumexp_m(s_nm) - s_nn with s_nm = scale · <anchor_n, key_m>, as clip_loss in
    the training code of arXiv 2404.07900; global arrays, so that no rank and no gather shows here.

    Args:
      anchor_nd: float32, unit norm.
      key_nd: float32, unit norm.
      source_n: int; the source that both views of a pair come from.
      scale: 1 / temperature.
      symmetric: False, anchor → key only (the paper); True, the mean of both directions.
      same_source: keep, other pairs of the anchor's source are negatives (the paper); mask, they are left out.

    Returns:
      The loss, float32 [], and the share of anchors whose own key is nearest (ties count), float32 [].
    """
    # HIGHEST: at scale 50 an error of 1e-3 in the product would be one of 5 % in the loss.
    product_nm = jnp.einsum("nd,md->nm", anchor_nd, key_nd, precision=jax.lax.Precision.HIGHEST)
    s_nm = scale * product_nm
    if same_source == "mask":
        other_nm = ~jnp.eye(len(source_n), dtype=bool)
        s_nm = jnp.where((source_n[:, None] == source_n[None, :]) & other_nm, -jnp.inf, s_nm)
    own_n = jnp.diagonal(s_nm)
    loss = jnp.mean(jax.nn.logsumexp(s_nm, axis=1) - own_n)
    if symmetric:
        loss = (loss + jnp.mean(jax.nn.logsumexp(s_nm, axis=0) - own_n)) / 2
    return loss, jnp.mean(own_n >= s_nm.max(axis=1))


def matryoshka(
    contrast: Callable[..., tuple[jax.Array, jax.Array]],
    dims: Sequence[int],
    anchor_nd: jax.Array,
    key_nd: jax.Array,
    source_n: jax.Array,
    scale: jax.Array | float,
) -> tuple[jax.Array, jax.Array]:
    """The sum of a loss over leading parts of the vectors, each brought to unit norm, and over the whole ones.

    Equation: sum over d of contrast(norm(anchor[:, :d]), norm(key[:, :d])), all weights 1 (arXiv 2205.13147).

    Args:
      contrast: (anchor_nd, key_nd, source_n, scale) → (loss, accuracy).
      dims: sizes of the parts; the whole size may be among them and counts once.
      anchor_nd, key_nd, source_n, scale: as `infonce`.

    Returns:
      The sum of the losses, and the accuracy of the whole vectors.
    """
    sizes = jnp.array(sorted({*dims, anchor_nd.shape[1]}))

    # Noughts instead of a cut: one shape for all sizes, so that a loop holds one part's products at a time.
    @jax.checkpoint
    def term(size: jax.Array) -> tuple[jax.Array, jax.Array]:
        return contrast(leading(anchor_nd, size), leading(key_nd, size), source_n, scale)

    losses, accuracies = jax.lax.map(term, sizes)
    return losses.sum(), accuracies[-1]


def leading(z_nd: jax.Array, size: jax.Array | int) -> jax.Array:
    """The first `size` numbers of each vector to unit norm, noughts after; a part of noughts stays so."""
    z_nd = jnp.where(jnp.arange(z_nd.shape[1]) < size, z_nd, 0)
    square_n1 = jnp.sum(z_nd**2, axis=1, keepdims=True)
    return z_nd * jax.lax.rsqrt(jnp.where(square_n1 == 0, 1, square_n1))
