"""What a neuron is made of is known on either side of a loop's or branch's border (D3, D7).

A gated product that a loop hands on, an LSTM's sigmoid(o) * tanh(c), has the h of its neurons, and
constants behind an activation belong to the weights of what reads it outside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flows import FLOWS, OUT, STARTS, Flow, Weights, maps, model, weights
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from jax import lax

import excitation_jax as ej
from excitation_jax.engine.plan import NEURONS
from excitation_jax.engine.planning import analyse
from excitation_jax.program.trace import trace

sigmoid, tanh, relu = jax.nn.sigmoid, jnp.tanh, jax.nn.relu


def lstm(flow: Flow, w: Weights, x: jax.Array, start: jax.Array) -> jax.Array:
    def step(state: tuple, v: jax.Array) -> tuple:
        h, c = state
        i, f, o, n = (x @ v + h @ w.square, h @ w.gates[0] - x @ v + w.bias,
                      x @ v * 0.5 + h @ w.gates[1], x @ w.first + h @ w.square)  # fmt: skip
        c = sigmoid(f) * c + sigmoid(i) * tanh(n)
        h = sigmoid(o) * tanh(c)
        return (h, c), h

    (h, _), every = flow.scan(step, (jnp.zeros_like(start),) * 2, w.steps)
    return h @ w.square + every.mean(0) @ w.gates[0] + start


def gru(flow: Flow, w: Weights, x: jax.Array, start: jax.Array) -> jax.Array:
    def step(h: jax.Array, v: jax.Array) -> tuple:
        r, z = sigmoid(x @ v + h @ w.square), sigmoid(x @ v + h @ w.gates[0] - w.bias)
        h = (1 - z) * tanh(x @ w.first + (r * h) @ w.gates[1]) + z * h
        return h, None

    return flow.scan(step, jnp.zeros_like(start), w.steps)[0] @ w.square + start


def gated(flow: Flow, w: Weights, x: jax.Array, start: jax.Array) -> jax.Array:
    ys = flow.scan(lambda s, v: (s, sigmoid(x @ v) * tanh(x @ w.first)), 0.0, w.steps)[1]
    return ys[1] @ w.square + start


def standardised(flow: Flow, w: Weights, x: jax.Array, start: jax.Array) -> jax.Array:
    ys = flow.scan(lambda s, v: (s, (tanh(x @ v) - w.bias) * w.scale), 0.0, w.steps)[1]
    return ys[0] @ w.square + ys[2] @ w.gates[0] + start


def handed_in(flow: Flow, w: Weights, x: jax.Array, start: jax.Array) -> jax.Array:
    scaled = tanh(x @ w.first) * w.scale

    def step(a: jax.Array, v: jax.Array) -> tuple:
        return relu(a @ w.square + scaled @ (w.square * v[0, 0])), None

    return flow.scan(step, relu(start), w.steps)[0] @ w.square + start


def summand(flow: Flow, w: Weights, x: jax.Array, start: jax.Array) -> jax.Array:
    """What constants add to it counts beside the layer."""
    ys = flow.scan(lambda s, v: (s, tanh(x @ v) * w.scale + w.bias), 0.0, w.steps)[1]
    return relu(x @ w.first + ys[1] + w.bias) @ w.square + start


def chosen(flow: Flow, w: Weights, x: jax.Array, start: jax.Array) -> jax.Array:
    def yes(a: jax.Array) -> jax.Array:
        return sigmoid(a) * tanh(x @ w.first)

    return flow.cond(w.which, yes, lambda a: relu(a) * w.scale, start) @ w.square + start


def decaying(flow: Flow, w: Weights, x: jax.Array, start: jax.Array) -> jax.Array:
    def step(s: jax.Array, v: jax.Array) -> tuple:
        s = s * sigmoid(x @ w.first) + tanh(x @ v)
        return s, s * sigmoid(x @ w.other)

    return flow.scan(step, jnp.zeros_like(start), w.steps)[1][2] @ w.square + start


def turned(flow: Flow, w: Weights, x: jax.Array, start: jax.Array) -> jax.Array:
    ys = flow.scan(lambda s, v: (-s * w.scale, tanh(s) * w.scale), x @ w.first, w.steps)[1]
    return ys[1] @ w.square + start


MADE = [lstm, gru, gated, standardised, handed_in, summand, chosen, decaying, turned]


def both(function: Callable[[Flow, jax.Array], jax.Array], flow: str, seed: int) -> None:
    """Compares a program's maps with those of the program written out."""
    x = jnp.asarray(np.random.default_rng(seed).normal(0.2, 1, (2, 4)))
    looped, written_out = (lambda x, flow=flow: function(flow, x) for flow in (FLOWS[flow], OUT))
    np.testing.assert_allclose(looped(x), written_out(x), rtol=1e-9)
    for found, wanted in zip(maps(looped, x, (0, 2)), maps(written_out, x, (0, 2)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("made", MADE)
def test_loops_and_branches(made: Callable) -> None:
    with jax.enable_x64(True):
        w = weights(1)
        both(lambda flow, x: model(flow, w, made, "layer", "relu", x), "scan", 1)


@pytest.mark.slow
@settings(max_examples=6, deadline=None, derandomize=True, database=None,
          suppress_health_check=list(HealthCheck), phases=[Phase.generate])  # fmt: skip
@given(
    st.integers(0, 2**20), st.sampled_from(sorted(FLOWS)), st.sampled_from(MADE),
    st.sampled_from(sorted(STARTS)),
)  # fmt: skip
def test_in_other_flows(seed: int, flow: str, made: Callable, start: str) -> None:
    with jax.enable_x64(True):
        w = weights(seed)
        both(lambda flow, x: model(flow, w, made, start, "relu", x), flow, seed)


#: What a step does to two of the values before.
DOES: dict[str, Callable[[Any, Any, Weights], Any]] = {
    "layer": lambda a, b, w: a @ w.square,
    "other layer": lambda a, b, w: a @ w.gates[0],
    "relu": lambda a, b, w: relu(a),
    "tanh": lambda a, b, w: tanh(a),
    "sigmoid": lambda a, b, w: sigmoid(a),
    "scale": lambda a, b, w: tanh(a) * w.scale,
    "shift": lambda a, b, w: tanh(a) + w.bias,
    "gate": lambda a, b, w: sigmoid(b @ w.gates[1]) * a,
    "mix": lambda a, b, w: (
        (1 - sigmoid(b @ w.gates[0])) * a + sigmoid(b @ w.gates[0]) * tanh(b @ w.square)
    ),
}  # fmt: skip

steps = st.lists(
    st.tuples(st.sampled_from(sorted(DOES)), st.integers(1, 4), st.integers(1, 4)),
    min_size=2, max_size=5,
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=12, deadline=None, derandomize=True, database=None,
          suppress_health_check=list(HealthCheck), phases=[Phase.generate])  # fmt: skip
@given(st.integers(0, 2**20), steps, st.sampled_from(sorted(STARTS)), st.booleans())
def test_drawn_steps(seed: int, code: list, start: str, rows: bool) -> None:
    def made(flow: Flow, w: Weights, x: jax.Array, start: jax.Array) -> jax.Array:
        def step(state: tuple, v: jax.Array) -> tuple:
            values = [*state, x @ v]
            for does, a, b in code:
                values.append(DOES[does](values[-min(a, 3)], values[-min(b, 3)], w))
            return (values[-1], values[-2]), values[-1]

        (h, _), ys = flow.scan(step, (start, tanh(x @ w.first)), w.steps)
        return (ys[-1] if rows else h) @ w.square

    with jax.enable_x64(True):
        w = weights(seed)

        def function(flow: Flow, x: jax.Array) -> jax.Array:
            return model(flow, w, made, start, "relu", x)

        try:  # two parts of one layer multiplied, say
            ej.excitation_vjp(lambda _, x: function(OUT, x), {}, jnp.ones((2, 4)), 0)
        except (ej.UnsupportedPrimitiveError, ValueError):
            assume(False)
        both(function, "scan", seed)


W = weights(0)


def test_only_what_is_made_of_others_has_them_beside() -> None:
    def beside(step: Callable) -> bool:
        def function(x: jax.Array) -> jax.Array:
            return lax.scan(lambda h, v: (step(h, x, v),) * 2, x @ W.first, W.steps)[1][2] @ W.head

        program, *_ = trace(function, jnp.ones((2, 4)))
        plan = analyse(program, program.inputs, ej.EXCITATION)
        return any(
            not plan.beside(value).keys().isdisjoint(NEURONS)
            for _, op in program.all_ops()
            for value in op.outputs
        )

    assert beside(lambda h, x, v: sigmoid(x @ v) * tanh(h))
    assert beside(lambda h, x, v: tanh(h) * W.scale)
    assert not beside(lambda h, x, v: relu(h @ W.square + x @ v))
    assert not beside(lambda h, x, v: h + relu(h) @ W.square)


def test_where_nothing_excites_gates_count_across_a_border() -> None:
    """D10: what is handed on evenly goes to the gated neuron by its gate."""

    def function(flow: Flow, x: jax.Array) -> jax.Array:
        ys = flow.scan(lambda s, v: (s, sigmoid(x @ v) * tanh(x @ W.first)), 0.0, W.steps)[1]
        return ys[0] @ -jnp.abs(W.square[:, :3]) + ys[1] @ -jnp.abs(W.head)

    def found(flow: Flow) -> jax.Array:
        out, vjp = jax.vjp(
            ej.excite(lambda x: function(flow, x), rules=ej.EXCITATION_CONSERVING), jnp.ones((2, 4))
        )
        return vjp(jnp.ones_like(out))[0]

    np.testing.assert_allclose(found(FLOWS["scan"]), found(OUT), rtol=1e-5, atol=1e-7)


def test_outputs_are_the_models_own() -> None:
    for made in (lstm, turned):

        def function(x: jax.Array, made: Callable = made) -> jax.Array:
            return model(FLOWS["scan"], W, made, "layer", "relu", x)

        x = jnp.ones((2, 4))
        outputs, _ = jax.vjp(jax.jit(ej.excite(function)), x)
        np.testing.assert_array_equal(outputs, jax.jit(function)(x))
