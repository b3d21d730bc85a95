"""How the tests of elicit ask: in this process, or in one of its own that can be killed."""

import csv
import dataclasses
import json
import os
import subprocess
import sys
import time

from tests.conftest import ROOT
from tests.faulty import answer_of
from univar_jax.asking import bank
from univar_jax.asking.client import Limits
from univar_jax.asking.prompts import Asking
from univar_jax.asking.work import Work
from univar_jax.config import digest
from univar_jax.elicit import Access, elicit

MODEL = "org/model-7b"
QUICK = {"backoff": 0.01, "timeout": 60, "retries": 4, "concurrency": 8}
SECRET = "sk-this-is-the-secret-key"


def run(faulty, path, out, model=MODEL, limits=None, personas=None, url="", **given):
    """elicit in this process."""
    asking = {f.name: given.pop(f.name) for f in dataclasses.fields(Asking) if f.name in given}
    found = bank.read(str(path), [], [])
    work = Work(Asking(model, **asking), found, personas or {"": ""})
    taken = {"lang": [], "values": [], "questions_per_value": 0}  # as the flags' defaults have it
    said = digest(list(personas.items())) if personas else ""
    settings = work.settings(questions=found.sha256, dataset="mine", personas=said, **taken)
    access = Access(url or faulty.base_url, limits=Limits(**QUICK | (limits or {})))
    elicit(work, access, str(out), json.loads(json.dumps(settings)), **given)


def read(out, model=MODEL):
    with open(out / "qa" / f"{model.replace('/', '__')}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def entry(out, model=MODEL):
    return json.loads((out / "manifest.json").read_text())["models"][model]


def journal(out):
    lines = (out / "journal" / "org__model-7b.jsonl").read_bytes().split(b"\n")[1:-1]
    return [json.loads(line) for line in lines]


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def start(faulty, path, out, prefix=(), key=SECRET, **flags):
    """elicit as a process of its own."""
    given = {"questions": path, "base_url": faulty.base_url, "model": MODEL, "out": out, **QUICK, **flags}
    command = [sys.executable, "-m", "univar_jax.elicit", *(f"--{name}={value}" for name, value in given.items())]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*prefix, *command], cwd=ROOT, env=os.environ | {"OPENAI_API_KEY": key}, **pipes)


def wait_for_answers(out, count):
    path, end = out / "journal" / "org__model-7b.jsonl", time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") <= count:
        assert time.monotonic() < end, "no answers came"
        time.sleep(0.005)


def slow(question):
    time.sleep(0.05)
    return answer_of(question)


def helpful(question):
    """A helper that can paraphrase and translate."""
    text = question.rpartition("\n\n")[2]
    if question.startswith("Rewrite"):
        return f"{question.partition('version ')[2][0]}: {text}"
    return f"ENGLISH[{text}]" if question.startswith("Translate") else f"Sí: {text}"
