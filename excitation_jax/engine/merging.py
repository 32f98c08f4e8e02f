"""The pass through a region: one `jax.custom_vjp` for several affine operations and their sums.

With Z the excitatory total of all connections and r = P / Z, a connection gets r h w+. So r is
carried down through sums, means, windows and moves by their transposes, and each affine operation
sends h L+^T(r). In a sum with other neurons all affine terms together are one summand of Eq. 19.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..program import compat
from ..program.primitives import Kind, indices, kind
from ..program.trace import Op, Value
from ..rules.rule import Call, safe_divide, shared
from .carriers import Arrays, Carried, Evaluation, call_of, carrier, carrier_dtype, knowledge
from .plan import Lane, Plan
from .regions import Place, Region


class _Task(NamedTuple):
    """What is static in the pass through a region in one phase.

    Attributes:
      sources: the operands with a carrier, by operation and position.
      read: partial sums whose part of P is wanted.
      contrastive: the negated neuron's excitation is to be subtracted.
    """

    plan: Plan
    region: Region
    sources: tuple[Place, ...]
    read: tuple[Value, ...]
    contrastive: bool


def carry_region(
    run: Evaluation, region: Region, upper: bool, env: Arrays, carried: Carried
) -> None:
    """Makes the carrier of a region's output in one phase, where a source has one."""
    steps, (output,) = run.plan.steps, region.top.outputs
    contrastive = upper and any(steps[op].contrastive for op in region.members)
    below: dict[Place, jax.Array] = {}
    for op, i in (*_connected(run.plan, region), *region.others):
        phase = upper and not (contrastive and op in region.members)
        array = carried.get((run.plan.lane(phase, op.inputs[i], 1), op.inputs[i]))
        if array is not None:
            below[op, i] = array
    lane = Lane(upper)
    read = [value for value in region.values if (lane, value) in carried]
    if not below and not read:
        return
    task = _Task(run.plan, region, tuple(below), tuple(read), contrastive)
    known = [knowledge(run, steps[op], env) for op in region.asked]
    constants = [env[value] for value in region.constants]
    sums = [_sum_of(run, op, env) for op in region.members] if region.others else []
    made = _carry(
        task, list(below.values()), [carried[lane, value] for value in read],
        run.taps.get(region.top), (known, constants, sums),
    )  # fmt: skip
    carried[lane, output] = made.astype(carrier_dtype(output))


def _sum_of(run: Evaluation, op: Op, env: Arrays) -> tuple[jax.Array, Any]:
    """The value of an affine operation, and which elements depend on the input (None for all)."""
    (value,) = op.outputs
    whole = run.plan.facts[value].activity.whole
    return env[value], None if whole else jnp.asarray(run.active(value, env))


def _connected(plan: Plan, region: Region) -> list[Place]:
    return [(op, op.inputs.index(v)) for op in region.members for v in plan.steps[op].sources]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _carry(
    task: _Task, below: list[jax.Array], read: list[jax.Array], meter: jax.Array | None, known: Any
) -> jax.Array:
    """The carrier of a region's output. ``read`` are zeros that nothing is made of.

    Their cotangents are the parts of P that pass the partial sums.
    """
    return carrier(task.region.top.outputs[0])


def _carry_forward(task: _Task, below: Any, read: Any, meter: Any, known: Any) -> tuple:
    return _carry(task, below, read, meter, known), (meter, known)


def _carry_backward(task: _Task, saved: tuple, p: jax.Array) -> tuple:
    meter, known = saved
    shares, parts = _Neuron(task, known, p).shares()
    found = [
        compat.kept_apart(shares[op, i].astype(carrier_dtype(op.inputs[i])))
        for op, i in task.sources
    ]
    passing = [parts[value].astype(carrier_dtype(value)) for value in task.read]
    if meter is not None:
        meter = jnp.stack([p.sum(), *(-array.sum() for array in found)]).sum().astype(meter.dtype)
    return found, passing, meter, None


_carry.defvjp(_carry_forward, _carry_backward)


def _is_identity(op: Op) -> bool:
    """Whether nothing but the precision changes, which the pass has of its own."""
    cast = op.primitive is lax.convert_element_type_p
    return cast or kind(op.primitive) is Kind.IDENTITY


