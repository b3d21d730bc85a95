"""Embeddings in (Parquet; no jax, torch or tensorflow), named values and a score matrix out, which graph reads.

scores.csv has the id columns source, model, lang, persona, condition, then a column a value, in [-1, 1]: how far the
answers of that source under that condition speak for the value. A column is made of one kind of number alone:

  answers     the mean of the answers' own stances: column `stance`, else what `stances.parse` reads at their beginning,
      turned where `keyed` is - or `reverse` is true; where stances of at least half of the value's answers are known
  readout     the mean of what the vectors tell about the stance (`readout.stance`), of answers labelled with the value
      or named so without abstaining; where fewer are known and that was shown to beat always saying the mean

A value with neither has no column, and a cell with too few answers is empty. cells.csv has for each cell the answers,
how many are known, question groups and a 95 % interval; named.csv, where there is a readout, the name of each row.

values.json. Shares are fractions, intervals 95 % over question groups (with a question group of its own for each row
where the file tells none); null is what was not or could not be measured.

  values: [{value, kind, rows, known, parsed, unparsed, groups, cells, empty, questions: [fewest, of], why}]     kind:
      see above, or null and why; empty: cells without a score; questions: the fewest question groups of a score, of all
  readout: null, or classes ("(none)": rows with value_relevant false and no value), n_fit, n_scored, groups,
      few_clusters, chance, majority, acc, acc_ci, p, p_unit, tfidf {acc, acc_ci, f1, paired}, brier, brier_ci,
      brier_of_shares (of always telling the fit side's shares), ece, ece_ci, reliability [{p, came_true, came_true_ci,
      n, groups}], temperature, error (aimed at), threshold (null: always abstains), abstention {coverage, coverage_ci,
      wrong, wrong_ci}, by_value {VALUE: n_scored, groups, recall, precision, brier (each with _ci), ece}, not_enough
  left_out: {VALUE: why the readout does not know it}
  stance: {VALUE: n_fit, n_scored, groups, mae, mae_of_mean, gain, gain_ci, r, usable, not_enough}
  rows, scored_rows, encoder, settings, notes, seed, inputs
"""

from collections.abc import Sequence

import numpy as np

from univar_jax import cli, files
from univar_jax import embeddings as embedding_files
from univar_jax.cli import UserError
from univar_jax.config import digest
from univar_jax.embeddings import Encoder

with cli.extra("analyze"):
    from univar_jax.report import drawings, sheet
    from univar_jax.statistics import matrix, readout, resamples, splits, stances

# Goes up when equal inputs give another report: a finished one of before is then another.
_EDITION = 1


def values(
    embeddings: Sequence[str],
    out: str,
    values: Sequence[str] = (),
    error: float = 0.1,
    min_answers: int = 3,
    seed: int = 0,
) -> None:
    """Writes OUT/report.html, its pictures, scores.csv, cells.csv, named.csv and values.json.

    Args:
      embeddings: Parquet files of one encoder, with a column `value` for some rows.
      out: a folder that is not there yet, or the finished one of an equal run, which is left as it is.
      values: those to look at; () = all.
      error: the share of wrong names that the readout's threshold aims at, within (0, 1).
      min_answers: known stances that a score needs.
      seed: of all draws, and of the split where the files have none.

    Raises:
      UserError: a file, row or value that cannot be used, an OUT with other content.
    """
    folder = files.place(out, "out")
    data, shas = embedding_files.contents(embeddings)
    settings = {"values": sorted(values), "error": error, "min_answers": min_answers}
    inputs = digest({"files": shas, "seed": seed, "edition": _EDITION} | settings)
    if files.finished(folder, "values.json", inputs):
        print(f"{folder / 'report.html'} is there already, made from the same inputs")
        return
    notes: list[str] = []
    encoder = embedding_files.single(data, notes)
    metrics, made = _report(encoder, next(iter(data)), values, error, min_answers, seed, notes)
    metrics |= {"settings": settings, "seed": seed, "notes": notes, "inputs": inputs, "encoder": encoder.name}
    _say(metrics)
    made["report.html"] = sheet.page("values.html.j2", metrics, made)
    made["values.json"] = sheet.json_of(metrics)
    with files.whole_folder(folder, last="values.json") as aside:
        for name, content in made.items():
            (aside / name).write_bytes(content)
    print(f"report    {folder / 'report.html'}")


