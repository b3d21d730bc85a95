"""The causal value graph of arXiv 2501.00581: PC, edge frequencies over resampled roles, reduction, comparison.

A graph is bool [v, v]: g[i, j] is an arrow from value i to value j; both ways is an edge without a direction. PC is
causal-learn's, with Fisher's z; the numbers of its tests are found here, twice as fast and the same to the last digit.
"""

import dataclasses
import functools
import math
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
from scipy.special import ndtr, ndtri

from univar_jax.cli import UserError
from univar_jax.statistics import resamples

# Fewer roles tell nothing about how often an edge comes back: a resample often has two thirds of them only.
MIN_UNITS = 10
# Graphs of rows in which nothing is related: their mean then has an error of a fourth of their spread.
UNRELATED = 20
# Seconds between two lines on how far the resamples are.
_TOLD_EVERY = 10
# Below this many resamples another process takes longer to start than it saves.
_WORTH_A_PROCESS = 20

Array = np.ndarray


@functools.cache
def _learner() -> Callable[[Array, float], Array]:
    from causallearn.search.ConstraintBased.PC import (
        pc as learn,  # takes seconds, and the pool's processes need it alone
    )
    from causallearn.utils import cit

    class Known(cit.FisherZ):
        """Fisher's z with scipy's distribution function itself, without the checks around it."""

        def __call__(self, x: int, y: int, given: tuple[int, ...] | None = None) -> float:
            cells = (*sorted((int(x), int(y))), *sorted({int(s) for s in given or ()}))
            if cells not in self.pvalue_cache:
                inverse = np.linalg.inv(self.correlation_matrix[np.ix_(cells, cells)])
                r = -inverse[0, 1] / math.sqrt(abs(inverse[0, 0] * inverse[1, 1]))
                if abs(r) >= 1:
                    r = (1 - np.finfo(float).eps) * np.sign(r)
                z = 0.5 * math.log((1 + r) / (1 - r))
                stretch = math.sqrt(self.sample_size - len(cells) - 1)
                self.pvalue_cache[cells] = 2 * (1 - float(ndtr(stretch * abs(z))))
            return self.pvalue_cache[cells]

    cit.register_ci_test("known_fisherz", Known)

    def run(x_nv: Array, alpha: float) -> Array:
        # 1 is an arrow's head at the row's value, -1 a tail.
        ends_vv = learn(x_nv, alpha, "known_fisherz", show_progress=False).G.graph
        return (ends_vv != 0) & ~((ends_vv == 1) & (ends_vv.T == -1))

    return run


def pc(x_nv: Array, alpha: float) -> Array:
    """PC's graph of a score matrix, bool [v, v]; an edge that it leaves without a direction goes both ways.

    Args:
      x_nv: float [n, v], no column constant or a weighted sum of others, n of at least v + 2.
      alpha: an edge stays where independence is refused at this p.
    """
    return _learner()(np.ascontiguousarray(x_nv), alpha)


@dataclasses.dataclass(frozen=True)
class _Work:
    x_nv: Array
    units_n: Array
    alpha: float
    seed: int


def _resample(work: _Work, number: int) -> Array | None:
    """The graph of one resample of whole units; None where a column is constant or collinear there."""
    rows_u = np.split(np.argsort(work.units_n, kind="stable"), np.cumsum(np.bincount(work.units_n))[:-1])
    drawn = resamples.draws(work.seed, resamples.ROLES, number).integers(len(rows_u), size=len(rows_u))
    x_nv = work.x_nv[np.concatenate([rows_u[u] for u in drawn])]
    if len(x_nv) < x_nv.shape[1] + 2 or np.linalg.matrix_rank(x_nv - x_nv.mean(0)) < x_nv.shape[1]:
        return None
    return pc(x_nv, work.alpha)


