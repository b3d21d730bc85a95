"""What the encoder's stack is made of: projections around the attention, feed-forward, norms, a layer of each kind."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from univar_jax.encoders import places
from univar_jax.encoders.attention import attend, precision
from univar_jax.encoders.models import EncoderConfig

ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),  # exact erf, as BERT was trained
    "gelu_new": jax.nn.gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


class Block(nnx.Module):
    """Attention, norm, feed-forward, norm: each norm after its sum (post-LN)."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, kernel: str, mesh: Mesh | None, rngs: nnx.Rngs) -> None:
        self.attention = Attention(config, dtype, kernel, mesh, rngs)
        self.attention_norm = Norm(config, dtype)
        self.mlp = Mlp(config, dtype, rngs)
        self.mlp_norm = Norm(config, dtype)

    def __call__(self, hidden_rtd: jax.Array, segment_rt: jax.Array, *where: jax.Array | None) -> jax.Array:
        """One layer: hidden states in, hidden states out; `where` as Attention takes it."""
        hidden_rtd = self.attention_norm(hidden_rtd, self.attention(hidden_rtd, segment_rt, *where))
        return self.mlp_norm(hidden_rtd, self.mlp(hidden_rtd))


class PreNormBlock(nnx.Module):
    """Norm, attention, norm, feed-forward: each sum goes on in f32, unnormed; the first layer has no first norm."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, kernel: str, mesh: Mesh | None, rngs: nnx.Rngs) -> None:
        self.attention = Attention(config, dtype, kernel, mesh, rngs)
        self.mlp = Mlp(config, dtype, rngs)
        self.mlp_norm = Norm(config, dtype)

    def __call__(
        self, hidden_rtd: jax.Array, segment_rt: jax.Array, angle_rtk: jax.Array, within_qt: jax.Array, own: dict
    ) -> jax.Array:
        """One layer: hidden states in, hidden states out; `own` as Encoder says."""
        normed_rtd = _normalise(hidden_rtd, self.mlp_norm.eps) * own["scale"]
        normed_rtd = jnp.where(own["first"], hidden_rtd, normed_rtd).astype(self.mlp_norm.dtype)
        hidden_rtd += self.attention(normed_rtd, segment_rt, angle_rtk, within_qt=within_qt)
        return hidden_rtd + self.mlp(self.mlp_norm(hidden_rtd))


class Attention(nnx.Module):
    """Self-attention with the three projections as one product."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, kernel: str, mesh: Mesh | None, rngs: nnx.Rngs) -> None:
        inner = config.heads * config.head_width
        self.qkv = _linear(config.width, 3 * inner, config.biases, dtype, rngs)
        self.out = _linear(inner, config.width, config.biases, dtype, rngs)
        self.heads, self.kernel, self.mesh = config.heads, kernel, mesh

    def __call__(
        self,
        hidden_rtd: jax.Array,
        segment_rt: jax.Array,
        angle_rtk: jax.Array | None,
        added_hqt: jax.Array | None = None,
        within_qt: jax.Array | None = None,
    ) -> jax.Array:
        """What each token takes from its segment; angle_rtk turns queries and keys, the rest is as in `attend`."""
        rows, tokens, _ = hidden_rtd.shape
        q, k, v = (x.reshape(rows, tokens, self.heads, -1) for x in jnp.split(self.qkv(hidden_rtd), 3, axis=-1))
        if angle_rtk is not None:
            q, k = places.rotate(q, angle_rtk), places.rotate(k, angle_rtk)
        where = {"added_hqt": added_hqt, "within_qt": within_qt, "mesh": self.mesh}
        return self.out(attend(q, k, v, segment_rt, self.kernel, **where).reshape(rows, tokens, -1))


class Mlp(nnx.Module):
    """Feed-forward, plain or gated; gated, the first half of what goes up opens the second."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.up = _linear(config.width, config.ff * (2 if config.gated else 1), config.biases, dtype, rngs)
        self.down = _linear(config.ff, config.width, config.biases, dtype, rngs)
        self.activation, self.gated = config.activation, config.gated

    def __call__(self, hidden_rtd: jax.Array) -> jax.Array:
        """The same at every token."""
        activation = ACTIVATIONS[self.activation]
        if not self.gated:
            return self.down(activation(self.up(hidden_rtd)))
        gate_rtf, up_rtf = jnp.split(self.up(hidden_rtd), 2, axis=-1)
        return self.down(activation(gate_rtf) * up_rtf)


class Norm(nnx.Module):
    """LayerNorm of a sum: statistics, scale and bias in f32 whatever flows; nnx.LayerNorm would round the latter."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype) -> None:
        self.scale = nnx.Param(jnp.ones(config.width))
        if config.norm_biases:
            self.bias = nnx.Param(jnp.zeros(config.width))
        self.eps, self.dtype, self.biased = config.eps, dtype, config.norm_biases

    def __call__(self, *terms_rtd: jax.Array) -> jax.Array:
        """The sum of the terms, normalised over d."""
        x_rtd = _normalise(sum(x.astype(jnp.float32) for x in terms_rtd), self.eps) * self.scale
        return (x_rtd + self.bias if self.biased else x_rtd).astype(self.dtype)


def _normalise(x_rtd: jax.Array, eps: float) -> jax.Array:
    x_rtd -= x_rtd.mean(axis=-1, keepdims=True)
    return x_rtd * jax.lax.rsqrt(jnp.mean(x_rtd**2, axis=-1, keepdims=True) + eps)


def _linear(d_in: int, d_out: int, bias: bool, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(d_in, d_out, use_bias=bias, dtype=dtype, precision=precision(dtype), rngs=rngs)
