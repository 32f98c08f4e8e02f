"""Small programs that are written once, for control flow that is JAX's or Python's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from oracles.comparison import FAST

import excitation_jax as ej


def scan(step: Callable, state: Any, rows: Any) -> tuple[Any, Any]:
    outputs = []
    for row in rows:
        state, y = step(state, row)
        outputs.append(y)
    return state, jax.tree.map(lambda *ys: jnp.stack(ys), *outputs)


def stacked(rows: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *parts: jnp.stack(parts), *rows)


class Flow(NamedTuple):
    """How loops and branches are written."""

    scan: Callable[..., Any]
    cond: Callable[..., Any]
    rows: Callable[..., Any] = stacked


def counted(step: Callable, state: Any, rows: Any) -> tuple[Any, Any]:
    """As a loop with a counter, which has no rows."""
    length = len(jax.tree.leaves(rows)[0])

    def row(state: Any, i: Any) -> tuple[Any, Any]:
        return step(state, jax.tree.map(lambda row: row[i], rows))

    shapes = jax.eval_shape(lambda s: row(s, 0)[1], state)
    ys = jax.tree.map(lambda y: jnp.zeros((length, *y.shape), y.dtype), shapes)

    def turn(i: Any, all_of: tuple) -> tuple:
        state, ys = all_of
        state, y = row(state, i)
        return state, jax.tree.map(lambda ys, y: ys.at[i].set(y), ys, y)

    return lax.fori_loop(0, length, turn, (state, ys))


OUT = Flow(scan, lambda which, yes, no, *operands: yes(*operands) if which else no(*operands), list)
FLOWS = {
    "scan": Flow(lax.scan, lax.cond),
    "fori": Flow(counted, lax.cond),
    "remat": Flow(
        lambda step, state, rows: lax.scan(jax.checkpoint(step), state, rows),
        lambda which, *others: jax.checkpoint(lambda *xs: lax.cond(which, *others[:2], *xs))(
            *others[2:]
        ),
    ),
}


class Weights(NamedTuple):
    steps: jax.Array
    first: jax.Array
    other: jax.Array
    square: jax.Array
    bias: jax.Array
    scale: jax.Array
    head: jax.Array
    gates: jax.Array
    which: bool


def weights(seed: int) -> Weights:
    """Most excite, so that much of the probability arrives."""
    rng = np.random.default_rng(seed)

    def drawn(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(0.2, 1, shape))

    return Weights(
        drawn(3, 4, 5), drawn(4, 5), drawn(4, 5), drawn(5, 5), drawn(5), drawn(5), drawn(5, 3),
        drawn(2, 5, 5), bool(rng.integers(2)),
    )  # fmt: skip


STARTS: dict[str, Callable] = {
    "zeros": lambda w, x: jnp.zeros((len(x), 5)),
    "bias": lambda w, x: jnp.zeros((len(x), 5)) + w.bias,
    "layer": lambda w, x: x @ w.other,
}
BEHIND: dict[str, Callable] = {
    "relu": lambda w, x, a: jax.nn.relu(a) @ w.head,
    "nothing": lambda w, x, a: a[:, :3],
    "a softmax": lambda w, x, a: jax.nn.softmax(a),
    "BatchNorm": lambda w, x, a: jax.nn.relu((a - 0.1) * w.scale + w.bias) @ w.head,
    "both directions": lambda w, x, a: (
        jax.nn.relu(a) @ w.head + jax.nn.relu(-a) @ (w.head[::-1] * 0.5)
    ),
    "an activation beside": lambda w, x, a: (
        jax.nn.relu(a + jax.nn.relu(x @ w.first)) @ w.head
    ),
    "subtracted from a layer": lambda w, x, a: jax.nn.relu(x @ w.first - a) @ w.head,
}  # fmt: skip


def model(flow: Flow, w: Weights, made: Callable, start: str, behind: str, x: jax.Array) -> Any:
    """What a program makes of a start, and a head behind it."""
    return BEHIND[behind](w, x, made(flow, w, x, STARTS[start](w, x)))


def maps(function: Callable, x: jax.Array, targets: Sequence[int]) -> list[np.ndarray]:
    """MWP and c-MWP, of several targets."""

    def one(x: jax.Array, contrastive: bool) -> tuple[jax.Array, jax.Array]:
        out, vjp = jax.vjp(ej.excite(function, contrastive=contrastive), x)
        every = jnp.stack([jnp.zeros_like(out).at[:, target].set(1) for target in targets])
        return jax.vmap(lambda p: vjp(p)[0])(every)

    compiled = jax.jit(one, static_argnums=1, compiler_options=FAST)
    return [np.asarray(compiled(x, contrastive)) for contrastive in (False, True)]
