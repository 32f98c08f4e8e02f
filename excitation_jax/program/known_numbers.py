"""The numbers of constants that follow from shapes alone: indices, matrices that interpolate."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jax import lax

from .facts import FactTable
from .patterns import spread
from .primitives import Kind, Layout, elementwise_function, kind, layout
from .trace import Op, Value

#: Larger arrays are not looked at.
LARGEST = 1 << 20

Found = dict[Value, "np.ndarray | None"]


def numbers(value: Value, facts: FactTable) -> np.ndarray | None:
    """The array of a constant; None where it depends on anything but shapes and literals."""
    found = _numbers(value, facts, {})
    return None if found is None else np.broadcast_to(found, value.shape)


def whole_number(value: Value, facts: FactTable) -> int | None:
    """A constant index."""
    known = facts[value].known
    if known is None and not facts[value].active:
        known = numbers(value, facts)
    return None if known is None or np.size(known) != 1 else int(np.reshape(known, ()))


def selects(op: Op, facts: FactTable) -> bool:
    """Whether a matrix or a kernel of zeros and ones moves elements: ``x @ eye``, patches."""
    if not facts.pools(op):
        return False
    at = next(i for i, value in enumerate(op.inputs) if not facts[value].active)
    interval, weights = facts[op.inputs[at]].interval, None
    if interval.high <= 1:
        weights = numbers(op.inputs[at], facts)
    if weights is None or not np.isin(weights, (0, 1)).all():
        return False
    if op.primitive is lax.conv_general_dilated_p:
        out = op.params["dimension_numbers"].rhs_spec[0]
        added = [i for i in range(weights.ndim) if i != out]
        return at == 1 and bool((weights.sum(tuple(added)) <= 1).all())
    contracted = op.params["dimension_numbers"][0][at]
    return bool((weights.sum(tuple(contracted)) <= 1).all())


def _numbers(value: Value, facts: FactTable, found: Found) -> np.ndarray | None:
    """As in `patterns`, of length 1 along axes on which it does not vary."""
    if value not in found:
        found[value] = _of_operation(value, facts, found)
    return found[value]


def _of_operation(value: Value, facts: FactTable, found: Found) -> np.ndarray | None:
    if value.literal is not None:
        return np.asarray(value.literal)
    known, op = facts[value], facts[value].producer
    if known.known is not None:
        return np.full((1,) * len(value.shape), known.known, value.dtype)
    small = math.prod(value.shape) <= LARGEST
    if known.active or known.learned or op is None or op.nest is not None or not small:
        return None
    if op.primitive is lax.iota_p:
        shape = [-1 if i == op.params["dimension"] else 1 for i in range(len(value.shape))]
        return np.arange(value.shape[op.params["dimension"]], dtype=value.dtype).reshape(shape)
    given = [_numbers(operand, facts, found) for operand in op.inputs]
    if any(array is None for array in given):
        return None
    made = _apply(op, op.outputs.index(value), given)
    return None if made is None else np.asarray(made).astype(value.dtype)


def _apply(op: Op, place: int, given: list[Any]) -> Any:
    function, moves = elementwise_function(op), kind(op.primitive) is Kind.MOVE
    with np.errstate(all="ignore"):
        if function is not None:
            return function(*given)
        if op.primitive is lax.reduce_sum_p:
            return np.broadcast_to(given[0], op.inputs[0].shape).sum(tuple(op.params["axes"]))
        if moves and layout(op.primitive) not in (Layout.PICKED, Layout.PLACED, Layout.KEPT):
            return spread(op, given, (), given.__getitem__, np)[place]
    return None
