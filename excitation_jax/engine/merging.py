"""The pass through a region: one `jax.custom_vjp` for several affine operations and their sums.

With Z the excitatory total of all connections and r = P / Z, a connection gets r h w+. So r is
carried down through sums, means, windows and moves by their transposes, and each affine operation
sends h L+^T(r). In a sum with other neurons all affine terms together are one summand of Eq. 19.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ..program import compat
from ..program.trace import Op
from .carriers import Arrays, Carried, Evaluation, carrier, carrier_dtype, knowledge
from .lanes import of_neuron, of_summand
from .merged_neuron import Known, MergedNeuron, Task
from .regions import Place, Region


def carry_region(
    run: Evaluation, region: Region, upper: bool, env: Arrays, carried: Carried
) -> None:
    """Makes the carriers of a region's output in one phase, where a source has one."""
    plan, (output,) = run.plan, region.top.outputs
    contrastive = upper and any(plan.steps[op].contrastive for op in region.members)
    below = [_below(run, region, upper, contrastive, d, carried) for d in region.directions]
    lanes = [[(plan.lane(upper, v, d), v) for v in region.values] for d in region.directions]
    read = [{v: carried[lane, v] for lane, v in keys if (lane, v) in carried} for keys in lanes]
    if not any(below) and not any(read):
        return
    parts = (1, -1) if contrastive and not plan.headed.issuperset(region.members) else (1,)
    evenly = not upper and any(plan.steps[op].rule.evenly for op in region.merged)
    task = Task(plan, region, tuple(map(tuple, below)), tuple(map(tuple, read)), parts, evenly)
    made = _carry(
        task, [list(arrays.values()) for arrays in below], [list(taps.values()) for taps in read],
        run.taps.get(region.top), _known_of(run, region, env),
    )  # fmt: skip
    for direction, array in zip(region.directions, made, strict=True):
        carried[plan.lane(upper, output, direction), output] = array.astype(carrier_dtype(output))


def carry_reverse(run: Evaluation, top: Op, env: Arrays, carried: Carried) -> None:
    """Adds to the carriers of a pooled score, in the upper phase, that of its reverse unit (D6)."""
    if (head := run.plan.heads.get(top)) is None:
        return
    (output,) = top.outputs
    below = [_below(run, head, True, True, d, carried) for d in head.directions]
    lanes = [run.plan.lane(True, output, direction) for direction in head.directions]
    if not any(below) or any((lane, output) not in carried for lane in lanes):
        return
    task = Task(run.plan, head, tuple(map(tuple, below)), ((),) * len(below), (-1,))
    made = _carry(
        task, [list(arrays.values()) for arrays in below], [[] for _ in below], None,
        _known_of(run, head, env),
    )  # fmt: skip
    for lane, array in zip(lanes, made, strict=True):
        carried[lane, output] += array.astype(carrier_dtype(output))


def _below(
    run: Evaluation, region: Region, upper: bool, contrastive: bool, direction: int,
    carried: Carried,
) -> dict[Place, jax.Array]:  # fmt: skip
    """The carriers of what gets a share of the probability of one direction."""
    found: dict[Place, jax.Array | None] = {}
    for op in region.members:
        i = op.inputs.index(run.plan.steps[op].sources[0])
        step, phase = run.plan.steps[op], upper and not contrastive
        found[op, i] = of_neuron(run, step, op.inputs[i], phase, carried)
    for op, i in region.others:
        sign = region.signs[op, i]
        found[op, i] = of_summand(run, op, op.inputs[i], upper, direction, sign, carried)
    return {place: array for place, array in found.items() if array is not None}


def _known_of(run: Evaluation, region: Region, env: Arrays) -> Known:
    def value_of(op: Op) -> tuple[jax.Array, Any]:
        (value,) = op.outputs
        whole = run.plan.facts[value].activity.whole
        return env[value], None if whole else jnp.asarray(run.active(value, env))

    signs = [None if sign is None else run.signs.sign(sign) for sign in region.signs.values()]
    return Known(
        [knowledge(run, run.plan.steps[op], env) for op in region.asked], signs,
        [env[value] for value in region.constants],
        [value_of(op) for op in region.members] if region.others else [],
    )  # fmt: skip


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _carry(
    task: Task, below: list[list[jax.Array]], read: list[list[jax.Array]],
    meter: jax.Array | None, known: Known,
) -> list[jax.Array]:  # fmt: skip
    """The carriers of a region's output. ``read`` are zeros that nothing is made of.

    Their cotangents are the parts of P that pass the partial sums.
    """
    return [carrier(task.region.top.outputs[0]) for _ in task.region.directions]


def _carry_forward(task: Task, below: Any, read: Any, meter: Any, known: Known) -> tuple:
    return _carry(task, below, read, meter, known), (meter, known)


def _carry_backward(task: Task, saved: tuple, p: list[jax.Array]) -> tuple:
    meter, known = saved
    found, passing, neuron = [], [], None
    for k, direction in enumerate(task.region.directions):
        neuron = MergedNeuron(task, known, p[k], direction, task.read[k], neuron)
        shares, parts = neuron.shares()
        found.append([
            compat.kept_apart(shares[op, i].astype(carrier_dtype(op.inputs[i])))
            for op, i in task.sources[k]
        ])  # fmt: skip
        passing.append([parts[value].astype(carrier_dtype(value)) for value in task.read[k]])
    if meter is not None:
        ends = [*(x.sum() for x in p), *(-x.sum() for arrays in found for x in arrays)]
        meter = jnp.stack(ends).sum().astype(meter.dtype)
    return found, passing, meter, None


_carry.defvjp(_carry_forward, _carry_backward)
