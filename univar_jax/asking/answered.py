"""A journal of answers → the QA file, and the counts of what is in it."""

import collections
import csv
import io

from univar_jax.asking import languages, replies
from univar_jax.asking.journal import Journal
from univar_jax.asking.work import Answer, Work, reply, spoken
from univar_jax.qa import Row

_FIRST = (
    *("model", "lang", "question", "answer", "dataset", "question_id", "group_id", "value", "value_relevant"),
    *("persona", "paraphrase", "sample", "refusal", "finish_reason", "truncated", "answer_lang", "wrong_lang"),
)
_ORIGINAL = ("question_original", "answer_original")


def rows(work: Work, journal: Journal, dataset: str) -> list[Row]:
    """The rows of the QA file: of every answer that there is, empty ones too, in the order of work.answers.

    Args:
      work: what was asked.
      journal: what was answered.
      dataset: of questions whose file has no column of that name.
    """
    return [
        _row(work, journal, answer, dataset)
        for answer in work.answers(journal)
        if answer.request.key in journal.records
    ]


def _row(work: Work, journal: Journal, answer: Answer, dataset: str) -> Row:
    asked, of = answer.wording, reply(answer.request, journal)
    lang, text = asked.row["lang"], spoken(answer.request, journal)
    reason = of["finish_reason"]
    answer_lang, wrong_lang = languages.check(lang, text)
    row = asked.row | {
        "model": work.asking.model,
        "question": asked.text,
        "answer": text,
        "dataset": asked.row.get("dataset") or dataset,
        "persona": answer.persona,
        "paraphrase": str(asked.paraphrase),
        "sample": str(answer.sample),
        "refusal": _word(replies.is_refusal(text, reason, of["refusal"])),
        "finish_reason": reason,
        "truncated": _word(reason in replies.CUT),
        "answer_lang": answer_lang,
        "wrong_lang": wrong_lang,
    }
    if asked.paraphrase:  # group_id stays the original's, so that both are held out or neither
        row["question_id"] += f"~{asked.paraphrase}"
    if work.asking.translate_to:
        row |= dict(zip(_ORIGINAL, (asked.text, text), strict=True))
        if work.foreign(lang):
            for name in ("question", "answer"):
                request = work.asking.translation(row[name], lang)
                row[name] = spoken(request, journal) if row[name] else ""
    return row


def as_csv(table: list[Row], translated: bool) -> bytes:
    """A QA file's bytes; equal rows give equal bytes."""
    first = _FIRST + _ORIGINAL * translated
    names = [*first, *(name for name in table[0] if name not in first)]
    out = io.StringIO()
    # The default end of a line holds \r too: only so is an answer quoted that has one.
    writer = csv.DictWriter(out, names, restval="")
    writer.writeheader()
    writer.writerows(table)
    return out.getvalue().encode()


def counts(work: Work, journal: Journal, table: list[Row]) -> dict:
    """What was asked and what came back, over all runs that filled the journal.

    Returns:
      asked, answered, lost: requests that the QA file rests on, those with an answer in the journal, and answers in the
        journal of which the QA file has no row, which is 0.
      retried: tries beyond the first of requests that were answered in the end.
      empty, refused, truncated, wrong_language, unsure_language: rows of the QA file.
      paraphrases, paraphrases_left_out, paraphrases_unchanged, translations: of the steps beside it.
      prompt_tokens, completion_tokens: as the server counts them, of `counted` requests.
      reported: by which names the server answered, with how many answers each.
    """
    paraphrases, answers, translations = work.paraphrases(), work.answers(journal), work.translations(journal)
    asked = [*paraphrases, *(answer.request for answer in answers), *translations]
    there = [reply(request, journal) for request in asked if request.key in journal.records]
    own = [reply(answer.request, journal) for answer in answers if answer.request.key in journal.records]
    wordings = work.wordings(journal)
    counted = [of for of in there if of.get("completion_tokens") is not None]
    return {
        "asked": len(asked),
        "answered": len(there),
        "retried": sum(of["tries"] - 1 for of in there),
        "lost": len(own) - len(table),
        "empty": sum(not row.get("answer_original", row["answer"]) for row in table),
        "refused": sum(row["refusal"] == "true" for row in table),
        "truncated": sum(row["truncated"] == "true" for row in table),
        "wrong_language": sum(row["wrong_lang"] == "true" for row in table),
        "unsure_language": sum(row["wrong_lang"] == "" for row in table),
        "paraphrases": len(paraphrases),
        "paraphrases_left_out": len(paraphrases) - sum(w.paraphrase > 0 for w in wordings),
        "paraphrases_unchanged": sum(w.paraphrase > 0 and w.text == w.row["question"] for w in wordings),
        "translations": len(translations),
        "counted": len(counted),
        "prompt_tokens": sum(of.get("prompt_tokens") or 0 for of in counted),
        "completion_tokens": sum(of["completion_tokens"] for of in counted),
        "reported": dict(sorted(collections.Counter(of["model"] for of in own).items())),
    }


def _word(true: bool) -> str:
    return str(bool(true)).lower()
