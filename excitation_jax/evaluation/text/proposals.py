"""Regions in which something may be: what a text is localised among.

Whatever makes them, proposals of a photograph are boxes or segments of it, x0, y0, x1, y1 in its
pixels, x1 and y1 exclusive, and depend on the photograph alone.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...data.records import Example
from ...data.run_lengths import mask_of, read_runs

_SIDES = (1, 0.7, 0.5, 0.35, 0.25, 0.18)  # of the grid's boxes, as shares of the photograph's
_STEP = 2  # boxes of the grid begin in a box's own length


class Proposed(NamedTuple):
    """The P proposals of a photograph, the best first by what made them.

    boxes: float32 (P, 4); of segments, the tightest ones round them.
    areas: float32 (P,), positive, in pixels; of a box, the product of its sides.
    scores: float32 (P,), decreasing, by what made them.
    codes: of segments, the run-length code of each one's mask; None of boxes.
    """

    boxes: NDArray[np.float32]
    areas: NDArray[np.float32]
    scores: NDArray[np.float32]
    codes: Sequence[Any] | None = None

    def first(self, count: int) -> Proposed:
        """The first ones, at most so many."""
        codes = None if self.codes is None else self.codes[:count]
        return Proposed(self.boxes[:count], self.areas[:count], self.scores[:count], codes)


class Proposals(Protocol):
    """What proposes regions: boxes of every photograph, or segments of every one."""

    @property
    def name(self) -> str:
        """All that the regions depend on, for the settings of a run."""

    @property
    def scored(self) -> bool:
        """Whether the proposals have scores of their own; else they have an order."""

    def __call__(self, example: Example) -> Proposed:
        """The proposals of a photograph, of which there is at least one.

        Raises:
            ValueError, OSError: there are none, or the photograph cannot be read.
        """


def of_boxes(boxes: ArrayLike, scores: ArrayLike | None = None) -> Proposed:
    """Boxes (P, 4) as proposals, the best first.

    scores: (P,), decreasing; None: minus the boxes' ranks, from 1.

    >>> of_boxes([[0, 0, 2, 3], [0, 0, 1, 1]]).scores.tolist()
    [-1.0, -2.0]
    """
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    areas = (corners[:, 2:] - corners[:, :2]).prod(axis=1)
    own = -1.0 - np.arange(len(corners)) if scores is None else np.asarray(scores)
    return Proposed(corners.astype(np.float32), areas.astype(np.float32), own.astype(np.float32))


@dataclass(frozen=True)
class Grid:
    """Boxes of several sizes and shapes at even distances, whatever the photograph shows.

    Their sides are shares of the photograph's, in steps of about the square root of two down to
    0.18; height and width differ by one step at most, and neighbours overlap by half or a little
    more. Large ones come first.

    >>> Grid()(Example("a", None, (96, 96), ())).boxes.shape
    (479, 4)
    """

    name: str = "grid"
    scored: bool = False

    def __call__(self, example: Example) -> Proposed:
        found: list[tuple[float, ...]] = []
        places = range(len(_SIDES))
        near = [(i, j) for i in places for j in places if abs(i - j) < 2]
        for i, j in sorted(near, key=sum):
            height, width = (_SIDES[k] * side for k, side in zip((i, j), example.size, strict=True))
            rows, columns = (
                np.linspace(0, side - own, 1 + math.ceil(round(_STEP * (side - own) / own, 6)))
                for side, own in zip(example.size, (height, width), strict=True)
            )
            found += [(x, y, x + width, y + height) for y in rows for x in columns]
        return of_boxes(found)


@dataclass(frozen=True)
class SelectiveSearch:
    """Selective search (Uijlings et al., IJCV 2013), OpenCV's in its fast mode.

    OpenCV finds the same boxes each time but ranks them by chance, by a state that all threads
    share. Here the order is by chance, too, but always the same for the same boxes.

    Raises:
        ImportError: opencv-contrib-python-headless is not installed.
    """

    name: str = field(init=False)
    scored: bool = False

    def __post_init__(self) -> None:
        version = _ximgproc().__version__
        object.__setattr__(self, "name", f"selective search, fast, OpenCV {version}")

    def __call__(self, example: Example) -> Proposed:
        search = _ximgproc().ximgproc.segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(np.ascontiguousarray(example.image()[..., ::-1]))  # OpenCV's BGR
        search.switchToSelectiveSearchFast()
        x, y, width, height = np.unique(np.asarray(search.process()).reshape(-1, 4), axis=0).T
        boxes = np.stack([x, y, x + width, y + height], axis=-1).astype(np.float32)
        if not len(boxes):
            raise ValueError(f"selective search finds no boxes in {example.key}: leave it out")
        return of_boxes(np.random.default_rng(zlib.crc32(boxes.tobytes())).permutation(boxes))


def of(
    proposals: Proposals, examples: Sequence[Example], limit: int, threads: int
) -> list[Proposed]:
    """The first proposals of each photograph, at most `limit`, made by some threads."""
    if threads == 1 or len(examples) < 2:
        return [proposals(example).first(limit) for example in examples]
    with ThreadPoolExecutor(threads) as pool:
        return [made.first(limit) for made in pool.map(proposals, examples)]


def padded(made: Sequence[Proposed], rows: int, limit: int) -> NDArray[np.float32]:
    """Proposals of some photographs as (rows, limit, 6): box, area and score.

    They are filled up with regions without area.

    >>> padded([of_boxes([[1, 1, 2, 3]])], rows=2, limit=2)[..., 4].tolist()
    [[2.0, 0.0], [0.0, 0.0]]
    """
    found = np.zeros((rows, limit, 6), np.float32)
    for row, own in zip(found, made, strict=False):
        row[: len(own.boxes), :4] = own.boxes
        row[: len(own.boxes), 4], row[: len(own.boxes), 5] = own.areas, own.scores
    return found


def packed(
    made: Sequence[Proposed],
    examples: Sequence[Example],
    rows: int,
    limit: int,
    canvas: tuple[int, int],
) -> NDArray[np.uint8] | None:
    """The masks of segments as bits, (rows, limit, height, bytes); None where they are boxes.

    Args:
        made, examples: proposals, and the photographs that they are of.
        rows, limit: see `padded`.
        canvas: height and width that no photograph exceeds; their top left parts are these.
    """
    if not made or made[0].codes is None:
        return None
    found = np.zeros((rows, limit, canvas[0], -(-canvas[1] // 8)), np.uint8)
    for row, own, example in zip(found, made, examples, strict=False):
        for place, code in enumerate(own.codes or ()):
            bits = np.packbits(mask_of(read_runs(code, example.size, example.key), example.size), 1)
            row[place, : bits.shape[0], : bits.shape[1]] = bits
    return found


def _ximgproc() -> Any:
    """OpenCV with its contributed modules, which plain OpenCV does not have."""
    import cv2

    if not hasattr(cv2, "ximgproc"):
        raise ImportError(
            "this OpenCV is without its contributed modules, which selective search is one of: "
            'pip uninstall it, then pip install "excitation-jax[proposals]"'
        )
    return cv2
