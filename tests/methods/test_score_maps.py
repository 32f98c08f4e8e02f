"""CAM and c-MWP* (IJCV18, 4.1, Table 2) of dense and fully convolutional heads, by plain loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import excitation_jax as ej
from excitation_jax import methods

RNG = np.random.default_rng(0)
TARGETS = np.array([[0, 2], [3, 1]])
X = jnp.asarray(RNG.uniform(size=(2, 5, 6, 3)), jnp.float32)
PARAMS = {
    "stem": jnp.asarray(RNG.normal(size=(3, 3, 3, 8)) / 3, jnp.float32),
    "head": jnp.asarray(RNG.normal(size=(8, 4)), jnp.float32),
    "bias": jnp.asarray(RNG.normal(size=4), jnp.float32),
}
SIDE = 3  # of the average that slides, over 5x6 positions


def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


def features(p: dict, x: jax.Array) -> jax.Array:
    return ej.tag(jax.nn.relu(conv(x, p["stem"])), "features")


def dense(p: dict, x: jax.Array) -> jax.Array:
    return features(p, x).mean((1, 2)) @ p["head"] + p["bias"]


def positions(p: dict, x: jax.Array) -> jax.Array:
    """Scores at each position."""
    return conv(features(p, x), p["head"][None, None]) + p["bias"]


def sliding(p: dict, x: jax.Array) -> jax.Array:
    """Scores behind an average that slides."""
    window = (1, SIDE, SIDE, 1)
    average = lax.reduce_window(features(p, x), 0.0, lax.add, window, (1,) * 4, "VALID") / SIDE**2
    return conv(average, p["head"][None, None]) + p["bias"]


def activations(p: dict, n: int) -> np.ndarray:
    return np.asarray(features(p, X)[n], float)


def windows(model: Callable, shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """What each score is an average over, row by row."""
    high, wide = {dense: shape[:2], sliding: (SIDE, SIDE), positions: (1, 1)}[model]
    for row in range(shape[0] - high + 1):
        for column in range(shape[1] - wide + 1):
            yield slice(row, row + high), slice(column, column + wide)


def priors(model: Callable, p: dict, n: int, unit: int) -> np.ndarray:
    """P(A0) of each window: the softmax over the class's scores."""
    scores = np.asarray(model(p, X)[n, ..., unit], float).reshape(-1)
    return np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()


