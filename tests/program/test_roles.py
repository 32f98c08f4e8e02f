"""Each role by one example of it, and by what looks like one and is none."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import excitation_jax as ej
from excitation_jax.program import gates, roles
from excitation_jax.program.facts import FactTable
from excitation_jax.program.intervals import Interval
from excitation_jax.program.neuron import Neurons
from excitation_jax.program.primitives import Primitive
from excitation_jax.program.record import Role
from excitation_jax.program.trace import Op, trace

X = jax.ShapeDtypeStruct((2, 4), "float32")
W = jnp.ones((4, 4))


def known(fn: Callable) -> FactTable:
    program, _, _ = trace(fn, X)
    return FactTable(program, program.inputs)


def last(facts: FactTable, primitive: Primitive) -> Op:
    return [op for op in facts.program.ops if op.primitive is primitive][-1]


NORMALISERS = {
    "rsqrt": lambda x: lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6),
    "reciprocal": lambda x: 1 / jnp.abs(x).sum(-1, keepdims=True),
    "power": lambda x: (1 + x * x) ** -0.75,
    "products of such": lambda x: (
        jnp.broadcast_to(lax.rsqrt(1 + (x * x).sum(-1))[:, None], (2, 4)) * W[0]
    ),
}


@pytest.mark.parametrize("name", NORMALISERS)
def test_a_normaliser(name: str) -> None:
    facts = known(NORMALISERS[name])
    assert facts[facts.program.outputs[0]].role is Role.NORMALISER


@pytest.mark.parametrize("fn", [lambda x: x / (1 + x.sum()), lambda x: jnp.sqrt(1 + x * x)])
def test_no_normaliser(fn: Callable) -> None:
    facts = known(fn)
    assert facts[facts.program.outputs[0]].role is None


@pytest.mark.parametrize("divides", [True, False])
def test_what_is_normalised_has_no_bound_below_zero(divides: bool) -> None:
    def norm(x: jax.Array) -> jax.Array:
        centred = jnp.tanh(x) - jnp.tanh(x).mean(-1, keepdims=True)
        variance = (centred * centred).mean(-1, keepdims=True) + 1e-3
        return centred / jnp.sqrt(variance) if divides else centred * lax.rsqrt(variance)

    facts = known(norm)
    assert facts[facts.program.outputs[0]].interval.low == -np.inf


def test_a_window_mean_lies_between_what_it_averages() -> None:
    def mean(x: jax.Array) -> jax.Array:
        window = dict(dimensions=(1, 3), strides=(1, 1), padding="SAME")
        summed = lax.reduce_window(jnp.tanh(x), 0.0, lax.add, *window.values())
        return summed / lax.reduce_window(jnp.ones_like(x), 0.0, lax.add, *window.values())

    facts = known(mean)
    op = last(facts, lax.div_p)
    assert roles.window_mean(op, facts) is not None
    assert facts[op.outputs[0]].interval == Interval(-1, 1)


def test_a_mixture_lies_between_what_it_mixes() -> None:
    def update(x: jax.Array) -> jax.Array:
        gate = jax.nn.sigmoid(x @ W)
        return gate * jnp.tanh(x) + (1 - gate) * jax.nn.relu(x).clip(max=3)

    facts = known(update)
    assert roles.mixture(last(facts, lax.add_p), facts) is not None
    assert facts[facts.program.outputs[0]].interval == Interval(-1, 3)
    other = known(lambda x: jax.nn.sigmoid(x) * x + (2 - jax.nn.sigmoid(x)) * x)
    assert roles.mixture(last(other, lax.add_p), other) is None


def test_shares_lie_in_0_to_1() -> None:
    facts = known(lambda x: jax.nn.softmax(x @ W))
    assert roles.share(last(facts, lax.div_p), facts)
    assert facts[facts.program.outputs[0]].interval == Interval(0, 1)
    other = known(lambda x: jnp.exp(x) / jnp.exp(x[::-1]).sum())
    assert not roles.share(last(other, lax.div_p), other)


FACTORS: dict[str, tuple[Callable, int | None]] = {
    "sigmoid": (lambda x: lax.mul(x @ W, jax.nn.sigmoid(x)), 0),
    "softmax and values": (lambda x: lax.dot(jax.nn.softmax(x @ W), W @ x.T), 1),
    "a scaled gate": (lambda x: lax.mul(jax.nn.sigmoid(x) * 3.0, x @ W), 1),
    "a normaliser": (lambda x: lax.mul(x @ W, lax.rsqrt(1 + x * x)), 0),
    "computed from the other": (lambda x: lax.mul(y := x @ W, jnp.sin(y @ W) + 5 * (y @ W)), 0),
    "swiglu": (lambda x: lax.mul(jax.nn.silu(x @ W), x @ (2 * W)), 1),
    "two alike": (lambda x: lax.mul(x @ W, x @ (2 * W)), None),
}


@pytest.mark.parametrize("name", FACTORS)
def test_which_factor_is_the_signal(name: str) -> None:
    fn, signal = FACTORS[name]
    facts = known(fn)
    op = facts.program.ops[-1]
    assert gates.signal_factor(op, facts) == signal


def test_a_gated_signal() -> None:
    """A closed gate lets no excitation through: h is gate * (x - lambda)."""

    def bounds(fn: Callable) -> list[float]:
        facts = known(fn)
        reading = Neurons(facts).reading(facts.program.outputs[0])
        return [] if reading is None else list(reading.neurons.values())

    assert bounds(lambda x: jax.nn.sigmoid(x @ W) * jnp.tanh(x)) == [-1]
    assert bounds(lambda x: jax.nn.sigmoid(x @ W) * jax.nn.relu(x)) == [0]
    assert bounds(lambda x: ej.tag(jax.nn.sigmoid(x @ W) * jnp.tanh(x), "gated")) == [-1]
    # What a normaliser makes is a neuron, of no bound (R5).
    assert bounds(lambda x: jnp.tanh(x) * lax.rsqrt(1 + (x * x).sum(-1, keepdims=True))) == []


@pytest.mark.parametrize(
    "fn, is_one",
    [
        (lambda x: jnp.maximum(x @ W, 0), True),
        (jax.nn.softplus, False),
        (lambda x: jnp.maximum(x, 0) + 0.1 * jnp.minimum(x, 0), False),
        (lambda x: x * lax.rsqrt(jnp.maximum((x * x).mean(-1, keepdims=True), 0) + 1e-6), False),
        (lambda x: jnp.maximum(x, 1), False),
    ],
)
def test_a_rectifier(fn: Callable, is_one: bool) -> None:
    facts = known(fn)
    assert (roles.rectified(last(facts, lax.max_p), facts) is not None) == is_one


def test_a_skip() -> None:
    facts = known(lambda x: (y := jax.nn.relu(x @ W)) + jax.nn.relu(y @ W) @ W)
    assert roles.identity_skip(facts.program.ops[-1], facts) == 0
    projected = known(lambda x: (y := jax.nn.relu(x @ W)) @ (2 * W) + jax.nn.relu(y @ W) @ W)
    assert roles.identity_skip(projected.program.ops[-1], projected) is None
