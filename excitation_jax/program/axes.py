"""Where the axes of each value come from: batch axis, spatial axes, strides and offsets.

Axes are never guessed. The axes of the explained input that a window moves along (a convolution's,
a pooling's, or that of patches which are cut out and summed) are spatial, by the operations' own
dimension numbers; every value's axes are followed from there, also through reshapes that split or
merge them. What mixes all positions (attention, a cumulative sum) leaves a cell where it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

from jax import lax

from .axis_moves import contracted, convolved, looked_up, move
from .facts import FactTable
from .parts import Axes, Axis, Part, agreed, length, new, nowhere
from .primitives import Kind, Layout, indices, kind, layout
from .trace import Op, Program, Value
from .walk import Border, Forward


class Geometry(Forward):
    """The axes of every value that depends on the explained inputs."""

    def __init__(self, program: Program, facts: FactTable, explained: Sequence[Value]):
        self._axes: dict[Value, Axes] = {}
        self._facts = facts
        self._explained = explained
        self._spatial: set[tuple[int | None, int]] = set()
        for source, value in enumerate(explained):
            sizes = enumerate(value.shape)
            self._axes[value] = tuple((Part(source, i, Fraction(1), n),) for i, n in sizes)
        self.walk(program)

    def spatial(self, value: Value) -> tuple[int, ...]:
        """Positions of the spatial axes of a value, in the order that they have in the input."""
        found = {i: axis[0] for i, axis in self._single(value) if axis[0].along in self._spatial}
        return tuple(sorted(found, key=lambda i: (found[i].source or 0, found[i].dimension)))

    def parts(self, value: Value) -> tuple[Part, ...]:
        """Of each spatial axis."""
        axes = self._axes.get(value, ())
        return tuple(axes[i][0] for i in self.spatial(value))

    def extent(self, value: Value) -> tuple[int, ...]:
        """Lengths of the input's axes along which the spatial ones run."""
        sources = [(self._explained[part.source or 0], part) for part in self.parts(value)]
        return tuple(source.shape[part.dimension] for source, part in sources)

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
            self._axes[op.outputs[0]] = looked_up(op, self._axes[op.inputs[1]])
        if not signals:
            return
        for place, value in enumerate(op.outputs):
            axes = self._follow(op, signals, place)
            if axes is None or [length(axis) for axis in axes] != list(value.shape):
                axes = tuple(map(new, value.shape))
            self._axes[value] = axes

    def _follow(self, op: Op, signals: Sequence[int], place: int) -> Axes | None:
        how = layout(op.primitive)
        if how is None:
            return None
        axes = self._axes[op.inputs[signals[0]]]
        if how is Layout.KEPT:
            return self._kept(op, signals, place)
        if how is Layout.CONVOLVED:
            if 0 not in signals:
                return None
            lhs, _, _ = op.params["dimension_numbers"]
            self._sweep(axes[i] for i in lhs[2:])
            return convolved(op, axes)
        if how is Layout.CONTRACTED:
            summed = op.params["dimension_numbers"][0][signals[0]]
            kept = [axis for i, axis in enumerate(axes) if i not in summed]
            self._cut_out([axes[i] for i in summed], kept)
            return contracted(op, signals[0], axes, self._facts)
        if how is Layout.WINDOWS:
            sizes = op.params["window_dimensions"]
            self._sweep(axis for axis, size in zip(axes, sizes, strict=True) if size > 1)
        if how is Layout.REDUCED and kind(op.primitive) is not Kind.MOVE:
            dropped = [axes[i] for i in op.params["axes"]]
            self._cut_out(dropped, [a for i, a in enumerate(axes) if i not in op.params["axes"]])
        given = {i: self._axes[op.inputs[i]] for i in signals}
        return move(how, op, given, place, self._facts)

    def _kept(self, op: Op, signals: Sequence[int], place: int) -> Axes | None:
        """Of what has its operands' axes: a sum of branches lies midway between them."""
        if op.primitive is lax.optimization_barrier_p and place in signals:
            return self._axes[op.inputs[place]]
        shape = op.outputs[place].shape
        same = [self._axes[op.inputs[i]] for i in signals if op.inputs[i].shape == shape]
        if not same:
            return None
        first, *others = same
        found = [agreed(axis, [axes[i] for axes in others]) for i, axis in enumerate(first)]
        if op.primitive is lax.sort_p:
            at = op.params["dimension"]
            found[at] = nowhere(found[at])
        return tuple(found)

    def enter(self, op: Op, border: Border) -> None:
        if self._facts.apart(op):
            return  # a shard's axes are parts of the array's
        for entry in border.entries:
            if entry.outer in self._axes:
                self._axes[entry.inner] = self._axes[entry.outer][entry.stacked :]

    def hand_on(self, border: Border, rounds: int) -> bool:
        """A carry whose cells move from step to step lies nowhere."""
        changed = False
        for out, into in border.handed:
            if out not in self._axes:
                continue
            before, after = self._axes.get(into), self._axes[out]
            if before is None:
                self._axes[into], changed = after, True
            elif border.steps != 1 and len(before) == len(after):
                left = tuple(
                    axis if step == axis else nowhere(axis)
                    for axis, step in zip(before, after, strict=True)
                )
                self._axes[into], changed = left, changed or left != before
        return changed

    def leave(self, op: Op, around: Sequence[Border]) -> None:
        found: dict[Value, Axes] = {}
        for border in () if self._facts.apart(op) else around:
            for exit in border.exits:
                if exit.inner not in self._axes:
                    continue
                steps = (new(border.steps or 0),) * exit.stacked
                axes = (*steps, *self._axes[exit.inner])
                other = found.get(exit.outer)  # another branch's
                if other is not None and len(other) == len(axes):
                    axes = tuple(agreed(a, [b]) for a, b in zip(axes, other, strict=True))
                found[exit.outer] = axes
        self._axes.update(found)

    def _sweep(self, axes: Iterable[Axis]) -> None:
        """A window moves along these axes."""
        self._spatial.update(a[0].along for a in axes if len(a) == 1 and a[0].source is not None)

    def _cut_out(self, summed: Sequence[Axis], kept: Sequence[Axis]) -> None:
        """Patches are cut out where of an input's axis the fine part is summed, the coarse kept."""
        inside = {part.along: part for axis in summed for part in axis if part.source is not None}
        left = {part.along: part for axis in kept for part in axis if part.source is not None}
        self._spatial.update(
            along for along, part in inside.items()
            if along in left and abs(left[along].stride) > abs(part.stride)
        )  # fmt: skip
