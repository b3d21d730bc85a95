"""My model among those of a reference: its answers embedded as theirs were, the sources nearest to it, a page of it.

place.json. Energies and cosine distances as in `distances`, intervals 95 %, p and q never 0.

  mine: [{source, lang, n, groups, floor, headline, nearest, apart_from_second, other_languages, not_enough,
      differences}], of each of my sources:
    nearest: the reference's sources in its language, the nearest by energy first: [{source, lang, energy, ci, centroid,
        centroid_ci, p, q, centroid_p, centroid_q, nearest_share (of the resamples), floor (the larger of what the two
        are from themselves) and floor_source, rows, shared and unit (questions, or groups, that both answered; 0: none,
        then all rows are compared and the distance is of topics too), groups (resampled), few_groups, copies (of my
        answers that the source has too, with their questions, letter by letter)}]
    apart_from_second: source, difference (of the two energies), ci (paired), groups (common ones), verdict, and
        groups_needed (about so many, were the difference what it seems); null where there is no second
    other_languages: rows as in nearest, without shares: the language alone sets sources apart
    not_enough: [{source, lang, shared, unit, rows, groups, rows_smaller, needed_rows, needed_groups}]
    differences: {nearest, against}: `differences.between` of my source and that one, or null
  reference: rows, sources, trained (rows that the encoder was trained on)
  encoder: name, weights, step, config_hash, max_tokens, dims
  kind: values, or control where all of mine are control rows, placed among the reference's
  map: as in metrics.json; lang, seed, against, notes, inputs, files, settings

A source of mine that the reference has too, asked again, is called NAME (mine) and placed among all, its namesake too.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from univar_jax import cli, embed, files, qa
from univar_jax import embeddings as embedding_files
from univar_jax.cli import UserError
from univar_jax.config import digest
from univar_jax.embeddings import Encoder
from univar_jax.encoders import models
from univar_jax.training import programs

with cli.extra("analyze", "umap"):
    from univar_jax.report import figures, maps, page, screen, sheet
    from univar_jax.statistics import differences, distances, nearest, resamples
    from univar_jax.statistics import mine as my

# Goes up when equal inputs give another report.
_EDITION = 1
# Of nearest.csv, after my source and the list.
_COLUMNS = ("source", "lang", "energy", "energy_lo", "energy_hi", "centroid", "centroid_lo", "centroid_hi")
_COLUMNS += ("floor", "p", "q", "nearest_share", "shared", "unit", "groups", "copies")


def place(
    embeddings: Sequence[str],
    qa_paths: str,
    model: str,
    out: str,
    against: str = "",
    lang: Sequence[str] = (),
    seed: int = 0,
) -> None:
    """Writes OUT/report.html, its pictures, nearest.csv and place.json.

    Args:
      embeddings: Parquet files of the reference, all of one encoder.
      qa_paths: QA files of mine, as qa.read takes them.
      model: the MODEL that made the reference; mine are embedded with its cap and dims.
      out: a folder that is not there yet, or the finished one of an equal run, which is left as it is.
      against: a source of the reference to quote differences from, besides the nearest.
      lang: languages whose sources of mine are placed; () = all.
      seed: of all draws.

    Raises:
      UserError: a file that cannot be used, a reference of another encoder or of handfuls, an unknown source or
        language, question ids that mean other questions there, an OUT with other content.
    """
    folder = files.place(out, "out")
    data, shas = embedding_files.contents(embeddings)
    loaded = embed.open_model(model)
    meta = _made_by(data, loaded, model)
    answers = qa.read(qa_paths)
    settings = {"against": against, "lang": sorted(lang), "seed": seed, "edition": _EDITION}
    inputs = digest({"files": shas, "qa": answers.files, "weights": meta["weights"]} | settings)
    if files.finished(folder, "place.json", inputs):
        print(f"{folder / 'report.html'} is there already, made from the same inputs")
        return
    notes: list[str] = []
    (reference,) = embedding_files.join(data, notes)
    del data
    _check_against(against, reference)
    mine = _embedded(loaded, answers, meta, notes)
    about = {"inputs": inputs, "files": {"embeddings": shas, "qa": answers.files}, "against": against, "seed": seed}
    placed, made = _report(reference, mine, against, lang, seed, notes, about)
    screen.say_placed(placed)
    with files.whole_folder(folder, last="place.json") as aside:
        for name, content in made.items():
            (aside / name).write_bytes(content)
    print(f"report    {folder / 'report.html'}")


def _made_by(data: dict[str, bytes], loaded: embed.Model, model: str) -> dict[str, str]:
    """The first file's metadata, where all say that this encoder made them, of single answers."""
    metas = {file: embedding_files.metadata(file, content) for file, content in data.items()}
    for file, meta in metas.items():
        weights = meta.get("weights", "")
        if not weights:
            raise UserError(f"{file}: its metadata names no weights, so nobody knows its encoder; make it with embed")
        if weights.partition(":")[0] != loaded.digest:
            made = f"{file} was made by encoder {meta.get('encoder')} (weights {weights[:12]})"
            other = f"--model={model} has others ({loaded.digest[:12]})"
            raise UserError(f"{made}, {other}; give the --model that made it, or embed the reference with this one")
        if meta.get("qas_per_view", "1") != "1":
            several = f"{file} was made with --qas_per_view={meta['qas_per_view']}, handfuls that no two sources share"
            raise UserError(f"{several}; place compares single answers: embed the reference with --qas_per_view=1")
        if weights != next(iter(metas.values()))["weights"]:
            raise UserError(f"{file} was made with other --dims than the first file; embed all with the same")
    return next(iter(metas.values()))


