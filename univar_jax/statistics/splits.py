"""Which rows k-NN and probe are fitted on and which are scored; equal numbers of rows; and what stands on both sides.

Three splits: whole questions held out (ours), rows of each source by count (the paper's, downstream_eval.py, where a
scored question was answered on the fit side by others), and whole corpora.
"""

import json

import numpy as np

from univar_jax import qa
from univar_jax.cli import UserError
from univar_jax.embeddings import Encoder
from univar_jax.statistics import resamples

# The paper's share of a source's rows that is fitted on: 1,000 of 1,250, and so on; 0.8 for corpora that it lacks.
PAPER_SHARES = {"valueprism": 1000 / 1250, "pvqrr": 128 / 168, "globe": 54 / 84, "wvs": 201 / 251, "lima": 735 / 985}
_SHARE = 0.8
# Answers within a tenth of all lengths count as equally long.
LENGTH_BINS = 10


def held_out(encoder: Encoder, groups_n: np.ndarray, seed: int, notes: list[str]) -> np.ndarray:
    """bool [n]: the rows that k-NN and probe are fitted on; by the file's split, else by our own."""
    split_n = encoder.columns["split"]
    unknown = sorted(set(split_n) - {"train", "heldout", "unseen", ""})
    if unknown:
        raise UserError(f"column split holds {unknown[0]!r}; use train, heldout, unseen or nothing")
    if (split_n == "").any():
        notes.append("Without a column split the rows were split by question here; the encoder may have seen them.")
    try:
        rule = dict(json.loads(encoder.meta.get("holdout") or "{}") or {})
        rule_seed, share = int(rule.get("seed", seed)), float(rule.get("share") or qa.SHARE)
    except (TypeError, ValueError) as error:
        raise UserError(f"the metadata's holdout is {encoder.meta['holdout']!r}; it should be JSON") from error
    ours_n = ~np.isin(split_n, ("train", "heldout"))
    return np.where(ours_n, ~qa.heldout(groups_n.tolist(), rule_seed, share), split_n == "train")


def _codes(*columns: np.ndarray) -> np.ndarray:
    """int [n]: rows with equal values in all columns have equal numbers, 0, 1, …"""
    code_n = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        values, code_of_n = np.unique(np.asarray(column), return_inverse=True)
        code_n = np.unique(code_n * len(values) + code_of_n, return_inverse=True)[1]
    return code_n


def _drawn(cells_n: np.ndarray, take_c: np.ndarray, seed: int, purpose: int) -> np.ndarray:
    """bool [n]: so many rows of each cell, by lot."""
    lot_n = resamples.draws(seed, purpose).random(len(cells_n))
    order_n = np.lexsort((lot_n, cells_n))
    start_c = np.concatenate([[0], np.cumsum(np.bincount(cells_n, minlength=len(take_c)))])
    place_n = np.empty(len(cells_n), np.int64)
    place_n[order_n] = np.arange(len(cells_n)) - start_c[cells_n[order_n]]
    return place_n < take_c[cells_n]


def by_count(sources_n: np.ndarray, datasets_n: np.ndarray, seed: int) -> np.ndarray:
    """bool [n]: the rows that are fitted on in the paper's split, a fixed share of each source's in each corpus."""
    cells_n = _codes(datasets_n, sources_n)
    name_c = np.empty(cells_n.max(initial=-1) + 1, object)
    name_c[cells_n] = datasets_n
    plain = ("".join(filter(str.isalnum, name.lower())) for name in name_c)
    share_c = np.array([PAPER_SHARES.get(name, _SHARE) for name in plain], float)
    # The sliver: 128 / 168 of 168 is 128, whatever the last digit of a float says.
    take_c = np.floor(share_c * np.bincount(cells_n, minlength=len(share_c)) + 1e-9)
    return _drawn(cells_n, take_c, seed, resamples.BY_COUNT)


