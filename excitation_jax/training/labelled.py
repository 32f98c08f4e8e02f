"""Photographs and the classes in them, read from folders in VOC's and in COCO's layout.

Both readers name the file in which something is wrong, take no name that leads out of the folder,
and find out that every photograph is there before the first of them is decoded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
COCO_TO_VOC = {
    "airplane": "aeroplane", "motorcycle": "motorbike", "couch": "sofa", "tv": "tvmonitor",
    "potted plant": "pottedplant", "dining table": "diningtable",
}  # fmt: skip

# The longest annotation of VOC has some 40 kB. One of gigabytes is not read into memory.
_LONGEST_ANNOTATION = 4_000_000  # bytes


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
    lines = _read(listing, "split").decode("utf-8", "replace").splitlines()
    # VOC's files of one class have a second column, which says whether the class is there.
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise ValueError(f"{listing} lists no photographs")
    if len(set(names)) < len(names):
        again = next(name for place, name in enumerate(names) if name in names[:place])
        raise ValueError(f"{listing} lists {again} twice")
    records = []
    for name in names:
        if name != Path(name).name or "\\" in name:
            raise ValueError(f"{listing} lists {name!r}, which is no name of a photograph")
        present = _annotated(folder / "Annotations" / f"{name}.xml", difficult, classes)
        records.append(_record(folder / "JPEGImages" / f"{name}.jpg", listing, present, classes))
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
    try:
        content = json.loads(_read(instances, "annotations"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{instances} is no JSON file: {error}") from None
    columns: dict[Any, str] = {}
    present: dict[Any, set[str]] = {}
    names: dict[Any, str] = {}
    try:
        for category in content["categories"]:
            columns[category["id"]] = renamed.get(category["name"], category["name"])
        for image in content["images"]:
            names[image["id"]] = str(image["file_name"])
        for item in content["annotations"]:
            if item["image_id"] not in names:
                raise ValueError(f"{instances} annotates image {item['image_id']}, but lists none")
            if item["category_id"] not in columns:
                raise ValueError(
                    f"{instances} has an object of category {item['category_id']}, but lists none"
                )
            name = columns[item["category_id"]]
            if name in classes:
                present.setdefault(item["image_id"], set()).add(name)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{instances} is not in COCO's layout, with lists 'images', 'annotations' and "
            f"'categories': {type(error).__name__} {error}"
        ) from None
    if not present:
        raise ValueError(f"{instances} has no object of the classes {', '.join(classes)}")
    records = []
    for key, name in names.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{instances} names {name!r}, which is outside the folder of images")
        if key in present:
            records.append(_record(images / name, instances, present[key], classes))
    return records


class _PlainTree(ElementTree.TreeBuilder):
    """Refuses a document type: only in one can entities be defined, which can be bombs."""

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise ValueError("it has a document type, as no annotation of VOC's does")


def _annotated(path: Path, difficult: bool, classes: tuple[str, ...]) -> set[str]:
    """The classes in an annotation of VOC's."""
    text = _read(path, "annotation", _LONGEST_ANNOTATION)
    try:
        tree = ElementTree.fromstring(text, ElementTree.XMLParser(target=_PlainTree()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"{path} is no XML file of VOC's: {error}") from None
    if tree.tag != "annotation":
        raise ValueError(f"{path} is no annotation of VOC's: its root is <{tree.tag}>")
    present = set()
    for item in tree.iter("object"):
        name = (item.findtext("name") or "").strip()
        if name not in classes:
            raise ValueError(f"{path} has an object {name!r}, which is none of the classes")
        flag = (item.findtext("difficult") or "0").strip()
        if flag not in ("0", "1"):
            raise ValueError(f"{path} has an object with <difficult> {flag!r}: expected 0 or 1")
        if difficult or flag == "0":
            present.add(name)
    return present


def _read(path: Path, what: str, longest: int | None = None) -> bytes:
    try:
        if longest is not None and path.stat().st_size > longest:
            raise ValueError(f"{path} has more than {longest} bytes: it is no {what}")
        return path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {what} {path}") from None


def _record(path: Path, listing: Path, present: Iterable[str], classes: tuple[str, ...]) -> Record:
    if not path.is_file():
        raise FileNotFoundError(f"there is no photograph {path}, which {listing} lists")
    labels = np.zeros(len(classes), np.float32)
    labels[[classes.index(name) for name in present]] = 1
    return Record(path, labels)
