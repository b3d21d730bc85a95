"""Which sources of a reference one of mine lies nearest to, and what is left of that when questions are drawn anew.

Distances, floors and p are those of `distances`. Here whole question groups are resampled with replacement, of all
sources the same ones, so that two distances from one source are compared on equal questions.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats

from univar_jax.statistics import distances, resamples

# Fewer question groups than this tell nothing: a resample then often has only half of them.
MIN_GROUPS = 10


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows of all sources, mine among them.

    Attributes:
      z_nd: float [n, d] unit vectors.
      source_n, lang_n: str [n].
      corpus_n: int [n].
      units: questions, then question groups: the cell of each row, int [n], as `distances.by_lot` codes them.
      lots: for each unit an order of its cells.
      seed: of all draws.
    """

    z_nd: np.ndarray
    source_n: np.ndarray
    lang_n: np.ndarray
    corpus_n: np.ndarray
    units: Sequence[resamples.Unit]
    lots: Sequence[np.ndarray]
    seed: int

    @property
    def groups_n(self) -> np.ndarray:
        """Int [n], the question group of each row."""
        return self.units[-1][1]

    def rows(self, source: str) -> np.ndarray:
        """Int [m], which rows are a source's."""
        return np.flatnonzero(self.source_n == source)

    def floor(self, source: str) -> float | None:
        """The energy that a source is from itself; None for fewer than two groups."""
        of = self.groups_n, self.lots[-1], self.corpus_n
        return _plain(distances.own_floors(self.z_nd, self.rows(source), *of, self.seed)[0])


def resampled(z_nd: np.ndarray, drawn: distances.Pair, code_n: np.ndarray, w_rg: np.ndarray) -> np.ndarray:
    """Energy and cosine distance of a pair in each resample of question groups, float [2, r].

    A sum over pairs of rows is first taken within and between groups, A [g, g]; in a resample in which group g is
    there w_g times it is Σ_{g≠h} w_g w_h A_gh + Σ_g w_g A_gg: rows of a group meet one another once for each time that
    it is drawn, for its copies are the same answers. So an energy is on average over the resamples what it is of all
    rows (but for 1/g), where copies that met would make sources look apart. A mean direction's length has the copies
    in it, w_g² A_gg, as that of a sample has its rows.

    Args:
      z_nd: float [n, d] unit vectors of all rows.
      drawn: the pair's.
      code_n: int [n] the question group of each of its rows, counted from 0.
      w_rg: how often each group was drawn, float [r, g]; all ones give `distances.test`'s figures.
    """
    products_nn, apart_nn = distances.products_and_distances(z_nd[drawn.rows])
    first_n1 = (np.arange(len(drawn.rows)) < drawn.size)[:, None]
    member_ng = np.eye(w_rg.shape[1])[code_n]
    u_ng, v_ng = member_ng * first_n1, member_ng * ~first_n1
    rows = w_rg @ u_ng.sum(0), w_rg @ v_ng.sum(0)

    def sums(pairs_nn: np.ndarray, copies_meet: bool) -> distances.Sums:
        found = []
        for a_ng, b_ng in ((u_ng, u_ng), (u_ng, v_ng), (v_ng, v_ng)):
            a_gg = a_ng.T @ (pairs_nn @ b_ng)
            own_g = np.zeros(w_rg.shape[1]) if copies_meet else a_gg.diagonal().copy()
            found.append(((w_rg @ (a_gg - np.diag(own_g))) * w_rg).sum(1) + w_rg @ own_g)
        return distances.Sums(*found, *rows)

    other_nn = (drawn.cells[:, None] != drawn.cells[None]).astype(np.float64)
    uu, uv, vv = sums(apart_nn * other_nn, False).over(sums(other_nn, False))
    return np.stack([2 * uv - uu - vv, sums(products_nn.astype(np.float64), True).cosine()])


