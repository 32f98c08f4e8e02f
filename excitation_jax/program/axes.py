"""Where the axes of each value come from: spatial axes and strides.

Axes are never guessed. The axes of the explained input that a convolution or a pooling window
moves along are spatial, by the operations' own dimension numbers; every value's axes are
followed from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

from jax import lax

from . import compat
from .facts import FactTable
from .trace import Nest, Op, Program, Value


class Axis(NamedTuple):
    """An axis of a value that runs along an axis of an explained input, at a stride."""

    source: int
    dimension: int
    stride: Fraction


Axes = tuple[Axis | None, ...]


class Geometry:
    """The axes of every value that depends on the explained inputs."""

    def __init__(self, program: Program, facts: FactTable, explained: Sequence[Value]):
        self._axes: dict[Value, Axes] = {}
        self._facts = facts
        self._spatial: set[tuple[int, int]] = set()
        for source, value in enumerate(explained):
            rank = range(len(value.shape))
            self._axes[value] = tuple(Axis(source, i, Fraction(1)) for i in rank)
        self._walk(program)

    def _walk(self, program: Program) -> None:
        for op in program.ops:
            signal = next((v for v in op.inputs if v in self._axes and v.floating), None)
            if op.nest is not None:
                self._walk_inside(op, op.nest)
            elif signal is not None:
                for value in op.outputs:
                    self._axes[value] = self._follow(op, value)

    def _walk_inside(self, op: Op, nest: Nest) -> None:
        """Into the bodies; the axis of a loop's steps is cut off on the way in and out."""
        if op.primitive is compat.shard_map_p:
            return  # a shard's axes are parts of the array's
        for body in nest.bodies:
            for i, (inner, outer) in enumerate(
                zip(body.inputs, op.inputs[nest.offset :], strict=True)
            ):
                if outer in self._axes:
                    self._axes[inner] = self._axes[outer][nest.stacked_input(i) :]
            self._walk(body)
            for i, (outer, inner) in enumerate(zip(op.outputs, body.outputs, strict=True)):
                if inner in self._axes:
                    self._axes[outer] = (None,) * nest.stacked_output(i) + self._axes[inner]

    def spatial(self, value: Value) -> tuple[int, ...]:
        """Positions of the spatial axes of a value."""
        axes = self._axes.get(value, ())
        return tuple(i for i, axis in enumerate(axes) if axis and axis[:2] in self._spatial)

    def strides(self, value: Value) -> tuple[Fraction, ...]:
        """Input pixels per step along each spatial axis."""
        axes = self._axes.get(value, ())
        return tuple(axes[i].stride for i in self.spatial(value))  # type: ignore[union-attr]

    def _follow(self, op: Op, value: Value) -> Axes:
        operands = [v for v in op.inputs if v in self._axes and v.floating]
        nothing: Axes = (None,) * len(value.shape)
        follow = _FOLLOW.get(op.primitive)
        if follow is not None:
            axes, swept = follow(op, self._axes[operands[0]], self._facts)
            self._spatial.update(axis[:2] for axis in swept if axis)
            return axes if len(axes) == len(value.shape) else nothing
        same = [v for v in operands if v.shape == value.shape]
        return self._axes[same[0]] if same else nothing


def _scaled(axis: Axis | None, factor: Fraction | int) -> Axis | None:
    return axis and axis._replace(stride=axis.stride * factor)


Followed = tuple[Axes, Sequence[Axis | None]]


def _convolution(op: Op, axes: Axes, facts: FactTable) -> Followed:
    lhs, _, out = op.params["dimension_numbers"]
    if len(axes) != len(lhs) or not facts[op.inputs[0]].active:
        return (), ()
    found: list[Axis | None] = [None] * len(out)
    found[out[0]] = axes[lhs[0]]
    steps = zip(op.params["window_strides"], op.params["lhs_dilation"], strict=True)
    for i, (stride, dilation) in enumerate(steps):
        found[out[2 + i]] = _scaled(axes[lhs[2 + i]], Fraction(stride, dilation))
    return tuple(found), [axes[i] for i in lhs[2:]]


def _window(op: Op, axes: Axes, facts: FactTable) -> Followed:
    params = op.params
    steps = zip(axes, params["window_strides"], params["base_dilation"], strict=True)
    found = tuple(_scaled(axis, Fraction(stride, dilation)) for axis, stride, dilation in steps)
    windows = params["window_dimensions"]
    return found, [axis for axis, size in zip(axes, windows, strict=True) if size > 1]


