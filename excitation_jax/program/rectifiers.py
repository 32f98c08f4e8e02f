"""Which maxima are ReLUs: neurons that DeconvNet and the Feedback network treat in their own way.

``max(x, 0)`` is also met where nothing is rectified: in a LayerNorm (a variance is made not
negative), and inside activation functions with a slope of their own (softplus, CELU).
"""

from __future__ import annotations

from jax import lax

from . import intervals
from .facts import FactTable
from .trace import Op, Value

_LAYOUT = frozenset([lax.reshape_p, lax.broadcast_in_dim_p, lax.squeeze_p, lax.transpose_p])


def rectified(op: Op, facts: FactTable) -> int | None:
    """The position of the operand that an operation rectifies; None where it is no ReLU."""
    if op.primitive is not lax.max_p:
        return None
    active = [i for i, value in enumerate(op.inputs) if facts[value].active]
    if len(active) != 1:
        return None
    (source,) = active
    known = facts[op.inputs[1 - source]].known
    if known is None or float(known) != 0:
        return None
    (value,) = op.outputs
    whole = not _is_part_of_an_activation(value, facts)
    return source if whole and not _only_normalises(value, facts) else None


def _is_part_of_an_activation(value: Value, facts: FactTable) -> bool:
    """Whether it joins another function of the same neurons, as in ``max(x, 0) + min(x, 0)``."""
    pending = [value]
    while pending:
        current = pending.pop()
        for op in facts.consumers.get(current, ()):
            if intervals.elementwise_function(op) is None:
                continue
            above = _ancestors(op.outputs[0], facts)
            if value in above:
                pending.append(op.outputs[0])
            elif above:  # a parent that it shares with what it joins
                return True
    return False


def _ancestors(value: Value, facts: FactTable) -> set[Value]:
    """The values that it is a function of, element by element."""
    found: set[Value] = set()
    parent = facts[value].parent
    while parent is not None:
        found.add(parent)
        parent = facts[parent].parent
    return found


def _only_normalises(value: Value, facts: FactTable) -> bool:
    """Whether all that is computed from it divides: 1 / sqrt(variance + epsilon)."""
    pending = [value]
    while pending:
        current = pending.pop()
        if current in facts.ends:
            return False
        for op in facts.consumers.get(current, ()):
            (*_, out) = op.outputs
            divides = op.primitive is lax.div_p and op.inputs[0] is not current
            if divides or facts[out].gate:
                continue
            if op.primitive not in _LAYOUT and intervals.elementwise_function(op) is None:
                return False
            pending.append(out)
    return True