def interval(found_r: np.ndarray, groups: int) -> list[float]:
    """95 % interval of a figure from its resamples: percentiles, taken farther out the fewer groups there are.

    Percentiles of a bootstrap are as much too narrow as a normal interval is that divides by g and not by g - 1 and
    takes 1.96 for Student's t; so the tails are Φ(-√(g / (g - 1)) t), .025 for many groups and .009 for ten
    (Hesterberg 2015, the expanded percentile interval).

    Energies below a few hundredths are covered more often than 95 %: near 0 their resamples spread wider than they do.
    A cosine distance of centroids is too large by the noise in either mean, a resample's by that twice: its interval is
    of the figure with so many questions.
    """
    tail = stats.norm.cdf(-np.sqrt(groups / (groups - 1)) * stats.t.ppf(0.975, groups - 1))
    return [round(float(end), 6) for end in np.quantile(found_r, [tail, 1 - tail])]


@dataclasses.dataclass(frozen=True)
class _Compared:
    """One of mine beside one source of the reference; `row` is what place.json holds of it."""

    row: dict
    drawn: distances.Pair
    groups: np.ndarray


def _compare(table: Table, mine: str, other: str, number: int) -> _Compared:
    """The two sources' rows that are compared, tested where there are enough."""
    rows, others = table.rows(mine), table.rows(other)
    drawn = distances.pair(rows, others, table.units, table.lots)
    of = [table.groups_n[part] for part in (drawn.rows[: drawn.size], drawn.rows[drawn.size :])]
    groups = np.union1d(*of)
    count = len(np.intersect1d(*of)) if drawn.shared else min(len(np.unique(g)) for g in of)
    row = {"source": other, "lang": str(table.lang_n[others[0]]), "shared": drawn.shared, "unit": drawn.unit or None}
    row |= {"rows": len(drawn.rows), "groups": count}
    least = min(drawn.size, len(drawn.rows) - drawn.size)
    if least < distances.MIN_ROWS or count < MIN_GROUPS:
        row |= {"rows_smaller": least, "needed_rows": distances.MIN_ROWS, "needed_groups": MIN_GROUPS}
        return _Compared(row, drawn, groups)
    far, p = distances.test(table.z_nd, drawn, table.seed, number)
    row |= dict(zip(("energy", "centroid", "p", "centroid_p"), map(_plain, (*far, *p)), strict=True))
    row |= {"few_groups": count < resamples.FEW_GROUPS}
    return _Compared(row, drawn, groups)


def _plain(x: float) -> float | None:
    return None if np.isnan(x) else round(float(x), 6)


def _listed(table: Table, found: list[_Compared]) -> tuple[list[dict], dict | None]:
    """Rows by energy with their intervals and shares, and the nearest against the second."""
    found = sorted((c for c in found if "energy" in c.row), key=lambda c: (c.row["energy"], c.row["source"]))
    if not found:
        return [], None
    every = np.unique(np.concatenate([c.groups for c in found]))
    stream = resamples.draws(table.seed, resamples.PLACED)
    times_rg = stream.multinomial(len(every), np.full(len(every), 1 / len(every)), resamples.RESAMPLES).astype(float)
    energy_cr = []
    for c in found:
        code_n = np.searchsorted(c.groups, table.groups_n[c.drawn.rows])
        w_rg = times_rg[:, np.searchsorted(every, c.groups)]
        energy_r, centroid_r = resampled(table.z_nd, c.drawn, code_n, w_rg)
        c.row["ci"], c.row["centroid_ci"] = interval(energy_r, c.row["groups"]), interval(centroid_r, c.row["groups"])
        energy_cr.append(energy_r)
    times_c = np.bincount(np.argmin(energy_cr, axis=0), minlength=len(found))
    for c, times in zip(found, times_c, strict=True):
        c.row["nearest_share"] = float(times) / resamples.RESAMPLES
    second = _second(found[0], found[1], energy_cr[1] - energy_cr[0]) if len(found) > 1 else None
    return [c.row for c in found], second


