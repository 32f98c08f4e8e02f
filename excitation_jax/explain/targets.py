"""P(A0): the distribution over the outputs that the top-down pass starts from."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..program.fingerprint import fingerprint
from ..rules.arithmetic import safe_divide

Target = Any  # int | integer array | floating array | callable


def top_down_signal(outputs: Any, target: Target) -> Any:
    """The prior P(A0) over a model's outputs (Sec. 3.1) that a target stands for.

    Args:
      outputs: (N, C) scores, (C,) of a single example, or a score map (N, h, w, C); for a
        callable target any pytree of arrays. (A model's outputs (N,) for a batch of N are taken as
        (N, 1) by all that see the batch.)
      target: one of
        - an int, or an integer array (N,): one unit per example, which gets probability 1. On a
          score map the unit's scores, softmax-normalised over positions (`confidence_map` has
          other ways);
        - an integer array (N, K): K units per example, each with a pass of its own;
        - a floating array shaped like the outputs, (N, ...) or (N, K, ...): P(A0) itself;
        - a callable that maps outputs to P(A0): a pytree like theirs, None for an output that
          gets nothing.

    Returns:
      An array shaped like the outputs, with an axis K after the batch axis where the target
      has one; float32, or float64 for float64 outputs.

    Raises:
      ValueError: wrong shape; an index out of range or a negative prior, where values are
        known. Under `jax.jit` they are not: an index out of range gives an all-zero signal.
      TypeError: the target is of none of these kinds.

    Example:
      >>> import jax.numpy as jnp
      >>> import excitation_jax as ej
      >>> ej.top_down_signal(jnp.zeros((2, 3)), jnp.array([0, 2])).tolist()
      [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    return signal(outputs, check_target(outputs, target))[0]


@dataclass(frozen=True)
class TracedTarget:
    """A callable target as a program, of the outputs and of the arrays that it closes over.

    Equal programs are equal, so that what was compiled for one serves the other.
    """

    key: Hashable
    tree: Any
    jaxpr: Any = field(compare=False)

    def __call__(self, arrays: Sequence[Any], outputs: Any) -> Any:
        leaves = jax.core.eval_jaxpr(self.jaxpr, arrays, *jax.tree.leaves(outputs))
        return jax.tree.unflatten(self.tree, leaves)


def trace_target(target: Callable[[Any], Any], outputs: Any) -> tuple[TracedTarget, list[Any]]:
    """A callable target, traced anew at each call, and the arrays that it closes over now."""

    def anew(outputs: Any) -> Any:  # JAX would know the target itself, and not look again
        return target(outputs)

    closed, shapes = jax.make_jaxpr(anew, return_shape=True)(outputs)
    found = TracedTarget(fingerprint(closed), jax.tree.structure(shapes), closed.jaxpr)
    return found, list(closed.consts)


def signal(outputs: Any, target: Target) -> tuple[Any, bool]:
    """`top_down_signal` without the checks, and whether it has the axis K."""
    if callable(target):
        prior = target(outputs)
        return prior, _check_prior_shapes(outputs, prior)
    dtype = jnp.promote_types(outputs.dtype, jnp.float32)
    target = jnp.asarray(target)
    if jnp.issubdtype(target.dtype, jnp.floating):
        return target.astype(dtype), target.ndim == outputs.ndim + 1
    batched = outputs.ndim > 1
    if target.ndim == 0 and batched:
        target = jnp.broadcast_to(target, outputs.shape[:1])
    several = target.ndim == (2 if batched else 1)
    chosen = jax.nn.one_hot(target, outputs.shape[-1], dtype=dtype)
    if outputs.ndim <= 2:
        return chosen, several
    return spread(chosen, several, over_positions(outputs.astype(dtype))), several


def over_positions(scores: jax.Array, by: str = "softmax") -> jax.Array:
    """Scores (N, h, w, C) as weights of positions, which sum to 1 for each class.

    Args:
      by: as of `confidence.confidence_map`. Where no score is positive, "positive" gives zeros.
    """
    positions = tuple(range(1, scores.ndim - 1))
    if by == "softmax":
        return jax.nn.softmax(scores, axis=positions)
    if by == "sigmoid":  # by its logarithm: of very negative scores it is too small to divide by
        return jax.nn.softmax(jax.nn.log_sigmoid(scores), axis=positions)
    positive = jnp.maximum(scores, 0)
    return safe_divide(positive, positive.sum(positions, keepdims=True))


def spread(chosen: jax.Array, several: bool, weights: jax.Array) -> jax.Array:
    """Units (N, [K,] C) over the positions of a score map by their weights (N, h, w, C)."""
    positions = range(1, weights.ndim - 1)
    if several:
        weights = weights[:, None]
    return jnp.expand_dims(chosen, tuple(axis + several for axis in positions)) * weights


def check_target(outputs: Any, target: Target, x: Any = None) -> Target:
    """The target, as an array if it is no callable.

    Args:
      outputs: the model's, or their shapes.
      x: the model's input. Outputs (N,) of a batch of N are one number an example, like (N, 1).

    Raises:
      As `top_down_signal`.
    """
    if callable(target):
        return target
    if not hasattr(outputs, "shape"):
        leaves = jax.tree.leaves(outputs)
        shapes = ", ".join(str(leaf.shape) for leaf in leaves)
        raise ValueError(
            f"the model returns a {type(outputs).__name__} of {len(leaves)} arrays ({shapes}), so "
            "a target must say where to start: return one array from model_fn, e.g. "
            "lambda params, x: model(params, x)[0], or give a callable target that maps the "
            "outputs to P(A0)"
        )
    if not jnp.issubdtype(outputs.dtype, jnp.floating):
        raise TypeError(f"the model returns {outputs.dtype}; excitation starts at real scores")
    if len(outputs.shape) == 0:
        raise ValueError("the model returns a scalar; return scores of shape (N, classes)")
    array = target if isinstance(target, jax.Array) else np.asarray(target)
    if jnp.issubdtype(array.dtype, jnp.floating):
        _check_float_target(outputs.shape, array, array.shape)
    elif jnp.issubdtype(array.dtype, jnp.integer):
        if len(outputs.shape) == 1 and outputs.shape == _batch(x):
            _check_integer_target((*outputs.shape, 1), array, array.shape)
            if array.ndim > 1:
                raise ValueError("one number an example is one target: several need (N, classes)")
            return jnp.broadcast_to((array == 0).astype(outputs.dtype), outputs.shape)
        _check_integer_target(outputs.shape, array, array.shape)
    else:
        raise TypeError(
            f"target is {target!r}; it must be an int, an integer array, a floating array (P(A0) "
            "itself) or a callable"
        )
    return array


def _batch(x: Any) -> tuple[int, ...]:
    """The length of the input's leading axis, where what is behind it is an example."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(x)]
    return shapes[0][:1] if shapes and len(shapes[0]) > 1 else ()


def _check_float_target(outputs: tuple[int, ...], target: Any, shape: tuple[int, ...]) -> None:
    batch = len(outputs) > 1
    without_k = (shape[0], *shape[2:]) if batch and len(shape) > 1 else shape[1:]
    if shape != outputs and (len(shape) != len(outputs) + 1 or without_k != outputs):
        wanted = f"{outputs} or ({outputs[0]}, K, ...)" if batch else f"{outputs} or (K, ...)"
        raise ValueError(f"a floating target is P(A0) and must have shape {wanted}, not {shape}")
    if not isinstance(target, jax.core.Tracer):
        values = np.asarray(target, dtype=float)
        if not np.all(np.isfinite(values)) or values.min(initial=0) < 0:
            raise ValueError("P(A0) holds negative or non-finite probabilities")


def _check_integer_target(outputs: tuple[int, ...], target: Any, shape: tuple[int, ...]) -> None:
    batch = outputs[:1] if len(outputs) > 1 else ()
    if shape != () and (shape[: len(batch)] != batch or len(shape) > len(batch) + 1):
        wanted = "an int, or an array of shape (K,)"
        if batch:
            wanted = f"an int, or an array of shape ({batch[0]},) or ({batch[0]}, K)"
        raise ValueError(
            f"target has shape {shape}, and the outputs {outputs}: give {wanted}, one row per "
            "example"
        )
    if not isinstance(target, jax.core.Tracer):
        indices = np.asarray(target)
        wrong = indices[(indices < 0) | (indices >= outputs[-1])]
        if wrong.size:
            raise ValueError(
                f"target index {int(wrong.flat[0])} is out of range: the model has {outputs[-1]} "
                f"outputs, 0 to {outputs[-1] - 1}"
            )


def _check_prior_shapes(outputs: Any, prior: Any) -> bool:
    """Whether a callable's P(A0) has the axis K. Raises `ValueError` for shapes that do not fit."""
    flat, tree = jax.tree.flatten(outputs)
    try:
        parts = prior_leaves(tree, prior)
    except ValueError:
        raise ValueError(
            f"the callable target returned {jax.tree.structure(prior)}, and the outputs are "
            f"{tree}: return P(A0) in the structure of the outputs, None for an output that gets "
            "nothing"
        ) from None
    given = [(o, p) for o, p in zip(flat, parts, strict=True) if p is not None]
    for output, part in given:
        _check_float_target(output.shape, part, jnp.shape(part))
    axis = 1 if any(output.ndim > 1 for output in flat) else 0
    shapes = [(output.shape, jnp.shape(part)) for output, part in given]
    if shapes and all(output == part for output, part in shapes):
        return False
    counts = {part[axis] for output, part in shapes if (*part[:axis], *part[axis + 1 :]) == output}
    if len(counts) == 1 and all(len(part) == len(output) + 1 for output, part in shapes):
        return True
    raise ValueError(
        "the callable target must return P(A0) for one output at least, and the same number K of "
        f"targets, along axis {axis}, for all of them or for none"
    )


def prior_leaves(tree: Any, prior: Any) -> list[Any]:
    """The parts of P(A0) for each output, None where an output gets nothing."""
    return list(tree.flatten_up_to(prior))
