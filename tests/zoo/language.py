"""Decoders over tokens: GPT-2's, Llama's, one under nn.scan, and a gated classifier, in Linen.

The explained input are the tokens themselves, integers: the MWP is a probability per token.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from .attention import EncoderBlock
from .entry import CLASSES, Entry, Example, Target, best, linen, tokens

LENGTH, VOCABULARY = 12, 17
#: The position whose next token is explained. What comes after it must get nothing.
POSITION = 8


class Gpt(nn.Module):
    """GPT-2: learned positions, causal blocks, the head tied to the embedding."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        embed = nn.Embed(VOCABULARY, 16, name="embed")
        positions = nn.Embed(LENGTH, 16, name="positions")(jnp.arange(x.shape[1]))
        mask = nn.make_causal_mask(x)
        x = embed(x) + positions
        x = EncoderBlock(name="block1")(x, mask)
        x = EncoderBlock(name="block2")(x, mask)
        return embed.attend(nn.LayerNorm(name="norm")(x))


class ScannedGpt(nn.Module):
    """Layers under nn.scan over rematerialised blocks; a head of its own."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        mask = nn.make_causal_mask(x)
        positions = nn.Embed(LENGTH, 16, name="positions")(jnp.arange(x.shape[1]))
        x = nn.Embed(VOCABULARY, 16, name="embed")(x) + positions
        layers = nn.scan(
            nn.remat(CausalStep), variable_axes={"params": 0}, split_rngs={"params": True},
            in_axes=nn.broadcast, length=3,
        )  # fmt: skip
        x, _ = layers(name="layers")(x, mask)
        return nn.Dense(VOCABULARY, name="head")(nn.LayerNorm(name="norm")(x))


class CausalStep(nn.Module):
    """A block as a scan's body."""

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, None]:
        return EncoderBlock(name="block")(x, mask), None


def rotated(x: jax.Array) -> jax.Array:
    """Rotary positions (Su et al. 2021) for (N, T, heads, d)."""
    half = x.shape[-1] // 2
    angles = np.outer(np.arange(x.shape[1]), 100.0 ** (-np.arange(half) / half))[:, None]
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate(
        [
            first * np.cos(angles) - second * np.sin(angles),
            second * np.cos(angles) + first * np.sin(angles),
        ],
        axis=-1,
    ).astype(x.dtype)


class LlamaBlock(nn.Module):
    """Touvron et al. 2023: RMSNorm, rotary positions, grouped keys and values, SwiGLU, no bias."""

    heads: int = 4
    groups: int = 2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = x.shape[-1]
        dense = partial(nn.DenseGeneral, use_bias=False)
        y = nn.RMSNorm(name="attention_norm")(x)
        q = rotated(dense((self.heads, features // self.heads), name="query")(y))
        k = rotated(dense((self.groups, features // self.heads), name="key")(y))
        v = dense((self.groups, features // self.heads), name="value")(y)
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + dense(features, axis=(-2, -1), name="out")(y)
        y = nn.RMSNorm(name="mlp_norm")(x)
        gate = nn.silu(dense(2 * features, name="gate")(y))
        return x + dense(features, name="down")(gate * dense(2 * features, name="up")(y))


class Llama(nn.Module):
    """A decoder with an untied head."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Embed(VOCABULARY, 16, name="embed")(x)
        x = LlamaBlock(name="block1")(x)
        x = LlamaBlock(name="block2")(x)
        return nn.Dense(VOCABULARY, use_bias=False, name="head")(nn.RMSNorm(name="norm")(x))


class GatedMlp(nn.Module):
    """A bag of words through a GLU and a SwiGLU layer (Shazeer 2020)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Embed(VOCABULARY, 16, name="embed")(x)
        x = nn.Dense(16, name="value1")(x) * nn.sigmoid(nn.Dense(16, name="gate1")(x))
        x = nn.swish(nn.Dense(32, name="gate2")(x)) * nn.Dense(32, name="value2")(x)
        return nn.Dense(CLASSES, name="head")(nn.Dense(16, name="mix")(x).mean(axis=1))


class Bert(nn.Module):
    """Token types and padding: an encoder whose attention skips token 0; tanh pooler."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        mask = nn.make_attention_mask(x > 0, x > 0)
        positions = nn.Embed(LENGTH, 16, name="positions")(jnp.arange(x.shape[1]))
        x = nn.LayerNorm(name="embed_norm")(nn.Embed(VOCABULARY, 16, name="embed")(x) + positions)
        x = EncoderBlock(name="block")(x, mask)
        return nn.Dense(CLASSES, name="head")(nn.tanh(nn.Dense(16, name="pooler")(x[:, 0])))


def next_word(rank: int) -> Target:
    """The likeliest word (0), or the second (1), behind the explained position."""

    def target(outputs: jax.Array) -> jax.Array:
        scores = outputs[:, POSITION]
        return jnp.zeros_like(outputs).at[:, POSITION].set(best(rank)(scores))

    return target


NEXT_WORDS = next_word(0), next_word(1)


def decoder(model: nn.Module) -> Example:
    return linen(model, tokens(LENGTH, VOCABULARY), targets=NEXT_WORDS)


def bert() -> Example:
    """The last tokens of the second example are padding."""
    x = jnp.maximum(tokens(LENGTH, VOCABULARY), 1).at[1, -4:].set(0)
    return linen(Bert(), x)


ENTRIES = [
    Entry("gpt", lambda: decoder(Gpt()), ("norm", "block2", "block1", "embed"), integers=True),
    Entry("gpt_scan_remat", lambda: decoder(ScannedGpt()), ("norm", "embed"), integers=True),
    Entry("llama", lambda: decoder(Llama()), ("norm", "block2", "block1", "embed"), integers=True),
    Entry("bert", bert, ("pooler", "block", "embed"), integers=True),
    Entry(
        "gated_mlp",
        lambda: linen(GatedMlp(), tokens(LENGTH, VOCABULARY)),
        ("mix", "embed"),
        integers=True,
    ),
]
