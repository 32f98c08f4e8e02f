"""For every primitive that a rule set knows, small programs with it between two layers.

Each is an operation on the state that the first layer yields, (2, 4, 4), in which some positions
are constants: what the input has there does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from composed.nested import on_a_mesh
from jax import lax
from jax.extend.core import primitives
from jax.sharding import PartitionSpec as P

import excitation_jax as ej
from excitation_jax.program import compat

Operation = Callable[[jax.Array], jax.Array]
SHAPE = (2, 4, 4)
#: The positions, by example, that the first layer computes; the others are constants.
REAL = np.array([[1, 1, 0, 1], [0, 1, 1, 1]], bool)
#: Operations by primitive.
EXAMPLES: dict[Any, list[Operation]] = {}


def of(primitive: Any, *operations: Operation) -> None:
    EXAMPLES.setdefault(primitive, []).extend(operations)


def program(
    operation: Operation, before: Operation | None = None, behind: Operation | None = None,
    fill: float = 0.5, head: bool = True,
) -> Callable[[Any, jax.Array], jax.Array]:  # fmt: skip
    """A model of params (`parameters`) and x, of `SHAPE`: layer, ``operation``, layer.

    Args:
      before, behind: applied to the operand and to the result.
      fill: the constants.
      head: with the second layer.
    """

    def model(params: Any, x: jax.Array) -> jax.Array:
        y = jnp.where(REAL[..., None], jnp.tanh(x @ params["in"]), fill)
        y = y if before is None else before(y)
        y = operation(y)
        y = y if behind is None else behind(y)
        return y.reshape(1, -1) @ params["out"] if head else y

    return model


def parameters(operation: Operation) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    size = jax.eval_shape(operation, jax.ShapeDtypeStruct(SHAPE, np.float32)).size
    shapes = {"in": (4, 4), "out": (size, 2)}
    return {k: rng.normal(0, 0.5, shape).astype(np.float32) for k, shape in shapes.items()}


def inputs() -> np.ndarray:
    return np.random.default_rng(4).uniform(0.2, 1.5, SHAPE).astype(np.float32)


def met_in(jaxpr: Any) -> Iterator[Any]:
    """All primitives of a jaxpr and of those inside it."""
    for eqn in jaxpr.eqns:
        yield eqn.primitive
        for value in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda v: hasattr(compat.opened(v)[0], "eqns")
        ):
            inner = compat.opened(value)[0]
            if hasattr(inner, "eqns"):
                yield from met_in(inner)


# --- functions of each element ----------------------------------------------------------------


def number(condition: jax.Array) -> jax.Array:
    return condition.astype(np.float32)


def precisely(y: jax.Array, mantissa: int) -> jax.Array:
    return lax.reduce_precision(y, 8, mantissa)


for function in (
    lax.exp, lax.exp2, lax.expm1, lax.logistic, lax.tanh, lax.erf, lax.cbrt, lax.atan, lax.asinh,
    lax.sinh, lax.sin, lax.cosh, lax.erfc, lax.neg, lax.floor, lax.ceil, lax.round, lax.sign,
    lax.abs, lax.square, lax.cos,
):  # fmt: skip
    of(getattr(lax, f"{function.__name__}_p"), function, lambda y, f=function: f(3 * y))
for function in (lax.log, lax.log1p, lax.sqrt, lax.rsqrt):
    of(getattr(lax, f"{function.__name__}_p"), lambda y, f=function: f(y + 1.5))
of(
    lax.convert_element_type_p,
    lambda y: y.astype(jnp.bfloat16).astype(y.dtype), lambda y: number(y > 0.2),
)  # fmt: skip
of(lax.stop_gradient_p, lax.stop_gradient)
of(lax.copy_p, lambda y: jnp.array(y, copy=True))
of(lax.reduce_precision_p, lambda y: precisely(y, 7), lambda y: precisely(y, 23))
of(primitives.name_p, lambda y: ej.tag(y, "named"))
of(
    compat.sharding_constraint_p,
    lambda y: lax.with_sharding_constraint(
        y, jax.sharding.SingleDeviceSharding(jax.devices()[0])),
)  # fmt: skip
of(lax.integer_pow_p, lambda y: y**3, lambda y: (y + 2) ** -2, lambda y: y**2)
of(lax.pow_p, lambda y: jnp.abs(y) ** 1.5, lambda y: (y + 2) ** -0.5)
of(lax.clamp_p, lambda y: lax.clamp(np.float32(-0.5), y, np.float32(0.7)))
of(lax.is_finite_p, lambda y: number(jnp.isfinite(y)))
of(lax.lt_p, lambda y: number(y < 0.6))
of(lax.le_p, lambda y: number(y <= 0.6))
of(lax.gt_p, lambda y: number(y > 0.1), lambda y: y * number(y > 0.1))
of(lax.ge_p, lambda y: number(y >= 0.1))
of(lax.eq_p, lambda y: number(jnp.sign(y) == 1))
of(lax.ne_p, lambda y: number(jnp.sign(y) != 1))
of(lax.and_p, lambda y: number((y > 0.1) & (y < 0.8)))
of(lax.or_p, lambda y: number((y > 0.6) | (y < -0.1)))
of(lax.not_p, lambda y: number(~(y < 0.1)))


# --- layers, sums and pooling -----------------------------------------------------------------


def windows(y: jax.Array, start: float, combine: Callable, padding: str = "VALID") -> jax.Array:
    start = np.asarray(start, y.dtype)
    return lax.reduce_window(y, start, combine, (1, 2, 1), (1, 1, 1), padding)


def convolved(y: jax.Array, **options: Any) -> jax.Array:
    kernel = np.random.default_rng(5).normal(size=(3, 4, 3)).astype(y.dtype)
    numbers = ("NWC", "WIO", "NWC")
    return lax.conv_general_dilated(y, kernel, (1,), "SAME", dimension_numbers=numbers, **options)


def attended(y: jax.Array) -> jax.Array:
    weights = jax.nn.softmax(jnp.einsum("ntc,nsc->nts", y, y))
    return jnp.einsum("nts,nsc->ntc", weights, y)


WEIGHTS = np.random.default_rng(6).normal(size=(4, 3)).astype(np.float32)
SIGNS = np.array([1, -1, 2, -0.5], np.float32)
of(lax.conv_general_dilated_p, convolved, lambda y: convolved(y, rhs_dilation=(2,)))
of(
    lax.dot_general_p,
    lambda y: y @ WEIGHTS, lambda y: jnp.einsum("ntc,ts->nsc", y, WEIGHTS), attended,
)  # fmt: skip
of(lax.reduce_sum_p, lambda y: y.sum(1), lambda y: y.mean((0, 2)), lambda y: y.sum())
of(
    lax.reduce_window_sum_p,
    lambda y: windows(y, 0, lax.add), lambda y: windows(y, 0, lax.add, "SAME") / 2,
)  # fmt: skip
of(lax.cumsum_p, lambda y: jnp.cumsum(y, 1), lambda y: lax.cumsum(y, 2, reverse=True))
of(
    lax.add_p,
    lambda y: y + y[:, ::-1], lambda y: y + SIGNS,
    lambda y: jax.nn.relu(y) + y @ (WEIGHTS @ WEIGHTS.T),
)  # fmt: skip
of(primitives.add_jaxvals_p, lambda y: primitives.add_jaxvals_p.bind(y, y[:, ::-1]))
of(lax.sub_p, lambda y: y - y[:, ::-1], lambda y: 1 - y, lambda y: y - SIGNS)
of(lax.mul_p, lambda y: y * SIGNS, lambda y: y * jax.nn.sigmoid(y[:, ::-1]), lambda y: y * y)
of(lax.div_p, lambda y: y / SIGNS, lambda y: y / (2 + y[:, ::-1]), lambda y: 1 / (2 + y))
of(lax.max_p, lambda y: jnp.maximum(y, y[:, ::-1]), jax.nn.relu)
of(lax.min_p, lambda y: jnp.minimum(y, y[:, ::-1]), lambda y: jnp.minimum(y, 0.4))
of(lax.reduce_max_p, lambda y: y.max(1), lambda y: (y - y.max(-1, keepdims=True)) * 2)
of(lax.reduce_min_p, lambda y: y.min(1))
of(lax.reduce_window_max_p, lambda y: windows(y, -np.inf, lax.max))
of(lax.reduce_window_min_p, lambda y: windows(y, np.inf, lax.min))
of(lax.sort_p, lambda y: jnp.sort(y, 1), lambda y: jnp.sort(y, -1))
of(lax.top_k_p, lambda y: lax.top_k(y, 2)[0], lambda y: lax.top_k(y.swapaxes(1, 2), 3)[0])
of(lax.cummax_p, lambda y: lax.cummax(y, 1))
of(lax.cummin_p, lambda y: lax.cummin(y, 2))


# --- moves ------------------------------------------------------------------------------------

ORDER = np.array([2, 0, 3, 3])
of(lax.reshape_p, lambda y: y.reshape(2, 2, 8), lambda y: y.reshape(-1))
of(lax.transpose_p, lambda y: y.transpose(2, 0, 1))
of(lax.squeeze_p, lambda y: lax.squeeze(y[:, :1], [1]))
of(lax.broadcast_in_dim_p, lambda y: jnp.broadcast_to(y[:, None], (2, 2, 4, 4)))
of(lax.slice_p, lambda y: y[:, 1:], lambda y: y[..., ::2])
of(lax.dynamic_slice_p, lambda y: lax.dynamic_slice_in_dim(y, jnp.int32(1), 3, 1))
of(
    lax.dynamic_update_slice_p,
    lambda y: lax.dynamic_update_slice(y, y[:, 2:], (0, 1, 0)),
    lambda y: lax.dynamic_update_slice(jnp.ones((2, 6, 4), y.dtype), y, (0, 1, 0)),
    lambda y: lax.dynamic_update_slice(y, jnp.ones((2, 1, 4), y.dtype), (0, 1, 0)),
)
of(lax.pad_p, lambda y: jnp.pad(y, ((0, 0), (1, 0), (0, 0)), constant_values=1))
of(
    lax.concatenate_p,
    lambda y: jnp.concatenate([y, y[:, ::-1]], 1),
    lambda y: jnp.concatenate([jnp.ones((2, 1, 4), y.dtype), y], 1),
)
of(lax.rev_p, lambda y: y[:, ::-1])
of(lax.gather_p, lambda y: y[:, ORDER], lambda y: jnp.take(y, ORDER, axis=2))
of(
    lax.scatter_p,
    lambda y: y.at[:, 0].set(y[:, 1]), lambda y: jnp.ones_like(y).at[:, ORDER[:3]].set(y[:, :3]),
    lambda y: y.at[:, ORDER[:2]].set(1.0),
)  # fmt: skip
of(
    lax.scatter_add_p,
    lambda y: y.at[:, np.array([0, 0])].add(y[:, 2:]),
    lambda y: jax.ops.segment_sum(y.swapaxes(0, 1), np.array([0, 1, 1, 2]), 4),
)
of(
    lax.select_n_p,
    lambda y: jnp.where(np.arange(4) > 0, y, 0.0), lambda y: jnp.where(y > 0.1, y, y[:, ::-1]),
)  # fmt: skip
of(lax.scatter_max_p, lambda y: jnp.full_like(y, -2).at[:, np.array([0, 0, 1, 3])].max(y))
of(lax.scatter_min_p, lambda y: jnp.full_like(y, 2).at[:, np.array([0, 0, 1, 3])].min(y))

#: By name: not every JAX has them all.
SOME = {
    "split": [lambda y: jnp.concatenate(jnp.split(y, 2, 1)[::-1], 1), lambda y: jnp.split(y, 2)[1]],
    "tile": [lambda y: jnp.tile(y, (1, 2, 1))],
    "stack": [lambda y: jnp.stack([y, y[:, ::-1]], 1)],
    "unstack": [lambda y: jnp.stack(jnp.unstack(y, axis=1)[::-1], 1)],
    "optimization_barrier": [
        lax.optimization_barrier, lambda y: lax.optimization_barrier((y, y * 2))[0]],
    "log2": [lambda y: jnp.log2(y + 1.5)],
    "one_minus_square": [lambda y: lax.one_minus_square(y)],  # the slope of tanh
}  # fmt: skip
for name, operations in SOME.items():
    for primitive in compat.existing(name):
        of(primitive, *operations)


# --- loops, branches, devices -----------------------------------------------------------------


def twice(f: Operation) -> Operation:
    """By a while loop."""
    return lambda y: lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, f(s[1])), (0, y))[1]


def delayed(y: jax.Array) -> jax.Array:
    start = jnp.full_like(y[:, 0], 0.5)
    return lax.scan(lambda s, row: (row, s), start, y.swapaxes(0, 1))[1]


def on_mesh(f: Operation, **options: Any) -> Operation:
    return lambda y: on_a_mesh(f, P("d"), **options)(y)


def over_devices(y: jax.Array) -> jax.Array:
    return lax.pcast(lax.psum(y, "d"), "d", to="varying")


of(
    compat.scan_p,
    lambda y: lax.scan(lambda s, _: (jnp.tanh(s @ np.eye(4, dtype=s.dtype)), None), y, length=2)[0],
    lambda y: lax.scan(lambda s, row: (s + row, row[:, ::-1]), y[:, 0], y.swapaxes(0, 1))[1],
    delayed,
)
of(compat.while_p, twice(jnp.tanh), twice(lambda y: jnp.concatenate([y[:, 1:], y[:, :1]], 1)))
of(
    compat.cond_p,
    lambda y: lax.cond(y.sum() > 0, jnp.tanh, lambda y: -y, y),
    lambda y: lax.switch(np.int32(1), [jnp.exp, lambda y: y[:, ::-1], jnp.tanh], y),
)
of(compat.shard_map_p, on_mesh(lambda y: jnp.tanh(y[:, ::-1])))
of(lax.psum_p, on_mesh(lambda y: lax.psum(y, "d"), check_vma=False))
of(compat.psum_invariant_p, on_mesh(over_devices))
of(compat.pvary_p, on_mesh(over_devices))
of(lax.all_gather_p, on_mesh(lambda y: lax.all_gather(y, "d", tiled=True), check_vma=False))
of(lax.all_to_all_p, on_mesh(lambda y: lax.all_to_all(y, "d", 0, 0, tiled=True), check_vma=False))
of(lax.ppermute_p, on_mesh(lambda y: lax.ppermute(y, "d", [(0, 0)]), check_vma=False))

#: With which the value of a constant decides what others are worth: it wins, scales or chooses.
DECIDING = frozenset(
    [
        lax.max_p, lax.min_p, lax.reduce_max_p, lax.reduce_min_p, lax.reduce_window_max_p,
        lax.reduce_window_min_p, lax.scatter_max_p, lax.scatter_min_p, lax.sort_p, lax.top_k_p,
        lax.cummax_p, lax.cummin_p, lax.mul_p, lax.div_p,
        lax.dot_general_p, lax.select_n_p, compat.cond_p,
    ]
)  # fmt: skip
#: Behind which it is a bias.
SHARING = frozenset(
    [
        lax.conv_general_dilated_p, lax.reduce_sum_p, lax.reduce_window_sum_p, lax.cumsum_p,
        lax.add_p, primitives.add_jaxvals_p, lax.sub_p, lax.scatter_add_p,
    ]
)  # fmt: skip
