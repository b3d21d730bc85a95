"""Packed rows in, one unit vector per segment out (Flax NNX, behind functions on plain nested dicts)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from univar_jax.encoders import attention, places
from univar_jax.encoders.layers import Block, Norm, PreNormBlock
from univar_jax.encoders.models import EncoderConfig

# What the backward pass finds kept of each layer, as jax's policies. dots: what linear maps and splash gave, so
# that only plain attention and what is done number by number are computed again.
_POLICIES = {
    "full": None,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(attention.KEPT),
    ),
}


def build(
    config: EncoderConfig,
    *,
    matmul_dtype: str = "float32",
    kernel: str = "xla",
    remat: str = "none",
    mesh: Mesh | None = None,
) -> nnx.GraphDef:
    """The encoder without its arrays: hashable, so that a jitted function may close over it.

    Args:
      config: the architecture.
      matmul_dtype: float32 or bfloat16, the type of the matrix products and of what flows between layers.
      kernel: which attention runs, as `attention.attend` says.
      remat: what the backward pass computes again instead of keeping: none; dots, all but the linear maps; or full,
        each layer from its input.
      mesh: over which the rows are spread, as `attention.attend` says.

    Returns:
      What `apply` takes together with parameters.
    """
    return nnx.graphdef(_abstract(config, matmul_dtype, kernel, remat, mesh))


def abstract_params(config: EncoderConfig) -> dict:
    """Nested dict of ShapeDtypeStruct, the tree that `weights.load` fills; all float32.

    Matrices and tables are leaves named kernel or embedding, vectors scale or bias; blocks lead with axis l.
    """
    return nnx.to_pure_dict(nnx.state(_abstract(config, "float32", "xla", "none", None)))


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
      position_rt: 0, 1, … along each segment, whose tokens lie together; below config.positions (the caller checks:
        jit cannot).
      segments: most segments of a row.

    Returns:
      z_rsd float32: unit norm where a segment has tokens, zeros where it has none.
    """
    encoder = nnx.merge(graph, params)
    return encoder(ids_rt, segment_rt, position_rt, segments)


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


def _abstract(config: EncoderConfig, matmul_dtype: str, kernel: str, remat: str, mesh: Mesh | None) -> "Encoder":
    # eval_shape: weights always come from a file, so no random ones are ever made.
    return nnx.eval_shape(lambda: Encoder(config, jnp.dtype(matmul_dtype), kernel, remat, mesh, nnx.Rngs(0)))


class Encoder(nnx.Module):
    """Embeddings, layers as one scanned stack, pooling."""

    def __init__(
        self,
        config: EncoderConfig,
        dtype: jnp.dtype,
        kernel: str,
        remat: str,
        mesh: Mesh | None,
        rngs: nnx.Rngs,
    ) -> None:
        self.config, self.remat, self.mesh = config, remat, mesh
        self.embed = Embed(config, dtype, rngs)
        if config.buckets:
            self.relative = nnx.Embed(config.buckets, config.heads, rngs=rngs)
        block = PreNormBlock if config.prenorm else Block
        make = nnx.vmap(lambda rngs: block(config, dtype, kernel, mesh, rngs), in_axes=0, out_axes=0)
        self.blocks = make(rngs.split(config.layers))
        if config.prenorm:
            norms = nnx.vmap(lambda _: Norm(config, dtype), in_axes=0, out_axes=0)
            self.later_attention_norm = norms(rngs.split(config.layers - 1))
            self.final_norm = Norm(config, jnp.dtype("float32"))

    def __call__(self, ids_rt: jax.Array, segment_rt: jax.Array, position_rt: jax.Array, segments: int) -> jax.Array:
        """z_rsd of packed rows; see `apply`."""
        config = self.config
        angle_rtk = added_hqt = None
        if config.position == "rotary":
            theta = places.stretched(segment_rt, segments, config) if config.stretch else config.rope_theta
            angle_rtk = places.angles(position_rt, theta, config.head_width)
        if config.windows:
            local_rtk = places.angles(position_rt, config.local_theta, config.head_width)
        if config.buckets:
            added_hqt = places.relative(self.relative.embedding[...], ids_rt.shape[1])

        def layer(hidden_rtd: jax.Array, block: Block | PreNormBlock, own: dict) -> jax.Array:
            if not config.prenorm:
                return block(hidden_rtd, segment_rt, angle_rtk, added_hqt)
            turn_rtk = jnp.where(own["local"], local_rtk, angle_rtk)
            within_qt = places.window(own["reach"], ids_rt.shape[1])
            return block(hidden_rtd, segment_rt, turn_rtk, within_qt, own)

        if self.remat != "none":
            # prevent_cse: the scan already keeps XLA from merging the two
            layer = nnx.remat(layer, prevent_cse=False, policy=_POLICIES[self.remat])
        # On a CPU one loop less is worth its longer compile: each turn copies what the backward pass needs to a stack.
        flat = self.remat == "none" and attention.platform(self.mesh) == "cpu"
        stack = nnx.scan(layer, in_axes=(nnx.Carry, 0, 0), out_axes=nnx.Carry, unroll=config.layers if flat else 1)
        hidden_rtd = stack(self.embed(ids_rt, position_rt), self.blocks, self._own())
        if config.pooling == "cls":  # the mean over each text's first token alone
            segment_rt = jnp.where(position_rt == 0, segment_rt, 0)
        return pool(self.final_norm(hidden_rtd) if config.prenorm else hidden_rtd, segment_rt, segments)

    def _own(self) -> dict[str, jax.Array]:
        """What the scan gives each layer of a pre-norm stack beside its weights: layers differ, programs must not."""
        if not self.config.prenorm:
            return {}
        scale_ld = self.later_attention_norm.scale[...]
        reaches = [np.iinfo(np.int32).max if reach is None else reach for reach in self.config.windows]
        return {
            "first": jnp.arange(self.config.layers) == 0,
            "scale": jnp.concatenate([jnp.ones_like(scale_ld[:1]), scale_ld]),
            "local": jnp.array([reach is not None for reach in self.config.windows]),
            "reach": jnp.array(reaches, jnp.int32),
        }


class Embed(nnx.Module):
    """Words, learned positions and type 0 where the architecture has them, norm."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        # Tables stay f32: cast first, the gradient of a frequent token would be summed in bf16.
        self.words = nnx.Embed(config.vocab, config.width, rngs=rngs)
        if config.position == "learned":
            self.positions = nnx.Embed(config.position_start + config.positions, config.width, rngs=rngs)
        if config.types:
            self.types = nnx.Embed(config.types, config.width, rngs=rngs)
        # f32 as the start of a pre-norm stack: in bf16 its sum over all layers would swallow their last terms.
        self.norm = Norm(config, jnp.dtype("float32") if config.prenorm else dtype)
        self.config = config

    def __call__(self, ids_rt: jax.Array, position_rt: jax.Array) -> jax.Array:
        """The stack's input."""
        hidden_rtd = self.words(ids_rt)
        if self.config.types:
            hidden_rtd += self.types.embedding[0]
        if self.config.position == "learned":
            hidden_rtd += self.positions(position_rt + self.config.position_start)
        return self.norm(hidden_rtd)
