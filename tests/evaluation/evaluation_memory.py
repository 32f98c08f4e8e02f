"""The peak of this process's memory after the pointing game on few photographs and on many.

`python evaluation_memory.py FOLDER FEW MANY` prints both, in bytes. A photograph has a megabyte.
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from excitation_jax.data import Dataset, Example, Object
from excitation_jax.evaluation import runner
from excitation_jax.evaluation.pointing import pointing_game as pointing
from excitation_jax.evaluation.store import Store
from excitation_jax.models import Preprocessing

SIZE = 512, 683
OWN = Preprocessing((0.0,) * 3, resize=128, crop=None, warp=True)


@dataclass(frozen=True)
class Photograph(Example):
    """One that is made when it is decoded, as one in a file is."""

    def image(self) -> np.ndarray:
        level = np.random.default_rng(int(self.key)).integers(0, 256)
        return np.full((*SIZE, 3), level, np.uint8)


def evaluate(directory: Path, count: int) -> int:
    """Evaluates so many photographs; returns the peak of the memory so far."""
    objects = (Object("cat", (0.0, 0.0, 99.0, 99.0)), Object("dog", (5.0, 5.0, 300.0, 400.0)))
    examples = tuple(Photograph(str(i), None, SIZE, objects) for i in range(count))
    dataset = Dataset("made", ("cat", "dog"), examples)
    game = pointing.PointingGame(
        dataset, {"red": lambda _, x, c: jnp.tile(x[:, None, ..., 0], (1, c.shape[1], 1, 1))}
    )
    store = Store(directory, {}, count=count, shape=game.shape, dtype=game.dtype, batch=16)
    assert runner.run(game, {}, dataset, OWN, store)
    assert pointing.count(store.blocks()).pairs.sum() > count
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    folder, *counts = Path(sys.argv[1]), *map(int, sys.argv[2:])
    evaluate(folder / "first", counts[0])  # whatever is allocated once and kept
    print(json.dumps([evaluate(folder / str(count), count) for count in counts]))
