"""Named values read off embeddings: which value an answer is about, what it says for it, and how far to believe that.

Both readouts are fitted on whole question groups, calibrated on groups that the fit at hand did not see (FOLDS parts of
the fit side, each told by a fit on the others), and scored on the held-out side, of which neither saw anything.
"""

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np
from scipy import optimize, special
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge

from univar_jax.statistics import baselines, resamples

# Parts of the fit side; a value needs so many question groups there, one in each.
FOLDS = 5
# Question groups below which there is no interval.
MIN_GROUPS = 10
# Bins of the reliability figure, of equal width.
BINS = 10
# What rows that are about no value are called, where the file has such rows (value_relevant false).
NONE = "(none)"

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of a file, as both readouts take them.

    Attributes:
      z_nd: float32 [n, d] unit vectors.
      text_n: str [n], for what words alone reach.
      groups_n: int [n] question groups.
      fit_n: bool [n]; the other rows are held out.
      seed: of all draws.
    """

    z_nd: Array
    text_n: Array
    groups_n: Array
    fit_n: Array
    seed: int


@dataclasses.dataclass(frozen=True)
class Named:
    """What the readout says of every row: classes, p_nc float [n, c], the row's own fold left out where it was fitted.

    A row is named where its largest p reaches `threshold`; None = it always abstains.
    """

    classes: list[str]
    p_nc: Array
    threshold: float | None

    def names(self) -> Array:
        """str [n], "" where it abstains."""
        named_n = np.array(self.classes, object)[self.p_nc.argmax(1)]
        sure_n = np.zeros(len(named_n), bool) if self.threshold is None else self.p_nc.max(1) >= self.threshold
        return np.where(sure_n, named_n, "")


def enough(labels_n: Array, rows: Rows) -> tuple[list[str], dict[str, str]]:
    """The labels that can be learnt, and of each other one what it lacks."""
    kept, lacking = [], {}
    for name in sorted(set(labels_n) - {""}):
        fit, held = (
            resamples.groups_of(rows.groups_n[side_n & (labels_n == name)]) for side_n in (rows.fit_n, ~rows.fit_n)
        )
        if fit < FOLDS or not held:
            lacking[name] = f"{fit} question groups on the fit side, {held} held out: {FOLDS} and 1 would be enough"
        else:
            kept.append(name)
    return kept, lacking


def _folds(labels_n: Array, groups_n: Array, seed: int) -> Array:
    """int [n]: the part of each row; whole groups, those of one label spread over all parts, else by lot."""
    groups_g, first_g, code_n = np.unique(groups_n, return_index=True, return_inverse=True)
    lot_g = resamples.draws(seed, resamples.FOLDS).random(len(groups_g))
    order_g = np.lexsort((lot_g, np.unique(labels_n, return_inverse=True)[1][first_g]))
    fold_g = np.empty(len(groups_g), np.int64)
    fold_g[order_g] = np.arange(len(groups_g)) % FOLDS
    return fold_g[code_n]


def _logits(fit_nd: Array, codes_n: Array, query_md: Array, classes: int) -> Array:
    """Multinomial logistic regression's logits, [m, c]; a class that was not fitted is far below all others."""
    model = LogisticRegression(C=10.0, max_iter=200, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(fit_nd, codes_n)
    told = model.decision_function(query_md)
    told = np.stack([-told, told], 1) / 2 if told.ndim == 1 else told
    out_mc = np.full((len(query_md), classes), told.min() - 10)
    out_mc[:, model.classes_] = told
    return out_mc


def relevance(labels_n: Array, rows: Rows, error: float) -> tuple[dict, Named] | tuple[None, None]:
    """Which value a row is about, fitted where labels are.

    Multinomial logistic regression on the vectors; its logits are divided by one temperature, which makes the parts
    that each fit did not see most likely (Guo et al. 2017).

    Args:
      labels_n: str [n], "" where nothing is known; every other label passed `enough`.
      error: the share of wrong names among those given that is aimed at; the threshold is the smallest p above which
        (wrong + 1) / (named + 1) of the unseen parts is within it.

    Returns:
      values.json's `readout` and what it says of every row; None and None where there are fewer than two labels.
    """
    classes = sorted(set(labels_n) - {""})
    if len(classes) < 2:
        return None, None
    code_n = np.searchsorted(classes, np.where(labels_n == "", classes[0], labels_n).astype(str))
    fit_n, held_n = rows.fit_n & (labels_n != ""), ~rows.fit_n & (labels_n != "")
    fold_n = np.full(len(labels_n), -1)
    fold_n[fit_n] = _folds(labels_n[fit_n], rows.groups_n[fit_n], rows.seed)
    logits_nc = _logits(rows.z_nd[fit_n], code_n[fit_n], rows.z_nd, len(classes))
    for fold in range(FOLDS):
        others_n, own_n = fit_n & (fold_n != fold), fold_n == fold
        logits_nc[own_n] = _logits(rows.z_nd[others_n], code_n[others_n], rows.z_nd[own_n], len(classes))
    warmth = _temperature(logits_nc[fit_n], code_n[fit_n])
    p_nc = special.softmax(logits_nc / warmth, axis=1)
    threshold = _threshold(p_nc[fit_n], code_n[fit_n], error)
    said = Named(classes, p_nc, threshold)
    told = _naming(classes, p_nc[held_n], code_n, held_n, fit_n, rows)
    told |= {"temperature": warmth, "threshold": threshold, "error": error, "n_fit": int(fit_n.sum())}
    sure_m = p_nc[held_n].max(1) >= (np.inf if threshold is None else threshold)
    wrong_m = (p_nc[held_n].argmax(1) != code_n[held_n]).astype(float)
    groups_m = rows.groups_n[held_n]
    told["abstention"] = _figure(sure_m.astype(float), groups_m, rows.seed, "coverage")
    told["abstention"] |= _figure(wrong_m[sure_m], groups_m[sure_m], rows.seed, "wrong")
    return told, said


def _temperature(logits_nc: Array, codes_n: Array) -> float:
    def unlikely(log_t: float) -> float:
        told_nc = special.log_softmax(logits_nc / np.exp(log_t), axis=1)
        return -float(told_nc[np.arange(len(codes_n)), codes_n].mean())

    return float(np.exp(optimize.minimize_scalar(unlikely, bounds=(-4, 4), method="bounded").x))


def _threshold(p_nc: Array, codes_n: Array, error: float) -> float | None:
    sure_n, wrong_n = p_nc.max(1), p_nc.argmax(1) != codes_n
    order = np.argsort(-sure_n, kind="stable")
    within = (np.cumsum(wrong_n[order]) + 1) / (np.arange(len(order)) + 2) <= error
    # Rows of one p are named together or not at all.
    last = np.append(sure_n[order][1:] < sure_n[order][:-1], True)
    reached = np.flatnonzero(within & last)
    return float(sure_n[order][reached[-1]]) if len(reached) else None


def _figure(values_m: Array, groups_m: Array, seed: int, name: str) -> dict:
    """A mean and its interval by question groups, None where there is nothing or not enough of it."""
    few = resamples.groups_of(groups_m) < MIN_GROUPS
    ci = None if few else resamples.interval(values_m, groups_m, seed)
    return {name: float(values_m.mean()) if len(values_m) else None, f"{name}_ci": ci}


def _naming(classes: list[str], p_mc: Array, code_n: Array, held_n: Array, fit_n: Array, rows: Rows) -> dict:
    """Held-out figures of the names and of their probabilities."""
    truth_m, groups_m, voted_m = code_n[held_n], rows.groups_n[held_n], p_mc.argmax(1)
    right_m, groups = (voted_m == truth_m).astype(float), resamples.groups_of(groups_m)
    hit_mc = np.eye(len(classes))[truth_m]
    brier_m = ((p_mc - hit_mc) ** 2).sum(1)
    base_c = np.bincount(code_n[fit_n], minlength=len(classes)) / fit_n.sum()
    out = {
        "classes": classes,
        "n_scored": len(truth_m),
        "groups": groups,
        "few_clusters": groups < resamples.FEW_GROUPS,
    }
    out |= {"chance": 1 / len(classes), "majority": float(np.mean(truth_m == base_c.argmax()))}
    out |= _figure(right_m, groups_m, rows.seed, "acc") | _figure(brier_m, groups_m, rows.seed, "brier")
    out |= {"brier_of_shares": float(((base_c - hit_mc) ** 2).sum(1).mean())}
    out["p"], out["p_unit"] = resamples.label_p(voted_m, truth_m, [("question group", groups_m)], rows.seed)
    seen_n = fit_n | held_n
    words, words_right = baselines.tfidf(
        baselines.counts(rows.text_n[seen_n]), code_n[seen_n], rows.groups_n[seen_n], fit_n[seen_n], rows.seed
    )
    out["tfidf"] = words and words | {"paired": resamples.paired(right_m, words_right, groups_m, rows.seed)}
    out |= calibration(p_mc.max(1), right_m, groups_m, rows.seed)
    out["by_value"] = {
        name: _one(p_mc[:, c], voted_m == c, truth_m == c, groups_m, rows.seed) for c, name in enumerate(classes)
    }
    few = f"{groups} held-out question groups: not enough for an interval, {MIN_GROUPS} would be"
    return out | {"not_enough": few if groups < MIN_GROUPS else ""}


def _one(p_m: Array, voted_m: Array, true_m: Array, groups_m: Array, seed: int) -> dict:
    """One value against all others, held out."""
    out = {"n_scored": int(true_m.sum()), "groups": resamples.groups_of(groups_m[true_m])}
    out |= _figure(voted_m[true_m].astype(float), groups_m[true_m], seed, "recall")
    out |= _figure(true_m[voted_m].astype(float), groups_m[voted_m], seed, "precision")
    return out | _figure((p_m - true_m) ** 2, groups_m, seed, "brier") | {"ece": _ece(p_m, true_m.astype(float))}


def _bins(p_m: Array) -> Array:
    return np.minimum((p_m * BINS).astype(int), BINS - 1)


def _ece(p_m: Array, hit_m: Array) -> float:
    """Expected calibration error: the gap of p and what came true, mean over bins weighted by their rows."""
    gaps_b = np.bincount(_bins(p_m), weights=p_m - hit_m, minlength=BINS)
    return float(np.abs(gaps_b).sum() / len(p_m))


def calibration(p_m: Array, hit_m: Array, groups_m: Array, seed: int) -> dict:
    """ece, ece_ci and reliability: [{p, came_true, ci, n, groups}] of each bin that has rows.

    ECE is above 0 by chance even where p is right: its interval is of that figure in resamples of groups, not of its
    distance from 0.
    """
    groups_g, code_m = np.unique(groups_m, return_inverse=True)
    bin_m, out = _bins(p_m), {"ece": _ece(p_m, hit_m), "ece_ci": None}
    if len(groups_g) >= MIN_GROUPS:
        gap_gb, size_g = np.zeros((len(groups_g), BINS)), np.bincount(code_m)
        np.add.at(gap_gb, (code_m, bin_m), p_m - hit_m)
        drawn_rg = resamples.draws(seed, resamples.BOOTSTRAP).integers(
            len(groups_g), size=(resamples.RESAMPLES, len(groups_g))
        )
        ece_r = [np.abs(gap_gb[drawn].sum(0)).sum() / size_g[drawn].sum() for drawn in drawn_rg]
        out["ece_ci"] = [float(q) for q in np.quantile(ece_r, [0.025, 0.975])]
    out["reliability"] = []
    for b in np.unique(bin_m):
        one = {"p": float(p_m[bin_m == b].mean()), "n": int((bin_m == b).sum())}
        one["groups"] = resamples.groups_of(groups_m[bin_m == b])
        out["reliability"].append(one | _figure(hit_m[bin_m == b], groups_m[bin_m == b], seed, "came_true"))
    return out


def stance(about_n: Array, stance_n: Array, rows: Rows) -> tuple[dict, Array | None]:
    """What answers about one value say for it, fitted where that is known.

    Ridge regression on the vectors, then one line, fitted to the parts that each fit did not see, that gives back the
    width which shrinkage took. It may be used where its error is below that of always saying the mean.

    Args:
      about_n: bool [n], the rows about the value.
      stance_n: float [n] in [-1, 1]; NaN where it is not known.

    Returns:
      n_fit, n_scored, groups, mae, mae_of_mean, gain, gain_ci, r, usable, not_enough; and float [n] what every row says
      as far as can be told, or None where that is not usable.
    """
    known_n = about_n & ~np.isnan(stance_n)
    fit_n, held_n = known_n & rows.fit_n, known_n & ~rows.fit_n
    fit, held = (resamples.groups_of(rows.groups_n[side_n]) for side_n in (fit_n, held_n))
    out = {"n_fit": int(fit_n.sum()), "n_scored": int(held_n.sum()), "groups": held}
    out |= dict.fromkeys(("mae", "mae_of_mean", "gain", "gain_ci", "r")) | {"usable": False, "not_enough": ""}
    if fit < FOLDS or held < MIN_GROUPS:
        groups = f"{fit} question groups with a known stance on the fit side, {held} held out"
        return out | {"not_enough": f"{groups}: {FOLDS} and {MIN_GROUPS} would be enough"}, None
    fold_n = np.full(len(about_n), -1)
    fold_n[fit_n] = _folds(np.zeros(out["n_fit"]), rows.groups_n[fit_n], rows.seed)
    told_n = Ridge().fit(rows.z_nd[fit_n], stance_n[fit_n]).predict(rows.z_nd)
    for fold in range(FOLDS):
        others_n, own_n = fit_n & (fold_n != fold), fold_n == fold
        told_n[own_n] = Ridge().fit(rows.z_nd[others_n], stance_n[others_n]).predict(rows.z_nd[own_n])
    slope, start = np.polyfit(told_n[fit_n], stance_n[fit_n], 1) if np.ptp(told_n[fit_n]) else (0.0, 0.0)
    # A slope below 0 would say the contrary of what was learnt: nothing was.
    told_n = np.clip(start + slope * told_n if slope > 0 else np.full(len(told_n), stance_n[fit_n].mean()), -1, 1)
    off_m = np.abs(told_n[held_n] - stance_n[held_n])
    mean_m = np.abs(stance_n[fit_n].mean() - stance_n[held_n])
    out |= {"mae": float(off_m.mean()), "mae_of_mean": float(mean_m.mean())}
    out |= _figure(mean_m - off_m, rows.groups_n[held_n], rows.seed, "gain")
    if np.ptp(told_n[held_n]) > 0 and np.ptp(stance_n[held_n]) > 0:
        out["r"] = float(np.corrcoef(told_n[held_n], stance_n[held_n])[0, 1])
    out["usable"] = out["gain_ci"][0] > 0
    return out, told_n if out["usable"] else None


def labels(values_n: Array, control_n: Array, wanted: Sequence[str]) -> Array:
    """str [n]: the value that a row is labelled with, NONE for rows about no value, "" where nothing is known."""
    out_n = np.where(np.isin(values_n, list(wanted)), values_n, "")
    return np.where((out_n == "") & control_n & (values_n == ""), NONE, out_n).astype(object)
