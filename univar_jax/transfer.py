"""Weak to strong: how far a student went from where it was to the ceiling (Parquet and CSV in; no jax or torch).

Value transfer (after arXiv 2410.12621) is (d(before, ceiling) - d(after, ceiling)) / d(before, ceiling): 0 where the
student stayed, 1 where it is as the ceiling, below 0 where it went away. d is the energy distance and the cosine
distance of mean directions (`moves`), over the questions that all sources answered. The gap recovered on labelled
tasks (PGR, arXiv 2312.09390) is told in `recovered`, and the file of predictions in `predictions`.

transfer.json. Intervals are 95 %, by question group, all sources resampled together; p and q never 0; null is what
could not be measured.

  values     a part, of the rows about values (of all rows where all are control); control: a part or null
  pgr     null without --predictions, else
    items, left_out (not predicted by all), groups, few_clusters, classes, chance
    ties: {VOTE: items on which it was a tie, over all seeds}
    accuracies: [{role, name, acc, acc_ci, by_seed}]     weak models, their votes, ceilings
    students: [{name, taught_by, ensemble (a vote of the students of single teachers, or null), seeds, weak, student,
      student_ci, ceiling, gain and gap (student and ceiling less weak: difference, ci, groups, verdict), verdict (of
      weak to strong), pgr, ci, by_seed, no_pgr (why there is none), groups_needed}]
  sources: before, after, ceiling, teachers; encoder, seed, notes, settings, inputs
A part:
  rows: {source: rows compared}, unit (question, or question group where fewer than ten groups have a question that all
      answered), questions, groups, few_clusters, verdict (that of energy, or "not enough"); then groups_needed and
      without: {source: groups that all the others share}
  energy, centroid:
    before, before_ci, after, after_ci     distances to the ceiling
    floor, apart_p     of before and the ceiling, were they one: 95 % quantile of their distance, and p of what is found
    transfer, ci     null where before_ci is not above the floor
    moved_p     of before and after being one, by how much nearer to the ceiling one of them is
    verdict, groups_needed     from which before would be apart from the ceiling; null where no distance is found at all
  teachers: {NAME: {energy, centroid: before, after, ceiling, ceiling_ci (distances to the teacher), nearer_by, ci,
      verdict}}
  places: {source: [x, y]}     mean vectors on the plane through before (0, 0), the ceiling (1, 0) and, y, what the
      others differ in most
  by_value: {VALUE: a part without by_value, places and without}     energy and centroid have moved_q, over all values
      that have enough groups
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from univar_jax import cli, files
from univar_jax import embeddings as embedding_files
from univar_jax.cli import UserError
from univar_jax.config import digest
from univar_jax.embeddings import Encoder

with cli.extra("analyze"):
    from scipy import stats

    from univar_jax.report import transfer_page
    from univar_jax.statistics import moves, predictions, recovered, resamples

# Rows of a source that are compared: some seconds a teacher and 8 MB for each two sources, both growing as its square;
# a planted transfer of .5 then has an interval of .18.
MAX_ROWS = 1_000
# Goes up when equal inputs give another report.
_EDITION = 2


@dataclasses.dataclass(frozen=True)
class Roles:
    """The sources by what they are."""

    before: str
    after: str
    ceiling: str
    teachers: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All sources."""
        return (self.before, self.after, self.ceiling, *self.teachers)


def transfer(
    embeddings: Sequence[str],
    out: str,
    teacher: Sequence[str] = (),
    before: str = "",
    after: str = "",
    ceiling: str = "",
    predicted: str = "",
    seed: int = 0,
) -> None:
    """Writes OUT/report.html, transfer.png and transfer.json.

    Args:
      embeddings: Parquet files of one encoder that hold the sources; () where only predictions are measured.
      out: a folder that is not there yet, or the finished one of an equal run, which is left as it is.
      teacher: the weak sources.
      before, after: the strong student before and after it learnt.
      ceiling: the strong source that learnt from what is right.
      predicted: a file of predictions, or "".
      seed: of all draws.

    Raises:
      UserError: a file that cannot be used, an unknown source, one with two roles, an OUT with other content.
    """
    folder = files.place(out, "out")
    roles = Roles(before, after, ceiling, tuple(teacher))
    embeddings = [file for file in embeddings if file.strip()]
    if not embeddings and (not predicted or any(roles.names)):
        raise UserError("--embeddings is missing: give files of embed with the sources, or --predictions alone")
    data, shas = embedding_files.contents(embeddings) if embeddings else ({}, [])
    table = predictions.content(predicted) if predicted else b""
    inputs = digest(
        {"files": shas, "roles": dataclasses.asdict(roles), "seed": seed, "edition": _EDITION}
        | {"predictions": hashlib.sha256(table).hexdigest()}
    )
    if files.finished(folder, "transfer.json", inputs):
        print(f"{folder / 'report.html'} is there already, made from the same inputs")
        return
    notes: list[str] = []
    found = {"values": None, "control": None, "encoder": None, "sources": None, "pgr": None}
    if embeddings:
        found |= compared(data, roles, seed, notes)
    if predicted:
        found["pgr"] = recovered.measure(predictions.read(predicted, table), seed)
    found |= {"seed": seed, "notes": notes, "settings": _settings(), "inputs": inputs}
    transfer_page.say(found)
    with files.whole_folder(folder, last="transfer.json") as aside:
        for name, content in transfer_page.report(found).items():
            (aside / name).write_bytes(content)
    print(f"report    {folder / 'report.html'}")


