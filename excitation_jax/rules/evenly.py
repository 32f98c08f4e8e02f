"""D10: where nothing excites a neuron, its probability goes to all its children evenly.

By Eq. 6 a neuron with Z = 0 has no child that wins, and its probability ends there. Its children
here are the elements of its field, whatever their weights: of the window of a convolution, say, and
no padding, no constants.
Behind a gate a child counts by the gate. Since all channels of a window are alike, that costs next
to nothing beside the layer itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .arithmetic import safe_divide, vanishes
from .connections import Excitation
from .rule import Call


def left_over(p: jax.Array, total: jax.Array) -> jax.Array:
    """What arrives where nothing excites."""
    return jnp.where(vanishes(total), p, 0)


def handed_on(call: Call, source: int, left: jax.Array) -> jax.Array:
    """What the elements of an affine operation's operand get of what Eq. 6 leaves over."""
    number, spread = children(call, source)
    return call.field(source) * spread(safe_divide(left, number))


def children(call: Call, source: int) -> Excitation:
    """The number of each neuron's children; and of P by child, what arrives at each place."""
    op = call.step.site.op
    operands = call.step.site.operands
    weights = {i: call.value(i) for i in range(len(operands)) if i != source}
    gates = any(operands[i].active for i in weights)
    if call.step.site.facts.is_learned_layer(op) and weights:
        if op.primitive is lax.dot_general_p:
            return _of_a_product(call, source)
        if source == 0 and op.params["batch_group_count"] == 1:
            return _of_a_window(call)
        weights = {i: jnp.ones_like(w) for i, w in weights.items()}
    elif not gates:  # known weights may pick: those of zero are no connections
        weights = {i: (w != 0).astype(call.dtype) for i, w in weights.items()}
    by = {i: jnp.abs(w) for i, w in weights.items()}
    return _counted(
        lambda x: call.bind(*(x if i == source else by[i] for i in range(len(operands)))),
        call.field(source),
    )


def _counted(count: Callable[[jax.Array], jax.Array], field: jax.Array) -> Excitation:
    number, pull = jax.vjp(count, field)
    return number, lambda r: pull(r)[0]


def _of_a_window(call: Call) -> Excitation:
    """Of a convolution: sums of each group's channels, then of windows, an axis at a time."""
    op, params = call.step.site.op, call.step.site.op.params
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    shape, axis = op.outputs[0].shape, numbers.out_spec[1]

    def counted(field: jax.Array, groups: int = groups) -> jax.Array:
        """Sums over each window, (batch, groups, ...) in the output's order."""
        x = _summed_in_groups(field, numbers.lhs_spec[1], groups)
        for k, at in enumerate(numbers.lhs_spec[2:]):
            window, ones = [1] * x.ndim, [1] * x.ndim
            window[at] = op.inputs[1].shape[numbers.rhs_spec[2 + k]]
            stride, inside, between, padding = ones[:], ones[:], ones[:], [(0, 0)] * x.ndim
            stride[at], padding[at] = params["window_strides"][k], params["padding"][k]
            inside[at], between[at] = params["lhs_dilation"][k], params["rhs_dilation"][k]
            zero = np.zeros((), x.dtype)  # known, or it is no sum to JAX
            x = lax.reduce_window(x, zero, lax.add, window, stride, padding, inside, between)
        places = dict(zip(numbers.out_spec, numbers.lhs_spec, strict=True))
        return jnp.transpose(x, [places[i] for i in range(x.ndim)])

    image = op.inputs[0].shape
    _, pull = jax.vjp(counted, jnp.zeros(image, call.dtype))

    def spread(r: jax.Array) -> jax.Array:
        return pull(_summed_in_groups(jnp.broadcast_to(r, shape), axis, groups))[0]

    if call.all_children(0):  # all images are alike, and all channels
        small = list(image)
        small[numbers.lhs_spec[0]] = small[numbers.lhs_spec[1]] = 1
        one = counted(jnp.ones(small, call.dtype), 1)
        return one * (image[numbers.lhs_spec[1]] // groups), spread
    return jnp.repeat(counted(call.field(0)), shape[axis] // groups, axis), spread


def _summed_in_groups(x: jax.Array, axis: int, groups: int) -> jax.Array:
    parts = (*x.shape[:axis], groups, x.shape[axis] // groups, *x.shape[axis + 1 :])
    return x.reshape(parts).sum(axis + 1)


def _of_a_product(call: Call, source: int) -> Excitation:
    """Of a matrix product: sums along the contracted dimensions."""
    op = call.step.site.op
    contracted, batch = op.params["dimension_numbers"]
    weights = op.inputs[1 - source].shape
    free = len(weights) - len(contracted[0]) - len(batch[0])
    rank = len(op.outputs[0].shape)
    first = len(batch[0]) if source == 1 else rank - free
    axes = tuple(range(first, first + free))
    shared = len(batch[0])
    numbers = (
        (contracted[source], tuple(range(shared, shared + len(contracted[0])))),
        (batch[source], tuple(range(shared))),
    )
    sizes = [weights[i] for i in (*batch[1 - source], *contracted[1 - source])]
    ones = jnp.ones(sizes, call.dtype)
    count = lambda x: lax.dot_general(x, ones, numbers)  # noqa: E731
    if call.all_children(source):
        field = jnp.zeros(op.inputs[source].shape, call.dtype)
        number: jax.Array = jnp.full((), math.prod(sizes[shared:]), call.dtype)
    else:
        field = call.field(source)
        number = jnp.expand_dims(count(field), axes)
    _, pull = jax.vjp(count, field)
    shape = op.outputs[0].shape
    return number, lambda r: pull(jnp.broadcast_to(r, shape).sum(axes))[0]
