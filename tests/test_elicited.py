"""elicited and answered: what the files of DIR say, and when they are finished, another's or made again."""

from collections import Counter

import pytest

from tests.asking import MODEL, content, entry, read, run
from tests.faulty import Faulty
from univar_jax import qa
from univar_jax.cli import UserError


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


def test_settings_of_a_run_without_an_answer_bind_nobody(questions, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="no connection"):
        run(None, questions(), out, url="http://127.0.0.1:9/v1", limits={"retries": 0})
    with Faulty() as faulty:
        run(faulty, questions(), out, temperature=0.1)
    assert len(read(out)) == 7 and entry(out)["settings"]["temperature"] == 0.1


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
