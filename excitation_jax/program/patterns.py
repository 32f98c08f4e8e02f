"""What an operation does to a pattern of truths: which elements of its outputs are active.

Each function takes and gives arrays that broadcast to the values, of length 1 along the axes on
which they do not vary; numpy's while tracing, JAX's when the model runs.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from . import compat
from .primitives import Kind, Layout, row
from .trace import Op

#: A pattern: numpy's while tracing, JAX's when the model runs.
Pattern = Any
#: Reads an operand that does not depend on the input, of length 1 where it was broadcast.
Reader = Callable[[int], Any]


def spread(
    op: Op, given: Sequence[Pattern], masks: Collection[int], read: Reader, xp: Any
) -> list[Pattern]:
    """The patterns of an operation's outputs.

    Args:
      given: the operands' patterns.
      masks: as in `follow`.
      read: reads operands: masks, indices, and what is sorted.
      xp: numpy or jax.numpy.
    """
    found = row(op.primitive)
    assert found is not None
    assert isinstance(found.layout, Layout)
    if found.kind is Kind.ELEMENTWISE:
        depends = functools.reduce(operator.or_, given)
        return [functools.reduce(operator.and_, (read(i) != 0 for i in masks), depends)]
    if found.kind is Kind.AFFINE and masks:  # which is a move where it has one weight that is not 0
        (at,) = masks
        truths: list[Any] = [_full(given[1 - at], op.inputs[1 - at].shape, xp)] * 2
        truths[at] = _full(read(at) != 0, op.inputs[at].shape, xp)
        params = {**op.params, "preferred_element_type": None}
        counted = compat.bind(op.primitive, params, *(jnp.asarray(x, float) for x in truths))
        return [x > 0.5 for x in counted]
    if op.primitive is lax.select_n_p:
        fixed = isinstance(given[0], np.ndarray) and not given[0].any()
        if not fixed:  # where(y > 0, y, 0): of all that it depends on
            return [functools.reduce(operator.or_, given)]
        which = read(0)
        cases = given[1:]
        if which.dtype == bool:
            return [xp.where(which, cases[1], cases[0])]
        shape = np.broadcast_shapes(which.shape, *(case.shape for case in cases))
        chosen = [xp.broadcast_to(case, shape) for case in cases]
        return [xp.choose(xp.broadcast_to(which, shape), chosen, mode="clip")]
    if op.primitive is lax.sort_p:
        return [_sorted(op, given[0], read)]
    if found.layout is Layout.KEPT:
        cumulative = found.kind in (Kind.SUM, Kind.WINNER)
        return [_cumulative(op, given[0], xp)] if cumulative else list(given)
    return _BY_LAYOUT[found.layout](op, given, read, xp)


def _full(pattern: Pattern, shape: Sequence[int], xp: Any) -> Pattern:
    return xp.broadcast_to(pattern, tuple(shape))


def _permuted(op: Op, given: Sequence[Pattern], read: Reader, xp: Any) -> list[Pattern]:
    return [xp.transpose(given[0], op.params["permutation"])]


def _reshaped(op: Op, given: Sequence[Pattern], read: Reader, xp: Any) -> list[Pattern]:
    before, after = op.inputs[0].shape, op.outputs[0].shape
    wide, narrow = list(given[0].shape), [1] * len(after)
    for ins, outs in axis_groups(before, after):
        if any(given[0].shape[i] != 1 for i in ins):
            for i in ins:
                wide[i] = before[i]
            for j in outs:
                narrow[j] = after[j]
    return [_full(given[0], wide, xp).reshape(narrow)]


def axis_groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Axes of a reshape's operand and of its output that hold the same elements, group by group."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        ins, outs = [], []
        if i < len(before):
            ins.append(i)
            i += 1
        if j < len(after):
            outs.append(j)
            j += 1
        while math.prod(before[a] for a in ins) != math.prod(after[b] for b in outs):
            if math.prod(before[a] for a in ins) < math.prod(after[b] for b in outs):
                if i == len(before):
                    return [(list(range(len(before))), list(range(len(after))))]
                ins.append(i)
                i += 1
            elif j == len(after):
                return [(list(range(len(before))), list(range(len(after))))]
            else:
                outs.append(j)
                j += 1
        groups.append((ins, outs))
    return groups


def _broadcast(op: Op, given: Sequence[Pattern], read: Reader, xp: Any) -> list[Pattern]:
    shape = [1] * len(op.outputs[0].shape)
    for i, dim in enumerate(op.params["broadcast_dimensions"]):
        shape[dim] = given[0].shape[i]
    return [given[0].reshape(shape)]


def _reduced(op: Op, given: Sequence[Pattern], read: Reader, xp: Any) -> list[Pattern]:
    if op.primitive is lax.squeeze_p:
        dropped = op.params["dimensions"]
        kept = [size for i, size in enumerate(given[0].shape) if i not in dropped]
        return [given[0].reshape(kept)]
    return [xp.any(given[0], axis=tuple(op.params["axes"]))]


def _sliced(op: Op, given: Sequence[Pattern], read: Reader, xp: Any) -> list[Pattern]:
    starts, limits = op.params["start_indices"], op.params["limit_indices"]
    strides = op.params["strides"] or (1,) * len(starts)
    cuts = zip(given[0].shape, starts, limits, strides, strict=True)
    return [given[0][tuple(slice(None) if n == 1 else slice(*cut) for n, *cut in cuts)]]


def _padded(op: Op, given: Sequence[Pattern], read: Reader, xp: Any) -> list[Pattern]:
    found, around = given
    for axis, (low, _, interior) in enumerate(op.params["padding_config"]):
        size, after = op.inputs[0].shape[axis], op.outputs[0].shape[axis]
        if op.params["padding_config"][axis] == (0, 0, 0):
            continue
        places = np.arange(after) - low
        real = (places >= 0) & (places % (interior + 1) == 0) & (places < size * (interior + 1))
        found = _picked_along(found, axis, size, np.where(real, places // (interior + 1), 0), xp)
        shape = [-1 if i == axis else 1 for i in range(found.ndim)]
        found = xp.where(real.reshape(shape), found, around)
    return [found]


def _picked_along(pattern: Pattern, axis: int, size: int, places: np.ndarray, xp: Any) -> Pattern:
    if pattern.shape[axis] != size:
        pattern = _full(pattern, [*pattern.shape[:axis], size, *pattern.shape[axis + 1 :]], xp)
    return xp.take(pattern, places, axis=axis)


def _joined(op: Op, given: Sequence[Pattern], read: Reader, xp: Any) -> list[Pattern]:
    axis = op.params["dimension"]
    shape = list(np.broadcast_shapes(*(np.delete(p.shape, axis) for p in given)))
    pieces = [
        _full(p, [*shape[:axis], value.shape[axis], *shape[axis:]], xp)
        for p, value in zip(given, op.inputs, strict=True)
    ]
    return [xp.concatenate(pieces, axis)]


def _split(op: Op, given: Sequence[Pattern], read: Reader, xp: Any) -> list[Pattern]:
    axis, (pattern, *_) = op.params["axis"], given
    if pattern.shape[axis] == 1:
        return [pattern for _ in op.outputs]
    ends = list(itertools.accumulate(op.params["sizes"]))
    cuts = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    return [pattern[(slice(None),) * axis + (cut_,)] for cut_ in cuts]


def _stacked(op: Op, given: Sequence[Pattern], read: Reader, xp: Any) -> list[Pattern]:
    shape = np.broadcast_shapes(*(pattern.shape for pattern in given))
    return [xp.stack([_full(pattern, shape, xp) for pattern in given], op.params["axis"])]


def _unstacked(op: Op, given: Sequence[Pattern], read: Reader, xp: Any) -> list[Pattern]:
    axis, (pattern, *_) = op.params["axis"], given
    last = pattern.shape[axis] - 1
    return [xp.take(pattern, min(i, last), axis=axis) for i in range(len(op.outputs))]


def _tiled(op: Op, given: Sequence[Pattern], read: Reader, xp: Any) -> list[Pattern]:
    repeats = zip(given[0].shape, op.params["reps"], strict=True)
    return [xp.tile(given[0], [1 if size == 1 else n for size, n in repeats])]


def _reversed(op: Op, given: Sequence[Pattern], read: Reader, xp: Any) -> list[Pattern]:
    return [xp.flip(given[0], tuple(op.params["dimensions"]))]


def _picked(op: Op, given: Sequence[Pattern], read: Reader, xp: Any) -> list[Pattern]:
    if all(size == 1 for size in given[0].shape):
        return [given[0].reshape((1,) * len(op.outputs[0].shape))]
    places = [read(i) for i in range(1, len(op.inputs))]
    return compat.bind(op.primitive, op.params, _full(given[0], op.inputs[0].shape, xp), *places)


def _placed(op: Op, given: Sequence[Pattern], read: Reader, xp: Any) -> list[Pattern]:
    found = _full(given[0], op.inputs[0].shape, xp)
    if op.primitive is lax.dynamic_update_slice_p:
        placed = _full(given[1], op.inputs[1].shape, xp)
        places = [read(i) for i in range(2, len(op.inputs))]
        return [lax.dynamic_update_slice(found, placed, places)]
    placed = _full(given[2], op.inputs[2].shape, xp)
    if op.primitive is lax.scatter_p:
        return [compat.scatter(op.primitive, op.params, found, read(1), placed)]
    counted = compat.scatter(
        lax.scatter_add_p, op.params, jnp.asarray(found, int), read(1), jnp.asarray(placed, int)
    )
    return [counted > 0]


def _chosen(op: Op, given: Sequence[Pattern], read: Reader, xp: Any) -> list[Pattern]:
    """Which ones are chosen depends on the input wherever any of them does."""
    return [xp.any(given[0], axis=op.params["axis"], keepdims=True) for _ in op.outputs]


def _sorted(op: Op, pattern: Pattern, read: Reader) -> Pattern:
    keys = read(0)
    params = {**op.params, "num_keys": 1}
    return compat.bind(lax.sort_p, params, keys, jnp.broadcast_to(pattern, keys.shape))[1]


def _cumulative(op: Op, pattern: Pattern, xp: Any) -> Pattern:
    axis = op.params["axis"]
    if op.params["reverse"]:
        return xp.flip(xp.cumsum(xp.flip(pattern, axis), axis) > 0, axis)
    return xp.cumsum(pattern, axis) > 0


def _moved_window(
    pattern: Pattern, axis: int, size: int, window: int, stride: int, low: int, after: int,
    dilation: int, window_dilation: int, xp: Any,
) -> Pattern:  # fmt: skip
    """Whether any element in a window that moves along an axis is active."""
    if (window, stride, low, dilation, after) == (1, 1, 0, 1, size):
        return pattern
    places = np.arange(after)[:, None] * stride + np.arange(window) * window_dilation - low
    real = (places >= 0) & (places % dilation == 0) & (places <= (size - 1) * dilation)
    if pattern.shape[axis] == 1 and real.any(1).all():
        return pattern
    found = _picked_along(pattern, axis, size, np.where(real, places // dilation, 0).ravel(), xp)
    shape = [*pattern.shape[:axis], after, window, *pattern.shape[axis + 1 :]]
    inside = real.reshape([1] * axis + [after, window] + [1] * (pattern.ndim - axis - 1))
    return xp.any(found.reshape(shape) & inside, axis=axis + 1)


def _windows(op: Op, given: Sequence[Pattern], read: Reader, xp: Any) -> list[Pattern]:
    params, found = op.params, given[0]
    for axis, size in enumerate(op.inputs[0].shape):
        found = _moved_window(
            found, axis, size, params["window_dimensions"][axis], params["window_strides"][axis],
            params["padding"][axis][0], op.outputs[0].shape[axis], params["base_dilation"][axis],
            params["window_dilation"][axis], xp,
        )  # fmt: skip
    return [found]


def _convolved(op: Op, given: Sequence[Pattern], read: Reader, xp: Any) -> list[Pattern]:
    params, (image, kernel) = op.params, op.inputs
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    found = xp.transpose(given[0], numbers.lhs_spec)  # batch, channels, positions
    kernel_shape = [kernel.shape[i] for i in numbers.rhs_spec]
    out_shape = [op.outputs[0].shape[i] for i in numbers.out_spec]
    if params["batch_group_count"] > 1:
        found = xp.any(found, axis=tuple(range(found.ndim)), keepdims=True)
    for axis, window in enumerate(kernel_shape[2:], 2):
        at = axis - 2
        found = _moved_window(
            found, axis, image.shape[numbers.lhs_spec[axis]], window,
            params["window_strides"][at], params["padding"][at][0], out_shape[axis],
            params["lhs_dilation"][at], params["rhs_dilation"][at], xp,
        )  # fmt: skip
    if groups > 1 and found.shape[1] > 1:
        grouped = found.reshape(found.shape[0], groups, -1, *found.shape[2:])
        found = xp.repeat(xp.any(grouped, axis=2), out_shape[1] // groups, axis=1)
    else:
        found = xp.any(found, axis=1, keepdims=True)
    return [xp.transpose(found, [numbers.out_spec.index(i) for i in range(found.ndim)])]


def _contracted(op: Op, given: Sequence[Pattern], read: Reader, xp: Any) -> list[Pattern]:
    contract, batch = op.params["dimension_numbers"]
    free = [
        [i for i in range(given[side].ndim) if i not in (*contract[side], *batch[side])]
        for side in (0, 1)
    ]
    found = []
    for side in (0, 1):
        summed = xp.any(given[side], axis=tuple(contract[side]), keepdims=True)
        order = (*batch[side], *free[side], *contract[side])
        kept = xp.transpose(summed, order).reshape(
            [summed.shape[i] for i in (*batch[side], *free[side])]
        )
        at = kept.ndim if side == 0 else len(batch[side])
        found.append(xp.expand_dims(kept, tuple(at + i for i in range(len(free[1 - side])))))
    return [found[0] | found[1]]


_BY_LAYOUT: dict[Layout, Callable[..., list[Pattern]]] = {
    Layout.PERMUTED: _permuted, Layout.RESHAPED: _reshaped, Layout.BROADCAST: _broadcast,
    Layout.REDUCED: _reduced, Layout.SLICED: _sliced, Layout.PADDED: _padded,
    Layout.JOINED: _joined, Layout.SPLIT: _split, Layout.STACKED: _stacked,
    Layout.UNSTACKED: _unstacked, Layout.TILED: _tiled, Layout.REVERSED: _reversed,
    Layout.PICKED: _picked, Layout.PLACED: _placed, Layout.CHOSEN: _chosen,
    Layout.WINDOWS: _windows,
    Layout.CONVOLVED: _convolved, Layout.CONTRACTED: _contracted,
}  # fmt: skip
