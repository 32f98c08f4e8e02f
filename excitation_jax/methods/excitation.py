"""MWP and c-MWP, and the variants that IJCV18 analyses."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax import lax

from ..explain.calls import attention_map
from ..explain.targets import Target
from ..program.hints import Bounds
from ..rules.rule import Call
from ..rules.ruleset import EXCITATION, RuleSet
from ..rules.sharing import Affine
from .contrast import difference
from .gradients import ModelFunction


def mwp(
    model_fn: ModelFunction,
    params: Any,
    x: Any,
    target: Target,
    *,
    layer: str | None = "auto",
    rules: RuleSet = EXCITATION,
    x_bounds: Bounds | None = None,
    gates: str | Sequence[str] = (),
) -> jax.Array:
    """Marginal winning probabilities (Eq. 1), summed over channels.

    Arguments, result and errors are those of `excitation_jax.attention_map`.
    """
    return attention_map(
        model_fn, params, x, target, layer=layer, contrastive=False, rules=rules,
        x_bounds=x_bounds, gates=gates,
    )  # fmt: skip


def c_mwp(
    model_fn: ModelFunction,
    params: Any,
    x: Any,
    target: Target,
    *,
    layer: str | None = "auto",
    rules: RuleSet = EXCITATION,
    x_bounds: Bounds | None = None,
    gates: str | Sequence[str] = (),
) -> jax.Array:
    """Contrastive MWP (Eq. 7-9), summed over channels and cut off at zero.

    Arguments, result and errors are those of `excitation_jax.attention_map`.
    """
    return attention_map(
        model_fn, params, x, target, layer=layer, rules=rules, x_bounds=x_bounds, gates=gates
    )


def c_mwp_star(
    model_fn: ModelFunction,
    params: Any,
    x: Any,
    target: Target,
    *,
    layer: str | None = "last",
    rules: RuleSet = EXCITATION,
) -> jax.Array:
    """c-MWP* (IJCV18, Table 2): c-MWP at the layer before global pooling, where CAM is read.

    There the two are the same map but for Z+ and Z- (Eq. 13-16): CAM is ``sum_c A_c (w+ - w-)``,
    c-MWP* is ``sum_c A_c (Z+ w+ - Z- w-)``. Arguments, result and errors are those of `c_mwp`.
    """
    return c_mwp(model_fn, params, x, target, layer=layer, rules=rules)


@dataclass(frozen=True)
class _ContrastWithoutNorm(Affine):
    """The top layer's excitation as it is, not divided by its sum (Z+ and Z- of Eq. 14, 15)."""

    reverses = False

    def per_child(self, call: Call, p: jax.Array, total: jax.Array) -> jax.Array:
        return p if call.contrastive else super().per_child(call, p, total)


@dataclass(frozen=True)
class _OneSide(Affine):
    """Of the top layer's contrast, the classifier's side (1) or the negated one's (-1) alone."""

    reverses = False

    side: int = 1

    def contrast(self, excite: Callable[[int], jax.Array]) -> jax.Array:
        return excite(self.side)


@functools.lru_cache(maxsize=32)
def _with_top(rules: RuleSet, rule: Affine) -> RuleSet:
    """The same set for the same rules each time: rule sets are keys of the compiled programs."""
    return rules.replace({lax.conv_general_dilated_p: rule, lax.dot_general_p: rule})


def c_mwp_without_norm(
    model_fn: ModelFunction,
    params: Any,
    x: Any,
    target: Target,
    *,
    layer: str | None = "auto",
    rules: RuleSet = EXCITATION,
) -> jax.Array:
    """c-MWP "w/o norm" (IJCV18, Table 3): at the top layer ``h (w+ - w-)``, without Z+ and Z-.

    Arguments, result and errors are those of `c_mwp`.
    """
    return c_mwp(
        model_fn, params, x, target, layer=layer, rules=_with_top(rules, _ContrastWithoutNorm())
    )


def c_mwp_post_norm(
    model_fn: ModelFunction,
    params: Any,
    x: Any,
    target: Target,
    *,
    layer: str | None = "auto",
    rules: RuleSet = EXCITATION,
) -> jax.Array:
    """c-MWP "post-norm" (IJCV18, Table 3): normalised at the layer that is read.

    The maps of the classifier and of the negated one are divided by their sums there, and then
    subtracted and cut off at zero. Where no probability is lost on the way, that is c-MWP, at the
    cost of two. Arguments, result and errors are those of `c_mwp`.
    """
    sides = [_with_top(rules, _OneSide(side=side)) for side in (1, -1)]
    maps = [c_mwp(model_fn, params, x, target, layer=layer, rules=one) for one in sides]
    return difference(*maps)
