"""What each value of a program is, found by walking it once from the inputs to the outputs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jax import lax

from . import compat, intervals, structures
from .fixed import fixed_elements, fixed_elementwise
from .intervals import ANYTHING, Interval
from .trace import Nest, Op, Program, Value

#: Constants from here down stand for minus infinity (in float16, -65504 does).
FILL = -1e4


@dataclass(eq=False, slots=True)
class Facts:
    """What is known of one value.

    Attributes:
      active: it depends on the explained input; everything else is a constant.
      interval: the range of its elements. Its low end is the lower bound lambda of Eq. 20.
      parent: the nearest value of which it is a function element by element, whatever ways lead
        there (x, for x * sigmoid(x)). A neuron and its parent's are one: it has one child.
      depth: the number of parents above it.
      origin, function: the furthest value of which it is a function element by element, through
        known numbers only, and that function (numpy), which can be evaluated while tracing.
      gate: it only scales: a normaliser or a product of such.
      known: the number that all elements of a constant share, where known.
      owners: for a constant, the modules whose parameters it was computed from (see modules.py).
      learned: a constant that was computed from arrays given to the program (weights), not
        from shapes alone (an interpolation matrix).
      fixed: which elements of an active value do not depend on the input, having been padded or
        concatenated to it (broadcastable, size 1 where it does not vary); None for none. They
        are no neurons: like a bias, they take no probability.
      producer: the operation that made it.
    """

    active: bool = False
    interval: Interval = ANYTHING
    parent: Value | None = None
    depth: int = 0
    origin: Value | None = None
    function: Callable[[Any], Any] | None = None
    gate: bool = False
    known: Any = None
    learned: bool = False
    owners: frozenset[str] = frozenset()
    fixed: np.ndarray | None = None
    producer: Op | None = None


class FactTable:
    """`Facts` by value, for a program and the inputs that are explained."""

    def __init__(self, program: Program, explained: Sequence[Value]):
        self._table: dict[Value, Facts] = {}
        self._program = program
        self.explained = frozenset(explained)
        #: Where a loop's first step has constants: by value, (body, pattern as in fixed.py).
        self.initial: dict[Value, dict[Program, np.ndarray]] = {}
        for value in program.inputs:
            active, owner = value in explained, program.owners.get(value)
            owners = frozenset([] if active or owner is None else [owner])
            self._new(value, Facts(active, learned=not active, owners=owners))
        for value in program.captured:
            self._new(value, Facts(learned=len(value.shape) > 0))
        self._visit_program(program)

    def __getitem__(self, value: Value) -> Facts:
        if value.literal is not None and value not in self._table:
            number = np.asarray(value.literal).astype(float) if value.shape == () else None
            interval = ANYTHING if number is None else Interval(float(number), float(number))
            self._new(value, Facts(interval=interval, known=number))
        return self._table[value]

    @functools.cached_property
    def consumers(self) -> Mapping[Value, Sequence[Op]]:
        """The operations that read each value, those inside loops and branches included."""
        found: dict[Value, list[Op]] = {}
        for _, op in self._program.all_ops():
            for value in op.inputs:
                found.setdefault(value, []).append(op)
        return found

    @functools.cached_property
    def ends(self) -> frozenset[Value]:
        """The outputs of the program, and of the bodies inside it."""
        programs = [self._program, *(program for program, _ in self._program.all_ops())]
        return frozenset(value for program in programs for value in program.outputs)

    @functools.cached_property
    def _outside(self) -> Mapping[Value, Sequence[Value]]:
        """For the inputs of loops' and branches' bodies, the values that they stand for."""
        found: dict[Value, list[Value]] = {}
        for _, op in self._program.all_ops():
            for body in op.nest.bodies if op.nest else ():
                assert op.nest is not None
                for i, inner in enumerate(body.inputs):
                    handed = [body.outputs[o] for o, into in op.nest.carries if into == i]
                    found[inner] = [op.inputs[op.nest.offset + i], *handed]
        return found

    def behind_a_layer(self, value: Value) -> bool:
        """Whether a learned convolution or dense layer lies between the input and a value.

        In a loop, whether one does in some step.
        """
        pending, met = [value], set()
        while pending:
            value = pending.pop()
            if value in met or value in self.explained or not self[value].active:
                continue
            met.add(value)
            op = self[value].producer
            if op is None:
                pending.extend(self._outside[value])
            elif op.nest is not None:
                at = op.outputs.index(value)
                pending.extend(body.outputs[at] for body in op.nest.bodies)
            elif self.is_learned_layer(op):
                return True
            else:
                pending.extend(op.inputs)
        return False

    def is_learned_layer(self, op: Op) -> bool:
        """Whether it is a convolution or a matrix product with weights, not of shapes alone."""
        return op.primitive in compat.LAYERS and any(self[value].learned for value in op.inputs)

    def owner(self, op: Op) -> str | None:
        """The one module whose parameters an operation consumes (see modules.py)."""
        owners = {owner for value in op.inputs for owner in self[value].owners}
        return owners.pop() if len(owners) == 1 and op.nest is None else None

    def _visit_program(self, program: Program) -> None:
        for value in program.constants:
            self._new(value, Facts(learned=len(value.shape) > 0))
        for op in program.ops:
            self._visit(op)

    def _new(self, value: Value, facts: Facts) -> None:
        if value.dtype == bool:
            facts.interval = Interval(0, 1)
        if facts.origin is None:
            facts.origin, facts.function = value, _identity
        self._table[value] = facts

    def _visit(self, op: Op) -> None:
        inputs = [self[value] for value in op.inputs]
        active = any(facts.active for facts in inputs)
        if op.nest is not None:
            self._visit_nest(op, inputs)
        elif not active:
            self._visit_constant(op, inputs)
        elif op.primitive is lax.select_n_p and not inputs[0].active:
            # A fixed mask: what it hides is no neuron's child, so it is not elementwise.
            interval = intervals.output_interval(op, _without_fill(inputs))
            self._new(op.outputs[0], Facts(True, interval, producer=op))
        elif (function := intervals.elementwise_function(op)) is not None:
            self._visit_elementwise(op, inputs, function)
        else:
            interval = intervals.output_interval(op, _without_fill(inputs))
            moved = bool(op.primitive in _CARRIES_GATES and inputs[0].gate)
            fixed = fixed_elements(
                op, [facts.fixed for facts in inputs], [facts.active for facts in inputs]
            )
            for value in op.outputs:
                self._new(value, Facts(True, interval, gate=moved, fixed=fixed, producer=op))

    def _note_initial(self, body: Program, nest: Nest) -> None:
        """Keeps what the first walk through a loop's body, its first step, found to be fixed."""
        for op in body.ops if nest.carries else ():
            for value in op.outputs:
                if (pattern := self[value].fixed) is not None:
                    self.initial.setdefault(value, {})[body] = pattern

    def _visit_constant(self, op: Op, inputs: list[Facts]) -> None:
        interval = intervals.output_interval(op, [facts.interval for facts in inputs])
        learned = any(facts.learned for facts in inputs)
        owners = frozenset().union(*(facts.owners for facts in inputs))
        known = inputs[0].known if op.primitive in _COPIES else None
        for value in op.outputs:
            facts = Facts(False, interval, known=known, learned=learned, owners=owners, producer=op)
            self._new(value, facts)

    def _visit_elementwise(self, op: Op, inputs: list[Facts], function: Callable) -> None:
        (value,) = op.outputs
        interval = intervals.output_interval(op, [facts.interval for facts in inputs])
        active = [facts for facts in inputs if facts.active]
        facts = Facts(True, interval, producer=op, gate=self._scales(op, inputs))
        parent = self._common_parent([v for v in op.inputs if self[v].active])
        if parent is not None and parent.shape == value.shape:
            facts.parent, facts.depth = parent, self[parent].depth + 1
        facts.fixed = fixed_elementwise(value.shape, [f.fixed for f in active])
        origins = {facts.origin for facts in active}
        known = all(facts.active or facts.known is not None for facts in inputs)
        origin = origins.pop()
        if known and not origins and origin is not None and origin.shape == value.shape:
            parts = [(f.function or _identity) if f.active else _always(f.known) for f in inputs]

            def composed(x: Any) -> Any:
                return function(*(part(x) for part in parts))

            facts.origin, facts.function = origin, composed
            if len(active) > 1 and value.floating:
                low = intervals.numeric_minimum(composed, self[origin].interval)
                facts.interval = Interval(max(low, interval.low), interval.high)
        if op.primitive is lax.div_p and self._is_window_mean(op):
            (summed,) = self[op.inputs[0]].producer.inputs  # type: ignore[union-attr]
            facts.interval = self[summed].interval
        facts.interval = structures.interval(op, self) or facts.interval
        self._new(value, facts)

    def _visit_nest(self, op: Op, inputs: list[Facts]) -> None:
        """Into a loop, a branch or a shard_map; a loop is walked until its facts stay the same."""
        nest = op.nest
        assert nest is not None
        for body in nest.bodies:
            for i, (value, facts) in enumerate(
                zip(body.inputs, inputs[nest.offset :], strict=True)
            ):
                self._new(value, _at_border(facts, moved=nest.stacked_input(i)))
            self._visit_program(body)
            self._note_initial(body, nest)
        settled, rounds = not nest.carries, 0
        while not settled:
            (body,), settled, rounds = nest.bodies, True, rounds + 1
            for out, into in nest.carries:
                before = self[body.inputs[into]]
                after = _either(before, self[body.outputs[out]], widen=rounds > 2)
                if not _agree(before, after):
                    settled = False
                    self._new(body.inputs[into], after)
            if not settled:
                self._visit_program(body)
        chosen = any(facts.active for facts in inputs[: nest.offset])
        for i, value in enumerate(op.outputs):
            ends = [_at_border(self[body.outputs[i]], moved=True) for body in nest.bodies]
            if nest.carries and not nest.stacked_output(i):
                into = dict(nest.carries)[i]
                ends.append(_at_border(self[nest.bodies[0].inputs[into]], moved=True))
            facts = ends[0]
            for other in ends[1:]:
                facts = _either(facts, other)
            self._new(value, replace(facts, active=facts.active or chosen, producer=op))

    def _common_parent(self, values: Sequence[Value]) -> Value | None:
        """The nearest value of which all of these are functions element by element."""
        common: Value | None = values[0]
        for value in values[1:]:
            other: Value | None = value
            while common is not other and common is not None and other is not None:
                if self[common].depth >= self[other].depth:
                    common = self[common].parent
                else:
                    other = self[other].parent
            common = None if common is None or other is None else common
        return common

    def _is_window_mean(self, op: Op) -> bool:
        """Whether a quotient is a window's sum over its number of elements that are no padding."""
        sums = [self[value].producer for value in op.inputs]
        if any(s is None or s.primitive is not lax.reduce_window_sum_p for s in sums):
            return False
        values, ones = (s for s in sums if s is not None)
        known = self[ones.inputs[0]].known
        return known is not None and float(known) == 1 and values.params == ones.params

    def depends(self, value: Value, base: Value) -> list[Op] | None:
        """The operations that ``value`` was computed by from ``base``; None if it was not."""
        producer = self[base].producer
        start = -1 if producer is None else producer.index
        pending, ops, met = [value], {}, False
        while pending:
            current = pending.pop()
            if current is base:
                met = True
                continue
            op = self[current].producer
            if op is None or op.index in ops or op.index <= start or not self[current].active:
                continue
            ops[op.index] = op
            pending.extend(op.inputs)
        return list(ops.values()) if met else None

    def _scales(self, op: Op, inputs: list[Facts]) -> bool:
        """Whether an elementwise result is a normaliser: 1/s, s^-p, or built from such."""
        if op.primitive is lax.rsqrt_p:
            return True
        if op.primitive is lax.div_p and not inputs[0].active:
            return True
        if op.primitive is lax.integer_pow_p and op.params["y"] < 0:
            return True
        if op.primitive is lax.pow_p and inputs[1].interval.high < 0:
            return True
        return all(facts.gate or not facts.active for facts in inputs)


