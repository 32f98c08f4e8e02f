"""Combined maps against NumPy and against the calls written out, on a small network."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import excitation_jax as ej
from excitation_jax import combine
from excitation_jax import maps as map_functions

RNG = np.random.default_rng(0)
MEANS = [combine.arithmetic_mean, combine.geometric_mean]
HEATS = hnp.arrays(np.float32, (3, 4, 5), elements=st.floats(-1, 4, width=16))


# --- on arrays -----------------------------------------------------------------------------------


def distribution(heat):
    """A map of one layer, in float64 and by hand."""
    positive = np.maximum(np.asarray(heat, np.float64), 0)
    return positive / positive.sum() if positive.sum() > 0 else positive


@settings(deadline=None)
@given(HEATS)
def test_normalised_maps_are_distributions_or_zero(heats):
    found = combine.normalised(heats)
    for heat, one in zip(heats, found, strict=True):
        np.testing.assert_allclose(one, distribution(heat), rtol=1e-5)
    np.testing.assert_allclose(combine.normalised(found), found, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.int32])
def test_normalised_is_in_float32_at_least(dtype):
    found = combine.normalised(jnp.ones((2, 100, 100), dtype))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, 1e-4, rtol=1e-5)


def test_normalised_keeps_nan():
    assert jnp.isnan(combine.normalised(jnp.array([[1.0, jnp.nan]]))).all()


# As means of three maps of one size, so that nothing is resized.
@settings(deadline=None)
@given(HEATS)
def test_means_are_numpys(heats):
    p = np.stack([distribution(heat) for heat in heats])
    arithmetic, geometric = (mean(list(heats), (4, 5)) for mean in MEANS)
    np.testing.assert_allclose(arithmetic, p.mean(0), atol=1e-6)
    floor = combine.FLOOR / 20
    expected = np.exp(np.log(p + floor).mean(0)) - floor
    np.testing.assert_allclose(geometric, expected, atol=1e-6)
    assert (np.asarray(geometric) <= np.asarray(arithmetic) + 1e-6).all()
    again = combine.geometric_mean(list(heats[::-1]), (4, 5))
    np.testing.assert_allclose(again, geometric, atol=1e-6)


@settings(deadline=None)
@given(HEATS)
def test_the_mean_of_equal_maps_is_the_map(heats):
    for mean in MEANS:
        found = mean([heats, 2 * heats, heats / 4], (4, 5))
        np.testing.assert_allclose(found, combine.normalised(heats), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("mean", MEANS)
def test_means_resize_to_a_size(mean):
    heats = [jnp.asarray(RNG.random((2, 3, *size)), jnp.float32) for size in ((7, 7), (4, 6))]
    found = mean(heats, (14, 12))
    assert found.shape == (2, 3, 14, 12)
    same = [map_functions.resize(heat, (14, 12)) for heat in heats]
    np.testing.assert_allclose(found, mean(same, (14, 12)), rtol=1e-4)
    jitted = jax.jit(mean, static_argnums=1)(heats, (14, 12))
    np.testing.assert_allclose(jitted, found, rtol=1e-4, atol=1e-9)
    if mean is combine.arithmetic_mean:
        np.testing.assert_allclose(found.sum((-2, -1)), 1, rtol=1e-5)


def test_a_zero_in_one_layer_does_not_wipe_the_others_out():
    low, high = jnp.array([[4.0, 2.0, 0.0, 0.0]]), jnp.array([[0.0, 0.0, 0.0, 1.0]])
    found = combine.geometric_mean([low, high], (1, 4))[0]
    assert found[3] > 0 and found[0] > found[1] > found[2] == 0
    # A layer that says nothing changes no order.
    silent = combine.geometric_mean([low, jnp.zeros((1, 4))], (1, 4))[0]
    assert silent[0] > silent[1] > silent[2] == silent[3] == 0


@pytest.mark.parametrize("mean", MEANS)
def test_the_mean_of_nothing_positive_is_zero(mean):
    assert not mean([jnp.zeros((2, 2)), -jnp.ones((3, 3))], (4, 4)).any()


# --- on methods ----------------------------------------------------------------------------------


def model_fn(params, x):
    """Three convolutions at strides of 1, 2 and 4, and a classifier of their mean."""
    *kernels, head = params
    for i, (kernel, stride) in enumerate(zip(kernels, (1, 2, 2), strict=True)):
        x = jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = ej.tag(jax.nn.relu(x), f"relu{i}")
    return x.mean((1, 2)) @ head


SHAPES = [(3, 3, 3, 8), (3, 3, 8, 8), (3, 3, 8, 8), (8, 5)]
PARAMS = [RNG.standard_normal(shape).astype(np.float32) for shape in SHAPES]
X = RNG.random((2, 16, 12, 3)).astype(np.float32)
TARGETS = np.array([[1, 3], [0, 2]])
LAYERS = ["relu1", "relu2"]


def compiled(methods, **options):
    """Several methods under one jit."""
    return jax.jit(
        lambda params, x, target: [
            method(model_fn, params, x, target, **options) for method in methods
        ]
    )


def test_over_layers_is_the_mean_of_the_layers_maps():
    parts = [functools.partial(ej.attention_map, layer=layer) for layer in LAYERS]
    means = [combine.over_layers(ej.attention_map, LAYERS, mean) for mean in MEANS]
    *parts, arithmetic, geometric = compiled([*parts, *means])(PARAMS, X, TARGETS)
    assert arithmetic.shape == (2, 2, 8, 6)
    for mean, found in zip(MEANS, (arithmetic, geometric), strict=True):
        np.testing.assert_allclose(found, mean(parts, (8, 6)), rtol=1e-3, atol=1e-6)


def test_options_reach_the_method():
    method = combine.smoothed(combine.over_layers(ej.attention_map, LAYERS), 0.04)
    found = method(model_fn, PARAMS, X, 1, layer="auto", size="input", contrastive=False)
    assert found.shape == (2, 16, 12)


def test_over_flips_is_the_mean_with_the_mirror_image():
    methods = compiled([ej.attention_map, combine.over_flips(ej.attention_map)], layer="relu1")
    plain, found = methods(PARAMS, X, TARGETS)
    of_mirror_image, again = methods(PARAMS, X[:, :, ::-1], TARGETS)
    expected = (plain + of_mirror_image[..., ::-1]) / 2
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(again, found[..., ::-1], atol=1e-6)


def test_over_flips_of_images_with_channels_first():
    def rows(model_fn, params, x, target):
        return jnp.cumsum(x, axis=-1)[:, 0]

    x = jnp.ones((1, 3, 4, 5))
    found = combine.over_flips(rows, axis=-1)(None, None, x, 0)
    np.testing.assert_allclose(found, 3)  # 1 to 5, and 5 to 1


def test_over_scales_is_the_mean_of_the_scales_maps():
    def of_larger_images(model_fn, params, x, target, **options):
        larger = jax.image.resize(x, (2, 24, 18, 3), "bilinear")
        return ej.attention_map(model_fn, params, larger, target, **options)

    means = [combine.over_scales(ej.attention_map, [1, 1.5], mean=mean) for mean in MEANS]
    run = compiled([ej.attention_map, of_larger_images, *means], layer="relu1")
    *parts, arithmetic, geometric = run(PARAMS, X, TARGETS)
    assert arithmetic.shape == (2, 2, 8, 6)
    for mean, found in zip(MEANS, (arithmetic, geometric), strict=True):
        np.testing.assert_allclose(found, mean(parts, (8, 6)), rtol=1e-3, atol=1e-6)


def test_no_scale_counts_for_more_than_another():
    """A constant image has the same distribution at every scale, over more or fewer cells."""

    def distribution(model_fn, params, x, target):
        return combine.normalised(x[..., 0])

    image = jnp.ones((1, 8, 6, 1))
    method = combine.over_scales(distribution, [1, 0.5, 0.01])
    found = jax.jit(functools.partial(method, None, None))(image, 0)
    np.testing.assert_allclose(found, 1 / 48, rtol=1e-5)
    wider = functools.partial(combine.over_scales(distribution, [2, 1]), None, None)
    assert jax.eval_shape(wider, image, 0).shape == (1, 16, 12)


def test_smoothed_is_the_blurred_map():
    run = compiled([ej.attention_map, combine.smoothed(ej.attention_map, 0.25)], layer="relu1")
    plain, found = run(PARAMS, X, TARGETS)
    np.testing.assert_allclose(found, map_functions.blur(plain, 0.25 * 8), atol=1e-6)
    np.testing.assert_allclose(found.sum((-2, -1)), plain.sum((-2, -1)), rtol=1e-4)


def test_methods_nest():
    method = combine.over_layers(ej.attention_map, LAYERS)
    nested = combine.smoothed(combine.over_flips(combine.over_scales(method, [1, 2])), 0.04)
    run = compiled([nested], contrastive=False)
    (found,) = run(PARAMS, X, TARGETS)
    assert found.shape == (2, 2, 8, 6)
    assert jnp.isfinite(found).all() and (found >= 0).all() and (found.sum((-2, -1)) > 0.5).all()
    (one,) = run(PARAMS, X, 2)
    np.testing.assert_allclose(one[1], found[1, 1], rtol=1e-3, atol=1e-6)


# --- what bad input says -------------------------------------------------------------------------


def constant(model_fn, params, x, target, *, layer="auto"):
    return jnp.ones((1, 4, 4))


IMAGE = jnp.ones((1, 4, 4, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: combine.normalised(jnp.ones(3)), ValueError, r"height, width.*\(3,\)"),
        (lambda: combine.arithmetic_mean([], (2, 2)), ValueError, "no map to average"),
        (lambda: combine.geometric_mean([], (2, 2)), ValueError, "no map to average"),
        (lambda: combine.geometric_mean([IMAGE], (0, 2)), ValueError, "size must be positive"),
        (
            lambda: combine.arithmetic_mean([IMAGE, IMAGE[0]], (2, 2)),
            ValueError,
            r"share their leading axes.*\(1, 4\), \(4,\)",
        ),
        (lambda: combine.over_layers(constant, "relu1"), TypeError, "not the string 'relu1'"),
        (lambda: combine.over_layers(constant, []), ValueError, "names no layer"),
        (
            lambda: combine.over_layers(constant, LAYERS)(None, None, IMAGE, 0, layer="relu0"),
            ValueError,
            "reads the layers relu1, relu2, not 'relu0'",
        ),
        (
            lambda: combine.over_flips(constant, axis=0)(None, None, IMAGE, 0),
            ValueError,
            r"axis 0 of x is no side.*\(1, 4, 4, 3\)",
        ),
        (
            lambda: combine.over_flips(constant, axis=-4)(None, None, IMAGE, 0),
            ValueError,
            "axis -4 of x is no side",
        ),
        (
            lambda: combine.over_scales(constant, [1], axes=(2, 4))(None, None, IMAGE, 0),
            ValueError,
            "axis 4 of x is no side",
        ),
        (lambda: combine.over_scales(constant, []), ValueError, "no factor"),
        (lambda: combine.over_scales(constant, [1, 0]), ValueError, r"positive.*\(1, 0\)"),
        (lambda: combine.over_scales(constant, [math.inf]), ValueError, "finite"),
        (lambda: combine.smoothed(constant, -0.1), ValueError, "negative, got -0.1"),
        (lambda: combine.smoothed(constant, math.nan), ValueError, "got nan"),
    ],
)
def test_bad_input_says_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call()
