"""What an operation does to axes: which of the input's they are, and where their cells lie."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from jax import lax

from .facts import FactTable
from .known_numbers import numbers, whole_number
from .parts import Axes, Axis, Part, agreed, folded, merged, new, nowhere, scaled, split
from .patterns import axis_groups
from .primitives import Layout
from .trace import Op

_ONE = Fraction(1)

#: From an operation, the axes of those operands that have some, by position, the place of the
#: output, and what is known of constants.
Move = Callable[[Op, dict[int, Axes], int, FactTable], "Axes | None"]


def move(how: Layout, op: Op, given: dict[int, Axes], place: int, facts: FactTable) -> Axes | None:
    """The axes of an operation's output; None where they are not followed.

    Args:
      given: those of the operands that depend on the input, by position.
      place: of the output.
    """
    return _BY_LAYOUT[how](op, given, place, facts)


def _first(given: dict[int, Axes]) -> Axes:
    return next(iter(given.values()))


def _permuted(op: Op, given: dict[int, Axes], place: int, facts: FactTable) -> Axes:
    axes = _first(given)
    return tuple(axes[i] for i in op.params["permutation"])


def _reshaped(op: Op, given: dict[int, Axes], place: int, facts: FactTable) -> Axes | None:
    """Splits and merges the parts of each group of axes that hold the same elements."""
    axes, after = _first(given), op.outputs[0].shape
    if 0 in after:
        return None
    found: list[Axis] = [new(size) for size in after]
    alone: list[Axis] = []
    for ins, outs in axis_groups(op.inputs[0].shape, after):
        parts = [part for i in ins for part in axes[i] if part.size != 1]
        one = [axes[i] for i in ins if len(axes[i]) == 1 and axes[i][0].size == 1]
        kept = len(ins) == len(one) == 1 and len(outs) > 0
        alone += [] if kept else one
        for j in outs:
            taken = _take(parts, after[j])
            if taken is None:
                break  # the sizes of this group do not divide
            found[j] = taken or (one[0] if kept else new(1))
    return folded(alone, tuple(found))


def _take(parts: list[Part], size: int) -> Axis | None:
    """The first parts that make up an axis of this size, taken off the list; None if none do."""
    taken: list[Part] = []
    while size > 1:
        if not parts:
            return None
        part = parts.pop(0)
        if size % part.size == 0:
            size //= part.size
        elif part.size % size == 0:
            part, inner = split(part, part.size // size)
            parts.insert(0, inner)
            size = 1
        else:
            return None
        whole = merged(taken[-1], part) if taken else None
        if whole is None:
            taken.append(part)
        else:
            taken[-1] = whole
    return tuple(taken)


def _reduced(op: Op, given: dict[int, Axes], place: int, facts: FactTable) -> Axes:
    axes = _first(given)
    dropped = op.params["dimensions" if op.primitive is lax.squeeze_p else "axes"]
    kept = tuple(axis for i, axis in enumerate(axes) if i not in dropped)
    return folded([axes[i] for i in dropped], kept)


def _broadcast(op: Op, given: dict[int, Axes], place: int, facts: FactTable) -> Axes:
    axes, shape = _first(given), op.params["shape"]
    found = [new(size) for size in shape]
    for i, dim in enumerate(op.params["broadcast_dimensions"]):
        if op.inputs[0].shape[i] == shape[dim]:
            found[dim] = axes[i]
    return tuple(found)


def _sliced(op: Op, given: dict[int, Axes], place: int, facts: FactTable) -> Axes:
    axes, after = _first(given), op.outputs[0].shape
    strides, starts = op.params["strides"] or (1,) * len(axes), op.params["start_indices"]
    steps = zip(axes, strides, after, starts, strict=True)
    return tuple(scaled(axis, Fraction(step), n, Fraction(at)) for axis, step, n, at in steps)


def _padded(op: Op, given: dict[int, Axes], place: int, facts: FactTable) -> Axes:
    steps = zip(_first(given), op.params["padding_config"], op.outputs[0].shape, strict=True)
    return tuple(
        scaled(axis, Fraction(1, inner + 1), n, Fraction(-low, inner + 1))
        for axis, (low, _, inner), n in steps
    )


def _joined(op: Op, given: dict[int, Axes], place: int, facts: FactTable) -> Axes:
    """Along the axis on which operands follow each other they must be pieces of one axis."""
    at, after = op.params["dimension"], op.outputs[0].shape
    ends = [0, *itertools.accumulate(value.shape[at] for value in op.inputs)]
    pieces = [scaled(axes[at], _ONE, after[at], Fraction(-ends[i])) for i, axes in given.items()]
    found = _agreed(list(given.values()))
    same = all(piece == pieces[0] for piece in pieces)
    whole = pieces[0] if same else nowhere(pieces[0])
    return (*found[:at], whole, *found[at + 1 :])


def _agreed(every: Sequence[Axes]) -> Axes:
    """Axis by axis those of the first of several values, and where all of them lie."""
    first, *others = every
    return tuple(agreed(axis, [axes[i] for axes in others]) for i, axis in enumerate(first))


def _split(op: Op, given: dict[int, Axes], place: int, facts: FactTable) -> Axes:
    at, start = op.params["axis"], sum(op.params["sizes"][:place])
    return tuple(
        scaled(axis, _ONE, size, Fraction(start if i == at else 0))
        for i, (axis, size) in enumerate(zip(_first(given), op.outputs[place].shape, strict=True))
    )


def _stacked(op: Op, given: dict[int, Axes], place: int, facts: FactTable) -> Axes:
    at, axes = op.params["axis"], _agreed(list(given.values()))
    return (*axes[:at], new(len(op.inputs)), *axes[at:])


def _unstacked(op: Op, given: dict[int, Axes], place: int, facts: FactTable) -> Axes:
    at, axes = op.params["axis"], _first(given)
    one = scaled(axes[at], _ONE, 1, Fraction(place))
    return folded([one], (*axes[:at], *axes[at + 1 :]))


def _tiled(op: Op, given: dict[int, Axes], place: int, facts: FactTable) -> Axes:
    sizes = zip(_first(given), op.params["reps"], op.outputs[0].shape, strict=True)
    return tuple(axis if repeats == 1 else new(size) for axis, repeats, size in sizes)


def _reversed(op: Op, given: dict[int, Axes], place: int, facts: FactTable) -> Axes:
    """The last position comes first, and the stride turns its sign."""
    return tuple(
        tuple(part.resampled(-_ONE, part.size, Fraction(part.size - 1)) for part in axis)
        if i in op.params["dimensions"]
        else axis
        for i, axis in enumerate(_first(given))
    )


def _picked(op: Op, given: dict[int, Axes], place: int, facts: FactTable) -> Axes:
    """Whole slices keep their axes; one index an axis resamples it (nearest-neighbour resize)."""
    axes, after, before = _first(given), op.outputs[0].shape, op.inputs[0].shape
    if op.primitive is lax.dynamic_slice_p:
        starts = [_start(op, 1 + i, before[i] - after[i], facts) for i in range(len(after))]
        cuts = zip(axes, after, starts, strict=True)
        return tuple(scaled(axis, _ONE, size, start) for axis, size, start in cuts)
    numbering, sizes = op.params["dimension_numbers"], op.params["slice_sizes"]
    gone = (*numbering.collapsed_slice_dims, *numbering.operand_batching_dims)
    kept = [i for i in range(len(axes)) if i not in gone]
    found: list[Axis] = [new(size) for size in after]
    for j, i in zip(numbering.offset_dims, kept, strict=True):
        found[j] = axes[i] if sizes[i] == before[i] else new(after[j])
    free = [j for j in range(len(after)) if j not in numbering.offset_dims]
    if len(free) == len(gone):
        places = numbers(op.inputs[1], facts)
        for at, (j, i) in enumerate(zip(free, sorted(gone), strict=True)):
            step, start = Fraction(before[i], after[j]), None
            if places is not None and i in numbering.start_index_map:
                which = places[..., numbering.start_index_map.index(i)]
                step, start = _line(which, at, step)
            found[j] = scaled(axes[i], step, after[j], start)
    return tuple(found)


def _line(places: np.ndarray, axis: int, step: Fraction) -> tuple[Fraction, Fraction | None]:
    """(step, start) of places that lie on a line, to half an element; start None where they do not.

    Args:
      places: indices, which must differ along this axis only.
      step: that is expected, if they are not equally far apart.
    """
    line = np.moveaxis(places, axis, 0).reshape(places.shape[axis], -1)
    if (line != line[:, :1]).any():
        return step, None
    line = line[:, 0]
    if len(line) > 1 and (np.diff(line) == line[1] - line[0]).all() and line[1] != line[0]:
        return Fraction(int(line[1] - line[0])), Fraction(int(line[0]))
    step = -step if line[-1] < line[0] else step
    off = [Fraction(int(place)) - i * step for i, place in enumerate(line)]
    return step, (min(off) + max(off)) / 2 if max(off) - min(off) <= 1 else None


def _start(op: Op, i: int, room: int, facts: FactTable) -> Fraction | None:
    """The constant index at an operand's position, which JAX clamps to 0 and what there is room."""
    if room == 0:
        return Fraction(0)
    known = whole_number(op.inputs[i], facts)
    return None if known is None else Fraction(min(max(known, 0), room))


