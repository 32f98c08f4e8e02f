"""What the output layer is given for a few views of every photograph, computed once and kept.

A view is a crop and a flip drawn at random. A network that is only trained at its output layer does
the same to a photograph in every epoch, so that most of the time goes into what does not change;
with V views, epoch e shows view e mod V of each photograph, and its features come from here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..data.run_directory import write_whole
from .images import Pixels
from .input import view_batches
from .labelled import Labelled
from .scoring import filled_up

_BLOCK = 256  # photographs in a file, or some more or fewer: whole batches

Array = NDArray[np.float32]


class Features:
    """The features of views of records.

    They are computed a view at a time, when it is first asked for, always in the same batches: the
    same bits, whatever was interrupted.

    Args:
        records: at least one.
        view: a record, its place among the records and the number of a view -> its pixels.
        compute: uint8 (batch, S, S, 3) -> features (batch, ...).
        batch: photographs that are computed together.
        folder: where files of features are kept, one for some 256 photographs. It may be removed
            at any time. None: they are kept in memory.
        on_progress: called with the number of photographs done, and that of all, of the view that
            is being computed.
    """

    def __init__(
        self,
        records: Sequence[Labelled],
        view: Callable[[Labelled, int, int], Pixels],
        compute: Callable[[Pixels], ArrayLike],
        *,
        batch: int,
        folder: Path | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._records, self._view, self._compute = records, view, compute
        self._batch, self._folder = batch, folder
        self._on_progress = on_progress or (lambda done, total: None)
        self._block = batch * max(1, _BLOCK // batch)
        self._kept: dict[tuple[int, int], Array] = {}

    def rows(self, places: NDArray[np.int64], views: NDArray[np.int64]) -> Array:
        """(N, ...), of N records by place, each in its view.

        Raises:
            ValueError, OSError: a photograph cannot be read; nothing can be written.
        """
        firsts = places // self._block * self._block
        rows: list[Array] = [np.empty(0, np.float32)] * len(places)
        for view, first in sorted({*zip(views.tolist(), firsts.tolist(), strict=True)}):
            block = self._read(view, first)
            if block is None:
                block = self._computed(view, first)
            for row in np.flatnonzero((views == view) & (firsts == first)):
                rows[row] = block[places[row] - first]
        return np.stack(rows)

    def _computed(self, view: int, wanted: int) -> Array:
        """Computes all that is missing of a view, and keeps it; returns the block from `wanted`."""
        total = len(self._records)
        missing = [
            first for first in range(0, total, self._block) if self._read(view, first) is None
        ]
        places = [
            place for first in missing for place in range(first, min(first + self._block, total))
        ]
        found = np.empty(0, np.float32)
        done, turn, batches = total - len(places), 0, []
        for images in view_batches(self._records, places, view, self._view, batch=self._batch):
            features = self._compute(filled_up(images, self._batch))
            batches.append(np.asarray(features)[: len(images)])
            done += len(images)
            self._on_progress(done, total)
            first = missing[turn]
            if sum(map(len, batches)) == min(self._block, total - first):
                block = np.concatenate(batches)
                self._keep(view, first, block)
                found = block if first == wanted else found
                turn, batches = turn + 1, []
        return found

    def _path(self, view: int, first: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{view}-{first}.npy"

    def _keep(self, view: int, first: int, block: Array) -> None:
        if self._folder is None:
            self._kept[view, first] = block
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        content = BytesIO()
        np.save(content, block, allow_pickle=False)
        write_whole(self._path(view, first), content.getvalue())

    def _read(self, view: int, first: int) -> Array | None:
        """The features from a place on, or None where they are still to be computed."""
        if self._folder is None:
            return self._kept.get((view, first))
        try:
            # Mapped, not read: the features of a large data set need not fit into memory.
            block: Array = np.load(self._path(view, first), mmap_mode="r", allow_pickle=False)
        except (FileNotFoundError, ValueError, EOFError):  # missing, or damaged
            return None
        return block if len(block) == min(self._block, len(self._records) - first) else None
