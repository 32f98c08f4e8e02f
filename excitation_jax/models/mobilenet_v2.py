"""MobileNetV2 1.0 [Sandler et al. 2018] at inference, BatchNorm folded in, in Flax Linen.

    from excitation_jax.models import mobilenet_v2

    model = mobilenet_v2.MobileNetV2()
    variables = mobilenet_v2.load_npz("mobilenet_v2_100_224_int8.npz")
    logits = model.apply(variables, mobilenet_v2.preprocess(PIL.Image.open("cat.jpg")))

The same variables serve `MobileNetV2(num_classes=None)`, which returns the pooled features.

Layers are read by their module paths: stem (before its ReLU6), block0 to block16 (a block's
value is linear: its last convolution, plus the skip where it has one), inside them expand,
depthwise (both before their ReLU6) and project (block8/project), head, logits. An activation has
the path of its block: block8/relu6 is that of expand, block8/relu6#2 that of depthwise.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from . import weights
from .heads import classify
from .preprocessing import symmetric_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

# (expansion, output channels, number of blocks, stride of the first), Table 2 of the paper.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise convolution, linear 1x1 projection: the linear bottleneck.

    (N, H, W, C) -> (N, ceil(H / stride), ceil(W / stride), features). ReLU6 follows the first
    two, nothing the last. The input is added where its shape is the output's.
    """

    expansion: int
    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the block to `x`."""
        y, wide = x, x.shape[-1] * self.expansion
        if self.expansion != 1:
            y = nn.relu6(nn.Conv(wide, (1, 1), name="expand")(y))
        depthwise = nn.Conv(wide, (3, 3), self.stride, feature_group_count=wide, name="depthwise")
        y = nn.relu6(depthwise(y))
        y = nn.Conv(self.features, (1, 1), name="project")(y)
        return x + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """MobileNetV2 at inference: (N, 224, 224, 3) RGB in [-1, 1] -> (N, num_classes) logits.

    Other heights and widths work too: the last pooling is over all positions.

    Attributes:
        num_classes: number of logits; None leaves the classifier out and returns the pooled
            features (N, 1280).
        fully_convolutional: scores at each position (N, h, w, num_classes) instead of logits;
            see `heads.classify`.
        average_window: of the fully convolutional form; see `heads.classify`.
    """

    num_classes: int | None = 1000
    fully_convolutional: bool = False
    average_window: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits, scores or features of the images `x`, made by `preprocess`."""
        # Flax's default padding is TensorFlow's 'SAME', which the weights were trained with.
        x = nn.relu6(nn.Conv(32, (3, 3), 2, name="stem")(x))
        block = 0
        for expansion, features, count, stride in _STAGES:
            for i in range(count):
                first_stride = stride if i == 0 else 1
                x = InvertedResidual(expansion, features, first_stride, name=f"block{block}")(x)
                block += 1
        x = nn.relu6(nn.Conv(1280, (1, 1), name="head")(x))
        return classify(
            x, self.num_classes, self.fully_convolutional, "logits", self.average_window
        )


def preprocess(image: Image | np.ndarray, size: tuple[int, int] = (224, 224)) -> jax.Array:
    """The network's input for one picture: warped to `size` (bilinear), RGB / 127.5 - 1.

    The whole picture, as the pointing game wants it. More is recognised in the middle of a picture
    in its own shape (docs/models.md): the registry's `preprocessing`.

    Args:
        image: a PIL image, which is converted to RGB, or uint8 (H, W, 3) in RGB.
        size: (height, width) of the result. The weights were trained at 224x224.

    Returns:
        float32 (1, height, width, 3) in [-1, 1].

    Raises:
        ValueError: an array that is not uint8 (H, W, 3).
        ImportError: Pillow is not installed.
    """
    return symmetric_rgb(resize=size, crop=None, warp=True)(image)


def load_npz(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Variables {'params': ...} of `MobileNetV2()` from an .npz file of 8-bit weights.

    For another number of classes, put a {'kernel', 'bias'} of your own in place of
    ['params']['logits']. `MobileNetV2(num_classes=None)` does not look at it.

    Args:
        path: holds for each convolution an int8 "block0/project/kernel_int8" (HWIO, depthwise
            ones (3, 3, 1, C)), a float32 "block0/project/kernel_scale" for each output channel
            and a float32 "block0/project/bias"; likewise "logits", as a 1x1 convolution.

    Raises:
        FileNotFoundError, ValueError: see `weights.load_npz`.
    """
    expected = jax.eval_shape(
        lambda: MobileNetV2().init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    )
    places = traverse_util.flatten_dict(expected["params"], sep="/")
    stored: dict[str, jax.ShapeDtypeStruct] = {}
    for place, leaf in places.items():
        if place.endswith("/kernel"):
            shape = leaf.shape if len(leaf.shape) == 4 else (1, 1, *leaf.shape)
            stored[f"{place}_int8"] = jax.ShapeDtypeStruct(shape, jnp.int8)
            stored[f"{place}_scale"] = jax.ShapeDtypeStruct(shape[-1:], jnp.float32)
        else:
            stored[place] = leaf
    loaded = weights.load_npz(path, stored)
    params = {}
    for place, leaf in places.items():
        if place.endswith("/kernel"):
            kernel = loaded[f"{place}_int8"] * loaded[f"{place}_scale"]
            params[place] = kernel.reshape(leaf.shape)
        else:
            params[place] = loaded[place]
    return {"params": traverse_util.unflatten_dict(params, sep="/")}
