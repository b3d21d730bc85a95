"""Side effects: what a graph says will move with a steered value, checked on rows in which it was steered.

After arXiv 2501.00581: of the rows in which the steered value changed, the share of other values that changed, among
its descendants in the graph (expected) and among the rest (unexpected).
"""

from collections.abc import Sequence

import numpy as np

from univar_jax.cli import UserError
from univar_jax.statistics import causal, resamples
from univar_jax.statistics.matrix import Matrix

# A difference of two means of equal answers may be a rounding away from none.
_ROUNDING = 1e-9

Array = np.ndarray


def changes(test: Matrix, unsteered: str, changed: float) -> tuple[Array, Array, int]:
    """Which values of each steered row are not what they are in the unsteered rows of the same role.

    Args:
      test: a column `condition` beside other id columns; rows that agree in all others but `steered` are of one role.
        Where that column is empty, personas are the steering, and rows of one model and language are of one role.
      unsteered: the word in `condition` for rows without steering; empty cells are such rows, too.
      changed: a score has changed where it is further than this from the mean of the unsteered ones.

    Returns:
      rows, int [m]: the steered rows that have an unsteered one; bool [m, v]; and how many have none.

    Raises:
      UserError: neither column is filled; a cell is empty; no unsteered row, or none of a steered row's role.
    """
    by = steered_by(test)
    if np.isnan(test.x_nv).any():
        row, column = np.argwhere(np.isnan(test.x_nv))[0]
        raise UserError(f"{test.file} row {row + 1}: {test.values[column]} is empty; leave such rows out")
    base_n = np.isin(test.ids[by], ("", unsteered))
    if not base_n.any():
        there = sorted(set(test.ids[by]))[:8]
        told = f"no row has {by} {unsteered!r} (there: {', '.join(there)})"
        raise UserError(f"{test.file}: {told}; name the unsteered one with --unsteered")
    # A source's name holds its persona.
    keys = [name for name in test.ids if name not in (by, "steered", *(["source"] if by == "persona" else []))]
    roles = list(zip(*(test.ids[name] for name in keys), strict=True)) or [()] * len(base_n)
    base_of: dict[tuple, list[int]] = {}
    for row in np.flatnonzero(base_n):
        base_of.setdefault(roles[row], []).append(row)
    rows = [row for row in np.flatnonzero(~base_n) if roles[row] in base_of]
    if not rows:
        raise UserError(f"{test.file}: no steered row has an unsteered one that agrees in {', '.join(keys)}; add them")
    apart = [np.abs(test.x_nv[row] - test.x_nv[base_of[roles[row]]].mean(0)) for row in rows]
    return np.array(rows), np.array(apart) > changed + _ROUNDING, int((~base_n).sum()) - len(rows)


def steered_by(test: Matrix) -> str:
    """The id column that says how a row was steered: condition, or persona where no condition is filled."""
    for name in ("condition", "persona"):
        if name in test.ids and (test.ids[name] != "").any():
            return name
    there = ", ".join(test.ids) or "no id column"
    raise UserError(f"{test.file}: no column condition that is filled (there: {there}); it names what was steered")


