"""The input pipelines: records in, batches {"image": (N, S, S, 3) uint8, "labels": (N, C)} out.

Everything random is a function of the seed and a record's place in the endless sequence of
records, so the number of batches taken is all of an iterator's state. `iterator.get_state()` gives
it, as what JSON can hold, and `iterator.set_state()` continues there.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import grain

from .images import augmented, central
from .labelled import Record

# Pillow decodes outside Python's lock. The batches under way are all that is kept in memory.
_READING = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)

Batch = dict[str, Any]


def training_batches(
    records: Sequence[Record], *, batch: int, seed: int, size: int, resized: int
) -> grain.DatasetIterator:
    """Endless batches of augmented photographs, each epoch in an order of its own.

    A batch may begin in one epoch and end in the next. `close()` the iterator after use.

    Args:
        records: at least one.
        batch: records in a batch.
        seed: of the order, the crops and the flips.
        size: side of the crops.
        resized: side of the square that photographs are mirrored and resized to.
    """
    dataset = grain.MapDataset.source(records).seed(seed).shuffle().repeat()
    draw = functools.partial(augmented, side=size, resized=resized)
    dataset = dataset.random_map(draw).batch(batch)
    return iter(dataset.to_iter_dataset(_READING))


def central_batches(
    records: Sequence[Record], *, batch: int, size: int, resized: int
) -> Iterator[Batch]:
    """Every record once and in order, its central crop; the last batch may be smaller.

    Args:
        records, batch, size, resized: as of `training_batches`.
    """
    view = functools.partial(central, side=size, resized=resized)
    dataset = grain.MapDataset.source(records).map(view).batch(batch)
    return iter(dataset.to_iter_dataset(_READING))
