"""From a data set to batches of a network's inputs, decoded while the network computes.

    for batch in Batches(dataset, spec.preprocessing, batch=32):
        maps = explain(batch.images)                       # always (32, height, width, 3)
        for place, map_ in zip(batch.places[batch.valid], maps[batch.valid]):
            example = dataset[place]

With several processes all take the same number of batches of the same shape, as `jax.distributed`
needs; their batches side by side, in the order of the processes, are the data set's order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..models.preprocessing import Preprocessing
from .own_shape import AnyShape, fitted
from .records import Example

try:
    import grain
except ImportError as error:
    raise ImportError(
        'the pipeline needs grain and Pillow: pip install "excitation-jax[eval]"'
    ) from error


class Batch(NamedTuple):
    """N inputs, of which the last batches of a data set fill up some.

    images: float32 (N, height, width, 3), pre-processed; zeros where not valid.
    valid: boolean (N,), whether there is an example.
    places: (N,), its place in the data set; -1 where there is none.
    windows: float64 (N, 4), the part of the photograph that the input shows, as x0, y0, x1, y1 in
        the photograph's pixels, x1 and y1 exclusive; zeros where there is none.
    """

    images: NDArray[np.float32]
    valid: NDArray[np.bool_]
    places: NDArray[np.int64]
    windows: NDArray[np.float64]


@dataclass(frozen=True)
class Batches:
    """The batches of one process; can be iterated over again, and `len` is their number.

    Decoding threads work ahead of the loop that takes the batches, by as many batches as there are
    threads; that, and not the number of photographs, is what is in memory. A photograph that cannot
    be read ends the loop with the error that names it. Leaving the loop early ends the threads
    once the iterator is closed or no longer held.

    Attributes:
        dataset: what to go through, in its order.
        preprocessing: the network's; `preprocessing.whole()` to show it all of every photograph.
        batch: N, examples in a batch of one process.
        start: the number of examples at the beginning that are left out, because they were done
            before; of the whole data set, so that it means the same to any number of processes.
        process: index and number of this process, such as (jax.process_index(),
            jax.process_count()).
        threads: that decode, each a batch.

    Raises:
        ValueError: numbers that are out of range.

    Example:
        >>> from excitation_jax.data.scenes import digit_scenes
        >>> own = Preprocessing((0.0,) * 3, (255.0,) * 3, resize=96, crop=None, warp=True)
        >>> [batch.valid.sum().item() for batch in Batches(digit_scenes(5), own, batch=2)]
        [2, 2, 1]
    """

    dataset: Sequence[Example]
    preprocessing: Preprocessing
    batch: int
    start: int = 0
    process: tuple[int, int] = (0, 1)
    threads: int = 2

    def __post_init__(self) -> None:
        index, count = self.process
        if self.batch < 1 or self.threads < 1:
            raise ValueError(
                f"batch and threads must be positive, got {self.batch} and {self.threads}"
            )
        if not 0 <= self.start <= len(self.dataset):
            raise ValueError(f"start must be 0 to {len(self.dataset)}, got {self.start}")
        if not 0 <= index < count:
            raise ValueError(f"process must be an index below a count, got {self.process}")

    def __len__(self) -> int:
        return -(-(len(self.dataset) - self.start) // (self.batch * self.process[1]))

    def __iter__(self) -> Iterator[Batch]:
        if not len(self):
            return
        yield from _ahead(self._make, len(self), self.threads)

    def _make(self, turn: int) -> Batch:
        """This process's batch of a turn of all processes."""
        index, count = self.process
        first = self.start + (turn * count + index) * self.batch
        places = range(first, min(first + self.batch, len(self.dataset)))
        return _filled(self.dataset, places, self.preprocessing, self.batch)


def batches_of(
    parts: Sequence[Sequence[int]],
    dataset: Sequence[Example],
    preprocessing: AnyShape,
    batch: int,
    *,
    threads: int = 2,
) -> Iterator[Batch]:
    """A batch of N rows for each part of a data set, whose inputs have one shape.

    Decoded ahead as by `Batches`.

    Args:
        parts: places in the data set, 1 to N in each; see `own_shape.in_parts`.
        dataset, preprocessing: what is at the places, and what makes the inputs.
        batch: N.
        threads: that decode, each a batch.
    """

    def make(turn: int) -> Batch:
        size = dataset[parts[turn][0]].size
        return _filled(dataset, parts[turn], fitted(preprocessing, size), batch)

    if parts:
        yield from _ahead(make, len(parts), threads)


def _ahead(make: Callable[[int], Batch], count: int, threads: int) -> Iterator[Batch]:
    """What a function makes of 0, 1, ..., made by threads before it is asked for."""
    # A batch is made by one thread, so the threads' number is what is decoded ahead.
    reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    source: Any = grain.MapDataset.range(count).map(make)
    iterator = iter(source.to_iter_dataset(reading))
    try:
        yield from iterator
    finally:
        iterator.close()


def _filled(
    dataset: Sequence[Example], places: Sequence[int], preprocessing: Preprocessing, rows: int
) -> Batch:
    made = Batch(
        np.zeros((rows, *preprocessing.size, 3), np.float32),
        np.zeros(rows, bool),
        np.full(rows, -1, np.int64),
        np.zeros((rows, 4)),
    )
    for row, place in enumerate(places):
        example = dataset[place]
        made.images[row] = preprocessing.on_host(example.image())
        made.windows[row] = preprocessing.window(example.size)
        made.valid[row], made.places[row] = True, place
    return made
