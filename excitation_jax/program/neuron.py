"""The neurons that an operand is made of, and what lies between them and its reader (D0, D3, D4).

Constants behind an affine operation belong to its weights; behind anything else (the input, an
activation, a maximum, a normaliser, a gated product) to those of the operation that reads them. So
an operand may be several neurons, each with its own lower bound, moved, gated, scaled and shifted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from . import compat
from .affine import scaled
from .bounds import ElementBounds
from .facts import FactTable
from .gates import signal_factor
from .intervals import INF
from .known_numbers import selects
from .primitives import ADDITIONS, Kind, Layout, indices, is_product, kind, layout
from .reading import Amounts, Reading, fixed_operands, in_dtype
from .record import Role
from .slope import Signed, negative, sign_in_gate, sign_of, sign_of_gate, times, trend
from .trace import Op, Value


class Descent(NamedTuple):
    """The neurons of a value, on its side of all borders, with their lower bounds.

    ``ops`` lie in between.
    """

    value: Value
    ops: list[Op]
    neurons: dict[Value, float]


class Neurons:
    """The readings of a program's values."""

    def __init__(self, facts: FactTable):
        self.facts = facts
        self._found: dict[Value, Reading | None] = {}
        self._descents: dict[Value, Descent] = {}
        self._amounts: dict[Value, Amounts | None] = {}
        self.bounds = ElementBounds(facts)

    def reading(self, value: Value) -> Reading | None:
        """How an operand is made of other neurons; None where it is a neuron itself."""
        if value not in self._found:
            self._found[value] = self._read(value)
        return self._found[value]

    def low(self, value: Value) -> float:
        """The least lower bound of the neurons that an operand is made of."""
        reading = self.reading(value)
        if reading is None:
            return self.facts[value].interval.low
        found = [low for v, low in reading.neurons.items() if v not in reading.crossed]
        for part in (part for v in reading.crossed for part in self._beyond(v)):
            neurons = self._descent(part).neurons
            found += [low for v, low in neurons.items() if not self._across(v)]
        return min(found, default=self.facts[value].interval.low)

    def sign(self, value: Value) -> Signed | None:
        """Of the constants between an operand and its neurons."""
        reading = self.reading(value)
        return None if reading is None else reading.sign

    def factor_sign(self, op: Op) -> Signed | None:
        """Of the constant factor of a matrix product without contraction."""
        at = next(i for i, v in enumerate(op.inputs) if self.facts[v].active)
        gated = all(self.facts[v].active for v in op.inputs)
        return None if gated else _outer(op, at, None, self.facts)

    def _gates(self, op: Op) -> int | None:
        """The signal that an operation multiplies with a gate; None where it is no such product."""
        if op.primitive is not lax.mul_p or self.facts[op.outputs[0]].parent is not None:
            return None
        if not all(self.facts[v].active for v in op.inputs):
            return None
        at = signal_factor(op, self.facts)
        if at is None:
            return None
        gate = op.inputs[1 - at]
        known = self.facts[gate]
        if len(gate.shape) != len(op.outputs[0].shape):
            return None
        if known.role is Role.NORMALISER:  # without constants, what it makes is the neuron (R5)
            return None if sign_in_gate(gate, len(gate.shape), self.facts) is None else at
        late = sign_of_gate(gate, len(gate.shape), self.facts)
        return at if known.interval.low >= 0 or late is not None else None

    def _followed(self, op: Op) -> list[int]:
        """The operands of which an output's elements are those, moved and scaled; maybe none."""
        if op.nest is not None:
            return []
        active = [i for i, v in enumerate(op.inputs) if self.facts[v].active]
        if selects(op, self.facts):
            return active
        if kind(op.primitive) is Kind.MOVE:
            placed = all(i not in indices(op.primitive) and op.inputs[i].floating for i in active)
            known = op.primitive not in (compat.pvary_p, compat.reshard_p)
            devices = op.primitive in (lax.all_gather_p, lax.all_to_all_p, lax.ppermute_p)
            return active if placed and known and not devices else []
        at = scaled(op, self.facts)
        at = self._gates(op) if at is None else at
        return [] if at is None else [at]

    def crossed(self, value: Value) -> Amounts | None:
        """What goes beside a value across borders: it is made of neurons on the other side.

        None where its own value says the same, and for those that came across no border.
        """
        if value not in self._amounts:
            found = [self._descent(part) for part in self._beyond(value)]
            signs = [self._sign(of.value, of.ops, of.neurons, {}) is not None for of in found]
            made = any(signs) or any(not self._moves(op) for of in found for op in of.ops)
            one = functools.partial(self._beside, value)
            sign = one() if any(signs) else None
            self._amounts[value] = Amounts(one(), one(), one(), one(), sign) if made else None
        return self._amounts[value]

    def handed(self, values: Iterable[Value]) -> dict[Value, Amounts]:
        """What goes beside values for the sake of these, which came across a border."""
        found: set[Value] = set()
        for value in values:
            found.add(value)
            for part in self._beyond(value):
                found.update(v for v in self._descent(part).neurons if self._across(v))
        beside = ((value, self.crossed(value)) for value in found)
        return {value: amounts for value, amounts in beside if amounts is not None}

    def _beside(self, value: Value) -> Value:
        dtype = jnp.promote_types(value.dtype, jnp.float32)
        return Value(value.shape, dtype, varying=value.varying, steps=value.steps)

    def _across(self, value: Value) -> list[Value]:
        """The neurons that a value is on the other side of the border that it came across."""
        parts = self.facts.across.get(value, ())
        return [v for v in parts if self.facts[v].active and v.floating]

    def _beyond(self, value: Value) -> list[Value]:
        """What a value is on the other sides of all borders that it came across."""
        pending, found = self._across(value), dict[Value, None]()
        while pending:
            part = pending.pop()
            if part not in found:
                found[part] = None
                for neuron in self._descent(part).neurons:
                    pending.extend(self._across(neuron))
        return list(found)

    def _descent(self, value: Value) -> Descent:
        if value not in self._descents:
            made: dict[Value, Op] = {}
            neurons: dict[Value, float] = {}
            self._descend(value, made, neurons, False)
            ops = sorted(dict.fromkeys(made.values()), key=lambda op: op.index)
            self._descents[value] = Descent(value, ops, neurons)
        return self._descents[value]

    def _read(self, value: Value) -> Reading | None:
        if not self.facts[value].active or not value.floating:
            return None
        _, ops, neurons = self._descent(value)
        crossed = {
            v: amounts
            for v, low in neurons.items()
            # Behind a normaliser, of what has a bound there, h is max(x, 0).
            if low == self.facts[v].interval.low and (amounts := self.crossed(v)) is not None
        }
        sign = self._sign(value, ops, neurons, crossed)
        bounds = {
            v: self.bounds.lower(v)
            for v in neurons
            if v not in crossed and self.bounds.differ(v)
        }  # fmt: skip
        lows = set(neurons.values())
        plain = sign is None and (value in neurons or self._is_plain(ops, lows, value))
        if plain and not bounds and not crossed:
            return None
        moves = frozenset(filter(self._moves, ops))
        scales = [op for op in ops if op not in moves]
        gates = frozenset(op for op in scales if scaled(op, self.facts) is None)
        return Reading(value, neurons, bounds, tuple(ops), sign, gates, moves, crossed)

    def _moves(self, op: Op) -> bool:
        return kind(op.primitive) is Kind.MOVE or selects(op, self.facts)

    def _is_plain(self, ops: Sequence[Op], lows: set[float], value: Value) -> bool:
        """Whether the operand's own value less its own bound says the same."""
        low = self.facts[value].interval.low
        scales = [op for op in ops if not self._moves(op)]
        if not scales:
            return lows == {low}
        for op in scales:
            others = [self.facts[v] for v in op.inputs if not self.facts[v].active]
            gated = not others and len(op.inputs) == 2
            if gated or any(known.known is None for known in others):
                return False
            if low == -INF and op.primitive in (*ADDITIONS, lax.sub_p):
                return False
        return len(lows) == 1 and len(ops) == len(scales)

    def _descend(
        self, value: Value, ops: dict[Value, Op], neurons: dict[Value, float], normalised: bool
    ) -> None:
        if value in ops or value in neurons:
            return
        op = self.facts[value].producer
        followed = [] if op is None else self._followed(op)
        stops = not followed or self._is_own(value, op)
        if not stops and op is not None and not self._moves(op):
            stops = self._is_whole(value)
        if stops or op is None:
            low = self.facts[value].interval.low
            neurons[value] = low if low >= 0 or not normalised else -INF
            return
        ops[value] = op
        gate = self._gates(op) if scaled(op, self.facts) is None else None
        if gate is not None:
            normalised |= self.facts[op.inputs[1 - gate]].role is Role.NORMALISER
        for i in followed:
            self._descend(op.inputs[i], ops, neurons, normalised)

    def _is_own(self, value: Value, op: Op | None) -> bool:
        """Whether the constants that make a value belong to the sum below them."""
        scales = op is not None and scaled(op, self.facts) is not None
        return scales and self.facts[value].affine

    def _is_whole(self, value: Value) -> bool:
        """Whether the constants behind a neuron make it rise: then it is the neuron with them."""
        below = value
        while True:
            op = self.facts[below].producer
            at = None if op is None else scaled(op, self.facts)
            if op is None or at is None:
                break
            below = op.inputs[at]
        return trend(below, self.facts) < 0 < trend(value, self.facts)

    def _sign(
        self, value: Value, ops: Sequence[Op], neurons: Mapping[Value, float],
        crossed: Mapping[Value, Amounts],
    ) -> Signed | None:  # fmt: skip
        """Of the constants in `ops`, and of those beyond a border."""
        found: dict[Value, Signed | None] = dict.fromkeys(neurons)
        found.update({v: _read_beside(v, beside.sign) for v, beside in crossed.items()})
        for op in ops:
            if self._moves(op):
                found.update((out, _moved(op, k, found)) for k, out in enumerate(op.outputs))
                continue
            (out,) = op.outputs
            at = scaled(op, self.facts)
            at = self._gates(op) if at is None else at
            assert at is not None
            own: Signed | None = None
            if is_product(op):
                found[out] = _outer(op, at, found[op.inputs[at]], self.facts)
                continue
            if op.primitive in (lax.mul_p, lax.div_p):
                gate = self.facts[op.inputs[1 - at]].active
                own = (
                    sign_of_gate(op.inputs[1 - at], len(out.shape), self.facts)
                    if gate
                    else sign_of(op, 1 - at, self.facts)
                )
            elif op.primitive is lax.neg_p or (op.primitive is lax.sub_p and at == 1):
                own = negative(len(out.shape))
            both = times(found[op.inputs[at]], own)
            assert both is None or isinstance(both, Signed)
            found[out] = both
        return found[value]


