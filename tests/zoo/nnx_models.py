"""Models in Flax NNX: as `nnx.split` gives them, a pure function of (state, x)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .entry import CLASSES, Entry, Example, Target, best, filled, image, signal, tokens
from .language import LENGTH, NEXT_WORDS, VOCABULARY

Rngs = nnx.Rngs
Conv1 = partial(nnx.Conv, kernel_size=(1, 1), use_bias=False)
Conv3 = partial(nnx.Conv, kernel_size=(3, 3), use_bias=False)


class Residual(nnx.Module):
    """The basic block of ResNet v1."""

    def __init__(self, features: int, width: int, stride: int, rngs: Rngs):
        self.conv1 = Conv3(features, width, strides=stride, rngs=rngs)
        self.norm1 = nnx.BatchNorm(width, rngs=rngs)
        self.conv2 = Conv3(width, width, rngs=rngs)
        self.norm2 = nnx.BatchNorm(width, rngs=rngs)
        self.projection = (
            None if features == width else Conv1(features, width, strides=stride, rngs=rngs)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return nnx.relu(y + (x if self.projection is None else self.projection(x)))


class ResNet(nnx.Module):
    """Stem, max pool, three blocks."""

    def __init__(self, rngs: Rngs):
        self.stem = Conv3(3, 8, strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.blocks = nnx.List(
            [Residual(8, 8, 1, rngs), Residual(8, 16, 2, rngs), Residual(16, 16, 1, rngs)]
        )
        self.head = nnx.Linear(16, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.max_pool(nnx.relu(self.norm(self.stem(x))), (2, 2), (2, 2))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


class SqueezeExcite(nnx.Module):
    """The gate of SE networks."""

    def __init__(self, features: int, reduced: int, rngs: Rngs):
        self.reduce = nnx.Linear(features, reduced, rngs=rngs)
        self.expand = nnx.Linear(reduced, features, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.reduce(x.mean((1, 2))))
        return x * nnx.sigmoid(self.expand(y))[:, None, None]


class SqueezeExciteNet(nnx.Module):
    """Convolutions, each with a gate."""

    def __init__(self, rngs: Rngs):
        self.conv1 = nnx.Conv(3, 8, (3, 3), 2, rngs=rngs)
        self.gate1 = SqueezeExcite(8, 4, rngs)
        self.conv2 = nnx.Conv(8, 16, (3, 3), 2, rngs=rngs)
        self.gate2 = SqueezeExcite(16, 4, rngs)
        self.head = nnx.Linear(16, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.gate1(nnx.relu(self.conv1(x)))
        x = self.gate2(nnx.relu(self.conv2(x)))
        return self.head(x.mean((1, 2)))


class InvertedResidual(nnx.Module):
    """MobileNetV2's block."""

    def __init__(self, features: int, expanded: int, width: int, stride: int, rngs: Rngs):
        self.expand = Conv1(features, expanded, rngs=rngs)
        self.depthwise = Conv3(
            expanded, expanded, strides=stride, feature_group_count=expanded, rngs=rngs
        )
        self.project = Conv1(expanded, width, rngs=rngs)
        self.norms = nnx.List([nnx.BatchNorm(n, rngs=rngs) for n in (expanded, expanded, width)])

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu6(self.norms[0](self.expand(x)))
        y = jax.nn.relu6(self.norms[1](self.depthwise(y)))
        y = self.norms[2](self.project(y))
        return x + y if x.shape == y.shape else y


