"""shards: what was written is what is read, by us and by TFDS, and no flipped bit or lost byte goes unnoticed."""

import hashlib
import json
import shutil
import struct

import numpy as np
import pytest
import tensorflow_datasets as tfds

from univar_jax import config
from univar_jax.cli import UserError
from univar_jax.dataset import shards

SOURCES = ["a$eng", "a$zho$nurse", "é b$eng"]


def codec(dtype=np.uint16):
    return shards.features(np.dtype(dtype), SOURCES)


def some_pairs(count, dtype=np.uint16, seed=0):
    """Pairs of all lengths from 1, ids up to the type's last."""
    rng = np.random.default_rng(seed)
    high = np.iinfo(dtype).max
    sides = [[rng.integers(0, high, rng.integers(1, 9), dtype, endpoint=True) for _ in range(2)] for _ in range(count)]
    return [shards.Pair(a, k, i % 3) for i, (a, k) in enumerate(sides)]


def assert_same(found, pair):
    np.testing.assert_array_equal(found.anchor, pair.anchor, strict=True)
    np.testing.assert_array_equal(found.key, pair.key, strict=True)
    assert found.source == pair.source


def write_folder(folder, splits, dtype=np.uint16):
    """A whole DATA folder of these pairs by split, as prepare lays it out, PER_SHARD records a shard."""
    folder.mkdir()
    manifest = {"ids_dtype": np.dtype(dtype).name, "sources": SOURCES, "splits": {}}
    for name, pairs in splits.items():
        parts = [pairs[i : i + shards.PER_SHARD] for i in range(0, len(pairs), shards.PER_SHARD)]
        entries, index = [], b""
        for number, part in enumerate(parts):
            path = folder / shards.file_name(name, number, len(parts))
            entries_of, written = shards.write(path, part, codec(dtype))
            index += entries_of.tobytes()
            entries.append({"file": path.name, "records": len(part), **written})
        (folder / f"index-{name}.bin").write_bytes(index)
        index_entry = {"file": f"index-{name}.bin", "sha256": hashlib.sha256(index).hexdigest()}
        manifest["splits"][name] = {"index": index_entry, "shards": entries}
    manifest["metadata"] = shards.write_metadata(folder, codec(dtype), manifest["splits"])
    manifest["sha256"] = config.digest(manifest)
    (folder / shards.MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def three(monkeypatch, tmp_path):
    """A folder of three train shards (4 + 4 + 2 records) and an eval one, and its pairs."""
    monkeypatch.setattr(shards, "PER_SHARD", 4)
    splits = {"train": some_pairs(10), "eval": some_pairs(3, seed=1)}
    return write_folder(tmp_path / "data", splits), splits


def opened(folder, split="train"):
    return shards.Shards(folder, shards.read_manifest(str(folder)), split)


# -- there and back ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_scan_and_read_give_what_was_written(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(shards, "PER_SHARD", 4)
    pairs = some_pairs(10, dtype)
    folder = write_folder(tmp_path / "data", {"train": pairs}, dtype)
    found = opened(folder)
    assert len(found) == 10 and found.sources == SOURCES
    np.testing.assert_array_equal(found.lengths(), [(len(p.anchor), len(p.key)) for p in pairs])
    for record in np.random.default_rng(2).permutation(10):  # any order
        assert_same(found.read(int(record)), pairs[record])
    for number in range(3):
        path = folder / shards.file_name("train", number, 3)
        index, sha256 = shards.scan(path, codec(dtype))
        np.testing.assert_array_equal(index, found.index[number * 4 :][:4])
        assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_splits_do_not_mix(three):
    folder, splits = three
    for name, pairs in splits.items():
        for record, pair in enumerate(pairs):
            assert_same(opened(folder, name).read(record), pair)


def test_a_write_that_fails_leaves_nothing(tmp_path):
    def pairs():
        yield from some_pairs(2)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        shards.write(tmp_path / "shard", pairs(), codec())
    assert list(tmp_path.iterdir()) == []


# -- damage ------------------------------------------------------------------------------------------------------


def test_every_cut_of_a_shard_is_found_with_file_and_record(three):
    folder, _ = three
    path = folder / shards.file_name("train", 2, 3)
    whole, second = path.read_bytes(), int(opened(folder).index["offset"][9])
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=str(path)):  # a cut between records is whole to scan, not to verify
            shards.verify(str(folder))
        if length not in (0, second):
            with pytest.raises(UserError, match=f"{path} record {int(length > second)}: cut short"):
                shards.scan(path, codec())
        with pytest.raises(UserError, match=f"{path} record {int(length >= second)}: cut short"):
            opened(folder).read(9)


