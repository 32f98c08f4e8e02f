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
from ..rules.connections import Connections, Excitation
from ..rules.rule import Call, safe_divide, shared, unbroadcast
from .carriers import Arrays, Carried, Evaluation, call_of, carrier, carrier_dtype, knowledge
from .lanes import of_neuron, of_summand
from .plan import Plan
from .regions import Place, Region


class _Task(NamedTuple):
    """What is static in the pass through a region in one phase.

    Attributes:
      sources: the operands with a carrier, for each direction, by operation and position.
      read: partial sums whose part of P is wanted, for each direction.
      parts: of the neuron, 1, and of the negated one, -1: those that send, each with its sign.
    """

    plan: Plan
    region: Region
    sources: tuple[tuple[Place, ...], ...]
    read: tuple[tuple[Value, ...], ...]
    parts: tuple[int, ...]


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
    task = _Task(plan, region, tuple(map(tuple, below)), tuple(map(tuple, read)), parts)
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
    task = _Task(run.plan, head, tuple(map(tuple, below)), ((),) * len(below), (-1,))
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


class _Known(NamedTuple):
    """What the pass needs to know of the values.

    Attributes:
      calls: of the operations asked, in their order.
      signs: of `Region.signs`, in their order.
      constants: the region's.
      sums: the members' values, and which elements depend on the input (None for all), where they
        share with others.
    """

    calls: list[Any]
    signs: list[jax.Array | None]
    constants: list[jax.Array]
    sums: list[tuple[jax.Array, Any]]


def _known_of(run: Evaluation, region: Region, env: Arrays) -> _Known:
    def value_of(op: Op) -> tuple[jax.Array, Any]:
        (value,) = op.outputs
        whole = run.plan.facts[value].activity.whole
        return env[value], None if whole else jnp.asarray(run.active(value, env))

    signs = [None if sign is None else run.signs.sign(sign) for sign in region.signs.values()]
    return _Known(
        [knowledge(run, run.plan.steps[op], env) for op in region.asked], signs,
        [env[value] for value in region.constants],
        [value_of(op) for op in region.members] if region.others else [],
    )  # fmt: skip


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _carry(
    task: _Task, below: list[list[jax.Array]], read: list[list[jax.Array]],
    meter: jax.Array | None, known: _Known,
) -> list[jax.Array]:  # fmt: skip
    """The carriers of a region's output. ``read`` are zeros that nothing is made of.

    Their cotangents are the parts of P that pass the partial sums.
    """
    return [carrier(task.region.top.outputs[0]) for _ in task.region.directions]


def _carry_forward(task: _Task, below: Any, read: Any, meter: Any, known: _Known) -> tuple:
    return _carry(task, below, read, meter, known), (meter, known)


def _carry_backward(task: _Task, saved: tuple, p: list[jax.Array]) -> tuple:
    meter, known = saved
    found, passing, neuron = [], [], None
    for k, direction in enumerate(task.region.directions):
        neuron = _Neuron(task, known, p[k], direction, task.read[k], neuron)
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


def _is_identity(op: Op, region: Region) -> bool:
    """Whether nothing but the precision changes, which the pass has of its own, or is to change."""
    if op in region.skipped:
        return True
    cast = op.primitive is lax.convert_element_type_p
    return cast or kind(op.primitive) is Kind.IDENTITY