def _transpose(op: Op, axes: Axes, facts: FactTable) -> Followed:
    return tuple(axes[i] for i in op.params["permutation"]), ()


def _reshape(op: Op, axes: Axes, facts: FactTable) -> Followed:
    """Keeps the axes that come out whole; sizes are matched group by group."""
    before, after = op.inputs[0].shape, op.outputs[0].shape
    found: list[Axis | None] = [None] * len(after)
    i = j = 0
    while i < len(before) and j < len(after):
        if before[i] == after[j]:
            found[j] = axes[i]
            i, j = i + 1, j + 1
        elif before[i] == 1:
            i += 1
        elif after[j] == 1:
            j += 1
        else:
            left, right = before[i], after[j]
            i, j = i + 1, j + 1
            while left != right:
                if left < right and i < len(before):
                    left, i = left * before[i], i + 1
                elif j < len(after):
                    right, j = right * after[j], j + 1
                else:
                    return tuple(found), ()
    return tuple(found), ()


def _squeeze(op: Op, axes: Axes, facts: FactTable) -> Followed:
    dropped = op.params["dimensions"]
    return tuple(axis for i, axis in enumerate(axes) if i not in dropped), ()


def _reduce(op: Op, axes: Axes, facts: FactTable) -> Followed:
    return tuple(axis for i, axis in enumerate(axes) if i not in op.params["axes"]), ()


def _broadcast(op: Op, axes: Axes, facts: FactTable) -> Followed:
    shape = op.params["shape"]
    found: list[Axis | None] = [None] * len(shape)
    for i, dim in enumerate(op.params["broadcast_dimensions"]):
        if op.inputs[0].shape[i] == shape[dim]:
            found[dim] = axes[i]
    return tuple(found), ()


def _slice(op: Op, axes: Axes, facts: FactTable) -> Followed:
    strides = op.params["strides"] or (1,) * len(axes)
    return tuple(_scaled(axis, step) for axis, step in zip(axes, strides, strict=True)), ()


def _pad(op: Op, axes: Axes, facts: FactTable) -> Followed:
    steps = zip(axes, op.params["padding_config"], strict=True)
    return tuple(_scaled(axis, Fraction(1, inner + 1)) for axis, (_, _, inner) in steps), ()


def _same_rank(op: Op, axes: Axes, facts: FactTable) -> Followed:
    """Axes stay in place; one that was resampled (nearest-neighbour resize) changes stride."""
    before, after = op.inputs[0].shape, op.outputs[0].shape
    if len(before) != len(after):
        return (), ()
    sizes = zip(axes, before, after, strict=True)
    return tuple(_scaled(axis, Fraction(a, b)) if b else None for axis, a, b in sizes), ()


def _concatenate(op: Op, axes: Axes, facts: FactTable) -> Followed:
    return axes, ()


def _dot(op: Op, axes: Axes, facts: FactTable) -> Followed:
    """Free and batch axes stay; a known matrix (interpolation) resamples the one it meets."""
    contract, batch = op.params["dimension_numbers"]
    signal = 0 if facts[op.inputs[0]].active else 1
    shapes = [value.shape for value in op.inputs]
    free = [
        [i for i in range(len(shapes[side])) if i not in (*contract[side], *batch[side])]
        for side in (0, 1)
    ]
    weight = 1 - signal
    added: list[Axis | None] = [None] * len(free[weight])
    if not facts[op.inputs[weight]].learned and len(added) == len(contract[signal]) == 1:
        (old,) = contract[signal]
        scale = Fraction(shapes[signal][old], shapes[weight][free[weight][0]])
        added = [_scaled(axes[old], scale)]
    kept = [axes[i] for i in free[signal]]
    sides = (kept, added) if signal == 0 else (added, kept)
    return (*(axes[i] for i in batch[signal]), *sides[0], *sides[1]), ()


_FOLLOW: dict[compat.Primitive, Callable[[Op, Axes, FactTable], Followed]] = {
    lax.conv_general_dilated_p: _convolution, lax.dot_general_p: _dot,
    lax.reduce_window_max_p: _window, lax.reduce_window_min_p: _window,
    lax.reduce_window_sum_p: _window, lax.transpose_p: _transpose, lax.reshape_p: _reshape,
    lax.squeeze_p: _squeeze, lax.reduce_sum_p: _reduce, lax.reduce_max_p: _reduce,
    lax.reduce_min_p: _reduce, lax.broadcast_in_dim_p: _broadcast, lax.slice_p: _slice,
    lax.pad_p: _pad, lax.gather_p: _same_rank, lax.concatenate_p: _concatenate,
}  # fmt: skip
