"""Planted sources and a planted control: every score beside the first one says what was planted."""

import json

import numpy as np
import pytest

from univar_jax import analyze, embeddings
from univar_jax.statistics import scores

from .test_analyze import corpus, vectors


def table(rows, *z, k=10, seed=0, lengths=None, trained=()):
    """scores.Table of rows as files have them, an encoder for each z."""
    for row, length in zip(rows, lengths if lengths is not None else [5] * len(rows), strict=True):
        row.setdefault("answer", f"{row['model']} says " + "x" * length)
    columns = {name: [row.get(name, "") for row in rows] for name in (*rows[0], "value", "answer")}
    columns = embeddings._complete("f", columns)
    encoders = [embeddings.Encoder(str(i), {}, z_nd, columns) for i, z_nd in enumerate(z)]
    return analyze._table(encoders, k, seed, [])


def measured(data, values=None, told=None):
    control_n = data.columns["value_relevant"] == "False"
    return scores.measure(data, ~control_n, control_n, told.append if told is not None else lambda _: None)


MODELS = ("m1", "m2", "m3")


@pytest.fixture(scope="module")
def planted():
    """Values in two corpora give sources away, control answers hardly; words never."""
    rows = corpus(40, "one", models=MODELS, langs=("eng", "zho")) + corpus(40, "two", models=MODELS[:2], prefix="p")
    rows += corpus(60, "lima", "False", models=MODELS, prefix="c")
    for i, row in enumerate(rows):
        row |= {"text": f"Q: {row['question_id']} A: {i}", "value": f"v{i % 2}" if row["dataset"] == "one" else ""}
    signal = np.array([0.4 if row["dataset"] == "lima" else 3 for row in rows])[:, None]
    draws = np.random.default_rng(7)
    home = {s: np.eye(8)[i] for i, s in enumerate(sorted({row["source"] for row in rows}))}
    z = np.array([home[row["source"]] for row in rows]) * signal + draws.normal(size=(len(rows), 8)) / np.sqrt(8)
    z_nd = (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)
    told = []
    data = table(rows, z_nd, vectors(rows, 0, 1))
    return *measured(data, told=told), told, data


def test_the_signal_is_found_and_the_encoder_without_one_is_at_chance(planted):
    (first, second), (pair,), _, _ = planted
    assert first["knn"]["acc"] > 0.9 and first["permutation_p"] == 0.001 and pair["verdict"] == "above"
    assert second["permutation_p"] > 0.02 and second["knn"]["acc"] < 0.4
    assert first["permutation_unit"] == "question" and first["left_out"] == []


def test_every_part_has_the_same_keys_and_words_at_chance(planted):
    (first, _), _, _, _ = planted
    parts = [first, first["control"], *first["by_dataset"].values(), *first["across"], *first["labels"].values()]
    parts += [first["by_count"], first["length_matched"], first["control"]["by_count"]]
    for part in parts:
        assert {"n", "knn", "linear", "tfidf", "permutation_p", "leakage", "left_out"} <= set(part)
        assert part["tfidf"]["acc"] < 0.65 and part["leakage"]["rows"] == 0
    assert first["tfidf"]["paired"]["verdict"] == "above"
    assert first["tfidf"]["paired"]["difference"] == pytest.approx(first["knn"]["acc"] - first["tfidf"]["acc"])


def test_by_count_shares_questions_and_says_how_many(planted):
    (first, _), _, _, _ = planted
    counted = first["by_count"]
    assert counted["leakage"]["questions"] == counted["n_scored"] == 6 * 8 + 4 * 8  # a fifth of 40, of each source
    assert first["leakage"]["questions"] == 0 and counted["n"] == first["n"]
    assert counted["n_fit"] == 6 * 32 + 4 * 32


def test_whole_corpora_are_held_out_both_ways_over_common_sources(planted):
    (first, _), _, _, _ = planted
    assert [(a["fit"], a["scored"], a["sources"], a["n_fit"]) for a in first["across"]] == [
        ("one", "two", 4, 160),
        ("two", "one", 4, 160),
    ]
    # The files' split says "train" of most rows: on those an encoder was trained, so they are not scored.
    assert [a["n_scored"] for a in first["across"]] == [
        4 * first["by_dataset"]["two"]["n_scored"] // 4,
        4 * first["by_dataset"]["one"]["n_scored"] // 6,
    ]
    assert all(a["left_out"] == (["m3$eng", "m3$zho"] if a["fit"] == "one" else a["left_out"]) for a in first["across"])


