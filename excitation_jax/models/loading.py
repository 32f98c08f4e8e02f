"""A registered network with its weights, from whatever they are stored in.

from excitation_jax import models

model, variables = models.load("resnet50", "resnet50.safetensors")
model, variables = models.load("googlenet_caffe", "bvlc_googlenet.caffemodel")
model, variables = models.load("resnet50", "hub:timm/resnet50.a1_in1k")
model, variables = models.load("mobilenet_v2", "checkpoint_directory")
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import numpy as np

from . import weight_files
from .importing import convert
from .registry import ModelSpec, get

_HUB = "hub:"
_CAFFE_BLOB = re.compile(r"/\d+$")


def load(
    name: str,
    weights: str | os.PathLike[str],
    *,
    num_classes: int | Literal["own"] = "own",
    fully_convolutional: bool = False,
) -> tuple[nn.Module, dict[str, Any]]:
    """A network and its variables: ``model.apply(variables, x)``.

    Args:
      name: of the network, one of `names`.
      weights: an Orbax checkpoint's directory; a safetensors, .caffemodel or .npz file, recognised
        by its content; or "hub:org/name[/file][@revision]" on the Hugging Face hub.
      num_classes: that the weights have; "own" is the network's own number, or the one that the
        checkpoint's metadata tell.
      fully_convolutional: as in `ModelSpec.build`.

    Raises:
      FileNotFoundError: there is no such file or directory.
      ImportError: a package that the format needs is not installed.
      ValueError: there is no such network; or the weights are damaged, of another format, or of
        another network (every name and shape that does not fit is listed).
    """
    spec = get(name)
    path = _local(weights)
    if path.is_dir():
        variables, num_classes = _from_checkpoint(spec, path, num_classes)
    else:
        variables = _from_file(spec, path, num_classes)
    return spec.build(num_classes, fully_convolutional), variables


def _local(weights: str | os.PathLike[str]) -> Path:
    """The file or directory, fetched from the hub if it is there."""
    text = os.fspath(weights)
    if not text.startswith(_HUB):
        return Path(text)
    return weight_files.from_hub(*weight_files.parse_hub_id(text))


def _from_checkpoint(
    spec: ModelSpec, path: Path, num_classes: int | Literal["own"]
) -> tuple[dict[str, Any], int | Literal["own"]]:
    metadata = weight_files.metadata(path)
    made_for = metadata.get("model", spec.name)
    if made_for != spec.name:
        raise ValueError(f"{path} holds weights of {made_for}, not of {spec.name}")
    if num_classes == "own":
        num_classes = metadata.get("num_classes", "own")
    return weight_files.load(path, spec.expected(num_classes)).variables, num_classes


def _from_file(spec: ModelSpec, path: Path, num_classes: int | Literal["own"]) -> dict[str, Any]:
    if spec.load_npz is not None and _is_zip(path):
        return spec.load_npz(path)
    found = weight_files.read(path, float32=True)
    try:
        return convert(spec, found.arrays, _source(found.arrays), num_classes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _is_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(2) == b"PK"
    except OSError:
        return False  # `read` says what is wrong


def _source(arrays: Mapping[str, np.ndarray]) -> str:
    """Whose names these are."""
    if all(_CAFFE_BLOB.search(name) for name in arrays):
        return "caffe"
    return "timm" if "head.fc.weight" in arrays else "torchvision"
