"""Methods of many passes are compiled as a whole, once for each model function and options."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from ..targets import Target, check_target


def compiled(
    function: Callable[..., jax.Array],
    model_fn: Callable[[Any, Any], Any],
    params: Any,
    x: Any,
    target: Target,
    *arrays: Any,
    **options: Any,
) -> jax.Array:
    """``function(model_fn, params, x, target, *arrays, **options)`` under `jax.jit`.

    The target is checked before, while its values are known. A model function that cannot be
    hashed (an object that holds arrays) is compiled anew each time.

    Raises:
      As `excitation_jax.top_down_signal`.
    """
    target = check_target(jax.eval_shape(model_fn, params, x), target)
    goal, array = (target, None) if callable(target) else (None, target)
    try:
        hash(model_fn)
    except TypeError:
        run = jax.jit(functools.partial(_run, function, model_fn, goal, tuple(options.items())))
        return run(params, x, array, arrays)
    return _compiled(function, model_fn, goal, tuple(options.items()), params, x, array, arrays)


def _run(
    function: Callable[..., jax.Array], model_fn: Callable, goal: Callable | None,
    options: tuple[tuple[str, Any], ...], params: Any, x: Any, array: Any, arrays: tuple,
) -> jax.Array:  # fmt: skip
    target = array if goal is None else goal
    return function(model_fn, params, x, target, *arrays, **dict(options))


_compiled = jax.jit(_run, static_argnums=(0, 1, 2, 3))
