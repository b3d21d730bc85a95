"""prepare: what is in the records, the same bytes after any interruption, nothing touched that is another's."""

import collections
import contextlib
import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from univar_jax import config, files, prepare, qa
from univar_jax.cli import UserError
from univar_jax.dataset import pairs, shards
from univar_jax.encoders import models

COLUMNS = ("model", "lang", "question", "answer", "question_id", "value_relevant")
VALUES = {"max_qas": 3, "max_tokens": 48, "epochs": 3}


def some_rows():
    """Two models of 30 questions, one of them in a second language, one answer alone, control rows, empty ones."""
    for i in range(30):
        for model in ("ada", "bob"):
            yield model, "eng", f"What is number {i}?", f"{model} says it is {i * i}.", f"q{i}", ""
    for i in range(12):
        yield "bob", "zho", f"请问 number {i}?", f"bob 说 {i * i}", f"q{i}", "true"
        yield "ada", "eng", f"How long is number {100 + i}?", "Long.", f"c{i}", "false"
    yield from (("alone", "eng", f"What is number {i}?", text, f"q{i}", "") for i, text in enumerate(("It is 0.", "")))


def write_rows(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return str(path)


@pytest.fixture(scope="module")
def qa_file(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("qa") / "mine.csv", some_rows())


class Inline:
    """Stands in for the process pool: the same jobs in this process, so that PER_SHARD can be small."""

    def __init__(self, workers, context, start, args):
        start(*args)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    map = staticmethod(map)


@pytest.fixture
def inline(monkeypatch):
    monkeypatch.setattr(pairs, "ProcessPoolExecutor", Inline)
    monkeypatch.setattr(pairs, "_end_with_parent", lambda: None)
    monkeypatch.setattr(shards, "PER_SHARD", 64)


def call(qa_file, out, encoder="minilm", lang="", include_control=False, **values):
    full = config.complete(ConfigDict(VALUES | values))
    return prepare.prepare(qa_file, encoder, str(out), full, lang=lang, include_control=include_control)


def content(path):
    """Every file under a path with its bytes."""
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.fixture
def data(inline, qa_file, tmp_path):
    call(qa_file, tmp_path / "data")
    return tmp_path / "data"


# -- what is in the records --------------------------------------------------------------------------------------


def texts(folder, split, tokenizer):
    """Each record as (source, anchor, key), spelt back."""
    found = shards.Shards(folder, shards.read_manifest(str(folder)), split)
    for record in range(len(found)):
        pair = found.read(record)
        yield found.sources[pair.source], *(tokenizer.decode(side.tolist()) for side in (pair.anchor, pair.key))


def numbers(folder, split, tokenizer):
    views = [view for _, *views in texts(folder, split, tokenizer) for view in views]
    return {int(n) for view in views for n in re.findall(r"number (\d+)", view)}


def test_held_out_questions_are_in_eval_alone_and_the_others_in_train_alone(data, minilm):
    held = {i for i in range(30) if qa.heldout([f"q{i}"], 42, 0.2)[0]}
    tokenizer = models.tokenizer(minilm)
    assert numbers(data, "train", tokenizer) == set(range(30)) - held
    assert numbers(data, "eval", tokenizer) == held and len(held) > 2


def test_every_view_is_the_ids_of_its_sources_answers(data, qa_file, minilm):
    answers, tokenizer = qa.read(qa_file), models.tokenizer(minilm)
    spelt = collections.defaultdict(dict)
    asked, said = answers.columns["question"], answers.columns["answer"]
    for source, question, answer in zip(qa.sources(answers), asked, said, strict=True):
        spelt[source][int(re.search(r"number (\d+)", question)[1])] = qa.text(question, answer)
    found = shards.Shards(data, shards.read_manifest(str(data)), "train")
    for record in range(len(found)):
        pair = found.read(record)
        for side in (pair.anchor, pair.key):
            drawn = [int(n) for n in re.findall(r"number (\d+)", tokenizer.decode(side.tolist()))]
            whole = "\n".join(spelt[found.sources[pair.source]][n] for n in drawn)
            assert side.tolist() == tokenizer.encode(whole).ids and 1 <= len(drawn) <= 3 and len(side) <= 48


def test_the_first_records_are_what_they_were(data, minilm):
    # Folders on disk hold them: who changes them must raise prepare.LAW_VERSION.
    for split, first in (("train", ("bob$eng", ["6"], ["23"])), ("eval", ("bob$eng", ["10"], ["12", "10", "19"]))):
        source, *views = next(texts(data, split, models.tokenizer(minilm)))
        assert (source, *(re.findall(r"number (\d+)", view) for view in views)) == first


def test_a_source_of_one_held_out_answer_has_no_eval_pairs(inline, tmp_path, minilm):
    held = [f"q{i}" for i in range(40) if qa.heldout([f"q{i}"], 42, 0.2)[0]][:2]
    ids = [[f"q{i}" for i in range(12) if not qa.heldout([f"q{i}"], 42, 0.2)[0]] + held[:n] for n in (1, 2)]
    rows = [(model, "eng", "Why?", "So.", i, "") for model, side in zip("ab", ids, strict=True) for i in side]
    call(write_rows(tmp_path / "x.csv", rows), tmp_path / "data")
    assert [source for source, *_ in texts(tmp_path / "data", "eval", models.tokenizer(minilm))] == ["b$eng"] * 2


def test_records_are_epochs_times_training_qas(data):
    manifest = shards.read_manifest(str(data))
    held = sum(qa.heldout([f"q{i}"], 42, 0.2)[0] for i in range(30))
    held_zho = sum(qa.heldout([f"q{i}"], 42, 0.2)[0] for i in range(12))
    found = shards.Shards(data, manifest, "train")
    assert manifest["splits"]["train"]["records"] == len(found) == 3 * (72 - 2 * held - held_zho)
    assert manifest["splits"]["eval"]["records"] == 2 * held + (held_zho if held_zho > 1 else 0)
    visits = np.bincount([found.read(i).source for i in range(len(found))])
    assert visits.tolist() == [3 * (30 - held), 3 * (30 - held), 3 * (12 - held_zho)]


def test_a_source_of_one_answer_is_left_out_and_named(inline, qa_file, tmp_path, capsys):
    manifest = call(qa_file, tmp_path / "data")
    assert manifest["sources"] == ["ada$eng", "bob$eng", "bob$zho"]
    (name, size) = next(iter(manifest["left_out"].items()))
    out = capsys.readouterr().out
    assert name == "alone$eng" and f"left out: alone$eng has {size} QA" in out
    assert "85 answers in 1 files, 1 empty ones dropped" in out


def test_control_rows_are_taken_when_asked_and_counted_either_way(inline, qa_file, tmp_path, capsys, minilm):
    tokenizer = models.tokenizer(minilm)
    for include, word in ((False, "left out"), (True, "taken too")):
        folder = tmp_path / word
        call(qa_file, folder, include_control=include)
        assert f"73 about values, 12 control rows {word}" in capsys.readouterr().out
        assert (max(numbers(folder, "train", tokenizer)) >= 100) == include


def test_lang_takes_those_languages_only(inline, qa_file, tmp_path):
    assert call(qa_file, tmp_path / "zho", lang="zho")["sources"] == ["bob$zho"]
    assert len(call(qa_file, tmp_path / "both", lang=" eng, zho ")["sources"]) == 3
    with pytest.raises(UserError, match="--lang=chi: no answer is in that language; there: eng, zho"):
        call(qa_file, tmp_path / "none", lang="eng,chi")


def test_no_source_with_two_answers_is_an_error(inline, tmp_path):
    path = write_rows(tmp_path / "few.csv", [("a", "eng", "q", "a", "", ""), ("b", "eng", "q", "a", "", "")])
    with pytest.raises(UserError, match="no source has 2 QAs to train on"):
        call(path, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_max_tokens_beyond_the_positions_gives_both_numbers(qa_file, tmp_path):
    with pytest.raises(UserError, match=r"max_tokens=1024 .*512 positions.*--config\.max_tokens=512"):
        call(qa_file, tmp_path / "data", max_tokens=1024)


def test_dropped_qas_and_cut_views_are_counted(inline, qa_file, tmp_path):
    splits = call(qa_file, tmp_path / "data", max_tokens=12)["splits"]
    assert splits["train"]["qas_dropped"] > 0 and splits["train"]["views_cut"] > 0
    found = shards.Shards(tmp_path / "data", shards.read_manifest(str(tmp_path / "data")), "train")
    assert found.lengths().max() == 12 and found.lengths().sum() == splits["train"]["tokens"]


# -- again -------------------------------------------------------------------------------------------------------


def test_neither_the_folders_name_nor_the_files_place_is_in_the_bytes(data, qa_file, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(qa_file, tmp_path / "elsewhere")
    call(str(tmp_path / "elsewhere"), tmp_path / "1.2.3", lr=1.0)  # lr makes no record
    assert content(tmp_path / "1.2.3") == content(data)


def test_finished_and_the_same_is_said_and_left_alone(data, qa_file, capsys):
    before = {p: p.stat().st_mtime_ns for p in data.iterdir()}
    again = call(qa_file, data)
    assert "finished and the same" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in data.iterdir()}
    assert again == shards.read_manifest(str(data))


CHANGES = [{"seed": 1}, {"max_qas": 2}, {"max_tokens": 47}, {"epochs": 2}, {"disjoint_views": True}, {"holdout": 0.3}]
CHANGES += [{"include_control": True}, {"lang": "eng"}]


@pytest.mark.parametrize("state", ["finished", "unfinished"])
@pytest.mark.parametrize("change", [*CHANGES, "answer"], ids=str)
def test_other_inputs_are_refused_and_nothing_is_touched(data, qa_file, tmp_path, change, state):
    if state == "unfinished":
        (data / "manifest.json").rename(data / "manifest.partial.json")
    before = content(data)
    if change == "answer":
        change, qa_file = {}, write_rows(tmp_path / "mine.csv", [*some_rows(), ("ada", "eng", "q", "a", "", "")])
    with pytest.raises(UserError, match=r"was prepared from other answers, tokenizer or config.*give another --out"):
        call(qa_file, data, **change)
    assert content(data) == before


FOREIGN = [("out/notes.txt", "mine"), ("out/deep/x", "mine"), ("out/.parts/x", "mine"), ("out", "a file")]
FOREIGN += [("out/manifest.json", text) for text in ("", "no json", "[1]", "{}", '{"fingerprint": null}')]


@pytest.mark.parametrize("name, text", FOREIGN)
def test_what_is_not_prepares_is_refused_and_not_touched(qa_file, tmp_path, name, text):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=r"--out=.*give another --out"):
        call(qa_file, tmp_path / "out")
    assert content(tmp_path) == {name: text.encode()}


# -- interrupted -------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Nobody catches it, as nobody catches SIGKILL."""


def killed_at(monkeypatch, number):
    """From now on, the file of that number is never finished: it stays aside, and the run ends there."""
    whole, count = files.whole, iter(range(10**6))

    @contextlib.contextmanager
    def fatal(path):
        if next(count) == number:
            path.with_name(f".{path.name}.99999.tmp").write_bytes(b"half a file")
            raise Killed
        with whole(path) as file:
            yield file

    monkeypatch.setattr(files, "whole", fatal)


def test_killed_at_any_file_and_started_again_gives_the_same_bytes(data, qa_file, tmp_path, monkeypatch):
    expected, out = content(data), tmp_path / "again"
    for number in range(100):
        with monkeypatch.context() as patch:
            killed_at(patch, number)
            try:
                call(qa_file, out)
                break
            except Killed:
                pass
        call(qa_file, out)
        assert content(out) == expected, f"killed at file {number}"
        assert not [p for p in out.rglob("*") if p.is_dir()]
        shutil.rmtree(out)
    assert number > 10  # the first manifest, each shard with its index and facts, two indexes, the manifest


@pytest.mark.parametrize("keep", [".index", ".json", ".npy"])
def test_killed_while_tidying_up_and_started_again_gives_the_same_bytes(data, qa_file, tmp_path, monkeypatch, keep):
    def half(parts):
        for path in Path(parts).iterdir():
            if path.suffix != keep:
                path.unlink()
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shutil, "rmtree", half)
        call(qa_file, tmp_path / "again")
    call(qa_file, tmp_path / "again")
    assert content(tmp_path / "again") == content(data)


def test_a_run_that_goes_on_says_so_and_keeps_whole_shards(data, qa_file, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at(patch, 8)
        call(qa_file, tmp_path / "again")
    written = (tmp_path / "again" / shards.file_name("train", 0, 3)).stat
    before = written().st_mtime_ns
    call(qa_file, tmp_path / "again")
    assert "unfinished: going on" in capsys.readouterr().out and written().st_mtime_ns == before
