"""A score matrix in, checked: id columns, then one numeric column a value, one row a role × condition.

Id columns are those named in IDS, the one whose cells are resampled whole, and all before the first column of which
most cells are numbers. Every column after that is a value's.
"""

import csv
import dataclasses
import hashlib
import io
from collections.abc import Collection, Sequence

import numpy as np

from univar_jax import cli, files
from univar_jax.cli import UserError

# Columns that say whose answers a row sums up. Of the first half the first one that is there is the role: rows of one
# role are not independent of one another, and are resampled whole.
ROLES = ("role", "role_id", "persona", "source")
IDS = (*ROLES, "model", "lang", "condition", "steered", "dataset")
# Of a column's variance that the columns before it leave: less is rounding.
_COLLINEAR = 1e-9


@dataclasses.dataclass(frozen=True)
class Matrix:
    """Scores, rows × values.

    Attributes:
      file: where they were read from, for messages.
      sha256: of the file's bytes, 64 hex digits.
      ids: name → str [n].
      values: the columns' names, sorted; edges are taken in this order.
      x_nv: float64 [n, v]; NaN where a cell is empty.
    """

    file: str
    sha256: str
    ids: dict[str, np.ndarray]
    values: list[str]
    x_nv: np.ndarray

    def of(self, values: Sequence[str]) -> "Matrix":
        """These values only, in the order given."""
        return dataclasses.replace(self, values=list(values), x_nv=self.x_nv[:, [self.values.index(v) for v in values]])

    def rows_in(self, other: "Matrix") -> int:
        """How many rows, all ids and values of this matrix alike, are another's, too."""
        if not set(self.ids) <= set(other.ids) or not set(self.values) <= set(other.values):
            return 0
        columns = [(*(m.ids[name] for name in self.ids), *m.of(self.values).x_nv.T) for m in (self, other)]
        known = set(zip(*columns[1], strict=True))
        return sum(row in known for row in zip(*columns[0], strict=True))

    def units(self, unit: str, flag: str = "unit") -> tuple[str, np.ndarray]:
        """What is resampled whole: the column's name, and its cell's number in each row, int [n].

        Args:
          unit: a column; "row" = each row alone; "" = the first of ROLES that holds two different names, else "row".
          flag: what gave it.

        Raises:
          UserError: no such column.
        """
        if unit and unit != "row":
            check_names(f"--{flag}", [unit], self.ids)
        found = unit or next((name for name in ROLES if len(set(self.ids.get(name, []))) > 1), "row")
        cells_n = self.ids[found] if found in self.ids else np.arange(len(self.x_nv))
        return found, np.unique(cells_n, return_inverse=True)[1]


def check_names(where: str, names: Collection[str], there: Collection[str]) -> None:
    """Raises UserError for a name that is not there, with the near spellings."""
    for name in names:
        if name not in there:
            raise UserError(f"{where}: {name!r} is not there; {cli.near(name, there)}")


def table(file: str, flag: str) -> tuple[list[str], list[list[str]], str]:
    """A CSV's header, its rows, all of equal length, and the sha256 of its bytes.

    Raises:
      UserError: no file; as `cells`.
    """
    data = files.given(file, flag, "give a CSV")
    return *cells(file, data), hashlib.sha256(data).hexdigest()


def cells(file: str, data: bytes) -> tuple[list[str], list[list[str]]]:
    """A CSV's header and its rows, all of equal length.

    Raises:
      UserError: not UTF-8; an unclosed quote; nothing in it; a name that is empty or stands twice; a row of another
        length.
    """
    try:
        lines = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        rows = [row for row in lines if row]
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 (byte {error.start}); save the file as UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{file} line {lines.line_num}: not a whole CSV ({error}); mend its quotes") from error
    if not rows:
        raise UserError(f"{file}: nothing in it; give a CSV with a header")
    header = [name.strip() for name in rows[0]]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice or "" in header:
        what = f"column {twice[0]!r} stands twice" if twice else "a column has no name"
        raise UserError(f"{file}: {what}; every column needs a name of its own")
    for number, row in enumerate(rows[1:], 1):
        if len(row) != len(header):
            raise UserError(
                f"{file} row {number}: {len(row)} values for {len(header)} columns; quote those with commas"
            )
    return header, rows[1:]


