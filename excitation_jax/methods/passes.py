"""Methods of many passes: compiled once for each model function and options, pass by pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..targets import Target, check_target, signal

Arrays = Any


class Passes:
    """A question to a model, for functions ``f(model_fn, params, x, target, *arrays, **options)``.

    The target is checked once, while its values are known.

    Raises:
      As `excitation_jax.top_down_signal`.
    """

    def __init__(
        self, model_fn: Callable[[Any, Any], Any], params: Any, x: Any, target: Target
    ) -> None:
        self.model_fn = model_fn
        self.params, self.x = params, x
        target = check_target(jax.eval_shape(model_fn, params, x), target)
        self.goal: Callable[..., Any] | None = target if callable(target) else None
        self.array: Any = None if callable(target) else target

    def run(self, function: Callable[..., Arrays], *arrays: Any, **options: Any) -> Arrays:
        """One call of the function, under `jax.jit`."""
        return self._compiled(function, options)(self.params, self.x, self.array, arrays)

    def prior(self) -> tuple[jax.Array, bool]:
        """P(A0), and whether it has an axis of K targets; of a model of one output."""
        found = self.run(_prior)
        outputs = jax.eval_shape(self.model_fn, self.params, self.x)
        return found, found.ndim > len(outputs.shape)

    def iterate(
        self, step: Callable[..., Arrays], carry: Arrays, items: jax.Array, *arrays: Any,
        **options: Any,
    ) -> Arrays:  # fmt: skip
        """``carry = step(model_fn, params, x, target, carry, item, *arrays, **options)`` for each.

        Inside a transformation it is a loop of XLA's. Called directly it is one of Python's, over
        a compiled step: on a CPU, XLA runs the convolutions of a loop's body 20 times slower.
        """
        run = self._compiled(step, options)

        def one(carry: Arrays, item: jax.Array) -> Arrays:
            return run(self.params, self.x, self.array, (carry, item, *arrays))

        given = jax.tree.leaves((self.params, self.x, self.array, carry, items, arrays))
        if any(isinstance(array, jax.core.Tracer) for array in given):
            return lax.scan(lambda carry, item: (one(carry, item), None), carry, items)[0]
        for item in items:
            carry = one(carry, item)
        return carry

    def sum(
        self, function: Callable[..., jax.Array], items: jax.Array, *arrays: Any, **options: Any
    ) -> jax.Array:
        """Of ``function(model_fn, params, x, target, item, *arrays, **options)`` over the items."""
        one = self._compiled(function, options)
        shape = one.eval_shape(self.params, self.x, self.array, (items[0], *arrays))
        start = jnp.zeros(shape.shape, shape.dtype)
        return self.iterate(_Added(function), start, items, *arrays, **options)

    def _compiled(self, function: Callable[..., Arrays], options: dict[str, Any]) -> Any:
        static = (function, self.model_fn, self.goal, tuple(options.items()))
        try:
            hash(self.model_fn)
        except TypeError:  # an object that holds arrays, say: it cannot be a cache's key
            return jax.jit(functools.partial(_call, *static))
        return _compiled(*static)


@dataclass(frozen=True)
class _Added:
    """A function whose value is added to a sum; equal for equal functions, for the cache's sake."""

    function: Callable[..., jax.Array]

    def __call__(
        self, model_fn: Callable, params: Any, x: Any, target: Target, total: jax.Array, *item: Any,
        **options: Any,
    ) -> jax.Array:  # fmt: skip
        return total + self.function(model_fn, params, x, target, *item, **options)


def _prior(model_fn: Callable, params: Any, x: Any, target: Target) -> jax.Array:
    return signal(model_fn(params, x), target)[0]


def _call(
    function: Callable[..., Arrays], model_fn: Callable, goal: Callable | None,
    options: tuple[tuple[str, Any], ...], params: Any, x: Any, array: Any, arrays: tuple,
) -> Arrays:  # fmt: skip
    target = array if goal is None else goal
    return function(model_fn, params, x, target, *arrays, **dict(options))


@functools.lru_cache(maxsize=64)
def _compiled(
    function: Callable[..., Arrays], model_fn: Callable, goal: Callable | None,
    options: tuple[tuple[str, Any], ...],
) -> Any:  # fmt: skip
    return jax.jit(functools.partial(_call, function, model_fn, goal, options))
