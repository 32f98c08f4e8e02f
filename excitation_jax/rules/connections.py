"""The connections of an affine operation's neurons: what excites them, and the way down."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .rule import Call

#: Z of every neuron, and from r = P / Z what each child gets per unit of h: L+^T(r).
Excitation = tuple[jax.Array, Callable[[jax.Array], jax.Array]]


class Connections(NamedTuple):
    """The connections of an affine operation's neurons to their children.

    Attributes:
      h: the children's activations.
      excite: the excitation by the positive part of the weights, ``excite(1)``, or by the
        negative one, ``excite(-1)``.
    """

    h: jax.Array
    excite: Callable[[int], Excitation]


def by_sign(sign: jax.Array, same: Excitation, other: Excitation) -> Excitation:
    """Of neurons of which some are excited by the one side of the weights, some by the other."""
    (up, send_up), (down, send_down) = same, other
    total = jnp.where(sign > 0, up, jnp.where(sign < 0, down, 0))
    return (
        total,
        lambda r: send_up(jnp.where(sign > 0, r, 0)) + send_down(jnp.where(sign < 0, r, 0)),
    )


def with_constants(
    call: Call, h: jax.Array, active: jax.Array, weights: dict[int, jax.Array]
) -> Connections:
    """Of a sum, where one summand alone may depend on the input: that is a shift (R5).

    Args:
      weights: of a pooling. Of which they are zero is no summand.
    """

    def excite(part: int) -> Excitation:
        sent = positive(weights, part)
        total, send = excitation(call, sent, h)
        present = {i: (w > 0).astype(w.dtype) for i, w in sent.items()}
        number, pass_on = excitation(call, present, active)
        alone = number == 1

        def down(r: jax.Array) -> jax.Array:
            return h * send(jnp.where(alone, 0, r)) + active * pass_on(jnp.where(alone, r, 0))

        return jnp.where(alone, 1, total), down

    return Connections(jnp.ones_like(h), excite)


def positive(weights: dict[int, jax.Array], part: int) -> dict[int, jax.Array]:
    """The positive part of the weights (1), or of their negatives (-1)."""
    return {i: jnp.maximum(part * w, 0) for i, w in weights.items()}


def excitation(call: Call, weights: dict[int, jax.Array], h: jax.Array) -> Excitation:
    """Z = L+(h), and the way down."""
    (source,) = call.sources
    operands = range(len(call.operands))
    total, transpose = jax.vjp(
        lambda h: call.bind(*(h if i == source else weights[i] for i in operands)), h
    )
    return total, lambda r: transpose(r)[0]


def fold_input_sign(call: Call, sign: jax.Array) -> tuple[int, jax.Array] | None:
    """The sign of what the signal was multiplied with, as a factor of the weights."""
    op, (source,) = call.step.site.op, call.sources
    weight = 1 - source
    meets: dict[int, int] = {}
    if op.primitive is lax.conv_general_dilated_p:
        numbers = op.params["dimension_numbers"]
        if source == 0 and op.params["feature_group_count"] == 1:
            meets[numbers.lhs_spec[1]] = numbers.rhs_spec[1]
    else:
        for pairs in op.params["dimension_numbers"]:
            meets.update(zip(pairs[source], pairs[weight], strict=True))
    varying = [i for i, size in enumerate(sign.shape) if size != 1]
    if not meets.keys() >= set(varying):
        return None
    shape = [1] * len(op.inputs[weight].shape)
    for i in varying:
        shape[meets[i]] = sign.shape[i]
    kept = lax.squeeze(sign, [i for i in range(sign.ndim) if i not in varying])
    order = sorted(range(len(varying)), key=lambda position: meets[varying[position]])
    return weight, jnp.transpose(kept, order).reshape(shape).astype(call.dtype)


def fold_sign(call: Call, sign: jax.Array) -> tuple[int, jax.Array] | None:
    """The sign as a factor of the weights: (operand, array); None if it varies elsewhere."""
    op, (source,) = call.step.site.op, call.sources
    weight = 1 - source
    owners = _weight_dimensions(call, weight)
    varying = [i for i, size in enumerate(sign.shape) if size != 1]
    places = {i: owner for i in varying if (owner := owners[i]) is not None}
    if len(places) != len(varying):
        return None
    shape = [1] * len(op.inputs[weight].shape)
    for i, place in places.items():
        shape[place] = sign.shape[i]
    kept = lax.squeeze(sign, [i for i in range(sign.ndim) if i not in places])
    order = sorted(range(len(varying)), key=lambda position: places[varying[position]])
    return weight, jnp.transpose(kept, order).reshape(shape).astype(call.dtype)


def _weight_dimensions(call: Call, weight: int) -> list[int | None]:
    """For each dimension of the output, the dimension of the weights it comes from."""
    op = call.step.site.op
    rank = len(op.outputs[0].shape)
    owners: list[int | None] = [None] * rank
    if op.primitive is lax.conv_general_dilated_p:
        numbers = op.params["dimension_numbers"]
        if weight == 1:
            owners[numbers.out_spec[1]] = numbers.rhs_spec[0]
        else:  # the kernel depends on the input, and the image is constant
            owners[numbers.out_spec[0]] = numbers.lhs_spec[0]
    else:
        (contract, batch) = op.params["dimension_numbers"]
        for position, dim in enumerate(batch[weight]):
            owners[position] = dim
        free = [
            dim
            for dim in range(len(op.inputs[weight].shape))
            if dim not in contract[weight] and dim not in batch[weight]
        ]
        start = len(batch[0]) if weight == 0 else rank - len(free)
        for position, dim in enumerate(free):
            owners[start + position] = dim
    return owners
