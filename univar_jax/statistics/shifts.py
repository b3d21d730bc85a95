"""How far a source moved between before and after, how sure that is, on which values, and towards whom.

Everything is over questions that both answered. The shift is the cosine distance of the two mean directions, the energy
that of the two distributions (`distances`); p of either exchanges labels within questions. The shift of n questions has
noise in it and is never 0, so it is read beside its noise band (`noise`). Its interval is by bootstrap of question
groups; a resample has the noise in it twice, and the interval is moved down by that: it is one of the shift of as many
questions, noise and all, as the band is.
"""

from collections.abc import Iterable

import numpy as np
from scipy import stats

from univar_jax.statistics import distances, nearest, noise, resamples

# Rows of either source in one comparison: there are few pairs here, so more than for a matrix of them.
MAX_ROWS = 500
# Streams of random numbers a pair: one of its own, one a value.
_STREAMS = 100_000
_KEYS = ("shift", "shift_ci", "shift_p", "shift_q", "noise_band", "noise_of")
_KEYS += ("energy", "energy_ci", "energy_noise_band", "p", "q")


def stream(pair: int, value: int = 0) -> int:
    """The number of a pair's streams: those of the whole, or of a value, the last one for control answers."""
    return pair * _STREAMS + value


def figure(table: nearest.Table, before: np.ndarray, after: np.ndarray, number: int) -> tuple[dict, distances.Pair]:
    """The figures of two sets of rows, and the rows that were compared.

    Args:
      table: all rows.
      before, after: int [n], [m] rows.
      number: of the streams.

    Returns:
      shared and unit (questions, or question groups, that both answered), rows [before, after], groups, few_groups,
      not_enough, and _KEYS: None where there is not enough; q is left to `add_q`.
    """
    drawn = distances.pair(before, after, table.units, table.lots, MAX_ROWS)
    sides = drawn.rows[: drawn.size], drawn.rows[drawn.size :]
    groups = len(np.intersect1d(*(table.groups_n[rows] for rows in sides))) if drawn.shared else 0
    row = dict.fromkeys(_KEYS) | {"shared": drawn.shared, "unit": drawn.unit or None, "groups": groups}
    row |= {"rows": [len(rows) for rows in sides] if drawn.shared else [0, 0], "few_groups": False, "not_enough": None}
    if not drawn.shared:  # fewer than can be compared, or none
        row |= _common(table, before, after)
    if not drawn.shared or row["groups"] < nearest.MIN_GROUPS:
        needed = {"needed_groups": nearest.MIN_GROUPS, "needed_rows": distances.MIN_ROWS}
        return row | {"not_enough": {"groups": row["groups"], "rows": min(row["rows"])} | needed}, drawn
    (energy, shift), p = distances.test(table.z_nd, drawn, table.seed, number)
    energy_ci, (lo, hi) = _intervals(table, drawn, (energy, shift), number)
    labelled = noise.labelled(drawn, table.seed, number)
    band, energy_band = noise.bands(table.z_nd, labelled)
    row |= {"shift": _round(shift), "shift_ci": [max(lo, 0.0), hi], "shift_p": _round(p[1]), "noise_band": band}
    row |= {"energy": _round(energy), "energy_ci": energy_ci, "p": _round(p[0]), "energy_noise_band": energy_band}
    return row | {"noise_of": labelled.of, "few_groups": groups < resamples.FEW_GROUPS}, drawn


def _common(table: nearest.Table, before: np.ndarray, after: np.ndarray) -> dict:
    """What the two have in common where it is too little to be compared."""
    for unit, cell_n in table.units:
        both = np.intersect1d(cell_n[before], cell_n[after])
        if len(both):
            sides = [rows[np.isin(cell_n[rows], both)] for rows in (before, after)]
            groups = len(np.intersect1d(*(table.groups_n[rows] for rows in sides)))
            return {"shared": len(both), "unit": unit, "rows": [len(rows) for rows in sides], "groups": groups}
    return {}


def _intervals(table: nearest.Table, drawn: distances.Pair, far: tuple[float, float], number: int) -> list[list[float]]:
    """95 % intervals of energy and shift."""
    groups, code_n = np.unique(table.groups_n[drawn.rows], return_inverse=True)
    found_2r = nearest.resampled(table.z_nd, drawn, code_n, _times(table.seed, resamples.SHIFTED, number, len(groups)))
    # An energy has no noise in its mean, in a resample's neither; a shift has, and a resample's twice.
    return [nearest.interval(x_r - (x_r.mean() - x), len(groups)) for x, x_r in zip(far, found_2r, strict=True)]


def _times(seed: int, purpose: int, number: int, groups: int) -> np.ndarray:
    """How often each group is drawn in each resample, float [r, g]."""
    stream = resamples.draws(seed, purpose, number)
    return stream.multinomial(groups, np.full(groups, 1 / groups), resamples.RESAMPLES).astype(float)


