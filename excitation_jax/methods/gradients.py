"""Gradients, and the pseudo-gradients of DeconvNet and guided backprop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..explain.layer_table import spatial_map
from ..explain.prepared import prepare
from ..explain.targets import Target
from ..explain.top_down import top_down
from ..rules.gradient import DECONVNET, GRADIENT, GUIDED
from ..rules.ruleset import RuleSet
from .passes import Passes, check_one_array

ModelFunction = Callable[[Any, Any], Any]


def gradient(
    model_fn: ModelFunction, params: Any, x: Any, target: Target, *, layer: str | None = None
) -> jax.Array:
    """The largest absolute slope of the target's score over the channels (Simonyan et al. 2014).

    Args:
      model_fn, params, x, target: as in `excitation_jax.excitation_vjp`. A target that is no single
        unit stands for the score ``sum(P(A0) * outputs)``.
      layer: where the slope is taken: None for the input, or as in `excitation_jax.attention_map`.

    Returns:
      (N, H, W), or (N, K, H, W) for K targets, at the layer's own resolution.

    Raises:
      As `excitation_jax.attention_map`.

    >>> import jax, jax.numpy as jnp
    >>> from excitation_jax import methods
    >>> def model(w, x):
    ...     return jax.nn.relu(jax.lax.conv(x, w, (1, 1), "SAME")).mean((2, 3))
    >>> w, x = jnp.ones((5, 3, 1, 1)), jnp.ones((2, 3, 4, 4))
    >>> methods.gradient(model, w, x, 0)[0, 0, 0]
    Array(0.0625, dtype=float32)
    """
    return _largest_slope(model_fn, params, x, target, layer, GRADIENT)


def deconvnet(
    model_fn: ModelFunction, params: Any, x: Any, target: Target, *, layer: str | None = None
) -> jax.Array:
    """DeconvNet (Zeiler and Fergus 2014): a ReLU passes the positive part of the signal.

    Arguments, result and errors are those of `gradient`. ReLUs are the maxima with 0
    (`jax.nn.relu`; see rectifiers.py); other activations have their own gradient.
    """
    return _largest_slope(model_fn, params, x, target, layer, DECONVNET)


def guided_backprop(
    model_fn: ModelFunction, params: Any, x: Any, target: Target, *, layer: str | None = None
) -> jax.Array:
    """Guided backprop (Springenberg et al. 2015): DeconvNet's rule where the unit is active.

    Arguments, result and errors are those of `deconvnet`.
    """
    return _largest_slope(model_fn, params, x, target, layer, GUIDED)


def _largest_slope(
    model_fn: ModelFunction, params: Any, x: Any, target: Target, layer: str | None, rules: RuleSet
) -> jax.Array:
    return top_down(model_fn, params, x, target, layer, rules=rules).map(largest)


def largest(slopes: jax.Array, axis: tuple[int, ...]) -> jax.Array:
    """The largest absolute value along some axes."""
    return jnp.abs(slopes).max(axis)


def linear_approximation(
    model_fn: ModelFunction, params: Any, x: Any, target: Target, *, layer: str | None = "auto"
) -> jax.Array:
    """Activation times gradient, summed over channels; signed.

    Arguments, result and errors are those of `gradient`.
    """
    found = top_down(model_fn, params, x, target, layer, rules=GRADIENT, keep=True)
    return spatial_map(found.value * found.share, found.prepared.read[0])


def input_x_gradient(
    model_fn: ModelFunction, params: Any, x: Any, target: Target, *, layer: str | None = None
) -> jax.Array:
    """`linear_approximation` at the input (Shrikumar et al. 2017)."""
    return linear_approximation(model_fn, params, x, target, layer=layer)


def smoothgrad(
    model_fn: ModelFunction,
    params: Any,
    x: jax.Array,
    target: Target,
    *,
    layer: str | None = None,
    samples: int = 25,
    noise: float = 0.15,
    key: jax.Array | None = None,
) -> jax.Array:
    """SmoothGrad (Smilkov et al. 2017): the gradient's mean over noisy copies of the input.

    Args:
      model_fn, params, x, target, layer: as in `gradient`; x is one array.
      samples: number of copies.
      noise: standard deviation, as a share of the range of each image's values. All images of a
        batch get the same noise, so that a map does not depend on the others.
      key: a `jax.random.key`; ``key(0)`` unless given.

    Returns:
      As `gradient`: the largest absolute value of the mean over the channels.

    Raises:
      As `gradient`; ValueError for fewer than one sample or negative noise; TypeError for integers.
    """
    check_one_array(x)
    if samples < 1 or noise < 0:
        raise ValueError(f"needs samples >= 1 and noise >= 0, got {samples} and {noise}")
    key = jax.random.key(0) if key is None else key
    names = () if layer is None else (layer,)
    prepared = prepare(model_fn, (params, x), names, False, GRADIENT)
    passes = Passes(model_fn, params, x, target)
    options = {"layer": layer, "noise": float(noise), "batch_axes": prepared.target_axis}
    keys = jax.random.split(key, samples)
    total = passes.checked(passes.sum(_noisy_slope, keys, passes.prior(), **options))
    return spatial_map(total / samples, prepared.read[0], largest)


def _noisy_slope(
    model_fn: ModelFunction,
    params: Any,
    x: jax.Array,
    target: Target,
    key: jax.Array,
    prior: Any,
    layer: str | None,
    noise: float,
    batch_axes: int,
) -> jax.Array:
    each = tuple(range(batch_axes, x.ndim))
    spread = noise * (x.max(each, keepdims=True) - x.min(each, keepdims=True))
    noisy = x + spread * jax.random.normal(key, x.shape[batch_axes:], x.dtype)
    return top_down(model_fn, params, noisy, lambda _: prior, layer, rules=GRADIENT).share


def integrated_gradients(
    model_fn: ModelFunction,
    params: Any,
    x: jax.Array,
    target: Target,
    *,
    layer: None = None,
    steps: int = 32,
    baseline: jax.Array | float = 0.0,
) -> jax.Array:
    """Integrated gradients (Sundararajan et al. 2017), summed over channels; signed.

    The map sums to the difference of the target's scores at the input and at the baseline, but for
    the error of the midpoint rule.

    Args:
      model_fn, params, x, target: as in `gradient`; x is one array.
      layer: None: the method is defined at the input only.
      steps: number of points on the way from the baseline.
      baseline: broadcastable to x. 0 is the mean colour where the pre-processing takes it off.

    Returns:
      As `gradient`.

    Raises:
      As `gradient`; ValueError for a layer or fewer than one step; TypeError for integers.
    """
    check_one_array(x)
    if layer is not None:
        raise ValueError(f"integrated gradients are defined at the input, not at layer {layer!r}")
    if steps < 1:
        raise ValueError(f"needs steps >= 1, got {steps}")
    baseline = jnp.broadcast_to(jnp.asarray(baseline, x.dtype), jnp.shape(x))
    positions = (jnp.arange(steps) + 0.5) / steps
    prepared = prepare(model_fn, (params, x), (), False, GRADIENT)
    passes = Passes(model_fn, params, x, target)
    total = passes.checked(passes.sum(_slope_between, positions, passes.prior(), baseline))
    way = x - baseline
    if total.ndim > way.ndim:
        way = jnp.expand_dims(way, prepared.target_axis)
    return spatial_map(way * total / steps, prepared.read[0])


def _slope_between(
    model_fn: ModelFunction,
    params: Any,
    x: jax.Array,
    target: Target,
    position: jax.Array,
    prior: Any,
    baseline: jax.Array,
) -> jax.Array:
    between = baseline + position.astype(x.dtype) * (x - baseline)
    return top_down(model_fn, params, between, lambda _: prior, None, rules=GRADIENT).share
