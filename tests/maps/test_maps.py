"""Properties of the map functions, and a comparison with SciPy and matplotlib."""

from __future__ import annotations

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from excitation_jax import maps
from excitation_jax.maps import arrays

RNG = np.random.default_rng(0)


def test_examples_in_the_docstrings():
    failed, tried = doctest.testmod(arrays)
    assert tried and not failed


@pytest.mark.parametrize("size", [(3, 5), (14, 14), (31, 64)])
def test_resize_keeps_constants_and_leading_axes(size):
    resized = maps.resize(jnp.full((2, 3, 7, 9), 0.25), size)
    assert resized.shape == (2, 3, *size)
    np.testing.assert_allclose(resized, 0.25, rtol=1e-5)


def test_resize_to_its_own_size_changes_nothing():
    values = jnp.asarray(RNG.random((2, 8, 8), dtype=np.float32))
    np.testing.assert_allclose(maps.resize(values, (8, 8)), values, atol=1e-6)


def test_resize_keeps_the_place_of_a_blob():
    rows, cols = np.mgrid[:14, :14]
    blob = np.exp(-0.5 * ((rows - 3) ** 2 + (cols - 10) ** 2) / 2.0**2)
    row, col = maps.point(maps.resize(jnp.asarray(blob), (224, 224)))
    # The centre of cell (3, 10), 16 pixels a cell.
    assert abs(int(row) - 56) <= 1 and abs(int(col) - 168) <= 1


@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.0, 2.5, 40.0])
@pytest.mark.parametrize("shape", [(12, 17), (1, 5), (2, 9, 8)])
def test_blur_conserves_mass_and_constants(sigma, shape):
    values = jnp.asarray(RNG.random(shape, dtype=np.float32))
    blurred = maps.blur(values, sigma)
    np.testing.assert_allclose(blurred.sum((-2, -1)), values.sum((-2, -1)), rtol=1e-5)
    np.testing.assert_allclose(maps.blur(jnp.ones(shape), sigma), 1.0, rtol=1e-5)
    if sigma == 0:
        np.testing.assert_array_equal(blurred, values)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0, 8.0])
def test_blur_is_scipys(sigma):
    ndimage = pytest.importorskip("scipy.ndimage")
    values = RNG.random((15, 21)).astype(np.float32)
    radius = int(np.ceil(4 * sigma))
    expected = ndimage.gaussian_filter(values, sigma, mode="reflect", radius=radius)
    np.testing.assert_allclose(maps.blur(jnp.asarray(values), sigma), expected, atol=1e-6)


@settings(deadline=None)
@given(st.integers(0, 10), st.integers(0, 6), st.floats(2**-20, 2**20, width=32))
def test_point_and_box_of_a_delta(row, col, value):
    delta = np.zeros((11, 7), np.float32)
    delta[row, col] = value
    assert tuple(map(int, maps.point(jnp.asarray(delta)))) == (row, col)
    assert maps.box(jnp.asarray(delta), 1.0).tolist() == [col, row, col + 1, row + 1]


# Small integers: their mean is exact, so no threshold is a matter of rounding.
@settings(deadline=None)
@given(
    hnp.arrays(np.float32, (6, 5), elements=st.integers(0, 64).map(float)),
    st.sampled_from([0.5, 1, 2]),
)
def test_box_is_the_extent_of_the_region(values, threshold):
    region = values > threshold * values.mean()
    rows, cols = np.nonzero(region)
    expected = [cols.min(), rows.min(), cols.max() + 1, rows.max() + 1] if region.any() else [0] * 4
    assert maps.box(jnp.asarray(values), threshold).tolist() == expected


def test_point_and_box_take_leading_axes_and_jit():
    values = jnp.asarray(RNG.random((2, 3, 6, 7)))
    row, col = jax.jit(maps.point)(values)
    corners = jax.jit(maps.box, static_argnums=1)(values, 1.5)
    assert row.shape == col.shape == (2, 3) and corners.shape == (2, 3, 4)
    np.testing.assert_array_equal(row[1, 2], maps.point(values[1, 2])[0])
    np.testing.assert_array_equal(corners[1, 2], maps.box(values[1, 2], 1.5))


@given(
    hnp.arrays(np.uint8, (5, 4, 3)),
    hnp.arrays(np.float32, (5, 4), elements=st.floats(-(2**100), 2**100, width=32)),
    st.floats(0, 1),
    st.sampled_from(["inferno", "viridis", "grey"]),
)
def test_overlay_is_bounded_and_shows_the_image_where_the_map_is_not_positive(
    image, attention, alpha, colormap
):
    painted = maps.overlay(image, attention, alpha=alpha, colormap=colormap)
    assert painted.dtype == np.uint8 and painted.shape == image.shape
    np.testing.assert_array_equal(painted[attention <= 0], image[attention <= 0])
    shift = np.abs(painted.astype(int) - image)
    assert shift.max() <= np.ceil(alpha * 255)


def test_overlay_of_floats_is_that_of_bytes():
    image = RNG.integers(0, 256, (8, 9, 3), dtype=np.uint8)
    attention = RNG.random((8, 9))
    np.testing.assert_array_equal(
        maps.overlay(image, attention), maps.overlay(image / 255.0, attention)
    )


@pytest.mark.parametrize("colormap", ["inferno", "viridis"])
def test_colours_are_matplotlibs(colormap):
    matplotlib = pytest.importorskip("matplotlib")
    ramp = np.linspace(0, 1, 256)[None]
    # Opacity grows with the map, so undo the blending with a black image.
    painted = maps.overlay(np.zeros((1, 256, 3)), ramp, alpha=1.0, colormap=colormap) / 255
    expected = matplotlib.colormaps[colormap](ramp)[..., :3] * ramp[..., None]
    np.testing.assert_allclose(painted, expected, atol=0.06)


def test_lightness_of_the_default_colours_rises():
    ramp = np.linspace(0, 1, 256)[None]
    painted = maps.overlay(np.zeros((1, 256, 3)), ramp, alpha=1.0)
    lightness = painted @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) > -0.5).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: maps.resize(jnp.ones(3), (2, 2)), "height, width"),
        (lambda: maps.resize(jnp.ones((3, 3)), (0, 2)), "positive"),
        (lambda: maps.blur(jnp.ones((3, 3)), -1.0), "negative"),
        (lambda: maps.blur(jnp.ones((3, 3)), float("nan")), "negative"),
        (lambda: maps.point(jnp.ones(3)), "height, width"),
        (lambda: maps.box(jnp.ones(3), 1.0), "height, width"),
        (lambda: maps.overlay(np.zeros((4, 4)), np.ones((4, 4))), r"\(H, W, 3\)"),
        (lambda: maps.overlay(np.zeros((4, 4, 3)), np.ones((2, 2))), "resize"),
        (lambda: maps.overlay(np.zeros((4, 4, 3)), np.full((4, 4), np.nan)), "not finite"),
        (lambda: maps.overlay(np.full((4, 4, 3), np.inf), np.ones((4, 4))), "not finite"),
        (lambda: maps.overlay(np.zeros((4, 4, 3), int), np.ones((4, 4))), "uint8 or floating"),
        (lambda: maps.overlay(np.zeros((4, 4, 3)), np.ones((4, 4)), alpha=2.0), "alpha"),
        (lambda: maps.overlay(np.zeros((4, 4, 3)), np.ones((4, 4)), colormap="jet"), "viridis"),
    ],
)
def test_bad_input_says_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
