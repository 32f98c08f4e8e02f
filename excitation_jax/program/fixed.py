"""Which elements of a value do not depend on the explained input.

Elements that were padded or concatenated to a value that depends on it (a class token, say) are
no neurons: like a bias, they take no probability. They are followed to where they are summed
with elements that do depend on the input.

A pattern is a boolean array that broadcasts to the value's shape, of size 1 along the axes on
which it does not vary; None stands for "every element may depend on the input".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jax import lax

from . import compat
from .trace import Op

Pattern = np.ndarray | None


def fixed_elements(op: Op, operands: Sequence[Pattern], active: Sequence[bool]) -> Pattern:
    """The pattern of an operation's output, from those of its operands.

    Args:
      operands: patterns of the operands. active: which of them depend on the input at all.
    """
    if op.primitive is lax.pad_p and active[0]:
        return _pad(op, operands[0])
    if op.primitive is lax.concatenate_p:
        if all(active) and all(pattern is None for pattern in operands):
            return None
        return _compressed(_concatenate(op, operands, active))
    if all(pattern is None for pattern in operands):
        return None
    follow = _FOLLOW.get(op.primitive)
    if follow is None:
        return None
    found = follow(op, operands)
    return None if found is None or not found.any() else _compressed(found)


def fixed_elementwise(shape: tuple[int, ...], operands: Sequence[Pattern]) -> Pattern:
    """The pattern of an elementwise function of these active operands."""
    known = [pattern for pattern in operands if pattern is not None]
    if len(known) < len(operands):
        return None
    found = known[0]
    for pattern in known[1:]:
        found = found & pattern
    return found if found.any() and found.ndim == len(shape) else None


def _compressed(pattern: np.ndarray) -> np.ndarray:
    """The same pattern, of size 1 along the axes on which it does not vary."""
    for axis, size in enumerate(pattern.shape):
        first = pattern.take([0], axis) if size > 1 else pattern
        if size > 1 and (pattern == first).all():
            pattern = first
    return pattern


def _pad(op: Op, fixed: Pattern) -> np.ndarray:
    """The operand's pattern, and the padding."""
    before, after = op.inputs[0].shape, op.outputs[0].shape
    result = np.zeros((1,) * len(before), bool) if fixed is None else fixed
    for axis, (low, high, interior) in enumerate(op.params["padding_config"]):
        if (low, high, interior) == (0, 0, 0):
            continue
        places = low + np.arange(before[axis]) * (interior + 1)
        inside = (places >= 0) & (places < after[axis])
        shape = list(result.shape)
        shape[axis] = before[axis]
        moved = np.moveaxis(np.broadcast_to(result, shape), axis, 0)
        padded = np.ones((after[axis], *moved.shape[1:]), bool)
        padded[places[inside]] = moved[inside]
        result = np.moveaxis(padded, 0, axis)
    return result


def _concatenate(op: Op, operands: Sequence[Pattern], active: Sequence[bool]) -> np.ndarray:
    """The operands' patterns, constants being fixed throughout."""
    axis, pieces = op.params["dimension"], []
    for pattern, value, depends in zip(operands, op.inputs, active, strict=True):
        piece = np.full((1,) * len(value.shape), not depends) if pattern is None else pattern
        shape = list(piece.shape)
        shape[axis] = value.shape[axis]
        pieces.append(np.broadcast_to(piece, shape))
    full = list(np.broadcast_shapes(*(np.delete(piece.shape, axis) for piece in pieces)))
    return np.concatenate(
        [np.broadcast_to(p, [*full[:axis], p.shape[axis], *full[axis:]]) for p in pieces], axis
    )


def _transpose(op: Op, operands: Sequence[Pattern]) -> Pattern:
    return None if operands[0] is None else np.transpose(operands[0], op.params["permutation"])


def _reshape(op: Op, operands: Sequence[Pattern]) -> Pattern:
    if operands[0] is None:
        return None
    return np.broadcast_to(operands[0], op.inputs[0].shape).reshape(op.outputs[0].shape)


def _broadcast(op: Op, operands: Sequence[Pattern]) -> Pattern:
    if operands[0] is None:
        return None
    shape = [1] * len(op.outputs[0].shape)
    for i, dim in enumerate(op.params["broadcast_dimensions"]):
        shape[dim] = operands[0].shape[i]
    return operands[0].reshape(shape)


def _slice(op: Op, operands: Sequence[Pattern]) -> Pattern:
    if operands[0] is None:
        return None
    starts, limits = op.params["start_indices"], op.params["limit_indices"]
    strides = op.params["strides"] or (1,) * len(starts)
    cuts = [
        slice(None) if size == 1 else slice(*cut)
        for size, *cut in zip(operands[0].shape, starts, limits, strides, strict=True)
    ]
    return operands[0][tuple(cuts)]


def _reduce(op: Op, operands: Sequence[Pattern]) -> Pattern:
    if operands[0] is None:
        return None
    return np.asarray(operands[0].all(axis=tuple(op.params["axes"])))


def _dot(op: Op, operands: Sequence[Pattern]) -> Pattern:
    """Of one signal and constant weights: fixed where all that is summed is."""
    sides = [i for i, pattern in enumerate(operands) if pattern is not None]
    if len(sides) != 1:
        return None
    (side,) = sides
    pattern = operands[side]
    assert pattern is not None
    contract, batch = op.params["dimension_numbers"]
    summed = pattern.all(axis=tuple(contract[side]), keepdims=True)
    free = [i for i in range(summed.ndim) if i not in (*contract[side], *batch[side])]
    ordered = np.squeeze(
        np.transpose(summed, (*batch[side], *free, *contract[side])),
        tuple(range(len(batch[side]) + len(free), summed.ndim)),
    )
    others = len(op.outputs[0].shape) - ordered.ndim
    where = ordered.ndim if side == 0 else len(batch[side])
    return np.expand_dims(ordered, tuple(range(where, where + others)))


_FOLLOW: dict[compat.Primitive, Callable[[Op, Sequence[Pattern]], Pattern]] = {
    lax.transpose_p: _transpose, lax.reshape_p: _reshape, lax.squeeze_p: _reshape,
    lax.broadcast_in_dim_p: _broadcast, lax.slice_p: _slice, lax.dot_general_p: _dot,
    lax.reduce_sum_p: _reduce, lax.reduce_max_p: _reduce,
}  # fmt: skip
