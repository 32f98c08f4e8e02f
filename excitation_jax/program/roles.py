"""Which part a value plays: gate, normaliser, share, mixture, ReLU, skip.

Each is one pattern of operations, recognised by what is computed, whatever the library or function
name: one function here, one example in its docstring.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jax import lax

from .intervals import TRUTH, Interval, union
from .primitives import ADDITIONS, Kind, Layout, elementwise_function, kind, layout
from .record import Known, Role
from .trace import Op, Value


def through_layout(value: Value, facts: Known) -> Value:
    """The value before it was only moved or cast, constants beside it or not."""
    while (op := facts[value].producer) is not None:
        moved = kind(op.primitive) in (Kind.MOVE, Kind.IDENTITY) and len(op.outputs) == 1
        picks = op.primitive is lax.select_n_p or layout(op.primitive) is Layout.PLACED
        if not (moved and not picks) and op.primitive is not lax.convert_element_type_p:
            break
        signals = [v for v in op.inputs if facts[v].active and v.floating]
        if len(op.inputs) > 1 and len(signals) != 1:
            break
        value = signals[0] if len(op.inputs) > 1 else op.inputs[0]
    return value


def normaliser(op: Op, facts: Known) -> bool:
    """Whether an elementwise result only scales what it is multiplied with.

    ``lax.rsqrt(variance + eps)``, ``1 / norm``, ``norm ** -0.75``, and products of such; a sum
    (``1 - 2 / (exp(x) + 1)``, a tanh) is a value of its own.
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
    scales = op.primitive not in (*ADDITIONS, lax.sub_p)
    return scales and all(k.role is Role.NORMALISER or not k.active for k in inputs)


def squashes(op: Op, interval: Interval, facts: Known) -> bool:
    """Whether a quotient is an activation in [0, 1], ``1 / (1 + exp(-y))``, and no normaliser.

    A normaliser is made of statistics, which sum or take the largest of many elements.
    """
    if interval.low < 0 or interval.high > 1:
        return False
    pending, met = list(op.inputs), set()
    while pending:
        value = pending.pop()
        maker = facts[value].producer
        if value in met or maker is None or not facts[value].active:
            continue
        met.add(value)
        if kind(maker.primitive) in (Kind.SUM, Kind.WINNER) or (
            kind(maker.primitive) is Kind.AFFINE and not any(facts[v].learned for v in maker.inputs)
        ):
            return False
        if kind(maker.primitive) in (Kind.ELEMENTWISE, Kind.IDENTITY, Kind.MOVE):
            pending += maker.inputs
    return True


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


def _is_one_function(a: Any, b: Any) -> bool:
    """Whether two values are the same function of one value, each computed for itself."""
    if a.origin is None or a.origin is not b.origin:
        return False
    points = np.linspace(-6, 6, 101)
    with np.errstate(all="ignore"):
        return np.array_equal(a.function(points), b.function(points))


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
    one, other = unchanged(summed.inputs[0], facts), unchanged(part, facts)
    return one is other or _is_one_function(facts[one], facts[other])


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
