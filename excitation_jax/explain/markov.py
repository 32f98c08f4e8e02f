"""Excitation Backprop as the papers define it: an absorbing Markov chain over all neurons.

For a small network, the transition matrix between every two neurons is written out, and the
marginal winning probabilities are read from the fundamental matrix N = (I - Q)^-1 (Eq. 2, 3).
Every operation is turned into a dense matrix first, and the backward pass is not used: only the
arithmetic is this module's own. Which rule an operation gets, and the intervals (lambda), masks,
signs and gates that go into its matrix, come from the same analyses as the transform's, so that a
fault of theirs is a fault here, too. It is a way to ask more of a small network than the MWP of
one layer: N[i, j] is the expected number of visits to neuron j of a walk that starts at neuron i.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..engine.carriers import Evaluation, bind, note_activity
from ..engine.direction import Read, resets
from ..engine.excite import evaluate_program
from ..engine.lanes import turned
from ..engine.plan import Lane, Plan
from ..engine.regions import Place
from ..program import compat
from ..program.intervals import INF
from ..program.primitives import Kind, is_product, kind
from ..program.slope import BOTH, Signed
from ..program.trace import Op, Value
from ..rules.rule import Flow, Inside, Step, Structure, Through
from ..rules.ruleset import EXCITATION, RuleSet
from .prepared import prepare

#: The matrices are dense: this many neurons need 512 MB each.
LARGEST_CHAIN = 8000


@dataclass(frozen=True, eq=False)
class MarkovChain:
    """The chain of one input.

    Attributes:
      transition: Q (n, n), probability of going from neuron i to its child j. A row sums to one,
        or to zero where neuron i has no excitatory input (Z_i = 0) or is an input.
      starts: positions of the output's neurons.
      places: positions of the neurons of "input" and of every layer, with its shape. A layer that
        is read in both directions is there twice in a row, P+ and P-.
    """

    transition: np.ndarray
    starts: slice
    places: dict[str, tuple[slice, tuple[int, ...]]]

    @property
    def fundamental(self) -> np.ndarray:
        """N = (I - Q)^-1: expected visits to j of a walk that starts at i."""
        return np.linalg.inv(np.eye(len(self.transition)) - self.transition)

    def mwp(self, signal: np.ndarray, layer: str = "input") -> np.ndarray:
        """Marginal winning probabilities of a layer (Eq. 1).

        Args:
          signal: P(A0), shaped like the output.
          layer: a name in ``places``.

        Returns:
          An array shaped like the layer.
        """
        place, shape = self.places[layer]
        start = np.zeros(len(self.transition))
        start[self.starts] = np.ravel(signal)
        visits = np.linalg.solve(np.eye(len(start)) - self.transition.T, start)
        return visits[place].reshape(-1, *shape).sum(0)


def markov_chain(
    model_fn: Callable[[Any, Any], Any], params: Any, x: Any, *, rules: RuleSet = EXCITATION
) -> MarkovChain:
    """Writes out the Markov chain of a small network.

    Args:
      model_fn, params, x: as in `excitation_vjp`; one input array and one output array.
      rules: a preset (rules of your own have no matrix).

    Raises:
      ValueError: the network has more than 8,000 neurons, counting every value between the
        output and the input, or several inputs or outputs.
      NotImplementedError: an operation follows a rule of the user's, or is a loop or branch.

    Example:
      >>> import jax.numpy as jnp
      >>> from excitation_jax.markov import markov_chain
      >>> chain = markov_chain(lambda w, x: x @ w, jnp.array([[1.0], [3.0]]), jnp.ones((1, 2)))
      >>> chain.mwp([[1.0]]).tolist()
      [[0.25, 0.75]]
    """
    prepared = prepare(model_fn, (params, x), (), False, rules)
    plan, program = prepared.plan, prepared.program
    if len(prepared.tapped) != 1 or len(program.outputs) != 1:
        raise ValueError("a Markov chain is written out for one input and one output array")
    if plan.regions:
        raise NotImplementedError("no matrix for several affine operations that are one neuron")
    values = [prepared.tapped[0]]
    values += [value for op in program.ops for value in op.outputs if value in plan.reached]
    # A neuron that is read in both directions has two states (D1).
    order = [(lane, value) for value in dict.fromkeys(values) for lane in plan.lanes(value)]
    ends = np.cumsum([math.prod(value.shape) for _, value in order])
    if ends[-1] > LARGEST_CHAIN:
        raise ValueError(
            f"the network has {ends[-1]} neurons, and a dense chain is written out for at most "
            f"{LARGEST_CHAIN}"
        )
    where = {
        key: slice(int(end) - math.prod(key[1].shape), int(end))
        for key, end in zip(order, ends, strict=True)
    }
    env: dict[Value, Any] = {}
    run = Evaluation(plan, {}, Read(env), program, evaluate_program)
    env.update(_values(run, prepared.captured, jax.tree.leaves((params, x))))
    matrices = _matrices(plan, env)
    transition = np.zeros((ends[-1], ends[-1]))
    for step in plan.steps.values():
        if isinstance(step.route, Inside):
            raise NotImplementedError(
                f"no matrix for the {step.site.op.primitive.name} in "
                f"{step.site.path or 'the model'}: write the loop or branch out"
            )
        rows = _Rows(step, env, run, matrices)
        found = {direction: rows.of(direction) for direction in step.directions}
        for k, output in enumerate(step.site.op.outputs):
            for lane in plan.lanes(output) if output in plan.reached else ():
                for direction, part in _parts(run, env, output, lane, step.directions):
                    for source, blocks in found[direction]:
                        transition[where[lane, output], where[source]] += part[:, None] * blocks[k]

    def place(value: Value) -> tuple[slice, tuple[int, ...]]:
        found = [where[lane, value] for lane in plan.lanes(value)]
        return slice(found[0].start, found[-1].stop), value.shape

    read = {layer.name: layer.value for layer in prepared.layers if layer.value in plan.reached}
    places = {name: place(value) for name, value in read.items()}
    out, places["input"] = program.outputs[0], place(prepared.tapped[0])
    return MarkovChain(transition, where[plan.lane(False, out, 1), out], places)


def _parts(
    run: Evaluation, env: dict[Value, Any], output: Value, lane: Lane, made: Sequence[int]
) -> list[tuple[int, np.ndarray]]:
    """For which rows of an output's state the probability has which direction."""
    ones = np.ones(math.prod(output.shape))
    if len(made) == 1 or lane.direction:
        return [(lane.direction if len(made) > 1 else 1, ones)]
    way = run.plan.ways.get(output)
    up = _sign(way if isinstance(way, Signed) else None, output, env) >= 0
    return [(1, up.astype(float)), (-1, (~up).astype(float))]


