"""Records of a data set's images on disk, which may be written and killed at any moment.

A directory with `settings.json`, which says what the records are of, and `records/`, a Zarr array
with a record for each image and one chunk for each batch. A chunk is written under another name
and renamed (by TensorStore), so that it is there as a whole or not at all, and writing it once more
changes nothing. The array's fill value, 0, stands for what is not done yet.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.run_directory import claim

try:
    import tensorstore as ts
except ImportError as error:
    raise ImportError('the records need tensorstore: pip install "excitation-jax[eval]"') from error

_SETTINGS = "settings.json"
_RECORDS = "records"


class Store:
    """The records of `count` images, in batches. Several processes may hold the same one.

    Args:
        directory: new, empty, or of a run with the same settings; missing parents are made.
        settings: all that the records depend on; see `run_directory`.
        count: number of images.
        shape: of a record.
        dtype: of its numbers: integers.
        batch: images in a batch, and in a chunk of the array.

    Raises:
        ValueError: the store is damaged, or count or batch is not positive.
        FileExistsError: the directory holds records of other settings (the message says which
            differ), or something else.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        settings: Mapping[str, Any],
        *,
        count: int,
        shape: tuple[int, ...],
        dtype: str,
        batch: int,
    ) -> None:
        if count < 1 or batch < 1:
            raise ValueError(f"count and batch must be positive, got {count} and {batch}")
        self.directory = Path(directory).absolute()
        self.count, self.batch, self.shape, self.dtype = count, batch, shape, np.dtype(dtype)
        layout = {"count": count, "shape": list(shape), "dtype": dtype, "batch": batch}
        claim(
            self.directory,
            _SETTINGS,
            settings,
            holds="records",
            of_others="records of other settings",
            layout={"records": layout},
        )
        spec = {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": f"{self.directory / _RECORDS}/"},
            # What was read is not kept: the memory is not to grow with the data set.
            "context": {"cache_pool": {"total_bytes_limit": 0}},
            "metadata": {
                "shape": [count, *shape],
                "data_type": dtype,
                "fill_value": 0,
                "chunk_grid": {
                    "name": "regular",
                    "configuration": {"chunk_shape": [batch, *shape]},
                },
                # The checksum makes damage an error instead of another result.
                "codecs": [
                    {"name": "bytes", "configuration": {"endian": "little"}},
                    {"name": "zstd", "configuration": {"level": 3}},
                    {"name": "crc32c"},
                ],
            },
        }
        if self.dtype.itemsize == 1:
            spec["metadata"]["codecs"][0] = {"name": "bytes"}  # type: ignore[index]
        try:
            self._array = ts.open(spec, create=True, open=True).result()
        except ValueError as error:
            raise self._damaged(self.directory / _RECORDS / "zarr.json", error) from error

    def __len__(self) -> int:
        """The number of batches."""
        return math.ceil(self.count / self.batch)

    def places(self, turn: int) -> range:
        """The places of a batch's images in the data set."""
        return range(turn * self.batch, min((turn + 1) * self.batch, self.count))

    def write(self, turn: int, records: NDArray[Any]) -> None:
        """Keeps a batch's records (images of the batch, *shape); once this returns, for good.

        Raises:
            ValueError: records of another shape or type, or one that is 0 throughout, which is what
                stands for no record.
            OSError: they cannot be written.
        """
        places = self.places(turn)
        if records.shape != (len(places), *self.shape) or records.dtype != self.dtype:
            raise ValueError(
                f"batch {turn} has records ({len(places)}, {self.shape}) of {self.dtype}, got "
                f"{records.shape} of {records.dtype}"
            )
        if not _done(records).all():
            raise ValueError(f"batch {turn} has a record of zeros, which stands for no record")
        try:
            self._array[places.start : places.stop].write(records).result()
        except ValueError as error:  # TensorStore's, for any reason
            raise OSError(f"{self.directory} cannot be written to: {error}") from error

    def is_done(self, turn: int) -> bool:
        """Whether all records of a batch are there.

        Raises:
            ValueError: they are damaged.
        """
        return bool(_done(self.read(turn)).all())

    def read(self, turn: int) -> NDArray[Any]:
        """A batch's records (images of the batch, *shape); zeros where it is not done.

        Raises:
            ValueError: they are damaged.
        """
        places = self.places(turn)
        try:
            return np.asarray(self._array[places.start : places.stop].read().result())
        except ValueError as error:
            inside = "/".join(["c", str(turn), *("0" for _ in self.shape)])
            raise self._damaged(self.directory / _RECORDS / inside, error) from error

    def blocks(self) -> Iterator[NDArray[Any]]:
        """The records of one batch after the other, all of which are done.

        Raises:
            ValueError: a batch is not done, or damaged.
        """
        for turn in range(len(self)):
            records = self.read(turn)
            if not _done(records).all():
                raise ValueError(f"{self.directory} is not complete: batch {turn} is missing")
            yield records

    def _damaged(self, path: Path, error: Exception) -> ValueError:
        reason = str(error).partition(" [tensorstore_spec")[0]
        return ValueError(
            f"the records in {path} are damaged: remove the file, and what it held is computed "
            f"again ({reason})"
        )


def _done(records: NDArray[Any]) -> NDArray[np.bool_]:
    """Which records (N, ...) are there."""
    return (records != 0).reshape(len(records), -1).any(axis=1)
