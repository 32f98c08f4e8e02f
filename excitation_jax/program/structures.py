"""Ranges that follow from how a value was computed, where interval arithmetic cannot see them.

The structures are recognised by what was computed, whatever the library or function name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jax import lax

from . import compat
from .intervals import Interval
from .trace import Op, Value

if TYPE_CHECKING:
    from .facts import FactTable


def interval(op: Op, facts: FactTable) -> Interval | None:
    """The range of an elementwise operation's output, None where no structure is recognised."""
    if op.primitive is lax.add_p:
        return _mixture(op, facts)
    if op.primitive is lax.div_p:
        return _share(op, facts)
    return None


def _mixture(op: Op, facts: FactTable) -> Interval | None:
    """``g * a + (1 - g) * b`` with g in [0, 1] (a GRU's update) lies between a and b."""
    first, second = (facts[value].producer for value in op.inputs)
    if first is None or second is None:
        return None
    if first.primitive is not lax.mul_p or second.primitive is not lax.mul_p:
        return None
    for one, other in ((first, second), (second, first)):
        for i, gate in enumerate(one.inputs):
            for j, rest in enumerate(other.inputs):
                low, high = facts[gate].interval
                if low >= 0 and high <= 1 and _is_rest(rest, gate, facts):
                    a, b = (facts[one.inputs[1 - i]], facts[other.inputs[1 - j]])
                    return Interval(
                        min(a.interval.low, b.interval.low), max(a.interval.high, b.interval.high)
                    )
    return None


def _is_rest(rest: Value, gate: Value, facts: FactTable) -> bool:
    """Whether ``rest`` is ``1 - gate``."""
    op = facts[rest].producer
    if op is None or op.primitive is not lax.sub_p or op.inputs[1] is not gate:
        return False
    known = facts[op.inputs[0]].known
    return known is not None and float(known) == 1


def _share(op: Op, facts: FactTable) -> Interval | None:
    """``e / sum(e)`` with e >= 0 (softmax) lies in [0, 1]."""
    part, total = op.inputs
    if facts[part].interval.low < 0:
        return None
    source = facts[total].producer
    while source is not None and source.primitive in _LAYOUT:
        source = facts[source.inputs[0]].producer
    if source is None or source.primitive is not lax.reduce_sum_p:
        return None
    return Interval(0, 1) if _uncast(source.inputs[0], facts) is _uncast(part, facts) else None


def _uncast(value: Value, facts: FactTable) -> Value:
    while (op := facts[value].producer) is not None and op.primitive is lax.convert_element_type_p:
        value = op.inputs[0]
    return value


_LAYOUT = frozenset(
    [lax.reshape_p, lax.broadcast_in_dim_p, lax.squeeze_p, lax.convert_element_type_p]
) | frozenset(compat.existing("stop_gradient"))
