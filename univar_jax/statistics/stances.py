"""What an answer says for or against a value, as a number in [-1, 1], and the score matrix that graph reads.

An answer is read by its beginning alone, in English: "Yes" and "No", "Absolutely" and "Absolutely not" (1, -1);
"Strongly agree", "Agree", "Slightly agree", "Neutral", "Slightly disagree", "Disagree", "Strongly disagree" (1, .5,
.25, 0, …, -1) and their like, also as a numbered label ("3) Agree"); a number of a scale from 1 to k,
(2 n - k - 1) / (k - 1), where k is told by the column `scale`, by the question ("from 1 to 7") or by the answer itself
("4/5"). What begins in another way, or says two things at once, is not parsed, and counted: a refusal is no answer in
the middle.
"""

import collections
import re

import numpy as np

from univar_jax.cli import UserError
from univar_jax.statistics import resamples

# Of a value's answers, in all and in each cell: where fewer are parsed, those that are may be another kind of answer.
MIN_PARSED = 0.5
# Question groups below which a cell has no interval.
MIN_GROUPS = 10
IDS = ("source", "model", "lang", "persona", "condition")
_MUCH = r"strongly|completely|totally|fully|absolutely|wholeheartedly|firmly|definitely"
_LITTLE = r"somewhat|slightly|mildly|partly|partially|a little|tend to"
_NOT = r"do not|don't|cannot|can't|could not|would not|wouldn't"
_I = r"(?:i(?:'d| would| must| do| have to| would have to)?\s+)?(?:(?:respectfully|generally|personally)\s+)?"
_WORDS = re.compile(
    rf"{_I}(?:(?P<much>{_MUCH})\s+|(?P<little>{_LITTLE})\s+)?(?P<dis>dis)?agree\b(?!\s*(?:/|or\b|to\b))"
)
_DENIED = re.compile(rf"i\s+(?:{_NOT})\s+(?:(?:{_MUCH}|{_LITTLE})\s+)?agree\b")
_MIDDLE = re.compile(rf"{_I}(?:am\s+|'m\s+)?(?:neutral\b|neither\s+agree\s+n?or\s+disagree\b)")
# "No doubt", "No. 1" and "Yes and no" are not a yes or a no: a stop, the end or "I" has to follow.
_YES_NO = re.compile(
    r"(?:(yes)|(no)|(?:absolutely|definitely|certainly|of course)(?:(\s+not)|()))\b"
    r"(?=\s*(?:$|[,;:!.\n\-–—(]|i\b))(?!\s*(?:[/,-]\s*(?:and\s+)?(?:yes|no)\b|\.\s*\d))"
)
_NUMBER = re.compile(r"\(?(\d{1,2})\)?(?:\s*/\s*(\d{1,2})|\s+out\s+of\s+(\d{1,2}))?(?![\d%])")
_AFTER_NUMBER = re.compile(r"[.\s]*(?:$|\n|[,;]|because\b|[-–—:=(]\s*\(?)")
_SCALE = re.compile(r"\b1\s*(?:-|–|to|through)\s*(\d{1,2})\b|\b1\b[^.?!]{1,60}?\b(?:to|and)\s+(5|7)\b", re.IGNORECASE)
_FALLING = re.compile(rf"\b1\W{{1,4}}(?:means\s+|is\s+)?(?:(?:{_MUCH})\s+)?(?:agree|yes)", re.IGNORECASE)
# Marks of chat templates and of Markdown, pictures, and what leads over to the answer.
_MARKS = r"(?:<\|[a-z_]+\|>|[\s*_#>\"'`“”‘\U0001f300-\U0001faff\u2600-\u27bf\ufe0f])*"
_HEAD = re.compile(rf"{_MARKS}(?:(?:my\s+)?(?:answer|response|rating|score|opinion|choice)(?:\s+is)?\s*:?\s*)?{_MARKS}")


def scale_of(question: str, cell: str = "") -> tuple[int, int]:
    """How many points a question's scale has, 0 = none is told, and 1, or -1 where 1 is the point that agrees.

    Args:
      question: its text.
      cell: of the column `scale`, which goes first.

    Raises:
      ValueError: the cell is not a whole number from 2 to 11.
    """
    direction = -1 if _FALLING.search(question) else 1
    if cell.strip():
        points = float(cell)
        if points not in range(2, 12):
            raise ValueError(f"scale={cell!r}")
        return int(points), direction
    found = _SCALE.search(question)
    points = int(found[1] or found[2]) if found else 0
    # Fewer than four are not a scale: "in 1 to 2 sentences".
    return (points if 4 <= points <= 11 else 0), direction


def parse(answer: str, points: int = 0, direction: int = 1) -> float | None:
    """How far an answer agrees, in [-1, 1], or None where its beginning does not tell.

    Args:
      answer: as the model gave it.
      points, direction: as `scale_of` gives them.
    """
    text = answer.strip().lower().replace("’", "'")
    text = text[_HEAD.match(text).end() :].replace("*", "")
    if found := _NUMBER.match(text):
        return _rated(text, found, points, direction)
    if found := _YES_NO.match(text):
        return -1.0 if found[2] or found[3] else 1.0
    return _worded(text)


