"""How far apart before and after would be if nothing had changed: their noise band, of the size that they have.

Random halves of one source's questions would not give it: they differ in their questions, which before and after do
not, and in a half the noise is twice a whole's. There are two ways:

  answers    Where most questions have several answers of before, these are dealt into two halves within each question.
             A half has half the rows. For vectors of mean μ and noise variance σ² a distance D of mean directions has
             odds D / (1 - D) of σ² (1/n + 1/m) / 2 : |μ|², and energies of equal distributions go with 1/n + 1/m, too;
             so both come to the size of before and after by the factor c = (1/n + 1/m) / (1/h + 1/h').
  questions  Else before and after change places in a random half of the questions. Each side is then half before and
             half after, so that a shift which all questions have cancels; each question is on both sides, and c is 1
             where either gave as many answers to each. What moved differently in different questions stays in: the
             band is then rather too wide than too narrow.

A band is widened for few questions as an interval is; from ten questions on it held 93 to 96 of 100 repetitions.
"""

import dataclasses

import numpy as np

from univar_jax.statistics import distances, nearest, resamples

# Labellings behind a band; its ends move by some .05 of its width from seed to seed.
LABELLINGS = 1000
_INSIDE = 0.95


@dataclasses.dataclass(frozen=True)
class Noise:
    """Labellings under which nothing changed.

    Attributes:
      rows: int [n] of the table.
      first_hn: bool [h, n] which of them are on the first side.
      cells: int [n].
      factor: c, which brings a side's noise to that of before and after.
      of: "answers" or "questions", the two ways above.
    """

    rows: np.ndarray
    first_hn: np.ndarray
    cells: np.ndarray
    factor: float
    of: str


def labelled(drawn: distances.Pair, seed: int, number: int) -> Noise:
    """The labellings for a pair, whose first part is before; `number` is the stream's."""
    lot = resamples.draws(seed, resamples.NOISE, number)
    size, other = drawn.size, len(drawn.rows) - drawn.size
    cells, times = np.unique(drawn.cells[:size], return_counts=True)
    again = np.isin(drawn.cells[:size], cells[times > 1])
    if 2 * again.sum() >= size and (times > 1).sum() >= nearest.MIN_GROUPS:
        kept, of = np.flatnonzero(again), "answers"
        first_hn = _dealt(drawn.cells[kept], lot)
    else:
        kept, of = _evenly(drawn), "questions"
        code_n = np.unique(drawn.cells[kept], return_inverse=True)[1]
        traded_hc = lot.random((LABELLINGS, code_n.max() + 1)).argsort(1).argsort(1) % 2 == 0
        first_hn = (kept < size) ^ traded_hc[:, code_n]
    side = first_hn.sum(1).mean()
    factor = (1 / size + 1 / other) / (1 / side + 1 / (len(kept) - side))
    return Noise(drawn.rows[kept], first_hn, drawn.cells[kept], float(factor), of)


def _dealt(cell_n: np.ndarray, lot: np.random.Generator) -> np.ndarray:
    """Rows dealt to two sides in turn within each cell, in a random order, from a random side; bool [h, n]."""
    order_n, start_n, code_n = _runs(cell_n)
    turn_hn = np.argsort(code_n + lot.random((LABELLINGS, len(cell_n))), axis=1)
    coin_hc = lot.integers(2, size=(LABELLINGS, code_n.max() + 1))
    side_hn = (np.arange(len(cell_n)) - start_n + coin_hc[:, code_n]) % 2 == 0
    out = np.empty(turn_hn.shape, bool)
    np.put_along_axis(out, order_n[turn_hn], side_hn, axis=1)
    return out


def _runs(cell_n: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows in the order of their cells, and for each place there where its cell starts and the cell's number."""
    order_n = np.argsort(cell_n, kind="stable")
    _, first_c, code_n = np.unique(cell_n[order_n], return_index=True, return_inverse=True)
    return order_n, first_c[code_n], code_n


def _evenly(drawn: distances.Pair) -> np.ndarray:
    """Places of as many rows of before as of after in each cell: a trade must not move a question's weight."""
    after_n = np.arange(len(drawn.rows)) >= drawn.size
    nth_n, counts = np.empty(len(after_n), int), []
    for side in (False, True):
        at = np.flatnonzero(after_n == side)
        order_m, start_m, _ = _runs(drawn.cells[at])
        nth_n[at[order_m]] = np.arange(len(at)) - start_m
        counts.append(np.bincount(drawn.cells[at], minlength=drawn.cells.max() + 1))
    return np.flatnonzero(nth_n < np.minimum(*counts)[drawn.cells])


def bands(z_nd: np.ndarray, found: Noise) -> tuple[list[float], list[float]]:
    """95 % noise bands of shift and energy, [lo, hi] each, wider for few questions as intervals are.

    Args:
      z_nd: float [n, d] of all rows.
      found: the pair's labellings.
    """
    products, apart = distances.products_and_distances(z_nd[found.rows])
    d_h, c = distances.sums(products, found.first_hn).cosine(), found.factor
    # Odds times c; from 1 on the sides have no common direction, and odds no meaning.
    shift_h = np.where(d_h < 1, c * d_h / (1 - (1 - c) * np.minimum(d_h, 1)), d_h)
    energy_h = c * distances.energies(apart, found.cells, found.first_hn)
    cells = len(np.unique(found.cells))
    return nearest.interval(shift_h, cells), nearest.interval(energy_h, cells)


def ellipse(xy_n2: np.ndarray, found: Noise) -> tuple[float, float, float]:
    """Where 95 % of after's centroids would lie on a map around before's if nothing had changed.

    Args:
      xy_n2: float [n, 2] places of all rows, NaN for rows that are not drawn.
      found: the pair's labellings.

    Returns:
      Two diameters, in the map's units, and the angle of the first to the x-axis in degrees.
    """
    there = np.isfinite(xy_n2[found.rows, 0])
    if not there.any():
        return 0.0, 0.0, 0.0
    xy_m2, first_hm = xy_n2[found.rows[there]], found.first_hn[:, there].astype(float)
    mean = lambda side_hm: side_hm @ xy_m2 / np.maximum(side_hm.sum(1, keepdims=True), 1)  # noqa: E731
    step_h2 = np.sqrt(found.factor) * (mean(first_hm) - mean(1 - first_hm))
    spread_2, axis_22 = np.linalg.eigh(step_h2.T @ step_h2 / len(step_h2))
    scale_2 = np.sqrt(np.maximum(spread_2, 1e-18))
    reach = np.quantile(np.linalg.norm(step_h2 @ axis_22 / scale_2, axis=1), _INSIDE)
    wide, narrow = (float(2 * reach * scale_2[i]) for i in (1, 0))
    return wide, narrow, float(np.degrees(np.arctan2(axis_22[1, 1], axis_22[0, 1])))
