"""One whole report of two encoders over planted sources, by the command line and by the function."""

import csv
import json
import os
import re
import subprocess
import sys

import pytest

from univar_jax import qa
from univar_jax.report import page

from .test_analyze import EVIL, FILES, ROOT, corpus, vectors, write

RUN = """
import runpy, sys
try:
    runpy.run_module("univar_jax.analyze", run_name="__main__")
except SystemExit as stop:
    assert not stop.code, stop.code
from univar_jax import analyze
files, out = (a.split("=", 1)[1] for a in sys.argv[1:3])
analyze.analyze(files.split(","), out + "_again", k=20, seed=3)
names = {"jax", "jaxlib", "torch", "tensorflow", "keras"}
print("loaded:", sorted(names & {m.split(".")[0] for m, there in sys.modules.items() if there}), "umap" in sys.modules)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Command line and function on the same files, where tensorflow, torch and keras could be imported."""
    tmp = tmp_path_factory.mktemp("whole")
    for name in ("tensorflow", "torch", "keras"):
        (tmp / "bait" / name).mkdir(parents=True)
        (tmp / "bait" / name / "__init__.py").touch()
    values = corpus(25, "one") + corpus(15, "two", prefix="p")
    control = corpus(12, "lima", "False", prefix="c")
    tuned = {"encoder": "tuned", "weights": "aa", "step": 7, "holdout": '{"seed": 0, "share": 0.3}'}
    files = [
        write(tmp / "a.parquet", values, vectors(values, 4, 0), **tuned),
        write(tmp / "b.parquet", values + control, vectors(values + control, 0, 1), encoder="before", weights="bb"),
        write(tmp / "c.parquet", control[:-1], vectors(control[:-1], 0, 2), **tuned),
    ]
    arguments = [f"--embeddings={','.join(files)}", f"--out={tmp / 'r'}", "--k=20", "--seed=3"]
    path = os.pathsep.join([str(tmp / "bait"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return tmp / "r", done.stdout, json.loads((tmp / "r" / "metrics.json").read_text())


def test_whole_run_tells_planted_sources_apart(whole):
    _, _, m = whole
    assert m["sources"] == 6 and m["chance"] == pytest.approx(1 / 6)
    assert [e["encoder"] for e in m["encoders"]] == ["tuned", "before"]
    assert m["knn"] == m["encoders"][0]["knn"] and m["knn"]["k"] == 20
    assert m["knn"]["acc"] > 0.9 and m["knn"]["acc_ci"][0] > 0.8 and m["knn"]["f1"] > 0.9
    assert m["knn"]["acc_ci"][0] <= m["knn"]["acc"] <= m["knn"]["acc_ci"][1]
    assert set(m["linear"]) == {"acc@1", "acc@3", "acc@5", "f1"}
    assert m["encoders"][1]["knn"]["acc"] < 0.4 and m["control"]["knn"]["acc"] < 0.45
    (pair,) = m["paired"]
    assert pair["verdict"] == "above" and pair["against"] == "before" and pair["groups"] == m["groups"]
    assert pair["difference"] == pytest.approx(m["knn"]["acc"] - m["encoders"][1]["knn"]["acc"])


def test_whole_run_counts_what_it_used(whole):
    _, _, m = whole
    groups = [f"q{i}" for i in range(25)] + [f"p{i}" for i in range(15)]
    held = qa.heldout(groups, 0, 0.3).sum()
    assert (m["groups"], m["n_scored"], m["n"], m["few_clusters"]) == (held, held * 6, 240, True)
    assert set(m["by_dataset"]) == {"one", "two"} and m["by_dataset"]["one"]["n"] == 150
    # The joined control file lacks one row that the other encoder has.
    assert m["rows"] == 240 + 71 and m["control"]["n"] == 71
    assert any("1 rows of before are not in all files" in note for note in m["notes"])


def test_whole_run_writes_every_file_and_equal_bytes_again(whole):
    out, _, _ = whole
    again = out.with_name("r_again")
    assert sorted(p.name for p in again.iterdir()) == FILES
    for name in FILES:
        assert (out / name).read_bytes() == (again / name).read_bytes(), name
    assert not list(out.parent.glob(".*partial"))


def test_whole_run_loads_no_framework_and_says_the_figures_on_one_screen(whole):
    out, screen, m = whole
    assert "loaded: [] True" in screen  # though all of them could be imported
    assert f"values    tuned: k-NN {m['knn']['acc']:.3f}" in screen and "few clusters" in screen
    assert f"report    {out / 'report.html'}" in screen
    assert "the language alone gives a source away" in screen


def test_page_is_self_contained_and_escapes_names(whole):
    page = (whole[0] / "report.html").read_text()
    assert EVIL not in page and "&lt;script&gt;" in page
    data = [f'<script type="application/json" id="{name}">' for name in ("points", "metrics")]
    assert re.findall("<script[^>]*>", page) == [*data, "<script>"]
    assert set(re.findall(r'(?:src|href)="([^"]{5})', page)) == {"data:"}
    assert not re.search(r"https?://|url\(|@import", page)
    assert page.count("<img") == page.count("alt=") == 3
    assert "prefers-color-scheme" in page and "width=device-width" in page
    assert str(whole[0].parent) not in page + (whole[0] / "metrics.json").read_text()


def test_distances_are_a_row_a_pair_and_those_of_metrics(whole):
    rows = list(csv.DictReader((whole[0] / "distances.csv").read_text().splitlines()))
    apart = whole[2]["distances"]
    assert len(rows) == 15 and list(rows[0]) == ["a", "b", *page.PAIR_COLUMNS]
    for row in rows:
        i, j = (apart["names"].index(row[side]) for side in "ab")
        for key in page.PAIR_COLUMNS:
            assert float(row[key]) == apart[key][i][j] == apart[key][j][i]
    assert max(float(row["q"]) for row in rows) < 0.05  # all sources were planted apart
    assert all(float(row["energy"]) > float(row["floor"]) > 0 for row in rows)


def test_whole_run_says_everything_beside_the_scores(whole):
    _, screen, m = whole
    assert m["permutation_p"] == 0.001 and ", p 0.001" in screen and ", TF-IDF " in screen
    assert f"ratio     tuned: values to control {m['value_to_control']['ratio']:.2f} [" in screen
    assert "15 of 15 pairs of sources apart" in screen and "across    tuned, one to two" in screen
    assert m["distances"]["mantel"]["language"]["centroid"]["n"] == 6 and m["distances"]["mantel"]["reference"] is None
    assert len(m["questions"]) == 15 and m["questions"][0]["shared"] == 40
    assert m["map"]["pca"]["trustworthiness"] > 0.5 and m["map"]["umap"]["continuity"] > 0.5
    assert (
        m["settings"]["permutations"] == 999 and len(m["distances"]["linkage"]) == len(m["distances"]["support"]) == 5
    )


def test_whole_page_shows_what_was_measured(whole):
    page, m = (whole[0] / "report.html").read_text(), whole[2]
    for words in ("TF-IDF", "Values to control", "split by count", "Equal lengths", "one → two", "Mantel", "support"):
        assert words in page, words
    assert "trustworthiness" in page and "Most different" in page
    assert f"{100 * m['tfidf']['acc']:.1f} %" in page and f"{m['value_to_control']['ratio']:.2f}" in page
