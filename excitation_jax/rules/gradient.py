"""The gradient as a rule set, and what DeconvNet and guided backprop change in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..program import compat
from ..program.primitives import Kind, kind
from ..program.roles import rectified
from .passing import Move, Winner, Within
from .rule import Call, Flow, Refuse, Route, Rule, Site, Through
from .ruleset import RuleSet


@dataclass(frozen=True)
class OwnGradient(Rule):
    """The operation's own vector-Jacobian product, to every operand that depends on the input."""

    equation = "gradient"

    def route(self, site: Site) -> Route:
        op = site.op
        if any(v.inexact and not v.floating for v in (*op.inputs, *op.outputs)):
            return Refuse("it computes with complex numbers, and signals are real")
        # Integers have no slope: nothing reaches what they were computed from. Nor does anything
        # pass a stop_gradient: where slopes above it are infinite, 0 of them would be NaN.
        stops = op.primitive is lax.stop_gradient_p
        sources = tuple(i for i in site.signals if op.inputs[i].floating and not stops)
        same = kind(op.primitive) is Kind.IDENTITY or op.primitive is lax.convert_element_type_p
        if same and sources:
            return Through(op.inputs[0])  # in the signal's own precision
        return Flow(sources)

    def backward(self, call: Call, p: Any) -> Sequence[jax.Array | None]:
        outputs, every = call.step.site.op.outputs, range(len(call.operands))

        def apply(signals: list[jax.Array]) -> list[jax.Array]:
            replaced = dict(zip(call.sources, signals, strict=True))
            out = call.bind(*(replaced[i] if i in replaced else call.value(i) for i in every))
            parts = out if isinstance(out, tuple) else (out,)
            return [part for part, value in zip(parts, outputs, strict=True) if value.floating]

        given = p if isinstance(p, tuple) else (p,)
        out, pull = jax.vjp(apply, [_harmless(call, i, given) for i in call.sources])
        floating = [q for q, value in zip(given, outputs, strict=True) if value.floating]
        (shares,) = pull([q.astype(o.dtype) for q, o in zip(floating, out, strict=True)])
        found = dict(zip(call.sources, shares, strict=True))
        return [found.get(i) for i in every]


def _harmless(call: Call, i: int, p: tuple[jax.Array, ...]) -> jax.Array:
    """An operand, where nothing comes from above with a number whose slope is finite."""
    op, x = call.step.site.op, call.value(i)
    if kind(op.primitive) is Kind.ELEMENTWISE and x.shape == p[0].shape:
        return jnp.where(p[0] == 0, 0.5, x)
    if kind(op.primitive) is Kind.AFFINE and len(call.sources) == 2:
        return jnp.where(jnp.isfinite(x), x, 0)  # see `Call.weights`
    return x


@dataclass(frozen=True)
class Rectifier(OwnGradient):
    """A ReLU, max(x, 0): the signal passes where the unit is active, and where it is positive.

    At x = 0 the slope is 0, as that of `jax.nn.relu` is. Other maxima have their own gradient (see
    roles.py).

    Attributes:
      active: only where x > 0 (the gradient).
      positive: only where the signal is positive: DeconvNet (Zeiler and Fergus 2014); with
        ``active``, guided backprop (Springenberg et al. 2015).
    """

    active: bool = True
    positive: bool = False

    @property
    def equation(self) -> str:  # type: ignore[override]
        return "ReLU: signal > 0" if self.positive else "gradient"

    def backward(self, call: Call, p: Any) -> Sequence[jax.Array | None]:
        source = rectified(call.step.site.op, call.step.site.facts)
        if source is None:
            return super().backward(call, p)
        passed = jnp.maximum(p, 0) if self.positive else p
        if self.active:
            passed = jnp.where(call.value(source) > 0, passed, 0)
        return [passed if i == source else None for i in range(2)]


def _gradient_rules(name: str, rectifier: Rectifier) -> RuleSet:
    families: list[tuple[Rule, tuple[compat.Primitive, ...]]] = [
        (rectifier, (lax.max_p,)),
        # JAX's own divides by the number of elements that equal the maximum: see passing.py.
        (Winner(), (lax.reduce_max_p, lax.reduce_min_p)),
        (Within(), (compat.scan_p, compat.while_p, compat.cond_p, compat.shard_map_p)),
        # What moves elements is its own gradient without keeping its operands.
        (Move(), (lax.reshape_p, lax.transpose_p, lax.squeeze_p, lax.broadcast_in_dim_p)),
        (Move(), (lax.slice_p, lax.pad_p, lax.concatenate_p, lax.rev_p, compat.pvary_p)),
    ]
    table = {primitive: rule for rule, family in families for primitive in family}
    return RuleSet(name, MappingProxyType(table), default=OwnGradient())


#: Every operation's own gradient. Functions with a derivative of their own (`jax.custom_vjp`) are
#: opened: differentiated is what they compute.
GRADIENT = _gradient_rules("GRADIENT", Rectifier())
#: Zeiler and Fergus (ECCV 2014): a ReLU passes the positive part of the signal.
DECONVNET = _gradient_rules("DECONVNET", Rectifier(active=False, positive=True))
#: Springenberg et al. (ICLR 2015 workshop): the same, where the unit is active.
GUIDED = _gradient_rules("GUIDED", Rectifier(positive=True))
