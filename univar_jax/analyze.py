"""Embeddings in (Parquet alone; no jax, torch or tensorflow), a report on how sources are told apart out."""

import collections
import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from etils import epath

from univar_jax import cli, evaluate, figures, qa
from univar_jax.cli import UserError
from univar_jax.config import digest

_QUESTION = ("group_id", "question_id", "question", "value_relevant")
_COLUMNS = ("source", "model", "lang", "text", "split", "dataset", *_QUESTION)
_ABOUT = ("weights", "step", "config_hash", "version", "qas_per_view")
# A vector this far off unit length was not meant to be one.
_UNIT_SLACK = 1e-3
_SHARE = 0.2


@dataclasses.dataclass(frozen=True)
class Encoder:
    """The rows of one encoder, from one file or several."""

    name: str
    meta: dict[str, str]  # the files' own
    z_nd: np.ndarray  # float32 unit vectors
    columns: dict[str, np.ndarray]  # name → str [n]; of a view's several values the first

    def take(self, rows: np.ndarray) -> "Encoder":
        """These rows only, in the order given."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        return dataclasses.replace(self, z_nd=self.z_nd[rows], columns=columns)


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
    data = [_bytes(file) for file in embeddings]
    shas = [hashlib.sha256(d).hexdigest() for d in data]
    if len(set(shas)) < len(shas):
        raise UserError(f"--embeddings: {len(shas)} files, {len(set(shas))} different; name each file once")
    inputs = digest({"files": shas, "k": k, "lang": sorted(lang), "seed": seed})
    if _finished(folder, inputs):
        print(f"{folder / 'report.html'} is there already, made from the same inputs")
        return
    notes: list[str] = []
    encoders = _align(_join(embeddings, data, notes), notes)
    relevant = encoders[0].columns["value_relevant"].tolist()
    control_n = ~qa.value_relevant(qa.Answers({"value_relevant": relevant}, 0, []))
    metrics = _measure(encoders, control_n, k, lang, seed, notes)
    # A file of control rows only still has a map, its own.
    mapped = encoders[0].take(np.flatnonzero(~control_n | control_n.all()))
    names, d_ss = evaluate.centroid_distances(mapped.z_nd, mapped.columns["source"])
    about = {"inputs": inputs, "seed": seed, "notes": notes, "source_names": names}
    metrics |= about | {"rows": len(control_n), "control_rows": int(control_n.sum())}
    _screen(metrics)
    _write_whole(folder, figures.report(mapped.z_nd, mapped.columns, d_ss, metrics))
    print(f"report    {folder / 'report.html'}")


def _bytes(file: str) -> bytes:
    path = epath.Path(file).expanduser()
    if not path.exists() or path.is_dir():
        raise UserError(f"{file}: no such file; give Parquet files that embed wrote")
    return path.read_bytes()


def read(file: str, data: bytes, notes: list[str]) -> Encoder:
    """One embeddings file, checked; an error names the row, counted from 1."""
    try:
        parquet = pq.ParquetFile(pa.BufferReader(data))
        there = parquet.schema_arrow.names
        for name in ("embedding", "source"):
            if name not in there:
                raise UserError(f"{file}: no column {name} (there: {', '.join(there)}); make the file with embed")
        table = parquet.read(["embedding", *(name for name in _COLUMNS if name in there)])
    except pa.ArrowException as error:
        raise UserError(f"{file}: not a whole Parquet file ({error}); make it again") from error
    if not table.num_rows:
        raise UserError(f"{file}: 0 rows; make it again from answers")
    meta = {k.decode(): v.decode() for k, v in (parquet.schema_arrow.metadata or {}).items()}
    columns = {c: [_first(v) for v in table[c].to_pylist()] for c in _COLUMNS if c in there}
    z_nd = _vectors(file, table["embedding"].combine_chunks(), notes)
    return Encoder(meta.get("encoder") or epath.Path(file).stem, meta, z_nd, _complete(file, columns))


def _first(value: object) -> str:
    """A cell as a string; of a view's several questions the first, on whose side the others are too."""
    first = next(iter(value), None) if isinstance(value, list) else value
    return "" if first is None else str(first)


def _complete(file: str, columns: dict[str, list[str]]) -> dict[str, np.ndarray]:
    """Every column that is read, those that a foreign file lacks from the others."""
    if "" in columns["source"]:
        raise UserError(f"{file} row {columns['source'].index('') + 1}: source is empty; name it model$lang")
    parts = [source.split("$") for source in columns["source"]]
    columns.setdefault("model", [p[0] for p in parts])
    columns.setdefault("lang", [p[1] if len(p) > 1 else "" for p in parts])
    # Without text each row stands for itself: matched by its place, held out alone.
    columns.setdefault("text", [f"row {i}" for i in range(len(parts))])
    return {name: np.array(columns.get(name, [""] * len(parts)), object) for name in _COLUMNS}


