"""Steps with weights: dense layers, convolutions, attention, gated units; and pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .table import Shape, register_functions, step
from .weights import Weights

LETTERS = "DHW"


@step("dense")
def dense(w: Weights, x: jax.Array, width: int | None = None) -> jax.Array:
    before = x.shape[-1]
    width = width or before
    return x @ w.matrix(before, width, inputs=before) + w.bias(width)


@step("dense without bias")
def dense_without_bias(w: Weights, x: jax.Array) -> jax.Array:
    return x @ w.matrix(x.shape[-1], x.shape[-1], inputs=x.shape[-1])


@step("wider", fits=lambda s: s[-1] <= 4)
def wider(w: Weights, x: jax.Array) -> jax.Array:
    return dense(w, x, 2 * x.shape[-1])


@step("narrower", fits=lambda s: s[-1] >= 4)
def narrower(w: Weights, x: jax.Array) -> jax.Array:
    return dense(w, x, x.shape[-1] // 2)


@step("dense from the left")
def dense_from_the_left(w: Weights, x: jax.Array) -> jax.Array:
    matrix = w.matrix(x.shape[-1], x.shape[-1], inputs=x.shape[-1])
    return jnp.moveaxis(matrix @ jnp.moveaxis(x, -1, -2), -2, -1)


@step("token mixing", 3, 4)
def token_mixing(w: Weights, x: jax.Array) -> jax.Array:
    length = x.shape[1]
    return jnp.einsum("nt...,ts->ns...", x, w.matrix(length, length, inputs=length))


@step("dense, its own at each position", 3)
def locally_connected(w: Weights, x: jax.Array) -> jax.Array:
    _, length, width = x.shape
    return jnp.einsum("ntc,tcd->ntd", x, w.matrix(length, width, width, inputs=width))


def convolved(
    w: Weights, x: jax.Array, kernel: int | Sequence[int] = 3, width: int | None = None,
    groups: int = 1, channels_first: bool = False, **options: Any,
) -> jax.Array:  # fmt: skip
    rank, before = x.ndim - 2, x.shape[-1]
    sizes = (kernel,) * rank if isinstance(kernel, int) else tuple(kernel)
    letters, width = LETTERS[-rank:], width or before
    inputs = math.prod(sizes) * before // groups
    layout = f"NC{letters}" if channels_first else f"N{letters}C"
    options = {"window_strides": (1,) * rank, "padding": "SAME", **options}
    y = lax.conv_general_dilated(
        jnp.moveaxis(x, -1, 1) if channels_first else x,
        w.matrix(*sizes, before // groups, width, inputs=inputs),
        feature_group_count=groups,
        dimension_numbers=(layout, f"{letters}IO", layout),
        **options,
    )
    y = jnp.moveaxis(y, 1, -1) if channels_first else y
    return y + w.bias(width)


def spatial(least: int) -> Any:
    """Whether all spatial axes are at least so long."""
    return lambda shape: min(shape[1:-1]) >= least


@step("conv", 3, 4, 5)
def conv(w: Weights, x: jax.Array) -> jax.Array:
    return convolved(w, x)


@step("conv of stride 2", 3, 4, 5, fits=spatial(2))
def conv_of_stride_2(w: Weights, x: jax.Array) -> jax.Array:
    return convolved(w, x, window_strides=(2,) * (x.ndim - 2))


@step("conv without padding", 3, 4, fits=spatial(3))
def conv_without_padding(w: Weights, x: jax.Array) -> jax.Array:
    return convolved(w, x, padding="VALID")


@step("conv 1x1 with padding", 3, 4, excites=False)
def conv_with_padding(w: Weights, x: jax.Array) -> jax.Array:
    return convolved(w, x, 1, padding=((1, 0),) * (x.ndim - 2))


@step("dilated conv", 3, 4, fits=spatial(3))
def dilated_conv(w: Weights, x: jax.Array) -> jax.Array:
    return convolved(w, x, rhs_dilation=(2,) * (x.ndim - 2))


@step("causal conv", 3)
def causal_conv(w: Weights, x: jax.Array) -> jax.Array:
    return convolved(w, x, 2, padding=[(2, 0)], rhs_dilation=(2,))


@step("depthwise conv", 3, 4, 5)
def depthwise_conv(w: Weights, x: jax.Array) -> jax.Array:
    return convolved(w, x, groups=x.shape[-1])


@step("grouped conv, wider", 3, 4, fits=lambda s: s[-1] in (2, 4))
def grouped_conv(w: Weights, x: jax.Array) -> jax.Array:
    return convolved(w, x, groups=2, width=2 * x.shape[-1])


@step("conv, channels first", 3, 4)
def conv_channels_first(w: Weights, x: jax.Array) -> jax.Array:
    return convolved(w, x, (2, 3)[: x.ndim - 2], channels_first=True)


@step("transposed conv", 3, 4, fits=lambda s: max(s[1:-1]) <= 2)
def transposed_conv(w: Weights, x: jax.Array) -> jax.Array:
    rank, width = x.ndim - 2, x.shape[-1]
    kernel = w.matrix(*(3 for _ in range(rank)), width, width, inputs=3 * width)
    letters = LETTERS[-rank:]
    numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    return lax.conv_transpose(x, kernel, (2,) * rank, "SAME", dimension_numbers=numbers)


@step("conv, batch norm, relu", 3, 4, 5)
def block(w: Weights, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    y = convolved(w, x) - w.bias(width)
    return jax.nn.relu(y * w.scale(width) + w.bias(width))


def window(x: jax.Array, size: int) -> tuple[int, ...]:
    return (1, *(size for _ in x.shape[1:-1]), 1)


def average_pool(x: jax.Array, size: int, stride: int, padding: str, count: bool) -> jax.Array:
    sizes = (window(x, size), window(x, stride), padding)
    total = lax.reduce_window(x, 0.0, lax.add, *sizes)
    if count:
        return total / size ** (x.ndim - 2)
    return total / lax.reduce_window(jnp.ones_like(x), 0.0, lax.add, *sizes)


def max_pool(x: jax.Array, size: int, stride: int, padding: str = "VALID") -> jax.Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, window(x, size), window(x, stride), padding)


register_functions(
    {
        "max pool": lambda x: max_pool(x, 2, 2),
        "average pool": lambda x: average_pool(x, 2, 2, "VALID", True),
        "max pool, overlapping": lambda x: max_pool(x, 2, 1, "SAME"),
        "min pool": lambda x: lax.reduce_window(
            x, jnp.inf, lax.min, window(x, 2), window(x, 1), "SAME"),
        "average pool, padding counted": lambda x: average_pool(x, 2, 1, "SAME", True),
        "average pool, padding not counted": lambda x: average_pool(x, 2, 1, "SAME", False),
        "sum pool": lambda x: lax.reduce_window(
            x, 0.0, lax.add, window(x, 2), window(x, 1), "VALID"),
    },
    3, 4, 5, fits=spatial(2),
)  # fmt: skip


def log_sum_exp(x: jax.Array) -> jax.Array:
    return jax.nn.logsumexp(x, axis=axes(x))


def axes(x: jax.Array) -> tuple[int, ...]:
    return tuple(range(1, x.ndim - 1))


register_functions(
    {
        "global average": lambda x: x.mean(axes(x)), "global maximum": lambda x: x.max(axes(x)),
        "global sum": lambda x: x.sum(axes(x)), "global minimum": lambda x: x.min(axes(x)),
        "root of mean square": lambda x: jnp.sqrt(jnp.square(x).mean(axes(x)) + 1e-3),
    },
    3, 4, 5,
)  # fmt: skip
register_functions(
    {"global log sum exp": log_sum_exp, "standard deviation": lambda x: x.std(axes(x)) + 0.1},
    3, 4, excites=False,
)  # fmt: skip
register_functions(
    {
        "resized bilinearly": lambda x: jax.image.resize(
            x, (x.shape[0], 3, 3, x.shape[3]), "bilinear"),
        "resized by repetition": lambda x: jax.image.resize(
            x, (x.shape[0], 3, 3, x.shape[3]), "nearest"),
    },
    4,
)  # fmt: skip


def projections(w: Weights, x: jax.Array, count: int) -> list[jax.Array]:
    width = x.shape[-1]
    return [x @ w.matrix(width, width, inputs=width) for _ in range(count)]


@step("attention", 3)
def attention(w: Weights, x: jax.Array) -> jax.Array:
    query, key, value = projections(w, x, 3)
    scores = jnp.einsum("ntc,nsc->nts", query, key) / math.sqrt(x.shape[-1])
    return jnp.einsum("nts,nsc->ntc", jax.nn.softmax(scores), value)


@step("causal attention of two heads", 3, fits=lambda s: s[-1] % 2 == 0)
def attention_of_two_heads(w: Weights, x: jax.Array) -> jax.Array:
    parts = (*x.shape[:2], 2, x.shape[-1] // 2)
    query, key, value = (part.reshape(parts) for part in projections(w, x, 3))
    return jax.nn.dot_product_attention(query, key, value, is_causal=True).reshape(x.shape)


@step("attention to raw values", 3)
def attention_to_raw_values(w: Weights, x: jax.Array) -> jax.Array:
    query, key = projections(w, x, 2)
    return jax.nn.softmax(query @ key.swapaxes(1, 2)) @ x


@step("attention pooling", 3)
def attention_pooling(w: Weights, x: jax.Array) -> jax.Array:
    (value,) = projections(w, x, 1)
    scores = x @ w.matrix(x.shape[-1], inputs=x.shape[-1])
    return jnp.einsum("nt,ntc->nc", jax.nn.softmax(scores), value)


def gated(gate: Any) -> Any:
    def unit(w: Weights, x: jax.Array) -> jax.Array:
        value, control = projections(w, x, 2)
        return value * gate(control)

    return unit


for name, gate in {
    "GLU": jax.nn.sigmoid, "SwiGLU": jax.nn.silu, "GEGLU": jax.nn.gelu, "ReGLU": jax.nn.relu,
}.items():  # fmt: skip
    step(name)(gated(gate))


@step("transformer block", 3, excites=False)
def transformer_block(w: Weights, x: jax.Array) -> jax.Array:
    x = x + attention(w, x - x.mean(-1, keepdims=True))
    return x + dense(w, jax.nn.gelu(dense(w, x)))


@step("inverted residual", 3, 4)
def inverted_residual(w: Weights, x: jax.Array) -> jax.Array:
    y = jax.nn.relu6(convolved(w, x, 1))
    y = jax.nn.relu6(convolved(w, y, groups=y.shape[-1]))
    return x + convolved(w, y, 1)


@step("gradient step")
def gradient_step(w: Weights, x: jax.Array) -> jax.Array:
    """A gradient taken inside the model, of an energy that reads the state twice."""
    matrix = w.matrix(x.shape[-1], 3, inputs=x.shape[-1])

    def energy(x: jax.Array) -> jax.Array:
        return jax.nn.softplus(x @ matrix).sum() + jax.nn.softplus(x).sum()

    return jax.grad(energy)(x)


def table_for(tokens: Shape) -> tuple[int, int]:
    """Rows and columns of the table that tokens of this shape are looked up in."""
    return 7, 4
