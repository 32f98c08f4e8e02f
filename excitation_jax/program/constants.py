"""Reading constants as they were before they were broadcast: small, and with lengths of 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from .trace import Op, Value


class Known(Protocol):
    """What is known of values: a `facts.FactTable`."""

    def __getitem__(self, value: Value) -> Any: ...


def before_broadcast(op: Op, i: int, facts: Known) -> tuple[Value, tuple[int, ...]]:
    """A value with the elements of an operand, and their shape: 1 where it was broadcast."""
    value = op.inputs[i]
    shape, places = list(value.shape), list(range(len(value.shape)))
    while (maker := facts[value].producer) is not None and not facts[value].active:
        if maker.primitive is not lax.broadcast_in_dim_p:
            break
        value = maker.inputs[0]
        places = [places[dim] for dim in maker.params["broadcast_dimensions"]]
        shape = [1] * len(op.inputs[i].shape)
        for place, size in zip(places, value.shape, strict=True):
            shape[place] = size
    return value, tuple(shape)


def reader(op: Op, i: int, facts: Known) -> Callable[[Callable[[Value], Any]], jax.Array]:
    """Of a function that reads constants: a constant operand, with the output's rank.

    It has length 1 along the axes that it was broadcast along.
    """
    value, shape = before_broadcast(op, i, facts)
    shape = (1,) * (len(op.outputs[0].shape) - len(shape)) + shape
    if value.literal is not None:
        return lambda read: jnp.full(shape, value.literal)
    return lambda read: jnp.reshape(read(value), shape)
