"""My answers made comparable with a reference's: which of them, under what names, to which of its questions."""

from collections.abc import Sequence

import numpy as np

from univar_jax.cli import UserError
from univar_jax.embeddings import Encoder, about_values


def one_kind(reference: Encoder, mine: Encoder, notes: list[str]) -> tuple[Encoder, Encoder, str]:
    """Both sides' rows about values; where none of mine is, both sides' control rows, which tell style from values.

    Returns:
      The reference's rows, mine, and "values" or "control".

    Raises:
      UserError: the reference has no row of that kind.
    """
    about = [about_values(encoder.columns) for encoder in (reference, mine)]
    kind, keep = ("values", about) if about[1].any() else ("control", [~about_n for about_n in about])
    if not keep[0].any():
        raise UserError(f"--embeddings: no {kind} rows, of which mine are; embed a reference with answers of that kind")
    if kind == "control":
        notes.append("All my rows are control: placed among the reference's control rows, by style rather than values.")
    elif not about[1].all():
        notes.append(f"{(~about[1]).sum():,} of my rows are control: they are not placed.")
    return reference.take(np.flatnonzero(keep[0])), mine.take(np.flatnonzero(keep[1])), kind


def own_names(reference: Encoder, mine: Encoder, notes: list[str]) -> Encoder:
    """Mine under names of sources and models that the reference does not have."""
    there = {name: set(reference.columns[name]) for name in ("source", "model")}
    taken = sorted(set(mine.columns["source"]) & there["source"])
    if taken:
        notes.append(f"The reference has {', '.join(taken)} too: mine is called the same with (mine) behind it.")
    columns = dict(mine.columns)
    for name, names in there.items():
        columns[name] = np.array([f"{v} (mine)" if v in names else v for v in columns[name]], object)
    return Encoder(mine.name, mine.meta, mine.z_nd, columns)


def same_questions(reference: Encoder, mine: Encoder, notes: list[str]) -> Encoder:
    """Mine with the reference's ids where a question reads letter by letter as one of its own.

    Raises:
      UserError: all ids that both have are of questions that read differently in the same language.
    """
    keys, asked = ("dataset", "question_id", "group_id"), reference.columns["question"]
    by_text, texts = {}, {}
    for row, (text, number, lang) in enumerate(
        zip(asked, reference.columns["question_id"], reference.columns["lang"], strict=True)
    ):
        by_text.setdefault(text.strip(), row)
        if number:
            texts.setdefault((number, lang), set()).add(text.strip())
    same, other, columns = 0, [], {name: column.copy() for name, column in mine.columns.items()}
    for row, text in enumerate(columns["question"]):
        key = columns["question_id"][row], columns["lang"][row]
        if (there := by_text.get(text.strip())) is not None:
            same += 1
            for name in keys:
                columns[name][row] = reference.columns[name][there]
        elif key in texts:
            other.append(key[0])
    if other:
        one = f"question ids of mine that are in the reference with other words: {len(set(other))}, {other[0]} first"
        if not same:
            raise UserError(f"--qa: {one}, and no question reads the same; give the questions ids of their own")
        notes.append(f"{one[0].upper()}{one[1:]}; they are taken for the same questions.")
    return Encoder(mine.name, mine.meta, mine.z_nd, columns)


def wanted(mine: Encoder, names: list[str], lang: Sequence[str], notes: list[str]) -> list[str]:
    """My sources that are placed."""
    home = dict(zip(mine.columns["source"], mine.columns["lang"], strict=True))
    if unknown := sorted(set(lang) - set(home.values())):
        there = ", ".join(sorted(set(home.values())))
        raise UserError(f"--lang={','.join(unknown)}: none of my sources is in that language; there are {there}")
    found = [name for name in names if not lang or home[name] in lang]
    if len(found) < len(names):
        notes.append(f"{len(names) - len(found)} of my sources are in other languages than --lang: on the map only.")
    return found


def copies(mine: Encoder, reference: Encoder) -> dict[tuple[str, str], int]:
    """How many answers of a source of mine a source of the reference has too, question and answer letter by letter.

    Returns:
      {(mine, the reference's): rows of mine}, of those that have any.
    """
    having: dict[str, set[str]] = {}
    for source, text in zip(reference.columns["source"], reference.columns["text"], strict=True):
        having.setdefault(text, set()).add(source)
    found: dict[tuple[str, str], int] = {}
    for source, text in zip(mine.columns["source"], mine.columns["text"], strict=True):
        for other in having.get(text, ()):
            found[source, other] = found.get((source, other), 0) + 1
    return found
