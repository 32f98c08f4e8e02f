"""Which values have a constant scale behind them, and of which sign.

A convolution followed by a BatchNorm is one activation neuron, whose weights are the
convolution's times the BatchNorm's scale; where the scale is negative, the negative weights
excite. So a rule needs the sign of every constant that multiplies its output before the next
operation that is not affine. Sums and pooling without weights let the sign through to the
values they add, as ``s * (a + b) = s * a + s * b``.

Only a value with one consumer has an orientation: with several, no one sign is right, and
the scales behind it pass the probability unchanged (R5).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from . import _compat
from .facts import FactTable
from .program import Op, Program, Value

#: Reads the sign (of the value's rank, size 1 where it does not vary) off the constants.
SignReader = Callable[[Callable[[Value], Any]], jax.Array]

_UNCHANGED = frozenset(
    [
        lax.add_p, lax.convert_element_type_p, lax.stop_gradient_p, lax.copy_p, _compat.name_p,
        lax.reduce_precision_p, _compat.sharding_constraint_p,
    ]
)  # fmt: skip


def orientations(
    program: Program, facts: FactTable, consumers: dict[Value, list[Op]]
) -> dict[Value, SignReader]:
    """Sign readers, for the values that have one; none for those with a positive scale.

    Args:
      consumers: for each value on the signal path, the operations it sends probability from.
    """
    found: dict[Value, SignReader] = {}
    outputs = set(program.outputs)
    for op in reversed(program.ops):
        for value in op.inputs:
            if value in outputs or consumers.get(value) != [op]:
                continue
            reader = _through(op, value, facts, found)
            if reader is not None:
                found[value] = reader
    return found


def _through(
    op: Op, value: Value, facts: FactTable, found: dict[Value, SignReader]
) -> SignReader | None:
    """The orientation of an operand, from that of the operation's output."""
    behind = found.get(op.outputs[0])
    signals = [v for v in op.inputs if facts[v].active and v.floating]
    primitive = op.primitive
    if value.shape != op.outputs[0].shape and primitive in (lax.add_p, lax.mul_p, lax.sub_p):
        return None
    if len(signals) == 2 and primitive is lax.add_p and behind is not None:
        # Of two activations, neither is an affine value that a sign could belong to.
        return behind if any(facts[v].interval.low == -float("inf") for v in signals) else None
    if len(signals) != 1:
        return None
    if primitive in (lax.mul_p, lax.div_p):
        if primitive is lax.div_p and op.inputs[1] is value:
            return None
        scale = next(v for v in op.inputs if v is not value)
        return _product(_sign_of(scale, len(value.shape), facts), behind)
    if primitive is lax.neg_p or (primitive is lax.sub_p and op.inputs[1] is value):
        return _product(_minus_one(len(value.shape)), behind)
    if behind is None:
        return None
    if primitive in _UNCHANGED or primitive is lax.sub_p:
        return behind
    if primitive is lax.transpose_p:
        inverse = [op.params["permutation"].index(i) for i in range(len(value.shape))]
        return lambda read: jnp.transpose(behind(read), inverse)
    if primitive in (lax.reshape_p, lax.squeeze_p):
        return lambda read: jnp.broadcast_to(behind(read), op.outputs[0].shape).reshape(value.shape)
    if primitive is lax.reduce_sum_p:
        return lambda read: jnp.expand_dims(behind(read), op.params["axes"])
    if primitive is lax.reduce_window_sum_p:
        return lambda read: _same_in_windows(op, behind(read))
    return None


def _same_in_windows(op: Op, sign: jax.Array) -> jax.Array:
    windows = op.params["window_dimensions"]
    if any(size != 1 and window != 1 for size, window in zip(sign.shape, windows, strict=True)):
        # The windows of one element disagree: no sign is right for it, so it keeps its own.
        return jnp.ones((1,) * sign.ndim, sign.dtype)
    return sign


def _minus_one(rank: int) -> SignReader:
    return lambda read: jnp.full((1,) * rank, -1.0)


def _product(first: SignReader | None, second: SignReader | None) -> SignReader | None:
    if first is None or second is None:
        return first or second
    return lambda read: first(read) * second(read)


def _sign_of(scale: Value, rank: int, facts: FactTable) -> SignReader | None:
    """Reads the sign of a constant; None if it is known to be positive."""
    low, high = facts[scale].interval
    if low >= 0 and scale.shape == ():
        return None
    if low >= 0 and facts[scale].producer is not None and not facts[scale].learned:
        return None
    if high < 0:
        return _minus_one(rank)
    producer = facts[scale].producer
    if producer is not None and producer.primitive is lax.broadcast_in_dim_p:
        (inner,) = producer.inputs[:1]
        kept = producer.params["broadcast_dimensions"]
        shape = [1] * rank
        for position, dim in enumerate(kept):
            shape[dim] = inner.shape[position]
        return lambda read: jnp.sign(read(inner)).reshape(shape)
    missing = rank - len(scale.shape)
    return lambda read: jnp.sign(read(scale)).reshape((1,) * missing + scale.shape)
