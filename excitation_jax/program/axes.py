"""Where the axes of each value come from: batch axis, spatial axes and strides.

Axes are never guessed. The axes of the explained input that a window moves along (a convolution's,
a pooling's, or that of patches which are cut out and summed) are spatial, by the operations' own
dimension numbers; every value's axes are followed from there, also through reshapes that split or
merge them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

from jax import lax

from .facts import FactTable
from .patterns import axis_groups
from .primitives import Kind, Layout, indices, kind, layout
from .trace import Op, Program, Value
from .walk import Border, Forward


class Part(NamedTuple):
    """Positions along an axis of an explained input, ``size`` of them at a stride.

    ``source`` is the number of the input, None for an axis that comes from no input.
    """

    source: int | None
    dimension: int
    stride: Fraction
    size: int

    @property
    def along(self) -> tuple[int | None, int]:
        """Which axis of which input."""
        return self.source, self.dimension


#: An axis runs along its parts, the last the fastest: several, where a reshape merged them.
Axis = tuple[Part, ...]
Axes = tuple[Axis, ...]


def _new(size: int) -> Axis:
    """An axis that comes from no input."""
    return (Part(None, 0, Fraction(1), size),)


class Geometry(Forward):
    """The axes of every value that depends on the explained inputs."""

    def __init__(self, program: Program, facts: FactTable, explained: Sequence[Value]):
        self._axes: dict[Value, Axes] = {}
        self._facts = facts
        self._spatial: set[tuple[int | None, int]] = set()
        for source, value in enumerate(explained):
            sizes = enumerate(value.shape)
            self._axes[value] = tuple((Part(source, i, Fraction(1), n),) for i, n in sizes)
        self.walk(program)

    def spatial(self, value: Value) -> tuple[int, ...]:
        """Positions of the spatial axes of a value, in the order that they have in the input."""
        found = {i: axis[0] for i, axis in self._single(value) if axis[0].along in self._spatial}
        return tuple(sorted(found, key=lambda i: (found[i].source or 0, found[i].dimension)))

    def strides(self, value: Value) -> tuple[Fraction, ...]:
        """Input pixels per step along each spatial axis."""
        axes = self._axes.get(value, ())
        return tuple(axes[i][0].stride for i in self.spatial(value))

    def batch(self, value: Value) -> int | None:
        """Position of the axis along which the input's examples lie; None where there is none."""
        found = [i for i, axis in self._single(value) if axis[0].dimension == 0]
        batch = [i for i in found if self._axes[value][i][0].along not in self._spatial]
        return batch[0] if batch else None

    def _single(self, value: Value) -> Iterable[tuple[int, Axis]]:
        """Axes that run along one axis of an input."""
        axes = enumerate(self._axes.get(value, ()))
        return [(i, axis) for i, axis in axes if len(axis) == 1 and axis[0].source is not None]

    def visit(self, op: Op) -> None:
        which, real = indices(op.primitive), any(value.inexact for value in op.outputs)
        signals = [
            i
            for i, v in enumerate(op.inputs)
            if i not in which and v in self._axes and v.inexact == real
        ]
        if op.primitive is lax.gather_p and not signals and op.inputs[1] in self._axes:
            self._axes[op.outputs[0]] = _looked_up(op, self._axes[op.inputs[1]])
        if not signals:
            return
        for place, value in enumerate(op.outputs):
            axes = self._follow(op, signals, place)
            fits = axes is not None and [math.prod(p.size for p in a) for a in axes]
            if axes is None or fits != list(value.shape):
                axes = tuple(map(_new, value.shape))
            self._axes[value] = axes

    def _follow(self, op: Op, signals: Sequence[int], place: int) -> Axes | None:
        how = layout(op.primitive)
        if how is None:
            return None
        axes = self._axes[op.inputs[signals[0]]]
        if how is Layout.KEPT:
            at = place if op.primitive is lax.optimization_barrier_p else None
            same = [i for i in signals if op.inputs[i].shape == op.outputs[place].shape]
            which = at if at in signals else same[0] if same else None
            return None if which is None else self._axes[op.inputs[which]]
        if how is Layout.CONVOLVED:
            return self._convolved(op, axes) if 0 in signals else None
        if how is Layout.CONTRACTED:
            return self._contracted(op, signals[0], axes)
        if how is Layout.WINDOWS:
            sizes = op.params["window_dimensions"]
            self._sweep(axis for axis, size in zip(axes, sizes, strict=True) if size > 1)
        if how is Layout.REDUCED and kind(op.primitive) is not Kind.MOVE:
            dropped = [axes[i] for i in op.params["axes"]]
            self._cut_out(dropped, [a for i, a in enumerate(axes) if i not in op.params["axes"]])
        if how is Layout.PLACED and signals[0] != 0:
            return _placed(op, axes)
        return _BY_LAYOUT[how](op, axes, place)

    def enter(self, op: Op, border: Border) -> None:
        if self._facts.apart(op):
            return  # a shard's axes are parts of the array's
        for entry in border.entries:
            if entry.outer in self._axes:
                self._axes[entry.inner] = self._axes[entry.outer][entry.stacked :]

    def hand_on(self, border: Border, rounds: int) -> bool:
        new = [
            (into, self._axes[out])
            for out, into in border.handed
            if out in self._axes and into not in self._axes
        ]
        self._axes.update(new)
        return bool(new)

    def leave(self, op: Op, around: Sequence[Border]) -> None:
        for border in () if self._facts.apart(op) else around:
            for exit in border.exits:
                if exit.inner in self._axes:
                    steps = (_new(border.steps or 0),) * exit.stacked
                    self._axes[exit.outer] = (*steps, *self._axes[exit.inner])

    def _sweep(self, axes: Iterable[Axis]) -> None:
        """A window moves along these axes."""
        self._spatial.update(a[0].along for a in axes if len(a) == 1 and a[0].source is not None)

    def _cut_out(self, summed: Sequence[Axis], kept: Sequence[Axis]) -> None:
        """Patches are cut out where of an input's axis the fine part is summed, the coarse kept."""
        inside = {part.along: part for axis in summed for part in axis if part.source is not None}
        left = {part.along: part for axis in kept for part in axis if part.source is not None}
        self._spatial.update(
            along for along, part in inside.items()
            if along in left and left[along].stride > part.stride
        )  # fmt: skip

    def _convolved(self, op: Op, axes: Axes) -> Axes:
        lhs, _, out = op.params["dimension_numbers"]
        after = op.outputs[0].shape
        found = [_new(size) for size in after]
        found[out[0]] = axes[lhs[0]]
        steps = zip(op.params["window_strides"], op.params["lhs_dilation"], strict=True)
        for i, (stride, dilation) in enumerate(steps):
            factor = Fraction(stride, dilation)
            found[out[2 + i]] = _scaled(axes[lhs[2 + i]], factor, after[out[2 + i]])
        self._sweep(axes[i] for i in lhs[2:])
        return tuple(found)

    def _contracted(self, op: Op, signal: int, axes: Axes) -> Axes:
        """Free and batch axes stay; a known matrix (interpolation) resamples the one it meets."""
        contract, batch = op.params["dimension_numbers"]
        weight = 1 - signal
        shapes = [value.shape for value in op.inputs]
        free = [
            [i for i in range(len(shapes[side])) if i not in (*contract[side], *batch[side])]
            for side in (0, 1)
        ]
        added = [_new(shapes[weight][i]) for i in free[weight]]
        if not self._facts[op.inputs[weight]].learned and len(added) == len(contract[signal]) == 1:
            (old,), size = contract[signal], shapes[weight][free[weight][0]]
            added = [_scaled(axes[old], Fraction(shapes[signal][old], size), size)]
        kept = [axes[i] for i in (*batch[signal], *free[signal])]
        self._cut_out([axes[i] for i in contract[signal]], kept)
        own, ahead = [axes[i] for i in free[signal]], [axes[i] for i in batch[signal]]
        return tuple([*ahead, *own, *added] if signal == 0 else [*ahead, *added, *own])


