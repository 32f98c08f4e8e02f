"""ImageNet's validation photographs (ILSVRC 2012) with the boxes of their class."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from .files import check_photograph, check_plain, listed, read_annotation, read_lines
from .records import Dataset, Example, Object
from .voc import box_in, objects_in, size_in

_SYNSET = re.compile(r"n\d{8}")
_FIRST_PIXEL = 0  # in VOC's own files it is 1: ILSVRC's boxes run from 0 to 499 of 500 pixels


class _Listed(NamedTuple):
    """A photograph's name without a suffix; the synset or the number that a list has for it."""

    name: str
    synset: str | None
    number: int | None


def read_imagenet(
    images: str | os.PathLike[str],
    annotations: str | os.PathLike[str],
    synsets: str | os.PathLike[str],
    *,
    ground_truth: str | os.PathLike[str] | None = None,
) -> Dataset[Example]:
    """ILSVRC's validation photographs in the order of their names. Categories are synsets.

    Args:
        images: the folder with ILSVRC2012_val_00000001.JPEG and so on.
        annotations: the folder with ILSVRC2012_val_00000001.xml and so on. They say which class a
            photograph is of, and where.
        synsets: a file with a synset such as n01440764 on each line and what it is called, in the
            order of the network's outputs, such as Caffe's synset_words.txt or Kaggle's
            LOC_synset_mapping.txt; an index may come first.
        ground_truth: a list of the photographs' classes: only those in it are read, and an
            annotation that says something else is an error. The devkit's
            ILSVRC2012_validation_ground_truth.txt (a number for each of the photographs, in an
            order of classes of its own), Caffe's val.txt (name and index in `synsets`) or Kaggle's
            LOC_val_solution.csv (name and synset). None: all photographs in the folder.

    Raises:
        FileNotFoundError: a folder, a list, an annotation or a photograph is missing.
        ValueError: there are no photographs; a list is in another format; an annotation is no XML
            of VOC's, is not of the class listed, has an object of none of the synsets, or a box
            that is not in the image. Boxes may reach over the image's edge by a pixel, which is cut
            off.
    """
    images, annotations, synsets = Path(images), Path(annotations), Path(synsets)
    classes, titles = _read_synsets(synsets)
    found, listing = _photographs(images), images
    entries = [_Listed(name, None, None) for name in found]
    if ground_truth is not None:
        listing = Path(ground_truth)
        entries = _read_ground_truth(listing, found, classes)
    known = dict.fromkeys(classes)  # looked up in fast, and listed in order
    numbered: dict[int, str] = {}
    examples = []
    for name, synset, number in entries:
        path = annotations / f"{name}.xml"
        tree = read_annotation(path)
        size = size_in(tree, path)
        objects = tuple(
            Object(category, box_in(element, size, path, _FIRST_PIXEL), difficult)
            for element, category, difficult in objects_in(tree, path, known)
        )
        shown = {item.category for item in objects}
        if number is not None and shown:
            synset = numbered.setdefault(number, min(shown))
        if synset is not None and shown and shown != {synset}:
            raise ValueError(
                f"{path} has objects {', '.join(sorted(shown))}, but {listing} says {synset}: are "
                "the list and the annotations of the same data, and the synsets in its order?"
            )
        photograph = check_photograph(images / found.get(name, f"{name}.JPEG"), listing)
        examples.append(Example(name, photograph, size, objects))
    return Dataset("ImageNet validation", classes, tuple(examples), titles=titles)


def _photographs(folder: Path) -> dict[str, str]:
    """The files of photographs in a folder by their names without a suffix."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder of photographs {folder}: check its name")
    names = sorted(entry.name for entry in os.scandir(folder))
    found = {Path(n).stem: n for n in names if Path(n).suffix.lower() in (".jpeg", ".jpg")}
    if not found:
        raise ValueError(
            f"{folder} has no photographs: expected ILSVRC2012_val_00000001.JPEG and so on, not in "
            "folders by class"
        )
    return found


def _read_synsets(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The synsets of a file in its order, and what they are called."""
    classes, titles = [], []
    for place, line in enumerate(read_lines(path, "list of synsets")):
        fields = line.split(maxsplit=2 if line.split()[0].isdecimal() else 1)
        if fields[0].isdecimal():
            if int(fields.pop(0)) != place:
                raise ValueError(f"{path}, line {place + 1}: expected the index {place}: {line!r}")
        if not fields or not _SYNSET.fullmatch(fields[0]):
            raise ValueError(
                f"{path}, line {place + 1}: expected a synset such as n01440764 and its name, "
                f"got {line[:40]!r}"
            )
        classes.append(fields[0])
        titles.append(fields[1].strip() if len(fields) > 1 else fields[0])
    if not classes or len(set(classes)) < len(classes):
        raise ValueError(f"{path} has no synsets, or one of them twice: expected one on each line")
    return tuple(classes), tuple(titles)


def _read_ground_truth(
    path: Path, found: dict[str, str], classes: tuple[str, ...]
) -> list[_Listed]:
    """The entries of a list of classes in any of the three formats."""
    lines = read_lines(path, "list of classes")
    if lines and lines[0].startswith("ImageId,"):
        del lines[0]
    if not lines:
        raise ValueError(f"{path} lists no photographs: expected one on each line")
    if all(line.strip().isdecimal() for line in lines):
        if len(lines) != len(found):
            raise ValueError(
                f"{path} has {len(lines)} numbers for {len(found)} photographs "
                f"({listed(found, 2)}): the list of the devkit needs all of them; use a list "
                "with names for a part"
            )
        return [_Listed(n, None, int(line)) for n, line in zip(found, lines, strict=True)]
    entries, seen = [], set()
    for number, line in enumerate(lines, 1):
        fields = re.split(r"[\s,]+", line.strip())
        check_plain(fields[0], path)
        label = fields[1] if len(fields) > 1 else ""
        if label.isdecimal() and int(label) < len(classes):
            label = classes[int(label)]
        name = re.sub(r"\.jpe?g$", "", fields[0], flags=re.IGNORECASE)
        if name in seen:
            raise ValueError(f"{path} lists {name} twice: take one out")
        seen.add(name)
        if label not in classes:
            raise ValueError(
                f"{path}, line {number}: expected a photograph and its synset, or the synset's "
                f"index below {len(classes)}, got {line[:60]!r}"
            )
        entries.append(_Listed(name, label, None))
    return sorted(entries, key=lambda entry: entry.name)
