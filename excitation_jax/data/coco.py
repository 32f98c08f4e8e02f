"""COCO: photographs, and boxes and masks of all objects in one JSON file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .files import check_photograph, cut_box, read
from .records import Dataset, Example, Mask, Object
from .run_lengths import Runs, decompressed, mask_of, read_runs

COCO_TO_VOC = {
    "airplane": "aeroplane",
    "motorcycle": "motorbike",
    "couch": "sofa",
    "tv": "tvmonitor",
    "potted plant": "pottedplant",
    "dining table": "diningtable",
}

_LAYOUT = "is not in COCO's layout, with lists 'images', 'annotations' and 'categories'"


class Instances(NamedTuple):
    """What a file of annotations holds; every annotation's image and category is in it.

    categories: names by number, in the numbers' order.
    images: the entries by number, in the file's order. None leads out of a folder.
    annotations: by the number of the image; empty lists included.
    """

    categories: dict[Any, str]
    images: dict[Any, dict[str, Any]]
    annotations: dict[Any, list[dict[str, Any]]]


def read_coco(
    instances: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    classes: tuple[str, ...] | None = None,
    renamed: Mapping[str, str] | None = None,
) -> Dataset[Example]:
    """The photographs of a file in COCO's layout, in the file's order, also those of no object.

    An object without a polygon of three points has no mask, only a box, which may be without area
    (COCO has a few); boxes may reach over the image's edge by a pixel, which is cut off.

    Args:
        instances: a file of annotations, such as annotations/instances_val2014.json.
        images: the folder with the photographs that it names, such as val2014.
        classes: the categories whose objects are kept. None: all, in the order of their numbers,
            which is that of TorchRay's lists.
        renamed: other names for categories, such as `COCO_TO_VOC`.

    Raises:
        FileNotFoundError: the file or a photograph is missing.
        ValueError: the file is no JSON of COCO's, names a photograph outside `images`, annotates
            a photograph or a category that it does not list, has a box or a polygon outside of its
            image or a mask of another size, or has no photographs.
    """
    instances, images = Path(instances), Path(images)
    content = read_instances(instances)
    names = {number: (renamed or {}).get(n, n) for number, n in content.categories.items()}
    if classes is None:
        classes = tuple(dict.fromkeys(names.values()))
    if not content.images:
        raise ValueError(f"{instances} lists no photographs: is it the file of another part?")
    examples = []
    for number, entry in content.images.items():
        size = _size(entry, instances)
        objects = tuple(
            _object(item, names[item["category_id"]], size, instances)
            for item in content.annotations[number]
            if names[item["category_id"]] in classes
        )
        key = PurePosixPath(entry["file_name"]).with_suffix("").as_posix()
        photograph = check_photograph(images / entry["file_name"], instances)
        examples.append(Example(key, photograph, size, objects))
    return Dataset(instances.stem.removeprefix("instances_"), classes, tuple(examples), masks=True)


def read_instances(path: Path) -> Instances:
    """A file of annotations, of which all parts belong together.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no JSON of COCO's, has two images of a number, one of which the name leads
            out of a folder, or an annotation of an image or a category that it does not list.
    """
    try:
        content = json.loads(read(path, "file of annotations"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is no JSON file: {error}; it may be cut off: unpack it again"
        ) from None
    try:
        categories = {item["id"]: item["name"] for item in content["categories"]}
        images = {item["id"]: item for item in content["images"]}
        if len(images) < len(content["images"]):
            raise ValueError(f"{path} has two images with the same id")
        for entry in images.values():
            name = entry["file_name"]
            if not isinstance(name, str):
                raise TypeError(f"a file_name is {name!r}")
            outside = PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts
            if outside or "\\" in name or "\0" in name or not name:
                raise ValueError(
                    f"{path} names {name!r}, which is outside the folder of images: "
                    "expected a name relative to it"
                )
        annotations: dict[Any, list[dict[str, Any]]] = {number: [] for number in images}
        for item in content["annotations"]:
            if item["image_id"] not in images:
                raise ValueError(f"{path} annotates image {item['image_id']}, but lists none")
            if item["category_id"] not in categories:
                raise ValueError(
                    f"{path} has an object of category {item['category_id']}, but lists none"
                )
            annotations[item["image_id"]].append(item)
        ordered = {number: str(categories[number]) for number in sorted(categories)}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} {_LAYOUT}: {type(error).__name__} {error}; give the file of instances"
        ) from None
    return Instances(ordered, images, annotations)


def _size(entry: dict[str, Any], path: Path) -> tuple[int, int]:
    size = entry.get("height"), entry.get("width")
    if not all(isinstance(side, int) and side > 0 for side in size):
        raise ValueError(
            f"{path} {_LAYOUT}: image {entry['id']} has a height and width of {size}, which should "
            "be those of the photograph in pixels"
        )
    return size  # type: ignore[return-value]  # just checked


def _object(item: dict[str, Any], category: str, size: tuple[int, int], path: Path) -> Object:
    """An annotation's object: everything but the mask's pixels is checked here."""
    shown = f"{path}: annotation {item.get('id')} of image {item['image_id']}"
    box = item.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f"{shown} has a bbox {box}: expected its x, y, width and height")
    x, y, width, height = map(float, box)
    cut = cut_box((x, y, x + width, y + height), size, shown=f"{shown}: its bbox {box}", empty=True)
    crowd = item.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise ValueError(f"{shown} has iscrowd {crowd!r}: expected 0 or 1")
    return Object(category, cut, crowd=bool(crowd), mask=_mask(item, size, shown))


def _mask(item: dict[str, Any], size: tuple[int, int], shown: str) -> _Mask | None:
    """The mask of an annotation, which pycocotools can do no harm with.

    It hangs, or fills the memory, on points far away.
    """
    found = item.get("segmentation")
    if isinstance(found, list):
        polygons = []
        for points in found:
            if not isinstance(points, list) or len(points) % 2 or not all(map(_is_number, points)):
                raise ValueError(f"{shown} has no list of x, y, x, y, ... in its segmentation")
            if len(points) < 6:  # no area; pycocotools would take two points for a box
                continue
            polygon = np.array(points, np.float64)
            beyond = max(size)
            if polygon.min() < -beyond or polygon.max() > 2 * beyond:
                raise ValueError(
                    f"{shown} has a polygon far outside of the image, which has a height and width "
                    f"of {size}: correct it, or take the annotation out"
                )
            polygons.append(polygon)
        return _Mask(size, tuple(polygons)) if polygons else None
    if isinstance(found, dict):
        return _Mask(size, read_runs(found, size, shown))
    if found is None:
        return None
    raise ValueError(f"{shown} has a segmentation that is neither polygons nor a run-length code")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e9  # NaN is not


@dataclass(frozen=True)
class _Mask:
    """A mask as pycocotools makes it, of polygons or of the lengths of runs down the columns."""

    size: tuple[int, int]
    code: tuple[NDArray[np.float64], ...] | Runs

    def __call__(self) -> Mask:
        runs = self._of_polygons() if isinstance(self.code, tuple) else self.code
        return mask_of(runs, self.size)

    def _of_polygons(self) -> Runs:
        try:
            from pycocotools import mask
        except ImportError as error:
            raise ImportError(
                'the masks of COCO need pycocotools: pip install "excitation-jax[eval]"'
            ) from error
        return decompressed(mask.merge(mask.frPyObjects(list(self.code), *self.size))["counts"])
