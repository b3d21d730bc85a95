"""The stage: planted files in, what transfer.json and the page say, what is not enough, and mistakes in one line."""

import json
import subprocess
import sys

import numpy as np
import pytest

from univar_jax import transfer
from univar_jax.cli import UserError
from univar_jax.statistics import moves

from .test_analyze import EVIL, ROOT, write
from .test_moves import sources
from .test_predictions import HEAD, planted

NAMES = {"b": "strong$eng", "a": "taught$eng", "c": "ceiling$eng", "t": f"weak{EVIL}$eng"}
FILES = ["report.html", "transfer.json", "transfer.png"]


def rows_of(made, value="", relevant="True", prefix="q"):
    """Rows and vectors of an embeddings file: `sources` by their letters, and the ceiling's as the teacher's."""
    rows, z = [], []
    for letter, of in made.items():
        for z_d, q in zip(of.z_nd, of.questions_n, strict=True):
            source = NAMES[letter]
            about = {"source": source, "question_id": f"{prefix}{q}", "text": f"Q: {prefix}{q} A: {source}"}
            rows.append(about | {"group_id": f"{prefix}g{q}", "value": value, "value_relevant": relevant})
            z.append(z_d)
    return rows, z


def planted_rows(planted=0.5, questions=120, seed=0, **about):
    made = sources(planted, questions, seed)
    return rows_of(made | {"t": sources(planted, questions, seed + 1)["c"]}, **about)


def run(tmp_path, *files, out="r", predicted="", **change):
    roles = {"teacher": [NAMES["t"]], "before": NAMES["b"], "after": NAMES["a"], "ceiling": NAMES["c"]} | change
    transfer.transfer(files, str(tmp_path / out), **roles, predicted=predicted)
    return json.loads((tmp_path / out / "transfer.json").read_text())


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    return write(tmp_path_factory.mktemp("half") / "e.parquet", *planted_rows())


def test_a_report_of_a_planted_half(half, tmp_path, capsys):
    (tmp_path / "p.csv").write_text("\n".join([HEAD, *planted(0)]))
    t = run(tmp_path, half, predicted=str(tmp_path / "p.csv"))
    v = t["values"]
    assert v["energy"]["ci"][0] < 0.5 < v["energy"]["ci"][1] and v["verdict"] == moves.TOWARDS
    assert v["rows"] == dict.fromkeys(NAMES.values(), 120) and (v["questions"], v["groups"]) == (120, 120)
    assert v["teachers"][NAMES["t"]]["energy"]["verdict"] == "nearer"
    assert v["places"][NAMES["b"]] == [0, 0] and v["places"][NAMES["c"]] == [1, 0]
    assert 0 < v["places"][NAMES["a"]][0] < 1 and v["places"][NAMES["a"]][1] >= 0
    assert t["control"] is None and v["by_value"] == {} and t["pgr"]["students"][0]["verdict"] == "holds"
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == FILES
    html, said = (tmp_path / "r" / "report.html").read_text(), capsys.readouterr().out
    assert EVIL not in html and "<script" not in html and "http" not in html.replace("http-equiv", "")
    for text in ("taught$eng has gone", "It does not mean", "There are no control answers", "PGR 0.5"):
        assert text in html, text
    assert "values    taught$eng has gone" in said and "pgr       big taught by small" in said
    run(tmp_path, half, predicted=str(tmp_path / "p.csv"))
    assert "made from the same inputs" in capsys.readouterr().out
    with pytest.raises(UserError, match="exists with other content"):
        run(tmp_path, half)