def _without_fill(inputs: Sequence[Facts]) -> list[Interval]:
    """The operands' ranges; for a fill value that stands for minus infinity, the signal's.

    The -1e9 of a masked maximum is not the bound of what the mask leaves.
    """
    signal = next(facts.interval for facts in inputs if facts.active)
    return [
        facts.interval if facts.active or facts.interval.high > FILL else signal for facts in inputs
    ]


def _at_border(facts: Facts, moved: bool) -> Facts:
    """What is known of a value on the other side of a loop's, branch's or shard_map's border."""
    return Facts(
        facts.active, facts.interval, gate=facts.gate, known=facts.known, learned=facts.learned,
        owners=facts.owners, fixed=None if moved else facts.fixed,
    )  # fmt: skip


def _either(a: Facts, b: Facts, widen: bool = False) -> Facts:
    """What is known of a value that may be one or the other.

    Args:
      widen: give up an end of the interval that has moved again from ``a`` to ``b``.
    """
    low, high = min(a.interval.low, b.interval.low), max(a.interval.high, b.interval.high)
    if widen:
        low = low if low == a.interval.low else -intervals.INF
        high = high if high == a.interval.high else intervals.INF
    same = a.known is not None and b.known is not None and bool(a.known == b.known)
    return replace(
        a, active=a.active or b.active, interval=Interval(low, high), gate=a.gate and b.gate,
        known=a.known if same else None, learned=a.learned or b.learned,
        owners=a.owners | b.owners, fixed=None,
    )  # fmt: skip


def _agree(a: Facts, b: Facts) -> bool:
    known = a.known is b.known or (None not in (a.known, b.known) and bool(a.known == b.known))
    parts = [(f.active, f.interval, f.gate, f.learned) for f in (a, b)]
    return known and parts[0] == parts[1]


def _identity(x: Any) -> Any:
    return x


def _always(number: Any) -> Callable[[Any], Any]:
    return lambda x: number


_CARRIES_GATES = frozenset(
    [lax.reshape_p, lax.transpose_p, lax.broadcast_in_dim_p, lax.squeeze_p, lax.slice_p]
) | frozenset(compat.existing("tile"))
_COPIES = frozenset(
    [lax.broadcast_in_dim_p, lax.convert_element_type_p, compat.pvary_p, compat.reshard_p]
)
