"""Every family of operations, one at a time, against the formula on its dense matrix.

The oracle knows an operation only as a function: it feeds the basis vectors to get the matrix
J, and computes h * (J+^T (p / (J+ h))) (Eq. 6) in numpy float64, J+ the positive part of J.
Constant scales behind a convolution are part of J, and so of its effective weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import excitation_jax as ej

Function = Callable[[jax.Array], jax.Array]
FAST = {"xla_backend_optimization_level": 0}


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    """Of both signs."""
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def prior(shape: tuple[int, ...]) -> np.ndarray:
    p = np.random.default_rng(99).uniform(0.1, 1, size=shape)
    return p / p.sum()


def matrix(f: Function, shape: tuple[int, ...]) -> np.ndarray:
    """J of an affine f: (outputs, inputs)."""
    f = jax.jit(f, compiler_options=FAST)
    zero = np.asarray(f(np.zeros(shape)))
    columns = []
    for i in range(math.prod(shape)):
        basis = np.zeros(shape)
        basis.flat[i] = 1
        columns.append((np.asarray(f(basis)) - zero).ravel())
    return np.stack(columns, axis=1)


def excitation(j: np.ndarray, h: np.ndarray, p: np.ndarray) -> np.ndarray:
    """h * (J+^T (p / (J+ h))), 0/0 = 0; in the shape of h."""
    positive, flat = np.maximum(j, 0), h.ravel()
    total = positive @ flat
    ratio = np.divide(p.ravel(), total, out=np.zeros(p.size), where=total > 0)
    return (flat * (positive.T @ ratio)).reshape(h.shape)


def pull(f: Function, x: np.ndarray, p: np.ndarray) -> np.ndarray:
    """What the library sends to x; the outputs have to be those of f."""

    def mwp(x: jax.Array, p: jax.Array) -> tuple[jax.Array, jax.Array]:
        outputs, vjp = jax.vjp(ej.excite(f), x)
        return outputs, vjp(p)[0]

    outputs, found = jax.jit(mwp, compiler_options=FAST)(x, p)
    np.testing.assert_allclose(outputs, jax.jit(f)(x), rtol=1e-12, atol=1e-12)
    return np.asarray(found)


def output_shape(f: Function, shape: tuple[int, ...]) -> tuple[int, ...]:
    return jax.eval_shape(f, jax.ShapeDtypeStruct(shape, np.float64)).shape


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def case(name: str, f: Function, *shape: int) -> Any:
    return pytest.param(f, shape, id=name)


# --- R1: affine operations --------------------------------------------------------------------


def conv(
    *kernel: int, layout: tuple[str, str, str], groups: int = 1, batch_groups: int = 1,
    stride: Any = 1, padding: Any = "SAME", lhs_dilation: Any = 1, rhs_dilation: Any = 1,
) -> Function:  # fmt: skip
    w = weights(*kernel)
    rank = len(kernel) - 2

    def each(value: int | tuple[int, ...]) -> tuple[int, ...]:
        return value if isinstance(value, tuple) else (value,) * rank

    def f(x: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x, w, each(stride), padding, each(lhs_dilation), each(rhs_dilation), layout,
            feature_group_count=groups, batch_group_count=batch_groups,
        )  # fmt: skip

    return f


C1 = ("NWC", "WIO", "NWC")
C2 = ("NHWC", "HWIO", "NHWC")
C2_FIRST = ("NCHW", "OIHW", "NCHW")
C3 = ("NDHWC", "DHWIO", "NDHWC")


def flax_layer(layer: nn.Module, *shape: int) -> Function:
    """A Flax layer with weights and biases of both signs."""
    x = jax.ShapeDtypeStruct(shape, np.float32)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
    leaves, tree = jax.tree.flatten(shapes)
    filled = [weights(*leaf.shape, seed=i) for i, leaf in enumerate(leaves)]
    return lambda x: layer.apply(jax.tree.unflatten(tree, filled), x)


def adaptive_average(size: int, axes: tuple[int, ...] = (1, 2)) -> Function:
    """Adaptive pooling to size x size, the windows uneven where they must be."""

    def f(x: jax.Array) -> jax.Array:
        for axis in axes:
            n = x.shape[axis]
            parts = [
                lax.slice_in_dim(x, n * i // size, -(-n * (i + 1) // size), axis=axis).mean(axis)
                for i in range(size)
            ]
            x = jnp.stack(parts, axis)
        return x

    return f


CONVOLUTIONS = [
    case("1d", conv(3, 2, 3, layout=C1), 2, 6, 2),
    case("1d strided valid", conv(3, 2, 3, layout=C1, stride=2, padding="VALID"), 1, 7, 2),
    case("2d same", conv(3, 3, 2, 3, layout=C2), 1, 5, 4, 2),
    case("2d valid", conv(3, 2, 2, 3, layout=C2, padding="VALID"), 2, 5, 4, 2),
    case("2d explicit", conv(3, 3, 2, 2, layout=C2, padding=[(0, 2), (1, 0)]), 1, 4, 4, 2),
    case(
        "2d negative padding", conv(2, 2, 2, 2, layout=C2, padding=[(-1, 2), (1, -1)]), 1, 5, 5, 2
    ),
    case("2d strided", conv(3, 3, 2, 3, layout=C2, stride=(2, 1)), 1, 5, 5, 2),
    case("2d dilated", conv(2, 3, 2, 3, layout=C2, rhs_dilation=(2, 1)), 1, 5, 5, 2),
    case(
        "2d lhs-dilated",
        conv(3, 3, 2, 2, layout=C2, padding=[(1, 2), (1, 1)], lhs_dilation=(2, 1)),
        1,
        3,
        4,
        2,
    ),
    case("2d channels first", conv(3, 2, 3, 3, layout=C2_FIRST, stride=2), 1, 2, 5, 5),
    case("2d grouped", conv(3, 3, 2, 6, layout=C2, groups=2), 1, 4, 3, 4),
    case("2d depthwise", conv(3, 3, 1, 3, layout=C2, groups=3), 1, 4, 4, 3),
    case("2d depthwise multiplier", conv(2, 3, 1, 6, layout=C2, groups=3, stride=2), 1, 4, 4, 3),
    case("2d channels first grouped", conv(4, 2, 3, 3, layout=C2_FIRST, groups=2), 1, 4, 4, 3),
    case("2d batch groups", conv(3, 3, 2, 4, layout=C2, batch_groups=2), 2, 4, 4, 2),
    case("3d", conv(2, 2, 2, 2, 2, layout=C3), 1, 3, 3, 3, 2),
    case(
        "3d strided dilated",
        conv(2, 1, 2, 1, 2, layout=C3, stride=2, rhs_dilation=2),
        1,
        4,
        3,
        3,
        1,
    ),
    case(
        "lax transpose same",
        lambda x: lax.conv_transpose(x, weights(3, 3, 2, 3), (2, 2), "SAME"),
        1,
        3,
        3,
        2,
    ),
    case(
        "lax transpose valid, dilated kernel",
        lambda x: lax.conv_transpose(x, weights(2, 2, 2, 3), (2, 1), "VALID", rhs_dilation=(2, 1)),
        1,
        3,
        3,
        2,
    ),
    case(
        "lax transpose kernel",
        lambda x: lax.conv_transpose(x, weights(3, 3, 3, 2), (2, 2), "SAME", transpose_kernel=True),
        1,
        3,
        3,
        2,
    ),
    case("flax", flax_layer(nn.Conv(3, (3, 3), 2), 1, 5, 5, 2), 1, 5, 5, 2),
    case("flax unbatched", flax_layer(nn.Conv(3, (3,)), 5, 2), 5, 2),
    case("flax circular", flax_layer(nn.Conv(3, (3,), padding="CIRCULAR"), 1, 5, 2), 1, 5, 2),
    case("flax causal", flax_layer(nn.Conv(3, (3,), padding="CAUSAL"), 1, 5, 2), 1, 5, 2),
    case("flax two batch axes", flax_layer(nn.Conv(2, (3,)), 2, 2, 4, 2), 2, 2, 4, 2),
    case("flax transpose", flax_layer(nn.ConvTranspose(3, (3, 3), (2, 2)), 1, 3, 3, 2), 1, 3, 3, 2),
    case(
        "flax transpose 1d", flax_layer(nn.ConvTranspose(2, (4,), (2,), "VALID"), 1, 4, 2), 1, 4, 2
    ),
]
DENSE = [
    case("weights right", lambda x: x @ weights(4, 3), 2, 4),
    case("weights left", lambda x: weights(3, 4) @ x, 4, 2),
    case("vector", lambda x: weights(3, 4) @ x, 4),
    case("batched right", lambda x: jnp.matmul(x, weights(2, 4, 3)), 2, 3, 4),
    case("batched left", lambda x: jnp.matmul(weights(2, 3, 4), x), 2, 4, 2),
    case("einsum", lambda x: jnp.einsum("nhwc,cd->ndhw", x, weights(2, 3)), 1, 2, 3, 2),
    case(
        "einsum two contractions",
        lambda x: jnp.einsum("nhwc,whd->ncd", x, weights(3, 2, 4)),
        1,
        2,
        3,
        2,
    ),
    case("einsum batch dims", lambda x: jnp.einsum("nhc,hcd->dnh", x, weights(3, 2, 4)), 2, 3, 2),
    case("einsum batch left", lambda x: jnp.einsum("hcd,nhc->hnd", weights(3, 2, 4), x), 2, 3, 2),
    case("tensordot", lambda x: jnp.tensordot(weights(3, 2, 4), x, ((1, 2), (2, 1))), 2, 4, 2),
    case("flax dense", flax_layer(nn.Dense(3), 2, 3, 4), 2, 3, 4),
    case("flax dense general", flax_layer(nn.DenseGeneral((2, 3), axis=(1, 2)), 2, 3, 4), 2, 3, 4),
    case("flax einsum", flax_layer(nn.Einsum((3, 4, 2), "nab,abc->nc"), 2, 3, 4), 2, 3, 4),
]
SUMS = [
    case("sum", lambda x: x.sum((1, 2)), 2, 3, 3, 2),
    case("mean", lambda x: x.mean((1, 2)), 2, 3, 3, 2),
    case("mean keepdims", lambda x: x.mean(-1, keepdims=True), 2, 3, 2),
    case("cumsum", lambda x: jnp.cumsum(x, 1), 2, 4),
    case("cumsum reverse", lambda x: lax.cumsum(x, 0, reverse=True), 4, 2),
    case("average pool", lambda x: nn.avg_pool(x, (2, 2), (2, 2)), 1, 4, 4, 2),
    case(
        "average pool, padding counted",
        lambda x: nn.avg_pool(x, (3, 3), (2, 2), "SAME"),
        1,
        4,
        5,
        2,
    ),
    case(
        "average pool, padding not counted",
        lambda x: nn.avg_pool(x, (3, 3), (2, 2), "SAME", count_include_pad=False),
        1,
        4,
        5,
        2,
    ),
    case("average pool explicit", lambda x: nn.avg_pool(x, (3,), (1,), [(2, 0)]), 1, 5, 2),
    case("global pool", lambda x: x.mean((2, 3)), 2, 2, 3, 3),
    case("adaptive pool", adaptive_average(2, axes=(1,)), 1, 5, 2),
    case(
        "dilated window sum",
        lambda x: lax.reduce_window(
            x, 0.0, lax.add, (1, 2, 1), (1, 1, 1), "VALID", None, (1, 2, 1)
        ),
        1,
        5,
        2,
    ),
    case("trace of einsum", lambda x: jnp.einsum("nij->ni", x), 2, 3, 3),
]


@pytest.mark.parametrize(("f", "shape"), CONVOLUTIONS + DENSE + SUMS)
def test_affine_operations_follow_equation_6(f: Function, shape: tuple[int, ...]) -> None:
    x, p = weights(*shape, seed=5), prior(output_shape(f, shape))
    j = matrix(f, shape)
    assert_close(pull(f, x, p), excitation(j, np.maximum(x, 0), p))


@pytest.mark.parametrize(("f", "shape"), CONVOLUTIONS[::4] + DENSE[::4] + SUMS[::3])
def test_affine_operations_count_from_the_lower_bound(f: Function, shape: tuple[int, ...]) -> None:
    x, p = weights(*shape, seed=5), prior(output_shape(f, shape))
    found = pull(lambda x: f(jnp.tanh(x)), x, p)
    assert_close(found, excitation(matrix(f, shape), np.tanh(x) + 1, p))


# Two affine operations in a row: the same as one on values that are not negative.
TWO_STEPS = [
    case("adaptive 2d", adaptive_average(2), 1, 5, 3, 2),
    case("bilinear up", lambda x: jax.image.resize(x, (1, 5, 6, 2), "bilinear"), 1, 3, 3, 2),
    case("bilinear down", lambda x: jax.image.resize(x, (1, 2, 3, 2), "bilinear"), 1, 5, 5, 2),
    case(
        "bilinear, not smoothed",
        lambda x: jax.image.resize(x, (1, 2, 3, 1), "bilinear", antialias=False),
        1,
        5,
        5,
        1,
    ),
    case("one axis cubic", lambda x: jax.image.resize(x, (1, 7, 2), "cubic"), 1, 4, 2),
    case("average then sum", lambda x: nn.avg_pool(x, (2, 2), (2, 2)).sum((1, 2)), 1, 4, 4, 2),
    case("einsum that sums", lambda x: jnp.einsum("nhc,cd->nd", x, weights(2, 3)), 2, 3, 2),
    case(
        "three factors",
        lambda x: jnp.einsum("na,ab,bc->nc", x, *(np.abs(weights(3, 3)),) * 2),
        2,
        3,
    ),
]


@pytest.mark.parametrize(("f", "shape"), TWO_STEPS)
def test_several_affine_steps_on_activations(f: Function, shape: tuple[int, ...]) -> None:
    x, p = weights(*shape, seed=6), prior(output_shape(f, shape))
    found = pull(lambda x: f(jax.nn.relu(x)), x, p)
    assert_close(found, excitation(matrix(f, shape), np.maximum(x, 0), p))


# --- effective weights ------------------------------------------------------------------------

GAMMA = np.array([1.5, -0.5, -2.0])
BIAS = np.array([0.3, -0.2, 0.1])
convolve = conv(3, 3, 2, 3, layout=C2)
convolve_first = conv(3, 2, 3, 3, layout=C2_FIRST)
IMAGE = (1, 4, 3, 2)


def batch_norm(x: jax.Array, axis: int = -1, gamma: np.ndarray = GAMMA) -> jax.Array:
    width = x.shape[axis]
    layer = nn.BatchNorm(use_running_average=True, axis=axis, epsilon=1e-3)
    stats = {"mean": weights(width, seed=3), "var": np.abs(weights(width, seed=4)) + 0.1}
    scale = np.resize(gamma, width)
    variables = {"params": {"scale": scale, "bias": np.resize(BIAS, width)}, "batch_stats": stats}
    return layer.apply(variables, x)


@jax.custom_jvp
def scaled_by_custom_jvp(x: jax.Array) -> jax.Array:
    return x * GAMMA


scaled_by_custom_jvp.defjvps(lambda t, out, x: t * GAMMA)


def vmapped_norm(x: jax.Array) -> jax.Array:
    return jax.vmap(batch_norm)(jax.vmap(lambda one: convolve(one[None])[0])(x))


EFFECTIVE = [
    case("batch norm", lambda x: batch_norm(convolve(x)), *IMAGE),
    case("batch norm channels first", lambda x: batch_norm(convolve_first(x), 1), 1, 2, 4, 3),
    case("scale before bias", lambda x: convolve(x) * GAMMA + BIAS, *IMAGE),
    case("scale after bias", lambda x: (convolve(x) + BIAS) * GAMMA, *IMAGE),
    case(
        "flax bias then norm",
        lambda x: batch_norm(flax_layer(nn.Conv(3, (3, 3)), *IMAGE)(x)),
        *IMAGE,
    ),
    case("division", lambda x: (convolve(x) + BIAS) / GAMMA, *IMAGE),
    case("division by a negative number", lambda x: convolve(x) / -2.0, *IMAGE),
    case("negation", lambda x: -convolve(x), *IMAGE),
    case("one minus", lambda x: 1 - convolve(x), *IMAGE),
    case("minus a constant", lambda x: convolve(x) - BIAS, *IMAGE),
    case("negative literal", lambda x: convolve(x) * -0.5, *IMAGE),
    case("scale on the left", lambda x: GAMMA * convolve(x), *IMAGE),
    case("scalar array", lambda x: convolve(x) * jnp.asarray(GAMMA)[1], *IMAGE),
    case("zero among the scales", lambda x: convolve(x) * np.array([1.0, 0.0, -1.0]), *IMAGE),
    case("two scales", lambda x: -(convolve(x) * GAMMA) + BIAS, *IMAGE),
    case("two norms", lambda x: batch_norm(batch_norm(convolve(x)), gamma=-GAMMA[::-1]), *IMAGE),
    case("scale by position", lambda x: convolve(x) * weights(4, 3, 1), *IMAGE),
    case("scale by position and channel", lambda x: convolve(x) * weights(4, 3, 3), *IMAGE),
    case("scale by example", lambda x: convolve(x) * weights(2, 1, 1, 1), 2, 3, 3, 2),
    case("scale by position and example", lambda x: convolve(x) * weights(2, 3, 1, 3), 2, 3, 3, 2),
    case("scale, then transpose", lambda x: (convolve(x) * GAMMA).transpose(0, 3, 1, 2), *IMAGE),
    case(
        "transpose, then scale",
        lambda x: convolve(x).transpose(3, 0, 2, 1) * GAMMA[:, None, None, None],
        *IMAGE,
    ),
    case(
        "transpose, then scale by row",
        lambda x: convolve(x).transpose(0, 3, 2, 1) * weights(4),
        *IMAGE,
    ),
    case("reshape, then scale", lambda x: convolve(x).reshape(1, 12, 3) * GAMMA, *IMAGE),
    case("flatten, then scale", lambda x: convolve(x).reshape(1, -1) * weights(36), *IMAGE),
    case(
        "split channels, then scale",
        lambda x: convolve(x).reshape(1, 4, 3, 3, 1) * GAMMA[:, None],
        *IMAGE,
    ),
    case("squeeze, then scale", lambda x: convolve(x)[0] * GAMMA, *IMAGE),
    case("expand, then scale", lambda x: convolve(x)[:, None] * GAMMA, *IMAGE),
    case("crop, then scale", lambda x: convolve(x)[:, 1:, ::2] * GAMMA, *IMAGE),
    case("crop channels, then scale", lambda x: convolve(x)[..., 1:] * GAMMA[1:], *IMAGE),
    case(
        "pad, then scale",
        lambda x: jnp.pad(convolve(x), ((0, 0), (1, 0), (0, 1), (0, 0))) * GAMMA,
        *IMAGE,
    ),
    case(
        "shuffle channels, then scale",
        lambda x: convolve(x)[..., np.array([2, 0, 1])] * GAMMA,
        *IMAGE,
    ),
    case("flip, then scale", lambda x: jnp.flip(convolve(x), (1, 3)) * GAMMA, *IMAGE),
    case("roll, then scale", lambda x: jnp.roll(convolve(x), 1, -1) * GAMMA, *IMAGE),
    case("repeat, then scale", lambda x: jnp.repeat(convolve(x), 2, 1) * GAMMA, *IMAGE),
    case(
        "nearest, then scale",
        lambda x: jax.image.resize(convolve(x), (1, 8, 6, 3), "nearest") * GAMMA,
        *IMAGE,
    ),
    case(
        "concatenate, then norm",
        lambda x: batch_norm(jnp.concatenate([convolve(x), convolve(x[:, ::-1])], -1)),
        *IMAGE,
    ),
    case(
        "split, then scale",
        lambda x: jnp.concatenate(jnp.split(convolve(x), 3, -1)[::-1], -1) * GAMMA,
        *IMAGE,
    ),
    case("cast, then scale", lambda x: lax.reduce_precision(convolve(x), 11, 52) * GAMMA, *IMAGE),
    case("tag, then scale", lambda x: ej.tag(convolve(x), "t") * GAMMA, *IMAGE),
    case("stop_gradient, then scale", lambda x: lax.stop_gradient(convolve(x)) * GAMMA, *IMAGE),
    case("jit", lambda x: jax.jit(lambda y: y * GAMMA)(jax.jit(convolve)(x)), *IMAGE),
    case(
        "remat", lambda x: jax.checkpoint(lambda y: y * GAMMA)(jax.checkpoint(convolve)(x)), *IMAGE
    ),
    case("custom_jvp", lambda x: scaled_by_custom_jvp(convolve(x)), *IMAGE),
    case("vmap", vmapped_norm, 2, 3, 3, 2),
    case("grouped", lambda x: batch_norm(conv(3, 3, 1, 6, layout=C2, groups=2)(x)), *IMAGE),
    case("depthwise", lambda x: batch_norm(conv(3, 3, 1, 2, layout=C2, groups=2)(x)), *IMAGE),
    case(
        "batch groups",
        lambda x: batch_norm(conv(3, 3, 2, 4, layout=C2, batch_groups=2)(x)),
        2,
        3,
        3,
        2,
    ),
    case(
        "transposed",
        lambda x: batch_norm(lax.conv_transpose(x, weights(3, 3, 2, 3), (2, 2), "SAME")),
        1,
        3,
        3,
        2,
    ),
    case("dense", lambda x: batch_norm(x @ weights(4, 3)), 2, 4),
    case("dense, weights left", lambda x: weights(3, 4) @ x * GAMMA[:, None], 4, 2),
    case(
        "dense to channels first",
        lambda x: jnp.einsum("nhwc,cd->ndhw", x, weights(2, 3)) * GAMMA[:, None, None],
        *IMAGE,
    ),
    case(
        "dense on channels first",
        lambda x: batch_norm(jnp.einsum("nchw,cd->ndhw", x, weights(2, 3)), 1),
        1,
        2,
        4,
        3,
    ),
    case(
        "dense, weights left, channels first",
        lambda x: jnp.einsum("dc,nchw->ndhw", weights(3, 2), x) * GAMMA[:, None, None],
        1,
        2,
        4,
        3,
    ),
    case(
        "dense with two features axes",
        lambda x: jnp.einsum("nc,cde->ned", x, weights(3, 2, 4)) * weights(4, 2),
        2,
        3,
    ),
    case(
        "dense, scale by batch dim",
        lambda x: jnp.einsum("nhc,hcd->nhd", x, weights(3, 2, 4)) * weights(3, 1),
        2,
        3,
        2,
    ),
    case("dense, scale by row", lambda x: x @ weights(4, 3) * weights(2, 1), 2, 4),
    case("vector", lambda x: weights(3, 4) @ x * GAMMA, 4),
]


@pytest.mark.parametrize(("f", "shape"), EFFECTIVE)
def test_constant_scales_belong_to_the_weights(f: Function, shape: tuple[int, ...]) -> None:
    x, p = weights(*shape, seed=7), prior(output_shape(f, shape))
    assert_close(pull(f, x, p), excitation(matrix(f, shape), np.maximum(x, 0), p))


def test_a_norm_behind_a_convolution_equals_the_folded_convolution() -> None:
    x = weights(*IMAGE, seed=7)
    scale = GAMMA / np.sqrt(np.abs(weights(3, seed=4)) + 0.1 + 1e-3)
    w = weights(3, 3, 2, 3) * scale

    def folded(x: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=C2)

    p = prior((1, 4, 3, 3))
    assert_close(pull(lambda x: batch_norm(convolve(x)), x, p), pull(folded, x, p))


def test_the_explained_input_as_the_kernel() -> None:
    image = weights(1, 4, 4, 2)

    def f(kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=C2) * GAMMA

    shape = (2, 2, 2, 3)
    x, p = weights(*shape, seed=7), prior((1, 4, 4, 3))
    assert_close(pull(f, x, p), excitation(matrix(f, shape), np.maximum(x, 0), p))


def test_a_norm_behind_a_sum_of_two_convolutions() -> None:
    """(a + b) * gamma is one neuron: both convolutions' weights take gamma, Z is of both (D2)."""
    shape = IMAGE
    x, p = weights(*shape, seed=7), prior((1, 4, 3, 3))
    other = conv(1, 1, 2, 3, layout=C2)
    j, k = (matrix(f, shape) for f in (convolve, other))
    scale = np.resize(GAMMA, p.size)[:, None]  # channels last
    h = np.maximum(x, 0)
    expected = sum(np.split(excitation(np.hstack([scale * j, scale * k]), np.stack([h, h]), p), 2))
    assert_close(
        pull(lambda x: (convolve(x) + other(x)) * GAMMA, x, p), np.reshape(expected, x.shape)
    )


