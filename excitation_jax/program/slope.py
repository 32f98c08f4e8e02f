"""Which way a value goes when the one that it is computed from grows (D0, D1).

A function of one value, element by element, rises, falls, or does both. Where a constant decides
(a BatchNorm's scale), its sign is read when the model runs. A value times a gate in [0, 1] that
rises with it (SiLU, GELU) counts as rising, although it dips.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .affine import scaled
from .intervals import GRID, INF, Interval
from .primitives import Kind, Missing, elementwise_function, kind, row
from .record import Known, Role, reader
from .roles import through_layout, unchanged
from .trace import Op, Value

#: Reads a constant's array.
Reader = Callable[[Value], Any]


class Turning(enum.Enum):
    """A direction that is known only when the model runs, or is no single one."""

    BOTH = "both"


BOTH = Turning.BOTH


@dataclass(frozen=True, eq=False)
class Signed:
    """A direction that constants decide, element by element.

    Attributes:
      shape: of the value's rank, 1 along the axes on which the signs do not vary.
      read: the signs, from a reader of constants.
      minus: every sign is known to be -1.
      late: a gate's, which depends on the input: it is not known below the product.
    """

    shape: tuple[int, ...]
    read: Callable[[Reader], jax.Array]
    minus: bool = False
    late: bool = False


#: A direction: None where it is positive.
Way = Signed | Turning | None


def negative(rank: int) -> Signed:
    """The other direction, throughout."""
    return Signed((1,) * rank, lambda read: jnp.full((1,) * rank, -1.0), minus=True)


def times(first: Way, second: Way) -> Way:
    """One direction behind the other."""
    if first is None or second is None:
        return first or second
    if isinstance(first, Turning) or isinstance(second, Turning):
        return BOTH
    if first.minus and second.minus:
        return None
    a, b = first.read, second.read
    return Signed(np.broadcast_shapes(first.shape, second.shape), lambda read: a(read) * b(read))


def slope(op: Op, child: Value, facts: Known) -> Way:
    """The direction of an elementwise operation's output in the one value that gets its P."""
    (out,) = op.outputs
    if not (child.floating and out.floating):
        return None
    active = [i for i, value in enumerate(op.inputs) if facts[value].active]
    if len(active) == 1 and op.inputs[active[0]] is child:
        return _in_operand(op, active[0], facts)
    if facts[out].parent is child:
        return _of_neuron(op, child, facts)
    if op.primitive is lax.sub_p and child is op.inputs[1]:  # and a statistic of it is the other
        return negative(len(out.shape))
    if op.primitive is lax.mul_p:  # a signal and a gate, in which a scale may be (LayerNorm's)
        gates = [value for value in op.inputs if value is not child]
        return sign_of_gate(gates[0], len(out.shape), facts) if len(gates) == 1 else None
    return None


def _in_operand(op: Op, at: int, facts: Known) -> Way:
    """In one operand, the others being constants."""
    known, rank = row(op.primitive), len(op.outputs[0].shape)
    if known is None or isinstance(known.slope, Missing):
        return None
    which = known.slope[min(at, len(known.slope) - 1)]
    if which == 1:
        return None
    if which == -1:
        return negative(rank)
    if which == 0:
        return sign_of(op, 1 - at, facts)
    if op.primitive is lax.div_p:  # falls on each side of its pole
        return times(negative(rank), sign_of(op, 0, facts))
    if op.primitive is lax.pow_p and at == 0 and facts[op.inputs[0]].interval.low >= 0:
        return sign_of(op, 1, facts)
    if op.primitive is lax.integer_pow_p and op.params["y"] % 2 and op.params["y"] < 0:
        return negative(rank)
    function = elementwise_function(op)
    others = [None if i == at else facts[v].known for i, v in enumerate(op.inputs)]
    if function is None or any(x is None for i, x in enumerate(others) if i != at):
        return BOTH

    def of_one(x: Any) -> Any:
        return function(*(x if i == at else other for i, other in enumerate(others)))

    return _compared(of_one, lambda x: x, facts[op.inputs[at]].interval, rank)


def _of_neuron(op: Op, child: Value, facts: Known) -> Way:
    """Where several ways lead from the child to the output: ``x * sigmoid(x)``."""
    out, known, below = op.outputs[0], facts[op.outputs[0]], facts[child]
    if known.origin is not None and known.origin is below.origin:
        found = facts[known.origin].interval
        return _compared(known.function, below.function, found, len(out.shape))
    if op.primitive is lax.mul_p:
        for factor, gate in (op.inputs, op.inputs[::-1]):
            low, high = facts[gate].interval
            if unchanged(factor, facts) is unchanged(child, facts) and low >= 0 and high <= 1:
                return None
    return BOTH


def _compared(
    function: Callable[[Any], Any], base: Callable[[Any], Any], domain: Interval, rank: int
) -> Way:
    """The direction of one known function of a number in another one."""
    points = np.unique(np.clip(GRID, *domain))
    with np.errstate(all="ignore"):
        y = np.broadcast_to(np.asarray(function(points), float), points.shape)
        x = np.broadcast_to(np.asarray(base(points), float), points.shape)
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    moves = np.diff(y) * np.sign(np.diff(x))
    least = 1e-12 * np.maximum(1, np.abs(y[1:]))
    if (moves >= -least).all() or _rises_but_dips(x, y):
        return None
    if (moves <= least).all() or _rises_but_dips(x, -y):
        return negative(rank)
    return BOTH


