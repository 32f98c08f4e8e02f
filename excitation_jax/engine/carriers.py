"""Carriers: the zeros that are differentiated in place of a model's values."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..program import compat
from ..program.patterns import spread
from ..program.primitives import Kind, indices, kind
from ..program.reading import Amounts, Reading
from ..program.trace import Op, Program, Value, read_value
from ..rules.activation import Needed, Operand
from ..rules.arithmetic import shared
from ..rules.rule import Call, Step, Structure
from .direction import Read
from .plan import NEURONS, Beside, Lane, Plan

Arrays = dict[Value, jax.Array]
#: Carriers by lane and value.
Carried = dict[tuple[Lane, Value], jax.Array]


class Evaluation(NamedTuple):
    """What stays the same during one evaluation of a program.

    Attributes:
      taps: zeros to add to the carriers of values, by value, and meters of operations (see
        `excite`). Inside a loop they have lost the axis of its steps.
      signs: reads the signs of scales off the values that do not depend on the input.
      walk: evaluates a program: ``walk(run, env, carried)`` adds to both.
      kept: values that must outlive the remat calls that make them.
    """

    plan: Plan
    taps: Mapping[Value | Op, jax.Array]
    signs: Read
    program: Program
    walk: Callable[[Evaluation, Arrays, Carried], None]
    kept: frozenset[Value] = frozenset()

    def active(self, value: Value, env: Arrays) -> Any:
        """Which elements of a value depend on the input, as a pattern that broadcasts to it."""
        known = self.plan.facts[value].activity
        return env[self.plan.companions[value]] if known.late else known.pattern

    def beside(self, what: Beside, value: Value, env: Arrays) -> Any:
        """What is computed beside a value."""
        if what is Beside.ACTIVITY:
            return self.active(value, env)
        if what in (Beside.LOW, Beside.HIGH):
            low, high = self.plan.neurons.bounds.ends(value, env.__getitem__)
            end = jnp.asarray(low if what is Beside.LOW else high, float)
            return compat.mark_varying(jnp.broadcast_to(end, value.shape), value.varying)
        if what in NEURONS:
            return self._of_neurons(what, value, env)
        total = self.plan.totals.get((value, what.value))
        return carrier(value) if total is None else env[total]

    def _of_neurons(self, what: Beside, value: Value, env: Arrays) -> jax.Array:
        """Of the neurons that a value is made of, what its reader has to know."""
        x, dtype, known = read_value(env, value), carrier_dtype(value), self.plan.facts[value]
        reading = self.plan.neurons.reading(value)
        found: Any
        if what is Beside.SIGN:
            sign = None if reading is None else reading.sign
            found = 1 if sign is None else sign.read(env.__getitem__)
        elif not known.active:
            found = x if what is Beside.OFFSET else 0
        else:
            made_of = None
            if reading is not None:
                values = [env[v] for v in reading.needed]
                bounds = [bound.read(env.__getitem__) for bound in reading.bounds.values()]
                made_of = reading, needed(reading, values, bounds, amounts_beside(reading, env))
            of = Operand(jnp.asarray(x), known.interval.low, dtype, made_of)
            make = {
                Beside.H: lambda: of.excited(1), Beside.H_SMALLER: lambda: of.excited(-1),
                Beside.FIELD: of.field, Beside.OFFSET: of.offset,
            }  # fmt: skip
            found = make[what]()
        return compat.mark_varying(
            jnp.broadcast_to(jnp.asarray(found, dtype), value.shape), value.varying
        )


def needed(reading: Reading, known: list, bounds: list, crossed: list[Amounts]) -> Needed:
    """The arrays that a reading needs, each list in its order."""
    return Needed(
        dict(zip(reading.needed, known, strict=True)),
        dict(zip(reading.bounds, bounds, strict=True)),
        dict(zip(reading.crossed, crossed, strict=True)),
    )


def amounts_beside(reading: Reading, env: Arrays) -> list[Amounts]:
    """What goes beside the neurons of a reading that came across borders."""
    return [
        Amounts(*(None if part is None else env[part] for part in amounts))
        for amounts in reading.crossed.values()
    ]


def bind(op: Op, env: Arrays) -> None:
    """Adds an operation's outputs to the values."""
    outputs = compat.bind(op.primitive, op.params, *(read_value(env, v) for v in op.inputs))
    env.update(zip(op.outputs, outputs, strict=True))


class Known(NamedTuple):
    """What a rule needs to know of an operation (see `Call`), beside what is static.

    Attributes:
      value: of a layer whose weights depend on the input, too (attention): it may be no number,
        which harms nobody where no probability comes from. Of other layers, the excitation says it.
      output: of a layer that the rule wants it of.
    """

    operands: list[jax.Array]
    output_sign: jax.Array | None
    input_signs: list[jax.Array | None]
    neurons: list[tuple[list, list, list] | None]
    active: list[jax.Array | None]
    tail: Any
    value: jax.Array | None
    output: jax.Array | None


