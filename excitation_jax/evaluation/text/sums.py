"""What maps are worth in regions of their photographs: sums over pixels, on the devices.

The pixels of a region are those whose centres lie in it. A map counts as zero outside of what the
network sees.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from ...maps import Grid
from ..points import paint, spread

_TOGETHER = 32  # masks that are unpacked at once


def box_sums(
    maps: jax.Array,
    boxes: jax.Array,
    window: jax.Array,
    *,
    canvas: tuple[int, int],
    grid: Grid | None = None,
) -> jax.Array:
    """The sum of each map of a photograph in each of some boxes.

    Maps are resized bicubically to what they show of the photograph, which is linear in rows and in
    columns: so sums over boxes are taken of the kernel, and not of a large map. Unlike differences
    of an integral image they are exactly zero where the resized map is.

    Args:
        maps: float32 (Q, h, w).
        boxes: (R, 4), in pixels of the photograph.
        window: (4,), what the maps show of it: x0, y0, x1, y1 in its pixels.
        canvas: (height, width) that the photograph does not exceed; static.
        grid: where the maps' cells lie on the network's input; None for plain tiles.

    Returns:
        (Q, R).
    """
    sums = []  # over the pixels in each box of what a row or a column of the map is worth
    for axis, pixels in enumerate(canvas):
        painted = paint(maps.shape[1 + axis], pixels, window, axis, grid)
        first, last = 1 - axis, 3 - axis  # in a box: y before rows, x before columns
        centres = jnp.arange(pixels) + 0.5
        inside = (centres >= boxes[:, first, None]) & (centres < boxes[:, last, None])
        inside &= painted.inside(pixels)
        sums.append(jnp.matmul(inside.astype(jnp.float32), painted.weights, precision="highest"))
    # Rows first: a product of both, (R, h, w), would be large for maps as fine as the input.
    of_rows = jnp.einsum("rh,qhw->qrw", sums[0], maps, precision="highest")
    return jnp.einsum("qrw,rw->qr", of_rows, sums[1], precision="highest")


def segment_sums(
    maps: jax.Array,
    masks: jax.Array,
    window: jax.Array,
    size: jax.Array,
    *,
    canvas: tuple[int, int],
    grid: Grid | None = None,
) -> jax.Array:
    """The sum of each map of a photograph in each of some segments.

    Args:
        maps, window, canvas, grid: see `box_sums`.
        masks: uint8 (R, height, bytes), as `proposals.packed` gives them: a bit for each pixel of
            the canvas.
        size: (2,), height and width of the photograph.

    Returns:
        (Q, R).
    """
    painted = jax.vmap(lambda own: spread(own, window, size, canvas, grid))(maps)
    painted = jnp.where(painted > -jnp.inf, painted, 0)

    def in_segment(mask: jax.Array) -> jax.Array:
        inside = jnp.unpackbits(mask, axis=-1, count=canvas[1]).astype(jnp.float32)
        return jnp.einsum("pc,qpc->q", inside, painted, precision="highest")

    return lax.map(in_segment, masks, batch_size=_TOGETHER).T
