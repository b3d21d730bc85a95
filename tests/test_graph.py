"""The oracle's 28 and 19 edges, planted graphs against causal-learn's own PC, resamples, comparisons."""

import csv
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("causallearn", reason="the [graph] extra is not installed")

from univar_jax import graph
from univar_jax.cli import UserError
from univar_jax.statistics import causal

ROOT = pathlib.Path(__file__).parents[1]
SHARED = pathlib.Path(os.environ.get("UNIVAR_SHARED") or ROOT.parent / "shared") / "data" / "value_graph"
EVIL = "<b>evil"
oracle = pytest.mark.skipif(not SHARED.is_dir(), reason="no shared/data/value_graph beside the project (UNIVAR_SHARED)")


def write(file, ids, values, x_nv):
    with open(file, "w", newline="") as to:
        lines = csv.writer(to)
        lines.writerow([*ids, *values])
        cells = zip(zip(*ids.values(), strict=True), x_nv, strict=True)
        lines.writerows([*row, *(f"{x:.12g}" for x in xs)] for row, xs in cells)
    return str(file)


def planted(seed=0, values=10, roles=60, per_role=10, weight=0.8):
    """A random linear Gaussian DAG of about one edge a value: its arrows, bool [v, v], and rows."""
    draws = np.random.default_rng(seed)
    dag_vv = np.triu(draws.random((values, values)) < 2 / (values - 1), 1)
    w_vv = dag_vv * draws.uniform(weight, 1.2 * weight, dag_vv.shape)  # of one sign: no two ways cancel
    x_nv = draws.normal(size=(roles * per_role, values))
    for v in range(values):
        x_nv[:, v] += x_nv @ w_vv[:, v]
    ids = {
        "role": [f"r{i // per_role}" for i in range(len(x_nv))],
        "condition": [f"c{i % per_role}" for i in range(len(x_nv))],
    }
    return dag_vv, [f"v{v}" for v in range(values)], ids, x_nv


def run(tmp_path, file, out="r", **settings):
    graph.graph(file, str(tmp_path / out), **{"bootstrap": 0, "workers": 1} | settings)
    return json.loads((tmp_path / out / "graph.json").read_text())


@pytest.fixture(scope="module")
def resampled(tmp_path_factory):
    """A strong planted graph with 60 resamples of 60 roles."""
    tmp = tmp_path_factory.mktemp("graph")
    dag_vv, values, ids, x_nv = planted(1, weight=0.7)
    return dag_vv, run(tmp, write(tmp / "s.csv", ids, values, x_nv), bootstrap=60), tmp


@oracle
@pytest.mark.parametrize(("name", "found"), [("gemma", (41, 3, 28)), ("llama", (39, 1, 19))])
def test_the_papers_scores_give_the_papers_edges(tmp_path, name, found):
    m = run(tmp_path, str(SHARED / f"{name}_scores.csv"))
    assert (m["directed"], m["undirected"], len(m["reduced_edges"])) == found
    assert m["unit"] == "role_id" and len(m["values"]) == 17 and m["ids"] == ["role_id", "condition"]
    assert all(often is None for _, _, often in m["reduced_edges"])


@oracle
@pytest.mark.slow
def test_on_the_papers_scores_few_edges_and_arrows_come_back(tmp_path):
    m = run(tmp_path, str(SHARED / "gemma_scores.csv"), bootstrap=200, workers=2)
    edges = sum(e["adjacent"] >= 0.8 for e in m["edges"])
    arrows = sum(e["directed"] and e["forward"] >= 0.8 for e in m["edges"])
    print(f"of 44 edges {edges}, of 41 arrows {arrows} in 80 % of 200 resamples")
    assert 5 <= edges <= 13 and 3 <= arrows <= 10


@pytest.mark.parametrize("seed", range(4))
def test_a_planted_graph_is_recovered_as_by_causal_learns_own_pc(seed):
    from causallearn.graph.SHD import SHD
    from causallearn.search.ConstraintBased.PC import pc
    from causallearn.utils.DAG2CPDAG import dag2cpdag

    dag_vv, _, _, x_nv = planted(seed, roles=200)
    theirs = pc(x_nv, 0.05, "fisherz", show_progress=False)
    ends_vv = theirs.G.graph
    ours_vv = causal.pc(x_nv, 0.05)
    np.testing.assert_array_equal(ours_vv, ((ends_vv == -1) & (ends_vv.T != 0)))
    truth = pc_of(dag_vv, dag2cpdag)
    shd = SHD(truth, theirs.G).get_shd()
    ends_vv = truth.graph
    truth_vv = (ends_vv == -1) & (ends_vv.T != 0)
    found = causal.compared(truth_vv, ours_vv)
    print(f"SHD {found['shd']}, causal-learn's {shd}, of {found['pairs'][0]} planted edges {found['shared']} found")
    assert found["shd"] == shd <= 3 and found["shared"] >= found["pairs"][0] - 1