class _Neuron:
    """A region's neurons, with their values, as P arrives."""

    def __init__(self, task: _Task, known: tuple[list, list, list], p: jax.Array):
        self.task, self.region, self.p = task, task.region, p
        steps, asked = task.plan.steps, task.region.asked
        found = zip(asked, known[0], strict=True)
        self.calls: dict[Op, Call] = {op: call_of(steps[op], p.dtype, of) for op, of in found}
        self.constants = dict(zip(task.region.constants, known[1], strict=True))
        self.sums = [(x.astype(p.dtype), active) for x, active in known[2]]
        self.connected = {
            op: steps[op].rule.connections(self.calls[op], p) for op in task.region.members
        }

    def shares(self) -> tuple[dict[Place, jax.Array], Arrays]:
        """What the sources get, and what passes the partial sums that are read."""
        found, passing, p = self._of_others() if self.region.others else ({}, {}, self.p)
        if not self.region.members:
            return found, passing
        sent, read = self._excited(p, 1)
        if self.task.contrastive:
            negated, _ = self._excited(p, -1)
            sent = {place: sent[place] - negated[place] for place in sent}
        for (op, i), share in sent.items():
            found[op, i] = shared(share, self.connected[op].h)
        return found, {value: read[value] + passing.get(value, 0) for value in read}

    def _excited(self, p: jax.Array, part: int) -> tuple[dict[Place, jax.Array], Arrays]:
        """Eq. 6 for all connections: for each member r, per unit of h."""
        excited = {op: self.connected[op].excite(part) for op in self.region.members}
        totals = {op.outputs[0]: z for op, (z, _) in excited.items()}
        total, down = self._sum(totals)
        ratios, read = down(safe_divide(p, total))
        sent = {
            (op, self.calls[op].sources[0]): send(ratios[op.outputs[0]])
            for op, (_, send) in excited.items()
        }
        if self.task.read:  # P ends where nothing excites, but it was there: at all terms alike
            number, evenly = self._sum({v: jnp.ones_like(z) for v, z in totals.items()})
            _, ended = evenly(jnp.where(total == 0, safe_divide(p, number), 0))
            read = {value: read[value] + ended[value] for value in read}
        return sent, read

    def _of_others(self) -> tuple[dict[Place, jax.Array], Arrays, jax.Array]:
        """Eq. 19: what other summands get, and what is left for all the affine terms together."""
        sign = self.calls[self.region.top].output_sign
        h = {(op, i): self._towards(op, i, sign) for op, i in self.region.others}
        y = self._value() if self.region.members else jnp.zeros_like(self.p)
        y = jnp.maximum(y if sign is None else sign.astype(y.dtype) * y, 0)
        total, down = self._sum(h)
        if (depending := self._depending()) is None:
            r = safe_divide(self.p, total + y)
            ratios, passing = down(r)
            return {place: shared(ratios[place], h[place]) for place in h}, passing, shared(r, y)
        # Where one summand alone depends on the input, it is a signal and constants (R5).
        masks, own = depending
        number, masks_down = self._sum(masks)
        alone = number + own == 1
        r = safe_divide(jnp.where(alone, 0, self.p), total + y)
        ratios, passing = down(r)
        whole, passed = masks_down(jnp.where(alone & ~own, self.p, 0))
        found = {
            place: shared(ratios[place], h[place]) + masks[place] * whole[place] for place in h
        }
        passing = {value: passing[value] + passed[value] for value in passing}
        return found, passing, jnp.where(alone & own, self.p, shared(r, y))

    def _towards(self, op: Op, i: int, sign: jax.Array | None) -> jax.Array:
        """What a summand contributes in the direction of the sum."""
        larger = self.calls[op].towards(i, 1)
        if sign is None:
            return larger
        return jnp.where(sign < 0, self.calls[op].towards(i, -1), larger)

    def _depending(self) -> tuple[dict[Place, jax.Array], jax.Array] | None:
        """Which elements of the other summands, and of the affine terms, depend on the input.

        None where all do.
        """
        constant = {(op, i): self.calls[op].constants(i) for op, i in self.region.others}
        if all(x is None for x in constant.values()) and all(a is None for _, a in self.sums):
            return None

        def mask(value: Value, depends: Any) -> jax.Array:
            pattern = jnp.broadcast_to(True if depends is None else depends, value.shape)
            return pattern.astype(self.p.dtype)

        others = {
            (op, i): mask(op.inputs[i], None if found is None else ~found)
            for (op, i), found in constant.items()
        }
        if not self.region.members:
            return others, jnp.zeros(self.p.shape, bool)
        ops = zip(self.region.members, self.sums, strict=True)
        own, _ = self._summed({op.outputs[0]: mask(op.outputs[0], a) for op, (_, a) in ops}, {})
        return others, own > 0

    def _sum(self, leaves: dict) -> tuple[jax.Array, Callable[[jax.Array], tuple[dict, Arrays]]]:
        """The sum of amounts at the top, and the way down from there.

        Returns:
          The sum; and a function that carries r down: to each leaf, and what passes the partial
          sums that are read.
        """
        zeros = {value: self._zeros(value) for value in self.task.read}
        names, arrays = list(leaves), list(leaves.values())

        def total(arrays: list[jax.Array], taps: list[jax.Array]) -> tuple[jax.Array, list]:
            return self._summed(
                dict(zip(names, arrays, strict=True)), dict(zip(zeros, taps, strict=True))
            )

        summed, pull, partial = jax.vjp(total, arrays, list(zeros.values()), has_aux=True)

        def down(r: jax.Array) -> tuple[dict, Arrays]:
            to_leaves, to_partial = pull(r)
            read = zip(zeros, to_partial, partial, strict=True)
            return dict(zip(names, to_leaves, strict=True)), {v: shared(r, z) for v, r, z in read}

        return summed, down

    def _summed(self, leaves: Mapping[Any, jax.Array], taps: Arrays) -> tuple[jax.Array, list]:
        """The leaves' sum at the top, by the constant factors' sizes; and the partial sums read."""
        env: dict[Any, jax.Array] = {}
        for name, array in leaves.items():
            env[name] = array + taps[name] if name in taps else array
        for op in self.region.inner:
            operands = [
                env[op, i] if (op, i) in env else env.get(v) for i, v in enumerate(op.inputs)
            ]
            if all(operand is None for operand in operands):
                continue
            for value, made in zip(op.outputs, self._sum_of(op, operands), strict=True):
                env[value] = made + taps[value] if value in taps else made
        partial = [env[v] if v in env else self._zeros(v) for v in self.task.read]
        return env[self.region.top.outputs[0]], partial

    def _sum_of(self, op: Op, operands: Sequence[jax.Array | None]) -> list[jax.Array]:
        """An inner operation on amounts; None for what has none."""
        given = [x for x in operands if x is not None]
        if _is_identity(op):
            return given
        if kind(op.primitive) is Kind.ELEMENTWISE:
            total = sum(given[1:], given[0])
            if op.primitive in (lax.mul_p, lax.div_p):
                (constant,) = (v for v, x in zip(op.inputs, operands, strict=True) if x is None)
                factor = jnp.abs(self._constant(constant))
                total = total * factor if op.primitive is lax.mul_p else safe_divide(total, factor)
            return [jnp.broadcast_to(total, op.outputs[0].shape)]
        fixed = indices(op.primitive)
        return compat.bind(
            op.primitive, op.params,
            *(
                self._constant(v) if i in fixed else self._zeros(v) if x is None else x
                for i, (v, x) in enumerate(zip(op.inputs, operands, strict=True))
            ),
        )  # fmt: skip

    def _zeros(self, value: Value) -> jax.Array:
        return compat.mark_varying(jnp.zeros(value.shape, self.p.dtype), value.varying)

    def _constant(self, value: Value) -> Any:
        number = value.literal if value.literal is not None else self.constants[value]
        number = jnp.asarray(number)
        return number.astype(self.p.dtype) if jnp.issubdtype(number.dtype, jnp.floating) else number

    def _value(self) -> jax.Array:
        """The value of all affine terms and constants together."""
        env: Arrays = {}
        for op, (x, _) in zip(self.region.members, self.sums, strict=True):
            env[op.outputs[0]] = x
        for op in self.region.inner:
            operands = [
                env[v] if v in env
                else self._zeros(v) if (op, i) in self.region.others
                else self._constant(v)
                for i, v in enumerate(op.inputs)
            ]  # fmt: skip
            same = _is_identity(op)
            made = operands if same else compat.bind(op.primitive, op.params, *operands)
            env.update(zip(op.outputs, made, strict=True))
        return env[self.region.top.outputs[0]]
