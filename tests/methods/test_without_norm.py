"""Table 3's variants of c-MWP (IJCV18, 6.1.3) against explicit matrices and plain loops."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import excitation_jax as ej
from excitation_jax import methods
from excitation_jax.rules import without_norm

RNG = np.random.default_rng(0)
TARGETS = np.array([[0, 2], [3, 1]])
X = jnp.asarray(RNG.uniform(size=(2, 6, 5, 3)), jnp.float32)


def drawn(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.normal(size=shape) / np.sqrt(np.prod(shape[:-1])), jnp.float32)


PARAMS = {
    "stem": drawn(3, 3, 3, 6), "deep": drawn(3, 3, 6, 6), "scale": drawn(6), "head": drawn(6, 4),
    "bias": abs(drawn(6)),
}  # fmt: skip


def conv(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride,) * 2, "SAME", dimension_numbers=numbers)


def branch(p: dict, a: jax.Array) -> jax.Array:
    """A convolution with its scale, of which some are negative."""
    return conv(a, p["deep"]) * 3 * p["scale"]


def network(p: dict, x: jax.Array, residual: bool) -> jax.Array:
    a = ej.tag(jax.nn.relu(conv(x, p["stem"], 2)), "features")
    hidden = jax.nn.relu(branch(p, a) + p["bias"] + (a if residual else 0))
    return hidden.mean((1, 2)) @ p["head"]


def plain(p: dict, x: jax.Array) -> jax.Array:
    return network(p, x, residual=False)


def residual(p: dict, x: jax.Array) -> jax.Array:
    return network(p, x, residual=True)


def matrix(linear: Callable, a: np.ndarray) -> np.ndarray:
    """A linear map of one example as a matrix (outputs, inputs), in float64."""
    jacobian = jax.jacobian(lambda a: linear(a[None])[0])(jnp.asarray(a, jnp.float32))
    return np.asarray(jacobian, float).reshape(-1, a.size)


def share(weights: np.ndarray, h: np.ndarray, p: np.ndarray) -> np.ndarray:
    """``P h w+`` for each connection, one by one."""
    found = np.zeros(h.size)
    for i in range(p.size):
        for j in range(h.size):
            found[j] += p[i] * h[j] * max(weights[i, j], 0)
    return found


def one_side(n: int, unit: int, side: int, skip: bool) -> np.ndarray:
    """The map at the features, of the classifier (1) or of the negated one (-1)."""
    a = np.asarray(jax.nn.relu(conv(X, PARAMS["stem"], 2)), float)[n]
    weights, size = matrix(lambda a: branch(PARAMS, a), a), a[..., 0].size
    y = weights @ a.reshape(-1) + np.tile(np.asarray(PARAMS["bias"], float), size)
    # A scale behind a layer says which weights excite; P passes it as it is (R5).
    weights /= np.tile(3 * np.abs(np.asarray(PARAMS["scale"], float)), size)[:, None]
    hidden = np.maximum(y + skip * a.reshape(-1), 0)
    pooling = matrix(lambda h: h.mean((1, 2)), a)
    head = side * np.asarray(PARAMS["head"], float).T
    p = share(head, pooling @ hidden, np.eye(4)[unit])
    p = share(pooling, hidden, p)
    found = np.zeros(a.size)
    if skip:  # Eq. 19
        total = np.maximum(y, 0) + a.reshape(-1)
        ratio = np.divide(p, total, out=np.zeros_like(p), where=total > 0)
        found, p = ratio * a.reshape(-1), ratio * np.maximum(y, 0)
    return (found + share(weights, a.reshape(-1), p)).reshape(a.shape).sum(-1)


def unit_sum(map_: np.ndarray) -> np.ndarray:
    positive = np.maximum(map_, 0)
    return positive / (positive.sum() or 1)


@pytest.mark.parametrize("model", [plain, residual])
def test_the_variants_are_their_definitions(model: Callable) -> None:
    without = methods.c_mwp_without_norm(model, PARAMS, X, TARGETS, layer="features")
    post = methods.c_mwp_post_norm(model, PARAMS, X, TARGETS, layer="features")
    for (n, k), unit in np.ndenumerate(TARGETS):
        up, down = (one_side(n, unit, side, model is residual) for side in (1, -1))
        np.testing.assert_allclose(without[n, k], unit_sum(up - down), atol=2e-6)
        expected = np.maximum(unit_sum(up) - unit_sum(down), 0)
        np.testing.assert_allclose(post[n, k], expected, atol=2e-6)
    full = methods.c_mwp(model, PARAMS, X, TARGETS, layer="features")
    for found in (without, post):
        assert (np.abs(found - full).max((2, 3)) > 0.005).all()


@pytest.mark.parametrize("rules", [ej.EXCITATION_CONSERVING, ej.EXCITATION_UNMERGED])
def test_what_belongs_to_z_is_gone_with_it(rules: ej.RuleSet) -> None:
    """Nothing is handed on evenly, and no sum is one neuron with its layers."""
    for method in (methods.c_mwp_without_norm, methods.c_mwp_post_norm):
        expected = method(residual, PARAMS, X, TARGETS, layer="features")
        found = method(residual, PARAMS, X, TARGETS, layer="features", rules=rules)
        # Two compiled programs: XLA may add the same numbers in another order.
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_other_options_of_the_rules_stay() -> None:
    rule = without_norm(ej.EXCITATION_TORCHRAY).table[lax.conv_general_dilated_p]
    before = ej.EXCITATION_TORCHRAY.table[lax.conv_general_dilated_p]
    assert rule == dataclasses.replace(before, normalises=False)


def test_scoped_rules_lose_their_norm_too() -> None:
    scoped = ej.EXCITATION.scoped("*", ej.EXCITATION_RESIDUAL)
    found, expected = (
        methods.c_mwp_without_norm(residual, PARAMS, X, TARGETS, layer="features", rules=rules)
        for rules in (scoped, ej.EXCITATION_RESIDUAL)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)  # two programs, as above
    other = methods.c_mwp_without_norm(residual, PARAMS, X, TARGETS, layer="features")
    assert np.abs(found - other).max() > 1e-3


def test_the_rules_are_made_once() -> None:
    """They are keys of the compiled programs."""
    assert without_norm(ej.EXCITATION) is without_norm(ej.EXCITATION)
    assert without_norm(ej.EXCITATION, (1,)) is not without_norm(ej.EXCITATION)


def chain(p: list, x: jax.Array) -> jax.Array:
    for kernel in p[:-1]:
        x = jax.nn.relu(conv(x, kernel))
    return x.mean((1, 2)) @ p[-1]


def chain_and_map(depth: int) -> tuple[list, jax.Array, np.ndarray]:
    """Activations of 200 throughout: P grows by 200 at each layer. The map in float64."""
    rng = np.random.default_rng(1)
    kernels = [np.abs(rng.normal(size=(1, 1, 3, 3))) for _ in range(depth)]
    kernels = [np.float32(k / k.sum(2, keepdims=True)) for k in kernels]
    x, head = (
        np.float32(rng.uniform(150, 250, (1, 2, 2, 3))),
        np.float32([[1, 0], [-0.5, 1], [0, 1]]),
    )
    values = [x.astype(float)]
    for kernel in kernels:
        values.append(values[-1] @ kernel[0, 0].astype(float))
    p = head[:, 0] * values[-1].mean((1, 2))[0]
    q = values[-1] * p / 4
    for kernel, h in zip(kernels[::-1], values[-2::-1], strict=True):
        q = h * (q @ kernel[0, 0].astype(float).T)
    return [*kernels, head], jnp.asarray(x), q[0].sum(-1)


def test_products_of_many_layers_stay_numbers() -> None:
    params, x, expected = chain_and_map(22)
    assert np.abs(expected).max() > 1e50  # far beyond float32
    found = methods.c_mwp_without_norm(chain, params, x, 0, layer=None)
    np.testing.assert_allclose(found[0], unit_sum(expected), atol=1e-5)


def test_products_that_overflow_are_told() -> None:
    params, x, expected = chain_and_map(28)
    assert np.abs(expected).max() > 1e60
    with pytest.raises(ValueError, match="what was sent down from it, is not finite"):
        methods.c_mwp_without_norm(chain, params, x, 0, layer=None)


def test_a_callable_target_and_one_array_of_scores() -> None:
    def best(outputs: Any) -> Any:
        return jax.nn.one_hot(outputs.argmax(-1), 4)

    units = plain(PARAMS, X).argmax(-1)
    for method in (methods.c_mwp_without_norm, methods.c_mwp_post_norm):
        found = method(plain, PARAMS, X, best)
        np.testing.assert_array_equal(found, method(plain, PARAMS, X, units))
        np.testing.assert_allclose(found.sum((1, 2)) <= 1 + 1e-5, True)
