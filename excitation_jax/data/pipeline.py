"""From a data set to batches of a network's inputs, decoded while the network computes.

    for batch in Batches(dataset, spec.preprocessing, batch=32):
        maps = explain(batch.images)                       # always (32, height, width, 3)
        for place, map_ in zip(batch.places[batch.valid], maps[batch.valid]):
            example = dataset[place]

With several processes all take the same number of batches of the same shape, as `jax.distributed`
needs; their batches side by side, in the order of the processes, are the data set's order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..models.preprocessing import Preprocessing
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
        # A batch is made by one thread, so the threads' number is what is decoded ahead.
        reading = grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=self.threads)
        source: Any = grain.MapDataset.range(len(self)).map(self._make)
        iterator = iter(source.to_iter_dataset(reading))
        try:
            yield from iterator
        finally:
            iterator.close()

    def _make(self, turn: int) -> Batch:
        """This process's batch of a turn of all processes."""
        index, count = self.process
        first = self.start + (turn * count + index) * self.batch
        made = Batch(
            np.zeros((self.batch, *self.preprocessing.size, 3), np.float32),
            np.zeros(self.batch, bool),
            np.full(self.batch, -1, np.int64),
            np.zeros((self.batch, 4)),
        )
        for row, place in enumerate(range(first, min(first + self.batch, len(self.dataset)))):
            example = self.dataset[place]
            made.images[row] = self.preprocessing.on_host(example.image())
            made.windows[row] = self.preprocessing.window(example.size)
            made.valid[row], made.places[row] = True, place
        return made
