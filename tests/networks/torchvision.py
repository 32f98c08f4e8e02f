"""torchvision's architectures at inference, in Flax Linen.

Inputs are (N, 224, 224, 3), outputs (N, 1000) logits, in the dtype of inputs and parameters.
Dropout is left out, BatchNorm uses its running statistics, and AlexNet's and VGG's adaptive
average pools, which are the identity at 224, are left out too.

A submodule has its PyTorch name with ``_`` before a number: ``layer3.0.conv1`` is
``layer3_0/conv1``. The values that the oracles have maps for go through ``self.tag(value, name)``
with their PyTorch name; a network returns the same whatever is put there, as long as it returns
the value.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

Tag = Callable[[jax.Array, str], jax.Array]


def untagged(x: jax.Array, name: str) -> jax.Array:
    """The default tag: the value itself."""
    del name
    return x


def max_pool(x: jax.Array, window: int, stride: int, padding: int = 0) -> jax.Array:
    """PyTorch's MaxPool2d; padded positions never win."""
    edge = (padding, padding)
    return nn.max_pool(x, (window, window), (stride, stride), (edge, edge))


def max_pool_ceil(x: jax.Array, window: int, stride: int) -> jax.Array:
    """PyTorch's MaxPool2d(ceil_mode=True): the last window may hang over the right and bottom."""
    overhang = [(0, -(size - window) % stride) for size in x.shape[1:3]]
    return nn.max_pool(x, (window, window), (stride, stride), overhang)


class AlexNet(nn.Module):
    """torchvision.models.alexnet."""

    tag: Tag = untagged

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(64, (11, 11), 4, padding=2, name="features_0")(x))
        x = self.tag(max_pool(x, 3, 2), "features.2")
        x = nn.relu(nn.Conv(192, (5, 5), padding=2, name="features_3")(x))
        x = self.tag(max_pool(x, 3, 2), "features.5")
        x = nn.relu(nn.Conv(384, (3, 3), padding=1, name="features_6")(x))
        x = nn.relu(nn.Conv(256, (3, 3), padding=1, name="features_8")(x))
        x = nn.relu(nn.Conv(256, (3, 3), padding=1, name="features_10")(x))
        x = self.tag(x, "features.11")
        x = self.tag(max_pool(x, 3, 2), "features.12")
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(4096, name="classifier_1")(x))
        x = nn.relu(nn.Dense(4096, name="classifier_4")(x))
        x = self.tag(x, "classifier.5")
        return nn.Dense(1000, name="classifier_6")(x)


class VGG16(nn.Module):
    """torchvision.models.vgg16 (without BatchNorm)."""

    tag: Tag = untagged

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        index = 0
        for channels, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(depth):
                x = nn.Conv(channels, (3, 3), padding=1, name=f"features_{index}")(x)
                x = self.tag(nn.relu(x), f"features.{index + 1}")
                index += 2
            x = self.tag(max_pool(x, 2, 2), f"features.{index}")
            index += 1
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(4096, name="classifier_0")(x))
        x = nn.relu(nn.Dense(4096, name="classifier_3")(x))
        x = self.tag(x, "classifier.4")
        return nn.Dense(1000, name="classifier_6")(x)


class Fire(nn.Module):
    """SqueezeNet's block: a 1x1 convolution to few channels, then 1x1 and 3x3 side by side."""

    squeeze: int
    expand: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(self.squeeze, (1, 1), name="squeeze")(x))
        one = nn.relu(nn.Conv(self.expand, (1, 1), name="expand1x1")(x))
        three = nn.relu(nn.Conv(self.expand, (3, 3), padding=1, name="expand3x3")(x))
        return jnp.concatenate([one, three], axis=-1)


class SqueezeNet(nn.Module):
    """torchvision.models.squeezenet1_0."""

    tag: Tag = untagged

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(96, (7, 7), 2, padding="VALID", name="features_0")(x))
        x = max_pool_ceil(x, 3, 2)
        x = Fire(16, 64, name="features_3")(x)
        x = Fire(16, 64, name="features_4")(x)
        x = Fire(32, 128, name="features_5")(x)
        x = self.tag(max_pool_ceil(x, 3, 2), "features.6")
        x = self.tag(Fire(32, 128, name="features_7")(x), "features.7")
        x = Fire(48, 192, name="features_8")(x)
        x = Fire(48, 192, name="features_9")(x)
        x = Fire(64, 256, name="features_10")(x)
        x = self.tag(max_pool_ceil(x, 3, 2), "features.11")
        x = self.tag(Fire(64, 256, name="features_12")(x), "features.12")
        # The whole Sequential has the output of its last module, under a name of its own.
        x = self.tag(x, "features")
        x = nn.relu(nn.Conv(1000, (1, 1), name="classifier_1")(x))
        return jnp.mean(x, axis=(1, 2))


class BasicConv(nn.Module):
    """GoogLeNet's convolution without bias, BatchNorm and ReLU."""

    channels: int
    window: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        window = (self.window, self.window)
        padding = self.window // 2
        x = nn.Conv(
            self.channels, window, self.stride, padding=padding, use_bias=False, name="conv"
        )(x)
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")(x))


