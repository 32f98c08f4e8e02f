"""Which operations add up parts of one sum, and which only move, scale or shift such a part."""

from __future__ import annotations

from collections.abc import Mapping

from jax import lax

from ..program.facts import FactTable
from ..program.primitives import Kind, indices, kind, row
from ..program.slope import Signed, slope
from ..program.trace import Op
from ..rules.rule import Flow, Step, Structure, Through


def behind_a_sum(op: Op, steps: Mapping[Op, Step], facts: FactTable) -> set[Op] | None:
    """The scales and shifts behind a sum, down from one of them; None where there is no sum.

    What turns the sum, or is written inside of a function with a name (the 3 in ``hard_sigmoid``),
    is the activation's.
    """
    behind: set[Op] = set()
    while (step := steps.get(op)) is not None and not adds(step):
        if not isinstance(step.route, Through) or not moves(step, facts):
            return None
        way = slope(op, step.route.source, facts)
        producer = facts[step.route.source].producer
        readers = facts.consumers[step.route.source]
        if (isinstance(way, Signed) and way.minus) or producer is None or len(readers) != 1:
            return None
        behind.add(op)
        op = producer
    return None if step is None or any(o.call != op.call for o in behind) else behind


def adds(step: Step) -> bool:
    """Whether an operation is a sum that may be one neuron with affine operations."""
    op = step.site.op
    layer = kind(op.primitive) is Kind.AFFINE and not step.site.facts.pools(op)
    sums = isinstance(step.route, Flow) and len(op.outputs) == 1 and not layer
    return sums and step.rule.merges and step.rule.left_out(step) is None


def is_pair(op: Op) -> bool:
    """Whether a sum is one of two operands."""
    return kind(op.primitive) is Kind.ELEMENTWISE


def moves(step: Step, facts: FactTable) -> bool:
    """Whether an operation is linear in one value, with constants that are known by then."""
    op = step.site.op
    if isinstance(step.route, Structure) or op.primitive is lax.scatter_p:
        which = [v for i, v in enumerate(op.inputs) if i in indices(op.primitive)]
        return not any(facts[value].active for value in which)
    known = row(op.primitive)
    if not isinstance(step.route, Through) or known is None or not known.affine:
        return False
    active = [value for value in op.inputs if facts[value].active]
    divides = op.primitive is lax.div_p and op.inputs[0] not in active
    return active == [step.route.source] and not divides
