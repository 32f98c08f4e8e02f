"""Affine operations and their sums as one step of the pass (design.md, D2), for rules that merge.

EXCITATION does not merge yet: see `test_the_default_rules_have_no_regions`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import primitives
from oracles.comparison import compare, random_prior
from oracles.generator import Switches, random_inputs, random_network
from oracles.spell import Choices
from oracles.winners import BUILT

import excitation_jax as ej
from excitation_jax.engine.planning import analyse
from excitation_jax.program.trace import trace
from excitation_jax.rules.sharing import Affine, Sum

SUMS = (lax.reduce_sum_p, lax.reduce_window_sum_p, lax.cumsum_p)
MERGING = ej.EXCITATION.replace(
    {
        **dict.fromkeys((lax.add_p, primitives.add_jaxvals_p), Sum(merges=True)),
        **dict.fromkeys(SUMS, Affine(merges=True)),
    }
)
RNG = np.random.default_rng(0)
A, B, C = (RNG.normal(size=(n, 3)).astype(np.float32) for n in (5, 4, 4))
X = RNG.uniform(0.1, 1, 9).astype(np.float32)
ROWS = RNG.uniform(-0.2, 1, (6, 4)).astype(np.float32)
PRIOR = np.array([0.2, 0.5, 0.3], np.float32)


def maps(model: Callable, x: np.ndarray, **options: Any) -> list[np.ndarray]:
    """MWP and c-MWP."""

    def one(x: jax.Array, contrastive: bool) -> jax.Array:
        rules = {"rules": MERGING, **options}
        _, vjp = jax.vjp(ej.excite(model, contrastive=contrastive, **rules), x)
        return vjp(PRIOR)[0]

    return [np.asarray(jax.jit(one, static_argnums=1)(x, c)) for c in (False, True)]


@pytest.mark.parametrize(
    ("several", "one"),
    [
        pytest.param(
            lambda x: x[:5] @ A + x[5:] @ B + 0.3,
            lambda x: x @ np.concatenate([A, B]),
            id="two layers, one of their inputs side by side",
        ),
        pytest.param(
            lambda x: ((x[:5] @ A) * 2 + jnp.ones(3)) * -1.0 + 3 * (x[5:] @ B),
            lambda x: x @ np.concatenate([-2 * A, 3 * B]),
            id="scaled",
        ),
        pytest.param(
            lambda x: jnp.stack([x[:5] @ A, x[4:] @ A]).sum(0),
            lambda x: x[:5] @ A + x[4:] @ A,
            id="stacked and summed",
        ),
        pytest.param(
            lambda x: jax.checkpoint(lambda x: x[:5] @ A + x[5:] @ B)(x),
            lambda x: x @ np.concatenate([A, B]),
            id="in a checkpoint",
        ),
        pytest.param(
            lambda x: lax.scan(lambda s, _: (s, s[:5] @ A + s[5:] @ B), x, length=1)[1][0],
            lambda x: x @ np.concatenate([A, B]),
            id="inside a loop",
        ),
    ],
)  # fmt: skip
def test_a_sum_of_layers_is_one_layer(several: Callable, one: Callable) -> None:
    for found, right in zip(maps(several, X), maps(one, X), strict=True):
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-6)
        assert np.abs(found).sum() > 0.5


def test_a_layer_below_a_pooling_is_the_layer_behind_it() -> None:
    """Of the head of a convolutional classifier: both ways have the same scores."""
    before, behind = lambda x: (x @ B).mean(0), lambda x: x.ravel() @ np.tile(B, (6, 1)) / 6
    for found, right in zip(maps(before, ROWS), maps(behind, ROWS), strict=True):
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-6)
    unmerged, _ = maps(before, ROWS, rules=ej.EXCITATION)
    assert np.abs(unmerged - maps(before, ROWS)[0]).max() > 1e-3


@pytest.mark.parametrize("seed", range(24))
def test_maps_are_those_of_the_neurons(seed: int) -> None:
    """At the input and inside regions: MWP at every layer, c-MWP (tests/oracles)."""
    network = random_network(seed, Switches(sums_of_affine=True))
    x = random_inputs(network, seed)
    prior = random_prior(network, seed, len(x), targets=seed % 3)
    # A difference's own rule does not merge.
    choices = Choices(seed, ("D2",), {"minus": "add of neg"})
    found = compare(network, x, prior, choices, meaning=BUILT, rules=MERGING)
    assert found.largest < 1e-9, found


def test_what_ends_in_a_region_is_told() -> None:
    """A neuron without excitation: P reaches all its terms alike, and goes no further."""

    def model(params: Any, x: jax.Array) -> jax.Array:
        first = ej.tag(x[:, :5] @ -np.abs(A), "first")
        return jax.nn.relu(first + x[:, 5:] @ -np.abs(B) + 100)

    above = ej.excitation_vjp(model, {}, X[None], 1, layer="first", rules=MERGING).mwp
    assert above.sum() == pytest.approx(0.5)
    assert not np.any(ej.excitation_vjp(model, {}, X[None], 1, rules=MERGING).mwp)
    table = ej.explain_rules(model, {}, X[None], target=1, rules=MERGING)
    assert sum(row.lost for row in table.rows if row.lost is not None) == pytest.approx(1)


def test_the_default_rules_have_no_regions() -> None:
    model = lambda x: x[:5] @ A + x[5:] @ B  # noqa: E731
    program, _, _ = trace(model, X)
    assert not analyse(program, program.inputs, ej.EXCITATION).regions
    (region,) = analyse(program, program.inputs, MERGING).regions.values()
    assert [op.primitive for op in region.members] == [lax.dot_general_p] * 2


def test_a_value_that_something_else_reads_is_a_neuron_of_its_own() -> None:
    def model(x: jax.Array) -> jax.Array:
        y = x[:5] @ A
        return y + x[5:] @ B + jax.nn.relu(y) @ np.eye(3, dtype=np.float32)

    program, _, _ = trace(model, X)
    (region,) = analyse(program, program.inputs, MERGING).regions.values()
    assert len(region.members) == 2 and len(region.others) == 1
