"""The rows of a Markov chain's matrix: from an operation's outputs to its operands (markov.py)."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..engine.carriers import Evaluation
from ..engine.direction import resets
from ..engine.lanes import turned
from ..engine.plan import Lane, Plan
from ..engine.regions import Place
from ..program import compat
from ..program.intervals import INF
from ..program.primitives import is_product
from ..program.slope import BOTH, Signed
from ..program.trace import Op, Value
from ..rules.rule import Flow, Step, Structure, Through

#: A state of the chain: a carrier's.
State = tuple[Lane, Value]


class Rows:
    """The rows of an operation's outputs: for each child, (neurons of an output, of the child)."""

    def __init__(
        self, step: Step, env: dict[Value, Any], run: Evaluation,
        jacobians: Mapping[Place, list[np.ndarray]],
    ):  # fmt: skip
        self.step, self.op, self.env, self.run = step, step.site.op, env, run
        self.jacobians = jacobians

    def of(self, direction: int) -> list[tuple[State, list[np.ndarray]]]:
        """By states of the children, for probability of one direction."""
        route, rule = self.step.route, self.step.rule
        if isinstance(route, Through):
            return self._turned(route.source, [self._broadcast(route.source)], direction)
        assert isinstance(route, Structure | Flow)
        matrices = {i: self.jacobians[self.op, i] for i in route.sources}
        if isinstance(route, Structure) or rule.selects:
            return [
                ((self.run.plan.lane(False, self.op.inputs[i], direction), self.op.inputs[i]), m)
                for i, m in matrices.items()
            ]
        if is_product(self.op):  # each output has one child
            (i,) = route.sources
            moved = [(matrices[i][0] != 0).astype(float)]
            return self._turned(self.op.inputs[i], moved, direction)
        if not rule.shares:
            raise NotImplementedError(
                f"no matrix for {type(rule).__name__}, the rule of {self.op.primitive.name} in "
                f"{self.step.site.path or 'the model'}"
            )
        return self._shared({i: matrices[i][0] for i in route.sources}, direction)

    def _broadcast(self, source: Value) -> np.ndarray:
        shape = self.op.outputs[0].shape
        rows = np.arange(math.prod(shape))
        places = np.arange(math.prod(source.shape)).reshape(source.shape)
        block = np.zeros((len(rows), places.size))
        block[rows, np.ravel(np.broadcast_to(places, shape))] = 1
        for i in self.step.site.facts.masks(self.op):  # what a mask hides is no neuron
            value = self.op.inputs[i]
            mask = self.env[value] if value.literal is None else value.literal
            block *= np.ravel(np.broadcast_to(np.asarray(mask) != 0, shape))[:, None]
        return block

    def _turned(
        self, source: Value, blocks: list[np.ndarray], direction: int
    ) -> list[tuple[State, list[np.ndarray]]]:
        plan, (out,) = self.run.plan, self.op.outputs
        if plan.ways.get(source) is not BOTH:
            return [((plan.lane(False, source, 1), source), blocks)]
        slopes = None if self.step.turn is None else turned(self.run, self.step, self.env)
        sign = np.ones(math.prod(out.shape))
        if slopes is not None:
            sign = np.ravel(np.broadcast_to(np.asarray(slopes, float), out.shape))
        return [
            ((plan.lane(False, source, way), source), [(way * direction * sign > 0)[:, None] * b
                                                       for b in blocks])
            for way in (1, -1)
        ]  # fmt: skip

    def _shared(
        self, matrices: dict[int, np.ndarray], direction: int
    ) -> list[tuple[State, list[np.ndarray]]]:
        """Eq. 6, 19: in proportion to the excitation."""
        step, op, rule = self.step, self.op, self.step.rule
        weighted = step.site.facts.connects(op)
        # Weights that depend on the input (attention) have no sign of their own.
        fixed = not all(facts.active for facts in step.site.operands)
        rows = np.ones(math.prod(op.outputs[0].shape)) * (1 if weighted else direction)
        if rule.effective and (fixed if weighted else step.site.facts.is_learned_layer(op)):
            rows = direction * signs(step.output_sign, op.outputs[0], self.run)
        excitation = {i: self._excitation(i, m, rows) for i, m in matrices.items()}
        if not weighted and len(op.inputs) == 2 and rule.clamped:  # a signal and a constant (R5)
            places = {i: np.abs(m) for i, m in matrices.items()}
            constant = {i: ~active(self.run, op.inputs[i], self.env) for i in matrices}
            for i in matrices if len(matrices) == 2 else ():
                alone = places[i] @ ~constant[i] * (places[1 - i] @ constant[1 - i])
                excitation[i] = np.where(alone[:, None] > 0, places[i], excitation[i])
        if rule.clamped and step.site.facts.picks(op):  # one element, and zeros
            ((i, matrix),) = matrices.items()
            places = (matrix > 0) & active(self.run, op.inputs[i], self.env)
            alone = places.sum(axis=1) == 1
            excitation[i] = np.where(alone[:, None], places, excitation[i])
        if (skip := rule.left_out(step)) is not None:
            excitation[skip] = np.zeros_like(excitation[skip])
            excitation[1 - skip] = np.abs(matrices[1 - skip])
        total = sum(block.sum(axis=1) for block in excitation.values())
        scale = np.divide(1, total, out=np.zeros_like(total), where=total != 0)
        found = []
        for i, block in excitation.items():
            way = -direction if op.primitive is lax.sub_p and i == 1 else direction
            for lane, columns in lanes_of(self.run, op, i, way, None):
                found.append(((lane, op.inputs[i]), [scale[:, None] * block * columns[None, :]]))
        return found

    def _excitation(self, i: int, matrix: np.ndarray, rows: np.ndarray) -> np.ndarray:
        step, op = self.step, self.op
        reading = step.readings[i] if step.readings else None
        before = signs(None if reading is None else reading.sign, op.inputs[i], self.run)
        if not step.rule.clamped:
            x = np.ravel(np.asarray(self.env[op.inputs[i]], float))
            return np.maximum(rows[:, None] * matrix, 0) * x[None, :]
        up, down = (activation(step, i, self.env, self.run, way) for way in (1, -1))
        if step.site.facts.connects(op):
            return np.maximum(rows[:, None] * matrix * before[None, :], 0) * up[None, :]
        push = rows[:, None] * matrix * before[None, :]
        layer = step.site.facts.is_learned_layer(op)
        return np.maximum(push, 0) * up[None, :] + np.maximum(-push, 0) * (0 if layer else down)


