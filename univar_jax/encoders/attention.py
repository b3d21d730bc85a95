"""Attention within segments behind one function: plain products, or the machine's own kernel; and who may take which.

Equation, for each row and head: softmax over the keys t of a query q's own segment of (q · k_t / sqrt(k) + added),
times v_t. Padding is a segment like any other, so that no softmax is over nothing.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.extend
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask
from jax.sharding import Mesh, PartitionSpec

from univar_jax.cli import UserError
from univar_jax.encoders import mesh as meshes
from univar_jax.encoders.models import EncoderConfig

KERNELS = ("xla", "splash", "cudnn")
KEPT = "attention"  # the name that a remat policy knows splash's results by
_LANES = 128  # splash: tokens and blocks are multiples of it
_BLOCK = 512  # its largest block; compiled for v5e, not tuned: that takes a TPU


def attend(
    q_rthk: jax.Array,
    k_rthk: jax.Array,
    v_rthk: jax.Array,
    segment_rt: jax.Array,
    kernel: str = "xla",
    *,
    added_hqt: jax.Array | None = None,
    within_qt: jax.Array | None = None,
    mesh: Mesh | None = None,
) -> jax.Array:
    """Attention within segments.

    Args:
      q_rthk: queries, not yet scaled; float32 or bfloat16, as keys and values.
      k_rthk: keys.
      v_rthk: values.
      segment_rt: int32, which segment a token is of.
      kernel: one of KERNELS that `check` lets pass. xla: the products below, sums and softmax in f32. splash: Pallas'
        kernel for TPUs, which never holds the scores of a row; interpreted, slowly, where there is no TPU; compiled
        for TPUs, but never run on one so far. cudnn: cuDNN's, for bfloat16; lowered for CUDA, but never run so far.
      added_hqt: float32, added to the scores of each row; xla only.
      within_qt: bool, which keys a query may see at all, always itself; None = all. For its gradient splash keeps
        two copies in blocks, tokens² bytes each and in every layer, unless the layer is computed again (remat).
      mesh: over which the rows are spread; None = they are on one device. xla does without.

    Returns:
      The mixed values, rthk, in the type of v.

    Raises:
      ValueError: an unknown kernel, or one that cannot add scores.
    """
    if kernel == "xla":
        return _xla(q_rthk, k_rthk, v_rthk, segment_rt, added_hqt, within_qt)
    if kernel not in KERNELS:
        raise ValueError(f"{kernel=} is not an attention kernel; known: {', '.join(KERNELS)}")
    if added_hqt is not None:
        raise ValueError(f"{kernel=} cannot add scores; use xla")
    run = cudnn
    if kernel == "splash":
        run = functools.partial(_splash, interpret=platform(mesh) != "tpu")
    if mesh:
        # XLA cannot cut a kernel's call into the devices' shares: each device calls it on its own rows.
        rows = meshes.rows(mesh).spec
        specs = (rows, rows, rows, rows, PartitionSpec())
        run = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=rows, check_vma=False)
    return run(q_rthk, k_rthk, v_rthk, segment_rt, within_qt)


def check(kernel: str, config: EncoderConfig, matmul_dtype: str, tokens: int) -> None:
    """Says before anything starts that a kernel cannot do what is asked of it here.

    Args:
      kernel: one of KERNELS.
      config: the encoder's.
      matmul_dtype: float32 or bfloat16.
      tokens: of a row.

    Raises:
      UserError: what is wrong and what to use instead, in one line.
    """
    if kernel == "cudnn" and not _on_cuda():
        raise UserError("config.kernel=cudnn: no CUDA device here; use --config.kernel=xla")
    if kernel == "cudnn" and matmul_dtype != "bfloat16":
        raise UserError("config.kernel=cudnn: cuDNN's attention takes bfloat16 only: --config.matmul_dtype=bfloat16")
    if kernel == "cudnn" and (config.head_width % 8 or config.head_width > 128):
        raise UserError(
            f"config.kernel=cudnn: cuDNN's attention takes heads of 8, 16, … 128 numbers, this encoder's have "
            f"{config.head_width}; use --config.kernel=xla"
        )
    if kernel != "xla" and config.buckets:
        raise UserError(
            f"config.kernel={kernel} cannot add and train the scores of distances that {config.architecture} has; "
            "use --config.kernel=xla"
        )
    unit = {"xla": 1, "splash": _LANES, "cudnn": 2}[kernel]
    if tokens % unit:
        raise UserError(
            f"config.kernel={kernel} takes rows of a multiple of {unit} tokens, these have {tokens}; "
            f"use --config.row_tokens={tokens + -tokens % unit}"
        )


def platform(mesh: Mesh | None) -> str:
    """Of a mesh's devices, which may only be described; of the default ones where there is no mesh."""
    return mesh.devices.flat[0].platform if mesh else jax.default_backend()


def _on_cuda() -> bool:
    # By version, not by platform: ROCm calls its platform gpu, too.
    return "cuda" in jax.extend.backend.get_backend().platform_version.lower()


def precision(dtype: jnp.dtype) -> jax.lax.Precision:
    """Of matrix products: float32 in full, which GPUs and TPUs do only when told (TF32 alone is 1e-3 off)."""
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else jax.lax.Precision.DEFAULT