def test_language_and_model_are_labels_of_their_own(planted):
    (first, _), _, _, _ = planted
    assert first["labels"]["lang"]["chance"] == 1 / 2 and first["labels"]["model"]["chance"] == pytest.approx(1 / 3)
    assert first["labels"]["model"]["knn"]["acc"] >= first["knn"]["acc"]


def test_values_to_control_is_over_as_many_rows_of_the_same_sources(planted):
    (first, second), _, _, _ = planted
    ratio = first["value_to_control"]
    assert ratio["matched"] and all(ratio[key][0] == ratio[key][1] for key in ("n_fit", "n_scored", "sources"))
    assert ratio["ratio"] == pytest.approx(ratio["values"]["acc"] / ratio["control"]["acc"])
    assert ratio["ci"][0] < ratio["ratio"] < ratio["ci"][1] and ratio["ci"][0] > 1.2
    assert second["value_to_control"]["ci"][0] < 1.6 and ratio["tfidf"]["ci"][0] < 1.6
    assert ratio["by_count"]["ratio"] > 1.2


def test_values_have_their_own_scores(planted):
    (first, _), _, _, _ = planted
    assert set(first["by_value"]) == {"v0", "v1"} and first["by_value"]["v0"]["acc"] > 0.8
    assert sum(v["n_scored"] for v in first["by_value"].values()) == first["by_dataset"]["one"]["n_scored"]


def test_all_of_it_is_json(planted):
    json.dumps(planted[0], allow_nan=False)


def test_one_source_and_no_control_leave_nulls():
    rows = corpus(10, models=("m",), langs=("eng",))
    told = []
    (found,), pairs = measured(table(rows, vectors(rows, 1, 0)), told=told)
    assert found["knn"] is found["control"] is found["value_to_control"] is found["by_count"] is None and pairs == []
    assert found["by_dataset"]["d"]["n"] == found["n"] == 10
    assert found["labels"] == {"lang": None, "model": None} and found["across"] == [] and found["by_value"] == {}
    assert told == ["Values: fewer than two sources can be scored, so there are no scores."]


def test_sources_of_one_side_are_named_and_k_is_cut():
    rows = corpus(10, models=("a", "b", "c"), langs=("eng",))
    rows = [row for row in rows if row["model"] != "c" or row["split"] == "train"]
    told = []
    data = table(rows, vectors(rows, 1, 0), k=500)
    (found,), _ = measured(data, told=told)
    assert found["left_out"] == ["c$eng"] and found["sources"] == 2 and found["knn"]["k"] == found["n_fit"]
    assert told[0] == "Values: no rows on one of the two sides, so left out: c$eng."
    assert (
        told[1] == f"Values: k=500 is more than the {found['n_fit']} rows on the fit side, so k={found['n_fit']} there."
    )


def test_lengths_that_give_sources_away_are_matched_and_others_are_named():
    rows = corpus(60, models=("a", "b"), langs=("eng",))
    draws, told = np.random.default_rng(0), []
    lengths = np.where([r["model"] == "a" for r in rows], draws.integers(10, 90, 120), draws.integers(50, 130, 120))
    (found,), _ = measured(table(rows, vectors(rows, 3, 0), lengths=lengths), told=told)
    assert 20 < found["length_matched"]["n"] < 80 and found["length_matched"]["of"] == 120 and not told
    rows, lengths = corpus(60, models=("a", "b"), langs=("eng",)), np.where(np.arange(120) % 2, 10, 500)
    (found,), _ = measured(table(rows, vectors(rows, 3, 0), lengths=lengths), told=told)
    assert found["length_matched"] is None and "no answers of equal length in half of its 2 sources" in told[0]


def test_control_of_other_sources_makes_no_fair_ratio():
    rows = corpus(20, models=("a", "b"), langs=("eng",)) + corpus(20, "l", "False", ("c", "d"), ("eng",), "c")
    told = []
    (found,), _ = measured(table(rows, vectors(rows, 3, 0)), told=told)
    assert found["value_to_control"]["matched"] is False and "over different ones" in told[-1]
