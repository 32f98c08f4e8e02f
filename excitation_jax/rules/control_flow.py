"""R9: loops, branches and shard_map; the rules apply inside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from .rule import Call, Flow, Inside, Plan, Refuse, Rule, Site, safe_divide


@dataclass(frozen=True)
class Within(Rule):
    """R9: scan, while with a fixed number of steps, cond, switch, shard_map."""

    equation = "R9 inside"

    def plan(self, site: Site) -> Plan:
        if site.op.nest is None:
            return Refuse(
                "the number of steps of this while loop depends on the data, and probability "
                "moves back step by step: use jax.lax.scan, or fori_loop with fixed bounds"
            )
        return Inside()


@dataclass(frozen=True)
class DeviceSum(Rule):
    """R1: a sum over devices (psum); each operand is summed by itself."""

    equation = "R1 affine, Eq. 6"

    def plan(self, site: Site) -> Plan:
        return Flow(site.signals)

    def backward(self, call: Call, p: Any) -> Sequence[jax.Array | None]:
        parts = p if isinstance(p, tuple) else (p,)
        h = [call.activation(i) for i in call.sources]
        others = {i: call.value(i) for i in range(len(call.operands))}

        def total(*h: jax.Array) -> tuple[jax.Array, ...]:
            every = {**others, **dict(zip(call.sources, h, strict=True))}
            sums = call.bind(*every.values())
            return sums if isinstance(sums, tuple) else (sums,)

        sums, transpose = jax.vjp(total, *h)
        shares = transpose(tuple(map(safe_divide, parts, sums)))
        found = {i: x * s for i, x, s in zip(call.sources, h, shares, strict=True)}
        return [found.get(i) for i in range(len(call.operands))]
