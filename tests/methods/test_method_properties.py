"""What the methods compute, against their definitions: closed forms, plain loops, matrices."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import excitation_jax as ej
from excitation_jax import methods
from excitation_jax.explain.top_down import top_down
from excitation_jax.methods.rise import _mask

KEYS = jax.random.split(jax.random.key(0), 8)
X = jax.random.uniform(KEYS[0], (2, 6, 5, 3))
TARGETS = np.array([[0, 2], [3, 1]])
PARAMS = {
    "stem": jax.random.normal(KEYS[1], (3, 3, 3, 4)) / 3,
    "deep": jax.random.normal(KEYS[2], (3, 3, 4, 5)) / 4,
    "head": jax.random.normal(KEYS[3], (5, 4)),
    "bias": jax.random.normal(KEYS[4], (4,)),
}


def conv(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride,) * 2, "SAME", dimension_numbers=numbers)


def features(p: dict, x: jax.Array) -> jax.Array:
    return ej.tag(jax.nn.relu(conv(x, p["stem"], 2)), "features")


def linear_head(p: dict, a: jax.Array) -> jax.Array:
    return a.mean((1, 2)) @ p["head"] + p["bias"]


def deep_head(p: dict, a: jax.Array) -> jax.Array:
    """Not linear, so that each position of the features has a slope of its own."""
    return linear_head(p, jax.nn.relu(conv(a, p["deep"])))


def plain(p: dict, x: jax.Array) -> jax.Array:
    p = {**p, "head": p["head"][:4]}
    return linear_head(p, features(p, x))


def deep(p: dict, x: jax.Array) -> jax.Array:
    return deep_head(p, features(p, x))


def each(targets: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """(example, position among the targets, unit)."""
    for (n, k), unit in np.ndenumerate(targets):
        yield n, k, int(unit)


def assert_close(found: Any, expected: Any, rtol: float = 2e-5) -> None:
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * np.abs(expected).max())


# CAM and c-MWP* (IJCV18, Eq. 13-16).


def cam_terms(n: int, unit: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A_c / (HW) at each position, and w+ and w-, in float64."""
    a = np.asarray(features(PARAMS, X)[n], float)
    w = np.asarray(PARAMS["head"][:4, unit], float)
    return a / (a.shape[0] * a.shape[1]), np.maximum(w, 0), np.maximum(-w, 0)


def test_cam_and_c_mwp_star_differ_in_z_alone() -> None:
    signed = ej.excitation_vjp(plain, PARAMS, X, TARGETS, layer="features", contrastive=True)
    signed = signed.mwp.sum(-1)
    cam = methods.cam(plain, PARAMS, X, TARGETS)
    for n, k, unit in each(TARGETS):
        a, up, down = cam_terms(n, unit)
        z_up, z_down = (a @ up).sum(), (a @ down).sum()
        assert_close(signed[n, k], a @ (up / z_up - down / z_down))
        assert_close(cam[n, k], a @ (up - down))
        score = plain(PARAMS, X)[n, unit] - PARAMS["bias"][unit]
        np.testing.assert_allclose(cam[n, k].sum(), score, rtol=1e-5)
    star = methods.c_mwp_star(plain, PARAMS, X, TARGETS)
    np.testing.assert_array_equal(star, np.maximum(signed, 0))


def test_cam_refuses_a_head_that_is_not_linear() -> None:
    with pytest.raises(ValueError, match="linear in layer 'features', and max in") as caught:
        methods.cam(deep, PARAMS, X, 0, layer="features")
    assert "test_method_properties.py:" in str(caught.value)
    assert "(deep_head)" in str(caught.value)
    with pytest.raises(ValueError, match="CAM needs scores.*let the model return scores"):
        methods.cam(lambda p, x: jax.nn.softmax(plain(p, x)), PARAMS, X, 0, layer="features")
    # The layer before pooling, above the last ReLU, is read where none is named.
    hidden = jax.nn.relu(conv(features(PARAMS, X), PARAMS["deep"]))
    found = methods.cam(deep, PARAMS, X, 1)
    assert_close(found, hidden @ PARAMS["head"][:, 1] / hidden[0, ..., 0].size)


