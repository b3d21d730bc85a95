"""What an intervention did (RLHF, DPO, steering, a persona, a new version): before and after, compared on the questions
that both answered, with a page; and whether personas stay within bounds. Parquet alone; no jax, torch or tensorflow.

compare.json. Intervals and bands 95 %, p and q never 0; null is what could not be measured.

  pairs: [{before, after, and of the answers about values:
      shared, unit     questions, or question groups where no question is common, that both answered
      rows: [before, after], groups, few_groups     answers and question groups that are compared, at most 500 answers
      shift, shift_ci     cosine distance of the two mean directions; the bootstrap's interval, over question groups
      noise_band, noise_of     where the shift would lie if nothing had changed, and by what it is known (`noise`)
      energy, energy_ci, energy_noise_band     the same of the energy distance
      p, q, shift_p, shift_q     of energy and of shift: labels exchanged within questions; q over the pairs, in
          by_value over the values of this pair
      not_enough     null, or {groups, rows, needed_groups, needed_rows}; all figures are null then
      by_value: {VALUE: the same from shared on}; control: the same on control answers without q, or null
      toward: [{source, before, after (cosine distances to it, of answers to different questions), change, ci, groups,
          verdict}], the nearest first
      trained     rows that are compared and that the encoder was trained on}]
  questions: [{a, b, unit, shared, distance, most, least, by_value, by_dataset}]     before and after of each pair
      (`differences.between`)
  bounds: null, or [{source, before, value (null: all questions), limit, distance (the shift), ci, groups, pass,
      verdict, needed_groups, tier, owner, reason, date, pattern, looser: [{limit, and the same five}]}]
  map: umap and pca, of each {trustworthiness, continuity}; points, neighbours
  encoder, weights, step, config_hash, version, seed, notes, inputs, files, bounds_file, settings

Exit code 3: the report is written, and some bound is exceeded or not shown to be kept (`bounds`).
"""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from etils import epath

from univar_jax import cli, files
from univar_jax import embeddings as embedding_files
from univar_jax.cli import UserError
from univar_jax.config import digest
from univar_jax.embeddings import Encoder

with cli.extra("analyze", "umap"):
    from univar_jax.report import maps, page, screen, sheet
    from univar_jax.statistics import asked, differences, distances, nearest, noise, resamples, shifts
    from univar_jax.statistics import bounds as bounds_file

NOT_WITHIN = 3  # the exit code
# Goes up when equal inputs give another report.
_EDITION = 2
_ABOUT = ("weights", "step", "config_hash", "version")


def compare(
    embeddings: Sequence[str],
    out: str,
    before: str = "",
    after: str = "",
    pairs: str = "",
    bounds: str = "",
    seed: int = 0,
) -> int:
    """Writes OUT/report.html, its pictures, pairs.csv, questions.csv and compare.json.

    Args:
      embeddings: Parquet files of one encoder.
      out: a folder that is not there yet, or the finished one of an equal run, which is left as it is.
      before, after: two sources.
      pairs: in their place a CSV with the columns before and after. With bounds neither is needed: each source with a
        persona is then compared with its model and language without.
      bounds: a YAML file (`bounds`).
      seed: of all draws.

    Returns:
      The exit code: NOT_WITHIN where a bound does not pass, else 0.

    Raises:
      UserError: a file that cannot be used, files of several encoders, an unknown source (with near spellings), a pair
        of one source or one that stands twice, a bound that checks nothing, an OUT with other content.
    """
    folder = files.place(out, "out")
    wanted = asked.named(before, after, pairs, bounds)
    entries = bounds_file.read(bounds) if bounds else []
    data, shas = embedding_files.contents(embeddings)
    law = hashlib.sha256(files.given(bounds, "bounds", bounds_file.CURE)).hexdigest() if bounds else ""
    inputs = digest(
        {"compare": _EDITION, "files": shas, "pairs": [list(p) for p, _ in wanted], "bounds": law, "seed": seed}
    )
    if files.finished(folder, "compare.json", inputs):
        print(f"{folder / 'report.html'} is there already, made from the same inputs")
        return _told(json.loads((folder / "compare.json").read_text()))
    notes: list[str] = []
    rows = embedding_files.single(data, notes)
    del data
    about = {"inputs": inputs, "files": shas, "seed": seed, "encoder": rows.name}
    about |= {key: rows.meta.get(key) for key in _ABOUT} | {"bounds_file": epath.Path(bounds).name or None}
    compared, made = _report(rows, wanted, entries, notes, about)
    screen.say_compared(compared)
    with files.whole_folder(folder, last="compare.json") as aside:
        for name, content in made.items():
            (aside / name).write_bytes(content)
    print(f"report    {folder / 'report.html'}")
    return _told(compared)