class MobileNetV2(nnx.Module):
    """Two inverted residuals, one of them strided."""

    def __init__(self, rngs: Rngs):
        self.stem = nnx.Conv(3, 8, (3, 3), 2, rngs=rngs)
        self.block1 = InvertedResidual(8, 32, 8, 1, rngs)
        self.block2 = InvertedResidual(8, 32, 12, 2, rngs)
        self.top = nnx.Conv(12, 32, (1, 1), rngs=rngs)
        self.head = nnx.Linear(32, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.block2(self.block1(jax.nn.relu6(self.stem(x))))
        return self.head(jax.nn.relu6(self.top(x)).mean((1, 2)))


class ConvNeXtBlock(nnx.Module):
    """Depthwise 7x7, LayerNorm, an MLP with GELU, layer scale."""

    def __init__(self, features: int, rngs: Rngs):
        self.depthwise = nnx.Conv(
            features, features, (7, 7), feature_group_count=features, rngs=rngs
        )
        self.norm = nnx.LayerNorm(features, rngs=rngs)
        self.expand = nnx.Linear(features, 4 * features, rngs=rngs)
        self.reduce = nnx.Linear(4 * features, features, rngs=rngs)
        self.gamma = nnx.Param(jnp.ones((features,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.expand(self.norm(self.depthwise(x)))
        return x + self.gamma[...] * self.reduce(nnx.gelu(y))


class ConvNeXt(nnx.Module):
    """Patch stem, block, strided convolution, block."""

    def __init__(self, rngs: Rngs):
        self.stem = nnx.Conv(3, 8, (4, 4), 4, rngs=rngs)
        self.stem_norm = nnx.LayerNorm(8, rngs=rngs)
        self.block1 = ConvNeXtBlock(8, rngs)
        self.down = nnx.Conv(8, 16, (2, 2), 2, rngs=rngs)
        self.block2 = ConvNeXtBlock(16, rngs)
        self.norm = nnx.LayerNorm(16, rngs=rngs)
        self.head = nnx.Linear(16, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.block1(self.stem_norm(self.stem(x)))
        x = self.block2(self.down(x))
        return self.head(self.norm(x.mean((1, 2))))


class Block(nnx.Module):
    """A pre-norm transformer block, for ViT and the decoder."""

    def __init__(self, features: int, rngs: Rngs):
        self.norm1 = nnx.LayerNorm(features, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, features, decode=False, rngs=rngs)
        self.norm2 = nnx.LayerNorm(features, rngs=rngs)
        self.expand = nnx.Linear(features, 2 * features, rngs=rngs)
        self.reduce = nnx.Linear(2 * features, features, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        x = x + self.attention(self.norm1(x), mask=mask)
        return x + self.reduce(nnx.gelu(self.expand(self.norm2(x))))


class ViT(nnx.Module):
    """Class token, learned positions, two blocks."""

    def __init__(self, rngs: Rngs):
        self.patches = nnx.Conv(3, 16, (8, 8), 8, padding="VALID", rngs=rngs)
        self.class_token = nnx.Param(jnp.zeros((1, 1, 16)))
        self.positions = nnx.Param(jnp.zeros((1, 17, 16)))
        self.blocks = nnx.List([Block(16, rngs) for _ in range(2)])
        self.norm = nnx.LayerNorm(16, rngs=rngs)
        self.head = nnx.Linear(16, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.patches(x).reshape(x.shape[0], -1, 16)
        token = jnp.broadcast_to(self.class_token[...], (x.shape[0], 1, 16))
        x = jnp.concatenate([token, x], axis=1) + self.positions[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Gpt(nnx.Module):
    """Learned positions, two causal blocks, the head tied to the embedding."""

    def __init__(self, rngs: Rngs):
        self.embed = nnx.Embed(VOCABULARY, 16, rngs=rngs)
        self.positions = nnx.Embed(LENGTH, 16, rngs=rngs)
        self.blocks = nnx.List([Block(16, rngs) for _ in range(2)])
        self.norm = nnx.LayerNorm(16, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        mask = nnx.make_causal_mask(x)
        x = self.embed(x) + self.positions(jnp.arange(x.shape[1]))
        for block in self.blocks:
            x = block(x, mask)
        return self.embed.attend(self.norm(x))


class SequenceClassifier(nnx.Module):
    """An LSTM, a GRU behind it, and the last output's scores."""

    def __init__(self, rngs: Rngs):
        self.first = nnx.RNN(nnx.LSTMCell(8, 16, rngs=rngs))
        self.second = nnx.RNN(nnx.GRUCell(16, 16, rngs=rngs))
        self.head = nnx.Linear(16, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.second(self.first(x))[:, -1])


def nnx_model(
    build: Callable[[Rngs], nnx.Module],
    x: jax.Array,
    targets: tuple[Target, Target] = (best(0), best(1)),
) -> Example:
    """Splits a model in evaluation mode."""
    model = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    model.eval()
    graph, state = nnx.split(model)

    def model_fn(state: Any, x: jax.Array) -> jax.Array:
        return nnx.merge(graph, state)(x)

    return Example(model_fn, filled(state), x, targets)


ENTRIES = [
    Entry("nnx_resnet", lambda: nnx_model(ResNet, image())),
    Entry("nnx_se_net", lambda: nnx_model(SqueezeExciteNet, image())),
    Entry("nnx_mobilenet_v2", lambda: nnx_model(MobileNetV2, image())),
    Entry("nnx_convnext", lambda: nnx_model(ConvNeXt, image()), centred=True),
    Entry("nnx_vit", lambda: nnx_model(ViT, image())),
    Entry("nnx_gpt", lambda: nnx_model(Gpt, tokens(LENGTH, VOCABULARY), NEXT_WORDS), integers=True),
    Entry("nnx_lstm_gru", lambda: nnx_model(SequenceClassifier, signal(6, 8))),
]