HEADS = {
    "flat": lambda a: a.reshape(2, -1)[:, :4],
    "token": lambda a: a[:, 1, 2],
    "rows": lambda a: jnp.concatenate([a[:, :1], a[:, 2:]], 1).sum((1, 2)),
    "masked": lambda a: jnp.where(np.arange(3)[:, None, None] > 1, a, 0).sum((1, 2)),
    "indexed": lambda a: a[:, np.array([0, 2, 2])].mean((1, 2)),
    "standardised": lambda a: (a.mean((1, 2)) - 0.3) / np.array([1.0, 2, -1, 4], np.float32),
    "pooled": lambda a: lax.reduce_window(a, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "VALID")[
        :, 0, 0
    ],
}


@pytest.mark.parametrize("kind", HEADS)
def test_cam_accepts_every_linear_head(kind: str) -> None:
    """The map sums to the score less what it is for no features at all."""

    def head(p: dict, a: jax.Array) -> jax.Array:
        return HEADS[kind](a) @ p["head"][:4]

    found = methods.cam(lambda p, x: head(p, features(p, x)), PARAMS, X, 2, layer="features")
    a = features(PARAMS, X)
    expected = (head(PARAMS, a) - head(PARAMS, jnp.zeros_like(a)))[:, 2]
    np.testing.assert_allclose(found.sum((1, 2)), expected, rtol=2e-5)


# The other maps of a layer, from its values and their slopes by `jax.grad`.


def grad_cam(a: np.ndarray, slope: np.ndarray) -> np.ndarray:
    return np.maximum(a @ slope.mean((0, 1)), 0)


def grad_cam_plus_plus(a: np.ndarray, slope: np.ndarray) -> np.ndarray:
    below = 2 * slope**2 + a.sum((0, 1)) * slope**3
    alpha = np.divide(slope**2, below, out=np.zeros_like(slope), where=below != 0)
    return np.maximum(a @ (alpha * np.maximum(slope, 0)).sum((0, 1)), 0)


def layer_cam(a: np.ndarray, slope: np.ndarray) -> np.ndarray:
    return np.maximum((a * np.maximum(slope, 0)).sum(-1), 0)


def linear_approximation(a: np.ndarray, slope: np.ndarray) -> np.ndarray:
    return (a * slope).sum(-1)


def gradient(a: np.ndarray, slope: np.ndarray) -> np.ndarray:
    return np.abs(slope).max(-1)


FORMULAS = [grad_cam, grad_cam_plus_plus, layer_cam, linear_approximation, gradient]


@pytest.fixture(scope="module")
def slopes() -> dict[tuple[int, int], np.ndarray]:
    """dS/dA of the features, by example and unit, in float64."""
    jacobian = jax.jacobian(lambda a: deep_head(PARAMS, a))(features(PARAMS, X))
    return {(n, unit): np.asarray(jacobian[n, unit, n], float) for n, _, unit in each(TARGETS)}


@pytest.mark.parametrize("formula", FORMULAS, ids=lambda formula: formula.__name__)
def test_maps_of_a_layer_are_their_formulas(formula: Callable, slopes: dict) -> None:
    method = getattr(methods, formula.__name__)
    found = method(deep, PARAMS, X, TARGETS, layer="features")
    values = np.asarray(features(PARAMS, X), float)
    for n, k, unit in each(TARGETS):
        assert_close(found[n, k], formula(values[n], slopes[n, unit]))
    assert found[1].any()


# The contrast, for other methods.


def test_the_contrast_of_gradients_is_empty() -> None:
    for layer in (None, "features"):
        found = methods.get("c-gradient").function(deep, PARAMS, X, TARGETS, layer=layer)
        assert not found.any()


def test_c_deconvnet_is_the_contrast_with_a_negated_head() -> None:
    negated = {**PARAMS, "head": -PARAMS["head"], "bias": -PARAMS["bias"]}
    found = methods.get("c-deconvnet").function(deep, PARAMS, X, TARGETS)
    maps = [methods.deconvnet(deep, p, X, TARGETS) for p in (PARAMS, negated)]
    parts = [m / m.sum((-2, -1), keepdims=True) for m in maps]
    np.testing.assert_allclose(found, np.maximum(parts[0] - parts[1], 0), atol=1e-6)
    assert found.max() > 1e-3


