"""MobileNet v1 [Howard et al. 2017] at inference, in Flax Linen.

    from excitation_jax.models import mobilenet_v1

    model = mobilenet_v1.MobileNetV1(width=0.25)
    variables = mobilenet_v1.load_npz("mobilenet_v1_025_224.npz", width=0.25)
    logits = model.apply(variables, mobilenet_v1.PREPROCESSING(PIL.Image.open("cat.jpg")))

Layers are read by their module paths: conv1, conv1_bn, conv_dw_1 (depthwise), conv_dw_1_bn,
conv_pw_1 (pointwise), conv_pw_1_bn, ..., conv_pw_13_bn (all before their ReLU6), conv_preds. The
activations are relu6, relu6#2, ... in the order in which they are computed.
"""

from __future__ import annotations

import os
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from . import weights
from .heads import classify
from .preprocessing import symmetric_rgb

# (channels, stride of the depthwise convolution) of blocks 1 to 13, Table 1 of the paper.
_BLOCKS = (
    (64, 1),
    *((128, 2), (128, 1)),
    *((256, 2), (256, 1)),
    *((512, 2), *((512, 1),) * 5),
    *((1024, 2), (1024, 1)),
)

#: The central 224x224 of the picture with a shorter side of 256, RGB / 127.5 - 1.
PREPROCESSING = symmetric_rgb()


class MobileNetV1(nn.Module):
    """MobileNet v1 at inference: (N, 224, 224, 3) RGB in [-1, 1] -> (N, num_classes) logits.

    Other heights and widths work too: the last pooling is over all positions.

    Attributes:
        num_classes: number of logits; None leaves the classifier out and returns the pooled
            features (N, 1024 width).
        fully_convolutional: scores at each position (N, h, w, num_classes) instead of logits;
            see `heads.classify`.
        average_window: of the fully convolutional form; see `heads.classify`.
        width: multiplies the number of channels of every layer; the paper has 1, 0.75, 0.5 and
            0.25.
    """

    num_classes: int | None = 1000
    fully_convolutional: bool = False
    width: float = 1.0
    average_window: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits, scores or features of the images `x`, made by `PREPROCESSING`."""

        def convolution(
            x: jax.Array, channels: int, window: int, stride: int, groups: int, name: str
        ) -> jax.Array:
            # Flax's default padding is TensorFlow's 'SAME', which the weights were trained with.
            x = nn.Conv(
                channels,
                (window, window),
                stride,
                feature_group_count=groups,
                use_bias=False,
                name=name,
            )(x)
            x = nn.BatchNorm(use_running_average=True, epsilon=1e-3, name=f"{name}_bn")(x)
            return nn.relu6(x)

        x = convolution(x, int(32 * self.width), 3, 2, 1, "conv1")
        for i, (channels, stride) in enumerate(_BLOCKS, 1):
            width = x.shape[-1]
            x = convolution(x, width, 3, stride, width, f"conv_dw_{i}")
            x = convolution(x, int(channels * self.width), 1, 1, 1, f"conv_pw_{i}")
        return classify(
            x, self.num_classes, self.fully_convolutional, "conv_preds", self.average_window
        )


def load_npz(path: str | os.PathLike[str], width: float = 0.25) -> dict[str, Any]:
    """Variables {'params': ..., 'batch_stats': ...} of `MobileNetV1(width=width)` from .npz.

    Args:
        path: holds float32 arrays "conv1/kernel" (HWIO, depthwise ones (3, 3, 1, C)),
            "conv1_bn/scale", "conv1_bn/bias", "conv1_bn/mean", "conv1_bn/var", ...,
            "conv_preds/kernel" as a 1x1 convolution, "conv_preds/bias".
        width: of the network that the file is for.

    Raises:
        FileNotFoundError, ValueError: see `weights.load_npz`.
    """
    model = MobileNetV1(width=width)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3))))
    expected = traverse_util.flatten_dict(shapes, sep="/")
    # "batch_stats/conv1_bn/mean" is "conv1_bn/mean" in the file.
    stored = {}
    for place, leaf in expected.items():
        shape = leaf.shape if len(leaf.shape) != 2 else (1, 1, *leaf.shape)
        stored[place.split("/", 1)[1]] = jax.ShapeDtypeStruct(shape, leaf.dtype)
    loaded = weights.load_npz(path, stored)
    return traverse_util.unflatten_dict(
        {
            place: loaded[place.split("/", 1)[1]].reshape(leaf.shape)
            for place, leaf in expected.items()
        },
        sep="/",
    )
