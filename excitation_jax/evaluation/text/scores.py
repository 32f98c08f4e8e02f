"""Recall and average precision of text to region, from the records of a whole data set.

Recall at k is the share of phrases that are localised at rank k. Average precision is of all the
kept detections of some phrases, over the whole data set, by their scores: those of the phrases of a
group ("by group"), or of the phrases with the same words, case-folded ("by phrase"). Detections of
a phrase in a photograph are matched to the boxes that the phrase has there, each box once. A mean
is over the groups, or the different phrases, that the data set has. A phrase of several groups is
one of each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...data.flickr30k import CaptionedExample, Phrase
from ...data.records import Dataset
from ..boxes.localisation import overlaps
from .localisation import ASKED, COVERED, DONE, KNOWN, OVERLAP, Detections, detections, phrases
from .suppression import interpolated_average_precision, matches

RANKS = (1, 5, 10)


@dataclass
class Found:
    """What was found of some phrases by one method.

    Attributes:
        phrases: their number, each mention one.
        hits: how many are localised at each of `RANKS`.
        boxes: the number of their boxes.
        scores, right: of each detection, in the data set's order, whether it found a box.
    """

    phrases: int = 0
    hits: list[int] = field(default_factory=lambda: [0] * len(RANKS))
    boxes: int = 0
    scores: list[float] = field(default_factory=list, repr=False)
    right: list[bool] = field(default_factory=list, repr=False)

    def add(self, found: Found) -> None:
        """Adds what was found of other phrases."""
        self.phrases += found.phrases
        self.hits = [own + more for own, more in zip(self.hits, found.hits, strict=True)]
        self.boxes += found.boxes
        self.scores += found.scores
        self.right += found.right

    def recall(self, place: int) -> float:
        """Recall at a rank, by its place in `RANKS`; NaN without phrases."""
        return self.hits[place] / self.phrases if self.phrases else math.nan

    def average_precision(self) -> float:
        """Between 0 and 1; NaN without phrases."""
        if not self.phrases:
            return math.nan
        return interpolated_average_precision(self.scores, self.right, self.boxes)


@dataclass
class MethodScores:
    """What one method found: of all phrases, by group and by phrase."""

    everything: Found
    groups: dict[str, Found]
    by_phrase: dict[str, Found] = field(repr=False)

    def mean_by_group(self) -> float:
        """Mean average precision over the groups that have phrases."""
        return _mean(self.groups.values())

    def mean_by_phrase(self) -> float:
        """Mean average precision over the different phrases."""
        return _mean(self.by_phrase.values())


@dataclass
class TextScores:
    """What was found in a data set.

    Attributes:
        methods: a part for each.
        phrases, unknown, covered: their number; how many of them have no known word; for how many
            a proposal overlaps enough, which no recall exceeds.
    """

    methods: list[MethodScores]
    phrases: int = 0
    unknown: int = 0
    covered: int = 0


def score(
    blocks: Iterable[NDArray[np.int32]], dataset: Dataset[CaptionedExample], methods: int
) -> TextScores:
    """The scores of records (photographs, methods, most phrases, numbers), in any number of parts.

    Raises:
        ValueError: there are not as many records as photographs, or one is not done or not of its
            photograph.
    """
    scores = TextScores(
        [
            MethodScores(Found(), {group: Found() for group in dataset.classes}, {})
            for _ in range(methods)
        ]
    )
    for example, record in _paired(blocks, dataset):
        asked = phrases(example)
        if not (record[..., 0] & DONE).all() or (record[0, :, 0] & ASKED > 0).sum() != len(asked):
            raise ValueError(f"the record of {example.key} is not done, or of other phrases")
        for place, phrase in enumerate(asked):
            flags = int(record[0, place, 0])
            scores.phrases += 1
            scores.unknown += not flags & KNOWN
            scores.covered += bool(flags & COVERED)
            truth = example.boxes(phrase.entity)
            for method, own in enumerate(scores.methods):
                found = _found(detections(record[method, place]), truth)
                for part in _parts(own, phrase):
                    part.add(found)
    return scores


def _found(detected: Detections, truth: NDArray[np.float64]) -> Found:
    """What was found of a phrase whose boxes are `truth` (T, 4)."""
    near = [bool(row.any()) for row in overlaps(detected.boxes, truth) >= OVERLAP]
    right = [box >= 0 for box in matches(detected.boxes, truth, OVERLAP)]
    hits = [int(any(near[:rank])) for rank in RANKS]
    return Found(1, hits, len(truth), detected.scores.tolist(), right)


def _paired(
    blocks: Iterable[NDArray[np.int32]], dataset: Sequence[CaptionedExample]
) -> Iterator[tuple[CaptionedExample, NDArray[np.int32]]]:
    place = 0
    for record in (record for block in blocks for record in block):
        if place < len(dataset):
            yield dataset[place], record
        place += 1
    if place != len(dataset):
        raise ValueError(f"there are {place} records of {len(dataset)} photographs")


def _parts(scores: MethodScores, phrase: Phrase) -> list[Found]:
    """What a phrase belongs to."""
    groups = [
        scores.groups[group] for group in dict.fromkeys(phrase.groups) if group in scores.groups
    ]
    same = scores.by_phrase.setdefault(str(phrase).casefold(), Found())
    return [scores.everything, *groups, same]


def _mean(parts: Iterable[Found]) -> float:
    own = [part.average_precision() for part in parts if part.phrases]
    return math.fsum(own) / len(own) if own else math.nan
