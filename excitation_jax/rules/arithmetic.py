"""Arithmetic on probabilities: quotients by what may vanish, products with what may be infinite."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def above(x: jax.Array, low: Any, dtype: Any) -> jax.Array:
    """x - lambda. Of a neuron at its bound, rounding in its dtype leaves no activation.

    Otherwise, where all children of a winner are off, it would pass its P on as they were rounded.
    """
    h, rounded = x - low, 0.0
    if jnp.issubdtype(dtype, jnp.floating):
        rounded = 4 * float(jnp.finfo(dtype).eps)
    return jnp.where(h <= rounded * abs(low), 0, h)


def vanishes(total: jax.Array) -> jax.Array:
    """Whether nothing excites.

    The threshold is far above the denormal numbers, for which a quotient would overflow.
    """
    return jnp.abs(total) <= float(jnp.finfo(total.dtype).tiny) ** 0.8


def safe_divide(p: jax.Array, total: jax.Array) -> jax.Array:
    """p / total, 0 where the total vanishes (Z_i = 0 in Eq. 6).

    Where the total is not finite it is 0 for p = 0 and not finite for any other p.
    """
    info, broken = jnp.finfo(p.dtype), ~(jnp.abs(total) < jnp.inf)
    # p is read once: XLA would compute all that it comes from a second time for a comparison.
    divisor = jnp.where(vanishes(total), jnp.inf, jnp.where(broken, info.tiny, total))
    return p * jnp.where(broken, info.max, 1).astype(p.dtype) / divisor


def times(p: jax.Array, h: Any) -> jax.Array:
    """p * h, 0 where p is 0, whatever h is: where no probability is, nothing flows."""
    return jnp.where(p == 0, 0, p * h)


def shared(ratio: jax.Array, h: jax.Array) -> jax.Array:
    """r * h, from r = P / Z with the Z that h is a part of: where h is not finite, r says so."""
    return ratio * jnp.where(jnp.abs(h) < jnp.inf, h, 0)


def unbroadcast(p: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Sums ``p`` over the dimensions along which an operand of ``shape`` was broadcast."""
    if p.shape == shape:
        return p
    p = p.sum(axis=tuple(range(p.ndim - len(shape))))
    axes = tuple(i for i, size in enumerate(shape) if size == 1 and p.shape[i] != 1)
    return p.sum(axis=axes, keepdims=True)
