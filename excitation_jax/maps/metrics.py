"""How good a map is: the pointing games, insertion and deletion.

Pure JAX functions on arrays, for use under `jit` and `vmap`; all but `insertion_deletion` accept
any number of leading axes. Coordinates are those of `excitation_jax.maps`. Where values are known,
not inside a transformation, maps that are not finite are refused.

How similar two maps are: `excitation_jax.maps.similarity`. Whether a map depends on what the
network has learned: `excitation_jax.randomisation_check`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from . import arrays
from .combine import normalised

#: Of the blurred image that insertion starts from: RISE's 5 pixels at a side of 224.
BLUR = 5 / 224


class InsertionDeletion(NamedTuple):
    """Result of `insertion_deletion`, for N images.

    Attributes:
      insertion, deletion: the scores (N, steps + 1), from no pixel changed to all.
      insertion_area, deletion_area: the areas under them (N,). A good map has a large area of
        insertion and a small one of deletion.
    """

    insertion: jax.Array
    deletion: jax.Array
    insertion_area: jax.Array
    deletion_area: jax.Array


def pointing_game(maps: jax.Array, regions: jax.Array, tolerance: float = 15) -> jax.Array:
    """Whether the maximum of maps (..., H, W) lies in its region or close to it (IJCV18, 6.1).

    Args:
      maps: of several equal maxima the first in reading order counts.
      regions: where the object is, boolean (..., H, W), of the maps' leading axes or broadcast
        against them; see `boxes_to_mask`. An empty region is never hit.
      tolerance: the largest distance of the maximum to a pixel of the region, in pixels from
        centre to centre; static under `jit`. (TorchRay's distance must be below its tolerance.)

    Returns:
      Hits, boolean (...).

    Raises:
      ValueError: shapes that do not belong together, regions that are not boolean, a tolerance
        that is negative or not finite, maps that are not finite.

    Example:
      >>> from excitation_jax.metrics import boxes_to_mask, pointing_game
      >>> heat = jnp.zeros((32, 32)).at[4, 25].set(1.0)
      >>> region = boxes_to_mask(jnp.array([[2, 2, 11, 8]]), (32, 32))
      >>> bool(pointing_game(heat, region)), bool(pointing_game(heat, region, tolerance=14))
      (True, False)
    """
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance must be finite and not negative, got {tolerance}")
    maps, regions = _matching(maps, regions)
    height, width = maps.shape[-2:]
    row, col = (place[..., None, None] for place in arrays.point(maps))
    squares = (jnp.arange(height)[:, None] - row) ** 2 + (jnp.arange(width) - col) ** 2
    # In integers, so that a distance of exactly the tolerance is a hit.
    beyond = height**2 + width**2
    nearest = jnp.where(regions, squares, beyond).min(axis=(-2, -1))
    return nearest <= min(math.floor(min(tolerance, height + width) ** 2), beyond - 1)


def boxes_to_mask(boxes: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Which pixels of an image lie in one of its boxes.

    Args:
      boxes: (..., B, 4): x0, y0, x1, y1 in pixels, x1 and y1 exclusive. What lies outside of the
        image is cut off, and a box without an area holds nothing: lists of several lengths can be
        filled up with zeros.
      size: height and width of the image.

    Returns:
      Boolean (..., H, W): true where a pixel's centre lies in a box.

    Raises:
      ValueError: boxes of another shape; where values are known, a box whose far edge comes
        before the near one; a size that is not positive.

    Example:
      >>> boxes_to_mask(jnp.array([[1, 0, 3, 1], [0, 0, 0, 0]]), (2, 4)).astype(int).tolist()
      [[0, 1, 1, 0], [0, 0, 0, 0]]
    """
    boxes = jnp.asarray(boxes)
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"size must be positive, got {(height, width)}")
    if boxes.ndim < 2 or boxes.shape[-1] != 4:
        raise ValueError(f"boxes must be (..., number of boxes, 4), got shape {boxes.shape}")
    if _known(boxes) and not (boxes[..., :2] <= boxes[..., 2:]).all():
        raise ValueError("boxes must be (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1")
    x0, y0, x1, y1 = (boxes[..., i, None] for i in range(4))
    x, y = jnp.arange(width) + 0.5, jnp.arange(height) + 0.5
    across, down = (x0 <= x) & (x < x1), (y0 <= y) & (y < y1)
    return (down[..., :, None] & across[..., None, :]).any(axis=-3)


