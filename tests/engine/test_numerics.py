"""Probabilities stay probabilities: sums, signs and finite numbers, whatever comes in.

Mass may end before the input in a neuron that nothing excites (a dead layer, a black image):
then 0 <= sum <= 1. Each test says whether it is in that case ("absorbs") or not ("conserves").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import excitation_jax as ej

Params = dict[str, Any]
#: Values that every path crosses, from the top to the bottom.
CROSSED = ["gap", "block2", "block1", "stem", "input"]
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
TARGET = np.array([0, 2, 1])


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def parameters(**changes: np.ndarray) -> Params:
    params = {
        "stem": np.abs(normal(1, 3, 3, 3, 8)) / 5,
        "one": normal(2, 3, 3, 8, 8) / 8,
        "two": normal(3, 3, 3, 8, 8) / 8,
        "gamma1": np.resize(np.float32([1, -0.5, 0.7, -1.3]), 8),
        "gamma2": np.resize(np.float32([-0.6, 1.1, 0.4]), 8),
        # Every class has excitatory weights.
        "dense": normal(4, 8, 4),
    }
    return params | changes


def convolve(x: jax.Array, w: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def net(params: Params, x: jax.Array, activation: Callable = jax.nn.relu) -> jax.Array:
    """Two residual blocks with folded norms. No biases: nothing is excited by a constant."""

    def block(x: jax.Array, i: int) -> jax.Array:
        w, gamma = (
            (params["one"], params["gamma1"]) if i == 1 else (params["two"], params["gamma2"])
        )
        return ej.tag(x + activation(convolve(x, w) * gamma), f"block{i}")

    x = ej.tag(activation(convolve(ej.tag(x, "input"), params["stem"])), "stem")
    x = block(block(x, 1), 2)
    return ej.tag(x.mean((1, 2)), "gap") @ params["dense"]


def explain(
    params: Params, x: Any, layer: Any = None, fn: Callable = net, **kwargs: Any
) -> ej.Excitation:
    return ej.excitation_vjp(fn, params, x, TARGET[: len(x)], layer=layer, **kwargs)


def totals(mwp: jax.Array) -> np.ndarray:
    """Sums per example; every entry has to be a probability, in float32."""
    mwp = np.asarray(mwp)
    assert mwp.dtype == np.float32
    assert np.all(np.isfinite(mwp))
    assert mwp.min() >= 0
    return mwp.sum(axis=tuple(range(1, mwp.ndim)), dtype=np.float64)


def assert_conserves(params: Params, x: Any, fn: Callable = net) -> None:
    for name, mwp in explain(params, x, CROSSED, fn).mwp.items():
        np.testing.assert_allclose(totals(mwp), 1, atol=1e-5, err_msg=name)
    contrastive = explain(params, x, "input", fn, contrastive=True).mwp
    assert np.all(np.isfinite(contrastive))
    # Both of its terms conserve: P(W+) - P(W-).
    np.testing.assert_allclose(np.asarray(contrastive).sum((1, 2, 3)), 0, atol=2e-5)


def assert_absorbs(params: Params, x: Any, fn: Callable = net) -> list[np.ndarray]:
    sums = [totals(mwp) for mwp in explain(params, x, CROSSED, fn).mwp.values()]
    for upper, lower in zip(sums, sums[1:], strict=False):
        assert np.all(lower <= upper + 1e-5)  # mass ends, and never begins
    assert np.all(sums[0] <= 1 + 1e-5)
    assert np.all(np.isfinite(explain(params, x, "input", fn, contrastive=True).mwp))
    return sums


IMAGES = np.abs(normal(9, 3, 8, 8, 3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_conserves_in_every_precision(dtype: Any) -> None:
    params = jax.tree.map(lambda a: jnp.asarray(a, dtype), parameters())
    assert_conserves(params, jnp.asarray(IMAGES, dtype))


def test_conserves_in_float64() -> None:
    with jax.enable_x64(True):
        params = jax.tree.map(np.float64, parameters())
        e = ej.excitation_vjp(net, params, np.float64(IMAGES), TARGET)
        assert e.mwp.dtype == np.float64
        np.testing.assert_allclose(e.mwp.sum((1, 2, 3)), 1, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_half_precision_inputs_with_float32_weights(dtype: Any) -> None:
    """Conserves; the model casts where flax would."""

    def fn(params: Params, x: jax.Array) -> jax.Array:
        return net(params, x.astype(jnp.float32))

    e = explain(parameters(), jnp.asarray(IMAGES, dtype), None, fn)
    np.testing.assert_allclose(totals(e.mwp), 1, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_half_precision_is_close_to_float32(dtype: Any) -> None:
    """Probabilities do not pass through the model's precision."""
    params = jax.tree.map(lambda a: jnp.asarray(a, dtype), parameters())
    x = jnp.asarray(IMAGES, dtype)
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), (params, x))
    found, expected = explain(params, x, "block1").mwp, explain(*wide, "block1").mwp
    assert np.abs(found - expected).max() < 0.03 * expected.max()


