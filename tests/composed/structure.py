"""Steps that move, copy or drop elements."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .table import register_functions, step
from .weights import Weights


def after_batch(x: jax.Array, axis: int, first: tuple, rest: object) -> list:
    """One entry per axis: ``first`` at this one, ``rest`` at all others."""
    return [first if i == axis % x.ndim else rest for i in range(x.ndim)]


def padded(x: jax.Array, axis: int, low: int, high: int, inner: int = 0) -> jax.Array:
    return lax.pad(x, jnp.zeros((), x.dtype), after_batch(x, axis, (low, high, inner), (0, 0, 0)))


def unstacked(x: jax.Array) -> jax.Array:
    first, *others = jnp.unstack(x, axis=1)
    return jnp.stack([*others, first], axis=1)


def mask_of(x: jax.Array) -> np.ndarray:
    """A fixed mask that leaves out every third element of an example."""
    shape = x.shape[1:]
    return np.arange(math.prod(shape)).reshape(shape) % 3 != 1


#: Every element of the result is one of the state's.
MOVES = {
    "flat": lambda x: x.reshape(x.shape[0], -1),
    "merged positions": lambda x: x.reshape(x.shape[0], -1, x.shape[-1]),
    "channels as positions": lambda x: jnp.swapaxes(x, 1, -1),
    "flipped": lambda x: jnp.flip(x, 1), "rolled": lambda x: jnp.roll(x, 1, -1),
    "two halves swapped": lambda x: jnp.concatenate(jnp.split(x, 2, -1)[::-1], -1)
    if x.shape[-1] % 2 == 0 else x,
    "every second": lambda x: x[:, ::2], "all but the first channel": lambda x: x[..., 1:]
    if x.shape[-1] > 1 else x,
    "picked channels": lambda x: x[..., np.arange(x.shape[-1]) // 2],
    "taken along an axis": lambda x: jnp.take(x, jnp.array([0, 0, -1]), axis=1),
    "taken along an axis by a map": lambda x: jnp.take_along_axis(
        x, np.indices(x.shape)[-1][..., ::-1] // 2, -1),
    "repeated": lambda x: jnp.repeat(x, 2, axis=1),
    "tiled": lambda x: jnp.tile(x, (1,) * (x.ndim - 1) + (2,)),
    "joined with itself": lambda x: jnp.concatenate([x, x], -1),
    "new axis and back": lambda x: lax.squeeze(x[:, None], [1]),
    "dynamic slice": lambda x: lax.dynamic_slice_in_dim(x, jnp.int32(0), max(x.shape[1] - 1, 1), 1),
    "unstacked": unstacked, "padded with its edge": lambda x: jnp.pad(
        x, after_batch(x, 1, (1, 0), (0, 0)), mode="edge"),
    "stacked and averaged": lambda x: jnp.stack([x, x[..., ::-1]]).mean(0),
    "shared out and summed": lambda x: jnp.broadcast_to(x[:, None], (x.shape[0], 2, *x.shape[1:])
                                                        ).sum(1),
    "cropped": lambda x: padded(x, 1, -1, 0) if x.shape[1] > 1 else x,
    "first set to last": lambda x: x.at[:, 0].set(x[:, -1]),
    "segments summed": lambda x: jax.ops.segment_sum(
        x.swapaxes(0, 1), np.arange(x.shape[1]) // 2, (x.shape[1] + 1) // 2).swapaxes(0, 1),
    "some added to others": lambda x: x.at[:, np.zeros(2, int)].add(x[:, -2:])
    if x.shape[1] > 1 else x,
}  # fmt: skip
#: Some elements of the result are constants.
FILLED = {
    "padded with zeros": lambda x: padded(x, 1, 1, 1), "padded inside": lambda x: padded(
        x, 1, 0, 0, 1),
    "padded channels": lambda x: padded(x, -1, 1, 0),
    "padded with ones": lambda x: jnp.pad(
        x, after_batch(x, 1, (0, 1), (0, 0)), constant_values=1.0),
    "masked": lambda x: jnp.where(mask_of(x), x, 0),
    "masked by a product": lambda x: x * mask_of(x).astype(x.dtype),
    "an element set": lambda x: lax.dynamic_update_slice_in_dim(
        x, jnp.ones_like(x[:, :1]), jnp.int32(0), 1),
    "put into zeros": lambda x: lax.dynamic_update_slice_in_dim(
        jnp.zeros((x.shape[0], x.shape[1] + 1, *x.shape[2:]), x.dtype), x, jnp.int32(1), 1),
}  # fmt: skip
register_functions(MOVES)
register_functions(FILLED, excites=False)
register_functions({"transposed": lambda x: x.transpose(0, 2, 1, 3)}, 4)


@step("space to depth", 4, fits=lambda s: s[1] % 2 == 0 and s[2] % 2 == 0)
def space_to_depth(w: Weights, x: jax.Array) -> jax.Array:
    batch, height, width, channels = x.shape
    parts = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return parts.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // 2, width // 2, 4 * channels)


register_functions(
    {"positions as an image": lambda x: x.reshape(x.shape[0], 2, -1, x.shape[-1])},
    3, fits=lambda s: s[1] % 2 == 0,
)  # fmt: skip
register_functions(
    {"shifted to depth": lambda x: jnp.stack([x[:, :-1], x[:, 1:]], -1).reshape(
        x.shape[0], x.shape[1] - 1, -1)},
    3, fits=lambda s: s[1] > 1 and s[-1] <= 4,
)  # fmt: skip


@step("class token", 3, excites=False)
def class_token(w: Weights, x: jax.Array) -> jax.Array:
    token = jnp.broadcast_to(w.bias(1, 1, x.shape[-1]), (x.shape[0], 1, x.shape[-1]))
    return jnp.concatenate([token.astype(x.dtype), x], 1)


@step("masked by an argument", excites=False)
def masked_by_an_argument(w: Weights, x: jax.Array) -> jax.Array:
    return jnp.where(w.scale(*x.shape[1:]) > 0, x, 0)


@step("positions added")
def positions_added(w: Weights, x: jax.Array) -> jax.Array:
    return x + w.bias(*x.shape[1:])
