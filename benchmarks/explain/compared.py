"""The maps that the pointing benchmarks compare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import excitation_jax as ej
from excitation_jax.maps import Grid

Maps = Callable[[jax.Array, jax.Array], jax.Array]


def methods(
    model_fn: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    layer: str,
    rules: ej.RuleSet = ej.EXCITATION,
) -> dict:
    """By name: functions of images (N, H, W, 3) and classes (N, K), to maps (N, K, h, w).

    The gradient's map is the largest absolute slope over the colour channels, at the pixels; the
    others are read at the layer.
    """

    def gradient(x: jax.Array, classes: jax.Array) -> jax.Array:
        scores, pull = jax.vjp(lambda x: model_fn(params, x), x)
        signals = jax.nn.one_hot(classes, scores.shape[-1], dtype=scores.dtype)
        slopes = jax.vmap(lambda signal: pull(signal)[0], in_axes=1, out_axes=1)(signals)
        return jnp.abs(slopes).max(axis=-1)

    def excitation(contrastive: bool) -> Maps:
        return lambda x, classes: ej.attention_map(
            model_fn, params, x, classes, layer=layer, contrastive=contrastive, rules=rules
        )

    return {"gradient": gradient, "MWP": excitation(False), "c-MWP": excitation(True)}


def grids(
    model_fn: Callable[[Any, jax.Array], jax.Array], params: Any, layer: str, images: Any
) -> dict[str, Grid | None]:
    """Where the cells of the methods' maps lie, by name; None where that is not known."""
    read = ej.methods.get("c-mwp").grid(model_fn, params, images, layer=layer)
    return {"gradient": Grid.plain(images.shape[1:3]), "MWP": read, "c-MWP": read}


def centres(cells: int, size: int, axis: int, grid: Grid | None) -> np.ndarray:
    """Where a map's cells lie along an axis of a picture of this size, from its edge, in pixels.

    grid: None for a plain tile.
    """
    found = grid or Grid.plain((cells, cells)).scaled((size, size))
    return np.arange(cells) * found.stride[axis] + found.offset[axis] + 0.5
