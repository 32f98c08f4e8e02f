"""Sums of affine values that go on across the borders of loops and branches are one neuron (D2).

A program is written once, for control flow that is JAX's or Python's own. Both have one map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flows import BEHIND, FLOWS, OUT, STARTS, Flow, Weights, maps, model, weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax

import excitation_jax as ej
from excitation_jax.engine.planning import analyse
from excitation_jax.markov import markov_chain
from excitation_jax.program.trace import trace


def accumulated(flow: Flow, w: Weights, x: jax.Array, start: jax.Array) -> jax.Array:
    return flow.scan(lambda a, v: (a + x @ v, None), start, w.steps)[0]


def decaying(flow: Flow, w: Weights, x: jax.Array, start: jax.Array) -> jax.Array:
    return flow.scan(lambda a, v: (x @ v - a * w.scale, None), start, w.steps)[0]


def averaged(flow: Flow, w: Weights, x: jax.Array, start: jax.Array) -> jax.Array:
    return flow.scan(lambda s, v: (s, x @ v + w.bias), 0.0, w.steps)[1].mean(0) + start


def chosen(flow: Flow, w: Weights, x: jax.Array, start: jax.Array) -> jax.Array:
    def yes(a: jax.Array, x: jax.Array) -> jax.Array:
        return a - x @ w.steps[0] * 2

    def no(a: jax.Array, x: jax.Array) -> jax.Array:
        return (a + w.bias) * w.scale

    return flow.cond(w.which, yes, no, start, x) + x @ w.steps[1]


def nested(flow: Flow, w: Weights, x: jax.Array, start: jax.Array) -> jax.Array:
    def step(a: jax.Array, v: jax.Array) -> tuple:
        return flow.cond(w.which, lambda a: a + x @ v, lambda a: a * 1.5 - x @ v, a), None

    def outer(a: jax.Array, factor: jax.Array) -> tuple:
        return flow.scan(step, a, w.steps * factor)[0], None

    return flow.scan(outer, start, jnp.array([1.0, -0.5]))[0]


def recurrent(flow: Flow, w: Weights, x: jax.Array, start: jax.Array) -> jax.Array:
    """Projected ahead of the loop."""
    ahead = flow.rows([x @ v + w.bias for v in w.steps])

    def step(h: jax.Array, z: jax.Array) -> tuple:
        return jax.nn.relu(z + h @ w.square), None

    return flow.scan(step, jnp.zeros_like(start), ahead)[0] @ w.square + start


def lstm(flow: Flow, w: Weights, x: jax.Array, start: jax.Array) -> jax.Array:
    """Projected ahead of the loop, with cells that are not below 0."""
    gates = flow.rows([(x @ v, w.bias - x @ v * 0.5) for v in w.steps])

    def step(state: tuple, z: tuple) -> tuple:
        h, c = state
        new, keep = (part + h @ v for part, v in zip(z, w.gates, strict=True))
        c = jax.nn.sigmoid(keep) * c + jax.nn.relu(new)
        return (c, c), None

    h = flow.scan(step, (jnp.zeros_like(start),) * 2, gates)[0][0]
    return h @ w.square + start


def buffered(flow: Flow, w: Weights, x: jax.Array, start: jax.Array) -> jax.Array:
    """Rows are written one by one, then summed."""
    rows = jnp.zeros((3, *start.shape))
    steps = flow.rows(list(enumerate(w.steps)))
    return (
        flow.scan(lambda s, iv: (s.at[iv[0]].set(x @ iv[1]), None), rows, steps)[0].sum(0) + start
    )


SUMS = [accumulated, decaying, averaged, chosen, nested, recurrent, lstm, buffered]


@pytest.mark.slow
@settings(max_examples=16, deadline=None, derandomize=True, database=None,
          suppress_health_check=list(HealthCheck))  # fmt: skip
@given(
    st.integers(0, 2**20), st.sampled_from(sorted(FLOWS)), st.sampled_from(SUMS),
    st.sampled_from(sorted(STARTS)), st.sampled_from(sorted(BEHIND)),
)  # fmt: skip
def test_are_the_sums_written_out(
    seed: int, flow: str, sum_of: Callable, start: str, behind: str
) -> None:
    with jax.enable_x64(True):
        w = weights(seed)
        x = jnp.asarray(np.random.default_rng(seed).uniform(0, 1, (2, 4)))

        def looped(x: jax.Array) -> jax.Array:
            return model(FLOWS[flow], w, sum_of, start, behind, x)

        def written_out(x: jax.Array) -> jax.Array:
            return model(OUT, w, sum_of, start, behind, x)

        np.testing.assert_allclose(looped(x), written_out(x), rtol=1e-9)
        for found, wanted in zip(
            maps(looped, x, (0, 2)), maps(written_out, x, (0, 2)), strict=True
        ):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9)


W = weights(0)
X = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (3, 2, 4)), jnp.float32)


def summed(x: jax.Array) -> jax.Array:
    return model(FLOWS["scan"], W, accumulated, "bias", "relu", x)


def test_outputs_are_the_models_own() -> None:
    for flow in FLOWS.values():
        for sum_of in SUMS:

            def function(x: jax.Array, sum_of: Callable = sum_of, flow: Flow = flow) -> jax.Array:
                return model(flow, W, sum_of, "layer", "relu", x)

            outputs, _ = jax.vjp(jax.jit(ej.excite(function)), X[0])
            np.testing.assert_array_equal(outputs, jax.jit(function)(X[0]))


def test_under_vmap_is_example_by_example() -> None:
    def one(x: jax.Array) -> jax.Array:
        out, vjp = jax.vjp(ej.excite(summed, contrastive=True), x)
        return vjp(jnp.ones_like(out))[0]

    wanted = np.stack([one(x) for x in X])
    np.testing.assert_allclose(jax.vmap(one)(X), wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("contrastive", [False, True])
@pytest.mark.parametrize("head", [False, True])
def test_a_layer_inside_is_its_part(head: bool, contrastive: bool) -> None:
    def tagged(flow: Flow) -> Callable:
        def function(_: Any, x: jax.Array) -> jax.Array:
            def step(a: jax.Array, v: jax.Array) -> tuple:
                return ej.tag(a + ej.tag(x @ v, "part"), "sum"), None

            a = flow.scan(step, jnp.zeros((2, 5)) + W.bias, W.steps)[0]
            return a if head else jax.nn.relu(a) @ W.head

        return function

    def explained(flow: Flow, names: Sequence[str]) -> Any:
        options: Any = {"layer": names, "contrastive": contrastive}
        return ej.excitation_vjp(tagged(flow), {}, X[0], jnp.array([0, 2]), **options).mwp

    found = explained(FLOWS["scan"], ["part", "sum"])
    for name in ("part", "sum"):
        names = [name, f"{name}#2", f"{name}#3"]
        wanted = explained(OUT, names)
        np.testing.assert_allclose(
            found[name], np.stack([wanted[n] for n in names]), rtol=1e-5, atol=1e-6
        )
    report = ej.explain_rules(tagged(FLOWS["scan"]), {}, X[0], target=jnp.array([0, 2]))
    assert abs((report.reached or 0) - 1) < 1e-5
    assert not report.losses


NO_SUMS: dict[str, Callable] = {
    "layers": lambda x: lax.scan(lambda h, v: (jax.nn.relu(h @ v), None), x @ W.first, W.gates)[0],
    "layers in a row": lambda x: jax.nn.relu(lax.map(lambda v: x @ v, W.steps)).mean(0),
    "residual": lambda x: lax.scan(
        lambda h, v: (h + jax.nn.relu(h @ v), None), jax.nn.relu(x @ W.first), W.gates)[0],
    "residual stream": lambda x: lax.scan(
        lambda h, v: (h + jax.nn.relu(h) @ v, None), x @ W.first, W.gates)[0],
    "an activation is added": lambda x: accumulated(
        FLOWS["scan"], W, x, jax.nn.relu(x @ W.first)),
    "each step is read": lambda x: lax.scan(lambda a, v: (a + x @ v,) * 2, 0.0 * x @ W.first,
                                            W.steps)[1],
}  # fmt: skip


@pytest.mark.parametrize("name", NO_SUMS)
def test_what_is_no_sum_is_handed_over_as_a_value(name: str) -> None:
    def opened(function: Callable, rules: ej.RuleSet = ej.EXCITATION) -> bool:
        program, *_ = trace(function, X[0])
        return bool(analyse(program, program.inputs, rules).open.sides)

    assert opened(summed)
    assert not opened(summed, ej.EXCITATION_CONSERVING)
    assert not opened(NO_SUMS[name])


def test_a_chain_refuses_loops_at_once() -> None:
    with pytest.raises(NotImplementedError, match="write the loop or branch out"):
        markov_chain(lambda _, x: summed(x), {}, X[0])
