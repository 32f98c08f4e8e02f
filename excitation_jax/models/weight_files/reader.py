"""`read`: recognises a weight file by its first bytes and hands it to the reader of its format."""

from __future__ import annotations

import dataclasses
import functools
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .caffe import read_caffemodel
from .checks import AGAIN, BadFile, mismatches, quote
from .npz import read_npz
from .safetensors_file import read_safetensors

Kind = Literal["safetensors", "caffemodel", "npz"]

DEFAULT_LIMIT = 4 * 2**30
"""Bytes that a file's arrays may take unless `read` is told otherwise: 4 GiB."""

_NO_LIMIT = 2**62  # up to which no product overflows in numpy

TO_SAFETENSORS = (
    "which can run any code and is never loaded; where you trust it, convert it: "
    "python -c 'import torch, safetensors.torch as s; "
    's.save_file({k: v.clone() for k, v in torch.load("model.pt", map_location="cpu", '
    'weights_only=True).items()}, "model.safetensors")\''
)
"""The end of the message about a pickle: why it is refused, and the line that converts it."""

_HDF5 = (
    "is an HDF5 file, which is not read here; convert it: "
    "python -c 'import h5py, numpy; a = {}; "
    'h5py.File("model.h5").visititems(lambda n, d: a.update({n: d[()]}) '
    'if isinstance(d, h5py.Dataset) else None); numpy.savez("model.npz", **a)\''
)

# The first bytes of what is often taken for a weight file, and what to say.
_FOREIGN = {
    b"\x89HDF\r\n\x1a\n": _HDF5,
    b"\x93NUMPY": "is a single .npy array: write all arrays to one file with numpy.savez",
    b"\x1f\x8b": "is compressed with gzip: unpack it",
    b"GGUF": "is a GGUF file, which is not read here: convert it to safetensors",
    b"version http": f"is a Git LFS pointer, not the file itself: run git lfs pull, or {AGAIN}",
    b"<": f"is a web page, as servers send instead of a file: {AGAIN}",
    b"{": "is JSON: if it is the index of a checkpoint in several files, read each of these",
}

# The tags with which a serialised NetParameter can begin: its name, its layers of version 1, its
# inputs and their sizes, its layers.
_CAFFE_STARTS = (b"\x0a", b"\x12", b"\x1a", b"\x20", b"\x42", b"\xa2\x06")

_TEXT = frozenset(b"\t\n\r") | frozenset(range(0x20, 0x7F))


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """The arrays of one weight file.

    Attributes:
        kind: the format that the file turned out to have.
        arrays: the arrays by name, in the file's order; writable, in memory of their own. Those
            of a Caffe model are named "layer/0" (as a rule the weights) and "layer/1" (the bias).
        path: the file.
    """

    kind: Kind
    arrays: dict[str, np.ndarray]
    path: Path


def read(
    path: str | os.PathLike[str], limit: int = DEFAULT_LIMIT, *, float32: bool = False
) -> WeightFile:
    """The arrays of a safetensors, Caffe (.caffemodel) or .npz file, whatever its suffix.

    Nothing is unpickled or executed, and no array is allocated before the shapes that the file
    declares are known to fit its size and `limit`. Values are not looked at: NaN passes.

    Args:
        path: the file.
        limit: the most bytes that its arrays may take, as stored.
        float32: whether to convert floating-point arrays (float16, bfloat16, float64) to float32.
            Others stay as they are.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the package that reads the format is not installed.
        ValueError: the file is of another format (the message says which, and how to convert
            it), is damaged, holds no array, or declares more than `limit`; or a float64 value
            does not fit into float32. The message names the file.
    """
    path = Path(path)
    with _open(path) as file:
        try:
            form = _recognise(file)
            file.seek(0)
            arrays = form.read(file, min(limit, _NO_LIMIT))
            if not arrays:
                raise BadFile("holds no array: give the file with the weights")
            if float32:
                for name in arrays:  # one by one, so that only one is there twice
                    arrays[name] = _to_float32(name, arrays[name])
        except BadFile as error:
            raise ValueError(f"{path} {error}") from error
    return WeightFile(form.kind, arrays, path)


