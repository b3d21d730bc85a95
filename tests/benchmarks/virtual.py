"""What is measured over virtual devices, in a process that was started with their number; prints JSON."""

import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from univar_jax.config import complete
from univar_jax.dataset import shards
from univar_jax.encoders import encoder, mesh, models, packing, weights
from univar_jax.training import batches, loss, programs, step

_SPREADS = ("dense", "gathered", "ring")


def losses() -> list[dict]:
    """Bytes of the gradient's temporaries by spread and pairs."""
    devices, rows = mesh.make(0, 1), []
    for pairs in (4096, 16384, 65536):
        z = jax.ShapeDtypeStruct((pairs, 768), jnp.float32, sharding=mesh.rows(devices))
        source = jax.ShapeDtypeStruct((pairs,), jnp.int32, sharding=mesh.rows(devices))
        row = {"pairs": pairs}
        for spread in _SPREADS:

            def value(anchor: jax.Array, key: jax.Array, source: jax.Array, spread: str = spread) -> jax.Array:
                return loss.contrast(anchor, key, source, 50.0, spread=spread, mesh=devices)[0]

            compiled = jax.jit(jax.grad(value, argnums=(0, 1))).lower(z, z, source).compile()
            row[spread] = compiled.memory_analysis().temp_size_in_bytes
        rows.append(row)
    return rows


def steps() -> dict:
    """Steps/s of MiniLM with 8 pairs of 128 tokens for each device."""
    devices = mesh.make(0, 1)
    pairs = 8 * devices.size
    config = complete(ConfigDict({"pairs": pairs, "max_tokens": 128}))
    rng = np.random.default_rng(0)
    views = lambda: rng.integers(1000, 20000, 128).astype(np.uint16)  # noqa: E731
    made = [shards.Pair(views(), views(), int(rng.integers(4))) for _ in range(pairs)]
    plan = packing.plan(np.full((pairs, 2), 128), pairs, 1, programs.layout(config, devices))
    folder = models.folder("minilm")
    graph = encoder.build(models.read_config(folder))
    state = step.init(config, weights.load(folder, models.read_config(folder)))
    state = jax.device_put(state, mesh.state(devices, state))
    [update] = programs.compile_all(graph, config, plan, devices, state)
    batch = batches.compose(made, plan.layout, plan.shapes[0])
    batch = jax.device_put(batch, batches.shardings(devices, 1))
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        state, metrics = update(state, batch)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - began)
    median = float(np.median(seconds[1:]))
    return {"devices": devices.size, "pairs": pairs, "steps_per_s": 1 / median, "pairs_per_s": pairs / median}


if __name__ == "__main__":
    print(json.dumps({"loss": losses, "devices": steps}[sys.argv[1]]()))
