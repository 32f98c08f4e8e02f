"""A neuron's lower bound is its own on either side of a loop's or branch's border (D4)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from oracles.comparison import FAST

import excitation_jax as ej
from excitation_jax.engine.planning import analyse
from excitation_jax.program.trace import trace

RNG = np.random.default_rng(0)


def drawn(*shape: int) -> np.ndarray:
    return RNG.normal(0.1, 1, shape).astype(np.float32)


A, B, SQUARE, HEAD, CELL = drawn(4, 3), drawn(4, 3), drawn(6, 6), abs(drawn(6, 3)), drawn(4, 18)
X = RNG.uniform(0, 1, (3, 2, 4)).astype(np.float32)
FIRST = RNG.uniform(0.1, 0.5, (4, 2, 6)).astype(np.float32)


def joined(x: jax.Array) -> jax.Array:
    """Elements that are not below 0 beside others that are not below -1."""
    return jnp.concatenate([jax.nn.relu(x @ A), jnp.tanh(x @ B)], -1)


def cell(c: jax.Array, x: jax.Array) -> jax.Array:
    """An LSTM's, that a gate keeps and another one adds to: its bound falls with each step."""
    keep, add, new = jnp.split(x @ CELL, 3, -1)
    return jax.nn.sigmoid(keep) * c + jax.nn.sigmoid(add) * jnp.tanh(new)


def cells(x: jax.Array) -> jax.Array:
    c = jnp.zeros((2, 6))
    for row in x:
        c = cell(c, row)
    return jnp.tanh(c)


def updated(h: jax.Array, x: jax.Array) -> jax.Array:
    """A gate mixes what constants made of a state with a new one: both lie above -1."""
    keep, old, new = jnp.split(x @ CELL, 3, -1)
    gate = jax.nn.sigmoid(keep)
    return gate * jnp.tanh(old + h * FIRST[0, 0]) + (1 - gate) * jnp.tanh(new)


def grown(x: jax.Array) -> jax.Array:
    h = jnp.tanh(joined(x[0]) @ SQUARE)
    for i in range(2):
        h = h + jnp.tanh(x[i] @ CELL[:, :6])
    return h


def grow(h: jax.Array, row: jax.Array) -> tuple:
    return h + jnp.tanh(row @ CELL[:, :6]), None


def shifted(c: jax.Array, row: jax.Array) -> tuple:
    return jnp.concatenate([c[1:], joined(row)[None]]), None


PAIRS: dict[str, tuple[Callable, Callable]] = {
    "branch": (
        lambda x: lax.cond(x[0, 0, 0] > -1, joined, lambda x: jnp.zeros((2, 6)), x[0]),
        lambda x: joined(x[0]),
    ),
    "branch with a bound of its own": (
        lambda x: lax.cond(
            x[0, 0, 0] > -1, lambda h: jax.nn.relu(h), lambda h: jnp.tanh(h), x[0] @ CELL[:, :6]),
        lambda x: jax.nn.relu(x[0] @ CELL[:, :6]),
    ),
    "into a branch": (
        lambda x: lax.cond(
            x[0, 0, 0] > -1, lambda h: jax.nn.relu(h @ SQUARE), jnp.abs, joined(x[0])),
        lambda x: jax.nn.relu(joined(x[0]) @ SQUARE),
    ),
    "scan of one step": (
        lambda x: lax.scan(lambda h, _: (h * 1.0, None), joined(x[0]), length=1)[0],
        lambda x: joined(x[0]),
    ),
    "rows": (
        lambda x: lax.scan(lambda s, h: (s, jax.nn.relu(h @ SQUARE)), 0.0, joined(x))[1].mean(0),
        lambda x: jax.nn.relu(joined(x) @ SQUARE).mean(0),
    ),
    "a state that each step makes anew": (
        lambda x: lax.scan(lambda s, r: (joined(r), None), jnp.tanh(x[0] @ CELL[:, :6]), x)[0],
        lambda x: joined(x[-1]),
    ),
    "a buffer": (
        lambda x: lax.scan(shifted, jnp.asarray(FIRST), x)[0].mean(0),
        lambda x: jnp.concatenate([FIRST[3:], joined(x)]).mean(0),
    ),
    "a buffer in remat": (
        lambda x: jax.checkpoint(
            lambda x: lax.scan(jax.checkpoint(shifted), jnp.asarray(FIRST), x)[0].mean(0) @ SQUARE
        )(x),
        lambda x: jnp.concatenate([FIRST[3:], joined(x)]).mean(0) @ SQUARE,
    ),
    "cells": (
        lambda x: jnp.tanh(lax.scan(lambda c, r: (cell(c, r), None), jnp.zeros((2, 6)), x)[0]),
        cells,
    ),
    "update gate": (
        lambda x: lax.map(lambda r: updated(jax.nn.elu(r @ CELL[:, :6]), r), x).mean(0),
        lambda x: jnp.stack([updated(jax.nn.elu(r @ CELL[:, :6]), r) for r in x]).mean(0),
    ),
    "a sum that grows": (
        lambda x: lax.scan(grow, jnp.tanh(joined(x[0]) @ SQUARE), x[:2])[0],
        grown,
    ),
}  # fmt: skip


@pytest.mark.parametrize("contrastive", [False, True])
@pytest.mark.parametrize("name", PAIRS)
def test_is_that_of_the_program_written_out(name: str, contrastive: bool) -> None:
    def explained(function: Callable) -> np.ndarray:
        def one(x: jax.Array) -> jax.Array:
            def model(x: jax.Array) -> jax.Array:
                return jax.nn.relu(function(x) @ SQUARE) @ HEAD

            out, vjp = jax.vjp(ej.excite(model, contrastive=contrastive), x)
            return vjp(jnp.zeros_like(out).at[:, 1].set(1))[0]

        return np.asarray(jax.jit(one, compiler_options=FAST)(X))

    looped, written_out = map(explained, PAIRS[name])
    assert abs(written_out).max() > 0.01
    np.testing.assert_allclose(looped, written_out, rtol=1e-4, atol=1e-6)


PLAIN: dict[str, Callable] = {
    "relu": lambda x: lax.scan(lambda h, _: (jax.nn.relu(h @ SQUARE), None), x[0] @ CELL[:, :6],
                               length=3)[0],
    "tanh from zeros": lambda x: lax.scan(
        lambda h, r: (jnp.tanh(h @ SQUARE + r @ CELL[:, :6]), None), jnp.zeros((2, 6)), x)[0],
    "residual": lambda x: lax.scan(
        lambda h, _: (h + jax.nn.relu(h @ SQUARE), None), jax.nn.relu(x[0] @ CELL[:, :6]),
        length=3)[0],
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_one_bound_for_all_goes_beside_nothing(name: str) -> None:
    program, *_ = trace(lambda x: PLAIN[name](x) @ HEAD, X)
    assert not analyse(program, program.inputs, ej.EXCITATION).bounded
