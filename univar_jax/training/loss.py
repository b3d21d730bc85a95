"""InfoNCE over the global batch."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from univar_jax.training import ring

# Largest scale that is learnt, as CLIP's: beyond it one hard negative's gradient drowns the batch's.
MAX_SCALE = 100.0


def contrast(
    anchor_nd: jax.Array,
    key_nd: jax.Array,
    source_n: jax.Array,
    scale: jax.Array | float,
    *,
    spread: str,
    mesh: Mesh | None,
    symmetric: bool = False,
    same_source: str = "keep",
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of each anchor's own key among all keys of the batch.

    Equation: mean over n of logsumexp_m(s_nm) - s_nn with s_nm = scale · <anchor_n, key_m>, as clip_loss in
    the training code of arXiv 2404.07900; global arrays, so that no rank and no gather shows here.

    Args:
      anchor_nd: unit norm; float32, or bfloat16 that is computed in float32.
      key_nd: as anchor_nd.
      source_n: int; the source that both views of a pair come from.
      scale: 1 / temperature.
      spread: dense, all logits at once, laid out by XLA: the reference. gathered, each device has its own anchors
        and a copy of all keys, and makes a block of logits at a time. ring, the same without the copy: the keys
        walk past the anchors from device to device, so that a device's memory does not grow with their number.
      mesh: whose devices share the pairs; None will do for dense.
      symmetric: False, anchor → key only (the paper); True, the mean of both directions.
      same_source: keep, other pairs of the anchor's source are negatives (the paper); mask, they are left out.

    Returns:
      The loss, float32 [], and the share of anchors whose own key is nearest (ties count), float32 [].

    Raises:
      ValueError: the pairs do not divide over the devices, and spread is not dense.
    """
    # float32 first: a key's gradient is a sum over all anchors, and bfloat16 would lose its last digits.
    anchor_nd, key_nd = jnp.asarray(anchor_nd, jnp.float32), jnp.asarray(key_nd, jnp.float32)
    # To keep all is to mask by sources of which each pair has its own: the own pair is never masked.
    source_n = jnp.asarray(source_n) if same_source == "mask" else jnp.arange(len(source_n))
    if spread == "dense":
        return _dense(anchor_nd, key_nd, source_n, scale, symmetric)
    if len(source_n) % mesh.size:
        raise ValueError(f"{len(source_n)} pairs do not divide over {mesh.size} devices; spread=dense takes them")
    term_n, near_n = ring.terms(anchor_nd, key_nd, source_n, scale, spread=spread, mesh=mesh)
    if symmetric:
        other_n, _ = ring.terms(key_nd, anchor_nd, source_n, scale, spread=spread, mesh=mesh)
        term_n = (term_n + other_n) / 2
    return jnp.mean(term_n), jnp.mean(near_n)


def _dense(
    anchor_nd: jax.Array, key_nd: jax.Array, source_n: jax.Array, scale: jax.Array | float, symmetric: bool
) -> tuple[jax.Array, jax.Array]:
    # HIGHEST: at scale 50 an error of 1e-3 in the product would be one of 5 % in the loss.
    product_nm = jnp.einsum("nd,md->nm", anchor_nd, key_nd, precision=jax.lax.Precision.HIGHEST)
    other_nm = ~jnp.eye(len(source_n), dtype=bool)
    s_nm = jnp.where((source_n[:, None] == source_n[None, :]) & other_nm, -jnp.inf, scale * product_nm)
    own_n = jnp.diagonal(s_nm)
    loss = jnp.mean(jax.nn.logsumexp(s_nm, axis=1) - own_n)
    if symmetric:
        loss = (loss + jnp.mean(jax.nn.logsumexp(s_nm, axis=0) - own_n)) / 2
    return loss, jnp.mean(own_n >= s_nm.max(axis=1))


def floor(source_n: jax.Array, same_source: str) -> jax.Array:
    """The loss of vectors that know the source and nothing else, float32 [].

    Equation: mean over n of log(pairs of n's source in the batch, its own included) where they are negatives; 0 where
    they are masked. Views are drawn apart, given their source: so no encoder can stay below it but by the QAs that
    both views of a pair happen to share, and few sources in a large batch make a loss that looks bad.

    Args:
      source_n: int; the source of each pair.
      same_source: as `contrast`.
    """
    if same_source == "mask":
        return jnp.float32(0)
    sorted_n = jnp.sort(source_n)
    last_n, first_n = (jnp.searchsorted(sorted_n, source_n, side=side) for side in ("right", "left"))
    return jnp.mean(jnp.log((last_n - first_n).astype(jnp.float32)))


def matryoshka(
    loss: Callable[..., tuple[jax.Array, jax.Array]],
    dims: Sequence[int],
    anchor_nd: jax.Array,
    key_nd: jax.Array,
    source_n: jax.Array,
    scale: jax.Array | float,
) -> tuple[jax.Array, jax.Array]:
    """The sum of a loss over leading parts of the vectors, each brought to unit norm, and over the whole ones.

    Equation: sum over d of loss(norm(anchor[:, :d]), norm(key[:, :d])), all weights 1 (arXiv 2205.13147).

    Args:
      loss: (anchor_nd, key_nd, source_n, scale) → (loss, accuracy), as `contrast`.
      dims: sizes of the parts; the whole size may be among them and counts once.
      anchor_nd, key_nd, source_n, scale: as `contrast`.

    Returns:
      The sum of the losses, and the accuracy of the whole vectors.
    """
    sizes = jnp.array(sorted({*dims, anchor_nd.shape[1]}))

    # Noughts instead of a cut: one shape for all sizes, so that a loop holds one part's products at a time.
    @jax.checkpoint
    def term(size: jax.Array) -> tuple[jax.Array, jax.Array]:
        return loss(leading(anchor_nd, size), leading(key_nd, size), source_n, scale)

    losses, accuracies = jax.lax.map(term, sizes)
    return losses.sum(), accuracies[-1]


def leading(z_nd: jax.Array, size: jax.Array | int) -> jax.Array:
    """The first `size` numbers of each vector to unit norm, noughts after; a part of noughts stays so."""
    z_nd = jnp.where(jnp.arange(z_nd.shape[1]) < size, z_nd, 0)
    square_n1 = jnp.sum(z_nd**2, axis=1, keepdims=True)
    return z_nd * jax.lax.rsqrt(jnp.where(square_n1 == 0, 1, square_n1))