def _worded(text: str) -> float | None:
    if _MIDDLE.match(text):
        return 0.0
    if _DENIED.match(text):
        return -0.5
    if not (found := _WORDS.match(text)):
        return None
    return (-1 if found["dis"] else 1) * (1.0 if found["much"] else 0.25 if found["little"] else 0.5)


def _rated(text: str, found: re.Match, points: int, direction: int) -> float | None:
    points, number, rest = int(found[2] or found[3] or points), int(found[1]), text[found.end() :]
    words = _worded(rest.lstrip(" .:-–—=()\n"))
    if not 2 <= points <= 11:  # no scale: "3) Agree" is the third label of a list, and says what the label says
        return words
    # "1. First of all" begins a list.
    if not 1 <= number <= points or (words is None and not _AFTER_NUMBER.match(rest)):
        return None
    rated = direction * (2 * number - points - 1) / (points - 1)
    return None if words is not None and words * rated < 0 else rated  # "5 - disagree": one of the two is meant


def read(columns: dict[str, np.ndarray], file: str) -> tuple[np.ndarray, np.ndarray]:
    """What each row says for its value, in [-1, 1], NaN where nothing is known; and whether it was parsed.

    Args:
      columns: str [n] of question and answer, and of stance (a number in [-1, 1], which goes before the answer), scale,
        keyed (+ or -) and reverse (true or false; true and - turn an answer's sign), "" where there is none.
      file: for messages.

    Returns:
      float [n], bool [n].

    Raises:
      UserError: a stance, scale, keyed or reverse that cannot be read, with its row.
    """
    stance_n, parsed_n = np.full(len(columns["answer"]), np.nan), np.zeros(len(columns["answer"]), bool)
    for row, answer in enumerate(columns["answer"]):
        cell = {name: columns[name][row].strip() for name in ("stance", "scale", "keyed", "reverse")}
        where = f"{file} row {row + 1}"
        if cell["stance"]:
            stance_n[row] = _stance(cell["stance"], where)
            continue
        try:
            points, direction = scale_of(columns["question"][row], cell["scale"])
        except ValueError:
            raise UserError(f"{where}: scale={cell['scale']!r}; give the points, a whole number from 2 to 11") from None
        found = parse(answer, points, direction)
        turned = _turned(cell["keyed"], cell["reverse"], where)
        if found is not None:
            stance_n[row], parsed_n[row] = -found if turned else found, True
    return stance_n, parsed_n


def _stance(cell: str, where: str) -> float:
    try:
        found = float(cell)
    except ValueError:
        found = np.nan
    if not -1 <= found <= 1:
        raise UserError(f"{where}: stance={cell!r}; give a number from -1 to 1, or nothing")
    return found


def _turned(keyed: str, reverse: str, where: str) -> bool:
    words = {"keyed": {"": False, "+": False, "+1": False, "1": False, "-": True, "-1": True}}
    words["reverse"] = {"": False, "false": False, "0": False, "no": False, "true": True, "1": True, "yes": True}
    told = {"keyed": keyed.lower().removesuffix(".0"), "reverse": reverse.lower().removesuffix(".0")}
    for name, word in told.items():
        if word not in words[name]:
            use = "+ or -" if name == "keyed" else "true or false"
            raise UserError(f"{where}: {name}={word!r}; use {use}, or nothing")
    return words["keyed"][told["keyed"]] != words["reverse"][told["reverse"]]


def cells(
    columns: dict[str, np.ndarray],
    values: dict[str, tuple[np.ndarray, np.ndarray]],
    groups_n: np.ndarray,
    least: int,
    seed: int,
) -> list[dict]:
    """One score for each source × persona × condition × value.

    Args:
      columns: str [n] of IDS.
      values: of each value that is scored: bool [n], the rows that speak of it, and float [n], what they say; NaN where
        it is not known.
      groups_n: [n] question groups.
      least: answers that a score needs.
      seed: of the intervals.

    Returns:
      IDS, value, score (None where fewer than `least` or than MIN_PARSED of the cell's answers are known), rows, known,
      groups, ci (None with fewer than MIN_GROUPS groups).
    """
    rows_of: dict[tuple, list[int]] = collections.defaultdict(list)
    for row, key in enumerate(zip(*(columns[name] for name in IDS), strict=True)):
        rows_of[key].append(row)
    out = []
    for key, rows in sorted(rows_of.items()):
        for value, (about_n, says_n) in values.items():
            of = np.array(rows)[about_n[rows]]
            known = of[~np.isnan(says_n[of])]
            enough = len(known) >= max(1, least, MIN_PARSED * len(of))
            groups = resamples.groups_of(groups_n[known])
            one = dict(zip(IDS, key, strict=True)) | {"value": value, "rows": len(of), "known": len(known)}
            one |= {"groups": groups, "score": float(says_n[known].mean()) if enough else None, "ci": None}
            if enough and groups >= MIN_GROUPS:
                one["ci"] = resamples.interval(says_n[known], groups_n[known], seed)
            out.append(one)
    return out
