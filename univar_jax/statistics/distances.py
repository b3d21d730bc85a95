"""How far the sources are from one another, how far a source is from itself, and whether that could be chance.

Of each two sources: the cosine distance of their mean directions, and the energy distance of their distributions
(Székely & Rizzo 2013), E = 2 E|X - Y| - E|X - X'| - E|Y - Y'| with |·| Euclidean, which is 0 only for equal ones.
Answers to one question are alike, whoever gives them, so all three means are over answers to different questions.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats

from univar_jax.statistics import dendrogram, resamples

# Rows of a source in one comparison; 128 sources are 8,128 comparisons of 50 ms each, and a test on 200 against 200
# rows finds energies of about .01.
MAX_ROWS = 200
# Below this many rows of a source the smallest p that labels can reach is not worth having.
MIN_ROWS = 5
# Random halves of a source; 19 of 20 of them are nearer than its noise floor.
HALVES = 200
_FLOOR = 0.95


@dataclasses.dataclass(frozen=True)
class Sums:
    """Sums over the pairs within the first part, between both, and within the second, for each of some labellings.

    Attributes:
      uu, uv, vv: float [p].
      n, m: rows of the two parts, float [p].
    """

    uu: np.ndarray
    uv: np.ndarray
    vv: np.ndarray
    n: np.ndarray
    m: np.ndarray

    def over(self, pairs: "Sums") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Means, where `pairs` are the sums of how often each pair counts; 0 over none."""
        of = ((self.uu, pairs.uu), (self.uv, pairs.uv), (self.vv, pairs.vv))
        return tuple(total / np.maximum(count, 1) for total, count in of)

    def cosine(self) -> np.ndarray:
        """1 - cos of the mean vectors, of sums of products; 1 where one of them is zero."""
        size = np.sqrt(np.maximum(self.uu, 0) * np.maximum(self.vv, 0))
        return 1 - np.divide(self.uv, size, out=np.zeros_like(self.uv), where=size > 1e-9)


def sums(pairs_nn: np.ndarray, first_pn: np.ndarray) -> Sums:
    """Sums of a symmetric matrix by the labels of its rows.

    One product for all labellings u: with r = M1, uᵀMv = uᵀr - uᵀMu and vᵀMv = 1ᵀr - 2uᵀr + uᵀMu.

    Args:
      pairs_nn: float [n, n].
      first_pn: [p, n] 1 where a row belongs to the first part, else 0.
    """
    u_pn = first_pn.astype(pairs_nn.dtype)
    r_n = pairs_nn.sum(1, dtype=np.float64)
    uu = np.einsum("pn,pn->p", u_pn @ pairs_nn, u_pn, dtype=np.float64)
    ur, n = u_pn @ r_n, u_pn.sum(1, dtype=np.float64)
    return Sums(uu, ur - uu, r_n.sum() - 2 * ur + uu, n, u_pn.shape[1] - n)


