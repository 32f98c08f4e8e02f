"""Directions, constants and bounds (D0, D1, D3, D4), on programs that hypothesis puts together.

Each has its map written out with Eq. 6, by plain matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax
from oracles.comparison import FAST

import excitation_jax as ej

RNG = np.random.default_rng(0)
X = RNG.normal(0.3, 1, (1, 5))
A, B = RNG.normal(size=(5, 4)), RNG.normal(size=(4, 3))
SCALE, SHIFT = np.array([1.5, -0.7, 0.4, -2.0]), np.array([0.3, -0.2, 0.5, 0.1])

few = settings(
    max_examples=30, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@pytest.fixture(autouse=True)
def float64() -> Any:
    with jax.enable_x64(True):
        yield


def mwp(f: Callable, target: int = 0, **options: Any) -> np.ndarray:
    explain = lambda x: ej.excitation_vjp(lambda _, x: f(x), {}, x, target, **options).mwp  # noqa: E731
    return np.asarray(jax.jit(explain, compiler_options=FAST)(X))


def excited(w: np.ndarray, h: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Eq. 6: h w+ p / Z, for rows of h and p."""
    positive = np.maximum(w, 0)
    total = h @ positive
    return h * (np.divide(p, total, out=np.zeros_like(p), where=total > 0) @ positive.T)


