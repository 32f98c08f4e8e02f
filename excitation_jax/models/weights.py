"""Reading weights from .npz files that may be damaged, wrong or hostile.

Nothing is unpickled, and no array is read before the names, shapes and dtypes that the file
declares are known to be those expected: a file cannot make the loader use more memory than the
weights it should hold.
"""

import io
import os
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

# numpy pads an .npy header to a multiple of 64; with a plain dtype it stays well below this.
_HEADER_BYTES = 4096

# What zipfile, zlib and numpy raise on damage depends on which byte is wrong.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)

_READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def load_npz(path: str | os.PathLike[str], expected: Any) -> Any:
    """The arrays of an .npz file as a pytree, after checking that they are the expected ones.

    Args:
        path: a file written by `numpy.savez` or `numpy.savez_compressed`. An array's name is its
            path in `expected`, joined by "/", such as "conv1/kernel".
        expected: a pytree of `jax.ShapeDtypeStruct`, as `jax.eval_shape(model.init, ...)` gives.

    Returns:
        A pytree like `expected`, of `jax.Array`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not an .npz file or is damaged; its names, shapes or dtypes
            differ (every one that does is listed); or a value is NaN or infinite (the arrays
            with such values are listed). The message names the file and says what to do.
    """
    path = Path(path)
    paths_and_leaves, treedef = jax.tree_util.tree_flatten_with_path(expected)
    wanted = {
        jax.tree_util.keystr(keys, simple=True, separator="/"): leaf
        for keys, leaf in paths_and_leaves
    }
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"there is no weights file {path}: check the path, or download the weights to it"
        ) from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a directory: give the .npz file in it") from None
    with file:
        start = file.read(8)
        if not start.startswith(b"PK"):
            raise ValueError(f"{path} is not an .npz file: {_describe(start)}")
        try:
            mismatches = _mismatches(file, wanted)
            arrays = {} if mismatches else _read(file, wanted)
        except _DAMAGE as error:
            raise ValueError(
                f"{path} is a damaged .npz file ({error}): download or write it again"
            ) from error
    if mismatches:
        raise ValueError(
            f"{path} does not hold the expected weights: use a file made for this network "
            f"(mismatches: {len(mismatches)})\n  " + "\n  ".join(mismatches)
        )
    infinite = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if infinite:
        raise ValueError(
            f"{path} holds NaN or infinite values in {', '.join(infinite)}: the weights are "
            f"unusable, download or train them again"
        )
    leaves = [jnp.asarray(arrays[name], arrays[name].dtype) for name in wanted]
    return jax.tree_util.tree_unflatten(treedef, leaves)


def _read(file: BinaryIO, names: Iterable[str]) -> dict[str, np.ndarray]:
    file.seek(0)
    with np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in names}


def _mismatches(file: BinaryIO, wanted: dict[str, jax.ShapeDtypeStruct]) -> list[str]:
    """One line for each entry that is missing, unexpected or not as declared in `wanted`."""
    found: dict[str, str] = {}
    lines = []
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name == member.filename or name not in wanted:
                lines.append(f"{member.filename.removesuffix('.npy')}: unexpected")
            elif name in found:
                lines.append(f"{name}: there twice")
            else:
                found[name] = _difference(archive, member, wanted[name])
    for name, leaf in wanted.items():
        if name not in found:
            lines.append(f"{name}: missing, expected {leaf.dtype} {leaf.shape}")
        elif found[name]:
            lines.append(f"{name}: {found[name]}")
    return lines


def _describe(start: bytes) -> str:
    """What a file that begins so is, and what to do about it."""
    if not start:
        return "it is empty; download or write it again"
    if start.startswith(b"\x93NUMPY"):
        return "it is a single .npy array; write all arrays to one file with numpy.savez"
    if start.startswith(b"\x80"):
        return (
            "it looks like a pickle, which can run any code and is never loaded; write plain "
            "arrays with numpy.savez"
        )
    return "it is something else; download it again or write it with numpy.savez"


def _difference(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, leaf: jax.ShapeDtypeStruct
) -> str:
    """How the array that `member` declares differs from `leaf`; empty if it does not."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "compressed by a method that numpy does not write"
    with archive.open(member) as stream:
        header = io.BytesIO(stream.read(_HEADER_BYTES))
    try:
        version = np.lib.format.read_magic(header)
        if version not in _READ_HEADER:
            return f"written in .npy version {version}, expected (1, 0) or (2, 0)"
        shape, _, dtype = _READ_HEADER[version](header)
    # numpy parses the header as Python, so a damaged one fails in any way that Python can.
    except Exception as error:
        return f"not an .npy array ({error})"
    if dtype.hasobject:
        return "pickled Python objects, which are never loaded"
    if (shape, dtype) != (leaf.shape, leaf.dtype):
        return f"{dtype} {shape}, expected {leaf.dtype} {leaf.shape}"
    size = header.tell() + leaf.size * leaf.dtype.itemsize
    if member.file_size != size:
        return f"{member.file_size} bytes, expected {size} for {leaf.dtype} {leaf.shape}"
    return ""
