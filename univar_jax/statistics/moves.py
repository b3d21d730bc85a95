"""How far one source is from another as both are resampled, and how much of a distance a third has gone.

Two distances of sources x and y, both of mean kernels m over pairs of rows that answer questions of different groups:

    energy      2 m_xy - m_xx - m_yy                of |a - b|: 0 only for equal distributions
    centroid    1 - m_xy / √(m_xx m_yy)             of a·b: the cosine distance of the mean directions

A resample counts each group as often as it was drawn. Pairs within a group are left out always: two copies of one row
would be at no distance, and the interval would lie beside the figure. So neither distance grows as rows get fewer, and
both are around 0, some below it, for sources that are one. For small shifts both grow as their square.
"""

import dataclasses
import math

import numpy as np

from univar_jax.statistics import distances, resamples

NAMES = ("energy", "centroid")
# Percentile intervals from fewer groups than this mean nothing.
MIN_GROUPS = 10
NOT_ENOUGH, NOT_APART = "not enough", "before is not apart from the ceiling"
TOWARDS, AWAY, NO_MOVE = "towards the ceiling", "away from the ceiling", "no move shown"
_ENDS = (0.025, 0.975)


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of one source, sorted by group.

    Attributes:
      z_nd: float64 unit vectors.
      groups_n: int; 0, 1, … and all of them are there.
      questions_n: int.
    """

    z_nd: np.ndarray
    groups_n: np.ndarray
    questions_n: np.ndarray

    def __len__(self) -> int:
        return len(self.z_nd)

    def __add__(self, other: "Rows") -> "Rows":
        """Both, one after the other and no longer sorted."""
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Rows(*map(np.concatenate, pairs))


def kernels(x: Rows, y: Rows) -> np.ndarray:
    """|a - b| and a·b of all pairs of unit vectors, float [2, n, m]."""
    g_nm = x.z_nd @ y.z_nd.T
    return np.stack([np.sqrt(np.maximum(2 - 2 * g_nm, 0)), g_nm])


def distance(uu: np.ndarray, uv: np.ndarray, vv: np.ndarray) -> np.ndarray:
    """Both distances [2, r] of mean kernels [2, r]; a centroid without a direction is at 1."""
    size_r = np.sqrt(np.maximum(uu[1], 0) * np.maximum(vv[1], 0))
    cosine_r = np.divide(uv[1], size_r, out=np.zeros_like(size_r), where=size_r > 1e-9)
    return np.stack([2 * uv[0] - uu[0] - vv[0], 1 - cosine_r])


def counts(groups: int, seed: int) -> np.ndarray:
    """How often each group counts, float [1 + RESAMPLES, groups]: once each, then as each resample drew it."""
    stream, share_g = resamples.draws(seed, resamples.BOOTSTRAP), np.full(groups, 1 / groups)
    return np.concatenate([np.ones((1, groups)), stream.multinomial(groups, share_g, resamples.RESAMPLES)])


def means(x: Rows, y: Rows, counts_rg: np.ndarray) -> np.ndarray:
    """Mean kernels over pairs of different groups for each count of the groups, float [2, r]."""
    starts_x, starts_y = (np.searchsorted(rows.groups_n, np.arange(counts_rg.shape[1])) for rows in (x, y))
    sum_kgg = np.add.reduceat(np.add.reduceat(kernels(x, y), starts_x, axis=1), starts_y, axis=2)
    n_g, m_g = np.bincount(x.groups_n), np.bincount(y.groups_n)
    pairs_r = (counts_rg @ n_g) * (counts_rg @ m_g) - counts_rg**2 @ (n_g * m_g)
    for sum_gg in sum_kgg:
        np.fill_diagonal(sum_gg, 0)
    total_kr = [np.einsum("rg,rg->r", counts_rg @ sum_gg, counts_rg) for sum_gg in sum_kgg]
    return np.stack(total_kr) / np.maximum(pairs_r, 1)


class Sources:
    """Sources over the same groups, resampled together: each resample has the same groups of all of them."""

    def __init__(self, rows: dict[str, Rows], seed: int) -> None:
        self.rows, self.seed = rows, seed
        self.groups = int(next(iter(rows.values())).groups_n.max()) + 1
        self._counts_rg = counts(self.groups, seed)
        self._means: dict[tuple[str, str], np.ndarray] = {}

    def between(self, a: str, b: str) -> np.ndarray:
        """Both distances of two sources, [2, 1 + RESAMPLES]: the figure, then each resample's."""
        return distance(self._mean(a, a), self._mean(a, b), self._mean(b, b))

    def _mean(self, a: str, b: str) -> np.ndarray:
        if (a, b) not in self._means:
            self._means[a, b] = means(self.rows[a], self.rows[b], self._counts_rg)
        return self._means[a, b]


def labellings(rows: Rows, first: int, purpose: int, seed: int) -> np.ndarray:
    """bool [1 + PERMUTATIONS, n]: whether a row is the first source's, as it is and exchanged within questions."""
    first_n = np.arange(len(rows)) < first
    taken = resamples.exchanged(rows.questions_n, resamples.PERMUTATIONS, resamples.draws(seed, purpose))
    return np.concatenate([first_n[None], *(first_n[taken_pn] for taken_pn in taken)])