def bootstrap(
    x_nv: Array, units_n: Array, alpha: float, count: int, seed: int, workers: int, told: Callable[[str], None]
) -> Array:
    """The graphs of resamples of whole units with replacement, bool [r, v, v]; the same for any number of processes.

    Args:
      x_nv: float [n, v].
      units_n: int [n] the unit of each row, numbered from 0: rows of one are not independent of one another.
      alpha: PC's.
      count: resamples; those in which a column is constant or collinear give no graph.
      seed: of the draws.
      workers: processes.
      told: is given a line now and then on how far it is.
    """
    work, graphs, began = _Work(x_nv, units_n, alpha, seed), [], time.monotonic()
    last = began
    for done, graph in enumerate(_graphs(work, count, min(workers, count // _WORTH_A_PROCESS)), 1):
        graphs += [graph] if graph is not None else []
        began = time.monotonic() if done == 1 else began  # the processes' start is no measure of the rest
        if (now := time.monotonic()) - last > _TOLD_EVERY and 1 < done < count:
            told(f"{done} of {count} resamples, about {(now - began) / (done - 1) * (count - done):.0f} s left")
            last = now
    return np.array(graphs, bool).reshape(-1, x_nv.shape[1], x_nv.shape[1])


def _graphs(work: _Work, count: int, workers: int) -> Iterator[Array | None]:
    if workers < 2:
        yield from (_resample(work, number) for number in range(count))
        return
    try:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, (work,)) as pool:
            yield from pool.map(_next, range(count))
    except BrokenProcessPool as error:
        raise UserError("a process of --workers was killed; run the same command again, or with --workers=1") from error


_worker: _Work  # what a process of the pool works on


def _start(work: _Work) -> None:
    global _worker
    _worker = work
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _next(number: int) -> Array | None:
    return _resample(_worker, number)


def unrelated(x_nv: Array, units_n: Array, alpha: float, seed: int) -> list[int]:
    """How many pairs PC joins where no value has to do with another, in each of UNRELATED draws.

    In each column the units change places and the rows of a unit, too, so that nothing is left of how two columns go
    together; rows of one unit stay as alike as they were, which is what Fisher's z does not know of.

    Args:
      x_nv: float [n, v].
      units_n: int [n] the unit of each row, numbered from 0.
      alpha: PC's.
      seed: of the draws.
    """
    rows_u = np.split(np.argsort(units_n, kind="stable"), np.cumsum(np.bincount(units_n))[:-1])
    found = []
    for number in range(UNRELATED):
        stream, drawn_nv = resamples.draws(seed, resamples.UNRELATED, number), np.empty_like(x_nv)
        for v in range(x_nv.shape[1]):
            for rows, other in zip(rows_u, stream.permutation(len(rows_u)), strict=True):
                drawn_nv[rows, v] = x_nv[np.resize(stream.permutation(rows_u[other]), len(rows)), v]
        graph_vv = pc(drawn_nv, alpha)
        found.append(int((graph_vv | graph_vv.T).sum()) // 2)
    return found


def of_unrelated(alpha: float) -> float:
    """In what share of the resamples Fisher's z joins an unrelated pair of independent rows, before PC looks further.

    A resample repeats rows: its correlation has the noise of the rows and once more as much of its own, but is tested
    as if it had the one alone. By the same count a pair just at alpha is joined in half of the resamples.
    """
    return float(2 * ndtr(ndtri(alpha / 2) / math.sqrt(2)))


def reach(graph_vv: Array) -> Array:
    """Which values an arrow or a chain of arrows leads to, bool [..., v, v]; a value to itself does not count."""
    to_vv = graph_vv.copy()
    for k in range(to_vv.shape[-1]):
        to_vv |= to_vv[..., :, k, None] & to_vv[..., None, k, :]
    return to_vv & ~np.eye(to_vv.shape[-1], dtype=bool)


def reduced(graph_vv: Array) -> Array:
    """The graph without edges that longer ways stand for, bool [v, v].

    Edges without a direction make cycles, so that there is no one smallest graph. Edges are taken in order; one goes
    whose end is still reached without it, through those that are left.
    """
    out_vv = graph_vv.copy()
    for i, j in np.argwhere(graph_vv):
        out_vv[i, j] = False
        out_vv[i, j] = not reach(out_vv)[i, j]
    return out_vv


def compared(a_vv: Array, b_vv: Array) -> dict[str, int]:
    """What two graphs share.

    Returns:
      pairs: values that are adjacent in a and in b, `of` each; shared: pairs adjacent in both; same_direction: those of
      them that read the same in both; shd: the structural Hamming distance, all pairs that read differently.
    """
    above = np.triu_indices(len(a_vv), 1)
    ends_a, ends_b = (np.stack([g_vv[above], g_vv.T[above]]) for g_vv in (a_vv, b_vv))
    in_a, in_b, same = ends_a.any(0), ends_b.any(0), (ends_a == ends_b).all(0)
    out = {"pairs": [int(in_a.sum()), int(in_b.sum())], "shared": int((in_a & in_b).sum())}
    return out | {"same_direction": int((in_a & in_b & same).sum()), "shd": int((~same).sum())}


def relabelled(values: int, seed: int) -> Iterator[Array]:
    """Orders of the values, int [v] each: a graph under other names is one of the same shape that knows nothing."""
    stream = resamples.draws(seed, resamples.RELABELLED)
    return (stream.permutation(values) for _ in range(resamples.PERMUTATIONS))