def energy_pointing_game(maps: jax.Array, regions: jax.Array) -> jax.Array:
    """The share of the positive part of maps (..., H, W) that lies in their regions.

    From Wang et al., "Score-CAM" (CVPR workshops 2020). Regions as in `pointing_game`.

    Returns (...): between 0 and 1, and 0 where nothing is positive.

    Raises ValueError for shapes that do not belong together, regions that are not boolean, or
    maps that are not finite.

    >>> region = boxes_to_mask(jnp.array([[0, 0, 1, 2]]), (2, 2))
    >>> float(energy_pointing_game(jnp.array([[2.0, 1.0], [1.0, -5.0]]), region))
    0.75
    """
    maps, regions = _matching(maps, regions)
    return jnp.where(regions, normalised(maps), 0).sum(axis=(-2, -1))


def grid_pointing(maps: jax.Array, cells: tuple[int, int] = (2, 2)) -> tuple[jax.Array, jax.Array]:
    """The grid pointing game: several images side by side, one map for the class of each.

    From Boehle et al., "Convolutional Dynamic Alignment Networks" (CVPR 2021).

    Args:
      maps: (..., Q, H, W), map q for the class in cell q of the grid, in reading order.
      cells: rows and columns of the grid; Q is their product. Where a map's pixels do not fit the
        cells, each belongs to the cell that its centre lies in, and to the later one of two.

    Returns:
      Whether each map's maximum lies in its cell, boolean (..., Q), and which share of its
      positive part does (..., Q).

    Raises:
      ValueError: shapes that do not belong together, a grid without cells, maps that are not
        finite.

    Example:
      >>> heat = jnp.zeros((4, 6, 6)).at[:, 1, 4].set(3.0).at[:, 4, 1].set(1.0)
      >>> hits, energies = grid_pointing(heat)
      >>> hits.tolist(), energies.tolist()
      ([False, True, False, False], [0.0, 0.75, 0.25, 0.0])
    """
    maps = jnp.asarray(maps)
    rows, cols = cells
    if rows < 1 or cols < 1:
        raise ValueError(f"cells must be positive, got {(rows, cols)}")
    if maps.ndim < 3 or maps.shape[-3] != rows * cols:
        raise ValueError(
            f"maps must be (..., {rows * cols}, height, width) for {rows} x {cols} cells, "
            f"got shape {maps.shape}"
        )
    # The centre of pixel i of n lies in cell floor(cells (i + 1/2) / n).
    down, across = (
        (2 * np.arange(n) + 1) * count // (2 * n)
        for n, count in zip(maps.shape[-2:], cells, strict=True)
    )
    cell = cols * down[:, None] + across
    regions = jnp.asarray(cell == np.arange(rows * cols)[:, None, None])
    return pointing_game(maps, regions, tolerance=0), energy_pointing_game(maps, regions)


