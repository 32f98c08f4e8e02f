"""Flickr30k Entities: captions of photographs, whose phrases have boxes.

Phrases that mean the same thing have the same entity, a number; the boxes are the entity's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

from .files import check_photograph, read_annotation, read_lines, read_names
from .records import Dataset, Example, Object
from .voc import box_in, size_in

#: The groups of phrases. Those of the ninth, "notvisual", have the entity "0" and no boxes.
GROUPS = tuple("people clothing bodyparts animals vehicles instruments scene other".split())

_HEAD = re.compile(r"\[/EN#(\d+)((?:/[a-z]+)+)")


@dataclass(frozen=True)
class Phrase:
    """A part of a caption.

    Attributes:
        words: its words.
        first: place of the first of them among the caption's words.
        entity: what it means, the category of the objects that are it.
        groups: mostly one of `GROUPS`, sometimes several.
    """

    words: tuple[str, ...]
    first: int
    entity: str
    groups: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(self.words)


@dataclass(frozen=True)
class Caption:
    """A sentence about a photograph: its words (punctuation, too) and the phrases in it."""

    words: tuple[str, ...]
    phrases: tuple[Phrase, ...]

    def __str__(self) -> str:
        return " ".join(self.words)


@dataclass(frozen=True)
class CaptionedExample(Example):
    """A photograph with captions. The categories of its objects are entities.

    Attributes:
        captions: mostly five.
        scenes: the entities that are the whole photograph.
        without_box: the entities that are not to be seen in it.
    """

    captions: tuple[Caption, ...] = ()
    scenes: frozenset[str] = frozenset()
    without_box: frozenset[str] = frozenset()

    def located(self) -> Iterator[tuple[Caption, Phrase]]:
        """The phrases that have boxes, with their captions, in order."""
        there = set(self.categories())
        for caption in self.captions:
            for phrase in caption.phrases:
                if phrase.entity in there:
                    yield caption, phrase


def read_flickr30k(
    folder: str | os.PathLike[str],
    images: str | os.PathLike[str],
    listing: str | os.PathLike[str] | None = None,
) -> Dataset[CaptionedExample]:
    """The photographs of a list, with their captions, in the list's order.

    An object of an example is a box of an entity; a box of two entities is two objects.

    Args:
        folder: holds Sentences/ and Annotations/.
        images: holds the photographs, such as flickr30k-images.
        listing: a file with a photograph's number on each line, such as the data set's test.txt.
            None: all that have sentences, in the order of their names.

    Raises:
        FileNotFoundError: a folder, a list, a file of sentences, an annotation or a photograph is
            missing.
        ValueError: the list is empty or has a number twice or one that is no plain file name;
            sentences or an annotation are in another format; a box is not in the image. Boxes may
            reach over the image's edge by a pixel, which is cut off.
    """
    folder, images = Path(folder), Path(images)
    if listing is None:
        source = folder / "Sentences"
        names = sorted(path.stem for path in source.glob("*.txt"))
        if not names:
            raise FileNotFoundError(
                f"there are no sentences in {source}: expected a file such as 36979.txt for every "
                "photograph; unpack annotations.zip there"
            )
    else:
        source = Path(listing)
        names = read_names(source)
    examples = []
    for name in names:
        path = folder / "Annotations" / f"{name}.xml"
        tree = read_annotation(path)
        size = size_in(tree, path)
        objects, scenes, without_box = _entities(tree, size, path)
        captions = _read_captions(folder / "Sentences" / f"{name}.txt")
        photograph = check_photograph(images / f"{name}.jpg", source)
        examples.append(
            CaptionedExample(
                name,
                photograph,
                size,
                objects,
                captions=captions,
                scenes=scenes,
                without_box=without_box,
            )
        )
    return Dataset(f"Flickr30k Entities {source.stem}", GROUPS, tuple(examples))


def _entities(
    tree: Element, size: tuple[int, int], path: Path
) -> tuple[tuple[Object, ...], frozenset[str], frozenset[str]]:
    """The boxes of entities; the entities that are the scene; and those that are not to be seen."""
    objects = []
    flagged: dict[str, set[str]] = {"scene": set(), "nobndbox": set()}
    for element in tree.iter("object"):
        entities = [(name.text or "").strip() for name in element.findall("name")]
        if not entities or not all(entity.isdecimal() for entity in entities):
            raise ValueError(f"{path} has an object with <name> {entities}: expected numbers")
        if element.find("bndbox") is not None:
            box = box_in(element, size, path)
            objects += [Object(entity, box) for entity in entities]
            continue
        for flag, flagged_entities in flagged.items():
            value = (element.findtext(flag) or "").strip()
            if value not in ("0", "1"):
                raise ValueError(
                    f"{path} has an object {', '.join(entities)} with neither a <bndbox> nor a "
                    f"<{flag}> of 0 or 1"
                )
            if value == "1":
                flagged_entities.update(entities)
    return tuple(objects), frozenset(flagged["scene"]), frozenset(flagged["nobndbox"])


def _read_captions(path: Path) -> tuple[Caption, ...]:
    """The captions of a file, one on each line: words, and [/EN#entity/group/... words]."""
    captions = []
    for number, line in enumerate(read_lines(path, "file of sentences"), 1):
        try:
            captions.append(_parse(line))
        except ValueError as error:
            raise ValueError(
                f"{path}, sentence {number}: {error}; expected phrases like "
                f"[/EN#36979/people a man], got {line[:80]!r}"
            ) from None
    if not captions:
        raise ValueError(f"{path} has no sentences: expected one on each line; unpack it again")
    return tuple(captions)


def _parse(line: str) -> Caption:
    words: list[str] = []
    phrases: list[Phrase] = []
    head: re.Match[str] | None = None  # of the phrase that we are in
    first = 0
    for token in line.split():
        if token.startswith("["):
            if head is not None:
                raise ValueError("a phrase begins within another")
            head, first = _HEAD.fullmatch(token), len(words)
            if head is None:
                raise ValueError(f"{token!r} begins no phrase")
            continue
        ends = token.endswith("]")
        if ends and head is None:
            raise ValueError(f"{token!r} ends a phrase that did not begin")
        word = token.removesuffix("]")
        if word:
            words.append(word)
        if ends and head is not None:
            if first == len(words):
                raise ValueError("a phrase has no words")
            groups = tuple(head[2][1:].split("/"))
            phrases.append(Phrase(tuple(words[first:]), first, head[1], groups))
            head = None
    if head is not None:
        raise ValueError("a phrase does not end")
    return Caption(tuple(words), tuple(phrases))
