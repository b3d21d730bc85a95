"""server: which failures are tried again and when, which stop everything, and that no secret is in what it says."""

import asyncio
import time

import pytest

from tests.faulty import Faulty, answer_of
from univar_jax.asking import client
from univar_jax.asking.client import Failed, Limits, Server
from univar_jax.cli import UserError

QUICK = {"backoff": 0.01, "timeout": 30, "retries": 3}  # long enough for a machine with other things to do
SECRET = "sk-this-is-the-secret-key"


def body(text="Why?"):
    return {"model": "org/model-7b", "messages": [{"role": "user", "content": text}], "top_k": 5}


def with_server(faulty, do, key=SECRET, base_url="", **limits):
    """What the coroutine do(server) gives, with a server that is closed after."""

    async def run():
        one = Server(base_url or faulty.base_url, key, Limits(**QUICK | limits), asyncio.Event())
        try:
            return await do(one)
        finally:
            await one.close()

    return asyncio.run(run())


def ask(faulty, **limits):
    return with_server(faulty, lambda one: one.ask(body(), "0" * 64), **limits)


@pytest.mark.parametrize("fault", ["429", "429 date", "500", "503", "hang", "cut", "malformed", "html", "no choices"])
def test_what_may_pass_is_tried_again(fault):
    with Faulty([fault, fault, ""]) as faulty:
        reply = ask(faulty, timeout=1 if fault == "hang" else 30)
    assert (reply.text, reply.finish_reason, reply.tries) == (answer_of("Why?"), "stop", 3)
    assert (reply.prompt_tokens, reply.completion_tokens, reply.model) == (11, 7, "org/model-7b")
    assert [whole for *_, whole in faulty.log].count(True) == 1
    assert all(sent == body() for sent, *_ in faulty.log)  # every key as it was given, and no other


TOLD = {
    "429": "429: 429 for Bearer \\*\\*\\*",
    "hang": r"no answer within 0.5 s \(--timeout\)",
    "cut": "no connection",
    "malformed": 'no whole JSON of a chat completion: \'{"choices"',
    "html": "no whole JSON of a chat completion: '<html>Bad gateway",
}


@pytest.mark.parametrize("fault", TOLD)
def test_after_all_tries_it_has_failed_with_the_reason(fault):
    with Faulty([fault]) as faulty, pytest.raises(Failed, match=TOLD[fault]) as error:
        ask(faulty, retries=1, timeout=0.5 if fault == "hang" else 30)
    assert error.value.tried and sum(faulty.tries.values()) == 2


def test_a_question_that_does_not_fit_is_not_tried_again():
    with Faulty(["context"]) as faulty, pytest.raises(Failed, match=r"400: .*maximum context length is 4096") as error:
        ask(faulty)
    assert not error.value.tried and len(faulty.log) == 1


STOP = {
    "401": "does not take the key (401: 401 for Bearer ***); set OPENAI_API_KEY",
    "403": "does not take the key (403",
    "404": "has no model 'org/model-7b' or no /chat/completions",
    "402": "the account's quota is spent (402",
    "429 quota": "the account's quota is spent",
}


@pytest.mark.parametrize("fault", STOP)
def test_what_no_try_can_mend_stops_at_once(fault):
    with Faulty([fault]) as faulty, pytest.raises(UserError) as error:
        ask(faulty)
    assert STOP[fault] in str(error.value) and len(faulty.log) == 1
    assert str(error.value).startswith(f"--base_url={faulty.base_url}") and SECRET not in str(error.value)


def test_what_a_filter_withholds_is_an_answer():
    with Faulty(["filter 400"]) as faulty:
        reply = ask(faulty)
    assert (reply.text, reply.finish_reason, reply.tries) == ("", "content_filter", 1)


