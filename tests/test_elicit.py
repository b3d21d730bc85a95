"""elicit: nothing paid for is lost or asked twice, whatever server, disk and user do."""

import hashlib
import json
import re
import resource
import signal
from collections import Counter

import pytest

from tests.asking import MODEL, QUICK, SECRET, content, entry, journal, read, run, slow, start, wait_for_answers
from tests.faulty import Faulty, answer_of
from univar_jax.asking import ask
from univar_jax.cli import UserError

PASSING = ("429", "429 date", "500", "503", "hang", "cut", "malformed", "html", "no choices")


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