def pc_of(dag_vv, dag2cpdag):
    from causallearn.graph.Dag import Dag
    from causallearn.graph.GraphNode import GraphNode

    nodes = [GraphNode(f"X{v + 1}") for v in range(len(dag_vv))]
    dag = Dag(nodes)
    for i, j in np.argwhere(dag_vv):
        dag.add_directed_edge(nodes[i], nodes[j])
    return dag2cpdag(dag)


def test_p_values_are_fisher_zs_to_the_last_digit():
    from causallearn.utils import cit

    _, _, _, x_nv = planted(5)
    causal.pc(x_nv, 0.05)  # makes the name known
    known, theirs = cit.CIT(x_nv, "known_fisherz"), cit.CIT(x_nv, "fisherz")
    for x, y, given in ((0, 1, ()), (3, 2, (1,)), (4, 9, (8, 0, 5)), (7, 6, (1, 2, 3, 4, 5))):
        assert known(x, y, given) == theirs(x, y, given)


def test_planted_edges_come_back_and_absent_ones_do_not(resampled):
    dag_vv, m, _ = resampled
    index = {name: v for v, name in enumerate(m["values"])}
    often_vv = np.zeros(dag_vv.shape)
    for e in m["edges"] + m["not_in_graph"]:
        often_vv[index[e["from"]], index[e["to"]]] = often_vv[index[e["to"]], index[e["from"]]] = e["adjacent"]
    either_vv = dag_vv | dag_vv.T
    absent_vv = ~either_vv & ~np.eye(len(dag_vv), dtype=bool)
    planted_e, absent_e = often_vv[either_vv], often_vv[absent_vv]
    print(f"planted {planted_e.mean():.3f}, least {planted_e.min():.3f}; absent {absent_e.mean():.3f}")
    assert planted_e.mean() > 0.95 and planted_e.min() > 0.8 and absent_e.mean() < 0.05
    for e in m["edges"]:
        assert e["forward"] + e["backward"] + e["undirected"] == pytest.approx(e["adjacent"])
    assert m["bootstrap"]["done"] == 60 and m["bootstrap"]["shd_from_itself"][0] >= 0
    assert {tuple(e) for e in m["reduced_edges"]} and all(0 <= often <= 1 for *_, often in m["reduced_edges"])


@pytest.mark.slow
def test_equal_bytes_for_any_number_of_processes_and_a_finished_out_stays(resampled, tmp_path, capsys):
    _, m, tmp = resampled
    again = run(tmp_path, str(tmp / "s.csv"), bootstrap=60, workers=2)
    assert again == m
    for file in sorted((tmp / "r").iterdir()):
        assert (tmp_path / "r" / file.name).read_bytes() == file.read_bytes(), file.name
    capsys.readouterr()
    run(tmp_path, str(tmp / "s.csv"), bootstrap=60)
    assert "made from the same inputs" in capsys.readouterr().out
    with pytest.raises(UserError, match="exists with other content"):
        run(tmp_path, str(tmp / "s.csv"), bootstrap=60, alpha=0.01)


def test_rows_that_are_alike_join_unrelated_values_and_the_report_says_how_many():
    draws = np.random.default_rng(0)
    alike_nv = np.repeat(draws.normal(size=(60, 8)), 10, axis=0) + 0.8 * draws.normal(size=(600, 8))
    single_nv, units_n = draws.normal(size=(600, 8)), np.repeat(np.arange(60), 10)
    alike, single = (np.mean(causal.unrelated(x_nv, units_n, 0.05, 0)) for x_nv in (alike_nv, single_nv))
    joined_vv = causal.pc(alike_nv, 0.05)
    joined = int((joined_vv | joined_vv.T).sum()) // 2
    print(f"alike {alike:.1f}, joined in truth {joined}; single {single:.1f}, of 28 pairs")
    assert single < 2.5 < alike and abs(joined - alike) < 5
    related_nv = np.repeat(alike_nv[:, :1], 8, axis=1) + draws.normal(size=(600, 8))
    assert np.mean(causal.unrelated(related_nv, units_n, 0.05, 0)) < 8  # what goes together does so no longer


