"""Mine among a planted reference: what is refused, said and written; and the command on real answers, end to end."""

import csv
import json
import pathlib
import re
import types

import numpy as np
import pytest

from univar_jax import embed, place
from univar_jax.cli import UserError
from univar_jax.report import figures, maps

from .conftest import SAMPLE
from .test_analyze import EVIL, corpus, vectors, write

FILES = ["map.png", "nearest.csv", "nearest.png", "pca.png", "place.json", "report.html"]
META = {"encoder": "e", "weights": "w" * 64, "qas_per_view": 1, "max_tokens": 64}


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A reference file and mine.csv, whose answers an encoder of numpy places where m2's are."""
    rows = corpus(40)
    own = [row | {"text": f"Q: {row['question_id']} A: mine"} for row in rows if row["source"] == "m2$eng"]
    z_nd = vectors(rows + own, 2, 0)
    reference, z_own = write(tmp_path / "ref.parquet", rows, z_nd[: len(rows)], **META), z_nd[len(rows) :]

    def table(_, answers, cap, dims=0):
        assert (cap, dims) == (64, 0)  # as the reference was made
        texts = [f"Q: {q} A: {a}" for q, a in zip(answers.columns["question"], answers.columns["answer"], strict=True)]
        columns = embed._columns(answers, {"seed": 0, "share": 0.2, "corpora": []})
        return embed._table(np.resize(z_own, (len(texts), 8)), [[i] for i in range(len(texts))], texts, columns, 1)

    monkeypatch.setattr(embed, "open_model", lambda model: types.SimpleNamespace(digest="w" * 64))
    monkeypatch.setattr(embed, "table", table)
    monkeypatch.setattr(maps, "umap_2d", lambda z_nd, seed: None)  # test_maps has it
    return reference, mine_csv(tmp_path)


def mine_csv(tmp_path, rows=40, name="mine.csv", **change):
    """`change` says of each column what stands in row i."""
    columns = {"model": lambda i: "mine", "lang": lambda i: "eng", "question": lambda i: f"q{i}"} | change
    columns = {"answer": lambda i: "mine"} | columns
    with open(tmp_path / name, "w", newline="") as file:
        lines = csv.DictWriter(file, list(columns))
        lines.writeheader()
        lines.writerows({key: of(i) for key, of in columns.items()} for i in range(rows))
    return str(tmp_path / name)


def run(tmp_path, reference, qa, out="r", **settings):
    place.place([reference], qa, "MODEL", str(tmp_path / out), **settings)
    return json.loads((tmp_path / out / "place.json").read_text())


def test_mine_is_placed_beside_the_source_it_was_planted_at(planted, tmp_path, capsys):
    m = run(tmp_path, *planted, against="m1$eng")
    (found,) = m["mine"]
    assert (found["source"], found["n"], found["groups"]) == ("mine$eng", 40, 40)
    assert found["nearest"][0]["source"] == "m2$eng" and len(found["nearest"]) == 3
    assert {row["lang"] for row in found["other_languages"]} == {"zho"} and len(found["other_languages"]) == 3
    # Without ids mine meet the reference's questions by their words.
    assert all(row["shared"] == 40 and row["unit"] == "question" for row in found["nearest"])
    assert found["apart_from_second"]["verdict"] == "apart" and found["not_enough"] == []
    assert found["differences"]["nearest"]["b"] == "m2$eng" and found["differences"]["against"]["b"] == "m1$eng"
    assert found["differences"]["nearest"]["most"][0]["answer_a"] == "mine"
    assert m["encoder"]["name"] == "e" and m["reference"]["sources"] == 6 and m["settings"]["min_groups"] == 10
    assert "trained on" in m["notes"][0] and found["headline"] in capsys.readouterr().out


def test_every_file_is_there_and_equal_bytes_again(planted, tmp_path, capsys):
    run(tmp_path, *planted)
    run(tmp_path, *planted, out="again")
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == FILES
    for name in FILES:
        data = (tmp_path / "r" / name).read_bytes()
        assert data == (tmp_path / "again" / name).read_bytes() and str(tmp_path).encode() not in data, name
    lines = list(csv.DictReader((tmp_path / "r" / "nearest.csv").read_text().splitlines()))
    assert len(lines) == 6 and lines[0]["source"] == "m2$eng" and float(lines[0]["energy_lo"]) < 0.1
    capsys.readouterr()
    run(tmp_path, *planted)
    assert "made from the same inputs" in capsys.readouterr().out
    with pytest.raises(UserError, match="exists with other content"):
        run(tmp_path, *planted, seed=1)


