"""Planted side effects: what a steered value moves, and what it does not."""

import numpy as np
import pytest

from univar_jax.cli import UserError
from univar_jax.statistics import causal, matrix, steering

from .test_graph import planted, run, write


def steered_rows(roles=40, moved=0.7, noise=0.1, seed=0):
    """A chain v0 → v1 → v2 beside v3, v4: steering v0 moves v1 and v2 often, v3 and v4 seldom."""
    draws, ids, rows = np.random.default_rng(seed), {"role": [], "condition": []}, []
    for role in range(roles):
        base = draws.normal(size=5)
        for condition in ("none", "up", "down"):
            ids["role"].append(f"r{role}")
            ids["condition"].append(condition)
            chance = np.array([1, moved, moved, noise, noise])
            rows.append(base + (condition != "none") * (draws.random(5) < chance) * draws.choice([-1, 1], 5))
    return ids, [f"v{v}" for v in range(5)], np.array(rows)


def test_a_planted_side_effect_is_found_and_an_absent_one_is_not(tmp_path):
    chain_vv = np.zeros((5, 5), bool)
    chain_vv[0, 1] = chain_vv[1, 2] = True
    for moved, seed in ((0.7, 0), (0.1, 1)):
        test = matrix.read(write(tmp_path / "t.csv", *steered_rows(moved=moved, seed=seed)), "test")
        found = steering.side_effects(test, causal.reach(chain_vv), "", ["v0"], "none", 0.0, 0)
        print({key: found[key] for key in ("expected", "unexpected", "difference", "ci", "p")})
        (v0,) = found["values"]
        assert (v0["rows"], v0["descendants"], found["units"], found["rows"]) == (80, 2, 40, 80)
        assert found["expected"] == pytest.approx(moved, abs=0.12) and found["unexpected"] == pytest.approx(
            0.1, abs=0.08
        )
        assert found["ci"][0] <= moved - 0.1 <= found["ci"][1]
        assert (found["ci"][0] > 0) == (moved > 0.5) and (found["p"] < 0.25) == (moved > 0.5)
    # What counts as changed can be set: every step is 1.
    small = steering.side_effects(test, causal.reach(chain_vv), "", (), "none", 1.5, 0)
    assert small["difference"] is None and "no steered value has" in small["not_enough"]


def test_side_effects_need_units_baselines_and_known_names(tmp_path):
    ids, values, x_nv = steered_rows(roles=6)
    _, names, planted_ids, planted_nv = planted(values=5)
    scores = write(tmp_path / "s.csv", planted_ids, names, planted_nv)
    few = write(tmp_path / "few.csv", ids, values, x_nv)
    m = run(tmp_path, scores, test=few)
    told = m["steering"]
    assert told["ci"] is None and told["not_enough"] in (
        "6 roles in the test rows: not enough for an interval, 10 would be",
        "no steered value has descendants and others and changed",
    )
    for settings, says in (
        ({"test": few, "steered": ["v11"]}, "--steered: 'v11' is not there; did you mean v1"),
        ({"test": few, "unsteered": "off"}, r"no row has condition 'off' \(there: down, none, up\)"),
        ({"steered": ["v1"]}, "--steered is checked on rows of --test"),
        (
            {"test": write(tmp_path / "n.csv", {"role": ids["role"]}, values, x_nv)},
            r"no column condition that is filled \(there: role\)",
        ),
    ):
        with pytest.raises(UserError, match=says):
            run(tmp_path, scores, out="x", **settings)


def test_rows_that_the_graph_was_learnt_from_are_told(tmp_path):
    _, names, ids, x_nv = planted(values=5)
    ids["condition"] = ["none" if c == "c0" else c for c in ids["condition"]]
    file = write(tmp_path / "s.csv", ids, names, x_nv)
    m = run(tmp_path, file, test=file)
    assert any("600 of 600 rows of s.csv are rows that the graph was learnt from" in note for note in m["notes"])
    assert m["steering"]["units"] == 60 and m["steering"]["rows"] == 540


def test_personas_are_the_steering_where_no_condition_is_filled(tmp_path):
    ids, values, x_nv = steered_rows(roles=12)
    names = [
        "" if condition == "none" else f"{role} {condition}" for role, condition in zip(*ids.values(), strict=True)
    ]
    base_n = np.array([name == "" for name in names])
    first = np.flatnonzero(base_n)[0]
    rows = [first, *np.flatnonzero(~base_n)]  # one model without a persona, and 24 personas
    columns = {
        "source": [f"m$eng${names[row]}" for row in rows],
        "model": ["m"] * 25,
        "persona": [names[r] for r in rows],
    }
    test = matrix.read(write(tmp_path / "t.csv", columns | {"condition": [""] * 25}, values, x_nv[rows]), "test")
    steered, moved_mv, missing = steering.changes(test, "none", 0.0)
    assert steering.steered_by(test) == "persona" and len(steered) == 24 and missing == 0
    np.testing.assert_array_equal(moved_mv, np.abs(x_nv[rows[1:]] - x_nv[first]) > 1e-9)
    found = steering.side_effects(test, causal.reach(np.eye(5, k=1, dtype=bool)), "", (), "none", 0.0, 0)
    assert found["by"] == found["unit"] == "persona" and found["units"] == 24
