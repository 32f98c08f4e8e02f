"""The residual networks for CIFAR [He et al. 2016, Sec. 4.2] at inference, in Flax Linen.

    from excitation_jax.models import cifar_resnet

    model = cifar_resnet.CifarResNet(depth=20)
    variables = cifar_resnet.load_npz("cifar10_resnet20.npz", depth=20)
    logits = model.apply(variables, cifar_resnet.preprocess(images))

Layers are read by their module paths: conv1, bn1, the blocks layer1_0, layer1_1, ... (stage,
then the block's number from 0; after the block's last ReLU), inside them conv1, bn1, conv2, bn2
(layer2_1/conv1), and linear. The stages have strides 1, 2 and 4.
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

if TYPE_CHECKING:
    from PIL.Image import Image

_MEAN_RGB = (0.485, 0.456, 0.406)
_STD_RGB = (0.229, 0.224, 0.225)


def _convolution(features: int, stride: int, name: str) -> nn.Conv:
    return nn.Conv(features, (3, 3), stride, padding=1, use_bias=False, name=name)


def _normalisation(name: str) -> nn.BatchNorm:
    return nn.BatchNorm(use_running_average=True, epsilon=1e-5, name=name)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm beside a skip without parameters ("option A").

    (N, H, W, C) -> (N, H/stride, W/stride, features). Where the shape changes, the skip takes
    every second row and column and adds features/4 zero channels on each side.
    """

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the block to `x`."""
        y = nn.relu(_normalisation("bn1")(_convolution(self.features, self.stride, "conv1")(x)))
        y = _normalisation("bn2")(_convolution(self.features, 1, "conv2")(y))
        if self.stride != 1:
            zeros = self.features // 4
            x = jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (zeros, zeros)))
        return nn.relu(y + x)


class CifarResNet(nn.Module):
    """ResNet-20, -32, ... at inference: (N, 32, 32, 3) normalised RGB -> (N, num_classes) logits.

    Other heights and widths work too: the last pooling is over all positions.

    Attributes:
        depth: number of layers with weights, 6 n + 2 for n blocks in each of three stages.
        num_classes: number of logits; None leaves the classifier out and returns the pooled
            features (N, 64).
        fully_convolutional: scores at each position (N, h, w, num_classes) instead of logits;
            see `heads.classify`.
        average_window: of the fully convolutional form; see `heads.classify`.

    Raises:
        ValueError: `depth` is not 6 n + 2.
    """

    depth: int = 20
    num_classes: int | None = 10
    fully_convolutional: bool = False
    average_window: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits, scores or features of the images `x`, made by `preprocess`."""
        blocks, rest = divmod(self.depth - 2, 6)
        if blocks < 1 or rest:
            raise ValueError(f"a CIFAR ResNet has 8, 14, 20, 26, 32, ... layers, not {self.depth}")
        x = nn.relu(_normalisation("bn1")(_convolution(16, 1, "conv1")(x)))
        for stage, features in enumerate((16, 32, 64), 1):
            for block in range(blocks):
                stride = 2 if stage > 1 and block == 0 else 1
                x = BasicBlock(features, stride, name=f"layer{stage}_{block}")(x)
        return classify(
            x, self.num_classes, self.fully_convolutional, "linear", self.average_window
        )


def preprocess(images: Image | np.ndarray) -> jax.Array:
    """The network's input: RGB in [0, 1], minus the mean and over the deviation of ImageNet's.

    Args:
        images: uint8 (H, W, 3) or (N, H, W, 3) in RGB, or a PIL image in RGB. Nothing is
            resized; the network knows objects as large as those in 32x32 images.

    Returns:
        float32 (N, H, W, 3), with N = 1 for a single image.

    Raises:
        ValueError: something else.
    """
    array = np.asarray(images)
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-1] != 3:
        raise ValueError(
            f"preprocess takes uint8 images (H, W, 3) or (N, H, W, 3) in RGB, not "
            f"{array.dtype} {array.shape}"
        )
    unit = array.reshape(-1, *array.shape[-3:]).astype(np.float32) / 255
    return jnp.asarray((unit - np.array(_MEAN_RGB, np.float32)) / np.array(_STD_RGB, np.float32))


def load_npz(path: str | os.PathLike[str], depth: int = 20) -> dict[str, Any]:
    """Variables {'params': ..., 'batch_stats': ...} of `CifarResNet(depth)` from an .npz file.

    Args:
        path: holds float32 arrays "conv1/kernel" (HWIO), "bn1/scale", "bn1/bias", "bn1/mean",
            "bn1/var", "layer1/0/conv1/kernel", ..., "linear/kernel", "linear/bias".
        depth: of the network that the file is for.

    Raises:
        FileNotFoundError, ValueError: see `weights.load_npz`.
    """
    model = CifarResNet(depth)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    # "batch_stats/layer1_0/bn1/mean" is "layer1/0/bn1/mean" in the file.
    expected = traverse_util.flatten_dict(shapes, sep="/")
    names = {place: place.split("/", 1)[1].replace("_", "/") for place in expected}
    loaded = weights.load_npz(path, {names[place]: leaf for place, leaf in expected.items()})
    return traverse_util.unflatten_dict(
        {place: loaded[name] for place, name in names.items()}, sep="/"
    )
