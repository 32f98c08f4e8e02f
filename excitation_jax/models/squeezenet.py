"""SqueezeNet v1.0 [Iandola et al. 2016] as its Caffe release computes it.

    from excitation_jax.models import squeezenet

    model = squeezenet.SqueezeNet()
    variables = squeezenet.load_npz("squeezenet_v1_0.npz")
    logits = model.apply(variables, squeezenet.preprocess(PIL.Image.open("cat.jpg")))

Layers are read by their module paths: conv1 (before its ReLU), pool1, fire2, fire3, fire4,
pool4, fire5 to fire8, pool8, fire9, conv_final (the score map before its ReLU).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from . import weights

if TYPE_CHECKING:
    from PIL.Image import Image

_MEAN_BGR = (104.0, 117.0, 123.0)


class MaxPool(nn.Module):
    """A 3x3 max-pool of stride 2 whose last window may hang over the edge (Caffe rounds up).

    A module only so that its value has a path to be read by. (N, H, W, C) -> (N, h, w, C) with
    h = ceil((H - 3) / 2) + 1.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Pool `x`."""
        overhang = [(0, (size - 3) % 2) for size in x.shape[1:3]]
        pooled: jax.Array = nn.max_pool(x, (3, 3), (2, 2), overhang)
        return pooled


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
    """SqueezeNet v1.0 at inference: (N, 227, 227, 3) BGR minus mean -> (N, num_classes) logits.

    Other heights and widths work too: the last pooling is over all positions. Dropout, which is
    off at inference, is left out.
    """

    num_classes: int = 1000

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits of the images `x`, made by `preprocess`."""
        x = nn.relu(nn.Conv(96, (7, 7), 2, padding="VALID", name="conv1")(x))
        x = MaxPool(name="pool1")(x)
        x = Fire(16, 64, name="fire2")(x)
        x = Fire(16, 64, name="fire3")(x)
        x = Fire(32, 128, name="fire4")(x)
        x = MaxPool(name="pool4")(x)
        x = Fire(32, 128, name="fire5")(x)
        x = Fire(48, 192, name="fire6")(x)
        x = Fire(48, 192, name="fire7")(x)
        x = Fire(64, 256, name="fire8")(x)
        x = MaxPool(name="pool8")(x)
        x = Fire(64, 256, name="fire9")(x)
        # The padding of a 1x1 convolution is Caffe's: a border of the bias alone, which the
        # average counts.
        x = nn.relu(nn.Conv(self.num_classes, (1, 1), padding=1, name="conv_final")(x))
        return jnp.mean(x, axis=(1, 2))


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
    warped = image.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
    rgb = np.asarray(warped.crop((14, 14, 241, 241)), np.float32)
    return jnp.asarray(rgb[None, :, :, ::-1] - np.array(_MEAN_BGR, np.float32))


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