def test_a_callable_target_means_the_scores_themselves() -> None:
    """The best class of the negated scores would be the worst."""

    def best(outputs: jax.Array) -> jax.Array:
        return jax.nn.one_hot(outputs.argmax(-1), 4)

    units = deep(PARAMS, X).argmax(-1)
    for name in ("c-deconvnet", "c-mwp-post-norm", "c-cam", "c-gradient"):
        function = methods.get(name).function
        found = function(deep, PARAMS, X, best)
        np.testing.assert_allclose(found, function(deep, PARAMS, X, units), atol=1e-6)


# Gradients along many inputs.


def score(model: Callable, x: jax.Array) -> np.ndarray:
    return np.take_along_axis(np.asarray(model(PARAMS, x), float), TARGETS, 1)


@pytest.mark.parametrize("baseline", [0.0, 0.4])
def test_integrated_gradients_sum_to_the_difference_of_scores(baseline: float) -> None:
    options = {"steps": 128, "baseline": baseline}
    found = methods.integrated_gradients(deep, PARAMS, X, TARGETS, **options)
    assert found.shape == (2, 2, 6, 5)
    scores = [score(deep, x) for x in (X, jnp.full_like(X, baseline))]
    error = found.sum((-2, -1)) - (scores[0] - scores[1])
    assert np.abs(error).max() < 1e-3 * np.abs(scores).max()


def test_integrated_gradients_of_a_linear_model_need_one_step() -> None:
    def linear(p: dict, x: jax.Array) -> jax.Array:
        return linear_head({**p, "head": p["head"][:4]}, conv(x, p["stem"]))

    baseline = X[:1, ::-1]
    for steps in (1, 3):
        options = {"steps": steps, "baseline": baseline}
        found = methods.integrated_gradients(linear, PARAMS, X, TARGETS, **options)
        expected = score(linear, X) - score(linear, jnp.broadcast_to(baseline, X.shape))
        np.testing.assert_allclose(found.sum((-2, -1)), expected, rtol=1e-4, atol=1e-6)
    zero = methods.input_x_gradient(linear, PARAMS, X, TARGETS)
    found = methods.integrated_gradients(linear, PARAMS, X, TARGETS, steps=1)
    np.testing.assert_allclose(found, zero, atol=1e-6)


def test_smoothgrad() -> None:
    def smooth(x: jax.Array = X, **options: Any) -> jax.Array:
        return methods.smoothgrad(deep, PARAMS, x, TARGETS[: len(x)], samples=4, **options)

    gradient = methods.gradient(deep, PARAMS, X, TARGETS)
    np.testing.assert_allclose(smooth(noise=0), gradient, rtol=1e-5, atol=1e-7)
    key = jax.random.key(7)
    np.testing.assert_array_equal(smooth(key=key), smooth(key=key))
    assert np.abs(smooth(key=key) - smooth()).max() > 1e-3
    # The noise of an image is that of the image alone, whatever else is in the batch.
    np.testing.assert_allclose(smooth(X[:1]), smooth()[:1], rtol=1e-4, atol=1e-6)
    at_layer = smooth(noise=0, layer="features")
    expected = methods.gradient(deep, PARAMS, X, TARGETS, layer="features")
    np.testing.assert_allclose(at_layer, expected, rtol=1e-5, atol=1e-7)


def test_smoothgrad_is_the_mean_slope_of_noisy_images() -> None:
    """Of a quadratic model the slope is linear in x: the noise's share shrinks with its number."""

    def quadratic(p: Any, x: jax.Array) -> jax.Array:
        return (conv(x, jnp.ones((1, 1, 3, 2))) ** 2).sum((1, 2))

    slope = np.abs(2 * np.asarray(X).sum(-1))
    spread = 0.15 * np.ptp(np.asarray(X), (1, 2, 3))[:, None, None]
    options = {"samples": 400, "noise": 0.15}
    error = (methods.smoothgrad(quadratic, (), X, 0, **options) - slope) / spread
    # The deviation of 2 (n1 + n2 + n3) over 400 samples.
    assert 0.7 < np.std(error) / (2 * np.sqrt(3 / 400)) < 1.3


# RISE.


