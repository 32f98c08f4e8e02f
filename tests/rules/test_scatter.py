"""``x.at[i].set(y)``, ``x.at[i].add(y)`` and ``jax.ops.segment_sum``, against dense matrices."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import excitation_jax as ej

rng = np.random.default_rng(0)
X = rng.normal(size=(6, 4)).astype(np.float32)
W = rng.normal(size=(4, 3)).astype(np.float32)
SENDERS, RECEIVERS = np.array([0, 0, 1, 2, 3, 5, 5]), np.array([1, 2, 2, 0, 0, 4, 0])


def share(h: np.ndarray, matrix: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Eq. 6 for rows h (n, c), non-negative sums over rows (m, n) and probabilities (m, c)."""
    total = matrix @ h
    return h * (matrix.T @ np.divide(p, total, out=np.zeros_like(total), where=total > 0))


def mwp(f: Callable, x: np.ndarray, p: np.ndarray) -> np.ndarray:
    return np.asarray(jax.vjp(ej.excite(f), jnp.asarray(x))[1](jnp.asarray(p, jnp.float32))[0])


@pytest.mark.parametrize(("activation", "low"), [(jax.nn.relu, 0), (jnp.tanh, -1)])
def test_messages_of_a_graph_network(activation: Callable, low: float) -> None:
    """A node shares its probability among the messages that it received (Eq. 6)."""

    def model(x: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(activation(x)[SENDERS], RECEIVERS, num_segments=6)

    edges = np.zeros((6, 7))
    edges[RECEIVERS, np.arange(7)] = 1
    h = np.asarray(activation(X), float)[SENDERS] - low
    p = rng.dirichlet(np.ones(24)).reshape(6, 4)
    nodes = np.zeros((6, 7))
    nodes[SENDERS, np.arange(7)] = 1
    wanted = nodes @ share(h, edges, p)
    np.testing.assert_allclose(mwp(model, X, p), wanted, rtol=1e-5, atol=1e-7)


def test_rows_added_to_others() -> None:
    places = np.array([1, 1, 4])

    def model(x: jax.Array) -> jax.Array:
        x = jax.nn.relu(x)
        return x.at[places].add(x[:3])

    both = np.eye(6)
    both[places, [0, 1, 2]] += 1  # row 1 is added to itself
    p = rng.dirichlet(np.ones(24)).reshape(6, 4)
    wanted = share(np.maximum(X.astype(float), 0), both, p)
    np.testing.assert_allclose(mwp(model, X, p), wanted, rtol=1e-5, atol=1e-7)


def test_constants_that_are_added_take_nothing() -> None:
    p = rng.dirichlet(np.ones(24)).reshape(6, 4)
    np.testing.assert_allclose(mwp(lambda x: x.at[2].add(5.0), X, p), p, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_what_is_written_takes_all(dtype: jnp.dtype) -> None:
    def model(x: jax.Array) -> jax.Array:
        x = x.astype(dtype)
        return x.at[jnp.array([3, 0]), 1:].set(-x[:2, :3]).astype(jnp.float32)

    p = rng.dirichlet(np.ones(24)).reshape(6, 4)
    wanted = p.copy()
    wanted[[3, 0], 1:] = 0
    wanted[0, :3] += p[3, 1:]
    wanted[1, :3] += p[0, 1:]
    np.testing.assert_allclose(mwp(model, X, p), wanted, rtol=1e-5, atol=1e-7)


def test_the_report_says_where_a1_fails() -> None:
    def model(w: jax.Array, x: jax.Array) -> jax.Array:
        messages = jnp.tanh(x @ w)[SENDERS]
        return jax.ops.segment_sum(messages, RECEIVERS, num_segments=6)

    rows = ej.explain_rules(model, W, X).rows
    (row,) = (row for row in rows if row.primitive == "scatter-add")
    assert row.rule == "R4 sum, Eq. 19" and "child shifted, h = x + 1" in row.note


def test_indices_that_depend_on_the_input_are_refused() -> None:
    def model(x: jax.Array) -> jax.Array:
        return jnp.zeros(4).at[x.astype(jnp.int32)].set(1.0)

    with pytest.raises(ej.UnsupportedPrimitiveError) as error:
        ej.excite(model)(jnp.arange(3.0))
    message = str(error.value)
    assert "only its indices depend on the explained input, not what they place" in message
    assert "test_scatter.py" in message


def test_other_scatters_are_refused() -> None:
    with pytest.raises(ej.UnsupportedPrimitiveError, match="scatter-mul"):
        ej.excite(lambda x: jnp.ones(6).at[jnp.array([0, 0, 1])].multiply(x))(jnp.arange(3.0))


@pytest.mark.parametrize("largest", [True, False])
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_a_segments_winner_takes_all(largest: bool, data: st.DataObject) -> None:
    """Against a loop: equal parts where several are equal, and to x where nothing placed wins."""
    count, size = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 4))
    places = data.draw(st.lists(st.integers(0, size), min_size=count, max_size=count))
    numbers = st.integers(-3, 3).map(float)
    y = data.draw(st.lists(numbers, min_size=count, max_size=count))
    x = data.draw(st.lists(numbers, min_size=size, max_size=size))
    p = data.draw(st.lists(st.integers(0, 4).map(float), min_size=size, max_size=size))

    def placed(x: jax.Array, y: jax.Array) -> jax.Array:
        at = x.at[jnp.array(places)]
        return at.max(y) if largest else at.min(y)

    out, pull = jax.vjp(ej.excite(placed, argnums=(0, 1)), jnp.array(x), jnp.array(y))
    share_x, share_y = np.zeros(size), np.zeros(count)
    for i in range(size):  # an index of `size` lies outside, and is dropped
        candidates = [j for j in range(count) if places[j] == i and y[j] == float(out[i])]
        for j in candidates:
            share_y[j] += p[i] / len(candidates)
        if not candidates:
            share_x[i] += p[i]
    found_x, found_y = pull(jnp.array(p))
    np.testing.assert_allclose(found_x, share_x, atol=1e-6)
    np.testing.assert_allclose(found_y, share_y, atol=1e-6)
