"""What is known of each value of a program: one record, made in one walk from the inputs down."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jax import lax

from . import activity, affine, compat, gates, intervals, roles
from .activity import Activity
from .hints import NONE, Hints, check_shape
from .intervals import ANYTHING, FILL, INF, Interval
from .primitives import (
    Kind,
    Layout,
    elementwise_function,
    indices,
    kind,
    layout,
    output_range,
)
from .questions import Questions
from .record import Facts, Role, agree, at_border, either, same_number
from .trace import Op, Program, Value
from .walk import Border, Forward, choosers


class FactTable(Questions, Forward):
    """`Facts` by value, for a program and the inputs that are explained."""

    def __init__(self, program: Program, explained: Sequence[Value], hints: Hints = NONE):
        self._table: dict[Value, Facts] = {}
        self.program, self.hints = program, hints
        self.explained = frozenset(explained)
        self.by_construction = self
        if hints.low is not None:
            told = replace(hints, low=None, high=None)
            self.by_construction = FactTable(program, explained, told)
        self._paths = {op: held.module_path(op) for held, op in program.all_ops() if hints.gates}
        self._met: set[str] = set()
        #: What has a lower bound at each step of a loop, but none for all.
        self.widened: set[Value] = set()
        for value in program.inputs:
            active, owner = value in explained, program.owners.get(value)
            modules = frozenset([] if active or owner is None else [owner])
            whole = activity.uniform(len(value.shape), active)
            if active:
                check_shape(hints, value.shape)
            interval = hints.interval if active and value.floating else ANYTHING
            self._new(value, Facts(whole, interval, learned=not active, modules=modules))
        for value in program.captured:
            self._constant(program, value)
        self.walk(program)
        hints.check_gates(self._met)

    def __getitem__(self, value: Value) -> Facts:
        found = self._table.get(value)
        if found is not None:
            return found
        assert value.literal is not None
        number = np.asarray(value.literal).astype(float) if value.shape == () else None
        interval = ANYTHING if number is None else Interval(float(number), float(number))
        none = activity.uniform(len(value.shape), False)
        return self._new(value, Facts(none, interval, known=number))

    def describe(self, value: Value) -> str:
        """All that is known of a value, a line each."""
        known = self[value]
        lines = [f"{value.dtype} {'x'.join(map(str, value.shape)) or 'scalar'}"]
        if known.producer is not None:
            lines.append(f"made by {known.producer.primitive.name} at {known.producer.source}")
        lines.append(f"depends on the input: {known.activity}")
        lines.append(f"range: {known.interval.low:.4g} to {known.interval.high:.4g}")
        if known.parent is not None:
            lines.append("a function, element by element, of one other value")
        if known.role is not None:
            lines.append(f"role: {known.role.value}")
        if not known.active:
            lines.append("learned" if known.learned else "from shapes and numbers alone")
        if known.modules:
            lines.append(f"of the parameters of {', '.join(sorted(known.modules))}")
        return "\n".join(lines)

    # -- the walk -------------------------------------------------------------------------------

    def walk(self, program: Program) -> None:
        for value in program.constants:
            self._constant(program, value)
        super().walk(program)

    def visit(self, op: Op) -> None:
        inputs = [self[value] for value in op.inputs]
        if copies := self._copies(op):
            for operand, value in copies:
                same = replace(self[operand], producer=op)
                if same.active:
                    same.parent, same.depth = operand, same.depth + 1
                self._new(value, same)
            return
        found = self._follow(op)
        function = elementwise_function(op)
        chooses = op.primitive is lax.select_n_p and not inputs[0].active
        if function is not None and not (chooses and any(facts.active for facts in inputs)):
            self._visit_elementwise(op, inputs, function, found[0])
            return
        interval = output_range(op, _of_signals(op, inputs))
        if self.pools(op):
            interval = intervals.pooled(op, *(facts.interval for facts in inputs))
        elif (mixed := gates.mixed(op, self)) is not None:
            # Of a sum by weights no more is said than whether it may be negative.
            positive = all(self[factor].interval.low >= 0 for factor in mixed)
            interval = Interval(0, INF) if positive else ANYTHING
        moved = roles.moved_normaliser(op, self)
        for value, depends in zip(op.outputs, found, strict=True):
            facts = Facts(depends, interval, producer=op)
            if facts.active:
                facts.affine = affine.is_affine(op, self)
                facts.role = Role.NORMALISER if moved else None
            else:
                facts = self._of_constants(op, inputs, facts)
            self._new(value, facts)

    def _copies(self, op: Op) -> list[tuple[Value, Value]]:
        """(operand, output) where they are the same: at a barrier, or where the choice is known."""
        if op.primitive is lax.optimization_barrier_p:
            return list(zip(op.inputs, op.outputs, strict=True))
        if op.primitive is not lax.select_n_p or (which := self[op.inputs[0]].known) is None:
            return []
        case = op.inputs[1 + int(which)]
        return [(case, op.outputs[0])] if case.shape == op.outputs[0].shape else []

    def enter(self, op: Op, border: Border) -> None:
        apart = self.apart(op)
        for entry in border.entries:
            outer = self[entry.outer]
            inside = outer.activity
            if apart:
                inside = activity.uniform(len(entry.inner.shape), outer.active)
            elif entry.stacked:
                inside = activity.cut(inside)
            self._new(entry.inner, at_border(outer, inside))

    def hand_on(self, border: Border, rounds: int) -> bool:
        changed = False
        for out, into in border.handed:
            before = self[into]
            after = either(before, self[out], widen=rounds > 2)
            if not agree(before, after):
                changed = True
                if before.interval.low > -INF == after.interval.low < self[out].interval.low:
                    self.widened.add(into)
                self._new(into, after)
        return changed

    def leave(self, op: Op, around: Sequence[Border]) -> None:
        chosen = any(self[value].active for value in choosers(op))
        for i, value in enumerate(op.outputs):
            ends = []
            for border in around:
                exit, inner = border.exits[i], self[border.exits[i].inner]
                depends = inner.activity
                if self.apart(op):
                    depends = activity.uniform(len(value.shape), inner.active)
                elif exit.stacked:
                    depends = activity.stacked(depends, border.steps or 0)
                ends.append(at_border(inner, depends))
                # A loop of no steps hands out what it was given.
                for given in map(self.__getitem__, border.next_to(exit)):
                    first = given.activity if border.steps == 0 else depends
                    ends.append(at_border(given, first))
            facts = functools.reduce(either, ends)
            if chosen and not facts.active:  # nothing but the choice depends on the input
                facts = replace(facts, activity=activity.uniform(len(value.shape), True))
            facts.producer = op
            self._new(value, facts)

    def _follow(self, op: Op) -> list[Activity]:
        known = self.activities(op)
        return activity.follow(op, known, self.masks(op), lambda i: self.truths(op, i)[1])

    def _visit_elementwise(
        self, op: Op, inputs: list[Facts], function: Callable, depends: Activity
    ) -> None:
        (value,) = op.outputs
        facts = Facts(depends, output_range(op, [f.interval for f in inputs]), producer=op)
        if not facts.active:
            facts = self._of_constants(op, inputs, facts)
            if all(known.known is not None for known in inputs):
                with np.errstate(all="ignore"):
                    facts.known = np.asarray(function(*(known.known for known in inputs)), float)
        else:
            scales = roles.normaliser(op, self) and not roles.squashes(op, facts.interval, self)
            facts.role = Role.NORMALISER if scales else None
            if facts.interval.low < 0 and roles.is_normalised(op, self):
                facts.interval = Interval(-INF, facts.interval.high)
            parent = self._common_parent([v for v in op.inputs if self[v].active])
            if parent is not None and parent.shape == value.shape:
                facts.parent, facts.depth = parent, self[parent].depth + 1
        self._compose(op, inputs, function, facts)
        facts.interval = roles.recognised_range(op, self) or facts.interval
        self._new(value, facts)
        facts.affine = facts.active and affine.is_affine(op, self)

    def _compose(self, op: Op, inputs: list[Facts], function: Callable, facts: Facts) -> None:
        """Where it is a function of one value and of known numbers: which, and its range."""
        (value,) = op.outputs
        unknown = [f for f in inputs if f.known is None]
        origins = {f.origin for f in unknown}
        if len(origins) != 1 or any(f.active for f in inputs) != all(f.active for f in unknown):
            return
        origin = origins.pop()
        if origin is None or origin.shape != value.shape:
            return
        parts = [_always(f.known) if f.known is not None else f.function for f in inputs]

        def composed(x: Any) -> Any:
            return function(*(part(x) for part in parts))  # type: ignore[misc]

        facts.origin, facts.function = origin, composed
        if len(unknown) > 1 and value.floating:
            low = intervals.minimum(composed, self[origin].interval)
            facts.interval = Interval(max(low, facts.interval.low), facts.interval.high)

    def _of_constants(self, op: Op, inputs: Sequence[Facts], facts: Facts) -> Facts:
        """What is known of a value that does not depend on the input."""
        facts.learned = any(f.learned for f in inputs)
        facts.modules = frozenset().union(*(f.modules for f in inputs))
        # What an index out of range picks is another number.
        picks = layout(op.primitive) is Layout.PICKED
        copied = kind(op.primitive) in (Kind.IDENTITY, Kind.MOVE) and not picks
        if copied or op.primitive is lax.convert_element_type_p:
            which = [f.known for i, f in enumerate(inputs) if i not in indices(op.primitive)]
            facts.known = functools.reduce(same_number, which)
        return facts

    def _constant(self, program: Program, value: Value) -> None:
        interval, numbers = ANYTHING, program.numbers.get(value)
        # A mask that is part of the code is one. Of weights, nothing is looked at: whether they are
        # arguments or not must not matter.
        if numbers is not None and numbers.size and ((numbers == 0) | (numbers == 1)).all():
            interval = Interval(float(numbers.min()), float(numbers.max()))
        none = activity.uniform(len(value.shape), False)
        self._new(value, Facts(none, interval, learned=len(value.shape) > 0))

    def _new(self, value: Value, facts: Facts) -> Facts:
        if value.dtype == bool:
            facts.interval = intervals.TRUTH
        if facts.role is None and facts.active and self._is_gate(facts.producer):
            facts.role = Role.GATE
        if facts.origin is None:
            facts.origin, facts.function = value, _identity
        self._table[value] = facts
        return facts

    def _is_gate(self, op: Op | None) -> bool:
        """Whether the user said that what an operation makes is a gate, or it is made of such."""
        if op is None:
            return False
        if gates.is_marked(op) or gates.of_gates(op, self):
            return True
        if not self.hints.gates:
            return False
        path = self._paths[op] or self.module(op) or ""
        tag = op.params["name"] if op.primitive is compat.name_p else path
        self._met |= {path, tag}
        return self.hints.marks(path) or self.hints.marks(tag)

    def _common_parent(self, values: Sequence[Value]) -> Value | None:
        """The nearest value of which all of these are functions element by element.

        What learned constants make of a sum (a BatchNorm) is another neuron than the sum.
        """
        common: Value | None = values[0]
        for value in values[1:]:
            other: Value | None = value
            while common is not other and common is not None and other is not None:
                if self[common].depth >= self[other].depth:
                    common = self._within(common)
                else:
                    other = self._within(other)
            common = None if common is None or other is None else common
        return common

    def _within(self, value: Value) -> Value | None:
        """The parent that belongs to the same neuron."""
        op = self[value].producer
        if op is None or not self[value].affine or affine.scaled(op, self) is None:
            return self[value].parent
        others = [self[v] for v in op.inputs if not self[v].active]
        return None if any(x.learned for x in others) else self[value].parent


def _of_signals(op: Op, inputs: Sequence[Facts]) -> list[Interval]:
    """The operands' ranges; the signal's for constants beside it, which are no neurons.

    So for a fill value that stands for minus infinity: the -1e9 of a masked maximum is not the
    bound of what the mask leaves.
    """
    which = indices(op.primitive)
    parts = (facts.interval for i, facts in enumerate(inputs) if facts.active and i not in which)
    signal = next(parts, None)
    moves = kind(op.primitive) is Kind.MOVE
    return [
        facts.interval
        if facts.active or signal is None or (facts.interval.high > FILL and not moves)
        else signal
        for facts in inputs
    ]


def _identity(x: Any) -> Any:
    return x


def _always(number: Any) -> Callable[[Any], Any]:
    return lambda x: number
