"""Which of two factors is the gate (R7, D7): what the user marked, or what is recognised as one."""

from __future__ import annotations

import math
from typing import Any

from jax import lax

from . import compat
from .intervals import INF
from .primitives import Kind, Layout, is_product, kind, layout
from .record import Known, Role
from .roles import through_layout, unchanged
from .slope import dips
from .trace import Op, Value

#: The name by which a value is marked as a gate.
GATE = "excitation_jax.gate"


def is_marked(op: Op) -> bool:
    """Whether the model's code marks a value as a gate: ``ej.gate(x)``."""
    return op.primitive is compat.name_p and op.params["name"] == GATE


def of_gates(op: Op, facts: Known) -> bool:
    """Whether gates alone are moved, scaled or joined: ``1 - ej.gate(z)``."""
    if kind(op.primitive) not in (Kind.MOVE, Kind.IDENTITY, Kind.ELEMENTWISE):
        return False
    active = [facts[value] for value in op.inputs if facts[value].active]
    return bool(active) and all(known.role is Role.GATE for known in active)


def signal_factor(op: Op, facts: Any) -> int | None:
    """R7, D7: which of two factors is the signal, the other one being a gate; None if unclear.

    The gate is, in this order: what the user marked; a normaliser; a statistic of the other
    factor, or what was divided out of it; learned constants that gates mix (the weights of a
    dynamic convolution); what is repeated along axes of the other; a value in [0, 1], or one
    bounded and not negative; a factor computed from the other; a sigmoid (of a state in [0, 1]);
    a self-gated or bounded activation; the one with the higher of two lower bounds.

    ``x * lax.rsqrt(var)``, ``net(x / s) * s``, ``sigmoid(z) * x``, ``softmax(scores) @ values``,
    ``features * scale[:, None]``, ``relu(a) * silu(b)``
    """
    (out,), facts = op.outputs, facts.by_construction  # what is said of the input changes no role
    for strength in (
        lambda v, other: facts[v].role is Role.GATE,
        lambda v, other: facts[v].role is Role.NORMALISER,
        lambda v, other: _was_divided_out(v, other, facts),
        lambda v, other: _is_mixed(v, facts),
        lambda v, other: op.primitive is lax.mul_p and _is_repeated(v, out, facts),
        lambda v, other: _gate_strength(v, facts),
        lambda v, other: facts.depends(v, other) is not None,
        lambda v, other: _is_sigmoid(facts[v]),
        lambda v, other: _is_self_gated(v, facts),
        lambda v, other: _bound_strength(facts[v]),
    ):
        first, second = strength(*op.inputs), strength(*op.inputs[::-1])
        if first != second:
            return 0 if first < second else 1
    return None


def mixed(op: Op, facts: Any) -> tuple[Value, Value] | None:
    """The factors of a sum by gates as weights, which depend on the input; None for another one.

    ``p @ values``, ``(p[..., None] * values).sum(-2)``
    """
    if kind(op.primitive) is Kind.AFFINE and not is_product(op):
        both = all(facts[factor].active for factor in op.inputs)
        return (op.inputs[0], op.inputs[1]) if both else None
    if op.primitive is not lax.reduce_sum_p:
        return None
    value = op.inputs[0]
    product = facts[unchanged(value, facts)].producer
    if product is None or product.primitive is not lax.mul_p or facts[value].parent is not None:
        return None
    if not all(facts[factor].active for factor in product.inputs):
        return None
    signal = signal_factor(product, facts)
    if signal is None:
        return None
    gate, axes = product.inputs[1 - signal], set(op.params["axes"])
    maker = facts[gate].producer
    if maker is not None and maker.primitive is lax.broadcast_in_dim_p:
        places = zip(maker.params["broadcast_dimensions"], maker.inputs[0].shape, strict=True)
        axes &= {place for place, size in places if size == gate.shape[place]}
    return (product.inputs[0], product.inputs[1]) if axes else None


def tie(op: Op, facts: Any) -> str:
    """Why a product has no rule, and what to do: neither of its factors is a gate for sure."""
    first, second = (_origin(value, facts) for value in op.inputs[:2])
    return (
        f"a product of two values that both depend on the explained input, {first} and {second}, "
        "neither of them recognised as a gate: mark the one that only scales, with "
        "excitation_jax.gate in the model or with gates=(its module's path,) from outside"
    )


def _origin(value: Value, facts: Any) -> str:
    """Where a value comes from, for a message."""
    root = through_layout(value, facts)
    op = facts[root].producer
    if op is None:
        return "the input itself" if root in facts.explained else "a value from outside of the loop"
    return f"that of {op.primitive.name} at {op.source}"


