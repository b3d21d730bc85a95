"""A score matrix in (CSV; no jax, torch or tensorflow), the causal value graph out, and how much of it is chance.

PC (causal-learn, Fisher's z) and transitive reduction as in arXiv 2501.00581; how often each edge comes back when
whole roles are drawn anew, comparison and intervals are ours.

graph.json. Shares are fractions, intervals 95 %; null is what was not or could not be measured.

  directed, undirected     PC's edges with and without a direction
  reduced_edges: [[from, to, frequency]]     after reduction; undirected edges were taken both ways. The frequency is
      the share of resamples in which the two values are adjacent
  edges: [{from, to, directed, reduced, adjacent, forward, backward, undirected}]     all of PC's, and what share of
      the resamples has an edge there, the arrow from → to, the other one, and a line
  not_in_graph: [{from, to, adjacent}]     pairs that PC did not join, and at least half of the resamples did
  side_effects: {VALUE: [[descendant, share of resamples in which it is one]]}
  values, ids, rows, unit, units; detectable: the correlation below which rows that were independent would show none
  bootstrap: asked, done, shd_from_itself: [lo, hi] of a resample's graph to this one, not_enough: why there is none;
      joined_by_chance: [mean, largest] number of pairs that PC joins where nothing is related (`causal.unrelated`);
      of_unrelated: the most that an unrelated pair's frequency is expected to be (`causal.of_unrelated`)
  reference, other: null, or (`shared_edges.compared`, of PC's graphs; a reference's edges are taken as they are) pairs,
      shared, same_direction, shd, p: of `shared`, values relabelled, one-sided; values, left_out; file; edges: [[from,
      to, in]] with in "both", "graph" or "other"; reduced: the same counts after reduction of both
  steering: null, or `steering.side_effects`
  alpha, seed, notes, inputs
"""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
from etils import epath

from univar_jax import cli, files
from univar_jax.cli import UserError
from univar_jax.config import digest

with cli.extra("graph", "causallearn"):
    from scipy import stats

    from univar_jax.report import drawings, sheet
    from univar_jax.statistics import causal, matrix, resamples, shared_edges, steering
    from univar_jax.statistics.matrix import Matrix

# Goes up when equal inputs give another report: a finished one of before is then another.
_EDITION = 2
# A pair that PC did not join is told where so many of the resamples did.
_TOLD_SHARE = 0.5


def graph(
    scores: str,
    out: str,
    alpha: float = 0.05,
    bootstrap: int = 200,
    unit: str = "",
    drop: Sequence[str] = (),
    reference: str = "",
    other: str = "",
    test: str = "",
    steered: Sequence[str] = (),
    unsteered: str = "none",
    changed: float = 0.0,
    seed: int = 0,
    workers: int = 0,
) -> None:
    """Writes OUT/report.html, graph.png and graph.json.

    Args:
      scores: CSV, as `matrix` reads it.
      out: a folder that is not there yet, or the finished one of an equal run, which is left as it is.
      alpha: PC's, within (0, 1).
      bootstrap: resamples; 0 = none, and no frequency is known.
      unit: the id column whose cells are resampled whole; "" = the first of `matrix.ROLES` that is there, else rows.
      drop: columns that are left out.
      reference: CSV with columns from and to, the edges of a graph to compare with.
      other: another score matrix, to compare its graph with.
      test: a score matrix with a column condition, on which side effects are checked.
      steered: the values whose side effects are checked; () = each.
      unsteered: the condition of rows without steering.
      changed: a score has changed where it differs by more than this.
      seed: of all draws.
      workers: processes for the resamples; 0 = one a core. The report is the same for any number.

    Raises:
      UserError: a file, column or value that cannot be used, an OUT with other content.
    """
    folder = files.place(out, "out")
    asked = _read(scores, drop, unit, reference, other, test, steered)
    settings = {"alpha": alpha, "bootstrap": bootstrap, "unit": unit, "seed": seed, "drop": sorted(drop)}
    settings |= {"steered": sorted(steered), "unsteered": unsteered, "changed": changed} if test else {}
    inputs = digest(settings | asked.digests() | {"edition": _EDITION})
    if files.finished(folder, "graph.json", inputs):
        print(f"{folder / 'report.html'} is there already, made from the same inputs")
        return
    matrix.check_for_graph(asked.scores)
    graph_vv = causal.pc(asked.scores.x_nv, alpha)
    # What can be wrong with the other files is found before the resamples, which take minutes.
    metrics = _beside(asked, graph_vv, alpha, seed) | {"inputs": inputs}
    metrics["steering"], note = _checked(asked, graph_vv, unit, steered, unsteered, changed, seed)
    metrics |= _learnt(asked.scores, graph_vv, alpha, bootstrap, unit, seed, workers or os.cpu_count() or 1)
    metrics["notes"] += note
    _say(metrics)
    with files.whole_folder(folder, last="graph.json") as aside:
        for name, content in _files(metrics).items():
            (aside / name).write_bytes(content)
    print(f"report    {folder / 'report.html'}")


