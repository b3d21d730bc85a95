"""The client of an OpenAI-compatible server: concurrency, rate limit, retries, and what a server's refusal means.

The openai package sends; its own retries are off: they would pass by the rate limit, give up on a Retry-After above two
minutes, and take neither a page of HTML nor a body that is no JSON for a failure.
"""

import asyncio
import dataclasses
import difflib
import email.utils
import hashlib
import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlsplit, urlunsplit

import openai

from univar_jax.asking import replies
from univar_jax.asking.replies import Reply
from univar_jax.cli import UserError, one_line

_AGAIN = (408, 409, 425, 429)  # and all from 500 on
_LONGEST_BACKOFF = 60.0  # seconds; a Retry-After may be longer, up to
_LONGEST_WAIT = 3600.0


@dataclasses.dataclass(frozen=True)
class Limits:
    """How a server is asked; changes no answer.

    Attributes:
      concurrency: requests under way at a time.
      requests_per_minute: that are sent, retries too, evenly spaced; 0 = no limit.
      retries: of a request after its first try.
      timeout: seconds a request may take.
      backoff: seconds before the first retry, doubled for each next one up to a minute.
    """

    concurrency: int = 16
    requests_per_minute: float = 0
    retries: int = 6
    timeout: float = 600
    backoff: float = 1


class Failed(Exception):
    """A request that got no answer; its text is why.

    Attributes:
      tried: whether all tries were spent on it; else the server does not take this request.
    """

    def __init__(self, why: str, tried: bool = False) -> None:
        super().__init__(why)
        self.tried = tried


