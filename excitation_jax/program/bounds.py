"""The lower bounds of a neuron's elements, where they have different ones (Eq. 20, D4).

A ReLU's and a tanh's features side by side, then averaged; a window that hangs over the border; an
average behind a BatchNorm: each element has a bound of its own, which may depend on constants. It
is the interval arithmetic of intervals.py on arrays, evaluated with the model. Into loops and
branches, from step to step and out again, bounds go beside their values.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from . import compat
from .affine import scaled
from .facts import FactTable
from .intervals import FILL, INF
from .primitives import ADDITIONS, Kind, indices, is_product, kind
from .record import Role
from .roles import mixture
from .trace import Op, Value

#: Stands for infinity, and by what least weight it still does.
LARGE, NONE = 1e30, 1e-12

#: Functions that do not fall, of which a bound of the operand gives one.
_RISING = (
    lax.tanh_p, lax.logistic_p, lax.exp_p, lax.exp2_p, lax.expm1_p, lax.erf_p, lax.atan_p,
    lax.asinh_p, lax.sinh_p, lax.max_p, lax.min_p, lax.clamp_p,
)  # fmt: skip

#: Reads a constant's array.
Reader = Callable[[Value], Any]
#: The bounds of a value's elements, below and above, from a reader.
Ends = Callable[[Reader], tuple[Any, Any]]


@dataclass(frozen=True, eq=False)
class Bounds:
    """The lower bounds of a value's elements, from a reader of constants.

    ``crossed``: the values that came across a border, of which the bounds are read as well.
    """

    read: Callable[[Reader], jax.Array]
    crossed: frozenset[Value] = frozenset()


class ElementBounds:
    """Which values' elements have different bounds, and these."""

    def __init__(self, facts: FactTable):
        self.facts = facts
        self._differ: dict[Value, bool] = {}
        self._found: dict[Value, Ends] = {}
        self._beside: dict[Value, tuple[Value, Value]] = {}
        self._behind: dict[Value, frozenset[Value]] = {}

    def lower(self, value: Value) -> Bounds:
        """The lower bounds of a value's elements."""
        ends = self._ends(value)
        return Bounds(lambda read: ends(read)[0], self._crossed(value))

    def beside(self, value: Value) -> tuple[Value, Value]:
        """What stands for the bounds of a value that came across a border: below and above."""
        if value not in self._beside:
            low, high = (
                Value(value.shape, np.dtype(float), varying=value.varying, steps=value.steps)
                for _ in range(2)
            )
            self._beside[value] = low, high
        return self._beside[value]

    def ends(self, value: Value, read: Reader) -> tuple[jax.Array, jax.Array]:
        """The bounds of a value's elements; a constant is its own."""
        if self.facts[value].active:
            return self._ends(value)(read)
        number = jnp.asarray(value.literal if value.literal is not None else read(value), float)
        return number, number

    def handed(self, values: Iterable[Value]) -> set[Value]:
        """All whose bounds cross borders for the sake of these, which came across one."""
        found: set[Value] = set()
        pending = list(values)
        while pending:
            value = pending.pop()
            if value not in found:
                found.add(value)
                for part in self._across(value):
                    pending.extend(self._crossed(part))
        return found

    def _across(self, value: Value) -> list[Value]:
        """What a value is on the other side of the border that it came across; none for others."""
        return [v for v in self.facts.across.get(value, ()) if v.floating]

    def _crossed(self, value: Value) -> frozenset[Value]:
        """The values from across borders whose bounds those of a value are made of."""
        if value in self._behind:
            return self._behind[value]
        op, found = self.facts[value].producer, frozenset[Value]()
        if self.facts[value].active and self.differ(value):
            if self._across(value):
                found = frozenset([value])
            elif op is not None and value not in self.facts.explained:
                found = found.union(*(self._crossed(v) for v in op.inputs if v.floating))
        self._behind[value] = found
        return found

    def _differ_across(self, value: Value) -> bool:
        """Whether bounds differ by element, or by step or branch, of what came across a border."""
        parts = self._across(value)
        active = [v for v in parts if self.facts[v].active]
        # Constants count beside neurons; where no element is one yet, h is 0 whatever its bound.
        beside = any(size > 1 for size in self.facts[value].activity.shape)
        lows = {self.facts[v].interval.low for v in (parts if beside else active)}
        if -INF in lows:  # of what is not below 0, h is the same without a bound
            lows.discard(0)
        known = set(self._differ)
        self._differ[value] = False  # unless what a step hands on says otherwise
        grows = value in self.facts.widened
        found = grows or len(lows) > 1 or any(map(self.differ, active))
        if found:
            self._differ = {v: d for v, d in self._differ.items() if d or v in known}
        return found

    def differ(self, value: Value) -> bool:
        """Whether a neuron's elements have different lower bounds, as far as is known (D4)."""
        if value not in self._differ:
            self._differ[value] = self._bounds_differ(value)
        return self._differ[value]

    def _bounds_differ(self, value: Value) -> bool:
        op, known = self.facts[value].producer, self.facts[value]
        if value in self.facts.explained:
            return self.facts.hints.varies
        if op is None or op.nest is not None or not known.active:
            return known.active and self._differ_across(value)
        active = [v for v in op.inputs if self.facts[v].active and v.floating]
        if not active or self._chooses(op):
            return False
        below, how = any(map(self.differ, active)), kind(op.primitive)
        if how is Kind.MOVE:
            lows = {self.facts[v].interval.low for v in active}
            return below or len(lows) > 1 or (min(lows) > -INF and not self._fills(op) <= lows)
        interval = self.facts[active[0]].interval
        if scaled(op, self.facts) is not None:
            if is_product(op):
                return False
            others = [self.facts[v] for v in op.inputs if not self.facts[v].active]
            unknown = any(x.known is None for x in others)
            return below or (unknown and (interval.low > -INF or interval.high < INF))
        if self.facts.pools(op):  # by weights of which it is not looked up how they add up
            return below or (-INF < interval.low < 0)
        follows = op.primitive in _RISING or self._divides_by(op) is not None
        if follows and len(active) == 1 and active[0] in self._varying:
            return below
        if known.parent is not None or self.facts.is_learned_layer(op):
            return False  # a function of one neuron has a bound of its own, a layer none
        if how is Kind.SUM and op.primitive in (lax.reduce_window_sum_p, lax.cumsum_p):
            return below or (-INF < interval.low < 0)  # fewer summands at the border
        if known.role is Role.NORMALISER:
            return False
        pairs = op.primitive in (*ADDITIONS, lax.sub_p, lax.mul_p, lax.max_p, lax.min_p)
        return below and (pairs or how is Kind.WINNER or op.primitive is lax.reduce_sum_p)

    @functools.cached_property
    def _varying(self) -> set[Value]:
        """A loop's states whose bounds vary from step to step: written out, each step has its own.

        And what moves, adds, gates or is a function of such a state, on either side of the border;
        or scales it, of one whose bound falls with each step.
        """
        varying = set()
        for value in self.facts.across:
            parts = [self.facts[part] for part in self._across(value)]
            known = all(facts.interval.low > -INF or facts.affine for facts in parts)
            if known and len({facts.interval.low for facts in parts}) > 1:
                varying.add(value)
        return self._made_of(self.facts.widened, True) | self._made_of(varying, False)

    def _made_of(self, values: Iterable[Value], unknown: bool) -> set[Value]:
        """These, and what follows their bounds; also where constants are not known."""
        found, before = set(values), -1
        linear = (*ADDITIONS, lax.sub_p, lax.mul_p, lax.div_p, lax.neg_p)
        while len(found) != before:
            before = len(found)
            for _, op in self.facts.program.all_ops() if found else ():
                moves = kind(op.primitive) is Kind.MOVE
                follows = moves or op.primitive in linear or op.primitive in _RISING
                if op.nest is not None or not follows or found.isdisjoint(op.inputs):
                    continue
                beside = (self.facts[v] for v in op.inputs if v not in found)
                if unknown or all(facts.active or facts.known is not None for facts in beside):
                    found.update(op.outputs)
            across = self.facts.across.items() if found else ()
            found.update(value for value, parts in across if not found.isdisjoint(parts))
        return found

    def _divides_by(self, op: Op) -> Value | None:
        """What an operation divides a constant by, where that cannot be 0."""
        if op.primitive is not lax.div_p or self.facts[op.inputs[0]].active:
            return None
        interval = self.facts[op.inputs[1]].interval
        return op.inputs[1] if interval.low > 0 or interval.high < 0 else None

    def _chooses(self, op: Op) -> bool:
        """Whether which elements are meant depends on the input."""
        which = indices(op.primitive)
        return any(self.facts[v].active for i, v in enumerate(op.inputs) if i in which)

    def _fills(self, op: Op) -> set[float]:
        """What an operation that moves elements puts beside them."""
        floating = [v for v in op.inputs if v.floating]
        return {self._number(v) for v in floating if not self.facts[v].active}

    def _number(self, constant: Value) -> float:
        """The number that all elements of a constant are; NaN where it is not known."""
        known = self.facts[constant].known
        return float("nan") if known is None else float(known)

    def _ends(self, value: Value) -> Ends:
        """A reader of the bounds of a value's elements, below and above."""
        if value not in self._found:
            self._found[value] = self._find_ends(value)
        return self._found[value]

    def _find_ends(self, value: Value) -> Ends:
        interval, op = self.facts[value].interval, self.facts[value].producer
        moves = op is not None and kind(op.primitive) is Kind.MOVE and not self._chooses(op)
        fills = op is not None and moves and self._fills(op)
        if not self.differ(value) and not fills:
            return lambda read: (_full(value, interval.low), _full(value, interval.high))
        if value in self.facts.explained:
            said = self.facts.hints
            return lambda read: (_full(value, said.low), _full(value, said.high))
        if self._across(value):
            low, high = self.beside(value)
            return lambda read: (read(low), read(high))
        assert op is not None
        below = {v: self._ends(v) for v in op.inputs if self.facts[v].active and v.floating}
        least = min(self.facts[v].interval.low for v in below)
        fixed, at = indices(op.primitive), scaled(op, self.facts)
        divisor = self._divides_by(op)
        mixed = mixture(op, self.facts)  # of which the arithmetic of sums is too wide

        def constant(read: Reader, v: Value) -> jax.Array:
            return jnp.asarray(v.literal if v.literal is not None else read(v), float)

        def both(read: Reader) -> tuple[Any, Any]:
            found = {v: ends(read) for v, ends in below.items()}
            if mixed is not None:
                (a, b), (c, d) = (self._ends(v)(read) for v in mixed)
                return jnp.minimum(a, c), jnp.maximum(b, d)
            if at is not None:
                other = [constant(read, v) for i, v in enumerate(op.inputs) if i != at]
                return _scaled_ends(op, at, found[op.inputs[at]], other)
            if op.primitive is lax.sub_p:
                (a, b), (c, d) = (found[v] for v in op.inputs)
                return a - d, b - c
            if divisor is not None:
                parts = [constant(read, op.inputs[0]) / end for end in found[divisor]]
                return functools.reduce(jnp.minimum, parts), functools.reduce(jnp.maximum, parts)
            if op.primitive is lax.mul_p:
                a, b = (found[v] for v in op.inputs)
                corners = [jnp.where((x == 0) | (y == 0), 0, x * y) for x in a for y in b]
                down, up = jnp.minimum, jnp.maximum
                return functools.reduce(down, corners), functools.reduce(up, corners)

            pools = self.facts.pools(op)

            def operand(i: int, v: Value, end: int) -> Any:
                if v in found:
                    return jnp.clip(found[v][end], -LARGE, LARGE) if pools else found[v][end]
                if i in fixed:
                    return jnp.asarray(v.literal if v.literal is not None else read(v))
                # A constant is its own bound; one that stands for minus infinity is nobody's.
                number = constant(read, v)
                return jnp.where(number <= FILL, least, number)

            params = dict(op.params)
            if pools:
                params["preferred_element_type"] = None
            made = [
                compat.bind(
                    op.primitive, params, *(operand(i, v, end) for i, v in enumerate(op.inputs))
                )[op.outputs.index(value)]
                for end in (0, 1)
            ]
            if pools:  # so that 0 times a missing bound is 0
                made = [jnp.where(abs(x) >= LARGE * NONE, jnp.sign(x) * INF, x) for x in made]
            return made[0], made[1]

        return both


def _full(value: Value, number: Any) -> jax.Array:
    array = jnp.broadcast_to(jnp.asarray(number, float), value.shape)
    return compat.mark_varying(array, value.varying)


def _scaled_ends(op: Op, at: int, ends: tuple[Any, Any], others: list[jax.Array]) -> tuple:
    """The bounds of what constants make of a value."""
    low, high = ends
    if op.primitive is lax.neg_p:
        return -high, -low
    if op.primitive is lax.sub_p:
        (other,) = others
        return (low - other, high - other) if at == 0 else (other - high, other - low)
    if op.primitive in ADDITIONS:
        return low + others[0], high + others[0]
    if op.primitive in (lax.mul_p, lax.div_p):
        factor = others[0] if op.primitive is lax.mul_p else 1 / others[0]
        parts = [jnp.where(factor == 0, 0, end * factor) for end in ends]
        return jnp.minimum(*parts), jnp.maximum(*parts)
    return ends
