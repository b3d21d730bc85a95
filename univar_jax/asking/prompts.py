"""A question becomes requests: what is sent, with which seed, and under which key it is known again."""

import dataclasses
import functools
import hashlib

from univar_jax.asking import languages
from univar_jax.config import digest
from univar_jax.qa import Row

_PARAPHRASE = (
    "Rewrite the following question in {lang}. Keep its meaning, its scenario and whom it addresses; change the "
    "wording as much as that allows (version {k}). Reply with the rewritten question only.\n\n{text}"
)
_TRANSLATE = (
    "Translate the following text from {source} into {target}. Keep its meaning and tone, add and leave out nothing, "
    "and do not answer it. Reply with the translation only.\n\n{text}"
)


@dataclasses.dataclass(frozen=True)
class Request:
    """One request to a server, or to a translation command.

    Attributes:
      kind: answer, paraphrase or translation.
      about: what it is asked for: question_id, lang, persona, paraphrase, sample; of a translation from and to.
      body: of /chat/completions; of a command the command and the text.
    """

    kind: str
    about: dict
    body: dict

    @functools.cached_property
    def key(self) -> str:
        """sha256 of all that makes the request what it is; 64 hex digits."""
        return digest([self.kind, self.about, self.body])


@dataclasses.dataclass(frozen=True)
class Wording:
    """A question as it is asked: in its own words (paraphrase 0), or in the k-th other ones."""

    row: Row
    paraphrase: int
    text: str


@dataclasses.dataclass(frozen=True)
class Asking:
    """What makes the answers what they are, beside questions and personas.

    Attributes:
      model: as the server calls it.
      system: prompt that stands before each question; "" = none. A persona's prompt follows it.
      samples: answers to each question.
      seed: of the seeds of all requests.
      temperature, top_p, max_new_tokens: of answers.
      extra_body: further keys of an answer's body, over the others; None takes a key out.
      paraphrase: other wordings of each question.
      translate_to: language that questions and answers are translated into; "" = they are not.
      helper_model: that paraphrases and translates; "" = the model itself, with its extra_body.
      translate_command: that translates instead; "" = the helper does.
    """

    model: str
    system: str = ""
    samples: int = 1
    seed: int = 0
    temperature: float = 0.7
    top_p: float = 1.0
    max_new_tokens: int = 512
    extra_body: dict = dataclasses.field(default_factory=dict)
    paraphrase: int = 0
    translate_to: str = ""
    helper_model: str = ""
    translate_command: str = ""

    def answer(self, wording: Wording, persona: str, prompt: str, sample: int) -> Request:
        """Asks for one answer."""
        about = _about(wording.row) | {"persona": persona, "paraphrase": wording.paraphrase, "sample": sample}
        system = "\n\n".join(filter(None, (self.system, prompt)))
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": wording.text})
        body = {"model": self.model, "messages": messages, "max_tokens": self.max_new_tokens}
        body |= {"temperature": self.temperature, "top_p": self.top_p, "seed": _seed(self.seed, *about.values())}
        return Request("answer", about, _over(body, self.extra_body))

    def paraphrasing(self, row: Row, k: int) -> Request:
        """Asks for the k-th other wording of a question; warm, so that they differ."""
        about = _about(row) | {"paraphrase": k}
        text = _PARAPHRASE.format(lang=languages.name(row["lang"]), k=k, text=row["question"])
        return Request("paraphrase", about, self._help(text, 1.0, _seed(self.seed, *about.values())))

    def translation(self, text: str, lang: str) -> Request:
        """Asks for a text in `translate_to`; equal texts of a language are one request."""
        about = {"from": lang, "to": self.translate_to}
        if self.translate_command:
            return Request("translation", about, {"command": self.translate_command, "text": text})
        source, target = languages.name(lang), languages.name(self.translate_to)
        prompt = _TRANSLATE.format(source=source, target=target, text=text)
        return Request("translation", about, self._help(prompt, 0.0, _seed(self.seed, lang, text)))

    def _help(self, prompt: str, temperature: float, seed: int) -> dict:
        body = {"model": self.helper_model or self.model, "messages": [{"role": "user", "content": prompt}]}
        body |= {"temperature": temperature, "seed": seed}
        return body if self.helper_model else _over(body, self.extra_body)


def _about(row: Row) -> dict:
    return {"question_id": row["question_id"], "lang": row["lang"]}


def _over(body: dict, extra: dict) -> dict:
    return {key: value for key, value in (body | extra).items() if value is not None}


def _seed(*parts: object) -> int:
    """A request's seed: a function of the run's seed and of which request it is; 31 bits, as servers take them."""
    return int.from_bytes(hashlib.sha256("\n".join(map(str, parts)).encode()).digest()[:4], "big") >> 1
