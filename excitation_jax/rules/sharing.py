"""R1, R4: rules that share probability out: affine operations of one signal, sums of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..program.affine import is_centred, put_back
from ..program.gates import signal_factor, tie
from ..program.primitives import Kind, is_product, kind
from ..program.trace import Op
from .passing import Product, placed
from .rule import (
    Call,
    Flow,
    Refuse,
    Route,
    Rule,
    Site,
    Step,
    Through,
    only_child,
    safe_divide,
    shared,
    unbroadcast,
)

#: Z of every neuron, and from r = P / Z what each child gets per unit of h: L+^T(r).
Excitation = tuple[jax.Array, Callable[[jax.Array], jax.Array]]


class Connections(NamedTuple):
    """The connections of an affine operation's neurons to their children.

    Attributes:
      h: the children's activations.
      excite: the excitation by the positive part of the weights, ``excite(1)``, or by the
        negative one, ``excite(-1)``.
    """

    h: jax.Array
    excite: Callable[[int], Excitation]


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
      merges: as a sum (an average pooling, say), is one neuron with the layers that it alone reads.
    """

    effective: bool = True
    clamped: bool = True
    merges: bool = False
    equation = "R1 affine, Eq. 6"
    contrasts = True
    shares = True
    connects = reverses = True

    @property
    def directed(self) -> bool:  # type: ignore[override]
        return self.effective

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
        connected = self.connections(call, p)

        def excite(part: int) -> jax.Array:
            total, send = connected.excite(part)
            return send(self.per_child(call, p, total))

        shares = self.contrast(excite) if call.contrastive else excite(1)
        operands = range(len(call.operands))
        return [shared(shares, connected.h) if i in call.sources else None for i in operands]

    def connections(self, call: Call, p: jax.Array) -> Connections:
        (source,) = call.sources
        weights = call.weights(but=source)
        if not weights:
            return self._summed(call, source)
        h = call.activation(source) if self.clamped else call.value(source)
        # Or else XLA may compute the positive parts of all weights early, and hold them all.
        p, weights = lax.optimization_barrier((p, weights))
        # Weights that depend on the input (attention) scale, but have no sign of their own.
        own = not any(call.step.site.operands[i].active for i in weights)
        sign = call.output_sign if self.effective and own else None
        before = call.input_signs[source] if self.effective and call.input_signs else None
        if sign is not None and (folded := _fold_sign(call, sign)) is not None:
            (i, weight_sign), sign = folded, None
            weights[i] = weights[i] * weight_sign
        if before is not None and (folded := _fold_input_sign(call, before)) is not None:
            (i, weight_sign), before = folded, None
            weights[i] = weights[i] * weight_sign
        turned = call.direction if self.effective and own else 1

        def one_side(part: int) -> Excitation:
            if before is None:
                return _excitation(call, _positive(weights, part), h)
            # These signs vary along more than the features: some children by w+, some by w-.
            up, send_up = _excitation(call, _positive(weights, part), jnp.where(before > 0, h, 0))
            down, send_down = _excitation(
                call, _positive(weights, -part), jnp.where(before < 0, h, 0)
            )
            return up + down, lambda r: jnp.where(before > 0, send_up(r), send_down(r))

        def excite(part: int) -> Excitation:
            if sign is None:
                return one_side(part * turned)
            # The scale varies along more than the features: each unit takes its own side.
            return _by_sign(sign, one_side(part * turned), one_side(-part * turned))

        return Connections(h, excite)

    def _summed(self, call: Call, source: int) -> Connections:
        """Of a sum, which is a layer where the summands are products with learned constants."""
        op = call.step.site.op
        signs = call.input_signs[source] if call.input_signs else None
        if not self.clamped or signs is None or not call.step.site.facts.is_learned_layer(op):
            h = call.towards(source, call.direction) if self.clamped else call.value(source)
            constant = call.constants(source) if self.clamped else None
            if constant is None:
                return Connections(h, lambda part: _excitation(call, {}, h))
            return _with_constants(call, h, jnp.where(constant, 0, jnp.ones_like(h)))
        h = call.activation(source)

        def one_side(part: int) -> Excitation:
            positive = part * call.direction * signs > 0
            total, send = _excitation(call, {}, jnp.where(positive, h, 0))
            return total, lambda r: jnp.where(positive, send(r), 0)

        def excite(part: int) -> Excitation:
            if call.output_sign is None:
                return one_side(part)
            return _by_sign(call.output_sign, one_side(part), one_side(-part))

        return Connections(h, excite)

    def joins(self, op: Op) -> bool:
        return kind(op.primitive) is Kind.AFFINE and not is_product(op)

    def both(self, call: Call, p: tuple[jax.Array, jax.Array]) -> Sequence[jax.Array | None]:
        """Z- = Z+ - L(h) needs no convolution where L(h) is the operation's own output."""
        connected = self.connections(call, p[0])
        (total, send), (less, send_less) = connected.excite(1), connected.excite(-1)
        if call.output is not None:
            less = jnp.maximum(total - call.output.astype(call.dtype), 0)
        shares = send(self.per_child(call, p[0], total))
        shares += send_less(self.per_child(call, p[1], less))
        operands = range(len(call.operands))
        return [shared(shares, connected.h) if i in call.sources else None for i in operands]

    def per_child(self, call: Call, p: jax.Array, total: jax.Array) -> jax.Array:
        """P / Z: what a child gets per unit of its excitation, of which ``total`` is the sum."""
        return safe_divide(p, total)

    def contrast(self, excite: Callable[[int], jax.Array]) -> jax.Array:
        """Eq. 8, 9: the excitation less that of the negated classifier, ``excite(-1)``."""
        return excite(1) - excite(-1)


