"""A network, its inputs and its reference maps, ready to compare."""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from .conversion import convert
from .torchvision import ARCHITECTURES, Tag, untagged


@dataclass(frozen=True)
class Oracle:
    """What <arch>_seed0.npz describes.

    Attributes:
        model, variables: `model.apply(variables, x)` gives the logits.
        x: (N, 224, 224, 3).
        target: (N,) classes.
        arrays: the file's arrays by name, such as "mwp:layer3"; float64 as stored.
        layers: the tagged layers that have MWP and c-MWP maps, the highest first.
        contrast_layer: the tagged layer at which the contrastive signal starts.
        meta: the file's other records.
    """

    arch: str
    model: nn.Module
    variables: dict[str, Any]
    x: jax.Array
    target: np.ndarray
    arrays: dict[str, np.ndarray]
    layers: tuple[str, ...]
    contrast_layer: str
    meta: dict[str, Any]


def load_oracle(
    arch: str, folder: Path | str, dtype: Any = jnp.float32, tag: Tag = untagged
) -> Oracle:
    """The oracle of `arch` from `folder`, with weights and images made anew by its recipe.

    Args:
        arch: a name in `ARCHITECTURES`.
        folder: holds recipe.py and <arch>_seed0.npz.
        dtype: of variables and inputs; the numbers are float32's, so float64 adds none.
        tag: what the model calls on the values in `layers`.
    """
    folder = Path(folder)
    recipe = _import_recipe(folder / "recipe.py")
    with np.load(folder / f"{arch}_seed0.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    meta = json.loads(arrays["meta"].item())
    shapes = dict(zip(arrays["param_names"].tolist(), meta["param_shapes"], strict=True))
    state_dict = recipe.generate(shapes, meta["seed"], meta["mixed_bn"])
    count, _, size, _ = arrays["input_shape"].tolist()
    image = recipe.image(arrays["image_seed"].item(), count, size)
    return Oracle(
        arch=arch,
        model=ARCHITECTURES[arch](tag=tag),
        variables=convert(arch, state_dict, dtype),
        x=jnp.asarray(image.transpose(0, 2, 3, 1), dtype),
        target=arrays["target"],
        arrays=arrays,
        layers=tuple(meta["layers"]),
        contrast_layer=meta["contrast_layer"],
        meta=meta,
    )


def _import_recipe(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("oracle_recipe", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot import {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
