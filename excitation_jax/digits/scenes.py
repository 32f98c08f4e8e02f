"""Cluttered scenes of real handwritten digits, with a box round every digit.

The digits are the 1797 8x8 images that ship inside scikit-learn (a test set of UCI's optical
recognition of handwritten digits), so nothing is downloaded. They are divided into a train and a
test part before any scene is composed: no image of a test scene, and no fragment in its clutter,
was ever seen in training.

A scene is painted back to front: an uneven background, blobs, thin strokes and fragments of
digits, then one to four whole digits of different classes, then grain.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "test"]
Floats = NDArray[np.float32]

SIDE = 96  # pixels of a scene, each way
NUM_CLASSES = 10
MAX_DIGITS = 4
MIN_SIZE, MAX_SIZE = 20.0, 34.0  # height of a digit's frame in pixels
MAX_OVERLAP = 0.05  # of the smaller of two frames, where there is room

_GRID = 8  # pixels of a source image, each way
_TEST_FRACTION = 0.25
_PLACEMENTS = 24  # random places tried for each digit
_BLOBS, _STROKES, _FRAGMENTS = 4, 3, 8
_BLOCK = 32  # scenes painted together: few enough to stay in the cache


class Scenes(NamedTuple):
    """Scenes and what is in them.

    images: (N, 96, 96, 3) float32, RGB in [0, 1].
    labels: (N, 10) float32, 1 where a digit of the class is in the scene, else 0.
    boxes: (N, 10, 4) float32, the class's digit as x0, y0, x1, y1 in pixels, tight round its
        ink, x1 and y1 exclusive; NaN where the class is absent.
    """

    images: Floats
    labels: Floats
    boxes: Floats


class Digits(NamedTuple):
    """Source images of one split, ordered by class.

    images: (M, 8, 8) float32, ink in [0, 1].
    classes: (M,) int64 in 0..9, ascending.
    """

    images: Floats
    classes: NDArray[np.int64]


class Layer(NamedTuple):
    """Something painted in each of n scenes: ink (n, 96, 96) in [0, 1] of a colour (n, 3)."""

    ink: Floats
    colour: Floats


def make_scenes(seed: int, count: int, split: Split) -> Scenes:
    """Composes scenes; the same arguments always give the same scenes.

    Args:
        seed: a non-negative integer; the two splits give different scenes for one seed.
        count: N, the number of scenes.
        split: "train" or "test", the part of the digit images to compose from.

    Returns:
        N scenes of one to four digits each.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: `split` is neither "train" nor "test", `seed` or `count` is negative.
    """
    if seed < 0 or count < 0:
        raise ValueError(f"seed and count must not be negative, got {seed} and {count}")
    digits = load_digits(split)
    rng = np.random.default_rng([seed, split == "test"])
    scenes = Scenes(
        np.empty((count, SIDE, SIDE, 3), np.float32),
        np.zeros((count, NUM_CLASSES), np.float32),
        np.full((count, NUM_CLASSES, 4), np.nan, np.float32),
    )
    for start in range(0, count, _BLOCK):
        _paint_scenes(rng, digits, Scenes(*(field[start : start + _BLOCK] for field in scenes)))
    return scenes


@lru_cache(maxsize=2)
def load_digits(split: Split) -> Digits:
    """The digit images of one split: three quarters of every class train, the rest test.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: `split` is neither "train" nor "test".
    """
    if split not in ("train", "test"):
        raise ValueError(f'split must be "train" or "test", got {split!r}')
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            "the digit scenes are made from scikit-learn's digit images: "
            'pip install "excitation-jax[data]"'
        ) from error
    bunch = datasets.load_digits()
    # The set is ordered by writer, so the parts are drawn at random within a class.
    rng = np.random.default_rng(0)
    chosen = []
    for label in range(NUM_CLASSES):
        members = rng.permutation(np.flatnonzero(bunch.target == label))
        cut = round(len(members) * _TEST_FRACTION)
        chosen.append(members[:cut] if split == "test" else members[cut:])
    indices = np.concatenate(chosen)
    images = (bunch.images[indices] / 16).astype(np.float32)
    images.flags.writeable = False  # the cache hands the same array to every caller
    return Digits(images, bunch.target[indices].astype(np.int64))


def _paint_scenes(rng: np.random.Generator, digits: Digits, out: Scenes) -> None:
    """Fills `out`, whose labels are 0 and whose boxes are NaN, in place."""
    n = len(out.images)
    shade = rng.uniform(0.15, 0.85, (n, 1))  # the background's luminance
    layers = _clutter(rng, digits, shade)

    number = rng.integers(1, MAX_DIGITS + 1, n)
    classes = rng.permuted(np.tile(np.arange(NUM_CLASSES), (n, 1)), axis=1)[:, :MAX_DIGITS]
    frames = _place(rng, n)
    scene = np.arange(n)
    for k in range(MAX_DIGITS):
        ink = _render(digits.images[_choose(rng, digits, classes[:, k])], frames[:, k])
        present = k < number
        layers.append(Layer(ink * present[:, None, None], _colours(rng, shade, 0.3, 0.6)))
        out.labels[scene[present], classes[present, k]] = 1
        out.boxes[scene[present], classes[present, k]] = _ink_boxes(ink[present])

    grain = rng.standard_normal((n, SIDE, SIDE, 1), np.float32)
    grain *= rng.uniform(0.01, 0.05, (n, 1, 1, 1)).astype(np.float32)
    np.clip(_compose(_background(rng, shade), layers) + grain, 0, 1, out=out.images)


def _compose(background: Floats, layers: list[Layer]) -> Floats:
    """Paints layers, the rearmost first, over `background` (n, 96, 96, 3)."""
    n = len(background)
    unseen = np.ones((n, SIDE, SIDE), np.float32)  # share of each pixel that nothing covers yet
    weights = np.empty((n, len(layers), SIDE, SIDE), np.float32)
    # From the front, one multiplication a layer finds what it contributes; painting from the back
    # would blend three colour channels a layer.
    for k in reversed(range(len(layers))):
        weights[:, k] = unseen * layers[k].ink
        unseen -= weights[:, k]
    colours = np.stack([layer.colour for layer in layers], axis=1)
    painted = weights.reshape(n, len(layers), -1).swapaxes(1, 2) @ colours
    return painted.reshape(background.shape) + unseen[..., None] * background


def _background(rng: np.random.Generator, shade: NDArray) -> Floats:
    """(n, 96, 96, 3): one colour of luminance `shade` (n, 1), unevenly lit."""
    uneven = rng.uniform(-0.12, 0.12, (len(shade), 3, 4, 4)).astype(np.float32)
    smooth = _cubic(np.linspace(0, 3, SIDE)[:, None] - np.arange(4))
    light: NDArray[Any] = smooth @ uneven @ smooth.T
    return np.moveaxis(light, 1, -1) + _colours(rng, shade, 0.0, 0.1)[:, None, None, :]


def _clutter(rng: np.random.Generator, digits: Digits, shade: NDArray) -> list[Layer]:
    """Everything that is painted behind the digits of n scenes."""
    n = len(shade)
    centres = np.arange(SIDE, dtype=np.float32) + np.float32(0.5)
    layers = []

    for _ in range(_BLOBS):
        x, y = rng.uniform(0, SIDE, (2, n, 1)).astype(np.float32)
        width, height = rng.uniform(3, 16, (2, n, 1)).astype(np.float32)
        across = np.exp(-(((centres - x) / width) ** 2))
        down = np.exp(-(((centres - y) / height) ** 2))
        # Stretched past 1 and cut off, the bell becomes a disc with a soft edge.
        disc = np.minimum(1, 2 * down[:, :, None] * across[:, None, :])
        layers.append(Layer(disc, _colours(rng, shade, 0.0, 0.2)))

    for _ in range(_STROKES):
        # Thinner than a digit's strokes and mostly longer than a digit, or they would be ones.
        x, y = rng.uniform(0, SIDE, (2, n, 1, 1)).astype(np.float32)
        angle = rng.uniform(0, np.pi, (n, 1, 1)).astype(np.float32)
        half = rng.uniform(15, 50, (n, 1, 1)).astype(np.float32)
        dx, dy = centres - x, centres[:, None] - y
        along = dx * np.cos(angle) + dy * np.sin(angle)
        beside = dx * np.sin(angle) - dy * np.cos(angle)
        distance = np.hypot(np.maximum(np.abs(along) - half, 0), beside)
        layers.append(Layer(np.clip(1.4 - distance, 0, 1), _colours(rng, shade, 0.15, 0.4)))

    for k in range(_FRAGMENTS):
        images = digits.images[rng.integers(0, len(digits.images), n)]
        if k % 2:
            size = rng.uniform(3.5, 5.5, n)  # a whole digit, too small to be read
        else:
            size = rng.uniform(MIN_SIZE, MAX_SIZE, n)
            images = images * _windows(rng, n)  # a piece at a digit's own scale
        x, y = rng.uniform(-size / 2, SIDE - size / 2, (2, n))
        ink = _render(images, np.stack([x, y, x + size, y + size], axis=-1))
        layers.append(Layer(ink, _colours(rng, shade, 0.2, 0.5)))
    return layers


def _windows(rng: np.random.Generator, n: int) -> Floats:
    """(n, 8, 8) masks that keep 3 or 4 rows by 3 or 4 columns: under half of a digit each way."""
    first = rng.integers(1, _GRID - 4, (n, 2, 1))
    last = first + rng.integers(3, 5, (n, 2, 1))
    kept = (np.arange(_GRID) >= first) & (np.arange(_GRID) < last)
    return (kept[:, 0, :, None] & kept[:, 1, None, :]).astype(np.float32)


def _choose(rng: np.random.Generator, digits: Digits, classes: NDArray) -> NDArray:
    """A random image's index for each class asked for."""
    first = np.searchsorted(digits.classes, classes, "left")
    last = np.searchsorted(digits.classes, classes, "right")
    return rng.integers(first, last)