def _told(compared: dict) -> int:
    """Prints the bounds' table, and gives the exit code."""
    screen.say_bounds(compared["bounds"] or [])
    return 0 if all(row["pass"] for row in compared["bounds"] or []) else NOT_WITHIN


def _report(
    rows: Encoder, wanted: list[asked.Named], entries: list[bounds_file.Bound], notes: list[str], about: dict
) -> tuple[dict, dict[str, bytes]]:
    """compare.json's content, and all files of the report."""
    columns, about_n = rows.columns, _about_values(rows, notes)
    home = asked.homes(columns)
    pairs = asked.pairs(wanted, sorted(set(columns["source"][about_n])), home)
    personas = {name: name.removeprefix(base).removeprefix("$") for name, base in home.items()}
    persona = {after: personas[after] for _, after in pairs}
    bounds_file.check(about["bounds_file"], entries, persona, personas, sorted(set(columns["value"]) - {""}), notes)
    units = list(zip(("question", "question group"), embedding_files.questions(columns), strict=True))
    coded, lots = distances.by_lot(units, about["seed"])
    corpus_n = np.unique(columns["dataset"], return_inverse=True)[1]
    table = nearest.Table(rows.z_nd, columns["source"], columns["lang"], corpus_n, coded, lots, about["seed"])
    measured = [shifts.measure(table, about_n, columns["value"], *pair, i) for i, pair in enumerate(pairs)]
    found = [row for row, _ in measured]
    shifts.add_q(found)
    for row, drawn in measured:
        row["trained"] = int((columns["split"][drawn.rows] == "train").sum()) if not row["not_enough"] else 0
    _tell(found, dict(zip(columns["source"], columns["lang"], strict=True)), notes)
    kept = np.flatnonzero(about_n)
    words = {name: column[kept] for name, column in columns.items()}
    asked_of = rows.z_nd[kept], words, [(name, cell_n[kept]) for name, cell_n in coded], pairs
    judged = [row for pair in found for row in bounds_file.judge(entries, pair, persona[pair["after"]])]
    if entries and not judged:
        raise UserError(
            f"--bounds: none of its {len(entries)} bounds matches any of {', '.join(persona)}; mend the globs"
        )
    compared = about | {
        "pairs": found,
        "questions": differences.between(*asked_of),
        "bounds": judged if entries else None,
        "notes": notes,
    }
    compared, made = _files(rows, kept, [drawn for _, drawn in measured], compared | {"settings": _settings()})
    columns = ["before", "after", "dataset", "question_id", "question", "value", "distance"]
    return compared, {"questions.csv": sheet.csv_of(columns, differences.each(*asked_of))} | made


def _about_values(rows: Encoder, notes: list[str]) -> np.ndarray:
    """Bool [n]: not control; all, where a file has nothing else."""
    about_n = embedding_files.about_values(rows.columns)
    if about_n.any():
        return about_n
    notes.append("All rows are control (value_relevant false): what is compared says nothing of values.")
    return ~about_n


