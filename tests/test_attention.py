"""attention: each kernel equals the plain products, forward and backward; what a machine cannot do is said at start."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from univar_jax import config as configs
from univar_jax.cli import UserError
from univar_jax.encoders import attention, encoder, models, places
from univar_jax.encoders import mesh as meshes
from univar_jax.train import train

# Splash is interpreted here. cuDNN needs a GPU: its call with XLA's products shows that mask and axes are right.
KERNELS = {
    "xla": functools.partial(attention.attend, kernel="xla"),
    "splash": functools.partial(attention.attend, kernel="splash"),
    "cudnn": functools.partial(attention.cudnn, implementation="xla"),
}
CONFIG = models.EncoderConfig(
    architecture="nomic_bert", vocab=120, width=16, layers=3, heads=2, head_width=8, ff=24, positions=128, types=2,
    eps=1e-12, activation="silu", position="rotary", rope_theta=50.0, gated=True, biases=False, pad=0, dropout=0.0,
)  # fmt: skip
WINDOWS = {"types": 0, "prenorm": True, "norm_biases": False, "local_theta": 5.0, "windows": (None, 3, 20)}
ENCODERS = {
    "nomic_bert": CONFIG,
    "modernbert": dataclasses.replace(CONFIG, architecture="modernbert", **WINDOWS),
}


def rows(lengths_by_row, tokens):
    """Which segment and place each token has; what the lengths leave is padding."""
    segment_rt, position_rt = np.zeros((2, len(lengths_by_row), tokens), np.int32)
    for row, lengths in enumerate(lengths_by_row):
        ends = np.cumsum(lengths, dtype=int)
        for number, (end, length) in enumerate(zip(ends, lengths, strict=True), 1):
            segment_rt[row, end - length : end] = number
            position_rt[row, end - length : end] = np.arange(length)
    return segment_rt, position_rt


def draw(*shape, count=3):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for _ in range(count)]


def random_params(config):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.float32(rng.normal(size=x.shape, scale=0.3)), encoder.abstract_params(config))


@pytest.mark.parametrize("reach", [None, 40])
@pytest.mark.parametrize("kernel", ["splash", "cudnn"])
def test_kernels_equal_plain_products(kernel, reach):
    tokens = 384  # three of splash's blocks a side, so that a window leaves some out
    segment_rt, _ = rows([[7, 1, 200, 130], [384], []], tokens)
    within_qt = None if reach is None else places.window(reach, tokens)
    *qkv, weight = draw(3, tokens, 2, 8, count=4)

    def value_and_gradient(name):
        def value(*qkv):
            mixed = KERNELS[name](*qkv, segment_rt, within_qt=within_qt)
            return jnp.sum(mixed * weight), mixed

        (_, mixed), gradient = jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2), has_aux=True))(*qkv)
        return [mixed, *gradient]

    for ours, plain in zip(value_and_gradient(kernel), value_and_gradient("xla"), strict=True):
        assert np.abs(ours - plain).max() < 1e-5


@pytest.mark.parametrize("kernel", KERNELS)
def test_planted_key_is_seen_by_its_own_segment_only(kernel):
    segment_rt, _ = rows([[40, 50], []], 128)  # the first row's last 38 tokens and the second row are padding
    q, k, v = draw(2, 128, 2, 8)
    q[0, 10] = q[0, 100] = q[0, 50]
    k[0, 60], v[0, 60] = 100 * q[0, 50], 300  # token 60 is of segment 2, and tokens 10, 50 and 100 really want it
    mixed, pull = jax.vjp(jax.jit(lambda *qkv: KERNELS[kernel](*qkv, segment_rt)), q, k, v)
    assert np.abs(mixed[0, :40]).max() < 5 and np.abs(mixed[0, 90:]).max() < 5
    assert mixed[0, 50].min() > 299
    assert np.isfinite(mixed).all()
    for cotangent in pull(np.where(segment_rt[:, :, None, None] == 1, *draw(2, 128, 2, 8, count=1), 0)):
        assert np.isfinite(cotangent).all()
        assert cotangent[0, :40].any() and not cotangent[0, 40:].any() and not cotangent[1].any()


def test_encoder_on_a_mesh_runs_splash_on_each_devices_rows():
    config, mesh = ENCODERS["modernbert"], meshes.make(0, 2)
    segment_rt, position_rt = rows([[7, 1, 30], [128], [], [5], [100, 20], [1] * 4, [64, 64], []], 128)
    ids_rt = np.random.default_rng(1).integers(1, 120, segment_rt.shape).astype(np.int32)
    weight = np.random.default_rng(2).normal(size=(8, 4, config.width))

    def value_and_gradient(rows_rt, **how):
        graph = encoder.build(config, **how)
        value = lambda p, *rows_rt: jnp.sum(weight * encoder.apply(graph, p, *rows_rt, 4))  # noqa: E731
        return jax.jit(jax.value_and_grad(value))(random_params(config), *rows_rt)

    rows_rt = (ids_rt, segment_rt, position_rt)
    plain, expected = value_and_gradient(rows_rt)
    found, gradient = value_and_gradient(
        jax.device_put(rows_rt, meshes.rows(mesh)), kernel="splash", mesh=mesh, remat="dots"
    )
    assert abs(found - plain) < 1e-4
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max() + 1e-7


def test_splash_multiplies_float32_in_full_backward_too():
    segment_rt, _ = rows([[128]], 128)
    attend = functools.partial(attention.attend, kernel="splash")
    for dtype, full in ((jnp.float32, 10), (jnp.bfloat16, 0)):
        qkv = [x.astype(dtype) for x in draw(1, 128, 1, 8)]
        gradient = jax.grad(lambda *qkv: jnp.sum(attend(*qkv, segment_rt).astype(jnp.float32)), argnums=(0, 1, 2))
        program = str(jax.make_jaxpr(gradient)(*qkv))
        products, in_full = program.count("dot_general["), program.count("precision=(Precision.HIGHEST, Precision")
        assert (products, in_full) == (10, full)  # two forward, three and four backward, and the sum of o · do


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ENCODERS)
def test_splash_lowers_for_tpu(kind, dtype, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    ids_rt = jax.ShapeDtypeStruct((2, 128), jnp.int32)

    def kernels(remat):
        graph = encoder.build(ENCODERS[kind], matmul_dtype=dtype, kernel="splash", remat=remat)
        gradient = jax.jit(jax.grad(lambda p, *rows_rt: jnp.sum(encoder.apply(graph, p, *rows_rt, 4))))
        traced = gradient.trace(encoder.abstract_params(ENCODERS[kind]), *[ids_rt] * 3)
        return traced.lower(lowering_platforms=("tpu",)).as_text().count("@tpu_custom_call")

    assert kernels("none") == 3  # forward, keys and values backward, queries backward
    if kind == "nomic_bert":  # where there are windows, the unused call goes only when XLA compiles
        assert (kernels("dots"), kernels("full")) == (3, 4)


@pytest.mark.parametrize("kind", ENCODERS)
def test_cudnn_lowers_for_cuda(kind, monkeypatch):
    from jax._src.cudnn import fused_attention_stablehlo as theirs

    monkeypatch.setattr(theirs, "check_cudnn_version", lambda: 91000)  # there is none here to ask
    config, mesh = ENCODERS[kind], meshes.make(0, 1)
    graph = encoder.build(config, matmul_dtype="bfloat16", kernel="cudnn", mesh=mesh)
    rows_rt = [jax.ShapeDtypeStruct((16, 24), jnp.int32, sharding=meshes.rows(mesh))] * 3
    gradient = jax.jit(jax.grad(lambda p, *rows_rt: jnp.sum(encoder.apply(graph, p, *rows_rt, 4))))
    text = gradient.trace(encoder.abstract_params(config), *rows_rt).lower(lowering_platforms=("cuda",)).as_text()
    calls = [line for line in text.splitlines() if "@__cudnn$fmhaScaleBiasSoftmax" in line]
    assert [("Backward" in call) for call in calls] == [False, True]
    # A device has two of the sixteen rows; one mask serves all heads.
    assert all("tensor<2x24x2x8xbf16>" in call and "tensor<2x1x24x24xbf16>" in call for call in calls)


def test_remat_of_all_but_linear_maps_changes_nothing_but_memory():
    segment_rt, position_rt = rows([[50, 60], [128]], 128)
    ids_rt = np.random.default_rng(1).integers(1, 120, segment_rt.shape).astype(np.int32)
    params = random_params(CONFIG)

    def gradient(remat):
        graph = encoder.build(CONFIG, remat=remat)
        value = lambda p: jnp.sum(encoder.apply(graph, p, ids_rt, segment_rt, position_rt, 2)[..., :5])  # noqa: E731
        compiled = jax.jit(jax.value_and_grad(value)).lower(params).compile()
        return compiled(params), compiled.memory_analysis().temp_size_in_bytes

    (kept, much), (again, little) = gradient("none"), gradient("dots")
    assert little < 0.75 * much
    for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(again), strict=True):
        assert np.allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_training_with_splash_is_training_with_xla(tiny_data, tiny_config, tmp_path):
    found = {}
    for kernel in ("xla", "splash"):
        with tiny_config.copy_and_resolve_references().unlocked() as config:
            config.update(kernel=kernel, steps=2, eval_every_steps=0)
        train(config, str(tiny_data), str(tmp_path / kernel))
        found[kernel] = [json.loads(line) for line in (tmp_path / kernel / "metrics.jsonl").read_text().splitlines()]
    for plain, ours in zip(found["xla"], found["splash"], strict=True):
        for key in ("loss", "grad_norm", "accuracy"):
            assert ours[key] == pytest.approx(plain[key], rel=1e-5)
    assert found["splash"][-1]["eval/knn"] == pytest.approx(found["xla"][-1]["eval/knn"], abs=0.01)


MPNET = dataclasses.replace(CONFIG, architecture="mpnet", buckets=32)
REFUSED = {
    "cudnn without a GPU": ("cudnn", CONFIG, "bfloat16", 256, "no CUDA device here; use --config.kernel=xla"),
    "splash and rows": ("splash", CONFIG, "float32", 200, "multiple of 128 .* 200; use --config.row_tokens=256"),
    "splash and MPNet": (
        "splash",
        MPNET,
        "float32",
        256,
        "scores of distances that mpnet has; use --config.kernel=xla",
    ),
}
REFUSED_ON_CUDA = {
    "float32": ("cudnn", CONFIG, "float32", 256, "takes bfloat16 only: --config.matmul_dtype=bfloat16"),
    "MPNet": ("cudnn", MPNET, "bfloat16", 256, "scores of distances that mpnet has; use --config.kernel=xla"),
    "odd rows": ("cudnn", CONFIG, "bfloat16", 201, "multiple of 2 .* 201; use --config.row_tokens=202"),
    "narrow heads": ("cudnn", dataclasses.replace(CONFIG, head_width=12), "bfloat16", 256, "this encoder's have 12"),
    "wide heads": ("cudnn", dataclasses.replace(CONFIG, head_width=136), "bfloat16", 256, "this encoder's have 136"),
}


@pytest.mark.parametrize("case", REFUSED | REFUSED_ON_CUDA)
def test_what_a_kernel_cannot_do_is_said_in_one_line(case, monkeypatch):
    if case in REFUSED_ON_CUDA:
        monkeypatch.setattr(attention, "_on_cuda", lambda: True)
    *asked, says = (REFUSED | REFUSED_ON_CUDA)[case]
    with pytest.raises(UserError, match=says) as found:
        attention.check(*asked)
    assert "\n" not in str(found.value)


def test_what_a_kernel_can_do_passes(monkeypatch):
    assert all(configs.complete({"kernel": kernel}).kernel == kernel for kernel in attention.KERNELS)
    attention.check("xla", MPNET, "float32", 201)
    attention.check("splash", ENCODERS["modernbert"], "float32", 384)
    monkeypatch.setattr(attention, "_on_cuda", lambda: True)
    attention.check("cudnn", ENCODERS["modernbert"], "bfloat16", 202)


def test_train_refuses_before_it_makes_anything(tiny_data, tiny_config, tmp_path):
    with tiny_config.copy_and_resolve_references().unlocked() as config:
        config.update(kernel="splash", row_tokens=200)
    with pytest.raises(UserError, match="row_tokens=256"):
        train(config, str(tiny_data), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_attend_takes_no_unknown_word_and_no_scores_but_with_xla():
    segment_rt, _ = rows([[128]], 128)
    with pytest.raises(ValueError, match=r"flash.*known: xla, splash, cudnn"):
        attention.attend(*draw(1, 128, 2, 8), segment_rt, "flash")
    with pytest.raises(ValueError, match="cannot add scores"):
        attention.attend(*draw(1, 128, 2, 8), segment_rt, "splash", added_hqt=np.zeros((2, 128, 128), np.float32))
