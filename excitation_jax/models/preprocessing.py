"""From a picture to a network's input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

# Of ImageNet's pixels in RGB: 255 times (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225).
_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Preprocessing:
    """How a network wants its pictures: resize, crop, order the channels, (x - mean) / std.

    Attributes:
        mean, std: of each channel, in grey levels (0 to 255) and in the order of `channels`.
        resize: side that the picture is resized to (bilinear); (height, width) where the two
            differ, which needs `warp`.
        crop: side of the central square that is cut out after that; None: nothing is cut off.
        warp: True resizes to a square whatever the picture's shape; False keeps the shape, and
            `resize` is the shorter side.
        channels: order of the channels in the result.

    Raises:
        ValueError: sizes that are not positive, a crop larger than `resize`, or a picture that
            would keep its shape though nothing makes it square (`warp` False and no `crop`).
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    resize: int | tuple[int, int] = 256
    crop: int | None = 224
    warp: bool = False
    channels: Literal["RGB", "BGR"] = "RGB"

    def __post_init__(self) -> None:
        sides = self.resize if isinstance(self.resize, tuple) else (self.resize,)
        if min(sides) < 1 or (self.crop is not None and not 1 <= self.crop <= min(sides)):
            raise ValueError(
                f"resize and crop must be positive, and crop at most resize, not resize="
                f"{self.resize} and crop={self.crop}"
            )
        if not self.warp and (self.crop is None or isinstance(self.resize, tuple)):
            raise ValueError(
                f"resize={self.resize} and crop={self.crop} do not give pictures of one size: "
                "use warp=True, or a single side to resize to and a crop"
            )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the result, but for `keep_aspect`."""
        if self.crop is not None:
            return self.crop, self.crop
        return self.resize if isinstance(self.resize, tuple) else (self.resize, self.resize)

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """(low, high) of each channel of the result, (3,) each: ``x_bounds`` of `excitation_vjp`.

        >>> from excitation_jax.models import Preprocessing
        >>> low, high = Preprocessing(mean=(100, 110, 120), std=(50, 50, 50)).bounds
        >>> low.tolist(), high.tolist()
        ([-2.0, -2.2, -2.4], [3.1, 2.9, 2.7])
        """
        mean, std = np.array(self.mean), np.array(self.std)
        ends = np.sort([(0 - mean) / std, (255 - mean) / std], axis=0)
        return ends[0], ends[1]

    def __call__(self, image: Image | np.ndarray, keep_aspect: bool = False) -> jax.Array:
        """The network's input for one picture.

        Args:
            image: a PIL image, which is converted to RGB, or uint8 (H, W, 3) in RGB.
            keep_aspect: for fully convolutional networks: the whole picture in its own shape,
                the shorter side as long as that of the network's usual input.

        Returns:
            float32 (1, height, width, 3).

        Raises:
            ValueError: an array that is not uint8 (H, W, 3).
            ImportError: Pillow is not installed.
        """
        return jnp.asarray(self.on_host(image, keep_aspect)[None])

    def on_host(self, image: Image | np.ndarray, keep_aspect: bool = False) -> np.ndarray:
        """The same without JAX, for threads that decode: float32 (height, width, 3) of NumPy's."""
        picture = _as_picture(image)
        if keep_aspect:
            picture = _with_shorter_side(picture, min(self.size))
        elif self.warp:
            height, width = self.resize if isinstance(self.resize, tuple) else (self.resize,) * 2
            picture = _resized(picture, height, width)
        else:
            assert isinstance(self.resize, int)  # __post_init__ refuses a pair
            picture = _with_shorter_side(picture, self.resize)
        if self.crop is not None and not keep_aspect:
            left, top = (round((side - self.crop) / 2) for side in picture.size)
            picture = picture.crop((left, top, left + self.crop, top + self.crop))
        return self.normalise(np.asarray(picture, np.float32))

    @overload
    def normalise(self, pixels: np.ndarray) -> np.ndarray: ...

    @overload
    def normalise(self, pixels: jax.Array) -> jax.Array: ...

    def normalise(self, pixels: Any) -> Any:
        """What is left to do where pictures have the network's size: order, mean and deviation.

        Args:
            pixels: (..., 3) in RGB, grey levels of 0 to 255, of NumPy or JAX.

        Returns:
            float32 (..., 3), of NumPy or JAX as `pixels` is.

        >>> import numpy as np
        >>> from excitation_jax.models import Preprocessing
        >>> own = Preprocessing(mean=(10, 20, 30), channels="BGR")
        >>> own.normalise(np.array([[255, 128, 0]], np.uint8)).tolist()
        [[-10.0, 108.0, 225.0]]
        """
        if self.channels == "BGR":
            pixels = pixels[..., ::-1]
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        return (pixels - mean) / std

    def whole(self, size: tuple[int, int] | None = None) -> Preprocessing:
        """The same with the whole picture warped to `size` (height, width), of the input if None.

        What is at a position of the input is then at the same relative position in the picture.
        """
        return replace(self, resize=size or self.size, crop=None, warp=True)

    def window(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """The part of a picture of `size` (height, width) that its input shows: x0, y0, x1, y1.

        In the picture's pixels, x1 and y1 exclusive; fractions where it was resized.
        """
        own_height, own_width = size
        if self.crop is None:
            return 0.0, 0.0, float(own_width), float(own_height)
        if self.warp:
            height, width = self.resize if isinstance(self.resize, tuple) else (self.resize,) * 2
        else:
            assert isinstance(self.resize, int)
            width, height = _scaled((own_width, own_height), self.resize)
        left, top = (round((side - self.crop) / 2) for side in (width, height))
        right, bottom = left + self.crop, top + self.crop
        return (
            left * own_width / width,
            top * own_height / height,
            right * own_width / width,
            bottom * own_height / height,
        )

    def view(self, image: Image | np.ndarray) -> Image:
        """The part of a picture that its input shows, in the picture's own resolution."""
        picture = _as_picture(image)
        if self.crop is None:
            return picture
        left, top, right, bottom = map(round, self.window((picture.height, picture.width)))
        return picture.crop((left, top, max(right, left + 1), max(bottom, top + 1)))


def imagenet_rgb(resize: int = 256, crop: int | None = 224, warp: bool = False) -> Preprocessing:
    """torchvision's: RGB minus ImageNet's mean, over its deviation."""
    return Preprocessing(_IMAGENET_MEAN, _IMAGENET_STD, resize, crop, warp)


def symmetric_rgb(
    resize: int | tuple[int, int] = 256, crop: int | None = 224, warp: bool = False
) -> Preprocessing:
    """TensorFlow's for the MobileNets: RGB / 127.5 - 1, of 87.5 % of the picture by default."""
    return Preprocessing((127.5,) * 3, (127.5,) * 3, resize, crop, warp)


def caffe_bgr(mean: tuple[float, float, float], crop: int = 224) -> Preprocessing:
    """Caffe's: warp to 256x256, cut the centre out, BGR in grey levels minus the mean."""
    return Preprocessing(mean, crop=crop, warp=True, channels="BGR")


def _as_picture(image: Image | np.ndarray) -> Image:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("preprocess needs Pillow: pip install pillow") from error
    if not isinstance(image, Image.Image):
        array = np.asarray(image)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
            raise ValueError(
                f"preprocess takes a PIL image or a uint8 array (H, W, 3) in RGB, not "
                f"{array.dtype} {array.shape}; for several images call it on each and concatenate"
            )
        image = Image.fromarray(array)
    return image.convert("RGB")


def _with_shorter_side(picture: Image, side: int) -> Image:
    width, height = _scaled(picture.size, side)
    return _resized(picture, height, width)


def _scaled(size: tuple[int, int], side: int) -> tuple[int, int]:
    """The (width, height) of a picture whose shorter side is made that long."""
    shorter = min(size)
    width, height = (own * side // shorter for own in size)
    return width, height


def _resized(picture: Image, height: int, width: int) -> Image:
    from PIL import Image

    return picture.resize((width, height), Image.Resampling.BILINEAR)
