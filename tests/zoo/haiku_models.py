"""Models in Haiku: functions made pure by hk.transform and hk.transform_with_state."""

from functools import partial
from typing import Any

import haiku as hk
import jax

from .entry import CLASSES, Entry, Example, filled, image, signal


def resnet(x: jax.Array, is_training: bool) -> jax.Array:
    """Stem and two residual blocks, BatchNorm with its moving averages."""

    def norm(x: jax.Array, name: str) -> jax.Array:
        return hk.BatchNorm(True, True, 0.9, name=name)(x, is_training)

    x = hk.Conv2D(8, 3, 2, with_bias=False, name="stem")(x)
    x = jax.nn.relu(norm(x, "stem_norm"))
    for i, (width, stride) in enumerate(((8, 1), (16, 2))):
        y = hk.Conv2D(width, 3, stride, with_bias=False, name=f"block{i}_conv1")(x)
        y = jax.nn.relu(norm(y, f"block{i}_norm1"))
        y = norm(hk.Conv2D(width, 3, with_bias=False, name=f"block{i}_conv2")(y), f"block{i}_norm2")
        if x.shape != y.shape:
            x = norm(hk.Conv2D(width, 1, stride, name=f"block{i}_skip")(x), f"block{i}_skip_norm")
        x = jax.nn.relu(x + y)
    x = hk.avg_pool(x, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return hk.Linear(CLASSES, name="head")(hk.Flatten()(x))


def attention_mlp(x: jax.Array) -> jax.Array:
    """Self-attention, LayerNorm and an MLP over a sequence."""
    x = hk.Linear(16, name="project")(x)
    y = hk.LayerNorm(-1, True, True, name="norm1")(x)
    initializer = hk.initializers.VarianceScaling()
    x = x + hk.MultiHeadAttention(2, 8, model_size=16, w_init=initializer)(y, y, y)
    y = hk.LayerNorm(-1, True, True, name="norm2")(x)
    x = x + hk.nets.MLP([32, 16], activation=jax.nn.gelu)(y)
    return hk.Linear(CLASSES, name="head")(x.mean(axis=1))


def resnet_example() -> Example:
    transformed = hk.transform_with_state(resnet)
    init = partial(transformed.init, is_training=True)
    shapes = jax.eval_shape(init, jax.random.key(0), image())

    def model_fn(params: Any, x: jax.Array) -> jax.Array:
        return transformed.apply(*params, None, x, is_training=False)[0]

    return Example(model_fn, filled(shapes), image())


def attention_example() -> Example:
    transformed = hk.without_apply_rng(hk.transform(attention_mlp))
    x = signal(8, 6)
    return Example(
        transformed.apply, filled(jax.eval_shape(transformed.init, jax.random.key(0), x)), x
    )


ENTRIES = [
    Entry("haiku_resnet", resnet_example),
    Entry("haiku_attention", attention_example),
]
