"""Layers as people write them: convolutions, norms, pooling, sums and moves.

Entries as in `spelled_functions`: (what it needs, the function). All work on batches, channels
last, any number of spatial axes.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .layers import Window
from .neurons import EPSILON

Spelled = dict[str, tuple[str, Callable[..., Any]]]


def _letters(x: jax.Array) -> str:
    return "HWD"[: x.ndim - 2]


def _conv(x: jax.Array, w: jax.Array, window: Window, **changed: Any) -> jax.Array:
    letters = _letters(x)
    options = dict(
        window_strides=window.stride, padding=window.pads, rhs_dilation=window.dilation,
        feature_group_count=window.groups,
        dimension_numbers=("N" + letters + "C", letters + "IO", "N" + letters + "C"),
    ) | changed  # fmt: skip
    return lax.conv_general_dilated(x, w, **options)


def _conv_channels_first(x: jax.Array, w: jax.Array, window: Window) -> jax.Array:
    letters = _letters(x)
    numbers = ("NC" + letters, "OI" + letters, "NC" + letters)
    kernel = jnp.moveaxis(w, (-1, -2), (0, 1))
    y = _conv(jnp.moveaxis(x, -1, 1), kernel, window, dimension_numbers=numbers)
    return jnp.moveaxis(y, 1, -1)


def _padded(x: jax.Array, window: Window) -> jax.Array:
    return jnp.pad(x, ((0, 0), *window.pads, (0, 0)))


def _conv_of_padded(x: jax.Array, w: jax.Array, window: Window) -> jax.Array:
    return _conv(_padded(x, window), w, window, padding="VALID")


def _conv_and_slice(x: jax.Array, w: jax.Array, window: Window) -> jax.Array:
    y = _conv(x, w, window, window_strides=(1,) * len(window.stride))
    return y[(slice(None), *(slice(None, None, s) for s in window.stride))]


def _conv_with_holes(x: jax.Array, w: jax.Array, window: Window) -> jax.Array:
    """Dilation as zeros in the kernel."""
    sizes = [(k - 1) * d + 1 for k, d in zip(window.kernel, window.dilation, strict=True)]
    kernel = jnp.zeros((*sizes, *w.shape[-2:]), w.dtype)
    kernel = kernel.at[tuple(slice(None, None, d) for d in window.dilation)].set(w)
    return _conv(x, kernel, window, rhs_dilation=None)


def _conv_by_groups(x: jax.Array, w: jax.Array, window: Window) -> jax.Array:
    parts = zip(jnp.split(x, window.groups, -1), jnp.split(w, window.groups, -1), strict=True)
    return jnp.concatenate([_conv(a, b, window, feature_group_count=1) for a, b in parts], -1)


def _shifted(x: jax.Array, window: Window, fill: float = 0.0) -> list[tuple[tuple, jax.Array]]:
    """For each tap of a window, what it sees at all output positions."""
    wide = jnp.pad(x, ((0, 0), *window.pads, (0, 0)), constant_values=fill)
    sizes = window.out_sizes(x.shape[1:-1])
    found = []
    for tap in itertools.product(*map(range, window.kernel)):
        cuts = [
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, s, n in zip(tap, window.dilation, window.stride, sizes, strict=True)
        ]
        found.append((tap, wide[(slice(None), *cuts)]))
    return found


def _dense_kernel(w: jax.Array, window: Window) -> jax.Array:
    """The weights of a grouped convolution without groups: (*kernel, in, out), many zeros."""
    pieces, width = jnp.split(w, window.groups, -1), w.shape[-2]
    placed = [
        jnp.pad(p, [(0, 0)] * (w.ndim - 2) + [(g * width, (window.groups - 1 - g) * width), (0, 0)])
        for g, p in enumerate(pieces)
    ]
    return jnp.concatenate(placed, -1)


def _conv_as_dot_over_patches(x: jax.Array, w: jax.Array, window: Window) -> jax.Array:
    patches = jnp.concatenate([part for _, part in _shifted(x, window)], -1)
    kernel = _dense_kernel(w, window)
    return patches @ kernel.reshape(-1, kernel.shape[-1])


def _conv_over_patches_primitive(x: jax.Array, w: jax.Array, window: Window) -> jax.Array:
    letters = _letters(x)
    numbers = ("N" + letters + "C", letters + "IO", "N" + letters + "C")
    patches = lax.conv_general_dilated_patches(
        x, window.kernel, window.stride, window.pads, rhs_dilation=window.dilation,
        dimension_numbers=numbers,
    )  # fmt: skip
    kernel = jnp.moveaxis(_dense_kernel(w, window), -2, 0)
    return patches @ kernel.reshape(-1, kernel.shape[-1])


def _conv_as_sum_of_dots(x: jax.Array, w: jax.Array, window: Window) -> jax.Array:
    kernel = _dense_kernel(w, window)
    return functools.reduce(operator.add, (part @ kernel[tap] for tap, part in _shifted(x, window)))


def _conv_as_product_and_sum(x: jax.Array, w: jax.Array, window: Window) -> jax.Array:
    patches = jnp.stack([part for _, part in _shifted(x, window)], -1)
    kernel = jnp.moveaxis(_dense_kernel(w, window).reshape(-1, x.shape[-1], w.shape[-1]), 0, 1)
    return (patches[..., None] * kernel).sum((-3, -2))


CONV: Spelled = {
    "conv": ("", _conv),
    "channels first": ("", _conv_channels_first),
    "pad, then conv": ("", _conv_of_padded),
    "conv, then slice": ("", _conv_and_slice),
    "zeros in the kernel": ("", _conv_with_holes),
    "by groups": ("D5", _conv_by_groups),
    "dot over patches": ("", _conv_as_dot_over_patches),
    "patches primitive": ("D0", _conv_over_patches_primitive),
    "sum of dots": ("D2", _conv_as_sum_of_dots),
    "product and sum": ("D3", _conv_as_product_and_sum),
}


def _as_pointwise_conv(x: jax.Array, w: jax.Array) -> jax.Array:
    return lax.conv(x.reshape(-1, x.shape[-1], 1), w.T[..., None], (1,), "VALID").reshape(
        *x.shape[:-1], -1
    )


def _halves(x: jax.Array, w: jax.Array) -> jax.Array:
    at = x.shape[-1] // 2
    return x[..., :at] @ w[:at] + x[..., at:] @ w[at:]


DENSE: Spelled = {
    "dot": ("", lambda x, w: x @ w),
    "einsum": ("", lambda x, w: jnp.einsum("...i,io->...o", x, w)),
    "transposed": ("", lambda x, w: jnp.moveaxis(w.T @ x.reshape(-1, x.shape[-1]).T, 0, -1).reshape(
        *x.shape[:-1], -1)),
    "vmap": ("", lambda x, w: jax.vmap(lambda row: row @ w)(x)),
    "1x1 convolution": ("", _as_pointwise_conv),
    "in halves": ("D2", _halves),
    "product and sum": ("D3", lambda x, w: (x[..., None] * w).sum(-2)),
}  # fmt: skip


def _scale_first(y: jax.Array, p: Any) -> jax.Array:
    scale = p["gamma"] * lax.rsqrt(p["var"] + EPSILON)
    return y * scale + (p["beta"] - p["mean"] * scale)


#: y * scale - (mean * scale - beta) and others; "folded" is done by the caller, in the weights.
NORM: Spelled = {
    "flax": ("", lambda y, p: (y - p["mean"]) * (lax.rsqrt(p["var"] + EPSILON) * p["gamma"])
             + p["beta"]),
    "quotient": ("", lambda y, p: (y - p["mean"]) / jnp.sqrt(p["var"] + EPSILON) * p["gamma"]
                 + p["beta"]),
    "scale first": ("", _scale_first),
    "minus": ("", lambda y, p: y * (p["gamma"] / jnp.sqrt(p["var"] + EPSILON))
              - (p["mean"] * p["gamma"] / jnp.sqrt(p["var"] + EPSILON) - p["beta"])),
    "one dimension more": ("", lambda y, p: (p["gamma"].reshape(1, -1)
                           * ((y - p["mean"][None]) / jnp.sqrt(p["var"] + EPSILON)))
                           + p["beta"][None]),
    "the mean from the left": ("D1", lambda y, p: p["beta"] - (p["mean"] - y)
                               * (p["gamma"] * lax.rsqrt(p["var"] + EPSILON))),
}  # fmt: skip
FOLDED = "folded"

SUM: Spelled = {
    "from the left": ("", lambda parts: functools.reduce(operator.add, parts)),
    "from the right": ("", lambda parts: functools.reduce(lambda a, b: b + a, parts[::-1])),
    "the other way round": ("", lambda parts: functools.reduce(operator.add, parts[::-1])),
    "sum of a stack": ("D4", lambda parts: jnp.stack(parts).sum(0)),
}


def _window_arguments(x: jax.Array, window: Window) -> tuple[Any, ...]:
    sizes = (1, *window.kernel, 1), (1, *window.stride, 1)
    return (*sizes, ((0, 0), *window.pads, (0, 0)))


def _counts(x: jax.Array, window: Window, count_padding: bool) -> Any:
    if count_padding or not any(map(any, window.pads)):
        return math.prod(window.kernel)
    ones = np.zeros((1, *window.out_sizes(x.shape[1:-1]), 1))
    for place, seen in window.looks(x.shape[1:-1]):
        ones[(0, *place, 0)] = len(seen)
    return jnp.asarray(ones, x.dtype)


def _avg_window(x: jax.Array, window: Window, count_padding: bool) -> jax.Array:
    total = lax.reduce_window(x, 0.0, lax.add, *_window_arguments(x, window))
    if not count_padding:  # as Flax counts
        return total / lax.reduce_window(
            jnp.ones_like(x), 0.0, lax.add, *_window_arguments(x, window)
        )
    return total / math.prod(window.kernel)


def _avg_shifted(x: jax.Array, window: Window, count_padding: bool) -> jax.Array:
    parts = [part for _, part in _shifted(x, window)]
    return functools.reduce(operator.add, parts) / _counts(x, window, count_padding)


def _avg_depthwise(x: jax.Array, window: Window, count_padding: bool) -> jax.Array:
    channels = x.shape[-1]
    kernel = jnp.ones((*window.kernel, 1, channels), x.dtype)
    total = _conv(x, kernel, window, feature_group_count=channels)
    return total / _counts(x, window, count_padding)


AVG_POOL: Spelled = {
    "reduce_window": ("", _avg_window),
    "sum of slices": ("", _avg_shifted),
    "depthwise convolution": ("D0", _avg_depthwise),
}

GLOBAL_POOL: Spelled = {
    "mean": ("", lambda x: x.mean(tuple(range(1, x.ndim - 1)))),
    "sum, divided": ("", lambda x: x.sum(tuple(range(1, x.ndim - 1)))
                     / math.prod(x.shape[1:-1])),
    "times, summed": ("", lambda x: (x * (1 / math.prod(x.shape[1:-1]))).reshape(
        x.shape[0], -1, x.shape[-1]).sum(1)),
    "axis by axis": ("", lambda x: functools.reduce(lambda y, _: y.mean(1), x.shape[1:-1], x)),
    "dot": ("D0", lambda x: jnp.einsum(
        "npc,p->nc", x.reshape(x.shape[0], -1, x.shape[-1]),
        jnp.full(math.prod(x.shape[1:-1]), 1 / math.prod(x.shape[1:-1]), x.dtype))),
}  # fmt: skip


def _max_window(x: jax.Array, window: Window) -> jax.Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, *_window_arguments(x, window))


def _max_shifted(x: jax.Array, window: Window) -> jax.Array:
    parts = [part for _, part in _shifted(x, window, -jnp.inf)]
    return functools.reduce(jnp.maximum, parts)


def _max_stack(x: jax.Array, window: Window) -> jax.Array:
    return jnp.stack([part for _, part in _shifted(x, window, -jnp.inf)]).max(0)


MAX_POOL: Spelled = {
    "reduce_window": ("", _max_window),
    "of slices": ("D5", _max_shifted),  # -inf as padding
    "of a stack": ("D5", _max_stack),
    "-min of -x": ("D1", lambda x, window: -lax.reduce_window(
        -x, jnp.inf, lax.min, *_window_arguments(x, window))),
}  # fmt: skip
MAXIMUM: Spelled = {
    "maximum": ("", lambda parts: functools.reduce(jnp.maximum, parts)),
    "of a stack": ("", lambda parts: jnp.stack(parts, -1).max(-1)),
    "a + relu(b - a)": ("D7", lambda parts: functools.reduce(
        lambda a, b: jnp.where(a >= b, a, b), parts)),
    "-min of -x": ("D1", lambda parts: -functools.reduce(jnp.minimum, [-p for p in parts])),
}  # fmt: skip


def _pad_and_add(parts: Sequence[jax.Array]) -> jax.Array:
    total, at = 0.0, 0
    width = sum(p.shape[-1] for p in parts)
    for p in parts:
        sides = (at, width - at - p.shape[-1])
        total = total + jnp.pad(p, [(0, 0)] * (p.ndim - 1) + [sides])
        at += p.shape[-1]
    return total


def _set_and_set(parts: Sequence[jax.Array]) -> jax.Array:
    width, at = sum(p.shape[-1] for p in parts), 0
    total = jnp.zeros((*parts[0].shape[:-1], width), parts[0].dtype)
    for p in parts:
        total = total.at[..., at : at + p.shape[-1]].set(p)
        at += p.shape[-1]
    return total


CONCAT: Spelled = {
    "concatenate": ("", lambda parts: jnp.concatenate(parts, -1)),
    "transposed": ("", lambda parts: jnp.moveaxis(
        jnp.concatenate([jnp.moveaxis(p, -1, 0) for p in parts]), 0, -1)),
    "pad and add": ("D5", _pad_and_add),
    "at[].set": ("D5", _set_and_set),
}  # fmt: skip

FLATTEN: Spelled = {
    "reshape": ("", lambda x: x.reshape(x.shape[0], -1)),
    "vmap of ravel": ("", jax.vmap(jnp.ravel)),
    "axis by axis": ("", lambda x: functools.reduce(
        lambda y, _: y.reshape(y.shape[0], y.shape[1] * y.shape[2], *y.shape[3:]),
        x.shape[2:], x)),
}  # fmt: skip

MASK: Spelled = {
    "where": ("", lambda x, keep: jnp.where(keep, x, 0.0)),
    "where, the other way": ("", lambda x, keep: jnp.where(~keep, 0.0, x)),
    "times": ("", lambda x, keep: x * keep.astype(x.dtype)),
}

NORMALISE: dict[str, Spelled] = {
    "layer": {
        "mean and var": ("", lambda x: (x - x.mean(-1, keepdims=True))
                         * lax.rsqrt(x.var(-1, keepdims=True) + EPSILON)),
        "quotient": ("", lambda x: (x - x.mean(-1, keepdims=True))
                     / jnp.sqrt(x.var(-1, keepdims=True) + EPSILON)),
    },
    "rms": {
        "rsqrt": ("", lambda x: x * lax.rsqrt((x * x).mean(-1, keepdims=True) + EPSILON)),
        "quotient": ("", lambda x: x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + EPSILON)),
    },
    "lrn": {
        "power": ("", lambda x: x * (1 + jnp.square(x).mean(-1, keepdims=True)) ** -0.75),
        "quotient": ("", lambda x: x / (1 + (x * x).mean(-1, keepdims=True)) ** 0.75),
    },
    "softmax": {
        "jax.nn": ("", jax.nn.softmax),
        "by hand": ("D7", lambda x: jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True)),
        "minus the maximum": ("D7", lambda x: (lambda e: e / e.sum(-1, keepdims=True))(
            jnp.exp(x - x.max(-1, keepdims=True)))),
    },
}  # fmt: skip

ATTEND: Spelled = {
    "matmul": ("", lambda p, v: p @ v),
    "einsum": ("", lambda p, v: jnp.einsum("nts,nsc->ntc", p, v)),
    "product and sum": ("D7", lambda p, v: (p[..., None] * v[:, None]).sum(2)),
}
