"""Chance, counted: streams of random numbers, bootstrap intervals, labels exchanged within questions; numpy alone.

Rows that answer one question are alike in all sources. So intervals resample whole question groups, never single
rows, and a test exchanges labels within a question, where under its hypothesis they mean nothing.
"""

from collections.abc import Iterator, Sequence

import numpy as np

# The ends of a 95 % interval then move by some .03 of its width from seed to seed.
RESAMPLES = 2000
# The smallest p is .001, and one near .05 has a standard error of .007.
PERMUTATIONS = 999
# Percentile intervals from fewer groups than this are too narrow to be trusted.
FEW_GROUPS = 30
# One stream of random numbers a purpose, so that none moves when another draws more.
PROBE, BOOTSTRAP, MAP, BY_COUNT, MATCHED, LENGTHS, LABELS, CONTROL = range(1, 9)
ROWS, HALVES, EXCHANGED, SUPPORT, MANTEL, QUALITY, TEXTS, PLACED = range(9, 17)
NOISE, SHIFTED, TOWARD = range(17, 20)
ROLES, RELABELLED, STEERED, FOLDS, UNRELATED = range(60, 65)
APART, MOVED, COMPARED = range(40, 43)
# Numbers that are drawn at a time: 32 MiB.
_AT_ONCE = 2**22

Unit = tuple[str, np.ndarray]  # a name, and the cell of each row


def draws(seed: int, purpose: int, number: int = 0) -> np.random.Generator:
    """A counter-based stream: equal on every machine, whatever else was drawn."""
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, 0, number]))


