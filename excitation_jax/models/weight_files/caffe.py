"""Reads the blobs of Caffe's .caffemodel files, serialised NetParameter messages, with protobuf.

Only the few fields that hold weights are declared here; protobuf skips the others. Two things
differ from Caffe's own schema and read the same bytes:

- a message inside a message is declared as bytes and parsed when its turn comes, because parsed
  messages take up to thirty times the memory of the two bytes that an empty one has in a file;
- packed numbers are declared as bytes, which numpy reads in no time and protobuf one by one.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from .checks import AGAIN, BadFile, Ledger, quote

_PROTOBUF_BYTES = 2**31 - 1  # the most that a message may have
_MOST_DIMENSIONS = 32  # Caffe's kMaxBlobAxes
_LEGACY = ("num", "channels", "height", "width")

# Message: field: (number, label, type), by the names in Caffe's caffe.proto.
_SCHEMA = {
    "NetParameter": {
        "layers": (2, "REPEATED", "BYTES"),  # V1LayerParameter, before 2014
        "layer": (100, "REPEATED", "BYTES"),  # LayerParameter
    },
    "LayerParameter": {
        "name": (1, "OPTIONAL", "BYTES"),
        "blobs": (7, "REPEATED", "BYTES"),
    },
    "V1LayerParameter": {
        "layer": (1, "OPTIONAL", "BYTES"),  # V0LayerParameter, before 2013
        "name": (4, "OPTIONAL", "BYTES"),
        "blobs": (6, "REPEATED", "BYTES"),
    },
    "BlobProto": {
        "num": (1, "OPTIONAL", "INT32"),
        "channels": (2, "OPTIONAL", "INT32"),
        "height": (3, "OPTIONAL", "INT32"),
        "width": (4, "OPTIONAL", "INT32"),
        "data": (5, "REPEATED", "BYTES"),  # float, packed, possibly in several pieces
        "shape": (7, "OPTIONAL", "BYTES"),
        "double_data": (8, "REPEATED", "BYTES"),
    },
    "BlobShape": {"dim": (1, "REPEATED", "INT64")},
}


def read_caffemodel(file: BinaryIO, limit: int) -> dict[str, np.ndarray]:
    """The blobs of a .caffemodel file, as "layer/0", "layer/1" and so on.

    Args:
        file: the open file.
        limit: the most bytes that the file may have; its blobs are never larger.

    Returns:
        float32 arrays, float64 where the file has doubles, in Caffe's layout: convolutions
        (out, in / groups, height, width), inner products (out, in). Files written before Caffe
        knew other shapes have four axes throughout: an inner product (1, 1, out, in), a bias
        (1, 1, 1, out). These are left so.

    Raises:
        ImportError: protobuf is not installed.
        BadFile: the file is no NetParameter or one of before 2013, or a blob's shape does not
            fit its values.
    """
    try:
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ImportError(
            f"{file.name} looks like a Caffe model; to read it, pip install "
            f"'excitation-jax[weights]'"
        ) from error
    size = os.fstat(file.fileno()).st_size
    if size > min(limit, _PROTOBUF_BYTES):
        raise BadFile(
            f"has {size} bytes, more than the limit of {min(limit, _PROTOBUF_BYTES)}: give a "
            f"larger limit= if it is meant to be so large (Caffe models end at 2 GiB)"
        )
    try:
        ledger = Ledger(limit)
        return dict(_blobs(file.read(size), ledger))
    except DecodeError as error:
        raise _damaged("protobuf cannot parse it") from error


def _blobs(content: bytes, ledger: Ledger) -> Iterator[tuple[str, np.ndarray]]:
    net = _parse("NetParameter", content)
    layers = [("V1LayerParameter", layer) for layer in net.layers]
    layers += [("LayerParameter", layer) for layer in net.layer]
    for message, serialised in layers:
        layer = _parse(message, serialised)
        if message == "V1LayerParameter" and layer.HasField("layer"):
            raise BadFile(
                "is a Caffe model of before 2013: convert it with Caffe's upgrade_net_proto_binary"
            )
        try:
            layer_name = layer.name.decode()
        except UnicodeDecodeError as error:
            raise _damaged("a layer's name is not UTF-8") from error
        for index, blob in enumerate(layer.blobs):
            name = f"{layer_name}/{index}"
            yield name, _array(name, _parse("BlobProto", blob), ledger)


def _array(name: str, blob: Any, ledger: Ledger) -> np.ndarray:
    single, double = b"".join(blob.data), b"".join(blob.double_data)
    if single and double:
        raise _damaged(f"{quote(name)} has both floats and doubles")
    dtype = np.dtype("<f8" if double else "<f4")
    data = double or single
    shape = _shape(name, blob)
    nbytes = ledger.enter(name, shape, dtype.itemsize)
    if nbytes != len(data):
        raise _damaged(f"{quote(name)} has {len(data)} bytes, and {nbytes} by its shape")
    # A copy, since what lies over bytes cannot be written to.
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _shape(name: str, blob: Any) -> tuple[int, ...]:
    if blob.HasField("shape"):
        dim = _parse("BlobShape", blob.shape).dim
        # Before the numbers become Python's: their count is whatever the file says.
        if len(dim) > _MOST_DIMENSIONS:
            raise _damaged(f"{quote(name)} has {len(dim)} axes, Caffe allows {_MOST_DIMENSIONS}")
        return tuple(dim)
    return tuple(getattr(blob, field) for field in _LEGACY)


def _parse(message: str, content: bytes) -> Any:
    return _messages()[message].FromString(content)


@functools.cache
def _messages() -> dict[str, Any]:
    """The message classes of `_SCHEMA`, in a pool of their own that no other schema meets."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    package = "excitation_jax.caffe"
    file = descriptor_pb2.FileDescriptorProto(
        name="excitation_jax/caffe.proto", package=package, syntax="proto2"
    )
    for message, fields in _SCHEMA.items():
        declared = file.message_type.add(name=message)
        for field, (number, label, kind) in fields.items():
            declared.field.add(
                name=field,
                number=number,
                label=descriptor_pb2.FieldDescriptorProto.Label.Value(f"LABEL_{label}"),
                type=descriptor_pb2.FieldDescriptorProto.Type.Value(f"TYPE_{kind}"),
            )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        message: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{message}"))
        for message in _SCHEMA
    }


def _damaged(reason: str) -> BadFile:
    return BadFile(f"is a damaged Caffe model ({reason}): {AGAIN}")
