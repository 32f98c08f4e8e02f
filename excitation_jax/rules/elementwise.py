"""R2, R5, R7: functions of one value, scales, gates and normalisers."""

from __future__ import annotations

from dataclasses import dataclass

from ..facts import Facts
from .rule import Plan, Refuse, Rule, Site, Through, only_child


@dataclass(frozen=True)
class Elementwise(Rule):
    """R2, R5: P passes unchanged, since each output has one child.

    Also for what was computed from one value along several ways, x * sigmoid(x) say.
    """

    equation = "R2 one child"

    def plan(self, site: Site) -> Plan:
        plan = only_child(site)
        return plan or Refuse("an elementwise function of several values of the explained input")


@dataclass(frozen=True)
class Product(Rule):
    """R5, R7: a scale takes nothing; of a signal and a gate, the signal takes all."""

    equation = "R7 gate"

    def plan(self, site: Site) -> Plan:
        plan = only_child(site)
        if plan is not None:
            return plan
        a, b = site.op.inputs
        gates = [_gate_strength(facts) for facts in site.operands]
        if gates[0] != gates[1]:
            return Through(a if gates[0] < gates[1] else b)
        # A normaliser is computed from what it scales.
        if site.facts.depends(b, a) is not None:
            return Through(a)
        if site.facts.depends(a, b) is not None:
            return Through(b)
        return Refuse("a product of two signals, neither of them recognised as a gate")


def _gate_strength(facts: Facts) -> int:
    """How surely a value only scales: 3 a normaliser, 2 in [0, 1], 1 bounded, 0 a signal."""
    low, high = facts.interval
    if facts.gate:
        return 3
    if low >= 0 and high <= 1:
        return 2
    return 1 if low >= 0 and high < float("inf") else 0


@dataclass(frozen=True)
class Quotient(Rule):
    """R5: a / b: P goes to a; a b that depends on the input is a normaliser (LRN, softmax)."""

    equation = "R5 normaliser"

    def plan(self, site: Site) -> Plan:
        return only_child(site) or Through(site.op.inputs[site.signals[0]])
