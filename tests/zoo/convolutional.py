"""ConvNeXt, U-Net, a 3-D network, normalisations and gated convolutions, in Flax Linen."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from .entry import BATCH, CLASSES, Entry, Example, image, linen, signal


class ConvNeXtBlock(nn.Module):
    """Liu et al. 2022, Fig. 4: depthwise 7x7, LayerNorm, 1x1 to 4C, GELU, 1x1, layer scale."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        y = nn.Conv(channels, (7, 7), feature_group_count=channels, name="depthwise")(x)
        y = nn.LayerNorm(epsilon=1e-6, name="norm")(y)
        y = nn.gelu(nn.Dense(4 * channels, name="expand")(y), approximate=False)
        y = nn.Dense(channels, name="reduce")(y)
        return x + self.param("gamma", nn.initializers.ones, (channels,)) * y


class ConvNeXt(nn.Module):
    """Patch stem, two stages with a norm and a 2x2 convolution between them."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.LayerNorm(name="stem_norm")(nn.Conv(8, (4, 4), 4, name="stem")(x))
        x = ConvNeXtBlock(name="block1")(x)
        x = nn.Conv(16, (2, 2), 2, name="down")(nn.LayerNorm(name="down_norm")(x))
        x = ConvNeXtBlock(name="block2")(x)
        x = ConvNeXtBlock(name="block3")(x)
        x = nn.LayerNorm(name="norm")(x.mean((1, 2)))
        return nn.Dense(CLASSES, name="head")(x)


class UNet(nn.Module):
    """Ronneberger et al. 2015: down, up by transposed convolutions, skips joined; a score map."""

    widths: tuple[int, ...] = (8, 16, 24)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def double(x: jax.Array, features: int, name: str) -> jax.Array:
            x = nn.relu(nn.Conv(features, (3, 3), name=f"{name}_conv1")(x))
            return nn.relu(nn.Conv(features, (3, 3), name=f"{name}_conv2")(x))

        skips = []
        for i, features in enumerate(self.widths[:-1]):
            x = double(x, features, f"down{i}")
            skips.append(x)
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = double(x, self.widths[-1], "bottom")
        for i, features in reversed(list(enumerate(self.widths[:-1]))):
            x = nn.ConvTranspose(features, (2, 2), (2, 2), name=f"up{i}_transposed")(x)
            x = double(jnp.concatenate([skips[i], x], axis=-1), features, f"up{i}")
        return nn.Conv(CLASSES, (1, 1), name="head")(x)


def region(shape: tuple[int, ...], rows: slice, columns: slice, channel: int) -> np.ndarray:
    """P(A0) of a rectangle of a score map (N, H, W, C), the same for all positions inside."""
    prior = np.zeros(shape, np.float32)
    prior[:, rows, columns, channel] = 1
    return prior / prior.sum(axis=(1, 2, 3), keepdims=True)


def unet() -> Example:
    shape = (BATCH, 32, 32, CLASSES)
    first = region(shape, slice(4, 12), slice(4, 12), 0)
    second = region(shape, slice(20, 30), slice(18, 24), 3)
    return linen(UNet(), image(), targets=(first, second))


def whole_score_map() -> Example:
    """The same with an integer target: the class's scores, softmax-normalised over positions."""
    return linen(UNet((8, 12)), image(16), targets=(0, np.array([1, 3])))


class Video(nn.Module):
    """A 3-D network over frames, height and width (Tran et al. 2015, C3D, in small)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(8, (3, 3, 3), name="conv1")(x))
        x = nn.max_pool(x, (1, 2, 2), (1, 2, 2))
        x = nn.relu(nn.Conv(16, (3, 3, 3), name="conv2")(x))
        x = nn.max_pool(x, (2, 2, 2), (2, 2, 2))
        x = nn.relu(nn.Conv(16, (3, 3, 3), name="conv3")(x))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(16, name="hidden")(x))
        return nn.Dense(CLASSES, name="head")(x)


class Normalised(nn.Module):
    """A small residual network with any normalisation that looks at the input itself."""

    norm: Callable[..., nn.Module]
    activation: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.activation(self.norm(name="stem_norm")(nn.Conv(8, (3, 3), 2, name="stem")(x)))
        y = self.activation(self.norm(name="norm1")(nn.Conv(8, (3, 3), name="conv1")(x)))
        y = self.norm(name="norm2")(nn.Conv(8, (3, 3), name="conv2")(y))
        x = self.activation(x + y)
        return nn.Dense(CLASSES, name="head")(x.mean((1, 2)))


class GatedConvolutions(nn.Module):
    """Dauphin et al. 2017: y = conv_a(x) * sigmoid(conv_b(x)), as nn.glu of one convolution."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in (1, 2):
            x = nn.glu(nn.Conv(32, (3, 3), 2, name=f"conv{i}")(x), axis=-1)
        return nn.Dense(CLASSES, name="head")(x.mean((1, 2)))


def normalised(name: str, norm: Any, **options: Any) -> Entry:
    return Entry(
        name, lambda: linen(Normalised(norm, **options), image(16)), ("head", "stem_norm", "stem")
    )


ENTRIES = [
    Entry(
        "convnext",
        lambda: linen(ConvNeXt(), image()),
        ("norm", "block3", "block2", "down", "block1", "stem"),
        centred=True,
    ),
    Entry("unet", unet, ("up0_conv2", "up0_conv1", "down0_conv1")),
    Entry("unet_integer_target", whole_score_map, ("up0_conv2", "up0_conv1", "down0_conv1")),
    Entry(
        "video_3d",
        lambda: linen(Video(), signal(4, 16, 16, 3)),
        ("hidden", "conv3", "conv2", "conv1"),
    ),
    normalised("group_norm", partial(nn.GroupNorm, num_groups=2)),
    normalised("instance_norm", nn.InstanceNorm, activation=nn.leaky_relu),
    normalised("layer_norm", nn.LayerNorm, activation=nn.elu),
    normalised("rms_norm", nn.RMSNorm, activation=nn.silu),
    Entry("gated_convolutions", lambda: linen(GatedConvolutions(), image()), ("head", "conv1")),
]
