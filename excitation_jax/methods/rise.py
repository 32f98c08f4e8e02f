"""RISE (Petsiuk et al., BMVC 2018): what a black box says of randomly masked copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..explain.prepared import prepare
from ..explain.targets import Target
from ..program import compat
from ..rules.gradient import GRADIENT
from .gradients import ModelFunction
from .passes import Passes, check_one_array


def rise(
    model_fn: ModelFunction,
    params: Any,
    x: jax.Array,
    target: Target,
    *,
    layer: None = None,
    masks: int = 4000,
    cells: int = 7,
    kept: float = 0.5,
    scores: Callable[[jax.Array], jax.Array] = jax.nn.softmax,
    key: jax.Array | None = None,
) -> jax.Array:
    """The mean of random masks, weighted by the target's score under each: (N, [K,] H, W).

    ``sum_m s(x * m) m / (masks * kept)``; a mask is a random grid of zeros and ones, bilinearly
    enlarged and shifted. What is masked is 0, the mean colour where the pre-processing takes that
    off.

    Args:
      model_fn, params, x, target: as in `gradient`; x is one array. Nothing is differentiated: the
        model may be any function that JAX can run, and costs ``masks`` forward passes.
      layer: None: the map is one of the input.
      masks, cells, kept: how many masks, of how many cells along a side, each kept with what
        probability.
      scores: turns the outputs into scores; `jax.nn.sigmoid` for independent classes.
      key: a `jax.random.key`; ``key(0)`` unless given.

    Raises:
      ValueError: a layer; options out of range; an input without two spatial axes; a model that
        returns more than one array, or what is not finite; and as `excitation_jax.top_down_signal`.
      TypeError: x holds integers, which cannot be masked in part.
    """
    if layer is not None:
        raise ValueError(f"RISE masks the input, and has no map of layer {layer!r}")
    if masks < 1 or cells < 1 or not 0 < kept < 1:
        raise ValueError(
            f"needs masks >= 1, cells >= 1 and 0 < kept < 1, got {masks}, {cells} and {kept}"
        )
    check_one_array(x)
    key = jax.random.key(0) if key is None else key
    (image,) = prepare(model_fn, (params, x), (), False, GRADIENT, require_rules=False).read
    if len(image.spatial_axes) != 2:
        raise ValueError(f"RISE needs two spatial axes, and x has {len(image.spatial_axes)}")
    passes = Passes(model_fn, params, x, target)
    prior, several = passes.prior_of_scores()
    options = {
        "axes": image.spatial_axes,
        "cells": cells,
        "kept": kept,
        "scores": scores,
        "several": several,
    }
    total = passes.sum(_scored_mask, jax.random.split(key, masks), prior, **options)
    return passes.checked(total / (masks * kept))


def _scored_mask(
    model_fn: ModelFunction,
    params: Any,
    x: jax.Array,
    target: Target,
    key: jax.Array,
    prior: jax.Array,
    axes: tuple[int, int],
    cells: int,
    kept: float,
    scores: Callable[[jax.Array], jax.Array],
    several: bool,
) -> jax.Array:
    height, width = (x.shape[axis] for axis in axes)
    mask = _mask(key, (height, width), cells, kept)
    placed = [{axes[0]: height, axes[1]: width}.get(axis, 1) for axis in range(x.ndim)]
    found = scores(model_fn(params, x * mask.reshape(placed).astype(x.dtype)))
    batch_axes = int(found.ndim > 1)
    found = jnp.expand_dims(found, batch_axes) if several else found
    axes_of_scores = tuple(range(batch_axes + several, prior.ndim))
    score = compat.kept_apart((found * prior).sum(axes_of_scores))
    return score[..., None, None] * mask


def _mask(key: jax.Array, size: tuple[int, int], cells: int, kept: float) -> jax.Array:
    """A grid of zeros and ones, enlarged by one cell more than the image, and cut out of it."""
    grid_key, *shift_keys = jax.random.split(key, 3)
    cell = [-(-side // cells) for side in size]
    grid = jax.random.bernoulli(grid_key, kept, (cells, cells)).astype(jnp.float32)
    large = jax.image.resize(grid, [(cells + 1) * side for side in cell], "linear")
    shift = [jax.random.randint(k, (), 0, side) for k, side in zip(shift_keys, cell, strict=True)]
    return lax.dynamic_slice(large, shift, size)