def looked_up(op: Op, axes: Axes) -> Axes:
    """Of what indices pick from a table (an embedding): the indices' axes, and the table's."""
    offsets = op.params["dimension_numbers"].offset_dims
    ahead = iter(axes)
    sizes = enumerate(op.outputs[0].shape)
    return tuple(new(size) if j in offsets else next(ahead) for j, size in sizes)


def _placed(op: Op, given: dict[int, Axes], place: int, facts: FactTable) -> Axes | None:
    """Slices in an array. Where both have axes of their own, they must be pieces of the same."""
    updates = 1 if op.primitive is lax.dynamic_update_slice_p else 2
    pieces = _of_slices(op, given[updates], facts) if updates in given else None
    if 0 not in given:
        return pieces
    if pieces is None:
        return given[0]
    return tuple(
        axis if piece == axis or all(part.source is None for part in piece) else nowhere(axis)
        for axis, piece in zip(given[0], pieces, strict=True)
    )


def _of_slices(op: Op, axes: Axes, facts: FactTable) -> Axes:
    """The axes of the array that slices with these are placed in."""
    after = op.outputs[0].shape
    if op.primitive is lax.dynamic_update_slice_p:
        sizes = op.inputs[1].shape
        starts = [_start(op, 2 + i, n - sizes[i], facts) for i, n in enumerate(after)]
        cuts = zip(axes, after, starts, strict=True)
        return tuple(scaled(axis, _ONE, n, _before(start)) for axis, n, start in cuts)
    numbering, sizes = op.params["dimension_numbers"], op.inputs[2].shape
    kept = [i for i in range(len(after)) if i not in numbering.inserted_window_dims]
    kept = [i for i in kept if i not in numbering.operand_batching_dims]
    found = [new(size) for size in after]
    for j, i in zip(numbering.update_window_dims, kept, strict=True):
        start: Fraction | None = Fraction(0) if sizes[j] == after[i] else None
        places = numbers(op.inputs[1], facts) if start is None else None
        if places is not None and places.ndim == 1:
            named = dict(zip(numbering.scatter_dims_to_operand_dims, places, strict=True))
            start = Fraction(int(named.get(i, 0)))
        found[i] = scaled(axes[j], _ONE, after[i], _before(start))
    return tuple(found)


