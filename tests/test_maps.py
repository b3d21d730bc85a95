"""A map that keeps all neighbours gets 1, one by lot about a half, and one that tears only loses continuity."""

import dataclasses

import numpy as np
import pytest

from univar_jax.report import maps


def drawn(xy_n2, umap_n2=None):
    return maps.Maps(np.arange(len(xy_n2)), umap_n2, xy_n2, [0.5, 0.5], 15)


def circle(rows, seed=0):
    angle = np.random.default_rng(seed).random(rows) * 2 * np.pi
    return np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)


def naive(z_nd, y_nd, k):
    """Venna and Kaski's trustworthiness as it is written: intruders by how far they rank beyond k."""
    n = len(z_nd)
    rank = np.argsort(np.argsort(np.linalg.norm(z_nd[:, None] - z_nd, axis=-1), axis=1), axis=1)
    near = np.argsort(np.linalg.norm(y_nd[:, None] - y_nd, axis=-1), axis=1)[:, 1 : k + 1]
    far = sum(max(0, rank[i, j] - k) for i in range(n) for j in near[i])
    return 1 - 2 / (n * k * (2 * n - 3 * k - 1)) * far


def test_figures_are_those_of_the_definition():
    z_nd, xy = circle(60), np.random.default_rng(1).normal(size=(60, 2))
    found = maps.quality(z_nd, drawn(xy), 0)
    assert found["umap"] is None and found["neighbours"] == 15 and found["points"] == 60
    assert found["pca"]["trustworthiness"] == pytest.approx(naive(z_nd, xy, 15))
    assert found["pca"]["continuity"] == pytest.approx(naive(xy, z_nd, 15))


def test_a_true_map_is_at_one_and_a_random_one_at_a_half():
    z_nd = circle(400)
    lot = np.random.default_rng(0).normal(size=(400, 2))
    found = maps.quality(z_nd, drawn(lot, z_nd), 0)
    assert found["umap"] == {"trustworthiness": 1, "continuity": 1}
    assert 0.4 < found["pca"]["trustworthiness"] < 0.6 and 0.4 < found["pca"]["continuity"] < 0.6


def test_a_circle_cut_open_is_trusted_and_not_continuous():
    z_nd = circle(400)
    line = np.arctan2(z_nd[:, 1], z_nd[:, 0])[:, None] * np.array([[1.0, 0.0]])
    found = maps.quality(z_nd, drawn(line), 0)["pca"]
    assert found["trustworthiness"] > 0.995 and found["continuity"] < found["trustworthiness"] - 0.005


def test_large_maps_are_judged_on_a_sample_that_the_seed_draws(monkeypatch):
    monkeypatch.setattr(maps, "MAX_JUDGED", 100)
    z_nd, xy = circle(500), np.random.default_rng(0).normal(size=(500, 2))
    one, two, other = (maps.quality(z_nd, drawn(xy), seed) for seed in (0, 0, 1))
    assert one == two != other and one["points"] == 100


def test_five_points_are_no_map():
    few = dataclasses.replace(drawn(circle(3)), rows=np.arange(3))
    assert maps.quality(circle(3), few, 0)["pca"] is None