def test_a_servers_wait_is_everybodys():
    """One request is told to wait .4 s; the others, which come after it, wait too."""
    with Faulty(lambda question, tries: "429" if question == "first" and not tries else "") as faulty:
        faulty.http.RequestHandlerClass = type("Waits", (faulty.http.RequestHandlerClass,), {"_json": _waits})

        async def do(one):
            first = asyncio.create_task(one.ask(body("first"), "0" * 64))
            while not faulty.log:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            await asyncio.gather(first, *(one.ask(body(str(i)), "0" * 64) for i in range(5)))

        with_server(faulty, do)
    assert min(faulty.times[1:]) - faulty.times[0] >= 0.4


def _waits(self, status, value, headers=()):
    handler = type(self).__mro__[1]
    handler._json(self, status, value, {"Retry-After": "0.4"} if status == 429 else headers)


def test_requests_are_spaced_by_the_rate_retries_too():
    with Faulty(["500", ""]) as faulty:

        async def do(one):
            await asyncio.gather(*(one.ask(body(str(i)), "0" * 64) for i in range(4)))

        with_server(faulty, do, requests_per_minute=1200)  # one in 50 ms
    times = sorted(faulty.times)
    assert len(times) == 8 and times[-1] - times[0] >= 7 * 0.05 - 0.02


def test_waits_double_and_differ_by_request_alone():
    waits = [client.backoff(1, tries, "a") for tries in range(1, 2000)]
    assert waits == [client.backoff(1, tries, "a") for tries in range(1, 2000)]
    assert all(2 ** (n - 1) / 2 <= wait <= 2 ** (n - 1) for n, wait in enumerate(waits[:6], 1))
    assert max(waits) <= 60 and waits[0] != client.backoff(1, 1, "b")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0),
    ],
)
def test_retry_after_has_many_spellings(headers, seconds):
    assert client.retry_after(headers) == seconds


def test_retry_after_as_a_date_to_come():
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
    assert 28 < client.retry_after({"retry-after": date}) <= 30


def check(faulty, model="org/model-7b", anyway=False, **given):
    with_server(faulty, lambda one: one.check(model, anyway), **given)


def test_a_model_that_is_not_listed_is_told_with_near_ones():
    with Faulty() as faulty:
        check(faulty)
        with pytest.raises(
            UserError, match=r"does not list .*'model-7B'; use --model=org/model-7b or .*--nocheck_model"
        ):
            check(faulty, "model-7B")
        check(faulty, "model-7B", anyway=True)
    with Faulty(models=["llama3:latest"]) as faulty:
        check(faulty, "llama3")
    for nothing in (None, []):
        with Faulty(models=nothing) as faulty:
            check(faulty, "any")


def test_an_address_without_v1_and_one_of_nothing():
    with Faulty(models="html") as faulty, pytest.raises(UserError, match=r"answers '<!doctype html.*ends in /v1"):
        check(faulty)
    with pytest.raises(UserError, match=r"--base_url=http://127.0.0.1:9/v1: no connection .*; start the server"):
        check(None, base_url="http://127.0.0.1:9/v1", retries=1)
    with pytest.raises(UserError, match=r"--base_url=localhost:8000/v1 is no address; give one as http://"):
        check(None, base_url="localhost:8000/v1")


def test_a_server_that_still_loads_is_waited_for():
    with Faulty(refused=3) as faulty:
        check(faulty)
    with Faulty(refused=4) as faulty, pytest.raises(UserError, match="503: Loading model; start the server"):
        check(faulty)


def test_no_secret_is_in_errors_or_answers():
    with Faulty(["echo"]) as faulty:
        assert "Your key is Bearer ***." in ask(faulty).text
        assert faulty.keys == {f"Bearer {SECRET}"}
    with Faulty(["echo"]) as faulty:  # a short one may be a word of the answer
        assert "what I honestly think" in ask(faulty, key="think").text
    url = "http://me:pass-word@127.0.0.1:9/v1?code=abc"
    assert client.shown(url) == "http://127.0.0.1:9/v1"
    with pytest.raises(UserError) as error:
        check(None, base_url=url, retries=0)
    assert "pass-word" not in str(error.value) and "abc" not in str(error.value)


def test_without_a_key_a_placeholder_is_sent():
    with Faulty() as faulty:
        ask(faulty, key="")
    assert faulty.keys == {"Bearer none"}
