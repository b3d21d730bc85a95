"""How well vectors tell labels apart: k-NN, linear probe and their certainty, in numpy alone.

The protocol is the paper's (arXiv 2404.07900, downstream_eval.py): the label is the source, k-NN the plain
vote of the nearest rows, the probe one linear layer on frozen vectors. Intervals and p-values are ours.
"""

from collections.abc import Sequence

import numpy as np

from univar_jax.statistics import resamples

ACC_AT = (1, 3, 5, 10)


def knn(fit_nd: np.ndarray, fit_labels: np.ndarray, query_nd: np.ndarray, k: int, block: int = 1024) -> np.ndarray:
    """The label that most of the k nearest fit rows have, by Euclidean distance (on unit vectors: by cosine).

    Of labels with equally many votes the smallest wins, as in sklearn's KNeighborsClassifier; of rows
    equally near at the k-th place those that come first vote.

    Args:
      fit_nd: float [n, d].
      fit_labels: [n], of any type that sorts.
      query_nd: float [m, d], of the same type as fit_nd.
      k: voters, 1..n.
      block: queries that are compared at a time; block·n distances are in memory.

    Returns:
      [m], of fit_labels' type.

    Raises:
      ValueError: k is not within 1..n.
    """
    if not 1 <= k <= len(fit_nd):
        raise ValueError(f"{k=} voters of {len(fit_nd)} fit rows; use 1..{len(fit_nd)}")
    labels_c, code_n = np.unique(fit_labels, return_inverse=True)
    # |q - f|² = |q|² - 2 (q·f - |f|²/2), so the nearest f has the largest q·f - |f|²/2.
    half_n = np.einsum("nd,nd->n", fit_nd, fit_nd) / 2
    winners = [np.zeros(0, np.intp)]
    for start in range(0, len(query_nd), block):
        near_mn = query_nd[start : start + block] @ fit_nd.T - half_n
        votes_mk = code_n[_nearest(near_mn, k)]
        size = len(votes_mk)
        flat = votes_mk + len(labels_c) * np.arange(size)[:, None]
        votes_mc = np.bincount(flat.ravel(), minlength=size * len(labels_c)).reshape(size, -1)
        winners.append(votes_mc.argmax(1))
    return labels_c[np.concatenate(winners)]


def _nearest(near_mn: np.ndarray, k: int) -> np.ndarray:
    """Columns [m, k] of the k largest values of each row, in column order; of equal ones the first."""
    edge_m1 = np.partition(near_mn, -k, axis=1)[:, [-k]]
    above_mn = near_mn > edge_m1
    free_m1 = k - above_mn.sum(1, keepdims=True)
    equal_mn = near_mn == edge_m1
    if (equal_mn.sum(1, keepdims=True) > free_m1).any():
        equal_mn &= equal_mn.cumsum(1, dtype=np.int32) <= free_m1
    return np.nonzero(above_mn | equal_mn)[1].reshape(-1, k)


def linear_probe(
    fit_nd: np.ndarray,
    fit_codes: np.ndarray,
    query_nd: np.ndarray,
    sources: int,
    *,
    seed: int = 0,
    epochs: int = 20,
    batch: int = 512,
    lr: float = 2e-3,
) -> np.ndarray:
    """Softmax regression on frozen vectors, trained as the paper does, and its logits for the queries.

    Adam (betas .9 and .999) on the mean cross-entropy, lr · (1 - epoch/epochs), no weight decay, the layer
    drawn uniform within ±1/√d as torch's nn.Linear. Row order and layer depend on (seed, epoch) only.

    Args:
      fit_nd: float [n, d].
      fit_codes: int [n] in [0, sources).
      query_nd: float [m, d].
      sources: number of classes c.

    Returns:
      float32 [m, c].
    """
    # A column of ones carries the bias, so that there is one parameter.
    fit_nd, query_nd = (np.pad(x.astype(np.float32), ((0, 0), (0, 1)), constant_values=1) for x in (fit_nd, query_nd))
    bound = 1 / np.sqrt(fit_nd.shape[1] - 1)
    w_dc = (
        resamples.draws(seed, resamples.PROBE, 0).uniform(-bound, bound, (fit_nd.shape[1], sources)).astype(np.float32)
    )
    mean_dc, square_dc, step = np.zeros_like(w_dc), np.zeros_like(w_dc), 0
    for epoch in range(epochs):
        order = resamples.draws(seed, resamples.PROBE, epoch + 1).permutation(len(fit_nd))
        for start in range(0, len(order), batch):
            rows, step = order[start : start + batch], step + 1
            p_nc = _softmax(fit_nd[rows] @ w_dc)
            p_nc[np.arange(len(rows)), fit_codes[rows]] -= 1  # the gradient of the cross-entropy: p - onehot
            g_dc = fit_nd[rows].T @ p_nc / len(rows)
            mean_dc += 0.1 * (g_dc - mean_dc)
            square_dc += 0.001 * (g_dc * g_dc - square_dc)
            root_dc = np.sqrt(square_dc / (1 - 0.999**step)) + 1e-8
            w_dc -= lr * (1 - epoch / epochs) * (mean_dc / (1 - 0.9**step)) / root_dc
    return query_nd @ w_dc