def _before(start: Fraction | None) -> Fraction | None:
    return None if start is None else -start


def _chosen(op: Op, given: dict[int, Axes], place: int, facts: FactTable) -> Axes:
    at, axes = op.params["axis"], _first(given)
    return (*axes[:at], new(op.outputs[place].shape[at]), *axes[at + 1 :])


def _windows(op: Op, given: dict[int, Axes], place: int, facts: FactTable) -> Axes:
    names = ("window_strides", "base_dilation", "window_dimensions", "window_dilation", "padding")
    windows = zip(*(op.params[name] for name in names), strict=True)
    found = []
    for axis, size, window in zip(_first(given), op.outputs[0].shape, windows, strict=True):
        stride, dilation, wide, window_dilation, (low, _) = window
        start = _middle(dilation, wide, window_dilation, low)
        found.append(scaled(axis, Fraction(stride, dilation), size, start))
    return tuple(found)


def _middle(dilation: int, window: int, window_dilation: int, low: int) -> Fraction:
    """Where the first window's middle lies, in elements of what it moves along."""
    return (Fraction((window - 1) * window_dilation, 2) - low) / dilation


def convolved(op: Op, axes: Axes) -> Axes:
    """Of a convolution whose image has these axes."""
    lhs, rhs, out = op.params["dimension_numbers"]
    after = op.outputs[0].shape
    found = [new(size) for size in after]
    found[out[0]] = axes[lhs[0]]
    names = ("window_strides", "lhs_dilation", "rhs_dilation", "padding")
    steps = zip(*(op.params[name] for name in names), strict=True)
    for i, (stride, dilation, window_dilation, (low, _)) in enumerate(steps, 2):
        start = _middle(dilation, op.inputs[1].shape[rhs[i]], window_dilation, low)
        found[out[i]] = scaled(axes[lhs[i]], Fraction(stride, dilation), after[out[i]], start)
    return folded([axes[lhs[1]]], tuple(found))


