"""encoder: what torch says of each text alone is what a packed row gives; no token sees another view."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity import (
    CASES,
    LENGTHS,
    LIMITS,
    SEEDS,
    apply,
    draw,
    gradients_apart,
    live,
    pack,
    random_model,
    vectors_apart,
)
from univar_jax.encoders import encoder, layers, models, weights

KINDS = [case for case in CASES if "/" not in case or case in ("bert/cls", "nomic_bert/dynamic")]
SEGMENTS = max(map(len, LENGTHS))


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="needs torch: pip install 'univar_jax[torch]'")


def loaded(folder):
    config = models.read_config(folder)
    return config, weights.load(folder, config)


ROTARY = {"position": "rotary", "rope_theta": 50.0, "gated": True, "biases": False}
OWN = {
    "bert": {},
    "nomic_bert": ROTARY,
    "roberta": {"types": 1, "position_start": 2},
    "distilbert": {"types": 0},
    "mpnet": {"types": 0, "position_start": 2, "buckets": 32},
    "modernbert": ROTARY | {
        "types": 0, "prenorm": True, "norm_biases": False, "local_theta": 5.0, "windows": (None, 3),
    },
}  # fmt: skip


def random_params(kind="bert"):
    """A config and random parameters without torch."""
    values = {
        "architecture": kind, "vocab": 120, "width": 32, "layers": 2, "heads": 4, "head_width": 8, "ff": 48,
        "positions": 40, "types": 2, "eps": 1e-12, "activation": "silu", "position": "learned", "rope_theta": 0.0,
        "gated": False, "biases": True, "pad": 0, "dropout": 0.0,
    }  # fmt: skip
    config = models.EncoderConfig(**values | OWN[kind])
    rng = np.random.default_rng(0)
    draw = lambda x: jnp.asarray(rng.normal(size=x.shape, scale=0.3), jnp.float32)  # noqa: E731
    return config, jax.tree.map(draw, encoder.abstract_params(config))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("case", CASES)
def test_packed_rows_equal_torch_alone(case, seed, tmp_path, torch):
    model = random_model(case, seed, tmp_path)
    config, params = loaded(tmp_path)
    assert config.positions == 40 and config.pooling == ("cls" if case.endswith("/cls") else "mean")
    assert vectors_apart(config, params, model, draw(seed)) <= LIMITS[0]


@pytest.mark.parametrize("lengths", [[[1]], [[23]], [[40]]], ids=str)
@pytest.mark.parametrize("case", KINDS)
def test_one_text_in_one_row(case, lengths, tmp_path, torch):
    model = random_model(case, 3, tmp_path)
    assert vectors_apart(*loaded(tmp_path), model, draw(3, lengths), width=41) <= LIMITS[0]


@pytest.mark.parametrize("seed", SEEDS[:2])
@pytest.mark.parametrize("case", KINDS)
def test_gradients_of_the_loss_equal_torchs_by_name(case, seed, tmp_path, torch):
    model = random_model(case, seed, tmp_path)
    apart = gradients_apart(*loaded(tmp_path), model, draw(seed))
    assert {name: x for name, x in apart.items() if not x <= LIMITS[1]} == {}


def test_nomics_first_keys_are_the_same_dynamic_encoder(tmp_path, torch):
    random_model("nomic_bert/dynamic", 0, tmp_path)
    native = models.read_config(tmp_path)
    assert (native.stretch, native.plain_positions, native.rope_theta) == (2, 16, 50)
    first = {
        "model_type": "nomic_bert", "vocab_size": 120, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 48,
        "n_positions": 40, "max_trained_positions": 16, "rotary_emb_base": 50, "rotary_scaling_factor": 2,
        "activation_function": "swiglu", "layer_norm_epsilon": 1e-12, "rotary_emb_fraction": 1.0, "prenorm": False,
        "qkv_proj_bias": False, "mlp_fc1_bias": False, "mlp_fc2_bias": False, "rotary_emb_interleaved": False,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(first))
    assert models.read_config(tmp_path) == native


def test_only_segments_with_tokens_have_vectors():
    config, params = random_params()
    texts = draw(0)
    z_rsd = apply(encoder.build(config), params, *pack(texts), SEGMENTS)
    norm_rs = np.linalg.norm(z_rsd, axis=-1)
    assert np.array_equal(norm_rs > 0, np.arange(SEGMENTS) < np.array([[len(row)] for row in texts]))
    assert np.allclose(norm_rs[norm_rs > 0], 1, atol=1e-6) and not norm_rs[2].any()


LONG = {
    "nomic_bert": {"rope_parameters": {"rope_type": "default", "rope_theta": 1000.0}},
    "nomic_bert/dynamic": {
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 2.0}, "n_positions": 8192,
        "max_position_embeddings": 2048,
    },
    "modernbert": {"global_rope_theta": 160000.0, "local_rope_theta": 10000.0, "local_attention": 128},
}  # fmt: skip


@pytest.mark.parametrize("case", LONG)
def test_rotary_at_8192_tokens(case, tmp_path, torch):
    sizes = {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 2, "max_position_embeddings": 8192}
    model = random_model(case, 0, tmp_path, **sizes | LONG[case])
    config, params = loaded(tmp_path)
    assert config.positions == 8192 and config.head_width == 64
    assert vectors_apart(config, params, model, draw(0, [[8192]]), width=8192) <= LIMITS[0]


@pytest.mark.parametrize("kernel", ["xla"])
def test_planted_key_is_seen_by_its_own_segment_only(kernel):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(1, 12, 2, 8)).astype(np.float32) for _ in range(3))
    segment_rt = np.array([[1] * 4 + [2] * 5 + [0] * 3])
    k[0, 6], v[0, 6] = 100 * q[0, 5], 300  # token 6 is of segment 2, and token 5 really wants it
    mixed = np.asarray(layers.attend(q, k, v, segment_rt, kernel))
    assert np.abs(mixed[0, :4]).max() < 5 and np.abs(mixed[0, 9:]).max() < 5
    assert mixed[0, 5].min() > 299
    assert np.isfinite(mixed).all()


@pytest.mark.parametrize("kind", OWN)
def test_no_view_depends_on_its_neighbours(kind):
    config, params = random_params(kind)
    ids_rt, segment_rt, position_rt = pack(draw(0))
    encode = jax.jit(lambda ids: apply(encoder.build(config), params, ids, segment_rt, position_rt, SEGMENTS))
    before = encode(ids_rt)
    for segment in range(SEGMENTS):
        after = encode(np.where(segment_rt == segment, ids_rt % 119 + 1, ids_rt))
        changed = np.asarray(jnp.any(before != after, axis=-1))
        expected = np.zeros_like(changed)
        if segment:
            expected[:, segment - 1] = (segment_rt == segment).any(axis=1)
        assert np.array_equal(changed, expected)


def test_gradient_is_finite_with_empty_segments():
    config, params = random_params()
    rows = pack(draw(0))
    loss = lambda p: jnp.sum(apply(encoder.build(config), p, *rows, SEGMENTS)[..., 0])  # noqa: E731
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.jit(jax.grad(loss))(params)))


@pytest.mark.parametrize("kind", ["nomic_bert", "modernbert"])
def test_remat_changes_nothing_but_memory(kind):
    config, params = random_params(kind)
    rows = pack(draw(0))

    def gradient(remat):
        graph = encoder.build(config, remat=remat)
        loss = jax.jit(jax.value_and_grad(lambda p: jnp.sum(apply(graph, p, *rows, SEGMENTS)[..., :5])))
        compiled = loss.lower(params).compile()
        return compiled(params), compiled.memory_analysis().temp_size_in_bytes

    (kept, much), (again, little) = gradient("none"), gradient("full")
    assert little < 0.7 * much
    for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(again), strict=True):
        assert np.allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "nomic_bert", "modernbert"])
def test_bfloat16_is_near_and_its_sums_are_float32(kind):
    config, params = random_params(kind)
    rows = pack(draw(0))
    z32 = live(apply(encoder.build(config), params, *rows, SEGMENTS), LENGTHS)
    graph = encoder.build(config, matmul_dtype="bfloat16")
    z16 = live(apply(graph, params, *rows, SEGMENTS), LENGTHS)
    assert z16.dtype == jnp.float32 and np.allclose(np.linalg.norm(z16, axis=-1), 1, atol=1e-6)
    assert 0.99 < np.sum(z16 * z32, axis=-1).min() < 1 - 1e-7  # near, and truly in the shorter type
    if kind == "bert":  # one is enough, and compiling it is what takes the time
        gradient = jax.jit(jax.grad(lambda p: jnp.sum(apply(graph, p, *rows, SEGMENTS)[..., 0])))(params)
        assert all(x.dtype == jnp.float32 and np.isfinite(x).all() for x in jax.tree.leaves(gradient))


@pytest.mark.parametrize("kind", OWN)
def test_leaf_names_tell_matrices_from_vectors(kind):
    config, _ = random_params(kind)
    for name, x in weights.flatten(jax.tree.map(lambda x: np.empty(x.shape), encoder.abstract_params(config))).items():
        vector = x.ndim - name.startswith(("blocks/", "later_")) == 1
        assert name.rsplit("/", 1)[1] in (("bias", "scale") if vector else ("kernel", "embedding")), name
