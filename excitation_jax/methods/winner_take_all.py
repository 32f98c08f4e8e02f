"""Selective Tuning's deterministic winner-take-all as a method."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ..explain.targets import Target
from ..explain.top_down import top_down
from ..rules.winner_take_all import WINNER_TAKE_ALL
from .gradients import ModelFunction
from .passes import Passes


def winner_take_all(
    model_fn: ModelFunction, params: Any, x: Any, target: Target, *, layer: str | None = "auto"
) -> jax.Array:
    """A binary map of the winner at a layer (Tsotsos et al. 1995; IJCV18, Table 4).

    From the target's unit (of a score map, from the position of the largest P(A0)) down, each
    winner's child of the largest h_j w_ij+ wins. The map is 1 where a channel has a winner, and 0
    everywhere if a winner on the way has no excitatory input. As IJCV18 does with binary maps, blur
    it before a comparison (`excitation_jax.maps.blur`).

    Arguments, result and errors are those of `excitation_jax.attention_map`, and ValueError where
    the model returns more than one array; examples are explained one by one, under `jax.vmap`.
    """
    passes = Passes(model_fn, params, x, target)
    prior, several = passes.prior_of_scores()
    return passes.run(_winners, prior, layer=layer, several=several)


def _winners(
    model_fn: ModelFunction,
    params: Any,
    x: Any,
    target: Target,
    prior: jax.Array,
    layer: str | None,
    several: bool,
) -> jax.Array:
    def explain(x: Any, prior: jax.Array) -> jax.Array:
        rules, start = WINNER_TAKE_ALL, _first_winner
        return top_down(model_fn, params, x, prior, layer, rules=rules, start=start).map()

    def alone(x: Any, prior: jax.Array) -> jax.Array:
        return explain(*jax.tree.map(lambda array: array[None], (x, prior)))

    if prior.ndim - several == 1:  # an example without a batch
        return (explain(x, prior) > 0).astype(jnp.float32)
    maps = jax.vmap(alone)(x, prior)
    steps = maps.ndim - 4 - several  # of the loops that the layer is inside of: they lead
    return (jnp.moveaxis(maps.squeeze(1 + steps), 0, steps) > 0).astype(jnp.float32)


def _first_winner(outputs: jax.Array, p: jax.Array) -> jax.Array:
    winner = jax.nn.one_hot(p.argmax(), p.size, dtype=p.dtype).reshape(p.shape)
    return jnp.where(p > 0, winner, 0)
