"""ViT, MLP-Mixer, shifted windows and cross-attention over images, in Flax Linen."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from .entry import CLASSES, Entry, image, linen


class Mlp(nn.Module):
    """Two dense layers with a GELU between them."""

    hidden: int
    activation: Callable[[jax.Array], jax.Array] = nn.gelu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.activation(nn.Dense(self.hidden, name="expand")(x))
        return nn.Dense(x.shape[-1], name="reduce")(y)


class EncoderBlock(nn.Module):
    """Dosovitskiy et al. 2021, Eq. 2 and 3: LayerNorm before attention and before the MLP."""

    heads: int = 2

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        y = nn.LayerNorm(name="norm1")(x)
        y = nn.MultiHeadDotProductAttention(self.heads, name="attention")(y, mask=mask)
        x = x + y
        return x + Mlp(2 * x.shape[-1], name="mlp")(nn.LayerNorm(name="norm2")(x))


class Patches(nn.Module):
    """An image as tokens (N, positions, features)."""

    features: int
    size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size = (self.size, self.size)
        x = nn.Conv(self.features, size, size, "VALID", name="projection")(x)
        return x.reshape(x.shape[0], -1, self.features)


class ViT(nn.Module):
    """A class token, learned positions, and blocks; the head reads the class token."""

    block: Callable[..., nn.Module] = EncoderBlock

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Patches(16, 8, name="patches")(x)
        token = self.param("class_token", nn.initializers.zeros, (1, 1, 16))
        x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)), x], axis=1)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, x.shape[1], 16))
        x = self.block(name="block1")(x)
        x = self.block(name="block2")(x)
        x = nn.LayerNorm(name="norm")(x)
        return nn.Dense(CLASSES, name="head")(x[:, 0])


class PooledViT(nn.Module):
    """Without a class token: the mean over positions, then the head. Layers under nn.scan."""

    depth: int = 3

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Patches(16, 8, name="patches")(x)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, x.shape[1], 16))
        layers = nn.scan(
            ScannedBlock, variable_axes={"params": 0}, split_rngs={"params": True},
            length=self.depth,
        )  # fmt: skip
        x, _ = layers(name="layers")(x, None)
        x = nn.LayerNorm(name="norm")(x).mean(axis=1)
        return nn.Dense(CLASSES, name="head")(x)


class ScannedBlock(nn.Module):
    """An encoder block as a scan's body."""

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return EncoderBlock(name="block")(x), None


class PostNormBlock(nn.Module):
    """Vaswani et al. 2017: LayerNorm behind each sum, ReLU in the MLP."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.MultiHeadDotProductAttention(2, name="attention")(x)
        x = nn.LayerNorm(name="norm1")(x + y)
        y = Mlp(2 * x.shape[-1], nn.relu, name="mlp")(x)
        return nn.LayerNorm(name="norm2")(x + y)


class MixerBlock(nn.Module):
    """Tolstikhin et al. 2021: an MLP over positions, then one over channels."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = jnp.swapaxes(nn.LayerNorm(name="norm1")(x), 1, 2)
        x = x + jnp.swapaxes(Mlp(16, name="tokens")(y), 1, 2)
        return x + Mlp(32, name="channels")(nn.LayerNorm(name="norm2")(x))


