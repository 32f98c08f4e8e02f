"""Which values stem from nothing but a loop's initial state in its first step.

A recurrent network starts from a constant state. In the first step, what was computed from it is
a constant like any other and takes no probability, though in later steps it is a neuron.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..program.trace import Nest, Op, Program, Value
from ..rules.rule import Inside

if TYPE_CHECKING:
    from .plan import Plan


#: Loop bodies, each with the elements of a value that are constants in the loop's first step.
Initial = dict[Program, np.ndarray]


def find_initial(plan: Plan) -> dict[Value, Initial]:
    """The values on the signal path that are constants, wholly or in part, in a first step."""
    found: dict[Value, Initial] = {value: dict(at) for value, at in plan.facts.initial.items()}
    for _, op in plan.program.all_ops():
        if op.nest is None or op.nest.length is None or op not in plan.steps:
            continue
        (body,) = op.nest.bodies
        alive = {
            inner
            for inner, outer in _borders(op, op.nest, body)
            if inner in plan.reached and plan.facts[outer].active
        }
        _spread(plan, body, alive)
        for value in _values(body):
            if value in plan.reached and value not in alive:
                found.setdefault(value, {})[body] = np.ones((1,) * len(value.shape), bool)
    return found


def _values(program: Program) -> Iterator[Value]:
    """The values of a program and of the bodies inside it."""
    yield from program.inputs
    for op in program.ops:
        for body in op.nest.bodies if op.nest else ():
            yield from _values(body)
        yield from op.outputs


def _spread(plan: Plan, program: Program, alive: set[Value]) -> None:
    """Adds the values that probability reaches ``alive`` ones from."""
    for op in program.ops:
        step = plan.steps.get(op)
        if step is None or not alive.intersection(plan.sources(step)):
            continue
        if isinstance(step.plan, Inside) and op.nest is not None:
            _spread_inside(plan, op, op.nest, alive)
        else:
            alive.update(op.outputs)


def _spread_inside(plan: Plan, op: Op, nest: Nest, alive: set[Value]) -> None:
    for body in nest.bodies:
        alive.update(inner for inner, outer in _borders(op, nest, body) if outer in alive)
        before = 0
        while before != len(alive):  # until what a step hands to the next is settled
            before = len(alive)
            _spread(plan, body, alive)
            alive.update(body.inputs[i] for o, i in nest.carries if body.outputs[o] in alive)
        ends = zip(op.outputs, body.outputs, strict=True)
        alive.update(outer for outer, inner in ends if inner in alive)


def _borders(op: Op, nest: Nest, body: Program) -> list[tuple[Value, Value]]:
    return list(zip(body.inputs, op.inputs[nest.offset :], strict=True))