@pytest.mark.parametrize("size", [1e4, 1e-6, 1e-10])
def test_conserves_at_any_scale_of_the_input(size: float) -> None:
    assert_conserves(parameters(), IMAGES * np.float32(size))


@pytest.mark.parametrize("dtype", DTYPES)
def test_conserves_with_large_activations(dtype: Any) -> None:
    """1e4 at the stem; float16 ends at 6.5e4."""
    params = parameters(stem=parameters()["stem"] / 10, one=parameters()["one"] / 30)
    params = jax.tree.map(lambda a: jnp.asarray(a, dtype), params)
    assert_conserves(params, jnp.asarray(IMAGES * 5e3, dtype))


def test_a_small_image_is_explained_like_a_large_one() -> None:
    """The network is homogeneous, so that the map does not depend on the scale."""
    small, large = (explain(parameters(), IMAGES * np.float32(s)).mwp for s in (1e-6, 1e4))
    np.testing.assert_allclose(small, large, rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("size", [1e-30, 1e-38, 1e-42])
def test_absorbs_where_numbers_are_denormal(size: float) -> None:
    assert_absorbs(parameters(), IMAGES * np.float32(size))


@pytest.mark.parametrize("dtype", DTYPES)
def test_absorbs_in_black_images(dtype: Any) -> None:
    params = jax.tree.map(lambda a: jnp.asarray(a, dtype), parameters())
    x = np.zeros((3, 8, 8, 3), np.float32)
    x[1] = IMAGES[1]
    sums = assert_absorbs(params, jnp.asarray(x, dtype))
    for total in sums:  # black images have no excitation; the other one is as ever
        np.testing.assert_allclose(total, [0, 1, 0], atol=1e-5)


def test_conserves_in_constant_images() -> None:
    assert_conserves(parameters(), np.full((3, 8, 8, 3), 0.5, np.float32))


def test_absorbs_in_negative_images() -> None:
    """Raw input has no lower bound: negative pixels are inhibited and win nothing."""
    mixed = normal(11, 3, 8, 8, 3)
    assert_absorbs(parameters(), mixed)
    np.testing.assert_array_equal(explain(parameters(), mixed).mwp[mixed < 0], 0)
    sums = assert_absorbs(parameters(), -IMAGES)
    np.testing.assert_allclose(sums[-1], 0, atol=1e-6)


@pytest.mark.parametrize("dead", ["stem", "one", "two", "dense"])
def test_absorbs_in_dead_layers(dead: str) -> None:
    """All weights negative after a ReLU."""
    weights = {dead: -np.abs(parameters()[dead])}
    if dead in ("one", "two"):
        weights |= {"gamma1": np.ones(8, np.float32), "gamma2": np.ones(8, np.float32)}
    sums = assert_absorbs(parameters(**weights), IMAGES)
    expected = 0.0 if dead in ("stem", "dense") else 1.0
    np.testing.assert_allclose(sums[-1], expected, atol=1e-5)  # the skip carries all


def test_conserves_where_some_units_are_dead() -> None:
    stem = parameters()["stem"].copy()
    stem[..., ::2] = -1
    assert_conserves(parameters(stem=stem), IMAGES)


@pytest.mark.parametrize("zero", ["one", "gamma1", "gamma2"])
def test_conserves_with_a_zero_initialised_branch(zero: str) -> None:
    """0/0 at the sum where the skip is dead, too."""
    stem = parameters()["stem"].copy()
    stem[..., ::3] = -1
    params = parameters(stem=stem)
    params[zero] = np.zeros_like(params[zero])
    assert_conserves(params, IMAGES)


def test_absorbs_with_zero_norms_and_no_skip() -> None:
    def fn(params: Params, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(convolve(x, params["stem"]) * params["gamma1"] + 0.5)
        return y.mean((1, 2)) @ params["dense"]

    params = parameters(gamma1=np.zeros(8, np.float32))
    np.testing.assert_array_equal(totals(explain(params, IMAGES, None, fn).mwp), 0)


@pytest.mark.parametrize(
    "activation", [jnp.tanh, jax.nn.gelu, jax.nn.silu, jax.nn.elu, jax.nn.sigmoid]
)
def test_conserves_above_a_bounded_activation(activation: Callable) -> None:
    """h counts from the lower bound (Eq. 20), so that every layer but the input is excited."""

    def fn(params: Params, x: jax.Array) -> jax.Array:
        return net(params, x, activation)

    for x in (IMAGES, -IMAGES, IMAGES * 0):
        for name, mwp in explain(parameters(), x, CROSSED[:-1], fn).mwp.items():
            np.testing.assert_allclose(totals(mwp), 1, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("activation", [jax.nn.gelu, jax.nn.silu, jax.nn.elu, jnp.tanh])
@pytest.mark.parametrize("dtype", DTYPES)
def test_saturated_activations(activation: Callable, dtype: Any) -> None:
    """Conserves above them: rounding below the bound is no negative probability."""

    def fn(params: Params, x: jax.Array) -> jax.Array:
        return ej.tag(activation(x), "here") @ params["w"]

    x = jnp.asarray(np.linspace(-8, 0, 64 * 3).reshape(64, 3).T, dtype)
    params = {"w": jnp.asarray(normal(5, 64, 4), dtype)}
    np.testing.assert_allclose(totals(explain(params, x, "here", fn).mwp), 1, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_absorbs_where_all_children_are_at_a_bound_that_was_rounded(dtype: Any) -> None:
    """log(c) in float64 is another number than in float32: no child is on for that."""
    w = jnp.ones((4, 1), dtype)
    for c in np.linspace(0.1, 3, 20):
        _, down = jax.vjp(
            ej.excite(lambda x, c=float(c): jnp.log(c + jax.nn.relu(x)) @ w),
            -jnp.ones((1, 4), dtype),
        )
        assert not np.any(down(jnp.ones((1, 1), dtype))[0])


def test_a_denominator_at_the_edge_of_float32() -> None:
    """Never inf or NaN, at any size of weights and activations."""

    def fn(params: Params, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ params["a"]) @ params["b"]

    for a in 10.0 ** np.arange(-40, 19, 3):
        for b in (1e-18, 1.0, 1e18):
            params = {
                "a": np.abs(normal(1, 4, 5)) * np.float32(a),
                "b": normal(2, 5, 3) * np.float32(b),
            }
            x = np.abs(normal(3, 3, 4))
            found = totals(explain(params, x, None, fn).mwp)
            assert np.all(found <= 1 + 1e-5)
            if a * min(b, 1) > 1e-25:
                np.testing.assert_allclose(found, 1, atol=1e-5)


def test_a_large_sum_of_probabilities_is_exact_enough() -> None:
    """A million pixels share one unit of mass."""

    def fn(params: None, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x).mean((1, 2))

    x = np.abs(normal(5, 1, 1024, 1024, 1))
    e = ej.excitation_vjp(fn, None, x, 0)
    np.testing.assert_allclose(np.asarray(e.mwp).sum(dtype=np.float64), 1, atol=1e-5)


def test_a_maximum_over_an_axis_keeps_all_probability_under_jit() -> None:
    """XLA computes x * s + b twice with different rounding, and no element equals the maximum."""
    keys = jax.random.split(jax.random.key(0), 3)
    x, s, b = (jax.random.uniform(key, (2, 64), minval=0.1) for key in keys)

    def model(params: tuple, x: jax.Array) -> jax.Array:
        return (x * params[0] + params[1]).reshape(2, -1, 2).max(-1)

    prior = jnp.full((2, 32), 1 / 32)
    found = ej.excitation_vjp(model, (s, b), x, prior).mwp
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
