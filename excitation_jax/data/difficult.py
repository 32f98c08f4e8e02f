"""The difficult subset of the papers' pointing game, by its rule and by a list.

IJCV18, 6.1.1: images where the total area of the category's objects is smaller than 1/4 of the
image and where there is at least one other category, a distracter. The text does not say whether
what VOC flags as difficult counts as one; by the authors' own list of VOC07's pairs it does not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from .files import listed, read_lines
from .records import Example

_SHARE = 1 / 4  # of the image


def is_difficult(example: Example, category: str, *, masks: bool = False) -> bool:
    """Whether a category in an example belongs to the difficult subset, by the papers' rule.

    A category of which VOC flags all objects as difficult is not played with, and is no other
    category either. So read, the rule says the same as the authors' list of VOC07's test images, as
    TorchRay has it, on all that was at hand: 24 pairs of 66 on 43 images. With every object as a
    distracter there would be 28.

    Args:
        example: a photograph.
        category: of at least one object in it.
        masks: whether the area is that of masks, as for COCO, or of boxes. Areas of overlapping
            boxes are added.

    Raises:
        ValueError: there is no object of the category.
    """
    if masks:
        area = float(example.region(category, masks=True).sum())
    else:
        x0, y0, x1, y1 = example.boxes(category).T
        area = ((x1 - x0) * (y1 - y0)).sum()
    played = example.categories(difficult=False)
    height, width = example.size
    return category in played and len(played) > 1 and bool(area < _SHARE * height * width)


class DifficultList:
    """The difficult subset by a list: called as `is_difficult` is.

    Args:
        flags: for each example's key, the categories that are difficult in it.

    Example:
        >>> flags = DifficultList({"000001": ("dog",)})
        >>> example = Example("000001", None, (500, 353), ())
        >>> flags(example, "dog"), flags(example, "person")
        (True, False)
    """

    def __init__(self, flags: Mapping[str, Sequence[str]]) -> None:
        self._flags = {key: frozenset(categories) for key, categories in flags.items()}

    def __call__(self, example: Example, category: str, *, masks: bool = False) -> bool:
        """Whether the list has the category in the example; `masks` makes no difference.

        Raises:
            ValueError: the list does not have the example.
        """
        if example.key not in self._flags:
            raise ValueError(
                f"the list of difficult images does not have {example.key}, but "
                f"{listed(self._flags, 3)}: is it the list of this data set?"
            )
        return category in self._flags[example.key]

    def __len__(self) -> int:
        return len(self._flags)

    @classmethod
    def read(cls, path: str | os.PathLike[str], classes: Sequence[str]) -> DifficultList:
        """A list in the format of TorchRay's pointing_game_ebp_voc07_difficult.txt.

        A line for each image has its key and, separated by tabs, a 0 or a 1 for each class.

        Args:
            path: the file.
            classes: in the order of its columns: `VOC_CLASSES` for VOC; for COCO, in the order of
                the categories' numbers, as `read_coco` gives them.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a line has another number of columns or something else in them, or the file
                has an image twice or none at all.
        """
        path = Path(path)
        flags: dict[str, list[str]] = {}
        for number, line in enumerate(read_lines(path, "list of difficult images"), 1):
            key, *columns = line.split()
            if len(columns) != len(classes) or not set(columns) <= {"0", "1"} or key in flags:
                raise ValueError(
                    f"{path}, line {number}: expected an image that was not listed before and a 0 "
                    f"or a 1 for each of {len(classes)} classes, got {line[:60]!r}"
                )
            flags[key] = [name for name, flag in zip(classes, columns, strict=True) if flag == "1"]
        if not flags:
            raise ValueError(f"{path} lists no images: expected one on each line")
        return cls(flags)
