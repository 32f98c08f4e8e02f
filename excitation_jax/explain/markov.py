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

from ..engine.carriers import Evaluation, bind, note_activity
from ..engine.direction import Read, SignReader
from ..engine.excite import evaluate_program
from ..engine.plan import Plan
from ..engine.regions import Place
from ..program import compat
from ..program.primitives import Kind, is_product, kind
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
      places: positions of the neurons of "input" and of every layer, with its shape.
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
        return visits[place].reshape(shape)


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
    run = Evaluation(plan, {}, Read({}), program, evaluate_program)
    order = [prepared.tapped[0]]
    order += [value for op in program.ops for value in op.outputs if value in plan.reached]
    order = list(dict.fromkeys(order))
    ends = np.cumsum([int(np.prod(value.shape)) for value in order])
    if ends[-1] > LARGEST_CHAIN:
        raise ValueError(
            f"the network has {ends[-1]} neurons, and a dense chain is written out for at most "
            f"{LARGEST_CHAIN}"
        )
    where = {
        value: slice(int(end) - int(np.prod(value.shape)), int(end))
        for value, end in zip(order, ends, strict=True)
    }
    env = _values(run, prepared.captured, jax.tree.leaves((params, x)))
    matrices = _matrices(plan, env)
    transition = np.zeros((ends[-1], ends[-1]))
    for step in plan.steps.values():
        for value, block in _blocks(step, env, run, matrices):
            for output, rows in zip(step.site.op.outputs, block, strict=True):
                if output in where:
                    transition[where[output], where[value]] += rows
    places = {
        layer.name: (where[layer.value], layer.shape)
        for layer in prepared.layers
        if layer.value in where
    }
    places["input"] = (where[prepared.tapped[0]], prepared.tapped[0].shape)
    return MarkovChain(transition, where[program.outputs[0]], places)


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


def _blocks(
    step: Step, env: dict[Value, Any], run: Evaluation, jacobians: Mapping[Place, list[np.ndarray]]
) -> list[tuple[Value, list[np.ndarray]]]:
    """For each child value, the matrices (neurons of an output, neurons of the child)."""
    op, route, rule = step.site.op, step.route, step.rule
    if isinstance(route, Through):
        shape = op.outputs[0].shape
        rows = np.arange(int(np.prod(shape)))
        places = np.arange(int(np.prod(route.source.shape))).reshape(route.source.shape)
        block = np.zeros((len(rows), places.size))
        block[rows, np.ravel(np.broadcast_to(places, shape))] = 1
        return [(route.source, [block])]
    if isinstance(route, Inside):
        raise NotImplementedError(
            f"no matrix for the {op.primitive.name} in {step.site.path or 'the model'}: write the "
            "loop or branch out"
        )
    assert isinstance(route, Structure | Flow)
    matrices = {i: jacobians[op, i] for i in route.sources}
    if isinstance(route, Structure) or rule.selects:
        return [(op.inputs[i], matrices[i]) for i in route.sources]
    if not rule.shares:
        raise NotImplementedError(
            f"no matrix for {type(rule).__name__}, the rule of {op.primitive.name} in "
            f"{step.site.path or 'the model'}"
        )
    weighted = kind(op.primitive) is Kind.AFFINE
    if is_product(op):  # each output has one child
        return [(op.inputs[i], [(matrices[i][0] != 0).astype(float)]) for i in route.sources]
    # Weights that depend on the input (attention) have no sign of their own.
    fixed = not all(facts.active for facts in step.site.operands)
    reader = step.output_sign if weighted and fixed and rule.effective else None
    sign = _sign(reader, op.outputs[0], env)
    excitation = {}
    for i in route.sources:
        (matrix,) = matrices[i]
        positive = np.maximum(sign[:, None] * matrix if weighted else matrix, 0)
        excitation[i] = positive * _activation(step, i, env, run)[None, :]
    if not weighted and len(op.inputs) == 2 and rule.clamped:  # a signal and a constant (R5)
        constant = {i: ~_active(run, op.inputs[i], env) for i in route.sources}
        for i in route.sources if len(route.sources) == 2 else ():
            alone = matrices[i][0] @ ~constant[i] * (matrices[1 - i][0] @ constant[1 - i])
            excitation[i] = np.where(alone[:, None] > 0, matrices[i][0], excitation[i])
    if (skip := rule.left_out(step)) is not None:
        excitation[skip] = np.zeros_like(excitation[skip])
        excitation[1 - skip] = matrices[1 - skip][0]
    total = sum(block.sum(axis=1) for block in excitation.values())
    scale = np.divide(1, total, out=np.zeros_like(total), where=total != 0)
    return [(op.inputs[i], [scale[:, None] * block]) for i, block in excitation.items()]


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


def _activation(step: Step, i: int, env: dict[Value, Any], run: Evaluation) -> np.ndarray:
    """h of Eq. 6 for each neuron of operand ``i``."""
    value = step.site.op.inputs[i]
    x = np.ravel(np.asarray(env[value], float))
    if not step.rule.clamped:
        return x
    facts, gated = step.site.operands[i], step.gated[i]
    if gated is not None:
        gate = np.broadcast_to(np.asarray(env[gated[1]], float), value.shape)
        h = np.maximum(x - gated[0] * np.ravel(gate), 0)
    elif np.isfinite(facts.interval.low):
        h = np.maximum(x - facts.interval.low, 0)
    else:
        h = np.maximum(_sign(step.input_signs[i], value, env) * x, 0)
    return np.where(_active(run, value, env), h, 0)


def _active(run: Evaluation, value: Value, env: dict[Value, Any]) -> np.ndarray:
    """Which neurons depend on the input."""
    return np.ravel(np.broadcast_to(np.asarray(run.active(value, env), bool), value.shape))


def _sign(reader: SignReader | None, value: Value, env: dict[Value, Any]) -> np.ndarray:
    if reader is None:
        return np.ones(int(np.prod(value.shape)))
    return np.ravel(np.broadcast_to(np.asarray(reader(Read(env)), float), value.shape))
