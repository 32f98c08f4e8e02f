"""Photographs and the classes in them, from folders in VOC's and in COCO's layout.

What `excitation_jax.data` reads, for training: which classes are there is all that counts, so an
annotation needs no boxes, sizes or masks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..data.coco import COCO_TO_VOC, Instances, read_instances
from ..data.files import check_photograph, read_annotation, read_names
from ..data.voc import VOC_CLASSES, objects_in

__all__ = [
    "COCO_TO_VOC",
    "VOC_CLASSES",
    "Labelled",
    "Record",
    "coco_classes",
    "held_out",
    "read_coco",
    "read_splits",
    "read_voc",
    "without",
]


class Labelled(Protocol):
    """What training needs of a photograph; see `Record`."""

    @property
    def path(self) -> Path:
        """Its file."""

    @property
    def labels(self) -> NDArray[np.float32]:
        """(classes,), 1 for every class that is in it."""


L = TypeVar("L", bound=Labelled)


class Record(NamedTuple):
    """A photograph's file, and a float32 (classes,) with 1 for every class that is in it."""

    path: Path
    labels: NDArray[np.float32]


def read_voc(
    folder: str | os.PathLike[str],
    split: str,
    *,
    difficult: bool = True,
    classes: tuple[str, ...] = VOC_CLASSES,
) -> list[Record]:
    """The photographs of a split of a folder in VOC's layout, in the split's order.

    Args:
        folder: holds JPEGImages/, Annotations/ and ImageSets/Main/.
        split: the names are in ImageSets/Main/<split>.txt, one a line.
        difficult: whether an object that VOC flags as difficult makes its class present. VOC's own
            scores leave out a photograph of which all objects of a class are difficult; a record
            has no third value for that, so it is one or the other.
        classes: the names of the labels' columns.

    Raises:
        FileNotFoundError: the split, an annotation or a photograph is missing.
        ValueError: the split is empty or lists a name twice or one that is no plain file name; an
            annotation is no XML of VOC's, or has an object of another class.
    """
    folder = Path(folder)
    listing = folder / "ImageSets" / "Main" / f"{split}.txt"
    records = []
    for name in read_names(listing):
        path = folder / "Annotations" / f"{name}.xml"
        objects = objects_in(read_annotation(path), path, classes)
        present = {item.category for item in objects if difficult or not item.difficult}
        photograph = check_photograph(folder / "JPEGImages" / f"{name}.jpg", listing)
        records.append(_record(photograph, present, classes))
    return records


def read_coco(
    instances: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    classes: tuple[str, ...] | None = VOC_CLASSES,
    renamed: Mapping[str, str] = COCO_TO_VOC,
) -> list[Record]:
    """The photographs of COCO's layout with an object of `classes`, in the file's order.

    COCO has no difficult objects. A crowd makes its class present as a single object does.

    Args:
        instances: a file of annotations, such as annotations/instances_train2017.json.
        images: the folder with the photographs that it names, such as train2017.
        classes: the names of the labels' columns. Objects of other categories are left out, and
            with them the photographs that show nothing else. None: `coco_classes(instances)`.
        renamed: COCO's names of categories that are called something else in `classes`.

    Raises:
        FileNotFoundError: the file or a photograph is missing.
        ValueError: the file is no JSON of COCO's, names a photograph outside `images`, annotates
            a photograph or a category that it does not list, or has none of `classes`.
    """
    instances, images = Path(instances), Path(images)
    content = read_instances(instances)
    if classes is None:
        renamed, classes = {}, _classes_of(content)
    names = {number: renamed.get(name, name) for number, name in content.categories.items()}
    records = []
    for number, entry in content.images.items():
        found = {names[item["category_id"]] for item in content.annotations[number]}
        present = found.intersection(classes)
        if present:
            photograph = check_photograph(images / entry["file_name"], instances)
            records.append(_record(photograph, present, classes))
    if not records:
        raise ValueError(f"{instances} has no object of the classes {', '.join(classes)}")
    return records


def coco_classes(instances: str | os.PathLike[str]) -> tuple[str, ...]:
    """COCO's own classes: the names of a file's categories, in the order of their numbers.

    As `data.read_coco` has them. Of COCO's own files there are 80.

    Raises:
        FileNotFoundError, ValueError: see `read_coco`.
    """
    return _classes_of(read_instances(Path(instances)))


def without(
    records: Sequence[L],
    *others: Sequence[Labelled],
    key: Callable[[Labelled], Hashable] = lambda record: record.path,
) -> list[L]:
    """The records whose photographs are in none of the others.

    Args:
        records, others: of one data set.
        key: the same for records of the same photograph.

    >>> from pathlib import Path
    >>> a, b, c = (Record(Path(name), np.zeros(2, np.float32)) for name in "abc")
    >>> [record.path.name for record in without([a, b, c], [b], [])]
    ['a', 'c']
    """
    known = {key(record) for other in others for record in other}
    return [record for record in records if key(record) not in known]


def held_out(records: Sequence[L], most: int = 2000) -> tuple[list[L], list[L]]:
    """The records to train with, and every tenth of them for validation, or at most so many.

    Spread evenly, the first included.

    Raises:
        ValueError: fewer than two records cannot be parted.

    >>> from pathlib import Path
    >>> every = [Record(Path(f"{i:02}"), np.zeros(2, np.float32)) for i in range(25)]
    >>> [record.path.name for record in held_out(every)[1]]
    ['00', '10', '20']
    """
    if len(records) < 2:
        raise ValueError(
            f"{len(records)} photographs cannot be parted into some to train with and some for "
            "validation: give more, or a split for validation"
        )
    stride = max(10, -(-len(records) // most))
    training = [record for place, record in enumerate(records) if place % stride]
    return training, list(records[::stride])


def read_splits(
    voc: Path, train: str, test: str, coco: Path | None = None, difficult: bool = True
) -> tuple[list[Record], list[Record]]:
    """The records to train and to test with. Those of the test split are never trained with.

    Args:
        voc: a folder in VOC's layout.
        train: a split of it.
        test: another, which may have photographs in common with `train`.
        coco: a folder with annotations/instances_train2017.json and train2017/; its photographs
            of VOC's classes are trained with, too.
        difficult: see `read_voc`.

    Raises:
        FileNotFoundError, ValueError: see `read_voc` and `read_coco`.
    """
    tests = read_voc(voc, test, difficult=difficult)
    records = without(read_voc(voc, train, difficult=difficult), tests)
    if coco is not None:
        records += read_coco(coco / "annotations" / "instances_train2017.json", coco / "train2017")
    return records, tests


def _classes_of(content: Instances) -> tuple[str, ...]:
    return tuple(dict.fromkeys(content.categories.values()))


def _record(path: Path, present: Iterable[str], classes: tuple[str, ...]) -> Record:
    labels = np.zeros(len(classes), np.float32)
    labels[[classes.index(name) for name in present]] = 1
    return Record(path, labels)
