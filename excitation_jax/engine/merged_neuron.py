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
from .regions import Place, Region, Side

#: Where shares go: to an operand, or to a part of the sum across a border.
Source = Place | Side


class Task(NamedTuple):
    """What is static in the pass through a region in one phase.

    Attributes:
      arriving: of each P or r that does, the direction, and for which part (see `Side`).
      sources: the operands and sides with a carrier, for each direction.
      read: partial sums whose part of P is wanted, for each direction.
      crossing: the sides of the region's leaves, whose totals are known.
      parts: of the neuron, 1, and of the negated one, -1: those that send, each with its sign.
      evenly: where nothing excites, all connections get the same (D10).
    """

    plan: Plan
    region: Region
    arriving: tuple[tuple[int, int], ...]
    sources: tuple[tuple[Source, ...], ...]
    read: tuple[tuple[Value, ...], ...]
    parts: tuple[int, ...]
    crossing: tuple[tuple[Value, int], ...] = ()
    evenly: bool = False


class Known(NamedTuple):
    """What the pass needs to know of the values.

    Attributes:
      calls: of the operations asked, in their order.
      signs: of `Region.signs`, in their order.
      constants: the region's.
      sums: the values of the affine terms, and which elements depend on the input (None for all),
        where they share with others.
      totals: what excites the leaves, in the order of `Task.crossing`.
    """

    calls: list[Any]
    signs: list[jax.Array | None]
    constants: list[jax.Array]
    sums: list[tuple[jax.Array, Any]]
    totals: list[jax.Array]


def _is_identity(op: Op, region: Region) -> bool:
    """Whether nothing but the precision changes, which the pass has of its own, or is to change."""
    if op in region.skipped:
        return True
    cast = op.primitive is lax.convert_element_type_p
    return cast or kind(op.primitive) is Kind.IDENTITY


