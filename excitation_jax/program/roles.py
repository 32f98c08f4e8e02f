"""Which part a value plays: gate, normaliser, share, mixture, ReLU, skip.

Each is one pattern of operations, recognised by what is computed, whatever the library or function
name: one function here, one example in its docstring.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jax import lax

from .intervals import INF, TRUTH, Interval, union
from .primitives import Kind, Layout, elementwise_function, is_product, kind, layout
from .record import Known, Role
from .trace import Op, Value


def through_layout(value: Value, facts: Known) -> Value:
    """The value before it was only moved or cast."""
    while (op := facts[value].producer) is not None:
        moved = kind(op.primitive) in (Kind.MOVE, Kind.IDENTITY) and len(op.outputs) == 1
        picks = op.primitive is lax.select_n_p or layout(op.primitive) is Layout.PLACED
        if not (moved and not picks) and op.primitive is not lax.convert_element_type_p:
            break
        value = op.inputs[0]
    return value


def normaliser(op: Op, facts: Known) -> bool:
    """Whether an elementwise result only scales what it is multiplied with.

    ``lax.rsqrt(variance + eps)``, ``1 / norm``, ``norm ** -0.75``, and products of such.
    """
    inputs = [facts[value] for value in op.inputs]
    if op.primitive is lax.rsqrt_p:
        return True
    if op.primitive is lax.div_p and not inputs[0].active:
        return True
    if op.primitive is lax.integer_pow_p and op.params["y"] < 0:
        return True
    if op.primitive is lax.pow_p and inputs[1].interval.high < 0:
        return True
    return all(known.role is Role.NORMALISER or not known.active for known in inputs)


def is_normalised(op: Op, facts: Known) -> bool:
    """Whether a normaliser scales a value: ``x * lax.rsqrt(variance + eps)``, ``x / norm``.

    How far below zero the result may lie then follows from eps, and is nobody's lower bound.
    """
    if op.primitive is lax.div_p:
        return all(facts[value].active for value in op.inputs)
    scales = any(facts[value].role is Role.NORMALISER for value in op.inputs)
    return op.primitive is lax.mul_p and scales


def moved_normaliser(op: Op, facts: Known) -> bool:
    """Whether an operation moves a normaliser: ``jnp.broadcast_to(1 / norm, shape)``."""
    places = (Layout.RESHAPED, Layout.PERMUTED, Layout.BROADCAST, Layout.SLICED, Layout.TILED)
    squeezed = kind(op.primitive) is Kind.MOVE and layout(op.primitive) is Layout.REDUCED
    if layout(op.primitive) not in places and not squeezed:
        return False
    return facts[op.inputs[0]].role is Role.NORMALISER


def recognised_range(op: Op, facts: Known) -> Interval | None:
    """The range of an output that follows from a pattern, where interval arithmetic is too wide."""
    if (summed := window_mean(op, facts)) is not None:
        return facts[summed].interval
    if (mixed := mixture(op, facts)) is not None:
        return union(facts[value].interval for value in mixed)
    return TRUTH if share(op, facts) else None


def window_mean(op: Op, facts: Known) -> Value | None:
    """What a quotient is the mean of: a window's sum over its number of elements, padding left out.

    ``lax.reduce_window(x, 0., lax.add, ...) / lax.reduce_window(ones, 0., lax.add, ...)``
    """
    if op.primitive is not lax.div_p:
        return None
    values, ones = (facts[_unshaped(value, facts)].producer for value in op.inputs)
    for summed in (values, ones):
        if summed is None or summed.primitive is not lax.reduce_window_sum_p:
            return None
    known = facts[ones.inputs[0]].known
    counts = known is not None and float(known) == 1 and _windows(values) == _windows(ones)
    return values.inputs[0] if counts else None


def _unshaped(value: Value, facts: Known) -> Value:
    """The value before axes of length 1 came or went, and before it was repeated."""
    while (op := facts[value].producer) is not None and kind(op.primitive) is Kind.MOVE:
        before, after = ([n for n in v.shape if n != 1] for v in (op.inputs[0], value))
        how = layout(op.primitive)
        kept = how in (Layout.RESHAPED, Layout.REDUCED) and before == after
        if not (kept or how is Layout.BROADCAST):
            break
        value = op.inputs[0]
    return value


def _windows(op: Op) -> list[tuple]:
    """What moves along each axis, and how often; not of axes along which nothing does."""
    names = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")
    every = zip(*(op.params[name] for name in names), op.outputs[0].shape, strict=True)
    return [window for window in every if window[:-1] != (1, 1, (0, 0), 1, 1)]


def mixture(op: Op, facts: Known) -> tuple[Value, Value] | None:
    """The values that a gate g in [0, 1] mixes: ``g * a + (1 - g) * b`` (a GRU's update)."""
    if op.primitive is not lax.add_p:
        return None
    first, second = (facts[unchanged(value, facts)].producer for value in op.inputs)
    if any(part is None or part.primitive is not lax.mul_p for part in (first, second)):
        return None
    for one, other in ((first, second), (second, first)):
        for i, gate in enumerate(one.inputs):
            for j, rest in enumerate(other.inputs):
                low, high = facts[gate].interval
                if low >= 0 and high <= 1 and _is_rest(rest, gate, facts):
                    return one.inputs[1 - i], other.inputs[1 - j]
    return None


def unchanged(value: Value, facts: Known) -> Value:
    """The value before it was only named, copied or cast."""
    while (op := facts[value].producer) is not None:
        barrier = op.primitive is lax.optimization_barrier_p
        same = kind(op.primitive) is Kind.IDENTITY or op.primitive is lax.convert_element_type_p
        if not (same or barrier):
            break
        value = op.inputs[op.outputs.index(value)]
    return value


def _is_rest(rest: Value, gate: Value, facts: Known) -> bool:
    """Whether ``rest`` is ``1 - gate``, as a function of one value or as it is written."""
    a, b = facts[rest], facts[gate]
    if a.origin is not None and a.origin is b.origin:
        points = np.linspace(-6, 6, 101)
        with np.errstate(all="ignore"):
            return np.allclose(a.function(points) + b.function(points), 1, atol=1e-6)
    op = facts[unchanged(rest, facts)].producer
    if op is None or op.primitive is not lax.sub_p:
        return False
    known = facts[op.inputs[0]].known
    same = unchanged(op.inputs[1], facts) is unchanged(gate, facts)
    return same and known is not None and float(known) == 1


def share(op: Op, facts: Known) -> bool:
    """Whether a quotient is ``e / e.sum(axis, keepdims=True)`` with e >= 0, as in a softmax."""
    if op.primitive is not lax.div_p:
        return False
    part, total = op.inputs
    if facts[part].interval.low < 0:
        return False
    summed = facts[through_layout(total, facts)].producer
    if summed is None or summed.primitive is not lax.reduce_sum_p:
        return False
    return unchanged(summed.inputs[0], facts) is unchanged(part, facts)


def signal_factor(op: Op, facts: Any) -> int | None:
    """R7, D7: which of two factors is the signal, the other one being a gate; None if unclear.

    The gate is, in this order: a normaliser; a statistic of the other factor, or what was divided
    out of it; learned constants that gates mix (the weights of a dynamic convolution); what is
    repeated along axes of the other; a value in [0, 1], or one bounded and not negative; a factor
    computed from the other; a sigmoid (of a state in [0, 1]); a self-gated or bounded activation;
    the one with the higher of two lower bounds.

    ``x * lax.rsqrt(var)``, ``net(x / s) * s``, ``sigmoid(z) * x``, ``softmax(scores) @ values``,
    ``features * scale[:, None]``, ``relu(a) * silu(b)``
    """
    (out,) = op.outputs
    for strength in (
        lambda v, other: facts[v].role is Role.NORMALISER,
        lambda v, other: _was_divided_out(v, other, facts),
        lambda v, other: _is_mixed(v, facts),
        lambda v, other: op.primitive is lax.mul_p and _is_repeated(v, out, facts),
        lambda v, other: _gate_strength(v, facts),
        lambda v, other: facts.depends(v, other) is not None,
        lambda v, other: _is_sigmoid(facts[v]),
        lambda v, other: _is_self_gated(facts[v]),
        lambda v, other: _bound_strength(facts[v]),
    ):
        first, second = strength(*op.inputs), strength(*op.inputs[::-1])
        if first != second:
            return 0 if first < second else 1
    return None


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

    A constant scale of a gate is a gate: ``softmax(scores) * mask``.
    """
    known = facts[value]
    low, high = known.interval
    if known.role is Role.NORMALISER:
        return 3
    if low >= 0 and high <= 1:
        return 2
    own = 1 if low >= 0 and high < INF else 0
    scaled = _unscaled(value, facts)
    return own if scaled is None else max(own, _gate_strength(scaled, facts))


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


def _is_self_gated(known: Any) -> bool:
    """Whether it is a bounded activation, or one that dips (SiLU, GELU)."""
    low, high = known.interval
    return known.parent is not None and -INF < low and (low < 0 or high < INF)


def _bound_strength(known: Any) -> int:
    low = known.interval.low
    return 2 if low >= 0 else 1 if low > -INF else 0


def rectified(op: Op, facts: Any) -> int | None:
    """The position of the operand that an operation rectifies; None where it is no ReLU.

    ``jnp.maximum(x, 0)``, but not where nothing is rectified: in a LayerNorm (a variance is made
    not negative), and inside activation functions with a slope of their own (softplus, CELU).
    """
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


def _is_part_of_an_activation(value: Value, facts: Any) -> bool:
    """Whether it joins another function of the same neurons, as in ``max(x, 0) + min(x, 0)``."""
    pending = [value]
    while pending:
        current = pending.pop()
        for op in facts.consumers.get(current, ()):
            if elementwise_function(op) is None:
                continue
            above = _ancestors(op.outputs[0], facts)
            if value in above:
                pending.append(op.outputs[0])
            elif above:  # a parent that it shares with what it joins
                return True
    return False


def _ancestors(value: Value, facts: Known) -> set[Value]:
    """The values that it is a function of, element by element."""
    found: set[Value] = set()
    parent = facts[value].parent
    while parent is not None:
        found.add(parent)
        parent = facts[parent].parent
    return found


def _only_normalises(value: Value, facts: Any) -> bool:
    """Whether all that is computed from it divides: 1 / sqrt(variance + epsilon)."""
    pending = [value]
    while pending:
        current = pending.pop()
        if current in facts.ends:
            return False
        for op in facts.consumers.get(current, ()):
            (*_, out) = op.outputs
            divides = op.primitive is lax.div_p and op.inputs[0] is not current
            if divides or facts[out].role is Role.NORMALISER:
                continue
            if kind(op.primitive) is not Kind.MOVE and elementwise_function(op) is None:
                return False
            pending.append(out)
    return True


def identity_skip(op: Op, facts: Any) -> int | None:
    """Which operand of a sum is the other branch's own input, unchanged but for its layout.

    ``x + layer(relu(layer(x)))``: position 0.
    """
    signals = [i for i, value in enumerate(op.inputs) if facts[value].active]
    if len(signals) != 2:
        return None
    for skip, branch in (signals, signals[::-1]):
        base = through_layout(op.inputs[skip], facts)
        between = facts.depends(op.inputs[branch], base) or ()
        if any(kind(other.primitive) is Kind.AFFINE for other in between):
            return skip
    return None
