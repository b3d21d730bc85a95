"""How much an update is given: by prepared records, by rows that are asked for, or as much as there can be."""

import dataclasses

import numpy as np
from ml_collections import ConfigDict

from univar_jax.cli import UserError
from univar_jax.encoders import packing


@dataclasses.dataclass(frozen=True)
class Load:
    """The batch that is billed.

    Attributes:
      shape: its static shape.
      lengths_sv: tokens of each view of some steps, by which operations are counted.
      real: tokens of a step, the mean; None where they are not known.
      source: where the lengths are from, in words.
    """

    shape: packing.Shape
    lengths_sv: np.ndarray
    real: float | None
    source: str


def from_records(config: ConfigDict, layout: packing.Layout, lengths_n2: np.ndarray, steps: int) -> Load:
    """The largest batch of a run over prepared records.

    Args:
      config: complete.
      layout: how rows are made.
      lengths_n2: tokens of each record's views.
      steps: of the run.
    """
    plan = packing.plan(lengths_n2, config.pairs, steps, layout)
    lengths_sv = lengths_n2[: steps * config.pairs].reshape(steps, -1)
    source = f"the largest of {len(plan.shapes)} shape(s) in {steps} steps of prepared records"
    return Load(plan.shapes[-1], lengths_sv, float(lengths_sv.sum() / steps), source)


def from_rows(config: ConfigDict, layout: packing.Layout, rows: int, segments: int) -> Load:
    """A batch of so many long rows of so many views; operations as if they filled the rows in equal parts.

    Args:
      config: complete.
      layout: how rows are made.
      rows: of the batch.
      segments: most views of a row; 0 = as few as hold all pairs.

    Raises:
      UserError: the rows do not divide over the devices or hold fewer views than there are.
    """
    views = 2 * config.pairs
    segments = segments or -(-views // rows)
    if rows % layout.unit:
        raise UserError(f"--rows={rows} is no multiple of {layout.unit}; use --rows={rows + -rows % layout.unit}")
    if rows * segments < views:
        raise UserError(
            f"--rows={rows} of --segments_per_row={segments} hold {rows * segments} views and {config.pairs} pairs "
            f"have {views}; use --segments_per_row={-(-views // rows)}"
        )
    length = min(layout.tokens * rows // views, config.max_tokens)
    shape = (packing.Group(rows, layout.tokens, segments),)
    return Load(shape, np.full((1, views), length), None, "as asked; operations as if all views had one length")


def upper_bound(config: ConfigDict, layout: packing.Layout) -> Load:
    """The batch in which every view is as long as it may be."""
    views, segments = 2 * config.pairs, layout.tokens // config.max_tokens
    rows = -(-views // segments)
    shape = (packing.Group(rows + -rows % layout.unit, layout.tokens, segments),)
    full_sv = np.full((1, views), config.max_tokens)
    return Load(shape, full_sv, float(full_sv.sum()), f"the upper bound: every view of {config.max_tokens} tokens")
