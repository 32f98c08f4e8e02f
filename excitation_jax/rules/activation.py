"""The activation h of a neuron, x - lambda (Eq. 20), and of what is made of several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..program.reading import Amounts, Reading
from ..program.trace import Value
from .arithmetic import above


class Needed(NamedTuple):
    """The arrays that a `Reading` needs.

    Attributes:
      known: of the values `Reading.needed`.
      bounds: of neurons whose elements have different ones.
      crossed: of those that came across a border.
    """

    known: Mapping[Value, Any]
    bounds: Mapping[Value, Any]
    crossed: Mapping[Value, Amounts]


class Operand(NamedTuple):
    """An operand, and the neurons that it is made of.

    Attributes:
      x: its value.
      low: its lower bound, where it is a neuron itself.
      dtype: of the probabilities.
      reading: how it is made of other neurons, with what that needs; None where it is one.
    """

    x: jax.Array
    low: float
    dtype: Any
    reading: tuple[Reading, Needed] | None = None

    def excited(self, direction: int) -> jax.Array:
        """h, towards its neurons' being larger (1) or smaller (-1).

        A neuron that is bounded below makes nothing smaller: it can only be off.
        """
        if self.reading is None:
            return self._of(self.x, self.low, direction)
        reading, (known, bounds, crossed) = self.reading

        def amount(neuron: Value) -> jax.Array:
            if (found := crossed.get(neuron)) is not None:
                return (found.larger if direction > 0 else found.smaller).astype(self.dtype)
            low = bounds.get(neuron, reading.neurons[neuron])
            return self._of(known[neuron], low, direction)

        return reading.amounts(amount, known)

    def field(self) -> jax.Array:
        """As what its elements count for children: by gates."""
        if self.reading is None or not self.reading[0].gated:
            return jnp.ones(self.x.shape, self.dtype)
        reading, (known, _, crossed) = self.reading

        def amount(neuron: Value) -> jax.Array:
            if (found := crossed.get(neuron)) is not None:
                return found.field.astype(self.dtype)
            return jnp.ones(neuron.shape, self.dtype)

        return reading.amounts(amount, known, constants=False)

    def offset(self) -> jax.Array:
        """What it would be if all its neurons were 0."""
        if self.reading is None:
            return jnp.zeros(self.x.shape, self.dtype)
        reading, (known, _, crossed) = self.reading
        return reading.offset(known, self.dtype, crossed)

    def _of(self, given: jax.Array, low: Any, direction: int) -> jax.Array:
        x = given.astype(self.dtype)
        if isinstance(low, jax.Array):
            bounded = above(x, low.astype(self.dtype), given.dtype) if direction > 0 else 0
            return jnp.where(low == -jnp.inf, jnp.maximum(direction * x, 0), bounded)
        if low == -float("inf"):
            return jnp.maximum(direction * x, 0)
        if direction < 0:
            return jnp.zeros_like(x)
        return x if low == 0 else above(x, low, given.dtype)