def test_page_is_self_contained_and_escapes_names(planted, tmp_path):
    run(tmp_path, *planted)
    page = (tmp_path / "r" / "report.html").read_text()
    assert EVIL not in page and "&lt;script&gt;" in page
    assert set(re.findall(r'(?:src|href)="([^"]{5})', page)) == {"data:"}
    assert not re.search(r"https?://|url\(|@import", page) and "script-src 'sha256-" in page
    assert page.count("<img") == page.count("alt=") == 1


def test_a_source_that_the_reference_has_too_is_renamed_and_its_copies_are_found(planted, tmp_path):
    reference, _ = planted
    again = mine_csv(tmp_path, model=lambda i: "m2", answer=lambda i: "m2 eng" if i < 7 else "other")
    m = run(tmp_path, reference, again)
    (found,) = m["mine"]
    assert found["source"] == "m2$eng (mine)" and found["nearest"][0]["source"] == "m2$eng"
    assert found["nearest"][0]["copies"] == 7 and found["nearest"][1]["copies"] == 0
    assert any("7 of 40 answers of m2$eng (mine) stand under m2$eng letter by letter" in n for n in m["notes"])
    assert any(note.startswith("The reference has m2$eng too") for note in m["notes"])


def test_several_of_mine_by_language_and_control_left_out(planted, tmp_path):
    reference, _ = planted
    both = mine_csv(tmp_path, 80, lang=lambda i: ("eng", "zho")[i % 2], question=lambda i: f"q{i // 2}")
    assert [f["source"] for f in run(tmp_path, reference, both)["mine"]] == ["mine$eng", "mine$zho"]
    m = run(tmp_path, reference, both, out="eng", lang=["eng"])
    assert [f["source"] for f in m["mine"]] == ["mine$eng"] and any("on the map only" in n for n in m["notes"])
    control = mine_csv(tmp_path, value_relevant=lambda i: str(i < 30), name="c.csv")
    m = run(tmp_path, reference, control, out="c")
    assert m["mine"][0]["n"] == 30 and any("10 of my rows are control" in n for n in m["notes"])


def test_too_few_answers_are_told_and_still_make_a_page(planted, tmp_path):
    m = run(tmp_path, planted[0], mine_csv(tmp_path, 4))
    assert m["mine"][0]["nearest"] == [] and len(m["mine"][0]["not_enough"]) == 6
    assert "Not enough to place mine$eng" in (tmp_path / "r" / "report.html").read_text()


def test_ids_of_other_questions_are_no_common_ones(planted, tmp_path):
    reference, _ = planted
    with pytest.raises(UserError, match="in the reference with other words: 40, q0 first, and no question reads"):
        words = mine_csv(tmp_path, question=lambda i: f"Why {i}?", question_id=lambda i: f"q{i}")
        run(tmp_path, reference, words)
    some = mine_csv(tmp_path, question=lambda i: f"q{i}" if i else "Why?", question_id=lambda i: f"q{i}")
    assert any("with other words: 1, q0 first; they are" in n for n in run(tmp_path, reference, some)["notes"])


@pytest.mark.parametrize(
    ("meta", "settings", "says"),
    [
        ({"weights": "a" * 64}, {}, r"made by encoder e \(weights aaaaaaaaaaaa\), --model=MODEL .*\(wwwwwwwwwwww\)"),
        ({"weights": ""}, {}, "names no weights"),
        ({"qas_per_view": 5}, {}, "--qas_per_view=5, handfuls .* embed the reference with --qas_per_view=1"),
        ({}, {"against": "m1$egn"}, r"--against=m1\$egn: .* did you mean m1\$eng"),
        ({}, {"against": "?"}, "among its 6; there are "),
        ({}, {"lang": ["fra"]}, "--lang=fra: none of my sources is in that language; there are eng"),
    ],
)
def test_what_does_not_go_together_is_refused(planted, tmp_path, meta, settings, says):
    rows = corpus(40)
    other = write(tmp_path / "other.parquet", rows, vectors(rows, 2, 0), **META | meta)
    with pytest.raises(UserError, match=says):
        run(tmp_path, other, planted[1], **settings)
    assert not (tmp_path / "r").exists()


