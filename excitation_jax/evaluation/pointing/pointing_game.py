"""The pointing game on a data set (IJCV18, 6.1): rules, records, and scores made of records.

For every photograph and every category in it, the maximum of the category's map is a hit if it lies
within 15 pixels of an object of the category. The score is the mean over categories of
hits / (hits + misses), over all pairs of a photograph and a category, and over the difficult ones.

A photograph's record has a number for each method and class, made of the flags below: small, whole,
and with the counts that a table needs only a sum away, in whatever order the records were made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...data.difficult import is_difficult
from ...data.pipeline import Batch
from ...data.records import Dataset, Example
from ..choice import Outcome
from ..intervals import of_mean_over_categories
from ..points import MapFunction, Points, Questions, asked, canvas_of, points

#: Flags of a record's numbers, for a class: the photograph was done; the class is played with in
#: it; its map hit; it is difficult.
DONE, PLAYED, HIT, DIFFICULT = 1, 2, 4, 8

Difficult = Callable[..., bool]


@dataclass(frozen=True)
class Rules:
    """What differs between implementations of the game.

    Attributes:
        tolerance: the distance up to which a maximum hits, in pixels from centre to centre.
        strict: whether a distance of exactly the tolerance misses.
        all_difficult: whether a category is played with of which VOC flags all objects in the
            photograph as difficult.
        absent_as_zero: whether a category that is never played with counts as one never hit.
    """

    tolerance: float = 15
    strict: bool = False
    all_difficult: bool = True
    absent_as_zero: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance must be finite and not negative, got {self.tolerance}")


PAPER = Rules()
TORCHRAY = Rules(strict=True, all_difficult=False, absent_as_zero=True)


def tolerance_of(side: int) -> float:
    """The papers' 15 pixels, in proportion to pictures that are as small as a network's input.

    The papers play on photographs, of which the network sees 224 pixels of the shorter side.

    Args:
        side: of the picture, in pixels.

    >>> tolerance_of(96)
    6.4
    """
    return round(PAPER.tolerance * side / 224, 1)


class Counts(NamedTuple):
    """Integers (methods, 2, classes), for all pairs and for the difficult ones."""

    hits: NDArray[np.int64]
    pairs: NDArray[np.int64]


def is_hit(region: NDArray[np.bool_], row: float, column: float, rules: Rules = PAPER) -> bool:
    """Whether a point hits a region.

    Args:
        region: boolean (H, W). An empty one is never hit.
        row, column: in pixels; whole numbers are their centres.
        rules: which distances hit.
    """
    reach = math.ceil(rules.tolerance)
    top, left = max(0, math.floor(row) - reach), max(0, math.floor(column) - reach)
    near = region[top : math.ceil(row) + reach + 1, left : math.ceil(column) + reach + 1]
    rows, columns = np.nonzero(near)
    if not len(rows):
        return False
    nearest = ((rows + top - row) ** 2 + (columns + left - column) ** 2).min()
    limit = rules.tolerance**2
    return bool(nearest < limit if rules.strict else nearest <= limit)


def played(example: Example, classes: Sequence[str], rules: Rules = PAPER) -> list[int]:
    """The numbers of the classes that are played with in a photograph, in increasing order."""
    there = example.categories(difficult=rules.all_difficult)
    return sorted(classes.index(category) for category in there)


@dataclass(frozen=True, eq=False)
class PointingGame:
    """The experiment for `runner.run`: its records are uint8 (methods + 1, classes).

    The centre of the photograph is the last method.

    Attributes:
        dataset: for its classes, which are the network's outputs, and for the sizes.
        methods: functions that make maps, by name.
        rules: of the game.
        difficult: `data.is_difficult`, or a `data.DifficultList`.
        blur: see `points.points`.
        canvas: height and width that no photograph exceeds.
    """

    dataset: Dataset[Example]
    methods: Mapping[str, MapFunction]
    rules: Rules = PAPER
    difficult: Difficult = is_difficult
    blur: float = 0.0
    dtype: ClassVar[str] = "uint8"
    canvas: tuple[int, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "canvas", canvas_of(self.dataset))

    @property
    def shape(self) -> tuple[int, int]:
        """Of a record."""
        return len(self.methods) + 1, len(self.dataset.classes)

    def inputs(self, examples: Sequence[Example], batch: Batch) -> Questions:
        """See `runner.Experiment`."""
        classes = [played(example, self.dataset.classes, self.rules) for example in examples]
        return asked(examples, batch, classes)

    def compute(self, variables: Any, inputs: Questions) -> Points:
        """See `runner.Experiment`."""
        return points(self.methods, variables, inputs, self.canvas, self.blur)

    def records(self, examples: Sequence[Example], outputs: Points) -> NDArray[np.uint8]:
        """See `runner.Experiment`.

        Raises:
            ValueError: a map is not finite.
        """
        found = np.full((len(examples), *self.shape), DONE, np.uint8)
        for example, record, places, finite in zip(examples, found, *outputs, strict=True):
            if not finite.all():
                name = list(self.methods)[int(np.argmin(finite))]
                raise ValueError(
                    f"{name} made a map of {example.key} that is not finite: are the network's "
                    "weights, and is the photograph?"
                )
            masks = self.dataset.masks
            for k, category in enumerate(played(example, self.dataset.classes, self.rules)):
                name = self.dataset.classes[category]
                region = example.region(name, masks=masks)
                hard = self.difficult(example, name, masks=masks)
                centre = [(side - 1) / 2 for side in example.size]
                for method, (row, column) in enumerate([*places[:, k].tolist(), centre]):
                    hit = is_hit(region, row, column, self.rules)
                    record[method, category] |= PLAYED | HIT * hit | DIFFICULT * hard
        return found


def outcomes(blocks: Iterable[NDArray[np.uint8]]) -> Iterator[Outcome]:
    """The pairs in records (photographs, methods, classes), in any number of parts, in order."""
    first = 0
    for block in blocks:
        for place, category in np.argwhere(block[:, 0] & PLAYED).tolist():
            codes = block[place, :, category].tolist()
            hits = tuple(bool(code & HIT) for code in codes)
            yield Outcome(first + place, category, bool(codes[0] & DIFFICULT), hits)
        first += len(block)


def count(blocks: Iterable[NDArray[np.uint8]]) -> Counts:
    """The counts in records (photographs, methods, classes), in any number of parts.

    Raises:
        ValueError: there are no records, or one is not done.
    """
    hits: Any = 0
    total: Any = 0
    for block in blocks:
        if not (block & DONE).all():
            raise ValueError("a record is not done")
        hit, hard = (block & HIT) > 0, (block & DIFFICULT) > 0
        there = (block & PLAYED) > 0
        total = total + np.stack([there.sum(axis=0), (there & hard).sum(axis=0)], axis=1)
        hits = hits + np.stack([(there & hit).sum(axis=0), (there & hit & hard).sum(axis=0)], 1)
    if isinstance(total, int):
        raise ValueError("there are no records")
    return Counts(hits.astype(np.int64), total.astype(np.int64))


def accuracy(hits: Sequence[int], pairs: Sequence[int], rules: Rules = PAPER) -> float:
    """The mean over the categories of hits / (hits + misses); NaN where nothing is played with.

    >>> accuracy([1, 0, 3], [2, 0, 3])
    0.75
    >>> accuracy([1, 0, 3], [2, 0, 3], TORCHRAY)
    0.5
    """
    shares = [
        int(hit) / max(int(total), 1)
        for hit, total in zip(hits, pairs, strict=True)
        if total or rules.absent_as_zero
    ]
    return math.fsum(shares) / len(shares) if shares else math.nan


def intervals(pairs: Sequence[Outcome], classes: int, rules: Rules = PAPER) -> NDArray[np.float64]:
    """Of 95 %, of each method's score, of all pairs and of the difficult ones.

    Args:
        pairs: see `outcomes`.
        classes: their number, of the data set.
        rules: as for `accuracy`.

    Returns:
        (methods, 2, 2): lower and upper end; see `intervals.of_mean_over_categories`. NaN where
        there are no pairs.
    """
    found = []
    for own in (pairs, [pair for pair in pairs if pair.difficult]):
        hits = np.array([pair.hits for pair in own], bool)
        ends = of_mean_over_categories(
            [pair.place for pair in own],
            [pair.category for pair in own],
            hits.reshape(len(own), -1) if own else np.zeros((0, len(pairs[0].hits)), bool),
            of=classes if rules.absent_as_zero else None,
        )
        found.append(ends)
    return np.stack(found, axis=1)
