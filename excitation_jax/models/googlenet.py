"""GoogLeNet [Szegedy et al. 2015] as Caffe's and torchvision's releases compute it, in Flax Linen.

    from excitation_jax.models import googlenet

    model = googlenet.GoogLeNet(form="caffe")
    logits = model.apply(variables, x)      # x: (N, 224, 224, 3) BGR, minus the mean

Layers are read by their module paths: conv1, pool1, conv2, conv3, pool2, inception3a,
inception3b, pool3, inception4a to inception4e, pool4, inception5a, inception5b, fc; Caffe's form
also has norm1 (after pool1) and norm2 (after conv3). conv2 and conv3 are Caffe's
conv2/3x3_reduce and conv2/3x3. conv1 and its like are read after their ReLU. pool2 has a stride
of 8 and is the papers' attention layer.
"""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from .heads import classify
from .pooling import LocalResponseNorm, MaxPool

Form = Literal["torchvision", "caffe"]

#: Of the last average, on 224x224 images, in positions.
WINDOW = 7
#: Roughly the size of the papers' dictionary of tags for stock photographs.
NUM_TAGS = 18000

# Channels of the branches: 1x1; 1x1 and 3x3; 1x1 and 5x5; the pool's 1x1 (Table 1 of the paper).
_BRANCHES = {
    "3a": (64, (96, 128), (16, 32), 32),
    "3b": (128, (128, 192), (32, 96), 64),
    "4a": (192, (96, 208), (16, 48), 64),
    "4b": (160, (112, 224), (24, 64), 64),
    "4c": (128, (128, 256), (24, 64), 64),
    "4d": (112, (144, 288), (32, 64), 64),
    "4e": (256, (160, 320), (32, 128), 128),
    "5a": (256, (160, 320), (32, 128), 128),
    "5b": (384, (192, 384), (48, 128), 128),
}


class Convolution(nn.Module):
    """A convolution that keeps the size (at stride 1), and ReLU.

    (N, H, W, C) -> (N, ceil(H / stride), ceil(W / stride), channels). In Caffe's form it has a
    bias, in torchvision's a BatchNorm.
    """

    channels: int
    window: int
    form: Form
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the convolution to `x`."""
        normalised = self.form == "torchvision"
        window = (self.window, self.window)
        x = nn.Conv(
            self.channels,
            window,
            self.stride,
            padding=self.window // 2,
            use_bias=not normalised,
            name="conv",
        )(x)
        if normalised:
            x = nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")(x)
        return nn.relu(x)


class Inception(nn.Module):
    """Four branches side by side, concatenated in the order 1x1, 3x3, 5x5, pool.

    (N, H, W, C) -> (N, H, W, sum of the branches' last channels). torchvision's third branch has
    a 3x3 where the paper and Caffe have a 5x5.

    Attributes:
        block: "3a" to "5b", which the numbers of channels are those of.
    """

    block: str
    form: Form

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the block to `x`."""
        first, (reduce2, second), (reduce3, third), fourth = _BRANCHES[self.block]

        def convolution(x: jax.Array, channels: int, window: int, name: str) -> jax.Array:
            return Convolution(channels, window, self.form, name=name)(x)

        one = convolution(x, first, 1, "branch1")
        two = convolution(convolution(x, reduce2, 1, "branch2_0"), second, 3, "branch2_1")
        window = 5 if self.form == "caffe" else 3
        three = convolution(convolution(x, reduce3, 1, "branch3_0"), third, window, "branch3_1")
        pooled = MaxPool(3, 1, padding=1, name="branch4_0")(x)
        four = convolution(pooled, fourth, 1, "branch4_1")
        return jnp.concatenate([one, two, three, four], axis=-1)


class GoogLeNet(nn.Module):
    """GoogLeNet at inference: (N, 224, 224, 3) -> (N, num_classes) logits.

    Other heights and widths work too: the last pooling is over all positions. The auxiliary
    classifiers and dropout, which only training uses, are left out.

    Attributes:
        num_classes: number of logits; None leaves the classifier out and returns the pooled
            features (N, 1024).
        fully_convolutional: scores at each position (N, h, w, num_classes) instead of logits;
            see `heads.classify`.
        average_window: of the fully convolutional form; see `heads.classify`.
        form: "caffe" (bvlc_googlenet: local response normalisation, BGR minus the mean) or
            "torchvision" (BatchNorm, RGB).

    Raises:
        ValueError: another form.
    """

    num_classes: int | None = 1000
    fully_convolutional: bool = False
    form: Form = "torchvision"
    average_window: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits, scores or features of the images `x`."""
        if self.form not in ("torchvision", "caffe"):
            raise ValueError(f'form must be "torchvision" or "caffe", not {self.form!r}')
        caffe = self.form == "caffe"
        x = Convolution(64, 7, self.form, 2, name="conv1")(x)
        x = MaxPool(name="pool1")(x)
        if caffe:
            x = LocalResponseNorm(name="norm1")(x)
        x = Convolution(64, 1, self.form, name="conv2")(x)
        x = Convolution(192, 3, self.form, name="conv3")(x)
        if caffe:
            x = LocalResponseNorm(name="norm2")(x)
        x = MaxPool(name="pool2")(x)
        for block in _BRANCHES:
            if block == "4a":
                x = MaxPool(name="pool3")(x)
            elif block == "5a":
                x = MaxPool(3 if caffe else 2, 2, name="pool4")(x)
            x = Inception(block, self.form, name=f"inception{block}")(x)
        return classify(x, self.num_classes, self.fully_convolutional, "fc", self.average_window)


def tag_classifier(num_tags: int | None = NUM_TAGS, fully_convolutional: bool = False) -> GoogLeNet:
    """The papers' tagger: GoogLeNet in Caffe's form, with independent tags instead of classes.

    Like every network here it returns logits, (N, num_tags); each tag's probability is their
    sigmoid. Excitation is the same from either, since a sigmoid passes probability unchanged.
    """
    return GoogLeNet(num_tags, fully_convolutional, form="caffe", average_window=WINDOW)
