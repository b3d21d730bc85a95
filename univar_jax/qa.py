"""QA files in, sources out: the only room that knows their columns."""

import csv
import dataclasses
import gzip
import hashlib
import io
import json
import sys
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath

from univar_jax.cli import UserError

REQUIRED = ("model", "lang", "question", "answer")
ENDINGS = (".csv", ".csv.gz", ".jsonl", ".parquet")
# What exporters write for "no answer"; compared without case, after stripping.
_NO_ANSWER = ("", "nan", "null")
_TRUE, _FALSE = ("", "true", "1", "1.0", "yes"), ("false", "0", "0.0", "no")

csv.field_size_limit(sys.maxsize)  # an answer may be longer than csv's 128 KiB

Row = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Answers:
    """The QAs of some files, as columns of equal length in the files' order.

    Attributes:
      columns: name → one string a QA; `model, lang, question, answer` are always there, "" where a file
        lacks an optional column.
      dropped: rows left out because their answer was empty.
      files: [name without folder, sha256 of its bytes] of each file read.
    """

    columns: dict[str, list[str]]
    dropped: int
    files: list[list[str]]

    def __len__(self) -> int:
        return len(self.columns["answer"])

    def take(self, rows: Sequence[int] | np.ndarray) -> "Answers":
        """These rows only, in the order given."""
        columns = {k: [v[i] for i in rows] for k, v in self.columns.items()}
        return dataclasses.replace(self, columns=columns)


def read(paths: str) -> Answers:
    """Reads QA files.

    Args:
      paths: comma-separated files, folders (searched for ENDINGS) and globs, local or of any file system
        that etils.epath opens.

    Raises:
      UserError: with file and row: nothing found, a missing column, text that is not UTF-8, a NUL byte, an
        unclosed quote, a broken line, an empty model, lang or question, no answer at all.
    """
    files = find(paths)
    columns: dict[str, list[str]] = {name: [] for name in REQUIRED}
    size, dropped, hashes = 0, 0, []
    for file in files:
        data = file.read_bytes()
        hashes.append([file.name, hashlib.sha256(data).hexdigest()])
        for number, row in rows(file, data):
            if row["answer"].strip().lower() in _NO_ANSWER:
                dropped += 1
                continue
            _check(file, number, row)
            for name, value in row.items():
                if name not in columns:  # new in this file: earlier rows have nothing there
                    columns[name] = [""] * size
                columns[name].append(value)
            size += 1
            for values in columns.values():
                if len(values) < size:
                    values.append("")
    if not size:
        raise UserError(f"--qa={paths}: no row has an answer ({dropped} empty ones in {len(files)} files)")
    return Answers(columns, dropped, hashes)


def find(paths: str) -> list[epath.Path]:
    """The QA files behind a PATHS flag, each once: in the order given, sorted inside folders and globs."""
    found: dict[str, epath.Path] = {}
    for part in filter(None, (p.strip() for p in paths.split(","))):
        path = epath.Path(part).expanduser()
        if path.is_dir():
            files = sorted(_walk(path))
        elif any(c in part for c in "*?[") and not path.exists():  # a name may hold a bracket
            if "**" in part:
                raise UserError(f"{part}: ** is not read; give the folder itself, it is searched to its depths")
            root = epath.Path(path.anchor or ".")
            pattern = str(path.relative_to(root)) if path.anchor else part
            files = sorted(f for f in root.glob(pattern) if f.is_file())
        else:
            files = [path] if path.exists() else []
        if not files:
            raise UserError(f"{part}: no QA file there; give files, folders or globs of {', '.join(ENDINGS)}")
        for file in files:  # the key: one file has many spellings
            found.setdefault(str(file.resolve()), file)
    if not found:
        raise UserError(f"no QA file given; give files, folders or globs of {', '.join(ENDINGS)}")
    return list(found.values())


def _walk(folder: epath.Path) -> Iterator[epath.Path]:
    for entry in folder.iterdir():  # epath has no recursive glob: it would be costly on object stores
        if entry.name.startswith("."):  # editors and file managers leave copies there
            continue
        if entry.is_dir():
            yield from _walk(entry)
        elif entry.name.endswith(ENDINGS):
            yield entry


def sources(answers: Answers) -> list[str]:
    """The source of each QA: model$lang, with $persona where that column is filled."""
    columns = answers.columns
    personas = columns.get("persona") or [""] * len(answers)
    named = zip(columns["model"], columns["lang"], personas, strict=True)
    return ["$".join(word.strip() for word in words if word.strip()) for words in named]


def text(question: str, answer: str) -> str:
    """A QA as the encoder reads it; the QAs of a view are joined by a newline."""
    return f"Q: {question.strip()} A: {answer.strip()}"


def value_relevant(answers: Answers) -> np.ndarray:
    """bool [n]: whether a QA is about values, which is so where the column is empty or absent."""
    column = answers.columns.get("value_relevant") or [""] * len(answers)
    return np.array([v.strip().lower() in _TRUE for v in column], bool)


def groups(columns: dict[str, list[str]]) -> list[str]:
    """What is held out whole: group_id, else question_id, else the question's own text."""
    size = len(next(iter(columns.values())))
    keys = [columns[k] for k in ("group_id", "question_id", "question", "text") if k in columns]
    # Stripped, as a QA's text is: what reads the same is one question.
    return [next((key for k in keys if (key := k[i].strip())), "") for i in range(size)]


