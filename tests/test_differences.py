"""The question on which two sources were made to differ comes first, quoted; the one on which they agree last."""

import numpy as np

from univar_jax.statistics import differences

PAIR = [("a", "b")]


def rows(sources=("a", "b"), asked=8, d=6, repeats=1):
    """All sources answer alike, but to q0 each in its own direction; to q1 letter by letter alike."""
    draws = np.random.default_rng(0)
    names = ("source", "question", "answer", "dataset", "value")
    table, z = [], []
    for q in range(asked):
        base = draws.normal(size=d)
        for s, source in enumerate(sources):
            for r in range(repeats):
                own = np.eye(d)[s] * 9 if q == 0 else draws.normal(size=d) * (0.0 if q == 1 else 0.3)
                z.append(base + own)
                table.append((source, f"q{q}", f"{source} says {q} {r} " + "x" * 700 * (q == 0), "d", f"v{q % 2}"))
    z_nd = np.array(z) / np.linalg.norm(z, axis=1, keepdims=True)
    columns = {n: np.array(c, object) for n, c in zip(names, zip(*table, strict=True), strict=True)}
    return z_nd.astype(np.float32), columns, [("question", columns["question"])]


def test_the_planted_question_is_first_and_the_equal_one_last():
    z_nd, columns, units = rows()
    (found,) = differences.between(z_nd, columns, units, PAIR)
    assert (found["a"], found["b"], found["unit"], found["shared"]) == ("a", "b", "question", 8)
    assert found["most"][0]["question"] == "q0" and found["least"][0]["question"] == "q1"
    assert found["least"][0]["distance"] == 0 and len(found["most"]) == 4 and len(found["least"]) == 4
    assert found["most"][0]["answer_a"].startswith("a says 0") and found["most"][0]["answer_a"].endswith("x …")
    assert len(found["most"][0]["answer_b"]) == differences.ANSWER_LETTERS + 2
    assert list(found["by_value"]) == ["v0", "v1"] and found["by_value"]["v0"]["questions"] == 4
    assert found["by_dataset"] == {"d": {"distance": found["distance"], "questions": 8}}


def test_of_repeated_answers_the_mean_over_their_pairs_counts():
    z_nd, columns, units = rows(asked=3, repeats=3)
    (found,) = differences.between(z_nd, columns, units, PAIR)
    a, b = (np.flatnonzero((columns["source"] == s) & (columns["question"] == "q2")) for s in "ab")
    naive = np.mean([1 - z_nd[i] @ z_nd[j] for i in a for j in b])
    listed = {q["question"]: q["distance"] for q in found["most"] + found["least"]}
    assert abs(listed["q2"] - naive) < 1e-4


def test_few_sources_are_all_paired_and_of_many_the_ends():
    draws = np.random.default_rng(0)
    assert (
        len(differences.pairs(range(10), np.zeros((10, 10)))) == 45 and differences.pairs("a", np.zeros((1, 1))) == []
    )
    d_ss = draws.random((30, 30))
    d_ss = d_ss + d_ss.T
    np.fill_diagonal(d_ss, 0)
    found = set(differences.pairs(range(30), d_ss))
    assert len(found) <= 60 and all(i < j for i, j in found)
    for i in range(30):
        others = [j for j in range(30) if j != i]
        ends = (min(others, key=lambda j: d_ss[i, j]), max(others, key=lambda j: d_ss[i, j]))
        assert {(min(i, j), max(i, j)) for j in ends} <= found


def test_without_a_common_question_the_groups_count_and_then_nothing():
    z_nd, columns, _ = rows()
    alone = np.arange(len(z_nd)).astype(str)
    (found,) = differences.between(z_nd, columns, [("question", alone), ("group", columns["value"])], PAIR)
    assert (found["unit"], found["shared"]) == ("group", 2)
    (found,) = differences.between(z_nd, columns, [("question", alone)], PAIR)
    assert found["shared"] == 0 and found["distance"] is None and found["most"] == []
