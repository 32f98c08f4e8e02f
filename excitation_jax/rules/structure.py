"""R6: operations that move, copy or drop elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ..program import compat
from .rule import Call, Flow, Plan, Refuse, Rule, Site, Structure, Through, safe_divide


@dataclass(frozen=True)
class Move(Rule):
    """R6: P moves back by the operation's own transpose."""

    equation = "R6 structure"

    def plan(self, site: Site) -> Plan:
        if not site.signals:
            return Refuse("only its indices depend on the explained input, not what they pick")
        return Structure(site.signals)


@dataclass(frozen=True)
class Gather(Move):
    """R6; in a look-up of constants (an embedding), P of what was found goes to the index."""

    def plan(self, site: Site) -> Plan:
        return super().plan(site) if site.signals else Flow((1,))

    def backward(self, call: Call, p: jax.Array) -> Sequence[jax.Array | None]:
        found = p.sum(axis=call.step.site.op.params["dimension_numbers"].offset_dims)
        parts = call.operands[1].shape[-1]  # an index into several axes is a row of several
        return [None, jnp.broadcast_to(found[..., None] / parts, call.operands[1].shape)]


@dataclass(frozen=True)
class Scatter(Rule):
    """R6: ``x.at[i].set(y)``: P goes to y where it was written, and to x elsewhere.

    R4: ``x.at[i].add(y)``, and so ``jax.ops.segment_sum``: x and all that was added to an
    element share its P as the summands of a sum do (Eq. 19).

    Attributes:
      added: the latter.
      clamped: as in `Affine`.
    """

    added: bool = False
    clamped: bool = True

    @property
    def equation(self) -> str:  # type: ignore[override]
        return "R4 sum, Eq. 19" if self.added else "R6 structure"

    def plan(self, site: Site) -> Plan:
        if not site.signals:
            return Refuse("only its indices depend on the explained input, not what they place")
        if self.added and site.signals == (0,):
            return Through(site.op.inputs[0], "R5 constant")
        return Flow(site.signals)

    def backward(self, call: Call, p: jax.Array) -> Sequence[jax.Array | None]:
        op, indices = call.step.site.op, call.operands[1]

        def placed(signals: dict[int, jax.Array]) -> jax.Array:
            x, y = (
                signals[i] if i in signals else jnp.zeros(call.operands[i].shape, p.dtype)
                for i in (0, 2)
            )
            return compat.scatter(op.primitive, op.params, x, indices, y)

        if self.added:
            h = {i: call.activation(i) if self.clamped else call.value(i) for i in call.sources}
            total, transpose = jax.vjp(placed, h)
            (shares,) = transpose(safe_divide(p, total))
            found = {i: h[i] * shares[i] for i in h}
        else:
            (found,) = jax.vjp(placed, {i: call.value(i) for i in call.sources})[1](p)
        return [found.get(i) for i in range(3)]


@dataclass(frozen=True)
class Select(Rule):
    """R6: ``where(mask, a, b)``: P goes to the case that was taken."""

    equation = "R6 selection"

    def plan(self, site: Site) -> Plan:
        if site.parent is not None:
            return Through(site.parent, "R2 one child")
        if not site.signals:
            return Refuse("only its condition depends on the explained input, not its cases")
        return Structure(site.signals)
