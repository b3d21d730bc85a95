"""Whether sources that are far in one matrix are far in another: Mantel's test (1967), against language or a file."""

import csv
import io
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath

from univar_jax.cli import UserError
from univar_jax.statistics import resamples

# The smallest p is .0001; up to seven units all orders are fewer than this, and all are taken.
PERMUTATIONS = 9_999
# Of three units there are six orders, so that p could not fall below 1/6.
MIN_UNITS = 4


def mantel(x_ss: np.ndarray, y_ss: np.ndarray, seed: int = 0) -> dict | None:
    """Correlation of two distance matrices, and how often one as large comes of naming the rows of one by chance.

    r = Pearson's over the pairs i < j; one-sided p = (1 + #{r of a random order ≥ r}) / (1 + PERMUTATIONS), or over all
    orders where they are fewer.

    Args:
      x_ss, y_ss: float [s, s], symmetric; the diagonals are not read. A unit without any number in x is left out.

    Returns:
      r, p, n units, permutations, exact (whether all orders were taken); None for fewer than MIN_UNITS units, or a
      matrix without differences.
    """
    off_ss = ~np.eye(len(x_ss), dtype=bool)
    there = np.flatnonzero(np.isfinite(np.where(off_ss, x_ss, np.nan)).any(1))
    x_ss, y_ss, s = x_ss[np.ix_(there, there)], y_ss[np.ix_(there, there)], len(there)
    i, j = np.triu_indices(s, 1)
    if s < MIN_UNITS or min(np.ptp(x_ss[i, j]), np.ptp(y_ss[i, j])) < 1e-12:
        return None
    y = y_ss[i, j] - y_ss[i, j].mean()
    # An order moves no number in or out of the matrix, so that mean and spread of x stay.
    scale = len(y) * x_ss[i, j].std() * y_ss[i, j].std()
    exact = math.factorial(s) <= PERMUTATIONS
    r_p = np.array([x_ss[order[i], order[j]] @ y / scale for order in _orders(s, exact, seed)])
    reached = int(np.sum(r_p >= r_p[0] - 1e-12))
    return {"r": float(r_p[0]), "p": reached / len(r_p), "n": s, "permutations": len(r_p) - 1, "exact": exact}


def _orders(s: int, exact: bool, seed: int) -> Iterator[np.ndarray]:
    """Orders of s units, the given one first."""
    if exact:
        yield from map(np.array, itertools.permutations(range(s)))
        return
    yield np.arange(s)
    stream = resamples.draws(seed, resamples.MANTEL)
    for _ in range(PERMUTATIONS):
        yield stream.permutation(s)


def against_language(matrices: dict[str, np.ndarray], langs: Sequence[str], seed: int) -> dict | None:
    """Each matrix, [s, s], against 0 for two sources of one language and 1 for two of different ones."""
    langs = np.asarray(langs)
    y_ss = (langs[:, None] != langs[None]).astype(float)
    found = {name: mantel(x_ss, y_ss, seed) for name, x_ss in matrices.items()}
    return found if any(found.values()) else None


def read_reference(file: str) -> tuple[list[str], np.ndarray]:
    """A square CSV of distances: names in the first line and in the first column, in the same order.

    Returns:
      The names [u] and float [u, u].

    Raises:
      UserError: no such file; not square, not symmetric, not all numbers, names that differ or stand twice.
    """
    path = epath.Path(file).expanduser()
    where = f"--reference={file}"
    if not path.exists() or path.is_dir():
        raise UserError(f"{where}: no such file; give a square CSV with names in its first line and column")
    try:
        lines = [line for line in csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"))) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{where}: not CSV in UTF-8 ({error}); save it so") from error
    names = [name.strip() for name in lines[0][1:]] if lines else []
    if len(set(names)) < len(names):
        raise UserError(f"{where}: {len(names)} columns, {len(set(names))} different names; name each once")
    if len(names) < 2 or [line[0].strip() for line in lines[1:]] != names:
        raise UserError(f"{where}: {len(names)} columns, {len(lines) - 1} rows; rows need the columns' names and order")
    rows = []
    for number, line in enumerate(lines[1:], 1):
        try:
            rows.append([float(cell) for cell in line[1:]])
        except ValueError as error:
            raise UserError(f"{where} row {number}: {error}; every cell but the names is a number") from error
        if len(rows[-1]) != len(names):
            raise UserError(f"{where} row {number}: {len(rows[-1])} numbers for {len(names)} columns")
    y_uu = np.array(rows)
    if not np.isfinite(y_uu).all() or not np.allclose(y_uu, y_uu.T):
        raise UserError(f"{where}: distances must be finite and symmetric; fill both halves with the same numbers")
    return names, y_uu


def against_reference(
    file: str,
    matrices: dict[str, np.ndarray],
    levels: dict[str, Sequence[str]],
    seed: int,
    notes: list[str],
) -> dict:
    """Each matrix against a file's, at the level whose names the file has.

    Args:
      file: as `read_reference` takes it.
      matrices: float [s, s] each, NaN where there is no number.
      levels: "source", "model" and "lang" of each of the s sources.
      notes: is given a sentence for what was left out.

    Returns:
      level, names and each matrix's `mantel`. At the level of models or languages a distance is the mean over all
      pairs of their sources, and models or languages are what is permuted.

    Raises:
      UserError: a name that no source, model or language has.
    """
    names, y_uu = read_reference(file)
    level = max(levels, key=lambda key: len(set(levels[key]) & set(names)))
    known = sorted(set(levels[level]))
    if unknown := [name for name in names if name not in known]:
        few, more = ", ".join(unknown[:5]), f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise UserError(
            f"--reference={file}: {few}{more} of its {len(names)} names are no {level} here "
            f"(there: {', '.join(known[:8])}{', …' if len(known) > 8 else ''}); remove or rename them"
        )
    if left := sorted(set(known) - set(names)):
        notes.append(
            f"The reference lacks {len(left)} of {len(known)} {level}s, left out of its test: {', '.join(left)}."
        )
    of_u = [np.flatnonzero(np.asarray(levels[level]) == name) for name in names]
    found = {name: mantel(_mean_over(x_ss, of_u), y_uu, seed) for name, x_ss in matrices.items()}
    if len(names) < MIN_UNITS:
        notes.append(f"The reference has {len(names)} names, too few for Mantel's test (at least {MIN_UNITS}).")
    return {"level": level, "names": names, **found}


def _mean_over(x_ss: np.ndarray, of_u: list[np.ndarray]) -> np.ndarray:
    """Mean of the blocks between units, [u, u]; NaN where a block has no number, and on the diagonal."""
    out_uu = np.full((len(of_u), len(of_u)), np.nan)
    for a, b in itertools.permutations(range(len(of_u)), 2):
        block = x_ss[np.ix_(of_u[a], of_u[b])]
        if np.isfinite(block).any():
            out_uu[a, b] = np.nanmean(block)
    return out_uu
