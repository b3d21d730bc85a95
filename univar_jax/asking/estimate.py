"""What is still to be asked, before it is: requests, tokens, cost and time, and what each figure rests on."""

import dataclasses

from univar_jax.asking import ask, languages
from univar_jax.asking.client import Limits
from univar_jax.asking.journal import Journal
from univar_jax.asking.prompts import Request
from univar_jax.asking.work import Work

# Where nothing is measured yet: UTF-8 bytes a token (English has 4; Chinese 3 to 4, of 3 bytes a character), tokens
# that a chat template adds, and tokens a second that one request gets.
_BYTES, _TEMPLATE, _PACE = 4, 8, 50
# Answers from which on their mean is taken in the place of assumptions.
_ENOUGH = 10


@dataclasses.dataclass(frozen=True)
class Bill:
    """What is left to ask.

    Attributes:
      asked: kind → requests, done ones too; of paraphrased and translated ones as many as there may be.
      left: kind → requests that are not answered yet.
      tokens_in, tokens_out: of what is left, by the model and by a helper of another name.
      measured: whether tokens_out rests on answers; else it is the most that there may be.
      seconds: that it takes, and what that rests on.
    """

    asked: dict[str, int]
    left: dict[str, int]
    tokens_in: int
    tokens_out: int
    measured: bool
    seconds: float
    basis: str


def bill(work: Work, journal: Journal, limits: Limits) -> Bill:
    """Reckons what is left."""
    asking = work.asking
    paraphrases, answers = work.paraphrases(), [answer.request for answer in work.answers(journal)]
    each = len(work.personas) * asking.samples
    # Wordings that are not written yet are reckoned as long as the questions they are of.
    coming = [request for request in paraphrases if request.key not in journal.records]
    asked = {"paraphrase": len(paraphrases), "answer": len(answers) + each * len(coming)}
    done = {"paraphrase": len(paraphrases) - len(coming), "answer": _done(answers, journal)}
    mean, seconds = _measured(journal)
    longest = asking.extra_body.get("max_completion_tokens") or asking.max_new_tokens
    out_of_each = min(mean or longest, longest)
    mean_in = sum(map(_tokens_in, answers)) / max(1, len(answers))
    left = {kind: asked[kind] - done[kind] for kind in asked}
    tokens_in = sum(map(_tokens_in, coming)) + left["answer"] * mean_in
    tokens_out = sum(map(_tokens_in, coming)) + left["answer"] * out_of_each
    if asking.translate_to:
        foreign = sum(work.foreign(row["lang"]) for row in work.bank.rows) * (1 + asking.paraphrase)
        asked["translation"] = foreign * (1 + each)
        known = work.translations(journal)
        left["translation"] = max(asked["translation"] - _done(known, journal), 0)
        if not asking.translate_command:
            share = left["translation"] / max(1, asked["translation"])
            length = foreign * (mean_in + each * out_of_each) * share
            tokens_in, tokens_out = tokens_in + length, tokens_out + length
    count = sum(left.values())
    if seconds:
        basis = f"measured: {seconds:.1f} s a request, {limits.concurrency} at a time"
        took = count * seconds / limits.concurrency
    else:
        basis = f"assumed: {_PACE} tokens a second and request, {limits.concurrency} at a time"
        took = tokens_out / _PACE / limits.concurrency
    if limits.requests_per_minute and (least := count / limits.requests_per_minute * 60) > took:
        took, basis = least, f"by {limits.requests_per_minute:g} requests a minute"
    return Bill(asked, left, round(tokens_in), round(tokens_out), mean is not None, took, basis)


def say(bill: Bill, work: Work, prices: tuple[float | None, float | None], helper_shown: str) -> None:
    """Prints the first screen.

    Args:
      bill: what is left.
      work: what is asked.
      prices: of a million tokens in and out; None = not known.
      helper_shown: a helper of another name or address; "" = the model itself.
    """
    rows = work.bank.rows
    langs = {row["lang"] for row in rows}
    parts = [f"{len(rows):,} questions in {len(langs)} language{'s' * (len(langs) > 1)} ({', '.join(sorted(langs))})"]
    parts += [f"{work.asking.paraphrase} paraphrases of each"] * bool(work.asking.paraphrase)
    parts += [f"{len(work.personas)} personas"] * (len(work.personas) > 1)
    parts += [f"{work.asking.samples} samples of each answer"] * (work.asking.samples > 1)
    _line("asks", ", ".join(parts))
    asked, left = sum(bill.asked.values()), sum(bill.left.values())
    kinds = ", ".join(f"{count:,} {kind}s" for kind, count in bill.asked.items() if count)
    _line("requests", f"{asked:,} ({kinds}); already answered {asked - left:,}, left {left:,}")
    _line("tokens", f"about {bill.tokens_in:,} in, {'about' if bill.measured else 'at most'} {bill.tokens_out:,} out")
    if None in prices:
        cost = "unknown; --price_in and --price_out give it, per million tokens"
    else:
        cost = f"{(bill.tokens_in * prices[0] + bill.tokens_out * prices[1]) / 1e6:,.2f}"
        cost += f", as if {helper_shown} had the same prices" if helper_shown else ""
    _line("cost", cost)
    _line("time", f"{ask.clock(bill.seconds)} ({bill.basis})")
    unsure = sorted(lang for lang in langs if not languages.known(lang))
    if unsure:
        _line("note", f"the language check does not know {', '.join(unsure)}: wrong_lang stays empty there")


def _line(word: str, text: str) -> None:
    print(f"{word:9} {text}", flush=True)


def _done(requests: list[Request], journal: Journal) -> int:
    return sum(request.key in journal.records for request in requests)


def _measured(journal: Journal) -> tuple[float | None, float]:
    """Mean tokens and seconds of an answer; None and 0 where there are too few."""
    replies = [record["reply"] for record in journal.records.values() if record["kind"] == "answer"]
    if len(replies) < _ENOUGH:
        return None, 0.0
    tokens = [
        _tokens(reply["text"]) if reply["completion_tokens"] is None else reply["completion_tokens"]
        for reply in replies
    ]
    return sum(tokens) / len(tokens), sum(reply["seconds"] for reply in replies) / len(replies)


def _tokens_in(request: Request) -> float:
    return sum(_tokens(message["content"]) + _TEMPLATE for message in request.body["messages"])


def _tokens(text: str) -> float:
    return len(text.encode("utf-8", "replace")) / _BYTES