def _values(run: Evaluation, captured: Sequence[Any], leaves: Sequence[Any]) -> dict[Value, Any]:
    """All values of a program, and which elements of them depend on the input."""
    program, names = run.program, list[Value]()

    @jax.jit
    def evaluate(captured: Sequence[Any], leaves: Sequence[Any]) -> list[Any]:
        env: dict[Value, Any] = dict(zip(program.captured, captured, strict=True))
        env.update(zip(program.inputs, leaves, strict=True))
        env.update(program.constants)
        for op in program.ops:  # whatever is recomputed in the model
            bind(op, env)
            if op.nest is None:
                note_activity(run, op, env)
        names[:] = env
        return list(env.values())

    found = evaluate(captured, leaves)
    return dict(zip(names, found, strict=True))


#: A state of the chain: a carrier's.
State = tuple[Lane, Value]


class _Rows:
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
        weighted = kind(op.primitive) is Kind.AFFINE
        # Weights that depend on the input (attention) have no sign of their own.
        fixed = not all(facts.active for facts in step.site.operands)
        rows = np.ones(math.prod(op.outputs[0].shape))
        if weighted and fixed and rule.effective:
            rows = direction * _sign(step.output_sign, op.outputs[0], self.env)
        excitation = {i: self._excitation(i, m, rows, direction) for i, m in matrices.items()}
        if not weighted and len(op.inputs) == 2 and rule.clamped:  # a signal and a constant (R5)
            places = {i: np.abs(m) for i, m in matrices.items()}
            constant = {i: ~_active(self.run, op.inputs[i], self.env) for i in matrices}
            for i in matrices if len(matrices) == 2 else ():
                alone = places[i] @ ~constant[i] * (places[1 - i] @ constant[1 - i])
                excitation[i] = np.where(alone[:, None] > 0, places[i], excitation[i])
        if (skip := rule.left_out(step)) is not None:
            excitation[skip] = np.zeros_like(excitation[skip])
            excitation[1 - skip] = np.abs(matrices[1 - skip])
        total = sum(block.sum(axis=1) for block in excitation.values())
        scale = np.divide(1, total, out=np.zeros_like(total), where=total != 0)
        found = []
        for i, block in excitation.items():
            for lane, columns in self._lanes(i, direction):
                found.append(((lane, op.inputs[i]), [scale[:, None] * block * columns[None, :]]))
        return found

    def _excitation(
        self, i: int, matrix: np.ndarray, rows: np.ndarray, direction: int
    ) -> np.ndarray:
        step, op = self.step, self.op
        reading = step.readings[i] if step.readings else None
        before = _sign(None if reading is None else reading.sign, op.inputs[i], self.env)
        if not step.rule.clamped:
            x = np.ravel(np.asarray(self.env[op.inputs[i]], float))
            return np.maximum(rows[:, None] * matrix, 0) * x[None, :]
        up, down = (_activation(step, i, self.env, self.run, way) for way in (1, -1))
        if kind(op.primitive) is Kind.AFFINE:
            return np.maximum(rows[:, None] * matrix * before[None, :], 0) * up[None, :]
        push = direction * matrix * before[None, :]
        layer = step.site.facts.is_learned_layer(op)
        return np.maximum(push, 0) * up[None, :] + np.maximum(-push, 0) * (0 if layer else down)

    def _lanes(self, i: int, direction: int) -> list[tuple[Lane, np.ndarray]]:
        """Which children's being larger, and which ones' being smaller, makes them win."""
        plan, value = self.run.plan, self.op.inputs[i]
        ones = np.ones(math.prod(value.shape))
        if plan.ways.get(value) is not BOTH:
            return [(plan.lane(False, value, 1), ones)]
        layer = kind(self.op.primitive) is Kind.AFFINE
        if not layer and not resets(self.op, value, plan.facts, plan.neurons):
            way = -direction if self.op.primitive is lax.sub_p and i == 1 else direction
            return [(plan.lane(False, value, way), ones)]
        sign = _sign(plan.neurons.sign(value), value, self.env)
        return [(plan.lane(False, value, way), (way * sign > 0) * 1.0) for way in (1, -1)]


