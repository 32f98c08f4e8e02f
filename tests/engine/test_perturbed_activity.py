"""Activity found by perturbation: on small programs, and against the specification's constants."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from oracles.generator import Switches, random_inputs, random_network
from oracles.perturbation import perturbed_activity
from oracles.spell import Choices, spell

import excitation_jax as ej

X = jnp.arange(1.0, 5.0)
KEEP = jnp.array([True, False, True, True])


def delayed(x):
    """A delay line of two steps that starts with constants."""
    return lax.scan(lambda state, v: ((state[1], v), state[0]), (0.0, 0.0), x)[1]


PROGRAMS = {
    "mask": (lambda x: jnp.where(KEEP, x, 0.0), [1, 0, 1, 1]),
    "product": (lambda x: x * KEEP, [1, 0, 1, 1]),
    "inside jit": (jax.jit(lambda x: jnp.where(KEEP, jnp.tanh(x), 0.0)), [1, 0, 1, 1]),
    "moved": (lambda x: jnp.where(KEEP, x, 0.0)[::-1][jnp.array([0, 2])], [1, 0]),
    "padded": (lambda x: jnp.pad(x[:2], (1, 0)), [0, 1, 1]),
    "token": (lambda x: jnp.concatenate([jnp.ones(1), x[:1]]), [0, 1]),
    "scan": (delayed, [0, 0, 1, 1]),
    "remat": (jax.checkpoint(lambda x: x[:2] * 2), [1, 1]),
    "sign": (lambda x: jnp.sign(x * 0 + 1), [0, 0, 0, 0]),
    "comparison": (lambda x: x > 0, [1, 1, 1, 1]),
    "weights of zero": (lambda x: x @ jnp.array([[1.0, 0.0]] * 4), [1, 0]),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_activity_of_small_programs(name: str) -> None:
    f, right = PROGRAMS[name]
    np.testing.assert_array_equal(perturbed_activity(f, X).outputs, np.array(right, bool))


def test_pytrees_and_tags() -> None:
    def f(x):
        y = ej.tag(jnp.where(KEEP, x["a"], 2.0), "y")
        return {"y": y + x["b"], "tagged": jax.jit(lambda v: ej.tag(v, "y") * 0)(y)}

    found = perturbed_activity(f, {"a": X, "b": jnp.zeros(())})
    assert found.outputs["y"].all() and not found.outputs["tagged"].any()
    assert found.tagged["y"].tolist() == found.tagged["y#2"].tolist() == KEEP.tolist()


@pytest.mark.parametrize("seed", range(6))
def test_activity_of_networks(seed: int) -> None:
    """What changes is no constant of the specification; what is none changes, or never wakes."""
    network = random_network(seed, Switches(moved_constants=True))
    layers = [i for i, layer in enumerate(network.layers) if layer.kind != "gate"]
    with jax.enable_x64(True):
        model, params = spell(network, Choices(seed), tags=layers)
        x = random_inputs(network, seed, batch=1)
        found = perturbed_activity(jax.tree_util.Partial(model, params), x, draws=9)
    for i in layers:
        constant = network.constant(i)
        assert not found.tagged[f"n{i}"][0][constant].any()
        if network.layers[i].kind == "affine":
            assert found.tagged[f"n{i}"][0][~constant].mean() > 0.9
