"""What weak teachers, strong students and a ceiling predicted of labelled items: the file, and votes of several.

A CSV in UTF-8, one row a prediction, in any order:

  item        what is to be labelled
  truth       its label; the same in all its rows
  role        weak, student (a strong model that learnt from weak labels) or ceiling (the same from true ones)
  name        the model; a student and its ceiling have one name, weak teachers have names of their own
  label       what was predicted
and where there is more to say:
  taught_by   whose labels a student learnt from: a weak name, or "soft vote" or "hard vote" of all weak ones;
              needed where there are several weak names
  group       what is resampled whole, as the question that some items share; else each item by itself
  seed        of the run; figures are means over seeds
  p_CLASS     the probability of each class, in all rows of a model or in none; they sum to 1

Items that not every model predicted are left out and counted.
"""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from univar_jax import cli, files
from univar_jax.cli import UserError
from univar_jax.statistics import matrix

ROLES = ("weak", "student", "ceiling")
SOFT, HARD = "soft vote", "hard vote"
_NEEDED = ("item", "truth", "role", "name", "label")
_KNOWN = (*_NEEDED, "taught_by", "group", "seed")
# How far the probabilities of a row may be from 1 together: files hold few digits.
_SLACK = 0.01

Row = dict[str, str]
Model = tuple[str, str, str]  # role, name, taught_by


@dataclasses.dataclass(frozen=True)
class Predicted:
    """What one model said: int [m] labels, and float [m, c] probabilities or None."""

    label_m: np.ndarray
    p_mc: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Table:
    """The items that all models predicted.

    Attributes:
      classes: sorted names of the labels.
      truth_m: int [m].
      groups_m: str [m].
      models: of each model what it predicted by seed, sorted.
      left_out: items that some model did not predict.
    """

    classes: list[str]
    truth_m: np.ndarray
    groups_m: np.ndarray
    models: dict[Model, dict[str, Predicted]]
    left_out: int


def read(file: str, data: bytes) -> Table:
    """The table of a file.

    Raises:
      UserError: with file and row: a column that is missing or unknown, an unknown role or label, probabilities that
        are none, a model's item that stands twice, an item with two truths; no item that all models predicted.
    """
    rows = _rows(file, data)
    classes = sorted({row[key] for row in rows for key in ("truth", "label")} | set(_probable(rows[0])))
    weak = sorted({row["name"] for row in rows if row["role"] == "weak"})
    if taken := {SOFT, HARD} & set(weak):
        raise UserError(f"{file}: a weak model is named {taken.pop()!r}, as a vote is; give it another name")
    said: dict[tuple[Model, str], dict[str, tuple[int, Row]]] = collections.defaultdict(dict)
    items: dict[str, Row] = {}
    for number, row in enumerate(rows, 1):
        model = row["role"], row["name"], _taught_by(f"{file} row {number}", row, weak)
        if row["item"] in said[model, row["seed"]]:
            first = said[model, row["seed"]][row["item"]][0]
            raise UserError(f"{file} row {number}: item {row['item']!r} of this model and seed is in row {first} too")
        said[model, row["seed"]][row["item"]] = number, row
        known = items.setdefault(row["item"], row)
        for key in ("truth", "group"):
            if known[key] != row[key]:
                what = f"{key} of item {row['item']!r} is {row[key]!r}, before it was {known[key]!r}"
                raise UserError(f"{file} row {number}: {what}; make them equal")
    common = sorted(item for item in items if all(item in of for of in said.values()))
    if not common:
        raise UserError(f"{file}: none of {len(items):,} items was predicted by all {len(said)} models and seeds")
    models: dict[Model, dict[str, Predicted]] = collections.defaultdict(dict)
    for model, seed in sorted(said):
        models[model][seed] = _predicted(file, [said[model, seed][item] for item in common], classes)
    truth_m = np.array([classes.index(items[item]["truth"]) for item in common])
    groups_m = np.array([items[item]["group"] or item for item in common], object)
    return Table(classes, truth_m, groups_m, dict(models), len(items) - len(common))


def content(file: str) -> bytes:
    """A file's bytes."""
    return files.given(file, "predictions", f"give a CSV with the columns {', '.join(_NEEDED)}")