def gate_of(op: Op, facts: Any) -> Value | None:
    """What a product's signal is scaled with; None where it is no product of two signals."""
    products = (lax.mul_p, lax.dot_general_p, lax.conv_general_dilated_p)
    if op.primitive not in products or facts[op.outputs[0]].parent is not None:
        return None
    if not all(facts[value].active for value in op.inputs):
        return None
    signal = signal_factor(op, facts)
    return None if signal is None else through_layout(op.inputs[1 - signal], facts)


def _was_divided_out(value: Value, other: Value, facts: Any) -> bool:
    """Whether a statistic multiplies what was computed from values divided by it.

    ``net(x / s) * s``
    """
    root = through_layout(value, facts)
    copies = [root]
    for copy in copies:
        for op in facts.consumers.get(copy, ()):
            if kind(op.primitive) in (Kind.MOVE, Kind.IDENTITY) and len(op.inputs) == 1:
                copies += op.outputs
            elif op.primitive is lax.div_p and op.inputs[1] is copy and facts[op.inputs[0]].active:
                if facts.depends(other, op.outputs[0]) is not None:
                    return True
    return False


def _is_mixed(value: Value, facts: Known) -> bool:
    """Whether gates mix learned constants: ``softmax(router(x)) @ kernels``."""
    op = facts[through_layout(value, facts)].producer
    if op is None or kind(op.primitive) is not Kind.AFFINE or is_product(op):
        return False
    active = [i for i, operand in enumerate(op.inputs) if facts[operand].active]
    if len(active) != 1 or not facts[op.inputs[1 - active[0]]].learned:
        return False
    return _gate_strength(op.inputs[active[0]], facts) >= 2


def _is_repeated(value: Value, out: Value, facts: Known) -> bool:
    """Whether the elements of a factor are repeated along an axis of the product."""
    while math.prod(value.shape) == math.prod(out.shape):
        op = facts[value].producer
        kept = op is not None and (
            layout(op.primitive) in (Layout.BROADCAST, Layout.RESHAPED)
            or kind(op.primitive) is Kind.IDENTITY
        )
        if op is None or not kept:
            return False
        value = op.inputs[0]
    return True


def _gate_strength(value: Value, facts: Known) -> int:
    """How surely a value only scales: 3 a normaliser, 2 in [0, 1], 1 bounded, 0 unknown.

    A constant scale of a gate is a gate: ``softmax(scores) * mask``. So are sums of gates by gates,
    ``(softmax(largest)[..., None] * one_hot(which, n)).sum(-2)``.
    """
    known = facts[value]
    low, high = known.interval
    if known.role is Role.NORMALISER:
        return 3
    if low >= 0 and high <= 1:
        return 2
    maker = facts[through_layout(value, facts)].producer
    if maker is not None and maker.nest is None and _sums_gates(maker, facts):
        return 2
    own = 1 if low >= 0 and high < INF else 0
    scaled = _unscaled(value, facts)
    return own if scaled is None else max(own, _gate_strength(scaled, facts))


def _sums_gates(op: Op, facts: Known) -> bool:
    """Whether gates are mixed by gates, or put beside zeros: ``zeros.at[which].add(p)``."""
    if op.primitive is lax.scatter_add_p:
        beside = facts[op.inputs[0]]
        zeros = not beside.active and beside.known == 0
        return zeros and _gate_strength(op.inputs[2], facts) >= 2
    factors = mixed(op, facts)
    return factors is not None and all(_gate_strength(f, facts) >= 2 for f in factors)


def _unscaled(value: Value, facts: Known) -> Value | None:
    """What a value is a constant multiple of, wherever that was moved; None where it is none."""
    value = through_layout(value, facts)
    op = facts[value].producer
    if op is None or not (op.primitive in (lax.mul_p, lax.div_p) or is_product(op)):
        return None
    active = [i for i, operand in enumerate(op.inputs) if facts[operand].active]
    divides = op.primitive is lax.div_p and active == [1]
    return op.inputs[active[0]] if len(active) == 1 and not divides else None


def _is_sigmoid(known: Any) -> int:
    return int(known.producer is not None and known.producer.primitive is lax.logistic_p)


def _is_self_gated(value: Value, facts: Known) -> bool:
    """Whether it is a bounded activation, or one that dips (SiLU, GELU)."""
    low, high = facts[value].interval
    if facts[value].parent is None or low == -INF:
        return False
    return high < INF or dips(value, facts)


def _bound_strength(known: Any) -> int:
    low = known.interval.low
    return 2 if low >= 0 else 1 if low > -INF else 0
