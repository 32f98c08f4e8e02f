"""Affine operations and their sums as one step of the pass (design.md, D2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from oracles.comparison import FAST

import excitation_jax as ej
from excitation_jax.engine.planning import analyse
from excitation_jax.program.trace import trace

RNG = np.random.default_rng(0)
A, B, C = (RNG.normal(size=(n, 3)).astype(np.float32) for n in (5, 4, 4))
X = RNG.uniform(0.1, 1, 9).astype(np.float32)
ROWS = RNG.uniform(-0.2, 1, (6, 4)).astype(np.float32)
PRIOR = np.array([0.2, 0.5, 0.3], np.float32)


def maps(model: Callable, x: np.ndarray, **options: Any) -> list[np.ndarray]:
    """MWP and c-MWP."""

    def one(x: jax.Array, contrastive: bool) -> jax.Array:
        _, vjp = jax.vjp(ej.excite(model, contrastive=contrastive, **options), x)
        return vjp(PRIOR)[0]

    compiled = jax.jit(one, static_argnums=1, compiler_options=FAST)
    return [np.asarray(compiled(x, contrastive)) for contrastive in (False, True)]


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


KERNEL, CHANNELS = RNG.normal(0.1, 1, (3, 3, 2, 6)), RNG.normal(0.1, 1, (6, 3))
IMAGE = RNG.normal(0.3, 1, (1, 4, 4, 2)).astype(np.float32)


def conv(x: jax.Array) -> jax.Array:
    kernel = KERNEL.astype(np.float32)
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


#: Feature maps without a lower bound, of which a sum's parts may be negative.
FEATURES: dict[str, Callable] = {
    "a residual stream": lambda x: conv(x) + jax.nn.relu(conv(x[..., ::-1])),
    "a gated layer": lambda x: jax.nn.sigmoid(conv(x[..., ::-1])) * conv(x),
    "a normaliser": lambda x: jax.nn.standardize(conv(x)),
}
POOLS: dict[str, Callable] = {
    "rows, then columns": lambda f: f.mean(1).mean(1),
    "a list of positions": lambda f: f.reshape(1, 16, -1).mean(1),
    "windows": lambda f: (
        lax.reduce_window(f, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
    ).mean((1, 2)),
    "halves": lambda f: (f[:, :2].mean((1, 2)) + f[:, 2:].mean((1, 2))) / 2,
}  # fmt: skip


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("features", FEATURES)
def test_how_a_mean_is_taken_does_not_matter(features: str, pool: str) -> None:
    """All summands are flattened, whatever moves and scales partial sums (D2)."""

    def network(pooled: Callable) -> Callable:
        head = CHANNELS.astype(np.float32)
        return lambda x: jax.nn.relu(pooled(FEATURES[features](x)) @ head)[0]

    at_once = maps(network(lambda f: f.mean((1, 2))), IMAGE)
    for found, right in zip(maps(network(POOLS[pool]), IMAGE), at_once, strict=True):
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-6)


def test_a_layer_below_a_pooling_is_the_layer_behind_it() -> None:
    """Of the head of a convolutional classifier: both ways have the same scores."""
    before, behind = lambda x: (x @ B).mean(0), lambda x: x.ravel() @ np.tile(B, (6, 1)) / 6
    for found, right in zip(maps(before, ROWS), maps(behind, ROWS), strict=True):
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-6)
    unmerged, _ = maps(before, ROWS, rules=ej.EXCITATION_UNMERGED)
    assert np.abs(unmerged - maps(before, ROWS)[0]).max() > 1e-3


PHI = {
    "relu": jax.nn.relu,
    "abs": jnp.abs,
    "crelu": lambda y: jax.nn.relu(jnp.concatenate([y, -y], -1))[..., :3] + jax.nn.relu(-y),
    "turned": lambda y: jnp.tanh(-y),
    "normalised": lambda y: jax.nn.relu((y - 0.1) * np.array([2.0, -1.0, 0.5]) + 0.2),
}
#: The sum; what the first summands, and the last one, count for; the constant.
JOINS = {
    "added": lambda parts: (sum(parts), 1, 1, 0),
    "grouped from behind": lambda parts: (parts[0] + sum(parts[1:] + [0.3]), 1, 1, 0.3),
    "subtracted": lambda parts: (sum(parts[:-1]) - parts[-1], 1, -1, 0),
    "subtracted twice": lambda parts: (0.5 - (sum(parts[:-1]) - parts[-1]), -1, 1, 0.5),
    "averaged": lambda parts: (jnp.stack(parts).mean(0), 1 / len(parts), 1 / len(parts), 0),
    "windows": lambda parts: (
        lax.reduce_window(jnp.stack(parts), 0.0, lax.add, (len(parts), 1), (1, 1), "VALID")[0],
        1, 1, 0,
    ),
}  # fmt: skip


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(
    scales=st.lists(st.sampled_from([1.0, -0.5, 2.0]), min_size=2, max_size=4),
    phi=st.sampled_from(sorted(PHI)), join=st.sampled_from(sorted(JOINS)),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_any_sum_of_layers_is_one_layer(
    scales: list[float], phi: str, join: str, seed: int
) -> None:
    """MWP and c-MWP, behind activations that want the sum larger, smaller, or both."""
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(4, 3)).astype(np.float32) for _ in scales]
    top = rng.normal(size=(3, 3)).astype(np.float32)
    x = rng.uniform(0, 1, (len(scales), 4)).astype(np.float32)

    def several(x: jax.Array) -> jax.Array:
        parts = [x[i] @ w * scale for i, (w, scale) in enumerate(zip(weights, scales, strict=True))]
        return PHI[phi](JOINS[join](parts)[0]) @ top

    def one(x: jax.Array) -> jax.Array:
        _, first, last, bias = JOINS[join]([jnp.zeros(3)] * len(scales))
        signs = [*[first] * (len(scales) - 1), last]
        whole = np.concatenate(
            [sign * scale * w for sign, scale, w in zip(signs, scales, weights, strict=True)]
        )
        return PHI[phi](x.ravel() @ whole + bias) @ top

    np.testing.assert_allclose(several(x), one(x), atol=1e-5)
    for found, right in zip(maps(several, x), maps(one, x), strict=True):
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-5)


def test_what_ends_in_a_region_is_told() -> None:
    """A neuron without excitation: P reaches all its terms alike, and goes no further."""

    def model(params: Any, x: jax.Array) -> jax.Array:
        first = ej.tag(x[:, :5] @ -np.abs(A), "first")
        return jax.nn.relu(first + x[:, 5:] @ -np.abs(B) + 100)

    above = ej.excitation_vjp(model, {}, X[None], 1, layer="first").mwp
    assert above.sum() == pytest.approx(0.5)
    assert not np.any(ej.excitation_vjp(model, {}, X[None], 1).mwp)
    table = ej.explain_rules(model, {}, X[None], target=1)
    assert sum(row.lost for row in table.rows if row.lost is not None) == pytest.approx(1)


def test_a_difference_of_two_scores_of_one_layer_is_one_of_two_layers() -> None:
    """Its own weights for the one, those of the negated neuron for the other."""
    one, two = lambda x: (x @ B)[0] - (x @ B)[2], lambda x: x @ B[:, 0] - x @ B[:, 2]
    layer = lambda x: (y := x @ B)[0] - y[2]  # noqa: E731
    rules = {"contrastive": True}
    for options in ({}, rules):
        found = [
            jax.vjp(ej.excite(f, **options), X[:4])[1](np.float32(1))[0] for f in (layer, one, two)
        ]
        np.testing.assert_allclose(found[0], found[2], atol=1e-6)
        np.testing.assert_allclose(found[1], found[2], atol=1e-6)
        assert np.abs(found[0]).sum() > 0.5


def test_rules_that_do_not_merge_have_no_regions() -> None:
    model = lambda x: x[:5] @ A + x[5:] @ B  # noqa: E731
    program, _, _ = trace(model, X)
    for rules in (ej.EXCITATION_UNMERGED, ej.EXCITATION_TORCHRAY):
        assert not analyse(program, program.inputs, rules).regions
    (region,) = analyse(program, program.inputs, ej.EXCITATION).regions.values()
    assert [op.primitive for op in region.members] == [lax.dot_general_p] * 2


def test_a_value_that_something_else_reads_is_a_neuron_of_its_own() -> None:
    def model(x: jax.Array) -> jax.Array:
        y = x[:5] @ A
        return y + x[5:] @ B + jax.nn.relu(y) @ -np.eye(3, dtype=np.float32)

    program, _, _ = trace(model, X)
    (region,) = analyse(program, program.inputs, ej.EXCITATION).regions.values()
    assert len(region.members) == 2 and len(region.others) == 1


@pytest.mark.parametrize("rules", ["EXCITATION_UNMERGED", "EXCITATION_TORCHRAY", "without norm"])
@pytest.mark.parametrize("how", ["add", "pooling by weights", "segments"])
def test_rules_that_merge_nothing_have_no_regions(rules: str, how: str) -> None:
    def model(x: jax.Array) -> jax.Array:
        if how == "add":
            return x[:5] @ A + x[5:] @ B
        rows = jnp.stack([x[:4], x[4:8]]) @ B
        if how == "segments":
            return jax.ops.segment_sum(rows, np.zeros(2, int), 1)
        return jnp.ones(2) @ rows

    sets = {"without norm": ej.rules.without_norm(ej.EXCITATION)}
    program, _, _ = trace(model, X)
    found = [
        analyse(program, program.inputs, given).regions
        for given in (ej.EXCITATION, sets.get(rules) or getattr(ej, rules))
    ]
    assert found[0] and not found[1]


# -- found in models of other libraries (benchmarks/explain/third_party.py) ---------------------


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), where=st.sampled_from(["before", "scaled", "moved"]))
def test_what_is_added_to_an_activation_counts_for_the_affine_terms(seed: int, where: str) -> None:
    """RepVGG's BatchNorm of the identity branch: its offset belongs to y, wherever it is added."""
    rng = np.random.default_rng(seed)
    x, weights, scale, offset = (rng.normal(size=s) for s in ((1, 4), (4, 4), 4, 4))
    head = np.eye(4)

    def apart(x: jax.Array) -> jax.Array:
        r = jax.nn.relu(x)
        skip = {
            "before": lambda: r * scale + offset,
            "scaled": lambda: (r + offset / scale) * scale,
            "moved": lambda: (r * scale + offset)[:, ::-1][:, ::-1],
        }[where]()
        return jax.nn.relu(skip + r @ weights) @ head

    def together(x: jax.Array) -> jax.Array:
        r = jax.nn.relu(x)
        return jax.nn.relu(r * scale + (r @ weights + offset)) @ head

    with jax.enable_x64(True):
        for target in range(4):
            found, wanted = (
                ej.excitation_vjp(lambda p, x, f=f: f(x), (), x, target).mwp
                for f in (apart, together)
            )
            np.testing.assert_allclose(found, wanted, atol=1e-9)
        chain = ej.markov.markov_chain(lambda p, x: apart(x), (), x)
        found = ej.excitation_vjp(lambda p, x: apart(x), (), x, 0).mwp
        np.testing.assert_allclose(chain.mwp(np.eye(4)[:1]), found, atol=1e-9)


