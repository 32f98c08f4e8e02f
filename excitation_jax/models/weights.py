"""Weights of one network from an .npz file that holds these and nothing else."""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .weight_files import read_expected


def load_npz(path: str | os.PathLike[str], expected: Any) -> Any:
    """The arrays of an .npz file as a pytree, after checking that they are the expected ones.

    Args:
        path: a file written by `numpy.savez` or `numpy.savez_compressed`. An array's name is its
            path in `expected`, joined by "/", such as "conv1/kernel".
        expected: a pytree of `jax.ShapeDtypeStruct`, as `jax.eval_shape(model.init, ...)` gives.

    Returns:
        A pytree like `expected`, of `jax.Array`.

    Raises:
        FileNotFoundError, ValueError: see `weight_files.read_expected`; or a value is NaN or
            infinite (the arrays with such values are listed).
    """
    places, treedef = jax.tree_util.tree_flatten_with_path(expected)
    wanted = {jax.tree_util.keystr(keys, simple=True, separator="/"): leaf for keys, leaf in places}
    arrays = read_expected(path, wanted)
    infinite = [name for name in wanted if not np.isfinite(arrays[name]).all()]
    if infinite:
        raise ValueError(
            f"{path} holds NaN or infinite values in {', '.join(infinite)}: the weights are "
            f"unusable, download or train them again"
        )
    leaves = [jnp.asarray(arrays[name], arrays[name].dtype) for name in wanted]
    return jax.tree_util.tree_unflatten(treedef, leaves)
