"""elicit: nothing paid for is lost or asked twice, whatever server, disk and user do; and what its files say."""

import csv
import dataclasses
import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from tests.conftest import ROOT
from tests.faulty import Faulty, answer_of
from univar_jax import ask, bank, qa
from univar_jax.cli import UserError
from univar_jax.config import digest
from univar_jax.elicit import Access, elicit
from univar_jax.prompts import Asking
from univar_jax.server import Limits
from univar_jax.work import Work

MODEL = "org/model-7b"
PASSING = ("429", "429 date", "500", "503", "hang", "cut", "malformed", "html", "no choices")
QUICK = {"backoff": 0.01, "timeout": 60, "retries": 4, "concurrency": 8}
SECRET = "sk-this-is-the-secret-key"


@pytest.fixture
def questions(tmp_path):
    """write(n): a file of n English questions, the first of them also in Spanish."""

    def write(n=6):
        rows = [("q0", "spa", "¿Está mal mentir?", "honesty", "open")]
        rows += [(f"q{i}", "eng", f"Is it wrong to lie {i} times?", "honesty", "open") for i in range(n)]
        path = tmp_path / "mine.csv"
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("question_id", "lang", "question", "value", "framing"), *rows])
        return path

    return write


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


def test_every_fault_is_survived_and_nothing_is_asked_twice(questions, tmp_path, capsys):
    """27 questions, each of which meets two faults of nine before it is answered."""

    def schedule(question, tries):
        number = int(hashlib.sha256(question.encode()).hexdigest(), 16)
        return PASSING[(number + tries) % len(PASSING)] if tries < 2 else ""

    with Faulty(schedule) as faulty:
        run(faulty, questions(26), tmp_path / "out", limits={"timeout": 4})
    faults = Counter(fault for _, fault, _ in faulty.log)
    assert set(faults) == {*PASSING, ""} and faults.total() == 27 * 3
    assert set(faulty.answered().values()) == {1} and len(faulty.answered()) == 27
    assert "asked 27, answered 27, retried 54, lost 0, empty 0" in capsys.readouterr().out
    rows = read(tmp_path / "out")
    assert [row["answer"] for row in rows] == [answer_of(row["question"]) for row in rows] and len(rows) == 27


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


def test_killed_in_the_middle_no_answer_in_the_journal_is_asked_again(questions, tmp_path):
    path, out = questions(59), tmp_path / "out"
    with Faulty(["cut", ""], answer=slow) as faulty:
        first = start(faulty, path, out)
        wait_for_answers(out, 15)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        kept, asked = journal(out), len(faulty.log)
        with open(out / "journal" / "org__model-7b.jsonl", "ab") as file:
            file.write(b'{"key": "torn')  # as a kill inside a write leaves it
        second = start(faulty, path, out)
        stdout, stderr = second.communicate()
    assert (second.returncode, stderr) == (0, ""), stderr
    assert f"already answered {len(kept)}, left {60 - len(kept)}" in stdout
    assert "asked 60, answered 60" in stdout and "lost 0" in stdout
    again = {json.dumps(body, sort_keys=True) for body, *_ in faulty.log[asked:]}
    assert len(kept) >= 15 and not again & {json.dumps(record["request"], sort_keys=True) for record in kept}
    # What the server had sent and the journal had not: at most what was under way.
    assert sum(count > 1 for count in faulty.answered().values()) <= QUICK["concurrency"]
    with Faulty() as healthy:
        run(healthy, path, tmp_path / "whole")
    assert read(out) == read(tmp_path / "whole")


def test_a_signal_lets_what_is_under_way_be_answered(questions, tmp_path):
    path, out = questions(59), tmp_path / "out"
    with Faulty(answer=slow) as faulty:
        first = start(faulty, path, out)
        wait_for_answers(out, 15)
        first.send_signal(signal.SIGTERM)
        stderr = first.communicate()[1]
        assert first.returncode == 2 and stderr.count("\n") == 1 and "stopped by a signal" in stderr, stderr
        assert 15 <= len(journal(out)) < 60
        assert start(faulty, path, out).wait() == 0
    assert set(faulty.answered().values()) == {1} and len(faulty.answered()) == 60


