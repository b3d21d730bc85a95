"""qa: the same rows from any file kind, every broken file named with its row and cure, and what is held out."""

import csv
import gzip
import hashlib
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from univar_jax import qa
from univar_jax.cli import UserError

HEADER = "model,lang,question,answer\n"
GOOD = HEADER + "m,eng,q1,a1\nm,eng,q2,a2\n"


def row(question, answer, **rest):
    return {"model": "gpt", "lang": "eng", "question": question, "answer": answer, **rest}


ROWS = [
    row("Why?", "Because,\nas I said, \"no\".", value_relevant="true", note="á 🙂"),
    row("Is it?\r\nReally?", "None", value_relevant="", note=""),
    row("何ですか", "NA", value_relevant="False", note="\ufeff"),
    row("dropped", "", value_relevant="", note=""),
    row("dropped too", " NaN ", value_relevant="", note=""),
    row("and this", "null", value_relevant="", note=""),
    row(" padded ", "  n/a ", value_relevant="yes", note="0"),
]  # fmt: skip
KEPT = [r for r in ROWS if r["answer"].strip().lower() not in ("", "nan", "null")]


def as_csv(rows):
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def as_parquet(rows):
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


KINDS = {
    "a.csv": as_csv,
    "bom.csv": lambda rows: b"\xef\xbb\xbf" + as_csv(rows),
    "a.csv.gz": lambda rows: gzip.compress(as_csv(rows)),
    "a.jsonl": lambda rows: "\n".join(json.dumps(r) for r in rows).encode(),
    "a.jsonl.gz": lambda rows: gzip.compress("\n".join(json.dumps(r) for r in rows).encode()),
    "spaced.jsonl": lambda rows: "\r\n\r\n".join(json.dumps(r, ensure_ascii=False) for r in rows).encode(),
    "a.parquet": as_parquet,
}


def write(folder, name, data):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_reads_the_same(tmp_path, name):
    answers = qa.read(write(tmp_path, name, KINDS[name](ROWS)))
    assert answers.columns == {key: [r[key] for r in KEPT] for key in ROWS[0]}
    assert answers.dropped == 3


