"""Every way a file or an OUT can be odd or wrong, on small planted reports; test_report has a whole one."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from univar_jax import analyze, embeddings, qa
from univar_jax.cli import UserError
from univar_jax.report import page
from univar_jax.statistics import splits

ROOT = pathlib.Path(__file__).parents[1]
EVIL = "<script>alert(1)</script>"
EIGHT = np.arange(8)[:, None]
FILES = ["distances.csv", "distances.png", "map.png", "metrics.json", "pca.png", "report.html", "scores.png"]


def corpus(questions=40, dataset="d", relevant="True", models=("m1", "m2", EVIL), langs=("eng", "zho"), prefix="q"):
    names = ("model", "lang", "source", "text", "question_id", "dataset", "value_relevant", "split")
    ids = [f"{prefix}{i}" for i in range(questions)]
    split = np.where(qa.heldout(ids, 0, 0.3), "heldout", "train").tolist()
    return [
        dict(zip(names, (m, lang, f"{m}${lang}", f"Q: {q} A: {m} {lang}", q, dataset, relevant, side), strict=True))
        for q, side in zip(ids, split, strict=True)
        for m in models
        for lang in langs
    ]


def vectors(rows, signal, seed, d=8):
    """A direction of its own for each source, `signal` long, in noise."""
    draws = np.random.default_rng(seed)
    home = {s: draws.normal(size=d) for s in sorted({r["source"] for r in rows})}
    z_nd = np.array([signal * home[r["source"]] / np.linalg.norm(home[r["source"]]) for r in rows])
    z_nd += draws.normal(size=z_nd.shape) / np.sqrt(d)
    return (z_nd / np.linalg.norm(z_nd, axis=1, keepdims=True)).astype(np.float32)


def write(file, rows, z_nd, drop=(), **meta):
    z_nd = np.asarray(z_nd, np.float32)
    table = {"embedding": pa.FixedSizeListArray.from_arrays(pa.array(z_nd.ravel()), z_nd.shape[1])}
    table |= {name: [r[name] for r in rows] for name in rows[0] if name not in drop}
    pq.write_table(pa.table(table, metadata={k: str(v) for k, v in meta.items()}), file)
    return str(file)


def foreign(file, embedding):
    pq.write_table(pa.table({"embedding": embedding, "source": ["a$eng"] * len(embedding)}), file)


@pytest.fixture
def small(tmp_path):
    rows = [r | {"split": "heldout" if r["question_id"] == "q3" else "train"} for r in corpus(4, models=("m",))]
    return rows, write(tmp_path / "e.parquet", rows, vectors(rows, 3, 0))


def run(tmp_path, *files, out="r", **settings):
    analyze.analyze(files, str(tmp_path / out), **settings)
    return json.loads((tmp_path / out / "metrics.json").read_text())


def read(file):
    return embeddings.read(file, pathlib.Path(file).read_bytes(), [])


def test_a_foreign_file_is_named_by_its_stem_and_k_is_clipped(small, tmp_path, capsys):
    m = run(tmp_path, small[1])
    assert m["encoders"][0]["encoder"] == "e" and m["encoders"][0]["weights"] is None
    assert m["knn"]["k"] == 6 and "k=50 is more than the 6 rows" in capsys.readouterr().out
    assert m["control"] is None and m["paired"] == [] and m["knn"]["acc_ci"] is None  # of one group
    assert "too few for UMAP" in (tmp_path / "r" / "report.html").read_text()


def test_one_language_is_scored_the_other_only_drawn(small, tmp_path):
    m = run(tmp_path, small[1], lang=["eng"])
    assert m["knn"] is m["linear"] is m["chance"] is None and m["sources"] == 1
    assert m["source_names"] == ["m$eng", "m$zho"]
    assert any("fewer than two sources" in note for note in m["notes"])
    assert "the language alone would give them away" in m["notes"][0]
    assert "No score: fewer than two sources" in (tmp_path / "r" / "report.html").read_text()


def test_control_rows_alone_still_make_a_report(tmp_path):
    rows = corpus(4, relevant="False", models=("m",))
    m = run(tmp_path, write(tmp_path / "e.parquet", rows, vectors(rows, 3, 0)))
    assert m["knn"] is None and m["control"]["n"] == 8 and m["control_rows"] == 8


def test_copies_on_both_sides_are_an_error_until_allowed(tmp_path):
    rows = corpus(20, models=("m1", "m2"), langs=("eng",))
    held = next(row for row in rows if row["split"] == "heldout")
    copy = held | {"question_id": "other", "split": "train"}
    rows += [copy, copy | {"model": "m2", "source": "m2$eng"}]
    file = write(tmp_path / "e.parquet", rows, vectors(rows, 3, 0))
    with pytest.raises(
        UserError, match=r"1 of \d+ scored values rows stand on the fit side too.* \(1 under .*--allow_"
    ):
        run(tmp_path, file)
    m = run(tmp_path, file, allow_leakage=True)
    assert m["leakage"] == {"rows": 1, "of_source": 1, "questions": m["leakage"]["questions"]}
    with pytest.raises(UserError, match="exists with other content"):
        run(tmp_path, file)  # what was allowed is part of what the report is


def test_a_reference_is_tested_and_named_without_its_folder(tmp_path):
    rows = corpus(8, models=("a", "b", "c", "d"), langs=("eng",))
    lines = ["," + ",".join("abcd")] + [
        f"{n}," + ",".join(str(abs(i - j)) for j in range(4)) for i, n in enumerate("abcd")
    ]
    (tmp_path / "ref.csv").write_text("\n".join(lines))
    m = run(tmp_path, write(tmp_path / "e.parquet", rows, vectors(rows, 3, 0)), reference=str(tmp_path / "ref.csv"))
    assert m["distances"]["mantel"]["reference"]["level"] == "model" and m["settings"]["reference"] == "ref.csv"
    assert "ref.csv, by model" in (tmp_path / "r" / "report.html").read_text()


def test_vectors_off_unit_length_are_scaled_and_counted(small, tmp_path):
    rows, file = small
    m = run(tmp_path, write(tmp_path / "long.parquet", rows, vectors(rows, 3, 0) * 3))
    unit = run(tmp_path, file, out="unit")
    assert "8 of 8 vectors" in m["notes"][0] and m["knn"] == unit["knn"]


def test_own_split_keeps_a_question_on_one_side_and_says_so(tmp_path):
    rows = corpus(60, models=("m",))
    file = write(tmp_path / "e.parquet", rows, vectors(rows, 1, 0), drop=["split"])
    encoder, notes = read(file), []
    groups = encoder.columns["question_id"]
    fit_n = splits.held_out(encoder, groups, 0, notes)
    assert not set(groups[fit_n]) & set(groups[~fit_n]) and 0.6 < fit_n.mean() < 0.95
    assert "the encoder may have seen them" in notes[0]
    assert (splits.held_out(encoder, groups, 1, []) != fit_n).any()


def test_unseen_rows_follow_the_rule_in_the_metadata(tmp_path):
    rows = [r | {"split": "unseen", "question_id": [r["question_id"], "other"]} for r in corpus(60)]
    file = write(tmp_path / "e.parquet", rows, vectors(rows, 1, 0), holdout='{"seed": 5, "share": 0.6}')
    encoder = read(file)
    groups = [r["question_id"][0] for r in rows]  # of several questions the first
    assert encoder.columns["question_id"].tolist() == groups
    fit_n = splits.held_out(encoder, np.array(groups, object), 0, [])
    np.testing.assert_array_equal(fit_n, ~qa.heldout(groups, 5, 0.6))


def test_out_that_is_there(small, tmp_path, capsys):
    rows, file = small
    run(tmp_path, file)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "r").iterdir()}
    run(tmp_path, file)
    assert "made from the same inputs" in capsys.readouterr().out
    other = write(tmp_path / "o.parquet", rows, vectors(rows, 3, 9))
    for changed, settings in ((file, {"k": 3}), (file, {"seed": 1}), (other, {})):
        with pytest.raises(UserError, match="exists with other content; give another --out or remove it"):
            run(tmp_path, changed, **settings)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "r").iterdir()} == before
    (tmp_path / "mine").mkdir()
    run(tmp_path, file, out="mine")  # an empty folder is free
    (tmp_path / "mine" / "metrics.json").write_text("{}")
    for out in ("mine", "e.parquet"):
        with pytest.raises(UserError, match="exists with other content"):
            run(tmp_path, file, out=out)


def test_a_run_that_is_cut_off_leaves_no_out_and_no_obstacle(small, tmp_path, monkeypatch):
    files = page.report
    with monkeypatch.context() as patch, pytest.raises(TypeError):
        patch.setattr(page, "report", lambda *a: files(*a) | {"last": None})  # fails after all others
        run(tmp_path, small[1])
    assert not (tmp_path / "r").exists()
    run(tmp_path, small[1])
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == FILES


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f, rows, z: None, r"no such file; give Parquet"),
        (lambda f, rows, z: f.write_text("a,b\n"), "not a whole Parquet file"),
        (lambda f, rows, z: pq.write_table(pa.table({"source": ["a"]}), f), "no column embedding"),
        (lambda f, rows, z: write(f, rows, z, drop=["source"]), "no column source"),
        (lambda f, rows, z: write(f, rows, z * np.where(EIGHT == 2, np.nan, 1)), r"row 3: .*finite \(1 of 8"),
        (lambda f, rows, z: write(f, rows, z * ((EIGHT < 4) | (EIGHT > 5))), r"row 5: .*zero.* \(2 of 8 rows\)"),
        (lambda f, rows, z: foreign(f, [[1.0], [1.0, 2.0]]), "one vector length"),
        (lambda f, rows, z: foreign(f, [[1.0], None]), "one vector length"),
        (lambda f, rows, z: foreign(f, ["x"]), "embedding is string"),
        (lambda f, rows, z: pq.write_table(pq.read_table(write(f, rows, z)).slice(0, 0), f), "0 rows"),
        (lambda f, rows, z: write(f, [r | {"source": ""} for r in rows], z), "row 1: source is empty"),
        (lambda f, rows, z: write(f, [r | {"split": "test"} for r in rows], z), "split holds 'test'; use train"),
        (lambda f, rows, z: write(f, rows, z, holdout="{"), "holdout is '{'"),
    ],
)
def test_a_bad_file_is_told_in_one_line(small, tmp_path, change, says):
    file = tmp_path / "bad.parquet"
    change(file, small[0], vectors(small[0], 3, 0))
    with pytest.raises(UserError, match=says):
        run(tmp_path, str(file))
    assert not (tmp_path / "r").exists()


def test_files_that_do_not_go_together(small, tmp_path):
    rows, file = small
    wide = write(tmp_path / "wide.parquet", rows, vectors(rows, 3, 0, d=9), weights="w")
    narrow = write(tmp_path / "narrow.parquet", rows, vectors(rows, 3, 0), weights="w")
    other = write(tmp_path / "s.parquet", [r | {"text": "other"} for r in rows], vectors(rows, 3, 0))
    for files, lang, says in (
        ((wide, narrow), [], r"narrow.parquet: vectors of 8 numbers, 9 in .*wide.parquet"),
        ((file, other), [], r"no row \(source, text\) is in all 2 encoders"),
        ((file, file), [], "2 files, 1 different"),
        ((file,), ["xxx"], r"--lang=xxx: no row of that language; there are eng, zho"),
    ):
        with pytest.raises(UserError, match=says):
            run(tmp_path, *files, lang=lang)


def test_the_command_line_tells_a_mistake_in_one_line(tmp_path):
    command = f"{sys.executable} -m univar_jax.analyze --embeddings={tmp_path}/no.parquet --out=x"
    done = subprocess.run(command.split(), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert (
        done.stderr == f"error: --embeddings={tmp_path}/no.parquet: no such file; give Parquet files that embed wrote\n"
    )
