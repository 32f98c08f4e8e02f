"""R2, R3, R5 to R9: rules that pass probability on, whole: to a child, a winner, another place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..program import compat
from ..program.gates import signal_factor, tie
from ..program.primitives import is_product
from .arithmetic import times, unbroadcast
from .rule import Call, Flow, Inside, Refuse, Route, Rule, Site, Structure, Through, only_child


@dataclass(frozen=True)
class Elementwise(Rule):
    """R2, R5: P passes unchanged, since each output has one child.

    Also for what was computed from one value along several ways, x * sigmoid(x) say.
    """

    equation = "R2 one child"

    def route(self, site: Site) -> Route:
        if site.op.primitive is lax.convert_element_type_p:
            (before,), (after,) = site.op.inputs, site.op.outputs
            if before.floating != after.floating and before.dtype != bool:
                return Refuse("numbers become indices, or indices numbers; an index is no neuron")
        return only_child(site) or Refuse(
            "an elementwise function of several values of the explained input"
        )


@dataclass(frozen=True)
class Product(Rule):
    """R5, R7: a scale takes nothing; of a signal and a gate, the signal takes all."""

    equation = "R7 gate"

    def route(self, site: Site) -> Route:
        matrix = is_product(site.op)  # its factors' dimensions have another order
        if not matrix and (child := only_child(site)) is not None:
            return child
        signal = site.signals[0] if len(site.signals) == 1 else signal_factor(site.op, site.facts)
        if signal is None:
            return Refuse(tie(site.op, site.facts))
        return Flow((signal,)) if matrix else Through(site.op.inputs[signal])

    def backward(self, call: Call, p: jax.Array) -> Sequence[jax.Array | None]:
        (source,) = call.sources
        ones = [jnp.ones_like(call.value(i)) for i in range(2)]
        shape = lambda x: call.bind(*(x if i == source else ones[i] for i in range(2)))  # noqa: E731
        _, transpose = jax.vjp(shape, ones[source])
        return [transpose(p)[0] if i == source else None for i in range(2)]


@dataclass(frozen=True)
class Quotient(Rule):
    """R5: a / b: P goes to a; a b that depends on the input is a normaliser (LRN, softmax)."""

    equation = "R5 normaliser"

    def route(self, site: Site) -> Route:
        return only_child(site) or Through(site.op.inputs[site.signals[0]])


@dataclass(frozen=True)
class Difference(Rule):
    """R8: ``a - b``: P goes to a, b is inhibitory; with one constant it is a shift (R5)."""

    equation = "R8 difference, Eq. 6"

    def route(self, site: Site) -> Route:
        return only_child(site) or Through(site.op.inputs[site.signals[0]])


@dataclass(frozen=True)
class Winner(Rule):
    """R3: P to the winner: max pooling, max, sort, top_k (the operation's own gradient, 5.4)."""

    equation = "R3 winner, Sec. 5.4"
    selects = True

    def route(self, site: Site) -> Route:
        if site.parent is not None:  # max(x, 0), max(x, x / 10): an activation
            return Through(site.parent, "R2 one child")
        return Flow(site.signals)

    def backward(self, call: Call, p: Any) -> Sequence[jax.Array | None]:
        values = call.step.site.op.outputs

        def floating(outputs: Any) -> list[jax.Array]:
            parts = outputs if isinstance(outputs, tuple) else (outputs,)
            return [part for part, value in zip(parts, values, strict=True) if value.floating]

        def select(*signals: jax.Array) -> list[jax.Array]:  # without the places of top_k
            replaced = dict(zip(call.sources, signals, strict=True))
            every = range(len(call.operands))
            operands = (replaced[i] if i in replaced else call.value(i) for i in every)
            return floating(call.bind(*operands))

        if call.step.site.op.primitive in (lax.reduce_max_p, lax.reduce_min_p):
            return [_to_the_largest(call, p)]
        if call.step.site.op.primitive in (lax.max_p, lax.min_p):
            return _to_the_larger(call, p)
        # In the probabilities' dtype: the order of the values stays the same.
        _, transpose = jax.vjp(select, *(call.value(i) for i in call.sources))
        shares = dict(zip(call.sources, transpose(floating(p)), strict=True))
        return [shares.get(i) for i in range(len(call.operands))]


def _to_the_larger(call: Call, p: jax.Array) -> list[jax.Array | None]:
    """``p`` to the winner of two, in halves where they are equal.

    As the gradient does, but by comparing the two with each other, not with their maximum: see
    `_to_the_largest`.
    """
    a, b = call.value(0), call.value(1)
    largest = call.step.site.op.primitive is lax.max_p
    # Where one is no number there is no winner.
    even = jnp.where(jnp.isnan(a) | jnp.isnan(b), jnp.nan, jnp.where(a == b, 0.5, 0))
    wins = (a > b, a < b) if largest else (a < b, a > b)
    shares = [times(p, jnp.where(won, 1, even).astype(p.dtype)) for won in wins]
    return [
        unbroadcast(share, operand.shape) if i in call.sources else None
        for i, (share, operand) in enumerate(zip(shares, (a, b), strict=True))
    ]


def _to_the_largest(call: Call, p: jax.Array) -> jax.Array:
    """``p`` at the winners of a max or min over axes, in equal parts where several are equal.

    The gradient looks for elements equal to the maximum alone. XLA may compute a value twice, with
    different rounding, and then none is; the one at the maximum's place is a winner for sure.
    """
    op, x = call.step.site.op, call.value(0)
    axes = tuple(op.params["axes"])
    kept = tuple(axis for axis in range(x.ndim) if axis not in axes)
    rows = jnp.transpose(x, (*kept, *axes)).reshape(*(x.shape[axis] for axis in kept), -1)
    largest = op.primitive is lax.reduce_max_p
    place = (jnp.argmax if largest else jnp.argmin)(rows, axis=-1)
    value = (jnp.max if largest else jnp.min)(rows, axis=-1, keepdims=True)
    winners = (rows == value) | jax.nn.one_hot(place, rows.shape[-1], dtype=bool)
    chosen = winners * (p / winners.sum(-1).astype(p.dtype))[..., None]
    back = chosen.reshape(*(x.shape[axis] for axis in (*kept, *axes)))
    return jnp.transpose(back, tuple(int(axis) for axis in np.argsort((*kept, *axes))))


@dataclass(frozen=True)
class PlacedWinner(Rule):
    """R3: ``x.at[i].max(y)``, ``jax.ops.segment_max``: P to the winners, in equal parts.

    Where nothing that was placed wins, x does.
    """

    equation = "R3 winner, Sec. 5.4"

    def route(self, site: Site) -> Route:
        if not site.signals:
            return Refuse("only its indices depend on the explained input, not what they place")
        return Flow(site.signals)

    def backward(self, call: Call, p: jax.Array) -> Sequence[jax.Array | None]:
        op, (x, indices, y) = call.step.site.op, (call.value(i) for i in range(3))

        def placed(parts: jax.Array) -> jax.Array:
            return compat.scatter(lax.scatter_add_p, op.params, jnp.zeros_like(p), indices, parts)

        _, looked_up = jax.vjp(placed, y.astype(p.dtype))
        largest = looked_up(call.bind(x, indices, y))[0]
        inside = looked_up(jnp.ones_like(p))[0]
        wins = ((y == largest) & (inside > 0)).astype(p.dtype)
        count = placed(wins)
        ratio = p / jnp.maximum(count, 1)
        found = {0: jnp.where(count > 0, 0, p), 2: wins * looked_up(ratio)[0]}
        return [found[i] if i in call.sources else None for i in range(3)]


@dataclass(frozen=True)
class Move(Rule):
    """R6: P moves back by the operation's own transpose."""

    equation = "R6 structure"

    def route(self, site: Site) -> Route:
        if not site.signals:
            return Refuse("only its indices depend on the explained input, not what they pick")
        return Structure(site.signals)


@dataclass(frozen=True)
class Gather(Move):
    """R6; in a look-up of constants (an embedding), P of what was found goes to the index."""

    def route(self, site: Site) -> Route:
        return super().route(site) if site.signals else Flow((1,))

    def backward(self, call: Call, p: jax.Array) -> Sequence[jax.Array | None]:
        found = p.sum(axis=call.step.site.op.params["dimension_numbers"].offset_dims)
        parts = call.operands[1].shape[-1]  # an index into several axes is a row of several
        return [None, jnp.broadcast_to(found[..., None] / parts, call.operands[1].shape)]


@dataclass(frozen=True)
class Place(Rule):
    """R6: ``x.at[i].set(y)``: P goes to y where it was written, and to x elsewhere."""

    equation = "R6 structure"
    selects = True

    def route(self, site: Site) -> Route:
        if not site.signals:
            return Refuse("only its indices depend on the explained input, not what they place")
        return Flow(site.signals)

    def backward(self, call: Call, p: jax.Array) -> Sequence[jax.Array | None]:
        signals = {i: call.value(i) for i in call.sources}
        (found,) = jax.vjp(lambda parts: placed(call, parts, p), signals)[1](p)
        return [found.get(i) for i in range(3)]


def placed(call: Call, parts: dict[int, jax.Array], p: jax.Array) -> jax.Array:
    """A scatter's operand and updates put together; zeros for those that are not given."""
    op = call.step.site.op
    x, y = (parts[i] if i in parts else jnp.zeros(call.operands[i].shape, p.dtype) for i in (0, 2))
    return compat.scatter(op.primitive, op.params, x, call.operands[1], y)


@dataclass(frozen=True)
class Select(Rule):
    """R6: ``where(mask, a, b)``: P goes to the case that was taken."""

    equation = "R6 selection"

    def route(self, site: Site) -> Route:
        if site.parent is not None:
            return Through(site.parent, "R2 one child")
        if not site.signals:
            return Refuse("only its condition depends on the explained input, not its cases")
        return Structure(site.signals)


@dataclass(frozen=True)
class Within(Rule):
    """R9: scan, while with a fixed number of steps, cond, switch, shard_map."""

    equation = "R9 inside"

    def route(self, site: Site) -> Route:
        if site.op.nest is None:
            return Refuse(
                "the number of steps of this while loop depends on the data, and probability "
                "moves back step by step: use jax.lax.scan, or fori_loop with fixed bounds"
            )
        return Inside()