def apart(x: Rows, y: Rows, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What chance makes of the distances of two sources that are one.

    Returns:
      floor [2], the 95 % quantile of both distances as answers change sides within questions, and p [2], how often
      they reach what was found: (1 + #{permuted ≥ found}) / (1 + PERMUTATIONS).
    """
    both = x + y
    first_pn = labellings(both, len(x), resamples.APART, seed)
    found = [distances.means(k_nn, both.groups_n, first_pn) for k_nn in kernels(both, both)]
    far = distance(*(np.stack(part) for part in zip(*found, strict=True)))
    return np.quantile(far[:, 1:], 0.95, axis=1), _share(far)


def moved(before: Rows, after: Rows, ceiling: Rows, seed: int) -> np.ndarray:
    """p [2] of d(before, ceiling) - d(after, ceiling) being chance, where before and after are one.

    Their answers change sides within questions, the ceiling's stay. Two-sided.
    """
    both = before + after
    first_pn = labellings(both, len(before), resamples.MOVED, seed).astype(float)
    other_nm = (both.groups_n[:, None] != ceiling.groups_n[None]).astype(float)
    sides = (first_pn, 1 - first_pn)
    ends = [[], []]
    for k_nn, k_nm, k_mm in zip(kernels(both, both), kernels(both, ceiling), kernels(ceiling, ceiling), strict=True):
        uu, _, vv = distances.means(k_nn, both.groups_n, first_pn)
        to_n, pairs_n = (k_nm * other_nm).sum(1), other_nm.sum(1)
        _, _, own = distances.means(k_mm, ceiling.groups_n, np.zeros((1, len(ceiling))))
        for end, side_pn, within in zip(ends, sides, (uu, vv), strict=True):
            end.append((within, (side_pn @ to_n) / (side_pn @ pairs_n), np.broadcast_to(own, within.shape)))
    d_before, d_after = (distance(*(np.stack(part) for part in zip(*end, strict=True))) for end in ends)
    return _share(np.abs(d_before - d_after))


def _share(found: np.ndarray) -> np.ndarray:
    """How often columns reach the first one, itself counted in; equal labellings differ in the last digit."""
    return (found >= found[:, :1] - 1e-9).mean(1)


def groups_needed(groups: int, far: float, low: float, floor: float) -> int | None:
    """Groups from which a distance's interval would lie above what chance makes; None where there is no distance.

    An interval gets narrower as 1/√groups, and what chance makes of a distance smaller as 1/groups. So with
    s = √(groups / needed) its lower end meets the floor where far - (far - low) s = floor s².
    """
    if far <= 0:
        return None
    half = far - low
    s = 2 * far / (half + math.sqrt(half**2 + 4 * max(floor, 0) * far))
    return max(groups + 1, math.ceil(groups / s**2))


def towards(sources: Sources, before: str, after: str, ceiling: str) -> dict[str, dict]:
    """How much of the distance between before and the ceiling is gone after; keys as transfer.json's."""
    rows = [sources.rows[name] for name in (before, after, ceiling)]
    d_before, d_after = sources.between(before, ceiling), sources.between(after, ceiling)
    floors, apart_p = apart(rows[0], rows[2], sources.seed)
    moved_p = moved(*rows, sources.seed)
    out = {}
    for k, name in enumerate(NAMES):
        low, _ = ends = _interval(d_before[k])
        found = {"before": float(d_before[k, 0]), "before_ci": ends, "floor": float(floors[k])}
        found |= {"apart_p": float(apart_p[k]), "after": float(d_after[k, 0]), "after_ci": _interval(d_after[k])}
        found |= {"transfer": None, "ci": None, "moved_p": float(moved_p[k]), "groups_needed": None}
        if low > max(found["floor"], 0):
            share_r = 1 - d_after[k] / d_before[k]
            found |= {"transfer": float(share_r[0]), "ci": _interval(share_r)}
            found["verdict"] = _verdict(found["ci"], TOWARDS, AWAY, NO_MOVE)
        else:
            needed = groups_needed(sources.groups, found["before"], low, found["floor"])
            found |= {"verdict": NOT_APART, "groups_needed": needed}
        out[name] = found
    return out


def nearer(sources: Sources, before: str, after: str, teacher: str, ceiling: str) -> dict[str, dict]:
    """Whether after is nearer to the teacher than before was; keys as transfer.json's."""
    d_before, d_after, d_ceiling = (sources.between(name, teacher) for name in (before, after, ceiling))
    out = {}
    for k, name in enumerate(NAMES):
        gone_r = d_before[k] - d_after[k]
        found = {"before": float(d_before[k, 0]), "after": float(d_after[k, 0])}
        found |= {"ceiling": float(d_ceiling[k, 0]), "ceiling_ci": _interval(d_ceiling[k])}
        found |= {"nearer_by": float(gone_r[0]), "ci": _interval(gone_r)}
        out[name] = found | {"verdict": _verdict(found["ci"], "nearer", "farther", "no difference shown")}
    return out


def _interval(found_r: np.ndarray) -> list[float]:
    return [float(q) for q in np.quantile(found_r[1:], _ENDS)]


def _verdict(ci: list[float], above: str, below: str, neither: str) -> str:
    return above if ci[0] > 0 else below if ci[1] < 0 else neither
