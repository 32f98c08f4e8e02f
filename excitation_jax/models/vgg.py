"""VGG16 [Simonyan and Zisserman 2015, configuration D] in Flax Linen.

    from excitation_jax.models import vgg

    model = vgg.VGG16()
    logits = model.apply(variables, x)      # x: (N, 224, 224, 3)

Caffe's and torchvision's networks are the same function of their own inputs (BGR minus the
mean; normalised RGB). Layers are read by their module paths: conv1_1, conv1_2, pool1, conv2_1,
..., conv5_3, pool5, fc6, fc7, fc8. Convolutions, fc6 and fc7 are read before their ReLU, which
changes no probability. pool4 has a stride of 16 and is the papers' attention layer.
"""

from __future__ import annotations

import flax.linen as nn
import jax

from .heads import Dense
from .pooling import MaxPool

#: (channels, number of convolutions) of the five stages.
STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


class VGG16(nn.Module):
    """VGG16 at inference: (N, 224, 224, 3) -> (N, num_classes) logits.

    Dropout, which is off at inference, is left out; so is torchvision's adaptive pooling to 7x7,
    the identity on 224x224. Sizes that 32 does not divide are pooled as Caffe does, rounding up.

    Attributes:
        num_classes: number of logits; None leaves fc8 out and returns the activations of fc7
            (N, 4096).
        fully_convolutional: fc6 to fc8 become convolutions, images of any size from 193x193 on
            give (N, h, w, num_classes) scores, one for each 7x7 window of pool5.
        width: multiplies the number of channels of every hidden layer.

    Raises:
        ValueError: a dense network and an image that does not leave 7x7 positions in pool5.
    """

    num_classes: int | None = 1000
    fully_convolutional: bool = False
    width: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits, scores or features of the images `x`."""

        def wide(channels: int) -> int:
            return max(1, round(channels * self.width))

        for stage, (channels, depth) in enumerate(STAGES, 1):
            for i in range(1, depth + 1):
                x = nn.Conv(wide(channels), (3, 3), padding=1, name=f"conv{stage}_{i}")(x)
                x = nn.relu(x)
            x = MaxPool(2, 2, name=f"pool{stage}")(x)
        x = nn.relu(Dense(wide(4096), (7, 7), self.fully_convolutional, name="fc6")(x))
        x = nn.relu(Dense(wide(4096), (1, 1), self.fully_convolutional, name="fc7")(x))
        if self.num_classes is None:
            return x
        return Dense(self.num_classes, (1, 1), self.fully_convolutional, name="fc8")(x)
