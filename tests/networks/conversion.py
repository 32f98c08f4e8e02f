"""From a PyTorch state dict to Flax variables."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from .torchvision import ARCHITECTURES

# The dense layers that read a flattened feature map, and that map's (C, H, W).
FLATTENED = {
    ("alexnet", "classifier.1.weight"): (256, 6, 6),
    ("vgg16", "classifier.0.weight"): (512, 7, 7),
}

LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


@dataclass(frozen=True)
class Parameter:
    """An entry of a PyTorch state dict: its shape, and its path in the Flax variables."""

    path: tuple[str, ...]
    shape: tuple[int, ...]


@functools.cache
def parameters(arch: str) -> dict[str, Parameter]:
    """Every entry of the architecture's PyTorch state dict, but for num_batches_tracked.

    Read off the Flax module, whose names are PyTorch's with ``_`` before a number.
    """
    model = ARCHITECTURES[arch]()
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    found = {}
    for path, leaf in flax.traverse_util.flatten_dict(variables).items():
        modules = [re.sub(r"_(\d+)$", r".\1", part) for part in path[1:-1]]
        name = ".".join([*modules, LEAVES.get(path[-1], path[-1])])
        found[name] = Parameter(path, _to_torch_order(leaf.shape))
    return found


def _to_torch_order(shape: tuple[int, ...]) -> tuple[int, ...]:
    """HWIO to OIHW, (in, out) to (out, in)."""
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]


def convert(
    arch: str, state_dict: Mapping[str, np.ndarray], dtype: Any = jnp.float32
) -> dict[str, Any]:
    """Flax variables from a PyTorch-layout state dict of numpy arrays.

    Args:
        arch: a name in `ARCHITECTURES`.
        state_dict: convolutions OIHW, dense layers (out, in); num_batches_tracked is not read.
        dtype: of every variable; float64 needs jax_enable_x64.

    Returns:
        {'params': ...} and, for networks with BatchNorm, 'batch_stats', as `Module.apply` wants.

    Raises:
        ValueError: listing every missing, unexpected and mis-shaped name.
    """
    expected = parameters(arch)
    given = {n: v for n, v in state_dict.items() if not n.endswith(".num_batches_tracked")}
    problems = [f"missing {n}" for n in expected if n not in given]
    problems += [f"unexpected {n}" for n in given if n not in expected]
    problems += [
        f"mis-shaped {n}: {np.shape(given[n])}, expected {p.shape}"
        for n, p in expected.items()
        if n in given and np.shape(given[n]) != p.shape
    ]
    if problems:
        raise ValueError(f"this is not a state dict of {arch}: " + "; ".join(problems))

    flat = {}
    for name, parameter in expected.items():
        value = given[name]
        if value.ndim == 4:
            value = value.transpose(2, 3, 1, 0)
        elif value.ndim == 2:
            chw = FLATTENED.get((arch, name))
            if chw:
                # PyTorch flattens (C, H, W), the Flax network (H, W, C).
                value = value.reshape(-1, *chw).transpose(0, 2, 3, 1).reshape(value.shape)
            value = value.T
        flat[parameter.path] = jnp.asarray(value, dtype)
    return flax.traverse_util.unflatten_dict(flat)