def test_a_norm_behind_an_average_pool_behind_a_convolution() -> None:
    """One neuron: a strided convolution of larger windows (D2)."""
    shape = (1, 4, 4, 2)
    x, p = weights(*shape, seed=7), prior((1, 2, 2, 3))

    def pool(x: jax.Array) -> jax.Array:
        return nn.avg_pool(x, (2, 2), (2, 2))

    positive, scale = matrix(convolve, shape), np.resize(GAMMA, 48)[:, None]
    positive = matrix(pool, (1, 4, 4, 3)) @ np.maximum(scale * positive, 0)
    expected = excitation(positive, np.maximum(x, 0), p)
    assert_close(pull(lambda x: batch_norm(pool(convolve(x))), x, p), expected)


def test_a_norm_behind_a_pool_of_activations_is_the_pools() -> None:
    """A mean is a sum, whose weights the scale belongs to: a negative one leaves nothing (R1)."""
    shape = (1, 4, 4, 3)
    x, p = weights(*shape, seed=7), prior((1, 3))

    def f(x: jax.Array) -> jax.Array:
        return jax.nn.relu(x).mean((1, 2)) * GAMMA

    own = matrix(lambda x: x.mean((1, 2)) * GAMMA, shape)
    assert_close(pull(f, x, p), excitation(own, np.maximum(x, 0), p))


