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
from jax import lax

from . import _compat
from .analysis import Plan
from .orientation import Read
from .program import Op, Program, Value
from .rules.rule import Call, Flow, Step, Structure, Through

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
    """

    plan: Plan
    taps: Mapping[Value | Op, jax.Array]
    signs: Read
    program: Program
    first: Mapping[Program, jax.Array]


def carrier_dtype(value: Value) -> Any:
    """The dtype in which the probabilities of a value are kept."""
    return jnp.promote_types(value.dtype, jnp.float32)


def carrier(value: Value) -> jax.Array:
    """The carrier of a value: zeros, differentiated in its place."""
    return _compat.mark_varying(jnp.zeros(value.shape, carrier_dtype(value)), value.varying)


def read_value(env: Mapping[Value, Any], value: Value) -> Any:
    """The array of a value, which may be a literal."""
    return env[value] if value.literal is None else value.literal


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
        made = _move(step, env, below)
    else:
        made = _flow(run, step, env, below, contrastive)
    for value, array in zip(op.outputs, made, strict=True):
        if upper in plan.phases(value):
            carried[upper, value] = array.astype(carrier_dtype(value))


def _move(step: Step, env: Arrays, below: Arrays) -> list[jax.Array]:
    """Applies a structural operation to carriers; constants among its operands become zeros."""
    op = step.site.op
    dtype = carrier_dtype(op.outputs[0])

    def operand(i: int, value: Value) -> Any:
        if i in _INDICES.get(op.primitive, ()):
            return read_value(env, value)
        known = below.get(value)
        return jnp.zeros(value.shape, dtype) if known is None else known.astype(dtype)

    return _compat.bind(op.primitive, op.params, *itertools.starmap(operand, enumerate(op.inputs)))


#: Positions of the operands that say which elements are taken, not what they are.
_INDICES = {
    lax.select_n_p: range(1), lax.gather_p: range(1, 2), lax.dynamic_slice_p: range(1, 99),
    lax.dynamic_update_slice_p: range(2, 99),
}  # fmt: skip


def _flow(
    run: Evaluation, step: Step, env: Arrays, below: Arrays, contrastive: bool
) -> list[jax.Array]:
    op = step.site.op
    assert isinstance(step.plan, Flow)
    sources = tuple(i for i in step.plan.sources if op.inputs[i] in below)
    readers = (step.oriented_output, *step.oriented_inputs)
    signs = [None if reader is None else run.signs.sign(reader) for reader in readers]
    lows = [None if gated is None else gated[0] * env[gated[1]] for gated in step.gated_inputs]
    masks = [
        functools.reduce(jnp.logical_or, [run.first[body] & at for body, at in initial.items()])
        if initial
        else None
        for initial in step.initial_inputs
    ]
    operands = [jnp.asarray(read_value(env, value)) for value in op.inputs]
    carriers = [below[op.inputs[i]] for i in sources]
    known = operands, signs, lows, masks
    return _carry(step, sources, contrastive, carriers, run.taps.get(op), known)


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
        are constants in this step of a loop.
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
    ((operands, signs, lows, masks), meter), op = saved, step.site.op
    call = Call(
        step, tuple(operands), p[0].dtype, signs[0], tuple(signs[1:]), tuple(lows), tuple(masks),
        contrastive,
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
    return shares[i].astype(carrier_dtype(value))


_carry.defvjp(_carry_forward, _carry_backward)
