"""SqueezeNet v1.0 and v1.1 [Iandola et al. 2016] in Flax Linen, by default as Caffe's v1.0.

    from excitation_jax.models import squeezenet

    model = squeezenet.SqueezeNet()
    variables = squeezenet.load_npz("squeezenet_v1_0.npz")
    logits = model.apply(variables, squeezenet.preprocess(PIL.Image.open("cat.jpg")))

Layers are read by their module paths: conv1 (before its ReLU), pool1, fire2, fire3, fire4,
pool4, fire5 to fire8, pool8, fire9, conv_final (the score map before its ReLU). v1.1 has pool3 and
pool5 in place of pool4 and pool8.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from . import weights
from .pooling import MaxPool
from .preprocessing import caffe_bgr

if TYPE_CHECKING:
    from PIL.Image import Image

#: Caffe's: warp to 256x256, the central 227x227, BGR minus the mean.
PREPROCESSING = caffe_bgr((104.0, 117.0, 123.0), crop=227)


class Fire(nn.Module):
    """1x1 convolution to `squeeze` channels, then 1x1 and 3x3 side by side, `expand` each.

    (N, H, W, C) -> (N, H, W, 2 * expand); the 1x1's channels come first.
    """

    squeeze: int
    expand: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the block to `x`."""
        x = nn.relu(nn.Conv(self.squeeze, (1, 1), name="conv1x1_1")(x))
        one = nn.relu(nn.Conv(self.expand, (1, 1), name="conv1x1_2")(x))
        three = nn.relu(nn.Conv(self.expand, (3, 3), padding=1, name="conv3x3_2")(x))
        return jnp.concatenate([one, three], axis=-1)


class SqueezeNet(nn.Module):
    """SqueezeNet at inference: (N, 227, 227, 3) BGR minus mean -> (N, num_classes) logits.

    Other heights and widths work too: the last pooling is over all positions. Dropout, which is
    off at inference, is left out.

    Attributes:
        num_classes: number of logits; None leaves the classifier out and returns the pooled
            features (N, 512).
        fully_convolutional: the score map (N, h, w, num_classes) that the logits are the mean
            of, behind its ReLU; or the feature map fire9.
        version: "1.0", or "1.1", which pools earlier and has 64 3x3 filters in conv1.
        final_padding: of the last convolution, 1 in Caffe's v1.0. Caffe's v1.1 and
            torchvision's networks, which take 224x224 normalised RGB, have 0.

    Raises:
        ValueError: another version.
    """

    num_classes: int | None = 1000
    fully_convolutional: bool = False
    version: Literal["1.0", "1.1"] = "1.0"
    final_padding: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits, scores or features of the images `x`, made by `preprocess`."""
        if self.version not in ("1.0", "1.1"):
            raise ValueError(f'version must be "1.0" or "1.1", not {self.version!r}')
        channels, window, pooled = (96, 7, (4, 8)) if self.version == "1.0" else (64, 3, (3, 5))
        x = nn.relu(nn.Conv(channels, (window, window), 2, padding="VALID", name="conv1")(x))
        x = MaxPool(name="pool1")(x)
        for i, squeeze in enumerate((16, 16, 32, 32, 48, 48, 64, 64), 2):
            x = Fire(squeeze, 4 * squeeze, name=f"fire{i}")(x)
            if i in pooled:
                x = MaxPool(name=f"pool{i}")(x)
        if self.num_classes is not None:
            # Padding a 1x1 convolution, as Caffe's v1.0 does, adds a border of the bias alone,
            # which the average counts.
            padding = self.final_padding
            x = nn.Conv(self.num_classes, (1, 1), padding=padding, name="conv_final")(x)
            x = nn.relu(x)
        return x if self.fully_convolutional else jnp.mean(x, axis=(1, 2))


def preprocess(image: Image | np.ndarray) -> jax.Array:
    """The network's input for one picture.

    Warp to 256x256 (bilinear), crop the central 227x227, BGR, subtract (104, 117, 123).

    Args:
        image: a PIL image, which is converted to RGB, or uint8 (H, W, 3) in RGB.

    Returns:
        float32 (1, 227, 227, 3), BGR, in grey levels (0 to 255, minus the mean).

    Raises:
        ValueError: an array that is not uint8 (H, W, 3).
        ImportError: Pillow is not installed.
    """
    return PREPROCESSING(image)


def load_npz(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Variables {'params': ...} of `SqueezeNet()` from an .npz file.

    Args:
        path: holds float32 arrays "conv1/kernel" (HWIO), "conv1/bias",
            "fire2/conv1x1_1/kernel", ..., "conv_final/bias".

    Raises:
        FileNotFoundError, ValueError: see `weights.load_npz`.
    """
    expected = jax.eval_shape(
        lambda: SqueezeNet().init(jax.random.key(0), jnp.zeros((1, 227, 227, 3)))
    )
    return {"params": weights.load_npz(path, expected["params"])}
