"""Pictures hold for names that a reader's models may have, and for more sources than can be named on a map."""

import warnings

import numpy as np
import pytest

from univar_jax.report import figures


def columns(sources, rows=200):
    source_n = np.array([sources[i % len(sources)] for i in range(rows)])
    parts = [name.split("$") for name in source_n]
    return {"source": source_n, "model": np.array([p[0] for p in parts]), "lang": np.array([p[1] for p in parts])}


# Between two dollars matplotlib reads mathematics, and \frac alone is none.
@pytest.mark.parametrize("persona", ["stoic", "a$\\frac$"])
@pytest.mark.parametrize("count", [2, 12, 30, 80])
def test_every_picture_is_drawn_without_a_warning(count, persona):
    names = [f"model-{i}-instruct$eng${persona}" for i in range(count)]
    draws = np.random.default_rng(0)
    d_ss = draws.random((count, count))
    interval = {"acc": 0.5, "acc_ci": [0.4, 0.6]}
    encoder = {"encoder": names[0], "knn": interval, "chance": 0.3, "control": None}
    ends = {"start": np.zeros(2), "end": np.ones(2), "ellipse": (0.2, 0.1, 30.0)}
    arrows = [{"before": names[0], "after": name} | ends for name in names[1:]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for found in (
            figures.value_map(draws.normal(size=(200, 2)), columns(names), ("UMAP 1", "UMAP 2")),
            figures.distances(names, d_ss + d_ss.T - np.diag(np.diag(d_ss + d_ss.T))),
            figures.scores([encoder]),
            figures.moves(draws.normal(size=(200, 2)), columns(names), ("UMAP 1", "UMAP 2"), arrows),
            figures.moves(draws.normal(size=(200, 2)), columns(names), ("UMAP 1", "UMAP 2"), []),
        ):
            assert found.startswith(b"\x89PNG")


def test_a_legend_longer_than_the_map_is_left_out():
    assert len(figures._keys({f"s{i}": "k" for i in range(40)}, {"m": "o"})[0]) == 40
    assert figures._keys({f"s{i}": "k" for i in range(61)}, {"m": "o"})[0] == []