def read(file: str, flag: str, drop: Collection[str] = (), unit: str = "") -> Matrix:
    """A score matrix, its numbers checked.

    Args:
      file: CSV.
      flag: what gave it.
      drop: columns that are left out.
      unit: an id column besides those named in IDS.

    Raises:
      UserError: as `table`; an unknown column in `drop`; no row; fewer than two values; a cell that is no number.
    """
    header, rows, sha256 = table(file, flag)
    check_names(f"{file}, --drop", drop, header)
    columns = {name: [row[i].strip() for row in rows] for i, name in enumerate(header) if name not in drop}
    if not rows:
        raise UserError(f"{file}: 0 rows; give a score matrix with one row a role and condition")
    first = next((n for n, cells in columns.items() if n not in (*IDS, unit) and _mostly_numbers(cells)), None)
    before = header[: header.index(first)] if first else header
    ids = [name for name in columns if name in (*IDS, unit) or name in before]
    values = sorted(name for name in columns if name not in ids)
    if len(values) < 2:
        raise UserError(
            f"{file}: {len(values)} numeric columns ({', '.join(header)}); a graph needs two values or more"
        )
    x_nv = np.array([_numbers(file, name, columns[name]) for name in values]).T
    return Matrix(file, sha256, {name: np.array(columns[name], object) for name in ids}, values, x_nv)


def _number(cell: str) -> float | None:
    """A finite number, NaN for an empty cell, None for what is no number."""
    if cell.lower() in ("", "nan", "null", "na"):
        return float("nan")
    try:
        found = float(cell)
    except ValueError:
        return None
    return found if np.isfinite(found) else None


def _mostly_numbers(cells: Sequence[str]) -> bool:
    numbers = [_number(cell) for cell in cells]
    told = sum(number is not None and number == number for number in numbers)
    return told > sum(number is None for number in numbers)


def _numbers(file: str, name: str, cells: Sequence[str]) -> list[float]:
    numbers = [_number(cell) for cell in cells]
    bad = [row for row, number in enumerate(numbers, 1) if number is None]
    if bad:
        where = f"{file} row {bad[0]}, column {name}"
        what = f"{cells[bad[0] - 1]!r} is no number ({len(bad)} of {len(cells)} cells)"
        raise UserError(f"{where}: {what}; write a number, or leave the column out with --drop={name!r}")
    return numbers


def check_for_graph(scores: Matrix) -> None:
    """Raises UserError naming every column that is empty somewhere, constant or collinear, or too few rows."""
    rows, values = scores.x_nv.shape
    empty_nv = np.isnan(scores.x_nv)
    if empty_nv.any():
        hit = [v for v in range(values) if empty_nv[:, v].any()]
        told = [f"{scores.values[v]} in {empty_nv[:, v].sum()} (first row {empty_nv[:, v].argmax() + 1})" for v in hit]
        cure = f"leave out these rows, or --drop={','.join(scores.values[v] for v in hit)}"
        raise UserError(f"{scores.file}: no score of {', '.join(told)} of {rows} rows; {cure}")
    # Fisher's z of two values given all others has n - (v - 2) - 3 degrees of freedom: one is the least.
    if rows < values + 2:
        cure = f"{values + 2} would be, or leave values out with --drop"
        raise UserError(f"{scores.file}: {rows} rows for {values} values: not enough for the tests; {cure}")
    flat = [name for name, column_n in zip(scores.values, scores.x_nv.T, strict=True) if np.ptp(column_n) == 0]
    if flat:
        raise UserError(f"{scores.file}: constant: {', '.join(flat)}; no effect shows there, --drop={','.join(flat)}")
    if found := collinear(scores):
        told = ", ".join(f"{name} (from {', '.join(of)})" for name, of in found.items())
        raise UserError(f"{scores.file}: collinear: {told}; keep one of each, --drop={','.join(found)}")


def odd_columns(scores: Matrix) -> list[str]:
    """A note on columns that look like an id rather than scores: whole numbers, all of them different."""
    odd = [
        name
        for name, x_n in zip(scores.values, scores.x_nv.T, strict=True)
        if len(x_n) > 10 and len(set(x_n)) == len(x_n) and (x_n == np.rint(x_n)).all()
    ]
    cure = f"if it is an id, leave it out with --drop={','.join(odd)}, or name it with --unit"
    return [f"{', '.join(odd)}: a different whole number in each row, taken for scores; {cure}."] if odd else []


def collinear(scores: Matrix) -> dict[str, list[str]]:
    """Each value that is a weighted sum of values before it, and which those are; no column constant."""
    z_nv = scores.x_nv - scores.x_nv.mean(0)
    z_nv = z_nv / np.linalg.norm(z_nv, axis=0)
    kept, found = [], {}
    for v, name in enumerate(scores.values):
        weights = np.linalg.lstsq(z_nv[:, kept], z_nv[:, v], rcond=None)[0] if kept else np.zeros(0)
        left = z_nv[:, v] - z_nv[:, kept] @ weights
        if float(left @ left) < _COLLINEAR:
            found[name] = [scores.values[k] for k, weight in zip(kept, weights, strict=True) if abs(weight) > 1e-6]
        else:
            kept.append(v)
    return found