def _check_against(against: str, reference: Encoder) -> None:
    there = set(reference.columns["source"])
    if against and against not in there:
        told = f"the reference has no such source among its {len(there)}"
        raise UserError(f"--against={against}: {told}; {cli.near(against, there)}")


def _embedded(loaded: embed.Model, answers: qa.Answers, meta: dict[str, str], notes: list[str]) -> Encoder:
    """Mine, embedded as the reference was and read as its files are."""
    _, _, dims = meta["weights"].partition(":")
    cap = int(meta.get("max_tokens") or models.read_config(loaded.folder).positions)
    sink = pa.BufferOutputStream()
    pq.write_table(embed.table(loaded, answers, cap, dims=int(dims or 0)), sink)
    return embedding_files.read("--qa", sink.getvalue().to_pybytes(), notes)


def _report(
    reference: Encoder, mine: Encoder, against: str, lang: Sequence[str], seed: int, notes: list[str], about: dict
) -> tuple[dict, dict[str, bytes]]:
    """place.json's content, and all files of the report."""
    reference, mine, kind = my.one_kind(reference, mine, notes)
    mine = my.same_questions(reference, my.own_names(reference, mine, notes), notes)
    names = sorted(set(mine.columns["source"]))
    wanted = my.wanted(mine, names, lang, notes)
    z_nd = np.concatenate([mine.z_nd, reference.z_nd])
    columns = {name: np.concatenate([mine.columns[name], reference.columns[name]]) for name in mine.columns}
    units = list(zip(("question", "question group"), embedding_files.questions(columns), strict=True))
    found = _ranked(z_nd, columns, units, wanted, set(names) - set(wanted), seed)
    _add_copies(found, mine, reference, notes)
    _add_differences(found, z_nd, columns, units, against)
    _tell(found, reference, notes)
    drawn = maps.draw(z_nd, seed, np.arange(len(mine.z_nd)))
    quality = maps.quality(z_nd[drawn.rows], drawn, seed)
    trained = int((reference.columns["split"] == "train").sum())
    there = {"rows": len(reference.z_nd), "sources": len(set(reference.columns["source"])), "trained": trained}
    encoder = {key: reference.meta.get(key) for key in ("weights", "step", "config_hash", "max_tokens", "dims")}
    placed = about | {"mine": found, "reference": there, "encoder": encoder | {"name": reference.name}}
    placed["kind"] = kind
    placed |= {"map": quality, "lang": sorted(set(lang)), "notes": notes, "settings": _settings()}
    return placed, _files(drawn, columns, placed, names, len(z_nd))


def _ranked(
    z_nd: np.ndarray,
    columns: dict[str, np.ndarray],
    units: Sequence[resamples.Unit],
    wanted: list[str],
    unwanted: set[str],
    seed: int,
) -> list[dict]:
    """`nearest.rank` of the wanted sources among those of the reference."""
    rows = np.flatnonzero(~np.isin(columns["source"], list(unwanted)))
    coded, lots = distances.by_lot([(name, cell_n[rows]) for name, cell_n in units], seed)
    corpus_n = np.unique(columns["dataset"][rows], return_inverse=True)[1]
    of = columns["source"][rows], columns["lang"][rows], corpus_n
    return nearest.rank(nearest.Table(z_nd[rows], *of, coded, lots, seed), wanted)


