"""One row a view, in the order of the input, on the side of the split that the run's rule says."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest

from univar_jax import embed, qa
from univar_jax.cli import UserError
from univar_jax.dataset.shards import read_manifest
from univar_jax.encoders import encode, encoder, mesh, models, weights
from univar_jax.train import train
from univar_jax.training import runs

from .conftest import SAMPLE


@pytest.fixture(scope="module")
def run(tiny_config, tiny_data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "run"
    config = tiny_config.copy_and_resolve_references()
    config.unlock()
    config.update(steps=2)
    train(config, str(tiny_data), str(workdir))
    return workdir


@pytest.fixture(scope="module")
def single(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("single") / "emb.parquet"
    embed.embed(str(run), str(SAMPLE), str(path))
    return path


def rows():
    found = []
    for file in sorted(SAMPLE.iterdir()):
        with open(file, encoding="utf-8") as text:
            found += csv.DictReader(text)
    return found


def test_rows_come_in_the_order_of_the_input_with_their_columns(single):
    table, given = pq.read_table(single), rows()
    assert table["text"].to_pylist() == [qa.text(r["question"], r["answer"]) for r in given]
    assert table["source"].to_pylist() == [f"{r['model']}${r['lang']}" for r in given]
    for name in ("model", "lang", "dataset", "question_id", "value_relevant"):
        assert table[name].to_pylist() == [r[name] for r in given]
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[32]"


def test_vectors_equal_each_text_encoded_alone(single, run):
    loaded, table = runs.read(str(run)), pq.read_table(single)
    tokenizer = models.tokenizer(loaded.encoder_folder)
    graph = encoder.build(models.read_config(loaded.encoder_folder))
    for i in (0, 500, -1):
        ids = np.array([tokenizer.encode(table["text"].to_pylist()[i]).ids])
        alone = encoder.apply(graph, loaded.params, ids, np.ones_like(ids), np.arange(ids.size)[None], segments=1)
        np.testing.assert_allclose(table["embedding"][i].as_py(), alone[0, 0], atol=1e-5)


def test_vectors_are_of_unit_norm(single):
    z = np.array(pq.read_table(single)["embedding"].to_pylist())
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, atol=1e-6)


def test_sides_follow_the_rule_and_other_corpora_are_unseen(single, tiny_data, tiny_config):
    held = qa.heldout([r["question_id"] for r in rows()], tiny_config.seed, tiny_config.holdout)
    expected = [
        "unseen" if r["dataset"] == "sample_control" else "heldout" if h else "train"
        for r, h in zip(rows(), held, strict=True)
    ]
    assert pq.read_table(single)["split"].to_pylist() == expected
    assert set(expected) == {"train", "heldout", "unseen"}
    assert read_manifest(str(tiny_data))["holdout"]["corpora"] == ["sample_values"]


def test_the_file_says_where_it_comes_from(single, run):
    about = {k.decode(): v.decode() for k, v in pq.read_schema(single).metadata.items()}
    assert about["encoder"] == "run" and about["step"] == "2" and len(about["config_hash"]) == 64
    assert about["weights"] == weights.digest(runs.read(str(run)).params)
    assert json.loads(about["holdout"])["share"] == 0.2


def test_equal_runs_give_equal_bytes(single, run, tmp_path):
    embed.embed(str(run), str(SAMPLE), str(tmp_path / "again.parquet"))
    assert (tmp_path / "again.parquet").read_bytes() == single.read_bytes()


def test_handfuls_use_each_answer_once_and_mix_nothing(run, tmp_path):
    file = SAMPLE / "smollm2-135m-instruct.csv"  # English: four answers fit into 512 tokens
    embed.embed(str(run), str(file), str(tmp_path / "e.parquet"), qas_per_view=4)
    table = pq.read_table(tmp_path / "e.parquet").to_pylist()
    with open(file, encoding="utf-8") as text:
        given = {row["question_id"]: row for row in csv.DictReader(text)}
    assert sorted(q for row in table for q in row["question_id"]) == sorted(given)
    assert np.mean([len(row["question_id"]) for row in table]) > 3.5
    for row in table:
        assert row["text"] == "\n".join(qa.text(given[q]["question"], given[q]["answer"]) for q in row["question_id"])
        assert {given[q]["dataset"] for q in row["question_id"]} == {row["dataset"]}
        assert {given[q]["value_relevant"] for q in row["question_id"]} == {row["value_relevant"]}


def test_handfuls_split_no_side_even_of_unseen_corpora(tmp_path):
    answers = qa.read(str(SAMPLE))
    rule = {"seed": 7, "share": 0.3, "corpora": []}
    columns = embed._columns(answers, rule)
    held = qa.heldout(qa.groups(answers.columns), 7, 0.3)
    for view in embed._handfuls(answers, columns["split"], rule, 5, seed=0):
        assert len({held[i] for i in view}) == 1


def test_longer_texts_are_cut_and_counted(run, tmp_path, capsys):
    embed.embed(str(run), str(SAMPLE / "smollm2-135m-instruct.csv"), str(tmp_path / "e.parquet"), max_tokens=40)
    tokenizer = models.tokenizer(runs.read(str(run)).encoder_folder)
    texts = pq.read_table(tmp_path / "e.parquet")["text"].to_pylist()
    longer = sum(len(tokenizer.encode(t).ids) > 40 for t in texts)
    assert f"{longer} cut to 40 tokens" in capsys.readouterr().out and longer > 0


def test_long_and_short_views_keep_their_places(tiny_bert):
    config = models.read_config(tiny_bert)
    graph, params = encoder.build(config), weights.load(tiny_bert, config)
    rng = np.random.default_rng(0)
    ids = [rng.integers(1000, 2000, n) for n in (3, 400, 5, 256, 257, 90, 512, 4)]
    found = encode.embedder(graph, mesh.make(0, 1))(params, ids)
    apply = jax.jit(lambda x: encoder.apply(graph, params, x, jnp.ones_like(x), jnp.arange(x.size)[None], segments=1))
    for z, x in zip(found, ids, strict=True):
        np.testing.assert_allclose(z, apply(x[None])[0, 0], atol=1e-5)


def test_out_that_is_there_is_the_same_or_left_alone(single, run, tmp_path, capsys):
    before = single.read_bytes()
    embed.embed(str(run), str(SAMPLE), str(single))
    assert "finished and the same" in capsys.readouterr().out
    with pytest.raises(UserError, match="made from other inputs"):
        embed.embed(str(run), str(SAMPLE), str(single), qas_per_view=2)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="made from other inputs"):
        embed.embed(str(run), str(SAMPLE), str(tmp_path / "mine.txt"))
    assert single.read_bytes() == before and (tmp_path / "mine.txt").read_text() == "mine"


def test_more_tokens_than_positions_gives_both_numbers(run, tmp_path):
    with pytest.raises(UserError, match=r"--max_tokens=600 .* 512 positions"):
        embed.embed(str(run), str(SAMPLE), str(tmp_path / "e.parquet"), max_tokens=600)


@pytest.mark.parametrize("cap", [1, 2, 7])
def test_a_cap_without_room_for_words_is_refused(run, tmp_path, cap):
    with pytest.raises(UserError, match=f"--max_tokens={cap} leaves no room"):
        embed.embed(str(run), str(SAMPLE), str(tmp_path / "e.parquet"), max_tokens=cap)


def test_the_group_is_written_out_where_only_the_question_tells_it(run, tmp_path):
    lines = ["model,lang,question,answer"]
    lines += [
        f"{m},eng,{pad}Is thing {q} good?{pad},Answer {q} of {m}"
        for q in range(9)
        for m, pad in (("a", ""), ("b", " "))
    ]
    (tmp_path / "four.csv").write_text("\n".join(lines) + "\n")
    embed.embed(str(run), str(tmp_path / "four.csv"), str(tmp_path / "e.parquet"))
    table = pq.read_table(tmp_path / "e.parquet").to_pylist()
    assert {row["group_id"] for row in table} == {f"Is thing {q} good?" for q in range(9)}


def test_a_folder_in_the_place_of_the_file_is_told(run, tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        embed.embed(str(run), str(SAMPLE), str(tmp_path))


def test_dims_are_the_leading_numbers_to_unit_norm(single, run, tmp_path):
    embed.embed(str(run), str(SAMPLE), str(tmp_path / "e.parquet"), dims=8)
    whole, cut = (np.stack(pq.read_table(f)["embedding"].to_pylist()) for f in (single, tmp_path / "e.parquet"))
    np.testing.assert_allclose(cut, whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True), atol=1e-6)
    meta, other = pq.read_schema(tmp_path / "e.parquet").metadata, pq.read_schema(single).metadata
    assert meta[b"dims"] == b"8" and meta[b"encoder"] == b"run:8" and meta[b"weights"] != other[b"weights"]
    with pytest.raises(UserError, match="--dims=33 is more than the 32 numbers"):
        embed.embed(str(run), str(SAMPLE), str(tmp_path / "f.parquet"), dims=33)
