"""Deterministic winner-take-all, the process of Selective Tuning (Tsotsos et al. 1995), as rules.

Where Excitation Backprop samples a winner's child with probability h_j w_ij+ / Z_i, this process
always takes the child of the largest h_j w_ij+ (compared in IJCV18, Table 4). It is greedy: one
unit wins at the output, so that at most one wins at each operation below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives

from .rule import Call
from .ruleset import EXCITATION
from .sharing import Affine, Sum


@dataclass(frozen=True)
class StrongestChild(Affine):
    """All goes to the child of the largest excitation; to none where nothing excites.

    Exactly so where the array has one winner, as in the map of one example: see
    `methods.winner_take_all`. Of several, the excitations that they give a child add up.
    """

    normalises: bool = False
    equation = "winner-take-all"
    contrasts = False

    def backward(self, call: Call, p: jax.Array) -> Sequence[jax.Array | None]:
        return [
            None if share is None else _to_the_largest(share, p.sum())
            for share in super().backward(call, p)
        ]


@dataclass(frozen=True)
class StrongestSummand(Sum):
    """All goes to the larger of two summands; to none where neither is excited."""

    equation = "winner-take-all"

    def split(self, call: Call, p: jax.Array) -> list[jax.Array]:
        first, second = super().split(call, p)
        return [
            jnp.where((first >= second) & (first > 0), p, 0), jnp.where(second > first, p, 0)
        ]  # fmt: skip


def _to_the_largest(excitation: jax.Array, p: jax.Array) -> jax.Array:
    flat = excitation.reshape(-1)
    place = jnp.argmax(flat)
    winner = jax.nn.one_hot(place, flat.size, dtype=flat.dtype) * p
    return jnp.where(flat[place] > 0, winner, 0).reshape(excitation.shape)


#: The winner's strongest child wins.
WINNER_TAKE_ALL = EXCITATION.replace(
    {
        **dict.fromkeys(
            (
                lax.conv_general_dilated_p, lax.dot_general_p, lax.reduce_sum_p,
                lax.reduce_window_sum_p, lax.cumsum_p,
            ),
            StrongestChild(),
        ),
        **dict.fromkeys(
            (lax.add_p, primitives.add_jaxvals_p, lax.sub_p), StrongestSummand()
        ),
    }
)  # fmt: skip
