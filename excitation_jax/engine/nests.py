"""Evaluating loops, branches and shard_map, with carriers beside the values (R9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..program import compat
from ..program.trace import Nest, Op, Program, Value, read_value
from ..rules.rule import Step
from . import interpret
from .carriers import Arrays, Carried, Evaluation, carrier, discounted, metered

#: A carrier inside: its phase (see `carriers.Carried`), and its position among the body's
#: inputs or outputs.
Key = tuple[bool, int]


def evaluate_nest(run: Evaluation, step: Step, env: Arrays, carried: Carried) -> None:
    """Evaluates an operation that holds functions, and the carriers of its outputs."""
    op = step.site.op
    assert op.nest is not None
    tapped = interpret.taps_within(run.taps, [op])
    tapped = [tap for tap in tapped if tap is not op and tap not in op.outputs]
    if not tapped and not any(key[1] in op.inputs for key in carried):
        outputs = compat.bind(
            op.primitive, op.params, *(read_value(env, value) for value in op.inputs)
        )
        env.update(zip(op.outputs, outputs, strict=True))
        return
    if op.nest.length is not None:
        evaluate = _loop
    elif op.primitive is compat.cond_p:
        evaluate = _branch
    else:
        evaluate = _shard_map
    evaluate(run, op, op.nest, tapped, env, carried)


def _inputs_with_carrier(run: Evaluation, op: Op, nest: Nest, carried: Carried) -> list[Key]:
    """Which inputs of the bodies get a carrier from outside."""
    return [
        (upper, i)
        for i, outer in enumerate(op.inputs[nest.offset :])
        for upper in (True, False)
        if (upper, outer) in carried
        and any(upper in run.plan.phases(body.inputs[i]) for body in nest.bodies)
    ]


def _outputs_with_carrier(run: Evaluation, op: Op) -> list[Key]:
    return [(u, i) for i, value in enumerate(op.outputs) for u in run.plan.phases(value)]


def _evaluate_body(
    run: Evaluation, body: Program, values: Sequence[Any], carriers: dict[Key, Any], taps: dict,
    wanted: Sequence[Key],
) -> tuple[list[Any], list[Any]]:  # fmt: skip
    """The body's outputs and the wanted carriers of them; zeros where nothing is carried."""
    env: Arrays = dict(zip(body.inputs, values, strict=True))
    carried: Carried = {
        (upper, body.inputs[i]): array
        for (upper, i), array in carriers.items()
        if upper in run.plan.phases(body.inputs[i])
    }
    interpret.evaluate_program(run._replace(program=body, taps=taps), env, carried)
    outputs = [read_value(env, value) for value in body.outputs]
    found = []
    for upper, i in wanted:
        known = carried.get((upper, body.outputs[i]))
        found.append(carrier(body.outputs[i]) if known is None else known)
    return outputs, found