def contracted(op: Op, signal: int, axes: Axes, facts: FactTable) -> Axes:
    """Free and batch axes stay; a known matrix (interpolation) resamples the one it meets.

    signal: the position of the operand that has these axes.
    """
    contract, batch = op.params["dimension_numbers"]
    weight = 1 - signal
    shapes = [value.shape for value in op.inputs]
    free = [
        [i for i in range(len(shapes[side])) if i not in (*contract[side], *batch[side])]
        for side in (0, 1)
    ]
    dropped = [axes[i] for i in contract[signal]]
    added = [new(shapes[weight][i]) for i in free[weight]]
    if not facts[op.inputs[weight]].learned and len(added) == len(dropped) == 1:
        size = shapes[weight][free[weight][0]]
        step = Fraction(shapes[signal][contract[signal][0]], size)
        matrix: Any = numbers(op.inputs[weight], facts) if not batch[weight] else None
        if matrix is not None and contract[weight][0] == 1:
            matrix = matrix.T
        start = None if matrix is None else _centroid(matrix, step)
        added, dropped = [scaled(dropped[0], step, size, start)], []
    own, ahead = [axes[i] for i in free[signal]], [axes[i] for i in batch[signal]]
    kept = [*ahead, *own, *added] if signal == 0 else [*ahead, *added, *own]
    return folded(dropped, tuple(kept))


def _centroid(matrix: np.ndarray, step: Fraction) -> Fraction | None:
    """Where the first column's weights lie, of columns ``step`` rows apart; None where they do not.

    Judged by the middle half: near the ends, weights that would lie outside are cut off.
    """
    rows, columns = matrix.shape
    total = matrix.sum(axis=0, dtype=float)
    middle = slice(columns // 4, max(columns - columns // 4, columns // 4 + 1))
    if (total[middle] == 0).any():
        return None
    places = np.arange(rows) @ matrix.astype(float)[:, middle] / total[middle]
    off = places - np.arange(columns)[middle] * float(step)
    if off.max() - off.min() > 1:
        return None
    return Fraction(float((off.max() + off.min()) / 2)).limit_denominator(1 << 10)


_BY_LAYOUT: dict[Layout, Move] = {
    Layout.PERMUTED: _permuted, Layout.RESHAPED: _reshaped, Layout.REDUCED: _reduced,
    Layout.BROADCAST: _broadcast, Layout.SLICED: _sliced, Layout.PADDED: _padded,
    Layout.JOINED: _joined, Layout.SPLIT: _split, Layout.STACKED: _stacked,
    Layout.UNSTACKED: _unstacked, Layout.TILED: _tiled, Layout.REVERSED: _reversed,
    Layout.PICKED: _picked, Layout.PLACED: _placed, Layout.CHOSEN: _chosen,
    Layout.WINDOWS: _windows,
}  # fmt: skip
