"""ResNet-18 and ResNet-50 [He et al. 2016] in Flax Linen.

    from excitation_jax.models import resnet

    model = resnet.ResNet(depth=50)
    logits = model.apply(variables, x)      # x: (N, 224, 224, 3)

Layers are read by their module paths: conv1, bn1, pool1, the blocks layer1_0, layer1_1, ...
(stage, then the block's number from 0; after the block's last ReLU), inside them conv1, bn1,
conv2, bn2, ... (layer2_1/conv1), and fc. The stages have strides 4, 8, 16 and 32. Caffe's
res2a, res2b, ... are layer1_0, layer1_1, ...: the papers' attention layer, res4f, is layer3_5.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax

from .heads import classify
from .pooling import MaxPool
from .tdam import TopDownAttention

Form = Literal["torchvision", "caffe"]

#: Of the last average, on 224x224 images, in positions.
WINDOW = 7
# Blocks in each of the four stages.
_STAGES = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


def _normalisation(name: str) -> nn.BatchNorm:
    return nn.BatchNorm(use_running_average=True, epsilon=1e-5, name=name)


class Block(nn.Module):
    """Convolutions with BatchNorm beside a skip: 3x3, 3x3, or as a bottleneck 1x1, 3x3, 1x1.

    (N, H, W, C) -> (N, ceil(H / stride), ceil(W / stride), channels), where a bottleneck's last
    convolution has 4 times as many channels as its others. Where the shape changes, the skip
    is a strided 1x1 convolution with BatchNorm.

    Attributes:
        channels: of the result.
        stride: of the second convolution of a bottleneck (torchvision), or of the first
            (`stride_first`, Caffe), and of the two-layer block's first.
    """

    channels: int
    stride: int
    bottleneck: bool
    stride_first: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the block to `x`."""
        if self.bottleneck:
            narrow = self.channels // 4
            first, second = (self.stride, 1) if self.stride_first else (1, self.stride)
            plan = [(narrow, 1, first), (narrow, 3, second), (self.channels, 1, 1)]
        else:
            plan = [(self.channels, 3, self.stride), (self.channels, 3, 1)]
        skip = x
        for i, (features, window, stride) in enumerate(plan, 1):
            x = nn.Conv(
                features,
                (window, window),
                stride,
                padding=window // 2,
                use_bias=False,
                name=f"conv{i}",
            )(x)
            x = _normalisation(f"bn{i}")(x)
            if i < len(plan):
                x = nn.relu(x)
        if self.stride != 1 or skip.shape[-1] != self.channels:
            project = nn.Conv(
                self.channels, (1, 1), self.stride, use_bias=False, name="downsample_0"
            )
            skip = _normalisation("downsample_1")(project(skip))
        return nn.relu(x + skip)


def _in_turn(blocks: Sequence[nn.Module], x: jax.Array) -> jax.Array:
    # A module of its own would put its name into those of the layers.
    for block in blocks:
        x = block(x)
    return x


class ResNet(nn.Module):
    """A residual network at inference: (N, 224, 224, 3) -> (N, num_classes) logits.

    Other heights and widths work too: the last pooling is over all positions.

    Attributes:
        num_classes: number of logits; None leaves the classifier out and returns the pooled
            features (N, 512 or 2048).
        fully_convolutional: scores at each position (N, h, w, num_classes) instead of logits;
            see `heads.classify`.
        average_window: of the fully convolutional form; see `heads.classify`.
        depth: 18 or 50.
        form: "torchvision" (RGB; a bottleneck's stride is in its 3x3), or for depth 50 "caffe"
            (the authors' release: BGR minus the mean; the stride is in the first 1x1, conv1 has a
            bias, pool1 is not padded and rounds its size up).

        attention_stages: the stages, of 1 to 4, that top-down attention is put around (see
            `tdam`): its parameters are attention4/... for stage 4.

    Raises:
        ValueError: another depth or form.
    """

    num_classes: int | None = 1000
    fully_convolutional: bool = False
    depth: int = 50
    form: Form = "torchvision"
    attention_stages: tuple[int, ...] = ()
    average_window: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits, scores or features of the images `x`."""
        if (self.depth, self.form) not in ((18, "torchvision"), (50, "torchvision"), (50, "caffe")):
            raise ValueError(
                f"there is no ResNet of depth {self.depth} in the form {self.form!r}: depth is 18 "
                'or 50, form "torchvision", or for depth 50 "caffe"'
            )
        caffe, bottleneck = self.form == "caffe", self.depth == 50
        x = nn.Conv(64, (7, 7), 2, padding=3, use_bias=caffe, name="conv1")(x)
        x = nn.relu(_normalisation("bn1")(x))
        x = MaxPool(padding=0 if caffe else 1, ceil=caffe, name="pool1")(x)
        for stage, blocks in enumerate(_STAGES[self.depth], 1):
            channels = 64 * 2 ** (stage - 1) * (4 if bottleneck else 1)
            group = functools.partial(
                _in_turn,
                tuple(
                    Block(
                        channels,
                        2 if stage > 1 and i == 0 else 1,
                        bottleneck,
                        caffe,
                        name=f"layer{stage}_{i}",
                    )
                    for i in range(blocks)
                ),
            )
            if stage in self.attention_stages:
                x = TopDownAttention(group, name=f"attention{stage}")(x)
            else:
                x = group(x)
        return classify(x, self.num_classes, self.fully_convolutional, "fc", self.average_window)
