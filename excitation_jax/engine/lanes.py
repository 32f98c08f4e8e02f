"""Which carriers the probability of one direction goes to, below an operation.

A value that is read in both directions has two carriers (see direction.py). Where the way through
an operation turns, what wants the output larger wants the source smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from ..program import compat
from ..program.primitives import is_product
from ..program.slope import BOTH, Signed
from ..program.trace import Op, Value, read_value
from ..rules.arithmetic import times
from ..rules.rule import Flow, Step
from .carriers import Arrays, Carried, Evaluation
from .direction import resets
from .plan import Lane, Plan

#: Carriers of a step's sources, in their order; None where there is none.
Below = list[jax.Array | None]


def made_for(
    run: Evaluation, step: Step, phase: bool, direction: int, env: Arrays, carried: Carried,
    make: Callable[[Below, int], list[jax.Array]],
) -> list[jax.Array]:  # fmt: skip
    """The carriers of an operation's outputs for probability of one direction.

    Args:
      make: makes them of carriers of the sources, for a direction.
    """
    plan = run.plan
    if isinstance(step.route, Flow) and step.rule.shares and not is_product(step.site.op):
        every = zip(step.route.sources, step.sources, strict=True)
        below = [_shared(run, step, i, v, phase, direction, carried) for i, v in every]
        return make(below, direction)
    same = make([_carrier(plan, phase, v, direction, carried) for v in step.sources], direction)
    turns = step.turn is not None and plan.ways.get(step.sources[0]) is BOTH
    if not turns:
        return same
    other = make([_carrier(plan, phase, v, -direction, carried) for v in step.sources], direction)
    sign = turned(run, step, env)
    return [_chosen(sign, a, b) for a, b in zip(same, other, strict=True)]


def joined(run: Evaluation, value: Value, lane: Lane, made: Mapping[int, jax.Array]) -> jax.Array:
    """The carrier of a lane, of those that were made for each direction."""
    if len(made) == 1:
        return made[1]
    if lane.direction:
        return made[lane.direction]
    way = run.plan.ways.get(value)
    if way is None:
        return made[1]
    assert isinstance(way, Signed)
    return _chosen(run.signs.sign(way), made[1], made[-1])


@jax.custom_vjp
def _chosen(sign: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    """One of two carriers, by element. Where the sign is no number, P is none either (D8)."""
    return jnp.where(sign < 0, down, up)


def _chosen_forward(sign: jax.Array, up: jax.Array, down: jax.Array) -> tuple:
    return _chosen(sign, up, down), sign


def _chosen_backward(sign: jax.Array, p: jax.Array) -> tuple:
    told = jnp.where(jnp.isnan(sign), times(p, jnp.nan), p)
    return None, jnp.where(sign < 0, 0, told), jnp.where(sign < 0, told, 0)


_chosen.defvjp(_chosen_forward, _chosen_backward)


def _carrier(
    plan: Plan, phase: bool, value: Value, direction: int, carried: Carried
) -> jax.Array | None:
    return carried.get((plan.lane(phase, value, direction), value))


def _shared(
    run: Evaluation, step: Step, i: int, value: Value, phase: bool, direction: int, carried: Carried
) -> jax.Array | None:
    """Where a neuron's share for a child goes: the child's being larger makes it win."""
    op = step.site.op
    if run.plan.facts.connects(op):
        return of_neuron(run, step, value, phase, carried)
    turned = op.primitive is lax.sub_p and i == 1
    return of_summand(run, op, value, phase, -direction if turned else direction, None, carried)


def of_neuron(
    run: Evaluation, step: Step, value: Value, phase: bool, carried: Carried
) -> jax.Array | None:
    """The carrier of a layer's operand for P+ at the neurons that it is made of."""
    if run.plan.ways.get(value) is not BOTH:
        return _carrier(run.plan, phase, value, 1, carried)
    return _upward(run, value, phase, step.rule.directed, carried)


def of_summand(
    run: Evaluation, op: Op, value: Value, phase: bool, direction: int, sign: Signed | None,
    carried: Carried,
) -> jax.Array | None:  # fmt: skip
    """The carrier of a summand that is wanted in a direction, or by element in another one.

    Args:
      sign: which way it counts for the sum.
    """
    plan = run.plan
    if plan.ways.get(value) is not BOTH:
        return _carrier(plan, phase, value, 1, carried)
    if resets(op, value, plan.facts, plan.neurons):
        return _upward(run, value, phase, True, carried)
    same, other = (_carrier(plan, phase, value, d, carried) for d in (direction, -direction))
    if sign is None or same is None or other is None:
        return same
    return _chosen(run.signs.sign(sign), same, other)


def _upward(
    run: Evaluation, value: Value, phase: bool, directed: bool, carried: Carried
) -> jax.Array | None:
    up, down = (_carrier(run.plan, phase, value, d, carried) for d in (1, -1))
    sign = run.plan.neurons.sign(value)
    if sign is None or not directed or up is None or down is None:
        return up
    return _chosen(run.signs.sign(sign), up, down)


def turned(run: Evaluation, step: Step, env: Arrays) -> jax.Array:
    """The sign of the output's slope in the source; 0 counts as positive."""
    if isinstance(step.turn, Signed):
        return run.signs.sign(step.turn)
    (source,), (out,) = step.sources, step.site.op.outputs
    slope = _derivative(step.between, source, out, env)
    return jnp.where(slope < 0, -1.0, jnp.where(jnp.isnan(slope), slope, 1.0))


def _derivative(ops: Sequence[Op], source: Value, out: Value, env: Arrays) -> jax.Array:
    def function(x: jax.Array) -> jax.Array:
        made: Arrays = {source: x}
        for op in sorted(ops, key=lambda op: op.index):
            operands = [made[v] if v in made else read_value(env, v) for v in op.inputs]
            made.update(zip(op.outputs, _applied(op, operands), strict=True))
        return made[out]

    x = env[source]
    return jax.jvp(function, (x,), (jnp.ones_like(x),))[1]


def _applied(op: Op, operands: Sequence[jax.Array]) -> list[jax.Array]:
    """The operation; of two, the larger or smaller one by comparing them with each other.

    JAX's derivative compares them with their maximum, which XLA may round differently.
    """
    if op.primitive in (lax.max_p, lax.min_p):
        a, b = operands
        return [jnp.where(a >= b if op.primitive is lax.max_p else a <= b, a, b)]
    return compat.bind(op.primitive, op.params, *operands)
