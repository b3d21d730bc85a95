"""Question files and persona files in: the only room that knows their columns."""

import dataclasses
import hashlib
from pathlib import Path

from etils import epath

from univar_jax import qa
from univar_jax.cli import UserError
from univar_jax.qa import Row

BUILT_IN = Path(__file__).parents[1] / "questions" / "questions.csv"
REQUIRED = ("question_id", "lang", "question")
# What elicit writes beside a question's own columns; a question file may not have them.
WRITTEN = (
    *("model", "answer", "persona", "paraphrase", "sample", "refusal", "finish_reason", "truncated"),
    *("answer_lang", "wrong_lang", "question_original", "answer_original"),
)


@dataclasses.dataclass(frozen=True)
class Bank:
    """The questions that are asked.

    Attributes:
      rows: one dict a question and language, every column of the file a string; question_id, lang and question are
        stripped, group_id is the question_id where the file gives none.
      name: of the file, without folder and ending.
      sha256: of the file's bytes.
    """

    rows: list[Row]
    name: str
    sha256: str


def read(path: str, langs: list[str], values: list[str], questions_per_value: int = 0) -> Bank:
    """Reads a question file.

    Args:
      path: a file as qa.rows takes them; "" = the bank that comes with the package.
      langs: the languages to take; all where empty.
      values: the values to take; all where empty.
      questions_per_value: of each value the first so many question_ids that the file names; 0 = all. Questions
        without a value are a value of their own.

    Raises:
      UserError: with file and row: no file, no UTF-8, a NUL byte, an unclosed quote, a column missing, given twice or
        written by elicit, an empty or repeated question; a language or value of which there is no row.
    """
    file = epath.Path(path or BUILT_IN).expanduser()
    data = _bytes(file, "questions")
    rows: list[Row] = []
    first: dict[tuple[str, str], int] = {}
    for number, row in qa.rows(file, data, REQUIRED):
        _check(file, number, row)
        key = row["question_id"].strip(), row["lang"].strip()
        if key in first:
            raise UserError(
                f"{file} row {number}: question_id={key[0]} in {key[1]} stands in row {first[key]} already; rename one"
            )
        first[key] = number
        cleaned = {"question_id": key[0], "lang": key[1], "question": row["question"].strip()}
        rows.append(row | cleaned | {"group_id": row.get("group_id", "").strip() or key[0]})
    if not rows:
        raise UserError(f"{file}: no question in it; write one a row")
    rows = _only(file, rows, "lang", langs)
    rows = _only(file, rows, "value", values)
    if questions_per_value:
        rows = _first(rows, questions_per_value)
    return Bank(rows, file.name.partition(".")[0], hashlib.sha256(data).hexdigest())


def personas(path: str) -> dict[str, str]:
    """Reads a persona file: columns persona and prompt.

    Args:
      path: the file; "" = no personas.

    Returns:
      persona → its system prompt, in the file's order. {"": ""}, the model as it is, where there is no file; a row
      with both empty adds it to the others.

    Raises:
      UserError: as `read`; a persona that is repeated, has no prompt or holds a line break.
    """
    if not path:
        return {"": ""}
    file, found = epath.Path(path).expanduser(), {}
    for number, row in qa.rows(file, _bytes(file, "personas"), ("persona", "prompt")):
        persona, prompt = row["persona"].strip(), row["prompt"].strip()
        if persona in found:
            raise UserError(f"{file} row {number}: persona={persona!r} is there twice; rename one")
        if bool(persona) != bool(prompt):
            raise UserError(
                f"{file} row {number}: persona={persona!r} has prompt={prompt[:40]!r}; fill both or neither"
            )
        if len(persona.splitlines()) > 1:
            raise UserError(f"{file} row {number}: persona={persona!r} holds a line break; take it out")
        found[persona] = prompt
    if not found:
        raise UserError(f"{file}: no persona in it; write one a row, or leave --personas out")
    return found


def _bytes(file: epath.Path, flag: str) -> bytes:
    if not file.exists() or file.is_dir():
        raise UserError(f"--{flag}={file}: no such file; give a CSV file")
    return file.read_bytes()


def _check(file: epath.Path, number: int, row: Row) -> None:
    for name in REQUIRED:
        if not row[name].strip():
            raise UserError(f"{file} row {number}: {name} is empty; fill it or delete the row")
    for name in ("question_id", "lang"):
        if len(row[name].strip().splitlines()) > 1:
            raise UserError(f"{file} row {number}: {name}={row[name]!r} holds a line break; take it out")
    taken = [name for name in WRITTEN if name in row]
    if taken:
        raise UserError(f"{file}: column {', '.join(taken)} is what elicit writes beside a question; rename it")
    qa.check_relevant(file, number, row.get("value_relevant", ""))


def _only(file: epath.Path, rows: list[Row], column: str, wanted: list[str]) -> list[Row]:
    there = list(dict.fromkeys(row.get(column, "") for row in rows))
    absent = [word for word in wanted if word not in there]
    if absent:
        flag, named = {"lang": "lang", "value": "values"}[column], ", ".join(filter(None, there)) or "none"
        raise UserError(f"--{flag}={','.join(absent)}: {file} has no such question; there: {named}")
    return [row for row in rows if not wanted or row.get(column, "") in wanted]


def _first(rows: list[Row], count: int) -> list[Row]:
    """Of each value the first `count` question_ids, in every language that they have."""
    ids: dict[str, dict[str, None]] = {}
    for row in rows:
        ids.setdefault(row.get("value", ""), {})[row["question_id"]] = None
    taken = {(value, name) for value, names in ids.items() for name in list(names)[:count]}
    return [row for row in rows if (row.get("value", ""), row["question_id"]) in taken]
