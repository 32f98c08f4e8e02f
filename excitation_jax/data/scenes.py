"""The digits model's scenes as a data set: what needs no download, for tests."""

from __future__ import annotations

import numpy as np

from ..digits.scenes import NUM_CLASSES, SIDE, Split, make_scenes
from .records import Dataset, Example, Object


def digit_scenes(count: int, *, seed: int = 0, split: Split = "test") -> Dataset[Example]:
    """Scenes of one to four digits in clutter, with a box round every digit, in memory.

    Categories are "0" to "9". A scene takes 28 kB; nothing is written to disk.

    Args:
        count: number of scenes.
        seed, split: see `digits.make_scenes`.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: see `digits.make_scenes`.

    Example:
        >>> dataset = digit_scenes(3)
        >>> dataset[0].image().shape, len(dataset.classes)
        ((96, 96, 3), 10)
    """
    scenes = make_scenes(seed, count, split)
    images = np.round(scenes.images * 255).astype(np.uint8)
    examples = []
    for place, (image, boxes) in enumerate(zip(images, scenes.boxes, strict=True)):
        objects = tuple(
            Object(str(digit), (float(x0), float(y0), float(x1), float(y1)))
            for digit, (x0, y0, x1, y1) in enumerate(boxes)
            if not np.isnan(x0)
        )
        examples.append(Example(f"{place:06}", None, (SIDE, SIDE), objects, pixels=image))
    classes = tuple(map(str, range(NUM_CLASSES)))
    return Dataset(f"digit scenes {split}", classes, tuple(examples))
