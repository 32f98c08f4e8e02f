"""COCO's run-length codes of masks: how many pixels are off, on, off, ..., down the columns.

pycocotools, which has them in C, leaves pixels of too short a code unset and reads what is no code.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .records import Box, Mask

Runs = NDArray[np.uint32]

_LONGEST = 7  # characters of a length, which has 32 bits


def read_runs(code: Any, size: tuple[int, int], shown: str) -> Runs:
    """The lengths of the runs in a code, which is of a mask of this size.

    Args:
        code: {"size": [height, width], "counts": a list of lengths or a compressed code}, as it
            stands in JSON; the size may be left out.
        size: height and width of the image.
        shown: what has the code, for an error.

    Raises:
        ValueError: it is no code, or one of another size.

    >>> read_runs({"size": [2, 2], "counts": "121"}, (2, 2), "the mask").tolist()
    [1, 2, 1]
    """
    found = code if isinstance(code, dict) else {}
    counts, code_size = found.get("counts"), found.get("size", list(size))
    try:
        if isinstance(counts, str):
            counts = decompressed(counts.encode("ascii"))
        runs = np.array(counts, np.uint32)
    except (ValueError, TypeError, OverflowError):
        runs = np.zeros(0, np.uint32)
    if runs.ndim != 1 or runs.sum(dtype=np.uint64) != math.prod(size) or code_size != [*size]:
        raise ValueError(
            f"{shown} has a run-length code of size {code_size} and {runs.sum()} pixels, but "
            f"the image's height and width are {size}: correct it, or take it out"
        )
    return runs


def decompressed(code: bytes) -> Runs:
    """The lengths in a compressed code: five bits a character, the lowest first.

    From the fourth on a length is stored as the difference to the one two places before.

    Raises:
        ValueError: it is cut off, has another character or a negative length.
    """
    bits = np.frombuffer(code, np.uint8).astype(np.int64) - 48
    if not len(bits) or bits.min() < 0 or bits.max() > 63 or bits[-1] & 32:
        raise ValueError("no compressed run-length code")
    ends = np.flatnonzero(bits & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    characters = ends - starts + 1
    if characters.max() > _LONGEST:
        raise ValueError("a run is too long")
    places = np.arange(len(bits)) - np.repeat(starts, characters)
    runs = np.add.reduceat((bits & 31) << 5 * places, starts)
    runs -= np.where(bits[ends] & 16, 1 << 5 * characters, 0)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    if runs.min() < 0 or runs.max() >= 1 << 32:
        raise ValueError("a run has no length")
    return runs.astype(np.uint32)


def mask_of(runs: Runs, size: tuple[int, int]) -> Mask:
    """The mask, boolean (height, width).

    >>> mask_of(np.array([1, 2, 1], np.uint32), (2, 2)).tolist()
    [[False, True], [True, False]]
    """
    height, width = size
    # Not pycocotools' decode, which NumPy warns about.
    columns = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(columns.reshape(width, height).T)


def area_and_box(runs: Runs, size: tuple[int, int]) -> tuple[int, Box]:
    """How many pixels are on, and the tightest box round them; of none a box of zeros.

    >>> area_and_box(np.array([1, 2, 1], np.uint32), (2, 2))
    (2, (0.0, 0.0, 2.0, 2.0))
    """
    height = size[0]
    edges = np.concatenate([[0], runs.cumsum(dtype=np.int64)])
    first, end = edges[1:-1:2], edges[2::2]
    first, end = first[end > first], end[end > first]
    if not len(first):
        return 0, (0.0, 0.0, 0.0, 0.0)
    columns = first // height, (end - 1) // height
    rows = first % height, (end - 1) % height
    if (columns[0] < columns[1]).any():  # such a run ends one column and begins the next
        top, bottom = 0, height - 1
    else:
        top, bottom = int(rows[0].min()), int(rows[1].max())
    box = float(columns[0][0]), float(top), float(columns[1][-1] + 1), float(bottom + 1)
    return int((end - first).sum()), box