def insertion_deletion(
    score_fn: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    maps: jax.Array,
    *,
    steps: int = 50,
    insertion_baseline: ArrayLike | None = None,
    deletion_baseline: ArrayLike | None = None,
) -> InsertionDeletion:
    """How fast a score rises and falls as pixels come and go, those first where the map is high.

    From Petsiuk, Das and Saenko, "RISE" (BMVC 2018).

    Args:
      score_fn: images (N, H, W, C) to one score each (N,), mostly the probability of a class.
      images: (N, H, W, C), floating-point.
      maps: (N, h, w); resized bicubically where they are not of the images' size. Pixels of
        equal value change in reading order.
      steps: in how many equal steps all pixels change.
      insertion_baseline: what the image is inserted into, broadcast against images; by default
        the image itself, blurred (`excitation_jax.maps.blur` with 5 / 224 of the longer side).
      deletion_baseline: what remains in the end, broadcast against images; by default zeros.

    Returns:
      The scores, and the areas under them by the trapezoidal rule, over the share of pixels
      changed. Images are made and scored one step at a time. The cost is that of 2 steps + 2
      calls of score_fn; call it in `jax.jit` where it is called more than once. For K maps of an
      image, `jax.vmap` it over maps and scores.

    Raises:
      ValueError: shapes that do not belong together, images that are not floating-point, steps
        that are not between 1 and the number of pixels, maps that are not finite.

    Example:
      >>> from excitation_jax.metrics import insertion_deletion
      >>> images = jnp.array([[[4.0, 2.0], [0.0, 2.0]]])[..., None]
      >>> result = insertion_deletion(
      ...     lambda x: x.mean((1, 2, 3)), images, images[..., 0], steps=4,
      ...     insertion_baseline=0.0,
      ... )
      >>> result.insertion.tolist(), result.deletion.tolist()
      ([[0.0, 1.0, 1.5, 2.0, 2.0]], [[2.0, 1.0, 0.5, 0.0, 0.0]])
      >>> result.insertion_area.tolist(), result.deletion_area.tolist()
      ([1.375], [0.625])
    """
    images, maps = jnp.asarray(images), _finite(maps)
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be floating (N, H, W, C), got {images.dtype} {images.shape}")
    count, height, width, _ = images.shape
    if maps.ndim != 3 or len(maps) != count:
        raise ValueError(f"maps must be ({count}, h, w), one an image, got shape {maps.shape}")
    if not 1 <= steps <= height * width:
        raise ValueError(
            f"steps must lie between 1 and the {height * width} pixels of an image, got {steps}"
        )
    returned = jax.eval_shape(score_fn, images)
    if getattr(returned, "shape", None) != (count,):
        raise ValueError(f"score_fn must return one score an image, ({count},), not {returned}")
    if maps.shape[1:] != (height, width):
        maps = arrays.resize(maps, (height, width))

    if insertion_baseline is None:
        channels = jnp.moveaxis(images, -1, 1)
        blurred = arrays.blur(channels, BLUR * max(height, width))
        insertion_baseline = jnp.moveaxis(blurred, 1, -1)
    before = _like(images, insertion_baseline, "insertion_baseline")
    after = _like(
        images, 0.0 if deletion_baseline is None else deletion_baseline, "deletion_baseline"
    )

    flat = maps.reshape(count, -1).astype(jnp.promote_types(maps.dtype, jnp.float32))
    order = jnp.argsort(-flat, axis=1, stable=True)
    # The place of each pixel in the order: the inverse of the permutation.
    places = jnp.argsort(order, axis=1).reshape(count, height, width, 1)
    changed = np.arange(steps + 1) * (height * width) // steps

    @jax.jit  # compiled once for both curves
    def curve(start: jax.Array, end: jax.Array) -> jax.Array:
        def score(number: jax.Array) -> jax.Array:
            return score_fn(jnp.where(places < number, end, start))

        return jax.lax.map(score, jnp.asarray(changed)).T

    curves = curve(before, images), curve(images, after)
    shares = jnp.asarray(changed / (height * width))
    areas = (jnp.trapezoid(scores, shares, axis=1) for scores in curves)
    return InsertionDeletion(*curves, *areas)


def _known(array: jax.Array) -> bool:
    return not isinstance(array, jax.core.Tracer)


def _finite(maps: jax.Array) -> jax.Array:
    """maps as an array, refused where it has no height and width or is known not to be finite."""
    maps = jnp.asarray(maps)
    if maps.ndim < 2:
        raise ValueError(f"maps must be (..., height, width), got shape {maps.shape}")
    if _known(maps) and not jnp.isfinite(maps).all():
        raise ValueError("maps have values that are not finite")
    return maps


def _matching(maps: jax.Array, regions: jax.Array) -> tuple[jax.Array, jax.Array]:
    maps, regions = _finite(maps), jnp.asarray(regions)
    if regions.dtype != bool:
        raise ValueError(f"regions must be boolean, got {regions.dtype}")
    if regions.shape[-2:] != maps.shape[-2:]:
        raise ValueError(
            f"maps of shape {maps.shape} do not lie on regions of shape {regions.shape}; "
            "excitation_jax.maps.resize makes them fit"
        )
    try:
        np.broadcast_shapes(maps.shape, regions.shape)
    except ValueError:
        raise ValueError(
            f"leading axes of maps {maps.shape} and regions {regions.shape} do not match"
        ) from None
    return maps, regions


def _like(images: jax.Array, baseline: ArrayLike, name: str) -> jax.Array:
    baseline = jnp.asarray(baseline, images.dtype)
    try:
        return jnp.broadcast_to(baseline, images.shape)
    except ValueError:
        raise ValueError(
            f"{name} of shape {baseline.shape} does not fit images of shape {images.shape}"
        ) from None
