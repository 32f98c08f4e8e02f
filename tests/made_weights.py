"""Files of weights, at random, for tests that only need some."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from excitation_jax import models
from excitation_jax.models import weight_files


def mobilenet(path: Path, seed: int = 0) -> Path:
    """Writes 8-bit weights of MobileNetV2."""
    rng = np.random.default_rng(seed)
    arrays = {}
    shapes = models.get("mobilenet_v2").expected()["params"]
    for place, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        name = jax.tree_util.keystr(place, simple=True, separator="/")
        if not name.endswith("kernel"):
            arrays[name] = np.zeros(leaf.shape, np.float32)
            continue
        shape = leaf.shape if len(leaf.shape) == 4 else (1, 1, *leaf.shape)
        arrays[f"{name}_int8"] = rng.integers(-127, 128, shape, dtype=np.int8)
        arrays[f"{name}_scale"] = np.full(shape[-1], 0.02 / np.prod(shape[:-1]) ** 0.5, np.float32)
    np.savez(path, **arrays)
    return path


def checkpoint(path: Path, name: str, seed: int = 0) -> Path:
    """Writes a checkpoint of a network of the registry, whose activations stay moderate."""
    rng, spec = np.random.default_rng(seed), models.get(name)

    def fill(place, leaf):
        kind = place[-1].key
        if kind == "kernel":
            deviation = np.sqrt(2 / np.prod(leaf.shape[:-1]))
            return rng.normal(0, deviation, leaf.shape).astype(np.float32)
        # The sums of residual networks would grow with every block.
        return np.full(leaf.shape, {"scale": 0.5, "var": 1}.get(kind, 0), np.float32)

    variables = jax.tree_util.tree_map_with_path(fill, spec.expected())
    weight_files.save(path, variables, {"model": name, "num_classes": spec.num_classes})
    return path
