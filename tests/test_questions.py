"""The question bank keeps what its README promises: coverage, wording of its own for each question, both framings."""

import collections
import csv
import itertools
import pathlib
import re

import pytest

from tests.conftest import SAMPLE

FILE = pathlib.Path(__file__).parents[1] / "univar_jax" / "questions" / "questions.csv"
COLUMNS = [
    "question_id",
    "lang",
    "question",
    "value",
    "theory",
    "definition",
    "framing",
    "group_id",
    "value_relevant",
    "checked",
]
SAMPLED = ("eng", "spa", "zho")
OTHERS = {"spa", "zho", "fra", "ara", "hin", "ind", "jpn", "deu"}
FAMILIES = {"Schwartz", "Rokeach", "Hofstede", "GLOBE", "Moral foundations", "Inglehart-Welzel"}
# Letters that a language's sentences have and English has not.
SCRIPTS = {"zho": "[一-鿿]", "jpn": "[ぁ-ヿ]", "ara": "[؀-ۿ]", "hin": "[ऀ-ॿ]"}  # fmt: skip
REASON = re.compile(
    r"\b(why|reason(s|ing)?|because|explain\w*|justif\w+|grounds?|makes|defend|argu\w+|case|persuade\w*|"
    r"convinc\w+|basis|account|rationale|leads|speaks?|decides?)\b",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def bank():
    with open(FILE, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def english(bank):
    """The English questions of each value."""
    found = collections.defaultdict(list)
    for row in bank:
        if row["lang"] == "eng" and row["value"]:
            found[row["theory"], row["value"]].append(row)
    return found


def words(text):
    return re.findall(r"[a-z0-9'’-]+", text.lower())


def test_every_row_is_filled_and_asked_once(bank):
    assert list(bank[0]) == COLUMNS
    assert len({(row["question_id"], row["lang"]) for row in bank}) == len(bank)
    assert all(row["question"] == row["question"].strip() != "" for row in bank)
    assert len({row["question"] for row in bank}) == len(bank)
    assert all(row["group_id"] == row["question_id"] for row in bank)
    for row in bank:
        control = row["theory"] == "control"
        assert row["value_relevant"] == ("false" if control else "true")
        assert bool(row["value"]) == bool(row["definition"]) == bool(row["framing"]) == (not control)


def test_the_classic_families_are_covered(english):
    assert {theory for theory, _ in english} == FAMILIES
    assert len(english) >= 87 and len({value for _, value in english}) == len(english)
    assert all(len(rows) >= 10 for rows in english.values())
    definitions = {rows[0]["definition"] for rows in english.values()}
    assert len(definitions) == len(english) and all(3 < len(words(text)) <= 30 for text in definitions)


def test_each_value_is_asked_for_and_against(english):
    for value, rows in english.items():
        framings = collections.Counter(row["framing"] for row in rows)
        assert set(framings) == {"pro", "con"} and framings["pro"] == framings["con"], value


def test_the_first_questions_of_a_value_are_balanced_and_translated(bank, english):
    """So that elicit --questions_per_value=2 asks for and against each value, in every language the same."""
    langs = collections.Counter(row["question_id"] for row in bank)
    for rows in english.values():
        ordered = sorted(rows, key=lambda row: row["question_id"])
        assert [row["framing"] for row in ordered] == ["pro", "con"] * (len(rows) // 2)
        assert [langs[row["question_id"]] for row in ordered[:2]] == [1 + len(OTHERS)] * 2


def test_translations_are_of_english_questions_and_marked(bank, english):
    known = {row["question_id"]: row for rows in english.values() for row in rows}
    times = collections.Counter()
    for row in bank:
        if row["lang"] == "eng":
            assert row["checked"] == ""
            continue
        assert row["checked"] == "not checked by a native speaker"
        original = known[row["question_id"]]
        assert all(row[key] == original[key] for key in ("value", "theory", "framing", "definition"))
        assert re.search(SCRIPTS.get(row["lang"], "[a-z]"), row["question"])
        times[row["theory"], row["value"], row["lang"]] += 1
    assert all(times[*value, lang] >= 2 for value in english for lang in OTHERS)
    assert {lang for *_, lang in times} == OTHERS


def test_no_question_is_a_template(english):
    rows = [row for rows in english.values() for row in rows]
    for (_, value), own in english.items():
        named = [row for row in own if re.search(rf"\b{re.escape(value.lower())}\b", row["question"].lower())]
        assert len(named) <= 3, value
    said = [words(row["question"]) for row in rows]
    openings = collections.Counter(tuple(w[:4]) for w in said)
    assert max(openings.values()) <= 0.01 * len(said)
    holders = collections.defaultdict(set)
    for i, w in enumerate(said):
        for j in range(len(w) - 5):
            holders[tuple(w[j : j + 6])].add(i)
    sharing = {pair for held in holders.values() for pair in itertools.combinations(sorted(held), 2)}
    print("pairs that share six words:", len(sharing), "most common opening:", openings.most_common(1))
    assert len(sharing) <= 0.02 * len(said) * (len(said) - 1) / 2


def test_each_question_asks_for_a_reason_too(english):
    for rows in english.values():
        for row in rows:
            assert REASON.search(row["question"]), row["question"]


def test_control_questions_are_as_long_as_the_others(bank, english):
    control = [len(words(row["question"])) for row in bank if row["theory"] == "control"]
    values = [len(words(row["question"])) for rows in english.values() for row in rows]
    mean = lambda lengths: sum(lengths) / len(lengths)  # noqa: E731
    print("control", len(control), mean(control), "values", len(values), mean(values))
    assert len(control) >= 200 and abs(mean(control) / mean(values) - 1) < 0.1


def test_the_samples_questions_are_the_banks(bank):
    """Two of each value, the first of them in two more languages, and every third of the control."""
    with open(SAMPLE.parent / "questions.csv", newline="", encoding="utf-8") as file:
        sample = list(csv.DictReader(file))
    drawn = [
        row | {"dataset": "sample_values"}
        for row in bank
        if row["value"]
        and (row["lang"], row["question_id"][-2:]) in {(lang, "01") for lang in SAMPLED} | {("eng", "02")}
    ]
    drawn += [row | {"dataset": "sample_control"} for row in bank if not row["value"]][::3]
    assert sample == [{name: row[name] for name in sample[0]} for row in drawn]
