"""Sums of maps in boxes and in segments, against sums over the pixels of resized maps."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pycocotools import mask as mask_api

from excitation_jax import maps
from excitation_jax.data import Example
from excitation_jax.evaluation.text import proposals, sums

box_sums, segment_sums = (
    jax.jit(function, static_argnames=("canvas", "grid"))
    for function in (sums.box_sums, sums.segment_sums)
)

CANVAS = (24, 32)
SIZE = (20, 30)
WINDOWS = [(0.0, 0.0, 30.0, 20.0), (4.0, -2.0, 26.0, 20.0)]
GRIDS = [maps.Grid((3, 2), (1, 4), (18, 16)), None]
VIEWS = list(zip(WINDOWS, GRIDS, strict=True))
EXAMPLE = Example("a", None, SIZE, ())


def painted(heat, window, grid):
    """The maps on the photograph, zero where they show nothing of it."""
    x0, y0, x1, y1 = map(int, window)
    found = np.zeros((len(heat), 24, 36))
    found[:, y0 + 2 : y1 + 2, x0:x1] = maps.resize(jnp.asarray(heat), (y1 - y0, x1 - x0), grid)
    return found[:, 2:22, :30]  # which left room for what lies above the photograph


def heat_of(seed=3):
    return np.random.default_rng(seed).random((2, 5, 6)).astype(np.float32)


@pytest.mark.parametrize(("window", "grid"), VIEWS)
def test_sums_in_boxes_are_those_of_pixels_whose_centres_lie_in_them(window, grid):
    rng, heat = np.random.default_rng(4), heat_of()
    low = rng.uniform(0, [20, 12], (40, 2))
    boxes = np.concatenate([low, low + rng.uniform(1, [10, 8], (40, 2))], axis=1)
    boxes[:20] = boxes[:20].round()
    boxes = boxes.astype(np.float32)
    found = box_sums(
        jnp.asarray(heat), jnp.asarray(boxes), jnp.asarray(window), canvas=CANVAS, grid=grid
    )
    spread = painted(heat, window, grid)
    for q in range(2):
        for r, (left, top, right, bottom) in enumerate(boxes.tolist()):
            total = math.fsum(
                spread[q, row, column]
                for row in range(20)
                for column in range(30)
                if top <= row + 0.5 < bottom and left <= column + 0.5 < right
            )
            assert found[q, r] == pytest.approx(total, rel=1e-5, abs=1e-4)


@pytest.mark.parametrize(("window", "grid"), VIEWS)
def test_sums_in_segments_are_those_of_their_pixels(window, grid):
    """More of them than are unpacked at once, and some that fill up."""
    rng, heat = np.random.default_rng(5), heat_of()
    segments = rng.random((40, *SIZE)) < rng.uniform(0.01, 1, (40, 1, 1))
    segments[0] = True
    codes = []
    for own in segments:
        code = mask_api.encode(np.asfortranarray(own.astype(np.uint8)))
        codes.append({**code, "counts": code["counts"].decode()})
    made = proposals.of_boxes(np.tile([0, 0, 9, 9], (40, 1)))._replace(codes=codes)
    masks = proposals.packed([made], [EXAMPLE], 2, 45, CANVAS)
    assert masks.shape == (2, 45, 24, 4) and not masks[1].any() and not masks[0, 40:].any()
    found = segment_sums(
        jnp.asarray(heat),
        jnp.asarray(masks[0]),
        jnp.asarray(window),
        jnp.asarray(SIZE),
        canvas=CANVAS,
        grid=grid,
    )
    spread = painted(heat, window, grid)
    for q in range(2):
        for r, own in enumerate(segments):
            assert found[q, r] == pytest.approx(math.fsum(spread[q][own]), rel=1e-5, abs=1e-4)
    assert found.shape == (2, 45) and (found[:, 40:] == 0).all()


def test_a_box_is_worth_what_the_segment_of_its_pixels_is():
    heat, boxes = heat_of(), np.array([[0.0, 0, 30, 20], [2.4, 3.6, 17, 11], [7, 5, 8, 6]])
    codes = []
    for x0, y0, x1, y1 in np.round(boxes).astype(int):
        mask = np.zeros(SIZE, np.uint8)
        mask[y0:y1, x0:x1] = 1
        codes.append({"counts": mask_api.encode(np.asfortranarray(mask))["counts"].decode()})
    made = proposals.of_boxes(boxes)._replace(codes=codes)
    masks = proposals.packed([made], [EXAMPLE], 1, 3, CANVAS)[0]
    window = jnp.asarray(WINDOWS[1])
    of_boxes = box_sums(jnp.asarray(heat), jnp.asarray(boxes), window, canvas=CANVAS)
    of_segments = segment_sums(jnp.asarray(heat), masks, window, jnp.asarray(SIZE), canvas=CANVAS)
    np.testing.assert_allclose(of_boxes, of_segments, rtol=1e-5, atol=1e-5)


def test_regions_where_the_map_is_zero_are_worth_zero():
    heat = jnp.zeros((1, 6, 6)).at[0, 0, 0].set(-3.0)
    boxes = jnp.array([[0.0, 0, 6, 6], [20, 20, 30, 28], [0, 0, 0, 0], [3, 3, 3, 9]])
    found = box_sums(heat, boxes, jnp.array([0.0, 0, 30, 30]), canvas=(30, 30))
    assert found[0, 0] < 0 and found[0, 1:].tolist() == [0, 0, 0]
