"""Models in Equinox: written for one example and mapped over the batch by jax.vmap."""

from typing import Any

import equinox as eqx
import jax

from .entry import CLASSES, Entry, Example, filled, signal


class ConvNet(eqx.Module):
    """Convolutions with BatchNorm, GroupNorm and pooling, channels first."""

    conv1: eqx.nn.Conv2d
    norm1: eqx.nn.BatchNorm
    pool: eqx.nn.MaxPool2d
    conv2: eqx.nn.Conv2d
    norm2: eqx.nn.GroupNorm
    average: eqx.nn.AdaptiveAvgPool2d
    head: eqx.nn.MLP

    def __init__(self, key: jax.Array):
        keys = jax.random.split(key, 3)
        self.conv1 = eqx.nn.Conv2d(3, 8, 3, padding=1, key=keys[0])
        self.norm1 = eqx.nn.BatchNorm(8, axis_name="batch", mode="batch")
        self.pool = eqx.nn.MaxPool2d(2, 2)
        self.conv2 = eqx.nn.Conv2d(8, 16, 3, stride=2, padding=1, key=keys[1])
        self.norm2 = eqx.nn.GroupNorm(4, 16)
        self.average = eqx.nn.AdaptiveAvgPool2d(2)
        self.head = eqx.nn.MLP(64, CLASSES, 16, 1, key=keys[2])

    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        x, state = self.norm1(self.conv1(x), state)
        x = self.pool(jax.nn.relu(x))
        x = jax.nn.relu(self.norm2(self.conv2(x)))
        return self.head(self.average(x).ravel()), state


class Transformer(eqx.Module):
    """One pre-norm block over a sequence of vectors."""

    project: eqx.nn.Linear
    norm1: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    norm2: eqx.nn.RMSNorm
    mlp: eqx.nn.MLP
    head: eqx.nn.Linear

    def __init__(self, key: jax.Array):
        keys = jax.random.split(key, 4)
        self.project = eqx.nn.Linear(6, 16, key=keys[0])
        self.norm1 = eqx.nn.LayerNorm(16)
        self.attention = eqx.nn.MultiheadAttention(2, 16, key=keys[1])
        self.norm2 = eqx.nn.RMSNorm(16)
        self.mlp = eqx.nn.MLP(16, 16, 32, 1, activation=jax.nn.gelu, key=keys[2])
        self.head = eqx.nn.Linear(16, CLASSES, key=keys[3])

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.vmap(self.project)(x)
        y = jax.vmap(self.norm1)(x)
        x = x + self.attention(y, y, y)
        x = x + jax.vmap(self.mlp)(jax.vmap(self.norm2)(x))
        return self.head(x.mean(axis=0))


def is_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def conv_net() -> Example:
    """In inference mode; the running statistics are part of the parameters."""
    model, state = eqx.filter_eval_shape(eqx.nn.make_with_state(ConvNet), jax.random.key(0))
    shapes, static = eqx.partition(eqx.nn.inference_mode(model), is_shape)
    (count, mean, variance), structure = jax.tree.flatten(state)
    statistics = filled({"count": count, "mean": mean, "var": variance})

    def model_fn(params: Any, x: jax.Array) -> jax.Array:
        arrays, statistics = params
        state = jax.tree.unflatten(structure, statistics.values())
        forward = jax.vmap(
            eqx.combine(arrays, static), axis_name="batch", in_axes=(0, None), out_axes=(0, None)
        )
        return forward(x, state)[0]

    return Example(model_fn, (filled(shapes, features_first=True), statistics), signal(3, 16, 16))


def transformer() -> Example:
    model = eqx.filter_eval_shape(Transformer, jax.random.key(0))
    shapes, static = eqx.partition(model, is_shape)

    def model_fn(arrays: Any, x: jax.Array) -> jax.Array:
        return jax.vmap(eqx.combine(arrays, static))(x)

    return Example(model_fn, filled(shapes, features_first=True), signal(8, 6))


ENTRIES = [
    Entry("equinox_conv_net", conv_net),
    Entry("equinox_transformer", transformer),
]
