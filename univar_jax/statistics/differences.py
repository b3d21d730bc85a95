"""On which questions two sources answer most and least differently, with their answers in their own words."""

import collections
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

# Every pair of so many sources; of more, each source with its nearest and its farthest one.
ALL_PAIRS = 10
# Questions quoted at either end of a pair's list.
QUOTED = 5
ANSWER_LETTERS, QUESTION_LETTERS = 600, 300


def pairs(names: Sequence[str], d_ss: np.ndarray) -> list[tuple[str, str]]:
    """The pairs that are looked at of sources in sorted order, by a matrix of their distances [s, s]."""
    s = len(names)
    if s <= ALL_PAIRS:
        return list(itertools.combinations(names, 2))
    far_ss = d_ss + np.diag(np.full(s, -np.inf))
    near_ss = d_ss + np.diag(np.full(s, np.inf))
    ends = [(i, int(to)) for i in range(s) for to in (near_ss[i].argmin(), far_ss[i].argmax())]
    return [(names[i], names[j]) for i, j in sorted({(min(pair), max(pair)) for pair in ends})]


def between(
    z_nd: np.ndarray,
    columns: dict[str, np.ndarray],
    units: Sequence[tuple[str, np.ndarray]],
    wanted: Sequence[tuple[str, str]],
) -> list[dict]:
    """For each pair of sources the questions that both answered, by the cosine distance of their answers.

    Of several answers to a question the mean over all pairs of them counts, 1 - (mean z_a)·(mean z_b), and the first
    one is quoted.

    Args:
      z_nd: float [n, d] unit vectors.
      columns: source, question, answer, dataset and value of each row, str [n] each.
      units: [n] each: questions, then question groups, for sources that share no question (of two languages).
      wanted: the pairs of sources, a and b of each.

    Returns:
      A pair each: a, b, unit, shared (questions), distance (the mean over them), most and least (QUOTED questions
      each, or fewer so that none is on both lists), by_value and by_dataset (mean distance and questions).
    """
    out = []
    for pair, unit, a, b in _shared(z_nd, columns["source"], units, wanted):
        found = {"a": pair[0], "b": pair[1], "unit": unit, "shared": len(a), "distance": None}
        found |= _ranked(columns, a, b) if a else {"most": [], "least": [], "by_value": {}, "by_dataset": {}}
        out.append(found)
    return out


def each(
    z_nd: np.ndarray,
    columns: dict[str, np.ndarray],
    units: Sequence[tuple[str, np.ndarray]],
    wanted: Sequence[tuple[str, str]],
) -> list[dict]:
    """Every question that `between` ranks, args as there, in the order of the questions.

    Returns:
      before, after (the pair's), dataset, question_id, question and value of before's first answer, and distance.
    """
    out = []
    for pair, _, a, b in _shared(z_nd, columns["source"], units, wanted):
        for (_, row), far in zip(a, _distances(a, b), strict=True):
            about = {name: columns[name][row] for name in ("dataset", "question_id", "question", "value")}
            out.append({"before": pair[0], "after": pair[1]} | about | {"distance": round(float(far), 4)})
    return out


_Means = list[tuple[np.ndarray, int]]  # of each question the mean vector of a source's answers, and the first one's row


def _shared(
    z_nd: np.ndarray, source_n: np.ndarray, units: Sequence[tuple[str, np.ndarray]], wanted: Sequence[tuple[str, str]]
) -> Iterator[tuple[tuple[str, str], str | None, _Means, _Means]]:
    """Of each pair the unit in which both have answers, None where there is none, and either's means, in one order."""
    rows_s = {name: np.flatnonzero(source_n == name) for pair in wanted for name in pair}
    means = [{name: _means(z_nd, rows, cells_n) for name, rows in rows_s.items()} for _, cells_n in units]
    for pair in wanted:
        for (unit, _), means_s in zip(units, means, strict=True):
            if both := sorted(means_s[pair[0]].keys() & means_s[pair[1]].keys()):
                yield pair, unit, *([means_s[name][cell] for cell in both] for name in pair)
                break
        else:
            yield pair, None, [], []


def _means(z_nd: np.ndarray, rows: np.ndarray, cells_n: np.ndarray) -> dict[str, tuple[np.ndarray, int]]:
    """Of each question the mean vector of a source's answers, and the row of the first."""
    cells, first_c, code_n = np.unique(cells_n[rows], return_index=True, return_inverse=True)
    mean_cd = np.zeros((len(cells), z_nd.shape[1]), np.float32)
    np.add.at(mean_cd, code_n, z_nd[rows])
    mean_cd /= np.bincount(code_n)[:, None]
    return {cell: (mean_cd[c], int(rows[first_c[c]])) for c, cell in enumerate(cells)}


def _distances(a: _Means, b: _Means) -> np.ndarray:
    return np.array([1 - float(x @ y) for (x, _), (y, _) in zip(a, b, strict=True)])


def _ranked(columns: dict[str, np.ndarray], a: _Means, b: _Means) -> dict:
    far_q = _distances(a, b)
    order = np.argsort(-far_q, kind="stable")
    most, least = min(QUOTED, (len(order) + 1) // 2), min(QUOTED, len(order) // 2)

    def quoted(q: int) -> dict:
        row, other = a[q][1], b[q][1]
        out = {"distance": round(float(far_q[q]), 4), "question": _cut(columns["question"][row], QUESTION_LETTERS)}
        out |= {"dataset": columns["dataset"][row], "value": columns["value"][row]}
        answers = (_cut(columns["answer"][i], ANSWER_LETTERS) for i in (row, other))
        return out | dict(zip(("answer_a", "answer_b"), answers, strict=True))

    rows = [row for _, row in a]
    return {
        "distance": round(float(far_q.mean()), 4),
        "most": [quoted(q) for q in order[:most]],
        "least": [quoted(q) for q in order[::-1][:least]],
        "by_value": _grouped(columns["value"][rows], far_q),
        "by_dataset": _grouped(columns["dataset"][rows], far_q),
    }


def _grouped(names_q: np.ndarray, far_q: np.ndarray) -> dict[str, dict]:
    """Mean distance and number of questions of each name, the farthest first."""
    of = collections.defaultdict(list)
    for name, far in zip(names_q, far_q, strict=True):
        if name:
            of[name].append(far)
    found = {name: {"distance": round(float(np.mean(d)), 4), "questions": len(d)} for name, d in of.items()}
    return dict(sorted(found.items(), key=lambda item: (-item[1]["distance"], item[0])))


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[:letters].rstrip() + " …"