class Inception(nn.Module):
    """GoogLeNet's block; torchvision's third branch has a 3x3 where the paper has a 5x5."""

    branch1: int
    branch2: tuple[int, int]
    branch3: tuple[int, int]
    branch4: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        first = BasicConv(self.branch1, 1, name="branch1")(x)
        second = BasicConv(self.branch2[0], 1, name="branch2_0")(x)
        second = BasicConv(self.branch2[1], 3, name="branch2_1")(second)
        third = BasicConv(self.branch3[0], 1, name="branch3_0")(x)
        third = BasicConv(self.branch3[1], 3, name="branch3_1")(third)
        fourth = BasicConv(self.branch4, 1, name="branch4_1")(max_pool(x, 3, 1, padding=1))
        return jnp.concatenate([first, second, third, fourth], axis=-1)


class GoogLeNet(nn.Module):
    """torchvision.models.googlenet without auxiliary heads and without transform_input."""

    tag: Tag = untagged

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = BasicConv(64, 7, 2, name="conv1")(x)
        x = max_pool_ceil(x, 3, 2)
        x = BasicConv(64, 1, name="conv2")(x)
        x = BasicConv(192, 3, name="conv3")(x)
        x = self.tag(max_pool_ceil(x, 3, 2), "maxpool2")
        x = Inception(64, (96, 128), (16, 32), 32, name="inception3a")(x)
        x = Inception(128, (128, 192), (32, 96), 64, name="inception3b")(x)
        x = self.tag(max_pool_ceil(x, 3, 2), "maxpool3")
        x = Inception(192, (96, 208), (16, 48), 64, name="inception4a")(x)
        x = Inception(160, (112, 224), (24, 64), 64, name="inception4b")(x)
        x = Inception(128, (128, 256), (24, 64), 64, name="inception4c")(x)
        x = Inception(112, (144, 288), (32, 64), 64, name="inception4d")(x)
        x = Inception(256, (160, 320), (32, 128), 128, name="inception4e")(x)
        x = self.tag(x, "inception4e")
        x = max_pool_ceil(x, 2, 2)
        x = Inception(256, (160, 320), (32, 128), 128, name="inception5a")(x)
        x = Inception(384, (192, 384), (48, 128), 128, name="inception5b")(x)
        x = self.tag(x, "inception5b")
        x = self.tag(jnp.mean(x, axis=(1, 2)), "avgpool")
        return nn.Dense(1000, name="fc")(x)


class ResidualBlock(nn.Module):
    """A residual block: 3x3, 3x3, or as a bottleneck 1x1, 3x3 (with the stride), 1x1 to 4x."""

    width: int
    stride: int
    bottleneck: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.bottleneck:
            channels = 4 * self.width
            plan = ((self.width, 1, 1), (self.width, 3, self.stride), (channels, 1, 1))
        else:
            channels = self.width
            plan = ((self.width, 3, self.stride), (channels, 3, 1))
        skip = x
        for number, (features, window, stride) in enumerate(plan, start=1):
            x = nn.Conv(
                features,
                (window, window),
                stride,
                padding=window // 2,
                use_bias=False,
                name=f"conv{number}",
            )(x)
            x = nn.BatchNorm(use_running_average=True, epsilon=1e-5, name=f"bn{number}")(x)
            if number < len(plan):
                x = nn.relu(x)
        if self.stride != 1 or skip.shape[-1] != channels:
            skip = nn.Conv(channels, (1, 1), self.stride, use_bias=False, name="downsample_0")(skip)
            skip = nn.BatchNorm(use_running_average=True, epsilon=1e-5, name="downsample_1")(skip)
        return nn.relu(x + skip)


class ResNet(nn.Module):
    """torchvision.models.resnet18 and resnet50; `depths` counts the blocks of layer1 to layer4."""

    depths: Sequence[int]
    bottleneck: bool
    tag: Tag = untagged

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(64, (7, 7), 2, padding=3, use_bias=False, name="conv1")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-5, name="bn1")(x))
        x = max_pool(x, 3, 2, padding=1)
        for layer, depth in enumerate(self.depths, start=1):
            for block in range(depth):
                stride = 2 if layer > 1 and block == 0 else 1
                x = ResidualBlock(
                    64 * 2 ** (layer - 1), stride, self.bottleneck, name=f"layer{layer}_{block}"
                )(x)
            x = self.tag(x, f"layer{layer}")
        x = self.tag(jnp.mean(x, axis=(1, 2)), "avgpool")
        return nn.Dense(1000, name="fc")(x)


def resnet18(tag: Tag = untagged) -> ResNet:
    return ResNet((2, 2, 2, 2), bottleneck=False, tag=tag)


def resnet50(tag: Tag = untagged) -> ResNet:
    return ResNet((3, 4, 6, 3), bottleneck=True, tag=tag)


# arch -> a function of `tag` that makes the module, by the oracles' names.
ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "alexnet": AlexNet,
    "vgg16": VGG16,
    "squeezenet1_0": SqueezeNet,
    "googlenet": GoogLeNet,
    "resnet18": resnet18,
    "resnet50": resnet50,
}
