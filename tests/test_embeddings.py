"""Files of one encoder are parts of one whole, and a question is known even where no column names it."""

import pathlib

import numpy as np
import pytest

from univar_jax import embeddings, qa
from univar_jax.cli import UserError

from .test_analyze import corpus, vectors, write


def joined(*paths):
    return embeddings.join({path: pathlib.Path(path).read_bytes() for path in paths}, [])


@pytest.fixture
def rows():
    return corpus(5, models=("m", "n"), langs=("eng",))


def test_values_and_control_of_one_encoder_are_joined(rows, tmp_path):
    control = corpus(3, dataset="c", relevant="False", models=("m", "n"), langs=("eng",), prefix="c")
    one = write(tmp_path / "a.parquet", rows, vectors(rows, 1, 0), weights="w")
    two = write(tmp_path / "b.parquet", control, vectors(control, 1, 1), weights="w")
    (encoder,) = joined(one, two)
    assert len(encoder.z_nd) == 16 and set(encoder.columns["dataset"]) == {"d", "c"}


def test_the_same_rows_twice_are_an_error(rows, tmp_path):
    one = write(tmp_path / "a.parquet", rows, vectors(rows, 1, 0), weights="w")
    two = write(tmp_path / "b.parquet", rows[:4], vectors(rows, 1, 0)[:4], weights="w", step="1")
    with pytest.raises(UserError, match=r"b\.parquet: 4 of its rows are in .*a\.parquet too"):
        joined(one, two)


@pytest.mark.parametrize("setting", [{"qas_per_view": 3}, {"max_tokens": 64}])
def test_other_settings_are_an_error(rows, tmp_path, setting):
    common = {"weights": "w", "qas_per_view": 1, "max_tokens": 512}
    one = write(tmp_path / "a.parquet", rows[:4], vectors(rows, 1, 0)[:4], **common)
    two = write(tmp_path / "b.parquet", rows[4:], vectors(rows, 1, 0)[4:], **common | setting)
    with pytest.raises(UserError, match=f"was made with {next(iter(setting))}"):
        joined(one, two)


def test_an_unknown_value_relevant_is_told_with_its_row(rows, tmp_path):
    rows[2]["value_relevant"] = "maybe"
    with pytest.raises(UserError, match=r"a\.parquet row 3: value_relevant='maybe'"):
        joined(write(tmp_path / "a.parquet", rows, vectors(rows, 1, 0)))


def test_without_ids_the_question_inside_the_text_is_the_group(rows, tmp_path):
    for row in rows:
        row["text"] = f"Q: Is {row['question_id']} good? A: So says {row['model']}. A: Or not."
    file = write(tmp_path / "a.parquet", rows, vectors(rows, 1, 0), drop=("question_id",))
    (encoder,) = joined(file)
    found = qa.groups({name: column.tolist() for name, column in encoder.columns.items()})
    assert found == [f"Is {row['question_id']} good?" for row in rows]
    assert np.unique(found).size == 5
    assert encoder.columns["answer"].tolist() == [f"So says {row['model']}. A: Or not." for row in rows]


def test_equal_rows_are_matched_by_their_number(tmp_path):
    """Encoder b has the rows backwards and one more; each meets its own, repeated texts in their order."""
    rows = corpus(3, models=("m",), langs=("eng",)) * 2
    a, b = vectors(rows, 0, 0), vectors(rows, 0, 1)
    files, notes = [write(tmp_path / "a.parquet", rows, a)], []
    files.append(write(tmp_path / "b.parquet", [*rows[::-1], rows[0]], np.concatenate([b[::-1], b[:1]])))
    one, two = embeddings.align(embeddings.join({f: pathlib.Path(f).read_bytes() for f in files}, notes), notes)
    np.testing.assert_array_equal(one.z_nd, a)
    np.testing.assert_array_equal(two.z_nd, b[[3, 4, 5, 0, 1, 2]])
    assert notes == ["1 rows of b are not in all files: left out."]


def test_a_number_that_is_none_is_an_empty_cell(rows, tmp_path):
    for i, row in enumerate(rows):
        row["stance"] = 0.5 if i else float("nan")
    (encoder,) = joined(write(tmp_path / "a.parquet", rows, vectors(rows, 1, 0)))
    assert encoder.columns["stance"][:2].tolist() == ["", "0.5"]