def test_a_full_disk_is_one_line_and_leaves_a_whole_journal(questions, tmp_path):
    path, out = questions(59), tmp_path / "out"
    with Faulty(answer=slow) as faulty:
        full = start(faulty, path, out)
        wait_for_answers(out, 5)
        resource.prlimit(full.pid, resource.RLIMIT_FSIZE, (12_000, 12_000))  # bytes of a file: some 20 answers
        stderr = full.communicate()[1]
        assert full.returncode == 2 and stderr.count("\n") == 1, stderr
        assert "org__model-7b.jsonl: File too large" in stderr and "answers in it are safe" in stderr
        kept = journal(out)
        assert 5 <= len(kept) < 60 and not (out / "qa").exists()
    with Faulty() as faulty:
        run(faulty, path, out)
        assert len(faulty.log) == 60 - len(kept)
        run(faulty, path, tmp_path / "whole")
    assert read(out) == read(tmp_path / "whole")


def test_the_key_is_nowhere(questions, tmp_path):
    """The server says it in errors and in an answer."""
    out = tmp_path / "out"
    with Faulty(["500", "429", "echo"]) as faulty:
        done = start(faulty, questions(), out)
        said = done.communicate()
        assert done.returncode == 0 and faulty.keys == {f"Bearer {SECRET}"}
    for fault in ("401", "500"):
        with Faulty([fault]) as faulty:
            failed = start(faulty, questions(), tmp_path / fault, retries=0)
            said += failed.communicate()
            assert failed.returncode == 2 and "***" in said[-1] and said[-1].count("\n") == 1
    assert SECRET not in "".join(said)
    files = content(tmp_path)
    assert len(files) > 4 and not [name for name, data in files.items() if SECRET.encode() in data]


def test_what_fails_for_good_stops_no_other_and_no_half_file_is_written(questions, tmp_path, capsys):
    out, path = tmp_path / "out", questions(9)
    with Faulty(lambda question, _: "context" if " 3 times" in question else "") as faulty:
        told = r"1 requests failed, 1 of them: 400: .*maximum context length.*; 9 answers are in .*--allow_missing"
        with pytest.raises(UserError, match=told):
            run(faulty, path, out)
        assert not (out / "qa").exists() and not (out / "manifest.json").exists() and len(faulty.log) == 10
        run(faulty, path, out, allow_missing=True)
        assert len(faulty.log) == 11  # that one only
    assert len(read(out)) == 9 and "asked 10, answered 9" in capsys.readouterr().out
    with Faulty() as faulty:  # a server of more context
        run(faulty, path, out)
        assert len(faulty.log) == 1
    assert len(read(out)) == 10 and entry(out)["counts"]["answered"] == 10


def test_settings_of_a_run_without_an_answer_bind_nobody(questions, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="no connection"):
        run(None, questions(), out, url="http://127.0.0.1:9/v1", limits={"retries": 0})
    with Faulty() as faulty:
        run(faulty, questions(), out, temperature=0.1)
    assert len(read(out)) == 7 and entry(out)["settings"]["temperature"] == 0.1


def test_progress_tells_the_time_left(questions, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ask, "_SAY_EVERY", 0.1)
    with Faulty(answer=slow) as faulty:
        run(faulty, questions(29), tmp_path / "out", limits={"concurrency": 2})
    assert re.search(r"answer \d+/30  \d+ sent  0 failed  [\d.]+/s  0:00:0\d left", capsys.readouterr().out)


def test_a_wrong_key_is_not_hammered_and_a_dead_server_is_not_asked_for_ever(questions, tmp_path):
    with Faulty(["401"]) as faulty, pytest.raises(UserError, match="set OPENAI_API_KEY"):
        run(faulty, questions(99), tmp_path / "out")
    assert len(faulty.log) <= QUICK["concurrency"]
    for fault in ("500", "context"):  # and one that takes no question at all
        with Faulty([fault]) as faulty, pytest.raises(UserError, match="requests in a row failed"):
            run(faulty, questions(99), tmp_path / "out", limits={"retries": 0})
        assert len(faulty.log) <= 3 * QUICK["concurrency"]


def test_what_is_under_way_when_the_quota_ends_is_not_lost(questions, tmp_path):
    def schedule(question, _):
        return "402" if " 3 times" in question else ""

    with Faulty(schedule, answer=slow) as faulty:
        with pytest.raises(UserError, match="the account's quota is spent"):
            run(faulty, questions(50), tmp_path / "out")
        assert 0 < len(faulty.answered()) < 20 and len(journal(tmp_path / "out")) == len(faulty.answered())


