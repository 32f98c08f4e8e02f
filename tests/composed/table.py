"""What a step of a composed program is, and the table of all steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from .weights import Weights

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """One kind of step.

    Attributes:
      apply: ``apply(weights, x, *bodies) -> x``, on a state (N, ..., C) of rank 2 to 5.
      fits: whether it takes a state of this shape.
      bodies: how many chains of steps it holds.
      loops: it is a loop, a branch or a shard_map, which `Weights.written_out` writes out.
      excites: with positive weights and a positive state no probability ends in it or below.
      settled: a loop or branch whose state has the same lower bound before it and after each
        step, and which ends in an activation, so that no scale behind it belongs inside.
    """

    name: str
    apply: Callable[..., jax.Array]
    fits: Callable[[Shape], bool]
    bodies: int = 0
    loops: bool = False
    excites: bool = True
    settled: bool = False

    def __repr__(self) -> str:
        return self.name


#: Every step by name, in the order of registration: hypothesis shrinks towards the first.
TABLE: dict[str, Entry] = {}


def step(
    name: str, *ranks: int, fits: Callable[[Shape], bool] = lambda shape: True, **options: Any
) -> Callable[[Callable], Callable]:
    """Registers a function as a step for states of these ranks (all, if none is given)."""

    def register(apply: Callable) -> Callable:
        assert name not in TABLE, name
        admitted = ranks or (2, 3, 4, 5)
        TABLE[name] = Entry(name, apply, lambda s: len(s) in admitted and fits(s), **options)
        return apply

    return register


def register_functions(functions: dict[str, Callable], *ranks: int, **options: Any) -> None:
    """Registers functions of the state alone."""
    for name, function in functions.items():
        step(name, *ranks, **options)(lambda w, x, function=function: function(x))


def fitted(w: Weights, x: jax.Array, shape: Shape) -> jax.Array:
    """``x`` where it has this shape; otherwise a dense layer's output that has it."""
    return x if x.shape == shape else mixed(w, x, shape)


def mixed(w: Weights, x: jax.Array, shape: Shape) -> jax.Array:
    """A dense layer from all of an example to all of it, without a bias."""
    before, after = math.prod(x.shape[1:]), math.prod(shape[1:])
    return (x.reshape(-1, before) @ w.matrix(before, after, inputs=before)).reshape(shape)
