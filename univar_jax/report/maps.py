"""Vectors onto a plane, by UMAP and by main axes, and how much of who is near whom survives there."""

import dataclasses
import sys
import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.manifold import trustworthiness

from univar_jax.statistics import resamples

# More points than this hide one another, and UMAP would take minutes.
MAX_POINTS = 20_000
# UMAP has no neighbourhoods to speak of below this many different vectors.
MIN_UMAP = 10
# Points that the two figures are taken on: all distances between them are in memory, and sorted.
MAX_JUDGED = 2_000
_NEIGHBOURS = 15  # UMAP's default


@dataclasses.dataclass(frozen=True)
class Maps:
    """The rows that are drawn, and their places.

    Attributes:
      rows: int [n] which they are.
      umap_n2: float [n, 2], or None where there are too few different vectors.
      pca_n2: float [n, 2].
      shares: of the variance on the two main axes.
      neighbours: UMAP's; 0 without a UMAP.
    """

    rows: np.ndarray
    umap_n2: np.ndarray | None
    pca_n2: np.ndarray
    shares: list[float]
    neighbours: int


def draw(z_nd: np.ndarray, seed: int, always: Sequence[int] = ()) -> Maps:
    """Both maps of all rows, or of MAX_POINTS by lot, of float32 [n, d] unit vectors.

    Args:
      z_nd: the vectors.
      seed: of the lot and of UMAP.
      always: rows that no lot leaves out, at most MAX_POINTS of them.
    """
    rows = sample(len(z_nd), seed, MAX_POINTS, resamples.MAP, always)
    umap_n2 = umap_2d(z_nd[rows], seed)
    pca_n2, shares = pca_2d(z_nd[rows])
    return Maps(rows, umap_n2, pca_n2, shares, 0 if umap_n2 is None else _neighbours(len(rows)))


def quality(z_nd: np.ndarray, maps: Maps, seed: int) -> dict:
    """Trustworthiness and continuity of both maps (Venna & Kaski 2001), 1 at best and about .5 for a random map.

    Trustworthiness falls with each neighbour on the map that is none in truth, continuity with each true neighbour that
    the map tears away, by how far out of place it is: one is the other with the two spaces exchanged.

    Args:
      z_nd: float32 [n, d] the vectors of the drawn rows.
      maps: of these rows.

    Returns:
      {"umap": {"trustworthiness", "continuity"} or None, "pca": the same, "points", "neighbours"}; both None for
      fewer than six points.
    """
    some = np.arange(len(z_nd))
    if len(some) > MAX_JUDGED:
        some = np.sort(resamples.draws(seed, resamples.QUALITY).choice(some, MAX_JUDGED, replace=False))
    near = min(_NEIGHBOURS, (len(some) - 1) // 2)
    out = {"umap": None, "pca": None, "points": len(some), "neighbours": near}
    for name, xy_n2 in (("umap", maps.umap_n2), ("pca", maps.pca_n2)):
        if xy_n2 is not None and near > 1:
            truth, drawn = z_nd[some], xy_n2[some]
            figures = trustworthiness(truth, drawn, n_neighbors=near), trustworthiness(drawn, truth, n_neighbors=near)
            out[name] = dict(zip(("trustworthiness", "continuity"), map(float, figures), strict=True))
    return out


def sample(rows: int, seed: int, most: int, purpose: int, always: Sequence[int] = ()) -> np.ndarray:
    """All numbers below `rows`, or `most` of them by lot in their order, those of `always` among them."""
    if rows <= most:
        return np.arange(rows)
    kept = np.asarray(always, int)[:most]
    others = np.setdiff1d(np.arange(rows), kept)
    drawn = resamples.draws(seed, purpose).choice(others, most - len(kept), replace=False)
    return np.sort(np.concatenate([kept, drawn]))


def umap_2d(z_nd: np.ndarray, seed: int) -> np.ndarray | None:
    """UMAP by cosine, float [n, 2], on one thread for equal maps; None where there are too few vectors."""
    if len(z_nd) < MIN_UMAP or len(np.unique(z_nd, axis=0)) < MIN_UMAP:
        return None
    umap = _import_umap()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of the single thread that a seed needs
        return umap.UMAP(
            n_neighbors=_neighbours(len(z_nd)), metric="cosine", init="pca", random_state=seed, n_jobs=1
        ).fit_transform(z_nd)


def _neighbours(rows: int) -> int:
    return min(_NEIGHBOURS, rows - 1)


def _import_umap() -> object:
    """umap-learn without its parametric half, which would import tensorflow and torch where they are."""
    name = "umap.parametric_umap"
    blocked = "umap" not in sys.modules
    if blocked:
        sys.modules[name] = None  # makes its import an ImportError, which umap expects
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import umap
    finally:
        if blocked:
            del sys.modules[name]
    return umap


def pca_2d(z_nd: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """The two main axes: float [n, 2], and the share of the variance on each."""
    x_nd = z_nd - z_nd.mean(0)
    share_d, axis_dd = np.linalg.eigh(x_nd.T.astype(np.float64) @ x_nd)
    axis_d2 = axis_dd[:, ::-1][:, :2]
    # An axis has no sign of its own; fix it, so that equal data give equal pictures.
    axis_d2 = axis_d2 * np.sign(axis_d2[np.abs(axis_d2).argmax(0), np.arange(axis_d2.shape[1])])
    xy_n2 = np.zeros((len(x_nd), 2))
    xy_n2[:, : axis_d2.shape[1]] = x_nd @ axis_d2
    shares = (share_d[::-1][:2] / max(share_d.sum(), 1e-12)).tolist()
    return xy_n2, [*shares, 0.0][:2]