@dataclasses.dataclass(frozen=True)
class _Asked:
    """The inputs, read; None for what was not given. `reference` is a file's name and its edges."""

    scores: Matrix
    other: Matrix | None
    test: Matrix | None
    reference: tuple[str, list[list[str]]] | None

    def digests(self) -> dict:
        """What tells these inputs from others, the files' names left out."""
        shas = {name: found and found.sha256 for name, found in vars(self).items() if name != "reference"}
        return shas | {"reference": self.reference and self.reference[1]}


def _read(
    scores: str, drop: Sequence[str], unit: str, reference: str, other: str, test: str, steered: Sequence[str]
) -> _Asked:
    found = matrix.read(scores, "scores", drop, unit)
    if steered and not test:
        raise UserError("--steered is checked on rows of --test; give that, too")
    matrix.check_names("--steered", steered, found.values)
    second, checks = (
        matrix.read(file, flag, set(drop) & set(matrix.table(file, flag)[0]), unit) if file else None
        for flag, file in (("other", other), ("test", test))
    )
    if checks:
        matrix.check_names(f"{test}, a value of the graph", found.values, checks.values)
    named = (_name(reference), shared_edges.read(reference, found.values)) if reference else None
    return _Asked(found, second, checks and checks.of(found.values), named)


def _name(file: str) -> str:
    return epath.Path(file).name  # without its folder: equal runs give equal bytes


def _beside(asked: _Asked, graph_vv: np.ndarray, alpha: float, seed: int) -> dict:
    """The graph beside a reference and beside that of another matrix."""
    out = {"reference": None, "other": None}
    if asked.reference:
        file, edges = asked.reference
        named_vv = shared_edges.as_graph(edges, asked.scores.values)
        out["reference"] = shared_edges.compared(graph_vv, named_vv, asked.scores.values, [], seed) | {"file": file}
    if asked.other:
        found = shared_edges.against(asked.scores, asked.other, alpha, seed)
        out["other"] = found | {"file": _name(asked.other.file)}
    return out


def _checked(
    asked: _Asked, graph_vv: np.ndarray, unit: str, steered: Sequence[str], unsteered: str, changed: float, seed: int
) -> tuple[dict | None, list[str]]:
    """graph.json's `steering`, and a note where the rows are no new ones."""
    if not asked.test:
        return None, []
    told = steering.side_effects(asked.test, causal.reach(graph_vv), unit, steered, unsteered, changed, seed)
    told["file"] = _name(asked.test.file)
    if not (known := asked.test.rows_in(asked.scores)):
        return told, []
    which = f"{known} of {len(asked.test.x_nv)} rows of {told['file']} are rows that the graph was learnt from"
    return told, [f"{which}: its check says nothing about rows that are new."]


