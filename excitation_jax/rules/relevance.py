"""Layer-wise relevance propagation (LRP; Bach et al., PLoS ONE 2015) as rules.

A neuron ``y_j = sum_i z_ij + c_j`` with ``z_ij = x_i w_ij`` hands its relevance R_j to its inputs
in parts of z_ij. All rules but the flat one are

    R_ij = (a+ max(z_ij, 0) + a- min(z_ij, 0)) R_j

and differ in a+ and a-. What follows an affine operation up to the next activation (its bias, a
BatchNorm) belongs to the neuron: tail.py merges it, so no network has to be rewritten for that.
The constant c_j keeps its part, so relevance is conserved where there is none and epsilon is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives

from ..program import compat
from ..program.primitives import Kind, kind
from ..program.trace import Op
from .arithmetic import safe_divide, times, unbroadcast
from .rule import Call, Flow, Refuse, Route, Rule, Site, Through, only_child
from .ruleset import EXCITATION, RuleSet
from .sharing import Affine, PlacedSum
from .tail import tails


@dataclass(frozen=True)
class Relevance(Rule):
    """Base of LRP's rules for affine operations; weights that are gates count as constants."""

    find_tails = staticmethod(tails)

    def route(self, site: Site) -> Route:
        return Affine().route(site)


@dataclass(frozen=True)
class Epsilon(Relevance):
    """LRP-epsilon: ``R_ij = z_ij / (y_j + epsilon sign(y_j)) R_j``; LRP-0 for epsilon = 0."""

    epsilon: float = 1e-6
    equation = "LRP-epsilon"

    def backward(self, call: Call, p: jax.Array) -> Sequence[jax.Array | None]:
        x, weights = _operands(call)
        z, transpose = jax.vjp(_linear(call, weights), x)
        scale, shift = _tail(call)
        ratio = safe_divide(scale * p, _stabilised(scale * z + shift, self.epsilon))
        return _for_source(call, times(transpose(ratio)[0], x))


class Parts(NamedTuple):
    """Sums of a neuron's positive and negative parts: of its inputs' z_ij, and its constant."""

    z_up: jax.Array
    z_down: jax.Array
    c_up: jax.Array
    c_down: jax.Array


@dataclass(frozen=True)
class _SignedParts(Relevance):
    """A rule whose a+ and a- differ."""

    def coefficients(self, parts: Parts) -> tuple[jax.Array, jax.Array]:
        """a+ and a- of each neuron."""
        raise NotImplementedError

    def backward(self, call: Call, p: jax.Array) -> Sequence[jax.Array | None]:
        x, weights = _operands(call)
        scale, shift = _tail(call)
        signs = [1, -1] if weights else [1]
        halves = [jnp.maximum(x, 0), jnp.minimum(x, 0)]
        if call.step.site.operands[call.sources[0]].interval.low >= 0:
            halves = halves[:1]
        # For each sign of the weights and of the inputs: the sums of z_ij, and the way back.
        found = {}
        for sign in signs:
            part = {i: sign * jnp.maximum(sign * w, 0) for i, w in weights.items()}
            for half, values in zip((1, -1), halves, strict=False):
                found[sign * half, half] = jax.vjp(_linear(call, part), values)
        none = jnp.zeros_like(p)
        up = sum((z for (sign, _), (z, _) in found.items() if sign > 0), none)
        down = sum((z for (sign, _), (z, _) in found.items() if sign < 0), none)
        positive = scale >= 0  # a negative scale turns what excites into what inhibits
        a_up, a_down = self.coefficients(
            Parts(
                scale * jnp.where(positive, up, down), scale * jnp.where(positive, down, up),
                jnp.maximum(shift, 0), jnp.minimum(shift, 0),
            )
        )  # fmt: skip
        ratios = {
            1: times(scale * p, jnp.where(positive, a_up, a_down)),
            -1: times(scale * p, jnp.where(positive, a_down, a_up)),
        }
        shares = [
            times(transpose(ratios[sign])[0], halves[0 if half > 0 else 1])
            for (sign, half), (_, transpose) in found.items()
        ]
        return _for_source(call, sum(shares[1:], shares[0]))