def _place(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Frames (n, 4, 4), x0, y0, x1, y1, inside the scene.

    Each takes the first of several random places that keeps clear of the earlier frames, or the
    place that overlaps them least.
    """
    frames = np.empty((n, MAX_DIGITS, 4))
    for k in range(MAX_DIGITS):
        height = rng.uniform(MIN_SIZE, MAX_SIZE, (n, 1))
        width = height * rng.uniform(0.85, 1.0, (n, 1))
        x, y = rng.uniform(0, 1, (2, n, _PLACEMENTS)) * (SIDE - np.stack([width, height]))
        tried = np.stack([x, y, x + width, y + height], axis=-1)
        overlap = _overlap(tried[:, :, None], frames[:, None, :k]).max(axis=-1, initial=0)
        best = np.maximum(overlap, MAX_OVERLAP).argmin(axis=-1)
        frames[:, k] = tried[np.arange(n), best]
    return frames


def _overlap(a: NDArray, b: NDArray) -> NDArray:
    """Area common to boxes (..., 4), as a share of the smaller one."""
    common = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    smaller = np.minimum((a[..., 2:] - a[..., :2]).prod(-1), (b[..., 2:] - b[..., :2]).prod(-1))
    return np.maximum(common, 0).prod(-1) / smaller


def _render(images: Floats, frames: NDArray) -> Floats:
    """Ink (n, 96, 96) in [0, 1] of images (n, 8, 8), each scaled into its frame (n, 4)."""
    centres = np.arange(SIDE) + 0.5
    # Interpolation is separable: one (96, 8) matrix a direction, zero outside of the frame.
    across, down = (
        _cubic(
            ((centres - frames[:, axis, None]) * _GRID)[..., None]
            / (frames[:, axis + 2] - frames[:, axis])[:, None, None]
            - 0.5
            - np.arange(_GRID)
        )
        for axis in (0, 1)
    )
    ink = down @ images @ across.swapaxes(1, 2)
    # An 8x8 image blown up is a blur; the steeper slope gives strokes with edges.
    return np.clip(2 * ink - 0.5, 0, 1)


def _cubic(distance: NDArray) -> Floats:
    """Catmull-Rom interpolation weights at a distance in source pixels."""
    d = np.abs(distance).astype(np.float32)
    near = (1.5 * d - 2.5) * d * d + 1
    far = ((-0.5 * d + 2.5) * d - 4) * d + 2
    return np.where(d < 1, near, np.where(d < 2, far, np.float32(0)))


def _ink_boxes(ink: Floats) -> NDArray:
    """Boxes (n, 4), x0, y0, x1, y1, tight round ink (n, 96, 96)."""
    inked = ink > 0.5
    columns, rows = inked.max(axis=1), inked.max(axis=2)
    x0, y0 = columns.argmax(1), rows.argmax(1)
    x1, y1 = SIDE - columns[:, ::-1].argmax(1), SIDE - rows[:, ::-1].argmax(1)
    return np.stack([x0, y0, x1, y1], axis=-1)


def _colours(rng: np.random.Generator, shade: NDArray, nearest: float, farthest: float) -> Floats:
    """Colours (n, 3) whose luminance differs from `shade` (n, 1) by nearest..farthest.

    Lighter or darker at random, where both stay within [0, 1]; else the one that does.
    """
    step = rng.uniform(nearest, farthest, shade.shape)
    lighter = rng.random(shade.shape) < 0.5
    lighter = np.where(shade + step > 1, False, np.where(shade - step < 0, True, lighter))
    tint = rng.uniform(-0.15, 0.15, (len(shade), 3))
    return np.clip(shade + np.where(lighter, step, -step) + tint, 0, 1).astype(np.float32)
