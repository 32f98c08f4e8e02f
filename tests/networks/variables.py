"""Random variables for any network, made in numpy: no compilation, and activations stay alive."""

from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np


def random_variables(shapes: Any, seed: int = 0) -> Any:
    """Values for a pytree of shapes, as `Module.init` gives; {'params': ..., 'batch_stats': ...}.

    Kernels keep the size of what they read, norms are near the identity, biases are small.
    """
    random = np.random.default_rng(seed)
    values = {}
    for place, leaf in flax.traverse_util.flatten_dict(shapes).items():
        noise = random.standard_normal(leaf.shape, np.float32)
        if place[-1] == "kernel":
            values[place] = noise * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        elif place[-1] in ("scale", "var"):
            values[place] = 1 + 0.1 * np.abs(noise)
        else:
            values[place] = 0.02 * noise
    return flax.traverse_util.unflatten_dict(
        {place: jnp.asarray(value, jnp.float32) for place, value in values.items()}
    )
