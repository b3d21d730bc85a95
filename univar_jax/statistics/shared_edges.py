"""What two value graphs share: this one's edges beside those of a list, or of another score matrix."""

from collections.abc import Sequence

import numpy as np

from univar_jax.cli import UserError
from univar_jax.statistics import causal, matrix, resamples
from univar_jax.statistics.matrix import Matrix


def read(file: str, values: list[str]) -> list[list[str]]:
    """The edges of a CSV with columns from and to, sorted, each once.

    Raises:
      UserError: no such column, a name that is not among `values`, an edge from a value to itself.
    """
    header, rows, _ = matrix.table(file, "reference")
    if missing := [name for name in ("from", "to") if name not in header]:
        raise UserError(f"{file}: no column {' and '.join(missing)} (there: {', '.join(header)}); name the ends so")
    ends = [[row[header.index("from")].strip(), row[header.index("to")].strip()] for row in rows]
    for number, (start, end) in enumerate(ends, 1):
        matrix.check_names(f"{file} row {number}", [start, end], values)
        if start == end:
            raise UserError(f"{file} row {number}: {start!r} to itself is no edge; take the row out")
    return sorted(map(list, {tuple(edge) for edge in ends}))


def as_graph(edges: Sequence[Sequence[str]], values: list[str]) -> np.ndarray:
    """Edges [from, to] as a graph, bool [v, v]."""
    out_vv = np.zeros((len(values), len(values)), bool)
    for start, end in edges:
        out_vv[values.index(start), values.index(end)] = True
    return out_vv


def against(found: Matrix, second: Matrix, alpha: float, seed: int) -> dict:
    """The graph of another matrix beside this one's, both learnt over the values that both have; see `compared`.

    Raises:
      UserError: fewer than two common values, or columns that cannot be used.
    """
    common = [value for value in found.values if value in second.values]
    if len(common) < 2:
        raise UserError(f"{second.file}: {len(common)} values of {found.file} are there; two are the least to compare")
    left_out = sorted(set(found.values) ^ set(second.values))
    pair = [matrix_of.of(common) for matrix_of in (found, second)]
    for each in pair:
        matrix.check_for_graph(each)
    return compared(*(causal.pc(each.x_nv, alpha) for each in pair), common, left_out, seed)


def compared(a_vv: np.ndarray, b_vv: np.ndarray, values: list[str], left_out: list[str], seed: int) -> dict:
    """graph.json's `reference` and `other`, without the file's name.

    Args:
      a_vv, b_vv: bool [v, v] this graph and the other one.
      values: their names.
      left_out: values that one of the two lacks.
      seed: of p.
    """
    out = causal.compared(a_vv, b_vv)
    orders = causal.relabelled(len(values), seed)
    reached = sum(causal.compared(a_vv, b_vv[np.ix_(o, o)])["shared"] >= out["shared"] for o in orders)
    kinds = {(True, True): "both", (True, False): "graph", (False, True): "other"}
    edges = [[values[i], values[j], kinds[bool(a_vv[i, j]), bool(b_vv[i, j])]] for i, j in np.argwhere(a_vv | b_vv)]
    out |= {"p": (1 + reached) / (1 + resamples.PERMUTATIONS), "values": values, "left_out": left_out, "edges": edges}
    return out | {"reduced": causal.compared(causal.reduced(a_vv), causal.reduced(b_vv))}