def _scaled(axis: Axis, factor: Fraction, size: int) -> Axis:
    """An axis that was resampled to ``size`` elements; merged ones are lost on the way."""
    if len(axis) == 1:
        return (axis[0]._replace(stride=axis[0].stride * factor, size=size),)
    return axis if factor == 1 and math.prod(p.size for p in axis) == size else _new(size)


def _permuted(op: Op, axes: Axes, place: int) -> Axes:
    return tuple(axes[i] for i in op.params["permutation"])


def _reshaped(op: Op, axes: Axes, place: int) -> Axes | None:
    """Splits and merges the parts of each group of axes that hold the same elements."""
    after = op.outputs[0].shape
    if 0 in after:
        return None
    found: list[Axis] = [_new(size) for size in after]
    for ins, outs in axis_groups(op.inputs[0].shape, after):
        parts = [part for i in ins for part in axes[i] if part.size != 1]
        for j in outs:
            taken = _take(parts, after[j])
            if taken is None:
                break  # the sizes of this group do not divide
            found[j] = taken or _of_length_one(axes, ins)
    return tuple(found)


def _of_length_one(axes: Axes, ins: Sequence[int]) -> Axis:
    one = [axes[i] for i in ins if len(axes[i]) == 1 and axes[i][0].size == 1]
    return one[0] if len(ins) == len(one) == 1 else _new(1)


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
            inner = part.size // size
            parts.insert(0, part._replace(size=inner))
            part, size = part._replace(stride=part.stride * inner, size=size), 1
        else:
            return None
        last = taken[-1] if taken else None
        if last and last.along == part.along and last.stride == part.stride * part.size:
            taken[-1] = part._replace(size=last.size * part.size)  # split before, and merged again
        else:
            taken.append(part)
    return tuple(taken)


def _reduced(op: Op, axes: Axes, place: int) -> Axes:
    dropped = op.params["dimensions" if op.primitive is lax.squeeze_p else "axes"]
    return tuple(axis for i, axis in enumerate(axes) if i not in dropped)


