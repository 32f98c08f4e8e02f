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


def slow_kernel(cells: int, pixels: int, stride: float, offset: float) -> np.ndarray:
    """`maps.kernel` in loops: Keys' cubic with a = -1/2, as wide as a pixel is of cells."""
    found = np.zeros((pixels, cells))
    wide = max(1.0, 1 / abs(stride))
    for pixel in range(pixels):
        wanted = (pixel - offset) / stride
        place = min(max(wanted, 0), cells - 1)
        for cell in range(cells):
            d = abs(place - cell) / wide
            if d < 1:
                found[pixel, cell] = 1.5 * d**3 - 2.5 * d**2 + 1
            elif d < 2:
                found[pixel, cell] = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
        found[pixel] /= found[pixel].sum() * (1 + abs(wanted - place) / 1000)
    return found


@settings(max_examples=60, deadline=None)
@given(
    cells=st.integers(1, 9),
    pixels=st.integers(1, 40),
    stride=st.floats(0.2, 9) | st.floats(-9, -0.2),
    offset=st.floats(-12, 30),
)
def test_kernel_is_that_of_a_slow_loop(cells, pixels, stride, offset):
    wanted = slow_kernel(cells, pixels, stride, offset)
    found = maps.kernel(cells, pixels, stride, offset)
    np.testing.assert_allclose(found, wanted, atol=2e-4)  # offset / stride is large at times
    assert (found.sum(1) <= 1 + 1e-5).all()
    traced = jax.jit(maps.kernel, static_argnums=(0, 1))(cells, pixels, stride, offset)
    np.testing.assert_allclose(traced, found, atol=2e-4)


@pytest.mark.parametrize(("stride", "offset"), [(4.0, 3.0), (4.0, 0.0), (2.5, 7.0), (0.5, -0.25)])
def test_kernel_is_the_libraries_where_that_paints(stride, offset):
    """`jax.image.scale_and_translate` extrapolates beyond the outermost cells, and then stops."""
    cells, pixels = 9, 31
    shift = offset + 0.5 - stride / 2
    wanted = jax.image.scale_and_translate(
        jnp.eye(cells), (pixels, cells), (0,), jnp.array([stride]), jnp.array([shift]), "bicubic"
    )
    places = (np.arange(pixels) - offset) / stride
    inside = (places >= 0) & (places <= cells - 1)
    found = maps.kernel(cells, pixels, stride, offset)
    np.testing.assert_allclose(found[inside], wanted[inside], atol=1e-5)


@pytest.mark.parametrize("size", [(14, 18), (31, 64)])
def test_on_a_plain_grid_only_the_borders_differ_from_plain_resizing(size):
    values = jnp.asarray(RNG.random((2, 7, 9), dtype=np.float32))
    found = maps.resize(values, size, maps.Grid.plain((7, 9)))
    rows, columns = (-(-pixels // (2 * n)) for pixels, n in zip(size, (7, 9), strict=True))
    inner = np.s_[:, rows:-rows, columns:-columns]
    np.testing.assert_allclose(found[inner], maps.resize(values, size)[inner], atol=1e-5)


def test_a_map_of_pixels_stays_as_it_is():
    values = jnp.asarray(RNG.random((2, 7, 9), dtype=np.float32))
    found = maps.resize(values, (7, 9), maps.Grid((1, 1), (0, 0), (7, 9)))
    np.testing.assert_allclose(found, values, atol=1e-6)


def test_a_map_that_is_the_other_way_round_is_turned_back():
    values = jnp.asarray(RNG.random((7, 9), dtype=np.float32))
    there = maps.Grid((3, 3), (1, 2), (24, 30))
    back = maps.Grid((-3, 3), (1 + 6 * 3, 2), (24, 30))
    wanted = maps.resize(values, (24, 30), there)
    np.testing.assert_allclose(maps.resize(values[::-1], (24, 30), back), wanted, atol=1e-6)


def test_the_maximum_of_an_outermost_cell_lies_where_the_cell_does():
    grid = maps.Grid((4, 4), (14, 14), (40, 40))
    for cell in np.ndindex(4, 4):
        painted = maps.resize(jnp.zeros((4, 4)).at[cell].set(1.0), (40, 40), grid)
        assert [int(i) for i in maps.point(painted)] == [14 + 4 * i for i in cell]
    even = maps.resize(jnp.ones((4, 4)), (40, 40), grid)
    assert 0.99 < even.min() and even.max() < 1 + 1e-5


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.int32])
def test_painting_keeps_the_dtype_as_plain_resizing_does(dtype):
    values, grid = jnp.ones((3, 4), dtype), maps.Grid((2, 2), (0, 0), (6, 8))
    assert maps.resize(values, (6, 8), grid).dtype == maps.resize(values, (6, 8)).dtype


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
