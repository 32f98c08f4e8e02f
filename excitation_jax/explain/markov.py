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

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ..engine.carriers import Evaluation, bind, note_activity
from ..engine.direction import Read
from ..engine.excite import evaluate_program
from ..engine.plan import Lane, Plan
from ..program.hints import Bounds, hints
from ..program.slope import Signed
from ..program.trace import Value
from ..rules.rule import Inside
from ..rules.ruleset import EXCITATION, RuleSet
from .chain_regions import RegionRows
from .chain_rows import Rows, State, jacobians, signs
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
      parts: of layers that are parts of a sum of affine values, and so no neurons of their own
        (D2): the neurons' positions, and which part of a visit to them passes the layer,
        (neurons, elements of the layer), with its shape.
    """

    transition: np.ndarray
    starts: slice
    places: dict[str, tuple[slice, tuple[int, ...]]]
    parts: dict[str, tuple[np.ndarray, tuple[int, ...]]]

    @property
    def fundamental(self) -> np.ndarray:
        """N = (I - Q)^-1: expected visits to j of a walk that starts at i."""
        return np.linalg.inv(np.eye(len(self.transition)) - self.transition)

    def mwp(self, signal: np.ndarray, layer: str = "input") -> np.ndarray:
        """Marginal winning probabilities of a layer (Eq. 1).

        Args:
          signal: P(A0), shaped like the output.
          layer: a name in ``places`` or ``parts``.

        Returns:
          An array shaped like the layer.
        """
        start = np.zeros(len(self.transition))
        start[self.starts] = np.ravel(signal)
        visits = np.linalg.solve(np.eye(len(start)) - self.transition.T, start)
        if layer in self.parts:
            part, shape = self.parts[layer]
            return (visits @ part).reshape(shape)
        place, shape = self.places[layer]
        return visits[place].reshape(-1, *shape).sum(0)


def markov_chain(
    model_fn: Callable[[Any, Any], Any],
    params: Any,
    x: Any,
    *,
    rules: RuleSet = EXCITATION,
    x_bounds: Bounds | None = None,
    gates: str | Sequence[str] = (),
) -> MarkovChain:
    """Writes out the Markov chain of a small network.

    Args:
      model_fn, params, x: as in `excitation_vjp`; one input array and one output array.
      rules: a preset (rules of your own have no matrix).
      x_bounds, gates: as in `excitation_vjp`.

    Raises:
      ValueError: the network has more than 8,000 neurons, counting every value between the
        output and the input, or several inputs or outputs.
      NotImplementedError: an operation follows a rule of the user's, or one that hands on evenly
        (`EXCITATION_CONSERVING`), or is a loop or branch.

    Example:
      >>> import jax.numpy as jnp
      >>> from excitation_jax.markov import markov_chain
      >>> chain = markov_chain(lambda w, x: x @ w, jnp.array([[1.0], [3.0]]), jnp.ones((1, 2)))
      >>> chain.mwp([[1.0]]).tolist()
      [[0.25, 0.75]]
    """
    prepared = prepare(model_fn, (params, x), (), False, rules, hints=hints(x_bounds, gates))
    plan, program = prepared.plan, prepared.program
    if len(prepared.tapped) != 1 or len(program.outputs) != 1:
        raise ValueError("a Markov chain is written out for one input and one output array")
    _refuse(plan)
    inside = {value for region in plan.regions.values() for value in region.values}
    values = [prepared.tapped[0]]
    values += [
        value for op in program.ops for value in op.outputs if value in plan.reached - inside
    ]
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
    matrices = jacobians(plan, env)
    transition = np.zeros((ends[-1], ends[-1]))
    parts = {value: np.zeros((ends[-1], math.prod(value.shape))) for value in inside}

    def add(output: Value, found: Mapping[int, list[tuple[State, np.ndarray]]]) -> None:
        for lane in plan.lanes(output) if output in plan.reached else ():
            for direction, part in _parts(run, output, lane, list(found)):
                for source, block in found[direction]:
                    transition[where[lane, output], where[source]] += part[:, None] * block

    for op, step in plan.steps.items():
        if (region := plan.regions.get(op)) is not None:
            whole = RegionRows(region, env, run, matrices)
            found = {direction: whole.of(direction) for direction in region.directions}
            for direction, (_, passing) in found.items():
                for value, block in passing.items():
                    parts[value][
                        where[plan.lane(False, op.outputs[0], direction), op.outputs[0]]
                    ] = block
            add(op.outputs[0], {direction: rows for direction, (rows, _) in found.items()})
        elif op not in plan.merged:
            rows = Rows(step, env, run, matrices)
            made = {direction: rows.of(direction) for direction in step.directions}
            for k, output in enumerate(op.outputs):
                add(output, {d: [(to, blocks[k]) for to, blocks in of] for d, of in made.items()})

    def place(value: Value) -> tuple[slice, tuple[int, ...]]:
        found = [where[lane, value] for lane in plan.lanes(value)]
        return slice(found[0].start, found[-1].stop), value.shape

    read = {layer.name: layer.value for layer in prepared.layers if layer.value in plan.reached}
    places = {name: place(value) for name, value in read.items() if value not in inside}
    passed = {name: (parts[v], v.shape) for name, v in read.items() if v in inside}
    out, places["input"] = program.outputs[0], place(prepared.tapped[0])
    return MarkovChain(transition, where[plan.lane(False, out, 1), out], places, passed)


def _refuse(plan: Plan) -> None:
    """Raises where an operation has no matrix."""
    for op, step in plan.steps.items():
        if step.rule.evenly:
            raise NotImplementedError(
                f"no matrix for the rules {plan.rules.name}, which hand on evenly: "
                "the chain is that of Eq. 6 alone"
            )
        if isinstance(step.route, Inside):
            raise NotImplementedError(
                f"no matrix for the {op.primitive.name} in "
                f"{step.site.path or 'the model'}: write the loop or branch out"
            )


def _parts(
    run: Evaluation, output: Value, lane: Lane, made: Sequence[int]
) -> list[tuple[int, np.ndarray]]:
    """For which rows of an output's state the probability has which direction."""
    ones = np.ones(math.prod(output.shape))
    if len(made) == 1 or lane.direction:
        return [(lane.direction if len(made) > 1 else 1, ones)]
    way = run.plan.ways.get(output)
    up = signs(way if isinstance(way, Signed) else None, output, run) >= 0
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