def products_and_distances(z_nd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """z·z' and |z - z'| of unit vectors, float32 [n, n] each."""
    z_nd = z_nd.astype(np.float64)  # the distance of near ones is a difference of almost equal numbers
    g_nn = z_nd @ z_nd.T
    d_nn = np.sqrt(np.maximum(2 - 2 * g_nn, 0))
    np.fill_diagonal(d_nn, 0)
    return g_nn.astype(np.float32), d_nn.astype(np.float32)


def energies(d_nn: np.ndarray, cells_n: np.ndarray, first_pn: np.ndarray) -> np.ndarray:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| over pairs of rows in different cells, for each of some labellings.

    So few rows are not farther apart than many, and equal distributions give numbers around 0, some below it.

    Args:
      d_nn: float [n, n] distances.
      cells_n: [n] the question, or question group, of each row.
      first_pn: bool [p, n] which rows belong to the first part.
    """
    uu, uv, vv = means(d_nn, cells_n, first_pn)
    return 2 * uv - uu - vv


def means(pairs_nn: np.ndarray, cells_n: np.ndarray, first_pn: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means [p] of a symmetric matrix within the first part, between both and within the second; args as `energies`."""
    apart_nn = (cells_n[:, None] != cells_n[None]).astype(pairs_nn.dtype)
    return sums(pairs_nn * apart_nn, first_pn).over(sums(apart_nn, first_pn))


def energy(x_nd: np.ndarray, y_md: np.ndarray, cells_n: np.ndarray | None = None) -> float:
    """Energy distance of unit vectors, float [n, d] and [m, d]; each row is a cell where none are given."""
    _, d_nn = products_and_distances(np.concatenate([x_nd, y_md]))
    cells_n = np.arange(len(d_nn)) if cells_n is None else cells_n
    return float(energies(d_nn.astype(np.float64), cells_n, np.arange(len(d_nn))[None] < len(x_nd))[0])


def centroid(z_nd: np.ndarray, sources_n: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Cosine distance of the sources' mean directions.

    Args:
      z_nd: float [n, d] unit vectors.
      sources_n: [n].

    Returns:
      The sources in sorted order and float64 [s, s] in [0, 2], symmetric, with an exact zero diagonal.
    """
    names, code_n = np.unique(np.asarray(sources_n), return_inverse=True)
    return names.tolist(), dendrogram.centroids(z_nd.astype(np.float64), code_n, np.ones(len(code_n)), len(names))


def floors(z_nd: np.ndarray, groups_n: np.ndarray, corpora_n: np.ndarray, seed: int) -> tuple[float, float] | None:
    """How far one source is from itself: the 95 % quantile over random halves of its question groups.

    A half has half the rows, and other questions than its counterpart, so that a floor is rather too high than too
    low beside the distance of two sources over questions that both answered.

    Args:
      z_nd: float [n, d] vectors of one source.
      groups_n: [n] question groups.
      corpora_n: int [n] the corpus of each, of which either half has its half.

    Returns:
      (energy, cosine), or None for fewer than two groups.
    """
    cells, first_c, code_n = np.unique(groups_n, return_index=True, return_inverse=True)
    if len(cells) < 2:
        return None
    lot_hg = resamples.draws(seed, resamples.HALVES).random((HALVES, len(cells)))
    # Every second group of an order by corpus, then by lot.
    first_hg = (corpora_n[first_c] + lot_hg).argsort(1).argsort(1) % 2 == 0
    products, apart = products_and_distances(z_nd)
    halves = first_hg[:, code_n]
    far_h2 = np.stack([energies(apart, code_n, halves), sums(products, halves).cosine()], 1)
    return tuple(np.quantile(far_h2, _FLOOR, axis=0).tolist())


def own_floors(
    z_nd: np.ndarray, rows: np.ndarray, groups_n: np.ndarray, rank_g: np.ndarray, corpora_n: np.ndarray, seed: int
) -> tuple[float, float]:
    """`floors` of the rows [m] of one source, at most 2 MAX_ROWS of them by the groups' order; NaN where none."""
    rows = rows[np.argsort(rank_g[groups_n[rows]], kind="stable")[: 2 * MAX_ROWS]]
    return floors(z_nd[rows], groups_n[rows], corpora_n[rows], seed) or (np.nan, np.nan)


def by_lot(units: Sequence[resamples.Unit], seed: int) -> tuple[list[resamples.Unit], list[np.ndarray]]:
    """The units with their cells as whole numbers from 0, and for each an order of its cells, as `pair` takes them."""
    coded = [(name, np.unique(cells, return_inverse=True)[1]) for name, cells in units]
    streams = (resamples.draws(seed, resamples.ROWS, number) for number in range(len(units)))
    lots = [s.permutation(cell_n.max(initial=-1) + 1) for s, (_, cell_n) in zip(streams, coded, strict=True)]
    return coded, lots


@dataclasses.dataclass(frozen=True)
class Pair:
    """The rows of two sources that are compared, and what labels are exchanged within.

    Attributes:
      rows: int [n], those of the first source before those of the second.
      size: how many are the first one's.
      cells: int [n].
      shared: questions, or question groups, that both answered; 0 = none, all rows are compared.
      unit: what was shared.
    """

    rows: np.ndarray
    size: int
    cells: np.ndarray
    shared: int
    unit: str


def pair(
    a: np.ndarray,
    b: np.ndarray,
    units: Sequence[resamples.Unit],
    rank: Sequence[np.ndarray],
    most: int = MAX_ROWS,
) -> Pair:
    """Rows a [n] and b [m] that answer the same questions, at most `most` of each.

    Args:
      a, b: rows of the two sources.
      units: the cells of all rows, int each, the finest first; the first one counts in which both have MIN_ROWS.
      rank: for each unit an order of its cells by lot, in which they are taken: for all pairs the same one.
    """
    for (name, cell_n), rank_c in zip(units, rank, strict=True):
        both = np.intersect1d(cell_n[a], cell_n[b])
        in_a, in_b = a[np.isin(cell_n[a], both)], b[np.isin(cell_n[b], both)]
        if min(len(in_a), len(in_b)) < MIN_ROWS or len(both) < 2:
            continue
        counts = [np.bincount(rank_c[cell_n[rows]], minlength=len(rank_c)) for rows in (in_a, in_b)]
        # Whole cells while there is room; of a first cell that is too large, its first rows.
        last = max(np.searchsorted(np.cumsum(np.maximum(*counts)), most, side="right"), rank_c[both].min() + 1)
        in_a, in_b = (rows[rank_c[cell_n[rows]] < last][:most] for rows in (in_a, in_b))
        rows = np.concatenate([in_a, in_b])
        return Pair(rows, len(in_a), cell_n[rows], len(np.intersect1d(cell_n[in_a], cell_n[in_b])), name)
    (_, cell_n), rank_c = units[-1], rank[-1]
    # Nothing is shared: rows of whole groups by the same lot, and whole groups change places.
    some = [rows[np.argsort(rank_c[cell_n[rows]], kind="stable")[:most]] for rows in (a, b)]
    rows = np.concatenate(some)
    return Pair(rows, len(some[0]), cell_n[rows], 0, "")


def test(z_nd: np.ndarray, drawn: Pair, seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Energy and cosine distance of a pair's rows, [2], and their permutation p-values, [2].

    p = (1 + #{permuted ≥ observed}) / (1 + PERMUTATIONS), labels exchanged within cells, or whole cells where the
    two sources share none.
    """
    stream = resamples.draws(seed, resamples.EXCHANGED, number)
    exchange = resamples.exchanged if drawn.shared else resamples.exchanged_whole
    first_n = np.arange(len(drawn.rows)) < drawn.size
    taken = np.concatenate(list(exchange(drawn.cells, resamples.PERMUTATIONS, stream)))
    first_pn = np.concatenate([first_n[None], first_n[taken]])
    # An exchange of whole cells may give all rows to one side: then nothing is apart.
    first_pn = first_pn[(first_pn.any(1)) & (~first_pn).any(1)]
    products, apart = products_and_distances(z_nd[drawn.rows])
    found = np.stack([energies(apart, drawn.cells, first_pn), sums(products, first_pn).cosine()])
    # Equal labellings give numbers that differ in the last digit of float32.
    reached = (found >= found[:, :1] - 1e-6 * np.abs(found[:, :1]) - 1e-7).sum(1)
    return found[:, 0], reached / (1 + resamples.PERMUTATIONS)


def between(
    z_nd: np.ndarray, sources_n: np.ndarray, corpora_n: np.ndarray, units: Sequence[resamples.Unit], seed: int
) -> dict:
    """Distances of all pairs of sources, their noise floors, p and q.

    Args:
      z_nd: float [n, d] unit vectors.
      sources_n: [n].
      corpora_n: [n].
      units: [n] each: questions, then question groups.

    Returns:
      The keys of metrics.json's `distances`, but `mantel`: names [s], left_out, and symmetric [s, s] lists with None
      where a pair was not tested. `centroid` is over all rows; `centroid_shared`, `energy` and what is tested over
      questions that both answered, where there are any.
    """
    names, d_ss = centroid(z_nd, sources_n)
    rows_s = [np.flatnonzero(sources_n == name) for name in names]
    coded, rank = by_lot(units, seed)
    enough = [i for i, rows in enumerate(rows_s) if len(rows) >= MIN_ROWS]
    size = (len(names), len(names))
    found = {key: np.full(size, np.nan) for key in ("energy", "centroid_shared", "p", "centroid_p", "shared", "rows")}
    floor_s2 = np.full((len(names), 2), np.nan)
    corpus_n = np.unique(corpora_n, return_inverse=True)[1]
    for i in enough:
        floor_s2[i] = own_floors(z_nd, rows_s[i], coded[-1][1], rank[-1], corpus_n, seed)
    for number, (i, j) in enumerate((i, j) for i in enough for j in enough if i < j):
        drawn = pair(rows_s[i], rows_s[j], coded, rank)
        far, p = test(z_nd, drawn, seed, number)
        for key, value in zip(found, (*far, *p, drawn.shared, len(drawn.rows)), strict=True):
            found[key][i, j] = found[key][j, i] = value
    found |= {"floor": _larger(floor_s2[:, 0]), "centroid_floor": _larger(floor_s2[:, 1]), "centroid": d_ss}
    found |= {"q": fdr(found["p"]), "centroid_q": fdr(found["centroid_p"])}
    tree, support = dendrogram.support(z_nd, sources_n, units[-1][1], seed)
    out = {"names": names, "left_out": [name for i, name in enumerate(names) if i not in enough]}
    out |= {"linkage": [[round(v, 6) for v in row] for row in tree.tolist()], "support": support}
    return out | {key: _plain(value) for key, value in found.items()}


def _larger(floor_s: np.ndarray) -> np.ndarray:
    floor_ss = np.maximum(floor_s[:, None], floor_s[None])
    np.fill_diagonal(floor_ss, np.nan)
    return floor_ss


def fdr(p_ss: np.ndarray) -> np.ndarray:
    """q-values of Benjamini and Hochberg (1995) over the tested pairs, float [s, s]; NaN where p is."""
    i, j = np.triu_indices(len(p_ss), 1)
    tested = np.isfinite(p_ss[i, j])
    q_ss = np.full(p_ss.shape, np.nan)
    if tested.any():
        i, j = i[tested], j[tested]
        q_ss[i, j] = q_ss[j, i] = stats.false_discovery_control(p_ss[i, j])
    return q_ss


def _plain(x_ss: np.ndarray) -> list[list[float | None]]:
    """Lists for JSON, six digits, None for NaN."""
    return [[None if np.isnan(v) else round(float(v), 6) for v in row] for row in x_ss]
