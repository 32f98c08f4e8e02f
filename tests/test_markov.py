"""The explicit Markov chain, by its own definitions. (It is the oracle of many other tests.)"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import excitation_jax as ej
from excitation_jax import markov


def network(weights: list, x: jax.Array) -> jax.Array:
    hidden = ej.tag(jax.nn.relu(x @ weights[0] - 0.2), "hidden")
    pooled = jnp.maximum(hidden[:, :3], hidden[:, 3:])
    return (pooled + hidden[:, :3]) @ weights[1]


@pytest.fixture(scope="module")
def chain() -> markov.MarkovChain:
    rng = np.random.default_rng(0)
    weights = [jnp.asarray(rng.normal(size=shape)) for shape in ((5, 6), (3, 2))]
    return markov.markov_chain(network, weights, jnp.asarray(rng.normal(size=(2, 5))))


def test_rows_are_distributions_or_absorb(chain: markov.MarkovChain) -> None:
    sums = chain.transition.sum(axis=1)
    assert chain.transition.min() >= 0
    np.testing.assert_allclose(sums[sums > 0], 1, atol=1e-6)
    assert (sums == 0).any() and (sums > 0).any()


def test_children_stand_before_their_parents(chain: markov.MarkovChain) -> None:
    assert not np.triu(chain.transition).any()


@pytest.mark.parametrize("layer", ["input", "hidden"])
def test_mwp_is_read_off_the_fundamental_matrix(chain: markov.MarkovChain, layer: str) -> None:
    signal = np.random.default_rng(1).dirichlet(np.ones(4)).reshape(2, 2)
    place, shape = chain.places[layer]
    wanted = signal.ravel() @ chain.fundamental[chain.starts, place]
    np.testing.assert_allclose(chain.mwp(signal, layer), wanted.reshape(shape), atol=1e-12)
    assert wanted.sum() > 0.1


def test_too_large_a_network_is_refused() -> None:
    with pytest.raises(ValueError, match="8002 neurons"):
        markov.markov_chain(lambda _, x: x * 2, (), jnp.ones((1, 4001)))


def test_a_loop_has_no_matrix() -> None:
    def model(w: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda h, _: (jax.nn.relu(h @ w), None), x, None, 2)[0]

    with pytest.raises(NotImplementedError, match="scan .*: write the loop or branch out"):
        markov.markov_chain(model, jnp.eye(3), jnp.ones((1, 3)))
