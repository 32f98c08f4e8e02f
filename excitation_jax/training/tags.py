"""Photographs with the tags that users gave them, from JSON lines, and a dictionary of tags.

    {"image": "photographs/1.jpg", "tags": ["beach", "summer", "dog", "Dog", "fun", "blue"]}

Zhang et al. (IJCV18, 6.3) take the most frequent tags of stock photographs as the classes, some
18,000, and the first five tags of each photograph as those that hold: later ones have less to do
with it. There are too many classes for a row of zeros in memory for each photograph.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..data.files import check_photograph, read_lines

DICTIONARY = 18_000  # tags, at most
FIRST = 5  # tags of a photograph


class Tagged(NamedTuple):
    """A photograph's file and its tags, `normalised`, each once, in the file's order."""

    path: Path
    tags: tuple[str, ...]


class TaggedRecord(NamedTuple):
    """A `Labelled` photograph of many classes, of which it has few.

    present: the classes that hold. classes: their number.
    """

    path: Path
    present: tuple[int, ...]
    classes: int

    @property
    def labels(self) -> NDArray[np.float32]:
        """(classes,), 1 for every class that is in it."""
        labels = np.zeros(self.classes, np.float32)
        labels[list(self.present)] = 1
        return labels


def normalised(tag: str) -> str:
    """A tag as the dictionary has it.

    >>> normalised(" Golden  Retriever")
    'golden retriever'
    """
    return " ".join(tag.split()).casefold()


def read_tags(path: str | os.PathLike[str]) -> list[Tagged]:
    """The photographs of a file of JSON lines, in its order.

    Args:
        path: of the file. Each line is an object with "image", the photograph's path from the
            file's folder on, and "tags", a list of strings; other keys are left alone.

    Raises:
        FileNotFoundError: the file or a photograph is missing.
        ValueError: a line is no such object, has a photograph outside of the folder or one that
            another line has, or the file has no lines.
    """
    path = Path(path)
    found: dict[str, Tagged] = {}
    for number, line in enumerate(read_lines(path, "file of tags"), 1):
        try:
            entry = json.loads(line)
            image, tags = entry["image"], entry["tags"]
            if not isinstance(image, str) or not isinstance(tags, list):
                raise TypeError("'image' must be a string and 'tags' a list")
            if not all(isinstance(tag, str) for tag in tags):
                raise TypeError("every tag must be a string")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(
                f'{path}, line {number} is not as {{"image": "1.jpg", "tags": ["dog", ...]}}: '
                f"{type(error).__name__} {error}"
            ) from None
        place = PurePosixPath(image)
        outside = not image or place.is_absolute() or ".." in place.parts
        if outside or "\\" in image or "\0" in image:
            raise ValueError(
                f"{path}, line {number} names {image!r}, which is outside of the file's folder: "
                "expected a path relative to it"
            )
        if image in found:
            raise ValueError(f"{path}, line {number} has {image} once more: take one out")
        every = tuple(dict.fromkeys(filter(None, map(normalised, tags))))
        found[image] = Tagged(check_photograph(path.parent / image, path), every)
    if not found:
        raise ValueError(f"{path} has no photographs: expected one on each line")
    return list(found.values())


def dictionary_of(photographs: Iterable[Tagged], most: int = DICTIONARY) -> tuple[str, ...]:
    """The most frequent tags, the most frequent first; those that are as frequent by alphabet.

    All tags of a photograph count.

    Args:
        photographs: those to train with: a dictionary is not to know those to test with.
        most: tags in it.

    Raises:
        ValueError: `most` is below 1, or there is no tag.

    >>> dictionary_of([Tagged(Path("1.jpg"), ("sea", "dog")), Tagged(Path("2.jpg"), ("dog",))], 1)
    ('dog',)
    """
    if most < 1:
        raise ValueError(f"a dictionary must have at least 1 tag, got {most}")
    counts = Counter(tag for photograph in photographs for tag in photograph.tags)
    if not counts:
        raise ValueError("none of the photographs has a tag")
    return tuple(sorted(counts, key=lambda tag: (-counts[tag], tag))[:most])


def with_first_tags(
    photographs: Iterable[Tagged], dictionary: Sequence[str], first: int = FIRST
) -> list[TaggedRecord]:
    """The photographs with those of their first tags that are in the dictionary.

    Those of which no such tag is in it are left out.

    Raises:
        ValueError: `first` is below 1, or nothing is left.

    >>> found = with_first_tags([Tagged(Path("1.jpg"), ("sea", "dog", "sun"))], ("sun", "dog"), 2)
    >>> found[0].labels.tolist()
    [0.0, 1.0]
    """
    if first < 1:
        raise ValueError(f"at least 1 tag of a photograph must count, got {first}")
    places = {tag: place for place, tag in enumerate(dictionary)}
    records = []
    for path, tags in photographs:
        present = tuple(places[tag] for tag in tags[:first] if tag in places)
        if present:
            records.append(TaggedRecord(path, present, len(dictionary)))
    if not records:
        raise ValueError(
            f"none of the photographs has a tag of the dictionary among its first {first}"
        )
    return records
