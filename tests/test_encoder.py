"""encoder: what torch says of each text alone is what a packed row gives; no token sees another view."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from univar_jax import encoder, layers, models, weights

BERT = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,  # wide, so that no layer is nearly the identity
}
CASES = {
    "bert": BERT,
    "bert/gelu_new": BERT | {"hidden_act": "gelu_new"},
    "bert/relu": BERT | {"hidden_act": "relu", "layer_norm_eps": 1e-5},
    "nomic_bert": BERT | {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
    "roberta": BERT | {"max_position_embeddings": 44, "pad_token_id": 3, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "xlm-roberta": BERT | {"max_position_embeddings": 42, "type_vocab_size": 1},
    "distilbert": {
        "vocab_size": 120, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 40,
        "initializer_range": 0.3,
    },
    "mpnet": BERT | {"max_position_embeddings": 42},
    "modernbert": BERT | {
        "num_hidden_layers": 5, "global_attn_every_n_layers": 2, "local_attention": 8, "global_rope_theta": 500.0,
        "local_rope_theta": 20.0, "pad_token_id": 0,
    },
    "modernbert/layer_types": BERT | {
        "num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"], "local_attention": 5,
        "hidden_activation": "silu", "pad_token_id": 0,
    },
}  # fmt: skip
KINDS = [case for case in CASES if "/" not in case]
# Lengths of the segments of three rows of 24 tokens: one left over, one full, one with nothing but padding.
LENGTHS = ([7, 1, 13], [5, 19], [])
ROW, SEGMENTS = 24, 4
apply = jax.jit(encoder.apply, static_argnums=(0, 5))


def torch_model(case, seed, folder):
    """transformers' own module with random weights, saved for ours to read."""
    torch = pytest.importorskip("torch", reason="needs torch: pip install 'univar_jax[torch]'")
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(seed)
    model = AutoModel.from_config(AutoConfig.for_model(case.split("/")[0], **CASES[case])).eval()
    with torch.no_grad():
        for x in model.parameters():  # biases and norms start at 0 and 1 and would prove nothing
            if x.ndim == 1:
                x.add_(0.3 * torch.randn_like(x))
    model.save_pretrained(folder)
    return model


def torch_vectors(model, texts):
    """Each text alone: mean of the last states, to unit norm."""
    import torch

    means = [model(torch.tensor(ids[None]).long()).last_hidden_state[0].mean(0) for ids in texts]
    return torch.nn.functional.normalize(torch.stack(means), dim=-1)


def packed(seed, segment_lengths=LENGTHS, width=ROW):
    """Random ids in rows, at padding too (not below 4: torch has its own ways with padding's); the texts in order."""
    rng = np.random.default_rng(seed)
    ids_rt = rng.integers(4, BERT["vocab_size"], (len(segment_lengths), width)).astype(np.int32)
    segment_rt, position_rt = np.zeros_like(ids_rt), np.zeros_like(ids_rt)
    texts = []
    for row, lengths in enumerate(segment_lengths):
        start = 0
        for number, length in enumerate(lengths, 1):
            texts.append(ids_rt[row, start : start + length])
            segment_rt[row, start : start + length] = number
            position_rt[row, start : start + length] = np.arange(length)
            start += length
    return (ids_rt, segment_rt, position_rt), texts


def live(z_rsd):
    return jnp.concatenate([z_rsd[r, : len(lengths)] for r, lengths in enumerate(LENGTHS)])


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


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("case", CASES)
def test_packed_rows_equal_torch_alone(case, seed, tmp_path):
    model = torch_model(case, seed, tmp_path)
    config = models.read_config(tmp_path)
    rows, texts = packed(seed)
    z_rsd = apply(encoder.build(config), weights.load(tmp_path, config), *rows, SEGMENTS)
    apart = np.abs(torch_vectors(model, texts).detach().numpy() - live(z_rsd)).max()
    assert apart < 2e-5
    assert np.array_equal(z_rsd[2], np.zeros_like(z_rsd[2]))  # a row of padding
    norms = np.linalg.norm(z_rsd, axis=-1)
    assert np.allclose(norms[norms > 0], 1, atol=1e-6) and (norms > 0).sum() == len(texts)


@pytest.mark.parametrize("case", KINDS)
def test_one_text_of_all_positions(case, tmp_path):
    model = torch_model(case, 2, tmp_path)
    config = models.read_config(tmp_path)
    assert config.positions == 40
    rows, texts = packed(2, [[40]], 41)
    z_rsd = apply(encoder.build(config), weights.load(tmp_path, config), *rows, 1)
    assert np.abs(torch_vectors(model, texts).detach().numpy() - z_rsd[0]).max() < 2e-5


@pytest.mark.parametrize("case", KINDS)
def test_gradients_equal_torch_by_name(case, tmp_path):
    model = torch_model(case, 0, tmp_path)
    config = models.read_config(tmp_path)
    params, graph = weights.load(tmp_path, config), encoder.build(config)
    rows, texts = packed(0)
    weight_nd = np.random.default_rng(1).normal(size=(len(texts), config.width)).astype(np.float32)
    ours = jax.jit(jax.grad(lambda p: jnp.sum(live(apply(graph, p, *rows, SEGMENTS)) * weight_nd)))(params)

    import torch

    (torch_vectors(model, texts) * torch.tensor(weight_nd)).sum().backward()
    with torch.no_grad():  # the gradient in the weights' place, so that our own table reads the names
        for x in model.parameters():
            x.copy_(torch.zeros_like(x) if x.grad is None else x.grad)
    model.save_pretrained(tmp_path / "gradient")
    theirs = weights.flatten(weights.load(tmp_path / "gradient", config))
    for name, x in weights.flatten(ours).items():
        assert np.abs(x - theirs[name]).max() <= 1e-4 * np.abs(theirs[name]).max(), name


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
    (ids_rt, segment_rt, position_rt), _ = packed(0)
    encode = jax.jit(lambda ids: apply(encoder.build(config), params, ids, segment_rt, position_rt, SEGMENTS))
    before = encode(ids_rt)
    for segment in (0, 1, 2, 3):
        after = encode(np.where(segment_rt == segment, ids_rt % 119 + 1, ids_rt))
        changed = np.asarray(jnp.any(before != after, axis=-1))
        expected = np.zeros_like(changed)
        if segment:
            expected[:, segment - 1] = (segment_rt == segment).any(axis=1)
        assert np.array_equal(changed, expected)


def test_gradient_is_finite_with_empty_segments():
    config, params = random_params()
    rows, _ = packed(0)
    loss = lambda p: jnp.sum(apply(encoder.build(config), p, *rows, SEGMENTS)[..., 0])  # noqa: E731
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.jit(jax.grad(loss))(params)))


@pytest.mark.parametrize("kind", ["nomic_bert", "modernbert"])
def test_remat_changes_nothing_but_memory(kind):
    config, params = random_params(kind)
    rows, _ = packed(0)

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
    rows, _ = packed(0)
    z32 = live(apply(encoder.build(config), params, *rows, SEGMENTS))
    graph = encoder.build(config, matmul_dtype="bfloat16")
    z16 = live(apply(graph, params, *rows, SEGMENTS))
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
