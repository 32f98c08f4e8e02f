"""Elementwise functions as people write them, and identities that nobody sees.

Each entry is (what it needs, the function). The need is the D-rule of the design that makes the
spelling's map right, "" where the library understands it before issue 13.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from .functions import LEAK

Spelled = dict[str, tuple[str, Callable[[jax.Array], jax.Array]]]

_SCALE, _ALPHA = 1.0507009873554805, 1.6732632423543772
_TANH_IN = math.sqrt(2 / math.pi)


def _relu6(y: jax.Array) -> jax.Array:
    return jnp.clip(y, 0, 6)


def _expm1(y: jax.Array) -> jax.Array:
    return jnp.expm1(jnp.minimum(y, 0))


def _softplus(y: jax.Array) -> jax.Array:
    return jnp.maximum(y, 0) + jnp.log1p(jnp.exp(-jnp.abs(y)))


FUNCTIONS: dict[str, Spelled] = {
    "identity": {"nothing": ("", lambda y: y), "times one": ("", lambda y: y * 1.0)},
    "relu": {
        "jax.nn": ("", jax.nn.relu),
        "max": ("", lambda y: jnp.maximum(y, 0)),
        "max, the other way": ("", lambda y: jnp.maximum(0.0, y)),
        "where": ("", lambda y: jnp.where(y > 0, y, 0)),
        "half of y + |y|": ("", lambda y: (y + jnp.abs(y)) / 2),
        "y - min(y, 0)": ("", lambda y: y - jnp.minimum(y, 0)),
        "y (y > 0)": ("", lambda y: y * (y > 0)),
        "clip": ("", lambda y: jnp.clip(y, 0)),
        "-min(-y, 0)": ("D1", lambda y: -jnp.minimum(-y, 0)),
        "a shifted one": ("D1", lambda y: 1 - jnp.minimum(1 - y, 1)),
    },
    "relu6": {
        "jax.nn": ("", jax.nn.relu6),
        "clip": ("", _relu6),
        "min of max": ("", lambda y: jnp.minimum(jnp.maximum(y, 0), 6)),
        "difference of relus": ("", lambda y: jax.nn.relu(y) - jax.nn.relu(y - 6)),
        "6 - relu(6 - relu)": ("D1", lambda y: 6 - jax.nn.relu(6 - jax.nn.relu(y))),
    },
    "leaky_relu": {
        "jax.nn": ("", lambda y: jax.nn.leaky_relu(y, LEAK)),
        "max": ("", lambda y: jnp.maximum(y, LEAK * y)),
        "where": ("", lambda y: jnp.where(y > 0, y, LEAK * y)),
        "two relus": ("", lambda y: jax.nn.relu(y) - LEAK * jax.nn.relu(-y)),
    },
    "elu": {
        "jax.nn": ("", jax.nn.elu),
        "where": ("", lambda y: jnp.where(y > 0, y, _expm1(y))),
        "sum": ("", lambda y: jax.nn.relu(y) + _expm1(y)),
    },
    "selu": {
        "jax.nn": ("", jax.nn.selu),
        "where": ("", lambda y: _SCALE * jnp.where(y > 0, y, _ALPHA * _expm1(y))),
    },
    "gelu": {
        "jax.nn": ("", lambda y: jax.nn.gelu(y, approximate=False)),
        "erf": ("", lambda y: y * 0.5 * (1 + lax.erf(y / math.sqrt(2)))),
        "cdf": ("", lambda y: y * jax.scipy.stats.norm.cdf(y)),
    },
    "gelu_tanh": {
        "jax.nn": ("", jax.nn.gelu),
        "by hand": ("", lambda y: 0.5 * y * (1 + jnp.tanh(_TANH_IN * (y + 0.044715 * y**3)))),
    },
    "silu": {
        "jax.nn": ("", jax.nn.silu),
        "y sigmoid(y)": ("", lambda y: y * jax.nn.sigmoid(y)),
        "quotient": ("", lambda y: y / (1 + jnp.exp(-y))),
        "tanh": ("", lambda y: y * (0.5 * jnp.tanh(0.5 * y) + 0.5)),
    },
    "mish": {
        "jax.nn": ("", jax.nn.mish),
        "by hand": ("", lambda y: y * jnp.tanh(jax.nn.softplus(y))),
    },
    "hard_swish": {
        "jax.nn": ("", jax.nn.hard_swish),
        "relu6": ("", lambda y: y * _relu6(y + 3) / 6),
        "clip": ("", lambda y: y * jnp.clip(y / 6 + 0.5, 0, 1)),
    },
    "hard_tanh": {
        "jax.nn": ("", jax.nn.hard_tanh),
        "clip": ("", lambda y: jnp.clip(y, -1, 1)),
        "max of min": ("", lambda y: jnp.maximum(jnp.minimum(y, 1.0), -1.0)),
    },
    "tanh": {
        "jnp": ("", jnp.tanh),
        "sigmoid": ("", lambda y: 2 * jax.nn.sigmoid(2 * y) - 1),
        "-tanh(-y)": ("D1", lambda y: -jnp.tanh(-y)),
        "1 - 2 / (e^2y + 1)": ("D1", lambda y: 1 - 2 / (jnp.exp(2 * y) + 1)),
    },
    "sigmoid": {
        "jax.nn": ("", jax.nn.sigmoid),
        "tanh": ("", lambda y: 0.5 * (1 + jnp.tanh(0.5 * y))),
        "quotient": ("D1", lambda y: 1 / (1 + jnp.exp(-y))),
        "1 - sigmoid(-y)": ("D1", lambda y: 1 - jax.nn.sigmoid(-y)),
        "exp of log": ("D1", lambda y: jnp.exp(jax.nn.log_sigmoid(y))),
    },
    "softplus": {
        "jax.nn": ("", jax.nn.softplus),
        "log1p": ("", lambda y: jnp.log1p(jnp.exp(y))),
        "by hand": ("D1", _softplus),
        "-log_sigmoid(-y)": ("D1", lambda y: -jax.nn.log_sigmoid(-y)),
    },
    "minus": {"neg": ("", lambda y: -y), "times": ("", lambda y: y * -1.0)},
    "one_minus": {"sub": ("", lambda y: 1 - y), "add": ("", lambda y: -y + 1)},
    "exp_minus": {"exp": ("", lambda y: jnp.exp(-y)), "quotient": ("", lambda y: 1 / jnp.exp(y))},
    "abs": {
        "jnp": ("", jnp.abs),
        "two relus": ("", lambda y: jax.nn.relu(y) + jax.nn.relu(-y)),
        "max": ("", lambda y: jnp.maximum(y, -y)),
        "where": ("", lambda y: jnp.where(y >= 0, y, -y)),
    },
    "square": {"product": ("", lambda y: y * y), "power": ("", lambda y: y**2)},
}


def _last_axis(y: jax.Array) -> int:
    return y.shape[-1]


def _scan_once(y: jax.Array) -> jax.Array:
    return lax.scan(lambda carry, _: (carry, carry * 1.0), y, None, length=1)[1][0]


def _cond(y: jax.Array) -> jax.Array:
    return lax.cond(jnp.array(True), lambda v: v + 0.0, lambda v: v, y)


def _pad_and_slice(y: jax.Array) -> jax.Array:
    wider = jnp.pad(y, [(0, 0)] * (y.ndim - 1) + [(1, 2)])
    return wider[..., 1 : 1 + _last_axis(y)]


def _split_and_join(y: jax.Array) -> jax.Array:
    return jnp.concatenate([y[..., :1], y[..., 1:]], -1)


#: "D5" here stands for what issue 12 mends: an operation that moves elements.
IDENTITIES: Spelled = {
    "nothing": ("", lambda y: y),
    "jit": ("", lambda y: jax.jit(lambda v: v + 0.0)(y)),
    "remat": ("", lambda y: jax.checkpoint(lambda v: v * 1.0)(y)),
    "reverse twice": ("", lambda y: jnp.flip(jnp.flip(y, -1), -1)),
    "reshape": ("", lambda y: y.reshape(-1).reshape(y.shape)),
    "transpose": ("", lambda y: jnp.swapaxes(jnp.swapaxes(y, 0, -1), 0, -1)),
    "split and join": ("", _split_and_join),
    "scan of one step": ("", _scan_once),
    "cond": ("", _cond),
    "pad and slice": ("", _pad_and_slice),
    "gather": ("D5", lambda y: y[..., jnp.arange(_last_axis(y))]),
    "stack": ("D5", lambda y: jnp.stack([y, y])[1]),
    "where(True)": ("D5", lambda y: jnp.where(jnp.ones(y.shape, bool), y, 0.0)),
    "barrier": ("D5", lax.optimization_barrier),
    "at[].set": ("D5", lambda y: jnp.zeros_like(y).at[:].set(y)),
    "roll": ("D5", lambda y: jnp.roll(jnp.roll(y, 1, -1), -1, -1)),
}
