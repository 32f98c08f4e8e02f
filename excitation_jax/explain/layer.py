"""A layer: a value of a model that has a name and can be read."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from ..maps.arrays import Grid
from ..program.trace import Value


@dataclass(frozen=True)
class Layer:
    """A value that `excitation_vjp` can read.

    Attributes:
      name: module path, tag, or for unnamed operations what made it; a repeated name gets #2.
      shape, dtype: of the value; inside a loop, with a leading axis of its steps.
      stride: input pixels per step along each spatial axis (a `Fraction` where it is below 1);
        negative where the model has turned the axis round.
      offset: where the first cell lies along each spatial axis: the centre of its receptive field,
        padding counted, in input pixels, of which the first one's centre is 0. Of a sum of branches
        that differ it is midway between the lowest and the highest centre; None where it is not
        known.
      lower_bound: lambda of Eq. 20; -inf for a value that is not an activation.
      spatial_axes: positions of the axes that run along the image, in the image's order.
      batch_axis: position of the axis along which the examples lie; None where there is none.
      steps: number of leading axes of loops' steps.
      extent: pixels of the input along each spatial axis.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    stride: tuple[Fraction, ...]
    offset: tuple[Fraction | None, ...]
    lower_bound: float
    spatial_axes: tuple[int, ...]
    batch_axis: int | None
    steps: int
    extent: tuple[int, ...]
    value: Value = field(repr=False, compare=False)

    @property
    def grid(self) -> Grid | None:
        """Where the cells of a map of this layer lie, for `excitation_jax.maps.resize`.

        None where that is not known, or the layer has no two spatial axes.
        """
        known = [float(offset) for offset in self.offset if offset is not None]
        if len(self.stride) != 2 or len(known) != 2:
            return None
        rows, columns = map(float, self.stride)
        return Grid((rows, columns), (known[0], known[1]), (self.extent[0], self.extent[1]))


class LayerTable(list[Layer]):
    """A list of layers, from the input to the output, that prints as a table.

    Attributes:
      auto: the layer that layer="auto" reads; None where the model has none.
      last, top: those that layer="last" and layer="top" read, likewise.
      aliases: further names, of modules whose value is also that of the module around them.
    """

    auto: Layer | None = None
    last: Layer | None = None
    top: Layer | None = None
    aliases: dict[str, Layer]

    def __str__(self) -> str:
        rows = [("layer", "shape", "stride", "offset", "lower bound")]
        for layer in self:
            stride = "x".join(str(s) for s in layer.stride) or "-"
            offset = "x".join("?" if at is None else f"{float(at):.4g}" for at in layer.offset)
            shape = "x".join(map(str, layer.shape))
            row = (layer.name, shape, stride, offset or "-", f"{layer.lower_bound:.4g}")
            rows.append(row)
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
        if self.auto is not None:
            lines.append(f'layer="auto" reads {self.auto.name}')
        return "\n".join(line.rstrip() for line in lines)

    __repr__ = __str__
