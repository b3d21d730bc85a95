"""Embeddings in (Parquet alone; no jax, torch or tensorflow), a report on how sources are told apart out."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from etils import epath

from univar_jax import cli, evaluate, figures, files, qa
from univar_jax import embeddings as embedding_files
from univar_jax.cli import UserError
from univar_jax.config import digest
from univar_jax.embeddings import Encoder

_ABOUT = ("weights", "step", "config_hash", "version", "qas_per_view")


def analyze(embeddings: Sequence[str], out: str, k: int = 50, lang: Sequence[str] = (), seed: int = 0) -> None:
    """Writes OUT/report.html, its pictures, metrics.json and distances.csv.

    Args:
      embeddings: Parquet files; those of one encoder are joined, encoders are compared with the first one.
      out: a folder that is not there yet, or the finished one of an equal run, which is left as it is.
      k: voters of k-NN.
      lang: languages whose sources are scored; () = all.
      seed: of probe, intervals and map, and of the split where the files have none.

    Raises:
      UserError: a file that cannot be used, no common row, an unknown language, an OUT with other content.
    """
    folder = epath.Path(out).expanduser()
    embeddings = [file for file in embeddings if file.strip()]
    if not embeddings:
        raise UserError("--embeddings names no file; give Parquet files that embed wrote")
    data = [embedding_files.content(file) for file in embeddings]
    shas = [hashlib.sha256(d).hexdigest() for d in data]
    if len(set(shas)) < len(shas):
        raise UserError(f"--embeddings: {len(shas)} files, {len(set(shas))} different; name each file once")
    inputs = digest({"files": shas, "k": k, "lang": sorted(lang), "seed": seed})
    if _finished(folder, inputs):
        print(f"{folder / 'report.html'} is there already, made from the same inputs")
        return
    notes: list[str] = []
    encoders = embedding_files.align(embedding_files.join(embeddings, data, notes), notes)
    relevant = encoders[0].columns["value_relevant"].tolist()
    control_n = ~qa.value_relevant(qa.Answers({"value_relevant": relevant}, 0, []))
    metrics = _measure(encoders, control_n, k, lang, seed, notes)
    # A file of control rows only still has a map, its own.
    mapped = encoders[0].take(np.flatnonzero(~control_n | control_n.all()))
    names, d_ss = evaluate.centroid_distances(mapped.z_nd, mapped.columns["source"])
    about = {"inputs": inputs, "seed": seed, "notes": notes, "source_names": names}
    metrics |= about | {"rows": len(control_n), "control_rows": int(control_n.sum())}
    _screen(metrics)
    made = figures.report(mapped.z_nd, mapped.columns, d_ss, metrics)
    with files.whole_folder(folder, last="metrics.json") as aside:
        for name, data in made.items():
            (aside / name).write_bytes(data)
    print(f"report    {folder / 'report.html'}")


def _fit_side(encoder: Encoder, groups_n: np.ndarray, seed: int, notes: list[str]) -> np.ndarray:
    """bool [n]: the rows that k-NN and probe are fitted on; by the file's split, else by our own."""
    split_n = encoder.columns["split"]
    unknown = sorted(set(split_n) - {"train", "heldout", "unseen", ""})
    if unknown:
        raise UserError(f"column split holds {unknown[0]!r}; use train, heldout, unseen or nothing")
    if (split_n == "").any():
        notes.append("Without a column split the rows were split by question here; the encoder may have seen them.")
    try:
        rule = dict(json.loads(encoder.meta.get("holdout") or "{}") or {})
        rule_seed, share = int(rule.get("seed", seed)), float(rule.get("share") or qa.SHARE)
    except (TypeError, ValueError) as error:
        raise UserError(f"the metadata's holdout is {encoder.meta['holdout']!r}; it should be JSON") from error
    ours_n = ~np.isin(split_n, ("train", "heldout"))
    return np.where(ours_n, ~qa.heldout(groups_n.tolist(), rule_seed, share), split_n == "train")


