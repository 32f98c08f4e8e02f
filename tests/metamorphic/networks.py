"""Small networks, one for each kind of model; each names a value "layer"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import excitation_jax as ej

from .reading import Subject

relu, sigmoid = jax.nn.relu, jax.nn.sigmoid


#: Every network by name.
NETWORKS: dict[str, Subject] = {}


def network(name: str, x: tuple[int, ...], seed: int = 0, **shapes: Any) -> Callable:
    """Registers a function of parameters of these shapes.

    Args:
      seed: one with which no probability is lost, where that is possible.
    """

    def register(function: Callable) -> Callable:
        rng = np.random.default_rng(seed)
        params = {key: draw(rng, key, shape) for key, shape in shapes.items()}
        array = rng.uniform(0.1, 1, x).astype(np.float32)
        NETWORKS[name] = Subject(function, params, array, 1)
        return function

    return register


def draw(rng: np.random.Generator, key: str, shape: tuple[int, ...]) -> np.ndarray:
    if key == "mask":  # about two thirds are real
        return np.arange(shape[-1]) < [[shape[-1] - 1], [shape[-1] - 2]]
    array = rng.normal(0, 1, shape) / max(np.prod(shape[:-1]), 2) ** 0.5
    if key == "head":  # so that each target has excitatory and inhibitory inputs
        array = np.abs(array) * np.where(np.indices(shape).sum(0) % 2, 1, -1)
    elif key.startswith("var"):
        array = rng.uniform(0.5, 1.5, shape)
    elif key.startswith("gamma"):  # both signs, not near zero
        array = rng.uniform(0.5, 1.5, shape) * np.where(np.arange(shape[-1]) % 2, -1, 1)
    return array.astype(np.float32)


def conv(x: jax.Array, w: jax.Array, stride: int = 1, padding: str = "SAME") -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, w, (stride, stride), padding, dimension_numbers=numbers)


def batch_norm(p: Any, i: int, x: jax.Array) -> jax.Array:
    scale = p[f"gamma{i}"] * lax.rsqrt(p[f"var{i}"] + 1e-3)
    return (x - p[f"mean{i}"]) * scale + p[f"beta{i}"]


def norms(count: int, width: int) -> dict[str, tuple[int, ...]]:
    names = ("gamma", "var", "mean", "beta")
    return {f"{name}{i}": (width,) for i in range(count) for name in names}


@network("CNN with batch norms", (1, 12, 12, 2), seed=2, w0=(3, 3, 2, 3), w1=(3, 3, 3, 3),
         head=(3, 2), **norms(2, 3))  # fmt: skip
def cnn(p: Any, x: jax.Array) -> jax.Array:
    x = relu(batch_norm(p, 0, conv(x, p["w0"], 2)))
    x = lax.reduce_window(x, -np.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
    x = ej.tag(relu(batch_norm(p, 1, conv(x, p["w1"]))), "layer")
    return x.mean((1, 2)) @ p["head"]


@network("masks and padding", (2, 5, 3), seed=1, w0=(3, 4), w1=(3, 4, 4), head=(4, 2), mask=(2, 5))
def masked(p: Any, x: jax.Array) -> jax.Array:
    real = p["mask"][..., None]
    x = jnp.where(real, jnp.tanh(x @ p["w0"]), 0)
    x = jnp.pad(x, ((0, 0), (2, 0), (0, 0)))
    y = sum(x[:, i : i + 5] @ p["w1"][i] for i in range(3))
    y = ej.tag(jnp.where(real, jax.nn.elu(y), 0), "layer")
    return (y.sum(1) / real.sum(1)) @ p["head"]


@network("residual sums", (1, 8, 8, 3), w0=(3, 3, 3, 3), w1=(3, 3, 3, 3), w2=(3, 3, 3, 3),
         short=(1, 1, 3, 3), head=(3, 2), **norms(2, 3))  # fmt: skip
def residual(p: Any, x: jax.Array) -> jax.Array:
    x = relu(conv(x, p["w0"], 2))
    x = ej.tag(relu(x + batch_norm(p, 0, conv(x, p["w1"]))), "layer")
    x = relu(conv(x, p["short"], 2) + batch_norm(p, 1, conv(x, p["w2"], 2)))
    return x.mean((1, 2)) @ p["head"]


def layer_norm(x: jax.Array) -> jax.Array:
    mean = x.mean(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(jnp.square(x - mean).mean(-1, keepdims=True) + 1e-3)


@network("attention with class token", (1, 8, 8, 2), seed=2, patch=(4, 4, 2, 4), token=(1, 1, 4),
         position=(5, 4), q=(4, 4), k=(4, 4), v=(4, 4), out=(4, 4), up=(4, 6), down=(6, 4),
         head=(4, 2))  # fmt: skip
def transformer(p: Any, x: jax.Array) -> jax.Array:
    x = ej.tag(conv(x, p["patch"], 4, "VALID"), "layer").reshape(x.shape[0], 4, 4)
    x = jnp.concatenate([jnp.broadcast_to(p["token"], (len(x), 1, 4)), x], 1) + p["position"]
    y = layer_norm(x)
    scores = jnp.einsum("ntc,nsc->nts", y @ p["q"], y @ p["k"]) / 2
    x = x + jnp.einsum("nts,nsc->ntc", jax.nn.softmax(scores), y @ p["v"]) @ p["out"]
    x = x + jax.nn.gelu(layer_norm(x) @ p["up"]) @ p["down"]
    return layer_norm(x)[:, 0] @ p["head"]


@network("recurrent scan", (1, 4, 3), seed=6, w=(3, 9), u=(3, 9), b=(9,), head=(3, 2))
def recurrent(p: Any, x: jax.Array) -> jax.Array:
    """A GRU."""
    x = ej.tag(relu(x), "layer")

    def cell(h: jax.Array, row: jax.Array) -> tuple:
        (a, b, c), (d, e, f) = (jnp.split(y, 3, -1) for y in (row @ p["w"] + p["b"], h @ p["u"]))
        z, r = sigmoid(a + d), sigmoid(b + e)
        return (1 - z) * jnp.tanh(c + r * f) + z * h, None

    return lax.scan(cell, jnp.zeros((len(x), 3)), jnp.swapaxes(x, 0, 1))[0] @ p["head"]


@network("gates", (1, 6, 6, 2), seed=3, w0=(3, 3, 2, 4), w1=(4, 4), w2=(4, 4), down=(4, 2),
         up=(2, 4), head=(4, 2))  # fmt: skip
def gates(p: Any, x: jax.Array) -> jax.Array:
    x = jax.nn.silu(conv(x, p["w0"], 2))
    squeezed = sigmoid(relu(x.mean((1, 2), keepdims=True) @ p["down"]) @ p["up"])
    x = ej.tag(x * squeezed, "layer")
    x = (x @ p["w1"]) * jax.nn.silu(x @ p["w2"])
    return x.mean((1, 2)) @ p["head"]


@network("loop of layers", (2, 4), seed=1, w=(2, 4, 4), b=(2, 4), u=(4, 4), head=(4, 2))
def looped(p: Any, x: jax.Array) -> jax.Array:
    def layer(x: jax.Array, wb: tuple) -> tuple:
        return relu(x + jax.checkpoint(lambda x: jnp.tanh(x @ wb[0] + wb[1]))(x)), None

    x = ej.tag(lax.scan(layer, relu(x), (p["w"], p["b"]))[0], "layer")
    x = lax.cond(x.sum() > 0, lambda x: relu(x @ p["u"]), lambda x: x, x)
    return x @ p["head"]


@network("softmax over a mixture", (2, 4), w=(4, 6), v=(4, 6), m=(4, 2), head=(3, 2))
def mixture(p: Any, x: jax.Array) -> jax.Array:
    """Experts of which each example takes its own mean, and a maxout on top."""
    x = ej.tag(jnp.tanh(x), "layer")
    experts = jnp.stack([relu(x @ p["w"]), relu(x @ p["v"])], 1)
    y = (jax.nn.softmax(x @ p["m"])[..., None] * experts).sum(1)
    return y.reshape(2, 3, 2).max(-1) @ p["head"]