def _report(
    encoder: Encoder, file: str, wanted: Sequence[str], error: float, least: int, seed: int, notes: list[str]
) -> tuple[dict, dict[str, bytes]]:
    """values.json's content, and the other files but the page."""
    columns = encoder.columns
    there = sorted(set(columns["value"]) - {""})
    if not there:
        raise UserError(f"{file}: no row has a value; label some answers in a column value, and embed them again")
    matrix.check_names("--values", wanted, there)
    names = sorted(set(wanted)) or there
    if taken := sorted(set(names) & set(matrix.IDS)):
        raise UserError(
            f"{file}: a value is named {taken[0]!r}, as an id column of scores.csv is; give it another name"
        )
    _, groups_n = embedding_files.questions(columns)
    fit_n = splits.held_out(encoder, groups_n, seed, notes)
    rows = readout.Rows(encoder.z_nd, columns["text"], np.unique(groups_n, return_inverse=True)[1], fit_n, seed)
    stance_n, parsed_n = stances.read(columns, file)
    control_n = ~embedding_files.about_values(columns)
    labels_n = readout.labels(columns["value"], control_n, names)
    kept, lacking = readout.enough(labels_n, rows)
    told, named = readout.relevance(np.where(np.isin(labels_n, kept), labels_n, ""), rows, error)
    if told is None:
        notes.append(
            f"No readout: {len(kept)} of {len(names)} values have enough question groups, two would be needed."
        )
    elif told["threshold"] is None:
        aim = f"{error:.0%} wrong names"
        notes.append(f"The readout always abstains: on no share of the calibration rows did it stay within {aim}.")
    named_n = named.names() if named else np.full(len(labels_n), "", object)
    about = {name: columns["value"] == name for name in names}
    read = {name: readout.stance(about[name], stance_n, rows) for name in names}
    scored, of_value = {}, []
    for name in names:
        one = _counts(name, about[name], stance_n, parsed_n, rows.groups_n)
        kind, why, found = _kind(one, about[name], stance_n, read[name], (columns["value"] == "") & (named_n == name))
        of_value.append(one | {"kind": kind, "why": why})
        if found:
            scored[name] = found
    cells = stances.cells(columns, scored, rows.groups_n, least, seed)
    for one in of_value:
        _filled(one, [cell for cell in cells if cell["value"] == one["value"]])
    notes += _told(of_value)
    metrics = {"values": of_value, "readout": told, "left_out": lacking, "rows": len(labels_n)}
    metrics |= {"stance": {name: found for name, (found, _) in read.items()}}
    metrics["scored_rows"] = len({tuple(cell[i] for i in stances.IDS) for cell in cells})
    made = {"scores.csv": _scores_csv(cells, list(scored)), "cells.csv": _cells_csv(cells)}
    made["scores.png"] = drawings.score_matrix(cells, list(scored))
    if named:
        made["named.csv"] = _named_csv(columns, named, named_n)
        made["reliability.png"] = drawings.reliability(told["reliability"])
    return metrics, made


def _counts(name: str, about_n: np.ndarray, stance_n: np.ndarray, parsed_n: np.ndarray, groups_n: np.ndarray) -> dict:
    known_n = about_n & ~np.isnan(stance_n)
    out = {"value": name, "rows": int(about_n.sum()), "known": int(known_n.sum())}
    out |= {"parsed": int((about_n & parsed_n).sum()), "unparsed": int((about_n & ~known_n).sum())}
    return out | {"groups": resamples.groups_of(groups_n[about_n])}


def _kind(
    counts: dict, about_n: np.ndarray, stance_n: np.ndarray, read: tuple[dict, np.ndarray | None], named_n: np.ndarray
) -> tuple[str | None, str, tuple[np.ndarray, np.ndarray] | None]:
    """What a value's column is made of; why it has none; its rows, bool [n], and what they say, float [n]."""
    if counts["known"] >= stances.MIN_PARSED * counts["rows"]:
        return "answers", "", (about_n, stance_n)
    found, told_n = read
    if told_n is not None:
        return "readout", "", (about_n | named_n, told_n)
    share = f"{counts['known']} of {counts['rows']} answers have a stance that is known, half would be enough"
    return None, f"{share}; readout: {found['not_enough'] or 'no better than always saying the mean'}", None


def _filled(one: dict, cells: list[dict]) -> None:
    """Adds to a value how many of its cells have a score, and of how many questions."""
    filled = [cell for cell in cells if cell["score"] is not None]
    one |= {"cells": len(cells), "empty": len(cells) - len(filled)}
    one["questions"] = [min((cell["groups"] for cell in filled), default=0), one["groups"]]


