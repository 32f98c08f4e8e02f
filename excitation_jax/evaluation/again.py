"""Maps of a few chosen pairs, computed again to look at them: records do not hold maps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from ..data.own_shape import AnyShape, OwnShape, fitted, in_parts
from ..data.pipeline import batches_of
from ..data.records import Example
from .choice import Outcome
from .points import MapFunction, Questions, asked, blurred, grid_of, peak, spread


class Again(NamedTuple):
    """A pair's map on its photograph.

    Attributes:
        heat: float32 (H, W), as large as the photograph; minus infinity where the network's input
            shows nothing of it.
        cells: float32 (h, w), the map as it was made, in its own resolution.
        point: row and column of the maximum.
        score: the network's, of the category.
        rank: how many categories have a score as high or higher, this one included.
    """

    heat: NDArray[np.float32]
    cells: NDArray[np.float32]
    point: tuple[int, int]
    score: float
    rank: int


@dataclass(frozen=True)
class Look:
    """What the maps of an experiment are made with, apart from the method.

    Attributes:
        apply: ``(variables, images) -> scores``, (N, C) or at each position (N, h, w, C).
        variables: of the network.
        preprocessing: the network's.
        dataset: the photographs.
        canvas: height and width that none of them exceeds.
        blur: see `points.points`.
        batch: pairs in a batch; every batch has as many.
        threads: that decode.
    """

    apply: Callable[[Any, Any], Any]
    variables: Any
    preprocessing: AnyShape
    dataset: Sequence[Example]
    canvas: tuple[int, int]
    blur: float
    batch: int
    threads: int = 2

    def view(self) -> str:
        """What the network sees of a photograph, in words."""
        own = self.preprocessing
        if isinstance(own, OwnShape):
            return (
                f"all of a photograph in its own shape, {own.side} px the shorter side and a "
                f"multiple of {own.step} the longer"
            )
        height, width = own.size
        cut = own.crop is not None
        return f"{'the middle' if cut else 'all'} of a photograph, as {width} x {height} px"

    def at(self, method: MapFunction, pairs: Sequence[Outcome]) -> Iterator[tuple[Outcome, Again]]:
        """The maps that a method makes of pairs, one shape of inputs after the other.

        It is compiled once for each; where there is one shape, the pairs are in their order.

        Raises:
            OSError, ValueError: a photograph cannot be read any more.
        """

        @jax.jit
        def compute(variables: Any, questions: Questions) -> tuple[jax.Array, ...]:
            images, classes, windows, sizes = questions
            found = blurred(method(variables, images, classes), images.shape[1:3], self.blur)
            grid = grid_of(method, images.shape[1:3])
            on_canvas = jax.vmap(functools.partial(spread, canvas=self.canvas, grid=grid))
            heat = on_canvas(found[:, 0], windows, sizes)
            scores = self.apply(variables, images)
            scores = scores.mean(tuple(range(1, scores.ndim - 1)))
            own = jnp.take_along_axis(scores, classes, axis=1)
            cells = found[:, 0].astype(jnp.float32)
            return heat, cells, jax.vmap(peak)(heat), own[:, 0], (scores >= own).sum(axis=1)

        examples = [self.dataset[pair.place] for pair in pairs]
        order = sorted(
            range(len(examples)), key=lambda i: fitted(self.preprocessing, examples[i].size).size
        )
        parts = in_parts(self.preprocessing, examples, order, self.batch)
        batches = batches_of(parts, examples, self.preprocessing, self.batch, threads=self.threads)
        for batch in batches:
            rows = [int(place) for place in batch.places[batch.valid]]
            own = [examples[row] for row in rows]
            questions = asked(own, batch, [[pairs[row].category] for row in rows])
            outputs = jax.device_get(compute(self.variables, questions))
            for row, example, heat, cells, point, score, rank in zip(
                rows, own, *outputs, strict=False
            ):
                height, width = example.size
                place = int(point[0]), int(point[1])
                shown = heat[:height, :width]
                yield pairs[row], Again(shown, cells, place, float(score), int(rank))
