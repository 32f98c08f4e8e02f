"""Deterministic winner-take-all against a plain loop: each winner's strongest child wins.

The networks, and what excites a neuron (h_j w_ij+), are those of random_networks.py: written
from the layers' specifications in numpy float64, without tracing anything.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax import lax
from random_networks import FAST, Chain, Network, check_some, networks, run

import excitation_jax as ej
from excitation_jax import methods

check_few = settings(check_some, max_examples=4)
check_some = settings(check_some, max_examples=25)


def winners(chain: Chain, unit: int) -> list[int | None]:
    """For each node, the neuron that wins, if one does: from a unit of the last node down."""
    nodes = chain.nodes
    found: list[int | None] = [None] * len(nodes)
    found[-1] = unit
    for i in reversed(range(len(nodes))):
        if found[i] is None or not nodes[i].parents:
            continue
        # Z_i divides all of a winner's children alike, and is 0 where nothing excites.
        rows = [block[found[i]] for block in chain.rows[i]]
        parent = int(np.argmax([row.max() for row in rows]))
        if rows[parent].max() > 0:
            found[nodes[i].parents[parent]] = int(rows[parent].argmax())
    return found


def model_of(network: Network) -> Any:
    def model(params: Any, x: jax.Array) -> jax.Array:
        return run(network, params, ej.tag(x, "n0"))

    return model


@check_some
@given(network=networks())
def test_one_winner_at_every_layer_on_its_way(network: Network) -> None:
    model, x = model_of(network), network.inputs()[:1]
    names = [f"n{i}" for i in range(len(network.nodes) - 1)]

    def explain(params: Any, x: jax.Array, prior: jax.Array) -> dict[str, jax.Array]:
        rules = methods.WINNER_TAKE_ALL
        return ej.excitation_vjp(model, params, x, prior, layer=names, rules=rules).mwp

    with jax.enable_x64(True):
        found = jax.jit(explain, compiler_options=FAST)(network.params, x, np.eye(3)[None])
    chain = Chain(network, x[0])
    for unit in range(3):
        for i, winner in enumerate(winners(chain, unit)[:-1]):
            expected = np.zeros(chain.values[i].size)
            expected[[] if winner is None else [winner]] = 1
            places = np.asarray(found[f"n{i}"][0, unit]).ravel()
            np.testing.assert_array_equal(places, expected, err_msg=f"node {i}, unit {unit}")


@check_few
@given(network=networks().filter(lambda network: len(network.nodes[0].shape) == 3))
def test_maps_of_a_batch_and_several_targets(network: Network) -> None:
    x, targets = network.inputs(), np.array([[0, 2], [1, 1]])
    shape = network.nodes[0].shape
    channel = 0 if network.channels_first else 2
    # An axis is spatial where something moves along it.
    with jax.enable_x64(True):
        model = model_of(network)
        spatial = ej.layers(model, network.params, x)[0].spatial_axes
        if len(spatial) != 2:
            return
        explain = jax.jit(
            lambda p, x: methods.winner_take_all(model, p, x, targets, layer="n0"),
            compiler_options=FAST,
        )
        found = explain(network.params, x)
    assert found.dtype == jnp.float32
    for n, chain in enumerate(Chain(network, example) for example in x):
        for k, unit in enumerate(targets[n]):
            winner = winners(chain, unit)[0]
            expected = np.zeros(np.prod(shape))
            expected[[] if winner is None else [winner]] = 1
            expected = expected.reshape(shape).sum(channel)
            np.testing.assert_array_equal(found[n, k], expected, err_msg=f"{n}, {k}")


# A network with one way, that one can follow by hand.


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


def score_map(params: dict, x: jax.Array) -> jax.Array:
    for kernel in params["layers"]:
        x = ej.tag(jax.nn.relu(convolve(x, kernel)), "hidden")
    return convolve(x, params["head"])


def scanned(params: dict, x: jax.Array) -> jax.Array:
    def step(h: jax.Array, kernel: jax.Array) -> tuple:
        return ej.tag(jax.nn.relu(convolve(h, kernel)), "hidden"), None

    return convolve(lax.scan(step, x, params["layers"])[0], params["head"])


def pooled(params: dict, x: jax.Array) -> jax.Array:
    return score_map(params, x).mean((1, 2))


KEYS = jax.random.split(jax.random.key(3), 3)
PARAMS = {
    "layers": jax.random.normal(KEYS[0], (2, 3, 3, 3, 3)),
    "head": jax.random.normal(KEYS[1], (1, 1, 3, 4)),
}
X = jax.random.normal(KEYS[2], (2, 5, 4, 3))


def test_a_score_map_starts_at_its_best_position() -> None:
    found = methods.winner_take_all(score_map, PARAMS, X, 1, layer="hidden#2")
    hidden = score_map({**PARAMS, "head": jnp.eye(3)[None, None]}, X)
    best = score_map(PARAMS, X)[..., 1].reshape(2, -1).argmax(1)
    # A 1x1 head: the winner below is at the same place.
    excited = (hidden.reshape(2, 20, 3)[jnp.arange(2), best] * PARAMS["head"][0, 0, :, 1]).max(1)
    assert (excited > 0).all()
    np.testing.assert_array_equal(found, jax.nn.one_hot(best, 20).reshape(2, 5, 4))


def test_layers_inside_a_loop_have_a_map_of_each_step() -> None:
    found = methods.winner_take_all(scanned, PARAMS, X, [[0, 1], [2, 3]], layer="hidden")
    assert found.shape == (2, 2, 2, 5, 4)
    for step, name in enumerate(("hidden", "hidden#2")):
        expected = methods.winner_take_all(score_map, PARAMS, X, [[0, 1], [2, 3]], layer=name)
        np.testing.assert_array_equal(found[step], expected)


def test_nothing_wins_where_nothing_starts() -> None:
    outside = jax.jit(lambda target: methods.winner_take_all(pooled, PARAMS, X, target))
    found = outside(jnp.array([4, 0]))
    assert found[0].sum() == 0 and found[1].sum() == 1
    silent = {**PARAMS, "head": -jnp.abs(PARAMS["head"])}
    assert methods.winner_take_all(pooled, silent, X, 0).sum() == 0


def test_an_example_without_a_batch() -> None:
    def single(params: dict, x: jax.Array) -> jax.Array:
        return pooled(params, x[None])[0]

    found = methods.winner_take_all(single, PARAMS, X[1], [0, 3], layer=None)
    batch = methods.winner_take_all(pooled, PARAMS, X, [[0, 3], [0, 3]], layer=None)
    np.testing.assert_array_equal(found, batch[1])


def test_the_scores_are_one_array_of_numbers() -> None:
    with pytest.raises(ValueError, match="params.'head'"):
        broken = {**PARAMS, "head": PARAMS["head"] * jnp.nan}
        methods.winner_take_all(pooled, broken, X, 0)
    with pytest.raises(ValueError, match="returns a tuple.*return one array"):
        methods.winner_take_all(
            lambda p, x: (pooled(p, x), x), PARAMS, X, lambda out: (jnp.ones((2, 4)), None)
        )
