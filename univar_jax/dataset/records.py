"""A pair as one record of a TFRecord file; no tensorflow, no jax."""

import dataclasses
import struct

import google_crc32c
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from univar_jax.cli import UserError
from univar_jax.files import Place

AGAIN = "remove the folder and prepare it again"
_HEAD, _FOOT = struct.Struct("<QI"), struct.Struct("<I")


@dataclasses.dataclass(frozen=True)
class Pair:
    """One record: the token ids of two views of one source, special tokens included; source counts the names."""

    anchor: np.ndarray
    key: np.ndarray
    source: int


def frame(pair: Pair, codec: tfds.features.FeaturesDict) -> bytes:
    """TFRecord: length, crc of the length, tf.train.Example, crc of the example."""
    example = codec.serialize_example({"anchor_ids": pair.anchor, "key_ids": pair.key, "source": pair.source})
    # A protobuf map has no order of its own; without this the bytes differ from process to process.
    payload = tf_example_pb2.Example.FromString(example).SerializeToString(deterministic=True)
    head = _HEAD.pack(len(payload), _masked_crc(struct.pack("<Q", len(payload))))
    return head + payload + _FOOT.pack(_masked_crc(payload))


def size(data: bytes, offset: int) -> int:
    """Bytes of the whole record that begins there."""
    return _HEAD.size + _HEAD.unpack_from(data, offset)[0] + _FOOT.size


def parse(data: bytes | memoryview, dtype: np.dtype, path: Place, record: int) -> Pair:
    """The record at the start of `data`.

    Reads the same fields as TFDS's codec, which takes four times as long: a feed that a device waits for.
    """
    try:
        return _parsed(data, dtype)
    except UserError as error:
        raise UserError(f"{path} record {record}: {error}; the shard is damaged; {AGAIN}") from error


def _parsed(data: bytes | memoryview, dtype: np.dtype) -> Pair:
    if len(data) < _HEAD.size:
        raise UserError(f"cut short at {len(data)} bytes")
    length, crc = _HEAD.unpack_from(data)
    if _masked_crc(bytes(data[:8])) != crc:
        raise UserError("the crc of its length does not match")
    if len(data) < _HEAD.size + length + _FOOT.size:
        raise UserError(f"cut short, {len(data)} bytes of {_HEAD.size + length + _FOOT.size}")
    payload = bytes(data[_HEAD.size : _HEAD.size + length])
    if _FOOT.unpack_from(data, _HEAD.size + length)[0] != _masked_crc(payload):
        raise UserError("its crc does not match")
    found = tf_example_pb2.Example.FromString(payload).features.feature
    anchor, key = (np.frombuffer(found[name].bytes_list.value[0], dtype) for name in ("anchor_ids", "key_ids"))
    return Pair(anchor, key, found["source"].int64_list.value[0])


def _masked_crc(data: bytes) -> int:
    """TFRecord's checksum: crc32c, rotated and shifted so that a crc of crcs stays sound."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
