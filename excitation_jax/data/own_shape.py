"""Photographs in their own shape, as the papers show them to fully convolutional networks.

IJCV18, 6.1.1: each is resized so that its shorter side is 224 pixels (6.3.1: 300 for text), and
nothing is cut off. A compiled program is for one shape, and photographs have hundreds; so the
longer side is rounded to a multiple of a few pixels, and photographs of one shape share a batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from ..models.preprocessing import Preprocessing
from .records import Example

STEP = 16


@dataclass(frozen=True)
class OwnShape:
    """A network's preprocessing, but of the whole photograph in its own shape.

    Attributes:
        preprocessing: the network's: of its pixels; its sizes do not count.
        side: length of the input's shorter side, in pixels.
        step: the longer side is the multiple of this (but at least `side`) that is nearest to what
            keeps the shape: within half a step, 8 pixels of 300 or more where it is 16.

    Raises:
        ValueError: side or step is not positive.
    """

    preprocessing: Preprocessing
    side: int = 224
    step: int = STEP

    def __post_init__(self) -> None:
        if self.side < 1 or self.step < 1:
            raise ValueError(
                f"side and step must be positive, got side={self.side} and step={self.step}"
            )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the input of a square photograph."""
        return self.side, self.side

    def shape(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) of the input of a photograph of `size`, its height and width.

        >>> own = OwnShape(Preprocessing((0.0,) * 3))
        >>> own.shape((375, 500)), own.shape((500, 333)), own.shape((300, 301))
        ((224, 304), (336, 224), (224, 224))
        """
        shorter, longer = sorted(size)
        rounded = round(self.side * longer / shorter / self.step) * self.step
        other = self.side if longer == shorter else max(self.side, rounded)
        return (self.side, other) if size[0] <= size[1] else (other, self.side)


#: What makes inputs of photographs: all of one shape, or each in its own.
AnyShape = Preprocessing | OwnShape


def fitted(preprocessing: AnyShape, size: tuple[int, int]) -> Preprocessing:
    """The preprocessing of a photograph of `size`, its height and width."""
    if isinstance(preprocessing, OwnShape):
        return preprocessing.preprocessing.whole(preprocessing.shape(size))
    return preprocessing


def in_parts(
    preprocessing: AnyShape, dataset: Sequence[Example], places: Sequence[int], most: int
) -> list[list[int]]:
    """Places whose inputs have one shape, `most` of them at most; in order.

    A part ends where the shape changes: there are few if the places come in the order of shapes.
    """
    found = []
    for _, own in itertools.groupby(places, lambda p: fitted(preprocessing, dataset[p].size).size):
        same = list(own)
        found += [same[first : first + most] for first in range(0, len(same), most)]
    return found