def vote(said: Sequence[Predicted], how: str) -> tuple[Predicted, int]:
    """One prediction of several models', and on how many items their vote was a tie.

    soft vote: the class of the largest mean probability. hard vote: the label that most gave; of tied ones that of
    the larger mean probability where there are probabilities. Of what is still equal the first class in sorted order.

    Args:
      said: of each model.
      how: SOFT or HARD.

    Raises:
      ValueError: SOFT without probabilities of all.
    """
    p_tmc = [of.p_mc for of in said]
    mean_mc = None if any(p_mc is None for p_mc in p_tmc) else np.mean(p_tmc, axis=0)
    if how == SOFT:
        if mean_mc is None:
            raise ValueError("a soft vote needs probabilities of all models")
        ties = (mean_mc == mean_mc.max(1, keepdims=True)).sum(1) > 1
        return Predicted(mean_mc.argmax(1), mean_mc), int(ties.sum())
    label_tm = np.stack([of.label_m for of in said])
    c = label_tm.max() + 1 if mean_mc is None else mean_mc.shape[1]
    votes_mc = (label_tm[:, :, None] == np.arange(c)).sum(0)
    most_mc = votes_mc == votes_mc.max(1, keepdims=True)
    chosen_m = np.where(most_mc, 0.0 if mean_mc is None else mean_mc, -1.0).argmax(1)
    return Predicted(chosen_m, None), int((most_mc.sum(1) > 1).sum())


def _rows(file: str, data: bytes) -> list[Row]:
    header, lines = matrix.cells(file, data)
    if missing := [name for name in _NEEDED if name not in header]:
        raise UserError(f"{file}: no column {', '.join(missing)} (there: {', '.join(header)}); name them so")
    if unknown := [name for name in header if name not in _KNOWN and not name.startswith("p_")]:
        cure = f"known are {', '.join(_KNOWN)}, p_CLASS"
        raise UserError(f"{file}: column {unknown[0]!r} is unknown; {cure}")
    rows = []
    for number, values in enumerate(lines, 1):
        rows.append({"group": "", "seed": "", "taught_by": ""} | dict(zip(header, values, strict=True)))
        if empty := [name for name in _NEEDED if not rows[-1][name].strip()]:
            raise UserError(f"{file} row {number}: {empty[0]} is empty; fill it or delete the row")
        if rows[-1]["role"] not in ROLES:
            raise UserError(f"{file} row {number}: role={rows[-1]['role']!r}; use {', '.join(ROLES)}")
    if not rows:
        raise UserError(f"{file}: 0 rows; give one a prediction")
    return rows


def _probable(row: Row) -> list[str]:
    """The classes that have a column of probabilities."""
    return [name.removeprefix("p_") for name in row if name.startswith("p_")]


def _taught_by(where: str, row: Row, weak: list[str]) -> str:
    if row["role"] != "student":
        return ""
    given = row["taught_by"] or (weak[0] if len(weak) == 1 else "")
    if given not in (*weak, SOFT, HARD):
        raise UserError(f"{where}: taught_by={given!r} is no weak model; {cli.near(given, [*weak, SOFT, HARD])}")
    return given


def _predicted(file: str, rows: list[tuple[int, Row]], classes: list[str]) -> Predicted:
    label_m = np.array([classes.index(row["label"]) for _, row in rows])
    names = _probable(rows[0][1])
    filled = [any(row[f"p_{name}"].strip() for name in names) for _, row in rows]
    if not any(filled):
        return Predicted(label_m, None)
    p_mc = np.zeros((len(rows), len(classes)))
    for i, (number, row) in enumerate(rows):
        try:
            p_mc[i, [classes.index(name) for name in names]] = [float(row[f"p_{name}"]) for name in names]
        except ValueError as error:
            what = f"{error}; a model has probabilities of all classes in all its rows, or in none"
            raise UserError(f"{file} row {number}: {what}") from error
        if not (p_mc[i] >= 0).all() or not abs(p_mc[i].sum() - 1) <= _SLACK:
            raise UserError(f"{file} row {number}: probabilities sum to {p_mc[i].sum():.3f}; they are shares of 1")
    return Predicted(label_m, p_mc)