@dataclass(frozen=True)
class AlphaBeta(_SignedParts):
    """LRP-alpha-beta: ``R_ij = (alpha z_ij+ / y_j+ - beta z_ij- / y_j-) R_j``, alpha - beta = 1.

    With alpha = 1 it is the z+ rule.
    """

    alpha: float = 2.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        if abs(self.alpha - self.beta - 1) > 1e-9 or self.beta < 0:
            raise ValueError(
                f"alpha - beta must be 1 and beta not negative, or relevance is not conserved: got "
                f"alpha={self.alpha}, beta={self.beta}"
            )

    @property
    def equation(self) -> str:  # type: ignore[override]
        return "LRP-z+" if self.beta == 0 else "LRP-alpha-beta"

    def coefficients(self, parts: Parts) -> tuple[jax.Array, jax.Array]:
        up, down = parts.z_up + parts.c_up, parts.z_down + parts.c_down
        one = jnp.ones_like(up)
        return safe_divide(self.alpha * one, up), safe_divide(-self.beta * one, down)


@dataclass(frozen=True)
class Gamma(_SignedParts):
    """LRP-gamma (Montavon et al. 2019): what has the sign of y_j counts 1 + gamma times.

    For inputs that are not negative and y_j > 0 that is ``w + gamma w+`` in place of w; the form
    for inputs and outputs of both signs is that of Andeol et al. (2021).
    """

    gamma: float = 0.25
    epsilon: float = 1e-6
    equation = "LRP-gamma"

    def coefficients(self, parts: Parts) -> tuple[jax.Array, jax.Array]:
        up, down = parts.z_up + parts.c_up, parts.z_down + parts.c_down
        positive, more = up + down >= 0, 1 + self.gamma
        total = jnp.where(positive, more * up + down, up + more * down)
        inverse = safe_divide(jnp.ones_like(total), _stabilised(total, self.epsilon))
        return jnp.where(positive, more, 1) * inverse, jnp.where(positive, 1, more) * inverse


@dataclass(frozen=True)
class Flat(Relevance):
    """The flat rule (Lapuschkin et al. 2019): equal parts to all inputs, whatever the weights."""

    equation = "LRP-flat"

    def backward(self, call: Call, p: jax.Array) -> Sequence[jax.Array | None]:
        x, weights = _operands(call)
        equal = {i: jnp.ones_like(w) for i, w in weights.items()}
        number, transpose = jax.vjp(_linear(call, equal), jnp.ones_like(x))
        return _for_source(call, transpose(safe_divide(p, number))[0])


@dataclass(frozen=True)
class First(Rule):
    """One rule for layers that read the input, another one for all that read other layers.

    What resizes the input by a matrix of shapes alone is no layer yet.
    """

    first: Rule
    other: Rule
    find_tails = staticmethod(tails)

    @property
    def equation(self) -> str:  # type: ignore[override]
        return f"{self.other.equation}, first {self.first.equation}"

    def route(self, site: Site) -> Route:
        return self.other.route(site)

    def backward(self, call: Call, p: jax.Array) -> Sequence[jax.Array | None]:
        op, facts = call.step.site.op, call.step.site.facts
        behind = facts.behind_a_layer(op.inputs[call.sources[0]])
        first = facts.is_learned_layer(op) and not behind
        return (self.first if first else self.other).backward(call, p)


@dataclass(frozen=True)
class RelevanceSum(Rule):
    """LRP-epsilon of ``a + b`` and ``a - b``: ``a / (y + epsilon sign(y)) R``, likewise b.

    What is subtracted from a value that it was itself computed from, by no layer (a mean, in a
    LayerNorm), only normalises: it takes nothing, as the norms of AttnLRP (Achtibat et al., ICML
    2024, Proposition 3.4).

    Attributes:
      sign: -1 for a - b.
      epsilon: as in `Epsilon`.
    """

    sign: int = 1
    epsilon: float = 1e-6
    equation = "LRP-epsilon"
    find_tails = staticmethod(tails)

    def route(self, site: Site) -> Route:
        a, b = site.op.inputs
        if (child := only_child(site)) is not None:
            return child
        between = site.facts.depends(b, a) if self.sign < 0 else None
        if between is not None and not any(map(_has_layers, between)):
            return Through(a, "R5 normaliser")
        return Flow(site.signals)

    def backward(self, call: Call, p: jax.Array) -> Sequence[jax.Array]:
        a, b = call.value(0), self.sign * call.value(1)
        scale, shift = _tail(call)
        ratio = safe_divide(scale * p, _stabilised(scale * (a + b) + shift, self.epsilon))
        return [unbroadcast(times(ratio, part), part.shape) for part in (a, b)]