def _vectors(file: str, column: pa.Array, notes: list[str]) -> np.ndarray:
    kind = column.type
    lists = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    lengths = pc.unique(pc.list_value_length(column)).to_pylist() if lists else [None]
    if len(lengths) > 1 or not lengths[0] or not pa.types.is_floating(kind.value_type):
        raise UserError(f"{file}: embedding is {kind} of lengths {lengths[:3]}; it needs one vector length in all rows")
    z_nd = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(column), -1)
    norm_n1 = np.linalg.norm(z_nd, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(norm_n1) | (norm_n1 == 0))
    if len(bad):
        what = f"the vector is zero or not finite ({len(bad)} of {len(z_nd)} rows)"
        raise UserError(f"{file} row {bad[0] + 1}: {what}; embed the answers again")
    off = int((np.abs(norm_n1 - 1) > _UNIT_SLACK).sum())
    if off:
        notes.append(f"{off:,} of {len(z_nd):,} vectors of a file were not of unit length and were scaled to it.")
    return z_nd / norm_n1 if off else z_nd


def _join(files: Sequence[str], data: Sequence[bytes], notes: list[str]) -> list[Encoder]:
    """One Encoder for each set of weights, in the order of the files."""
    joined: dict[str, tuple[str, Encoder]] = {}
    for file, content in zip(files, data, strict=True):
        new = read(file, content, notes)
        key = new.meta.get("weights") or f"named {new.name} {new.meta.get('step', '')}"
        if key not in joined:
            joined[key] = file, new
            continue
        first, old = joined[key]
        if old.z_nd.shape[1] != new.z_nd.shape[1]:
            sizes = f"vectors of {new.z_nd.shape[1]} numbers, {old.z_nd.shape[1]} in {first} of the same encoder"
            raise UserError(f"{file}: {sizes}; embed both with the same settings")
        columns = {c: np.concatenate([old.columns[c], new.columns[c]]) for c in _COLUMNS}
        z_nd = np.concatenate([old.z_nd, new.z_nd])
        joined[key] = first, Encoder(old.name, new.meta | old.meta, z_nd, columns)
    encoders = [encoder for _, encoder in joined.values()]
    twice = collections.Counter(e.name for e in encoders)
    names = [f"{e.name} #{i}" if twice[e.name] > 1 else e.name for i, e in enumerate(encoders, 1)]
    return [dataclasses.replace(e, name=name) for e, name in zip(encoders, names, strict=True)]


def _align(encoders: list[Encoder], notes: list[str]) -> list[Encoder]:
    """The rows that all encoders have, in the first one's order, so that they are compared on equal terms."""
    places = []
    for encoder in encoders:
        seen: collections.Counter = collections.Counter()
        place = {}
        for row, key in enumerate(zip(encoder.columns["source"], encoder.columns["text"], strict=True)):
            place[*key, seen[key]] = row
            seen[key] += 1
        places.append(place)
    common = [key for key in places[0] if all(key in place for place in places)]
    if not common:
        raise UserError(f"--embeddings: no row (source, text) is in all {len(encoders)} encoders; embed equal answers")
    for encoder, place in zip(encoders, places, strict=True):
        if len(place) > len(common):
            notes.append(f"{len(place) - len(common):,} rows of {encoder.name} are not in all files: left out.")
    return [e.take(np.array([p[key] for key in common])) for e, p in zip(encoders, places, strict=True)]


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
        rule_seed, share = int(rule.get("seed", seed)), float(rule.get("share") or _SHARE)
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


def _write_whole(out: epath.Path, files: dict[str, bytes]) -> None:
    """Into a sibling folder first, then renamed: a report that is cut off never passes for a whole one."""
    partial = out.parent / f".{out.name}.partial"
    try:
        if partial.exists():
            partial.rmtree()
        partial.mkdir(parents=True)
        for name, data in files.items():
            with (partial / name).open("wb") as file:
                file.write(data)
                file.flush()
                if "://" not in os.fspath(out):  # a bucket (gs://, s3://) has no such step
                    os.fsync(file.fileno())
        if out.exists():
            out.rmdir()  # _finished let only an empty one pass
        partial.rename(out)
    except OSError as error:
        raise UserError(f"--out={out}: cannot be written ({error.strerror}); give another --out") from error


if __name__ == "__main__":
    from absl import flags

    flags.DEFINE_list("embeddings", None, "Files that embed wrote, the encoder to show first.", required=True)
    flags.DEFINE_string("out", None, "Folder of the report.", required=True)
    flags.DEFINE_integer("k", 50, "Voters of k-NN.", lower_bound=1)
    flags.DEFINE_list("lang", [], "Languages whose sources are scored; none: all.")
    flags.DEFINE_integer("seed", 0, "Of probe, intervals, map, and split where files have none.", lower_bound=0)
    cli.run(lambda f: analyze(f.embeddings, f.out, f.k, f.lang, f.seed))
