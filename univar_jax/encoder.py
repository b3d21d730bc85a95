"""Packed rows in, one unit vector per segment out (Flax NNX, behind functions on plain nested dicts)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from univar_jax.models import EncoderConfig

ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),  # exact erf, as BERT was trained
    "gelu_new": jax.nn.gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


def build(
    config: EncoderConfig, *, matmul_dtype: str = "float32", kernel: str = "xla", remat: str = "none"
) -> nnx.GraphDef:
    """The encoder without its arrays: hashable, so that a jitted function may close over it.

    Args:
      config: the architecture.
      matmul_dtype: float32 or bfloat16, the type of the matrix products and of what flows between layers.
      kernel: which attention runs.
      remat: none, or full: the backward pass computes each layer again from its input.

    Returns:
      What `apply` takes together with parameters.
    """
    return nnx.graphdef(_abstract(config, matmul_dtype, kernel, remat))


def abstract_params(config: EncoderConfig) -> dict:
    """Nested dict of ShapeDtypeStruct, the tree that `weights.load` fills; all float32.

    Matrices and tables are leaves named kernel or embedding, vectors scale or bias; blocks lead with axis l.
    """
    return nnx.to_pure_dict(nnx.state(_abstract(config, "float32", "xla", "none")))


def apply(
    graph: nnx.GraphDef,
    params: dict,
    ids_rt: jax.Array,
    segment_rt: jax.Array,
    position_rt: jax.Array,
    segments: int,
) -> jax.Array:
    """Encodes packed rows.

    Args:
      graph: from `build`.
      params: nested dict of float32 arrays, shaped as `abstract_params`.
      ids_rt: token ids; any id at padding.
      segment_rt: 1..segments, 0 = padding.
      position_rt: starts at 0 in each segment, below config.positions (the caller checks: jit cannot).
      segments: most segments of a row.

    Returns:
      z_rsd float32: unit norm where a segment has tokens, zeros where it has none.
    """
    encoder = nnx.merge(graph, params)
    return encoder(ids_rt, segment_rt, position_rt, segments)


def attend(q_rthk: jax.Array, k_rthk: jax.Array, v_rthk: jax.Array, segment_rt: jax.Array, kernel: str) -> jax.Array:
    """Attention within segments; padding attends to padding, so that no softmax is over nothing.

    Args:
      q_rthk: queries, not yet scaled.
      k_rthk: keys.
      v_rthk: values.
      segment_rt: which segment a token is of.
      kernel: xla, the products below; sums and softmax in f32.

    Returns:
      The mixed values, rthk, in the type of v.
    """
    if kernel != "xla":
        raise ValueError(f"{kernel=} is not an attention kernel; known: xla")
    precision = _precision(v_rthk.dtype)
    # Heads before tokens: plain batched products, 1.2 to 2.5 times as fast on a CPU as einsum's own order.
    q_rhqk, k_rhtk, v_rhtk = (x.swapaxes(1, 2) for x in (q_rthk, k_rthk, v_rthk))
    scores_rhqt = jnp.einsum(
        "rhqk,rhtk->rhqt", q_rhqk, k_rhtk, precision=precision, preferred_element_type=jnp.float32
    ) / math.sqrt(q_rthk.shape[-1])
    same_r1qt = (segment_rt[:, :, None] == segment_rt[:, None, :])[:, None]
    scores_rhqt = jnp.where(same_r1qt, scores_rhqt, -jnp.inf)
    # Softmax with its division after the product, where there are k numbers a token instead of t.
    weights_rhqt = jnp.exp(scores_rhqt - jax.lax.stop_gradient(scores_rhqt.max(axis=-1, keepdims=True)))
    mixed_rhqk = jnp.einsum(
        "rhqt,rhtk->rhqk",
        weights_rhqt.astype(v_rthk.dtype),
        v_rhtk,
        precision=precision,
        preferred_element_type=jnp.float32,
    )
    mixed_rhqk /= weights_rhqt.sum(axis=-1)[..., None]
    return mixed_rhqk.astype(v_rthk.dtype).swapaxes(1, 2)


def pool(hidden_rtd: jax.Array, segment_rt: jax.Array, segments: int) -> jax.Array:
    """Mean over each segment's tokens, to unit norm: z_rsd float32, zeros for an empty segment."""
    member_rts = (segment_rt[:, :, None] == jnp.arange(1, segments + 1)).astype(jnp.float32)
    # One-hot product, not segment_sum: it shards over rows. f32: bf16 sums over 8192 tokens lose digits.
    sum_rsd = jnp.einsum(
        "rts,rtd->rsd", member_rts, hidden_rtd.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST
    )
    mean_rsd = sum_rsd / jnp.maximum(member_rts.sum(axis=1), 1)[:, :, None]
    square_rs1 = jnp.sum(mean_rsd**2, axis=-1, keepdims=True)
    # The inner where keeps rsqrt away from 0: its gradient there is inf, and inf · 0 would be NaN. Only an exact
    # 0 is empty: "not above 0" would turn the NaN of a run that diverged into a calm vector of zeros.
    empty_rs1 = square_rs1 == 0
    return jnp.where(empty_rs1, 0, mean_rsd * jax.lax.rsqrt(jnp.where(empty_rs1, 1, square_rs1)))