def _add_copies(found: list[dict], mine: Encoder, reference: Encoder, notes: list[str]) -> None:
    counts = my.copies(mine, reference)
    for source in found:
        for row in source["nearest"] + source["other_languages"] + source["not_enough"]:
            row["copies"] = counts.get((source["source"], row["source"]), 0)
    for (name, other), count in sorted(counts.items()):
        of = int((mine.columns["source"] == name).sum())
        notes.append(f"{count:,} of {of:,} answers of {name} stand under {other} letter by letter: no new evidence.")


def _add_differences(
    found: list[dict], z_nd: np.ndarray, columns: dict[str, np.ndarray], units: Sequence[resamples.Unit], against: str
) -> None:
    for source in found:
        first = source["nearest"][0]["source"] if source["nearest"] else None
        pairs = {"nearest": first, "against": against or None}
        quoted = differences.between(
            z_nd, columns, units, [(source["source"], name) for name in pairs.values() if name]
        )
        source["differences"] = {kind: quoted.pop(0) if name else None for kind, name in pairs.items()}


def _tell(found: list[dict], reference: Encoder, notes: list[str]) -> None:
    """The headlines, and what a reader has to know beside them."""
    trained = int((reference.columns["split"] == "train").sum())
    if trained:
        share = f"{trained:,} of the reference's {len(reference.z_nd):,} rows"
        notes.append(f"The encoder was trained on {share}: it sets those sources apart more than it does new ones.")
    for source in found:
        source["headline"] = nearest.headline(source)
        rows = source["nearest"]
        if rows and not all(row["shared"] for row in rows):
            alone = sum(not row["shared"] for row in rows)
            told = f"{source['source']} shares no question with {alone} of the {len(rows)} sources of its language"
            notes.append(f"{told}: those distances are of topics, too.")
        if any(row["few_groups"] for row in rows):
            few = min(row["groups"] for row in rows)
            notes.append(f"{source['source']}: {few} question groups; from fewer than 30 take intervals with care.")


def _settings() -> dict:
    counts = {"resamples": resamples.RESAMPLES, "permutations": resamples.PERMUTATIONS, "halves": distances.HALVES}
    counts |= {"rows_a_source": distances.MAX_ROWS, "min_rows": distances.MIN_ROWS, "min_groups": nearest.MIN_GROUPS}
    return counts | {"edition": _EDITION}


def _files(
    drawn: maps.Maps, columns: dict[str, np.ndarray], placed: dict, names: list[str], of: int
) -> dict[str, bytes]:
    """All files of the report by name, place.json the last one."""
    columns = page.drawn_rows(columns, drawn)
    made = page.pictures(drawn, columns, names) | {"nearest.png": figures.nearest(placed["mine"])}
    quoted = [pair for found in placed["mine"] for pair in found["differences"].values() if pair]
    quoted = [pair for i, pair in enumerate(quoted) if pair not in quoted[:i]]
    more = {"sources": len(set(columns["source"])), "encoder": placed["encoder"]["name"], "questions": quoted}
    points = page.points(drawn, columns, placed["seed"], names)
    html = page.render("place.html.j2", placed, made, points, of, more | {"shown": figures.NEAREST})
    made |= {"nearest.csv": sheet.csv_of(["mine", "list", *_COLUMNS], _lines(placed["mine"])), "report.html": html}
    return made | {"place.json": sheet.json_of(placed)}


def _lines(found: list[dict]) -> list[dict]:
    """The rows of nearest.csv."""
    out = []
    for source in found:
        for kind in ("nearest", "other_languages"):
            for row in source[kind]:
                ends = {f"energy_{end}": v for end, v in zip(("lo", "hi"), row["ci"], strict=True)}
                ends |= {f"centroid_{end}": v for end, v in zip(("lo", "hi"), row["centroid_ci"], strict=True)}
                out.append({"mine": source["source"], "list": kind} | row | ends)
    return out


if __name__ == "__main__":
    from absl import flags

    flags.DEFINE_list("embeddings", None, "The reference: files that embed wrote, of one encoder.", required=True)
    flags.DEFINE_string("qa", None, "My QA files: comma-separated files, folders and globs.", required=True)
    flags.DEFINE_string("model", None, "The encoder that made the reference, named as for embed.", required=True)
    flags.DEFINE_string("out", None, "Folder of the report.", required=True)
    flags.DEFINE_string("against", "", "A source of the reference to quote differences from, besides the nearest.")
    flags.DEFINE_list("lang", [], "Languages whose sources of mine are placed; none: all.")
    flags.DEFINE_integer("seed", 0, "Of all draws.", lower_bound=0)

    def _main(f: flags.FlagValues) -> None:
        programs.keep_memory()
        programs.cache()
        place(f.embeddings, f.qa, f.model, f.out, f.against, f.lang, f.seed)

    cli.run(_main)
