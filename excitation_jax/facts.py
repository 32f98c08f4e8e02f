"""What each value of a program is, found by walking it once from the inputs to the outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax import lax

from . import _compat, bounds
from .bounds import ANYTHING, Interval
from .program import Op, Program, Value


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
    fixed: np.ndarray | None = None
    producer: Op | None = None


class FactTable:
    """`Facts` by value, for a program and the inputs that are explained."""

    def __init__(self, program: Program, explained: Sequence[Value]):
        self._table: dict[Value, Facts] = {}
        for value in program.inputs:
            self._new(value, Facts(active=value in explained, learned=value not in explained))
        for value in (*program.captured, *program.constants):
            self._new(value, Facts(learned=len(value.shape) > 0))
        for op in program.ops:
            self._visit(op)

    def __getitem__(self, value: Value) -> Facts:
        if value.literal is not None and value not in self._table:
            number = np.asarray(value.literal).astype(float) if value.shape == () else None
            interval = ANYTHING if number is None else Interval(float(number), float(number))
            self._new(value, Facts(interval=interval, known=number))
        return self._table[value]

    def _new(self, value: Value, facts: Facts) -> None:
        if facts.origin is None:
            facts.origin, facts.function = value, _identity
        self._table[value] = facts

    def _visit(self, op: Op) -> None:
        inputs = [self[value] for value in op.inputs]
        active = any(facts.active for facts in inputs)
        if not active:
            self._visit_constant(op, inputs)
        elif op.primitive is lax.select_n_p and not inputs[0].active:
            # A fixed mask: what it hides is no neuron's child, so it is not elementwise.
            interval = bounds.output_interval(op, [facts.interval for facts in inputs])
            self._new(op.outputs[0], Facts(True, interval, producer=op))
        elif (function := bounds.elementwise_function(op)) is not None:
            self._visit_elementwise(op, inputs, function)
        else:
            interval = bounds.output_interval(op, [facts.interval for facts in inputs])
            moved = bool(op.primitive in _CARRIES_GATES and inputs[0].gate)
            fixed = self._fixed_elements(op, inputs)
            for value in op.outputs:
                self._new(value, Facts(True, interval, gate=moved, fixed=fixed, producer=op))

    def _visit_constant(self, op: Op, inputs: list[Facts]) -> None:
        interval = bounds.output_interval(op, [facts.interval for facts in inputs])
        learned = any(facts.learned for facts in inputs)
        copies = op.primitive in (lax.broadcast_in_dim_p, lax.convert_element_type_p)
        known = inputs[0].known if copies else None
        for value in op.outputs:
            self._new(value, Facts(False, interval, known=known, learned=learned, producer=op))

    def _visit_elementwise(self, op: Op, inputs: list[Facts], function: Callable) -> None:
        (value,) = op.outputs
        interval = bounds.output_interval(op, [facts.interval for facts in inputs])
        active = [facts for facts in inputs if facts.active]
        facts = Facts(True, interval, producer=op, gate=self._scales(op, inputs))
        parent = self._common_parent([v for v in op.inputs if self[v].active])
        if parent is not None and parent.shape == value.shape:
            facts.parent, facts.depth = parent, self[parent].depth + 1
            facts.fixed = self[parent].fixed
        origins = {facts.origin for facts in active}
        known = all(facts.active or facts.known is not None for facts in inputs)
        origin = origins.pop()
        if known and not origins and origin is not None and origin.shape == value.shape:
            parts = [(f.function or _identity) if f.active else _always(f.known) for f in inputs]

            def composed(x: Any) -> Any:
                return function(*(part(x) for part in parts))

            facts.origin, facts.function = origin, composed
            if len(active) > 1 and value.floating:
                low = bounds.numeric_minimum(composed, self[origin].interval)
                facts.interval = Interval(max(low, interval.low), interval.high)
        if op.primitive is lax.div_p and self._is_window_mean(op):
            (summed,) = self[op.inputs[0]].producer.inputs  # type: ignore[union-attr]
            facts.interval = self[summed].interval
        self._new(value, facts)

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

    def _fixed_elements(self, op: Op, inputs: list[Facts]) -> np.ndarray | None:
        if op.primitive is lax.pad_p and inputs[0].active:
            return _pad(inputs[0].fixed, op)
        if op.primitive is lax.transpose_p and inputs[0].fixed is not None:
            return np.transpose(inputs[0].fixed, op.params["permutation"])
        if op.primitive is lax.concatenate_p:
            if all(facts.active and facts.fixed is None for facts in inputs):
                return None
            return _concatenate(inputs, op)
        return None

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


def _pad(fixed: np.ndarray | None, op: Op) -> np.ndarray:
    """Fixed elements behind a pad: the operand's, and the padding."""
    before, after = op.inputs[0].shape, op.outputs[0].shape
    result = np.zeros((1,) * len(before), bool) if fixed is None else fixed
    for axis, (low, _, interior) in enumerate(op.params["padding_config"]):
        if op.params["padding_config"][axis] == (0, 0, 0):
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


def _concatenate(inputs: list[Facts], op: Op) -> np.ndarray:
    """Fixed elements behind a concatenation: the operands', and all of the constants."""
    axis, pieces = op.params["dimension"], []
    for facts, value in zip(inputs, op.inputs, strict=True):
        none = np.full((1,) * len(value.shape), not facts.active)
        piece = none if facts.fixed is None else facts.fixed
        shape = list(piece.shape)
        shape[axis] = value.shape[axis]
        pieces.append(np.broadcast_to(piece, shape))
    full = list(np.broadcast_shapes(*(np.delete(piece.shape, axis) for piece in pieces)))
    return np.concatenate(
        [np.broadcast_to(p, [*full[:axis], p.shape[axis], *full[axis:]]) for p in pieces], axis
    )


def _identity(x: Any) -> Any:
    return x


def _always(number: Any) -> Callable[[Any], Any]:
    return lambda x: number


_CARRIES_GATES = frozenset(
    [lax.reshape_p, lax.transpose_p, lax.broadcast_in_dim_p, lax.squeeze_p, lax.slice_p]
) | frozenset(_compat.existing("tile"))
