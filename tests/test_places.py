"""places: what is added to the scores and who is seen, against the plain way of saying it."""

import types

import jax
import numpy as np
import pytest

from univar_jax.encoders import places

DYNAMIC = types.SimpleNamespace(plain_positions=16, stretch=2.0, head_width=8, rope_theta=50.0)


def test_buckets_equal_transformers():
    torch = pytest.importorskip("torch", reason="needs torch: pip install 'univar_jax[torch]'")
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    place_o = np.arange(-600, 601)
    assert np.array_equal(places.buckets(place_o, 32), MPNetEncoder.relative_position_bucket(torch.tensor(place_o)))


@pytest.mark.parametrize("tokens", [1, 2, 7, 300])
def test_relative_is_a_lookup_of_every_pair(tokens):
    table_bh = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    place_qt = np.arange(tokens) - np.arange(tokens)[:, None]
    expected_hqt = table_bh[places.buckets(place_qt, 32)].transpose(2, 0, 1)
    assert np.array_equal(places.relative(table_bh, tokens), expected_hqt)


def test_window_reaches_as_far_to_each_side():
    assert np.flatnonzero(places.window(2, 9)[4]).tolist() == [2, 3, 4, 5, 6]
    assert places.window(np.iinfo(np.int32).max, 9).all()


def test_angles_keep_their_digits_to_8192():
    position_rt = np.arange(8192)[None]
    theta_rt = np.full(position_rt.shape, 160000.0, np.float32)
    for theta in (1000.0, 10000.0, 160000.0):
        true_rtk = position_rt[:, :, None] / theta ** (np.arange(32) / 32)
        assert np.allclose(places.angles(position_rt, theta, 64), true_rtk, rtol=2e-7, atol=0)
    assert np.allclose(jax.jit(places.angles, static_argnums=2)(position_rt, theta_rt, 64), true_rtk, rtol=4e-7, atol=0)


def test_a_texts_length_stretches_its_own_angles_only():
    segment_rt = np.array([[1] * 7 + [2] * 40 + [3] * 16 + [0] * 20, [1] * 17 + [0] * 66])
    theta_rt = np.asarray(jax.jit(lambda x: places.stretched(x, 3, DYNAMIC))(segment_rt))
    for row, start, length in ((0, 0, 7), (0, 7, 40), (0, 47, 16), (1, 0, 17)):
        theta_t = theta_rt[row, start : start + length]
        assert np.allclose(theta_t, 50 * max(1, 2 * length / 16 - 1) ** (8 / 6), rtol=1e-6, atol=0), length


def test_stretched_angles_equal_transformers():
    torch = pytest.importorskip("torch", reason="needs torch: pip install 'univar_jax[torch]'")
    from transformers import NomicBertConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {"rope_type": "dynamic", "rope_theta": 50.0, "factor": 2.0}
    theirs = NomicBertConfig(hidden_size=8, num_attention_heads=1, max_position_embeddings=16, rope_parameters=rope)
    for length in (1, 15, 16, 17, 39, 64):
        theta_rt = places.stretched(np.ones((1, length), int), 1, DYNAMIC)
        angle_k = places.angles(np.ones((1, length), int), theta_rt, 8)[0, 0]
        assert np.allclose(angle_k, ROPE_INIT_FUNCTIONS["dynamic"](theirs, seq_len=torch.tensor(length))[0], rtol=1e-6)