def _by_sign(sign: jax.Array, same: Excitation, other: Excitation) -> Excitation:
    """Of neurons of which some are excited by the one side of the weights, some by the other."""
    (up, send_up), (down, send_down) = same, other
    total = jnp.where(sign > 0, up, jnp.where(sign < 0, down, 0))
    return (
        total,
        lambda r: send_up(jnp.where(sign > 0, r, 0)) + send_down(jnp.where(sign < 0, r, 0)),
    )


def _with_constants(call: Call, h: jax.Array, active: jax.Array) -> Connections:
    """Of a sum, where one summand alone may depend on the input: that is a shift (R5)."""
    total, send = _excitation(call, {}, h)
    number, pass_on = _excitation(call, {}, active)
    alone = number == 1

    def down(r: jax.Array) -> jax.Array:
        return h * send(jnp.where(alone, 0, r)) + active * pass_on(jnp.where(alone, r, 0))

    return Connections(jnp.ones_like(h), lambda part: (jnp.where(alone, 1, total), down))


def _positive(weights: dict[int, jax.Array], part: int) -> dict[int, jax.Array]:
    return {i: jnp.maximum(part * w, 0) for i, w in weights.items()}


def _excitation(call: Call, weights: dict[int, jax.Array], h: jax.Array) -> Excitation:
    """Z = L+(h), and the way down."""
    (source,) = call.sources
    operands = range(len(call.operands))
    total, transpose = jax.vjp(
        lambda h: call.bind(*(h if i == source else weights[i] for i in operands)), h
    )
    return total, lambda r: transpose(r)[0]


def _fold_input_sign(call: Call, sign: jax.Array) -> tuple[int, jax.Array] | None:
    """The sign of what the signal was multiplied with, as a factor of the weights."""
    op, (source,) = call.step.site.op, call.sources
    weight = 1 - source
    meets: dict[int, int] = {}
    if op.primitive is lax.conv_general_dilated_p:
        numbers = op.params["dimension_numbers"]
        if source == 0 and op.params["feature_group_count"] == 1:
            meets[numbers.lhs_spec[1]] = numbers.rhs_spec[1]
    else:
        for pairs in op.params["dimension_numbers"]:
            meets.update(zip(pairs[source], pairs[weight], strict=True))
    varying = [i for i, size in enumerate(sign.shape) if size != 1]
    if not meets.keys() >= set(varying):
        return None
    shape = [1] * len(op.inputs[weight].shape)
    for i in varying:
        shape[meets[i]] = sign.shape[i]
    kept = lax.squeeze(sign, [i for i in range(sign.ndim) if i not in varying])
    order = sorted(range(len(varying)), key=lambda position: meets[varying[position]])
    return weight, jnp.transpose(kept, order).reshape(shape).astype(call.dtype)


def _fold_sign(call: Call, sign: jax.Array) -> tuple[int, jax.Array] | None:
    """The sign as a factor of the weights: (operand, array); None if it varies elsewhere."""
    op, (source,) = call.step.site.op, call.sources
    weight = 1 - source
    owners = _weight_dimensions(call, weight)
    varying = [i for i, size in enumerate(sign.shape) if size != 1]
    places = {i: owner for i in varying if (owner := owners[i]) is not None}
    if len(places) != len(varying):
        return None
    shape = [1] * len(op.inputs[weight].shape)
    for i, place in places.items():
        shape[place] = sign.shape[i]
    kept = lax.squeeze(sign, [i for i in range(sign.ndim) if i not in places])
    order = sorted(range(len(varying)), key=lambda position: places[varying[position]])
    return weight, jnp.transpose(kept, order).reshape(shape).astype(call.dtype)


def _weight_dimensions(call: Call, weight: int) -> list[int | None]:
    """For each dimension of the output, the dimension of the weights it comes from."""
    op = call.step.site.op
    rank = len(op.outputs[0].shape)
    owners: list[int | None] = [None] * rank
    if op.primitive is lax.conv_general_dilated_p:
        numbers = op.params["dimension_numbers"]
        if weight == 1:
            owners[numbers.out_spec[1]] = numbers.rhs_spec[0]
        else:  # the kernel depends on the input, and the image is constant
            owners[numbers.out_spec[0]] = numbers.lhs_spec[0]
    else:
        (contract, batch) = op.params["dimension_numbers"]
        for position, dim in enumerate(batch[weight]):
            owners[position] = dim
        free = [
            dim
            for dim in range(len(op.inputs[weight].shape))
            if dim not in contract[weight] and dim not in batch[weight]
        ]
        start = len(batch[0]) if weight == 0 else rank - len(free)
        for position, dim in enumerate(free):
            owners[start + position] = dim
    return owners


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
    """

    clamped: bool = True
    skips: str = "share"
    merges: bool = False
    equation = "R4 sum, Eq. 19"
    shares = True

    def route(self, site: Site) -> Route:
        if is_centred(site.op, site.facts):
            return Through(site.op.inputs[0], "R5 normaliser")
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
      clamped: as in `Affine`.
    """

    clamped: bool = True
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
        return [found.get(i) for i in range(3)]


@dataclass(frozen=True)
class DeviceSum(Rule):
    """R1: a sum over devices (psum); each operand is summed by itself.

    Attributes:
      merges: as in `Affine`.
    """

    merges: bool = False
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
        return [found.get(i) for i in range(len(call.operands))]
