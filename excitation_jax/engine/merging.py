"""The pass through a region: one `jax.custom_vjp` for several affine operations and their sums.

With Z the excitatory total of all connections and r = P / Z, a connection gets r h w+. So r is
carried down through sums, means, windows and moves by their transposes, and each affine operation
sends h L+^T(r). In a sum with other neurons all affine terms together are one summand of Eq. 19.
A sum that goes on across a border hands r down to the region there, and gets Z from it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from ..program import compat
from ..program.trace import Op, Value
from ..rules.arithmetic import shared
from .carriers import (
    Arrays,
    Carried,
    Evaluation,
    carrier,
    carrier_dtype,
    knowledge,
    note_activity,
)
from .lanes import of_neuron, of_summand
from .merged_neuron import Known, MergedNeuron, Source, Task
from .plan import Lane, Plan
from .regions import Region, Side


def carry_region(
    run: Evaluation, region: Region, upper: bool, env: Arrays, carried: Carried
) -> None:
    """Makes the carriers of a region's output in one phase, where a source has one."""
    plan, output = run.plan, region.output
    lanes = [plan.lane(upper, output, direction) for direction in region.directions]
    arriving = [(direction, 1) for direction in region.directions]
    if region.opens:
        arriving = [(direction, part) for _, direction, part in plan.open.sides[output]]
        lanes = [Lane(upper, *way) for way in arriving]
    contrastive = upper and _contrasts(plan, region)
    below = [_below(run, region, upper, contrastive, d, carried) for d, _ in arriving]
    keys = [
        [(plan.lane(upper, v, d), v) for v in region.values if part > 0] for d, part in arriving
    ]
    read = [{v: carried[lane, v] for lane, v in some if (lane, v) in carried} for some in keys]
    if not any(below) and not any(read):
        return
    headed = region.members and plan.headed.issuperset(region.members)
    parts = (1, -1) if contrastive and not headed and not region.opens else (1,)
    evenly = not upper and any(plan.steps[op].rule.evenly for op in region.merged)
    task = Task(
        plan, region, tuple(arriving), tuple(map(tuple, below)), tuple(map(tuple, read)), parts,
        _crossing(plan, region), evenly,
    )  # fmt: skip
    meter = None if region.opens or region.top is None else run.taps.get(region.top)
    made = _carry(
        task, [list(arrays.values()) for arrays in below], [list(taps.values()) for taps in read],
        meter, _known_of(run, region, env),
    )  # fmt: skip
    for lane, array in zip(lanes, made, strict=True):
        carried[lane, output] = array.astype(carrier_dtype(output))


def _contrasts(plan: Plan, region: Region) -> bool:
    """Whether some of what is summed is the first affine operation of a contrastive pass."""
    crossing = not plan.open.contrasted.isdisjoint((region.output, *region.leaves))
    return crossing or any(plan.steps[op].contrastive for op in region.members)


def _crossing(plan: Plan, region: Region) -> tuple[tuple[Value, int], ...]:
    """The totals of a region's leaves."""
    return tuple(key for key in plan.totals if key[0] in region.leaves)


def close(run: Evaluation, values: Iterable[Value], env: Arrays, carried: Carried) -> None:
    """Makes the carriers of what has crossed a border and is a value from then on."""
    for value in values:
        if (region := run.plan.open.closings.get(value)) is not None:
            for upper in sorted(run.plan.phases(value)):
                carry_region(run, region, upper, env, carried)


def note_beside(run: Evaluation, op: Op, env: Arrays) -> None:
    """Adds what is computed beside an operation's outputs: activities, and what excites them."""
    note_activity(run, op, env)
    plan, region = run.plan, run.plan.regions.get(op)
    if region is None or not region.opens:
        return
    output = region.output
    arriving = tuple((d, 1) for d in (1, -1) if (output, d) in plan.totals)
    nothing = ((),) * len(arriving)
    task = Task(plan, region, arriving, nothing, nothing, (1,), _crossing(plan, region))
    known, neuron = _known_of(run, region, env), None
    for k, (direction, _) in enumerate(arriving):
        neuron = MergedNeuron(task, known, carrier(output), k, neuron)
        env[plan.totals[output, direction]] = neuron.total()


