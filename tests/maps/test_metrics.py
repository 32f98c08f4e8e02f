"""The metrics of maps against plain loops over boxes, pixels and steps."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from excitation_jax import maps as map_functions
from excitation_jax import metrics

RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 5, 7  # of the maps that are drawn: one shape, so that little is compiled

# Small integers: several maxima, many zeros, negative values.
HEATS = hnp.arrays(np.float32, (HEIGHT, WIDTH), elements=st.integers(-2, 3).map(float))
REGIONS = hnp.arrays(bool, (HEIGHT, WIDTH), elements=st.sampled_from([False, False, False, True]))


def pixels(array: np.ndarray) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(array.shape[0]) for j in range(array.shape[1]))


def maximum(heat: np.ndarray) -> tuple[int, int]:
    """The first of the largest pixels, in reading order."""
    best = None
    for place in pixels(heat):
        if best is None or heat[place] > heat[best]:
            best = place
    assert best is not None
    return best


def energy(heat: np.ndarray, inside: np.ndarray) -> float:
    total = sum(max(float(heat[place]), 0) for place in pixels(heat))
    part = sum(max(float(heat[place]), 0) for place in pixels(heat) if inside[place])
    return part / total if total > 0 else 0.0


# --- pointing ------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    HEATS, REGIONS, st.sampled_from([0, 1, 1.4, math.sqrt(2), 1.5, 2, math.sqrt(5), 3, 5, 1e200])
)
def test_a_hit_is_a_pixel_of_the_region_within_the_tolerance(heat, region, tolerance):
    row, col = maximum(heat)
    hit = any(
        math.dist((row, col), place) <= tolerance for place in pixels(region) if region[place]
    )
    assert bool(metrics.pointing_game(heat, region, tolerance)) == hit


def test_the_tolerance_reaches_fifteen_pixels_and_no_further():
    region = np.zeros((40, 40), bool)
    region[10, 10] = True
    for place, hit in {(10, 25): True, (19, 22): True, (10, 26): False, (20, 22): False}.items():
        heat = np.zeros((40, 40))
        heat[place] = 1
        assert bool(metrics.pointing_game(heat, region)) == hit


@settings(deadline=None)
@given(HEATS, REGIONS)
def test_energy_is_the_share_of_what_is_positive(heat, region):
    found = float(metrics.energy_pointing_game(heat, region))
    assert found == pytest.approx(energy(heat, region), abs=1e-6)


@pytest.mark.parametrize("scale", [1e-44, 1.2e-38, 1.0, 8e37])
def test_energy_of_very_small_and_very_large_values(scale):
    heat = jnp.ones((4, 4)) * scale
    region = jnp.arange(16).reshape(4, 4) < 4
    found = float(metrics.energy_pointing_game(heat, region))
    # A denormal number may count as zero.
    assert found == pytest.approx(0.25) or (scale == 1e-44 and found == 0)


@settings(deadline=None)
@given(
    hnp.arrays(np.int32, (3, 2, 2, 2), elements=st.integers(-3, 9)),
    st.sampled_from([0.0, 0.25, 0.5, 0.75]),
)
def test_a_pixel_lies_in_a_box_where_its_centre_does(corners, shift):
    low, high = np.sort(corners, axis=-2)[..., 0, :], np.sort(corners, axis=-2)[..., 1, :]
    boxes = np.concatenate([low, high], axis=-1).astype(np.float32) + np.float32(shift)
    expected = np.zeros((3, HEIGHT, WIDTH), bool)
    for one, of_image in zip(expected, boxes, strict=True):
        for x0, y0, x1, y1 in of_image:
            for row, col in pixels(one):
                one[row, col] |= bool(x0 <= col + 0.5 < x1 and y0 <= row + 0.5 < y1)
    found = metrics.boxes_to_mask(boxes, (HEIGHT, WIDTH))
    np.testing.assert_array_equal(found, expected)
    if shift == 0:
        whole = metrics.boxes_to_mask(boxes.astype(int), (HEIGHT, WIDTH))
        np.testing.assert_array_equal(whole, expected)


def test_boxes_of_maps_and_boxes_that_fill_up_a_list():
    heat = jnp.zeros((6, 6)).at[1:3, 2:5].set(1.0)
    corners = map_functions.box(heat, threshold=1.0)
    padded = jnp.stack([corners, jnp.zeros_like(corners), jnp.array([4, 4, 4, 6])])
    np.testing.assert_array_equal(metrics.boxes_to_mask(padded, (6, 6)), heat > 0)
    assert not metrics.boxes_to_mask(jnp.zeros((2, 0, 4)), (3, 4)).any()


@pytest.mark.parametrize("cells", [(2, 2), (1, 3), (3, 2)])
@pytest.mark.parametrize("size", [(6, 6), (7, 5), (3, 4)])
def test_grid_pointing_is_a_loop_over_cells_and_pixels(cells, size):
    rows, cols = cells
    heats = RNG.integers(-3, 4, (4, rows * cols, *size)).astype(np.float32)
    hits, energies = jax.jit(metrics.grid_pointing, static_argnums=1)(heats, cells)
    assert hits.shape == energies.shape == (4, rows * cols)
    for i, j in pixels(np.empty((4, rows * cols))):
        inside = np.zeros(size, bool)
        for row, col in pixels(inside):
            # Whole numbers: half-pixels down from the top, times the cells.
            down = (2 * row + 1) * rows // (2 * size[0])
            across = (2 * col + 1) * cols // (2 * size[1])
            inside[row, col] = down * cols + across == j
        assert bool(hits[i, j]) == inside[maximum(heats[i, j])]
        assert float(energies[i, j]) == pytest.approx(energy(heats[i, j], inside), abs=1e-6)


def test_a_pixel_in_the_middle_of_a_grid_belongs_to_the_last_quarter():
    heats = jnp.zeros((4, 3, 3)).at[:, 1, 1].set(1.0)
    hits, energies = metrics.grid_pointing(heats)
    assert hits.tolist() == [False, False, False, True] and energies.tolist() == [0, 0, 0, 1]


def test_pointing_takes_leading_axes_jit_and_vmap():
    heats = RNG.standard_normal((2, 4, 9, 8)).astype(np.float32)
    regions = RNG.random((2, 4, 9, 8)) > 0.9
    boxes = np.tile(np.array([[1, 2, 4, 5], [0, 0, 2, 2]]), (2, 4, 1, 1))
    calls = [
        (functools.partial(metrics.pointing_game, tolerance=2), (heats, regions)),
        (metrics.energy_pointing_game, (heats, regions)),
        (functools.partial(metrics.boxes_to_mask, size=(9, 8)), (boxes,)),
    ]
    for function, arguments in calls:
        expected = np.asarray(function(*arguments))
        assert expected.shape[:2] == (2, 4)
        for compiled in (jax.jit(function), jax.jit(jax.vmap(jax.vmap(function)))):
            np.testing.assert_allclose(compiled(*arguments), expected, atol=1e-6)
    for found, expected in zip(
        jax.jit(jax.vmap(metrics.grid_pointing))(heats), metrics.grid_pointing(heats), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    # One region for all maps of an image.
    shared = metrics.pointing_game(heats, regions[:, :1], tolerance=2)
    repeated = np.repeat(regions[:, :1], 4, axis=1)
    np.testing.assert_array_equal(shared, metrics.pointing_game(heats, repeated, tolerance=2))


# --- insertion and deletion ----------------------------------------------------------------------


def curve(score_fn, start, end, heat, steps):
    """Scores of one image (H, W, C), its pixels replaced one after the other."""
    left = list(pixels(heat))
    image, scores = start.copy(), [float(score_fn(start[None])[0])]
    for step in range(1, steps + 1):
        while len(left) > heat.size - step * heat.size // steps:
            place = max(left, key=lambda place: heat[place])  # the first of the largest
            left.remove(place)
            image[place] = end[place]
        scores.append(float(score_fn(image[None])[0]))
    shares = [step * heat.size // steps / heat.size for step in range(steps + 1)]
    area = sum((shares[i + 1] - shares[i]) * (scores[i] + scores[i + 1]) / 2 for i in range(steps))
    return scores, area


WEIGHTS = RNG.standard_normal((4, 5, 2)).astype(np.float32)
IMAGES = RNG.random((3, 4, 5, 2)).astype(np.float32)


def score_fn(images):
    return jax.nn.sigmoid((images * WEIGHTS).sum((1, 2, 3)))


@settings(deadline=None, max_examples=30)
@given(
    hnp.arrays(np.float32, (3, 4, 5), elements=st.integers(-2, 3).map(float)),
    st.sampled_from([1, 3, 20]),
)
def test_insertion_and_deletion_are_a_loop_over_pixels(heats, steps):
    mean, channels = np.float32(0.5), np.array([0.1, 0.7], np.float32)
    result = compiled(steps)(IMAGES, heats, mean, channels)
    for i, heat in enumerate(heats):
        start, end = (np.broadcast_to(b, IMAGES[i].shape).copy() for b in (mean, channels))
        scores, area = curve(score_fn, start, IMAGES[i], heat, steps)
        np.testing.assert_allclose(result.insertion[i], scores, atol=1e-6)
        assert float(result.insertion_area[i]) == pytest.approx(area, abs=1e-6)
        scores, area = curve(score_fn, IMAGES[i], end, heat, steps)
        np.testing.assert_allclose(result.deletion[i], scores, atol=1e-6)
        assert float(result.deletion_area[i]) == pytest.approx(area, abs=1e-6)


@functools.cache
def compiled(steps):
    return jax.jit(
        lambda images, heats, insertion, deletion: metrics.insertion_deletion(
            score_fn,
            images,
            heats,
            steps=steps,
            insertion_baseline=insertion,
            deletion_baseline=deletion,
        )
    )


def test_the_baselines_are_the_blurred_image_and_zeros():
    images = RNG.random((2, 12, 9, 3)).astype(np.float32)
    heats = RNG.random((2, 12, 9))
    blurred = map_functions.blur(jnp.moveaxis(images, -1, 1), 12 * 5 / 224)

    def total(images):
        return jnp.square(images).sum((1, 2, 3))

    result = metrics.insertion_deletion(total, images, heats, steps=4)
    assert result.insertion.shape == result.deletion.shape == (2, 5)
    np.testing.assert_allclose(
        result.insertion[:, 0], jnp.square(blurred).sum((1, 2, 3)), rtol=1e-5
    )
    np.testing.assert_allclose(result.insertion[:, -1], total(images), rtol=1e-5)
    np.testing.assert_allclose(result.deletion[:, 0], total(images), rtol=1e-5)
    np.testing.assert_array_equal(result.deletion[:, -1], 0)


def test_small_maps_are_resized_to_the_images():
    heats = RNG.random((3, 2, 3)).astype(np.float32)
    run = functools.partial(metrics.insertion_deletion, score_fn, IMAGES, steps=20)
    resized = map_functions.resize(heats, (4, 5))
    for small, large in zip(run(heats), run(resized), strict=True):
        np.testing.assert_array_equal(small, large)


def test_the_best_map_of_a_sum_is_its_summands():
    """No order of pixels deletes a sum faster than from the largest summand down."""
    images = RNG.random((1, 4, 5, 1)).astype(np.float32)

    def areas(heat):
        result = metrics.insertion_deletion(
            lambda x: x.sum((1, 2, 3)), images, heat, steps=20, insertion_baseline=0.0
        )
        return float(result.insertion_area[0]), float(result.deletion_area[0])

    best, worst = areas(images[..., 0]), areas(-images[..., 0])
    other = areas(RNG.random((1, 4, 5)))
    assert best[0] > other[0] > worst[0] and best[1] < other[1] < worst[1]


def test_several_targets_by_vmap():
    kernels = RNG.standard_normal((3, 4, 5, 2)).astype(np.float32)
    heats = RNG.random((3, 2, 4, 5)).astype(np.float32)
    targets = np.array([2, 0])

    def play(heats, target):
        def score(images):
            return jnp.einsum("nhwc,khwc->nk", images, kernels)[:, target]

        return metrics.insertion_deletion(score, IMAGES, heats, steps=5)

    mapped = jax.jit(jax.vmap(play, in_axes=(1, 0)))(heats, targets)
    for k, target in enumerate(targets):
        for found, expected in zip(mapped, play(heats[:, k], target), strict=True):
            np.testing.assert_allclose(found[k], expected, atol=1e-5)


def test_memory_does_not_grow_with_the_steps():
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    heats = jax.ShapeDtypeStruct((2, 32, 32), jnp.float32)

    def temporary(steps):
        def play(images, heats):
            return metrics.insertion_deletion(
                lambda x: jnp.tanh(x).sum((1, 2, 3)), images, heats, steps=steps
            )

        return jax.jit(play).lower(images, heats).compile().memory_analysis().temp_size_in_bytes

    assert temporary(500) < temporary(5) + 2 * 32 * 32 * 3 * 4


# --- what bad input says -------------------------------------------------------------------------

HEAT, REGION = jnp.ones((4, 5)), jnp.ones((4, 5), bool)
HOLED = HEAT.at[1, 1].set(jnp.nan)


def played(images=IMAGES, heats=IMAGES[..., 0], function=score_fn, steps=5, **options):
    return metrics.insertion_deletion(function, images, heats, steps=steps, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.pointing_game(jnp.ones(3), REGION), "height, width"),
        (lambda: metrics.pointing_game(HEAT, REGION[:3]), r"\(4, 5\).*\(3, 5\).*resize"),
        (lambda: metrics.pointing_game(HEAT, HEAT), "regions must be boolean, got float32"),
        (
            lambda: metrics.pointing_game(jnp.ones((2, 4, 5)), jnp.ones((3, 4, 5), bool)),
            r"leading axes of maps \(2, 4, 5\) and regions \(3, 4, 5\)",
        ),
        (lambda: metrics.pointing_game(HEAT, REGION, -1), "tolerance .* not negative, got -1"),
        (lambda: metrics.pointing_game(HEAT, REGION, math.nan), "tolerance .* got nan"),
        (lambda: metrics.pointing_game(HEAT, REGION, math.inf), "tolerance .* got inf"),
        (lambda: metrics.pointing_game(HOLED, REGION), "maps have values that are not finite"),
        (lambda: metrics.energy_pointing_game(HOLED, REGION), "not finite"),
        (lambda: metrics.energy_pointing_game(HEAT, REGION[0]), "regions of shape"),
        (lambda: metrics.boxes_to_mask(jnp.zeros(4), (4, 5)), r"number of boxes, 4.*\(4,\)"),
        (lambda: metrics.boxes_to_mask(jnp.zeros((2, 5)), (4, 5)), r"got shape \(2, 5\)"),
        (lambda: metrics.boxes_to_mask(jnp.zeros((1, 4)), (0, 5)), "size must be positive"),
        (lambda: metrics.boxes_to_mask(jnp.array([[5, 5, 3, 9]]), (9, 9)), "x0 <= x1"),
        (lambda: metrics.boxes_to_mask(jnp.full((1, 4), jnp.nan), (9, 9)), "x0 <= x1"),
        (lambda: metrics.grid_pointing(jnp.ones((3, 4, 5))), r"\(\.\.\., 4, height, width\) for 2"),
        (lambda: metrics.grid_pointing(HEAT, (1, 1)), r"got shape \(4, 5\)"),
        (lambda: metrics.grid_pointing(HEAT[None], (0, 1)), "cells must be positive"),
        (lambda: metrics.grid_pointing(HOLED[None], (1, 1)), "not finite"),
        (lambda: played(images=IMAGES[0]), r"floating \(N, H, W, C\), got float32 \(4, 5, 2\)"),
        (lambda: played(images=IMAGES.astype(int)), "images must be floating"),
        (lambda: played(heats=IMAGES[:2, ..., 0]), r"maps must be \(3, h, w\)"),
        (lambda: played(heats=IMAGES), r"got shape \(3, 4, 5, 2\)"),
        (lambda: played(heats=IMAGES[..., 0] * np.inf), "not finite"),
        (lambda: played(steps=0), "between 1 and the 20 pixels of an image, got 0"),
        (lambda: played(steps=21), "got 21"),
        (lambda: played(function=jnp.sum), r"one score an image, \(3,\), not .*\(\)"),
        (lambda: played(function=lambda x: (x,)), "one score an image"),
        (lambda: played(insertion_baseline=np.ones(3)), r"insertion_baseline of shape \(3,\)"),
        (lambda: played(deletion_baseline=IMAGES[:2]), r"deletion_baseline of shape \(2, 4, 5, 2"),
    ],
)
def test_bad_input_says_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
