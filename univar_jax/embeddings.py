"""Embedding files in, checked: the rows of each encoder, joined and matched. Parquet alone; no jax, no torch."""

import collections
import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from etils import epath

from univar_jax import qa
from univar_jax.cli import UserError
from univar_jax.files import given

_QUESTION = ("group_id", "question_id", "question", "value_relevant")
# What `values` reads an answer's stance from, and the rows of a score matrix.
_STANCE = ("persona", "condition", "stance", "scale", "keyed", "reverse")
_COLUMNS = ("source", "model", "lang", "text", "answer", "split", "dataset", "value", *_QUESTION, *_STANCE)
# A vector this far off unit length was not meant to be one.
_UNIT_SLACK = 1e-3


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


def contents(files: Sequence[str]) -> tuple[dict[str, bytes], list[str]]:
    """The bytes of each file of --embeddings by its name, and their sha256.

    Raises:
      UserError: no file, none of that name, or one that is named twice.
    """
    files = [file for file in files if file.strip()]
    if not files:
        raise UserError("--embeddings names no file; give Parquet files that embed wrote")
    data = {}
    for file in files:
        data[file] = given(file, "embeddings", "give Parquet files that embed wrote")
    shas = [hashlib.sha256(content).hexdigest() for content in data.values()]
    if len(set(shas)) < len(files):
        raise UserError(f"--embeddings: {len(files)} files, {len(set(shas))} different; name each file once")
    return data, shas


def metadata(file: str, data: bytes) -> dict[str, str]:
    """What embed wrote into a file about how it was made."""
    try:
        found = pq.read_schema(pa.BufferReader(data)).metadata
    except pa.ArrowException as error:
        raise UserError(f"{file}: not a whole Parquet file ({error}); make it again") from error
    return {k.decode(): v.decode() for k, v in (found or {}).items()}


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
    meta = metadata(file, data)
    columns = {c: [_first(v) for v in table[c].to_pylist()] for c in _COLUMNS if c in there}
    z_nd = _vectors(file, table["embedding"].combine_chunks(), notes)
    return Encoder(meta.get("encoder") or epath.Path(file).stem, meta, z_nd, _complete(file, columns))


def _first(value: object) -> str:
    """A cell as a string, "" for null and NaN; of a view's several questions the first, on whose side the rest is."""
    first = next(iter(value), None) if isinstance(value, list) else value
    return "" if first is None or first != first else str(first)


def _complete(file: str, columns: dict[str, list[str]]) -> dict[str, np.ndarray]:
    """Every column that is read, those that a foreign file lacks from the others."""
    if "" in columns["source"]:
        raise UserError(f"{file} row {columns['source'].index('') + 1}: source is empty; name it model$lang")
    parts = [source.split("$") for source in columns["source"]]
    columns.setdefault("model", [p[0] for p in parts])
    columns.setdefault("lang", [p[1] if len(p) > 1 else "" for p in parts])
    # Without text each row stands for itself: matched by its place, held out alone.
    columns.setdefault("text", [f"row {i}" for i in range(len(parts))])
    # A view's text starts with its question, by which it is held out where nothing else tells.
    columns.setdefault("question", [text.removeprefix("Q: ").split(" A: ")[0] for text in columns["text"]])
    columns.setdefault("answer", [_answer(*row) for row in zip(columns["text"], columns["question"], strict=True)])
    for number, word in enumerate(columns.get("value_relevant", []), 1):
        qa.check_relevant(file, number, word)
    return {name: np.array(columns.get(name, [""] * len(parts)), object) for name in _COLUMNS}


def _answer(text: str, question: str) -> str:
    """What follows the question in a QA's text; a text that is built in another way is all answer."""
    head = f"Q: {question.strip()} A: "
    return text.removeprefix(head)


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


def join(data: dict[str, bytes], notes: list[str]) -> list[Encoder]:
    """One Encoder for each set of weights, in the order of the files, which come by name as `contents` gives them."""
    joined: dict[str, tuple[str, Encoder]] = {}
    for file, content in data.items():
        new = read(file, content, notes)
        key = new.meta.get("weights") or f"named {new.name} {new.meta.get('step', '')}"
        if key not in joined:
            joined[key] = file, new
            continue
        first, old = joined[key]
        if old.z_nd.shape[1] != new.z_nd.shape[1]:
            sizes = f"vectors of {new.z_nd.shape[1]} numbers, {old.z_nd.shape[1]} in {first} of the same encoder"
            raise UserError(f"{file}: {sizes}; embed both with the same settings")
        _check_joint(file, first, old, new)
        columns = {c: np.concatenate([old.columns[c], new.columns[c]]) for c in _COLUMNS}
        z_nd = np.concatenate([old.z_nd, new.z_nd])
        joined[key] = first, Encoder(old.name, new.meta | old.meta, z_nd, columns)
    encoders = [encoder for _, encoder in joined.values()]
    twice = collections.Counter(e.name for e in encoders)
    names = [f"{e.name} #{i}" if twice[e.name] > 1 else e.name for i, e in enumerate(encoders, 1)]
    return [dataclasses.replace(e, name=name) for e, name in zip(encoders, names, strict=True)]


def single(data: dict[str, bytes], notes: list[str]) -> Encoder:
    """The rows of files of one encoder, an answer each.

    Raises:
      UserError: as `read`; files of several encoders; views of several answers, which share no question.
    """
    encoder, *others = join(data, notes)
    if others:
        names = ", ".join(each.name for each in (encoder, *others))
        told = f"files of {1 + len(others)} encoders ({names})"
        raise UserError(f"--embeddings: {told}; a distance is within one, give its files")
    if (several := encoder.meta.get("qas_per_view", "1")) != "1":
        made = f"made with --qas_per_view={several}, handfuls that no two sources share"
        raise UserError(f"--embeddings: {made}; embed single answers, with --qas_per_view=1")
    return encoder


def about_values(columns: dict[str, np.ndarray]) -> np.ndarray:
    """bool [n]: the rows that are about values; the others are control."""
    return qa.value_relevant(qa.Answers({"value_relevant": columns["value_relevant"].tolist()}, 0, []))


def _check_joint(file: str, first: str, old: Encoder, new: Encoder) -> None:
    """Files of one encoder are parts of one whole: the same settings, other rows."""
    for key in ("qas_per_view", "max_tokens"):
        if old.meta.get(key) != new.meta.get(key):
            had = f"{key} {new.meta.get(key)}, {first} of the same encoder {old.meta.get(key)}"
            raise UserError(f"{file} was made with {had}; embed both with the same settings")
    there = set(zip(old.columns["source"], old.columns["text"], strict=True))
    twice = sum(row in there for row in zip(new.columns["source"], new.columns["text"], strict=True))
    if twice:
        raise UserError(f"{file}: {twice:,} of its rows are in {first} too, of the same encoder; name each row once")


def questions(columns: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The question and the question group of each row, str [n] each; questions are finer or the same.

    An id is a corpus's own; where there is none, what reads the same is one question.
    """
    asked = zip(columns["dataset"], columns["question_id"], columns["question"], strict=True)
    questions_n = [f"{corpus}\n{number.strip() or text.strip()}" for corpus, number, text in asked]
    groups_n = qa.groups({name: column.tolist() for name, column in columns.items()})
    return np.array(questions_n, object), np.array(groups_n, object)


def align(encoders: list[Encoder], notes: list[str]) -> list[Encoder]:
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
