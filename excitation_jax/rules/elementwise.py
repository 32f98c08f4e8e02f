"""R2, R5, R7: functions of one value, scales, gates and normalisers."""

from __future__ import annotations

from dataclasses import dataclass

from jax import lax

from ..program.facts import Facts
from .rule import Plan, Refuse, Rule, Site, Through, only_child


@dataclass(frozen=True)
class Elementwise(Rule):
    """R2, R5: P passes unchanged, since each output has one child.

    Also for what was computed from one value along several ways, x * sigmoid(x) say.
    """

    equation = "R2 one child"

    def plan(self, site: Site) -> Plan:
        if site.op.primitive is lax.convert_element_type_p:
            (before,), (after,) = site.op.inputs, site.op.outputs
            if before.floating != after.floating and before.dtype != bool:
                return Refuse("numbers become indices, or indices numbers; an index is no neuron")
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
        signal = signal_of_product(site)
        if signal is None:
            return Refuse("a product of two signals, neither of them recognised as a gate")
        return Through(site.op.inputs[signal])


def signal_of_product(site: Site) -> int | None:
    """R7: which of two factors is the signal, the other one being a gate; None if unclear.

    In this order: a normaliser, a value in [0, 1], or one bounded and not negative is the gate; a
    factor that is computed from the other one is the gate; a sigmoid is (of a state in [0, 1]); the
    one with a lower bound (the activated half of SwiGLU) is.
    """
    a, b = site.op.inputs
    first, second = (_gate_strength(facts) for facts in site.operands)
    if first != second:
        return 0 if first < second else 1
    if site.facts.depends(b, a) is not None:
        return 0
    if site.facts.depends(a, b) is not None:
        return 1
    for strength in (_is_sigmoid, _bound_strength):
        first, second = (strength(facts) for facts in site.operands)
        if first != second:
            return 0 if first < second else 1
    return None


def _gate_strength(facts: Facts) -> int:
    """How surely a value only scales: 3 a normaliser, 2 in [0, 1], 1 bounded, 0 unknown."""
    low, high = facts.interval
    if facts.gate:
        return 3
    if low >= 0 and high <= 1:
        return 2
    return 1 if low >= 0 and high < float("inf") else 0


def _is_sigmoid(facts: Facts) -> int:
    return int(facts.producer is not None and facts.producer.primitive is lax.logistic_p)


def _bound_strength(facts: Facts) -> int:
    low = facts.interval.low
    return 2 if low >= 0 else 1 if low > -float("inf") else 0


@dataclass(frozen=True)
class Quotient(Rule):
    """R5: a / b: P goes to a; a b that depends on the input is a normaliser (LRN, softmax)."""

    equation = "R5 normaliser"

    def plan(self, site: Site) -> Plan:
        return only_child(site) or Through(site.op.inputs[site.signals[0]])
