"""How well vectors tell sources apart: k-NN, linear probe and their intervals, in numpy alone.

The protocol is the paper's (arXiv 2404.07900, downstream_eval.py): the label is the source, k-NN the plain
vote of the nearest rows, the probe one linear layer on frozen vectors. The intervals are ours: rows that
answer one question are alike in all sources, so whole question groups are resampled, never single rows.
"""

from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 2000
# Percentile intervals from fewer groups than this are too narrow to be trusted.
FEW_GROUPS = 30
ACC_AT = (1, 3, 5, 10)
# One stream of random numbers a purpose, so that none moves when another draws more.
_PROBE, _BOOTSTRAP = 1, 2


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
    w_dc = _draws(seed, _PROBE, 0).uniform(-bound, bound, (fit_nd.shape[1], sources)).astype(np.float32)
    mean_dc, square_dc, step = np.zeros_like(w_dc), np.zeros_like(w_dc), 0
    for epoch in range(epochs):
        order = _draws(seed, _PROBE, epoch + 1).permutation(len(fit_nd))
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


def _draws(seed: int, purpose: int, number: int) -> np.random.Generator:
    """A counter-based stream: equal on every machine, whatever else was drawn."""
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, 0, number]))


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
    _, code_n = np.unique(np.asarray(groups_n), return_inverse=True)
    size_g = np.bincount(code_n).astype(float)
    if len(size_g) < 2:
        return None
    sum_g = np.bincount(code_n, weights=values_n)
    draws, means = _draws(seed, _BOOTSTRAP, 0), []
    block = max(1, 2**22 // len(size_g))
    for start in range(0, resamples, block):
        drawn = draws.integers(len(size_g), size=(min(block, resamples - start), len(size_g)))
        means.append(sum_g[drawn].sum(1) / size_g[drawn].sum(1))
    return [float(q) for q in np.quantile(np.concatenate(means), [0.025, 0.975])]


def on_both_sides(sources_n: Sequence[str], fit_n: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Which rows can be scored, bool [n], and the sources that cannot since one of their sides is empty."""
    sources_n = np.asarray(sources_n)
    both = np.intersect1d(sources_n[fit_n], sources_n[~fit_n])
    keep_n = np.isin(sources_n, both)
    return keep_n, sorted(set(sources_n[~keep_n].tolist()))


def score(
    z_nd: np.ndarray,
    sources_n: Sequence[str],
    groups_n: Sequence[str],
    fit_n: np.ndarray,
    k: int,
    seed: int = 0,
) -> tuple[dict, np.ndarray]:
    """k-NN and probe fitted on one side of the rows and scored on the other.

    Args:
      z_nd: float [n, d] vectors, one row a view, every source on both sides (`on_both_sides`).
      sources_n: [n] the label.
      groups_n: [n] the question group, for the intervals.
      fit_n: bool [n]; the other rows are scored.
      k: voters; clipped to the number of fit rows.

    Returns:
      The figures under the keys of metrics.json, None where fewer than two sources leave nothing to tell
      apart, and whether k-NN was right on each scored row, float [m].
    """
    names_c, code_n = np.unique(np.asarray(sources_n), return_inverse=True)
    groups_m, truth_m = np.asarray(groups_n)[~fit_n], code_n[~fit_n]
    groups = len(np.unique(groups_m))
    few = groups < FEW_GROUPS
    out = {
        "n": len(code_n),
        "n_fit": int(fit_n.sum()),
        "n_scored": len(truth_m),
        "groups": groups,
        "few_clusters": few,
    }
    out |= {"sources": len(names_c), "chance": None, "majority": None, "knn": None, "linear": None}
    if len(names_c) < 2:
        return out, np.zeros(0)
    k = min(k, out["n_fit"])
    voted_m = knn(z_nd[fit_n], code_n[fit_n], z_nd[~fit_n], k)
    right_m = (voted_m == truth_m).astype(float)
    logits_mc = linear_probe(z_nd[fit_n], code_n[fit_n], z_nd[~fit_n], len(names_c), seed=seed)
    acc_ci = interval(right_m, groups_m, seed)
    out["chance"] = 1 / len(names_c)
    # What always saying the fit side's most frequent source would reach.
    out["majority"] = float(np.mean(truth_m == np.bincount(code_n[fit_n]).argmax()))
    out["knn"] = {"k": k, "acc": float(right_m.mean()), "acc_ci": acc_ci, "f1": weighted_f1(truth_m, voted_m)}
    out["linear"] = _probe_scores(truth_m, logits_mc)
    return out, right_m


def _probe_scores(truth_m: np.ndarray, logits_mc: np.ndarray) -> dict[str, float]:
    """acc@k for each k below the number of sources (above it is 1 for any vectors), and weighted F1."""
    order_mc = np.argsort(-logits_mc, axis=1, kind="stable")
    hit_mc = order_mc == truth_m[:, None]
    out = {f"acc@{k}": float(hit_mc[:, :k].any(1).mean()) for k in ACC_AT if k < logits_mc.shape[1]}
    return out | {"f1": weighted_f1(truth_m, order_mc[:, 0])}


def paired(right_m: np.ndarray, other_m: np.ndarray, groups_m: Sequence[str], seed: int = 0) -> dict:
    """Difference of two encoders' accuracies on the same scored rows, with its interval and a verdict.

    Args:
      right_m: float [m], 1.0 where the first encoder was right.
      other_m: float [m], the same for the encoder it is compared with.
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
    return {
        "difference": difference,
        "ci": ci,
        "groups": len(np.unique(np.asarray(groups_m))),
        "verdict": verdict,
    }


def compare(
    vectors: Sequence[np.ndarray],
    sources_n: np.ndarray,
    groups_n: np.ndarray,
    fit_n: np.ndarray,
    k: int,
    seed: int,
    told: Callable[[str], None],
) -> tuple[list[dict], list[dict]]:
    """`score` of several encoders on the same rows, and `paired` of the first with each other one.

    Args:
      vectors: float [n, d] of each encoder; d may differ.
      sources_n, groups_n, fit_n, k, seed: as for `score`, but a source may lack a side: it is left out.
      told: is given a sentence for each thing that was left out or changed.
    """
    keep_n, left_out = on_both_sides(sources_n, fit_n)
    if left_out:
        told(f"no rows on one of the two sides, so left out: {', '.join(left_out)}")
    sources_n, groups_n, fit_n = sources_n[keep_n], groups_n[keep_n], fit_n[keep_n]
    if len(set(sources_n)) < 2:
        told("fewer than two sources can be scored, so there are no scores")
    elif k > fit_n.sum():
        told(f"k={k} is more than the {fit_n.sum()} rows on the fit side, so k={fit_n.sum()} there")
    scored = [score(z_nd[keep_n], sources_n, groups_n, fit_n, k, seed) for z_nd in vectors]
    if scored[0][0]["knn"] is None:
        return [s for s, _ in scored], []
    first, groups_m = scored[0][1], groups_n[~fit_n]
    return [s for s, _ in scored], [paired(first, right, groups_m, seed) for _, right in scored[1:]]


def centroid_distances(z_nd: np.ndarray, sources_n: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Cosine distance of the sources' mean directions.

    Args:
      z_nd: float [n, d] unit vectors.
      sources_n: [n].

    Returns:
      The sources in sorted order and float64 [s, s] in [0, 2], symmetric, with an exact zero diagonal.
    """
    names, code_n = np.unique(np.asarray(sources_n), return_inverse=True)
    mean_sd = np.stack([z_nd[code_n == s].mean(0, dtype=np.float64) for s in range(len(names))])
    # A source whose vectors cancel out has no direction; it is then at distance 1 from all.
    mean_sd /= np.maximum(np.linalg.norm(mean_sd, axis=1, keepdims=True), 1e-12)
    d_ss = np.clip(1 - mean_sd @ mean_sd.T, 0, 2)
    d_ss = (d_ss + d_ss.T) / 2
    np.fill_diagonal(d_ss, 0)
    return names.tolist(), d_ss
