"""Every score of metrics.json: which rows are fitted and which are named, and what beside it gives it a meaning.

A part is one set of rows, scored by every encoder and by TF-IDF on equal terms; analyze's docstring has its keys.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from scipy import sparse

from univar_jax.statistics import baselines, evaluate, resamples, splits

Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows that all encoders have.

    Attributes:
      vectors: float32 [n, d] of each encoder; d may differ.
      columns: name → str [n].
      groups_n: [n] question groups: what is held out whole and resampled whole.
      questions_n: [n] questions, finer than groups: what labels are exchanged within.
      lengths_n: int [n] characters of each answer.
      counts_nv: words of each row, as `baselines.counts` gives them.
      fit_n: bool [n], by whole questions.
      trained_n: bool [n]: rows that some encoder was trained on.
      k: voters.
      seed: of all draws.
    """

    vectors: Sequence[np.ndarray]
    columns: dict[str, np.ndarray]
    groups_n: np.ndarray
    questions_n: np.ndarray
    lengths_n: np.ndarray
    counts_nv: sparse.csr_matrix
    fit_n: np.ndarray
    trained_n: np.ndarray
    k: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Part:
    """One set of rows, scored.

    Attributes:
      scores: of each encoder, under the keys of metrics.json.
      right: whether each scored row was named rightly, float [m] by each encoder's k-NN; TF-IDF's is the last one.
      rows_m: int [m] the scored rows.
      groups_m: [m] their question groups.
      counted: the same rows split by count, where that was asked for.
    """

    scores: list[dict]
    right: list[np.ndarray]
    rows_m: np.ndarray
    groups_m: np.ndarray
    counted: "Part | None" = None

    @property
    def told_apart(self) -> bool:
        """Whether there were two labels, so that there are scores."""
        return self.scores[0]["knn"] is not None


def part(table: Table, rows_n: np.ndarray, fit_n: np.ndarray, label: str = "source") -> Part:
    """Scores the rows of a mask, bool [n], that are not on the fit side, bool [n]."""
    rows = np.flatnonzero(rows_n)
    keep, left_out = evaluate.on_both_sides(table.columns[label][rows], fit_n[rows])
    rows = rows[keep]
    labels, groups, fit = table.columns[label][rows], table.groups_n[rows], fit_n[rows]
    units = [("question", table.questions_n[rows]), ("question group", groups)]
    found = [evaluate.score(z_nd[rows], labels, groups, fit, table.k, table.seed, units) for z_nd in table.vectors]
    words, words_right = baselines.tfidf(table.counts_nv[rows], labels, groups, fit, table.seed)
    columns = {name: table.columns[name][rows] for name in ("text", "source", "question")}
    leaks = splits.leakage(columns["text"], columns["source"], columns["question"], fit)
    done = Part([], [right for _, right in found] + [words_right], rows[~fit], groups[~fit])
    for scores, right in found:
        beside = words and words | {"paired": resamples.paired(right, words_right, done.groups_m, table.seed)}
        done.scores.append(scores | {"tfidf": beside, "left_out": left_out, "leakage": leaks})
    return done


def whole_part(table: Table, rows_n: np.ndarray, name: str, told: Tell) -> Part:
    """A part by held-out questions, with the same rows split by count and with length-matched answers beside it."""
    done = part(table, rows_n, table.fit_n)
    _say(done, name, table.k, told)
    sources, sets = table.columns["source"], table.columns["dataset"]
    fit_n = np.zeros(len(rows_n), bool)
    fit_n[rows_n] = splits.by_count(sources[rows_n], sets[rows_n], table.seed)
    by_count = part(table, rows_n, fit_n)
    both_n = rows_n & ~np.isin(sources, done.scores[0]["left_out"])
    alike_n = np.zeros(len(rows_n), bool)
    lengths = table.lengths_n[both_n], sources[both_n], table.fit_n[both_n]
    alike_n[both_n] = splits.length_matched(*lengths, table.seed)
    matched = part(table, alike_n, table.fit_n)
    if done.told_apart and not matched.told_apart:
        told(
            f"{name}: no answers of equal length in half of its {done.scores[0]['sources']} sources, so no such score."
        )
    for scores, counted, alike in zip(done.scores, by_count.scores, matched.scores, strict=True):
        told_apart = done.told_apart and matched.told_apart
        scores["by_count"] = counted if by_count.told_apart else None
        missing = sorted(set(sources[both_n]) - set(sources[alike_n]))
        scores["length_matched"] = alike | {"of": int(both_n.sum()), "left_out": missing} if told_apart else None
    return dataclasses.replace(done, counted=by_count)


def _say(done: Part, name: str, k: int, told: Tell) -> None:
    scores = done.scores[0]
    if scores["left_out"]:
        told(f"{name}: no rows on one of the two sides, so left out: {', '.join(scores['left_out'])}.")
    if not done.told_apart:
        told(f"{name}: fewer than two sources can be scored, so there are no scores.")
    elif k > scores["n_fit"]:
        told(f"{name}: k={k} is more than the {scores['n_fit']} rows on the fit side, so k={scores['n_fit']} there.")
    if scores["leakage"]["questions"]:
        many = f"{scores['leakage']['questions']:,} of {scores['n_scored']:,} scored rows"
        told(f"{name}: {many} have a question whose text stands on the fit side too, in another group.")


