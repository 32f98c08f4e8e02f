"""Recall and average precision of text to region, from the records of a whole data set.

Gamma, the power of the area, is of each method the one of 0, 0.25, ..., 1 by which it localises
most phrases at rank 5 in photographs that are held out: every n-th of the data set, which
count for nothing else. (How the papers chose it they do not say.)

Recall at k is the share of phrases that are localised at rank k. Average precision is of all the
detections of some phrases, over the whole data set, by their scores: those of the phrases of a
group ("by group"), or of the phrases with the same words, case-folded ("by phrase"). Detections of
a phrase in a photograph are matched to the boxes that the phrase has there, each box once. A mean
is over the groups, or the different phrases, that the data set has. A phrase of several groups is
one of each.

The last method are the proposals themselves, by their own scores: the same for every phrase.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...data.flickr30k import CaptionedExample, Phrase
from ..boxes.localisation import overlaps
from .localisation import TextToRegion, is_small, phrases
from .photograph import ASKED, KNOWN, Photograph, decoded
from .suppression import interpolated_average_precision, matches, suppress

RANKS = (1, 5, 10)
GAMMAS = (0.0, 0.25, 0.5, 0.75, 1.0)
TUNED = RANKS.index(5)  # the rank for which gamma is chosen, by its place; Table 7's
OVERLAP = 0.5  # of a proposal that localises a phrase: its intersection over union with a box of it
SUPPRESSED = 0.7  # a proposal that overlaps more than this with a better one is left out


class Detections(NamedTuple):
    """What one method found of a phrase.

    ranks: whether it is localised at each of `RANKS`.
    scores: float32 (D,), decreasing. right: boolean (D,), whether each finds a box of the phrase.
    first: (4,), the best proposal's box; None where there is none.
    """

    ranks: tuple[bool, ...]
    scores: NDArray[np.float32]
    right: NDArray[np.bool_]
    first: NDArray[np.float32] | None


@dataclass
class Found:
    """What was found of some phrases by one method.

    Attributes:
        phrases: their number, each mention one.
        hits: how many are localised at each of `RANKS`.
        boxes: the number of their boxes.
        scores, right: of the detections of each, in the data set's order; see `Detections`.
    """

    phrases: int = 0
    hits: list[int] = field(default_factory=lambda: [0] * len(RANKS))
    boxes: int = 0
    scores: list[NDArray[np.float32]] = field(default_factory=list, repr=False)
    right: list[NDArray[np.bool_]] = field(default_factory=list, repr=False)
    _precision: float | None = field(default=None, init=False, repr=False, compare=False)

    def add(self, found: Detections, boxes: int) -> None:
        """Adds what was found of another phrase, which has so many boxes."""
        self.phrases += 1
        self.hits = [own + hit for own, hit in zip(self.hits, found.ranks, strict=True)]
        self.boxes += boxes
        self.scores.append(found.scores)
        self.right.append(found.right)
        self._precision = None

    def recall(self, place: int) -> float:
        """Recall at a rank, by its place in `RANKS`; NaN without phrases."""
        return self.hits[place] / self.phrases if self.phrases else math.nan

    def average_precision(self) -> float:
        """Between 0 and 1; NaN without phrases."""
        if not self.phrases:
            return math.nan
        if self._precision is None:  # it is asked for several times, and sorts millions
            scores, right = np.concatenate(self.scores), np.concatenate(self.right)
            self._precision = interpolated_average_precision(scores, right, self.boxes)
        return self._precision


@dataclass
class Parts:
    """What one method found of some phrases: of all of them, by group and by phrase."""

    everything: Found
    groups: dict[str, Found]
    by_phrase: dict[str, Found] = field(repr=False)

    def add(self, phrase: Phrase, found: Detections, boxes: int) -> None:
        """Adds what was found of another phrase, which has so many boxes."""
        own = [self.groups[name] for name in dict.fromkeys(phrase.groups) if name in self.groups]
        same = self.by_phrase.setdefault(str(phrase).casefold(), Found())
        for part in (self.everything, *own, same):
            part.add(found, boxes)

    def recall(self, place: int) -> float:
        """Recall of all of them at a rank, by its place in `RANKS`; NaN without phrases."""
        return self.everything.recall(place)

    def mean_by_group(self) -> float:
        """Mean average precision over the groups that have phrases."""
        return mean([part.average_precision() for part in self.groups.values()])

    def mean_by_phrase(self) -> float:
        """Mean average precision over the different phrases."""
        return mean([part.average_precision() for part in self.by_phrase.values()])


class Localised(NamedTuple):
    """What became of a phrase.

    place: of its photograph in the data set. phrase: its place in `localisation.phrases`.
    small: whether it is of small instances. hits: of each method, whether it is localised at
    rank 1. boxes: of each method, the first proposal (4,), or None.
    """

    place: int
    phrase: int
    small: bool
    hits: tuple[bool, ...]
    boxes: tuple[NDArray[np.float32] | None, ...]


@dataclass
class TextScores:
    """What was found in a data set, of all phrases (0) and of those of small instances (1).

    Attributes:
        methods: two parts for each.
        phrases, unknown, covered: their number; how many of them have no known word; for how many
            a proposal overlaps enough, which no recall exceeds.
        localised: what became of each phrase.
    """

    methods: list[tuple[Parts, Parts]]
    phrases: list[int] = field(default_factory=lambda: [0, 0])
    unknown: list[int] = field(default_factory=lambda: [0, 0])
    covered: list[int] = field(default_factory=lambda: [0, 0])
    localised: list[Localised] = field(default_factory=list, repr=False)


Records = Iterable[NDArray[np.int32]]


def choose_gammas(blocks: Records, experiment: TextToRegion, every: int) -> list[float]:
    """Each method's gamma, chosen on what is held out; of several the lowest.

    Args:
        blocks: the records (photographs, ...) of `experiment`, in any number of parts.
        experiment: that made them.
        every: the first photograph, and each this many further, is held out.

    Raises:
        ValueError: as `score`.
    """
    hits = np.zeros((len(experiment.methods), len(GAMMAS)), np.int64)
    for place, example, photograph in _paired(blocks, experiment):
        if place % every == 0:
            worth = np.concatenate([photograph.worth(gamma) for gamma in GAMMAS])
            found = _detected(example, photograph, worth)
            own = [sum(one.ranks[TUNED] for one in of_method) for of_method in found]
            hits += np.reshape(own, (len(GAMMAS), -1)).T
    return [GAMMAS[best] for best in hits.argmax(axis=1)]


def score(
    blocks: Records, experiment: TextToRegion, gammas: Sequence[float], every: int = 0
) -> TextScores:
    """The scores of a data set; of the photographs that are not held out.

    Args:
        blocks, experiment: see `choose_gammas`.
        gammas: of each method.
        every: see `choose_gammas`; 0 where none is held out.

    Raises:
        ValueError: there are not as many records as photographs, or one is not done or not of its
            photograph.
    """
    groups = experiment.dataset.classes

    def parts() -> Parts:
        return Parts(Found(), {group: Found() for group in groups}, {})

    scores = TextScores([(parts(), parts()) for _ in range(len(gammas) + 1)])
    for place, example, photograph in _paired(blocks, experiment):
        if every and place % every == 0:
            continue
        each = [photograph.worth(gamma)[m] for m, gamma in enumerate(gammas)]
        own = np.broadcast_to(photograph.scores, (len(photograph.flags), len(photograph.scores)))
        found = _detected(example, photograph, np.stack([*each, own]), wordless=len(gammas))
        for q, phrase in enumerate(phrases(example)):
            truth, small = example.boxes(phrase.entity), is_small(example, phrase)
            covered = bool((overlaps(photograph.boxes, truth) >= OVERLAP).any())
            for subset in range(1 + small):
                scores.phrases[subset] += 1
                scores.unknown[subset] += not photograph.flags[q] & KNOWN
                scores.covered[subset] += covered
                for method, of_method in zip(scores.methods, found, strict=True):
                    method[subset].add(phrase, of_method[q], len(truth))
            hits = tuple(of_method[q].ranks[0] for of_method in found)
            boxes = tuple(of_method[q].first for of_method in found)
            scores.localised.append(Localised(place, q, small, hits, boxes))
    return scores


def mean(values: Sequence[float]) -> float:
    """The mean of those that are not NaN; NaN where there are none."""
    there = [value for value in values if not math.isnan(value)]
    return math.fsum(there) / len(there) if there else math.nan


def _detected(
    example: CaptionedExample,
    photograph: Photograph,
    worth: NDArray[np.float64],
    wordless: int | None = None,
) -> list[list[Detections]]:
    """What each of M methods found of each phrase of a photograph.

    worth: (M, Q, P), of each proposal. wordless: the method that needs no word of a phrase.
    """
    asked, boxes = phrases(example), photograph.boxes
    near = [overlaps(boxes, example.boxes(phrase.entity)) for phrase in asked]
    own = worth[:, : len(asked)]
    kept = suppress(boxes, own.reshape(-1, len(boxes)), SUPPRESSED)
    found = []
    for m in range(len(own)):
        of_method = []
        for q, common in enumerate(near):
            there = kept[m * len(asked) + q]
            if m != wordless and not photograph.flags[q] & KNOWN:
                there = there[:0]
            hit = np.any(common[there] >= OVERLAP, axis=1)
            ranks = tuple(bool(hit[:rank].any()) for rank in RANKS)
            right = np.array([box >= 0 for box in matches(common[there], OVERLAP)], bool)
            first = boxes[there[0]] if len(there) else None
            of_method.append(Detections(ranks, own[m, q, there].astype(np.float32), right, first))
        found.append(of_method)
    return found


def _paired(
    blocks: Records, experiment: TextToRegion
) -> Iterator[tuple[int, CaptionedExample, Photograph]]:
    """Photographs with their places and records."""
    place, dataset = 0, experiment.dataset
    for record in (record for block in blocks for record in block):
        if place < len(dataset):
            example = dataset[place]
            photograph = decoded(record, len(experiment.methods))
            if (photograph.flags & ASKED > 0).sum() != len(phrases(example)):
                raise ValueError(f"the record of {example.key} is of other phrases")
            yield place, example, photograph
        place += 1
    if place != len(dataset):
        raise ValueError(f"there are {place} records of {len(dataset)} photographs")
