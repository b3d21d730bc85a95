"""The tree of the sources by average linkage, and how often each node comes back when questions are drawn anew."""

from collections.abc import Sequence

import numpy as np
from scipy import sparse
from scipy.cluster import hierarchy
from scipy.spatial import distance

from univar_jax.statistics import resamples

# The standard error of a support near .9 is .02.
RESAMPLES = 200


def centroids(z_nd: np.ndarray, code_n: np.ndarray, weight_n: np.ndarray, sources: int) -> np.ndarray:
    """Cosine distances [s, s] of the sources' weighted mean directions; see `distances.centroid`."""
    mean_sd = sparse.csr_matrix((weight_n, (code_n, np.arange(len(code_n)))), (sources, len(code_n))) @ z_nd
    # A source whose vectors cancel out has no direction; it is then at distance 1 from all.
    mean_sd = mean_sd / np.maximum(np.linalg.norm(mean_sd, axis=1, keepdims=True), 1e-12)
    d_ss = np.clip(1 - mean_sd @ mean_sd.T, 0, 2)
    d_ss = (d_ss + d_ss.T) / 2
    np.fill_diagonal(d_ss, 0)
    return d_ss


def linkage(d_ss: np.ndarray) -> np.ndarray:
    """scipy's linkage [s - 1, 4] by average distance; of one source [0, 4]."""
    if len(d_ss) < 2:
        return np.zeros((0, 4))
    return hierarchy.linkage(distance.squareform(d_ss, checks=False), "average", optimal_ordering=True)


def clades(linkage_n4: np.ndarray) -> list[int]:
    """The leaves under each node, as the bits of a number."""
    leaves = [1 << i for i in range(len(linkage_n4) + 1)]
    for left, right, *_ in linkage_n4:
        leaves.append(leaves[int(left)] | leaves[int(right)])
    return leaves[len(linkage_n4) + 1 :]


def support(z_nd: np.ndarray, sources_n: Sequence[str], groups_n: Sequence[str], seed: int) -> tuple[np.ndarray, list]:
    """The tree of `centroids`, and the share of resamples whose tree has each node, with exactly its sources.

    Felsenstein's bootstrap (1985): question groups are drawn with replacement, for all sources the same ones.

    Args:
      z_nd: float [n, d] unit vectors.
      sources_n: [n].
      groups_n: [n] question groups.

    Returns:
      The linkage, and for each of its rows a number in [0, 1]; the last one, the root, is always 1.
    """
    names, code_n = np.unique(np.asarray(sources_n), return_inverse=True)
    cells, group_n = np.unique(np.asarray(groups_n), return_inverse=True)
    tree = linkage(centroids(z_nd, code_n, np.ones(len(code_n), z_nd.dtype), len(names)))
    wanted, found = clades(tree), np.zeros(len(tree))
    stream = resamples.draws(seed, resamples.SUPPORT)
    for _ in range(RESAMPLES if wanted else 0):
        times_g = np.bincount(stream.integers(len(cells), size=len(cells)), minlength=len(cells))
        again = set(clades(linkage(centroids(z_nd, code_n, times_g[group_n].astype(z_nd.dtype), len(names)))))
        found += [clade in again for clade in wanted]
    return tree, (found / RESAMPLES).tolist()