def measure(
    table: nearest.Table, about_n: np.ndarray, value_n: np.ndarray, before: str, after: str, number: int
) -> tuple[dict, distances.Pair]:
    """All that is said of a pair, but for q over the pairs, and the rows that were compared.

    Args:
      table: all rows, those about values and control.
      about_n: bool [n] which rows are about values.
      value_n: str [n] the value that each is about, "" for none.
      before, after: names of sources.
      number: of the pair.

    Returns:
      compare.json's entry of `pairs`.
    """
    a, b = table.rows(before), table.rows(after)
    whole, drawn = figure(table, a[about_n[a]], b[about_n[b]], stream(number))
    by_value = {}
    for i, value in enumerate(sorted({*value_n[a[about_n[a]]], *value_n[b[about_n[b]]]} - {""}), 1):
        of = [rows[about_n[rows] & (value_n[rows] == value)] for rows in (a, b)]
        by_value[str(value)] = figure(table, *of, stream(number, i))[0]
    add_q(by_value.values())
    control = None
    if not about_n[a].all() and not about_n[b].all():
        control = figure(table, a[~about_n[a]], b[~about_n[b]], stream(number, _STREAMS - 1))[0]
        del control["q"], control["shift_q"]  # one test beside the others, not one of them
    towards = [] if whole["not_enough"] else _toward(table, about_n, drawn, (before, after), number)
    return {"before": before, "after": after} | whole | {
        "by_value": by_value,
        "control": control,
        "toward": towards,
    }, drawn


def add_q(rows: Iterable[dict]) -> None:
    """Adds q and shift_q of Benjamini and Hochberg over these figures; those without p are no tests."""
    tested = [row for row in rows if row["p"] is not None]
    for p, q in (("p", "q"), ("shift_p", "shift_q")):
        values = stats.false_discovery_control([row[p] for row in tested]) if tested else []
        for row, value in zip(tested, values, strict=True):
            row[q] = _round(value)


def _toward(
    table: nearest.Table, about_n: np.ndarray, drawn: distances.Pair, pair: tuple[str, str], number: int
) -> list[dict]:
    """How much nearer after is than before was to each other source of its language, the nearest first.

    Cosine distances of mean directions (`_far`) over questions that all three answered; the two share their resamples
    of question groups, so that the interval is a paired one.
    """
    cell_n, lang = dict(table.units)[drawn.unit], table.lang_n[drawn.rows[-1]]
    names = sorted(set(table.source_n[(table.lang_n == lang) & about_n]) - set(pair))
    out = []
    for i, name in enumerate(names):
        rows = table.rows(name)
        rows = rows[about_n[rows] & np.isin(cell_n[rows], drawn.cells)]
        kept = np.isin(drawn.cells, cell_n[rows])
        sides = drawn.rows[: drawn.size][kept[: drawn.size]], drawn.rows[drawn.size :][kept[drawn.size :]], rows
        groups, code_n = np.unique(table.groups_n[np.concatenate(sides)], return_inverse=True)
        if len(groups) < nearest.MIN_GROUPS or min(map(len, sides)) < distances.MIN_ROWS:
            continue
        times_rg = _times(table.seed, resamples.TOWARD, stream(number, i), len(groups))
        times_rg = np.concatenate([np.ones((1, len(groups))), times_rg])  # the first is no resample
        codes = np.split(code_n, np.cumsum([len(side) for side in sides])[:2])
        a, b, to = (_summed(table.z_nd[side], code, len(groups)) for side, code in zip(sides, codes, strict=True))
        from_r, now_r = (_far(times_rg, x, to) for x in (a, b))
        change_r = now_r - from_r
        lo, hi = nearest.interval(change_r[1:], len(groups))
        verdict = "toward" if hi < 0 else "away" if lo > 0 else "not shown"
        found = {"before": _round(from_r[0]), "after": _round(now_r[0]), "change": _round(change_r[0]), "ci": [lo, hi]}
        out.append({"source": str(name)} | found | {"groups": len(groups), "verdict": verdict})
    return sorted(out, key=lambda row: (row["change"], row["source"]))


def _summed(z_nd: np.ndarray, code_n: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each group the sum of its rows, [g, d], and their number, [g]."""
    total_gd = np.zeros((groups, z_nd.shape[1]))
    np.add.at(total_gd, code_n, z_nd)
    return total_gd, np.bincount(code_n, minlength=groups)


def _far(times_rg: np.ndarray, x: tuple[np.ndarray, np.ndarray], y: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """1 - cos of mean directions in each resample, [r], over pairs of rows of different groups as in `moves`.

    A mean's own noise lengthens it, and the more so the fewer its rows: with it in, whoever has fewer answers than
    before would seem to have moved away from all others.
    """

    def mean(u: tuple[np.ndarray, np.ndarray], v: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        (u_gd, n_g), (v_gd, m_g) = u, v
        total_r = ((times_rg @ u_gd) * (times_rg @ v_gd)).sum(1) - times_rg**2 @ (u_gd * v_gd).sum(1)
        return total_r / np.maximum((times_rg @ n_g) * (times_rg @ m_g) - times_rg**2 @ (n_g * m_g), 1)

    size_r = np.sqrt(np.maximum(mean(x, x), 0) * np.maximum(mean(y, y), 0))
    return 1 - np.divide(mean(x, y), size_r, out=np.zeros_like(size_r), where=size_r > 1e-9)


def _round(x: float) -> float:
    return round(float(x), 6)