def test_a_convolution_that_feeds_two_norms_is_read_in_both_directions() -> None:
    """P+ where a scale is positive, P- where it is negative: each by its own weights (D1)."""
    x, p = weights(*IMAGE, seed=7), prior((1, 4, 3, 6))

    def f(x: jax.Array) -> jax.Array:
        y = convolve(x)
        return jnp.concatenate([batch_norm(y), batch_norm(y, gamma=-GAMMA)], -1)

    own, sign = matrix(convolve, IMAGE), np.sign(GAMMA)
    up = np.where(sign > 0, p[..., :3], p[..., 3:])
    down = np.where(sign > 0, p[..., 3:], p[..., :3])
    h = np.maximum(x, 0)
    assert_close(pull(f, x, p), excitation(own, h, up) + excitation(-own, h, down))


def test_a_scale_of_activations_passes_unchanged() -> None:
    x, p = np.abs(weights(2, 3)), prior((2, 3))
    for f in (
        lambda x: x * GAMMA,
        lambda x: batch_norm(x),
        lambda x: 1 - x,
        lambda x: x / GAMMA + 1,
    ):
        assert_close(pull(f, x, p), p)


# --- R2: activations --------------------------------------------------------------------------


def prelu(x: jax.Array) -> jax.Array:
    return nn.PReLU().apply({"params": {"negative_slope": np.float64(0.2)}}, x)