def _means(values_n: np.ndarray, groups_n: Sequence[str], stream: np.random.Generator, resamples: int) -> np.ndarray:
    """The mean of each resample of whole groups with replacement, [resamples]; at least two groups."""
    _, code_n = np.unique(np.asarray(groups_n), return_inverse=True)
    size_g = np.bincount(code_n).astype(float)
    sum_g = np.bincount(code_n, weights=values_n)
    means, block = [], max(1, _AT_ONCE // len(size_g))
    for start in range(0, resamples, block):
        drawn = stream.integers(len(size_g), size=(min(block, resamples - start), len(size_g)))
        means.append(sum_g[drawn].sum(1) / size_g[drawn].sum(1))
    return np.concatenate(means)


def groups_of(groups_n: Sequence[str]) -> int:
    """How many different groups there are."""
    return len(np.unique(np.asarray(groups_n)))


def interval(
    values_n: np.ndarray, groups_n: Sequence[str], seed: int = 0, resamples: int = RESAMPLES
) -> list[float] | None:
    """95 % percentile bootstrap interval of the mean, whole groups resampled with replacement.

    Given the difference of two encoders on the same rows, it is the paired interval of that difference.

    Args:
      values_n: [n] a number a row, for example 1.0 where the prediction was right.
      groups_n: [n] the question group of each row.

    Returns:
      [lo, hi], or None for fewer than two groups, from which no spread can be learnt.
    """
    if groups_of(groups_n) < 2:
        return None
    means_r = _means(values_n, groups_n, draws(seed, BOOTSTRAP), resamples)
    return [float(q) for q in np.quantile(means_r, [0.025, 0.975])]


def paired(right_m: np.ndarray, other_m: np.ndarray, groups_m: Sequence[str], seed: int = 0) -> dict:
    """Difference of two accuracies on the same scored rows, with its interval and a verdict.

    Args:
      right_m: float [m], 1.0 where the first encoder was right.
      other_m: float [m], the same for what it is compared with.
      groups_m: [m] question groups.

    Returns:
      difference, ci, groups and verdict: "above" or "below" where the interval leaves 0 out, else
      "no difference shown", which is also said where there is no interval.
    """
    ci = interval(right_m - other_m, groups_m, seed)
    verdict = "no difference shown"
    if ci is not None and not ci[0] <= 0 <= ci[1]:
        verdict = "above" if ci[0] > 0 else "below"
    difference = float(np.mean(right_m) - np.mean(other_m))
    return {"difference": difference, "ci": ci, "groups": groups_of(groups_m), "verdict": verdict}


def paired_ratio(over_m: np.ndarray, under_m: np.ndarray, groups_m: Sequence[str], seed: int = 0) -> dict:
    """Mean of one number / mean of another of the same rows, with a 95 % percentile bootstrap interval.

    Both are resampled together. The caller sees to it that the lower one is clearly not 0.

    Args:
      over_m, under_m: float [m].
      groups_m: [m] question groups, at least two.

    Returns:
      ratio and ci, whose ends are None where they would be infinite.
    """
    over_r, under_r = (_means(x_m, groups_m, draws(seed, BOOTSTRAP), RESAMPLES) for x_m in (over_m, under_m))
    ratio_r = np.divide(over_r, under_r, out=np.full(RESAMPLES, np.inf), where=under_r != 0)
    ends = np.quantile(ratio_r, [0.025, 0.975], method="inverted_cdf")
    found = float(np.mean(over_m) / np.mean(under_m))
    return {"ratio": found, "ci": [float(q) if np.isfinite(q) else None for q in ends]}


def ratio(
    right_m: np.ndarray, groups_m: Sequence[str], control_m: np.ndarray, control_groups_m: Sequence[str], seed: int = 0
) -> dict:
    """Accuracy over values / accuracy over control, with a 95 % percentile bootstrap interval.

    The groups of both sides are resampled, each by itself: their questions have nothing to do with one another.

    Args:
      right_m: float [m], 1.0 where a row about values was named rightly.
      groups_m: [m] question groups.
      control_m, control_groups_m: the same for the control rows.

    Returns:
      ratio and ci; a number that would be infinite is None (no control row was named rightly), and so is ci
      where one side has fewer than two groups.
    """
    control = float(np.mean(control_m))
    out = {"ratio": float(np.mean(right_m)) / control if control else None, "ci": None}
    if min(groups_of(groups_m), groups_of(control_groups_m)) < 2:
        return out
    over_r = _means(right_m, groups_m, draws(seed, BOOTSTRAP), RESAMPLES)
    under_r = _means(control_m, control_groups_m, draws(seed, CONTROL), RESAMPLES)
    ratio_r = np.divide(over_r, under_r, out=np.full(RESAMPLES, np.inf), where=under_r > 0)
    # No interpolation: between a number and infinity there is nothing.
    ends = np.quantile(ratio_r, [0.025, 0.975], method="inverted_cdf")
    return out | {"ci": [float(q) if np.isfinite(q) else None for q in ends]}


def exchanged(cells_n: np.ndarray, count: int, stream: np.random.Generator) -> Iterator[np.ndarray]:
    """Random permutations of the rows that leave each row in its cell.

    Args:
      cells_n: int [n] the cell of each row.

    Yields:
      int [p, n] some permutations at a time, `count` in all: row i takes the label of row p[i].
    """
    order_n = np.argsort(cells_n, kind="stable")
    sorted_n = np.asarray(cells_n, np.float64)[order_n]
    block = max(1, _AT_ONCE // max(1, len(order_n)))
    for start in range(0, count, block):
        # Cells are whole numbers, so that a number below 1 added to each shuffles rows inside them only.
        key_pn = sorted_n + stream.random((min(block, count - start), len(order_n)))
        taken_pn = np.empty(key_pn.shape, np.intp)
        taken_pn[:, order_n] = order_n[np.argsort(key_pn, axis=1)]
        yield taken_pn


def exchanged_whole(cells_n: np.ndarray, count: int, stream: np.random.Generator) -> Iterator[np.ndarray]:
    """As `exchanged`, but whole cells change places: each row of a cell takes the label of another cell's first row."""
    _, first_c, code_n = np.unique(cells_n, return_index=True, return_inverse=True)
    block = max(1, _AT_ONCE // max(1, len(code_n)))
    for start in range(0, count, block):
        size = min(block, count - start)
        order_pc = np.argsort(stream.random((size, len(first_c))), axis=1)
        yield first_c[order_pc][:, code_n]


def mixed_share(labels_n: np.ndarray, cells_n: np.ndarray) -> float:
    """The share of rows in whose cell there is another label too."""
    pairs_p2 = np.unique(np.stack([cells_n, labels_n], 1), axis=0)
    cells_c, labels_in_c = np.unique(pairs_p2[:, 0], return_counts=True)
    return float(np.isin(cells_n, cells_c[labels_in_c > 1]).mean()) if len(cells_n) else 0.0


def label_p(voted_m: np.ndarray, truth_m: np.ndarray, units: Sequence[Unit], seed: int = 0) -> tuple[float, str]:
    """Permutation p of an accuracy: how often exchanged labels are met as often as the true ones, or more often.

    What was predicted stays, the labels of the scored rows are exchanged within cells, so the test is exact given
    the fit side: p = (1 + #{permuted ≥ observed}) / (1 + PERMUTATIONS), never 0 (Phipson & Smyth 2010).

    Args:
      voted_m: int [m] predicted labels.
      truth_m: int [m] the labels.
      units: the cells that may be used, int [m] each, the finest first. The first is taken in which half of the rows
        have another label beside them, else the one in which most have; where none has any, labels of whole cells of
        the last unit change places.

    Returns:
      p, and the unit: its name, or "whole …" where whole cells changed places.
    """
    share_u = [mixed_share(truth_m, cells_m) for _, cells_m in units]
    chosen = next((i for i, share in enumerate(share_u) if share >= 0.5), int(np.argmax(share_u)))
    exchange, (name, cells_m) = exchanged, units[chosen]
    if not share_u[chosen]:
        exchange, (name, cells_m) = exchanged_whole, (f"whole {units[-1][0]}", units[-1][1])
    hits = np.sum(voted_m == truth_m)
    permuted = exchange(cells_m, PERMUTATIONS, draws(seed, LABELS))
    reached = sum(int(np.sum((truth_m[taken_pm] == voted_m).sum(1) >= hits)) for taken_pm in permuted)
    return (1 + reached) / (1 + PERMUTATIONS), name
