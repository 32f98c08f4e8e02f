"""Weight files as bytes, sound ones and crafted ones, written without the library's readers."""

from __future__ import annotations

import io
import json
import struct
import zipfile

import ml_dtypes
import numpy as np
import safetensors.numpy


def arrays() -> dict[str, np.ndarray]:
    """A few arrays of different shapes and dtypes that every format can hold."""
    return {
        "conv/0": np.random.default_rng(0).standard_normal((3, 2, 3, 3)).astype(np.float32),
        "conv/1": np.arange(3, dtype=np.float32),
        "fc/0": np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3),
    }


# --- .npz ----------------------------------------------------------------------------------------


def npz(content: dict[str, np.ndarray], compressed: bool = False) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **content)
    return stream.getvalue()


def npy(shape: object, data: bytes = b"", descr: str = "'<f4'", order: object = False) -> bytes:
    """An .npy file with what is given in its header, sound or not."""
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        for name, content in members.items():
            # A ZipInfo of its own has a fixed date, so that the bytes are the same every time.
            file.writestr(zipfile.ZipInfo(name), content, method)
    return stream.getvalue()


# --- safetensors ---------------------------------------------------------------------------------


def safetensors_file(content: dict[str, np.ndarray]) -> bytes:
    return safetensors.numpy.save(content, metadata={"format": "np"})


def safetensors_raw(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A file with this header (JSON, unless it is bytes), which declares any length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: object, shape: object, *place: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": list(place)}


# --- .caffemodel, in protobuf's wire format -------------------------------------------------------


def varint(number: int) -> bytes:
    number &= 2**64 - 1
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number: int, payload: bytes) -> bytes:
    """A field with a length: a message, a string or packed numbers."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def integer(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def blob(array: np.ndarray, legacy: bool = False) -> bytes:
    """A BlobProto; before 2014 with four axes instead of a shape."""
    if legacy:
        axes = (1,) * (4 - array.ndim) + array.shape
        shape = b"".join(integer(i, size) for i, size in enumerate(axes, 1))
    else:
        shape = field(7, field(1, b"".join(varint(size) for size in array.shape)))
    number = 8 if array.dtype == np.float64 else 5
    return field(number, array.astype(array.dtype.newbyteorder("<")).tobytes()) + shape


def layer(name: str, *blobs: bytes, v1: bool = False) -> bytes:
    """One layer of a NetParameter, with a type and a parameter message to be skipped."""
    if v1:
        content = field(3, b"top") + field(4, name.encode()) + integer(5, 4)
        content += b"".join(field(6, content) for content in blobs)
        return field(2, content + field(10, integer(1, 3)))
    content = field(1, name.encode()) + field(2, b"Convolution")
    content += b"".join(field(7, content) for content in blobs)
    return field(100, content + field(106, integer(1, 3)))


def caffemodel(content: dict[str, np.ndarray], v1: bool = False) -> bytes:
    """A network with the arrays "layer/0", "layer/1", ..."""
    layers: dict[str, list[bytes]] = {}
    for name, array in content.items():
        layers.setdefault(name.rpartition("/")[0], []).append(blob(array, legacy=v1))
    named = [layer("data", v1=v1)] + [layer(name, *b, v1=v1) for name, b in layers.items()]
    return field(1, b"Net") + b"".join(named)


def sound() -> dict[str, bytes]:
    """A sound file of every kind, and of each more than one way to write it."""
    content = arrays()
    halves = {name: array.astype(ml_dtypes.bfloat16) for name, array in content.items()}
    doubles = {name: array.astype(np.float64) for name, array in content.items()}
    return {
        "npz": npz(content),
        "npz compressed": npz(content, compressed=True),
        "npz mixed": npz({"i": np.arange(5), "f": np.asfortranarray(np.ones((2, 3), ">f8"))}),
        "safetensors": safetensors_file(content),
        "safetensors bf16": safetensors_file(halves),
        "caffemodel": caffemodel(content),
        "caffemodel v1": caffemodel(content, v1=True),
        "caffemodel doubles": caffemodel(doubles),
    }
