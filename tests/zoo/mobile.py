"""MobileNet v1, v2, v3 and EfficientNet, in Flax Linen."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax

from .entry import CLASSES, Entry, image, linen
from .residual import SqueezeExcite

BatchNorm = partial(nn.BatchNorm, use_running_average=True, epsilon=1e-3)
Activation = Callable[[jax.Array], jax.Array]


class ConvNorm(nn.Module):
    """A convolution without bias, its norm, an activation."""

    features: int
    kernel: int = 1
    stride: int = 1
    depthwise: bool = False
    activation: Activation | None = nn.relu6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        groups = x.shape[-1] if self.depthwise else 1
        size = (self.kernel, self.kernel)
        x = nn.Conv(
            self.features, size, self.stride, feature_group_count=groups, use_bias=False
        )(x)  # fmt: skip
        x = BatchNorm()(x)
        return x if self.activation is None else self.activation(x)


class MobileNetV1(nn.Module):
    """Howard et al. 2017: depthwise 3x3 and 1x1 convolutions in turn."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = ConvNorm(8, 3, 2, name="stem")(x)
        for i, (features, stride) in enumerate(((16, 1), (16, 2), (32, 1)), start=1):
            x = ConvNorm(x.shape[-1], 3, stride, depthwise=True, name=f"depthwise{i}")(x)
            x = ConvNorm(features, name=f"pointwise{i}")(x)
        return nn.Dense(CLASSES, name="head")(x.mean((1, 2)))


class InvertedResidual(nn.Module):
    """Sandler et al. 2018, v2; with an SE gate and another activation, Howard et al. 2019, v3.

    The gate is v3's: a hard sigmoid behind ReLU, between the depthwise convolution and the
    linear bottleneck. EfficientNet's (Tan and Le 2019) differs in both functions and in the
    width, a quarter of the block's input.
    """

    expanded: int
    features: int
    stride: int = 1
    kernel: int = 3
    activation: Activation = nn.relu6
    squeezed: int = 0
    squeeze_activation: Activation = nn.relu
    gate: Activation = nn.hard_sigmoid

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = ConvNorm(self.expanded, activation=self.activation, name="expand")(x)
        y = ConvNorm(
            self.expanded, self.kernel, self.stride, depthwise=True, activation=self.activation,
            name="depthwise",
        )(y)  # fmt: skip
        if self.squeezed:
            y = SqueezeExcite(self.squeezed, self.squeeze_activation, self.gate, name="se")(y)
        y = ConvNorm(self.features, activation=None, name="project")(y)
        return x + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """Linear bottlenecks with ReLU6."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = ConvNorm(8, 3, 2, name="stem")(x)
        x = InvertedResidual(32, 8, name="block1")(x)
        x = InvertedResidual(32, 12, 2, name="block2")(x)
        x = InvertedResidual(48, 12, name="block3")(x)
        x = ConvNorm(32, name="top")(x)
        return nn.Dense(CLASSES, name="head")(x.mean((1, 2)))


class MobileNetV3(nn.Module):
    """hard-swish, SE gates, and the classifier that pools before its hidden layer."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        swish = partial(InvertedResidual, activation=nn.hard_swish)
        x = ConvNorm(8, 3, 2, activation=nn.hard_swish, name="stem")(x)
        x = InvertedResidual(16, 8, squeezed=4, activation=nn.relu, name="block1")(x)
        x = swish(32, 12, 2, kernel=5, squeezed=8, name="block2")(x)
        x = swish(48, 12, kernel=5, squeezed=12, name="block3")(x)
        x = ConvNorm(32, activation=nn.hard_swish, name="top")(x)
        x = nn.hard_swish(nn.Dense(32, name="hidden")(x.mean((1, 2))))
        return nn.Dense(CLASSES, name="head")(x)


class EfficientNet(nn.Module):
    """MBConv blocks: SiLU throughout, SE gates with a sigmoid; the first block is not expanded."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        block = partial(
            InvertedResidual, activation=nn.silu, squeeze_activation=nn.silu, gate=nn.sigmoid
        )
        x = ConvNorm(8, 3, 2, activation=nn.silu, name="stem")(x)
        y = ConvNorm(8, 3, depthwise=True, activation=nn.silu, name="block1_depthwise")(x)
        y = SqueezeExcite(2, nn.silu, name="block1_se")(y)
        x = ConvNorm(8, activation=None, name="block1_project")(y)
        x = block(32, 12, 2, kernel=5, squeezed=2, name="block2")(x)
        x = block(48, 12, kernel=3, squeezed=3, name="block3")(x)
        x = ConvNorm(32, activation=nn.silu, name="top")(x)
        x = nn.Dropout(0.2, deterministic=True)(x.mean((1, 2)))
        return nn.Dense(CLASSES, name="head")(x)


BLOCKS = ("block3", "block2", "stem")
ENTRIES = [
    Entry(
        "mobilenet_v1",
        lambda: linen(MobileNetV1(), image()),
        ("pointwise3", "depthwise3", "pointwise2", "depthwise2", "pointwise1", "stem"),
    ),
    Entry("mobilenet_v2", lambda: linen(MobileNetV2(), image()), ("top", *BLOCKS)),
    Entry("mobilenet_v3", lambda: linen(MobileNetV3(), image()), ("hidden", "top", *BLOCKS)),
    Entry("efficientnet", lambda: linen(EfficientNet(), image()), ("top", *BLOCKS)),
]