def _softmax(logits_nc: np.ndarray) -> np.ndarray:
    e_nc = np.exp(logits_nc - logits_nc.max(1, keepdims=True))
    return e_nc / e_nc.sum(1, keepdims=True)


def weighted_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """F1 of each label that occurs, weighted by how often it does; a label never predicted counts 0.

    Args:
      labels: [n] the true ones.
      predicted: [n] of the same type.
    """
    names_c, size_c = np.unique(labels, return_counts=True)
    hits_c = np.array([np.sum((labels == c) & (predicted == c)) for c in names_c])
    said_c = np.array([np.sum(predicted == c) for c in names_c])
    return float(np.sum(size_c * 2 * hits_c / (size_c + said_c)) / len(labels))


def on_both_sides(sources_n: Sequence[str], fit_n: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Which rows can be scored, bool [n], and the sources that cannot since one of their sides is empty."""
    sources_n = np.asarray(sources_n)
    both = np.intersect1d(sources_n[fit_n], sources_n[~fit_n])
    keep_n = np.isin(sources_n, both)
    return keep_n, sorted(set(sources_n[~keep_n].tolist()))


def score(
    z_nd: np.ndarray,
    labels_n: Sequence[str],
    groups_n: Sequence[str],
    fit_n: np.ndarray,
    k: int,
    seed: int = 0,
    units: Sequence[resamples.Unit] = (),
) -> tuple[dict, np.ndarray]:
    """k-NN and probe fitted on one side of the rows and scored on the other.

    Args:
      z_nd: float [n, d] vectors, one row a view, every label on both sides (`on_both_sides`).
      labels_n: [n] what is to be named: the source, or its model or language alone.
      groups_n: [n] the question group, for the intervals.
      fit_n: bool [n]; the other rows are scored.
      k: voters; clipped to the number of fit rows.
      units: what labels are exchanged within for the p-value, [n] each, the finest first; () = groups_n.

    Returns:
      The figures under the keys of metrics.json, None where fewer than two labels leave nothing to tell
      apart, and whether k-NN was right on each scored row, float [m].
    """
    names_c, code_n = np.unique(np.asarray(labels_n), return_inverse=True)
    _, group_n = np.unique(np.asarray(groups_n), return_inverse=True)
    groups_m, truth_m = group_n[~fit_n], code_n[~fit_n]
    groups = resamples.groups_of(groups_m)
    out = {"n": len(code_n), "n_fit": int(fit_n.sum()), "n_scored": len(truth_m), "groups": groups}
    out |= {"few_clusters": groups < resamples.FEW_GROUPS, "sources": len(names_c)}
    out |= dict.fromkeys(("chance", "majority", "knn", "linear", "permutation_p", "permutation_unit"))
    if len(names_c) < 2:
        return out, np.zeros(0)
    k = min(k, out["n_fit"])
    voted_m = knn(z_nd[fit_n], code_n[fit_n], z_nd[~fit_n], k)
    right_m = (voted_m == truth_m).astype(float)
    logits_mc = linear_probe(z_nd[fit_n], code_n[fit_n], z_nd[~fit_n], len(names_c), seed=seed)
    out["chance"] = 1 / len(names_c)
    # What always saying the fit side's most frequent label would reach.
    out["majority"] = float(np.mean(truth_m == np.bincount(code_n[fit_n]).argmax()))
    acc_ci = resamples.interval(right_m, groups_m, seed)
    out["knn"] = {"k": k, "acc": float(right_m.mean()), "acc_ci": acc_ci, "f1": weighted_f1(truth_m, voted_m)}
    out["linear"] = _probe_scores(truth_m, logits_mc)
    cells = [(name, cells_n[~fit_n]) for name, cells_n in units] or [("group", groups_m)]
    out["permutation_p"], out["permutation_unit"] = resamples.label_p(voted_m, truth_m, cells, seed)
    return out, right_m


def _probe_scores(truth_m: np.ndarray, logits_mc: np.ndarray) -> dict[str, float]:
    """acc@k for each k below the number of sources (above it is 1 for any vectors), and weighted F1."""
    order_mc = np.argsort(-logits_mc, axis=1, kind="stable")
    hit_mc = order_mc == truth_m[:, None]
    out = {f"acc@{k}": float(hit_mc[:, :k].any(1).mean()) for k in ACC_AT if k < logits_mc.shape[1]}
    return out | {"f1": weighted_f1(truth_m, order_mc[:, 0])}