ACTIVATIONS: dict[str, tuple[Function, float | None]] = {
    # None: the minimum on a fine grid is the lower bound.
    "relu": (jax.nn.relu, 0),
    "relu6": (jax.nn.relu6, 0),
    "leaky_relu": (jax.nn.leaky_relu, -math.inf),
    "elu": (jax.nn.elu, -1),
    "elu alpha": (lambda x: jax.nn.elu(x, 0.5), -0.5),
    "celu": (lambda x: jax.nn.celu(x, 2.0), -2),
    "selu": (jax.nn.selu, None),
    "gelu tanh": (lambda x: jax.nn.gelu(x, approximate=True), None),
    "gelu exact": (lambda x: jax.nn.gelu(x, approximate=False), None),
    "gelu sigmoid": (lambda x: x * jax.nn.sigmoid(1.702 * x), None),
    "gelu of a large number": (lambda x: jax.nn.gelu(500 * x) / 500, None),
    "gelu, steep": (lambda x: jax.nn.gelu(500 * x), None),
    "gelu, flat": (lambda x: jax.nn.gelu(0.01 * x), None),
    "elu of a tenth": (lambda x: jax.nn.elu(x / 10), -1),
    "silu": (jax.nn.silu, None),
    "sigmoid": (jax.nn.sigmoid, 0),
    "tanh": (jnp.tanh, -1),
    "scaled tanh": (lambda x: 1.7159 * jnp.tanh(2 / 3 * x), -1.7159),
    "softplus": (jax.nn.softplus, 0),
    "soft_sign": (jax.nn.soft_sign, -1),
    "hard_tanh": (jax.nn.hard_tanh, -1),
    "hard_swish": (jax.nn.hard_swish, None),
    "hard_sigmoid": (jax.nn.hard_sigmoid, 0),
    "mish": (jax.nn.mish, None),
    "squared relu": (lambda x: jax.nn.relu(x) ** 2, 0),
    "abs": (jnp.abs, 0),
    "square": (jnp.square, 0),
    "exp": (jnp.exp, 0),
    "sine": (jnp.sin, -1),
    "slope of tanh": (jax.grad(lambda x: jnp.tanh(x).sum()), 0),
    "slope of tanh, by hand": (lambda x: 1 - jnp.tanh(x) ** 2, 0),
    "square of what is far from zero": (lambda x: jnp.square(jnp.tanh(x) + 3), 4),
    "arctan": (jnp.arctan, -math.pi / 2),
    "log_sigmoid": (jax.nn.log_sigmoid, -math.inf),
    "prelu": (prelu, -math.inf),
    "where": (lambda x: jnp.where(x > 0, x, 0), 0),
    "maximum": (lambda x: jnp.maximum(x, -0.3), -0.3),
    "clip": (lambda x: jnp.clip(x, -0.7, 2), -0.7),
    # Of values that are themselves bounded.
    "silu of tanh": (lambda x: jax.nn.silu(jnp.tanh(x)), None),
    "gelu of relu": (lambda x: jax.nn.gelu(jax.nn.relu(x)), 0),
    "silu of elu": (lambda x: jax.nn.silu(jax.nn.elu(x)), None),
    "leaky_relu of tanh": (lambda x: jax.nn.leaky_relu(jnp.tanh(x), 0.1), -0.1),
    "elu of tanh": (lambda x: jax.nn.elu(jnp.tanh(x)), None),
    "tanh of relu": (lambda x: jnp.tanh(jax.nn.relu(x)), 0),
    "hard_swish of relu6": (lambda x: jax.nn.hard_swish(jax.nn.relu6(x)), 0),
}


