"""The range of the input makes lambda known (Eq. 20), and changes nothing else."""

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

import excitation_jax as ej


def weights(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def convolved(seed: int, channels: int) -> Callable:
    kernel, head = weights(seed, 3, 3, channels, 4), weights(seed + 1, 4, 2)

    def model(params: Any, x: jax.Array) -> jax.Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)
        return jax.nn.relu(y).mean((1, 2)) @ head

    return model


def dense(seed: int, channels: int) -> Callable:
    first, head = weights(seed, channels, 5), weights(seed + 1, 5, 2)
    return lambda params, x: (jnp.tanh(x @ first) @ head).mean((1, 2))


def added_to_a_tanh(seed: int, channels: int) -> Callable:
    """The input is a summand of its own: Eq. 19 takes h = x - lambda, too."""
    first, head = weights(seed, channels, channels), weights(seed + 1, channels, 2)
    return lambda params, x: ((x + jnp.tanh(x @ first)) @ head).mean((1, 2))


def pooled(seed: int, channels: int) -> Callable:
    head = weights(seed, channels, 2)
    return lambda params, x: jnp.maximum(x[:, ::2], x[:, 1::2]).mean((1, 2)) @ head


@settings(deadline=None, max_examples=25)
@given(
    make=st.sampled_from([convolved, dense, added_to_a_tanh, pooled]), seed=st.integers(0, 99),
    channels=st.integers(1, 3), by_channel=st.booleans(), contrastive=st.booleans(),
    target=st.integers(0, 1),
)  # fmt: skip
def test_it_is_the_map_of_what_the_input_is_above_its_bound(
    make: Callable, seed: int, channels: int, by_channel: bool, contrastive: bool, target: int
) -> None:
    """x = low + y with y >= 0: the neurons are y, whose bound needs no telling."""
    model, rng = make(seed, channels), np.random.default_rng(seed)
    low = rng.uniform(-2, 0.5, channels if by_channel else ()).astype(np.float32)
    y = rng.uniform(0, 3, (2, 4, 4, channels)).astype(np.float32)
    options = {"contrastive": contrastive}
    found = ej.excitation_vjp(model, (), y + low, target, x_bounds=(low, low + 3), **options).mwp

    def of_y(params: Any, y: jax.Array) -> jax.Array:
        return model(params, y + low)

    wanted = ej.excitation_vjp(of_y, (), y, target, x_bounds=(0, 3), **options).mwp
    np.testing.assert_allclose(found, wanted, atol=3e-6)
    if make is not pooled and make is not added_to_a_tanh:
        untold = ej.excitation_vjp(of_y, (), y, target, **options).mwp
        np.testing.assert_allclose(found, untold, atol=3e-6)  # h = max(y, 0) = y


@pytest.mark.parametrize("bounds", [(0, 255), (np.zeros(3), np.full(3, 255.0))])
def test_a_model_that_normalises_inside_has_raw_pixels_as_its_neurons(bounds: Any) -> None:
    mean, std = np.float32([124, 117, 104]), np.float32([58, 57, 56])
    model, raw = convolved(3, 3), np.random.default_rng(0).uniform(0, 255, (2, 6, 6, 3))
    raw = raw.astype(np.float32)
    raw[:, :, :3] *= 0.02  # half of the photograph is dark
    low, high = (0 - mean) / std, (255 - mean) / std
    inside = ej.excitation_vjp(lambda p, x: model(p, (x - mean) / std), (), raw, 1, x_bounds=bounds)
    outside = ej.excitation_vjp(model, (), (raw - mean) / std, 1, x_bounds=(low, high))
    np.testing.assert_allclose(inside.mwp, outside.mwp, atol=1e-6)
    np.testing.assert_allclose(np.asarray(inside.mwp).sum((1, 2, 3)), 1, atol=1e-5)


def test_signed_features_lose_nothing_where_their_range_is_known() -> None:
    first, head = -np.abs(weights(0, 6, 5)), np.abs(weights(1, 5, 2))
    model = lambda p, x: jax.nn.relu(x @ first) @ head  # noqa: E731
    x = -np.abs(weights(2, 3, 6))
    assert np.asarray(ej.excitation_vjp(model, (), x, 0).mwp).sum() == 0
    # Larger features make these units smaller: what excites them, by Eq. 20, are none of the six.
    assert np.asarray(ej.excitation_vjp(model, (), x, 0, x_bounds=(-4, 0)).mwp).sum() == 0
    rising = lambda p, x: jax.nn.relu(x @ -first + 9) @ head  # noqa: E731
    found = np.asarray(ej.excitation_vjp(rising, (), x, 0, x_bounds=(-4, 0)).mwp)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)


def test_the_range_changes_no_role() -> None:
    """An input in [0, 1] is no gate for that (D7)."""
    first = weights(0, 4, 4)

    def model(params: Any, x: jax.Array) -> jax.Array:
        return x[:, :4] * (x[:, 4:] @ first)

    x = np.random.default_rng(0).uniform(size=(2, 8)).astype(np.float32)
    for bounds in (None, (0, 1)):
        with pytest.raises(ej.UnsupportedPrimitiveError, match="neither of them recognised"):
            ej.excitation_vjp(model, (), x, 0, x_bounds=bounds)


@pytest.mark.parametrize(
    ("bounds", "error", "says"),
    [
        (3, TypeError, "must be \\(low, high\\)"),
        ((1, 0), ValueError, "low <= high"),
        ((float("nan"), 1), ValueError, "low <= high"),
        (("a", 1), TypeError, "must be \\(low, high\\)"),
        ((0, 1), ValueError, "x has values from -.* not within x_bounds, 0 to 1"),
        ((np.zeros(5) - 9, 9), ValueError, r"\(5,\) and \(\) do not broadcast to .*\(2, 4, 4, 3\)"),
    ],
)
def test_what_is_no_range_or_not_that_of_x_is_an_error(bounds: Any, error: Any, says: str) -> None:
    x = weights(0, 2, 4, 4, 3)
    with pytest.raises(error, match=says):
        ej.attention_map(dense(0, 3), (), x, 0, layer=None, x_bounds=bounds)
    with pytest.raises(error, match=says):
        ej.excite(lambda x: dense(0, 3)((), x), x_bounds=bounds)(x)


def test_it_is_static_under_jit_and_equal_ranges_share_a_program() -> None:
    model, x = dense(0, 3), weights(0, 2, 4, 4, 3)

    @jax.jit
    def mwp(x: jax.Array) -> jax.Array:
        return ej.excitation_vjp(model, (), x, 0, x_bounds=(-9.0, 9.0)).mwp

    plain = ej.excitation_vjp(model, (), x, 0, x_bounds=(jnp.float32(-9), np.array(9))).mwp
    np.testing.assert_allclose(mwp(x), plain, atol=1e-6)
    table = ej.layers(model, (), x, x_bounds=(0, 9))
    assert [layer.lower_bound for layer in table][0] == -np.inf  # of the first dense layer

    def traced(low: jax.Array) -> jax.Array:
        return ej.excitation_vjp(model, (), x, 0, x_bounds=(low, 9)).mwp

    with pytest.raises(TypeError, match="known while the model is traced"):
        jax.jit(traced)(jnp.float32(-9))
