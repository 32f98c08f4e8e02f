"""What a Flax variable is made of: arrays of another framework's release, and how.

Both frameworks store convolutions as (out, in, height, width), dense layers as (out, in), and
flatten a feature map in the order of channels, rows, columns. Here kernels are (height, width,
in, out) and (in, out), and a dense layer that reads a whole feature map has a kernel (height,
width, in, out), too (see `heads.Dense`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

#: A path in the variables, such as ("params", "conv1", "kernel").
Place = tuple[str, ...]


@dataclass(frozen=True)
class Origin:
    """Where the values of a Flax variable come from.

    Attributes:
        shapes: of the release's arrays that it is made of, by name.
        make: the variable from these arrays, in their order.
    """

    shapes: dict[str, tuple[int, ...]]
    make: Callable[..., np.ndarray]


@dataclass(frozen=True)
class Release:
    """The names and shapes of one framework's release of a network.

    Attributes:
        origins: of every variable.
        ignored: whether a name of the release has no place in the network, and is left out.
        leading_axes: whether arrays may have further axes of length 1 in front, as the blobs of
            old Caffe files do.
    """

    origins: dict[Place, Origin]
    ignored: Callable[[str], bool]
    leading_axes: bool = False


def vector(name: str, shape: tuple[int, ...]) -> Origin:
    """A variable that is stored as it is, such as a bias."""
    return Origin({name: shape}, lambda array: array)


def kernel(name: str, shape: tuple[int, ...], dense: bool) -> Origin:
    """A kernel, whose `shape` here is (height, width, in, out) or (in, out).

    dense: it is stored as a matrix, even if it reads a whole feature map here.
    """
    if len(shape) == 2:
        return Origin({name: shape[::-1]}, np.transpose)
    height, width, inputs, outputs = shape
    stored = (outputs, inputs, height, width)

    def make(array: np.ndarray) -> np.ndarray:
        return array.reshape(stored).transpose(2, 3, 1, 0)

    return Origin({name: (outputs, inputs * height * width) if dense else stored}, make)
