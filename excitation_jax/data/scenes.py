"""The digits model's scenes as a data set: what needs no download, for tests."""

from __future__ import annotations

import numpy as np

from ..digits.scenes import NUM_CLASSES, SIDE, Split, make_scenes
from .flickr30k import Caption, CaptionedExample, Phrase
from .records import Dataset, Example, Object

_NUMERALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_GROUPS = ("even", "odd", "pair")


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


def captioned_digit_scenes(
    count: int, *, seed: int = 0, split: Split = "test"
) -> Dataset[CaptionedExample]:
    """The scenes of `digit_scenes` with captions whose phrases have boxes.

    A caption names all digits of a scene from left to right, "a two next to a seven next to a
    nine"; of scenes of several a second one names the first two in a single phrase, "a two and a
    seven", whose boxes are those of both. The groups of phrases are "even", "odd" and "pair".

    Args, raises: see `digit_scenes`.

    Example:
        >>> str(captioned_digit_scenes(3)[0].captions[0])
        'a four next to a three next to a one'
    """
    scenes = digit_scenes(count, seed=seed, split=split)
    return Dataset(scenes.name, _GROUPS, tuple(map(_captioned, scenes)))


def _captioned(example: Example) -> CaptionedExample:
    digits = sorted(example.objects, key=lambda item: item.box[0])
    words: list[str] = []
    phrases: list[Phrase] = []
    for item in digits:
        words += ["next", "to"] if words else []
        numeral = _NUMERALS[int(item.category)]
        named: tuple[str, ...] = ("an" if numeral == "eight" else "a", numeral)
        group = _GROUPS[int(item.category) % 2]
        phrases.append(Phrase(named, len(words), item.category, (group,)))
        words += named
    captions = [Caption(tuple(words), tuple(phrases))]
    objects = example.objects
    if len(digits) > 1:
        first, second = phrases[:2]
        entity = first.entity + second.entity  # which no digit is
        named = (*first.words, "and", *second.words)
        captions.append(Caption(named, (Phrase(named, 0, entity, ("pair",)),)))
        objects += tuple(Object(entity, item.box) for item in digits[:2])
    return CaptionedExample(
        example.key, None, example.size, objects, pixels=example.pixels, captions=tuple(captions)
    )
