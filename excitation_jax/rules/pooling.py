"""R3: operations that select."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

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

        # In the probabilities' dtype: the order of the values stays the same.
        _, transpose = jax.vjp(select, *(call.value(i) for i in call.sources))
        shares = dict(zip(call.sources, transpose(p), strict=True))
        return [shares.get(i) for i in range(len(call.operands))]
