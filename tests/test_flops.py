"""The formula equals what the model's own products add up to, layer by layer of each kind; MFU is its share."""

import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from univar_jax.config import complete, defaults
from univar_jax.encoders import encoder, flops
from univar_jax.encoders.models import EncoderConfig
from univar_jax.training.progress import Progress

BERT = EncoderConfig(
    architecture="bert",
    vocab=50,
    width=32,
    layers=3,
    heads=2,
    head_width=8,  # heads · head_width is not the width, so that one taken for the other shows
    ff=40,
    positions=64,
    types=2,
    eps=1e-12,
    activation="gelu",
    position="learned",
    rope_theta=0.0,
    gated=False,
    biases=True,
    pad=0,
    dropout=0.0,
)


def like(**values):
    return EncoderConfig(**{**BERT.__dict__, **values})


ROTARY = {"position": "rotary", "rope_theta": 1e4, "gated": True, "biases": False, "types": 0}
KINDS = {
    "learned": BERT,
    "gated": like(architecture="nomic_bert", **ROTARY),
    "buckets": like(architecture="mpnet", buckets=32, types=0),
    "prenorm": like(
        architecture="modernbert", **ROTARY, prenorm=True, norm_biases=False, local_theta=1e4, windows=(None,) * 3
    ),
}
ROWS, TOKENS, SEGMENTS = 2, 16, 1


def config(**values):
    given = defaults()
    given.update(pairs=ROWS * SEGMENTS, max_tokens=TOKENS, **values)
    return complete(given)


def products(jaxpr):
    """Operations of all matrix products in a jaxpr, those in a loop as often as it turns."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
        inner = [getattr(x, "jaxpr", x) for x in equation.params.values()]
        total += equation.params.get("length", 1) * sum(products(x) for x in inner if hasattr(x, "eqns"))
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_the_formula_is_what_the_encoder_multiplies(kind):
    architecture = KINDS[kind]
    params, graph = encoder.abstract_params(architecture), encoder.build(architecture)
    rows_rt = [jnp.zeros((ROWS, TOKENS), int), jnp.ones((ROWS, TOKENS), int), jnp.zeros((ROWS, TOKENS), int)]

    def value(params):
        return encoder.apply(graph, params, *rows_rt, SEGMENTS).sum()

    forward = products(jax.make_jaxpr(value)(params).jaxpr)
    both = products(jax.make_jaxpr(jax.value_and_grad(value))(params).jaxpr)
    found = flops.step(architecture, config(), np.full((1, ROWS), TOKENS))
    ours = float(found["linear"][0] + found["attention"][0])
    pooled = 2 * ROWS * TOKENS * SEGMENTS * architecture.width  # a mean, which happens to be computed as a product
    assert forward == ours / 3 + pooled
    assert both == ours + 2 * pooled


def test_numbers_counted_by_hand():
    one = like(layers=1)
    found = flops.step(one, config(), np.array([[10, 4]]))
    # qkv 32 x 48, out 16 x 32, up 32 x 40, down 40 x 32; 14 tokens; 10² + 4² pairs of tokens, 2 heads of 8.
    assert found["linear"] == 3 * 2 * 14 * (32 * 48 + 16 * 32 + 32 * 40 + 40 * 32)
    assert found["attention"] == 3 * 2 * (100 + 16) * 2 * (2 * 8)
    assert found["loss"] == 6 * 2**2 * 32
    gated = flops.step(like(layers=1, gated=True), config(), np.array([[10, 4]]))
    assert gated["linear"] - found["linear"] == 3 * 2 * 14 * 32 * 40


def test_attention_is_paid_inside_views_only():
    whole, halves = (flops.step(BERT, config(), x) for x in (np.array([[16]]), np.array([[8, 8]])))
    assert halves["attention"] * 2 == whole["attention"] and halves["linear"] == whole["linear"]


@pytest.mark.parametrize("reach", [0, 1, 3, 15, 16, 100])
def test_a_window_pays_for_what_it_sees(reach):
    windowed = like(windows=(None, reach, reach))
    lengths = (1, 2, 7, 16)
    seen = sum(abs(q - t) <= reach for length in lengths for q in range(length) for t in range(length))
    all_ = sum(length**2 for length in lengths)
    found = flops.step(windowed, config(), np.array([lengths]))
    assert found["attention"] == 3 * 2 * 2 * 16 * (all_ + 2 * seen)


def test_the_loss_is_paid_for_each_size():
    found = flops.step(BERT, config(matryoshka_dims=(8, 32)), np.array([[4]]))
    assert found["loss"] == 6 * 2**2 * (32 + 8)


def test_devices_are_known_by_their_kind():
    assert flops.device("TPU v5 lite").bfloat16 == 197e12 and flops.device("TPU v5 lite").memory == 16 * 2**30
    assert flops.device("TPU v5").bfloat16 == flops.device("TPU v5p").bfloat16 == 459e12
    assert flops.device("NVIDIA H100 80GB HBM3").bfloat16 == 989e12
    assert flops.device("NVIDIA H100 PCIe").bfloat16 == 756e12
    assert flops.device("NVIDIA A100-SXM4-40GB").memory == 40e9 and flops.device("NVIDIA A100 80GB PCIe").memory == 80e9
    assert flops.device("cpu") is None
    assert flops.peak(["NVIDIA H200"] * 8, "float32") == 8 * 67e12
    assert flops.peak(["TPU v4"] * 8, "float32") is None  # published by nobody
    assert flops.peak(["TPU v4", "cpu"], "bfloat16") is None


def lines(ideal_n, capsys):
    written = []
    lengths_n2, steps = np.full((8, 2), 5), range(1, 4)
    log = types.SimpleNamespace(write=written.append)
    progress = Progress(log, config(log_every_steps=2), lengths_n2, np.full(4, 20), steps, ideal_n)
    for n in (2, 3, 4):
        progress.add(n, {"loss": 1.0, "loss_floor": 0.0, "accuracy": 0.5}, 0.0)
    progress.retire()
    return written, capsys.readouterr().out


def test_mfu_is_ideal_seconds_over_those_it_took(capsys):
    kinds = ["TPU v4"] * 2
    ideal_n = flops.ideal_seconds(BERT, config(matmul_dtype="bfloat16"), np.full((8, 2), 5), kinds)
    assert ideal_n.shape == (4,)
    whole = sum(flops.step(BERT, config(), np.full((1, 4), 5)).values())
    np.testing.assert_allclose(ideal_n, [whole[0] / (2 * 275e12)] * 4)
    written, screen = lines(np.array([100.0, 1.0, 2.0, 4.0]), capsys)
    for line, ideal, steps in zip(written, (1.0, 2.0 + 4.0), (1, 2), strict=True):  # steps 2, and 3 and 4
        assert line["mfu"] == pytest.approx(ideal / (steps * 2 / line["pairs_per_s"]))
    assert screen.count("mfu") == 2


def test_a_cpu_has_no_mfu(capsys):
    kinds = [device.device_kind for device in jax.devices()]
    assert flops.ideal_seconds(BERT, config(), np.full((8, 2), 5), kinds) is None
    written, screen = lines(None, capsys)
    assert all("mfu" not in line for line in written) and "mfu" not in screen
