"""What an entry of the zoo is, and the random parameters that every model gets."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import excitation_jax as ej

Target = Any  # as `ej.excitation_vjp` takes it

BATCH = 2
CLASSES = 5


def best(rank: int) -> Target:
    """The class of the highest score (0), or of the second (1), of each example.

    A class that nothing speaks for, as random networks have them, has no excitatory input.
    """

    def target(outputs: jax.Array) -> jax.Array:
        return ej.top_down_signal(outputs, jnp.argsort(outputs)[:, -1 - rank])

    return target


@dataclass(frozen=True)
class Example:
    """A model, and what it is asked.

    Attributes:
        model_fn: ``model_fn(params, x) -> outputs``.
        x: its input, two examples of it; a tuple or dict for a model with several inputs.
        targets: two different targets.
    """

    model_fn: Callable[[Any, Any], Any]
    params: Any
    x: Any
    targets: tuple[Target, Target] = (best(0), best(1))


@dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    Attributes:
        build: makes it.
        crossed: layers that every path from the output to the input crosses, the highest first.
        integers: so is its input, or a part of it.
        slow: takes more than a few seconds.
        centred: has units that read along another axis than that which a norm centres.
    """

    name: str
    build: Callable[[], Example]
    crossed: tuple[str, ...] = ()
    integers: bool = False
    slow: bool = False
    centred: bool = False


def image(size: int = 32, channels: int = 3, seed: int = 0) -> jax.Array:
    """(2, size, size, channels): patches of colour, and noise."""
    coarse = signal(size // 8, size // 8, channels, seed=seed + 1)
    return coarse.repeat(8, axis=1).repeat(8, axis=2) + signal(size, size, channels, seed=seed) / 2


def signal(*shape: int, seed: int = 0) -> jax.Array:
    """Two examples of this shape, of both signs."""
    rng = np.random.default_rng([seed, *shape])
    return jnp.asarray(rng.normal(0.2, 1.0, (BATCH, *shape)), jnp.float32)


def tokens(length: int, vocabulary: int, seed: int = 0) -> jax.Array:
    """(2, length) int32."""
    rng = np.random.default_rng([seed, length, vocabulary])
    return jnp.asarray(rng.integers(0, vocabulary, (BATCH, length)), jnp.int32)


def linen(
    model: nn.Module, *inputs: Any, targets: tuple[Target, Target] = (best(0), best(1))
) -> Example:
    """A Flax Linen model, called with ``inputs``; explained are all of them."""
    params = filled(jax.eval_shape(model.init, jax.random.key(0), *inputs))
    if "batch_stats" in params:
        params = jax.jit(functools.partial(calibrated, model))(params, *inputs)
    if len(inputs) == 1:
        return Example(model.apply, params, inputs[0], targets)
    return Example(lambda params, x: model.apply(params, *x), params, inputs, targets)


def calibrated(model: nn.Module, variables: Any, *inputs: Any) -> Any:
    """Running statistics near those of the data, as training leaves them.

    Without, most channels behind a depthwise convolution are dead. The random statistics in
    ``variables`` remain as an error: the mean's in standard deviations, the variance's a factor.
    """

    def measure(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        norm = context.module
        if isinstance(norm, nn.BatchNorm):
            axes = tuple(range(args[0].ndim - 1))
            mean, variance = args[0].mean(axes), args[0].var(axes)
            error, factor = (norm.get_variable("batch_stats", name) for name in ("mean", "var"))
            norm.put_variable("batch_stats", "mean", mean + error * jnp.sqrt(variance))
            norm.put_variable("batch_stats", "var", variance * factor)
        return call(*args, **kwargs)

    with nn.intercept_methods(measure):
        _, statistics = model.apply(variables, *inputs, mutable=["batch_stats"])
    return {**variables, **statistics}


def filled(shapes: Any, *, seed: int = 0, features_first: bool = False) -> Any:
    """Random parameters that make a hard test.

    Biases and running means are not zero, running variances not one, and a quarter of the scales
    is negative.

    Args:
        shapes: a pytree of arrays or `jax.ShapeDtypeStruct`s. The last names in a leaf's path say
            what it is.
        features_first: kernels are (out, in, ...), as Equinox has them.
    """
    rng = np.random.default_rng(seed)

    def fill(path: tuple[Any, ...], leaf: Any) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return _default(leaf)
        kind = _kind(_names(path), len(leaf.shape))
        if kind == "variance":
            value = rng.uniform(0.5, 2.0, leaf.shape)
        elif kind == "scale":
            negative = rng.uniform(size=leaf.shape) < 0.25
            value = rng.uniform(0.5, 1.5, leaf.shape) * np.where(negative, -1, 1)
        elif kind == "shift":
            value = rng.normal(0, 0.3, leaf.shape)
        elif kind == "table":
            value = rng.normal(0, 1, leaf.shape)
        else:
            fan_in = np.prod(leaf.shape[1:] if features_first else leaf.shape[:-1])
            value = rng.normal(0, np.sqrt(3 / fan_in), leaf.shape)
        return jnp.asarray(value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def without_dead_units(params: Any) -> Any:
    """The same parameters with signs and sizes that leave no unit without excitatory input.

    On an input that is nowhere negative, every value on the way to the outputs is positive then:
    weights and scales are, and a norm's scale is small against its bias.
    """

    def make(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        names = _names(path)
        kind, size = _kind(names, leaf.ndim), jnp.abs(leaf)
        if kind == "kernel":
            return size * leaf.std() / 2  # so that a sum over the inputs stays near one
        if kind == "scale":
            return size / 50
        if kind == "shift":
            return -size if names[-1] in ("mean", "average", "hidden") else 0.5 + size
        return size

    return jax.tree_util.tree_map_with_path(make, params)


def _default(leaf: Any) -> jax.Array:
    """A counter at zero, or a PRNG key: what a model keeps beside its weights."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), leaf.shape)
    return jnp.zeros(leaf.shape, leaf.dtype)


def _names(path: tuple[Any, ...]) -> list[str]:
    """The names in a leaf's path, without NNX' last one, which says only that it is a value."""
    names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
    return [name for name in names if name not in ("", "value")]


def _kind(names: list[str], rank: int) -> str:
    """What a leaf is: "variance", "scale", "shift", "table" (looked up) or "kernel"."""
    name, inside = names[-1], "/".join(names)
    if name == "var" or (name == "average" and "var_ema" in inside):
        return "variance"
    if name in ("scale", "gamma") or (name == "weight" and rank == 1):
        return "scale"
    if name in ("bias", "b", "offset", "mean", "average", "hidden") or rank == 1:
        return "shift"
    if "embed" in name or "Embed" in inside or name in ("positions", "class_token", "queries"):
        return "table"
    return "kernel"