def compared(data: dict[str, bytes], roles: Roles, seed: int, notes: list[str]) -> dict:
    """The parts of transfer.json that come from embeddings."""
    encoder = embedding_files.single(data, notes)
    _check(roles, sorted(set(encoder.columns["source"])))
    encoder = encoder.take(np.flatnonzero(np.isin(encoder.columns["source"], roles.names)))
    control_n = ~embedding_files.about_values(encoder.columns)
    out = {"encoder": encoder.name, "sources": dataclasses.asdict(roles), "control": None}
    if control_n.all():
        notes.append("All rows are control: what is called values here is not about values.")
    elif control_n.any():
        out["control"] = part(encoder.take(np.flatnonzero(control_n)), roles, seed, "control", notes)
    values = encoder.take(np.flatnonzero(~control_n | control_n.all()))
    return out | {"values": part(values, roles, seed, "values", notes) | {"by_value": by_value(values, roles, seed)}}


def part(encoder: Encoder, roles: Roles, seed: int, name: str = "", notes: list[str] | None = None) -> dict:
    """All figures over the questions that all sources answered; keys as transfer.json's."""
    rows, about, of = shared(encoder, roles, seed)
    if not rows:
        return about
    if notes is not None and of > about["groups"]:
        notes.append(f"Of {of:,} question groups of {name} that all answered {about['groups']:,} are compared, by lot.")
    sources = moves.Sources(rows, seed)
    who = roles.before, roles.after
    about |= moves.towards(sources, *who, roles.ceiling)
    about["teachers"] = {teacher: moves.nearer(sources, *who, teacher, roles.ceiling) for teacher in roles.teachers}
    return about | {"verdict": about["energy"]["verdict"], "places": places(rows, roles)}


def shared(encoder: Encoder, roles: Roles, seed: int) -> tuple[dict[str, moves.Rows], dict, int]:
    """The rows of each source on what all of them answered.

    Questions, or question groups where fewer than MIN_GROUPS groups have a shared question, as of two languages.
    Whole groups by lot where a source has more than MAX_ROWS.

    Returns:
      The rows by source, {} where there are too few; a part's keys, without figures; and the groups before the lot.
    """
    source_n = encoder.columns["source"]
    question_n, group_n = (np.unique(x, return_inverse=True)[1] for x in embedding_files.questions(encoder.columns))
    units = [("question", question_n), ("question group", group_n)]
    kept_u = [_common(source_n, cell_n, roles.names) for _, cell_n in units]
    u = 0 if resamples.groups_of(group_n[kept_u[0]]) >= moves.MIN_GROUPS else 1
    (unit, cell_n), keep_n = units[u], kept_u[u]
    groups = np.unique(group_n[keep_n])
    of = len(groups)
    enough = of >= moves.MIN_GROUPS
    if enough:
        groups = _by_lot(source_n[keep_n], group_n[keep_n], seed)
        keep_n &= np.isin(group_n, groups)
    rows = {name: np.flatnonzero(keep_n & (source_n == name)) for name in roles.names}
    about = {"rows": {name: len(own) for name, own in rows.items()}, "unit": unit, "groups": len(groups)}
    about |= {"questions": len(np.unique(cell_n[keep_n])), "few_clusters": len(groups) < resamples.FEW_GROUPS}
    about |= {"verdict": moves.NOT_ENOUGH, "groups_needed": None, "without": None}
    about |= {"energy": None, "centroid": None, "teachers": {}, "places": {}}
    if not enough:
        others = {left: [name for name in roles.names if name != left] for left in roles.names}
        without = {left: len(set(group_n[_common(source_n, cell_n, some)])) for left, some in others.items()}
        return {}, about | {"groups_needed": moves.MIN_GROUPS, "without": without}, of
    for name, own in rows.items():
        own = own[np.argsort(group_n[own], kind="stable")]
        z_nd = encoder.z_nd[own].astype(np.float64)
        rows[name] = moves.Rows(z_nd, np.searchsorted(groups, group_n[own]), cell_n[own])
    return rows, about, of


