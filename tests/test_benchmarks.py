"""The benchmark's parts that take seconds: fills by the plan, the same vectors by both ways, and their tables."""

import sys

import numpy as np
import pytest
from absl import flags

from tests.benchmarks import fill, run, tell, ways
from tests.conftest import SAMPLE


@pytest.fixture
def benchmark(monkeypatch):
    """The benchmark's flags for the sample's answers."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["run", f"--qa={SAMPLE}", "--out=unused", "--texts=6", "--steps=5"])
        flags.FLAGS(sys.argv)
        yield run


def test_fill_is_real_tokens_over_the_slots_of_each_way(tmp_path, benchmark, monkeypatch):
    monkeypatch.setattr(fill, "SETTINGS", (("lambda1", 1, 256, 256),))
    rows = fill.measure(tmp_path, benchmark._prepare)
    assert [(row["pairs"], row["devices"]) for row in rows] == [(64, 1), (512, 8)][: len(rows)]
    for row in rows:
        assert 0 < row["maximum"] < row["longest"] < row["fill"] <= row["ceiling"] <= 1
    assert f"{rows[0]['fill']:.3f}" in tell.table({"machine": "m", "qa": "q", "steps": 1, "fill": rows})


@pytest.mark.slow
def test_both_ways_of_embedding_give_the_same_vectors(tmp_path, benchmark):
    found = benchmark.measure_embedding(tmp_path)
    assert found["apart"] < 1e-6
    assert set(found["ways"]) == set(ways.EMBED)
    assert np.isfinite([row["seconds"] for row in found["ways"].values()]).all()
