r"""Writes VOC's photographs in the layout of Flickr30k Entities, with captions of categories.

So `excitation-jax eval text` runs on real photographs without Flickr30k's, with a network whose
outputs are VOC's classes as its words:

    python -m benchmarks.evaluation.voc_as_captions --voc VOC --split voc07test --out captions
    excitation-jax eval text --data flickr30k --folder captions --images VOC/JPEGImages \
        --split voc07test --words captions/words.txt --model mobilenet_v2 --weights HEAD --out run

HEAD is the checkpoint that `held_out_pointing.py` writes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from xml.etree import ElementTree

from excitation_jax import data

GROUPS = {
    "people": ("person",),
    "animals": ("bird", "cat", "cow", "dog", "horse", "sheep"),
    "vehicles": ("aeroplane", "bicycle", "boat", "bus", "car", "motorbike", "train"),
}


def group_of(category: str) -> str:
    """The group of phrases that a category belongs to."""
    return next((group for group, names in GROUPS.items() if category in names), "other")


def annotation(example: data.Example, entities: dict[str, int]) -> ElementTree.Element:
    """A photograph's size and boxes, with the entities as names; pixels count from 1."""
    tree = ElementTree.Element("annotation")
    size = ElementTree.SubElement(tree, "size")
    for name, side in zip(("width", "height", "depth"), (*example.size[::-1], 3), strict=True):
        ElementTree.SubElement(size, name).text = str(side)
    for item in example.objects:
        element = ElementTree.SubElement(tree, "object")
        ElementTree.SubElement(element, "name").text = str(entities[item.category])
        box = ElementTree.SubElement(element, "bndbox")
        x0, y0, x1, y1 = map(round, item.box)
        for name, value in zip(
            ("xmin", "ymin", "xmax", "ymax"), (x0 + 1, y0 + 1, x1, y1), strict=True
        ):
            ElementTree.SubElement(box, name).text = str(value)
    return tree


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--voc", type=Path, required=True)
    parser.add_argument("--split", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    dataset = data.read_voc(options.voc, options.split)
    for folder in ("Sentences", "Annotations"):
        (options.out / folder).mkdir(parents=True)
    for example in dataset:
        entities = {name: number for number, name in enumerate(example.categories(), 1)}
        caption = " and ".join(
            f"[/EN#{number}/{group_of(name)} a {name}]" for name, number in entities.items()
        )
        (options.out / "Sentences" / f"{example.key}.txt").write_text(f"{caption} .\n")
        tree = ElementTree.ElementTree(annotation(example, entities))
        tree.write(options.out / "Annotations" / f"{example.key}.xml")
    (options.out / f"{options.split}.txt").write_text(
        "".join(f"{example.key}\n" for example in dataset)
    )
    (options.out / "words.txt").write_text("".join(f"{name}\n" for name in data.VOC_CLASSES))


if __name__ == "__main__":
    main()
