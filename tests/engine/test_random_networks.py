"""Random small networks against the absorbing Markov chain, written out in full.

The networks are those of random_networks.py. The visits that the fundamental matrix gives are the
marginal winning probabilities that the library has to return.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from random_networks import CLASSES, FAST, Chain, Network, check_many, check_some, networks, run

import excitation_jax as ej

#: The chain has a neuron for each layer; tests/oracles knows sums of layers, too (D2).
RULES = ej.EXCITATION_UNMERGED


def library_maps(
    network: Network, x: np.ndarray, prior: np.ndarray, *, contrastive: bool = False
) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """The library's (c-)MWP by node, the input's among them, and the outputs."""
    last = network.top if contrastive else len(network.nodes)
    indices = range(1, last)

    def model(params: Any, x: jax.Array) -> jax.Array:
        return run(network, params, ej.tag(x, "n0"))

    def explain(params: Any, x: jax.Array, prior: jax.Array) -> ej.Excitation:
        names = ["n0", *(f"n{i}" for i in indices)]
        return ej.excitation_vjp(
            model, params, x, prior, layer=names, contrastive=contrastive, rules=RULES
        )

    e = jax.jit(explain, compiler_options=FAST)(network.params, x, prior)
    return {int(name[1:]): np.asarray(p) for name, p in e.mwp.items()}, np.asarray(e.outputs)


def draw_prior(network: Network) -> np.ndarray:
    rng = np.random.default_rng(network.seed + 2)
    return rng.dirichlet(np.ones(CLASSES), 2)


@check_many
@given(network=networks())
def test_mwp_is_the_fundamental_matrix_at_every_layer(network: Network) -> None:
    x, prior = network.inputs(), draw_prior(network)
    with jax.enable_x64(True):
        maps, outputs = library_maps(network, x, prior)
    for n in range(len(x)):
        chain = Chain(network, x[n])
        np.testing.assert_allclose(outputs[n], chain.values[-1], atol=1e-9)
        visits = chain.visits(prior[n])
        for i, found in maps.items():
            assert found.dtype == np.float64
            np.testing.assert_allclose(found[n], visits[i], rtol=0, atol=1e-6, err_msg=f"node {i}")
            assert found[n].min() >= 0
        # Conservation: what does not arrive at the input ended where nothing excites.
        arrived = maps[0][n].sum()
        assert arrived + chain.absorbed_above_input() == pytest.approx(1, abs=1e-6)


@check_some
@given(network=networks())
def test_cmwp_is_the_difference_of_two_chains(network: Network) -> None:
    x, prior = network.inputs(), draw_prior(network)
    with jax.enable_x64(True):
        maps, _ = library_maps(network, x, prior, contrastive=True)
    for n in range(len(x)):
        chain = Chain(network, x[n])
        plus, minus = chain.visits(prior[n]), chain.visits(prior[n], top_sign=-1)
        for i, found in maps.items():
            expected = plus[i] - minus[i]
            np.testing.assert_allclose(found[n], expected, rtol=0, atol=1e-6, err_msg=f"node {i}")


@check_some
@given(network=networks())
def test_outputs_are_equal_to_the_last_bit(network: Network) -> None:
    x = network.inputs().astype(np.float32)
    params = jax.tree.map(np.float32, network.params)

    def model(x: jax.Array) -> jax.Array:
        return run(network, params, x)

    plain = jax.jit(model, compiler_options=FAST)(x)
    excited = jax.jit(ej.excite(model), compiler_options=FAST)(x)
    np.testing.assert_array_equal(plain, excited)
