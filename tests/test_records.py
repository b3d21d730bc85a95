"""records: each is TFRecord's frame around a tf.train.Example, as TFDS's own codec reads it."""

import struct

import numpy as np
import pytest

from tests.test_shards import assert_same, codec, opened, some_pairs, write_folder
from univar_jax.cli import UserError
from univar_jax.dataset import shards


def crc32c(data):
    """Castagnoli's polynomial, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


def test_the_crc_of_this_test_is_the_published_one():
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720's family of check values
    assert crc32c(bytes(32)) == 0x8A9136AA


def test_a_shard_is_a_tfrecord_file(tmp_path):
    path = tmp_path / "shard"
    index, _ = shards.write(path, some_pairs(3), codec())
    data, records = path.read_bytes(), []
    while data:
        length = struct.unpack("<Q", data[:8])[0]
        assert data[8:12] == masked(data[:8])
        payload, rest = data[12 : 12 + length], data[12 + length :]
        assert rest[:4] == masked(payload)
        records, data = [*records, payload], rest[4:]
    assert index["offset"].tolist() == [0, len(records[0]) + 16, len(records[0]) + len(records[1]) + 32]
    assert [path.name] == [p.name for p in tmp_path.iterdir()]  # nothing aside is left


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_records_are_what_tfds_own_codec_reads(tmp_path, dtype):
    pairs = some_pairs(5, dtype)
    folder = write_folder(tmp_path / "data", {"train": pairs}, dtype)
    data, found = (folder / shards.file_name("train", 0, 1)).read_bytes(), opened(folder)
    for record, offset in enumerate(found.index["offset"].tolist()):
        length = struct.unpack("<Q", data[offset : offset + 8])[0]
        theirs = codec(dtype).deserialize_example_np(data[offset + 12 : offset + 12 + length])
        ours = found.read(record)
        assert_same(ours, shards.Pair(theirs["anchor_ids"], theirs["key_ids"], int(theirs["source"])))
        assert ours.anchor.dtype == theirs["anchor_ids"].dtype == dtype


def test_ids_are_little_endian_on_disk(tmp_path):
    pair = shards.Pair(np.array([0x0102, 0x0304], np.uint16), np.array([5], np.uint16), 0)
    shards.write(tmp_path / "shard", [pair], codec())
    assert b"\x02\x01\x04\x03" in (tmp_path / "shard").read_bytes()


def test_a_flipped_bit_of_any_byte_of_a_shard_is_found(tmp_path):
    path = tmp_path / "shard"
    shards.write(path, some_pairs(4), codec())
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"{path} record \d.*remove the folder"):
            shards.scan(path, codec())
