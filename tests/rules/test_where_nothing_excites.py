"""D10: what nothing excites hands its probability on evenly, under EXCITATION_CONSERVING."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import excitation_jax as ej

RULES = ej.EXCITATION_CONSERVING


def mwp(model: Callable, x: Any, target: Any = 0, **options: Any) -> np.ndarray:
    found = ej.excitation_vjp(lambda p, x: model(x), (), x, target, rules=RULES, **options)
    return np.asarray(found.mwp)


def test_a_unit_that_its_bias_drives() -> None:
    """Unit 0 fires by its bias alone: both inputs are as likely as any other."""
    weights, head = jnp.array([[-1.0, 1.0], [-2.0, 1.0]]), jnp.array([[1.0], [0.0]])
    model = lambda x: jax.nn.relu(x @ weights + jnp.array([9.0, 0.0])) @ head  # noqa: E731
    x = jnp.array([[1.0, 2.0]])
    assert mwp(model, x).tolist() == [[0.5, 0.5]]
    assert np.asarray(ej.excitation_vjp(lambda p, x: model(x), (), x, 0).mwp).tolist() == [[0, 0]]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("dilation", [1, 2])
def test_the_children_of_a_convolution_are_its_window_without_padding(
    groups: int, dilation: int
) -> None:
    """Against plain loops; the kernel is negative, so that nothing excites anywhere."""
    x = np.random.default_rng(0).uniform(size=(1, 5, 4, 4)).astype(np.float32)
    kernel = -np.ones((3, 3, 4 // groups, 8), np.float32)

    def model(x: jax.Array) -> jax.Array:
        return jax.nn.relu(99 + lax.conv_general_dilated(
            x, kernel, (2, 1), ((1, 1), (0, 1)), rhs_dilation=(dilation, 1),
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
        ))  # fmt: skip

    shape = jax.eval_shape(model, x).shape
    prior = np.random.default_rng(1).dirichlet(np.ones(np.prod(shape))).reshape(shape)
    wanted = np.zeros(x.shape)
    for at in np.ndindex(*shape):
        _, i, j, c = at
        group, width = c // (8 // groups), 4 // groups
        field = [
            (0, row, column, channel)
            for a in range(3)
            for b in range(3)
            for channel in range(group * width, (group + 1) * width)
            if 0 <= (row := 2 * i - 1 + a * dilation) < 5 and 0 <= (column := j + b) < 4
        ]
        for place in field:
            wanted[place] += prior[at] / len(field)
    np.testing.assert_allclose(mwp(model, x, jnp.asarray(prior)), wanted, atol=1e-6)


def dead_sum(x: jax.Array) -> jax.Array:
    return jax.nn.relu(x[:, :3]) + jax.nn.relu(x[:, 3:])


def dead_sum_of_three(x: jax.Array) -> jax.Array:
    y = jax.nn.relu(x)
    return y[:, :2] + y[:, 2:4] + y[:, 4:]


def dead_pool(x: jax.Array) -> jax.Array:
    return jax.nn.relu(x).reshape(1, 2, 3).mean(2)


def dead_scatter(x: jax.Array) -> jax.Array:
    return jnp.zeros((1, 2)).at[:, jnp.array([0, 1, 0, 1, 0, 1])].add(jax.nn.relu(x))


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (dead_sum, [0.5, 0, 0, 0.5, 0, 0]),
        (dead_sum_of_three, [1 / 3, 0, 1 / 3, 0, 1 / 3, 0]),
        (dead_pool, [1 / 3, 1 / 3, 1 / 3, 0, 0, 0]),
        (dead_scatter, [1 / 3, 0, 1 / 3, 0, 1 / 3, 0]),
    ],
)
def test_the_summands_of_a_dead_sum_get_the_same(model: Callable, wanted: list) -> None:
    np.testing.assert_allclose(mwp(model, -jnp.ones((1, 6)))[0], wanted, atol=1e-6)


def test_constants_are_no_children_and_gates_weigh_them() -> None:
    gates = jnp.array([0.2, 0.6, 0.0])

    def masked(x: jax.Array) -> jax.Array:
        y = jnp.where(jnp.array([True, True, False]), jax.nn.relu(x[:, :3]), 7.0)
        return jax.nn.relu(9 - y @ jnp.ones((3, 1)))

    def gated(x: jax.Array) -> jax.Array:
        y = jax.nn.relu(x[:, :3]) * jnp.clip(x[:, 3:], 0, 1)
        return jax.nn.relu(9 - y @ jnp.ones((3, 1)))

    x = jnp.concatenate([-jnp.ones(3), gates])[None]
    np.testing.assert_allclose(mwp(masked, x[:, :3]), [[0.5, 0.5, 0]], atol=1e-6)
    np.testing.assert_allclose(mwp(gated, x), [[0.25, 0.75, 0, 0, 0, 0]], atol=1e-6)


class Bottlenecks(nn.Module):
    """Linear bottlenecks, depthwise convolutions, a skip: MobileNetV2's parts."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu6(nn.Conv(8, (3, 3), 2, name="stem")(x))
        for _ in range(2):
            y = jax.nn.relu6(nn.Conv(16, (1, 1))(x))
            y = jax.nn.relu6(nn.Conv(16, (3, 3), feature_group_count=16)(y))
            x = x + nn.Conv(8, (1, 1))(y)
        return nn.Dense(4, name="head")(jax.nn.relu6(nn.Conv(12, (1, 1))(x)).mean((1, 2)))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), bias=st.floats(-1, 3))
def test_probability_is_conserved(seed: int, bias: float) -> None:
    """Whatever drives the units: all of it reaches every layer, and `explain_rules` loses none."""
    model, keys = Bottlenecks(), jax.random.split(jax.random.key(seed))
    x = jax.random.normal(keys[0], (2, 8, 8, 3))
    params = jax.tree.map(lambda a: a if a.ndim > 1 else a + bias, model.init(keys[1], x))
    params["params"]["head"]["kernel"] = jnp.abs(params["params"]["head"]["kernel"])
    for layer in (["stem", "Conv_6"], None):  # all probability passes these
        found = ej.excitation_vjp(model.apply, params, x, 1, layer=layer, rules=RULES).mwp
        for share in jax.tree.leaves(found):
            np.testing.assert_allclose(share.reshape(2, -1).sum(1), 1, rtol=1e-4)
    report = ej.explain_rules(model.apply, params, x, rules=RULES, target=1)
    assert report.reached is not None and abs(report.reached - 1) < 1e-4 and not report.losses


def test_not_at_the_top_of_a_contrastive_pass() -> None:
    """The classifier's negated weights have a winner, the others have none: nothing to subtract."""
    head = jnp.array([[1.0, -1.0], [1.0, -1.0]])
    model = lambda x: jax.nn.relu(x) @ head  # noqa: E731
    x = jnp.array([[1.0, 3.0]])
    np.testing.assert_allclose(mwp(model, x, 0, contrastive=True), [[0.25, 0.75]], atol=1e-6)
    np.testing.assert_allclose(mwp(model, x, 1, contrastive=True), [[-0.25, -0.75]], atol=1e-6)
    np.testing.assert_allclose(mwp(model, x, 1), [[0.5, 0.5]], atol=1e-6)


def test_the_chain_of_such_rules_is_refused_in_one_sentence() -> None:
    with pytest.raises(NotImplementedError, match="hand on evenly"):
        ej.markov.markov_chain(lambda w, x: x @ w, jnp.eye(2), jnp.ones((1, 2)), rules=RULES)
