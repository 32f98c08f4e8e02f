"""The input pipelines: records in, batches of photographs and labels out.

Everything random is a function of the seed and a record's place in the endless sequence of
records, so the number of batches taken is all of an iterator's state. `iterator.get_state()` gives
it, as what JSON can hold, and `iterator.set_state()` continues there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain

from .images import Pixels, augmented, central
from .labelled import Labelled

# Pillow decodes outside Python's lock. The batches under way are all that is kept in memory.
_READING = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)

Batch = dict[str, Any]


def training_batches(
    records: Sequence[Labelled], *, batch: int, seed: int, size: int, resized: int
) -> grain.DatasetIterator:
    """Endless batches of augmented photographs, each epoch in an order of its own.

    {"image": uint8 (N, S, S, 3), "labels": (N, classes)}. A batch may begin in one epoch and end in
    the next. `close()` the iterator after use.

    Args:
        records: at least one.
        batch: records in a batch.
        seed: of the order, the crops and the flips.
        size: side of the crops.
        resized: side of the square that photographs are mirrored and resized to.
    """

    def draw(record: Labelled, rng: Any) -> Batch:
        image = augmented(record, rng, side=size, resized=resized)
        return {"image": image, "labels": record.labels}

    dataset = grain.MapDataset.source(records).seed(seed).shuffle().repeat()
    return iter(dataset.random_map(draw).batch(batch).to_iter_dataset(_READING))


def place_batches(
    records: Sequence[Labelled], *, batch: int, seed: int, views: int
) -> grain.DatasetIterator:
    """Batches in the same order that say what to look at, and read no photograph.

    {"place": (N,) among the records, "view": (N,) the epoch modulo the number of views,
    "labels": (N, classes)}.

    Args:
        records, batch, seed: as of `training_batches`.
        views: of each record.
    """

    def name(turn: int, place: int) -> Batch:
        view = turn // len(records) % views
        return {"place": place, "view": view, "labels": records[place].labels}

    dataset = grain.MapDataset.source(range(len(records))).seed(seed).shuffle().repeat()
    return iter(dataset.map_with_index(name).batch(batch).to_iter_dataset(_READING))


def view_batches(
    records: Sequence[Labelled],
    places: Sequence[int],
    number: int,
    view: Callable[[Labelled, int, int], Pixels],
    *,
    batch: int,
) -> Iterator[Pixels]:
    """(N, S, S, 3), a view of some of the records, in order; the last batch may be smaller.

    Args:
        records, batch: as of `training_batches`.
        places: of those that are wanted.
        number: of the view.
        view: a record, its place and the number -> its pixels.
    """

    def draw(place: int) -> Pixels:
        return view(records[place], place, number)

    dataset = grain.MapDataset.source(places).map(draw).batch(batch)
    return iter(dataset.to_iter_dataset(_READING))


def central_batches(
    records: Sequence[Labelled], *, batch: int, size: int, resized: int
) -> Iterator[Pixels]:
    """Every record's central crop once and in order, (N, S, S, 3); the last batch may be smaller.

    Args:
        records, batch, size, resized: as of `training_batches`.
    """
    view = functools.partial(central, side=size, resized=resized)
    dataset = grain.MapDataset.source(records).map(view).batch(batch)
    return iter(dataset.to_iter_dataset(_READING))