def _loop(
    run: Evaluation, op: Op, nest: Nest, tapped: Sequence[Value | Op], env: Arrays, carried: Carried
) -> None:
    """A scan over the steps, or over as many steps as a while loop takes."""
    (body,), count = nest.bodies, nest.consts + len(nest.carries)
    operands = [read_value(env, value) for value in op.inputs[nest.offset :]]
    given = {
        (upper, i): carried[upper, op.inputs[nest.offset + i]]
        for upper, i in _inputs_with_carrier(run, op, nest, carried)
    }
    plan = run.plan
    # A step hands on the carriers of what it hands on, in each phase of either end.
    handed = [
        (upper, out, into)
        for out, into in nest.carries
        for upper in (True, False)
        if upper in (*plan.phases(body.outputs[out]), *plan.phases(body.inputs[into]))
    ]
    stacked = [(u, i) for u, i in given if nest.stacked_input(i)]
    same = {key: array for key, array in given.items() if key[1] < nest.consts}
    results = [key for key in _outputs_with_carrier(run, op) if nest.stacked_output(key[1])]

    def start(upper: bool, out: int, into: int) -> Any:
        known = given.get((upper, into))
        return carrier(body.outputs[out]) if known is None else known

    def one(carry: tuple, x: tuple) -> tuple:
        (first, state, state_carriers), (xs, x_carriers, taps) = carry, x
        carriers = dict(same)
        carriers.update(zip(stacked, x_carriers, strict=True))
        for (upper, _, into), array in zip(handed, state_carriers, strict=True):
            carriers[upper, into] = array
        wanted = [*((upper, out) for upper, out, _ in handed), *results]
        inside = run._replace(first={**run.first, body: first})
        outputs, ends = _evaluate_body(
            inside, body, [*operands[: nest.consts], *state, *xs], carriers,
            dict(zip(tapped, taps, strict=True)), wanted,
        )  # fmt: skip
        ahead = len(nest.carries)
        state, state_carriers = outputs[:ahead], ends[: len(handed)]
        return (jnp.zeros((), bool), state, state_carriers), (outputs[ahead:], ends[len(handed) :])

    found: Any = lax.scan(
        one,
        (jnp.ones((), bool), operands[nest.consts : count], [start(*key) for key in handed]),
        (operands[count:], [given[key] for key in stacked], [run.taps[value] for value in tapped]),
        length=nest.length,
        reverse=op.params.get("reverse", False),
        unroll=op.params.get("unroll", 1),
    )
    (_, state, state_carriers), (ys, y_carriers) = found
    env.update(zip(op.outputs, [*state, *ys], strict=True))
    for (upper, out, _), array in zip(handed, state_carriers, strict=True):
        carried[upper, op.outputs[out]] = array
    for (upper, i), array in zip(results, y_carriers, strict=True):
        carried[upper, op.outputs[i]] = array


def _branch(
    run: Evaluation, op: Op, nest: Nest, tapped: Sequence[Value | Op], env: Arrays, carried: Carried
) -> None:
    """The branch that was taken."""
    index, *operands = (read_value(env, value) for value in op.inputs)
    given = _inputs_with_carrier(run, op, nest, carried)
    carriers = [carried[upper, op.inputs[nest.offset + i]] for upper, i in given]
    wanted = _outputs_with_carrier(run, op)

    def taken(body: Program) -> Any:
        def branch(operands: list, carriers: list, taps: list) -> tuple[list, list]:
            return _evaluate_body(
                run, body, operands, dict(zip(given, carriers, strict=True)),
                dict(zip(tapped, taps, strict=True)), wanted,
            )  # fmt: skip

        return branch

    outputs, found = lax.switch(
        index, [taken(body) for body in nest.bodies],
        operands, carriers, [run.taps[value] for value in tapped],
    )  # fmt: skip
    env.update(zip(op.outputs, outputs, strict=True))
    carried.update({(u, op.outputs[i]): c for (u, i), c in zip(wanted, found, strict=True)})


def _shard_map(
    run: Evaluation, op: Op, nest: Nest, tapped: Sequence[Value | Op], env: Arrays, carried: Carried
) -> None:
    """The carriers are sharded as their values are.

    What ends inside is metered at the border: a meter inside would be one on each device.
    """
    (body,), params = nest.bodies, op.params
    given, meter = _inputs_with_carrier(run, op, nest, carried), run.taps.get(op)
    below = discounted(meter, {key: carried[key[0], op.inputs[key[1]]] for key in given})
    wanted = _outputs_with_carrier(run, op)

    def sharded(operands: list, carriers: list) -> tuple[list, list]:
        by_key = dict(zip(given, carriers, strict=True))
        return _evaluate_body(run, body, operands, by_key, {}, wanted)

    specs, out_specs = list(params["in_specs"]), list(params["out_specs"])
    outputs, found = jax.shard_map(
        sharded,
        mesh=params["mesh"],
        in_specs=(specs, [specs[i] for _, i in given]),
        out_specs=(out_specs, [out_specs[i] for _, i in wanted]),
        axis_names=set(params["newly_manual_axes"]),
        check_vma=params["check_vma"],
    )(
        [read_value(env, value) for value in op.inputs],
        list(below.values()),
    )
    found = metered(meter, found)
    env.update(zip(op.outputs, outputs, strict=True))
    carried.update({(u, op.outputs[i]): c for (u, i), c in zip(wanted, found, strict=True)})