def _second(first: _Compared, second: _Compared, difference_r: np.ndarray) -> dict:
    """Whether the nearest is apart from the second: the paired interval of the difference of their energies."""
    difference = second.row["energy"] - first.row["energy"]
    groups = len(np.intersect1d(first.groups, second.groups))
    lo, hi = interval(difference_r, max(2, groups))
    out = {"source": second.row["source"], "difference": round(difference, 6), "ci": [lo, hi], "groups": groups}
    out |= {"verdict": "apart" if lo > 0 else "not told apart", "groups_needed": None}
    if lo <= 0 < difference:
        # An interval's width falls as 1/√groups: so many would leave 0 out, were the difference what it seems.
        out["groups_needed"] = int(np.ceil(groups * ((difference - lo) / difference) ** 2))
    return out


def rank(table: Table, mine: Sequence[str]) -> list[dict]:
    """Of each of my sources the reference's, the nearest first; place.json's keys of `mine`.

    Sources of its own language are ranked; those of others are a list of their own, without shares or verdict, for
    the language alone sets sources apart. q is Benjamini and Hochberg's over all rows of the same kind of list.

    Args:
      table: the rows.
      mine: the names of my sources; all others are the reference's.
    """
    others = sorted(set(table.source_n) - set(mine))
    floors = {name: table.floor(name) for name in [*mine, *others]}
    out = []
    for name in mine:
        rows = table.rows(name)
        lang = str(table.lang_n[rows[0]])
        first = len(out) * len(others)
        found = [_compare(table, name, other, first + i) for i, other in enumerate(others)]
        here, there = ([c for c in found if (c.row["lang"] == lang) is same] for same in (True, False))
        nearest, second = _listed(table, here)
        foreign, _ = _listed(table, there)
        for row in foreign:
            del row["nearest_share"]
        for row in nearest + foreign:
            row["floor_source"] = floors[row["source"]]
            row["floor"] = max((f for f in (floors[name], floors[row["source"]]) if f is not None), default=None)
        out.append(
            {
                "source": name,
                "lang": lang,
                "n": len(rows),
                "groups": len(np.unique(table.groups_n[rows])),
                "floor": floors[name],
                "nearest": nearest,
                "apart_from_second": second,
                "other_languages": foreign,
                "not_enough": [c.row for c in found if "energy" not in c.row],
            }
        )
    for key in ("nearest", "other_languages"):
        _add_q([row for found in out for row in found[key]])
    return out


def _add_q(rows: list[dict]) -> None:
    for p, q in (("p", "q"), ("centroid_p", "centroid_q")):
        values = stats.false_discovery_control([row[p] for row in rows]) if rows else []
        for row, value in zip(rows, values, strict=True):
            row[q] = round(float(value), 6)


def headline(found: dict) -> str:
    """One of `rank`'s in a sentence or two, for who reads nothing else."""
    name, nearest = found["source"], found["nearest"]
    if not nearest:
        few = [row for row in found["not_enough"] if row["lang"] == found["lang"]]
        if not few:
            return f"{name} is not placed: the reference has no other source in {found['lang']}."
        best = max(few, key=lambda row: (row["groups"], row["rows_smaller"]))
        needed = f"{best['needed_groups']} question groups and {best['needed_rows']} rows of either are needed"
        return f"Not enough to place {name}: {best['groups']} and {best['rows_smaller']} are there at best, {needed}."
    first, second = nearest[0], found["apart_from_second"]
    said = f"{name} lies nearest to {first['source']} (energy {_figure(first)})"
    if second is None:
        said += f", the only source in {found['lang']} that it could be compared with."
    else:
        share, (_, other) = f"{100 * first['nearest_share']:.0f} %", nearest[:2]
        apart = "apart from" if second["verdict"] == "apart" else "not told apart from"
        said += f", the nearest in {share} of resamples and {apart} the second, {other['source']} ({_figure(other)})."
    if first["q"] >= 0.05:
        said += f" These answers do not tell it from {first['source']} (q {first['q']:.2f})."
    return said


def _figure(row: dict) -> str:
    return f"{row['energy']:.3f} [{row['ci'][0]:.3f}, {row['ci'][1]:.3f}]"
