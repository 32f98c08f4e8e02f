"""CNN-S [Chatfield et al. 2014, Table 1] as its Caffe release computes it, in Flax Linen.

    from excitation_jax.models import cnn_s

    model = cnn_s.CNNS()
    logits = model.apply(variables, x)      # x: (N, 224, 224, 3) BGR, minus the mean

Layers are read by their module paths: conv1, norm1, pool1, conv2, pool2, conv3, conv4, conv5,
pool5, fc6, fc7, fc8. conv1 to conv5, fc6 and fc7 are read before their ReLU, which changes
no probability. conv5 has a stride of 12 and is the papers' attention layer.
"""

from __future__ import annotations

import flax.linen as nn
import jax

from .heads import Dense
from .pooling import LocalResponseNorm, MaxPool


class CNNS(nn.Module):
    """CNN-S at inference: (N, 224, 224, 3) BGR minus mean -> (N, num_classes) logits.

    Dropout, which is off at inference, is left out.

    Attributes:
        num_classes: number of logits; None leaves fc8 out and returns the activations of fc7
            (N, 4096).
        fully_convolutional: fc6 to fc8 become convolutions, images of any size from 211x211 on
            give (N, h, w, num_classes) scores, one for each 6x6 window of pool5.
        width: multiplies the number of channels of every hidden layer.

    Raises:
        ValueError: a dense network and an image that does not leave 6x6 positions in pool5.
    """

    num_classes: int | None = 1000
    fully_convolutional: bool = False
    width: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits, scores or features of the images `x`."""

        def wide(channels: int) -> int:
            return max(1, round(channels * self.width))

        def convolution(x: jax.Array, channels: int, window: int, name: str) -> jax.Array:
            # Only the 3x3 convolutions are padded.
            padding = 1 if window == 3 else 0
            convolve = nn.Conv(wide(channels), (window, window), padding=padding, name=name)
            return nn.relu(convolve(x))

        x = nn.relu(nn.Conv(wide(96), (7, 7), 2, padding="VALID", name="conv1")(x))
        x = LocalResponseNorm(alpha=5e-4, k=2.0, name="norm1")(x)
        x = MaxPool(3, 3, name="pool1")(x)
        x = convolution(x, 256, 5, "conv2")
        x = MaxPool(2, 2, name="pool2")(x)
        x = convolution(x, 512, 3, "conv3")
        x = convolution(x, 512, 3, "conv4")
        x = convolution(x, 512, 3, "conv5")
        x = MaxPool(3, 3, name="pool5")(x)
        x = nn.relu(Dense(wide(4096), (6, 6), self.fully_convolutional, name="fc6")(x))
        x = nn.relu(Dense(wide(4096), (1, 1), self.fully_convolutional, name="fc7")(x))
        if self.num_classes is None:
            return x
        return Dense(self.num_classes, (1, 1), self.fully_convolutional, name="fc8")(x)