def test_rise_is_a_loop_over_masks() -> None:
    key, count = jax.random.key(3), 12
    options = {"masks": count, "cells": 3, "kept": 0.4, "key": key}
    found = methods.rise(deep, PARAMS, X, TARGETS, **options)
    sigmoid = methods.rise(deep, PARAMS, X, TARGETS, scores=jax.nn.sigmoid, **options)
    expected, of_sigmoid = np.zeros((2, 2, 2, 6, 5))
    for mask_key in jax.random.split(key, count):
        mask = np.asarray(_mask(mask_key, (6, 5), 3, 0.4))
        assert mask.shape == (6, 5) and 0 <= mask.min() and mask.max() <= 1
        scores = deep(PARAMS, X * mask[None, :, :, None])
        for n, k, unit in each(TARGETS):
            expected[n, k] += float(jax.nn.softmax(scores[n])[unit]) * mask / count / 0.4
            of_sigmoid[n, k] += float(jax.nn.sigmoid(scores[n, unit])) * mask / count / 0.4
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(sigmoid, of_sigmoid, rtol=1e-4)


def test_masks_keep_their_share_of_every_cell() -> None:
    masks = jax.vmap(lambda key: _mask(key, (12, 9), 4, 0.3))(jax.random.split(KEYS[5], 4000))
    np.testing.assert_allclose(masks.mean(0), 0.3, atol=0.04)
    assert masks.std(0).min() > 0.25


@pytest.mark.parametrize("row, column", [(1, 1), (6, 2), (4, 7)])
def test_rise_peaks_at_the_pixel_that_is_looked_at(row: int, column: int) -> None:
    def look(p: Any, x: jax.Array) -> jax.Array:
        pixel = conv(x, jnp.ones((1, 1, 3, 1)))[:, row, column]
        return jnp.concatenate([pixel, jnp.zeros_like(pixel)], 1)

    x = jnp.ones((1, 8, 9, 3))
    found = methods.rise(look, (), x, 0, masks=1500, cells=4)[0]
    peak = np.unravel_index(found.argmax(), found.shape)
    assert max(abs(peak[0] - row), abs(peak[1] - column)) <= 1
    opposite = methods.rise(look, (), x, 1, masks=1500, cells=4)[0]
    assert opposite[row, column] < opposite.mean()


# Feedback, DeconvNet and guided backprop on a network of matrices, in float64.