def test_a_dry_run_tells_and_touches_nothing(questions, tmp_path, capsys):
    path, out = questions(), tmp_path / "out"
    known = {"dry_run": True, "prices": (1.0, 2.0), "samples": 10, "max_new_tokens": 100}
    run(None, path, out, url="http://127.0.0.1:9/v1", **known | {"prices": (None, None)})
    first = capsys.readouterr().out
    assert "requests  70 (70 answers); already answered 0, left 70" in first and "at most 7,000 out" in first
    assert "cost      unknown; --price_in and --price_out" in first and "(assumed: 50 tokens a second" in first
    run(
        None, questions(2), out, url="http://127.0.0.1:9/v1", paraphrase=2, translate_to="eng", **known | {"samples": 1}
    )
    assert "requests  21 (6 paraphrases, 9 answers, 6 translations)" in capsys.readouterr().out
    assert not out.exists()
    path = questions()
    with Faulty(lambda question, _: "context" if " 3 times" in question else "") as faulty, pytest.raises(UserError):
        run(faulty, path, out, **known | {"dry_run": False})
    before = content(out)
    capsys.readouterr()
    run(None, path, out, url="http://127.0.0.1:9/v1", **known)
    second = capsys.readouterr().out
    # 7 tokens each, as the server counted.
    assert "already answered 60, left 10" in second and "about 70 out" in second and "(measured: " in second
    assert content(out) == before


def test_finished_and_the_same_is_said_and_other_settings_are_named(questions, tmp_path, capsys):
    path, out = questions(), tmp_path / "out"
    with Faulty() as faulty:
        run(faulty, path, out)
        before = content(out)
        run(faulty, path, out)
        assert "is finished and the same: 7 answers" in capsys.readouterr().out
        for other, told in (({"temperature": 0.1}, "--temperature=0.1 was 0.7"), ({"samples": 2}, "--samples=2 was 1")):
            with pytest.raises(UserError, match=told + r".*give another --out"):
                run(faulty, path, out, **other)
        with pytest.raises(UserError, match="--questions="):
            run(faulty, questions(3), out)
        assert content(out) == before and len(faulty.log) == 7


def test_unfinished_with_other_settings_is_refused_too(questions, tmp_path):
    path, out = questions(), tmp_path / "out"
    with Faulty(lambda question, _: "context" if " 3 times" in question else "") as faulty:
        with pytest.raises(UserError, match="1 requests failed"):
            run(faulty, path, out)
        with pytest.raises(UserError, match="--seed=5 was 0"):
            run(faulty, path, out, seed=5)


def test_a_qa_file_or_manifest_that_is_lost_is_made_again_and_a_changed_one_is_not_overwritten(questions, tmp_path):
    path, out = questions(), tmp_path / "out"
    with Faulty() as faulty:
        run(faulty, path, out)
        before, made = content(out), out / "qa" / "org__model-7b.csv"
        for lost in (made, out / "manifest.json"):
            lost.unlink()
            run(faulty, path, out)
            assert content(out) == before
        made.write_text("mine")
        with pytest.raises(UserError, match="is not what elicit wrote; move it away"):
            run(faulty, path, out)
        assert made.read_text() == "mine" and len(faulty.log) == 7
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(UserError, match="exists and is no folder of elicit's"):
        run(None, path, tmp_path / "other", url="http://127.0.0.1:9/v1")


def test_one_folder_holds_several_models(questions, tmp_path):
    path, out = questions(), tmp_path / "out"
    with Faulty() as faulty:
        run(faulty, path, out)
        before = content(out)
        run(faulty, path, out, model="org/model-13b")
    after = content(out)
    assert all(after[name] == data for name, data in before.items() if name != "manifest.json")
    assert entry(out)["qa"]["rows"] == entry(out, "org/model-13b")["qa"]["rows"] == 7
    assert len(qa.read(str(out / "qa"))) == 14


def test_equal_journals_give_equal_bytes_whatever_the_order_of_answers(questions, tmp_path):
    path = questions(20)
    for name, concurrency in (("a", 1), ("b", 8)):
        with Faulty(["500", ""] if name == "b" else [""]) as faulty:
            run(faulty, path, tmp_path / name, limits={"concurrency": concurrency}, samples=2)
            assert faulty.most <= concurrency
    one, other = ((tmp_path / name / "qa" / "org__model-7b.csv").read_bytes() for name in "ab")
    assert one == other and one.count(b"\n") == 43