def lower_bound(f: Function, *shape: int) -> float:
    """What the library says of f's output."""

    def model(params: None, x: jax.Array) -> jax.Array:
        return ej.tag(f(x), "here") * 2

    table = ej.layers(model, None, jax.ShapeDtypeStruct(shape, np.float64))
    (layer,) = [layer for layer in table if layer.name == "here"]
    return layer.lower_bound


def minimum(f: Function) -> float:
    wide = np.concatenate([np.geomspace(1e-6, 1e4, 400_001), np.linspace(0, 30, 400_001)])
    return float(np.min(jax.jit(f)(np.concatenate([-wide, wide]))))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_pass_everything_to_their_one_child(name: str) -> None:
    f, _ = ACTIVATIONS[name]
    x, p = weights(2, 5), prior((2, 5))
    np.testing.assert_array_equal(pull(f, x, p), p)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_lower_bound_of_an_activation_is_its_minimum(name: str) -> None:
    f, expected = ACTIVATIONS[name]
    true = minimum(f) if expected is None else expected
    assert lower_bound(f, 2, 5) == pytest.approx(true, abs=1e-4)


def test_the_lower_bound_at_a_kink() -> None:
    """max(y, 1 / (1 + y)), y = |x|, has its minimum where both meet, between the grid's points."""
    found = lower_bound(lambda x: jnp.maximum(jnp.abs(x), 1 / (1 + jnp.abs(x))), 2, 5)
    assert found == pytest.approx((math.sqrt(5) - 1) / 2, abs=1e-8)


