"""Which elements of a value depend on the explained input, element by element.

What does not depend on the input is no neuron, whatever moved it and in whatever step of a loop: a
padded border, a class token, a masked position, a loop's initial state. The activity of an
operation's output is the operation itself, applied to its operands' activities:

- element by element: active where any operand is (times a mask: and the mask is not zero);
- moves: moved; sums and maxima: active where anything in reach is;
- layers: as sums, with ones in place of the weights.

A pattern is an array of truths that broadcasts to the value's shape, of length 1 along the axes on
which it does not vary. What follows from shapes alone is known while tracing, as a numpy array.
The rest (a mask is an argument, an index picks rows, a state is constant until it is reached) is
known when the model runs: then the activity is computed beside the value, by the same functions
(patterns.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .patterns import spread
from .primitives import Kind, Layout, indices, row
from .trace import Op

#: The dtype of patterns.
TRUTHS = np.dtype(bool)


@dataclass(frozen=True, eq=False)
class Activity:
    """Which elements of a value depend on the explained input.

    Attributes:
      shape: of the pattern.
      pattern: None where it is known only when the model runs.
    """

    shape: tuple[int, ...]
    pattern: np.ndarray | None = None

    @functools.cached_property
    def none(self) -> bool:
        """No element depends on the input."""
        return self.pattern is not None and not self.pattern.any()

    @functools.cached_property
    def whole(self) -> bool:
        """Every element does."""
        return self.pattern is not None and bool(self.pattern.all())

    @property
    def late(self) -> bool:
        """Known only when the model runs."""
        return self.pattern is None

    def __str__(self) -> str:
        if self.late:
            return f"known when the model runs, {'x'.join(map(str, self.shape)) or 'one truth'}"
        return "none" if self.none else "every element" if self.whole else "some elements"


def uniform(rank: int, active: bool) -> Activity:
    """Every element, or none."""
    return Activity((1,) * rank, np.full((1,) * rank, active))


def static(pattern: np.ndarray) -> Activity:
    """The activity of a known pattern."""
    for axis, size in enumerate(pattern.shape):
        if size > 1 and (pattern == (first := pattern.take([0], axis))).all():
            pattern = first
    return Activity(pattern.shape, pattern)


def either(a: Activity, b: Activity) -> Activity:
    """Of a value that is one or the other, in different steps of a loop or branches."""
    if a.pattern is not None and b.pattern is not None and a.shape == b.shape:
        if (a.pattern == b.pattern).all():
            return a
    return Activity(np.broadcast_shapes(a.shape, b.shape))


def cut(outer: Activity) -> Activity:
    """Of one step's part of a value with a leading axis of steps."""
    if outer.pattern is not None and outer.shape[0] == 1:
        return static(outer.pattern[0])
    return Activity(outer.shape[1:])


def stacked(inner: Activity, steps: int) -> Activity:
    """Of a value of all steps."""
    if inner.pattern is not None:
        return static(inner.pattern[None])
    return Activity((steps, *inner.shape))


def follow(
    op: Op, operands: Sequence[Activity], masks: Collection[int], shape: Callable[[int], tuple]
) -> list[Activity]:
    """The activities of an operation's outputs.

    Args:
      masks: positions of constant factors that may be zero.
      shape: of a position, the shape of what a `Reader` reads there.
    """
    ranks = [len(value.shape) for value in op.outputs]
    if all(activity.none for activity in operands):
        return [uniform(rank, False) for rank in ranks]
    if _all_or_nothing(op, operands, masks):
        return [uniform(rank, True) for rank in ranks]
    if not any(activity.late for activity in operands) and not masks and not _is_late(op):
        known = spread(op, [activity.pattern for activity in operands], masks, _no_value, np)
        return [static(np.asarray(pattern, bool)) for pattern in known]

    found = row(op.primitive)
    if found is not None and found.kind is Kind.ELEMENTWISE:  # what the rest would find, quicker
        shapes = [*(a.shape for a in operands), *map(shape, masks)]
        return [Activity(np.broadcast_shapes(*shapes))]

    def late(patterns: list[Any]) -> list[Any]:
        ahead = iter(patterns)
        given = [next(ahead) if activity.late else activity.pattern for activity in operands]
        zeros = [jnp.zeros(shape(i), value.dtype) for i, value in enumerate(op.inputs)]
        return spread(op, given, masks, zeros.__getitem__, jnp)

    unknown = [jax.ShapeDtypeStruct(a.shape, bool) for a in operands if a.late]
    return [Activity(pattern.shape) for pattern in jax.eval_shape(late, unknown)]


def _no_value(i: int) -> Any:
    raise AssertionError("a static pattern reads no values")


def _all_or_nothing(op: Op, operands: Sequence[Activity], masks: Collection[int]) -> bool:
    """Whether all outputs depend on the input, whatever the values are."""
    found = row(op.primitive)
    moved = [a for i, a in enumerate(operands) if i not in indices(op.primitive)]
    if found is None or not isinstance(found.layout, Layout):
        return True
    if any(not operands[i].none for i in indices(op.primitive) if i < len(operands)):
        # Where an element goes, or comes from, depends on the input.
        each = op.primitive is lax.select_n_p and op.inputs[0].shape == op.outputs[0].shape
        return any(a.whole for a in operands) if each else True
    if found.kind is Kind.ELEMENTWISE:
        return not masks and any(a.whole for a in operands)
    if found.kind is Kind.AFFINE:
        kernel = found.layout is Layout.CONVOLVED and not operands[1].none
        return kernel or any(a.whole for a in operands)
    if found.layout is Layout.PADDED:
        return all(a.whole for a in moved)
    if op.primitive is lax.scatter_add_p:
        return operands[0].whole
    if op.primitive is lax.sort_p and len(operands) > 1:
        return True  # the order depends on the input
    return all(a.whole for a in moved)


def _is_late(op: Op) -> bool:
    """Whether what it does with elements depends on values, constants though they be."""
    found = row(op.primitive)
    assert found is not None
    late = (Layout.PICKED, Layout.PLACED)
    return found.layout in late or op.primitive in (lax.sort_p, lax.select_n_p)