def cudnn(
    q_rthk: jax.Array,
    k_rthk: jax.Array,
    v_rthk: jax.Array,
    segment_rt: jax.Array,
    within_qt: jax.Array | None = None,
    implementation: str = "cudnn",
) -> jax.Array:
    """jax.nn.dot_product_attention with segments as a mask; implementation=xla computes the same on any device.

    The mask travels as a bias of rows · tokens² numbers: a quarter of a GB a row at 8,192 tokens with its gradient.
    Never run with implementation=cudnn so far: only lowered for CUDA, forward and gradient.
    """
    mask_r1qt = _seen(segment_rt, within_qt)
    return jax.nn.dot_product_attention(q_rthk, k_rthk, v_rthk, mask=mask_r1qt, implementation=implementation)


def _seen(segment_rt: jax.Array, within_qt: jax.Array | None) -> jax.Array:
    same_r1qt = (segment_rt[:, :, None] == segment_rt[:, None, :])[:, None]
    return same_r1qt if within_qt is None else same_r1qt & within_qt


def _xla(
    q_rthk: jax.Array,
    k_rthk: jax.Array,
    v_rthk: jax.Array,
    segment_rt: jax.Array,
    added_hqt: jax.Array | None,
    within_qt: jax.Array | None,
) -> jax.Array:
    how = {"precision": precision(v_rthk.dtype), "preferred_element_type": jnp.float32}
    # Heads before tokens: plain batched products, 1.2 to 2.5 times as fast on a CPU as einsum's own order.
    q_rhqk, k_rhtk, v_rhtk = (x.swapaxes(1, 2) for x in (q_rthk, k_rthk, v_rthk))
    scores_rhqt = jnp.einsum("rhqk,rhtk->rhqt", q_rhqk, k_rhtk, **how) / math.sqrt(q_rthk.shape[-1])
    if added_hqt is not None:
        scores_rhqt += added_hqt
    scores_rhqt = jnp.where(_seen(segment_rt, within_qt), scores_rhqt, -jnp.inf)
    # Softmax with its division after the product, where there are k numbers a token instead of t.
    weights_rhqt = jnp.exp(scores_rhqt - jax.lax.stop_gradient(scores_rhqt.max(axis=-1, keepdims=True)))
    mixed_rhqk = jnp.einsum("rhqt,rhtk->rhqk", weights_rhqt.astype(v_rthk.dtype), v_rhtk, **how)
    mixed_rhqk /= weights_rhqt.sum(axis=-1)[..., None]
    return mixed_rhqk.astype(v_rthk.dtype).swapaxes(1, 2)


def _splash(
    q_rthk: jax.Array,
    k_rthk: jax.Array,
    v_rthk: jax.Array,
    segment_rt: jax.Array,
    within_qt: jax.Array | None,
    interpret: bool,
) -> jax.Array:
    # The kernel does not scale. In bfloat16 one more rounding where sqrt(k) is no power of two.
    q_rthk = q_rthk / math.sqrt(q_rthk.shape[-1])
    q_rhtk, k_rhtk, v_rhtk = (x.swapaxes(1, 2) for x in (q_rthk, k_rthk, v_rthk))

    def run(
        q_rhtk: jax.Array, k_rhtk: jax.Array, v_rhtk: jax.Array, segment_rt: jax.Array, within_qt: jax.Array | None
    ) -> jax.Array:
        # Made in here, not outside: it holds arrays, and a function with its own gradient may close over none.
        kernel = _splash_kernel(*q_rhtk.shape[1:3], within_qt, interpret)
        segments = splash_attention_kernel.SegmentIds(segment_rt, segment_rt)
        return jax.vmap(kernel)(q_rhtk, k_rhtk, v_rhtk, segments)

    if v_rthk.dtype == jnp.float32:
        run = _in_full(run)
    return run(q_rhtk, k_rhtk, v_rhtk, segment_rt, within_qt).swapaxes(1, 2)


def _splash_kernel(heads: int, tokens: int, within_qt: jax.Array | None, interpret: bool) -> Callable:
    """Of one row: (q_htk, k_htk, v_htk, SegmentIds) → htk."""
    names = [f.name for f in dataclasses.fields(splash_attention_kernel.BlockSizes) if f.name.startswith("block_")]
    sizes = splash_attention_kernel.BlockSizes(**dict.fromkeys(names, math.gcd(tokens, _BLOCK)))
    full = splash_attention_mask.FullMask((tokens, tokens))
    mask = splash_attention_mask.MultiHeadMask([full] * heads) if within_qt is None else within_qt[None]
    kernel = splash_attention_kernel.make_splash_mha(
        mask,
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=KEPT,
        interpret=interpret,
    )
    # A flag that only names a scope; jax 0.10.2 traces it and then asks for its value.
    kernel.fwd_mask_info = kernel.fwd_mask_info._replace(is_dynamic_mask=None)
    return kernel


def _in_full(run: Callable) -> Callable:
    """`run` with its products of float32 in full; also in its gradient, which jax traces when the call has ended."""
    highest = functools.partial(jax.default_matmul_precision, "highest")

    @jax.custom_vjp
    def full(*args: jax.Array) -> jax.Array:
        with highest():
            return run(*args)

    def forward(*args: jax.Array) -> tuple[jax.Array, Callable]:
        with highest():
            return jax.vjp(run, *args)

    def backward(pull: Callable, out: jax.Array) -> tuple[jax.Array, ...]:
        with highest():
            return pull(out)

    full.defvjp(forward, backward)
    return full