def lanes_of(
    run: Evaluation, op: Op, i: int, direction: int, sign: Signed | None
) -> list[tuple[Lane, np.ndarray]]:
    """Which children's being larger, and which ones' being smaller, makes a sum win.

    Args:
      sign: by element, which way they count for it.
    """
    plan, value = run.plan, op.inputs[i]
    if plan.ways.get(value) is not BOTH:
        return [(plan.lane(False, value, 1), np.ones(math.prod(value.shape)))]
    if not plan.facts.connects(op) and not resets(op, value, plan.facts, plan.neurons):
        way = direction * signs(sign, value, run)
    else:
        way = signs(plan.neurons.sign(value), value, run)
    return [(plan.lane(False, value, to), (to * way > 0) * 1.0) for to in (1, -1)]


def jacobians(plan: Plan, env: dict[Value, Any]) -> dict[Place, list[np.ndarray]]:
    """The operations' Jacobians with respect to their operands, one for each output."""
    steps = [s for s in plan.steps.values() if isinstance(s.route, Structure | Flow)]
    places = {(step.site.op, i) for step in steps for i in step.route.sources}  # type: ignore[union-attr]
    inner = [op for region in plan.regions.values() for op in region.inner]
    places |= {(op, i) for op in inner for i, v in enumerate(op.inputs) if plan.facts[v].active}

    @jax.jit  # one compilation, not one for each
    def all_of(values: list[list[Any]]) -> list[list[Any]]:
        return [
            jax.jacrev(functools.partial(_applied, op, i, operands))(operands[i])
            for (op, i), operands in zip(places, values, strict=True)
        ]

    found = all_of(
        [[env[v] if v.literal is None else v.literal for v in op.inputs] for op, _ in places]
    )
    return {
        (op, i): [
            np.asarray(jacobian, float).reshape(math.prod(value.shape), -1)
            for value, jacobian in zip(op.outputs, parts, strict=True)
        ]
        for (op, i), parts in zip(places, found, strict=True)
    }


def _applied(op: Op, i: int, operands: Sequence[Any], x: Any) -> list[Any]:
    made = compat.bind(op.primitive, op.params, *operands[:i], x, *operands[i + 1 :])
    # Places (top_k's) have no slope.
    every = zip(op.outputs, made, strict=True)
    return [y if value.floating else jnp.zeros(value.shape, x.dtype) for value, y in every]


def activation(
    step: Step, i: int, env: dict[Value, Any], run: Evaluation, direction: int
) -> np.ndarray:
    """h of operand ``i``, or by how much it makes a sum smaller, where it is negative."""

    def of(value: Value, low: Any) -> jax.Array:
        x = jnp.asarray(env[value], float)
        eps = float(jnp.finfo(env[value].dtype).eps) if value.floating else 0.0
        above = jnp.where(x - low <= 4 * eps * abs(low), 0, x - low)  # what is less is rounding
        bounded = above if direction > 0 else jnp.zeros_like(x)
        return jnp.where(low == -INF, jnp.maximum(direction * x, 0), bounded)

    value = step.site.op.inputs[i]
    reading = step.readings[i] if step.readings else None
    if reading is None:
        h = of(value, step.site.operands[i].interval.low)
    else:
        lows: dict[Value, Any] = dict(reading.neurons)
        lows.update({v: bound.read(env.__getitem__) for v, bound in reading.bounds.items()})
        h = reading.amounts(lambda neuron: of(neuron, lows[neuron]), env)
    return np.where(active(run, value, env), np.ravel(np.asarray(h, float)), 0)


def active(run: Evaluation, value: Value, env: dict[Value, Any]) -> np.ndarray:
    """Which neurons depend on the input."""
    return np.ravel(np.broadcast_to(np.asarray(run.active(value, env), bool), value.shape))


def signs(signed: Signed | None, value: Value, run: Evaluation) -> np.ndarray:
    """The signs of a value's elements."""
    if signed is None:
        return np.ones(math.prod(value.shape))
    return np.ravel(np.broadcast_to(np.asarray(run.signs.sign(signed), float), value.shape))