def _tell(pairs: list[dict], lang: dict[str, str], notes: list[str]) -> None:
    """What a reader has to know beside the figures."""
    for row in pairs:
        name = f"{row['before']} to {row['after']}"
        if few := row["not_enough"]:
            shared = (
                f"{row['shared']} common {row['unit']}s in {few['groups']} groups"
                if row["shared"]
                else "no common question"
            )
            needed = f"{few['needed_groups']} groups and {few['needed_rows']} answers of either"
            notes.append(f"{name}: not enough to say, {shared}; {needed} are needed.")
        elif row["few_groups"]:
            few = f"{name}: {row['groups']} question groups"
            notes.append(f"{few}; from fewer than {resamples.FEW_GROUPS} take intervals and bands with care.")
        if row["trained"]:
            trained = f"{name}: the encoder was trained on {row['trained']:,} of its {sum(row['rows']):,} rows"
            notes.append(f"{trained}, to tell sources apart: it may find a difference there where there is none.")
        if lang[row["before"]] != lang[row["after"]]:
            notes.append(f"{name}: two languages, which alone set sources apart.")


def _files(
    rows: Encoder, kept: np.ndarray, drawn: list[distances.Pair], compared: dict
) -> tuple[dict, dict[str, bytes]]:
    """compare.json's content with the map's, and all files of the report by name, compare.json the last one."""
    z_nd, columns = rows.z_nd[kept], {name: column[kept] for name, column in rows.columns.items()}
    shown = [(i, p) for i, (p, row) in enumerate(zip(drawn, compared["pairs"], strict=True)) if not row["not_enough"]]
    always = np.unique(np.concatenate([np.searchsorted(kept, p.rows) for _, p in shown])) if shown else ()
    mapped = maps.draw(z_nd, compared["seed"], always)
    compared["map"] = maps.quality(z_nd[mapped.rows], mapped, compared["seed"])
    moves = {}
    for name, xy_n2 in (("pca", mapped.pca_n2), ("umap", mapped.umap_n2)):
        if xy_n2 is not None:
            place_n2 = np.full((len(rows.z_nd), 2), np.nan)
            place_n2[kept[mapped.rows]] = xy_n2
            moves[name] = [_move(place_n2, compared["pairs"][i], p, i, compared["seed"]) for i, p in shown]
    return compared, page.compared(mapped, columns, moves, compared)


def _move(place_n2: np.ndarray, row: dict, drawn: distances.Pair, number: int, seed: int) -> dict:
    """An arrow on a map: names, ends, and the ellipse of noise; rows without a place are left out."""
    start, end = (np.nanmean(place_n2[rows], axis=0) for rows in (drawn.rows[: drawn.size], drawn.rows[drawn.size :]))
    ellipse = noise.ellipse(place_n2, noise.labelled(drawn, seed, shifts.stream(number)))
    return {"before": row["before"], "after": row["after"], "start": start, "end": end, "ellipse": ellipse}


def _settings() -> dict:
    counts = {"resamples": resamples.RESAMPLES, "permutations": resamples.PERMUTATIONS, "labellings": noise.LABELLINGS}
    counts |= {"rows_a_source": shifts.MAX_ROWS, "min_rows": distances.MIN_ROWS, "min_groups": nearest.MIN_GROUPS}
    return counts | {"edition": _EDITION}


if __name__ == "__main__":
    from absl import flags

    flags.DEFINE_list("embeddings", None, "Files that embed wrote, of one encoder.", required=True)
    flags.DEFINE_string("out", None, "Folder of the report.", required=True)
    flags.DEFINE_string("before", "", "The source before the intervention.")
    flags.DEFINE_string("after", "", "The source after it.")
    flags.DEFINE_string("pairs", "", "In place of these two: CSV with the columns before and after.")
    flags.DEFINE_string("bounds", "", "YAML file of bounds by tier; alone it compares each persona with none.")
    flags.DEFINE_integer("seed", 0, "Of all draws.", lower_bound=0)
    cli.run(lambda f: compare(f.embeddings, f.out, f.before, f.after, f.pairs, f.bounds, f.seed))
