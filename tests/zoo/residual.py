"""ResNet v1 and v2, DenseNet, Inception and squeeze-and-excitation, in Flax Linen."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from .entry import CLASSES, Entry, image, linen

BatchNorm = partial(nn.BatchNorm, use_running_average=True)
Conv3 = partial(nn.Conv, kernel_size=(3, 3), use_bias=False)
Conv1 = partial(nn.Conv, kernel_size=(1, 1), use_bias=False)


class Bottleneck(nn.Module):
    """He et al. 2016, Fig. 5 right: 1x1, 3x3, 1x1, and a projection where the shape changes."""

    width: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(BatchNorm()(Conv1(self.width)(x)))
        y = nn.relu(BatchNorm()(Conv3(self.width, strides=self.stride)(y)))
        y = BatchNorm()(Conv1(4 * self.width)(y))
        if x.shape != y.shape:
            x = Conv1(4 * self.width, strides=self.stride, name="projection")(x)
            x = BatchNorm(name="projection_norm")(x)
        return nn.relu(x + y)


class ResNetV1(nn.Module):
    """ResNet-50's layout with one or two blocks a stage."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(8, (7, 7), 2, padding=3, use_bias=False, name="stem")(x)
        x = nn.relu(BatchNorm(name="stem_norm")(x))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        x = Bottleneck(4, name="block1")(x)
        x = Bottleneck(4, name="block2")(x)
        x = Bottleneck(8, 2, name="block3")(x)
        return nn.Dense(CLASSES, name="head")(x.mean((1, 2)))


class PreActivation(nn.Module):
    """He et al. 2016b, Fig. 4(e): norm and ReLU before each convolution, the skip untouched."""

    width: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(BatchNorm()(x))
        if x.shape[-1] != self.width:
            x = Conv1(self.width, strides=self.stride, name="projection")(y)
        y = Conv3(self.width, strides=self.stride)(y)
        return x + Conv3(self.width)(nn.relu(BatchNorm()(y)))


class ResNetV2(nn.Module):
    """The pre-activation ResNet, a norm and ReLU behind the last sum."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Conv3(8, name="stem")(x)
        x = PreActivation(8, name="block1")(x)
        x = PreActivation(16, 2, name="block2")(x)
        x = PreActivation(16, name="block3")(x)
        x = nn.relu(BatchNorm(name="norm")(x))
        return nn.Dense(CLASSES, name="head")(x.mean((1, 2)))


class DenseNet(nn.Module):
    """Huang et al. 2017, DenseNet-BC: bottlenecks of 4k, concatenation, transitions that halve."""

    growth: int = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Conv3(2 * self.growth, name="stem")(x)
        for block in (1, 2):
            for layer in range(3):
                y = nn.relu(BatchNorm(name=f"block{block}_{layer}_norm1")(x))
                y = Conv1(4 * self.growth, name=f"block{block}_{layer}_conv1")(y)
                y = nn.relu(BatchNorm(name=f"block{block}_{layer}_norm2")(y))
                y = Conv3(self.growth, name=f"block{block}_{layer}_conv2")(y)
                x = jnp.concatenate([x, y], axis=-1)
            x = nn.relu(BatchNorm(name=f"norm{block}")(x))
            if block == 1:
                x = Conv1(x.shape[-1] // 2, name="transition")(x)
                x = nn.avg_pool(x, (2, 2), (2, 2))
        return nn.Dense(CLASSES, name="head")(x.mean((1, 2)))


class ConvNormRelu(nn.Module):
    """Inception's basic convolution."""

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(self.features, self.kernel, self.stride, self.padding, use_bias=False)(x)
        return nn.relu(BatchNorm(epsilon=1e-3, use_scale=False)(x))


class InceptionA(nn.Module):
    """Szegedy et al. 2016, Fig. 5: 1x1, 5x5 as two 3x3, 3x3, and an average pool's branch."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        pooled = nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)
        branches = [
            ConvNormRelu(4)(x),
            ConvNormRelu(4, (3, 3))(ConvNormRelu(4)(x)),
            ConvNormRelu(4, (3, 3))(ConvNormRelu(4, (3, 3))(ConvNormRelu(4)(x))),
            ConvNormRelu(4)(pooled),
        ]
        return jnp.concatenate(branches, axis=-1)


class Reduction(nn.Module):
    """Fig. 10: a strided branch beside a max pool."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = ConvNormRelu(8, (3, 3), 2, "VALID")(x)
        return jnp.concatenate([y, nn.max_pool(x, (3, 3), (2, 2))], axis=-1)


class InceptionC(nn.Module):
    """Fig. 7: branches that split again into 1x3 and 3x1."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = ConvNormRelu(8)(x)
        split = [ConvNormRelu(4, (1, 3))(y), ConvNormRelu(4, (3, 1))(y)]
        return jnp.concatenate([ConvNormRelu(8)(x), *split], axis=-1)


class Inception(nn.Module):
    """Inception v3 in small."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = ConvNormRelu(8, (3, 3), 2, "VALID", name="stem")(x)
        x = InceptionA(name="mixed1")(x)
        x = Reduction(name="reduction")(x)
        x = InceptionC(name="mixed2")(x)
        x = nn.Dropout(0.2, deterministic=True)(x.mean((1, 2)))
        return nn.Dense(CLASSES, name="head")(x)


class SqueezeExcite(nn.Module):
    """Hu et al. 2018: channels are scaled by what a small network says of their means."""

    reduced: int
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    gate: Callable[[jax.Array], jax.Array] = nn.sigmoid

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.mean((1, 2), keepdims=True)
        y = self.activation(nn.Conv(self.reduced, (1, 1), name="reduce")(y))
        return x * self.gate(nn.Conv(x.shape[-1], (1, 1), name="expand")(y))


class SqueezeExciteBlock(nn.Module):
    """SE-ResNet's: the gate at the end of the branch, before the sum."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(BatchNorm()(Conv3(x.shape[-1])(x)))
        y = BatchNorm()(Conv3(x.shape[-1])(y))
        return nn.relu(x + SqueezeExcite(4)(y))


class SqueezeExciteNet(nn.Module):
    """SE-ResNet in small."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(BatchNorm(name="stem_norm")(Conv3(8, strides=2, name="stem")(x)))
        x = SqueezeExciteBlock(name="block1")(x)
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = SqueezeExciteBlock(name="block2")(x)
        return nn.Dense(CLASSES, name="head")(x.mean((1, 2)))


ENTRIES = [
    Entry("resnet_v1", lambda: linen(ResNetV1(), image()), ("block3", "block2", "block1", "stem")),
    Entry("resnet_v2", lambda: linen(ResNetV2(), image()), ("norm", "block3", "block2", "stem")),
    Entry(
        "densenet",
        lambda: linen(DenseNet(), image()),
        ("norm2", "transition", "norm1", "stem"),
        slow=True,
    ),
    Entry("inception", lambda: linen(Inception(), image()), ("mixed2", "reduction", "mixed1")),
    Entry("se_resnet", lambda: linen(SqueezeExciteNet(), image()), ("block2", "block1", "stem")),
]
