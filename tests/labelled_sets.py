"""Photographs of coloured halves in VOC's and COCO's layouts and with tags, to train with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from data_files import annotation_xml, object_xml, write
from PIL import Image

COLOURS = {"cat": (220, 40, 40), "dog": (40, 220, 40), "bus": (40, 40, 220)}
HEIGHT, WIDTH = 24, 36


def halves(number: int) -> tuple[str, str]:
    """The classes in the left and in the right half of a photograph."""
    names = list(COLOURS)
    return names[number % 3], names[(number + number // 3) % 3]


def photograph(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    left, right = halves(number)
    pixels = np.random.default_rng(number).integers(0, 30, (HEIGHT, WIDTH, 3))
    pixels[:, : WIDTH // 2] += COLOURS[left]
    pixels[:, WIDTH // 2 :] += COLOURS[right]
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def voc(folder: Path, **splits: range) -> Path:
    """A folder in VOC's layout, with splits of photographs by number."""
    for name, numbers in splits.items():
        write(folder / f"ImageSets/Main/{name}.txt", "".join(f"{n:06}\n" for n in numbers))
        for number in numbers:
            left, right = halves(number)
            objects = [object_xml(left, (1, 1, WIDTH // 2, HEIGHT))]
            objects.append(object_xml(right, (WIDTH // 2 + 1, 1, WIDTH, HEIGHT)))
            text = annotation_xml(*objects, height=HEIGHT, width=WIDTH)
            write(folder / f"Annotations/{number:06}.xml", text)
            photograph(folder / f"JPEGImages/{number:06}.jpg", number)
    return folder


def coco(folder: Path, categories: list[str], **splits: range) -> Path:
    """The same in COCO's layout, with categories that may be more than those that occur."""
    numbers_of = {name: 3 * place + 1 for place, name in enumerate(categories)}
    half = WIDTH // 2
    for name, numbers in splits.items():
        images = [
            {"id": n, "file_name": f"{n:06}.jpg", "height": HEIGHT, "width": WIDTH} for n in numbers
        ]
        annotations = [
            {
                "id": 2 * n + side,
                "image_id": n,
                "category_id": numbers_of[halves(n)[side]],
                "bbox": [half * side, 0, half, HEIGHT],
            }
            for n in numbers
            for side in (0, 1)
        ]
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": i, "name": own} for own, i in numbers_of.items()],
        }
        write(folder / f"annotations/instances_{name}.json", json.dumps(content))
        for number in numbers:
            photograph(folder / f"{name}/{number:06}.jpg", number)
    return folder


def tagged(folder: Path, **splits: range) -> Path:
    """Lines of JSON with the colours' classes, and much else that users call a photograph."""
    for name, numbers in splits.items():
        lines = []
        for number in numbers:
            photograph(folder / f"photographs/{number}.jpg", number)
            left, right = halves(number)
            tags = [left.upper(), f"noise {number}", right, left, "  very   nice ", "x", "bird"]
            lines.append(json.dumps({"image": f"photographs/{number}.jpg", "tags": tags}))
        write(folder / f"{name}.jsonl", "\n".join(lines) + "\n")
    return folder
