"""The names of layers and blobs in the Caffe releases of the networks that are here, too.

A blob is named by its layer and its number there: "conv1/0" is conv1's kernel, "conv1/1" its bias.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np

from .origins import Origin, Place, Release, kernel, vector


def release(family: str, places: Mapping[Place, tuple[int, ...]]) -> Release:
    """What the Caffe release of a network holds.

    Args:
        family: of the network, as in `ModelSpec.family`.
        places: the shape of every variable.
    """
    rename = _FAMILIES[family]
    normalised = {place[1:-1] for place in places if place[0] == "batch_stats"}
    origins: dict[Place, Origin] = {}
    for place, shape in places.items():
        _, *modules, leaf = place
        layer = rename("/".join(modules))
        if tuple(modules) in normalised:
            origins[place] = _normalisation(layer, leaf, shape)
        elif leaf == "kernel":
            origins[place] = kernel(f"{layer}/0", shape, dense=modules[-1].startswith("fc"))
        else:
            origins[place] = vector(f"{layer}/1", shape)

    def ignored(name: str) -> bool:
        return family == "googlenet" and name.startswith(("loss1/", "loss2/"))

    return Release(origins, ignored, leading_axes=True)


def _normalisation(layer: str, leaf: str, shape: tuple[int, ...]) -> Origin:
    """A BatchNorm layer has the sums of means and variances and by what to divide them."""
    if leaf in ("mean", "var"):
        blob = {"mean": 0, "var": 1}[leaf]
        return Origin({f"{layer}/{blob}": shape, f"{layer}/2": (1,)}, _average)
    scale_layer = re.sub("^bn", "scale", layer)
    return vector(f"{scale_layer}/{0 if leaf == 'scale' else 1}", shape)


def _average(sums: np.ndarray, factor: np.ndarray) -> np.ndarray:
    # Caffe takes the statistics of a layer that has seen nothing to be zero.
    return np.zeros_like(sums) if factor[0] == 0 else sums / factor[0]


def _googlenet(module: str) -> str:
    whole = {"conv1": "conv1/7x7_s2", "conv2": "conv2/3x3_reduce", "conv3": "conv2/3x3"}
    branches = {
        "branch1": "1x1",
        "branch2_0": "3x3_reduce",
        "branch2_1": "3x3",
        "branch3_0": "5x5_reduce",
        "branch3_1": "5x5",
        "branch4_1": "pool_proj",
    }
    if module == "fc":
        return "loss3/classifier"
    block, *branch = module.removesuffix("/conv").split("/")
    if not branch:
        return whole[block]
    return f"inception_{block.removeprefix('inception')}/{branches[branch[0]]}"


def _resnet50(module: str) -> str:
    whole = {"conv1": "conv1", "bn1": "bn_conv1", "fc": "fc1000"}
    if module in whole:
        return whole[module]
    stage, number, part = re.fullmatch(r"layer(\d)_(\d)/(\w+)", module).groups()  # type: ignore[union-attr]
    block = f"{int(stage) + 1}{'abcdef'[int(number)]}"
    if part.startswith("downsample"):
        return f"{'res' if part == 'downsample_0' else 'bn'}{block}_branch1"
    return f"{'res' if part.startswith('conv') else 'bn'}{block}_branch2{' abc'[int(part[-1])]}"


def _squeezenet(module: str) -> str:
    parts = {"conv1x1_1": "squeeze1x1", "conv1x1_2": "expand1x1", "conv3x3_2": "expand3x3"}
    if module == "conv_final":
        return "conv10"
    fire, *part = module.split("/")
    return f"{fire}/{parts[part[0]]}" if part else fire


def _same(module: str) -> str:
    return module


_FAMILIES: dict[str, Callable[[str], str]] = {
    "cnn_s": _same,
    "googlenet": _googlenet,
    "resnet": _resnet50,
    "squeezenet_v1_0": _squeezenet,
    "squeezenet_v1_1": _squeezenet,
    "vgg16": _same,
}
