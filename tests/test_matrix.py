"""Score matrices that can be used, and every way in which they cannot."""

import numpy as np
import pytest

from univar_jax.cli import UserError
from univar_jax.statistics import matrix

from .test_graph import planted, run, write


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x: np.where(np.arange(5) == 2, 3.0, x), r"constant: v2; .*--drop=v2"),
        (lambda x: np.c_[x[:, :4], x[:, 0] - 2 * x[:, 3]], r"collinear: v4 \(from v0, v3\); keep one of each, --drop"),
        (
            lambda x: np.where(np.arange(3000).reshape(600, 5) == 36, np.nan, x),
            r"no score of v1 in 1 \(first row 8\) of",
        ),
        (lambda x: x[:6], r"6 rows for 5 values: not enough for the tests; 7 would be"),
        (lambda x: x[:0], "0 rows; give a score matrix"),
    ],
)
def test_columns_that_cannot_be_used_are_named(tmp_path, change, says):
    _, values, ids, x_nv = planted(values=5)
    x_nv = change(x_nv)
    file = write(tmp_path / "s.csv", {name: cells[: len(x_nv)] for name, cells in ids.items()}, values, x_nv)
    with pytest.raises(UserError, match=says) as error:
        run(tmp_path, file)
    assert "\n" not in str(error.value) and not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("role,a,b\nr,1,x\nr,2,3\ns,4,5\n", r"row 1, column b: 'x' is no number \(1 of 3 cells\).*--drop='b'"),
        ("role,a,a\nr,1,2\n", "column 'a' stands twice"),
        ("role,a\nr,1\n", r"1 numeric columns \(role, a\)"),
        ("role,a,b\nr,1\n", "row 1: 2 values for 3 columns"),
        ('role,a,b\nr,1,"2\n', "not a whole CSV"),
        ("", "nothing in it; give a CSV with a header"),
    ],
)
def test_a_bad_file_is_told_in_one_line(tmp_path, text, says):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(UserError, match=says):
        run(tmp_path, str(tmp_path / "s.csv"))


def test_ids_are_told_from_values(tmp_path):
    (tmp_path / "s.csv").write_text("run,role_id,b,a,condition\nx,1,.5,1,none\ny,2,.25,2,up\n")
    found = matrix.read(str(tmp_path / "s.csv"), "scores")
    assert list(found.ids) == ["run", "role_id", "condition"] and found.values == ["a", "b"]
    assert found.x_nv.tolist() == [[1, 0.5], [2, 0.25]] and found.units("")[0] == "role_id"
    numbered = matrix.Matrix("s.csv", "", {}, ["id", "a"], np.c_[np.arange(12.0), np.arange(12) % 3])
    assert matrix.odd_columns(numbered)[0].startswith("id: a different whole number in each row, taken for scores")
    with pytest.raises(UserError, match="--unit: 'rol_id' is not there; did you mean role_id"):
        found.units("rol_id")
