"""Boxes of dominant objects (ECCV16, 4.2; IJCV18, 6.2), after Cao et al., "Feedback" (ICCV 2015).

The box of a class in a photograph is the tightest one round what exceeds alpha times the mean of
its map. It is right if it has an intersection over union of at least 1/2 with a box of an object of
the class. Alpha is the best of 0, 0.5, ..., 10 on photographs that are held out: every n-th
of the data set, which count for nothing else. (The papers tuned it on 1000 training images.)

A record has a number for each method and class in the photograph: a bit for each alpha, whether the
box is right. So what is held out can be chosen once all is computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ... import maps as _maps
from ...data.pipeline import Batch
from ...data.records import Dataset, Example
from ...models.preprocessing import Preprocessing
from ..choice import Outcome
from ..points import MapFunction, Questions, asked, blurred, grid_of

ALPHAS = tuple(step / 2 for step in range(21))
OVERLAP = 0.5  # of a box that is right: its intersection over union with one of the object's

#: Flags of a record's numbers, above the bits of the alphas: the class is one of the photograph's;
#: the photograph was done.
PLAYED, DONE = 1 << 30, 1 << 31


class Boxes(NamedTuple):
    """The boxes of M methods' maps of N images, K classes each, for A alphas.

    corners: int32 (N, M, K, A, 4), x0, y0, x1, y1 in pixels of the network's input, x1 and y1
        exclusive; zeros where nothing exceeds the threshold.
    finite: boolean (N, M), whether the maps have no NaN or infinity.
    """

    corners: Any
    finite: Any


class Counts(NamedTuple):
    """Boxes by class, of the photographs that are held out (0) and of the others (1).

    right: integers (methods, 2, alphas, classes). pairs: integers (2, classes).
    """

    right: NDArray[np.int64]
    pairs: NDArray[np.int64]


def classes_in(example: Example, classes: Sequence[str]) -> list[int]:
    """The numbers of the classes with a box in a photograph, in increasing order."""
    return sorted(classes.index(category) for category in example.categories())


@dataclass(frozen=True, eq=False)
class BoxLocalisation:
    """The experiment for `runner.run`: its records are uint32 (methods + 1, most classes).

    The box round the whole photograph is the last method.

    Attributes:
        dataset: for its classes, which are the network's outputs, and for the boxes.
        methods: functions that make maps, by name.
        preprocessing: what the network's inputs show of the photographs.
        alphas: at most 30 thresholds in units of a map's mean.
        blur: see `points.blurred`.
    """

    dataset: Dataset[Example]
    methods: Mapping[str, MapFunction]
    preprocessing: Preprocessing
    alphas: tuple[float, ...] = ALPHAS
    blur: float = 0.0
    dtype: ClassVar[str] = "uint32"
    _most: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.alphas) <= 30:
            raise ValueError(f"there must be 1 to 30 alphas, got {len(self.alphas)}")
        most = max([1, *(len(example.categories()) for example in self.dataset)])
        object.__setattr__(self, "_most", most)

    @property
    def shape(self) -> tuple[int, int]:
        """Of a record."""
        return len(self.methods) + 1, self._most

    def inputs(self, examples: Sequence[Example], batch: Batch) -> Questions:
        """See `runner.Experiment`."""
        lists = [classes_in(example, self.dataset.classes) for example in examples]
        return asked(examples, batch, lists)

    def compute(self, variables: Any, inputs: Questions) -> Boxes:
        """See `runner.Experiment`."""
        size = inputs.images.shape[1:3]
        corners, finite = [], []
        for function in self.methods.values():
            found = blurred(function(variables, inputs.images, inputs.classes), size, self.blur)
            finite.append(jnp.isfinite(found).all(axis=(1, 2, 3)))
            resized = _maps.resize(found.astype(jnp.float32), size, grid_of(function, size))
            corners.append(jnp.stack([_maps.box(resized, alpha) for alpha in self.alphas], axis=2))
        return Boxes(jnp.stack(corners, axis=1), jnp.stack(finite, axis=1))

    def records(self, examples: Sequence[Example], outputs: Boxes) -> NDArray[np.uint32]:
        """See `runner.Experiment`.

        Raises:
            ValueError: a map is not finite.
        """
        found = np.full((len(examples), *self.shape), DONE, np.uint32)
        for example, record, corners, finite in zip(examples, found, *outputs, strict=True):
            if not finite.all():
                name = list(self.methods)[int(np.argmin(finite))]
                raise ValueError(
                    f"{name} made a map of {example.key} that is not finite: are the network's "
                    "weights, and is the photograph?"
                )
            height, width = example.size
            whole = np.broadcast_to([0, 0, width, height], (1, *corners.shape[1:]))
            made = np.concatenate([self.in_photograph(corners, example), whole])
            for k, category in enumerate(classes_in(example, self.dataset.classes)):
                own = example.boxes(self.dataset.classes[category])
                right = overlaps(made[:, k], own).max(axis=-1) >= OVERLAP
                bits = (right << np.arange(len(self.alphas))).sum(axis=-1)
                record[:, k] |= bits.astype(np.uint32) | np.uint32(PLAYED)
        return found

    def in_photograph(self, corners: ArrayLike, example: Example) -> NDArray[np.float64]:
        """Boxes (..., 4) in pixels of the input in those of the photograph."""
        height, width = self.preprocessing.size
        x0, y0, x1, y1 = self.preprocessing.window(example.size)
        scale = np.array([(x1 - x0) / width, (y1 - y0) / height] * 2)
        return np.asarray(corners) * scale + np.array([x0, y0] * 2)


def count(blocks: Iterable[NDArray[np.uint32]], experiment: BoxLocalisation, every: int) -> Counts:
    """The counts in an experiment's records, in the data set's order, in any number of parts.

    Args:
        blocks: the records.
        experiment: that made them.
        every: the first photograph, and each this many further, is held out.

    Raises:
        ValueError: there are not as many records as photographs, or one is not done.
    """
    dataset, alphas = experiment.dataset, len(experiment.alphas)
    methods, classes = experiment.shape[0], len(dataset.classes)
    found = Counts(
        np.zeros((methods, 2, alphas, classes), np.int64), np.zeros((2, classes), np.int64)
    )
    place = 0
    for record in (record for block in blocks for record in block):
        if not (record & DONE).all():
            raise ValueError("a record is not done")
        part = int(place % every != 0)
        for k, category in enumerate(classes_in(dataset[place], dataset.classes)):
            bits = record[:, k, None] >> np.arange(alphas, dtype=np.uint32) & 1
            found.right[:, part, :, category] += bits
            found.pairs[part, category] += 1
        place += 1
    if place != len(dataset):
        raise ValueError(f"there are {place} records of {len(dataset)} photographs")
    return found


def outcomes(
    blocks: Iterable[NDArray[np.uint32]],
    experiment: BoxLocalisation,
    every: int,
    best: Sequence[int],
) -> Iterator[Outcome]:
    """The pairs that are not held out, in order: whose box is right.

    Args:
        blocks, experiment, every: see `count`.
        best: each method's alpha, by its place.
    """
    dataset = experiment.dataset
    for place, record in enumerate(record for block in blocks for record in block):
        if place % every:
            for k, category in enumerate(classes_in(dataset[place], dataset.classes)):
                codes = zip(record[:, k].tolist(), best, strict=True)
                hits = tuple(bool(bits >> alpha & 1) for bits, alpha in codes)
                yield Outcome(place, category, False, hits)


def overlaps(box: ArrayLike, boxes: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union of boxes (..., 4) with boxes (B, 4), as (..., B).

    Boxes are x0, y0, x1, y1 with x1 and y1 exclusive; one without area overlaps with nothing.

    >>> overlaps([0, 0, 2, 2], [[1, 0, 3, 2], [5, 5, 6, 6]]).round(3).tolist()
    [0.333, 0.0]
    """
    first, second = np.asarray(box, np.float64)[..., None, :], np.asarray(boxes, np.float64)
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., 2:], second[..., 2:])
    both = np.maximum(high - low, 0).prod(axis=-1)
    areas = [(each[..., 2:] - each[..., :2]).prod(axis=-1) for each in (first, second)]
    union = areas[0] + areas[1] - both
    return np.where(both > 0, both / np.where(union > 0, union, 1), 0.0)
