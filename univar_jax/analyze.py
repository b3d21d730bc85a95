"""Embeddings in (Parquet alone; no jax, torch or tensorflow), a report on how sources are told apart out.

metrics.json. Accuracies are fractions, intervals 95 %, p and q never 0; null is what could not be measured.

  n, n_fit, n_scored, groups, few_clusters, sources, chance, majority     of the rows about values, held-out questions
  knn: k, acc, acc_ci, f1
  linear: acc@1, acc@3, acc@5, acc@10 (those below the number of sources), f1
  permutation_p, permutation_unit     of k-NN's accuracy; what labels were exchanged within
  tfidf: acc, acc_ci, f1, and paired: difference, ci, groups, verdict of k-NN minus TF-IDF on the same rows
  left_out     sources without rows on one of the two sides
  leakage: rows, of_source, questions     scored rows that stand on the fit side too (`splits.leakage`)
  by_count     all the above by the paper's split of answers, where a scored question was answered on the fit side
  length_matched     all the above on rows with equal distributions of answer length; `of` so many rows
The above is a part. Beside it, of each encoder (the top level is the first one):
  by_dataset: {NAME: part}; control: part or null
  labels: {"lang", "model": part without by_count and length_matched, or null}     language or model to be named
  across: [{fit, scored, …such a part}]     fitted on one corpus, scored on another
  by_value: {NAME: acc, acc_ci, n_scored, groups}     k-NN of the first part on each value's rows
  value_to_control: ratio, ci, by_count and tfidf: {ratio, ci}, matched (same sources and as many rows), and
      [values, control] of n_fit, n_scored, groups, sources, chance; values and control: knn of the two
  encoder, weights, step, config_hash, version, qas_per_view
And once:
  encoders: [the same keys]; paired: [{encoder, against, metric, difference, ci, groups, verdict}]
  distances: names, left_out, and [s][s] of centroid (all rows), centroid_shared and energy (over questions both
      answered), rows and shared (how many of them), floor (the larger of what the two are from themselves), p, q,
      centroid_floor, centroid_p, centroid_q; linkage (scipy's) and support of each of its rows; mantel: {"language":
      {"centroid", "energy": {r, p, n, permutations, exact}}, "reference": {level, names, centroid, energy}} or null
  questions: [{a, b, unit, shared, distance, most, least, by_value, by_dataset}] (`differences.between`)
  map: umap and pca: {trustworthiness, continuity}; points, neighbours
  lang, source_names, rows, control_rows, seed, notes, inputs, settings (the counts behind all of this)
"""

from collections.abc import Sequence

import numpy as np
from etils import epath

from univar_jax import cli, files
from univar_jax import embeddings as embedding_files
from univar_jax.cli import UserError
from univar_jax.config import digest
from univar_jax.embeddings import Encoder

with cli.extra("analyze", "umap"):
    from univar_jax.report import maps, page, screen
    from univar_jax.statistics import baselines, dendrogram, differences, distances, mantel, resamples, scores, splits

_ABOUT = ("weights", "step", "config_hash", "version", "qas_per_view")
# Goes up when equal inputs give another report: a finished one of before is then another.
_EDITION = 4


def analyze(
    embeddings: Sequence[str],
    out: str,
    k: int = 50,
    lang: Sequence[str] = (),
    seed: int = 0,
    reference: str = "",
    allow_leakage: bool = False,
) -> None:
    """Writes OUT/report.html, its pictures, metrics.json and distances.csv.

    Args:
      embeddings: Parquet files; those of one encoder are joined, encoders are compared with the first one.
      out: a folder that is not there yet, or the finished one of an equal run, which is left as it is.
      k: voters of k-NN.
      lang: languages whose sources are scored; () = all.
      seed: of all draws, and of the split where the files have none.
      reference: a square CSV of distances between sources, models or languages, for Mantel's test.
      allow_leakage: whether a scored answer may stand on the fit side too.

    Raises:
      UserError: a file that cannot be used, no common row, an unknown language, an OUT with other content, leakage.
    """
    folder = files.place(out, "out")
    data, shas = embedding_files.contents(embeddings)
    settings = {"k": k, "lang": sorted(lang), "seed": seed, "allow_leakage": allow_leakage, "edition": _EDITION}
    if reference:
        names, y_uu = mantel.read_reference(reference)
        settings["reference"] = [names, y_uu.tolist()]
    inputs = digest({"files": shas} | settings)
    if files.finished(folder, "metrics.json", inputs):
        print(f"{folder / 'report.html'} is there already, made from the same inputs")
        return
    notes: list[str] = []
    encoders = embedding_files.align(embedding_files.join(data, notes), notes)
    del data
    metrics, made = _report(encoders, k, lang, seed, reference, allow_leakage, notes, {"inputs": inputs})
    screen.say(metrics)
    with files.whole_folder(folder, last="metrics.json") as aside:
        for name, content in made.items():
            (aside / name).write_bytes(content)
    print(f"report    {folder / 'report.html'}")


