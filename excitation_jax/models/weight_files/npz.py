"""Reads .npz files without numpy's own reader, which evaluates headers as Python.

An .npz file is a zip archive of .npy files; each of those is a short header, the text of a Python
dictionary with the dtype, the order and the shape, and the bytes of the array.
"""

from __future__ import annotations

import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import BinaryIO, NamedTuple

import jax
import numpy as np

from .checks import AGAIN, BadFile, Ledger, quote

# numpy pads a header to a multiple of 64 bytes; with a plain dtype it stays well below this.
_HEADER_BYTES = 4096
_CHUNK_BYTES = 2**20

# Deflate writes at least two bits for 258 bytes: what declares more is not what numpy wrote.
_DEFLATE_RATIO = 1032

# What zipfile and zlib raise on damage depends on which byte is wrong.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)

_HEADER = re.compile(
    rb"\{\s*'descr':\s*'([^']{1,16})',\s*'fortran_order':\s*(True|False),"
    rb"\s*'shape':\s*\(([0-9L, ]*)\)\s*,?\s*\}\s*"
)
_DTYPE = re.compile(r"[<>|=]?[?biuf][1248]?")
_SIZE = re.compile(rb" *([0-9]{1,19})L? *")  # Python 2 wrote an L


class _Array(NamedTuple):
    member: zipfile.ZipInfo
    start: int  # of the data, in the member
    dtype: np.dtype
    fortran_order: bool
    shape: tuple[int, ...]
    nbytes: int

    @property
    def name(self) -> str:
        return self.member.filename.removesuffix(".npy")

    def struct(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.shape, self.dtype.newbyteorder("="))


def read_npz(
    file: BinaryIO,
    limit: int,
    pickled: str,
    check: Callable[[Mapping[str, jax.ShapeDtypeStruct]], None] = lambda declared: None,
) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name, in native byte order.

    Args:
        file: the open file.
        limit: the most bytes that the arrays may take.
        pickled: what to say of an archive with a data.pkl in it.
        check: called with what the file declares, before any array is read.

    Raises:
        BadFile: anything is not as `numpy.savez` or `numpy.savez_compressed` writes it, or not
            booleans, integers or floating-point numbers.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check_count(file, len(members))
            if any(member.filename.rpartition("/")[2] == "data.pkl" for member in members):
                raise BadFile(pickled)
            ledger = Ledger(limit)
            declared = [_declared(archive, member, ledger) for member in members]
            check({array.name: array.struct() for array in declared})
            return {array.name: _read_array(archive, array) for array in declared}
    except _DAMAGE as error:
        # zipfile quotes names, which may have 65535 bytes.
        raise _damaged(str(error)[:200] or type(error).__name__) from error


def _check_count(file: BinaryIO, found: int) -> None:
    """Compares with the record at the archive's end, which zipfile does not.

    One wrong length in the directory makes the next members a part of the one before.
    """
    file.seek(-22, os.SEEK_END)
    record = file.read(22)
    if not record.startswith(b"PK\x05\x06"):
        raise _damaged("something follows its directory")
    declared = int.from_bytes(record[10:12], "little")
    if declared not in (found, 0xFFFF):  # which stands for that and more
        raise _damaged(f"it declares {declared} arrays and has {found}")


def _declared(archive: zipfile.ZipFile, member: zipfile.ZipInfo, ledger: Ledger) -> _Array:
    """What the header of one member declares, entered into `ledger`."""
    name = member.filename.removesuffix(".npy")
    if name == member.filename:
        raise BadFile(
            f"is a zip archive with {quote(name)} in it, which is no array: give an .npz file as "
            f"numpy.savez writes it"
        )
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _damaged(f"{quote(name)} is compressed by a method that numpy does not write")
    with archive.open(member) as stream:
        magic = stream.read(8)
        # The length of the header has two bytes in version 1, four in versions 2 and 3.
        length = {b"\x01\x00": 2, b"\x02\x00": 4, b"\x03\x00": 4}.get(magic[6:8])
        if magic[:6] != b"\x93NUMPY" or length is None:
            raise _damaged(f"{quote(name)} is no .npy array")
        header_bytes = int.from_bytes(stream.read(length), "little")
        if header_bytes > _HEADER_BYTES:
            raise _damaged(f"{quote(name)} declares a header of {header_bytes} bytes")
        header = stream.read(header_bytes)
    dtype, fortran_order, shape = _parse(name, header)
    nbytes = ledger.enter(name, shape, dtype.itemsize)
    start = 8 + length + header_bytes
    if member.file_size != start + nbytes:
        raise _damaged(f"{quote(name)} has {member.file_size} bytes, not {start + nbytes}")
    packed = member.compress_type == zipfile.ZIP_DEFLATED
    if member.file_size > (member.compress_size + 1) * (_DEFLATE_RATIO if packed else 1):
        raise _damaged(f"{quote(name)} declares more than its compressed bytes can hold")
    return _Array(member, start, dtype, fortran_order, shape, nbytes)


def _parse(name: str, header: bytes) -> tuple[np.dtype, bool, tuple[int, ...]]:
    """dtype, order and shape from the text that numpy writes, which is matched, not evaluated."""
    match = _HEADER.fullmatch(header)
    if match is None:
        raise _damaged(f"{quote(name)} has a header that numpy does not write for plain numbers")
    descr = match[1].decode("latin-1")
    if descr.lstrip("|<>=").startswith("O"):
        raise BadFile(
            f"holds pickled Python objects in {quote(name)}, which are never loaded: write plain "
            f"arrays with numpy.savez"
        )
    sizes = match[3].split(b",")
    if not sizes[-1].strip():  # as in "(3,)" and in "()"
        sizes.pop()
    parsed = [_SIZE.fullmatch(size) for size in sizes]
    try:
        dtype = np.dtype(descr) if _DTYPE.fullmatch(descr) else None
    except TypeError:
        dtype = None
    if dtype is None:
        raise BadFile(
            f"holds {quote(name)} with the dtype {quote(descr)}, which is not read here: write it "
            f"as float32"
        )
    return dtype, match[2] == b"True", tuple(_size(name, size) for size in parsed)


def _size(name: str, match: re.Match[bytes] | None) -> int:
    if match is None:
        raise _damaged(f"{quote(name)} has a shape that numpy does not write")
    return int(match[1])


def _read_array(archive: zipfile.ZipFile, declared: _Array) -> np.ndarray:
    # np.empty takes memory only where something is written, so a member that ends early has not
    # cost what it declared.
    array = np.empty(declared.nbytes, np.uint8)
    view = array.data
    with archive.open(declared.member) as stream:
        stream.read(declared.start)
        filled = 0
        while filled < declared.nbytes:
            chunk = stream.read(min(_CHUNK_BYTES, declared.nbytes - filled))
            if not chunk:
                raise _damaged(f"{quote(declared.member.filename)} ends early")
            view[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
        stream.read(1)  # zipfile compares the checksum when it meets the end
    values = array.view(declared.dtype).astype(declared.dtype.newbyteorder("="), copy=False)
    if declared.fortran_order:
        return values.reshape(declared.shape[::-1]).transpose()
    return values.reshape(declared.shape)


def _damaged(reason: str) -> BadFile:
    return BadFile(f"is a damaged .npz file ({reason}): {AGAIN}")
