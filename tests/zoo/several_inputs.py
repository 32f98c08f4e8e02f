"""Models with several inputs or outputs, and with modules that are used twice, in Flax Linen."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .attention import EncoderBlock, Patches
from .entry import CLASSES, Entry, Example, filled, image, linen, signal, tokens

ANCHORS = 2


class TwoTowers(nn.Module):
    """An image and a vector, each through a tower of its own, joined before the head."""

    @nn.compact
    def __call__(self, picture: jax.Array, vector: jax.Array) -> jax.Array:
        a = nn.relu(nn.Conv(8, (3, 3), 2, name="image_conv")(picture))
        a = nn.relu(nn.Dense(16, name="image_features")(a.mean((1, 2))))
        b = nn.relu(nn.Dense(16, name="vector_features")(vector))
        joined = nn.relu(nn.Dense(16, name="joined")(jnp.concatenate([a, b], axis=-1)))
        return nn.Dense(CLASSES, name="head")(joined)


class Captioned(nn.Module):
    """An image and tokens: the tokens attend to the patches."""

    @nn.compact
    def __call__(self, picture: jax.Array, words: jax.Array) -> jax.Array:
        patches = Patches(16, 8, name="patches")(picture)
        x = nn.Embed(17, 16, name="embed")(words)
        y = nn.LayerNorm(name="norm1")(x)
        x = x + nn.MultiHeadDotProductAttention(2, name="cross_attention")(y, patches)
        x = EncoderBlock(name="block")(x)
        return nn.Dense(CLASSES, name="head")(nn.LayerNorm(name="norm2")(x).mean(axis=1))


class Encoder(nn.Module):
    """A tower to use several times."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(8, (3, 3), 2, name="conv1")(x))
        x = nn.relu(nn.Conv(8, (3, 3), 2, name="conv2")(x))
        return nn.Dense(16, name="out")(x.mean((1, 2)))


class Siamese(nn.Module):
    """One encoder for both images; the head reads both codes (Bromley et al. 1993)."""

    @nn.compact
    def __call__(self, first: jax.Array, second: jax.Array) -> jax.Array:
        encoder = Encoder(name="encoder")
        joined = jnp.concatenate([encoder(first), encoder(second)], axis=-1)
        return nn.Dense(CLASSES, name="head")(nn.relu(joined))


class SharedLayer(nn.Module):
    """The same layer twice in a row."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shared = nn.Conv(8, (3, 3), name="shared")
        norm = nn.BatchNorm(use_running_average=True, name="shared_norm")
        x = nn.relu(nn.Conv(8, (3, 3), 2, name="stem")(x))
        x = nn.relu(norm(shared(x)))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(norm(shared(x)))
        return nn.Dense(CLASSES, name="head")(x.mean((1, 2)))


class Detector(nn.Module):
    """RetinaNet in small (Lin et al. 2017): a pyramid of two levels, one head for both.

    Returns:
        "scores" (N, anchors, classes) and "boxes" (N, anchors, 4).
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        low = nn.relu(nn.Conv(8, (3, 3), 4, name="level1")(x))
        high = nn.relu(nn.Conv(16, (3, 3), 2, name="level2")(low))
        top = nn.Conv(12, (1, 1), name="lateral2")(high)
        raised = jax.image.resize(top, (*low.shape[:3], 12), "nearest")
        bottom = nn.Conv(12, (1, 1), name="lateral1")(low) + raised
        subnet = nn.Conv(12, (3, 3), name="subnet")
        scores = nn.Conv(ANCHORS * CLASSES, (3, 3), name="scores")
        boxes = nn.Conv(ANCHORS * 4, (3, 3), name="boxes")
        parts: dict[str, list[jax.Array]] = {"scores": [], "boxes": []}
        for level in (top, bottom):
            y = nn.relu(subnet(level))
            parts["scores"].append(scores(y).reshape(x.shape[0], -1, CLASSES))
            parts["boxes"].append(boxes(y).reshape(x.shape[0], -1, 4))
        return {name: jnp.concatenate(pieces, axis=1) for name, pieces in parts.items()}


def best_anchor(label: int) -> Any:
    """The anchor with the highest score for a class starts with all the probability."""

    def target(outputs: dict[str, jax.Array]) -> dict[str, jax.Array | None]:
        scores = outputs["scores"]
        anchor = jax.nn.one_hot(jnp.argmax(scores[..., label], axis=1), scores.shape[1])
        return {"scores": anchor[..., None] * jax.nn.one_hot(label, CLASSES), "boxes": None}

    return target


class TwoHeads(nn.Module):
    """A trunk, a classifier and an auxiliary head further down, as a tuple."""

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = nn.relu(nn.Conv(8, (3, 3), 2, name="conv1")(x))
        auxiliary = nn.Dense(3, name="auxiliary")(x.mean((1, 2)))
        x = nn.relu(nn.Conv(8, (3, 3), 2, name="conv2")(x))
        return nn.Dense(CLASSES, name="head")(x.mean((1, 2))), auxiliary


def both_heads(label: int, weight: float) -> Any:
    """Half the probability, say, at a class of each head."""

    def target(outputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        main, auxiliary = outputs
        first = jnp.zeros_like(main).at[:, label].set(weight)
        return first, jnp.zeros_like(auxiliary).at[:, label].set(1 - weight)

    return target


def two_towers() -> Example:
    return linen(TwoTowers(), image(16), signal(8))


def captioned_picture() -> Example:
    """Of an image and tokens, the image is explained."""
    model, words = Captioned(), tokens(6, 17)
    params = filled(jax.eval_shape(model.init, jax.random.key(0), image(), words))
    return Example(lambda params, x: model.apply(params, x, words), params, image())


ENTRIES = [
    Entry("two_towers", two_towers, ("joined",)),
    Entry("captioned_picture", captioned_picture, ("patches",), centred=True),
    Entry(
        "captioned",
        lambda: linen(Captioned(), image(), tokens(6, 17)),
        ("norm2", "block"),
        integers=True,
        slow=True,
        centred=True,
    ),
    Entry("siamese", lambda: linen(Siamese(), image(16), image(16, seed=1))),
    Entry(
        "shared_layer",
        lambda: linen(SharedLayer(), image()),
        ("shared_norm#2", "shared#2", "shared_norm", "shared", "stem"),
    ),  # fmt: skip
    Entry(
        "detector",
        lambda: linen(Detector(), image(), targets=(best_anchor(0), best_anchor(3))),
        ("level1",),
    ),
    Entry(
        "two_heads",
        lambda: linen(TwoHeads(), image(), targets=(both_heads(0, 0.5), both_heads(2, 0.25))),
        ("conv1",),
    ),
]