class Mixer(nn.Module):
    """MLP-Mixer."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Patches(16, 8, name="patches")(x)
        x = MixerBlock(name="block1")(x)
        x = MixerBlock(name="block2")(x)
        x = nn.LayerNorm(name="norm")(x).mean(axis=1)
        return nn.Dense(CLASSES, name="head")(x)


class WindowAttention(nn.Module):
    """Liu et al. 2021: attention inside windows, with a relative position bias."""

    window: int
    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: np.ndarray | None) -> jax.Array:
        length, features = x.shape[-2:]
        qkv = nn.DenseGeneral((3, self.heads, features // self.heads), name="qkv")(x)
        q, k, v = (qkv[..., i, :, :] for i in range(3))
        scores = jnp.einsum("...qhd,...khd->...hqk", q, k) * (features // self.heads) ** -0.5
        size = (2 * self.window - 1) ** 2
        table = self.param("embedding_bias", nn.initializers.normal(0.02), (size, self.heads))
        bias = table[relative_positions(self.window).ravel()]
        scores = scores + jnp.moveaxis(bias.reshape(length, length, self.heads), -1, 0)
        if mask is not None:
            scores = scores + mask[:, None]  # (windows, 1, q, k)
        out = jnp.einsum("...hqk,...khd->...qhd", nn.softmax(scores), v)
        return nn.DenseGeneral(features, axis=(-2, -1), name="out")(out)


def relative_positions(window: int) -> np.ndarray:
    """(window^2, window^2) indices into the table of biases."""
    places = np.stack(np.meshgrid(*[np.arange(window)] * 2, indexing="ij"), -1).reshape(-1, 2)
    difference = places[:, None] - places[None] + window - 1
    return difference[..., 0] * (2 * window - 1) + difference[..., 1]


def windows(x: jax.Array, size: int) -> jax.Array:
    """(N, H, W, C) to (N, windows, size * size, C)."""
    n, height, width, channels = x.shape
    x = x.reshape(n, height // size, size, width // size, size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, -1, size * size, channels)


def shift_mask(height: int, width: int, size: int, shift: int) -> np.ndarray:
    """(windows, size^2, size^2): -100 between positions that the roll brought together."""
    area = np.zeros((1, height, width, 1), np.float32)
    slices = (slice(0, -size), slice(-size, -shift), slice(-shift, None))
    for i, rows in enumerate(slices):
        for j, columns in enumerate(slices):
            area[:, rows, columns] = 3 * i + j
    labels = np.asarray(windows(area, size))[0, :, :, 0]
    return np.where(labels[:, :, None] == labels[:, None, :], 0, -100).astype(np.float32)


class SwinBlock(nn.Module):
    """Windows, shifted by half a window where ``shift`` is set: roll, mask, roll back."""

    window: int = 4
    shift: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        n, height, width, channels = x.shape
        y = nn.LayerNorm(name="norm1")(x)
        mask = None
        if self.shift:
            y = jnp.roll(y, (-self.shift, -self.shift), (1, 2))
            mask = shift_mask(height, width, self.window, self.shift)
        y = WindowAttention(self.window, 2, name="attention")(windows(y, self.window), mask)
        y = y.reshape(n, height // self.window, width // self.window, self.window, self.window, -1)
        y = y.transpose(0, 1, 3, 2, 4, 5).reshape(n, height, width, channels)
        if self.shift:
            y = jnp.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y
        return x + Mlp(2 * channels, name="mlp")(nn.LayerNorm(name="norm2")(x))


class Swin(nn.Module):
    """A pair of blocks, patch merging, and another pair."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.LayerNorm(name="stem_norm")(nn.Conv(8, (4, 4), 4, name="stem")(x))
        x = SwinBlock(name="block1")(x)
        x = SwinBlock(shift=2, name="block2")(x)
        quarters = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        x = nn.LayerNorm(name="merge_norm")(jnp.concatenate(quarters, axis=-1))
        x = nn.Dense(16, use_bias=False, name="merge")(x)
        x = SwinBlock(name="block3")(x)
        x = nn.LayerNorm(name="norm")(x).mean((1, 2))
        return nn.Dense(CLASSES, name="head")(x)


class Perceiver(nn.Module):
    """Cross-attention from learned queries to patches (Jaegle et al. 2021)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.LayerNorm(name="patch_norm")(Patches(16, 8, name="patches")(x))
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, x.shape[1], 16))
        queries = self.param("queries", nn.initializers.normal(1.0), (4, 16))
        latents = jnp.broadcast_to(queries, (x.shape[0], 4, 16))
        attention = nn.MultiHeadDotProductAttention(2, name="cross_attention")
        latents = latents + attention(latents, x)
        latents = EncoderBlock(name="block")(latents)
        return nn.Dense(CLASSES, name="head")(nn.LayerNorm(name="norm")(latents).mean(1))


ENTRIES = [
    Entry("vit", lambda: linen(ViT(), image()), ("norm", "block1", "patches")),
    Entry(
        "vit_remat",
        lambda: linen(ViT(nn.remat(EncoderBlock)), image()),
        ("norm", "block1", "patches"),
    ),  # fmt: skip
    Entry("vit_scan", lambda: linen(PooledViT(), image()), ("norm", "patches"), centred=True),
    Entry(
        "vit_post_norm", lambda: linen(ViT(PostNormBlock), image()), ("norm", "block1", "patches")
    ),
    Entry(
        "mixer",
        lambda: linen(Mixer(), image()),
        ("norm", "block2", "block1", "patches"),
        centred=True,
    ),
    Entry(
        "swin",
        lambda: linen(Swin(), image()),
        ("norm", "block3", "merge", "block1", "stem"),
        slow=True,
        centred=True,
    ),
    Entry(
        "perceiver", lambda: linen(Perceiver(), image()), ("norm", "block", "patches"), centred=True
    ),
]
