"""A map on its photograph, with what it should be on and where it is largest."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from .. import maps
from ..data.records import Box, Mask, Pixels
from ..maps import pictures

_SMALLEST = 256  # longer side of a picture, in pixels; smaller photographs are enlarged
_TRUTH, _POINT, _CASING = "#2ee6d6", "#ffffff", "#101010"
_UNSEEN = 0.35  # brightness of what the network does not see


class Drawing:
    """A picture of a photograph in grey with a map over it, on which marks are drawn.

    Lines have a dark casing, so that they are seen on any ground.

    Args:
        photograph: uint8 (H, W, 3).
        heat: (H, W); minus infinity where the network does not see the photograph, which is
            darkened there.
    """

    def __init__(self, photograph: Pixels, heat: NDArray[np.floating]) -> None:
        seen = np.isfinite(heat)
        painted = maps.overlay(pictures.greyed(photograph), np.where(seen, heat, 0))
        painted = np.where(seen[..., None], painted, painted * _UNSEEN).astype(np.uint8)
        self._factor = max(1, math.ceil(_SMALLEST / max(heat.shape)))
        self.image = Image.fromarray(self._enlarged(painted))
        self._line = max(2, round(max(self.image.size) / 250))
        self._draw = ImageDraw.Draw(self.image)

    def boxes(self, boxes: Iterable[Box], found: bool = False) -> None:
        """Draws boxes x0, y0, x1, y1 in pixels of the photograph: true ones, or found ones."""
        places = [[round(edge * self._factor) for edge in box] for box in boxes]
        for extra, colour in ((1, _CASING), (0, _POINT if found else _TRUTH)):
            for x0, y0, x1, y1 in places:
                # On the image's border the line and its casing stay within it.
                corners = (
                    max(x0, 1) - extra,
                    max(y0, 1) - extra,
                    min(x1, self.image.width - 1) - 1 + extra,
                    min(y1, self.image.height - 1) - 1 + extra,
                )
                if corners[0] <= corners[2] and corners[1] <= corners[3]:
                    self._draw.rectangle(corners, outline=colour, width=self._line + 2 * extra)

    def outline(self, region: Mask) -> None:
        """Draws the border of a region (H, W), on its inside."""
        shape = Image.fromarray(self._enlarged(region.astype(np.uint8) * 255))
        for extra, colour in ((1, _CASING), (0, _TRUTH)):
            grown = shape.filter(ImageFilter.MaxFilter(1 + 2 * extra))
            inside = shape.filter(ImageFilter.MinFilter(1 + 2 * (self._line + extra)))
            self.image.paste(colour, mask=ImageChops.subtract(grown, inside))

    def point(self, row: int, column: int, radius: float) -> None:
        """Draws a cross on a pixel of the photograph and a ring round it, at `radius` pixels."""
        x, y = ((place + 0.5) * self._factor for place in (column, row))
        arm, reach = 3 * self._line, radius * self._factor
        for extra, colour in ((2, _CASING), (0, _POINT)):
            end = arm + extra / 2
            width = self._line + extra
            self._draw.line((x - end, y, x + end, y), colour, width)
            self._draw.line((x, y - end, x, y + end), colour, width)
            outer = reach + extra / 2
            self._draw.ellipse(
                (x - outer, y - outer, x + outer, y + outer),
                outline=colour,
                width=max(1, self._line // 2) + extra,
            )

    def _enlarged(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return pixels.repeat(self._factor, axis=0).repeat(self._factor, axis=1)
