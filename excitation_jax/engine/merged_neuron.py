"""The neurons of a region, with their values: who gets what as probability arrives.

See merging.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..program import compat
from ..program.primitives import Kind, indices, kind
from ..program.trace import Op, Value
from ..rules.arithmetic import safe_divide, shared, unbroadcast
from ..rules.connections import Connections, Excitation
from ..rules.evenly import children, left_over
from ..rules.rule import Call
from .carriers import Arrays, call_of
from .plan import Plan
from .regions import Place, Region


class Task(NamedTuple):
    """What is static in the pass through a region in one phase.

    Attributes:
      sources: the operands with a carrier, for each direction, by operation and position.
      read: partial sums whose part of P is wanted, for each direction.
      parts: of the neuron, 1, and of the negated one, -1: those that send, each with its sign.
      evenly: where nothing excites, all connections get the same (D10).
    """

    plan: Plan
    region: Region
    sources: tuple[tuple[Place, ...], ...]
    read: tuple[tuple[Value, ...], ...]
    parts: tuple[int, ...]
    evenly: bool = False


class Known(NamedTuple):
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


def _is_identity(op: Op, region: Region) -> bool:
    """Whether nothing but the precision changes, which the pass has of its own, or is to change."""
    if op in region.skipped:
        return True
    cast = op.primitive is lax.convert_element_type_p
    return cast or kind(op.primitive) is Kind.IDENTITY


class MergedNeuron:
    """A region's neurons, with their values, as P of one direction arrives.

    Args:
      other: the same for the other direction: connections are the same, and computed once.
    """

    def __init__(
        self, task: Task, known: Known, p: jax.Array, direction: int, read: Sequence[Value],
        other: MergedNeuron | None,
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
                share = part * share
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
            (op, self.calls[op].sources[0]): shared(
                send(ratios[op.outputs[0]]), self.connected[op].h
            )
            for op, (_, send) in excited.items()
        }
        if self.task.evenly:
            found = {op: children(self.calls[op], self.calls[op].sources[0]) for op in excited}
            fields = {
                op.outputs[0]: jnp.broadcast_to(number, op.outputs[0].shape)
                for op, (number, _) in found.items()
            }
            number, down = self._sum(fields, sizes=False)
            ratios, ended = down(safe_divide(left_over(p, total), number))
            for op, (_, spread) in found.items():
                source = self.calls[op].sources[0]
                sent[op, source] += self.calls[op].field(source) * spread(ratios[op.outputs[0]])
        elif self.read:  # P ends where nothing excites, but it was there: at all terms alike
            number, down = self._sum({v: jnp.ones_like(z) for v, z in totals.items()})
            _, ended = down(safe_divide(left_over(p, total), number))
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
            p, own = self.p, jnp.full((), bool(self.region.members))
        else:  # where one summand alone depends on the input, it is a signal and constants (R5)
            masks, own = depending
            number, masks_down = self._sum(masks, sizes=False)
            alone = number + own == 1
            p = jnp.where(alone, 0, self.p)
        r = safe_divide(p, total + y)
        ratios, passing = down(r)
        found, affine = {place: shared(ratios[place], h[place]) for place in h}, shared(r, y)
        if depending is not None:
            whole, passed = masks_down(jnp.where(alone & ~own, self.p, 0))
            found = {place: found[place] + masks[place] * whole[place] for place in h}
            passing = {value: passing[value] + passed[value] for value in passing}
            affine = jnp.where(alone & own, self.p, affine)
        if self.task.evenly:
            fields = {(op, i): self.calls[op].field(i) for op, i in h}
            number, down = self._sum(fields, sizes=False)
            each = safe_divide(left_over(p, total + y), number + own)
            ratios, passed = down(each)
            found = {place: found[place] + fields[place] * ratios[place] for place in h}
            passing = {value: passing[value] + passed[value] for value in passing}
            affine = affine + own * each
        return found, passing, affine

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
        fixed, params = indices(op.primitive), dict(op.params)
        pools = kind(op.primitive) is Kind.AFFINE
        if pools:
            params["preferred_element_type"] = self.p.dtype

        def operand(i: int, v: Value, x: jax.Array | None) -> Any:
            if pools and x is None:
                weights = self._constant(v)
                return weights if sizes else (weights > 0).astype(self.p.dtype)
            return self._constant(v) if i in fixed else self._zeros(v) if x is None else x

        every = zip(op.inputs, operands, strict=True)
        made = (operand(i, v, x) for i, (v, x) in enumerate(every))
        return compat.bind_any(op.primitive, params, *made)

    def _zeros(self, value: Value) -> jax.Array:
        return compat.mark_varying(jnp.zeros(value.shape, self.p.dtype), value.varying)

    def _constant(self, value: Value) -> Any:
        number = value.literal if value.literal is not None else self.constants[value]
        number = jnp.asarray(number)
        return number.astype(self.p.dtype) if jnp.issubdtype(number.dtype, jnp.floating) else number

    def _offset(self, op: Op, i: int) -> jax.Array:
        """What constants add to an activation before it is summed: it counts as a summand."""
        call = self.calls[op]
        reading = call.step.readings[i] if call.step.readings else None
        if reading is None or (known := call.neurons[i]) is None:
            return self._zeros(op.inputs[i])
        return reading.offset(known, self.p.dtype)

    def _value(self) -> jax.Array:
        """The value of all affine terms and constants together."""
        env: Arrays = {}
        for op, (x, _) in zip(self.region.members, self.sums, strict=True):
            env[op.outputs[0]] = x
        for op in self.region.inner:
            operands = [
                env[v] if v in env
                else self._offset(op, i) if (op, i) in self.region.others
                else self._constant(v)
                for i, v in enumerate(op.inputs)
            ]  # fmt: skip
            params = dict(op.params)
            if kind(op.primitive) is Kind.AFFINE:
                params["preferred_element_type"] = self.p.dtype
            same = _is_identity(op, self.region)
            made = operands if same else compat.bind_any(op.primitive, params, *operands)
            env.update(zip(op.outputs, made, strict=True))
        return env[self.region.top.outputs[0]]