def rotate(x_rthk: jax.Array, angle_rtk: jax.Array) -> jax.Array:
    """Rotary positions: turns the pairs (i, i + k/2) by their angles; computed in f32."""
    cos, sin = jnp.cos(angle_rtk)[:, :, None], jnp.sin(angle_rtk)[:, :, None]
    first, second = jnp.split(x_rthk.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_rthk.dtype)


def _abstract(config: EncoderConfig, matmul_dtype: str, kernel: str, remat: str) -> "Encoder":
    # eval_shape: weights always come from a file, so no random ones are ever made.
    return nnx.eval_shape(lambda: Encoder(config, jnp.dtype(matmul_dtype), kernel, remat, nnx.Rngs(0)))


def _precision(dtype: jnp.dtype) -> jax.lax.Precision:
    # GPUs and TPUs multiply float32 in shorter types unless told: TF32 alone is 1e-3 off.
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else jax.lax.Precision.DEFAULT


def _linear(d_in: int, d_out: int, bias: bool, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(d_in, d_out, use_bias=bias, dtype=dtype, precision=_precision(dtype), rngs=rngs)


class Encoder(nnx.Module):
    """Embeddings, layers as one scanned stack, pooling."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, kernel: str, remat: str, rngs: nnx.Rngs) -> None:
        self.config, self.remat = config, remat
        self.embed = Embed(config, dtype, rngs)
        make = nnx.vmap(lambda rngs: Block(config, dtype, kernel, rngs), in_axes=0, out_axes=0)
        self.blocks = make(rngs.split(config.layers))

    def __call__(self, ids_rt: jax.Array, segment_rt: jax.Array, position_rt: jax.Array, segments: int) -> jax.Array:
        """z_rsd of packed rows; see `apply`."""
        angle_rtk = None
        if self.config.position == "rotary":
            exponent_k = np.arange(0, self.config.head_width, 2, dtype=np.float32) / self.config.head_width
            angle_rtk = position_rt[:, :, None] / np.float32(self.config.rope_theta) ** exponent_k

        def layer(hidden_rtd: jax.Array, block: Block) -> jax.Array:
            return block(hidden_rtd, segment_rt, angle_rtk)

        if self.remat == "full":
            layer = nnx.remat(layer, prevent_cse=False)  # the scan already keeps XLA from merging the two
        stack = nnx.scan(layer, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return pool(stack(self.embed(ids_rt, position_rt), self.blocks), segment_rt, segments)


class Embed(nnx.Module):
    """Words, learned positions where the architecture has them, type 0, norm."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        # Tables stay f32: cast first, the gradient of a frequent token would be summed in bf16.
        self.words = nnx.Embed(config.vocab, config.width, rngs=rngs)
        if config.position == "learned":
            self.positions = nnx.Embed(config.positions, config.width, rngs=rngs)
        self.types = nnx.Embed(config.types, config.width, rngs=rngs)
        self.norm = Norm(config.width, config.eps, dtype)
        self.learned = config.position == "learned"

    def __call__(self, ids_rt: jax.Array, position_rt: jax.Array) -> jax.Array:
        """The stack's input."""
        hidden_rtd = self.words(ids_rt) + self.types.embedding[0]
        if self.learned:
            hidden_rtd += self.positions(position_rt)
        return self.norm(hidden_rtd)


class Block(nnx.Module):
    """Attention, norm, feed-forward, norm: each norm after its sum (post-LN)."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, kernel: str, rngs: nnx.Rngs) -> None:
        self.attention = Attention(config, dtype, kernel, rngs)
        self.attention_norm = Norm(config.width, config.eps, dtype)
        self.mlp = Mlp(config, dtype, rngs)
        self.mlp_norm = Norm(config.width, config.eps, dtype)

    def __call__(self, hidden_rtd: jax.Array, segment_rt: jax.Array, angle_rtk: jax.Array | None) -> jax.Array:
        """One layer: hidden states in, hidden states out."""
        hidden_rtd = self.attention_norm(hidden_rtd, self.attention(hidden_rtd, segment_rt, angle_rtk))
        return self.mlp_norm(hidden_rtd, self.mlp(hidden_rtd))


class Attention(nnx.Module):
    """Self-attention with the three projections as one product."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, kernel: str, rngs: nnx.Rngs) -> None:
        inner = config.heads * config.head_width
        self.qkv = _linear(config.width, 3 * inner, config.biases, dtype, rngs)
        self.out = _linear(inner, config.width, config.biases, dtype, rngs)
        self.heads, self.kernel = config.heads, kernel

    def __call__(self, hidden_rtd: jax.Array, segment_rt: jax.Array, angle_rtk: jax.Array | None) -> jax.Array:
        """What each token takes from its segment; angle_rtk turns queries and keys where given."""
        rows, tokens, _ = hidden_rtd.shape
        q, k, v = (x.reshape(rows, tokens, self.heads, -1) for x in jnp.split(self.qkv(hidden_rtd), 3, axis=-1))
        if angle_rtk is not None:
            q, k = rotate(q, angle_rtk), rotate(k, angle_rtk)
        return self.out(attend(q, k, v, segment_rt, self.kernel).reshape(rows, tokens, -1))


class Mlp(nnx.Module):
    """Feed-forward, plain or gated."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        if config.gated:
            self.gate = _linear(config.width, config.ff, config.biases, dtype, rngs)
        self.up = _linear(config.width, config.ff, config.biases, dtype, rngs)
        self.down = _linear(config.ff, config.width, config.biases, dtype, rngs)
        self.activation, self.gated = config.activation, config.gated

    def __call__(self, hidden_rtd: jax.Array) -> jax.Array:
        """The same at every token."""
        activation = ACTIVATIONS[self.activation]
        up_rtf = self.up(hidden_rtd)
        up_rtf = activation(self.gate(hidden_rtd)) * up_rtf if self.gated else activation(up_rtf)
        return self.down(up_rtf)


class Norm(nnx.Module):
    """LayerNorm of a sum: statistics, scale and bias in f32 whatever flows; nnx.LayerNorm would round the latter."""

    def __init__(self, width: int, eps: float, dtype: jnp.dtype) -> None:
        self.scale, self.bias = nnx.Param(jnp.ones(width)), nnx.Param(jnp.zeros(width))
        self.eps, self.dtype = eps, dtype

    def __call__(self, *terms_rtd: jax.Array) -> jax.Array:
        """The sum of the terms, normalised over d."""
        x_rtd = sum(x.astype(jnp.float32) for x in terms_rtd)
        x_rtd -= x_rtd.mean(axis=-1, keepdims=True)
        x_rtd *= jax.lax.rsqrt(jnp.mean(x_rtd**2, axis=-1, keepdims=True) + self.eps)
        return (x_rtd * self.scale + self.bias).astype(self.dtype)
