"""Combining attention maps: means over layers, mirror images and scales; smoothing.

On arrays: `normalised`, `arithmetic_mean` and `geometric_mean`.

On methods: `over_layers`, `over_flips`, `over_scales` and `smoothed` make a saliency method of one.
A method is any function ``method(model_fn, params, x, target, *, layer, **options)`` that returns
maps (N, [K,] h, w), such as `excitation_jax.attention_map` and those of `excitation_jax.methods`,
and so is what they return. They nest, inside `jax.jit` too:

    method = smoothed(over_flips(over_layers(ej.attention_map, ["block8", "block11"])), 0.04)
    maps = jax.jit(functools.partial(method, model_fn))(params, x, target)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from . import arrays

Method = Callable[..., jax.Array]
Mean = Callable[[Sequence[jax.Array], tuple[int, int]], jax.Array]

#: What is added to the values of a geometric mean, as a share of the mean of a map.
FLOOR = 0.01


def normalised(maps: jax.Array) -> jax.Array:
    """The positive part of maps (..., h, w), scaled so that each map sums to one.

    A map without a positive value becomes zero. In float32 at least.

    Raises ValueError where maps has fewer than two axes.

    >>> normalised(jnp.array([[3.0, -2.0], [0.0, 1.0]])).tolist()
    [[0.75, 0.0], [0.0, 0.25]]
    """
    maps = jnp.asarray(maps)
    if maps.ndim < 2:
        raise ValueError(f"maps must be (..., height, width), got shape {maps.shape}")
    positive = jnp.maximum(maps.astype(jnp.promote_types(maps.dtype, jnp.float32)), 0)
    # First by the maximum: the sum of very small values is too small to divide by.
    for measure in (jnp.max, jnp.sum):
        unit = measure(positive, axis=(-2, -1), keepdims=True)
        positive = positive / jnp.where(unit == 0, 1, unit)
    return positive


def arithmetic_mean(maps: Sequence[jax.Array], size: tuple[int, int]) -> jax.Array:
    """The mean of several maps (..., h_i, w_i), each resized to size and `normalised`.

    Returns (..., H, W), which sums to one where every map has a positive value.

    Raises ValueError where there is no map, leading axes differ or size is not positive.

    >>> arithmetic_mean([jnp.array([[1.0, 3.0]]), jnp.array([[2.0, 0.0]])], (1, 2)).tolist()
    [[0.625, 0.375]]
    """
    return _fitted(maps, size).mean(axis=0)


def geometric_mean(maps: Sequence[jax.Array], size: tuple[int, int]) -> jax.Array:
    """The geometric mean of several maps (..., h_i, w_i), each resized to size and `normalised`.

    High where all maps are: with p_i the normalised maps, it is exp(mean_i log(p_i + f)) - f,
    where f is `FLOOR` times the mean of a map, 1 / (H W). Contrastive maps are zero in many
    places; without f, a zero in one layer would leave nothing of the others. Being added, f
    keeps the order of values however small they are, and a map that is zero everywhere changes
    no order at all. Being taken off again, it leaves equal maps as they are, and zero where all
    are zero.

    Returns (..., H, W), nowhere above the arithmetic mean.

    Raises ValueError where there is no map, leading axes differ or size is not positive.

    >>> mean = geometric_mean([jnp.array([[1.0, 3.0]]), jnp.array([[1.0, 0.0]])], (1, 2))
    >>> [round(value, 3) for value in mean[0].tolist()]
    [0.501, 0.056]
    """
    fitted = _fitted(maps, size)
    floor = FLOOR / (size[0] * size[1])
    # In terms of p / f, lest small values be lost in the difference.
    return floor * jnp.expm1(jnp.log1p(fitted / floor).mean(axis=0))


def over_layers(
    method: Method, layers: Sequence[str | None], mean: Mean = geometric_mean
) -> Method:
    """A method that reads several layers and averages their maps.

    Args:
      method: the method that is called for each layer. In `jax.jit` the forward pass, and what
        else the calls have in common, is computed once.
      layers: their names, or what else the method takes for ``layer``.
      mean: `geometric_mean`, `arithmetic_mean` or a function like them.

    Returns:
      A method whose maps have the height of the highest of the layers' maps and the width of the
      widest. Its own ``layer`` can only be "auto", the default, which stands for these layers.

    Raises:
      ValueError: no layers, or, when called, another ``layer``.
      TypeError: ``layers`` is a string.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import excitation_jax as ej
      >>> from excitation_jax.combine import over_layers
      >>> def model(w, x):
      ...     x = ej.tag(jax.nn.relu(jax.lax.conv(x, w[0], (1, 1), "SAME")), "low")
      ...     x = ej.tag(jax.nn.relu(jax.lax.conv(x, w[0], (2, 2), "SAME")), "high")
      ...     return x.mean((2, 3)) @ w[1]
      >>> w = (jnp.ones((3, 3, 2, 2)), jnp.ones((3, 5)))
      >>> method = over_layers(ej.attention_map, ["low", "high"])
      >>> method(model, w, jnp.ones((1, 3, 8, 8)), 0, contrastive=False).shape
      (1, 8, 8)
    """
    if isinstance(layers, str):
        raise TypeError(f"layers must be a sequence of names, not the string {layers!r}")
    names = tuple(layers)
    if not names:
        raise ValueError("layers names no layer")

    def combined(
        model_fn: Any,
        params: Any,
        x: Any,
        target: Any,
        *,
        layer: str | None = "auto",
        **options: Any,
    ) -> jax.Array:
        if layer != "auto":
            raise ValueError(
                f"this method reads the layers {', '.join(map(str, names))}, not {layer!r}"
            )
        found = [method(model_fn, params, x, target, layer=name, **options) for name in names]
        return mean(found, _largest(found))

    return combined


def over_flips(method: Method, axis: int = -2) -> Method:
    """A method that averages the map and the mirror image's map, mirrored back.

    Args:
      method: the method that is called for the images and for their mirror images.
      axis: the axis of ``x`` along which rows run from left to right: -2 for images
        (N, H, W, C), -1 for (N, C, H, W).

    Returns:
      A method with maps of the same shape. A floating ``target`` with a value for each place of a
      score map is not mirrored: name the class instead.

    Raises:
      ValueError: when called, ``x`` has no such axis, or it is the batch's.

    Example:
      >>> import jax.numpy as jnp
      >>> from excitation_jax.combine import over_flips
      >>> def left(model_fn, params, x, target):
      ...     return x[..., 0].at[:, :, 1:].set(0.0)
      >>> over_flips(left)(None, None, jnp.ones((1, 1, 3, 1)), 0).tolist()
      [[[0.5, 0.0, 0.5]]]
    """

    def combined(model_fn: Any, params: Any, x: Any, target: Any, **options: Any) -> jax.Array:
        _check_axes(x, (axis,))
        mirrored = method(model_fn, params, jnp.flip(x, axis), target, **options)
        return (method(model_fn, params, x, target, **options) + mirrored[..., ::-1]) / 2

    return combined


def over_scales(
    method: Method,
    scales: Sequence[float],
    *,
    mean: Mean = arithmetic_mean,
    axes: tuple[int, int] = (-3, -2),
) -> Method:
    """A method that averages the maps of the images at several scales.

    Args:
      method: the method that is called for each scale. The model must take images of these sizes.
      scales: factors of height and width. Images are resized bilinearly, with antialiasing.
      mean: `arithmetic_mean`, `geometric_mean` or a function like them. Both normalise: the values
        of a distribution over fewer cells are higher, and would count for more.
      axes: height and width of ``x``: (-3, -2) for images (N, H, W, C), (-2, -1) for (N, C, H, W).

    Returns:
      A method whose maps have the size of the first scale's. A ``target`` with a value for each
      place of a score map fits one scale only: name the class instead.

    Raises:
      ValueError: no scales, or one that is not positive and finite; when called, ``x`` has no such
        axes, or one is the batch's.

    Example:
      >>> import jax.numpy as jnp
      >>> from excitation_jax.combine import over_scales
      >>> def bright(model_fn, params, x, target):
      ...     return x[..., 0]
      >>> over_scales(bright, [0.5, 1, 2])(None, None, jnp.ones((1, 4, 8, 1)), 0).shape
      (1, 2, 4)
    """
    factors = tuple(scales)
    if not factors:
        raise ValueError("scales holds no factor")
    if not all(0 < factor < math.inf for factor in factors):
        raise ValueError(f"scales must be positive and finite, got {factors}")

    def combined(model_fn: Any, params: Any, x: Any, target: Any, **options: Any) -> jax.Array:
        _check_axes(x, axes)
        found = []
        for factor in factors:
            shape = list(jnp.shape(x))
            for axis in axes:
                shape[axis] = max(round(shape[axis] * factor), 1)
            resized = jax.image.resize(x, shape, method="bilinear")
            found.append(method(model_fn, params, resized, target, **options))
        return mean(found, _size(found[0]))

    return combined


def smoothed(method: Method, sigma: float) -> Method:
    """A method whose maps are blurred.

    Args:
      method: the method that is called.
      sigma: standard deviation of the Gaussian, as a share of the map's longer side; see
        `excitation_jax.maps.blur`.

    Returns:
      A method with maps of the same shape and sum.

    Raises:
      ValueError: sigma is negative or not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from excitation_jax.combine import smoothed
      >>> def middle(model_fn, params, x, target):
      ...     return jnp.zeros((1, 25, 25)).at[0, 12, 12].set(1.0)
      >>> round(float(smoothed(middle, 0.04)(None, None, None, 0)[0, 12, 12]), 3)
      0.159
    """
    if not 0 <= sigma < math.inf:
        raise ValueError(f"sigma must be finite and not negative, got {sigma}")

    def combined(model_fn: Any, params: Any, x: Any, target: Any, **options: Any) -> jax.Array:
        sharp = method(model_fn, params, x, target, **options)
        return arrays.blur(sharp, sigma * max(_size(sharp)))

    return combined


def _fitted(maps: Sequence[jax.Array], size: tuple[int, int]) -> jax.Array:
    """Maps as one array (M, ..., H, W) of distributions."""
    resized = [arrays.resize(one, size) for one in maps]
    if not resized:
        raise ValueError("there is no map to average")
    leading = [one.shape[:-2] for one in resized]
    if len(set(leading)) > 1:
        raise ValueError(f"maps must share their leading axes, and have {leading}")
    return normalised(jnp.stack(resized))


def _size(maps: jax.Array) -> tuple[int, int]:
    return maps.shape[-2], maps.shape[-1]


def _largest(maps: Sequence[jax.Array]) -> tuple[int, int]:
    heights, widths = zip(*map(_size, maps), strict=True)
    return max(heights), max(widths)


def _check_axes(x: Any, axes: Sequence[int]) -> None:
    rank = jnp.ndim(x)
    for axis in axes:
        if not -rank < axis < rank or axis == 0:
            raise ValueError(
                f"axis {axis} of x is no side of an image: x has shape {jnp.shape(x)}, the batch "
                "first"
            )
