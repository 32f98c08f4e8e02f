"""R3: operations that select."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .rule import Call, Flow, Plan, Rule, Site, Through


@dataclass(frozen=True)
class Winner(Rule):
    """R3: P goes to the winner: max pooling, max, sort (the operation's own gradient, 5.4)."""

    equation = "R3 winner, Sec. 5.4"

    def plan(self, site: Site) -> Plan:
        if site.parent is not None:  # max(x, 0), max(x, x / 10): an activation
            return Through(site.parent, "R2 one child")
        return Flow(site.signals)

    def backward(self, call: Call, p: Any) -> Sequence[jax.Array | None]:
        def select(*signals: jax.Array) -> Any:
            replaced = dict(zip(call.sources, signals, strict=True))
            every = range(len(call.operands))
            return call.bind(*(replaced[i] if i in replaced else call.value(i) for i in every))

        if call.step.site.op.primitive in (lax.reduce_max_p, lax.reduce_min_p):
            return [_to_the_largest(call, p)]
        # In the probabilities' dtype: the order of the values stays the same.
        _, transpose = jax.vjp(select, *(call.value(i) for i in call.sources))
        shares = dict(zip(call.sources, transpose(p), strict=True))
        return [shares.get(i) for i in range(len(call.operands))]


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