# Held out of corpora that no training saw, where the encoder comes without a rule or its rule holds nothing out.
SHARE = 0.2


def heldout(groups: Sequence[str], seed: int, share: float) -> np.ndarray:
    """Which QAs are held out: a function of (seed, group) alone, the same for every source and language.

    Args:
      groups: the group of each QA, as `groups` gives it.
      seed: the config's seed.
      share: expected share of groups that are held out, in [0, 1).

    Returns:
      bool [n].
    """

    def side(group: str) -> bool:
        draw = hashlib.sha256(f"{seed}\n{group}".encode()).digest()[:8]
        return int.from_bytes(draw, "big") < share * 2**64

    sides = {g: side(g) for g in set(groups)}
    return np.array([sides[g] for g in groups], bool)


def _check(file: epath.Path, number: int, row: Row) -> None:
    for name in ("model", "lang", "question"):
        if not row[name].strip():
            raise UserError(f"{file} row {number}: {name} is empty; fill it or delete the row")
    for name in ("model", "lang", "persona"):
        if len(row.get(name, "").strip().splitlines()) > 1:  # DATA lists its sources one a line
            raise UserError(f"{file} row {number}: {name}={row[name]!r} holds a line break; take it out")
    check_relevant(file, number, row.get("value_relevant", ""))


def check_relevant(file: object, number: int, word: str) -> None:
    """Raises UserError with file and row where value_relevant holds another word than true, false or nothing."""
    if word.strip().lower() not in _TRUE + _FALSE:
        raise UserError(f"{file} row {number}: value_relevant={word!r}; use true, false or nothing")


def rows(file: epath.Path, data: bytes, required: Sequence[str] = REQUIRED) -> Iterator[tuple[int, Row]]:
    """(1-based row number without the header, row) with every value a string; UserError for what `read` names."""
    if file.name.endswith(".parquet"):
        yield from _parquet(file, data, required)
        return
    if file.name.endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{file}: not a whole gzip file ({error}); make it again") from error
    content = _decode(file, data)
    yield from (_jsonl if ".jsonl" in file.name else _csv)(file, content, required)


def _decode(file: epath.Path, data: bytes) -> str:
    nul = data.find(b"\0")
    if nul >= 0:
        raise UserError(f"{file} {_where(file, data[:nul])}: holds a NUL byte; save the file as UTF-8 text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = _where(file, data[: error.start])
        raise UserError(f"{file} {where}: not UTF-8 (byte {error.start}); save the file as UTF-8") from error


def _where(file: epath.Path, before: bytes) -> str:
    """The row and line that bytes before a broken one have reached."""
    line = before.count(b"\n") + 1
    if ".csv" not in file.name:
        return f"line {line}"
    # Some text of the broken row itself, so that a break at its very start is counted to it.
    rows = csv.reader(io.StringIO(before.decode(errors="replace") + "x", newline=""))
    row = sum(1 for values in rows if values) - 1
    return f"row {row} (line {line})" if row else f"header (line {line})"


def _csv(file: epath.Path, content: str, required: Sequence[str]) -> Iterator[tuple[int, Row]]:
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    number, start = 0, 1  # of the row being read, and the line it starts on
    try:
        header = [name.strip() for name in next(reader, [])]
        _columns(file, header, required)
        start = reader.line_num + 1
        for values in reader:
            if not values:  # an empty line between rows is no row
                start = reader.line_num + 1
                continue
            number += 1
            if len(values) != len(header):
                raise UserError(
                    f"{file} row {number} (line {start}): {len(values)} values for {len(header)} columns; "
                    "quote values that hold commas or line breaks"
                )
            yield number, dict(zip(header, values, strict=True))
            start = reader.line_num + 1
    except csv.Error as error:
        where = f"row {number + 1} (line {start})" if start > 1 else "header (line 1)"
        why = "a quote is opened and never closed" if "end of data" in str(error) else str(error)
        cure = "close the quote, and double the quotes inside a quoted value"
        raise UserError(f"{file} {where}: {why}; {cure}") from error


def _jsonl(file: epath.Path, content: str, required: Sequence[str]) -> Iterator[tuple[int, Row]]:
    number = 0
    for line_number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        number += 1
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise UserError(f"{file} row {number} (line {line_number}): not a JSON object")
            row = {k: _string(v) for k, v in row.items()}
            "".join(row.values()).encode()  # half of an escaped emoji is JSON, but no text
        except (ValueError, RecursionError) as error:  # also numbers of 5,000 digits, a thousand brackets
            raise UserError(f"{file} row {number} (line {line_number}): broken JSON ({error})") from error
        _columns(file, list(row), required, f" row {number} (line {line_number})")
        yield number, row


def _parquet(file: epath.Path, data: bytes, required: Sequence[str]) -> Iterator[tuple[int, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read()
        _columns(file, table.column_names, required)
        rows = table.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not a whole Parquet file ({error}); make it again") from error
    for number, row in enumerate(rows, 1):
        yield number, {k: _string(v) for k, v in row.items()}


def _columns(file: epath.Path, names: list[str], required: Sequence[str], where: str = "") -> None:
    missing = [name for name in required if name not in names]
    if missing:
        have = ", ".join(names) or "none"
        raise UserError(f"{file}{where}: no column {', '.join(missing)} (there: {have}); name the columns so")
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(f"{file}: column {', '.join(sorted(twice))} stands twice; rename one")


def _string(value: object) -> str:
    if value is None or value != value:  # null, NaN
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