GELU = minimum(jax.nn.gelu)
SILU = minimum(jax.nn.silu)
CARRIED: dict[str, tuple[Function, float]] = {
    "max pool": (lambda x: nn.max_pool(jax.nn.gelu(x), (2, 2), (2, 2)), GELU),
    "padded max pool": (lambda x: nn.max_pool(jnp.tanh(x), (3, 3), (2, 2), "SAME"), -1),
    "average pool": (lambda x: nn.avg_pool(jax.nn.gelu(x), (2, 2), (2, 2)), GELU),
    "elu of an average pool": (lambda x: jax.nn.elu(nn.avg_pool(x, (3, 3))), -1),
    "padded average pool": (lambda x: nn.avg_pool(jnp.tanh(x), (3, 3), (1, 1), "SAME"), -1),
    "average pool, padding not counted": (
        lambda x: nn.avg_pool(jnp.tanh(x), (3, 3), (1, 1), "SAME", count_include_pad=False),
        -1,
    ),
    "padded average pool of relu": (
        lambda x: nn.avg_pool(jax.nn.relu(x), (3, 3), (1, 1), "SAME", count_include_pad=False),
        0,
    ),
    "global average": (lambda x: jax.nn.silu(x).mean((1, 2)), SILU),
    "global maximum": (lambda x: jnp.tanh(x).max((1, 2)), -1),
    "concatenation": (lambda x: jnp.concatenate([jax.nn.relu(x), jax.nn.gelu(x)], -1), GELU),
    "stack": (lambda x: jnp.stack([jax.nn.relu(x), jnp.tanh(x)]), -1),
    "sum": (lambda x: jax.nn.gelu(x) + jax.nn.silu(x[:, ::-1]), GELU + SILU),
    "sum of relus": (lambda x: jax.nn.relu(x) + jax.nn.relu(x[:, ::-1]), 0),
    "constant shift": (lambda x: jnp.tanh(x) + 3.0, 2),
    "positive scale": (lambda x: jnp.tanh(x) * 3.0, -3),
    "negative scale": (lambda x: jax.nn.sigmoid(x) * -3.0, -3),
    "one minus": (lambda x: 1 - jax.nn.sigmoid(x), 0),
    "transposed and flat": (lambda x: jax.nn.elu(x).transpose(0, 3, 1, 2).reshape(2, -1), -1),
    "zero padding": (lambda x: jnp.pad(jax.nn.sigmoid(x) + 1, 1), 1),  # zeros are no neurons
    "slice": (lambda x: jnp.tanh(x)[:, 1:, ::2], -1),
    "gather": (lambda x: jnp.tanh(x)[..., np.array([1, 0])], -1),
    "split": (lambda x: jnp.split(jnp.tanh(x), 2, 1)[0], -1),
    "nearest": (lambda x: jax.image.resize(jnp.tanh(x), (2, 8, 8, 2), "nearest"), -1),
    "cast": (lambda x: jnp.tanh(x).astype(jnp.bfloat16), -1),
    "softmax": (lambda x: jax.nn.softmax(x), 0),
    "affine": (lambda x: jax.nn.relu(x) @ weights(2, 3), -math.inf),
    "cumsum of relus": (lambda x: jnp.cumsum(jax.nn.relu(x), 1), 0),
}


@pytest.mark.parametrize("name", CARRIED)
def test_lower_bounds_are_carried_through(name: str) -> None:
    f, expected = CARRIED[name]
    assert lower_bound(f, 2, 4, 4, 2) == pytest.approx(expected, abs=1e-4)


# --- R3: the winner ---------------------------------------------------------------------------

# Small integers: full of ties.
TIES = np.random.default_rng(1).integers(-2, 3, (2, 5, 6, 2)).astype(float)
WINNERS: dict[str, Function] = {
    "max pool": lambda x: nn.max_pool(x, (2, 2), (2, 2)),
    "overlapping max pool": lambda x: nn.max_pool(x, (3, 3), (1, 2), "SAME"),
    "explicitly padded": lambda x: nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (0, 2)]),
    "min pool": lambda x: lax.reduce_window(
        x, jnp.inf, lax.min, (1, 2, 3, 1), (1, 2, 2, 1), "VALID"
    ),
    "max": lambda x: x.max((1, 2)),
    "min": lambda x: x.min(-1),
    "max of all": lambda x: x.max(keepdims=True),
    "maxout": lambda x: jnp.maximum(x[..., 0], x[..., 1]),
    "minimum": lambda x: jnp.minimum(x[:, ::-1], x),
    "sort": lambda x: jnp.sort(x, 1),
    "sort with indices": lambda x: lax.sort_key_val(x, lax.broadcasted_iota(int, x.shape, 1), 1)[0],
    "top_k": lambda x: lax.top_k(x, 2)[0],
    "top_k of an axis": lambda x: lax.top_k(x.swapaxes(1, -1), 3)[0],
    "cummax": lambda x: lax.cummax(x, 1),
    "median": lambda x: jnp.sort(x, 1)[:, 2],
}


@pytest.mark.parametrize("name", WINNERS)
def test_the_winner_takes_what_the_gradient_would_give_it(name: str) -> None:
    f = WINNERS[name]
    p = prior(output_shape(f, TIES.shape))
    expected = jax.vjp(f, TIES)[1](p)[0]
    np.testing.assert_allclose(pull(f, TIES, p), expected, rtol=1e-12)


def test_max_pool_gives_a_tie_to_one_of_the_winners() -> None:
    x, p = np.zeros((1, 4, 4, 1)), prior((1, 2, 2, 1))
    found = pull(lambda x: nn.max_pool(x, (2, 2), (2, 2)), x, p)
    windows = found.reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(2, 2, 4)
    assert_close(windows.sum(-1), p[0, ..., 0])
    np.testing.assert_array_equal((windows > 0).sum(-1), 1)