def carry_reverse(run: Evaluation, top: Op, env: Arrays, carried: Carried) -> None:
    """Adds to the carriers of a pooled score, in the upper phase, that of its reverse unit (D6)."""
    if (head := run.plan.heads.get(top)) is None:
        return
    (output,) = top.outputs
    below = [_below(run, head, True, True, d, carried) for d in head.directions]
    lanes = [run.plan.lane(True, output, direction) for direction in head.directions]
    if not any(below) or any((lane, output) not in carried for lane in lanes):
        return
    task = Task(
        run.plan, head, tuple((direction, 1) for direction in head.directions),
        tuple(map(tuple, below)), ((),) * len(below), (-1,),
    )  # fmt: skip
    made = _carry(
        task, [list(arrays.values()) for arrays in below], [[] for _ in below], None,
        _known_of(run, head, env),
    )  # fmt: skip
    for lane, array in zip(lanes, made, strict=True):
        carried[lane, output] += array.astype(carrier_dtype(output))


def _below(
    run: Evaluation, region: Region, upper: bool, contrastive: bool, direction: int,
    carried: Carried,
) -> dict[Source, jax.Array]:  # fmt: skip
    """The carriers of what gets a share of the probability of one direction."""
    found: dict[Source, jax.Array | None] = {}
    for leaf in region.leaves:
        for side in run.plan.open.sides[leaf]:
            found[side] = carried.get((Lane(upper, side.direction, side.part), leaf))
    for op in region.members:
        i = op.inputs.index(run.plan.steps[op].sources[0])
        step, phase = run.plan.steps[op], upper and not contrastive
        found[op, i] = of_neuron(run, step, op.inputs[i], phase, carried)
    for op, i in region.others:
        sign = region.signs[op, i]
        found[op, i] = of_summand(run, op, op.inputs[i], upper, direction, sign, carried)
    return {source: array for source, array in found.items() if array is not None}


def _value(source: Source) -> Value:
    if isinstance(source, Side):
        return source.value
    op, i = source
    return op.inputs[i]


def _known_of(run: Evaluation, region: Region, env: Arrays) -> Known:
    def value_of(value: Value) -> tuple[jax.Array, Any]:
        whole = run.plan.facts[value].activity.whole
        return env[value], None if whole else jnp.asarray(run.active(value, env))

    signs = [None if sign is None else run.signs.sign(sign) for sign in region.signs.values()]
    return Known(
        [knowledge(run, run.plan.steps[op], env) for op in region.asked], signs,
        [env[value] for value in region.constants],
        [value_of(value) for value in region.terms] if region.others else [],
        [env[run.plan.totals[key]] for key in _crossing(run.plan, region)],
    )  # fmt: skip


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _carry(
    task: Task, below: list[list[jax.Array]], read: list[list[jax.Array]],
    meter: jax.Array | None, known: Known,
) -> list[jax.Array]:  # fmt: skip
    """The carriers of a region's output. ``read`` are zeros that nothing is made of.

    Their cotangents are the parts of P that pass the partial sums.
    """
    return [carrier(task.region.output) for _ in task.arriving]


def _carry_forward(task: Task, below: Any, read: Any, meter: Any, known: Known) -> tuple:
    return _carry(task, below, read, meter, known), (meter, known)


def _carry_backward(task: Task, saved: tuple, p: list[jax.Array]) -> tuple:
    meter, known = saved
    found, passing, neuron = [], [], None
    for k in range(len(task.arriving)):
        neuron = MergedNeuron(task, known, p[k], k, neuron)
        shares, parts = neuron.shares()
        found.append([
            compat.kept_apart(shares[source].astype(carrier_dtype(value)))
            if source in shares
            else carrier(value)
            for source, value in ((source, _value(source)) for source in task.sources[k])
        ])  # fmt: skip
        passing.append([parts[value].astype(carrier_dtype(value)) for value in task.read[k]])
    if meter is not None:
        totals = dict(zip(task.crossing, known.totals, strict=True))
        ends = [array.sum() for array in p]
        for sources, arrays in zip(task.sources, found, strict=True):
            for source, x in zip(sources, arrays, strict=True):
                part = shared(x, totals[source[:2]]) if isinstance(source, Side) else x
                ends.append(-part.sum())
        meter = jnp.stack(ends).sum().astype(meter.dtype)
    return found, passing, meter, None


_carry.defvjp(_carry_forward, _carry_backward)
