"""What one does with a map once it is there: resize, blur, point, box, overlay.

`resize`, `blur`, `point` and `box` are pure JAX functions: they accept any number of
leading axes and work under `jit` and `vmap`. `overlay` paints, so it is plain NumPy.
Coordinates count cells of the map: (row, col) from the top left corner, boxes as
(x0, y0, x1, y1) with x to the right, y downwards and the far edges exclusive.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

Colormap = Literal["inferno", "viridis", "grey"]

# Anchors at equal distances, between which colours are interpolated linearly. The first two
# are matplotlib's maps of the same names (CC0), whose lightness rises evenly.
_ANCHORS: dict[str, str] = {
    "inferno": "000004 160b39 420a68 6a176e 932667 bc3754 dd513a f37819 fca50a f6d746 fcffa4",
    "viridis": "440154 482475 414487 355f8d 2a788e 21918c 22a884 44bf70 7ad151 bddf26 fde725",
    "grey": "000000 ffffff",
}


class Grid(NamedTuple):
    """Where the cells of a map lie on the picture that it is of.

    Cell (i, j) lies at row offset[0] + i stride[0] and column offset[1] + j stride[1], in pixels of
    the picture, of which the first one's centre is (0, 0). A negative stride is that of a map that
    is the other way round.

    Attributes:
        stride, offset: pixels, of rows and of columns.
        size: (height, width) of the picture in whose pixels the others count.
    """

    stride: tuple[float, float]
    offset: tuple[float, float]
    size: tuple[int, int]

    @classmethod
    def plain(cls, shape: tuple[int, int]) -> Grid:
        """A map of this (height, width) as a tile: its cells divide the picture evenly.

        >>> Grid.plain((14, 14)).scaled((224, 224)).offset
        (7.5, 7.5)
        """
        return cls((1.0, 1.0), (0.0, 0.0), shape)

    def scaled(self, size: tuple[int, int]) -> Grid:
        """The same places on the picture resized to (height, width)."""
        rows, columns = (new / old for new, old in zip(size, self.size, strict=True))
        return Grid(
            (self.stride[0] * rows, self.stride[1] * columns),
            ((self.offset[0] + 0.5) * rows - 0.5, (self.offset[1] + 0.5) * columns - 0.5),
            size,
        )


def resize(maps: jax.Array, size: tuple[int, int], grid: Grid | None = None) -> jax.Array:
    """Resizes maps (..., h, w) to (..., H, W) with `jax.image.resize`'s bicubic kernel.

    That is Keys' cubic with a = -1/2 at half-pixel centres; weights that would fall outside
    the map are dropped and the rest renormalised, and reducing a map smooths it first
    (antialiasing). A constant stays the same constant, so values are kept and the sum is
    not: it grows by about H*W / (h*w). Bicubic interpolation overshoots by a few per cent
    beside steep edges, also below zero.

    Args:
        maps: (..., h, w).
        size: (H, W), of the picture that the maps are painted on.
        grid: where the cells lie on a picture of whatever size (see `excitation_jax.Layer.grid`):
            each is painted there. Pixels beyond the outermost cells are painted like these, but
            for a thousandth for each cell's length: so a map's maximum lies where a cell does.
            None: the map is a plain tile, whose cells divide the picture evenly.

    Raises ValueError where maps has fewer than two axes or size is not positive.

    >>> resize(jnp.ones((2, 7, 7)), (14, 21)).shape
    (2, 14, 21)

    Where every second pixel of four was looked at, the cells lie at 0 and 2; those of a plain tile
    lie at 0.5 and 2.5.

    >>> heat = jnp.array([[0.0, 1.0]])
    >>> resize(heat, (1, 4), Grid((1, 2), (0, 0), (1, 4)))[0, 1]
    Array(0.5, dtype=float32)
    >>> bool(resize(heat, (1, 4))[0, 1] < 0.3)
    True
    """
    maps = _checked(maps)
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"size must be positive, got {(height, width)}")
    if grid is None:
        return jax.image.resize(maps, (*maps.shape[:-2], height, width), method="bicubic")
    to = grid.scaled((height, width))
    rows, columns = (kernel(maps.shape[i - 2], size[i], to.stride[i], to.offset[i]) for i in (0, 1))
    painted = jnp.einsum("ph,...hw,qw->...pq", rows, maps, columns, precision="highest")
    return painted.astype(jnp.result_type(maps.dtype, float))  # integers become floats


def kernel(cells: int, pixels: int, stride: Any, offset: Any) -> jax.Array:
    """The weights (pixels, cells) by which `resize` paints rows or columns of a map on a grid.

    Args:
        cells: length of the map along the axis.
        pixels: length of the picture.
        stride: pixels from one cell to the next; negative where they run the other way.
        offset: the pixel at which the first cell lies. Both may be traced.

    Returns:
        float32; the weights of a pixel sum to one, and beyond the outermost cells to 1 / (1 + d),
        d a thousandth of the distance to them in cells.

    >>> kernel(2, 4, stride=2, offset=0).round(2).tolist()[1]
    [0.5, 0.5]
    """
    # Between the outermost cells these are the weights of `jax.image.scale_and_translate`. Beyond
    # them it extrapolates, which makes the border the brightest part of an outermost cell, and
    # from half a cell on it paints nothing.
    wanted = (jnp.arange(pixels) - offset) / stride
    places = jnp.clip(wanted, 0, cells - 1)
    wide = jnp.maximum(1 / jnp.abs(jnp.asarray(stride, jnp.float32)), 1)
    far = jnp.abs(places[:, None] - jnp.arange(cells)) / wide
    near = (1.5 * far - 2.5) * far**2 + 1
    weights = jnp.where(far < 1, near, ((2.5 - 0.5 * far) * far - 4) * far + 2)
    weights = jnp.where(far < 2, weights, 0.0)
    total = weights.sum(axis=1) * (1 + jnp.abs(wanted - places) / 1000)
    return (weights / total[:, None]).astype(jnp.float32)


def blur(maps: jax.Array, sigma: float) -> jax.Array:
    """Blurs maps (..., h, w) with a Gaussian of standard deviation sigma, in cells.

    The kernel is cut off at four sigma and the map is mirrored at its borders, so blurring
    neither gains nor loses mass and leaves a constant as it is. sigma = 0 returns the map.

    Raises ValueError where maps has fewer than two axes or sigma is negative.

    >>> delta = jnp.zeros((9, 9)).at[4, 4].set(1.0)
    >>> round(float(blur(delta, 1.0)[4, 4]), 3)
    0.159
    """
    maps = _checked(maps)
    if not sigma >= 0:
        raise ValueError(f"sigma must not be negative, got {sigma}")
    rows = _gaussian_matrix(maps.shape[-2], sigma)
    cols = _gaussian_matrix(maps.shape[-1], sigma)
    return jnp.einsum("ij,...jk,lk->...il", rows, maps, cols, precision="highest").astype(
        maps.dtype
    )


def point(maps: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The (row, col) of the maximum of maps (..., h, w): two integer arrays (...).

    Of several equal maxima it is the first in reading order.

    Raises ValueError where maps has fewer than two axes.

    >>> row, col = point(jnp.zeros((5, 8)).at[3, 6].set(1.0))
    >>> int(row), int(col)
    (3, 6)
    """
    maps = _checked(maps)
    width = maps.shape[-1]
    best = jnp.argmax(maps.reshape(*maps.shape[:-2], -1), axis=-1)
    return best // width, best % width


