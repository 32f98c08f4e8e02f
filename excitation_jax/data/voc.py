"""PASCAL VOC: photographs, boxes in XML files, and masks of some objects.

The functions that read parts of an annotation also serve ImageNet, whose format is VOC's.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

import numpy as np

from .files import check_photograph, cut_box, listed, read_annotation, read_names
from .records import Box, Dataset, Example, Mask, Object

VOC_CLASSES = tuple(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
    "person pottedplant sheep sofa train tvmonitor".split()
)


class Annotated(NamedTuple):
    """An object of an annotation: its element, its category, and whether it is difficult."""

    element: Element
    category: str
    difficult: bool


def read_voc(
    folder: str | os.PathLike[str], split: str, *, classes: tuple[str, ...] = VOC_CLASSES
) -> Dataset[Example]:
    """A split of a folder in VOC's layout, in the split's order.

    An object has a mask where SegmentationObject/ has an image for the photograph; the papers'
    pointing game on VOC uses boxes.

    Args:
        folder: holds JPEGImages/, Annotations/, ImageSets/Main/ and perhaps SegmentationObject/,
            such as VOCdevkit/VOC2007.
        split: the names are in ImageSets/Main/<split>.txt, one a line.
        classes: the categories that objects may have.

    Raises:
        FileNotFoundError: the split, an annotation or a photograph is missing.
        ValueError: the split is empty or lists a name twice or one that is no plain file name; an
            annotation is no XML of VOC's, has an object of another class, or a box that is not in
            the image. Boxes may reach over the image's edge by a pixel, which is cut off.

    Example:
        >>> dataset = read_voc("VOCdevkit/VOC2007", "test")  # doctest: +SKIP
        >>> dataset[0].categories(difficult=False)  # doctest: +SKIP
        ('dog', 'person')
    """
    folder = Path(folder)
    listing = folder / "ImageSets" / "Main" / f"{split}.txt"
    examples = []
    for name in read_names(listing):
        path = folder / "Annotations" / f"{name}.xml"
        tree = read_annotation(path)
        size = size_in(tree, path)
        segmented = folder / "SegmentationObject" / f"{name}.png"
        has_masks = segmented.is_file()
        objects = []
        for place, (element, category, difficult) in enumerate(objects_in(tree, path, classes)):
            mask = _NumberedPixels(segmented, place + 1, size) if has_masks else None
            box = box_in(element, size, path)
            objects.append(Object(category, box, difficult, mask=mask))
        photograph = check_photograph(folder / "JPEGImages" / f"{name}.jpg", listing)
        examples.append(Example(name, photograph, size, tuple(objects)))
    return Dataset(f"{folder.name} {split}", classes, tuple(examples))


def objects_in(tree: Element, path: Path, classes: Collection[str]) -> Iterator[Annotated]:
    """The objects of an annotation.

    Raises:
        ValueError: one is of none of the classes, or has a flag that is neither 0 nor 1.
    """
    for element in tree.iter("object"):
        category = (element.findtext("name") or "").strip()
        if category not in classes:
            raise ValueError(
                f"{path} has an object {category!r}, which is none of the classes "
                f"({listed(classes)}): give the classes of this data set"
            )
        flag = (element.findtext("difficult") or "0").strip()
        if flag not in ("0", "1"):
            raise ValueError(f"{path} has an object with <difficult> {flag!r}: expected 0 or 1")
        yield Annotated(element, category, flag == "1")


def size_in(tree: Element, path: Path) -> tuple[int, int]:
    """Height and width of an annotation's photograph.

    Raises:
        ValueError: they are missing, or no positive whole numbers.
    """
    texts = [(tree.findtext(f"size/{side}") or "").strip() for side in ("height", "width")]
    if not all(text.isdecimal() and 0 < int(text) < 10**6 for text in texts):
        raise ValueError(
            f"{path} has a <size> with height {texts[0]!r} and width {texts[1]!r}: "
            "expected those of the photograph in pixels"
        )
    return int(texts[0]), int(texts[1])


def box_in(element: Element, size: tuple[int, int], path: Path, first: int = 1) -> Box:
    """The box of an object of an annotation. The annotation's last pixel is within it.

    Args:
        element: of the object, with a <bndbox>.
        size: height and width of the photograph.
        path: of the annotation.
        first: the number of the first pixel.

    Raises:
        ValueError: there are not four numbers, or they are no box in the image.
    """
    texts = {
        side: (element.findtext(f"bndbox/{side}") or "").strip()
        for side in ("xmin", "ymin", "xmax", "ymax")
    }
    shown = f"{path}: the box {', '.join(f'{side} {text}' for side, text in texts.items())}"
    try:
        x0, y0, x1, y1 = (float(text) - first for text in texts.values())
    except ValueError:
        raise ValueError(f"{shown} is no box: expected four numbers in <bndbox>") from None
    return cut_box((x0, y0, x1 + 1, y1 + 1), size, shown=shown)


@dataclass(frozen=True)
class _NumberedPixels:
    """The pixels with the number of an object, which are counted from 1; 255 is what is unclear."""

    path: Path
    number: int
    size: tuple[int, int]

    def __call__(self) -> Mask:
        from PIL import Image

        try:
            with Image.open(self.path) as image:
                mode, numbers = image.mode, np.asarray(image)
        except Exception as error:  # what a decoder raises depends on the byte that is wrong
            raise ValueError(f"{self.path} is no image, or a damaged one: {error}") from error
        if mode not in ("P", "L") or numbers.shape != self.size:
            raise ValueError(
                f"{self.path} is no image of objects' numbers: expected a palette and a height and "
                f"width of {self.size} as in its annotation, not mode {mode} and {numbers.shape}"
            )
        return np.asarray(numbers == self.number)