def test_personas_samples_and_seeds(questions, tmp_path):
    out = tmp_path / "out"
    extra = {"top_k": 5, "top_p": None}
    with Faulty() as faulty:
        personas = {"": "", "nurse": "You are a nurse."}
        run(faulty, questions(2), out, personas=personas, samples=2, system="Be brief.", extra_body=extra)
    bodies = [body for body, *_ in faulty.log]
    assert len({body["seed"] for body in bodies}) == len(bodies) == 12
    systems = Counter(body["messages"][0]["content"] for body in bodies)
    assert systems == {"Be brief.": 6, "Be brief.\n\nYou are a nurse.": 6}
    assert all(body["top_k"] == 5 and "top_p" not in body and body["max_tokens"] == 512 for body in bodies)
    rows = read(out)
    order = [(row["question_id"], row["lang"], row["persona"], row["sample"]) for row in rows]
    asked = (("q0", "spa"), ("q0", "eng"), ("q1", "eng"))
    assert order == [(*ask, persona, str(i)) for ask in asked for persona in personas for i in range(2)]
    answers = qa.read(str(out / "qa"))
    assert sorted(set(qa.sources(answers))) == [
        *(f"{MODEL}$eng", f"{MODEL}$eng$nurse", f"{MODEL}$spa", f"{MODEL}$spa$nurse")
    ]


def test_a_seed_is_a_function_of_the_run_and_the_request_alone(questions, tmp_path):
    seeds = {}
    for name, n, seed in (("a", 2, 0), ("b", 5, 0), ("c", 2, 1)):
        with Faulty() as faulty:
            run(faulty, questions(n), tmp_path / name, seed=seed)
        seeds[name] = {body["messages"][0]["content"]: body["seed"] for body, *_ in faulty.log}
    assert seeds["a"].items() <= seeds["b"].items() and not set(seeds["a"].values()) & set(seeds["c"].values())


def test_refusals_empty_and_cut_answers_are_kept_and_marked(questions, tmp_path, capsys):
    kinds = dict(enumerate(("refuse", "empty", "length", "filter", "filter 400", "other name", "no usage")))

    def schedule(question, _):
        return next((kind for i, kind in kinds.items() if f" {i} times" in question), "")

    with Faulty(schedule) as faulty:
        run(faulty, questions(7), tmp_path / "out")
        assert len(faulty.log) == 8
    rows = {row["question_id"]: row for row in read(tmp_path / "out") if row["lang"] == "eng"}
    marks = [(rows[f"q{i}"]["refusal"], rows[f"q{i}"]["truncated"], rows[f"q{i}"]["finish_reason"]) for i in range(5)]
    assert marks == [
        ("true", "false", "stop"),
        ("false", "false", "stop"),
        ("false", "true", "length"),
        ("true", "false", "content_filter"),
        ("true", "false", "content_filter"),
    ]
    assert [rows[f"q{i}"]["answer"] == "" for i in range(7)] == [False, True, False, True, True, False, False]
    spanish = next(row for row in read(tmp_path / "out") if row["lang"] == "spa")  # it was answered in English
    assert (spanish["answer_lang"], spanish["wrong_lang"], rows["q5"]["wrong_lang"]) == ("eng", "true", "false")
    counts = entry(tmp_path / "out")["counts"]
    marks = {"refused": 3, "empty": 3, "truncated": 1, "wrong_language": 1, "lost": 0, "counted": 6}
    assert marks.items() <= counts.items() and counts["reported"] == {MODEL: 7, "another-model": 1}
    said = capsys.readouterr().out
    assert "1 answers came under the name 'another-model'" in said and "empty 3, refused 3, truncated 1" in said
    assert len(qa.read(str(tmp_path / "out" / "qa"))) == 5  # later stages drop the empty ones, and count them


def test_answers_of_any_text_come_back_whole(questions, tmp_path):
    texts = ['a\rb, "c"\r\nd', "'", "=1+1", "\u2028 🙂 \ufeff", "NA", "nul\0 and half \ud83d"]
    asked = {f"Is it wrong to lie {i} times?": text for i, text in enumerate(texts)}
    with Faulty(answer=lambda question: asked.get(question, "Sí.")) as faulty:
        run(faulty, questions(6), tmp_path / "out")
    answers = qa.read(str(tmp_path / "out" / "qa")).columns["answer"]
    assert answers == ["Sí.", *(text.strip() for text in texts[:5]), "nul and half ?"]


def helpful(question):
    """A helper that can paraphrase and translate."""
    text = question.rpartition("\n\n")[2]
    if question.startswith("Rewrite"):
        return f"{question.partition('version ')[2][0]}: {text}"
    return f"ENGLISH[{text}]" if question.startswith("Translate") else f"Sí: {text}"


