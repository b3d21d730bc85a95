"""bank: question and persona files, what is taken of them, and one line with file and row for every broken one."""

import pytest

from univar_jax.asking import bank
from univar_jax.cli import UserError

GOOD = """question_id,lang,question,value,framing,group_id
a1,eng,Is lying wrong?,honesty,open,
a1,spa,¿Está mal mentir?,honesty,open,
a2,eng,"Would you lie, for a friend?",honesty,scenario,a1
b1,eng,Should one obey?,order,open,
c1,eng, What is love? ,,open,
"""


def write(folder, data):
    path = folder / "mine.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def ids(found):
    return [(row["question_id"], row["lang"]) for row in found.rows]


def test_every_column_is_carried_and_a_question_without_a_group_is_one(tmp_path):
    found = bank.read(write(tmp_path, GOOD), [], [])
    assert found.name == "mine" and len(found.sha256) == 64
    assert [row["group_id"] for row in found.rows] == ["a1", "a1", "a1", "b1", "c1"]
    assert found.rows[2]["framing"] == "scenario" and found.rows[4]["question"] == "What is love?"


def test_languages_values_and_the_first_questions_of_each_value(tmp_path):
    path = write(tmp_path, GOOD)
    assert ids(bank.read(path, ["spa"], [])) == [("a1", "spa")]
    assert ids(bank.read(path, [], ["order"])) == [("b1", "eng")]
    firsts = bank.read(path, [], [], questions_per_value=1)
    assert ids(firsts) == [("a1", "eng"), ("a1", "spa"), ("b1", "eng"), ("c1", "eng")]


BROKEN = {
    "column": ("question_id,lang\na,eng\n", r"no column question \(there: question_id, lang\)"),
    "twice": (GOOD + "a1,eng,Again?,,,\n", r"row 6: question_id=a1 in eng stands in row 1 already"),
    "empty": (GOOD + "d1,eng,  ,,,\n", r"row 6: question is empty"),
    "no lang": (GOOD + "d1,,Why?,,,\n", r"row 6: lang is empty"),
    "latin": (GOOD.encode() + "d1,eng,¿Qué?,,,\n".encode("latin-1"), r"row 6 \(line 7\): not UTF-8"),
    "nul": (GOOD.encode() + b"d1,eng,W\0y?,,,\n", r"row 6 \(line 7\): holds a NUL byte"),
    "quote": (GOOD + 'd1,eng,"Why?,,,\n', r"row 6 \(line 7\): a quote is opened and never closed"),
    "short": (GOOD + "d1,eng\n", r"row 6 \(line 7\): 2 values for 6 columns"),
    "relevant": ("question_id,lang,question,value_relevant\na,eng,q,maybe\n", r"row 1: value_relevant='maybe'"),
    "written": ("question_id,lang,question,answer\na,eng,q,x\n", r"column answer is what elicit writes"),
    "none": ("question_id,lang,question\n", r"no question in it"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named_with_its_row(tmp_path, case):
    data, told = BROKEN[case]
    with pytest.raises(UserError, match=r"mine.csv.*" + told):
        bank.read(write(tmp_path, data), [], [])


def test_what_is_not_there_is_told_with_what_is(tmp_path):
    path = write(tmp_path, GOOD)
    with pytest.raises(UserError, match=r"--lang=deu: .*mine.csv has no such question; there: eng, spa"):
        bank.read(path, ["deu", "eng"], [])
    with pytest.raises(UserError, match=r"--values=love: .*there: honesty, order"):
        bank.read(path, [], ["love"])
    with pytest.raises(UserError, match=r"--questions=.*/no.csv: no such file"):
        bank.read(str(tmp_path / "no.csv"), [], [])


def test_personas_with_and_without_the_plain_model(tmp_path):
    assert bank.personas("") == {"": ""}
    path = write(tmp_path, "persona,prompt\nnurse,You are a nurse.\n,\n")
    assert bank.personas(path) == {"nurse": "You are a nurse.", "": ""}


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("nurse,x\nnurse,y\n", "row 2: persona='nurse' is there twice"),
        ("nurse,\n", "row 1: persona='nurse' has prompt=''"),
        (",x\n", "row 1: persona='' has prompt='x'"),
        ('"a\nb",x\n', "row 1: .* holds a line break"),
        ("", "no persona in it"),
    ],
)
def test_broken_personas(tmp_path, rows, told):
    with pytest.raises(UserError, match=r"mine.csv.*" + told):
        bank.personas(write(tmp_path, "persona,prompt\n" + rows))
