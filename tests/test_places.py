"""places: what is added to the scores and who is seen, against the plain way of saying it."""

import numpy as np
import pytest

from univar_jax import places


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
