"""Carriers: the zeros that are differentiated in place of a model's values.

How a cotangent moves from an operation's output to its operands is one `jax.custom_vjp`,
`_carry`, whose backward is the operation's rule. Rules that only pass probability on, or move it,
need none: JAX's own transposition does it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..program import compat
from ..program.hidden import INDICES
from ..program.trace import Op, Program, Value, read_value
from ..rules.rule import Call, Flow, Step, Structure, Through
from .orientation import Read
from .plan import Plan

Arrays = dict[Value, jax.Array]
#: Carriers by phase and value: True before the first affine operation of a contrastive pass.
Carried = dict[tuple[bool, Value], jax.Array]


class Evaluation(NamedTuple):
    """What stays the same during one evaluation of a program.

    Attributes:
      taps: zeros to add to the carriers of values, by value, and meters of operations (see
        `_carry`). Inside a loop they have lost the axis of its steps.
      signs: reads the signs of scales off the values that do not depend on the input.
      first: for the loops around, by body, whether this is the first step.
      kept: values that must outlive the remat regions that make them.
    """

    plan: Plan
    taps: Mapping[Value | Op, jax.Array]
    signs: Read
    program: Program
    first: Mapping[Program, jax.Array]
    kept: frozenset[Value] = frozenset()


def carrier_dtype(value: Value) -> Any:
    """The dtype in which the probabilities of a value are kept."""
    return jnp.promote_types(value.dtype, jnp.float32)


def carrier(value: Value) -> jax.Array:
    """The carrier of a value: zeros, differentiated in its place."""
    return compat.mark_varying(jnp.zeros(value.shape, carrier_dtype(value)), value.varying)


def carry_on(run: Evaluation, step: Step, upper: bool, env: Arrays, carried: Carried) -> None:
    """Makes the carriers of an operation's outputs in one phase, where a source has one.

    Args:
      env: the values. carried: the carriers so far.
    """
    op, plan = step.site.op, run.plan
    contrastive = upper and step.contrastive  # what passes it is in the lower phase from then on
    below = {
        value: carried[upper and not contrastive, value]
        for value in plan.sources(step)
        if (upper and not contrastive, value) in carried
    }
    if not below:
        return
    if isinstance(step.plan, Through):
        made = [jnp.broadcast_to(below[step.plan.source], op.outputs[0].shape)]
    elif isinstance(step.plan, Structure):
        meter = run.taps.get(op)
        made = metered(meter, _move(step, env, discounted(meter, below)))
    else:
        made = _flow(run, step, env, below, contrastive)
    for value, array in zip(op.outputs, made, strict=True):
        if upper in plan.phases(value):
            carried[upper, value] = array.astype(carrier_dtype(value))


def discounted(meter: jax.Array | None, below: dict[Any, jax.Array]) -> dict[Any, jax.Array]:
    """Carriers below a linear operation, so that what leaves it counts against its meter."""
    if meter is None:
        return below
    return {key: array - meter.astype(array.dtype) for key, array in below.items()}


def metered(meter: jax.Array | None, made: list[jax.Array]) -> list[jax.Array]:
    """The carriers that it makes, so that what arrives counts for its meter.

    The meter's cotangent then is what arrives less what leaves: the probability that ends there.
    """
    return made if meter is None else [array + meter.astype(array.dtype) for array in made]


def _move(step: Step, env: Arrays, below: Arrays) -> list[jax.Array]:
    """Applies a structural operation to carriers; constants among its operands become zeros."""
    op = step.site.op
    dtype = carrier_dtype(op.outputs[0])

    def operand(i: int, value: Value) -> Any:
        if i in INDICES.get(op.primitive, ()):
            return read_value(env, value)
        known = below.get(value)
        return (carrier(value) if known is None else known).astype(dtype)

    return compat.bind(op.primitive, op.params, *itertools.starmap(operand, enumerate(op.inputs)))


def _flow(
    run: Evaluation, step: Step, env: Arrays, below: Arrays, contrastive: bool
) -> list[jax.Array]:
    op = step.site.op
    assert isinstance(step.plan, Flow)
    sources = tuple(i for i in step.plan.sources if op.inputs[i] in below)
    readers = (step.oriented_output, *step.oriented_inputs)
    signs = [None if reader is None else run.signs.sign(reader) for reader in readers]
    lows = [None if gated is None else gated[0] * env[gated[1]] for gated in step.gated_inputs]
    masks = [_constants(run, step, i, env) if i in sources else None for i in range(len(op.inputs))]
    operands = [jnp.asarray(read_value(env, value)) for value in op.inputs]
    carriers = [below[op.inputs[i]] for i in sources]
    tail = None if step.tail is None else step.tail(run.signs)
    known = operands, signs, lows, masks, tail
    return _carry(step, sources, contrastive, carriers, run.taps.get(op), known)


def _constants(run: Evaluation, step: Step, i: int, env: Arrays) -> jax.Array | None:
    """Which elements of operand ``i`` are constants in this step of a loop, or behind this mask."""
    value = step.site.op.inputs[i]
    found = [run.first[body] & at for body, at in step.initial_inputs[i].items()]
    if run.plan.hidden.within(value):
        found.append(run.plan.hidden.elements(value, env))
    return functools.reduce(jnp.logical_or, found) if found else None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _carry(
    step: Step, sources: tuple[int, ...], contrastive: bool, carriers: list,
    meter: jax.Array | None, known: tuple,
) -> list[jax.Array]:  # fmt: skip
    """The carriers of an operation's outputs; its backward is the operation's rule.

    Args:
      sources: positions of the operands whose carriers are given.
      meter: a zero, or None; its cotangent is the probability that ends at the operation, at
        units without excitatory input.
      known: what the rule needs: the operands; the signs of the scales behind the output and each
        operand (see orientation.py); for each operand lambda times its gate, and which elements
        are constants in this step of a loop; the scale and shift behind the output (see tail.py).
    """
    return [carrier(value) for value in step.site.op.outputs]


def _carry_forward(
    step: Step, sources: tuple[int, ...], contrastive: bool, carriers: list,
    meter: jax.Array | None, known: tuple,
) -> tuple[list[jax.Array], tuple]:  # fmt: skip
    return _carry(step, sources, contrastive, carriers, meter, known), (known, meter)


def _carry_backward(
    step: Step, sources: tuple[int, ...], contrastive: bool, saved: tuple, p: list[jax.Array]
) -> tuple:
    ((operands, signs, lows, masks, tail), meter), op = saved, step.site.op
    call = Call(
        step, tuple(operands), p[0].dtype, signs[0], tuple(signs[1:]), tuple(lows), tuple(masks),
        contrastive, tail,
    )  # fmt: skip
    shares = step.rule.backward(call, p[0] if len(p) == 1 else tuple(p))
    checked = [_checked(step, shares, i, op.inputs[i]) for i in sources]
    if meter is not None:
        ends = [*(array.sum() for array in p), *(-array.sum() for array in checked)]
        meter = jnp.stack(ends).sum().astype(meter.dtype)
    return checked, meter, None


def _checked(step: Step, shares: Any, i: int, value: Value) -> jax.Array:
    """A rule's share for operand ``i``: custom_vjp itself would accept a wrong dtype."""
    where = f"the rule for {step.site.op.primitive.name} in {step.site.path or 'the model'}"
    if not isinstance(shares, (tuple, list)) or len(shares) != len(step.site.op.inputs):
        raise TypeError(
            f"{where} must return one probability per operand ({len(step.site.op.inputs)}, None "
            f"for those that get nothing), and returned {shares!r}"
        )
    if shares[i] is None:
        return carrier(value)
    if shares[i].shape != value.shape:
        raise TypeError(
            f"{where} returned shape {shares[i].shape} for operand {i} of shape {value.shape}"
        )
    return compat.kept_apart(shares[i].astype(carrier_dtype(value)))


_carry.defvjp(_carry_forward, _carry_backward)
