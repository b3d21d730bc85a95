"""Views → rows of a fixed number of tokens, with few enough static shapes for a compiler. numpy only.

Views lie beside one another in a row:

    ids       [CLS] a a a [SEP] [CLS] b b [SEP]  0  0
    segment     1   1 1 1   1     2   2 2   2    0  0
    position    0   1 2 3   4     0   1 2   3    0  0

Attention is computed over whole rows, so a short view in a long row pays for the row's length. Hence a batch may hold
two groups of rows: short ones, as many in every step, which are always full, and long ones for the other views.
Everything here is a function of the views' lengths alone, so that every host makes the same plan.
"""

import bisect
import dataclasses
import math
import sys
from collections.abc import Sequence

import numpy as np

# Row counts that a run may compile, and the share of all rows that one more must save to be worth its compilation.
MOST_SHAPES, _WORTH = 3, 0.005
# A short row is one of those that every step has only where so much of it is filled.
_FULL = 0.95


@dataclasses.dataclass(frozen=True)
class Group:
    """The static shape of one array of rows: rows, tokens of a row, most segments of a row."""

    rows: int
    tokens: int
    segments: int

    @property
    def slots(self) -> int:
        """Tokens that it has room for."""
        return self.rows * self.tokens


# Long rows first; a second group where there are short ones.
Shape = tuple[Group, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How rows are made.

    Attributes:
      tokens: of a long row; at least those of a view.
      unit: what the number of long rows is a multiple of (devices, and rows that are encoded at a time).
      short_tokens: of a short row; 0 = there are none.
      short_rows: of each step.
    """

    tokens: int
    unit: int = 1
    short_tokens: int = 0
    short_rows: int = 0

    @property
    def short_unit(self) -> int:
        """What the number of short rows is a multiple of: as many tokens as `unit` long rows."""
        return self.unit * (self.tokens // self.short_tokens) if self.short_tokens else 1


@dataclasses.dataclass(frozen=True)
class Plan:
    """The shapes of a run, known before its first step.

    Attributes:
      layout: how rows are made.
      shapes: at most MOST_SHAPES, small to large.
      shape_n: which of them each step has.
      fill: real tokens / slots over all steps.
      ceiling: the same if each step had a count of its own.
    """

    layout: Layout
    shapes: tuple[Shape, ...]
    shape_n: np.ndarray
    fill: float
    ceiling: float

    def slots(self) -> np.ndarray:
        """Tokens that each step has room for."""
        return np.array([sum(group.slots for group in shape) for shape in self.shapes])[self.shape_n]


def pack(lengths: Sequence[int], tokens: int, segments: int = sys.maxsize) -> list[list[int]]:
    """Best fit, longest first: which views lie in which row, in order.

    Args:
      lengths: tokens of each view, each at most `tokens`.
      tokens: of a row.
      segments: most views of a row.

    Returns:
      For each row the numbers of its views.
    """
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (tokens left, row), sorted
    for view in sorted(range(len(lengths)), key=lambda v: -lengths[v]):
        best = bisect.bisect_left(rooms, (lengths[view], 0))
        if best == len(rooms):  # none has the room
            room, row = tokens, len(rows)
            rows.append([])
        else:
            room, row = rooms.pop(best)
        rows[row].append(view)
        if len(rows[row]) < segments:
            bisect.insort(rooms, (room - lengths[view], row))
    return rows


def arrange(lengths: Sequence[int], layout: Layout) -> tuple[list[list[int]], ...]:
    """The rows of one step: long ones, and short ones where the layout has them."""
    if not layout.short_rows:
        return (pack(lengths, layout.tokens),)
    short = _short(lengths, layout)[: layout.short_rows]
    rest = sorted(set(range(len(lengths))) - {view for row in short for view in row})
    long = pack([lengths[view] for view in rest], layout.tokens)
    return [[rest[i] for i in row] for row in long], short


def _short(lengths: Sequence[int], layout: Layout) -> list[list[int]]:
    """The views that fit into short rows in such rows, the fullest first."""
    fitting = [view for view, length in enumerate(lengths) if length <= layout.short_tokens]
    rows = [[fitting[i] for i in row] for row in pack([lengths[v] for v in fitting], layout.short_tokens)]
    return sorted(rows, key=lambda row: -sum(lengths[v] for v in row))


def plan(lengths_n2: np.ndarray, pairs: int, steps: int, layout: Layout) -> Plan:
    """Chooses a run's shapes.

    Args:
      lengths_n2: tokens of each record's anchor and key.
      pairs: records of a step.
      steps: of the run.
      layout: its short_rows are chosen here: as many as are full in every step.
    """
    views = [lengths_n2[i * pairs : (i + 1) * pairs].ravel().tolist() for i in range(steps)]
    if layout.short_tokens:
        full = min(sum(_used(row, x) >= _FULL * layout.short_tokens for row in _short(x, layout)) for x in views)
        layout = dataclasses.replace(layout, short_rows=full - full % layout.short_unit)
    made = [arrange(x, layout) for x in views]
    needs_n = np.array([max(layout.unit, -(-len(long) // layout.unit) * layout.unit) for long, *_ in made])
    most = [max(len(row) for groups in made for row in groups[g]) for g in range(len(made[0]))]
    short = (Group(layout.short_rows, layout.short_tokens, most[1]),) if layout.short_rows else ()
    counts = few(needs_n, MOST_SHAPES)
    shapes = tuple((Group(count, layout.tokens, most[0]), *short) for count in counts)
    shape_n = np.searchsorted(counts, needs_n)
    made = Plan(layout, shapes, shape_n, 0, 0)
    real, slots = sum(map(sum, views)), made.slots().sum()
    spare = (np.array(counts)[shape_n] - needs_n).sum() * layout.tokens
    return dataclasses.replace(made, fill=real / slots, ceiling=real / (slots - spare))


def _used(row: Sequence[int], lengths: Sequence[int]) -> int:
    return sum(lengths[view] for view in row)


def few(needs_n: np.ndarray, most: int) -> list[int]:
    """At most `most` of the needed counts, ascending, the largest among them, that serve all at the least sum.

    One more is taken only where it saves _WORTH of the rows.

    Args:
      needs_n: the rows that each step needs.
      most: of counts.
    """
    value_c, times_c = np.unique(needs_n, return_counts=True)
    before = np.concatenate([[0], np.cumsum(times_c)])
    # best[e]: the least sum that serves the first e values with the counts so far, and those counts.
    best: list[tuple[float, list[int]]] = [(0, [])] + [(math.inf, [])] * len(value_c)
    chosen: tuple[float, list[int]] = (math.inf, [])
    for _ in range(most):
        best = [(math.inf, [])] + [
            min(
                (best[s][0] + value_c[e - 1] * (before[e] - before[s]), [*best[s][1], int(value_c[e - 1])])
                for s in range(e)
            )
            for e in range(1, len(value_c) + 1)
        ]
        if best[-1][0] > (1 - _WORTH) * chosen[0]:
            break
        chosen = best[-1]
    return chosen[1]


def lay(
    views: Sequence[np.ndarray], rows: Sequence[Sequence[int]], group: Group
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, int]]:
    """Lays views into rows as planned.

    Returns:
      ids_rt, segment_rt, position_rt (int32), and row · segments + segment of each view by its number.
    """
    order = [view for members in rows for view in members]
    segment_v = np.concatenate([np.arange(len(members)) for members in rows]) if order else np.zeros(0, int)
    row_v = np.repeat(np.arange(len(rows)), [len(members) for members in rows])
    length_v = np.array([len(views[view]) for view in order], int)
    before_v = np.cumsum(length_v) - length_v  # tokens of all views before, and of those in earlier rows
    first_v = before_v[np.searchsorted(row_v, row_v)] if order else before_v
    place_t = np.arange(length_v.sum()) - np.repeat(before_v, length_v)
    target_t = np.repeat(row_v * group.tokens + before_v - first_v, length_v) + place_t
    # A row at a time would be simpler; at a step a millisecond that is what the device would wait for.
    ids_rt, segment_rt, position_rt = made = np.zeros((3, group.rows, group.tokens), np.int32)
    if order:
        ids_t = np.concatenate([views[view] for view in order])
        made.reshape(3, -1)[:, target_t] = ids_t, np.repeat(segment_v + 1, length_v), place_t
    return ids_rt, segment_rt, position_rt, dict(zip(order, (row_v * group.segments + segment_v).tolist(), strict=True))