class Matrices:
    """Two hidden ReLU layers: a forward pass with gates, and backward passes, by hand."""

    def __init__(self, params: dict, n: int):
        x = jnp.asarray(X[n : n + 1], jnp.float64)
        below, above = two_layers(params)
        self.first = np.asarray(jax.jacobian(below)(jnp.zeros_like(x))).reshape(-1, x.size)
        h = jnp.zeros_like(below(x))
        self.second = np.asarray(jax.jacobian(above)(h)).reshape(-1, h.size)
        self.shifts = [
            np.asarray(f(jnp.zeros_like(v))).ravel() for f, v in ((below, x), (above, h))
        ]
        self.head = np.asarray(params["head"]) / (self.second.shape[0] / 5)
        self.x = np.asarray(x).ravel()

    def active(self, gates: list[np.ndarray]) -> list[np.ndarray]:
        first = self.first @ self.x + self.shifts[0]
        second = self.second @ (gates[0] * np.maximum(first, 0)) + self.shifts[1]
        return [first > 0, second > 0]

    def open(self) -> list[np.ndarray]:
        return [np.ones(len(matrix), bool) for matrix in (self.first, self.second)]

    def slopes(self, unit: int, gates: list[np.ndarray]) -> list[np.ndarray]:
        """dS/dy of the hidden layers, and of the input."""
        active = self.active(gates)
        second = np.tile(self.head[:, unit], len(self.second) // 5)
        first = self.second.T @ (second * gates[1] * active[1])
        return [first, second, self.first.T @ (first * gates[0] * active[0])]

    def feedback(self, unit: int, iterations: int) -> tuple[np.ndarray, int]:
        """The input's slopes, and how many gates are open in the end."""
        gates = self.open()
        for _ in range(iterations):
            found = self.slopes(unit, gates)
            closed = [gate & (slope > 0) for gate, slope in zip(gates, found, strict=False)]
            gates = closed
        return self.slopes(unit, gates)[2], sum(gate.sum() for gate in gates)

    def passed(self, unit: int, guided: bool) -> np.ndarray:
        """DeconvNet's signal at the input, or guided backprop's."""
        active = self.active(self.open())
        signal = np.tile(self.head[:, unit], len(self.second) // 5)
        for matrix, on in zip((self.second, self.first), active[::-1], strict=True):
            signal = matrix.T @ (np.maximum(signal, 0) * (on if guided else 1))
        return signal

    def map(self, signal: np.ndarray) -> np.ndarray:
        return np.abs(signal.reshape(X.shape[1:])).max(-1)


def two_layers(p: dict) -> tuple[Callable, Callable]:
    """The affine functions below each of two ReLUs."""
    return (
        lambda x: conv(x, p["stem"]) + 0.3 * jnp.arange(-2.0, 2),
        lambda h: conv(h, p["deep"]) - 0.1,
    )


def two_hidden(p: dict, x: jax.Array) -> jax.Array:
    below, above = two_layers(p)
    return linear_head(p, jax.nn.relu(above(jax.nn.relu(below(x)))))


@functools.cache
def doubled() -> tuple[dict, jax.Array, list[Matrices]]:
    params = jax.tree.map(lambda w: jnp.asarray(w, jnp.float64), PARAMS)
    return params, jnp.asarray(X, jnp.float64), [Matrices(params, n) for n in range(2)]


@pytest.fixture
def matrices() -> Iterator[tuple[dict, jax.Array, list[Matrices]]]:
    """The network and both images in float64, and their matrices."""
    with jax.enable_x64(True):
        yield doubled()


def test_the_matrices_are_the_network(matrices: tuple) -> None:
    params, x, networks = matrices
    for n, network in enumerate(networks):
        slope = jax.grad(lambda x: two_hidden(params, x)[n, 1].sum())(x)[n]  # noqa: B023
        found = network.slopes(1, network.open())[2]
        np.testing.assert_allclose(found, np.asarray(slope).ravel(), atol=1e-12)


@pytest.mark.parametrize("iterations", [1, 2, 12])
def test_feedback_is_a_loop_over_explicit_gates(iterations: int, matrices: tuple) -> None:
    params, x, networks = matrices
    found = methods.feedback(two_hidden, params, x, TARGETS, iterations=iterations)
    for n, k, unit in each(TARGETS):
        slope, open_now = networks[n].feedback(unit, iterations)
        assert_close(found[n, k], networks[n].map(slope), rtol=1e-9)
        assert 0 < open_now <= networks[n].feedback(unit, iterations - 1)[1]
    single = methods.feedback(two_hidden, params, x, TARGETS[:, 1], iterations=iterations)
    assert_close(single, found[:, 1], rtol=1e-9)


def test_feedback_changes_with_its_iterations(matrices: tuple) -> None:
    maps = [methods.feedback(two_hidden, *matrices[:2], 0, iterations=i) for i in (1, 2, 12, 13)]
    assert np.abs(maps[0] - maps[1]).max() > 1e-3
    np.testing.assert_array_equal(maps[2], maps[3])  # it has settled


@pytest.mark.parametrize("method", [methods.deconvnet, methods.guided_backprop])
def test_deconvnet_and_guided_backprop(method: Callable, matrices: tuple) -> None:
    params, x, networks = matrices
    found = method(two_hidden, params, x, TARGETS)
    for n, k, unit in each(TARGETS):
        signal = networks[n].passed(unit, guided=method is methods.guided_backprop)
        assert_close(found[n, k], networks[n].map(signal), rtol=1e-9)


# What is a ReLU.


def normalised(x: jax.Array) -> jax.Array:
    variance = jnp.maximum(0.0, (x**2).mean(-1, keepdims=True) - x.mean(-1, keepdims=True) ** 2)
    return (x - x.mean(-1, keepdims=True)) * lax.rsqrt(variance + 1e-3)


ACTIVATIONS = {
    "gelu": jax.nn.gelu,
    "softplus": jax.nn.softplus,
    "celu": jax.nn.celu,
    "hard_swish": jax.nn.hard_swish,
    "softmax": jax.nn.softmax,
    "LayerNorm": normalised,
    "leaky": lambda x: jnp.maximum(x, 0.1 * x),
    "floor": lambda x: jnp.maximum(x, -0.2),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_what_rectifies_nothing_has_its_own_gradient(name: str) -> None:
    """Not every max with zero is a ReLU; a network without one is no network for Feedback."""

    def model(p: dict, x: jax.Array) -> jax.Array:
        hidden = conv(ACTIVATIONS[name](conv(x, p["stem"])), p["deep"])
        return linear_head(p, hidden)

    expected = methods.gradient(model, PARAMS, X, TARGETS)
    for method in (methods.deconvnet, methods.guided_backprop):
        assert_close(method(model, PARAMS, X, TARGETS), expected)
    with pytest.raises(ValueError, match="gates ReLUs, and this model has none"):
        methods.feedback(model, PARAMS, X, 0)


def test_feedback_leaves_normalisers_alone() -> None:
    def model(p: dict, x: jax.Array) -> jax.Array:
        hidden = jax.nn.relu(normalised(conv(x, p["stem"])))
        return jax.nn.softmax(linear_head(p, conv(hidden, p["deep"])))

    found = methods.feedback(model, PARAMS, X, TARGETS, iterations=3)
    assert np.isfinite(found).all() and found.max() > 1e-4


def test_a_silent_unit_has_no_slope() -> None:
    """At zero a ReLU's slope is zero, for all methods alike, as `jax.nn.relu`'s is."""
    x = jnp.zeros_like(X)
    for method in (methods.gradient, methods.guided_backprop, methods.feedback):
        assert not method(plain, PARAMS, x, 0).any()
    assert methods.deconvnet(plain, PARAMS, x, 0).any()


# The rules of the gradient are the gradient.


def scanned(p: dict, x: jax.Array) -> jax.Array:
    def step(h: jax.Array, scale: jax.Array) -> tuple:
        return jax.nn.relu(conv(h, scale * p["deep"][..., :4])), None

    return lax.scan(step, features(p, x), jnp.array([1.0, -1]))[0].mean((1, 2))


def branched(p: dict, x: jax.Array) -> jax.Array:
    h = lax.cond(x.sum() > 0, lambda h: jnp.tanh(2 * h), jnp.cos, features(p, x))
    return jax.checkpoint(lambda h: (h * h.mean(-1, keepdims=True)).sum((1, 2)))(h)


def looked_up(p: dict, x: jax.Array) -> jax.Array:
    h = features(p, x).reshape(2, -1, 4)
    order = jnp.argsort(h.sum(-1), -1)
    best = jnp.take_along_axis(h, order[:, -2:, None], 1)
    return jnp.cumsum(best, 1).sum(1) * jax.nn.softmax(h, 1).max(1)


def attended(p: dict, x: jax.Array) -> jax.Array:
    h = features(p, x).reshape(2, -1, 4)
    weights = jax.nn.softmax(jnp.einsum("ntc,nsc->nts", h, lax.stop_gradient(h)))
    return jnp.einsum("nts,nsc->nc", weights, jax.nn.softplus(h))


def solved(p: dict, x: jax.Array) -> jax.Array:
    h = features(p, x).reshape(2, -1, 4)
    return jnp.linalg.solve(jnp.einsum("ntc,ntd->ncd", h, h) + jnp.eye(4), p["head"][:4]).sum(1)


@pytest.mark.parametrize("model", [scanned, branched, looked_up, attended, solved])
def test_the_gradient_is_that_of_jax(model: Callable) -> None:
    found = top_down(model, PARAMS, X, 1, None, rules=methods.GRADIENT).share
    expected = jax.grad(lambda x: model(PARAMS, x)[:, 1].sum())(X)
    assert_close(found, expected)


def test_complex_numbers_are_no_silent_zero() -> None:
    def spectral(p: dict, x: jax.Array) -> jax.Array:
        return plain(p, jnp.abs(jnp.fft.fft2(conv(x, p["stem"][..., :3]), axes=(1, 2))))

    with pytest.raises(ej.UnsupportedPrimitiveError, match="fft .*complex numbers"):
        methods.gradient(spectral, PARAMS, X, 0)
    above = ej.excitation_vjp(spectral, PARAMS, X, 0, layer="features", rules=methods.GRADIENT)
    assert above.mwp.any()