def _learnt(found: Matrix, graph_vv: np.ndarray, alpha: float, count: int, unit: str, seed: int, workers: int) -> dict:
    """graph.json's content on the graph itself and its resamples."""
    unit, units_n = found.units(unit)
    units = int(units_n.max()) + 1
    why, graphs = "", np.zeros((0, *graph_vv.shape), bool)
    if not count:
        why = "no resamples were asked for (--bootstrap)"
    elif units < causal.MIN_UNITS:
        why = f"{units} {unit}s: not enough to say how often an edge comes back, {causal.MIN_UNITS} would be"
    else:
        graphs = causal.bootstrap(
            found.x_nv, units_n, alpha, count, seed, workers, lambda line: _line("bootstrap", line)
        )
        if not len(graphs):
            why = f"a column is constant or collinear in each of {count} resamples; more {unit}s are needed"
    notes = matrix.odd_columns(found) + ([f"{why}."] if why and count else [])
    if 0 < len(graphs) < count:
        notes.append(f"{count - len(graphs)} of {count} resamples have a constant or collinear column: left out.")
    if len(graphs) and units < resamples.FEW_GROUPS:
        notes.append(f"Few clusters: {units} {unit}s; frequencies from fewer than {resamples.FEW_GROUPS} are too sure.")
    itself = [causal.compared(graph_vv, g_vv)["shd"] for g_vv in graphs]
    done = {"asked": count, "done": len(graphs), "not_enough": why, "joined_by_chance": None}
    done["of_unrelated"] = causal.of_unrelated(alpha)
    if len(graphs):
        joined = causal.unrelated(found.x_nv, units_n, alpha, seed)
        done["joined_by_chance"] = [float(np.mean(joined)), max(joined)]
    done["shd_from_itself"] = [float(q) for q in np.quantile(itself, [0.025, 0.975])] if itself else None
    metrics = _edges(graph_vv, graphs, found.values) | {"values": found.values, "ids": list(found.ids)}
    rows = len(found.x_nv)
    metrics |= {"rows": rows, "unit": unit, "units": units, "bootstrap": done, "alpha": alpha, "seed": seed}
    return metrics | {"notes": notes, "detectable": _detectable(rows, alpha)}


def _detectable(rows: int, alpha: float) -> float:
    """The smallest correlation of two values that Fisher's z refuses independence at, of so many independent rows."""
    return float(np.tanh(stats.norm.ppf(1 - alpha / 2) / np.sqrt(rows - 3)))


