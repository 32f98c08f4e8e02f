"""Walking through a planned program: its values, and the carriers beside them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from ..program import compat
from ..program.trace import Op, Program, Value, read_value
from ..rules.rule import Flow, Inside
from . import nests
from .carriers import Arrays, Carried, Evaluation, carrier, carry_on
from .orientation import Read
from .plan import Plan


def evaluate(
    plan: Plan,
    captured: Sequence[Any],
    leaves: Sequence[Any],
    taps: Mapping[Value | Op, jax.Array],
    kept: Sequence[Value] = (),
) -> tuple[list[Any], list[jax.Array], list[Any]]:
    """Evaluates a planned program, and the carriers beside it.

    Args:
      captured, leaves: as in `top_down_pass`.
      taps: zeros to add to the carriers of these values. The cotangent of a tap is the
        probability at its value; that of an operation's, the probability that ends there.
      kept: values of the program itself (not inside a loop or branch) that are wanted, too.

    Returns:
      The outputs, their carriers, and the kept values.
    """
    program = plan.program
    env = dict(zip((*program.captured, *program.inputs), (*captured, *leaves), strict=True))
    carried = {
        (upper, value): taps[value]
        for value in program.inputs
        if value in taps
        for upper in plan.phases(value)
    }
    run = Evaluation(plan, taps, Read({}), program, {}, frozenset(kept))
    evaluate_program(run, env, carried)
    outputs = [read_value(env, value) for value in program.outputs]
    starts = [(bool(plan.upper), value) for value in program.outputs]
    ends = [carried[key] if key in carried else carrier(key[1]) for key in starts]
    return outputs, ends, [read_value(env, value) for value in kept]


def evaluate_changed(
    program: Program,
    captured: Sequence[Any],
    leaves: Sequence[Any],
    change: Callable[[Value, jax.Array], jax.Array],
) -> list[Any]:
    """The outputs of a program, some of whose own values are changed on the way.

    Args:
      captured, leaves: as in `evaluate`.
      change: takes each value that is computed, or an input, and what it is.
    """
    env = dict(zip((*program.captured, *program.inputs), (*captured, *leaves), strict=True))
    env.update(program.constants)
    env.update({value: change(value, env[value]) for value in program.inputs})
    for op in program.ops:
        _bind(op, env)
        env.update({value: change(value, env[value]) for value in op.outputs})
    return [read_value(env, value) for value in program.outputs]


def evaluate_program(run: Evaluation, env: Arrays, carried: Carried) -> None:
    """Adds all values to ``env``, which has the inputs', and their carriers to ``carried``."""
    env.update(run.program.constants)
    split: tuple[list[Op], list[Op]] = ([], [])
    for op in run.program.ops:
        split[any(run.plan.facts[value].active for value in op.inputs)].append(op)
    constant, active = split
    # Constants first: then the scale behind a convolution is known when its rule is met.
    for op in constant:
        _bind(op, env)
    _evaluate_regions(run._replace(signs=Read(dict(env))), active, 0, env, carried)


def _evaluate_regions(
    run: Evaluation, ops: Sequence[Op], depth: int, env: Arrays, carried: Carried
) -> None:
    """Evaluates operations in order, those of one remat region under one jax.checkpoint."""
    for region, group in itertools.groupby(
        ops, key=lambda op: op.regions[depth] if len(op.regions) > depth else None
    ):
        if region is not None:
            _checkpointed(run, region, list(group), depth, env, carried)
            continue
        for op in group:
            _evaluate(run, op, env, carried)


def _checkpointed(
    run: Evaluation, region: int, ops: list[Op], depth: int, env: Arrays, carried: Carried
) -> None:
    program, here = run.program, {op.index for op in ops}
    made = {value: None for op in ops for value in op.outputs}
    read = {v: None for op in ops for v in _reads(run.plan, op) if v not in made}
    later = {v for op in program.ops if op.index not in here for v in _reads(run.plan, op)}
    later.update(program.outputs, run.kept)
    needed = [value for value in made if value in later]
    outside = {value: env[value] for value in read}
    known = {key: array for key, array in carried.items() if key[1] in read}
    taps = {value: run.taps[value] for value in taps_within(run.taps, ops)}
    with_carrier: list[tuple[bool, Value]] = []

    def body(arrays: list, carriers: list, tapping: list) -> tuple[list, list]:
        inner_env = dict(zip(outside, arrays, strict=True))
        inner_carried = dict(zip(known, carriers, strict=True))
        # Signs that are read in here are values of this checkpoint, and must not leave it.
        signs = Read(run.signs.constants)
        inner = run._replace(taps=dict(zip(taps, tapping, strict=True)), signs=signs)
        _evaluate_regions(inner, ops, depth + 1, inner_env, inner_carried)
        with_carrier[:] = [key for key in inner_carried if key[1] in needed]
        return [inner_env[v] for v in needed], [inner_carried[key] for key in with_carrier]

    values, carriers = jax.checkpoint(body, **program.remat_params[region])(
        *(list(part.values()) for part in (outside, known, taps))
    )
    env.update(zip(needed, values, strict=True))
    carried.update(zip(with_carrier, carriers, strict=True))


def taps_within(taps: Mapping[Value | Op, Any], ops: Sequence[Op]) -> list[Value | Op]:
    """Which taps belong to these operations, to those inside their bodies, or to their outputs."""
    made = {tapped for op in ops for tapped in (op, *op.outputs)}
    for op in ops:
        for body in op.nest.bodies if op.nest else ():
            made.update(taps_within(taps, body.ops))
    return [tapped for tapped in taps if tapped in made]


def _reads(plan: Plan, op: Op) -> list[Value]:
    """What an operation and its rule read."""
    step = plan.steps.get(op)
    read = list(op.inputs)
    if step is not None:
        read += plan.sources(step)
        read += [gated[1] for gated in step.gated_inputs if gated is not None]
    if step is not None and isinstance(step.plan, Flow):
        read += [mask for value in op.inputs for mask in plan.hidden.read(value)]
    return [value for value in read if value.literal is None]


def _bind(op: Op, env: Arrays) -> None:
    outputs = compat.bind(op.primitive, op.params, *(read_value(env, v) for v in op.inputs))
    env.update(zip(op.outputs, outputs, strict=True))


def _evaluate(run: Evaluation, op: Op, env: Arrays, carried: Carried) -> None:
    """Evaluates an operation, and the carriers of its outputs where a source has one."""
    step = run.plan.steps.get(op)
    if step is None:
        _bind(op, env)
        return
    if isinstance(step.plan, Inside):
        nests.evaluate_nest(run, step, env, carried)
    else:
        _bind(op, env)
        for upper in sorted({u for value in op.outputs for u in run.plan.phases(value)}):
            carry_on(run, step, upper, env, carried)
    for value in op.outputs:
        if value in run.taps:
            for upper in run.plan.phases(value):
                before = carried.get((upper, value))
                tap = run.taps[value]
                carried[upper, value] = tap if before is None else before + tap
