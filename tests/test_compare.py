"""Planted personas from Parquet to page: compare.json, exit code 3, every mistake, and the page in a browser."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from univar_jax import compare
from univar_jax.cli import UserError
from univar_jax.report import maps
from univar_jax.statistics import noise, resamples

from .test_analyze import EVIL, write
from .test_shifts import answers

ROOT = pathlib.Path(__file__).parents[1]
FILES = ["compare.json", "map.png", "pairs.csv", "pca.png", "questions.csv", "report.html"]
WHO = "owner: board, reason: a tone is no change, date: 2026-11-01"


def planted(questions=36, control=14, d=12):
    """m$eng, the persona stoic that changes nothing, rebel that moves all, and others beside them."""
    draws = np.random.default_rng(0)
    asked = draws.normal(size=(questions + control, d)) / np.sqrt(d)
    rows, z = [], []
    for source, shift in {"m$eng": 0, "m$eng$stoic": 0, "m$eng$rebel": 1.0, "m$zho": 0, f"{EVIL}$eng": 1.5}.items():
        z.append(answers(draws, asked[:questions], shift))
        z.append(answers(draws, asked[questions:]))
        for q in range(questions + control):
            question = f"number {q}? {EVIL}"
            row = dict(zip(("model", "lang"), source.split("$")[:2], strict=True)) | {"source": source}
            row |= {"text": f"Q: {question} A: {source} says {q}", "question": question, "question_id": f"q{q}"}
            row |= {"answer": f"{source} says {q}", "dataset": "d", "split": "heldout"}
            value = "" if q >= questions else "rare" if q < 4 else ("honesty", EVIL)[q % 2]
            rows.append(row | {"value": value, "value_relevant": str(q < questions)})
    return rows, np.concatenate(z)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    rows, z_nd = planted()
    return write(tmp_path_factory.mktemp("e") / "e.parquet", rows, z_nd, encoder="e", weights="w")


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    monkeypatch.setattr(resamples, "PERMUTATIONS", 99)
    monkeypatch.setattr(resamples, "RESAMPLES", 200)
    monkeypatch.setattr(noise, "LABELLINGS", 100)
    monkeypatch.setattr(maps, "umap_2d", lambda z_nd, seed: z_nd[:, 1:3].astype(float))


def law(tmp_path, text):
    (tmp_path / "b.yaml").write_text(text)
    return str(tmp_path / "b.yaml")


def run(tmp_path, file, out="r", **more):
    code = compare.compare([file], str(tmp_path / out), **more)
    return code, json.loads((tmp_path / out / "compare.json").read_text())


def test_personas_are_held_within_bounds_and_a_release_check_fails(file, tmp_path, capsys):
    text = f"global:\n- {{source: '*', distance: 0.15, values: {{honesty: 1, rare: 1}}, {WHO}}}"
    code, m = run(tmp_path, file, bounds=law(tmp_path, text))
    assert code == compare.NOT_WITHIN == 3
    assert [(p["before"], p["after"]) for p in m["pairs"]] == [("m$eng", "m$eng$rebel"), ("m$eng", "m$eng$stoic")]
    rebel, stoic = m["pairs"]
    assert rebel["q"] == 0.02 and rebel["shift"] > 3 * rebel["noise_band"][1] and rebel["rows"] == [36, 36]
    assert stoic["q"] > 0.05 and stoic["noise_of"] == "questions" and rebel["control"]["p"] > 0.05
    assert rebel["by_value"]["honesty"]["q"] <= 0.05 and rebel["by_value"]["rare"]["not_enough"]["groups"] == 4
    assert (rebel["toward"][0]["source"], rebel["toward"][0]["verdict"]) == (f"{EVIL}$eng", "toward")
    assert {(b["source"], b["value"]): b["verdict"] for b in m["bounds"]} == {
        ("m$eng$rebel", None): "exceeded",
        ("m$eng$rebel", "honesty"): "within",
        ("m$eng$rebel", "rare"): "not enough",
        ("m$eng$stoic", None): "within",
        ("m$eng$stoic", "honesty"): "within",
        ("m$eng$stoic", "rare"): "not enough",
    }
    assert m["bounds"][0]["owner"] == "board" and m["bounds"][0]["date"] == "2026-11-01"
    told = capsys.readouterr().out
    assert "FAIL      exceeded: m$eng$rebel, all questions" in told and "a tone is no change" in told
    assert "pass      within: m$eng$stoic, all questions" in told
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == FILES
    html = (tmp_path / "r" / "report.html").read_text()
    assert "3 of 6 bounds are not shown to be kept" in html and EVIL not in html.split("<script")[0]
    again, _ = run(tmp_path, file, bounds=law(tmp_path, text))
    assert again == 3 and "made from the same inputs" in capsys.readouterr().out  # a check run again fails again
    with pytest.raises(UserError, match="exists with other content"):
        run(tmp_path, file, bounds=law(tmp_path, text.replace("0.15", "0.16")))
    other, m = run(tmp_path, file, "kept", bounds=law(tmp_path, f"user:\n- {{persona: '*', distance: 1, {WHO}}}"))
    assert other == 0 and all(b["pass"] for b in m["bounds"])


def test_equal_inputs_give_equal_bytes_and_another_seed_others(file, tmp_path):
    one = dict(before="m$eng", after="m$eng$rebel")
    code, m = run(tmp_path, file, **one)
    assert code == 0 and m["bounds"] is None and m["pairs"][0]["q"] == m["pairs"][0]["p"] == 0.01
    run(tmp_path, file, "again", **one)
    run(tmp_path, file, "other", seed=1, **one)
    same, others = ([(tmp_path / r / f).read_bytes() for f in FILES] for r in ("again", "other"))
    assert [(tmp_path / "r" / f).read_bytes() for f in FILES] == same != others
    each = (tmp_path / "r" / "questions.csv").read_text().splitlines()
    assert each[0] == "before,after,dataset,question_id,question,value,distance" and len(each) == 37
    lines = (tmp_path / "r" / "pairs.csv").read_text().splitlines()
    assert lines[0].startswith("before,after,value,shift,") and len(lines) == 5
    quoted = m["questions"][0]
    assert (quoted["a"], quoted["b"], quoted["shared"]) == ("m$eng", "m$eng$rebel", 36)
    assert quoted["most"][0]["answer_b"].startswith("m$eng$rebel says")


def test_a_pair_without_enough_common_questions_is_said(tmp_path, capsys):
    rows, z_nd = planted()
    few = [r | {"question_id": "x" + r["question_id"]} if r["model"] == EVIL else r for r in rows]
    kept = [i for i, r in enumerate(few) if r["source"] != "m$eng$stoic" or int(r["question_id"][1:]) < 7]
    file = write(tmp_path / "few.parquet", [few[i] for i in kept], z_nd[kept])
    (tmp_path / "p.csv").write_text(f"after,why,before\nm$eng$stoic,,m$eng\n{EVIL}$eng,,m$eng\nm$zho,,m$eng\n")
    code, m = run(tmp_path, file, pairs=str(tmp_path / "p.csv"))
    assert code == 0 and [p["shared"] for p in m["pairs"]] == [7, 0, 36]
    assert [p["shift"] is None for p in m["pairs"]] == [True, True, False]
    assert m["notes"] == [
        "m$eng to m$eng$stoic: not enough to say, 7 common questions in 7 groups; "
        "10 groups and 5 answers of either are needed.",
        f"m$eng to {EVIL}$eng: not enough to say, no common question; 10 groups and 5 answers of either are needed.",
        "m$eng to m$zho: two languages, which alone set sources apart.",
    ]
    assert "not enough: 7 common question groups, 10 are needed" in capsys.readouterr().out
    assert "no common question" in (tmp_path / "r" / "report.html").read_text()
    code, m = run(tmp_path, file, "one", before="m$eng", after="m$eng$stoic")
    assert code == 0 and "not enough: 7 common question groups" in (tmp_path / "one" / "report.html").read_text()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({}, "nothing to compare; give --before and --after, or --pairs, or --bounds"),
        ({"before": "m$eng"}, "--after is missing"),
        ({"after": "m$eng"}, "--before is missing"),
        ({"before": "m$eng", "after": "m$eng"}, r"before and after are both m\$eng"),
        ({"before": "m$eng", "after": "m$eng$stoick"}, r"m\$eng\$stoick is none of the 5 .*mean m\$eng\$stoic"),
        ({"before": "m$eng", "pairs": "p.csv"}, "--pairs and --before/--after both name pairs"),
        ({"pairs": "no.csv"}, "--pairs=.*no.csv: no such file"),
        ({"pairs": b""}, "given: nothing in it; give a CSV with a header"),
        ({"pairs": b"before,aft\n"}, "no column after"),
        ({"pairs": b"before,after\n"}, "0 rows"),
        ({"pairs": b"before,after\n\xff,b\n"}, "not UTF-8 .byte 13."),
        ({"pairs": b'before,after\n"a,b\n'}, "not a whole CSV"),
        ({"pairs": b"before,after\nm$eng\n"}, "row 1: 1 values for 2 columns"),
        ({"pairs": b"before,after\nm$eng,\n"}, "row 1: after is empty"),
        ({"pairs": b"before,after\nm$eng,m$zho\nm$eng,nobody\n"}, "row 2: nobody is none of the 5 sources"),
        ({"pairs": b"before,after\na,b\na,b\n"}, "row 2: a to b stands in row 1 too"),
        ({"bounds": b"global: []"}, "no bound in it"),
        ({"bounds": f"user:\n- {{source: 'x*', distance: 1, {WHO}}}".encode()}, "none of its 1 bounds matches any of"),
        ({"bounds": f"user:\n- {{source: m$eng$stoc, distance: 1, {WHO}}}".encode()}, r"did you mean m\$eng\$stoic"),
    ],
)
def test_a_mistake_is_told_in_one_line(file, tmp_path, more, says):
    for key, content in list(more.items()):
        if key in ("pairs", "bounds"):
            given = tmp_path / (content if isinstance(content, str) else "given")
            more = more | {key: str(given)}
            if isinstance(content, bytes):
                given.write_bytes(content)
    with pytest.raises(UserError, match=says):
        run(tmp_path, file, **more)
    assert not (tmp_path / "r").exists()


def test_files_that_cannot_be_compared(file, tmp_path):
    rows, z_nd = planted()
    other = write(tmp_path / "o.parquet", rows, z_nd, encoder="o", weights="v")
    with pytest.raises(UserError, match=r"files of 2 encoders .e, o.; a distance is within one"):
        compare.compare([file, other], str(tmp_path / "r"), "m$eng", "m$zho")
    handfuls = write(tmp_path / "h.parquet", rows, z_nd, qas_per_view=5)
    with pytest.raises(UserError, match="--qas_per_view=5, handfuls that no two sources share"):
        run(tmp_path, handfuls, before="m$eng", after="m$zho")
    alone = [i for i, r in enumerate(rows) if r["source"] in ("m$eng$stoic", "m$zho")]
    some = write(tmp_path / "s.parquet", [rows[i] for i in alone], z_nd[alone])
    bounds = law(tmp_path, f"user:\n- {{persona: stoic, distance: 1, {WHO}}}")
    with pytest.raises(UserError, match=r"m\$eng\$stoic has no m\$eng to be compared with"):
        run(tmp_path, some, bounds=bounds)
    alone = [i for i, r in enumerate(rows) if len(r["source"].split("$")) == 2]
    none = write(tmp_path / "n.parquet", [rows[i] for i in alone], z_nd[alone])
    with pytest.raises(UserError, match=r"no source has a persona"):
        run(tmp_path, none, bounds=bounds)


def test_training_rows_and_control_alone_are_told(tmp_path):
    rows, z_nd = planted()
    kept = [i for i, r in enumerate(rows) if r["value"] and r["source"] in ("m$eng", "m$zho")]
    some = [rows[i] | {"value_relevant": "False", "split": "train"} for i in kept]
    _, m = run(tmp_path, write(tmp_path / "c.parquet", some, z_nd[kept]), before="m$eng", after="m$zho")
    assert m["pairs"][0]["trained"] == 72 and m["pairs"][0]["control"] is None
    assert "All rows are control" in m["notes"][0] and "trained on 72 of its 72 rows" in m["notes"][1]


def test_the_command_line_passes_the_exit_code_on(tmp_path):
    script = "import sys; from univar_jax import cli; sys.argv = ['x']; cli.run(lambda f: 3)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 3
    command = f"{sys.executable} -m univar_jax.compare --embeddings={tmp_path}/no.parquet --out=x --before=a --after=b"
    done = subprocess.run(command.split(), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert (
        done.stderr == f"error: --embeddings={tmp_path}/no.parquet: no such file; give Parquet files that embed wrote\n"
    )


@pytest.mark.parametrize("width", [1100, 360])
def test_the_page_asks_for_nothing_and_fits_a_phone(browser, file, tmp_path, width):
    bounds = law(tmp_path, f"global:\n- {{source: '*', distance: 0.15, values: {{'*': 1}}, {WHO}}}")
    run(tmp_path, file, bounds=bounds)
    tab, said, asked = browser.new_page(viewport={"width": width, "height": 900}), [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto((tmp_path / "r" / "report.html").as_uri())
    tab.wait_for_timeout(300)
    assert said == [] and len(asked) == 1 and tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.locator("#map-canvas").is_visible() and tab.locator("figure img:visible").count() == 2
    drawn = "valueMap.state.map.arrows.map(({before, after, ends}) => [before, after, ends.length])"
    assert tab.evaluate(drawn) == [["m$eng", "m$eng$rebel", 4], ["m$eng", "m$eng$stoic", 4]]
    whole = tab.locator("#map-canvas").screenshot()
    tab.uncheck("#map-arrows")
    tab.wait_for_timeout(100)
    assert tab.locator("#map-canvas").screenshot() != whole  # they were there, and can be taken away
    tab.check("#map-arrows")
    tab.click("#map-near")
    assert tab.evaluate("valueMap.state.view.zoom") > 1
    assert tab.locator("tr.fail").count() == 3 and "not enough" in tab.inner_text(".bounds")
    assert tab.locator("details.pair:visible").count() == 1 and EVIL in tab.inner_text("main")
    assert "bounds.csv" in tab.inner_text("#save-tables") and "compare.json" in tab.inner_text("#save")
    tab.close()
