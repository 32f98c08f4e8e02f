"""What is checked of the arrays that a file declares, before any is allocated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax

AGAIN = "download or write it again"
"""The advice for a damaged file."""

_MOST_DIMENSIONS = 32


class BadFile(Exception):
    """A file that is refused; the text follows the file's name: "is damaged (why): what to do"."""


class Ledger:
    """The arrays that a file declares, entered one by one; refuses what cannot be right.

    A file of a few hundred bytes can declare terabytes, two arrays of one name, or a name that
    leaves the directory when somebody writes the arrays to files. All of it is found here, where
    nothing is allocated yet.

    Args:
        limit: the most bytes that all arrays together may take.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.total = 0
        self._names: set[str] = set()

    def enter(self, name: str, shape: Sequence[int], itemsize: int) -> int:
        """The bytes of one more array of `shape`, with items of `itemsize` bytes.

        Raises:
            BadFile: the name is unusable or there already, the shape is no shape, or the arrays
                so far take more than the limit.
        """
        if not _usable(name):
            raise BadFile(
                f"holds an array with the unusable name {quote(name)}: write it again with "
                f"printable names that are neither absolute paths nor lead upwards"
            )
        if name in self._names:
            raise BadFile(f"holds the array {quote(name)} twice: {AGAIN}")
        self._names.add(name)
        # The number of dimensions comes first: the product of a million of them takes forever.
        if len(shape) > _MOST_DIMENSIONS or any(size < 0 for size in shape):
            raise BadFile(f"declares a shape of {quote(name)} that no array has: {AGAIN}")
        # numpy refuses a shape whose sizes other than zero are too large, even if it is empty.
        if math.prod(max(size, 1) for size in shape) * itemsize > self.limit:
            raise self._too_large(name)
        size = math.prod(shape) * itemsize
        self.total += size
        if self.total > self.limit:
            raise self._too_large(name)
        return size

    def _too_large(self, name: str) -> BadFile:
        return BadFile(
            f"declares more than the limit of {self.limit} bytes, at the array {quote(name)}: "
            f"give a larger limit= if the file is meant to be so large"
        )


def mismatches(
    found: Mapping[str, jax.ShapeDtypeStruct], expected: Mapping[str, jax.ShapeDtypeStruct]
) -> list[str]:
    """One line for each array that is missing, unexpected, or of another shape or dtype."""
    lines = [f"{name}: unexpected" for name in found if name not in expected]
    for name, leaf in expected.items():
        wanted = f"expected {leaf.dtype} {leaf.shape}"
        if name not in found:
            lines.append(f"{name}: missing, {wanted}")
        elif (found[name].shape, found[name].dtype) != (leaf.shape, leaf.dtype):
            lines.append(f"{name}: {found[name].dtype} {found[name].shape}, {wanted}")
    return lines


def quote(name: str) -> str:
    """A name from a file for a message: in quotes, escaped, and cut where it is long."""
    return ascii(name if len(name) <= 100 else name[:97] + "...")


def _usable(name: str) -> bool:
    parts = name.split("/")
    return (
        name.isprintable()
        and bool(name)
        and "\\" not in name
        and bool(parts[0])
        and not any(part in (".", "..") for part in parts)
    )