def _read_beside(value: Value, sign: Value | None) -> Signed | None:
    return None if sign is None else Signed(value.shape, lambda read: read(sign))


def _moved(op: Op, k: int, signs: Mapping[Value, Signed | None]) -> Signed | None:
    """The signs of the k-th thing that a move makes of several values."""
    out, rank = op.outputs[k], len(op.outputs[k].shape)
    given = {v: signs[v] for v in op.inputs if v in signs}
    known = [sign for sign in given.values() if sign is not None]
    if not known:
        return None
    if len(given) == 1 and all(size == 1 for size in known[0].shape):
        one = known[0]
        return Signed((1,) * rank, lambda read: one.read(read).reshape((1,) * rank), one.minus)
    if layout(op.primitive) is Layout.PERMUTED:
        order = op.params["permutation"]
        shape = tuple(known[0].shape[i] for i in order)
        return Signed(shape, lambda read: jnp.transpose(known[0].read(read), order))

    def read_all(read: Callable[[Value], Any]) -> jax.Array:
        def operand(i: int, v: Value) -> Any:
            if v not in given and i in fixed_operands(op):
                return v.literal if v.literal is not None else read(v)
            sign = given.get(v)
            one = jnp.ones(v.shape)
            spread = one if sign is None else one * sign.read(read)
            return compat.mark_varying(spread, v.varying)

        operands = [operand(i, v) for i, v in enumerate(op.inputs)]
        return compat.bind(op.primitive, in_dtype(op, None), *operands)[k]

    return Signed(out.shape, read_all)


def _outer(op: Op, at: int, sign: Signed | None, facts: FactTable) -> Signed | None:
    """The signs of a product without contraction, with a constant."""
    scale, (out,) = op.inputs[1 - at], op.outputs
    if sign is None and facts[scale].interval.low >= 0:
        return None

    def read_both(read: Callable[[Value], Any]) -> jax.Array:
        number = scale.literal if scale.literal is not None else read(scale)
        signal = jnp.ones(op.inputs[at].shape)
        signal = signal if sign is None else signal * sign.read(read)
        pair = (signal, jnp.sign(number).astype(signal.dtype))
        params = {**op.params, "preferred_element_type": signal.dtype}
        return compat.bind(op.primitive, params, *(pair if at == 0 else pair[::-1]))[0]

    return Signed(out.shape, read_both)
