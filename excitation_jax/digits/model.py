"""The demo model: a small residual network with BatchNorm, in Flax Linen.

It has one of everything that Excitation Backprop treats in its own way: convolutions followed by
BatchNorm, identity and projection skips, global average pooling and a dense layer.
"""

from __future__ import annotations

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..models.tdam import TopDownAttention

STAGE_FEATURES = (16, 32, 64)
STAGE_BLOCKS = (1, 2, 2)
BATCH_NORM_MOMENTUM = 0.9  # a training run is short: the averages must keep up with the weights


class Stem(nn.Module):
    """Convolution of stride 2, BatchNorm, ReLU: (N, H, W, C) -> (N, H/2, W/2, features)."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Conv(self.features, (5, 5), 2, use_bias=False, name="conv")(x)
        x = nn.BatchNorm(not train, momentum=BATCH_NORM_MOMENTUM, name="norm")(x)
        return nn.relu(x)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a skip: (N, H, W, C) -> (N, H/stride, W/stride, features).

    The skip is the identity where it can be, and a 1x1 convolution with BatchNorm where the
    stride or the number of features changes.
    """

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def normalised_conv(x: jax.Array, name: str, size: int, stride: int) -> jax.Array:
            conv = nn.Conv(self.features, (size, size), stride, use_bias=False, name=name)
            return nn.BatchNorm(not train, momentum=BATCH_NORM_MOMENTUM, name=f"{name}_norm")(
                conv(x)
            )

        y = nn.relu(normalised_conv(x, "conv1", 3, self.stride))
        y = normalised_conv(y, "conv2", 3, 1)
        if x.shape[-1] != self.features or self.stride != 1:
            x = normalised_conv(x, "projection", 1, self.stride)
        return nn.relu(x + y)


class DigitsNet(nn.Module):
    """Which digits are in a scene? One logit per class; the sigmoid is left to the caller.

    Submodules, in order, with the shape of their output for scenes of (N, 96, 96, 3):
    stem (N, 48, 48, 16), stage1_block1 and stage1_block2 (N, 48, 48, 16), stage2_block1 and
    stage2_block2 (N, 24, 24, 32), stage3_block1 and stage3_block2 (N, 12, 12, 64),
    head (N, num_classes).

    Attributes:
        num_classes: number of logits.
        attention_steps: how often stage 3 runs, with top-down attention around it (models/tdam.py);
            1 is the plain network.
    """

    num_classes: int = 10
    attention_steps: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Logits of images.

        Args:
            x: (N, H, W, 3) RGB in [0, 1]; H and W are best multiples of 8.
            train: normalise by the batch and update "batch_stats" (make it mutable), instead of
                normalising by the stored averages.

        Returns:
            (N, num_classes) logits.
        """
        x = Stem(STAGE_FEATURES[0], name="stem")(x, train)
        stages = [
            [
                ResidualBlock(
                    features, 2 if block == 1 < stage else 1, name=f"stage{stage}_block{block}"
                )
                for block in range(1, blocks + 1)
            ]
            for stage, (features, blocks) in enumerate(
                zip(STAGE_FEATURES, STAGE_BLOCKS, strict=True), 1
            )
        ]
        for block in itertools.chain(*stages[:-1]):
            x = block(x, train)

        def last_stage(x: jax.Array, train: bool) -> jax.Array:
            for block in stages[-1]:
                x = block(x, train)
            return x

        if self.attention_steps == 1:
            x = last_stage(x, train)
        else:
            x = TopDownAttention(last_stage, self.attention_steps, name="attention")(x, train)
        return nn.Dense(self.num_classes, name="head")(jnp.mean(x, axis=(1, 2)))