def _rises_but_dips(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether y is x times something in [0, 1] that rises with it, scaled and shifted."""
    order = np.argsort(x)
    x, y = x[order], y[order]
    if not x.size or x[0] > 0 or x[-1] < 0:
        return False
    far = np.abs(x) > 1e-3
    gate = (y - np.interp(0.0, x, y))[far] / x[far]
    if gate.size < 3:
        return False
    most = max(gate[-1], 1e-30)
    limit = abs(gate[-1] - np.interp(x[far][-1] / 10, x[far], gate)) < 0.1 * most
    return bool(limit and (gate > -1e-9 * most).all() and (np.diff(gate) > -1e-6 * most).all())


def sign_of(op: Op, i: int, facts: Known) -> Signed | None:
    """The sign of a factor, or of the constants in a gate; None where it is positive."""
    scale, rank = op.inputs[i], len(op.outputs[0].shape)
    known = facts[scale]
    if known.active:
        return sign_in_gate(scale, rank, facts)
    low, high = known.interval
    if low >= 0 and (scale.shape == () or not known.learned):
        return None
    if high < 0:
        return negative(rank)
    constant = reader(op, i, facts)
    shape = jax.eval_shape(lambda: constant(_blank)).shape
    return Signed(shape, lambda read: jnp.sign(constant(read)).astype(float))


def _blank(value: Value) -> jax.Array:
    return jnp.zeros(value.shape, value.dtype)


def sign_of_gate(gate: Value, rank: int, facts: Known) -> Signed | None:
    """The sign of a gate; of a normaliser, of the constants in it. None where it is positive.

    An activation that only dips below zero counts as positive.
    """
    known = facts[gate]
    constants = sign_in_gate(gate, rank, facts)
    if known.role is Role.NORMALISER or constants is not None:
        return constants
    if known.interval.low >= 0 or len(gate.shape) != rank or dips(gate, facts):
        return None
    return Signed(gate.shape, lambda read: jnp.where(read(gate) < 0, -1.0, 1.0), late=True)


def dips(gate: Value, facts: Known) -> bool:
    """Whether a value is an activation that rises, but is somewhat less than zero (SiLU, GELU)."""
    known = facts[through_layout(gate, facts)]
    if known.function is None or known.interval.low == -INF:
        return False
    if facts[gate].interval.low < known.interval.low:  # of a constant beside it
        return False
    points = np.unique(np.clip(GRID, *facts[known.origin].interval))
    parent = known.parent
    with np.errstate(all="ignore"):
        y = np.broadcast_to(np.asarray(known.function(points), float), points.shape)
        while parent is not None and facts[parent].origin is known.origin:
            x = np.broadcast_to(np.asarray(facts[parent].function(points), float), points.shape)
            finite = np.isfinite(x) & np.isfinite(y)
            falls = bool((np.diff(y[finite]) < -1e-12).any())
            if falls and _rises_but_dips(x[finite], y[finite]):
                return True
            parent = facts[parent].parent
    return False


def sign_in_gate(gate: Value, rank: int, facts: Known) -> Signed | None:
    """The sign of the constant factors of a product that depends on the input."""
    known = facts[gate]
    producer = known.producer
    if known.interval.low >= 0 or producer is None or len(gate.shape) != rank:
        return None
    if producer.primitive is lax.mul_p:
        found = times(sign_of(producer, 0, facts), sign_of(producer, 1, facts))
        return found if isinstance(found, Signed) else None
    if producer.primitive is lax.broadcast_in_dim_p:
        inner, dims = producer.inputs[0], producer.params["broadcast_dimensions"]
        sign = sign_in_gate(inner, len(inner.shape), facts)
        if sign is None:
            return None
        shape = [1] * rank
        for position, dim in enumerate(dims):
            shape[dim] = sign.shape[position]
        return Signed(tuple(shape), lambda read: sign.read(read).reshape(shape), sign.minus)
    return None


def trend(value: Value, facts: Known) -> int:
    """1 where it rises in its neurons, -1 where it falls, 0 where that is unknown."""
    op = facts[value].producer
    if op is None or not facts[value].active:
        return 1
    at, parent = scaled(op, facts), facts[value].parent
    parent = op.inputs[at] if parent is None and at is not None else parent
    if parent is not None and len(op.outputs) == 1:
        if facts[value].affine and any(facts[v].learned for v in op.inputs if not facts[v].active):
            return 1  # whichever way learned constants make a sum go, they are its own
        found, below = slope(op, parent, facts), trend(parent, facts)
        if found is BOTH:  # |y| is an activation, which is off at its least; -|y| is none
            low, high = facts[value].interval
            return int(low > -INF) - int(high < INF)
        known = found is None or (isinstance(found, Signed) and found.minus)
        return below * (1 if found is None else -1) if known else 0
    if kind(op.primitive) in (Kind.WINNER, Kind.MOVE) or op.primitive in (lax.max_p, lax.min_p):
        trends = {trend(v, facts) for v in op.inputs if facts[v].active and v.floating}
        return trends.pop() if len(trends) == 1 else 0
    return 1
