"""work: paraphrases before and translations after the answers, by a server or a command."""

import sys
from collections import Counter

import pytest

from tests.asking import SECRET, entry, helpful, journal, read, run, start
from tests.faulty import Faulty
from univar_jax.cli import UserError


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