def knowledge(run: Evaluation, step: Step, env: Arrays) -> Known:
    """What is known of an operation when its carriers are made."""
    op = step.site.op

    def read(signed: Any) -> jax.Array | None:
        return None if signed is None else run.signs.sign(signed)

    readings = step.readings
    parts = [(v, run.plan.facts[v].activity) for v in op.inputs]
    active = [None if a.whole or a.none else jnp.asarray(run.active(v, env)) for v, a in parts]
    operands = [jnp.asarray(read_value(env, value)) for value in op.inputs]
    tail = None if step.tail is None else step.tail(run.signs)
    layer = kind(op.primitive) is Kind.AFFINE
    several = layer and all(run.plan.facts[value].active for value in op.inputs)
    return Known(
        operands, read(step.output_sign), [None if r is None else read(r.sign) for r in readings],
        [None if r is None else _for_reading(run, r, env) for r in readings],
        active, tail, env[op.outputs[0]] if several else None,
        env[op.outputs[0]] if step.plain and len(step.directions) == 2 else None,
    )  # fmt: skip


def _for_reading(run: Evaluation, reading: Reading, env: Arrays) -> tuple[list, list, list]:
    known = [env[v] for v in reading.needed]
    bounds = [run.signs.sign(bound) for bound in reading.bounds.values()]
    return known, bounds, amounts_beside(reading, env)


def call_of(
    step: Step, dtype: Any, known: Known, contrastive: bool = False, direction: int = 1,
    upper: bool = False,
) -> Call:  # fmt: skip
    """An operation as its rule sees it in the backward pass."""
    neurons = (
        None if r is None or x is None else (r, needed(r, *x))
        for r, x in zip(step.readings, known.neurons, strict=True)
    )
    return Call(
        step, tuple(known.operands), dtype, known.output_sign, direction,
        tuple(known.input_signs), tuple(neurons), tuple(known.active), contrastive,
        upper, known.tail, known.output,
    )  # fmt: skip


def mixing_precisions(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same under JAX's usual promotion of dtypes, however strictly the model was traced."""

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return function(*args)

    return run


def carrier_dtype(value: Value) -> Any:
    """The dtype in which the probabilities of a value are kept."""
    return jnp.promote_types(value.dtype, jnp.float32)


def carrier(value: Value) -> jax.Array:
    """The carrier of a value: zeros, differentiated in its place."""
    return compat.mark_varying(jnp.zeros(value.shape, carrier_dtype(value)), value.varying)


def tap(read: Value | Op) -> jax.Array:
    """Zeros to add to a value's carriers, or for an operation, for each step of the loops."""
    value = read if isinstance(read, Value) else read.outputs[0]
    shape = value.shape if isinstance(read, Value) else ()
    zeros = jnp.zeros((*value.steps, *shape), carrier_dtype(value))
    return compat.mark_varying(zeros, value.varying)


def passed(run: Evaluation, op: Op, below: jax.Array, env: Arrays) -> jax.Array:
    """A carrier, but where a constant mask hides what it is of: there is no neuron (D5)."""
    made = jnp.broadcast_to(below, op.outputs[0].shape)
    for i in run.plan.facts.masks(op):
        made = jnp.where(jnp.asarray(read_value(env, op.inputs[i])) == 0, 0, made)
    return made


def moved(step: Step, env: Arrays, below: Mapping[int, jax.Array]) -> list[jax.Array]:
    """Applies a structural operation to carriers; constants among its operands become zeros."""
    op, route = step.site.op, step.route
    assert isinstance(route, Structure)
    dtype = carrier_dtype(op.outputs[0])

    def operand(i: int, value: Value) -> Any:
        if i in indices(op.primitive):
            return read_value(env, value)
        known = below.get(route.sources.index(i)) if i in route.sources else None
        return (carrier(value) if known is None else known).astype(dtype)

    return compat.bind(op.primitive, op.params, *itertools.starmap(operand, enumerate(op.inputs)))


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


def add_taps(run: Evaluation, op: Op, env: Arrays, carried: Carried) -> None:
    """Adds the taps of an operation's outputs to their carriers.

    A partial sum's carrier is for r: its part of P is r times what excites it.
    """
    for value in op.outputs:
        for lane in run.plan.lanes(value) if value in run.taps else ():
            if lane.part < 0:
                continue  # the negated neuron's
            own, before = run.taps[value], carried.get((lane, value))
            if lane.part:
                own = shared(own, env[run.plan.totals[value, lane.direction]])
            carried[lane, value] = own if before is None else before + own


def taps_within(taps: Mapping[Value | Op, Any], ops: Sequence[Op]) -> list[Value | Op]:
    """Which taps belong to these operations, to those inside their bodies, or to their outputs."""
    made = {tapped for op in ops for tapped in (op, *op.outputs)}
    for op in ops:
        for body in op.nest.bodies if op.nest else ():
            made.update(taps_within(taps, body.ops))
    return [tapped for tapped in taps if tapped in made]


def note_activity(run: Evaluation, op: Op, env: Arrays) -> None:
    """Adds the companions of an operation's outputs that have any: which elements are active."""
    plan, facts = run.plan, run.plan.facts
    if not any(value in plan.companions for value in op.outputs):
        return

    def read(i: int) -> Any:
        value, shape = facts.truths(op, i)
        return jnp.reshape(read_value(env, value), shape)

    parts = zip(op.inputs, facts.activities(op), strict=True)
    given = [run.active(value, env) if part.late else part.pattern for value, part in parts]
    patterns = spread(op, given, facts.masks(op), read, jnp)
    for value, pattern in zip(op.outputs, patterns, strict=True):
        if (companion := plan.companions.get(value)) is not None:
            env[companion] = jnp.broadcast_to(pattern, companion.shape)
