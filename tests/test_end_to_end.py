"""The main job as a newcomer runs it: the quickstart script with two steps, on the real MiniLM."""

import json
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from .conftest import ROOT
from .faulty import Faulty

FEW = ["--config.steps=2", "--config.epochs=1", "--config.pairs=16"]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """OUT and what the script printed."""
    pytest.importorskip("torch", reason="the [torch] extra is not installed")
    out = tmp_path_factory.mktemp("quickstart") / "out"
    return out, script(out)


def script(out):
    done = subprocess.run(
        ["bash", "launch/quickstart.sh", out, *FEW],
        cwd=ROOT,
        env=os.environ | {"VENV": sys.prefix},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_ends_with_the_reports_path_and_the_page_stands_alone(quickstart):
    out, first = quickstart
    assert first.rstrip().endswith(f"{out}/report/report.html")
    page = (out / "report" / "report.html").read_text("utf-8")
    assert "no difference shown" in page or "below" in page or "above" in page
    assert "http" not in [word[:4] for word in page.replace('"', " ").replace("(", " ").split() if "src=" in word]


@pytest.mark.slow  # the README's commands below are the script's, and find all finished too
def test_the_second_run_does_nothing_twice(quickstart):
    out, first = quickstart
    second = script(out)
    assert second.count("finished and the same") == 4  # prepare, train, two embeds
    assert "nothing to do" in second and "made from the same inputs" in second
    assert "step 1/" in first and "step 1/" not in second and "installing univar_jax" not in second


def test_the_export_is_checked_in_torch(quickstart):
    out, first = quickstart
    figure = float(first.split("largest difference ")[1].split()[0])
    assert figure <= 1e-5
    assert f"largest difference {figure:.1e}" in (out / "model" / "README.md").read_text("utf-8")


def test_the_export_loads_in_sentence_transformers_as_parquet_says(quickstart):
    from sentence_transformers import SentenceTransformer

    out, _ = quickstart
    table = pq.read_table(out / "trained.parquet").slice(0, 8)
    theirs = SentenceTransformer(str(out / "model"), local_files_only=True).encode(table["text"].to_pylist())
    np.testing.assert_allclose(np.array(table["embedding"].to_pylist()), theirs, atol=1e-5)


def test_scores_are_of_held_out_questions_of_the_english_sources(quickstart):
    out, _ = quickstart
    metrics = json.loads((out / "report" / "metrics.json").read_text("utf-8"))
    held = [row for row in pq.read_table(out / "trained.parquet").to_pylist() if row["split"] == "heldout"]
    assert metrics["n_scored"] == sum(row["lang"] == "eng" for row in held)
    assert metrics["sources"] == 3 and metrics["chance"] == pytest.approx(1 / 3)
    assert metrics["control"]["n"] == 204 and len(metrics["encoders"]) == 2 and len(metrics["paired"]) == 1
    assert metrics["groups"] == len({row["question_id"] for row in held if row["lang"] == "eng"})


def readme(language):
    """The commands of README.md's blocks of this language, continued lines joined."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def test_every_command_of_the_readme_runs(quickstart):
    out, _ = quickstart
    scripts = {"quickstart.sh", "test.sh", "test.sh --slow", "elicit_local.sh"}
    stages = [line for line in readme("bash") if line.removeprefix("bash launch/") not in scripts]
    names = {"prepare", "train", "export", "embed", "analyze", "elicit", "place"}
    names |= {"compare", "transfer", "values", "graph"}
    assert {line.split()[2].removeprefix("univar_jax.") for line in stages} == names
    rows = np.random.default_rng(0).normal(size=(120, 3)).cumsum(1)  # a chain: a → b → c
    scores = [f"role{i},{a:.3f},{b:.3f},{c:.3f}" for i, (a, b, c) in enumerate(rows)]
    (out / "scores.csv").write_text("\n".join(["persona,a,b,c", *scores]))
    with Faulty(models=["org/my-model"]) as server:
        given = {"http://localhost:8000/v1": server.base_url, "SCORES.csv": f"{out}/scores.csv", "work/": f"{out}/"}
        for line in stages:
            for theirs, ours in given.items():
                line = line.replace(theirs, ours)
            _run(line)


def _run(line):
    words = [sys.executable if word == "python" else word for word in shlex.split(line)]
    if words[2].endswith((".prepare", ".train")) and not {"--verify", "--status"} & {w.split("=")[0] for w in words}:
        words += FEW
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, line + done.stderr
    # The script made these very files: the same commands find them finished; a bill is made anew each time.
    told = r"the same|whole|nothing to do|bill |now +finished|requests +\d|wrote +|lies nearest|report +/"
    assert re.search(told, done.stdout), line + done.stdout


def test_the_readmes_python_runs(quickstart):
    out, _ = quickstart
    code = "\n".join(readme("python")).replace("work/", f"{out}/")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "(384,)" in done.stdout


MISTAKES = {
    "prepare": ({"qa": "nowhere", "out": "OUT", "config": "configs/quickstart.py"}, "nowhere: no QA file"),
    "train": ({"data": "nowhere", "workdir": "OUT", "config": "configs/quickstart.py"}, "manifest.json is missing"),
    "export": ({"workdir": "nowhere", "out": "OUT"}, "is no run"),
    "embed": ({"model": "./nowhere", "qa": "univar_jax/sample", "out": "OUT"}, "is no encoder"),
    "analyze": ({"embeddings": "nowhere.parquet", "out": "OUT"}, "no such file"),
    "place": ({"embeddings": "nowhere.parquet", "qa": "x", "model": "minilm", "out": "OUT"}, "no such file"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_ends_in_one_line_and_leaves_nothing(stage, tmp_path, name):
    values, words = MISTAKES[name]
    out = tmp_path / "out"
    done = stage(name, **{k: out if v == "OUT" else v for k, v in values.items()})
    assert done.returncode == 2
    assert words in done.stderr and done.stderr.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize("name", MISTAKES)
def test_help_explains_each_flag(stage, name):
    done = stage(name, help="true")
    assert done.returncode == 0
    for flag in MISTAKES[name][0]:
        assert f"--{flag}:" in done.stdout