def _told(of_value: list[dict]) -> list[str]:
    """A sentence for each way in which scores are missing or do not compare."""
    bare = [one["value"] for one in of_value if one["kind"] is None]
    empty = [f"{one['value']} ({one['empty']} of {one['cells']})" for one in of_value if one["empty"]]
    asked = [(one["value"], *one["questions"]) for one in of_value if 0 < one["questions"][0] < one["groups"]]
    notes = []
    if bare:
        notes.append(
            f"{len(bare)} of {len(of_value)} values have no column in scores.csv (why: the table): {', '.join(bare)}."
        )
    if empty:
        notes.append(f"Cells with too few known answers are empty: {', '.join(empty)}.")
    if asked:
        told = ", ".join(f"{value} ({fewest} of {of})" for value, fewest, of in asked)
        notes.append(
            f"Some cells rest on a part of the question groups, so that scores differ by questions, too: {told}."
        )
    return notes


def _scores_csv(cells: list[dict], names: list[str]) -> bytes:
    """A row a source, persona and condition, a column a value, empty where there is no score."""
    rows: dict[tuple, dict] = {}
    for cell in cells:
        key = {name: cell[name] for name in stances.IDS}
        rows.setdefault(tuple(key.values()), key)[cell["value"]] = cell["score"]
    return sheet.csv_of([*stances.IDS, *names], list(rows.values()))


def _cells_csv(cells: list[dict]) -> bytes:
    rows = [cell | dict(zip(("lo", "hi"), cell["ci"] or (None, None), strict=True)) for cell in cells]
    return sheet.csv_of([*stances.IDS, "value", "score", "rows", "known", "groups", "lo", "hi"], rows)


def _named_csv(columns: dict[str, np.ndarray], named: readout.Named, named_n: np.ndarray) -> bytes:
    """Each row in the file's order: its label, its name ("" = abstained), the largest p, and p of each class."""
    keys = ("source", "persona", "condition", "dataset", "question_id", "value")
    rows = []
    for row, p_c in enumerate(named.p_nc):
        one = {"row": row + 1} | {key: columns[key][row] for key in keys} | {"named": named_n[row]}
        rows.append(one | {f"p {name}": f"{p:.4f}" for name, p in zip(named.classes, p_c, strict=True)})
    return sheet.csv_of(["row", *keys, "named", *(f"p {name}" for name in named.classes)], rows)


def _say(m: dict) -> None:
    """The report on one screen."""
    kinds = [one["kind"] for one in m["values"]]
    made = ", ".join(f"{kinds.count(kind)} of {kind}" for kind in ("answers", "readout") if kind in kinds) or "none"
    print(f"rows      {m['rows']:,}, values {len(kinds)}")
    print(f"scores    {m['scored_rows']} rows, columns: {made}; {sum(one['empty'] for one in m['values'])} empty cells")
    if r := m["readout"]:
        ends = f"[{r['acc_ci'][0]:.3f}, {r['acc_ci'][1]:.3f}]" if r["acc_ci"] else f"no interval ({r['not_enough']})"
        words = f", TF-IDF {r['tfidf']['acc']:.3f}" if r["tfidf"] else ""
        told = f"{r['groups']} groups, chance {r['chance']:.3f}, majority {r['majority']:.3f}{words}"
        print(f"readout   names {r['acc']:.3f} {ends} of {r['n_scored']:,} held-out answers, {told}, p {r['p']:.3f}")
        a, wrong = (
            r["abstention"],
            "" if r["abstention"]["wrong"] is None else f", {r['abstention']['wrong']:.3f} wrong",
        )
        print(f"sure      named {a['coverage']:.3f} of them{wrong} (aimed at {r['error']:.3f}); ECE {r['ece']:.3f}")
    for note in m["notes"]:
        print(f"note      {note}")


if __name__ == "__main__":
    from absl import flags

    flags.DEFINE_list(
        "embeddings", None, "Files that embed wrote, of one encoder, some rows with a value.", required=True
    )
    flags.DEFINE_string("out", None, "Folder of the report.", required=True)
    flags.DEFINE_list("values", [], "Values to look at; none: all.")
    flags.DEFINE_float("error", 0.1, "Share of wrong names that the readout's threshold aims at.", 1e-6, 1 - 1e-6)
    flags.DEFINE_integer("min_answers", 3, "Known stances that a score needs.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of all draws, and of the split where files have none.", lower_bound=0)
    cli.run(lambda f: values(f.embeddings, f.out, f.values, f.error, f.min_answers, f.seed))
