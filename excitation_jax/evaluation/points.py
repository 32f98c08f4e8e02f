"""Where methods' maps are largest, in pixels of the photographs: the part that the devices do.

Photographs differ in size, and compiled programs are for one. So a map is resized onto a canvas
that holds the largest photograph, by a scale that is an ordinary number to the program, and what
lies outside of the photograph does not count.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import maps as _maps
from ..data.pipeline import Batch
from ..data.records import Example

#: ``(variables, images (N, h, w, 3), classes (N, K)) -> maps (N, K, h, w)``.
MapFunction = Callable[[Any, jax.Array, jax.Array], jax.Array]


@dataclass(frozen=True)
class PlacedMaps:
    """A function that makes maps of which it is known where their cells lie on the images.

    grid: None where it is not; for images of several sizes, a function of (height, width).
    """

    function: MapFunction
    grid: _maps.Grid | Callable[[tuple[int, int]], _maps.Grid | None] | None

    def __call__(self, variables: Any, images: jax.Array, classes: jax.Array) -> jax.Array:
        return self.function(variables, images, classes)


def grid_of(function: MapFunction, size: tuple[int, ...]) -> _maps.Grid | None:
    """Where the cells of its maps of images of this (height, width) lie; None for a plain tile."""
    if not isinstance(function, PlacedMaps):
        return None
    height, width = size
    return function.grid((height, width)) if callable(function.grid) else function.grid


class Questions(NamedTuple):
    """What is asked about N images, K classes each.

    images: float32 (N, h, w, 3), the network's input.
    classes: int32 (N, K); those that fill up a row may be any.
    windows: float32 (N, 4), what the input shows of the photograph: x0, y0, x1, y1 in its pixels.
    sizes: int32 (N, 2), height and width of the photograph.
    """

    images: Any
    classes: Any
    windows: Any
    sizes: Any


class Points(NamedTuple):
    """Where the maps of M methods are largest.

    places: int32 (N, M, K, 2), row and column in the photograph; the first in reading order.
    finite: boolean (N, M), whether the maps have no NaN or infinity.
    """

    places: Any
    finite: Any


def points(
    methods: Mapping[str, MapFunction],
    variables: Any,
    questions: Questions,
    canvas: tuple[int, int],
    blur: float = 0.0,
) -> Points:
    """The points of the maxima of maps that are resized bicubically to their photographs' sizes.

    Args:
        methods: by name, in the order of the result.
        variables: of the network.
        questions: see there.
        canvas: (height, width) that no photograph exceeds; static.
        blur: of maps as fine as the input: the standard deviation as a share of its longer side.
    """
    images, classes, windows, sizes = questions
    places, finite = [], []
    for function in methods.values():
        found = blurred(function(variables, images, classes), images.shape[1:3], blur)
        finite.append(jnp.isfinite(found).all(axis=(1, 2, 3)))
        grid = grid_of(function, images.shape[1:3])
        on_canvas = functools.partial(spread, canvas=canvas, grid=grid)

        def of_class(heat: jax.Array, on_canvas: Any = on_canvas) -> jax.Array:
            return jax.vmap(peak)(jax.vmap(on_canvas)(heat, windows, sizes))

        # One class after the other: a canvas for each image is memory enough.
        places.append(lax.map(of_class, jnp.moveaxis(found, 1, 0)).swapaxes(0, 1))
    return Points(jnp.stack(places, axis=1), jnp.stack(finite, axis=1))


def blurred(maps: jax.Array, size: tuple[int, ...], blur: float) -> jax.Array:
    """Maps (..., h, w), blurred where they are as fine as the input of this (height, width).

    blur: the standard deviation as a share of the input's longer side.
    """
    if blur and maps.shape[-2:] == tuple(size):
        return _maps.blur(maps, blur * max(size))
    return maps


def spread(
    heat: jax.Array,
    window: jax.Array,
    size: jax.Array,
    canvas: tuple[int, int],
    grid: _maps.Grid | None = None,
) -> jax.Array:
    """A map (h, w), resized bicubically to the photograph that it is of, on a canvas.

    Args:
        heat: the map.
        window: (4,), what it shows of the photograph; see `Questions`.
        size: (2,), the photograph's.
        canvas: (height, width) of the result, of which the photograph is the top left part; static.
        grid: where the map's cells lie on the network's input; None for a plain tile.

    Returns:
        float32, minus infinity where the map shows nothing of the photograph.
    """
    rows, columns = (paint(heat.shape[i], canvas[i], window, i, grid) for i in (0, 1))
    found = jnp.einsum(
        "ph,hw,qw->pq", rows.weights, heat.astype(jnp.float32), columns.weights, precision="highest"
    )
    inside = rows.inside(size[0])[:, None] & columns.inside(size[1])
    return jnp.where(inside, found, -jnp.inf)


class Paint(NamedTuple):
    """What rows or columns of a map are painted with on a canvas, for any scale.

    weights: float32 (pixels, cells), those of `maps.resize`; no matter what outside of the window.
    first, last: edges of what the map shows, in pixels.
    """

    weights: jax.Array
    first: jax.Array
    last: jax.Array

    def inside(self, size: Any) -> jax.Array:
        """Boolean (pixels,): whose centres lie in the window and in a photograph of this length."""
        centres = jnp.arange(len(self.weights)) + 0.5
        return (centres > jnp.maximum(self.first, 0)) & (centres < jnp.minimum(self.last, size))


def paint(cells: int, pixels: int, window: jax.Array, axis: int, grid: _maps.Grid | None) -> Paint:
    """How a map is painted along an axis (0: rows, 1: columns) of a canvas.

    Args:
        cells, pixels: of the map and of the canvas along the axis.
        window, grid: see `spread`.
    """
    first, last = window[1 - axis], window[3 - axis]
    if grid is None:
        scale = (last - first) / cells
        eye = jnp.eye(cells, dtype=jnp.float32)
        weights = jax.image.scale_and_translate(
            eye, (pixels, cells), (0,), scale[None], first[None], "bicubic"
        )
    else:
        scale = (last - first) / grid.size[axis]
        offset = first + (grid.offset[axis] + 0.5) * scale - 0.5
        weights = _maps.kernel(cells, pixels, grid.stride[axis] * scale, offset)
    return Paint(weights, first, last)


def peak(heat: jax.Array) -> jax.Array:
    """Row and column of the maximum of a map (h, w), the first in reading order: int32 (2,)."""
    return jnp.stack(_maps.point(heat)).astype(jnp.int32)


def canvas_of(examples: Sequence[Example]) -> tuple[int, int]:
    """Height and width that no photograph exceeds."""
    sizes = np.array([example.size for example in examples]).reshape(-1, 2)
    height, width = sizes.max(axis=0, initial=1).tolist()
    return height, width


def asked(examples: Sequence[Example], batch: Batch, classes: Sequence[Sequence[int]]) -> Questions:
    """What is asked about the photographs of a batch.

    Args:
        examples: of the batch's valid rows.
        batch: see there.
        classes: of each example. They are filled up with class 0 to a power of two, so that few
            programs are compiled whatever is in the photographs.
    """
    rows = len(batch.images)
    most = max([1, *map(len, classes)])
    found = Questions(
        batch.images,
        np.zeros((rows, 1 << (most - 1).bit_length()), np.int32),
        np.tile(np.array([0, 0, 1, 1], np.float32), (rows, 1)),
        np.ones((rows, 2), np.int32),
    )
    for row, (example, own) in enumerate(zip(examples, classes, strict=True)):
        found.classes[row, : len(own)] = own
        found.windows[row], found.sizes[row] = batch.windows[row], example.size
    return found