def _matrices(plan: Plan, env: dict[Value, Any]) -> dict[Place, list[np.ndarray]]:
    """The operations' Jacobians with respect to their operands, one for each output."""
    steps = [s for s in plan.steps.values() if isinstance(s.route, Structure | Flow)]
    places = [(step.site.op, i) for step in steps for i in step.route.sources]  # type: ignore[union-attr]

    @jax.jit  # one compilation, not one for each
    def jacobians(values: list[list[Any]]) -> list[list[Any]]:
        return [
            jax.jacrev(functools.partial(_applied, op, i, operands))(operands[i])
            for (op, i), operands in zip(places, values, strict=True)
        ]

    found = jacobians(
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


def _activation(
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
    return np.where(_active(run, value, env), np.ravel(np.asarray(h, float)), 0)


def _active(run: Evaluation, value: Value, env: dict[Value, Any]) -> np.ndarray:
    """Which neurons depend on the input."""
    return np.ravel(np.broadcast_to(np.asarray(run.active(value, env), bool), value.shape))


def _sign(signed: Signed | None, value: Value, env: dict[Value, Any]) -> np.ndarray:
    if signed is None:
        return np.ones(math.prod(value.shape))
    found = np.asarray(signed.read(env.__getitem__), float)
    return np.ravel(np.broadcast_to(found, value.shape))