def box(maps: jax.Array, threshold: float) -> jax.Array:
    """The tightest box round what exceeds threshold times the mean of maps (..., h, w).

    Returns integers (..., 4): x0, y0, x1, y1 in cells, x1 and y1 exclusive, so that the box
    is x1 - x0 wide. Where nothing exceeds the threshold all four are 0.

    Raises ValueError where maps has fewer than two axes.

    >>> box(jnp.zeros((6, 6)).at[1:3, 2:5].set(1.0), threshold=1.0).tolist()
    [2, 1, 5, 3]
    """
    maps = _checked(maps)
    height, width = maps.shape[-2:]
    region = maps > threshold * maps.mean(axis=(-2, -1), keepdims=True)
    rows, cols = region.any(axis=-1), region.any(axis=-2)
    corners = jnp.stack(
        [
            jnp.argmax(cols, axis=-1),
            jnp.argmax(rows, axis=-1),
            width - jnp.argmax(cols[..., ::-1], axis=-1),
            height - jnp.argmax(rows[..., ::-1], axis=-1),
        ],
        axis=-1,
    )
    return jnp.where(rows.any(axis=-1)[..., None], corners, 0)


def overlay(
    image: ArrayLike, attention: ArrayLike, *, alpha: float = 0.8, colormap: Colormap = "inferno"
) -> NDArray[np.uint8]:
    """Paints one map (H, W) over its image (H, W, 3); returns uint8 (H, W, 3).

    The image is uint8, or floating in [0, 1]. The map is divided by its maximum, and what is
    negative counts as zero. Opacity grows with the map up to `alpha` at the maximum: what
    got no attention shows the image unchanged. An all-zero map returns the image.

    Raises ValueError for shapes that do not belong together, values that are not finite, an
    alpha outside [0, 1] or an unknown colormap.

    >>> overlay(np.zeros((4, 4, 3)), np.eye(4), alpha=1.0, colormap="grey")[..., 0].max()
    np.uint8(255)
    """
    picture, heat = np.asarray(image), np.asarray(attention, dtype=np.float64)
    if picture.ndim != 3 or picture.shape[-1] != 3:
        raise ValueError(f"image must be (H, W, 3), got {picture.shape}")
    if heat.shape != picture.shape[:2]:
        raise ValueError(
            f"a map of shape {heat.shape} does not lie on an image of shape {picture.shape}; "
            f"resize(map, {picture.shape[:2]}) makes it fit"
        )
    if not np.isfinite(heat).all():
        raise ValueError("the map has values that are not finite")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
    if colormap not in _ANCHORS:
        raise ValueError(f"unknown colormap {colormap!r}; there are {', '.join(_ANCHORS)}")
    if picture.dtype == np.uint8:
        picture = picture / 255.0
    elif not np.issubdtype(picture.dtype, np.floating):
        raise ValueError(f"image must be uint8 or floating, got {picture.dtype}")
    elif not np.isfinite(picture).all():
        raise ValueError("the image has values that are not finite")

    heat = np.maximum(heat, 0)
    peak = heat.max(initial=0)
    heat = heat / peak if peak > 0 else heat
    opacity = alpha * heat[..., None]
    blended = (1 - opacity) * np.clip(picture, 0, 1) + opacity * _colours(heat, colormap)
    return np.rint(blended * 255).astype(np.uint8)