def test_a_shard_is_checked_as_a_whole_before_any_of_its_records_is_used(three, tmp_path):
    folder, _ = three
    path = folder / shards.file_name("train", 1, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    with pytest.raises(UserError, match=f"{path} record 3: its crc does not match"):
        opened(folder).read(4)
    other = write_folder(tmp_path / "other", {"train": some_pairs(10, seed=5)})
    shutil.copy(other / path.name, folder)
    with pytest.raises(UserError, match=f"{path}: whole records, but of another prepare"):
        opened(folder).read(4)


def test_a_byte_flipped_later_is_found_by_who_reads_that_record(three):
    folder, splits = three
    path, found = folder / shards.file_name("train", 1, 3), opened(folder)
    found.read(7)  # the whole shard was checked here
    data = bytearray(path.read_bytes())
    data[int(found.index["offset"][6]) + 20] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"{path} record 2: its crc does not match"):
        found.read(6)
    assert_same(found.read(7), splits["train"][7])


def test_verify_names_the_one_damaged_file_whichever_it_is(three, capsys):
    folder, _ = three
    shards.verify(str(folder))
    assert "train: 10 records in 3 shards" in capsys.readouterr().out
    names = sorted(p.name for p in folder.iterdir())
    assert len(names) == 10
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(UserError, match=str(path)):
                shards.verify(str(folder))
        path.unlink()
        with pytest.raises(UserError, match=f"{path} is missing"):
            shards.verify(str(folder))
        path.write_bytes(whole)
    shards.verify(str(folder))


def test_a_manifest_that_still_parses_is_not_believed_either(three):
    folder, _ = three
    manifest = shards.read_manifest(str(folder))
    manifest["splits"]["train"]["shards"][0]["records"] = 3
    (folder / shards.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        shards.verify(str(folder))


def test_a_missing_shard_is_named_at_the_start_or_when_read(three):
    folder, _ = three
    path, found = folder / shards.file_name("train", 2, 3), opened(folder)
    found.read(0)
    path.unlink()
    with pytest.raises(UserError, match=f"{path} is missing"):
        found.read(8)
    with pytest.raises(UserError, match=f"{path} is missing"):
        opened(folder)


def test_the_index_of_another_folder_is_refused(three, tmp_path):
    folder, _ = three
    other = write_folder(tmp_path / "other", {"train": some_pairs(10, seed=5)})
    shutil.copy(other / "index-train.bin", folder)
    with pytest.raises(UserError, match=rf"{folder}/index-train\.bin is not the index"):
        opened(folder)


@pytest.mark.parametrize("content", [None, "", "{", "3", '{"splits": '])
def test_no_manifest_or_a_broken_one_is_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=rf"{tmp_path}/manifest\.json is (missing|broken).*prepare") as error:
        shards.read_manifest(str(tmp_path))
    assert "\n" not in str(error.value)


# -- TFDS --------------------------------------------------------------------------------------------------------


def test_tfds_opens_the_folder_and_its_features_decode_a_record(three):
    folder, splits = three
    builder = tfds.builder_from_directory(folder)
    assert builder.info.splits["train"].shard_lengths == [4, 4, 2]
    assert builder.info.splits["eval"].num_examples == 3
    assert [p.name for p in builder.info.splits["train"].filepaths] == [
        shards.file_name("train", k, 3) for k in range(3)
    ]
    assert builder.info.features["source"].names == SOURCES
    data = (folder / shards.file_name("train", 0, 3)).read_bytes()
    example = builder.info.features.deserialize_example_np(data[12 : 12 + struct.unpack("<Q", data[:8])[0]])
    assert_same(shards.Pair(example["anchor_ids"], example["key_ids"], int(example["source"])), splits["train"][0])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_tensorflow_reads_every_record_equal_to_ours(tmp_path, monkeypatch, dtype):
    tf = pytest.importorskip("tensorflow", reason="the [tf] extra is not installed")
    monkeypatch.setattr(shards, "PER_SHARD", 4)
    pairs = some_pairs(10, dtype)
    folder = write_folder(tmp_path / "data", {"train": pairs}, dtype)
    builder = tfds.builder_from_directory(folder)
    by_tfds = tfds.as_numpy(builder.as_dataset(split="train"))
    files = [str(folder / shards.file_name("train", k, 3)) for k in range(3)]
    by_tf_data = tf.data.TFRecordDataset(files).map(builder.info.features.deserialize_example).as_numpy_iterator()
    for examples in (list(by_tfds), list(by_tf_data)):
        assert len(examples) == 10
        for example, pair in zip(examples, pairs, strict=True):
            assert_same(shards.Pair(example["anchor_ids"], example["key_ids"], int(example["source"])), pair)
