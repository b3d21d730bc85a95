"""Energies against a double loop, p-values under the null, floors, FDR against scipy, and the tree's support."""

import numpy as np
import pytest
from scipy import stats

from univar_jax.statistics import dendrogram, distances, resamples

from .test_resamples import uniform


def unit(x_nd):
    return (x_nd / np.linalg.norm(x_nd, axis=-1, keepdims=True)).astype(np.float32)


def noise(draws, rows, d=6):
    return unit(draws.normal(size=(rows, d)))


def corpus(shift, questions=30, d=8, seed=0, effect=1.0):
    """A row a question and source: an effect of the question, a direction of the source's own `shift` long, noise."""
    draws = np.random.default_rng(seed)
    home, asked = np.linalg.qr(draws.normal(size=(d, d)))[0][: len(shift)], draws.normal(size=(questions, 1, d))
    rows = (
        np.array(shift)[None, :, None] * home[None]
        + effect * asked
        + 0.4 * draws.normal(size=(questions, len(shift), d))
    )
    sources = np.array([f"s{i}" for i in range(len(shift))], object)
    return unit(rows.reshape(-1, d)), np.tile(sources, questions), np.repeat(np.arange(questions), len(shift))


def test_energy_is_the_double_loops():
    draws = np.random.default_rng(0)
    x, y = noise(draws, 12).astype(float), noise(draws, 9).astype(float)

    def mean(a, b, of_a, of_b):
        far = [
            np.linalg.norm(p - q) for p, c in zip(a, of_a, strict=True) for q, e in zip(b, of_b, strict=True) if c != e
        ]
        return np.mean(far)

    for cells in (np.arange(21), np.concatenate([np.arange(12), np.arange(9)]), draws.integers(5, size=21)):
        of_x, of_y = cells[:12], cells[12:]
        naive = 2 * mean(x, y, of_x, of_y) - mean(x, x, of_x, of_x) - mean(y, y, of_y, of_y)
        assert distances.energy(x, y, cells) == pytest.approx(naive, abs=1e-5)
    assert distances.energy(x, y) == pytest.approx(distances.energy(y, x), abs=1e-9)


def test_answers_of_two_sources_to_equal_questions_are_not_nearer_than_others():
    """Each question moves both sources' answers alike: over all pairs that would pull the energy below 0."""
    found = []
    for seed in range(200):
        z_nd, sources, q = corpus((0, 0), 12, seed=seed, effect=3.0)
        first = sources == "s0"
        order = np.concatenate([np.flatnonzero(first), np.flatnonzero(~first)])
        found.append(distances.energy(z_nd[first], z_nd[~first], q[order]))
    assert abs(np.mean(found)) < 3.5 * np.std(found) / np.sqrt(200)


def test_sums_of_any_labelling_are_those_of_its_parts():
    draws = np.random.default_rng(1)
    z_nd = noise(draws, 20)
    products, apart = distances.products_and_distances(z_nd)
    first_pn = draws.random((7, 20)) < 0.4
    energies, cosines = distances.energies(apart, np.arange(20), first_pn), distances.sums(products, first_pn).cosine()
    for first, far, cosine in zip(first_pn, energies, cosines, strict=True):
        assert far == pytest.approx(distances.energy(z_nd[first], z_nd[~first]), abs=1e-5)
        _, d_ss = distances.centroid(z_nd, first.astype(int))
        assert cosine == pytest.approx(d_ss[0, 1], abs=1e-5)


def test_energy_of_equal_distributions_is_zero_on_average_whatever_their_sizes():
    draws = np.random.default_rng(2)
    for n, m in ((5, 40), (30, 30)):
        found = [distances.energy(noise(draws, n), noise(draws, m)) for _ in range(300)]
        assert abs(np.mean(found)) < 3.5 * np.std(found) / np.sqrt(300)


@pytest.mark.parametrize("shared", [True, False])
def test_p_is_uniform_where_two_sources_are_one(shared, monkeypatch):
    """Questions move the answers more than anything else; exchanging within them, or them whole, allows for it."""
    monkeypatch.setattr(resamples, "PERMUTATIONS", 99)
    p = []
    for seed in range(300):
        z_nd, sources, q = corpus((0, 0), 12, seed=seed)
        # Not shared: s0 answers twelve questions twice, s1 twelve others.
        rows = np.flatnonzero(sources == "s0"), np.flatnonzero(sources == "s1")
        if not shared:
            sources, rows = np.where(q < 6, "s0", "s1"), (np.flatnonzero(q < 6), np.flatnonzero(q >= 6))
        drawn = distances.pair(*rows, [("question", q)], [np.arange(12)])
        assert drawn.shared == (12 if shared else 0)
        p.append(distances.test(z_nd, drawn, seed, 0)[1])
    assert uniform(np.array(p)[:, 0]) and uniform(np.array(p)[:, 1])


