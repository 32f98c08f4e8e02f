"""Where the inputs of training come from: photographs as needed, or features that are kept."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .checkpoints import digest
from .features import Features
from .images import Pixels, central, random_view
from .input import Batch, central_batches, place_batches, training_batches
from .labelled import Labelled
from .part import Part
from .scoring import filled_up
from .validation import Inputs

Progress = Callable[[int, int], None]


class Crops(NamedTuple):
    """How photographs become inputs; see `fine_tune`."""

    batch: int
    size: int
    resized: int
    seed: int


class Drawn:
    """Photographs of which a crop and a flip is drawn whenever they are shown.

    batches: the iterator of what comes next, which has the labels; to be closed.
    """

    def __init__(self, part: Part, records: Sequence[Labelled], crops: Crops) -> None:
        self._part = part
        self.batches = training_batches(records, **crops._asdict())

    def inputs(self, drawn: Batch) -> Any:
        """What `part.logits` takes, of a batch."""
        return self._part.inputs(drawn["image"])


class Remembered:
    """Photographs of which some crops and flips are drawn once, and only their features kept.

    As `Drawn`, and in the same order.

    Args:
        views: crops and flips of each photograph.
        folder: for the features; see `Features`.
        on_progress: see `Features`.
    """

    def __init__(
        self,
        part: Part,
        records: Sequence[Labelled],
        crops: Crops,
        views: int,
        folder: Path | None,
        on_progress: Progress | None,
    ) -> None:
        batch, side, resized, seed = crops
        view = functools.partial(random_view, seed=seed, side=side, resized=resized)
        own = None if folder is None else folder / "training"
        self._features = Features(
            records, view, part.inputs, batch=batch, folder=own, on_progress=on_progress
        )
        self.batches = place_batches(records, batch=batch, seed=seed, views=views)

    def inputs(self, drawn: Batch) -> Any:
        """What `part.logits` takes, of a batch."""
        return self._features.rows(drawn["place"], drawn["view"])


def central_inputs(
    part: Part,
    records: Sequence[Labelled],
    crops: Crops,
    folder: Path | None,
    on_progress: Progress | None,
) -> Inputs:
    """The inputs of the records' central crops, in order: for validation.

    Features are kept as by `Remembered`, photographs are read anew each time.
    """
    batch, side, resized, _ = crops
    if not part.of_features:

        def images() -> Iterator[tuple[Any, int]]:
            for found in central_batches(records, batch=batch, size=side, resized=resized):
                yield filled_up(found, batch), len(found)

        return images

    def view(record: Labelled, place: int, number: int) -> Pixels:
        return central(record, side=side, resized=resized)

    # A run may be continued with others to measure with, so the folder is theirs.
    known = digest([np.frombuffer(str(record.path).encode(), np.uint8) for record in records])
    own = None if folder is None else folder / f"validation-{known}"
    kept = Features(records, view, part.inputs, batch=batch, folder=own, on_progress=on_progress)

    def features() -> Iterator[tuple[Any, int]]:
        for first in range(0, len(records), batch):
            places = np.arange(first, min(first + batch, len(records)))
            yield filled_up(kept.rows(places, np.zeros_like(places)), batch), len(places)

    return features