class _Again(Exception):
    """A try that failed in a way that the next one may not; after `wait` seconds, where the server said how many."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


class Stopped(Exception):
    """The user wants no further tries."""


class Server:
    """An OpenAI-compatible server.

    Args:
      base_url: up to and without /chat/completions.
      key: sent as bearer; "" = a placeholder, which local servers take. It is in no text that this class gives out.
      limits: of this server.
      stop: once set, nothing more is sent.
      flag: that base_url came by, for errors.

    Raises:
      UserError: base_url is no http(s) address.
    """

    def __init__(self, base_url: str, key: str, limits: Limits, stop: asyncio.Event, flag: str = "base_url") -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"--{flag}={shown(base_url)} is no address; give one as http://localhost:8000/v1")
        self._shown, self._limits = f"--{flag}={shown(base_url)}", limits
        self._secrets = [word for word in (key, parts.password, parts.query) if word]
        self._client = openai.AsyncOpenAI(
            base_url=base_url, api_key=key or "none", max_retries=0, timeout=limits.timeout
        )
        self._listed: list[str] = []
        self._next = 0.0  # of the loop's clock: when the next request may go
        self.stop, self.sent = stop, 0

    async def close(self) -> None:
        """Lets go of the connections."""
        await self._client.close()

    async def check(self, model: str, anyway: bool = False) -> None:
        """Finds that the server is there, takes the key and has the model; waits for one that is still starting.

        Args:
          model: that will be asked.
          anyway: take a model that the server does not list. A server without a list is taken as it is.

        Raises:
          UserError: it is not so.
        """
        try:
            data, _ = await self._tries(self._list, model)
        except Failed as failed:
            raise UserError(f"{self._shown}: {failed}; start the server, or mend the address") from failed
        self._listed = data
        if data and model not in data and f"{model}:latest" not in data and not anyway:  # how Ollama lists it
            raise UserError(f"{self._shown} does not list the model {model!r}{self._near(model)}, or --nocheck_model")

    async def ask(self, body: dict, key: str) -> Reply:
        """Sends one request until it is answered.

        Args:
          body: of /chat/completions.
          key: of the request, from which the jitter of its waits comes.

        Raises:
          Failed: it is not answered after all tries, or the server does not take it.
          Stopped: `stop` was set before the next try.
          UserError: nothing that this server is asked will be answered: the key, the model or the address is wrong.
        """
        reply, tries = await self._tries(lambda: self._complete(body), key)
        return dataclasses.replace(reply, tries=tries)

    async def _tries(self, send: Callable[[], Awaitable], key: str) -> tuple:
        why = ""
        for tries in range(1, self._limits.retries + 2):
            await self._turn()
            self.sent += 1
            try:
                return await send(), tries
            except _Again as again:
                why = str(again)
                if tries > self._limits.retries:
                    break
                if again.wait is not None:  # the server means all of us
                    self._next = max(self._next, _now() + again.wait)
                await self._sleep(backoff(self._limits.backoff, tries, key))
        raise Failed(why, tried=True)

    async def _turn(self) -> None:
        """Waits until the rate and the server's own Retry-After let a request go."""
        while (wait := self._next - _now()) > 0:
            await self._sleep(wait)  # meanwhile a Retry-After may have put it off further
        if self.stop.is_set():
            raise Stopped
        if rate := self._limits.requests_per_minute:
            self._next = _now() + 60 / rate

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self.stop.wait(), seconds)
        except TimeoutError:
            return
        raise Stopped

    async def _complete(self, body: dict) -> Reply:
        began = time.monotonic()
        rest = {key: value for key, value in body.items() if key not in ("model", "messages")}
        create = self._client.chat.completions.with_raw_response.create
        try:
            data = await self._send(create(model=body["model"], messages=body["messages"], extra_body=rest))
        except openai.APIStatusError as error:
            if error.status_code == 404:
                raise UserError(
                    f"{self._shown} has no model {body['model']!r} or no /chat/completions ({self._said(error)})"
                    f"{self._near(body['model'])}; an address mostly ends in /v1"
                ) from error
            if "content_filter" in self._said(error) or error.code == "content_filter":
                return Reply("", "content_filter", self._said(error), body["model"])
            raise Failed(f"{error.status_code}: {self._said(error)}") from error
        try:
            reply = replies.parse(data)
        except ValueError as error:  # servers under load, and what stands before them, send such
            raise _Again(str(error)) from error
        return dataclasses.replace(reply, seconds=round(time.monotonic() - began, 3))

    async def _list(self) -> list[str]:
        try:
            text = await self._send(self._client.models.with_raw_response.list())
        except openai.APIStatusError:
            return []  # many gateways have no list
        try:
            return [str(model["id"]) for model in json.loads(text)["data"]]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self._shown}/models answers {replies.start(text)}, no list of models; an address mostly ends in /v1"
            ) from error

    async def _send(self, call: Awaitable) -> str:
        """The body of a 200; what is worth another try as _Again, what stops everything as UserError."""
        try:
            async with asyncio.timeout(self._limits.timeout):  # httpx's own is between two bytes
                response = await call
            text = response.content.decode("utf-8", "replace")
            # A short key, as people give local servers, may be a word of the answer.
            return self._clean(text, shortest=12)
        except (openai.APITimeoutError, TimeoutError) as error:
            raise _Again(f"no answer within {self._limits.timeout:g} s (--timeout)") from error
        except openai.APIConnectionError as error:
            why = error.__cause__ or error
            raise _Again(f"no connection ({type(why).__name__}: {self._clean(one_line(why))})") from error
        except openai.APIStatusError as error:
            said = self._said(error)
            if error.status_code in (401, 403):
                raise UserError(
                    f"{self._shown} does not take the key ({error.status_code}: {said}); set OPENAI_API_KEY"
                ) from error
            if error.status_code == 402 or error.code == "insufficient_quota":
                raise UserError(
                    f"{self._shown}: the account's quota is spent ({said}); raise it, and the same command goes on"
                ) from error
            if error.status_code not in _AGAIN and error.status_code < 500:
                raise
            wait = retry_after(error.response.headers)
            if wait and wait > _LONGEST_WAIT:
                raise UserError(
                    f"{self._shown} wants no request for {wait / 3600:.1f} hours ({said}); run the same command then"
                ) from error
            raise _Again(f"{error.status_code}: {said}", wait) from error

    def _said(self, error: openai.APIStatusError) -> str:
        body = error.body
        words = body.get("message") or body if isinstance(body, dict) else body or error.message
        return " ".join(self._clean(str(words)).split())[:200]

    def _clean(self, text: str, shortest: int = 1) -> str:
        for secret in self._secrets:
            if len(secret) >= shortest:
                text = text.replace(secret, "***")
        return text

    def _near(self, model: str) -> str:
        near = difflib.get_close_matches(model, self._listed, 3, 0.4) or self._listed[:5]
        return f"; use --model={' or '.join(near)}" if near else ""


def backoff(first: float, tries: int, key: str) -> float:
    """Seconds to wait after so many tries: doubled each time, and by the key spread over half to the whole of it."""
    spread = hashlib.sha256(f"{key}\n{tries}".encode()).digest()[0] / 255
    return min(first * 2 ** min(tries - 1, 32), _LONGEST_BACKOFF) * (1 + spread) / 2


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait, given as a number or as a date; None where it does not."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        return max(0.0, seconds) if math.isfinite(seconds) else None
    date = email.utils.parsedate_tz(headers.get("retry-after", ""))
    return None if date is None else max(0.0, email.utils.mktime_tz(date) - time.time())


def shown(base_url: str) -> str:
    """An address without user, password and query, which may hold keys."""
    parts = urlsplit(base_url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _now() -> float:
    return asyncio.get_running_loop().time()