def same_size(sources_n: np.ndarray, control_n: np.ndarray, fit_n: np.ndarray, seed: int) -> np.ndarray:
    """bool [n]: values and control with the same sources and, of each source and side, as many rows.

    Args:
      sources_n: [n].
      control_n: bool [n]; the other rows are about values.
      fit_n: bool [n].
    """
    strata_n = _codes(sources_n, fit_n)
    rows_s2 = _table(strata_n, control_n.astype(np.int64), 2)
    take_s = rows_s2.min(1)
    keep_n = _drawn(strata_n * 2 + control_n, np.repeat(take_s, 2), seed, resamples.MATCHED)
    return keep_n & _whole(sources_n, fit_n, keep_n)


def length_matched(lengths_n: np.ndarray, sources_n: np.ndarray, fit_n: np.ndarray, seed: int) -> np.ndarray:
    """bool [n]: rows of which all sources have, side by side, equally many in each tenth of all answers' lengths.

    A source that shares few lengths with the others leaves all of them few rows. So sources are left out one by one,
    each time the one without which most rows stay, down to half of them; what leaves most rows in all is taken.

    Args:
      lengths_n: int [n] characters of each answer.
      sources_n: [n].
      fit_n: bool [n].
    """
    edges = np.quantile(lengths_n, np.arange(1, LENGTH_BINS) / LENGTH_BINS) if len(lengths_n) else np.zeros(0)
    strata_n = _codes(np.searchsorted(edges, lengths_n, side="right"), fit_n)
    names, source_n = np.unique(sources_n, return_inverse=True)
    rows_bs = _table(strata_n, source_n, len(names))
    kept = _sharing(rows_bs)
    take_bs = np.zeros_like(rows_bs)
    take_bs[:, kept] = rows_bs[:, kept].min(1, keepdims=True, initial=len(lengths_n))
    return _drawn(strata_n * len(names) + source_n, take_bs.ravel(), seed, resamples.LENGTHS)


def _sharing(rows_bs: np.ndarray) -> list[int]:
    """The columns whose smallest numbers, row by row, come to most in all; see `length_matched`."""
    kept, best = list(range(rows_bs.shape[1])), (-1, [])
    while len(kept) >= max(2, (rows_bs.shape[1] + 1) // 2):
        best = max(best, (len(kept) * int(rows_bs[:, kept].min(1).sum()), list(kept)), key=lambda found: found[0])
        left = [int(rows_bs[:, [s for s in kept if s != out]].min(1).sum()) for out in kept]
        kept.pop(int(np.argmax(left)))
    return best[1]


def _table(rows_n: np.ndarray, columns_n: np.ndarray, columns: int) -> np.ndarray:
    """How many rows fall on each (row, column), int [r, c]."""
    rows = rows_n.max(initial=-1) + 1
    return np.bincount(rows_n * columns + columns_n, minlength=rows * columns).reshape(rows, columns)


def _whole(sources_n: np.ndarray, fit_n: np.ndarray, keep_n: np.ndarray) -> np.ndarray:
    """bool [n]: rows of the sources that have kept rows on both sides; what is left of others could not be scored."""
    return np.isin(sources_n, np.intersect1d(sources_n[keep_n & fit_n], sources_n[keep_n & ~fit_n]))


def leakage(texts_n: np.ndarray, sources_n: np.ndarray, questions_n: np.ndarray, fit_n: np.ndarray) -> dict[str, int]:
    """Scored rows that stand on the fit side too.

    Args:
      texts_n: [n] question and answer of each row.
      sources_n: [n].
      questions_n: [n] the question's text.
      fit_n: bool [n].

    Returns:
      rows: scored rows whose question and answer, letter by letter, are on the fit side; of_source: those of them that
      are there under their own source; questions: scored rows whose question is there.
    """
    fitted = set(texts_n[fit_n])
    own = set(zip(texts_n[fit_n], sources_n[fit_n], strict=True))
    asked = set(questions_n[fit_n])
    scored = list(zip(texts_n[~fit_n], sources_n[~fit_n], strict=True))
    return {
        "rows": sum(text in fitted for text, _ in scored),
        "of_source": sum(row in own for row in scored),
        "questions": sum(question in asked for question in questions_n[~fit_n]),
    }
