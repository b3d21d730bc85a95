"""Encoders as the experiment on weak teachers uses them: vectors of texts, probes on frozen ones, and fine-tuning."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from univar_jax import config
from univar_jax.encoders import encode, encoder, mesh, models, packing, tokens, weights
from univar_jax.statistics import evaluate, resamples
from univar_jax.statistics.predictions import Predicted
from univar_jax.training import step

MAX_TOKENS = 64
# Fine-tuning: answers of a step, passes, rate and warm-up; a packed row holds two of the longest answers.
BATCH, EPOCHS, LR, WARMUP, ROW_TOKENS = 32, 3, 1e-4, 5, 128
# A probe needs more than the paper's 20 epochs where there are a few hundred rows.
PROBE = {"epochs": 100, "batch": 128, "lr": 0.03}
_ORDER = 81  # a stream of random numbers of its own


@dataclasses.dataclass(frozen=True)
class Model:
    """An encoder with what it computes by, and a name for the table."""

    name: str
    config: models.EncoderConfig
    params: dict
    tokenizer: object

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of texts, float32 [n, d]."""
        return _embedder(self.config)(self.params, self.ids(texts))

    def ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text, cut to MAX_TOKENS."""
        spelt = tokens.tokenize(self.tokenizer, texts)
        return [spelt.view([i], MAX_TOKENS)[0] for i in range(len(texts))]

    def first(self, layers: int) -> "Model":
        """The encoder's first layers alone."""
        blocks = jax.tree.map(lambda x: x[:layers], self.params["blocks"])
        cut = dataclasses.replace(self.config, layers=layers)
        return dataclasses.replace(self, config=cut, params=self.params | {"blocks": blocks})


@functools.cache
def _embedder(config: models.EncoderConfig) -> Callable:
    """Compiled once for an architecture, whatever its weights."""
    return encode.embedder(encoder.build(config), mesh.make(0, 1))


def open_model(name: str, how: str) -> Model:
    """An encoder by MODEL, and how it learns, for its name."""
    folder = models.folder(name)
    found = models.read_config(folder)
    return Model(f"{Path(name).name}, {how}", found, weights.load(folder, found), models.tokenizer(folder))


def probe(z_nd: np.ndarray, label_n: np.ndarray, classes: int, seed: int) -> dict[str, np.ndarray]:
    """A linear layer on frozen vectors: kernel [d, c], bias [c]."""
    d = z_nd.shape[1]
    # A linear map is known by what it makes of each axis and of nothing.
    of = evaluate.linear_probe(z_nd, label_n, np.eye(d + 1, d), classes, seed=seed, **PROBE)
    return {"kernel": of[:-1] - of[-1], "bias": of[-1]}


def said(z_nd: np.ndarray, head: dict[str, np.ndarray]) -> Predicted:
    """What a linear layer says of vectors."""
    p_nc = np.asarray(jax.nn.softmax(z_nd @ head["kernel"] + head["bias"]), float)
    return Predicted(p_nc.argmax(1), p_nc / p_nc.sum(1, keepdims=True))


def fine_tuned(model: Model, texts: Sequence[str], label_n: np.ndarray, classes: int, seed: int) -> tuple[Model, dict]:
    """All layers and a linear layer, trained by cross-entropy from the probe on; batches depend on (seed, epoch)."""
    graph, ids = encoder.build(model.config), model.ids(texts)
    how = config.complete(config.ConfigDict({"lr": LR, "warmup_steps": WARMUP}))
    tx, rate = step.optimizer(how), step.schedule(how)
    orders = [resamples.draws(seed, _ORDER, epoch).permutation(len(ids)) for epoch in range(EPOCHS)]
    steps = [order[i : i + BATCH] for order in orders for i in range(0, len(order) - BATCH + 1, BATCH)]
    packed = [packing.pack([len(ids[i]) for i in some], ROW_TOKENS) for some in steps]
    # One shape for all steps: one program.
    group = packing.Group(max(map(len, packed)), ROW_TOKENS, max(len(row) for rows in packed for row in rows))

    def loss(params: dict, rows: tuple, at_n: jax.Array, label_n: jax.Array) -> jax.Array:
        z_rsd = encoder.apply(graph, params["encoder"], *rows, segments=group.segments)
        z_nd = z_rsd.reshape(-1, z_rsd.shape[-1])[at_n]
        logits_nc = z_nd @ params["head"]["kernel"] + params["head"]["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits_nc, label_n).mean()

    @jax.jit
    def update(params: dict, opt: tuple, count: jax.Array, *batch: object) -> tuple[dict, tuple, jax.Array]:
        value, grads = jax.value_and_grad(loss)(params, *batch)
        updates, opt = tx.update(grads, opt, params)
        return jax.tree.map(lambda p, u: p - rate(count) * u, params, updates), opt, value

    params = {"encoder": model.params, "head": probe(model.vectors(texts), label_n, classes, seed)}
    params = jax.tree.map(jnp.asarray, params)
    opt = tx.init(params)
    for number, (some, members) in enumerate(zip(steps, packed, strict=True), 1):
        *rows, places = packing.lay([ids[i] for i in some], members, group)
        at_n = np.array([places[i] for i in range(len(some))])
        params, opt, _ = update(params, opt, jnp.float32(number), tuple(rows), at_n, label_n[some])
    params = jax.tree.map(np.asarray, params)
    return dataclasses.replace(model, params=params["encoder"]), params["head"]
