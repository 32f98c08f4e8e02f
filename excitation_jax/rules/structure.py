"""R6: operations that move, copy or drop elements."""

from __future__ import annotations

from dataclasses import dataclass

from .rule import Plan, Refuse, Rule, Site, Structure, Through


@dataclass(frozen=True)
class Move(Rule):
    """R6: P moves back by the operation's own transpose."""

    equation = "R6 structure"

    def plan(self, site: Site) -> Plan:
        if not site.signals:
            return Refuse("only its indices depend on the explained input, not what they pick")
        return Structure(site.signals)


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
