"""Boxes in which something may be: what a text is localised among.

Whatever makes them, proposals of a photograph are float32 (P, 4), x0, y0, x1, y1 in its pixels, x1
and y1 exclusive, and depend on the photograph alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...data.files import cut_box, listed, read_lines
from ...data.records import Dataset, Example

Boxes = NDArray[np.float32]

_FORMAT = '{"key": "36979", "boxes": [[x0, y0, x1, y1], ...]}'
_SIDES = (1, 0.7, 0.5, 0.35, 0.25, 0.18)  # of the grid's boxes, as shares of the photograph's
_STEP = 2  # boxes of the grid begin in a box's own length


class Proposals(Protocol):
    """What proposes boxes."""

    @property
    def name(self) -> str:
        """All that the boxes depend on, for the settings of a run."""

    def __call__(self, example: Example) -> Boxes:
        """The proposals of a photograph, of which there is at least one, the best first.

        Raises:
            ValueError, OSError: there are none, or the photograph cannot be read.
        """


@dataclass(frozen=True)
class Grid:
    """Boxes of several sizes and shapes at even distances, whatever the photograph shows.

    Their sides are shares of the photograph's, in steps of about the square root of two down to
    0.18; height and width differ by one step at most, and neighbours overlap by half or a little
    more. Large ones come first.

    >>> Grid()(Example("a", None, (96, 96), ())).shape
    (479, 4)
    """

    name: str = "grid"

    def __call__(self, example: Example) -> Boxes:
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
        return np.array(found, np.float32)


@dataclass(frozen=True)
class SelectiveSearch:
    """Selective search (Uijlings et al., IJCV 2013), OpenCV's in its fast mode.

    OpenCV finds the same boxes each time but ranks them by chance, by a state that all threads
    share. Here the order is by chance, too, but always the same for the same boxes.

    Raises:
        ImportError: opencv-contrib-python-headless is not installed.
    """

    name: str = field(init=False)

    def __post_init__(self) -> None:
        version = _ximgproc().__version__
        object.__setattr__(self, "name", f"selective search, fast, OpenCV {version}")

    def __call__(self, example: Example) -> Boxes:
        search = _ximgproc().ximgproc.segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(np.ascontiguousarray(example.image()[..., ::-1]))  # OpenCV's BGR
        search.switchToSelectiveSearchFast()
        x, y, width, height = np.unique(np.asarray(search.process()).reshape(-1, 4), axis=0).T
        boxes = np.stack([x, y, x + width, y + height], axis=-1).astype(np.float32)
        if not len(boxes):
            raise ValueError(f"selective search finds no boxes in {example.key}: leave it out")
        return np.random.default_rng(zlib.crc32(boxes.tobytes())).permutation(boxes)


@dataclass(frozen=True)
class FromFile:
    """Proposals that were made before; see `read`."""

    name: str
    boxes: dict[str, Boxes] = field(repr=False)

    def __call__(self, example: Example) -> Boxes:
        return self.boxes[example.key]


def read(path: Path, dataset: Dataset[Any]) -> FromFile:
    """The proposals in a file of JSON lines, one for each photograph, in any order.

    A line is ``{"key": "36979", "boxes": [[x0, y0, x1, y1], ...]}``: the photograph's key, which is
    its file's name without suffix, and its boxes in pixels, x1 and y1 exclusive, the best first.
    Boxes may reach over the photograph's edge by a pixel, which is cut off. Lines of photographs
    that are not in the data set are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is none, a box is not in its photograph or has no area, or a photograph
            has two lines or no proposals.
    """
    sizes = {example.key: example.size for example in dataset}
    found: dict[str, Boxes] = {}
    for number, line in enumerate(read_lines(path, "file of proposals"), 1):
        shown = f"{path}, line {number}"
        try:
            entry = json.loads(line)
            key, boxes = entry["key"], entry["boxes"]
            if not isinstance(key, str):
                raise ValueError("the key is no string")
            if key not in sizes:
                continue
            numbers = np.array(boxes, np.float64)
            if numbers.ndim != 2 or numbers.shape[1] != 4 or not np.isfinite(numbers).all():
                raise ValueError(f"{key} has not four finite numbers for each of its boxes")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(
                f"{shown} has no proposals: expected {_FORMAT}, got {line[:40]!r} "
                f"({type(error).__name__}: {error})"
            ) from None
        if key in found:
            raise ValueError(f"{shown} has {key} again: take one of its lines out")
        found[key] = np.array(
            [
                cut_box(tuple(box), sizes[key], shown=f"{shown}: the box {box} of {key}")
                for box in numbers.tolist()
            ],
            np.float32,
        )
    missing = [key for key in sizes if key not in found]
    if missing:
        raise ValueError(
            f"{path} has no proposals for {len(missing)} of {len(sizes)} photographs "
            f"({listed(missing)}): add a line for each, {_FORMAT}"
        )
    return FromFile(f"a file, {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}", found)


def of(proposals: Proposals, examples: Sequence[Example], limit: int, threads: int) -> list[Boxes]:
    """The first proposals of each photograph, at most `limit`, made by some threads."""
    if threads == 1 or len(examples) < 2:
        return [proposals(example)[:limit] for example in examples]
    with ThreadPoolExecutor(threads) as pool:
        made = pool.map(proposals, examples)
        return [boxes[:limit] for boxes in made]


def padded(boxes: Sequence[Boxes], rows: int, limit: int) -> Boxes:
    """Proposals of some photographs as (rows, limit, 4), filled up with boxes without area.

    >>> padded([np.ones((1, 4), np.float32)], rows=2, limit=3)[..., 0].tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    found = np.zeros((rows, limit, 4), np.float32)
    for row, own in zip(found, boxes, strict=False):
        row[: len(own)] = own
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
