"""Evaluating what the model recomputes: one `jax.checkpoint` for each of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax

from ..program.trace import Op, Value
from .carriers import Arrays, Carried, Evaluation, taps_within
from .direction import Read
from .plan import Plan


def checkpointed(
    run: Evaluation, region: int, ops: Sequence[Op], depth: int, env: Arrays, carried: Carried,
    evaluate: Callable[..., None],
) -> None:  # fmt: skip
    """Evaluates the operations of one remat region under one jax.checkpoint.

    Args:
      depth: number of regions around this one.
      evaluate: ``evaluate(run, ops, depth, env, carried)``, from that region on.
    """
    program, plan, here = run.program, run.plan, {op.index for op in ops}
    made = {value: None for op in ops for value in _made(plan, op)}
    read = {v: None for op in ops for v in _read(plan, op) if v not in made}
    later = {v for op in program.ops if op.index not in here for v in _read(plan, op)}
    later.update(program.outputs, run.kept)
    later.update(plan.companions[value] for value in program.outputs if value in plan.companions)
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
        evaluate(inner, ops, depth + 1, inner_env, inner_carried)
        with_carrier[:] = [key for key in inner_carried if key[1] in needed]
        return [inner_env[v] for v in needed], [inner_carried[key] for key in with_carrier]

    values, carriers = jax.checkpoint(body, **program.remat_params[region])(
        *(list(part.values()) for part in (outside, known, taps))
    )
    env.update(zip(needed, values, strict=True))
    carried.update(zip(with_carrier, carriers, strict=True))


def _made(plan: Plan, op: Op) -> list[Value]:
    """An operation's outputs, and what is computed beside them."""
    return [*op.outputs, *(plan.companions[v] for v in op.outputs if v in plan.companions)]


def _read(plan: Plan, op: Op) -> list[Value]:
    """What an operation, its rule and its outputs' activities read."""
    read = [*op.inputs, *(plan.companions[v] for v in op.inputs if v in plan.companions)]
    if any(value in plan.companions for value in op.outputs) and op.nest is None:
        read += [plan.facts.truths(op, i)[0] for i in range(len(op.inputs))]
    step = plan.steps.get(op)
    if step is not None:
        read += step.sources
        read += [gated[1] for gated in step.gated if gated is not None]
    return [value for value in read if value.literal is None]
