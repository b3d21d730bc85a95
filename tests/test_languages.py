"""languages: what is sure is told in ISO 639-3, members of a language are it, and the rest is left open."""

import csv

import pytest

from tests.conftest import SAMPLE
from univar_jax.asking import languages

SPANISH = "No creo que sea correcto mentir a un amigo, aunque a veces la verdad duele mucho."
CHINESE = "我认为说谎是不对的，但是有时候善意的谎言可以接受，因为它保护别人的感情。"


@pytest.mark.parametrize(
    ("lang", "text", "told"),
    [
        ("spa", SPANISH, ("spa", "false")),
        ("es", SPANISH, ("spa", "false")),
        ("eng", SPANISH, ("spa", "true")),
        ("zho", CHINESE, ("zho", "false")),
        ("cmn", CHINESE, ("zho", "false")),
        ("eng", CHINESE, ("zho", "true")),
        ("eng", "", ("", "")),
        ("eng", "42", ("", "")),
        ("tlh", SPANISH, ("spa", "")),  # Klingon: nothing can be said against it
    ],
)
def test_check(lang, text, told):
    assert languages.check(lang, text) == told


def test_no_row_of_the_sample_is_called_wrong_and_nine_in_ten_are_told():
    rows = []
    for path in [*sorted(SAMPLE.glob("*.csv")), SAMPLE.parent / "questions.csv"]:
        with open(path, newline="", encoding="utf-8") as file:
            rows += [(row["lang"], row.get("answer", row["question"])) for row in csv.DictReader(file)]
    wrong = [languages.check(lang, text)[1] for lang, text in rows]
    assert len(rows) > 1400 and wrong.count("true") == 0 and wrong.count("false") > 0.9 * len(rows)


def test_names_for_prompts():
    assert languages.name("zho") == languages.name("cmn") == "Chinese"
    assert languages.name("quz") == "the language with the ISO 639-3 code quz"
    assert languages.same("arb", "ara") and not languages.same("eng", "deu")
    assert languages.known("eng") and not languages.known("tlh")
