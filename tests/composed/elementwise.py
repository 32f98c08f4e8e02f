"""Activations, scales, normalisers: functions of one state that keep its shape."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import excitation_jax as ej

from .table import register_functions, step
from .weights import Weights


@step("relu")
def relu(w: Weights, x: jax.Array) -> jax.Array:
    return jax.nn.relu(x)


@step("scale and shift")
def scale_and_shift(w: Weights, x: jax.Array) -> jax.Array:
    return x * w.scale(x.shape[-1]) + w.bias(x.shape[-1])


@step("batch norm")
def batch_norm(w: Weights, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    variance = jnp.abs(w.scale(width))
    x = (x - w.bias(width)) * (w.scale(width) * lax.rsqrt(variance + 1e-3))
    return x + w.bias(width)


@step("scale of every unit")
def scale_of_every_unit(w: Weights, x: jax.Array) -> jax.Array:
    return x * w.scale(*x.shape[1:])


@step("divided by constants")
def divided(w: Weights, x: jax.Array) -> jax.Array:
    return x / w.scale(x.shape[-1])


@step("gated by constants")
def gated_by_constants(w: Weights, x: jax.Array) -> jax.Array:
    return x * jax.nn.sigmoid(w.scale(x.shape[-1]))


@step("at least a constant", excites=False)
def at_least(w: Weights, x: jax.Array) -> jax.Array:
    return jnp.maximum(x, w.bias(x.shape[-1]))


@step("PReLU")
def prelu(w: Weights, x: jax.Array) -> jax.Array:
    return jnp.where(x >= 0, x, 0.3 * w.scale(x.shape[-1]) * x)


@step("sharding constraint")
def sharding_constraint(w: Weights, x: jax.Array) -> jax.Array:
    if w.on_mesh:  # JAX has none there
        return x
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return lax.with_sharding_constraint(x, here)


@jax.custom_jvp
def smooth_relu(x: jax.Array) -> jax.Array:
    return x * jax.nn.sigmoid(2 * x)


smooth_relu.defjvps(lambda t, ans, x: t)


@jax.custom_vjp
def clipped(x: jax.Array) -> jax.Array:
    return jnp.clip(x, -2, 2)


clipped.defvjp(lambda x: (clipped(x), None), lambda _, t: (t,))

#: Positive and not falling for a positive argument; where they grow fast, it is cut off.
EXCITING = {
    "leaky relu": jax.nn.leaky_relu, "relu6": jax.nn.relu6, "elu": jax.nn.elu,
    "celu": jax.nn.celu, "selu": jax.nn.selu, "gelu": jax.nn.gelu,
    "gelu exact": lambda x: jax.nn.gelu(x, approximate=False), "silu": jax.nn.silu,
    "mish": jax.nn.mish, "softplus": jax.nn.softplus, "soft sign": jax.nn.soft_sign,
    "squareplus": jax.nn.squareplus, "sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh,
    "hard sigmoid": jax.nn.hard_sigmoid, "hard swish": jax.nn.hard_swish,
    "hard tanh": jax.nn.hard_tanh, "relu squared": lambda x: jnp.square(jax.nn.relu6(x)),
    "abs": jnp.abs, "square": lambda x: jnp.square(jnp.clip(x, -4, 4)),
    "cube": lambda x: jnp.clip(x, -3, 3) ** 3, "x |x|": lambda x: x * jnp.abs(jnp.clip(x, -4, 4)),
    "root": lambda x: jnp.sqrt(jnp.abs(x)), "cube root": jnp.cbrt,
    "power": lambda x: jnp.abs(jnp.clip(x, -4, 4)) ** 1.5,
    "exp": lambda x: jnp.exp(jnp.minimum(x, 2)), "exp2": lambda x: jnp.exp2(jnp.minimum(x, 2)),
    "expm1": lambda x: jnp.expm1(jnp.minimum(x, 2)), "log1p": lambda x: jnp.log1p(jnp.abs(x)),
    "log of square": lambda x: jnp.log(1 + jnp.square(jnp.clip(x, -9, 9))),
    "atan": jnp.arctan, "asinh": jnp.arcsinh, "sinh": lambda x: jnp.sinh(jnp.clip(x, -2, 2)),
    "cosh": lambda x: jnp.cosh(jnp.clip(x, -2, 2)), "erf": lax.erf, "sign": jnp.sign,
    "ceil": jnp.ceil, "logit of sigmoid": lambda x: -jnp.log(
        1 / jax.nn.sigmoid(jnp.clip(x, -5, 5)) - 1 + 1e-3) + 6,
    "snake": lambda x: x + jnp.sin(x) ** 2, "custom jvp": smooth_relu, "custom vjp": clipped,
    "step function": lambda x: (x > 0).astype(x.dtype),
    "finite": lambda x: jnp.isfinite(x).astype(x.dtype),
    "not minus one": lambda x: (~(x == -1)).astype(x.dtype),
    "other than minus one": lambda x: ((x != -1) & True).astype(x.dtype),
    "two truths": lambda x: ((x >= 0.5) | (x > 0)).astype(x.dtype) + jnp.maximum(x, 0),
    "clamped": lambda x: lax.clamp(jnp.asarray(-1, x.dtype), x, jnp.asarray(2, x.dtype)),
    "tagged": lambda x: ej.tag(x, "tagged"),
    "stop gradient": lax.stop_gradient, "copy": lambda x: jnp.array(x, copy=True),
    "less precision": lambda x: lax.reduce_precision(x, 8, 7),
    "bfloat16 and back": lambda x: x.astype(jnp.bfloat16).astype(x.dtype),
    "barrier": lax.optimization_barrier,
}  # fmt: skip
#: Zero, negative or falling for some positive arguments.
OTHERS = {
    "negated": lambda x: -x, "taken from one": lambda x: 1 - x, "halved": lambda x: x / -2,
    "sin": jnp.sin, "cos": jnp.cos, "erfc": lax.erfc, "bump": lambda x: jnp.exp(-jnp.square(x)),
    "rsqrt": lambda x: lax.rsqrt(1 + x * x), "reciprocal": lambda x: 1 / (1 + jnp.abs(x)),
    "log sigmoid": jax.nn.log_sigmoid, "log": lambda x: jnp.log(jnp.abs(x) + 1e-2),
    "log2": lambda x: jnp.log2(jnp.abs(x) + 0.5), "floor": jnp.floor, "round": jnp.round,
    "sparse plus": jax.nn.sparse_plus, "threshold": lambda x: jnp.where(x > 0.3, x, 0),
    "at most one": lambda x: (x <= 1).astype(x.dtype),
    "less than one, or chosen": lambda x: ((x < 1) | (np.arange(x.shape[-1]) == 0)).astype(x.dtype),
    "at least one": lambda x: (x >= 1).astype(x.dtype), "ternary": lambda x: (
        (x >= 1).astype(x.dtype) - (x < -1).astype(x.dtype)),
    "one minus square": lambda x: 1 - jnp.clip(x, -4, 4) ** 2,
    # Far out it is one less almost one: nothing but rounding.
    "slope of tanh": lambda x: jax.grad(lambda x: jnp.tanh(x).sum())(jnp.clip(x, -4, 4)),
}  # fmt: skip
register_functions(EXCITING)
register_functions(OTHERS, excites=False)


def normalised(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    mean = x.mean(axes, keepdims=True)
    return (x - mean) * lax.rsqrt(x.var(axes, keepdims=True) + 1e-3)


@step("layer norm", excites=False)
def layer_norm(w: Weights, x: jax.Array) -> jax.Array:
    return normalised(x, (-1,)) * w.scale(x.shape[-1]) + w.bias(x.shape[-1])


@step("RMS norm")
def rms_norm(w: Weights, x: jax.Array) -> jax.Array:
    mean = jnp.square(x).mean(-1, keepdims=True)
    return x * lax.rsqrt(mean + 1e-3) * w.scale(x.shape[-1])


@step("group norm", excites=False, fits=lambda s: s[-1] % 2 == 0)
def group_norm(w: Weights, x: jax.Array) -> jax.Array:
    parts = x.reshape(*x.shape[:-1], 2, -1)
    axes = (*range(1, x.ndim - 1), x.ndim)
    return normalised(parts, axes).reshape(x.shape) * w.scale(x.shape[-1]) + w.bias(x.shape[-1])


@step("instance norm", 3, 4, 5, excites=False)
def instance_norm(w: Weights, x: jax.Array) -> jax.Array:
    return normalised(x, tuple(range(1, x.ndim - 1)))


@step("local response norm")
def local_response_norm(w: Weights, x: jax.Array) -> jax.Array:
    window = (*(1 for _ in x.shape[1:]), 3)
    near = lax.reduce_window(jnp.square(x), 0.0, lax.add, window, (1,) * x.ndim, "SAME")
    return x / (1 + 0.5 * near) ** 0.75


def softmax_by_hand(x: jax.Array) -> jax.Array:
    e = jnp.exp(jnp.clip(x, -4, 4))
    return e / e.sum(-1, keepdims=True)


register_functions(
    {
        "softmax": jax.nn.softmax, "softmax by hand": softmax_by_hand,
        "unit length": lambda x: x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 0.1),
        "divided by maximum": lambda x: x / (1 + jnp.abs(x).max(-1, keepdims=True)),
        "squeeze with itself": lambda x: x * jax.nn.sigmoid(x.mean(-1, keepdims=True)),
        "cumsum": lambda x: jnp.cumsum(x, 1), "cumulative maximum": lambda x: lax.cummax(x, 1),
        "cumulative minimum": lambda x: lax.cummin(x, x.ndim - 1),
        "cumsum reversed": lambda x: lax.cumsum(x, x.ndim - 1, reverse=True),
        "sorted": lambda x: jnp.sort(x, 1), "sorted channels": lambda x: jnp.sort(x, -1),
        "three largest": lambda x: lax.top_k(x, min(3, x.shape[-1]))[0],
    }
)  # fmt: skip
register_functions(
    {
        "log softmax": jax.nn.log_softmax,
        "less the mean": lambda x: x - x.mean(-1, keepdims=True),
        "less the maximum": lambda x: x - x.max(-1, keepdims=True),
    },
    excites=False,
)  # fmt: skip


@step("squeeze and excitation")
def squeeze_and_excitation(w: Weights, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    squeezed = x.mean(tuple(range(1, x.ndim - 1)), keepdims=True)
    hidden = jax.nn.relu(squeezed @ w.matrix(width, 2, inputs=width))
    return x * jax.nn.sigmoid(hidden @ w.matrix(2, width, inputs=2))
