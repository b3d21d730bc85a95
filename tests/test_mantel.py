"""Mantel against all permutations by hand, and every way a reference can be wrong."""

import itertools

import numpy as np
import pytest
from scipy import stats

from univar_jax.cli import UserError
from univar_jax.statistics import mantel

from .test_resamples import uniform


def square(draws, s):
    x = draws.random((s, s))
    return x + x.T


def test_few_units_are_tested_by_all_their_orders():
    draws = np.random.default_rng(0)
    x, y = square(draws, 6), square(draws, 6)
    i, j = np.triu_indices(6, 1)
    r = [stats.pearsonr(x[np.ix_(o, o)][i, j], y[i, j])[0] for o in itertools.permutations(range(6))]
    found = mantel.mantel(x, y)
    assert found["r"] == pytest.approx(r[0]) and found["exact"] and found["permutations"] == 719
    assert found["p"] == pytest.approx(np.mean(np.array(r) >= r[0] - 1e-12))


def test_many_units_by_random_orders_about_equally(monkeypatch):
    draws = np.random.default_rng(1)
    x = square(draws, 7)
    y = x + 3 * square(draws, 7)
    exact = mantel.mantel(x, y)
    monkeypatch.setattr(mantel, "PERMUTATIONS", 3000)
    drawn = mantel.mantel(x, y)
    assert exact["exact"] and not drawn["exact"] and drawn["permutations"] == 3000
    assert abs(exact["p"] - drawn["p"]) < 0.04 and exact["r"] == drawn["r"]


def test_p_is_uniform_where_there_is_nothing(monkeypatch):
    monkeypatch.setattr(mantel, "PERMUTATIONS", 99)
    draws = np.random.default_rng(2)
    assert uniform([mantel.mantel(square(draws, 8), square(draws, 8), s)["p"] for s in range(300)])


def test_a_unit_without_numbers_is_left_out_and_three_are_too_few():
    draws = np.random.default_rng(3)
    x, y = square(draws, 6), square(draws, 6)
    gap = x.copy()
    gap[2] = gap[:, 2] = np.nan
    rest = [0, 1, 3, 4, 5]
    assert mantel.mantel(gap, y) == mantel.mantel(x[np.ix_(rest, rest)], y[np.ix_(rest, rest)])
    assert mantel.mantel(x[:3, :3], y[:3, :3]) is None
    assert mantel.mantel(x, np.ones((6, 6))) is None


def test_languages_planted_in_the_distances_are_found():
    langs = ["eng", "zho"] * 4
    y = (np.array(langs)[:, None] != np.array(langs)).astype(float)
    x = y + 0.2 * square(np.random.default_rng(0), 8)
    found = mantel.against_language({"centroid": x}, langs, 0)["centroid"]
    assert found["r"] > 0.8 and found["p"] < 0.06  # of 8!/(4!4!2) = 35 divisions one is this
    assert mantel.against_language({"centroid": x}, ["eng"] * 8, 0) is None


def reference(tmp_path, text):
    (tmp_path / "r.csv").write_text(text)
    return str(tmp_path / "r.csv")


def table(names, y_uu):
    lines = [",".join(["", *names])] + [f"{n}," + ",".join(map(str, row)) for n, row in zip(names, y_uu, strict=True)]
    return "\n".join(lines) + "\n"


LEVELS = {
    "source": [f"{m}${lang}" for m in "ab" for lang in ("deu", "eng", "fra", "zho")],
    "model": ["a"] * 4 + ["b"] * 4,
    "lang": ["deu", "eng", "fra", "zho"] * 2,
}


def test_a_reference_of_languages_meets_means_over_their_sources(tmp_path):
    draws, notes = np.random.default_rng(0), []
    x, names = square(draws, 8), ["zho", "eng", "deu", "fra"]
    y = square(draws, 4)
    np.fill_diagonal(y, 0)
    file = reference(tmp_path, table(names, y.round(6)))
    found = mantel.against_reference(file, {"centroid": x}, LEVELS, 0, notes)
    at = {lang: [i for i, other in enumerate(LEVELS["lang"]) if other == lang] for lang in names}
    means = np.array([[x[np.ix_(at[a], at[b])].mean() for b in names] for a in names])
    assert found["level"] == "lang" and found["names"] == names and not notes
    assert found["centroid"]["r"] == pytest.approx(mantel.mantel(means, y)["r"], abs=1e-5)


def test_names_of_sources_and_of_models_are_known_too(tmp_path):
    draws, notes = np.random.default_rng(0), []
    x, some = square(draws, 8), LEVELS["source"][:5]
    file = reference(tmp_path, table(some, square(draws, 5).tolist()))
    found = mantel.against_reference(file, {"centroid": x}, LEVELS, 0, notes)
    assert found["level"] == "source" and found["centroid"]["n"] == 5 and "lacks 3 of 8 sources" in notes[0]
    file = reference(tmp_path, table(["a", "b"], [[0, 1], [1, 0]]))
    found = mantel.against_reference(file, {"centroid": x}, LEVELS, 0, notes)
    assert found["level"] == "model" and found["centroid"] is None and "too few for Mantel's test" in notes[1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (table(["eng", "klingon"], [[0, 1], [1, 0]]), r"klingon of its 2 names are no lang here \(there: deu, eng"),
        (table(["eng", "eng"], [[0, 1], [1, 0]]), "2 columns, 1 different names"),
        (",eng,zho\nzho,0,1\neng,1,0\n", "rows need the columns' names and order"),
        ("", "0 columns"),
        (",eng,zho\neng,0,1\nzho,1,x\n", "row 2: could not convert"),
        (",eng,zho\neng,0,1\nzho,1\n", "row 2: 1 numbers for 2 columns"),
        (",eng,zho\neng,0,1\nzho,2,0\n", "symmetric"),
        (",eng,zho\neng,0,nan\nzho,nan,0\n", "finite"),
    ],
)
def test_a_reference_that_is_wrong_is_told_in_one_line(tmp_path, text, says):
    with pytest.raises(UserError, match=says) as told:
        mantel.against_reference(reference(tmp_path, text), {"centroid": np.zeros((8, 8))}, LEVELS, 0, [])
    assert str(told.value).startswith("--reference=") and "\n" not in str(told.value)


def test_a_reference_that_is_not_there():
    with pytest.raises(UserError, match="no such file"):
        mantel.read_reference("nowhere.csv")
