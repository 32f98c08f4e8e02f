"""Methods of many passes: compiled once for each model and options, pass by pass."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..engine.plan import check_floating
from ..explain.targets import Target, check_target, signal, trace_target
from ..explain.top_down import where_not_finite
from ..program.fingerprint import fingerprint, identity

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

        def anew(params: Any, x: Any) -> Any:  # JAX would know the model itself, and not look again
            return model_fn(params, x)

        closed, self.outputs = jax.make_jaxpr(anew, return_shape=True)(params, x)
        target = check_target(self.outputs, target, x)
        self.goal: Callable[..., Any] | None = target if callable(target) else None
        self.array: Any = None if callable(target) else target
        captured, key = list(closed.consts), [fingerprint(closed), jax.tree.structure(self.outputs)]
        if self.goal is not None:
            traced, arrays = trace_target(self.goal, self.outputs)
            captured, key = [*captured, *arrays], [*key, traced]
        every = jax.tree.leaves((params, x, self.array, captured))
        inside = any(isinstance(array, jax.core.Tracer) for array in every)
        self.key: Hashable = None if inside else (*key, identity(captured))

    def run(self, function: Callable[..., Arrays], *arrays: Any, **options: Any) -> Arrays:
        """One call of the function, under `jax.jit`."""
        return self._compiled(function, options)(self.params, self.x, self.array, arrays)

    def prior(self) -> Any:
        """P(A0), as the target gives it for the outputs at x.

        Raises:
          ValueError: the outputs are not finite.
        """
        return self.checked(self.run(_prior))

    def prior_of_scores(self) -> tuple[jax.Array, bool]:
        """`prior` of a model that returns one array, and whether it has an axis of K targets.

        Raises:
          ValueError: the model returns something else, and as `prior`.
        """
        if not hasattr(self.outputs, "shape"):
            raise ValueError(
                f"this method reads one array of scores, and the model returns a "
                f"{type(self.outputs).__name__}: return one array from model_fn"
            )
        found = self.prior()
        return found, found.ndim > len(self.outputs.shape)

    def checked(self, arrays: Arrays) -> Arrays:
        """The arrays; raises `ValueError` where their values are known and not finite."""
        for array in jax.tree.leaves(arrays):
            if not isinstance(array, jax.core.Tracer) and not jnp.isfinite(array).all():
                raise ValueError(where_not_finite(self.params, self.x))
        return arrays

    def iterate(
        self,
        step: Callable[..., Arrays],
        carry: Arrays,
        items: jax.Array,
        *arrays: Any,
        **options: Any,
    ) -> Arrays:
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
        """`function` under jit: the same for an equal model over the same arrays."""
        if self.key is None:
            made = _Compiled(function, options)
        else:
            made = _compiled(_Question(self.key, function, tuple(options.items())))
        made.model_fn, made.goal = self.model_fn, self.goal
        return made.call


@dataclass(frozen=True)
class _Added:
    """A function whose value is added to a sum; equal for equal functions, for the cache's sake."""

    function: Callable[..., jax.Array]

    def __call__(
        self,
        model_fn: Callable,
        params: Any,
        x: Any,
        target: Target,
        total: jax.Array,
        *item: Any,
        **options: Any,
    ) -> jax.Array:
        return total + self.function(model_fn, params, x, target, *item, **options)


def _prior(model_fn: Callable, params: Any, x: Any, target: Target) -> jax.Array:
    outputs = model_fn(params, x)
    return poisoned(outputs, signal(outputs, target)[0])


class _Compiled:
    """A function under jit, of a model and a target that are those of the last call.

    A later call has an equal model, but the one that was there first may have changed: where
    other shapes are traced, it must not be read.
    """

    def __init__(self, function: Callable[..., Arrays], options: dict[str, Any]):
        self.function, self.options = function, options
        self.model_fn: Callable[..., Any]
        self.goal: Callable[..., Any] | None = None
        self.call = jax.jit(self._run)

    def _run(self, params: Any, x: Any, array: Any, arrays: tuple) -> Arrays:
        target = array if self.goal is None else self.goal
        return self.function(self.model_fn, params, x, target, *arrays, **self.options)


class _Question(NamedTuple):
    model: Hashable
    function: Callable[..., Arrays]
    options: tuple[tuple[str, Any], ...]


@functools.lru_cache(maxsize=64)
def _compiled(question: _Question) -> _Compiled:
    return _Compiled(question.function, dict(question.options))


def poisoned(outputs: Any, arrays: Arrays) -> Arrays:
    """The arrays, NaN throughout where the model's outputs hold NaN: no map is to hide that."""
    floating = [o for o in jax.tree.leaves(outputs) if jnp.issubdtype(o.dtype, jnp.floating)]
    bad = jnp.stack([jnp.isnan(output).any() for output in floating]).any()
    return jax.tree.map(lambda array: jnp.where(bad, jnp.nan, array), arrays)


def check_one_array(x: Any) -> None:
    """Raises unless the explained input is one array of real numbers."""
    if not hasattr(x, "dtype"):
        raise ValueError(f"this method needs x to be one array, not a {type(x).__name__}")
    check_floating(x, "the input x")