@pytest.mark.parametrize("cut", ["split", "slices"])
def test_the_candidate_of_a_fused_product_is_merged(cut: str) -> None:
    """A GRU's gates and candidate of one product: what gates alone read is another neuron."""
    rng = np.random.default_rng(0)
    first, second, recurrent = (rng.normal(size=(3, 3)) for _ in range(3))
    x = rng.normal(size=(2, 3))

    def state(z: jax.Array, a: jax.Array, x: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(z) * jnp.tanh(a + jax.nn.relu(x) @ recurrent)

    def fused(x: jax.Array) -> jax.Array:
        y = x @ np.concatenate([first, second], 1)
        z, a = jnp.split(y, 2, 1) if cut == "split" else (y[:, :3], y[:, 3:])
        return state(z, a, x)

    def apart(x: jax.Array) -> jax.Array:
        return state(x @ first, x @ second, x)

    def overlapping(x: jax.Array) -> jax.Array:  # the gate reads what is summed: a neuron apart
        y = x @ np.concatenate([first, second], 1)
        return state(y[:, 2:5], y[:, 3:], x)

    with jax.enable_x64(True):
        found, wanted = (
            np.asarray(ej.excitation_vjp(lambda p, x, f=f: f(x), (), x, 1).mwp)
            for f in (fused, apart)
        )
        np.testing.assert_allclose(found, wanted, atol=1e-9)
        report = ej.explain_rules(lambda p, x: overlapping(x), (), x)
        assert sum(row.rule.startswith("R4 sum") for row in report.rows) == 1
