"""What happens to a photograph before the network sees it.

As in the papers: mirrored at its borders to a square, resized to 256, and then a random crop of the
network's input size that is flipped half of the time. All of it on uint8, so that a batch is small;
the network's own scaling of the values comes afterwards.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..data.photographs import read
from .labelled import Labelled

Pixels = NDArray[np.uint8]

_MOST_PIXELS = 100_000_000  # of a square, or a strip of an image would fill the memory


def mirror_to_square(image: Pixels) -> Pixels:
    """(H, W, C) -> (S, S, C) with S = max(H, W): the image in the middle, mirrored at its borders.

    The pixel at the border comes twice. Where the image is so long that one mirror image does not
    fill the square, mirror images of mirror images follow.

    Raises:
        ValueError: the square would have more than 10,000 x 10,000 pixels.
    """
    height, width = image.shape[:2]
    side = max(height, width)
    if side**2 > _MOST_PIXELS:
        raise ValueError(f"an image of {height} x {width} is too long to be mirrored to a square")
    above, left = (side - height) // 2, (side - width) // 2
    below, right = side - height - above, side - width - left
    return np.pad(image, ((above, below), (left, right), (0, 0)), mode="symmetric")


def resize(image: Pixels, side: int) -> Pixels:
    """(H, W, 3) -> (side, side, 3), bilinear, over as many pixels as shrink into one."""
    picture = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(picture)


def random_crop(image: Pixels, side: int, rng: np.random.Generator) -> Pixels:
    """(H, W, C) -> (side, side, C): a part of the image; all of them are equally likely.

    Raises:
        ValueError: the image is smaller than that.
    """
    height, width = _fitting(image, side)
    top, left = rng.integers(0, (height - side + 1, width - side + 1))
    return image[top : top + side, left : left + side]


def central_crop(image: Pixels, side: int) -> Pixels:
    """(H, W, C) -> (side, side, C), the middle of the image.

    Raises:
        ValueError: the image is smaller than that.
    """
    height, width = _fitting(image, side)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def random_flip(image: Pixels, rng: np.random.Generator) -> Pixels:
    """(H, W, C), left and right exchanged in half of the cases."""
    return image[:, ::-1] if rng.random() < 0.5 else image


def square(record: Labelled, side: int) -> Pixels:
    """A record's whole photograph, mirrored to a square and resized to (side, side, 3).

    Raises:
        OSError, ValueError: see `data.photographs.read` and `mirror_to_square`.
    """
    return resize(mirror_to_square(read(record.path)), side)


def augmented(record: Labelled, rng: np.random.Generator, *, side: int, resized: int) -> Pixels:
    """uint8 (side, side, 3) of a record, drawn at random: a crop of its square, perhaps flipped.

    Args:
        record: whose photograph is read.
        rng: of this record's turn alone.
        side: of the crop.
        resized: side of the square that is cropped.
    """
    image = random_flip(random_crop(square(record, resized), side, rng), rng)
    return np.ascontiguousarray(image)


def random_view(
    record: Labelled, place: int, view: int, *, seed: int, side: int, resized: int
) -> Pixels:
    """The same, drawn by a seed, the record's place in its data set and the number of the view."""
    rng = np.random.default_rng((seed, view, place))
    return augmented(record, rng, side=side, resized=resized)


def central(record: Labelled, *, side: int, resized: int) -> Pixels:
    """The same with the central crop and no flip: nothing at random. For validation."""
    return central_crop(square(record, resized), side)


def _fitting(image: Pixels, side: int) -> tuple[int, int]:
    height, width = image.shape[:2]
    if min(height, width) < side:
        raise ValueError(f"a crop of {side} does not fit into an image of {height} x {width}")
    return height, width
