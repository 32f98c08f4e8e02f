"""Photographs and the classes in them, from folders in VOC's and in COCO's layout.

What `excitation_jax.data` reads, for training: which classes are there is all that counts, so an
annotation needs no boxes, sizes or masks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..data.coco import COCO_TO_VOC, read_instances
from ..data.files import check_photograph, read_annotation, read_names
from ..data.voc import VOC_CLASSES, objects_in

__all__ = ["COCO_TO_VOC", "VOC_CLASSES", "Record", "read_coco", "read_splits", "read_voc"]


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
    classes: tuple[str, ...] = VOC_CLASSES,
    renamed: Mapping[str, str] = COCO_TO_VOC,
) -> list[Record]:
    """The photographs of COCO's layout with an object of `classes`, in the file's order.

    COCO has no difficult objects. A crowd makes its class present as a single object does.

    Args:
        instances: a file of annotations, such as annotations/instances_train2017.json.
        images: the folder with the photographs that it names, such as train2017.
        classes: the names of the labels' columns. Objects of other categories are left out, and
            with them the photographs that show nothing else.
        renamed: COCO's names of categories that are called something else in `classes`.

    Raises:
        FileNotFoundError: the file or a photograph is missing.
        ValueError: the file is no JSON of COCO's, names a photograph outside `images`, annotates
            a photograph or a category that it does not list, or has none of `classes`.
    """
    instances, images = Path(instances), Path(images)
    content = read_instances(instances)
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
    known = {record.path for record in tests}
    records = [r for r in read_voc(voc, train, difficult=difficult) if r.path not in known]
    if coco is not None:
        records += read_coco(coco / "annotations" / "instances_train2017.json", coco / "train2017")
    return records, tests


def _record(path: Path, present: Iterable[str], classes: tuple[str, ...]) -> Record:
    labels = np.zeros(len(classes), np.float32)
    labels[[classes.index(name) for name in present]] = 1
    return Record(path, labels)
