"""How an operand is made of neurons: which, and what lies between them and their reader (D3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from . import compat
from .bounds import Bounds
from .primitives import Kind, indices, is_product, kind
from .slope import Signed
from .trace import Op, Value


class Amounts(NamedTuple):
    """What a reader has to know of the neurons that a value is made of, by element.

    Of what came across a border, where these lie on the other side, it goes beside the value: so
    these are values of the program, or their arrays.

    Attributes:
      larger, smaller: h, towards the neurons' being larger, and smaller.
      field: as what they count for children, by the gates.
      offset: what the value would be if all of them were 0.
      sign: of the constants that scale them; None where it is positive.
    """

    larger: Any
    smaller: Any
    field: Any
    offset: Any
    sign: Any


@dataclass(frozen=True, eq=False)
class Reading:
    """How an operand is made of neurons.

    Attributes:
      value: the operand.
      neurons: with the least of their elements' lower bounds (Eq. 20), -inf where one has none.
      bounds: of those whose elements have different ones, these.
      ops: from there up to the operand: moves, and products and sums with constants and gates.
      sign: of the constants in them, None where it is positive.
      gates: those of the operations that scale by a gate.
      moves: those that put elements elsewhere.
      crossed: what goes beside those that came across a border and are made of others there.
    """

    value: Value
    neurons: Mapping[Value, float]
    bounds: Mapping[Value, Bounds]
    ops: tuple[Op, ...]
    sign: Signed | None
    gates: frozenset[Op]
    moves: frozenset[Op]
    crossed: Mapping[Value, Amounts] = field(default_factory=dict)

    @property
    def gated(self) -> bool:
        """Whether gates may lie between the neurons and the operand."""
        return bool(self.gates or self.crossed)

    @property
    def needed(self) -> list[Value]:
        """The values that `amounts` reads."""
        read = {v: None for v in self.neurons}
        made = {value for op in self.ops for value in op.outputs}
        for op in self.ops:
            read.update((v, None) for v in op.inputs if v not in made and v.literal is None)
        return list(read)

    def amounts(
        self,
        of: Callable[[Value], jax.Array],
        env: Mapping[Value, Any],
        constants: bool = True,
    ) -> jax.Array:
        """What the operand's elements have of an amount that its neurons have.

        Args:
          of: the amount of each neuron.
          env: the values `needed`.
          constants: these scale it, as gates do.
        """
        found = {value: of(value) for value in self.neurons}
        dtype = next(iter(found.values())).dtype

        def factor(op: Op, value: Value) -> jax.Array:
            found = jnp.abs(number(value))
            return found if constants or op in self.gates else jnp.ones_like(found)

        def number(value: Value) -> Any:
            constant = jnp.asarray(env[value] if value.literal is None else value.literal)
            return constant.astype(dtype) if value.floating else constant

        for op in self.ops:
            followed = [i for i, v in enumerate(op.inputs) if v in found]
            if op in self.moves:
                params, fixed = in_dtype(op, dtype), fixed_operands(op)
                operands = [
                    found[v] if v in found
                    else number(v) if i in fixed
                    else compat.mark_varying(jnp.zeros(v.shape, dtype), v.varying)
                    for i, v in enumerate(op.inputs)
                ]  # fmt: skip
                made = compat.bind(op.primitive, params, *operands)
            elif is_product(op):
                (at,) = followed
                scale = factor(op, op.inputs[1 - at])
                pair = (found[op.inputs[0]], scale) if at == 0 else (scale, found[op.inputs[1]])
                made = compat.bind(op.primitive, in_dtype(op, dtype), *pair)
            else:
                (at, *_), amount = followed, found[op.inputs[followed[0]]]
                if op.primitive is lax.mul_p:
                    amount = amount * factor(op, op.inputs[1 - at])
                elif op.primitive is lax.div_p:
                    amount = amount / factor(op, op.inputs[1])
                made = [jnp.broadcast_to(amount, op.outputs[0].shape)]
            found.update(zip(op.outputs, made, strict=True))
        return found[self.value]

    def offset(
        self, env: Mapping[Value, Any], dtype: Any, crossed: Mapping[Value, Amounts]
    ) -> jax.Array:
        """What the operand's elements would be if all its neurons were 0.

        Args:
          env: the values `needed`.
          crossed: the arrays of ``crossed``.
        """
        found = {v: compat.mark_varying(jnp.zeros(v.shape, dtype), v.varying) for v in self.neurons}
        found.update({v: amounts.offset.astype(dtype) for v, amounts in crossed.items()})

        def operand(value: Value) -> Any:
            if value in found:
                return found[value]
            constant = jnp.asarray(env[value] if value.literal is None else value.literal)
            return constant.astype(dtype) if value.floating else constant

        for op in self.ops:
            made = compat.bind_any(op.primitive, in_dtype(op, dtype), *map(operand, op.inputs))
            found.update(zip(op.outputs, made, strict=True))
        return found[self.value]


def in_dtype(op: Op, dtype: Any) -> dict[str, Any]:
    """An operation's parameters, for operands of a dtype."""
    if kind(op.primitive) is not Kind.AFFINE:
        return op.params
    return {**op.params, "preferred_element_type": dtype}


def fixed_operands(op: Op) -> Sequence[int]:
    """Of an operation that moves elements, the operands that say where they go."""
    return range(2) if kind(op.primitive) is Kind.AFFINE else indices(op.primitive)