def test_a_planted_shift_is_found_and_the_rest_is_not():
    z_nd, sources, q = corpus((0, 0, 2.0), 60)
    out = distances.between(z_nd, sources, q * 0, [("question", q), ("question group", q // 2)], 0)
    p, q_ss = np.array(out["p"], float), np.array(out["q"], float)
    assert p[0, 2] == p[1, 2] == 0.001 and p[0, 1] > 0.05 and q_ss[0, 2] == pytest.approx(0.0015)
    energy, floor = np.array(out["energy"], float), np.array(out["floor"], float)
    assert energy[0, 2] > floor[0, 2] > 0 and energy[0, 1] < floor[0, 1]
    assert out["shared"][0][1] == 60 and out["rows"][0][1] == 120 and out["left_out"] == []


def test_the_floor_is_a_sources_distance_from_itself():
    """Most independent halves of one distribution lie below it, and twice the shift lies above."""
    draws = np.random.default_rng(3)
    z_nd = noise(draws, 80)
    far, _ = distances.floors(z_nd, np.arange(80), np.zeros(80), 0)
    fresh = [distances.energy(noise(draws, 40), noise(draws, 40)) for _ in range(200)]
    assert 0.85 < np.mean(np.array(fresh) < far) <= 1
    assert distances.floors(z_nd, np.zeros(80), np.zeros(80), 0) is None


def test_either_half_has_half_of_each_corpus():
    """Two corpora far apart: were a half of one of them alone, the floor would be their distance."""
    draws, corpora = np.random.default_rng(4), np.arange(80) % 2
    z_nd = unit(draws.normal(size=(80, 6)) + 4 * np.eye(6)[corpora])
    apart, _ = distances.floors(z_nd, np.arange(80), corpora, 0)
    mixed, _ = distances.floors(z_nd, np.arange(80), corpora * 0, 0)
    assert apart < mixed / 2 and apart < distances.energy(z_nd[::2], z_nd[1::2]) / 10


def test_large_sources_are_compared_on_whole_questions_within_bounds():
    q = np.repeat(np.arange(150), 6)  # three rows a question and source
    rows = np.flatnonzero(np.arange(900) % 2 == 0), np.flatnonzero(np.arange(900) % 2)
    rank = np.random.default_rng(0).permutation(150)
    drawn = distances.pair(*rows, [("question", q)], [rank])
    assert drawn.size == 198 and len(drawn.rows) == 396 and drawn.shared == 66
    assert set(drawn.cells) == set(np.flatnonzero(rank < 66))
    whole = distances.pair(*rows, [("question", q), ("group", q * 0)], [rank * 0, np.zeros(1, int)])
    assert whole.size == 200


def test_sources_of_two_languages_meet_in_their_question_groups():
    q = np.concatenate([np.arange(20), np.arange(20) + 100])
    drawn = distances.pair(np.arange(20), np.arange(20, 40), [("question", q), ("group", q % 10)], [np.arange(120)] * 2)
    assert (drawn.unit, drawn.shared) == ("group", 10)


def test_a_source_with_too_few_rows_is_named_and_left_out():
    z_nd, sources, q = corpus((0, 0, 0), 20)
    keep = (sources != "s1") | (q < 4)
    out = distances.between(z_nd[keep], sources[keep], q[keep] * 0, [("question", q[keep]), ("group", q[keep])], 0)
    assert out["left_out"] == ["s1"] and out["p"][0][1] is None and out["q"][0][1] is None
    assert out["p"][0][2] is not None and out["centroid"][0][1] > 0


def test_one_source_alone_has_no_pair():
    z_nd, sources, q = corpus((0,), 10)
    out = distances.between(z_nd, sources, q * 0, [("question", q), ("group", q)], 0)
    assert out["centroid"] == [[0]] and out["p"] == [[None]] and out["linkage"] == out["support"] == []


def test_q_is_scipys_over_the_tested_pairs():
    draws = np.random.default_rng(0)
    p_ss = np.full((6, 6), np.nan)
    i, j = np.triu_indices(6, 1)
    p_ss[i, j] = p_ss[j, i] = draws.random(15) ** 3
    p_ss[2] = p_ss[:, 2] = np.nan
    q_ss = distances.fdr(p_ss)
    there = np.isfinite(p_ss[i, j])
    np.testing.assert_allclose(q_ss[i, j][there], stats.false_discovery_control(p_ss[i, j][there]))
    assert np.isnan(q_ss[2]).all() and there.sum() == 10
    np.testing.assert_array_equal(q_ss, q_ss.T)


def test_distances_of_centroids():
    z_nd = np.array([[1, 0], [1, 0], [0, 1], [-1, 0]], np.float32)
    names, d_ss = distances.centroid(z_nd, ["x", "x", "y", "z"])
    assert names == ["x", "y", "z"]
    np.testing.assert_allclose(d_ss, [[0, 1, 2], [1, 0, 1], [2, 1, 0]], atol=1e-12)


def test_support_is_full_for_clear_groups_and_low_for_none():
    draws = np.random.default_rng(0)
    home = np.repeat(np.eye(8)[:2], 3, axis=0) * 4  # two groups of three
    z_nd = unit(np.tile(home, (50, 1)) + draws.normal(size=(300, 8)))
    sources, q = np.tile([f"s{i}" for i in range(6)], 50), np.repeat(np.arange(50), 6)
    tree, support = dendrogram.support(z_nd, sources, q, 0)
    found = dict(zip(dendrogram.clades(tree), support, strict=True))
    assert found[0b000111] == found[0b111000] == found[0b111111] == 1
    assert min(found.values()) < 0.8  # within a group the order is by chance


def test_clades_are_the_leaves_under_each_node():
    d_ss = np.array([[0, 1, 9, 9], [1, 0, 9, 9], [9, 9, 0, 2], [9, 9, 2, 0]], float)
    assert dendrogram.clades(dendrogram.linkage(d_ss)) == [0b0011, 0b1100, 0b1111]