def test_in_one_language_mine_have_a_colour_and_a_shape_that_no_other_has():
    columns = {"source": ["a$eng", "b$eng", "mine$eng"], "model": ["a", "b", "mine"], "lang": ["eng"] * 3}
    columns = {name: np.array(column, object) for name, column in columns.items()}
    shade_n, colour, marker = figures.looks(columns, ["mine$eng"])
    assert shade_n.tolist() == ["a$eng", "b$eng", "mine"] and set(colour) == set(shade_n)
    assert figures.COLOURS[colour["mine"]] == "#000000" and figures.MARKERS[marker["mine"]] == "*"
    assert figures.value_map(np.eye(3)[:, :2], columns, ("x", "y"), ["mine$eng"])[:4] == b"\x89PNG"


def test_control_alone_is_placed_among_control(planted, tmp_path):
    control = mine_csv(tmp_path, value_relevant=lambda i: "False")
    with pytest.raises(UserError, match="--embeddings: no control rows, of which mine are"):
        run(tmp_path, planted[0], control)
    rows = corpus(40, relevant="False")
    reference = write(tmp_path / "control.parquet", rows, vectors(rows, 2, 0), **META)
    m = run(tmp_path, reference, control)
    assert m["kind"] == "control" and m["mine"][0]["nearest"] and "by style rather than values" in m["notes"][0]


@pytest.mark.slow
def test_end_to_end_on_real_answers(stage, tiny_bert, tmp_path):
    """The command line with a real, small encoder: one model's answers again under another name are found to be its."""
    names = ("qwen2.5-coder-0.5b-instruct", "smollm2-135m-instruct")
    answers = []
    for name in names:
        with open(SAMPLE / f"{name}.csv", encoding="utf-8", newline="") as file:
            answers += [row for row in csv.DictReader(file) if row["lang"] == "eng"][:40]

    def save(file, rows):
        with open(tmp_path / file, "w", newline="", encoding="utf-8") as out:
            lines = csv.DictWriter(out, list(rows[0]))
            lines.writeheader()
            lines.writerows(rows)
        return tmp_path / file

    qa, reference = save("ref.csv", answers), tmp_path / "ref.parquet"
    done = stage("embed", model=tiny_bert, qa=qa, out=reference, max_tokens=96)
    assert done.returncode == 0, done.stderr
    mine = save("mine.csv", [row | {"model": "my-model"} for row in answers[:40]])
    flags = {"embeddings": reference, "qa": mine, "model": tiny_bert, "out": tmp_path / "r"}
    done = stage("place", **flags)
    assert done.returncode == 0, done.stderr
    m = json.loads((tmp_path / "r" / "place.json").read_text())
    (found,) = m["mine"]
    assert found["nearest"][0]["source"] == f"{names[0]}$eng" and found["nearest"][0]["copies"] == 40
    assert abs(found["nearest"][0]["energy"]) < 0.01 and found["nearest"][0]["p"] > 0.5
    assert m["encoder"]["max_tokens"] == "96" and m["map"]["umap"] and "lies nearest to" in done.stdout
    again = stage("place", **flags)
    assert again.returncode == 0 and "made from the same inputs" in again.stdout
    other = stage("place", **flags | {"model": "minilm", "out": tmp_path / "other"})
    assert other.returncode == 2 and other.stderr.count("\n") == 1 and "give the --model that made it" in other.stderr
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1100), ("dark", 1100), ("light", 360)])
def test_in_a_browser_mine_stand_first_and_alone_when_pressed(planted, tmp_path, browser, scheme, width):
    run(tmp_path, *planted, against="m1$eng")
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said, asked = [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto((tmp_path / "r" / "report.html").as_uri())
    tab.wait_for_timeout(300)
    key = tab.locator("#map-legend button").first
    assert key.inner_text() == "mine$eng" and key.locator("b").count() == 1
    key.click()
    assert tab.inner_text("#map-said") == "40 points of mine$eng" and key.get_attribute("aria-pressed") == "true"
    tab.keyboard.press("Escape")
    assert tab.inner_text("#map-said") == ""
    assert tab.locator("details.pair:visible").count() == 1 and tab.input_value("#pair-a") == "mine$eng"
    assert tab.input_value("#pair-b") == "m2$eng"
    assert tab.locator("#pair-b option").all_inner_texts() == ["m1$eng", "m2$eng"]
    with tab.expect_download() as waited:
        tab.click("#save-metrics")
    assert waited.value.suggested_filename == "place.json"
    assert json.loads(pathlib.Path(waited.value.path()).read_text()) == json.loads(
        (tmp_path / "r" / "place.json").read_text()
    )
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert said == [] and len(asked) == 1 and asked[0].startswith("file:")
    tab.close()