class _Neuron:
    """A region's neurons, with their values, as P of one direction arrives.

    Args:
      other: the same for the other direction: connections are the same, and computed once.
    """

    def __init__(
        self, task: _Task, known: _Known, p: jax.Array, direction: int, read: Sequence[Value],
        other: _Neuron | None,
    ):  # fmt: skip
        self.task, self.region, self.p = task, task.region, p
        self.direction, self.read = direction, read
        steps, asked = task.plan.steps, task.region.asked
        self.signs = dict(zip(task.region.signs, known.signs, strict=True))
        self.calls: dict[Op, Call] = {}
        for op, of in zip(asked, known.calls, strict=True):
            if op in task.region.members:
                of = of._replace(output_sign=self.signs[op])
            self.calls[op] = call_of(steps[op], p.dtype, of)
        self.constants = dict(zip(task.region.constants, known.constants, strict=True))
        self.sums = [(x.astype(p.dtype), active) for x, active in known.sums]
        self.connected: dict[Op, Connections] = (
            other.connected
            if other
            else {op: steps[op].rule.connections(self.calls[op], p) for op in task.region.members}
        )

    def shares(self) -> tuple[dict[Place, jax.Array], Arrays]:
        """What the sources get, and what passes the partial sums that are read."""
        apart = self.region.others and 1 in self.task.parts
        found, passing, p = self._of_others() if apart else ({}, {}, self.p)
        if not self.region.members:
            return found, passing
        read: Arrays = {}
        for part in self.task.parts:
            sent, passed = self._excited(p, part * self.direction)
            read = read or passed
            for (op, i), share in sent.items():
                share = part * shared(share, self.connected[op].h)
                found[op, i] = found[op, i] + share if (op, i) in found else share
        passing = {value: read[value] + passing.get(value, 0) for value in read}
        return found, passing | {
            v: unbroadcast(self.p, v.shape) for v in self.read if v in self.region.whole
        }

    def _excitation(self, op: Op, part: int) -> Excitation:
        """Of a member's connections; Z- = Z+ - L(h) where L(h) is its own output."""
        total, send = self.connected[op].excite(part)
        output, sign = self.calls[op].output, self.signs[op]
        if part < 0 and output is not None and 1 in self.task.parts:
            larger, _ = self.connected[op].excite(1)
            output = output.astype(larger.dtype)
            total = jnp.maximum(larger - (output if sign is None else sign * output), 0)
        return total, send

    def _excited(self, p: jax.Array, part: int) -> tuple[dict[Place, jax.Array], Arrays]:
        """Eq. 6 for all connections: for each member r, per unit of h."""
        excited = {op: self._excitation(op, part) for op in self.region.members}
        totals = {op.outputs[0]: z for op, (z, _) in excited.items()}
        total, down = self._sum(totals)
        ratios, read = down(safe_divide(p, total))
        sent = {
            (op, self.calls[op].sources[0]): send(ratios[op.outputs[0]])
            for op, (_, send) in excited.items()
        }
        if self.read:  # P ends where nothing excites, but it was there: at all terms alike
            number, evenly = self._sum({v: jnp.ones_like(z) for v, z in totals.items()})
            _, ended = evenly(jnp.where(total == 0, safe_divide(p, number), 0))
            read = {value: read[value] + ended[value] for value in read}
        return sent, read

    def _of_others(self) -> tuple[dict[Place, jax.Array], Arrays, jax.Array]:
        """Eq. 19: what other summands get, and what is left for all the affine terms together."""
        h = {(op, i): self._towards(op, i) for op, i in self.region.others}
        y = self._value() if self.region.members else jnp.zeros_like(self.p)
        sign = self.signs[self.region.top]
        y = jnp.maximum(self.direction * (y if sign is None else sign.astype(y.dtype) * y), 0)
        total, down = self._sum(h)
        if (depending := self._depending()) is None:
            r = safe_divide(self.p, total + y)
            ratios, passing = down(r)
            return {place: shared(ratios[place], h[place]) for place in h}, passing, shared(r, y)
        # Where one summand alone depends on the input, it is a signal and constants (R5).
        masks, own = depending
        number, masks_down = self._sum(masks, sizes=False)
        alone = number + own == 1
        r = safe_divide(jnp.where(alone, 0, self.p), total + y)
        ratios, passing = down(r)
        whole, passed = masks_down(jnp.where(alone & ~own, self.p, 0))
        found = {
            place: shared(ratios[place], h[place]) + masks[place] * whole[place] for place in h
        }
        passing = {value: passing[value] + passed[value] for value in passing}
        return found, passing, jnp.where(alone & own, self.p, shared(r, y))

    def _towards(self, op: Op, i: int) -> jax.Array:
        """What a summand contributes in the direction of the whole."""
        sign = self.signs[op, i]
        larger = self.calls[op].towards(i, self.direction)
        if sign is None:
            return larger
        return jnp.where(sign < 0, self.calls[op].towards(i, -self.direction), larger)

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
        own, _ = self._summed(
            {op.outputs[0]: mask(op.outputs[0], a) for op, (_, a) in ops}, {}, False
        )
        return others, own > 0

    def _sum(
        self, leaves: dict, sizes: bool = True
    ) -> tuple[jax.Array, Callable[[jax.Array], tuple[dict, Arrays]]]:
        """The sum of amounts at the top, and the way down from there.

        Args:
          sizes: constant factors scale them.

        Returns:
          The sum; and a function that carries r down: to each leaf, and what passes the partial
          sums that are read.
        """
        zeros = {value: self._zeros(value) for value in self.read}
        names, arrays = list(leaves), list(leaves.values())

        def total(arrays: list[jax.Array], taps: list[jax.Array]) -> tuple[jax.Array, list]:
            tapped = dict(zip(zeros, taps, strict=True))
            return self._summed(dict(zip(names, arrays, strict=True)), tapped, sizes)

        summed, pull, partial = jax.vjp(total, arrays, list(zeros.values()), has_aux=True)

        def down(r: jax.Array) -> tuple[dict, Arrays]:
            to_leaves, to_partial = pull(r)
            read = zip(zeros, to_partial, partial, strict=True)
            return dict(zip(names, to_leaves, strict=True)), {v: shared(r, z) for v, r, z in read}

        return summed, down

    def _summed(
        self, leaves: Mapping[Any, jax.Array], taps: Arrays, sizes: bool
    ) -> tuple[jax.Array, list]:
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
            for value, made in zip(op.outputs, self._sum_of(op, operands, sizes), strict=True):
                env[value] = made + taps[value] if value in taps else made
        partial = [env[v] if v in env else self._zeros(v) for v in self.read]
        return env[self.region.top.outputs[0]], partial

    def _sum_of(self, op: Op, operands: Sequence[jax.Array | None], sizes: bool) -> list[jax.Array]:
        """An inner operation on amounts; None for what has none."""
        given = [x for x in operands if x is not None]
        if _is_identity(op, self.region):
            return given
        if kind(op.primitive) is Kind.ELEMENTWISE:
            total = sum(given[1:], given[0])
            if sizes and op.primitive in (lax.mul_p, lax.div_p):
                (constant,) = (v for v, x in zip(op.inputs, operands, strict=True) if x is None)
                factor = jnp.abs(self._constant(constant))
                total = total * factor if op.primitive is lax.mul_p else safe_divide(total, factor)
            return [jnp.broadcast_to(total, op.outputs[0].shape)]
        fixed = indices(op.primitive)
        return compat.bind_any(
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
            same = _is_identity(op, self.region)
            made = operands if same else compat.bind_any(op.primitive, op.params, *operands)
            env.update(zip(op.outputs, made, strict=True))
        return env[self.region.top.outputs[0]]