def measure(table: Table, values_n: np.ndarray, control_n: np.ndarray, told: Tell) -> tuple[list[dict], list[dict]]:
    """All scores of each encoder, and the first one's paired differences to the others.

    Args:
      values_n: bool [n]: rows about values that are scored.
      control_n: bool [n]: control rows that are scored.
      told: is given a sentence for each thing that was left out or changed.
    """
    values = whole_part(table, values_n, "Values", told)
    control = whole_part(table, control_n, "Control", told) if control_n.any() else None
    sets = sorted(set(table.columns["dataset"][values_n]) - {""})
    in_set = {name: values_n & (table.columns["dataset"] == name) for name in sets}
    by_set = {}
    for name, rows_n in in_set.items():
        if (rows_n == values_n).all():  # one corpus is all there is: the same part
            by_set[name] = dataclasses.replace(values, scores=[dict(scores) for scores in values.scores])
        else:
            by_set[name] = whole_part(table, rows_n, f"Dataset {name}", told)
    labels = {name: _labelled(table, values_n, name) for name in ("lang", "model")}
    across = _across(table, in_set)
    ratios = _value_to_control(table, values, control, values_n, control_n, told)
    for i, scores in enumerate(values.scores):
        scores["control"] = control.scores[i] if control else None
        scores["by_dataset"] = {name: done.scores[i] for name, done in by_set.items()}
        scores["labels"] = {name: done.scores[i] if done else None for name, done in labels.items()}
        scores["across"] = [{"fit": a, "scored": b, **done.scores[i]} for a, b, done in across]
        scores["by_value"] = _by_value(table, values, values.right[i])
        scores["value_to_control"] = ratios[i] if ratios else None
    first, *others = values.right[:-1]
    groups = values.groups_m, table.seed
    return values.scores, [resamples.paired(first, right, *groups) for right in others] if values.told_apart else []


def _labelled(table: Table, rows_n: np.ndarray, label: str) -> Part | None:
    """The rows by language or model alone; None where that is one label, or names the sources another way."""
    names, sources = table.columns[label][rows_n], table.columns["source"][rows_n]
    if not 1 < len(set(names)) < len(set(sources)):
        return None
    return part(table, rows_n, table.fit_n, label)


def _across(table: Table, in_set: dict[str, np.ndarray]) -> list[tuple[str, str, Part]]:
    """Fitted on one corpus and scored on another, for each two that share two sources.

    All rows of the one are fitted on, all rows of the other are scored on which no encoder was trained.
    """
    done = []
    for fit, scored in itertools.permutations(in_set, 2):
        rows_n = in_set[fit] | (in_set[scored] & ~table.trained_n)
        found = part(table, rows_n, in_set[fit])
        if found.told_apart:
            done.append((fit, scored, found))
    return done


def _by_value(table: Table, values: Part, right_m: np.ndarray) -> dict[str, dict]:
    """k-NN accuracy on each value's scored rows, where a column names values."""
    named_m = table.columns["value"][values.rows_m] if values.told_apart else np.zeros(0, object)
    out = {}
    for name in sorted(set(named_m) - {""}):
        rows, groups = right_m[named_m == name], values.groups_m[named_m == name]
        acc_ci = resamples.interval(rows, groups, table.seed)
        out[name] = {"acc": float(rows.mean()), "acc_ci": acc_ci, "n_scored": len(rows)}
        out[name]["groups"] = resamples.groups_of(groups)
    return out


def _value_to_control(
    table: Table, values: Part, control: Part | None, values_n: np.ndarray, control_n: np.ndarray, told: Tell
) -> list[dict] | None:
    """Accuracy over values / over control, of each encoder and of TF-IDF; None without scores on both.

    On the same sources and as many rows of each on either side, where two sources have both kinds of rows; else on all
    rows, which is no fair ratio, and said.
    """
    if not control or not (values.told_apart and control.told_apart):
        return None
    both_n = values_n | control_n
    keep_n = np.zeros(len(both_n), bool)
    of = table.columns["source"][both_n], control_n[both_n], table.fit_n[both_n]
    keep_n[both_n] = splits.same_size(*of, table.seed)
    above, below = (part(table, keep_n & kind_n, table.fit_n) for kind_n in (values_n, control_n))
    matched = above.told_apart and below.told_apart
    if not matched:
        told("Values and control share fewer than two sources, so their ratio is over different ones.")
        above, below = values, control
    out = []
    words = _ratio(above, below, -1, table.seed)
    for i, (on_values, on_control) in enumerate(zip(above.scores, below.scores, strict=True)):
        counted = _ratio(values.counted, control.counted, i, table.seed)
        sizes = {key: [on_values[key], on_control[key]] for key in ("n_fit", "n_scored", "groups", "sources", "chance")}
        accs = {"values": on_values["knn"], "control": on_control["knn"]}
        out.append(
            _ratio(above, below, i, table.seed)
            | {"matched": matched, "by_count": counted, "tfidf": words, **sizes, **accs}
        )
    return out


def _ratio(above: Part | None, below: Part | None, i: int, seed: int) -> dict | None:
    """The ratio of the i-th of both; None where one has no score."""
    if not (above and below and len(above.right[i]) and len(below.right[i])):
        return None
    return resamples.ratio(above.right[i], above.groups_m, below.right[i], below.groups_m, seed)
