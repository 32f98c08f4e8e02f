"""A traced function evaluated in numpy, operation by operation.

Nothing is compiled for the commonest primitives, whatever the shapes: compiling a mutant takes a
second, and this a few milliseconds. The others are evaluated by JAX, each on its own. So every
operation gives the same bits wherever it occurs, in loops and branches, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend.core import primitives

from excitation_jax.program import compat

Arrays = Sequence[np.ndarray]


def interpreted(function: Callable, *args: Any) -> Any:
    """``function(*args)``, its arrays as numpy's."""
    return traced(function, *args)(*args)


def traced(function: Callable, *args: Any) -> Callable:
    """The same for several calls with such arguments."""
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)

    def run(*args: Any) -> Any:
        outputs = evaluated(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shape), outputs)

    return run


def evaluated(jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any]) -> list[np.ndarray]:
    """The outputs of a jaxpr."""
    env = dict(
        zip([*jaxpr.constvars, *jaxpr.invars], map(array, [*consts, *arguments]), strict=True)
    )

    def read(atom: Any) -> np.ndarray:
        if isinstance(atom, compat.Literal):
            return np.asarray(atom.val, atom.aval.dtype)
        return env[atom]

    with np.errstate(all="ignore"):
        for eqn in jaxpr.eqns:
            operands = [read(atom) for atom in eqn.invars]
            env.update(zip(eqn.outvars, applied(eqn, operands), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def array(x: Any) -> Any:
    """As numpy's, unless it is one of JAX's own kinds (a random key)."""
    special = isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.extended)
    return x if special else np.asarray(x)


def applied(eqn: Any, operands: Arrays) -> Sequence[Any]:
    primitive, params = eqn.primitive, eqn.params
    if primitive in compat.BODIES:
        inner, consts = compat.body(primitive, params)
        return evaluated(inner, consts, operands)
    if primitive in CONTROL:
        return CONTROL[primitive](params, operands)
    known = ELEMENTWISE.get(primitive)
    # numpy's integers divide and shift in their own way.
    if known is not None and np.issubdtype(operands[-1].dtype, np.integer):
        known = known if primitive in FOR_INTEGERS else None
    if known is not None:
        return [np.asarray(known(*operands), eqn.outvars[0].aval.dtype)]
    other = OTHER.get(primitive)
    found = None if other is None else other(params, operands, eqn.outvars)
    if found is not None:
        return found if isinstance(found, list) else [np.asarray(found, order="C")]
    return [array(out) for out in compat.bind(primitive, params, *operands)]


# --- control flow -----------------------------------------------------------------------------


def scan(params: Any, operands: Arrays) -> list[np.ndarray]:
    inner, constants = compat.opened(params["jaxpr"])
    consts, count = compat.scan_parts(params)
    fixed, carry = operands[:consts], list(operands[consts : consts + count])
    stacked, order = operands[consts + count :], range(params["length"])
    rows = []
    for i in reversed(order) if params["reverse"] else order:
        out = evaluated(inner, constants, [*fixed, *carry, *(a[i] for a in stacked)])
        carry = out[:count]
        rows.append(out[count:])
    rows = rows[::-1] if params["reverse"] else rows
    empty = [np.zeros((0, *v.aval.shape), v.aval.dtype) for v in inner.outvars[count:]]
    return [*carry, *(map(np.stack, zip(*rows, strict=True)) if rows else empty)]


def while_loop(params: Any, operands: Arrays) -> list[np.ndarray]:
    first = params["cond_nconsts"]
    second = first + params["body_nconsts"]
    for_condition, fixed, carry = operands[:first], operands[first:second], operands[second:]
    condition, body = (compat.opened(params[key]) for key in ("cond_jaxpr", "body_jaxpr"))
    while evaluated(*condition, [*for_condition, *carry])[0]:
        carry = evaluated(*body, [*fixed, *carry])
    return list(carry)


def cond(params: Any, operands: Arrays) -> list[np.ndarray]:
    branches = params["branches"]
    index = int(np.clip(operands[0], 0, len(branches) - 1))
    return evaluated(*compat.opened(branches[index]), operands[1:])


CONTROL: dict[Any, Callable] = {
    compat.scan_p: scan, compat.while_p: while_loop, compat.cond_p: cond,
}  # fmt: skip


# --- primitives -------------------------------------------------------------------------------


def same(*operands: Any) -> Any:
    return operands[0]


ELEMENTWISE: dict[Any, Callable] = {
    lax.add_p: np.add, primitives.add_jaxvals_p: np.add, lax.sub_p: np.subtract,
    lax.mul_p: np.multiply, lax.div_p: np.divide, lax.neg_p: np.negative, lax.max_p: np.maximum,
    lax.min_p: np.minimum, lax.exp_p: np.exp, lax.log_p: np.log, lax.log1p_p: np.log1p,
    lax.expm1_p: np.expm1, lax.tanh_p: np.tanh, lax.logistic_p: lambda x: 1 / (1 + np.exp(-x)),
    lax.sqrt_p: np.sqrt, lax.rsqrt_p: lambda x: 1 / np.sqrt(x), lax.abs_p: np.abs,
    lax.sign_p: np.sign, lax.square_p: np.square, lax.floor_p: np.floor, lax.ceil_p: np.ceil,
    lax.pow_p: np.power, lax.sin_p: np.sin, lax.cos_p: np.cos, lax.lt_p: np.less,
    lax.le_p: np.less_equal, lax.gt_p: np.greater, lax.ge_p: np.greater_equal,
    lax.eq_p: np.equal, lax.ne_p: np.not_equal, lax.and_p: np.bitwise_and,
    lax.or_p: np.bitwise_or, lax.not_p: np.invert, lax.is_finite_p: np.isfinite,
    lax.stop_gradient_p: same, lax.copy_p: same, primitives.name_p: same,
    lax.clamp_p: lambda low, x, high: np.minimum(np.maximum(x, low), high),
}  # fmt: skip
FOR_INTEGERS = frozenset(
    [
        lax.add_p, lax.sub_p, lax.mul_p, lax.neg_p, lax.max_p, lax.min_p, lax.lt_p, lax.le_p,
        lax.gt_p, lax.ge_p, lax.eq_p, lax.ne_p, lax.copy_p, lax.clamp_p, primitives.add_jaxvals_p,
    ]
)  # fmt: skip


def select(params: Any, operands: Arrays, out: Any) -> np.ndarray | None:
    which, *cases = operands
    return np.where(which, cases[1], cases[0]) if which.dtype == bool else None


def convert(params: Any, operands: Arrays, out: Any) -> np.ndarray | None:
    (x,), dtype = operands, params["new_dtype"]
    if np.issubdtype(x.dtype, np.floating) and not np.issubdtype(dtype, np.floating):
        return None  # saturates
    return x.astype(dtype)


def broadcast(params: Any, operands: Arrays, out: Any) -> np.ndarray:
    x, shape = operands[0], out[0].aval.shape
    inserted = [1] * len(shape)
    for axis, size in zip(params["broadcast_dimensions"], x.shape, strict=True):
        inserted[axis] = size
    return np.broadcast_to(x.reshape(inserted), shape)


def sliced(params: Any, operands: Arrays, out: Any) -> np.ndarray:
    starts, limits = params["start_indices"], params["limit_indices"]
    strides = params["strides"] or (1,) * len(starts)
    return operands[0][tuple(map(slice, starts, limits, strides))]


def padded(params: Any, operands: Arrays, out: Any) -> np.ndarray | None:
    x, value = operands
    if any(low < 0 or high < 0 for low, high, _ in params["padding_config"]):
        return None
    found = np.full(out[0].aval.shape, value, x.dtype)
    places = [
        slice(low, low + max((size - 1) * (inner + 1) + 1, 0), inner + 1)
        for (low, _, inner), size in zip(params["padding_config"], x.shape, strict=True)
    ]
    found[tuple(places)] = x
    return found


def window(x: np.ndarray, starts: Arrays, sizes: Sequence[int]) -> tuple[slice, ...]:
    """Where a dynamic slice lies: inside, wherever it was asked for."""
    clipped = [int(np.clip(s, 0, n - k)) for s, n, k in zip(starts, x.shape, sizes, strict=True)]
    return tuple(slice(s, s + k) for s, k in zip(clipped, sizes, strict=True))


def dynamic_slice(params: Any, operands: Arrays, out: Any) -> np.ndarray:
    x, *starts = operands
    return x[window(x, starts, params["slice_sizes"])]


def dynamic_update_slice(params: Any, operands: Arrays, out: Any) -> np.ndarray:
    x, update, *starts = operands
    found = x.copy()
    found[window(x, starts, update.shape)] = update
    return found


def reduced(function: Callable) -> Callable:
    def reduce(params: Any, operands: Arrays, out: Any) -> np.ndarray | None:
        x = np.asarray(operands[0], order="C")
        axes = tuple(params["axes"])
        if math.prod(x.shape) == 0:
            return None
        return np.asarray(function(x, axis=axes), out[0].aval.dtype).reshape(out[0].aval.shape)

    return reduce


def split(params: Any, operands: Arrays, out: Any) -> list[np.ndarray]:
    ends = np.cumsum(params["sizes"])[:-1]
    return [np.asarray(a, order="C") for a in np.split(operands[0], ends, params["axis"])]


OTHER: dict[Any, Callable] = {
    lax.select_n_p: select, lax.convert_element_type_p: convert, lax.broadcast_in_dim_p: broadcast,
    lax.slice_p: sliced, lax.pad_p: padded, lax.dynamic_slice_p: dynamic_slice,
    lax.dynamic_update_slice_p: dynamic_update_slice, lax.reduce_sum_p: reduced(np.sum),
    lax.reduce_max_p: reduced(np.max), lax.reduce_min_p: reduced(np.min),
    lax.reshape_p: lambda p, a, out: a[0].reshape(out[0].aval.shape),
    lax.squeeze_p: lambda p, a, out: a[0].reshape(out[0].aval.shape),
    lax.transpose_p: lambda p, a, out: a[0].transpose(p["permutation"]),
    lax.rev_p: lambda p, a, out: np.flip(a[0], p["dimensions"]),
    lax.concatenate_p: lambda p, a, out: np.concatenate(a, p["dimension"]),
    lax.integer_pow_p: lambda p, a, out: (
        a[0] ** p["y"] if np.issubdtype(a[0].dtype, np.floating) else None),
    lax.iota_p: lambda p, a, out: np.broadcast_to(
        np.arange(p["shape"][p["dimension"]], dtype=p["dtype"]).reshape(
            [-1 if i == p["dimension"] else 1 for i in range(len(p["shape"]))]), p["shape"]),
    **{p: split for p in compat.existing("split")},
    **{p: lambda p, a, out: list(a) for p in compat.existing("optimization_barrier")},
    **{p: lambda p, a, out: np.stack(a, p["axis"]) for p in compat.existing("stack")},
}  # fmt: skip
