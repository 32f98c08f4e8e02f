"""P(A0) of score maps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import excitation_jax as ej

SCORES = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
CLASSES = np.array([[1, 4], [0, 2]])


def confidence(scores: np.ndarray, by: str) -> np.ndarray:
    scores = scores.astype(float)
    if by == "softmax":
        found = np.exp(scores)
    elif by == "sigmoid":
        found = 1 / (1 + np.exp(-scores))
    else:
        found = np.maximum(scores, 0)
    return found / found.sum()


@pytest.mark.parametrize("by", ["softmax", "sigmoid", "positive"])
def test_each_class_has_its_confidence_at_each_position(by: str) -> None:
    found = ej.confidence_map(CLASSES, by=by)(SCORES)
    expected = np.zeros((2, 2, 3, 4, 5))
    for (n, k), unit in np.ndenumerate(CLASSES):
        expected[n, k, ..., unit] = confidence(SCORES[n, ..., unit], by)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    one = ej.confidence_map(CLASSES[:, 1], by=by)(jnp.asarray(SCORES))
    np.testing.assert_allclose(one, expected[:, 1], rtol=1e-5, atol=1e-7)
    same = ej.top_down_signal(SCORES[:, 0], ej.confidence_map(2, by=by))  # a series
    np.testing.assert_allclose(same.sum((1, 2)), 1, rtol=1e-5)


def test_softmax_is_what_an_integer_gives() -> None:
    found = ej.top_down_signal(SCORES, ej.confidence_map(CLASSES))
    np.testing.assert_array_equal(found, ej.top_down_signal(SCORES, CLASSES))


def test_very_negative_scores() -> None:
    """Sigmoids of -200 vanish in float32; their ratios do not. Nothing is positive."""
    scores = jnp.asarray(SCORES) - 200
    found = ej.confidence_map(3, by="sigmoid")(scores)
    expected = np.exp(SCORES[..., 3]) / np.exp(SCORES[..., 3]).sum((1, 2), keepdims=True)
    np.testing.assert_allclose(found[..., 3], expected, rtol=1e-3)
    assert not ej.confidence_map(3, by="positive")(scores).any()


@pytest.mark.parametrize("by", ["softmax", "sigmoid", "positive"])
def test_maps_start_from_it(by: str) -> None:
    """The explicit P(A0) gives the same map; inside jit, too."""
    w = jnp.asarray(np.random.default_rng(1).normal(size=(5, 5)), jnp.float32)

    def model(w: jax.Array, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x) @ w

    x, target = jnp.asarray(SCORES) + 1, ej.confidence_map(CLASSES, by=by)
    found = ej.excitation_vjp(model, w, x, target).mwp
    prior = target(model(w, x))
    np.testing.assert_allclose(found, ej.excitation_vjp(model, w, x, prior).mwp, atol=1e-7)
    inside = jax.jit(lambda w, x: ej.excitation_vjp(model, w, x, target).mwp)(w, x)
    np.testing.assert_allclose(found, inside, atol=1e-7)


def test_errors() -> None:
    with pytest.raises(ValueError, match="by must be one of softmax, sigmoid, positive, not 'max'"):
        ej.confidence_map(0, by="max")
    with pytest.raises(ValueError, match=r"needs a score map.*shape \(2, 3\)"):
        ej.confidence_map(0)(jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="index 5 is out of range"):
        ej.confidence_map(5)(SCORES)
    for target in (np.ones(5), lambda outputs: outputs):
        with pytest.raises((TypeError, ValueError), match="classes, integers|must have shape"):
            ej.confidence_map(target)(SCORES)