def test_reduction_drops_what_a_longer_way_stands_for():
    edges = np.zeros((4, 4), bool)
    for i, j in ((0, 1), (1, 2), (0, 2), (2, 3), (3, 2)):
        edges[i, j] = True
    small = causal.reduced(edges)
    assert np.argwhere(small).tolist() == [[0, 1], [1, 2], [2, 3], [3, 2]]
    np.testing.assert_array_equal(causal.reach(small), causal.reach(edges))
    assert causal.reach(edges)[0].tolist() == [False, True, True, True]


def test_graphs_are_compared_by_pairs():
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    a[0, 1] = a[1, 2] = a[2, 3] = a[3, 2] = True
    b[0, 1] = b[2, 1] = b[2, 3] = b[0, 3] = True
    assert causal.compared(a, b) == {"pairs": [3, 4], "shared": 3, "same_direction": 1, "shd": 3}
    assert causal.compared(a, a) == {"pairs": [3, 3], "shared": 3, "same_direction": 3, "shd": 0}


def test_a_reference_and_another_matrix_are_compared(tmp_path):
    dag_vv, values, ids, x_nv = planted(1)
    file = write(tmp_path / "s.csv", ids, values, x_nv)
    more = write(tmp_path / "o.csv", ids, [*values[:-1], "w"], planted(1)[3][::-1])
    edges = [f"{values[i]},{values[j]}" for i, j in np.argwhere(dag_vv)]
    (tmp_path / "edges.csv").write_text("from,to\n" + "\n".join(edges + edges[:1]) + "\n")
    m = run(tmp_path, file, reference=str(tmp_path / "edges.csv"), other=more)
    assert m["reference"]["pairs"][1] == dag_vv.sum() and m["reference"]["shared"] >= dag_vv.sum() - 1
    assert m["reference"]["p"] < 0.01 and m["reference"]["file"] == "edges.csv"
    other = m["other"]
    assert other["left_out"] == ["v9", "w"] and len(other["values"]) == 9
    assert other["shd"] == 0 and other["shared"] == other["pairs"][0] and other["p"] < 0.01  # the same rows
    (tmp_path / "bad.csv").write_text("from,to\nv1,v22\n")
    with pytest.raises(UserError, match=r"bad.csv row 1: 'v22' is not there; did you mean v2"):
        run(tmp_path, file, out="x", reference=str(tmp_path / "bad.csv"))
    (tmp_path / "bad.csv").write_text("start,to\nv1,v2\n")
    with pytest.raises(UserError, match=r"no column from \(there: start, to\)"):
        run(tmp_path, file, out="x", reference=str(tmp_path / "bad.csv"))


def test_few_roles_give_no_frequency_with_the_number_that_would_be_enough(tmp_path):
    _, values, ids, x_nv = planted(roles=9, per_role=30)
    file = write(tmp_path / "s.csv", ids, values, x_nv)
    m = run(tmp_path, file, bootstrap=20)
    assert (
        m["bootstrap"]["done"] == 0
        and "9 roles: not enough to say how often an edge comes back, 10 would be" in m["notes"][0]
    )
    m = run(tmp_path, file, out="rows", bootstrap=20, unit="condition")
    assert m["unit"] == "condition" and m["units"] == 30 and m["bootstrap"]["done"] == 20
    html = (tmp_path / "r" / "report.html").read_text()
    assert "Dotted: not resampled" in html and "What it does not show" in html


def test_the_page_holds_any_name_as_text(tmp_path):
    _, values, ids, x_nv = planted(values=4)
    run(tmp_path, write(tmp_path / "s.csv", ids, [EVIL, "$a$b", *values[2:]], x_nv), bootstrap=20)
    html = (tmp_path / "r" / "report.html").read_text()
    assert EVIL not in html and "&lt;b&gt;evil" in html and str(tmp_path) not in html


def test_the_command_line(tmp_path):
    _, values, ids, x_nv = planted(values=4, roles=12)
    file = write(tmp_path / "s.csv", ids, values, x_nv)
    command = [sys.executable, "-m", "univar_jax.graph", f"--scores={file}", f"--out={tmp_path / 'r'}", "--bootstrap=2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "" and "directed" in done.stdout
    done = subprocess.run([*command[:3], "--scores=no.csv", "--out=x"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --scores=no.csv: no such file; give a CSV\n"
