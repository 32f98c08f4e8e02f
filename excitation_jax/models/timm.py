"""The names in timm's state dicts, where they are not torchvision's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from . import torchvision
from .origins import Origin, Place, Release

# Its VGG16 keeps the first two dense layers as convolutions.
_VGG16 = {
    "classifier.0": "pre_logits.fc1",
    "classifier.3": "pre_logits.fc2",
    "classifier.6": "head.fc",
}


def release(family: str, places: Mapping[Place, tuple[int, ...]]) -> Release:
    """What timm's release of a network holds; see `torchvision.release`."""
    found = torchvision.release(family, places)
    if family != "vgg16":
        return found
    origins = {place: _renamed(origin, places[place]) for place, origin in found.origins.items()}
    return Release(origins, found.ignored)


def _renamed(origin: Origin, shape: tuple[int, ...]) -> Origin:
    """The origin by timm's name; ``shape`` is the variable's."""
    ((name, stored),) = origin.shapes.items()
    module, _, leaf = name.rpartition(".")
    if module not in _VGG16:
        return origin
    name = f"{_VGG16[module]}.{leaf}"
    if leaf == "bias" or module == "classifier.6":
        return Origin({name: stored}, origin.make)
    window = shape[:2] if len(shape) == 4 else (1, 1)
    convolution = (shape[-1], shape[-2], *window)

    def make(array: np.ndarray) -> np.ndarray:
        return origin.make(array.reshape(stored))

    return Origin({name: convolution}, make)
