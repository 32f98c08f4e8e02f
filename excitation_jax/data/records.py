"""What every reader of a data set gives: examples, each a photograph with the objects in it.

Nothing is decoded before it is asked for: an `Example` holds a path and boxes, and a mask is a
function. Boxes are (x0, y0, x1, y1) in pixels of the photograph as it is stored on disk, turned the
way up its EXIF data say; x1 and y1 are exclusive, so that a width is x1 - x0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Object:
    """Something in a photograph.

    Attributes:
        category: what it is; for Flickr30k Entities, the number of the entity.
        box: x0, y0, x1, y1.
        difficult: VOC's flag of an object that is hard to recognise.
        crowd: COCO's flag of a group whose members are not told apart.
        mask: reads the object's pixels, a boolean (H, W); None where only the box is known.
    """

    category: str
    box: Box
    difficult: bool = False
    crowd: bool = False
    mask: Callable[[], Mask] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Example:
    """A photograph and the objects in it.

    Attributes:
        key: names the example within its data set.
        path: the photograph's file; None where `pixels` holds it.
        size: its height and width.
        objects: in the order of the annotation.
        pixels: the photograph itself, uint8 (H, W, 3) in RGB, of a data set made in memory.
    """

    key: str
    path: Path | None
    size: tuple[int, int]
    objects: tuple[Object, ...]
    pixels: Pixels | None = field(default=None, compare=False, repr=False)

    def image(self) -> Pixels:
        """The photograph, uint8 (H, W, 3) in RGB.

        Raises:
            OSError, ValueError: it cannot be read, or is not of the annotated size; see
                `photographs.read`.
            ImportError: Pillow is not installed.
        """
        if self.pixels is not None:
            return self.pixels
        from .photographs import read

        assert self.path is not None  # of an example without pixels
        return read(self.path, self.size)

    def categories(self, difficult: bool = True) -> tuple[str, ...]:
        """The categories of the objects, each once, in the order in which they come.

        Args:
            difficult: whether a category counts of which all objects are flagged as difficult. In
                VOC's own scores, and in the pointing game, it does not.
        """
        found = (item.category for item in self.objects if difficult or not item.difficult)
        return tuple(dict.fromkeys(found))

    def boxes(self, category: str) -> NDArray[np.float64]:
        """The boxes (B, 4) of a category's objects, difficult ones and crowds included.

        Raises:
            ValueError: there is no object of the category.
        """
        return np.array([item.box for item in self._of(category)])

    def region(self, category: str, masks: bool = False) -> Mask:
        """Where the objects of a category are, boolean (H, W): difficult ones and crowds, too.

        Args:
            category: of at least one object.
            masks: the union of the objects' masks, with the box of an object that has none; else
                that of their boxes: the pixels whose centres lie in one, as in
                `metrics.boxes_to_mask`.

        Raises:
            ValueError: there is no object of the category, or a mask cannot be read.
            ImportError: a mask needs Pillow (VOC) or pycocotools (COCO), which is not installed.
        """
        region = np.zeros(self.size, bool)
        for item in self._of(category):
            if masks and item.mask is not None:
                region |= item.mask()
            else:
                x0, y0, x1, y1 = (max(0, math.ceil(edge - 0.5)) for edge in item.box)
                region[y0:y1, x0:x1] = True
        return region

    def _of(self, category: str) -> list[Object]:
        found = [item for item in self.objects if item.category == category]
        if not found:
            there = ", ".join(self.categories()) or "nothing that is annotated"
            raise ValueError(f"{self.key} has no object {category!r}, but {there}")
        return found


E = TypeVar("E", bound=Example, covariant=True)


@dataclass(frozen=True, eq=False)
class Dataset(Sequence[E], Generic[E]):
    """Examples in a fixed order. A slice of it is one, too.

    Attributes:
        name: of the data set and its part, for tables.
        classes: the categories in the order of a network's outputs; for Flickr30k Entities, the
            groups of phrases.
        examples: all examples; their keys differ.
        masks: whether the papers' region of a category is that of its objects' masks; else it is
            that of their boxes.
        titles: what to call the classes, where that is not their own names.

    Raises:
        ValueError: two examples have the same key, or the titles are not as many as the classes.
    """

    name: str
    classes: tuple[str, ...]
    examples: tuple[E, ...] = field(repr=False)
    masks: bool = False
    titles: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if len(self._places) < len(self.examples):
            keys = [example.key for example in self.examples]
            again = next(key for place, key in enumerate(keys) if self._places[key] != place)
            raise ValueError(f"{self.name} has two examples {again!r}")
        if not self.titles:
            object.__setattr__(self, "titles", self.classes)
        if len(self.titles) != len(self.classes):
            raise ValueError(f"{len(self.titles)} titles for {len(self.classes)} classes")

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[E]:
        return iter(self.examples)

    @overload
    def __getitem__(self, place: int) -> E: ...

    @overload
    def __getitem__(self, place: slice) -> Dataset[E]: ...

    def __getitem__(self, place: int | slice) -> E | Dataset[E]:
        if isinstance(place, slice):
            return self._with(self.examples[place])
        return self.examples[place]

    def find(self, key: str) -> E:
        """The example of this key.

        Raises:
            KeyError: there is none.
        """
        return self.examples[self._places[key]]

    def where(self, wanted: Callable[[E], bool]) -> Dataset[E]:
        """The examples for which a function is true, such as those that have objects."""
        return self._with(example for example in self.examples if wanted(example))

    def ordered(self, key: Callable[[E], Any]) -> Dataset[E]:
        """The examples in the order of a function's values; of equal ones, as they were."""
        return self._with(sorted(self.examples, key=key))

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {example.key: place for place, example in enumerate(self.examples)}

    def _with(self, examples: Iterable[E]) -> Dataset[E]:
        return Dataset(self.name, self.classes, tuple(examples), self.masks, self.titles)