# --- R4, R8: sums and differences -------------------------------------------------------------


def share(h: np.ndarray, total: np.ndarray, p: np.ndarray) -> np.ndarray:
    return np.divide(p * h, total, out=np.zeros_like(p), where=total > 0)


@pytest.mark.parametrize(
    ("activation", "low"), [(lambda x: x, None), (jnp.tanh, -1.0), (jax.nn.gelu, GELU)]
)
def test_a_sum_is_shared_by_activation(activation: Function, low: float | None) -> None:
    x = weights(2, 3, 4)
    p = prior((3, 4))
    a, b = (np.asarray(activation(part)) for part in x)
    h = [np.maximum(v, 0) if low is None else v - low for v in (a, b)]
    expected = np.stack([share(part, h[0] + h[1], p) for part in h])
    found = pull(lambda x: activation(x[0]) + activation(x[1]), x, p)
    np.testing.assert_allclose(found, expected, atol=1e-4 if low == GELU else 1e-12)


def test_a_sum_that_broadcasts() -> None:
    def f(pair: Any) -> jax.Array:
        return pair[0] + pair[1]

    a, b, p = np.abs(weights(3, 4)), np.abs(weights(3, 1)), prior((3, 4))
    _, vjp = jax.vjp(ej.excite(f), (a, b))
    (found,) = vjp(p)
    assert_close(found[0], share(a, a + b, p))
    assert_close(found[1], share(b + 0 * a, a + b, p).sum(1, keepdims=True))


def test_a_sum_of_three_is_two_sums() -> None:
    x, p = np.abs(weights(3, 2, 4)), prior((2, 4))
    found = pull(lambda x: x[0] + x[1] + x[2], x, p)
    assert_close(found, x / x.sum(0) * p)


def test_a_constant_summand_takes_nothing() -> None:
    x, p = weights(3, 4), prior((3, 4))
    np.testing.assert_array_equal(pull(lambda x: x + weights(4), x, p), p)


def test_an_activation_that_is_subtracted_gets_nothing() -> None:
    x, p = np.abs(weights(2, 3, 4)), prior((3, 4))
    found = pull(lambda x: jnp.abs(x[0]) - jnp.abs(x[1]), x, p)
    np.testing.assert_array_equal(found, np.stack([p, 0 * p]))


def test_what_is_subtracted_excites_where_it_is_negative() -> None:
    """a - b of two values without bounds: a adds where it is positive, b where negative (R8)."""
    x, p = weights(2, 3, 4), prior((3, 4))
    h = np.stack([np.maximum(x[0], 0), np.maximum(-x[1], 0)])
    total = h.sum(0)
    found = pull(lambda x: x[0] - x[1], x, p)
    assert_close(found, np.divide(p, total, out=np.zeros_like(p), where=total > 0) * h)


# --- R5: normalisers --------------------------------------------------------------------------


def neighbours(x: jax.Array) -> jax.Array:
    """Sum of squares over neighbouring channels."""
    padding = [(0, 0)] * (x.ndim - 1) + [(1, 1)]
    window = (1,) * (x.ndim - 1) + (3,)
    return lax.reduce_window(x * x, 0.0, lax.add, window, (1,) * x.ndim, padding)


def padded_slices(x: jax.Array) -> jax.Array:
    square = jnp.pad(jnp.square(x), [(0, 0)] * (x.ndim - 1) + [(1, 1)])
    return sum(square[..., i : i + x.shape[-1]] for i in range(3))


BAND = np.eye(4) + np.eye(4, k=1) + np.eye(4, k=-1)
NORMALISERS: dict[str, Function] = {
    "division by a power": lambda x: x / (2 + 1e-4 * neighbours(x)) ** 0.75,
    "lax.pow": lambda x: lax.div(x, lax.pow(2 + 1e-4 * neighbours(x), 0.75)),
    "negative power": lambda x: x * (2 + 1e-4 * neighbours(x)) ** -0.75,
    "negative power on the left": lambda x: (1 + neighbours(x)) ** -0.5 * x,
    "lax.pow of an array": lambda x: x * lax.pow(2 + neighbours(x), jnp.full(x.shape, -0.75)),
    "integer power": lambda x: x / (1 + neighbours(x)) ** 2,
    "negative integer power": lambda x: x * (1 + neighbours(x)) ** -1,
    "rsqrt": lambda x: x * lax.rsqrt(1 + neighbours(x)),
    "rsqrt twice": lambda x: x * (r := lax.rsqrt(1 + neighbours(x))) * jnp.sqrt(r),
    "reciprocal": lambda x: x * (1 / (1 + neighbours(x))),
    "division by a root": lambda x: x / jnp.sqrt(1 + neighbours(x)),
    "exp of log": lambda x: x * jnp.exp(-0.75 * jnp.log(1 + neighbours(x))),
    "slices": lambda x: x / (2 + 1e-4 * padded_slices(x)) ** 0.75,
    "convolved squares": lambda x: x / (2 + jnp.square(x) @ BAND) ** 0.75,
    "cumulative squares": lambda x: x * lax.rsqrt(1 + jnp.cumsum(x * x, -1)),
    "l2": lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True),
    "l2 by rsqrt": lambda x: x * lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + 1e-6),
    "largest": lambda x: x / jnp.max(jnp.abs(x)),
}
BEFORE: dict[str, Function] = {
    "raw": lambda x: x,
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "sigmoid": jax.nn.sigmoid,
}


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("name", NORMALISERS)
def test_normalisers_pass_everything_to_the_signal(name: str, before: str) -> None:
    x, p = weights(2, 3, 4), prior((2, 3, 4))
    f = NORMALISERS[name]
    np.testing.assert_allclose(pull(lambda x: f(BEFORE[before](x)), x, p), p, rtol=1e-12)


def test_the_softmax_at_the_top_passes_everything() -> None:
    x, p = weights(2, 5), prior((2, 5))
    for f in (jax.nn.softmax, jax.nn.log_softmax):
        np.testing.assert_allclose(pull(f, x, p), p, rtol=1e-12)


# --- R6: operations that move elements --------------------------------------------------------