def _common(source_n: np.ndarray, cell_n: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """bool [n]: the rows of these sources whose cell all of them have."""
    cells = set.intersection(*(set(cell_n[source_n == name].tolist()) for name in names))
    return np.isin(cell_n, list(cells)) & np.isin(source_n, names)


def _by_lot(source_n: np.ndarray, group_n: np.ndarray, seed: int) -> np.ndarray:
    """Groups, sorted: all, or by lot so many that no source has more than MAX_ROWS rows in them."""
    (names, s_n), (groups, g_n) = (np.unique(x, return_inverse=True) for x in (source_n, group_n))
    sizes_gs = np.bincount(g_n * len(names) + s_n, minlength=len(groups) * len(names)).reshape(len(groups), -1)
    lot = resamples.draws(seed, resamples.COMPARED).permutation(len(groups))
    fitting = int((np.cumsum(sizes_gs[lot], axis=0).max(1) <= MAX_ROWS).sum())
    return np.sort(groups[lot[: max(fitting, moves.MIN_GROUPS)]])


def by_value(encoder: Encoder, roles: Roles, seed: int) -> dict[str, dict]:
    """A part of the rows of each value, with q over all values that have enough groups (Benjamini and Hochberg)."""
    value_n = encoder.columns["value"]
    found = {}
    for name in sorted(set(value_n) - {""}):
        found[name] = part(encoder.take(np.flatnonzero(value_n == name)), roles, seed)
        del found[name]["places"]
    for distance in moves.NAMES:
        tested = [of[distance] for of in found.values() if of[distance]]
        q = stats.false_discovery_control([of["moved_p"] for of in tested]) if tested else []
        for of, value in zip(tested, q, strict=True):
            of["moved_q"] = float(value)
    return found


def places(rows: dict[str, moves.Rows], roles: Roles) -> dict[str, list[float]]:
    """Each source's mean vector on a plane, [x, y], as the module's docstring says."""
    mean_sd = np.array([rows[name].z_nd.mean(0) for name in roles.names])
    mean_sd -= mean_sd[0]
    along_d = mean_sd[2] / max(float(mean_sd[2] @ mean_sd[2]), 1e-12)
    x_s = mean_sd @ along_d
    rest_sd = mean_sd - x_s[:, None] * mean_sd[2]
    _, _, axes = np.linalg.svd(rest_sd, full_matrices=False)
    y_s = rest_sd @ axes[0] / max(float(np.linalg.norm(mean_sd[2])), 1e-6)
    y_s *= np.sign(y_s[1]) or 1.0  # after lies above: an axis has no sign of its own
    return {name: [round(float(x), 4), round(float(y), 4)] for name, x, y in zip(roles.names, x_s, y_s, strict=True)}


def _check(roles: Roles, there: list[str]) -> None:
    """That each role has a source, that it is there, and that no two are one."""
    flags = [("before", roles.before), ("after", roles.after), ("ceiling", roles.ceiling)]
    flags += [("teacher", name) for name in roles.teachers] or [("teacher", "")]
    if missing := [f"--{flag}" for flag, name in flags if not name]:
        raise UserError(f"{', '.join(missing)} is missing; name one of the {len(there)} sources of --embeddings")
    for flag, name in flags:
        if name not in there:
            raise UserError(f"--{flag}={name}: no such source; {cli.near(name, there)}")
    for i, (flag, name) in enumerate(flags):
        if twice := [other for other, same in flags[:i] if same == name]:
            raise UserError(f"--{flag}={name} is --{twice[0]} too; each role has a source of its own")


def _settings() -> dict:
    return {
        "resamples": resamples.RESAMPLES,
        "permutations": resamples.PERMUTATIONS,
        "rows_a_source": MAX_ROWS,
        "groups_at_least": moves.MIN_GROUPS,
    }


if __name__ == "__main__":
    from absl import flags

    flags.DEFINE_list("embeddings", [], "Files that embed wrote, of one encoder; none: --predictions alone.")
    flags.DEFINE_list("teacher", [], "Weak sources that the student learnt from.")
    flags.DEFINE_string("before", "", "The strong student's source before it learnt.")
    flags.DEFINE_string("after", "", "The student's source after it learnt.")
    flags.DEFINE_string("ceiling", "", "The source of the strong model that learnt from what is right.")
    flags.DEFINE_string("out", None, "Folder of the report.", required=True)
    flags.DEFINE_string(
        "predictions", "", "CSV of what weak models, students and ceilings predicted of labelled items."
    )
    flags.DEFINE_integer("seed", 0, "Of all draws.", lower_bound=0)
    cli.run(lambda f: transfer(f.embeddings, f.out, f.teacher, f.before, f.after, f.ceiling, f.predictions, f.seed))