@pytest.mark.parametrize("nothing", [None, float("nan"), "", "  ", "NULL"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_no_answer_has_many_spellings(tmp_path, name, nothing):
    numbers = isinstance(nothing, float)  # a Parquet column has one type
    answers = qa.read(write(tmp_path, name, KINDS[name]([row("q", nothing), row("q", 7.5 if numbers else "a")])))
    assert (answers.columns["answer"], answers.dropped) == (["7.5" if numbers else "a"], 1)


def test_values_that_are_no_strings_become_their_json(tmp_path):
    rows = [row(5, True, value_relevant=False, tags=["ä"]), row(6, 0, value_relevant=None, tags=None)]
    answers = qa.read(write(tmp_path, "a.jsonl", KINDS["a.jsonl"](rows)))
    assert answers.columns["answer"] == ["true", "0"] and answers.columns["question"] == ["5", "6"]
    assert answers.columns["tags"] == ['["ä"]', ""]
    assert qa.value_relevant(answers).tolist() == [False, True]


def test_an_answer_may_be_longer_than_csvs_own_limit(tmp_path):
    long = "x" * 200_000
    assert qa.read(write(tmp_path, "a.csv", HEADER + f"m,eng,q,{long}\n")).columns["answer"] == [long]


def test_a_column_that_some_files_lack_is_empty_there(tmp_path):
    one = write(tmp_path, "1.csv", as_csv([row("q1", "a", theory="T")]))
    two = write(tmp_path, "2.jsonl", KINDS["a.jsonl"]([row("q2", "b"), row("q3", "c", persona="P")]))
    answers = qa.read(f"{one},{two},{write(tmp_path, '3.csv', as_csv([row('q4', 'd')]))}")
    assert answers.columns["theory"] == ["T", "", "", ""] and answers.columns["persona"] == ["", "", "P", ""]
    assert qa.sources(answers) == ["gpt$eng", "gpt$eng", "gpt$eng$P", "gpt$eng"]


# -- which files -------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    for name in ("b.csv", "a.jsonl", "deep/c.csv.gz", "notes.txt", ".hidden.csv", "deep/d.parquet"):
        kind = "a" + name[name.index(".") :]
        write(tmp_path, name, KINDS[kind]([row(name, "a")]) if kind in KINDS else "text")
    return tmp_path


@pytest.mark.parametrize(
    "paths, found",
    [
        ("{0}", ["a.jsonl", "b.csv", "deep/c.csv.gz", "deep/d.parquet"]),
        ("{0}/b.csv,{0}/a.jsonl", ["b.csv", "a.jsonl"]),  # the order given
        ("{0}/*.csv, {0}/deep/*", ["b.csv", "deep/c.csv.gz", "deep/d.parquet"]),
        ("{0}/*/*.csv*", ["deep/c.csv.gz"]),
        ("{0}/b.csv,{0},{0}/deep/../b.csv", ["b.csv", "a.jsonl", "deep/c.csv.gz", "deep/d.parquet"]),  # each once
    ],
)
def test_files_folders_globs_and_commas(tree, paths, found):
    assert qa.read(paths.format(tree)).columns["question"] == found


def test_one_file_under_two_names_is_read_once(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert len(qa.read(f"b.csv,./b.csv,{tree}/b.csv,deep/../*.csv")) == 1


def test_brackets_in_a_files_name_are_no_glob(tmp_path):
    assert len(qa.read(write(tmp_path, "mine[1].csv", GOOD))) == 2


def test_a_recursive_glob_is_told_its_cure(tree):
    with pytest.raises(UserError, match="give the folder itself"):
        qa.read(f"{tree}/**/*.csv")


@pytest.mark.parametrize("paths", ["{0}/no.csv", "{0}/z*", "{0}/empty", "", " , ", "{0}/b.csv,{0}/no.csv"])
def test_nothing_found_is_an_error_with_the_endings(tree, paths):
    (tree / "empty").mkdir()
    with pytest.raises(UserError, match=r"no QA file .*\.csv, \.csv\.gz, \.jsonl, \.parquet"):
        qa.read(paths.format(tree))


# -- what is broken ----------------------------------------------------------------------------------------------

TWICE = pa.Table.from_arrays([pa.array(["x"])] * 5, names=["model", "lang", "question", "answer", "lang"])


def parquet_twice():
    out = io.BytesIO()
    pq.write_table(TWICE, out)
    return out.getvalue()


BROKEN = {
    "missing column": ("x.csv", "model,lang,question\nm,e,q\n", ("no column answer", "there: model, lang, question")),
    "other separator": ("x.csv", GOOD.replace(",", ";"), ("no column", "model;lang")),
    "empty file": ("x.csv", "", ("no column", "there: none")),
    "no rows": ("x.csv", HEADER, ("no row has an answer",)),
    "only empty": ("x.csv", HEADER + "m,e,q,\nm,e,q,nan\n", ("no row has an answer", "2 empty")),
    "latin-1": ("x.csv", GOOD.encode() + "m,eng,q3,café\n".encode("latin-1"), ("row 3 (line 4)", "UTF-8")),
    "latin-1 header": ("x.csv", "é".encode("latin-1") + GOOD.encode(), ("header (line 1)", "UTF-8")),
    "latin-1 jsonl": ("x.jsonl", b'{}\n{"\xe9', ("line 2", "UTF-8")),
    "utf-16": ("x.csv", GOOD.encode("utf-16"), ("header (line 1)", "UTF-8")),
    "nul": ("x.csv", HEADER + 'm,eng,"q\n1",a\n\0m,eng,q,a\n', ("row 2 (line 4)", "NUL byte", "UTF-8")),
    "nul in gzip": ("x.csv.gz", gzip.compress(GOOD.encode() + b"\0"), ("row 3 (line 4)", "NUL byte")),
    "unclosed quote": ("x.csv", GOOD + 'm,eng,q,"a\nm,eng,q,a\n', ("row 3 (line 4)", "close the quote")),
    "unclosed header": ("x.csv", '"model,lang\n', ("header (line 1)", "never closed")),
    "text after quote": ("x.csv", GOOD + 'm,eng,q,"a" b\n', ("row 3 (line 4)", "double the quotes")),
    "too many": ("x.csv", GOOD + "m,eng,q,a, b\n", ("row 3 (line 4)", "5 values for 4 columns", "quote")),
    "too few": ("x.csv", HEADER + "\n\nm,eng,q\n", ("row 1 (line 4)", "3 values for 4 columns")),
    "column twice": ("x.csv", "model,lang,question,answer,lang\nm,e,q,a,e\n", ("column lang stands twice", "rename")),
    "parquet twice": ("x.parquet", parquet_twice(), ("column lang stands twice", "rename")),
    "empty model": ("x.csv", GOOD + " ,eng,q,a\n", ("row 3", "model is empty", "fill it")),
    "empty question": ("x.csv", HEADER + "m,e,,a\n", ("row 1", "question is empty")),
    "broken name": ("x.csv", HEADER + '"m\n4",e,q,a\n', ("row 1", r"model='m\n4'", "line break")),
    "value_relevant": ("x.csv", HEADER[:-1] + ",value_relevant\nm,e,q,a,maybe\n", ("row 1", "'maybe'", "true, false")),
    "broken json": ("x.jsonl", json.dumps(row("q", "a")) + '\n\n{"model": \n', ("row 2 (line 3)", "broken JSON")),
    "no object": ("x.jsonl", "[1]\n", ("row 1 (line 1)", "not a JSON object")),
    "json lacks": ("x.jsonl", '{"model": "m"}\n', ("row 1 (line 1)", "no column lang, question, answer")),
    "half an emoji": ("x.jsonl", json.dumps(row("q", "a")).replace('"a"', '"\\ud83d"'), ("row 1", "surrogates")),
    "huge number": ("x.jsonl", json.dumps(row("q", 1)).replace("1", "1" * 5000), ("row 1", "digits")),
    "cut gzip": ("x.csv.gz", gzip.compress(GOOD.encode())[:-9], ("gzip", "make it again")),
    "no gzip": ("x.csv.gz", GOOD, ("gzip", "make it again")),
    "text as parquet": ("x.parquet", GOOD, ("Parquet", "make it again")),
    "empty parquet": ("x.parquet", "", ("Parquet", "make it again")),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named_with_row_and_cure(tmp_path, case):
    name, data, told = BROKEN[case]
    with pytest.raises(UserError) as error:
        qa.read(write(tmp_path, name, data))
    assert name in str(error.value) and all(word in str(error.value) for word in told), str(error.value)


@pytest.mark.parametrize("name", ["a.csv.gz", "a.parquet", "a.jsonl", "a.csv"])
def test_damage_never_ends_in_anything_but_a_user_error(tmp_path, name):
    whole, told = KINDS[name](KEPT), 0
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        try:
            qa.read(write(tmp_path, name, bytes(damaged)))
        except UserError:
            told += 1
    assert told > 3  # not all: a flipped letter is another letter


# -- what the rows say -------------------------------------------------------------------------------------------


def test_a_source_is_model_lang_and_persona_without_the_blanks_around(tmp_path):
    rows = [row("q", "a", persona=p) for p in ("", " ", "nurse", " nurse ")] + [row("q", "a", model=" gpt", persona="")]
    sources = qa.sources(qa.read(write(tmp_path, "a.csv", as_csv(rows))))
    assert sources == ["gpt$eng", "gpt$eng", "gpt$eng$nurse", "gpt$eng$nurse", "gpt$eng"]


def test_a_qas_text_is_stripped():
    assert qa.text(" Why?\n", "\tSo. ") == "Q: Why? A: So."


def test_value_relevant_in_all_its_words(tmp_path):
    words = ["", "true", "True", "1", "1.0", " true ", "false", "False", "0.0", "no", "FALSE "]
    answers = qa.read(write(tmp_path, "a.csv", as_csv([row("q", "a", value_relevant=w) for w in words])))
    assert qa.value_relevant(answers).tolist() == [True] * 6 + [False] * 5
    assert qa.value_relevant(qa.read(write(tmp_path, "b.csv", GOOD))).all()


def test_groups_fall_back_row_by_row():
    columns = {"question": ["a", "b", "c"], "question_id": ["1", "2", ""], "group_id": ["g", "", ""]}
    assert qa.groups(columns) == ["g", "2", "c"]
    assert qa.groups({"text": ["t"], "model": ["m"]}) == ["t"]


GROUPS = [f"group {i}" for i in range(5000)]


def test_heldout_is_a_function_of_seed_and_group_alone():
    shuffled = np.random.default_rng(0).permutation(5000)
    alone, among = qa.heldout(GROUPS, 42, 0.2), qa.heldout([GROUPS[i] for i in shuffled] * 2, 42, 0.2)
    np.testing.assert_array_equal(among, np.tile(alone[shuffled], 2))
    assert qa.heldout([GROUPS[7]], 42, 0.2) == alone[7]
    assert 0.2 < np.mean(alone != qa.heldout(GROUPS, 43, 0.2)) < 0.45  # 0.32 where seeds are independent


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.5, 0.9])
def test_the_share_held_out_is_as_asked_and_grows_with_it(share):
    held = qa.heldout(GROUPS, 0, share)
    assert abs(held.mean() - share) < 4 * np.sqrt(share * (1 - share) / 5000) + 1e-12
    assert (held <= qa.heldout(GROUPS, 0, share + 0.05)).all()


def test_the_rule_is_the_one_that_manifests_state():
    draw = int(hashlib.sha256(b"42\nvalues-1").hexdigest()[:16], 16) / 2**64
    assert [qa.heldout(["values-1"], 42, draw + step)[0] for step in (-1e-9, 1e-9)] == [False, True]


def test_what_reads_the_same_is_one_group():
    columns = {"group_id": [" ", "", " g "], "question": [" Why?", "Why? ", "Why?"]}
    assert qa.groups(columns) == ["Why?", "Why?", "g"]