ROWS = np.array([3, 0, 0, 2])
MASK = np.random.default_rng(2).integers(0, 2, (4, 3)).astype(bool)
STRUCTURE: dict[str, Function] = {
    "reshape": lambda x: x.reshape(2, 6),
    "transpose": lambda x: x.T,
    "broadcast": lambda x: jnp.broadcast_to(x[:, None], (4, 5, 3)),
    "expand and squeeze": lambda x: jnp.squeeze(x[None, :, None], 0),
    "concatenate": lambda x: jnp.concatenate([x, x[::-1], np.ones((1, 3))]),
    "stack": lambda x: jnp.stack([x, 2 * np.ones((4, 3)), x], 1),
    "split": lambda x: jnp.split(x, 2)[1],
    "uneven split": lambda x: jnp.concatenate(jnp.split(x, [1, 3])[::2]),
    "pad": lambda x: jnp.pad(x, ((1, 2), (0, 1)), constant_values=5.0),
    "negative pad": lambda x: lax.pad(x, 0.0, ((-1, 2, 0), (1, -1, 0))),
    "interior pad": lambda x: lax.pad(x, 1.0, ((0, 0, 1), (1, -1, 2))),
    "reflect pad": lambda x: jnp.pad(x, 1, mode="reflect"),
    "edge pad": lambda x: jnp.pad(x, 1, mode="edge"),
    "wrap pad": lambda x: jnp.pad(x, 1, mode="wrap"),
    "slice": lambda x: x[1:3, :2],
    "strided slice": lambda x: x[::2, ::-2],
    "reverse": lambda x: lax.rev(x, (0, 1)),
    "flip": lambda x: jnp.flip(x, 0),
    "roll": lambda x: jnp.roll(x, (1, 2), (0, 1)),
    "rot90": lambda x: jnp.rot90(x),
    "gather": lambda x: x[ROWS],
    "gather two axes": lambda x: x[ROWS[:, None], np.array([[0, 2]])],
    "gather one element": lambda x: x[2, 1],
    "gather out of bounds": lambda x: x.at[np.array([1, 7])].get(mode="fill", fill_value=0),
    "take": lambda x: jnp.take(x, ROWS[:2], axis=1, mode="clip"),
    "take_along_axis": lambda x: jnp.take_along_axis(x, ROWS[:, None] % 3, 1),
    "dynamic slice": lambda x: lax.dynamic_slice(x, (1, 0), (2, 2)),
    "dynamic update slice": lambda x: lax.dynamic_update_slice(np.ones((6, 4)), x[:, 1:], (1, 1)),
    "repeat": lambda x: jnp.repeat(x, 2, 0),
    "tile": lambda x: jnp.tile(x, (2, 1)),
    "nearest": lambda x: jax.image.resize(x, (8, 5), "nearest"),
    "nearest smaller": lambda x: jax.image.resize(x, (2, 2), "nearest"),
    "pixel shuffle": lambda x: x.reshape(2, 2, 3).transpose(2, 0, 1).reshape(3, 4),
    "where": lambda x: jnp.where(MASK, x, 0),
    "where, a constant": lambda x: jnp.where(MASK, 7.0, x),
    "where, two signals": lambda x: jnp.where(MASK, x, x[::-1]),
    "where, one condition": lambda x: jnp.where(jnp.asarray(True), x[::-1], x),
    "triangle": lambda x: jnp.tril(x),
    "diagonal": lambda x: jnp.diagonal(x),
    "identity": lambda x: lax.optimization_barrier(x),
}


@pytest.mark.parametrize("name", STRUCTURE)
def test_structural_operations_move_the_probability_back(name: str) -> None:
    f = STRUCTURE[name]
    x, p = weights(4, 3), prior(output_shape(f, (4, 3)))
    expected = matrix(f, (4, 3)).T @ p.ravel()
    np.testing.assert_allclose(pull(f, x, p).ravel(), expected, rtol=1e-12, atol=1e-15)


def test_padding_takes_nothing_whoever_adds_it() -> None:
    """A zero that was padded explicitly below tanh is no neuron with h = 0 + 1.

    design.md leaves this open. Like a bias it does not depend on the input, and so it gets what a
    convolution's own padding gets: nothing.
    """
    shape = (1, 5, 2)
    x = weights(*shape, seed=8)
    valid = conv(3, 2, 3, layout=C1, padding="VALID")
    own = conv(3, 2, 3, layout=C1, padding=[(2, 0)])

    def explicit(x: jax.Array) -> jax.Array:
        return valid(jnp.pad(jnp.tanh(x), ((0, 0), (2, 0), (0, 0))))

    p = prior((1, 5, 3))
    expected = excitation(matrix(own, shape), np.tanh(x) + 1, p)
    assert_close(pull(lambda x: own(jnp.tanh(x)), x, p), expected)
    assert_close(pull(explicit, x, p), expected)


def test_a_sign_costs_nothing_where_there_is_no_scale() -> None:
    """Slices, splits and joins without a negative scale behind them add no pass."""
    kernel, x = weights(3, 3, 2, 4), weights(1, 8, 8, 2)
    numbers = ("NHWC", "HWIO", "NHWC")

    def count(between: object) -> int:
        def model(x: jax.Array) -> jax.Array:
            y = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)
            return jax.nn.relu(between(y)).sum(axis=(1, 2))  # type: ignore[operator]

        def pull_back(x: jax.Array) -> jax.Array:
            out, vjp = jax.vjp(ej.excite(model), x)
            return vjp(jnp.ones_like(out))[0]

        return str(jax.make_jaxpr(pull_back)(x)).count("conv_general_dilated[")

    plain = count(lambda y: y)
    assert plain == 3  # forward, normaliser, transpose
    assert count(lambda y: y[:, 1:-1, 1:-1]) == plain
    assert count(lambda y: jnp.concatenate([y[:, :4], y[:, 4:]], axis=1)) == plain
    assert count(lambda y: jnp.concatenate(jnp.split(y, 2, axis=3), axis=3)) == plain
    gamma = np.array([1.0, -1.0, 2.0, -0.5])
    assert count(lambda y: y[:, 1:-1] * gamma) == plain
    assert count(lambda y: jnp.concatenate([y, y], axis=1) * gamma) == plain


def test_an_average_that_leaves_padding_out_is_the_same_example_by_example() -> None:
    """Mapped, its windows have an axis more than those that count, or one that comes and goes."""
    x, w = weights(2, 4, 4, 3), weights(48, 2)

    def pool(y: jax.Array) -> jax.Array:
        return nn.avg_pool(y, (2, 2), (1, 1), "SAME", count_include_pad=False)

    ways = [pool, jax.vmap(pool), jax.vmap(lambda y: pool(y[None])[0])]
    found = [pull(lambda x, f=f: f(jnp.tanh(x)).reshape(2, -1) @ w, x, prior((2, 2))) for f in ways]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=0, atol=1e-12)