def c_mwp_star(
    a: np.ndarray, w: np.ndarray, windows: list, prior: np.ndarray
) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Eq. 11 to 15 in each window: the signed map, and Z+ and Z-."""
    found, norms = np.zeros(a.shape[:2]), []
    for p, window in zip(prior, windows, strict=True):
        area = a[window]
        average = area.mean((0, 1))
        sums = [area[..., 0].size * (np.maximum(v, 0) * average).sum() for v in (w, -w)]
        z_up, z_down = (1 / total if total else 0.0 for total in sums)
        found[window] += p * (area @ (z_up * np.maximum(w, 0) - z_down * np.maximum(-w, 0)))
        norms.append((z_up, z_down))
    return found, norms


@pytest.mark.parametrize("model", [dense, sliding, positions])
def test_cam_and_c_mwp_star_differ_in_z_alone(model: Callable) -> None:
    star = methods.c_mwp_star(model, PARAMS, X, TARGETS)
    cam = methods.cam(model, PARAMS, X, TARGETS, layer="features")
    for (n, k), unit in np.ndenumerate(TARGETS):
        a, w = activations(PARAMS, n), np.asarray(PARAMS["head"][:, unit], float)
        every = list(windows(model, a.shape))
        expected, _ = c_mwp_star(a, w, every, priors(model, PARAMS, n, unit))
        np.testing.assert_allclose(star[n, k], np.maximum(expected, 0), atol=1e-6)
        # Eq. 16, the classifier at each position; of a dense head, the mean over them.
        size = a[..., 0].size if model is dense else 1
        np.testing.assert_allclose(cam[n, k], a @ w / size, atol=1e-5)
        # Without an average both shares are of one position, and cancel where there are both.
        silent = np.abs(expected) < 1e-12
        assert (silent.mean() > 0.5) == (model is positions)


@pytest.mark.parametrize("model", [dense, sliding])
def test_where_z_is_the_same_they_are_one_map(model: Callable) -> None:
    """In the window that P(A0) is at, up to a factor; CAM alone changes with the weights' sizes."""
    n, unit = 1, 3
    a, w = activations(PARAMS, n), np.asarray(PARAMS["head"][:, unit], float)
    every = list(windows(model, a.shape))
    start = np.zeros(len(every))
    start[len(every) // 2] = 1
    _, norms = c_mwp_star(a, w, every, start)
    z_up, z_down = norms[len(every) // 2]
    equal = np.where(w < 0, w * z_down / z_up, w)
    head = PARAMS["head"].at[:, unit].set(jnp.asarray(equal, jnp.float32))
    params = {**PARAMS, "head": head}
    outputs = model(params, X)
    chosen = np.eye(4)[unit]
    prior = jnp.zeros_like(outputs).at[n].set((start[:, None] * chosen).reshape(outputs.shape[1:]))
    prior = prior.at[1 - n].set(prior[n])
    star = methods.c_mwp_star(model, params, X, prior)[n]
    cam = methods.cam(model, params, X, prior)[n]
    rows, columns = every[len(every) // 2]
    inside, outside = np.zeros(star.shape, bool), np.ones(star.shape, bool)
    inside[rows, columns], outside[rows, columns] = True, False
    ratio = star[inside].max() / cam[inside].max()
    np.testing.assert_allclose(star[inside], np.maximum(ratio * cam[inside], 0), atol=1e-6)
    assert not star[outside].any()
    same = methods.c_mwp_star(model, PARAMS, X, prior)[n]
    np.testing.assert_allclose(same, star, atol=1e-6)
    other = np.maximum(methods.cam(model, PARAMS, X, prior)[n][inside], 0)
    assert np.abs(other * star.max() / other.max() - star[inside]).max() > 1e-3


def test_cam_does_not_depend_on_where_the_signal_is() -> None:
    """With negative scores a softmax over positions times the scores points at the worst place."""
    params = {**PARAMS, "bias": PARAMS["bias"] - 20}
    for model in (sliding, positions):
        found = methods.cam(model, params, X, TARGETS, layer="features")
        for by in ("softmax", "sigmoid"):
            other = methods.cam(
                model, params, X, ej.confidence_map(TARGETS, by=by), layer="features"
            )
            np.testing.assert_allclose(found, other, rtol=1e-4, atol=1e-5)
        plain = methods.cam(model, PARAMS, X, TARGETS, layer="features")
        np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", [dense, sliding])
def test_the_layer_before_the_average_is_the_default(model: Callable) -> None:
    table = ej.layers(model, PARAMS, X)
    assert table.last.name == table.top.name == "features"
    for method in (methods.cam, methods.c_mwp_star):
        expected = method(model, PARAMS, X, TARGETS, layer="features")
        np.testing.assert_array_equal(method(model, PARAMS, X, TARGETS), expected)


def test_without_an_average_cam_is_the_score_map() -> None:
    found = methods.cam(positions, PARAMS, X, TARGETS)
    scores = positions(PARAMS, X)
    for (n, k), unit in np.ndenumerate(TARGETS):
        np.testing.assert_allclose(found[n, k], scores[n, ..., unit], rtol=1e-6)


def test_an_average_between_layers_is_a_layer_like_others() -> None:
    """Only a head's average is passed over: not one that a ReLU follows, or that leaps."""

    def before_relu(p: dict, x: jax.Array) -> jax.Array:
        return jax.nn.relu(sliding(p, x)).mean((1, 2))

    def leaping(p: dict, x: jax.Array) -> jax.Array:
        window = (1, 2, 2, 1)
        average = lax.reduce_window(features(p, x), 0.0, lax.add, window, window, "VALID")
        return conv(average, p["head"][None, None])

    assert ej.layers(before_relu, PARAMS, X).top.name != "features"
    assert ej.layers(before_relu, PARAMS, X).last.name == "features"
    assert ej.layers(leaping, PARAMS, X).last.name != "features"