def _broadcast(op: Op, axes: Axes, place: int) -> Axes:
    shape = op.params["shape"]
    found = [_new(size) for size in shape]
    for i, dim in enumerate(op.params["broadcast_dimensions"]):
        if op.inputs[0].shape[i] == shape[dim]:
            found[dim] = axes[i]
    return tuple(found)


def _sliced(op: Op, axes: Axes, place: int) -> Axes:
    strides, after = op.params["strides"] or (1,) * len(axes), op.outputs[0].shape
    steps = zip(axes, strides, after, strict=True)
    return tuple(_scaled(axis, Fraction(step), size) for axis, step, size in steps)


def _padded(op: Op, axes: Axes, place: int) -> Axes:
    steps = zip(axes, op.params["padding_config"], op.outputs[0].shape, strict=True)
    return tuple(_scaled(axis, Fraction(1, inner + 1), n) for axis, (_, _, inner), n in steps)


def _resized(op: Op, axes: Axes, place: int) -> Axes:
    """Axes stay in place, some with another number of elements at the same stride."""
    sizes = zip(axes, op.outputs[place].shape, strict=True)
    return tuple(_scaled(axis, Fraction(1), size) for axis, size in sizes)


def _stacked(op: Op, axes: Axes, place: int) -> Axes:
    at = op.params["axis"]
    return (*axes[:at], _new(len(op.inputs)), *axes[at:])


def _unstacked(op: Op, axes: Axes, place: int) -> Axes:
    at = op.params["axis"]
    return (*axes[:at], *axes[at + 1 :])


def _tiled(op: Op, axes: Axes, place: int) -> Axes:
    sizes = zip(axes, op.params["reps"], op.outputs[0].shape, strict=True)
    return tuple(axis if repeats == 1 else _new(size) for axis, repeats, size in sizes)


def _picked(op: Op, axes: Axes, place: int) -> Axes:
    """Whole slices keep their axes; one index an axis resamples it (nearest-neighbour resize)."""
    after = op.outputs[0].shape
    if op.primitive is lax.dynamic_slice_p:
        return _resized(op, axes, place)
    numbers, sizes = op.params["dimension_numbers"], op.params["slice_sizes"]
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    kept = [i for i in range(len(axes)) if i not in gone]
    found: list[Axis] = [_new(size) for size in after]
    for j, i in zip(numbers.offset_dims, kept, strict=True):
        found[j] = axes[i] if sizes[i] == op.inputs[0].shape[i] else _new(after[j])
    free = [j for j in range(len(after)) if j not in numbers.offset_dims]
    if len(free) == len(gone):
        for j, i in zip(free, sorted(gone), strict=True):
            found[j] = _scaled(axes[i], Fraction(op.inputs[0].shape[i], after[j]), after[j])
    return tuple(found)


def _looked_up(op: Op, axes: Axes) -> Axes:
    """Of what indices pick from a table (an embedding): the indices' axes, and the table's."""
    offsets = op.params["dimension_numbers"].offset_dims
    ahead = iter(axes)
    sizes = enumerate(op.outputs[0].shape)
    return tuple(_new(size) if j in offsets else next(ahead) for j, size in sizes)


def _placed(op: Op, axes: Axes) -> Axes | None:
    """Of slices that are placed in an array that has no axes of its own."""
    after = op.outputs[0].shape
    if op.primitive is not lax.dynamic_update_slice_p:
        numbers = op.params["dimension_numbers"]
        kept = [i for i in range(len(after)) if i not in numbers.inserted_window_dims]
        kept = [i for i in kept if i not in numbers.operand_batching_dims]
        found = [_new(size) for size in after]
        for j, i in zip(numbers.update_window_dims, kept, strict=True):
            found[i] = _scaled(axes[j], Fraction(1), after[i])
        return tuple(found)
    return tuple(_scaled(axis, Fraction(1), n) for axis, n in zip(axes, after, strict=True))


def _chosen(op: Op, axes: Axes, place: int) -> Axes:
    at = op.params["axis"]
    return (*axes[:at], _new(op.outputs[place].shape[at]), *axes[at + 1 :])


def _windows(op: Op, axes: Axes, place: int) -> Axes:
    params = op.params
    steps = zip(
        axes, params["window_strides"], params["base_dilation"], op.outputs[0].shape, strict=True
    )
    return tuple(_scaled(axis, Fraction(stride, base), n) for axis, stride, base, n in steps)


_BY_LAYOUT: dict[Layout, Callable[[Op, Axes, int], Axes | None]] = {
    Layout.PERMUTED: _permuted, Layout.RESHAPED: _reshaped, Layout.REDUCED: _reduced,
    Layout.BROADCAST: _broadcast, Layout.SLICED: _sliced, Layout.PADDED: _padded,
    Layout.JOINED: _resized, Layout.SPLIT: _resized, Layout.STACKED: _stacked,
    Layout.UNSTACKED: _unstacked, Layout.TILED: _tiled, Layout.REVERSED: _resized,
    Layout.PICKED: _picked, Layout.PLACED: _resized, Layout.CHOSEN: _chosen,
    Layout.WINDOWS: _windows,
}  # fmt: skip