def test_paraphrases_and_translations_are_steps_of_the_same_journal(questions, tmp_path):
    out = tmp_path / "out"
    with Faulty(["429", ""], answer=helpful) as faulty:
        run(faulty, questions(2), out, paraphrase=2, translate_to="eng")
        assert set(faulty.answered().values()) == {1}
    kinds = Counter(record["kind"] for record in journal(out))
    assert kinds == {"paraphrase": 6, "answer": 9, "translation": 6}
    rows = read(out)
    assert [row["question_id"] for row in rows][:4] == ["q0", "q0~1", "q0~2", "q0"]
    assert {row["group_id"] for row in rows} == {"q0", "q1"}
    assert [row["paraphrase"] for row in rows] == ["0", "1", "2"] * 3
    spanish = rows[1]
    assert spanish["lang"] == "spa"
    assert spanish["question_original"] == "1: ¿Está mal mentir?"
    assert spanish["question"] == f"ENGLISH[{spanish['question_original']}]"
    assert spanish["answer_original"] == f"Sí: {spanish['question_original']}"
    assert spanish["answer"] == f"ENGLISH[{spanish['answer_original']}]"
    assert all(row["answer"] == row["answer_original"] for row in rows if row["lang"] == "eng")
    counts = entry(out)["counts"]
    assert {"asked": 21, "answered": 21, "paraphrases_left_out": 0, "translations": 6}.items() <= counts.items()


def test_a_paraphrase_that_is_none_is_left_out_and_counted(questions, tmp_path):
    kinds = {"version 1": "refuse", "version 2": "empty", "version 3": "length"}

    def answer(question):
        return "我认为说谎是不对的，但是有时候善意的谎言可以接受。" if "version 4" in question else helpful(question)

    with Faulty(lambda question, _: next((k for v, k in kinds.items() if v in question), ""), answer=answer) as faulty:
        run(faulty, questions(1), tmp_path / "out", paraphrase=5)
    assert [row["paraphrase"] for row in read(tmp_path / "out")] == ["0", "5"] * 2
    assert entry(tmp_path / "out")["counts"]["paraphrases_left_out"] == 8


COMMAND = """
import json, os, sys
assert "OPENAI_API_KEY" not in os.environ
for line in list(sys.stdin)[SKIP:]:
    asked = json.loads(line)
    print(json.dumps({"text": asked["text"].upper() + " " + asked["from"] + asked["to"]}))
"""


def test_a_command_translates_and_its_lines_are_counted(questions, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    script, out = tmp_path / "translate.py", tmp_path / "out"
    given = {"translate_to": "eng", "translate_command": f"{sys.executable} {script}"}
    with Faulty(answer=helpful) as faulty:
        script.write_text(COMMAND.replace("SKIP", "1"))
        with pytest.raises(UserError, match="gave 1 lines for 2 texts"):
            run(faulty, questions(2), out, **given)
        assert not (out / "qa").exists()
        for broken, told in (("print('x')", "should write lines of"), ("raise SystemExit(3)", "ended with 3")):
            script.write_text(broken)
            with pytest.raises(UserError, match=told):
                run(faulty, questions(2), out, **given)
        script.write_text(COMMAND.replace("SKIP", "0"))
        run(faulty, questions(2), out, **given)
        assert len(faulty.log) == 3  # the answers, once
    assert read(out)[0]["question"] == "¿ESTÁ MAL MENTIR? spaeng"


def test_a_helper_elsewhere_gets_no_key_of_the_model_s(questions, tmp_path, stage):
    with Faulty() as faulty, Faulty(models=["helper"], answer=helpful) as other:
        given = {"helper_model": "helper", "helper_base_url": other.base_url, "translate_to": "eng"}
        done = start(faulty, questions(1), tmp_path / "out", **given)
        assert done.communicate()[1] == "" and done.returncode == 0
    assert faulty.keys == {f"Bearer {SECRET}"} and other.keys == {"Bearer none"}
    assert all(body["model"] == "helper" and "top_p" not in body for body, *_ in other.log) and len(other.log) == 2


def test_help_and_mistakes_of_flags(stage, questions, tmp_path):
    helped = stage("elicit", help="true")
    assert (helped.returncode, helped.stderr) == (0, "") and "--[no]dry_run" in helped.stdout
    given = {"questions": questions(), "model": MODEL, "base_url": "http://127.0.0.1:9/v1", "out": tmp_path / "out"}
    mistakes = {
        "--extra_body={: no JSON": {"extra_body": "{"},
        "--translate_to=english is no language": {"translate_to": "english"},
        "no connection": {"retries": 0},
    }
    for told, change in mistakes.items():
        done = stage("elicit", **given | change)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and told in done.stderr, done.stderr
    assert not (tmp_path / "out" / "qa").exists()
