"""The constant affine functions that follow values: the bias, a BatchNorm.

A convolution with what follows it, ``y = scale * (W x) + shift``, is one neuron. Excitation needs
the sign of the scale alone (direction.py), a relevance also the shift: a bias takes its share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..program.facts import FactTable
from ..program.primitives import Kind, Layout, kind, layout
from ..program.record import reader
from ..program.trace import Op, Program, Value


class Tail(NamedTuple):
    """``y = scale * x + shift``; both broadcastable to the shape of x."""

    scale: jax.Array
    shift: jax.Array


#: Of a function that reads constants.
TailReader = Callable[[Callable[[Value], Any]], Tail]


def tails(
    program: Program, facts: FactTable, consumers: Mapping[Value, Sequence[Op]]
) -> dict[Value, TailReader]:
    """Readers of the tails of the values that have one.

    A tail ends where a value is read twice or is an output, and at the first operation that is no
    affine function of one value, element by element, and does not only place its elements.

    Args:
      consumers: for each value on the signal path, the operations it sends probability from.
    """
    found: dict[Value, TailReader] = {}
    for value in (*reversed([v for op in program.ops for v in op.outputs]), *program.inputs):
        readers = list(dict.fromkeys(consumers.get(value, ())))
        if len(readers) == 1 and value not in program.outputs:
            reader = _through(readers[0], value, facts, found.get(readers[0].outputs[0]))
            if reader is not None:
                found[value] = reader
    return found


def _through(
    op: Op, value: Value, facts: FactTable, behind: TailReader | None
) -> TailReader | None:
    """The tail of a value that only ``op`` reads, given that of the operation's output."""
    if value not in op.inputs:
        return None
    if (moved := _move_back(op, value)) is not None:
        return None if behind is None else lambda read: Tail(*map(moved, behind(read)))
    if op.outputs[0].shape != value.shape:
        return None
    if kind(op.primitive) is Kind.IDENTITY or op.primitive is lax.convert_element_type_p:
        return behind
    if op.primitive is lax.neg_p:
        minus_one, nothing = (jnp.full((1,) * len(value.shape), number) for number in (-1.0, 0.0))
        return lambda read: _composed(Tail(minus_one, nothing), behind, read)
    others = [v for v in op.inputs if v is not value]
    affine = op.primitive in (lax.add_p, lax.sub_p, lax.mul_p, lax.div_p)
    if not affine or len(others) != 1 or facts[others[0]].active:
        return None
    if op.primitive is lax.div_p and op.inputs[0] is not value:
        return None
    constant = reader(op, op.inputs.index(others[0]), facts)

    def here_and_behind(read: Any) -> Tail:
        number = constant(read)
        one, zero = jnp.ones_like(number), jnp.zeros_like(number)
        if op.primitive is lax.mul_p:
            here = Tail(number, zero)
        elif op.primitive is lax.div_p:
            here = Tail(1 / number, zero)
        elif op.primitive is lax.add_p:
            here = Tail(one, number)
        elif op.inputs[0] is value:
            here = Tail(one, -number)
        else:
            here = Tail(-one, number)
        return _composed(here, behind, read)

    return here_and_behind


def _move_back(op: Op, value: Value) -> Callable[[jax.Array], jax.Array] | None:
    """From an array of the output's elements to one of the value's, where those are among them.

    Takes and gives arrays with sizes of 1 where they do not vary. None for operations that do not
    place each element of the value once.
    """
    output = op.outputs[0]
    if op.primitive is lax.transpose_p:
        order = op.params["permutation"]
        inverse = [order.index(i) for i in range(len(order))]
        return lambda part: jnp.transpose(part, inverse)
    if op.primitive is lax.concatenate_p and op.inputs.count(value) == 1:
        axis, at = op.params["dimension"], op.inputs.index(value)
        start = sum(operand.shape[axis] for operand in op.inputs[:at])
        end = start + value.shape[axis]
        return lambda part: (
            part if part.shape[axis] == 1 else lax.slice_in_dim(part, start, end, axis=axis)
        )
    if layout(op.primitive) in _RESHAPES and math.prod(output.shape) == math.prod(value.shape):
        return lambda part: jnp.broadcast_to(part, output.shape).reshape(value.shape)
    return None


_RESHAPES = (Layout.RESHAPED, Layout.REDUCED, Layout.BROADCAST)


def _composed(here: Tail, behind: TailReader | None, read: Any) -> Tail:
    if behind is None:
        return here
    after = behind(read)
    return Tail(after.scale * here.scale, after.scale * here.shift + after.shift)