def read_expected(
    path: str | os.PathLike[str], expected: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, np.ndarray]:
    """The arrays of an .npz file that is to hold these and no others.

    No array is allocated before all that the file declares is known to be as expected: so a file
    cannot take more memory than what it should hold.

    Args:
        path: the file.
        expected: shapes and dtypes by name.

    Raises:
        FileNotFoundError, ValueError: as `read` does; or the file has another format, or names,
            shapes and dtypes that are not the expected ones (every one that differs is listed).
    """
    path = Path(path)

    def check(declared: Mapping[str, jax.ShapeDtypeStruct]) -> None:
        lines = mismatches(declared, expected)
        if lines:
            raise BadFile(
                "does not hold the expected weights: use a file made for this network "
                f"(mismatches: {len(lines)})\n  " + "\n  ".join(lines)
            )

    with _open(path) as file:
        try:
            form = _recognise(file)
            if form.kind != "npz":
                raise BadFile(f"is a {form.kind} file: give the .npz file of this network")
            return _read_zip(file, _NO_LIMIT, check=check)
        except BadFile as error:
            raise ValueError(f"{path} {error}") from error


class _Format(NamedTuple):
    kind: Kind
    read: Callable[[BinaryIO, int], dict[str, np.ndarray]]


def _open(path: Path) -> BinaryIO:
    try:
        mode = path.stat().st_mode
        # Opening a pipe would wait for its writer, and a device such as /dev/zero has no end.
        if not stat.S_ISREG(mode):
            what = "a directory" if stat.S_ISDIR(mode) else "no regular file"
            raise ValueError(f"{path} is {what}: give a weight file")
        return path.open("rb")
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no weight file {path}: check the path") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be opened ({error.strerror}): check the path") from error


def _recognise(file: BinaryIO) -> _Format:
    """The format of the file that `file` is at the start of."""
    start = file.read(512)
    if not start:
        raise BadFile(f"is empty: {AGAIN}")
    if start.startswith(b"PK"):
        return _Format("npz", _read_zip)
    # A safetensors file begins with the size of its header, in eight bytes, of which no sane one
    # needs six. That comes before the pickles, since a header of 640 bytes begins as they do.
    if start[6:9] == b"\0\0{":
        return _Format("safetensors", read_safetensors)
    for magic, message in _FOREIGN.items():
        if start.startswith(magic):
            raise BadFile(message)
    if start.startswith(b"\x80"):
        raise BadFile(f"is a pickle, as PyTorch's .pt and .pth files are, {TO_SAFETENSORS}")
    if _TEXT.issuperset(start):
        raise BadFile("is text: give the weights (for a .prototxt, the .caffemodel beside it)")
    if start.startswith(_CAFFE_STARTS):
        return _Format("caffemodel", read_caffemodel)
    raise BadFile(
        f"is neither a safetensors nor a Caffe nor an .npz file (it begins with "
        f"{start[:8].hex(' ')}): {AGAIN}"
    )


#: PyTorch's files are zip archives as .npz files are; `read_npz` says what else is in them.
_read_zip = functools.partial(
    read_npz, pickled=f"is a PyTorch file, in it a pickle, {TO_SAFETENSORS}"
)


def _to_float32(name: str, array: np.ndarray) -> np.ndarray:
    if not jnp.issubdtype(array.dtype, jnp.floating) or array.dtype == np.float32:
        return array
    with np.errstate(all="ignore"):
        converted = array.astype(np.float32)
    # Only float64 can hold what float32 cannot.
    if array.dtype == np.float64 and (np.isinf(converted) & np.isfinite(array)).any():
        raise BadFile(f"holds values in {quote(name)} that float32 cannot hold: read it as it is")
    return converted
