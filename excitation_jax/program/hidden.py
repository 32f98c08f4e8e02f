"""Elements that a mask hides: ``where(mask, x, 0)`` makes constants of them.

Padded positions of a sequence, most of all. Like padding, they take no probability where they are
summed with others. Unlike padding (see fixed.py), which elements they are may be known only when
the model runs: the mask may be an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from . import compat
from .facts import FactTable
from .trace import Op, Value, read_value


class Hidden:
    """Which elements of values are constants because a mask hides them.

    Attributes:
      facts: of the program's values.
    """

    def __init__(self, facts: FactTable):
        self.facts = facts
        self._found: dict[Value, bool] = {}

    def within(self, value: Value) -> bool:
        """Whether a mask may hide elements of a value."""
        if value not in self._found:
            self._found[value] = self._search(value)
        return self._found[value]

    def _search(self, value: Value) -> bool:
        facts = self.facts[value]
        op = facts.producer
        if not facts.active or op is None:
            return False
        if self._factor(op) is not None:
            return True
        if facts.parent is not None:
            return self.within(facts.parent)
        if op.primitive not in _MOVES or any(self.facts[index].active for index in _indices(op)):
            return False
        moved = _moved(op)
        masked = op.primitive in _MASKS and not all(self.facts[value].active for value in moved)
        return masked or any(map(self.within, moved))

    def _factor(self, op: Op) -> Value | None:
        """The constant that a product has as a mask: it may be zero and is never negative."""
        if op.primitive is not lax.mul_p:
            return None
        constants = [value for value in op.inputs if not self.facts[value].active]
        masks = [value for value in constants if self.facts[value].interval.low == 0]
        return masks[0] if masks else None

    def read(self, value: Value) -> list[Value]:
        """The masks, and indices, that `elements` reads."""
        if not self.within(value):
            return []
        parent, op = self.facts[value].parent, self.facts[value].producer
        assert op is not None
        if (factor := self._factor(op)) is not None:
            below = [found for value in op.inputs for found in self.read(value)]
            return [factor, *below] if factor.literal is None else below
        if parent is not None:
            return self.read(parent)
        return [
            *(index for index in _indices(op) if index.literal is None),
            *(found for moved in _moved(op) for found in self.read(moved)),
        ]

    def elements(self, value: Value, env: Mapping[Value, Any]) -> jax.Array:
        """True where an element is a constant; of the value's shape.

        Args:
          env: the arrays of the values in `read`.
        """
        facts, op = self.facts[value], self.facts[value].producer
        if not self.within(value):
            fixed: Any = not facts.active if facts.fixed is None else facts.fixed
            spread = jnp.broadcast_to(jnp.asarray(fixed), value.shape)
            return compat.mark_varying(spread, value.varying)
        assert op is not None
        if (factor := self._factor(op)) is not None:
            (signal,) = (operand for operand in op.inputs if operand is not factor)
            return (read_value(env, factor) == 0) | self.elements(signal, env)
        if facts.parent is not None:
            return self.elements(facts.parent, env)
        indices = INDICES.get(op.primitive, range(0))
        operands = [
            read_value(env, operand) if i in indices else self.elements(operand, env)
            for i, operand in enumerate(op.inputs)
        ]
        if op.primitive is lax.scatter_p:
            return compat.scatter(op.primitive, op.params, *operands)
        (found,) = compat.bind(op.primitive, op.params, *operands)
        return found


#: Positions of the operands that say which elements are meant, not what they are.
INDICES = {
    lax.select_n_p: range(1), lax.gather_p: range(1, 2), lax.dynamic_slice_p: range(1, 99),
    lax.dynamic_update_slice_p: range(2, 99), lax.scatter_p: range(1, 2),
}  # fmt: skip

#: Operations that put constants into a signal.
_MASKS = frozenset([lax.select_n_p, lax.dynamic_update_slice_p, lax.scatter_p])
#: Operations that move elements, and have one output.
_MOVES = _MASKS | frozenset(
    [
        lax.reshape_p, lax.transpose_p, lax.squeeze_p, lax.broadcast_in_dim_p, lax.slice_p,
        lax.dynamic_slice_p, lax.concatenate_p, lax.rev_p,
    ]
)  # fmt: skip


def _indices(op: Op) -> list[Value]:
    positions = INDICES.get(op.primitive, range(0))
    return [value for i, value in enumerate(op.inputs) if i in positions]


def _moved(op: Op) -> list[Value]:
    positions = INDICES.get(op.primitive, range(0))
    return [value for i, value in enumerate(op.inputs) if i not in positions]
