"""Reads safetensors files: the header is checked here, then the safetensors library reads.

A file is the size of its header in eight bytes, the header, which is JSON and says each array's
dtype, shape and place, and the bytes of the arrays.
"""

from __future__ import annotations

import json
import os
from typing import Any, BinaryIO

import numpy as np

from .checks import AGAIN, BadFile, Ledger, quote

# An array takes about 100 bytes here, and parsed JSON a multiple of its text.
_HEADER_BYTES = 2**24

_ITEMSIZES = {
    **{"BOOL": 1, "I8": 1, "U8": 1, "I16": 2, "U16": 2, "I32": 4, "U32": 4, "I64": 8, "U64": 8},
    **{"F16": 2, "BF16": 2, "F32": 4, "F64": 8},
}


def read_safetensors(file: BinaryIO, limit: int) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file by name, in the order of their data; BF16 as ml_dtypes'.

    Args:
        file: the open file, with its path as `file.name`.
        limit: the most bytes that the arrays may take.

    Raises:
        ImportError: the safetensors library is not installed.
        BadFile: the header is not that of a sound safetensors file, a dtype is not numpy's, or
            the arrays do not lie one after the other from the header to the file's end.
    """
    names = _check(file, limit)
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ImportError(
            f"{file.name} is a safetensors file; to read it, pip install 'excitation-jax[weights]'"
        ) from error
    try:
        with safe_open(file.name, framework="np") as stored:
            return {name: stored.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise _damaged(str(error)[:200]) from error


def _check(file: BinaryIO, limit: int) -> list[str]:
    """The names of the arrays that the header declares, in the order of their data."""
    size = os.fstat(file.fileno()).st_size
    header_bytes = int.from_bytes(file.read(8), "little")
    if header_bytes > size - 8:
        raise _damaged(f"it declares a header of {header_bytes} bytes and has {size} in all")
    if header_bytes > _HEADER_BYTES:
        raise _damaged(f"its header of {header_bytes} bytes is larger than any that is needed")
    try:
        header = json.loads(file.read(header_bytes), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise _damaged("its header is not JSON") from error
    header.pop("__metadata__", None)

    ledger = Ledger(limit)
    places = []
    for name, entry in header.items():
        dtype, shape, (begin, end) = _fields(name, entry)
        if dtype not in _ITEMSIZES:
            raise BadFile(
                f"holds {quote(name)} with the dtype {quote(dtype)}, which is not read here: "
                f"write it as F32"
            )
        nbytes = ledger.enter(name, shape, _ITEMSIZES[dtype])
        if end - begin != nbytes:
            raise _damaged(f"{quote(name)} takes {end - begin} bytes, not {nbytes}")
        places.append((begin, end, name))
    places.sort()
    reached = 0
    for begin, end, name in places:
        if begin != reached:
            raise _damaged(f"{quote(name)} begins at {begin}, not {reached}")
        reached = end
    if reached != size - 8 - header_bytes:
        raise _damaged(f"it has {size - 8 - header_bytes} bytes of arrays and declares {reached}")
    return [name for *_, name in places]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys differ; json itself would take the last of equal ones."""
    result = dict(pairs)
    if len(result) < len(pairs):
        raise _damaged("its header has the same name twice")
    return result


def _fields(name: str, entry: Any) -> tuple[str, list[int], list[int]]:
    match entry:
        case {"dtype": str() as dtype, "shape": list() as shape, "data_offsets": list() as place}:
            # A bool is an int to Python, and a float is none; JSON has both.
            if len(place) == 2 and all(type(number) is int for number in [*shape, *place]):
                return dtype, shape, place
    raise _damaged(f"{quote(name)} is not described by a dtype, a shape and its place")


def _damaged(reason: str) -> BadFile:
    return BadFile(f"is a damaged safetensors file ({reason}): {AGAIN}")
