"""R6: operations that move, copy or drop elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from .rule import Call, Flow, Plan, Refuse, Rule, Site, Structure, Through


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
class Select(Rule):
    """R6: ``where(mask, a, b)``: P goes to the case that was taken."""

    equation = "R6 selection"

    def plan(self, site: Site) -> Plan:
        if site.parent is not None:
            return Through(site.parent, "R2 one child")
        if not site.signals:
            return Refuse("only its condition depends on the explained input, not its cases")
        return Structure(site.signals)
