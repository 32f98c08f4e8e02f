"""R1, R4: rules that share probability out: affine operations of one signal, sums of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..program.affine import centred, put_back
from ..program.gates import signal_factor, tie
from ..program.primitives import is_product
from .arithmetic import safe_divide, shared, times, unbroadcast
from .connections import (
    Connections,
    Excitation,
    by_sign,
    excitation,
    fold_input_sign,
    fold_sign,
    positive,
    with_constants,
)
from .evenly import handed_on, left_over
from .passing import Product, placed
from .rule import Call, Flow, Refuse, Route, Rule, Site, Step, Through, only_child


@dataclass(frozen=True)
class Affine(Rule):
    """R1: ``h * L+^T(P / L+(h))`` (Eq. 6, 17, 18, Alg. 1).

    L+ is the operation with the positive part of its effective weights: with the constant
    scale behind it (a BatchNorm's, say) counted in, so that a negative scale makes the negative
    weights excitatory. Operations without weights (pooling, sums) are their own L+. In a product
    of two values that depend on the input, the one that only scales is the weights (R7): the
    probabilities of attention, over its values.

    Attributes:
      effective: count the scale behind the operation in.
      clamped: h is the activation of `Call.activation`; otherwise the value as it is.
      merges: as a sum (an average pooling, say, also one that is written with weights), is one
        neuron with the layers that it alone reads.
      evenly: where nothing excites, all children get the same (D10).
      normalises: divide by Z. Without, a child gets ``P h w+``, which is no probability; then
        ``merges`` and ``evenly`` must be False (see `ruleset.without_norm`).
      sides: of a contrast, those that are sent: the classifier's (1), the negated one's (-1).
    """

    effective: bool = True
    clamped: bool = True
    merges: bool = False
    evenly: bool = False
    normalises: bool = True
    sides: tuple[int, ...] = (1, -1)
    equation = "R1 affine, Eq. 6"
    contrasts = True
    shares = True
    connects = True

    @property
    def directed(self) -> bool:  # type: ignore[override]
        return self.effective

    @property
    def reverses(self) -> bool:  # type: ignore[override]
        return self.normalises and self.sides == (1, -1)

    def route(self, site: Site) -> Route:
        if is_product(site.op):
            return Product().route(site)
        if len(site.signals) == 1:
            return Flow(site.signals)
        signal = signal_factor(site.op, site.facts)
        if signal is None:
            return Refuse(tie(site.op, site.facts))
        return Flow((signal,))

    def backward(self, call: Call, p: jax.Array) -> Sequence[jax.Array | None]:
        if is_product(call.step.site.op):
            return Product().backward(call, p)
        connected, (source,) = self.connections(call, p), call.sources
        totals = {}

        def excite(part: int) -> jax.Array:
            totals[part], send = connected.excite(part)
            return send(self._per_child(p, totals[part]))

        sides = self.sides if call.contrastive else (1,)
        first, *rest = (excite(1) if side > 0 else -excite(-1) for side in sides)  # Eq. 8, 9
        shares = self._share(sum(rest, first), connected.h)
        if call.evenly:
            shares += handed_on(call, source, left_over(p, totals[1]))
        return [shares if i == source else None for i in range(len(call.operands))]

    def connections(self, call: Call, p: jax.Array) -> Connections:
        (source,) = call.sources
        weights = call.weights(but=source)
        if not weights or call.step.site.facts.pools(call.step.site.op):
            return self._summed(call, source, weights)
        h = call.activation(source) if self.clamped else call.value(source)
        # Or else XLA may compute the positive parts of all weights early, and hold them all.
        p, weights = lax.optimization_barrier((p, weights))
        # Weights that depend on the input (attention) scale, but have no sign of their own.
        own = not any(call.step.site.operands[i].active for i in weights)
        sign = call.output_sign if self.effective and own else None
        before = call.input_signs[source] if self.effective and call.input_signs else None
        if sign is not None and (folded := fold_sign(call, sign)) is not None:
            (i, weight_sign), sign = folded, None
            weights[i] = weights[i] * weight_sign
        if before is not None and (folded := fold_input_sign(call, before)) is not None:
            (i, weight_sign), before = folded, None
            weights[i] = weights[i] * weight_sign
        turned = call.direction if self.effective and own else 1

        def one_side(part: int) -> Excitation:
            if before is None:
                return excitation(call, positive(weights, part), h)
            # These signs vary along more than the features: some children by w+, some by w-.
            up, send_up = excitation(call, positive(weights, part), jnp.where(before > 0, h, 0))
            down, send_down = excitation(
                call, positive(weights, -part), jnp.where(before < 0, h, 0)
            )
            return up + down, lambda r: jnp.where(before > 0, send_up(r), send_down(r))

        def excite(part: int) -> Excitation:
            if sign is None:
                return one_side(part * turned)
            # The scale varies along more than the features: each unit takes its own side.
            return by_sign(sign, one_side(part * turned), one_side(-part * turned))

        return Connections(h, excite)

    def _summed(self, call: Call, source: int, weights: dict[int, jax.Array]) -> Connections:
        """Of a sum, which is a layer where the summands are products with learned constants.

        Args:
          weights: of a pooling, which are not negative.
        """
        op = call.step.site.op
        signs = call.input_signs[source] if call.input_signs else None
        if not self.clamped or signs is None or not call.step.site.facts.is_learned_layer(op):
            h = call.towards(source, call.direction) if self.clamped else call.value(source)
            constant = call.constants(source) if self.clamped else None
            picks = self.clamped and call.step.site.facts.picks(op)
            if constant is None and not picks:
                return Connections(h, lambda part: excitation(call, positive(weights, part), h))
            active = jnp.ones_like(h)
            active = active if constant is None else jnp.where(constant, 0, active)
            return with_constants(call, h, active, weights)
        h = call.activation(source)

        def one_side(part: int) -> Excitation:
            rises = part * call.direction * signs > 0
            total, send = excitation(call, {}, jnp.where(rises, h, 0))
            return total, lambda r: jnp.where(rises, send(r), 0)

        def excite(part: int) -> Excitation:
            if call.output_sign is None:
                return one_side(part)
            return by_sign(call.output_sign, one_side(part), one_side(-part))

        return Connections(h, excite)

    def joins(self, step: Step) -> bool:
        return step.site.facts.connects(step.site.op)

    def both(self, call: Call, p: tuple[jax.Array, jax.Array]) -> Sequence[jax.Array | None]:
        """Z- = Z+ - L(h) needs no convolution where L(h) is the operation's own output."""
        connected, (source,) = self.connections(call, p[0]), call.sources
        (total, send), (less, send_less) = connected.excite(1), connected.excite(-1)
        if call.output is not None:
            less = jnp.maximum(total - call.output.astype(call.dtype), 0)
        ratios = send(self._per_child(p[0], total)) + send_less(self._per_child(p[1], less))
        shares = self._share(ratios, connected.h)
        if call.evenly:
            shares += handed_on(call, source, left_over(p[0], total) + left_over(p[1], less))
        return [shares if i == source else None for i in range(len(call.operands))]

    def _per_child(self, p: jax.Array, total: jax.Array) -> jax.Array:
        """P / Z: what a child gets per unit of its excitation, of which ``total`` is the sum."""
        return safe_divide(p, total) if self.normalises else p

    def _share(self, ratio: jax.Array, h: jax.Array) -> jax.Array:
        """Where h is not finite, Z is not either; without Z, h itself must say so."""
        return shared(ratio, h) if self.normalises else times(ratio, h)


@dataclass(frozen=True)
class Sum(Rule):
    """R4: ``P * h_a / (h_a + h_b)`` (Eq. 19); a constant summand takes nothing (R5).

    In a difference (R8) the subtrahend excites what wants the difference smaller, and where it is
    negative the difference itself. A statistic that is subtracted from its own value takes nothing.

    Attributes:
      clamped: h as in `Affine`; otherwise the signed values a / (a + b).
      skips: "share", or "nothing": at the sum of an identity skip and a residual branch the
        branch gets everything (IJCV18, Fig. 7c).
      merges: is one neuron with the layers that it alone reads.
      evenly: two summands of which neither is active get the same (D10).
    """

    clamped: bool = True
    skips: str = "share"
    merges: bool = False
    evenly: bool = False
    equation = "R4 sum, Eq. 19"
    shares = True

    def route(self, site: Site) -> Route:
        if (statistic := centred(site.op, site.facts)) is not None:
            return Through(site.op.inputs[1 - statistic], "R5 normaliser")
        if (back := put_back(site.op, site.facts)) is not None:
            return Through(site.op.inputs[1 - back], "R5 normaliser")
        return only_child(site) or Flow(site.signals)

    def backward(self, call: Call, p: jax.Array) -> Sequence[jax.Array]:
        parts = zip(self.split(call, p), call.operands, strict=True)
        return [unbroadcast(share, operand.shape) for share, operand in parts]

    def left_out(self, step: Step) -> int | None:
        return step.identity_skip if self.skips == "nothing" else None

    def split(self, call: Call, p: jax.Array) -> list[jax.Array]:
        """Both summands' shares, at each element of the sum."""
        if (skip := self.left_out(call.step)) is not None:
            return [jnp.zeros_like(p) if i == skip else p for i in range(2)]
        second = -call.direction if call.step.site.op.primitive is lax.sub_p else call.direction
        ways = (call.direction, second)
        h = [call.towards(i, ways[i]) if self.clamped else call.value(i) for i in range(2)]
        ratio = safe_divide(p, h[0] + h[1])
        shares = [shared(ratio, h[0]), shared(ratio, h[1])]
        if call.evenly:
            field = [call.field(i) for i in range(2)]
            even = safe_divide(left_over(p, h[0] + h[1]), field[0] + field[1])
            shares = [share + even * one for share, one in zip(shares, field, strict=True)]
        for i in range(2) if self.clamped else ():
            constant, other = call.constants(i), call.constants(1 - i)
            if other is not None:  # the sum of a signal and a constant (R5)
                alone = other if constant is None else other & ~constant
                shares[i] = jnp.where(alone, p, shares[i])
        return shares


@dataclass(frozen=True)
class PlacedSum(Rule):
    """R4: ``x.at[i].add(y)``, ``jax.ops.segment_sum``: x and all that was added to an element.

    They share its P as the summands of a sum do (Eq. 19).

    Attributes:
      clamped, merges, evenly: as in `Affine`.
    """

    clamped: bool = True
    merges: bool = False
    evenly: bool = False
    equation = "R4 sum, Eq. 19"
    shares = True

    def route(self, site: Site) -> Route:
        if not site.signals:
            return Refuse("only its indices depend on the explained input, not what they place")
        if site.signals == (0,):
            return Through(site.op.inputs[0], "R5 constant")
        return Flow(site.signals)

    def backward(self, call: Call, p: jax.Array) -> Sequence[jax.Array | None]:
        way = call.direction
        h = {i: call.towards(i, way) if self.clamped else call.value(i) for i in call.sources}
        total, transpose = jax.vjp(lambda parts: placed(call, parts, p), h)
        (shares,) = transpose(safe_divide(p, total))
        found = {i: shared(shares[i], h[i]) for i in h}
        if call.evenly:
            field = {i: call.field(i) for i in call.sources}
            number, transpose = jax.vjp(lambda parts: placed(call, parts, p), field)
            (even,) = transpose(safe_divide(left_over(p, total), number))
            found = {i: share + even[i] * field[i] for i, share in found.items()}
        return [found.get(i) for i in range(3)]


@dataclass(frozen=True)
class DeviceSum(Rule):
    """R1: a sum over devices (psum); each operand is summed by itself.

    Attributes:
      merges, evenly: as in `Affine`.
    """

    merges: bool = False
    evenly: bool = False
    equation = "R1 affine, Eq. 6"
    shares = True

    def route(self, site: Site) -> Route:
        return Flow(site.signals)

    def backward(self, call: Call, p: Any) -> Sequence[jax.Array | None]:
        parts = p if isinstance(p, tuple) else (p,)
        h = [call.towards(i, call.direction) for i in call.sources]
        others = {i: call.value(i) for i in range(len(call.operands))}

        def total(*h: jax.Array) -> tuple[jax.Array, ...]:
            every = {**others, **dict(zip(call.sources, h, strict=True))}
            sums = call.bind(*every.values())
            return sums if isinstance(sums, tuple) else (sums,)

        sums, transpose = jax.vjp(total, *h)
        shares = transpose(tuple(map(safe_divide, parts, sums)))
        found = {i: shared(s, x) for i, x, s in zip(call.sources, h, shares, strict=True)}
        if call.evenly:
            field = [call.field(i) for i in call.sources]
            numbers, transpose = jax.vjp(total, *field)
            left = map(left_over, parts, sums)
            even = transpose(tuple(map(safe_divide, left, numbers)))
            for i, one, share in zip(call.sources, field, even, strict=True):
                found[i] += one * share
        return [found.get(i) for i in range(len(call.operands))]
