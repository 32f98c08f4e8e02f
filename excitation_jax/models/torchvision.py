"""The names in torchvision's state dicts of the networks that are here, too."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from .origins import Origin, Place, Release, kernel, vector
from .vgg import STAGES

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def release(family: str, places: Mapping[Place, tuple[int, ...]]) -> Release:
    """What torchvision's release of a network holds.

    Args:
        family: of the network, as in `ModelSpec.family`.
        places: the shape of every variable.
    """
    rename = _FAMILIES[family]
    origins: dict[Place, Origin] = {}
    for place, shape in places.items():
        _, *modules, leaf = place
        name = f"{rename('/'.join(modules))}.{_LEAVES[leaf]}"
        if leaf == "kernel":
            origins[place] = kernel(name, shape, dense=modules[-1].startswith("fc"))
        else:
            origins[place] = vector(name, shape)

    def ignored(name: str) -> bool:
        auxiliary = family == "googlenet" and name.startswith(("aux1.", "aux2."))
        return auxiliary or name.endswith(".num_batches_tracked")

    return Release(origins, ignored)


def _numbered(module: str) -> str:
    """layer1_0/downsample_1 -> layer1.0.downsample.1: members of a list have a number there."""
    return ".".join(re.sub(r"_(\d+)$", r".\1", part) for part in module.split("/"))


def _vgg16(module: str) -> str:
    dense = {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}
    if module in dense:
        return dense[module]
    stage, number = map(int, module.removeprefix("conv").split("_"))
    # Each convolution is followed by a ReLU, each stage by a pooling.
    before = sum(2 * depth + 1 for _, depth in STAGES[: stage - 1])
    return f"features.{before + 2 * (number - 1)}"


def _squeezenet(pooled: tuple[int, ...]) -> Callable[[str], str]:
    parts = {"conv1x1_1": "squeeze", "conv1x1_2": "expand1x1", "conv3x3_2": "expand3x3"}

    def rename(module: str) -> str:
        if module == "conv1":
            return "features.0"
        if module == "conv_final":
            return "classifier.1"
        fire, part = module.split("/")
        number = int(fire.removeprefix("fire"))
        # fire2 is behind conv1, its ReLU and a pooling.
        index = number + 1 + sum(number > other for other in pooled)
        return f"features.{index}.{parts[part]}"

    return rename


_FAMILIES: dict[str, Callable[[str], str]] = {
    "googlenet": _numbered,
    "resnet": _numbered,
    "squeezenet_v1_0": _squeezenet(pooled=(4, 8)),
    "squeezenet_v1_1": _squeezenet(pooled=(3, 5)),
    "vgg16": _vgg16,
}