def _report(
    encoders: list[Encoder],
    k: int,
    lang: Sequence[str],
    seed: int,
    reference: str,
    allow_leakage: bool,
    notes: list[str],
    about: dict,
) -> tuple[dict, dict[str, bytes]]:
    """metrics.json's content, and all files of the report."""
    control_n = ~embedding_files.about_values(encoders[0].columns)
    table = _table(encoders, k, seed, notes)
    langs = _scored_languages(table.columns["lang"], lang, notes)
    scored_n = np.isin(table.columns["lang"], langs)
    for kind, rows_n in (("values", scored_n & ~control_n), ("control", scored_n & control_n)):
        _check_leakage(table, rows_n, kind, allow_leakage)
    metrics = _scores(encoders, table, scored_n & ~control_n, scored_n & control_n, notes)
    # A file of control rows only still has distances and a map, its own.
    mapped_n = ~control_n | control_n.all()
    z_nd, columns = encoders[0].z_nd[mapped_n], {name: c[mapped_n] for name, c in table.columns.items()}
    units = [("question", table.questions_n[mapped_n]), ("question group", table.groups_n[mapped_n])]
    apart = distances.between(z_nd, columns["source"], columns["dataset"], units, seed)
    if apart["left_out"]:
        few = f"Fewer than {distances.MIN_ROWS} rows, so no test of distances: {', '.join(apart['left_out'])}."
        notes.append(few)
    alone = [shared == 0 for i, row in enumerate(apart["shared"]) for shared in row[:i]]
    if any(alone):
        notes.append(
            f"{sum(alone)} of {len(alone)} pairs of sources share no question: their distance is of topics, too."
        )
    apart["mantel"] = _mantel(apart, columns, reference, seed, notes)
    drawn = maps.draw(z_nd, seed)
    metrics |= about | {"lang": langs, "seed": seed, "notes": notes, "source_names": apart["names"]}
    metrics |= {"rows": len(control_n), "control_rows": int(control_n.sum()), "settings": _settings(reference)}
    metrics |= {"distances": apart, "map": maps.quality(z_nd[drawn.rows], drawn, seed)}
    looked_at = differences.pairs(apart["names"], np.array(apart["centroid"], float))
    metrics["questions"] = differences.between(z_nd, columns, units, looked_at)
    return metrics, page.report(drawn, columns, metrics)


def _table(encoders: list[Encoder], k: int, seed: int, notes: list[str]) -> scores.Table:
    """The rows of all encoders, with what is read off their columns."""
    columns = encoders[0].columns
    questions_n, groups_n = embedding_files.questions(columns)
    fit_n = splits.held_out(encoders[0], groups_n, seed, notes)
    return scores.Table(
        vectors=[encoder.z_nd for encoder in encoders],
        columns=columns,
        groups_n=np.unique(groups_n, return_inverse=True)[1],
        questions_n=np.unique(questions_n, return_inverse=True)[1],
        lengths_n=np.array([len(answer) for answer in columns["answer"]]),
        counts_nv=baselines.counts(columns["text"].tolist()),
        fit_n=fit_n,
        trained_n=np.any([encoder.columns["split"] == "train" for encoder in encoders], axis=0),
        k=k,
        seed=seed,
    )