def _measure(
    encoders: list[Encoder], control_n: np.ndarray, k: int, lang: Sequence[str], seed: int, notes: list[str]
) -> dict:
    """The figures of metrics.json, for all encoders on the same rows."""
    columns = encoders[0].columns
    groups_n = np.array(qa.groups({name: column.tolist() for name, column in columns.items()}), object)
    fit_n = _fit_side(encoders[0], groups_n, seed, notes)
    langs = _scored_languages(columns["lang"], lang, notes)

    def part(name: str, rows_n: np.ndarray) -> tuple[list[dict], list[dict]]:
        arrays = columns["source"][rows_n], groups_n[rows_n], fit_n[rows_n]
        vectors = [e.z_nd[rows_n] for e in encoders]
        return evaluate.compare(vectors, *arrays, k, seed, lambda note: notes.append(f"{name}: {note}."))

    scored_n = np.isin(columns["lang"], langs)
    values_n, controls_n = scored_n & ~control_n, scored_n & control_n
    scored_e, pairs = part("Values", values_n)
    sets = sorted(set(columns["dataset"][values_n]) - {""})
    by_set = {name: part(f"Dataset {name}", values_n & (columns["dataset"] == name))[0] for name in sets}
    control_e = part("Control", controls_n)[0] if controls_n.any() else [None] * len(encoders)
    for i, (encoder, scores, control) in enumerate(zip(encoders, scored_e, control_e, strict=True)):
        scores |= {"encoder": encoder.name, "control": control, **{a: encoder.meta.get(a) for a in _ABOUT}}
        scores["by_dataset"] = {name: scored[i] for name, scored in by_set.items()}
    who = [{"encoder": encoders[0].name, "against": e.name, "metric": "knn"} for e in encoders[1:]]
    paired = [names | figure for names, figure in zip(who, pairs, strict=False)]
    return scored_e[0] | {"encoders": scored_e, "paired": paired, "lang": langs}


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


def _screen(m: dict) -> None:
    def told(part: dict, ci: list[float] | None) -> str:
        few = ", few clusters" if part["groups"] < evaluate.FEW_GROUPS else ""
        return ("[{:.3f}, {:.3f}]".format(*ci) if ci else "no interval") + f", {part['groups']} groups{few}"

    print(f"rows      {m['rows']:,} ({m['control_rows']:,} control), sources {len(m['source_names'])}")
    print(f"values    fit {m['n_fit']:,}, scored {m['n_scored']:,} of {m['groups']} question groups")
    parts = [(kind, e, p) for e in m["encoders"] for kind, p in (("values", e), ("control", e["control"]))]
    for kind, encoder, part in parts:
        if part and (knn := part["knn"]):
            score = f"k-NN {knn['acc']:.3f} {told(part, knn['acc_ci'])}, chance {part['chance']:.3f}"
            print(f"{kind:9} {encoder['encoder']}: {score}")
    for p in m["paired"]:
        print(f"paired    {p['encoder']} - {p['against']}: {p['difference']:+.3f} {told(p, p['ci'])}, {p['verdict']}")
    for note in m["notes"]:
        print(f"note      {note}")


def _finished(out: epath.Path, inputs: str) -> bool:
    """Whether OUT is the whole report of these inputs; an error where it is anything but that or free."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        same = json.loads((out / "metrics.json").read_text())["inputs"] == inputs
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise UserError(f"--out={out}: exists with other content; give another --out or remove it")
    return True


if __name__ == "__main__":
    from absl import flags

    flags.DEFINE_list("embeddings", None, "Files that embed wrote, the encoder to show first.", required=True)
    flags.DEFINE_string("out", None, "Folder of the report.", required=True)
    flags.DEFINE_integer("k", 50, "Voters of k-NN.", lower_bound=1)
    flags.DEFINE_list("lang", [], "Languages whose sources are scored; none: all.")
    flags.DEFINE_integer("seed", 0, "Of probe, intervals, map, and split where files have none.", lower_bound=0)
    cli.run(lambda f: analyze(f.embeddings, f.out, f.k, f.lang, f.seed))
