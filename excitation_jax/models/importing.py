"""Weights of other frameworks' releases as Flax variables.

    from excitation_jax import models

    spec = models.get("resnet50")
    variables = models.convert(spec, state_dict)            # numpy arrays by torchvision's names
    logits = spec.build().apply(variables, spec.preprocessing(image))

Which name in a release is which variable here is in `torchvision`, `timm` and `caffe`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from . import caffe, timm, torchvision
from .origins import Release
from .registry import ModelSpec

_RELEASES = {
    "torchvision": torchvision.release,
    "timm": timm.release,
    "caffe": caffe.release,
}


def convert(
    spec: ModelSpec,
    arrays: Mapping[str, np.ndarray],
    source: str = "torchvision",
    num_classes: int | Literal["own"] = "own",
) -> dict[str, Any]:
    """The variables of a registered network from the arrays of its release.

    Args:
        spec: which network, from `models.get`.
        arrays: by the names of the source. "torchvision": those of the state dict, as numpy
            arrays; num_batches_tracked and GoogLeNet's auxiliary classifiers are ignored. "timm":
            the same of timm's.
            "caffe": each layer's blobs as "layer/0", "layer/1", ...; auxiliary classifiers are
            ignored, a BatchNorm's scale factor divides its statistics, and the Scale layer behind
            it becomes its scale and bias. Nothing is said of the order of an image's channels:
            `spec.preprocessing` makes images in the order that the first layer was trained with.
        source: "torchvision", "timm" or "caffe".
        num_classes: of the release's classifier; "own" is `spec.num_classes`.

    Returns:
        {'params': ...} and, for networks with BatchNorm, 'batch_stats', of float32. They serve
        the dense and the fully convolutional form of `spec.build()`.

    Raises:
        ValueError: the network has no release in `source`; or names, shapes, dtypes or values
            do not fit. Every one that does not is listed, and nothing is converted.
    """
    if source not in spec.sources:
        own = "its own .npz file" if spec.load_npz else "a checkpoint"
        known = " or ".join(map(repr, spec.sources)) or f"{own} only: use models.load"
        raise ValueError(f"{spec.name} is not converted from {source!r}, but from {known}")
    expected = spec.expected(num_classes)
    places = {place: leaf.shape for place, leaf in traverse_util.flatten_dict(expected).items()}
    release = _RELEASES[source](spec.family, places)
    found, problems = _match(release, arrays)
    if problems:
        raise ValueError(
            f"these are not the weights of {spec.name} from {source}: use those made for this "
            f"network (mismatches: {len(problems)})\n  " + "\n  ".join(problems)
        )
    flat = {
        place: jnp.asarray(origin.make(*(found[name] for name in origin.shapes)), jnp.float32)
        for place, origin in release.origins.items()
    }
    return traverse_util.unflatten_dict(flat)


def _match(
    release: Release, arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays that the release needs, and a line for each that does not fit."""
    needed = {
        name: shape for origin in release.origins.values() for name, shape in origin.shapes.items()
    }
    found, problems = {}, []
    for name, shape in needed.items():
        if name not in arrays:
            problems.append(f"{name}: missing, expected {shape}")
            continue
        array = np.asarray(arrays[name])
        surplus = array.ndim - len(shape)
        if release.leading_axes and surplus > 0 and array.shape == (1,) * surplus + shape:
            array = array.reshape(shape)
        if array.shape != shape:
            problems.append(f"{name}: {array.shape}, expected {shape}")
        elif not jnp.issubdtype(array.dtype, jnp.floating):
            problems.append(f"{name}: {array.dtype}, expected floating point")
        elif not np.isfinite(array).all():
            problems.append(f"{name}: holds NaN or infinite values")
        else:
            found[name] = array
    problems += [
        f"{name}: unexpected" for name in arrays if name not in needed and not release.ignored(name)
    ]
    return found, problems