def _colours(values: NDArray[np.float64], colormap: Colormap) -> NDArray[np.float64]:
    """Colours (..., 3) in [0, 1] of values (...) in [0, 1]."""
    anchors = np.array([list(bytes.fromhex(code)) for code in _ANCHORS[colormap].split()]) / 255.0
    positions = np.linspace(0, 1, len(anchors))
    return np.stack([np.interp(values, positions, channel) for channel in anchors.T], axis=-1)


def _gaussian_matrix(length: int, sigma: float) -> NDArray[np.float32]:
    """The blur of one axis as a matrix (length, length): symmetric, rows sum to 1."""
    radius = math.ceil(4 * sigma)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2) if sigma > 0 else np.ones(1)
    source = np.arange(length)[:, None] + offsets
    # Mirrored without repeating the edge twice: ... 1 0 | 0 1 2 | 2 1 ...
    source = source % (2 * length)
    source = np.minimum(source, 2 * length - 1 - source)
    matrix = np.zeros((length, length))
    np.add.at(matrix, (np.arange(length)[:, None], source), kernel / kernel.sum())
    return matrix.astype(np.float32)


def _checked(maps: jax.Array) -> jax.Array:
    """maps as an array, refused where it has no height and width."""
    maps = jnp.asarray(maps)
    if maps.ndim < 2:
        raise ValueError(f"maps must be (..., height, width), got shape {maps.shape}")
    return maps