class MergedNeuron:
    """A region's neurons, with their values, as P of one direction arrives.

    Args:
      k: the position of what arrives.
      other: the same for the other direction: connections are the same, and computed once.
    """

    def __init__(self, task: Task, known: Known, p: jax.Array, k: int, other: MergedNeuron | None):
        self.task, self.region, self.p = task, task.region, p
        self.direction, self.part = task.arriving[k]
        self.read = task.read[k]
        steps, asked = task.plan.steps, task.region.asked
        self.signs = dict(zip(task.region.signs, known.signs, strict=True))
        self.calls: dict[Op, Call] = {}
        for op, of in zip(asked, known.calls, strict=True):
            if op in task.region.members:
                of = of._replace(output_sign=self.signs[op])
            self.calls[op] = call_of(steps[op], p.dtype, of)
        self.constants = dict(zip(task.region.constants, known.constants, strict=True))
        self.sums = [(x.astype(p.dtype), active) for x, active in known.sums]
        self.totals = dict(zip(task.crossing, known.totals, strict=True))
        self.connected: dict[Op, Connections] = (
            other.connected
            if other
            else {op: steps[op].rule.connections(self.calls[op], p) for op in task.region.members}
        )

    def shares(self) -> tuple[dict[Source, jax.Array], Arrays]:
        """What the sources get, and what passes the partial sums that are read."""
        apart = self.region.others and 1 in self.task.parts
        found, passing, p = self._of_others() if apart else ({}, {}, self.p)
        if not self.region.terms:
            return found, passing
        read: Arrays = {}
        for part in self.task.parts:
            sent, passed = self._excited(p, part)
            read = read or passed
            for source, share in sent.items():
                share = part * share
                found[source] = found[source] + share if source in found else share
        passing = {value: read[value] + passing.get(value, 0) for value in read}
        return found, passing | {
            v: unbroadcast(self.p, v.shape) for v in self.read if v in self.region.whole
        }

    def total(self) -> jax.Array:
        """What excites the neuron."""
        excited = {op.outputs[0]: self._excitation(op, self.direction)[0]
                   for op in self.region.members}  # fmt: skip
        return self._summed(excited | self._crossing(self.direction), {}, True)[0]

    def _crossing(self, direction: int) -> dict[Value, jax.Array]:
        """What excites the leaves, by value."""

        def total(leaf: Value) -> jax.Array:
            (side, where), *other = self._sides(leaf, direction)
            if not other:
                return self.totals[leaf, side]
            return jnp.where(where, self.totals[leaf, side], self.totals[leaf, -side])

        return {leaf: total(leaf) for leaf in self.region.leaves}

    def _sides(self, leaf: Value, direction: int) -> list[tuple[int, Any]]:
        """On which sides a leaf counts, and with which elements (None for all)."""
        way = self.region.signs[leaf]
        if way is None or way.minus:
            return [(direction if way is None else -direction, None)]
        sign = self.signs[leaf]
        assert sign is not None
        return [(side, side * direction * sign > 0) for side in (1, -1)]

    def _excitation(self, op: Op, part: int) -> Excitation:
        """Of a member's connections; Z- = Z+ - L(h) where L(h) is its own output."""
        total, send = self.connected[op].excite(part)
        output, sign = self.calls[op].output, self.signs[op]
        if part < 0 and output is not None and 1 in self.task.parts:
            larger, _ = self.connected[op].excite(1)
            output = output.astype(larger.dtype)
            total = jnp.maximum(larger - (output if sign is None else sign * output), 0)
        return total, send

    def _excited(self, p: jax.Array, part: int) -> tuple[dict[Source, jax.Array], Arrays]:
        """Eq. 6 for all connections: for each member, and each leaf, r per unit of h."""
        direction = part * self.direction
        excited = {op: self._excitation(op, direction) for op in self.region.members}
        totals = {op.outputs[0]: z for op, (z, _) in excited.items()} | self._crossing(direction)
        total, down = self._sum(totals)
        opens = self.region.opens
        ratios, read = down(p if opens else safe_divide(p, total))
        sent: dict[Source, jax.Array] = {
            (op, self.calls[op].sources[0]): shared(
                send(ratios[op.outputs[0]]), self.connected[op].h
            )
            for op, (_, send) in excited.items()
        }
        for leaf in self.region.leaves:
            for side, where in self._sides(leaf, direction):
                r = ratios[leaf]
                sent[Side(leaf, side, part * self.part)] = (
                    r if where is None else jnp.where(where, r, 0)
                )
        if opens:  # whose P ends where the sum does
            return sent, read
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

    def _of_others(self) -> tuple[dict[Source, jax.Array], Arrays, jax.Array]:
        """Eq. 19: what other summands get, and what is left for all the affine terms together."""
        h = {(op, i): self._towards(op, i) for op, i in self.region.others}
        y = self._value() if self.region.terms else jnp.zeros_like(self.p)
        sign = self.signs[self.region.output]
        y = jnp.maximum(self.direction * (y if sign is None else sign.astype(y.dtype) * y), 0)
        total, down = self._sum(h)
        if (depending := self._depending()) is None:
            p, own = self.p, jnp.full((), bool(self.region.terms))
        else:  # where one summand alone depends on the input, it is a signal and constants (R5)
            masks, own = depending
            number, masks_down = self._sum(masks, sizes=False)
            alone = number + own == 1
            p = jnp.where(alone, 0, self.p)
        r = safe_divide(p, total + y)
        ratios, passing = down(r)
        found: dict[Source, jax.Array] = {place: shared(ratios[place], h[place]) for place in h}
        affine = shared(r, y)
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
        if not self.region.terms:
            return others, jnp.zeros(self.p.shape, bool)
        terms = zip(self.region.terms, self.sums, strict=True)
        own, _ = self._summed({value: mask(value, a) for value, (_, a) in terms}, {}, False)
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
        return env[self.region.output], partial

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
        return self.calls[op].operand(i).offset()

    def _value(self) -> jax.Array:
        """The value of all affine terms and constants together."""
        env: Arrays = {}
        for value, (x, _) in zip(self.region.terms, self.sums, strict=True):
            env[value] = x
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
        return env[self.region.output]