def side_effects(
    test: Matrix, to_vv: Array, unit: str, steered: Sequence[str], unsteered: str, changed: float, seed: int
) -> dict:
    """How well the descendants of steered values tell what else changes.

    Args:
      test: the graph's values, in its order.
      to_vv: bool [v, v]: descendants, as `causal.reach` gives them.
      unit: the column that is resampled whole; "" as in `Matrix.units`.
      steered: the values to look at; () = all.
      unsteered, changed: as in `changes`.
      seed: of the draws.

    Returns:
      rows, without_baseline, by (the column), unit, units, unsteered, changed; values: [{value, descendants, rows,
      expected, unexpected, difference, ci}]; expected, unexpected, difference, ci: means over the values that have
      both, with a 95 % bootstrap interval over whole units; p: of the difference, the graph's values relabelled,
      one-sided; not_enough: why there is no interval, or "".
    """
    rows, moved_mv, missing = changes(test, unsteered, changed)
    name, units_n = test.units(unit)
    looked = np.isin(test.values, list(steered) or test.values)
    at_mv = moved_mv & looked
    if "steered" in test.ids:  # then a row speaks of the value that it names alone
        at_mv &= test.ids["steered"][rows][:, None] == np.array(test.values, object)
    _, unit_m = np.unique(units_n[rows], return_inverse=True)
    units = int(unit_m.max()) + 1
    # Of each unit: rows in which v changed, and those of them in which w changed, too.
    hits_uv = np.zeros((units, len(test.values)))
    both_uvw = np.zeros((units, len(test.values), len(test.values)))
    np.add.at(hits_uv, unit_m, at_mv)
    np.add.at(both_uvw, unit_m, at_mv[:, :, None] & moved_mv[:, None, :])
    total_v, total_vw = hits_uv.sum(0), both_uvw.sum(0)
    drawn = resamples.draws(seed, resamples.STEERED).integers(units, size=(resamples.RESAMPLES, units))
    times_ru = np.stack([np.bincount(row, minlength=units) for row in drawn]).astype(float)
    shares_2v = _shares(total_v, total_vw, to_vv)
    shares_r2v = _shares(times_ru @ hits_uv, np.einsum("ru,uvw->rvw", times_ru, both_uvw), to_vv)
    few = units < causal.MIN_UNITS
    why = f"{units} {name}s in the test rows: not enough for an interval, {causal.MIN_UNITS} would be" if few else ""
    out = {"rows": len(rows), "without_baseline": missing, "unit": name, "units": units}
    out |= {"by": steered_by(test), "unsteered": unsteered, "changed": changed, "values": []}
    for v in np.flatnonzero(looked):
        one = {"value": test.values[v], "descendants": int(to_vv[v].sum()), "rows": int(total_v[v])}
        out["values"].append(one | _told(shares_2v[:, [v]], shares_r2v[..., [v]], few))
    told = _told(shares_2v, shares_r2v, few)
    if told["difference"] is None:
        return out | told | {"p": None, "not_enough": "no steered value has descendants and others and changed"}
    found = [_difference(_shares(total_v, total_vw, to_vv[np.ix_(o, o)])) for o in causal.relabelled(len(to_vv), seed)]
    reached = sum(other >= told["difference"] for other in found)
    return out | told | {"p": (1 + reached) / (1 + resamples.PERMUTATIONS), "not_enough": why}


def _shares(rows_v: Array, both_vw: Array, to_vv: Array) -> Array:
    """The share of changed values among descendants and among the others, [..., 2, v]; NaN where there are none."""
    other_vv = ~to_vv & ~np.eye(len(to_vv), dtype=bool)
    shares = []
    for among_vv in (to_vv, other_vv):
        of = rows_v * among_vv.sum(1)
        hits = (both_vw * among_vv).sum(-1)
        shares.append(np.divide(hits, of, out=np.full(of.shape, np.nan), where=of > 0))
    return np.stack(shares, axis=-2)


def _means(shares_2v: Array) -> Array:
    """The two shares over the values that have both, [..., 2]; NaN where none has."""
    both_v = ~np.isnan(shares_2v).any(-2)
    count = both_v.sum(-1)[..., None]
    sums = np.where(both_v[..., None, :], shares_2v, 0).sum(-1)
    return np.divide(sums, count, out=np.full(sums.shape, np.nan), where=count > 0)


def _difference(shares_2v: Array) -> float:
    expected, unexpected = _means(shares_2v)
    return float(expected - unexpected)


def _told(shares_2v: Array, shares_r2v: Array, few: bool) -> dict:
    """expected, unexpected and their difference with its interval; None for what there is not."""
    pair, pair_r2 = _means(shares_2v), _means(shares_r2v)
    if np.isnan(pair).any():
        alone = [None if np.isnan(s).all() else float(np.nanmean(s)) for s in shares_2v]
        return {"expected": alone[0], "unexpected": alone[1], "difference": None, "ci": None}
    gap_r = (pair_r2[:, 0] - pair_r2[:, 1])[~np.isnan(pair_r2).any(1)]
    ci = None if few or len(gap_r) < 2 else [float(q) for q in np.quantile(gap_r, [0.025, 0.975])]
    expected, unexpected = (float(share) for share in pair)
    return {"expected": expected, "unexpected": unexpected, "difference": expected - unexpected, "ci": ci}