def _has_layers(op: Op) -> bool:
    inside = [] if op.nest is None else [o for body in op.nest.bodies for _, o in body.all_ops()]
    return any(kind(other.primitive) is Kind.AFFINE for other in (op, *inside))


@dataclass(frozen=True)
class NoDeviceSum(Rule):
    """Refuses psum: a neuron that is summed over devices is not seen as one."""

    def route(self, site: Site) -> Route:
        return Refuse(
            "LRP needs all parts of a neuron's sum in one place, and these lie on several devices: "
            "run the model without shard_map"
        )


def lrp_rules(
    dense: Rule | None = None,
    convolution: Rule | None = None,
    first: Rule | None = None,
    *,
    epsilon: float = 1e-6,
    name: str = "LRP",
) -> RuleSet:
    """A composite of LRP rules by kind; by path, combine several with `RuleSet.scoped`.

    Args:
      dense: for dense layers; `Epsilon` by default.
      convolution: for convolutions; that of dense layers by default.
      first: for layers that read the explained input itself; like the others by default.
      epsilon: of average pooling and sums, whose rule always is LRP-epsilon.

    Activations, normalisers and gates pass relevance unchanged, max pooling gives it to the winner,
    as in `EXCITATION`.

    >>> from excitation_jax import methods
    >>> rules = methods.lrp_rules(methods.Epsilon(), methods.Gamma(0.25), methods.Flat())
    >>> rules = rules.scoped("stage1/*", methods.lrp_rules(methods.AlphaBeta(1, 0)))
    """
    dense = dense or Epsilon()
    layers = {lax.dot_general_p: dense, lax.conv_general_dilated_p: convolution or dense}
    if first is not None:
        layers = {primitive: First(first, rule) for primitive, rule in layers.items()}
    table = {
        **EXCITATION.table, **layers,
        **dict.fromkeys(
            (lax.reduce_sum_p, lax.reduce_window_sum_p, lax.cumsum_p), Epsilon(epsilon)
        ),
        **dict.fromkeys((lax.add_p, primitives.add_jaxvals_p), RelevanceSum(1, epsilon)),
        lax.sub_p: RelevanceSum(-1, epsilon),
        lax.scatter_add_p: PlacedSum(clamped=False),
        **dict.fromkeys((lax.psum_p, compat.psum_invariant_p), NoDeviceSum()),
    }  # fmt: skip
    return RuleSet(name, MappingProxyType(table))


def _operands(call: Call) -> tuple[jax.Array, dict[int, jax.Array]]:
    """The value that relevance goes to, and the weights by position."""
    (source,) = call.sources
    return call.value(source), call.weights(but=source)


def _linear(call: Call, weights: dict[int, jax.Array]) -> Callable[[jax.Array], jax.Array]:
    (source,) = call.sources
    every = range(len(call.operands))
    return lambda x: call.bind(*(x if i == source else weights[i] for i in every))


def _tail(call: Call) -> tuple[jax.Array, jax.Array]:
    """The scale and shift behind the operation."""
    if call.tail is None:
        return jnp.ones((), call.dtype), jnp.zeros((), call.dtype)
    scale, shift = call.tail
    return scale.astype(call.dtype), shift.astype(call.dtype)


def _stabilised(y: jax.Array, epsilon: float) -> jax.Array:
    return y + jnp.where(y >= 0, epsilon, -epsilon)


def _for_source(call: Call, share: jax.Array) -> list[jax.Array | None]:
    return [share if i == call.sources[0] else None for i in range(len(call.operands))]
