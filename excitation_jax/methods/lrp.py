"""Layer-wise relevance propagation as a method; the rules are in rules/relevance.py."""

from __future__ import annotations

from typing import Any

import jax

from ..explain.targets import Target
from ..explain.top_down import top_down
from ..rules.relevance import AlphaBeta, Epsilon, Flat, Gamma, lrp_rules
from ..rules.ruleset import RuleSet
from .gradients import ModelFunction

LRP_EPSILON = lrp_rules(Epsilon(), name="LRP-epsilon")
LRP_GAMMA = lrp_rules(Gamma(), name="LRP-gamma")
LRP_ZPLUS = lrp_rules(AlphaBeta(1, 0), name="LRP-z+")
LRP_ALPHA_BETA = lrp_rules(AlphaBeta(2, 1), name="LRP-alpha2-beta1")
#: Epsilon for dense layers, z+ for convolutions, flat for what reads the input (Kohlbrenner et al.
#: 2020).
LRP_COMPOSITE = lrp_rules(Epsilon(), AlphaBeta(1, 0), Flat(), name="LRP-composite")


def lrp(
    model_fn: ModelFunction,
    params: Any,
    x: Any,
    target: Target,
    *,
    layer: str | None = None,
    rules: RuleSet = LRP_COMPOSITE,
) -> jax.Array:
    """The relevance of a layer for the target's score (Bach et al. 2015), summed over channels.

    The pass starts from the score itself, so that the map sums to it where nothing is lost to
    biases and epsilon. Signed.

    Args:
      model_fn, params, x, target: as in `gradient`.
      layer: None for the input, or as in `excitation_jax.attention_map`.
      rules: one of `LRP_EPSILON`, `LRP_GAMMA`, `LRP_ZPLUS`, `LRP_ALPHA_BETA`, `LRP_COMPOSITE`, or
        a composite of one's own from `lrp_rules`.

    Returns:
      (N, H, W), or (N, K, H, W) for K targets, at the layer's own resolution.

    Raises:
      As `excitation_jax.attention_map`.
    """
    return top_down(model_fn, params, x, target, layer, rules=rules, start=_score).map()


def _score(outputs: jax.Array, p: jax.Array) -> jax.Array:
    return outputs * p
