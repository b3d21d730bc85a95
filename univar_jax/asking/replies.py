"""What a server answered: its JSON, the text without the model's thinking, and whether it refuses."""

import dataclasses
import json
import re

CUT = ("length", "max_tokens")  # the finish_reason of a text that was not at its end
# The opening in which a refusal is looked for: later in a text the same words are about somebody else.
_OPENING = 240
# "I can't help with that" and its like: the first person, not being able or willing, and a verb of answering.
_PATTERNS = (
    # eng
    r"\b(i|we)(['’]m| am|['’]re| are) (\w+ )?(not able|unable) to (\w+ )?(answer|assist|help|provide|discuss|comply"
    r"|respond|comment|engage|fulfil|continue|generate|create|share|give|offer|express)",
    r"\b(i|we) (can ?not|can['’]t|won['’]t|will not|must decline to|have to decline to"
    r"|(do not|don['’]t) feel comfortable|am not going to|['’]m not going to) (\w+ )?(answer|answering|assist|help"
    r"|provide|providing|discuss|discussing"
    r"|comply|respond|comment|engage|fulfil|continue|generate|create|share|give|offer|express|take sides)",
    r"\bi(['’]m| am) sorry,? but (as an ai\b[^.]{0,40})?i (can ?not|can['’]t|won['’]t|am unable)",
    r"\bi (must |have to )?(decline|refuse) (to|this|that|your)\b",
    # spa, por
    r"\b(lo siento|lamento)[^.]{0,40}\bno puedo\b",
    r"\bno puedo (ayudar|responder|contestar|proporcionar|cumplir|hablar|opinar)",
    r"\b(sinto muito|desculpe|lamento)[^.]{0,40}\bnão posso\b",
    r"\bnão posso (ajudar|responder|fornecer|cumprir|opinar)",
    # fra, ita
    r"\bje (ne peux pas|ne suis pas en mesure de|refuse de) (vous |t['’])?(aider|répondre|fournir|donner|discuter)",
    r"\bnon posso (aiutar|risponder|fornir|soddisfar)",
    # deu
    r"\bich kann (\w+ ){0,4}nicht (\w+ ){0,3}(helfen|beantworten|antworten|geben|bereitstellen|erfüllen)",
    r"\b(tut mir leid|entschuldigung)[^.]{0,40}\bkann ich\b[^.]{0,60}\bnicht\b",
    # rus
    r"\bя не могу (вам |тебе )?(помочь|ответить|предоставить|обсуждать|выполнить)",
    # zho, jpn, kor
    r"(我|我们)(无法|無法|不能|没办法|不便)(为您|为你|就此|对此)?(回答|提供|协助|協助|帮助|讨论|討論|满足|评论)",
    r"(抱歉|对不起|對不起)[，,]?\s*(但是?)?(我|作为[^，。]{0,20}[，,]?我)?(无法|無法|不能)",
    r"(お答え|回答|お手伝い|提供)(は|を|する(こと)?は?)?(でき(ません|かねます)|いたしかねます)",
    r"(답변|도움|제공)[^.]{0,12}(수 없습니다|드릴 수 없|어렵습니다)",
    # ara, hin
    r"لا (أستطيع|يمكنني) (مساعدت|الإجابة|المساعدة|تقديم|أن أجيب)",
    r"मैं[^।]{0,40}(उत्तर|मदद|सहायता|जवाब)[^।]{0,20}नहीं (कर|दे) सकत",
)
_REFUSES = re.compile("|".join(f"(?:{pattern})" for pattern in _PATTERNS), re.IGNORECASE)
_THOUGHT = re.compile(r"^\s*<think>.*?(</think>|\Z)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a server answered.

    Attributes:
      text: as it came.
      finish_reason: stop, length, content_filter or another word of the server's; "" where it gave none.
      refusal: the message's field of that name; "" where there is none.
      model: as the server calls it.
      prompt_tokens, completion_tokens: as the server counts them; None where it does not.
      seconds: of the last try.
      tries: 1 where nothing was retried.
    """

    text: str
    finish_reason: str = ""
    refusal: str = ""
    model: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float = 0.0
    tries: int = 1


def parse(text: str) -> Reply:
    """The body of a chat completion.

    Raises:
      ValueError: it is no whole JSON of that form.
    """
    try:
        body = json.loads(text)
        choice = body["choices"][0]
        message, usage = choice["message"], body.get("usage") or {}
        content = message.get("content") or ""
        if isinstance(content, list):  # parts
            content = "".join(part.get("text") or "" for part in content)
        return Reply(
            text=str(content),
            finish_reason=str(choice.get("finish_reason") or ""),
            refusal=str(message.get("refusal") or ""),
            model=str(body.get("model") or ""),
            prompt_tokens=usage.get("prompt_tokens"),
            completion_tokens=usage.get("completion_tokens"),
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(f"no whole JSON of a chat completion: {start(text)}") from error


def start(text: str) -> str:
    """The first words of a text that is not what it should be."""
    return repr(" ".join(text[:200].split())[:60])


def spoken(text: str) -> str:
    """A reply as an answer: without a block of thinking at its start, NUL bytes and halves of characters, stripped.

    Where the thinking never ends, as in a reply that was cut, nothing is left.
    """
    if "</think>" in text and "<think>" not in text:  # some chat templates put the opening word into the prompt
        text = text.partition("</think>")[2]
    text = _THOUGHT.sub("", text).replace("\0", "")
    return text.encode("utf-8", "replace").decode().strip()


def is_refusal(text: str, finish_reason: str, refusal: str) -> bool:
    """Whether a reply refuses to answer.

    It does where the server says so (finish_reason content_filter, a message in the reply's own field `refusal`), or
    where its first 240 characters say in the first person that it cannot or will not answer, in English, Spanish,
    Portuguese, French, Italian, German, Russian, Chinese, Japanese, Korean, Arabic or Hindi; an English refusal of a
    Chinese question is one too.

    It misses: refusals in other languages or other words, after a long preface, or by changing the subject. It does
    not count "As an AI I have no opinions" by itself, which mostly opens an answer. It takes for refusals: answers that
    open with such words and then answer all the same. The mark is for counting; nobody drops a row by it.

    Args:
      text: as `spoken` gives it.
      finish_reason: as the server gave it.
      refusal: the server's field of that name; "" where there is none.
    """
    return finish_reason == "content_filter" or bool(refusal.strip()) or bool(_REFUSES.search(text[:_OPENING]))