def at_input(p: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """Below x @ A, from P at its units; `sign` says whether they are wanted larger."""
    h = np.maximum(X, 0)
    return excited(A, h, np.where(sign > 0, p, 0)) + excited(-A, h, np.where(sign > 0, 0, p))


#: Functions that rise (1) or fall (-1) everywhere, onto where the next one is defined.
STEPS: dict[str, tuple[int, Callable]] = {
    "neg": (-1, lambda y: -y),
    "tanh": (1, jnp.tanh),
    "sigmoid by hand": (1, lambda y: 1 / (1 + jnp.exp(-y))),
    "one minus": (-1, lambda y: 1 - y),
    "exp(-y)": (-1, lambda y: jnp.exp(-0.3 * y)),
    "softplus": (1, jax.nn.softplus),
    "log sigmoid": (1, jax.nn.log_sigmoid),
    "times -3": (-1, lambda y: y * -3.0),
    "over 2": (1, lambda y: y / 2.0),
    "softsign": (1, lambda y: y / (1 + jnp.abs(y))),
    "atan": (1, jnp.arctan),
    "power": (1, lambda y: y**3 + y),
    "reshaped": (1, lambda y: y.reshape(-1, 2, 2).reshape(y.shape)),
    "jit": (-1, lambda y: jax.jit(lambda v: 2.0 - v)(y)),
    "remat": (-1, jax.checkpoint(lambda y: -jnp.sinh(y / 9))),
    "scan": (-1, lambda y: lax.scan(lambda c, _: (-c, None), y, None, length=3)[0]),
    "cond": (-1, lambda y: lax.cond(jnp.array(True), lambda v: -v, lambda v: -2 * v, y)),
}
chains = st.lists(st.sampled_from(list(STEPS)), min_size=1, max_size=4)


def through(names: list[str], y: Any) -> Any:
    for name in names:
        y = STEPS[name][1](y)
    return y


@few
@given(names=chains)
def test_d1_a_function_turns_what_it_falls_in(names: list[str]) -> None:
    """At the output P+ is wanted; the units below want what the chain's direction says."""
    way = np.prod([STEPS[name][0] for name in names])
    found = mwp(lambda x: through(names, x @ A), 1)
    p = np.eye(4)[[1]]
    np.testing.assert_allclose(found, at_input(p, np.full(4, way)), atol=1e-12)


@few
@given(first=chains, second=chains, jitted=st.booleans())
def test_d1_two_readers_need_no_agreement(
    first: list[str], second: list[str], jitted: bool
) -> None:
    """Each half of the outputs reads all units in a direction of its own."""

    def f(x: Any) -> Any:
        y = x @ A
        return jnp.concatenate([through(first, y), through(second, y)], -1)

    ways = [np.prod([STEPS[name][0] for name in names]) for names in (first, second)]
    prior = np.array([[0.1, 0.2, 0.0, 0.3, 0.15, 0.05, 0.2, 0.0]])
    found = mwp(jax.jit(f) if jitted else f, lambda _: prior)
    right = sum(
        at_input(prior[:, 4 * i : 4 * i + 4], np.full(4, way)) for i, way in enumerate(ways)
    )
    np.testing.assert_allclose(found, right, atol=1e-12)


@few
@given(
    activation=st.sampled_from(["relu", "tanh", "sigmoid", "softplus"]),
    form=st.sampled_from(["after", "before", "outer", "divided"]),
    moved=st.sampled_from(["nothing", "reversed", "reshaped", "padded and cut"]),
    contrastive=st.booleans(),
)
def test_d3_constants_before_a_layer_are_its_weights(
    activation: str, form: str, moved: str, contrastive: bool
) -> None:
    """act(y) * s + t, moved, times B: B's rows times s, and h of act(y) itself."""
    low = {"relu": 0.0, "tanh": -1.0, "sigmoid": 0.0, "softplus": 0.0}[activation]
    act = getattr(jax.nn, activation)
    scaled = {
        "after": lambda z: z * SCALE + SHIFT,
        "before": lambda z: SHIFT - z * -SCALE,
        "outer": lambda z: jnp.einsum("nc,c->nc", z, jnp.asarray(SCALE)),
        "divided": lambda z: (z + 1.0) / (1 / SCALE),
    }[form]
    move = {
        "nothing": lambda z: z,
        "reversed": lambda z: z[:, ::-1][:, ::-1],
        "reshaped": lambda z: z.reshape(1, 2, 2).reshape(1, 4),
        "padded and cut": lambda z: jnp.pad(z, ((0, 0), (1, 1)))[:, 1:-1],
    }[moved]
    found = mwp(lambda x: move(scaled(act(x @ A))) @ B, 2, contrastive=contrastive)
    h = np.asarray(act(X @ A)) - low
    p = excited(SCALE[:, None] * B, h, np.eye(3)[[2]])
    if contrastive:
        p = p - excited(-SCALE[:, None] * B, h, np.eye(3)[[2]])
    right = excited(A, np.maximum(X, 0), p)
    np.testing.assert_allclose(found, right, atol=1e-12)


def test_d4_bounds_of_whole_numbers_are_those_of_a_floating_point_value() -> None:
    """The least of |y| is 0, an int in Python: what is stacked has one dtype."""
    powers = lambda x: jnp.stack([x @ A, jnp.abs(x @ A) ** 1.5]).sum(0) @ B  # noqa: E731
    assert mwp(powers).sum() == pytest.approx(1)


@few
@given(
    names=st.lists(st.sampled_from(["relu", "tanh", "elu", "gelu"]), min_size=2, max_size=3),
    joined=st.sampled_from(["concatenated", "stacked", "set", "chosen"]),
    pooled=st.sampled_from(["mean", "window", "maximum", "nothing"]),
)
def test_d4_each_element_keeps_its_own_bound(names: list[str], joined: str, pooled: str) -> None:
    """Features of different activations, pooled over pairs of positions, and a layer."""
    lows = {"relu": 0.0, "tanh": -1.0, "elu": -1.0, "gelu": -0.170040750571254}
    n = len(names)
    w = np.random.default_rng(n).normal(size=(4 * n, 3))

    def model(z: Any) -> Any:  # (2, 4): the positions, and their features
        parts = [getattr(jax.nn, name)(z + 0.1 * i) for i, name in enumerate(names)]
        if joined == "concatenated":
            y = jnp.concatenate(parts, -1)
        elif joined == "stacked":
            y = jnp.stack(parts, 1).reshape(2, -1)
        elif joined == "set":
            y = jnp.zeros((2, 4 * n))
            for i, part in enumerate(parts):
                y = y.at[:, 4 * i : 4 * i + 4].set(part)
        else:
            column = np.arange(4 * n) // 4
            y = sum(jnp.where(column == i, jnp.tile(p, n), 0.0) for i, p in enumerate(parts))
        y = ej.tag(y, "joined")
        if pooled == "mean":
            y = y.mean(0, keepdims=True)
        elif pooled == "window":
            y = lax.reduce_window(y, 0.0, lax.add, (2, 1), (2, 1), "VALID") / 2
        elif pooled == "maximum":
            y = y.max(0, keepdims=True)
        return (y @ w)[:1]

    z = np.stack([X[0, :4], -X[0, 1:]])

    def explain(z: Any) -> Any:
        target = np.eye(3)[[1]]
        return ej.excitation_vjp(lambda _, z: model(z), {}, z, target, layer="joined").mwp

    found = np.asarray(jax.jit(explain, compiler_options=FAST)(z))
    y = np.concatenate([getattr(jax.nn, name)(z + 0.1 * i) for i, name in enumerate(names)], 1)
    low = np.repeat([lows[name] for name in names], 4)
    h = y - low
    if pooled == "maximum":
        p = excited(w, h.max(0, keepdims=True), np.eye(3)[[1]])
        right = np.where(y == y.max(0), p, 0)
    elif pooled == "nothing":
        right = np.concatenate([excited(w, h[:1], np.eye(3)[[1]]), 0 * h[1:]])
    else:
        p = excited(w, h.mean(0, keepdims=True), np.eye(3)[[1]])
        right = h * np.divide(p, h.sum(0), out=np.zeros_like(p), where=h.sum(0) > 0)
    np.testing.assert_allclose(found, right, atol=1e-7)
