"""One update: encode, loss, clip, AdamW; a pure function of (state, batch), and the state it changes."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from univar_jax.encoders import encoder
from univar_jax.encoders import mesh as meshes
from univar_jax.encoders.packing import Shape
from univar_jax.training.batches import Batch, Rows
from univar_jax.training.loss import MAX_SCALE, contrast, floor, matryoshka

# {"params": {"encoder": …, "log_scale"?: []}, "opt": optax's}; log_scale only where the scale is learnt.
State = dict[str, Any]


def schedule(config: ConfigDict) -> optax.Schedule:
    """Linear rise over warmup_steps, then lr · sqrt(warmup_steps / step): transformers' inverse_sqrt.

    The first update has a rate of 0, as there.
    """
    warmup = max(1, config.warmup_steps)

    def lr(step: jax.Array) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        return config.lr * jnp.minimum(step / warmup, jnp.sqrt(warmup / jnp.maximum(step, 1)))

    return lr


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """AdamW before its rate: clipping by the global norm, Adam, decay of all but vectors, biases and the scale."""

    def decayed(params: dict) -> dict:
        # By name, not by rank: the biases of stacked layers are a matrix.
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in ("kernel", "embedding"), params)

    # optax.adamw would count the steps a second time for its schedule; one count is one place to resume.
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8),
        optax.add_decayed_weights(config.weight_decay, decayed),
    )


def init(config: ConfigDict, params: dict) -> State:
    """The state before the first step.

    Args:
      config: complete.
      params: the encoder's, as weights.load gives them.
    """
    params = {"encoder": params}
    if config.learn_scale:
        params["log_scale"] = jnp.float32(math.log(config.scale))
    return {"params": params, "opt": optimizer(config).init(params)}


def objective(
    graph: nnx.GraphDef, config: ConfigDict, shape: Shape, mesh: Mesh
) -> Callable[[dict, Batch], tuple[jax.Array, dict]]:
    """The function (params, batch) → (loss, metrics) that a step descends.

    Args:
      graph: the encoder's, from encoder.build.
      config: complete.
      shape: of the batch.
      mesh: whose devices share rows and pairs; their number divides config.pairs where config.spread is not dense.
    """
    term = functools.partial(
        contrast, spread=config.spread, mesh=mesh, symmetric=config.symmetric, same_source=config.same_source
    )
    if config.matryoshka_dims:
        term = functools.partial(matryoshka, term, config.matryoshka_dims)

    def value(params: dict, batch: Batch) -> tuple[jax.Array, dict]:
        parts = []
        for rows, group in zip(batch.groups, shape, strict=True):
            chunk = config.rows_per_chunk * shape[0].tokens // group.tokens
            parts.append(_vectors(graph, params["encoder"], rows, group.segments, chunk, mesh.size))
        z_vd = jnp.concatenate(parts)
        anchor_nd, key_nd = z_vd[batch.anchor_n], z_vd[batch.key_n]
        if config.spread != "dense":
            # A pair's views lie in rows of any device: from here on each device has its share of the pairs.
            anchor_nd, key_nd = jax.lax.with_sharding_constraint((anchor_nd, key_nd), meshes.rows(mesh))
        scale = jnp.exp(params["log_scale"]) if config.learn_scale else jnp.float32(config.scale)
        loss, accuracy = term(anchor_nd, key_nd, batch.source_n, scale)
        losses = len({*config.matryoshka_dims, anchor_nd.shape[1]})  # that are summed
        least = losses * floor(batch.source_n, config.same_source)
        return loss, {"accuracy": accuracy, "scale": scale, "loss_floor": least}

    return value


def _vectors(graph: nnx.GraphDef, params: dict, rows: Rows, segments: int, chunk: int, devices: int) -> jax.Array:
    """The vectors of all segments of all rows, one after the other, `chunk` rows encoded at a time (0 = all at once).

    The backward pass computes each chunk again, so that only one chunk's activations live at a time.
    """
    arrays = (rows.ids_rt, rows.segment_rt, rows.position_rt)
    count = len(rows.ids_rt)
    if not chunk or chunk >= count:
        z_rsd = encoder.apply(graph, params, *arrays, segments)
        return z_rsd.reshape(-1, z_rsd.shape[-1])
    # Each chunk takes its share of every device's rows, so that none has to travel.
    split = lambda x: x.reshape(devices, count // chunk, chunk // devices, -1).swapaxes(0, 1)  # noqa: E731
    encode = jax.checkpoint(lambda c: encoder.apply(graph, params, *(x.reshape(chunk, -1) for x in c), segments))
    z_crsd = jax.lax.map(encode, tuple(split(x) for x in arrays))
    width = z_crsd.shape[-1]
    z_xrsd = z_crsd.reshape(count // chunk, devices, -1, width).swapaxes(0, 1)
    return z_xrsd.reshape(-1, width)


def make(
    graph: nnx.GraphDef, config: ConfigDict, shape: Shape, mesh: Mesh
) -> Callable[[State, Batch], tuple[State, dict]]:
    """The update (state, batch) → (state, metrics), to be jitted; global arrays in and out; args as `objective`."""
    value, tx, lr = objective(graph, config, shape, mesh), optimizer(config), schedule(config)

    def step(state: State, batch: Batch) -> tuple[State, dict]:
        (loss, aux), grads = jax.value_and_grad(value, has_aux=True)(state["params"], batch)
        rate = lr(_adam(state["opt"]).count)
        updates, opt = tx.update(grads, state["opt"], state["params"])
        params = jax.tree.map(lambda p, u: p - rate * u, state["params"], updates)
        if config.learn_scale:
            params["log_scale"] = jnp.minimum(params["log_scale"], math.log(MAX_SCALE))
        metrics = {"loss": loss, **aux, "grad_norm": optax.tree.norm(grads), "lr": rate}
        return {"params": params, "opt": opt}, metrics

    return step


def moments(state: State) -> dict:
    """The optimiser's arrays as plain nested dicts: count [], mu and nu shaped as the parameters."""
    adam = _adam(state["opt"])
    return {"count": adam.count, "mu": adam.mu, "nu": adam.nu}


def with_moments(state: State, params: dict, moments: dict) -> State:
    """The state with other parameters and with what `moments` once returned."""
    return {"params": params, "opt": optax.tree_utils.tree_set(state["opt"], **moments)}


def _adam(opt: Any) -> optax.ScaleByAdamState:
    is_adam = lambda x: isinstance(x, optax.ScaleByAdamState)  # noqa: E731
    return next(x for x in jax.tree.leaves(opt, is_leaf=is_adam) if is_adam(x))
