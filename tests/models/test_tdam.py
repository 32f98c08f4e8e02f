"""The top-down attention module: its formula, and Excitation Backprop through it."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import excitation_jax as ej
from excitation_jax.models.tdam import TopDownAttention

X = jax.random.normal(jax.random.key(0), (2, 8, 8, 5))


class Group(nn.Module):
    """Two convolutions, the second of stride 2."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.relu(nn.Conv(6, (3, 3), name="first")(x))
        x = nn.BatchNorm(not train, name="norm")(nn.Conv(32, (3, 3), 2, name="second")(x))
        return nn.relu(x)


class Net(nn.Module):
    """A stem, a group with attention around it, and a classifier."""

    steps: int = 2

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.relu(nn.Conv(4, (3, 3), name="stem")(x))
        x = TopDownAttention(Group(name="group"), self.steps, name="attention")(x, train)
        return nn.Dense(3, name="head")(x.mean((1, 2)))


@pytest.fixture(scope="module")
def variables() -> dict:
    return Net().init(jax.random.key(1), X)


def written_out(variables: dict, x: jax.Array, steps: int) -> jax.Array:
    """The equations, in numpy, around Flax's own group."""
    weights = variables["params"]["attention"]
    group = {
        "params": variables["params"]["group"],
        "batch_stats": variables["batch_stats"]["group"],
    }
    x = nn.relu(nn.Conv(4, (3, 3)).apply({"params": variables["params"]["stem"]}, x))
    lit = np.asarray(x)
    for step in range(steps):
        top = np.asarray(Group().apply(group, lit))
        if step == steps - 1:
            break
        pooled = top.mean((1, 2))
        light = np.maximum(pooled @ weights["reduce"]["kernel"], 0)
        light = (light @ weights["searchlight"]["kernel"])[:, None, None]
        lit = x / (1 + np.exp(-light))
        lit = lit / (1 + np.exp(-(light * lit).sum(-1, keepdims=True)))
    head = variables["params"]["head"]
    return top.mean((1, 2)) @ head["kernel"] + head["bias"]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_equations(variables: dict, steps: int) -> None:
    found = Net(steps).apply(variables, X)
    np.testing.assert_allclose(found, written_out(variables, X, steps), rtol=1e-5, atol=1e-6)


def test_it_has_the_parameters_of_the_group_and_two_matrices(variables: dict) -> None:
    alone = jax.eval_shape(Net(1).init, jax.random.key(0), X)["params"]
    params = variables["params"]
    shapes = {name: leaf["kernel"].shape for name, leaf in params["attention"].items()}
    assert shapes == {"reduce": (32, 2), "searchlight": (2, 4)}
    rest = {name: part for name, part in params.items() if name != "attention"}
    assert jax.tree.map(jnp.shape, rest) == jax.tree.map(lambda leaf: leaf.shape, alone)


@pytest.mark.parametrize("contrastive", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_probability_passes(variables: dict, steps: int, contrastive: bool) -> None:
    """All of it goes through the last run of the group; the searchlight is a gate."""
    result = ej.excitation_vjp(
        Net(steps).apply, variables, X, 1, layer=["stem", "head"], contrastive=contrastive
    )
    found = result.mwp["stem"]
    assert np.isfinite(found).all()
    if not contrastive:
        assert found.min() >= 0
        report = ej.explain_rules(Net(steps).apply, variables, X, target=1)
        lost = sum(row.lost or 0 for row in report.rows)
        assert report.reached + lost == pytest.approx(1, abs=1e-4) and report.reached > 0.5
        gates = {row.path for row in report.rows if row.kind == "gate"}
        assert steps == 1 or "attention" in gates


def test_a_map_for_each_computation_step(variables: dict) -> None:
    maps = [ej.excitation_vjp(Net(steps).apply, variables, X, 1).mwp for steps in (1, 2)]
    for heat in maps:
        assert heat.min() >= 0 and heat.sum() > 1
    assert not np.allclose(*maps, rtol=1e-2)
    names = [layer.name for layer in ej.layers(Net().apply, variables, X)]
    assert names.count("attention/group/second") == 1  # the last run's; the first is a gate


def test_batch_statistics_are_updated_in_training(variables: dict) -> None:
    _, updated = Net().apply(variables, X, train=True, mutable=["batch_stats"])
    before = variables["batch_stats"]["group"]["norm"]["mean"]
    assert not np.allclose(updated["batch_stats"]["group"]["norm"]["mean"], before)


def test_no_steps() -> None:
    with pytest.raises(ValueError, match="at least 1, not 0 and 16"):
        Net(0).init(jax.random.key(0), X)