def _check_leakage(table: scores.Table, rows_n: np.ndarray, kind: str, allowed: bool) -> None:
    """An answer that is fitted and scored would score the memory of it."""
    text, source, question = (table.columns[name][rows_n] for name in ("text", "source", "question"))
    found = splits.leakage(text, source, question, table.fit_n[rows_n])
    if found["rows"] and not allowed:
        scored = int((rows_n & ~table.fit_n).sum())
        raise UserError(
            f"--embeddings: {found['rows']:,} of {scored:,} scored {kind} rows stand on the fit side too, question and "
            f"answer letter by letter ({found['of_source']:,} under their own source); give equal questions one "
            "group_id or leave the copies out, or score them all the same with --allow_leakage"
        )


def _scores(
    encoders: list[Encoder], table: scores.Table, values_n: np.ndarray, control_n: np.ndarray, notes: list[str]
) -> dict:
    """The first encoder's scores, those of all, and the paired differences."""
    scored_e, pairs = scores.measure(table, values_n, control_n, notes.append)
    for encoder, scored in zip(encoders, scored_e, strict=True):
        scored |= {"encoder": encoder.name, **{key: encoder.meta.get(key) for key in _ABOUT}}
    who = [{"encoder": encoders[0].name, "against": e.name, "metric": "knn"} for e in encoders[1:]]
    paired = [names | figure for names, figure in zip(who, pairs, strict=False)]
    return scored_e[0] | {"encoders": scored_e, "paired": paired}


def _mantel(apart: dict, columns: dict[str, np.ndarray], reference: str, seed: int, notes: list[str]) -> dict:
    """Distances against language, and against a file where one is given."""
    matrices = {name: np.array(apart[name], float) for name in ("centroid", "energy")}
    first = [int(np.argmax(columns["source"] == name)) for name in apart["names"]]
    levels = {"source": apart["names"]} | {name: columns[name][first].tolist() for name in ("model", "lang")}
    given = mantel.against_reference(reference, matrices, levels, seed, notes) if reference else None
    return {"language": mantel.against_language(matrices, levels["lang"], seed), "reference": given}


def _settings(reference: str) -> dict:
    return {
        "resamples": resamples.RESAMPLES,
        "permutations": resamples.PERMUTATIONS,
        "mantel_permutations": mantel.PERMUTATIONS,
        "support_resamples": dendrogram.RESAMPLES,
        "halves": distances.HALVES,
        "rows_a_source": distances.MAX_ROWS,
        "length_bins": splits.LENGTH_BINS,
        "tfidf_features": baselines.FEATURES,
        "reference": epath.Path(reference).name,  # without its folder: equal runs give equal bytes
    }


def _scored_languages(lang_n: np.ndarray, wanted: Sequence[str], notes: list[str]) -> list[str]:
    there = sorted(set(lang_n))
    if unknown := sorted(set(wanted) - set(there)):
        raise UserError(f"--lang={','.join(unknown)}: no row of that language; there are {', '.join(there)}")
    langs = sorted(set(wanted)) or there
    if len(langs) > 1:
        notes.append(f"{len(langs)} languages are scored together: the language alone gives a source away (--lang).")
    if len(langs) < len(there):
        told = "is scored, the others are only on map and distances: the language alone would give them away."
        notes.append(f"Only {', '.join(langs)} {told}")
    return langs


if __name__ == "__main__":
    from absl import flags

    flags.DEFINE_list("embeddings", None, "Files that embed wrote, the encoder to show first.", required=True)
    flags.DEFINE_string("out", None, "Folder of the report.", required=True)
    flags.DEFINE_integer("k", 50, "Voters of k-NN.", lower_bound=1)
    flags.DEFINE_list("lang", [], "Languages whose sources are scored; none: all.")
    flags.DEFINE_integer("seed", 0, "Of all draws, and of the split where files have none.", lower_bound=0)
    flags.DEFINE_string("reference", "", "Square CSV of distances, for Mantel's test: of sources, models or languages.")
    flags.DEFINE_bool("allow_leakage", False, "Score answers that stand on the fit side too.")
    cli.run(lambda f: analyze(f.embeddings, f.out, f.k, f.lang, f.seed, f.reference, f.allow_leakage))
