"""What is to be asked, given what is answered already: paraphrases, then answers, then translations."""

import dataclasses

from univar_jax.asking import languages, replies
from univar_jax.asking.bank import Bank
from univar_jax.asking.journal import Journal
from univar_jax.asking.prompts import Asking, Request, Wording


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer that is to be there, in the order of the QA file: by question, wording, persona, sample."""

    wording: Wording
    persona: str
    sample: int
    request: Request


@dataclasses.dataclass(frozen=True)
class Work:
    """All that one run asks.

    Attributes:
      asking: how.
      bank: the questions.
      personas: persona → system prompt.
    """

    asking: Asking
    bank: Bank
    personas: dict[str, str]

    def paraphrases(self) -> list[Request]:
        """A request for each further wording of each question."""
        ks = range(1, self.asking.paraphrase + 1)
        return [self.asking.paraphrasing(row, k) for row in self.bank.rows for k in ks]

    def wordings(self, journal: Journal) -> list[Wording]:
        """The wordings that there are so far; without those that are empty, cut, refused or in another language."""
        found, requests = [], iter(self.paraphrases())
        for row in self.bank.rows:
            found.append(Wording(row, 0, row["question"]))
            for k in range(1, self.asking.paraphrase + 1):
                if text := _usable(next(requests), journal, row["lang"]):
                    found.append(Wording(row, k, text))
        return found

    def answers(self, journal: Journal) -> list[Answer]:
        """Every answer to the wordings that there are so far."""
        return [
            Answer(wording, persona, sample, self.asking.answer(wording, persona, prompt, sample))
            for wording in self.wordings(journal)
            for persona, prompt in self.personas.items()
            for sample in range(self.asking.samples)
        ]

    def translations(self, journal: Journal) -> list[Request]:
        """A request for each different text in another language: questions, and the answers that there are so far."""
        requests = {}
        for answer in self.answers(journal):
            lang = answer.wording.row["lang"]
            for text in (answer.wording.text, spoken(answer.request, journal)):
                if text and self.foreign(lang):
                    request = self.asking.translation(text, lang)
                    requests[request.key] = request
        return list(requests.values())

    def foreign(self, lang: str) -> bool:
        """Whether texts of this language are translated."""
        return bool(self.asking.translate_to) and not languages.same(lang, self.asking.translate_to)

    def settings(self, **others: object) -> dict:
        """What makes the answers what they are, as plain JSON; `others` are the stage's."""
        return {"law": LAW_VERSION, **dataclasses.asdict(self.asking), **others}


# Raised when requests change, so that a journal of others is told apart and nothing is asked twice in silence.
LAW_VERSION = 1


def reply(request: Request, journal: Journal) -> dict:
    """The fields of replies.Reply that a request was answered with; {} where it is not answered."""
    return journal.records.get(request.key, {}).get("reply", {})


def spoken(request: Request, journal: Journal) -> str:
    """The answer to a request as the QA file has it; "" where there is none."""
    return replies.spoken(reply(request, journal).get("text", ""))


def _usable(request: Request, journal: Journal, lang: str) -> str:
    """A paraphrase; "" where there is none yet, or it is empty, cut, a refusal or surely in another language."""
    text, of = spoken(request, journal), reply(request, journal)
    reason = of.get("finish_reason", "")
    refused = replies.is_refusal(text, reason, of.get("refusal", ""))
    return "" if refused or reason in replies.CUT or languages.check(lang, text)[1] == "true" else text