def test_equal_runs_give_equal_bytes(half, tmp_path):
    for out in "xy":
        run(tmp_path, half, out=out)
    assert all((tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes() for name in FILES)


def test_values_and_control_each_have_their_own(tmp_path):
    """One value moved whole, one not at all, one has too few groups; the control did not move."""
    parts = [planted_rows(1, 60, 2, value="moved", prefix="m"), planted_rows(0, 60, 4, value="stayed", prefix="s")]
    parts += [planted_rows(1, 5, 6, value="rare", prefix="r"), planted_rows(0, 60, 8, relevant="False", prefix="c")]
    rows, z = ([x for part in parts for x in part[i]] for i in (0, 1))
    t = run(tmp_path, write(tmp_path / "e.parquet", rows, z))
    by = t["values"]["by_value"]
    assert by["moved"]["energy"]["moved_q"] < 0.01 < 0.05 < by["stayed"]["energy"]["moved_q"]
    assert by["moved"]["energy"]["ci"][0] > 0.5 and by["stayed"]["verdict"] != moves.TOWARDS
    assert by["rare"]["verdict"] == moves.NOT_ENOUGH and by["rare"]["groups_needed"] == 10
    assert t["control"]["groups"] == 60 and t["control"]["verdict"] != moves.TOWARDS
    html = (tmp_path / "r" / "report.html").read_text()
    assert "not enough: 5 of 10 groups" in html and "On control answers" in html
    alone = run(tmp_path, write(tmp_path / "c.parquet", *parts[3]), out="c")
    assert alone["control"] is None and "All rows are control" in alone["notes"][0]


def test_only_what_all_answered_is_compared(half, tmp_path, capsys):
    """The teacher answered eight questions: the figure that would be is told, and who is to blame."""
    rows, z = planted_rows()
    keep = [i for i, row in enumerate(rows) if row["source"] != NAMES["t"] or int(row["question_id"][1:]) < 8]
    few = write(tmp_path / "few.parquet", [rows[i] for i in keep], [z[i] for i in keep])
    v = run(tmp_path, few)["values"]
    assert v["verdict"] == moves.NOT_ENOUGH and v["groups"] == 8 and v["energy"] is None
    assert v["without"] == {NAMES["t"]: 120} | {NAMES[x]: 8 for x in "bac"}
    said = "Not enough: all sources answered 8 question groups, 10 are needed. Without weak"
    assert said in capsys.readouterr().out and "Not enough" in (tmp_path / "r" / "report.html").read_text()
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == FILES[:2]


def test_where_before_is_the_ceiling_the_need_is_told(tmp_path, capsys):
    made = sources(0, 40, 3, homes=np.array([[1.0] + [0.0] * 7] * 2))
    file = write(tmp_path / "e.parquet", *rows_of(made | {"t": made["c"]}))
    found = run(tmp_path, file)["values"]["energy"]
    assert found["transfer"] is None and found["verdict"] == moves.NOT_APART
    assert "is not clearly apart from ceiling$eng" in capsys.readouterr().out


def test_sources_of_two_languages_meet_in_their_groups(tmp_path):
    rows, z = planted_rows()
    for row in rows:
        row["question_id"] += row["source"]
        row["text"] = row["question_id"]
    v = run(tmp_path, write(tmp_path / "e.parquet", rows, z))["values"]
    assert v["unit"] == "question group" and v["groups"] == 120


def test_of_many_rows_whole_groups_are_drawn_and_said(half, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "MAX_ROWS", 50)
    t = run(tmp_path, half)
    assert t["values"]["groups"] == 50 and "Of 120 question groups of values" in t["notes"][0]


def test_predictions_alone_need_no_embeddings(tmp_path):
    (tmp_path / "p.csv").write_text("\n".join([HEAD, *planted(0)]))
    no_roles = {"teacher": [], "before": "", "after": "", "ceiling": ""}
    t = run(tmp_path, predicted=str(tmp_path / "p.csv"), **no_roles)
    assert t["values"] is t["sources"] is None and t["pgr"]["groups"] == 80
    assert "big taught by small" in (tmp_path / "r" / "report.html").read_text()
    with pytest.raises(UserError, match="--embeddings is missing"):
        run(tmp_path, out="no", **no_roles)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"after": "taugt$eng"}, r"--after=taugt\$eng: no such source; did you mean taught\$eng"),
        ({"teacher": ["zzzzzzz"]}, r"--teacher=zzzzzzz: no such source; there are ceiling\$eng, strong\$eng"),
        ({"ceiling": ""}, "--ceiling is missing; name one of the 4 sources"),
        ({"teacher": []}, "--teacher is missing"),
        ({"after": NAMES["b"]}, r"--after=strong\$eng is --before too"),
    ],
)
def test_a_role_that_is_wrong_is_told(half, tmp_path, change, says):
    with pytest.raises(UserError, match=says):
        run(tmp_path, half, **change)
    assert not (tmp_path / "r").exists()


def test_files_that_cannot_be_compared(half, tmp_path):
    rows, z = planted_rows()
    other = write(tmp_path / "o.parquet", rows, z, encoder="other")
    with pytest.raises(UserError, match=r"files of 2 encoders \(e, other\); a distance is within one"):
        run(tmp_path, half, other)
    views = write(tmp_path / "v.parquet", rows, z, qas_per_view=5)
    with pytest.raises(UserError, match="embed single answers, with --qas_per_view=1"):
        run(tmp_path, views)


def test_the_command_line_tells_a_mistake_in_one_line(half, tmp_path):
    command = f"{sys.executable} -m univar_jax.transfer --embeddings={half} --before=x --out={tmp_path}/r"
    done = subprocess.run(command.split(), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: --after, --ceiling, --teacher is missing; name one of the 4 sources of --embeddings\n"