def _edges(graph_vv: np.ndarray, graphs: np.ndarray, values: list[str]) -> dict:
    """Every edge with its frequencies, and the descendants with theirs."""
    swapped = graphs.transpose(0, 2, 1)
    shares = {"adjacent": graphs | swapped, "forward": graphs & ~swapped, "undirected": graphs & swapped}
    share = {name: g.mean(0) for name, g in shares.items()} if len(graphs) else None

    def often(name: str, i: int, j: int) -> float | None:
        return float(share[name][i, j]) if share else None

    small_vv, both_vv = causal.reduced(graph_vv), graph_vv & graph_vv.T
    edges, missed = [], []
    for i, j in zip(*np.triu_indices(len(values), 1), strict=True):
        i, j = (j, i) if graph_vv[j, i] and not graph_vv[i, j] else (i, j)
        if graph_vv[i, j]:
            one = {"from": values[i], "to": values[j], "directed": not both_vv[i, j]}
            one |= {"reduced": bool(small_vv[i, j] or small_vv[j, i]), "adjacent": often("adjacent", i, j)}
            one |= {"forward": often("forward", i, j), "backward": often("forward", j, i)}
            edges.append(one | {"directed": bool(one["directed"]), "undirected": often("undirected", i, j)})
        elif share and share["adjacent"][i, j] >= _TOLD_SHARE:
            missed.append({"from": values[i], "to": values[j], "adjacent": often("adjacent", i, j)})
    reached_vv, reached = causal.reach(graph_vv), causal.reach(graphs).mean(0) if share else None
    after = {
        name: [[values[j], float(reached[i, j]) if share else None] for j in np.flatnonzero(reached_vv[i])]
        for i, name in enumerate(values)
    }
    small = [[values[i], values[j], often("adjacent", i, j)] for i, j in np.argwhere(small_vv)]
    out = {"directed": sum(e["directed"] for e in edges), "undirected": int(both_vv.sum()) // 2, "edges": edges}
    return out | {"reduced_edges": small, "not_in_graph": missed, "side_effects": after}


def _line(word: str, text: str) -> None:
    print(f"{word:9} {text}", flush=True)


def _say(m: dict) -> None:
    """The report on one screen."""
    _line("scores", f"{m['rows']:,} rows, {len(m['values'])} values, ids {', '.join(m['ids']) or 'none'}")
    _line("graph", f"{m['directed']} directed, {m['undirected']} undirected, {len(m['reduced_edges'])} after reduction")
    if m["bootstrap"]["done"]:
        often = sum(e["adjacent"] >= drawings.OFTEN for e in m["edges"])
        sure = sum(e["directed"] and e["forward"] >= drawings.OFTEN for e in m["edges"])
        told = (
            f"{m['bootstrap']['done']} resamples of {m['units']} {m['unit']}s: in {drawings.OFTEN:.0%} of them or more"
        )
        _line("bootstrap", f"{told} {often} of {len(m['edges'])} edges, {sure} of {m['directed']} arrows")
        mean, most = m["bootstrap"]["joined_by_chance"]
        _line(
            "chance", f"where nothing is related PC joins {mean:.1f} pairs, at most {most} in {causal.UNRELATED} draws"
        )
    for name in ("reference", "other"):
        if c := m[name]:
            told = f"{c['shared']} of {c['pairs'][0]} edges shared, {c['same_direction']} in the same direction"
            _line(name, f"{c['file']}: {told}, SHD {c['shd']}, p {c['p']:.3f}")
    if (s := m["steering"]) and s["difference"] is not None:
        ends = f"[{s['ci'][0]:.3f}, {s['ci'][1]:.3f}]" if s["ci"] else "no interval"
        shares = f"changed {s['expected']:.3f} of descendants, {s['unexpected']:.3f} of others"
        _line("steering", f"{shares}, difference {s['difference']:+.3f} {ends}, p {s['p']:.3f}")
    for note in m["notes"] + ([s["not_enough"] + "."] if s and s["not_enough"] else []):
        _line("note", note)


def _files(metrics: dict) -> dict[str, bytes]:
    """The report's files; graph.json is the last."""
    made = {"graph.png": drawings.value_graph(metrics)}
    made["report.html"] = sheet.page("graph.html.j2", metrics, made, often=drawings.OFTEN, draws=causal.UNRELATED)
    return made | {"graph.json": sheet.json_of(metrics)}


if __name__ == "__main__":
    from absl import flags

    flags.DEFINE_string("scores", None, "Score matrix: id columns, then one numeric column a value.", required=True)
    flags.DEFINE_string("out", None, "Folder of the report.", required=True)
    flags.DEFINE_float("alpha", 0.05, "An edge stays where independence is refused at this p.", 1e-12, 1 - 1e-12)
    flags.DEFINE_integer("bootstrap", 200, "Resamples of whole units; 0: none.", lower_bound=0)
    flags.DEFINE_string(
        "unit", "", "Id column resampled whole, or row; none: role, role_id, persona or source, else row."
    )
    flags.DEFINE_list("drop", [], "Columns that are left out.")
    flags.DEFINE_string("reference", "", "CSV with columns from, to: a graph to compare with.")
    flags.DEFINE_string("other", "", "Another score matrix, to compare its graph with.")
    flags.DEFINE_string("test", "", "Score matrix with a column condition, to check side effects on.")
    flags.DEFINE_list("steered", [], "Values whose side effects are checked; none: each.")
    flags.DEFINE_string("unsteered", "none", "What the column condition holds in rows without steering.")
    flags.DEFINE_float("changed", 0.0, "A score has changed where it differs by more than this.", lower_bound=0)
    flags.DEFINE_integer("seed", 0, "Of all draws.", lower_bound=0)
    flags.DEFINE_integer("workers", 0, "Processes for the resamples; 0: one a core.", lower_bound=0)
    names = ("scores", "out", "alpha", "bootstrap", "unit", "drop", "reference", "other", "test", "steered")
    names += ("unsteered", "changed", "seed", "workers")
    cli.run(lambda f: graph(**{name: f[name].value for name in names}))
