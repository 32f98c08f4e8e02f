"""What range a value can take, from the program alone.

Two means: interval arithmetic along the program, and, for a function of one value that is
built from known numbers only (GELU, SiLU, hard-swish, SELU, ...), its minimum on a fine grid.
The functions are recognised by their structure, whatever the library that wrote them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jax import lax
from jax.extend.core import primitives

from . import compat
from .trace import Op

INF = math.inf


class Interval(NamedTuple):
    """Every element of a value lies in [low, high]."""

    low: float
    high: float


ANYTHING = Interval(-INF, INF)

_erf = np.vectorize(math.erf, otypes=[float])


def _logistic(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _identity(x: np.ndarray) -> np.ndarray:
    return x


def _as_float(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, float)  # a comparison's result is no number yet


# Elementwise functions of one argument: non-decreasing, then the others.
MONOTONE: dict[compat.Primitive, Callable] = {
    lax.exp_p: np.exp, lax.exp2_p: np.exp2, lax.expm1_p: np.expm1, lax.log_p: np.log,
    lax.log1p_p: np.log1p, lax.logistic_p: _logistic, lax.tanh_p: np.tanh, lax.erf_p: _erf,
    lax.sqrt_p: np.sqrt, lax.cbrt_p: np.cbrt, lax.atan_p: np.arctan, lax.asinh_p: np.arcsinh,
    lax.floor_p: np.floor, lax.ceil_p: np.ceil, lax.round_p: np.round, lax.sign_p: np.sign,
    lax.sinh_p: np.sinh, lax.convert_element_type_p: _as_float, lax.stop_gradient_p: _identity,
    lax.copy_p: _identity, lax.reduce_precision_p: _identity, compat.name_p: _identity,
    compat.sharding_constraint_p: _identity,
    **{p: np.log2 for p in compat.existing("log2")},
}  # fmt: skip
OTHER_UNARY: dict[compat.Primitive, Callable] = {
    lax.abs_p: np.abs, lax.square_p: np.square, lax.neg_p: np.negative, lax.sin_p: np.sin,
    lax.cos_p: np.cos, lax.cosh_p: np.cosh, lax.rsqrt_p: lambda x: 1 / np.sqrt(x),
    lax.erfc_p: lambda x: 1 - _erf(x),
    **{p: lambda x: 1 - np.square(x) for p in compat.existing("one_minus_square")},
}  # fmt: skip
_RANGES: dict[compat.Primitive, Interval] = {
    lax.sin_p: Interval(-1, 1), lax.cos_p: Interval(-1, 1), lax.erfc_p: Interval(0, 2),
    lax.rsqrt_p: Interval(0, INF),
}  # fmt: skip
#: Even, and monotone from zero on (so are even powers).
_EVEN = frozenset([lax.abs_p, lax.square_p, lax.cosh_p, *compat.existing("one_minus_square")])
# The second one is what jax.grad sums with (in a slope taken inside a model).
_SUMS = (lax.add_p, primitives.add_jaxvals_p)
SEVERAL: dict[compat.Primitive, Callable] = {
    **dict.fromkeys(_SUMS, np.add),
    lax.sub_p: np.subtract, lax.mul_p: np.multiply, lax.div_p: np.divide,
    lax.max_p: np.maximum, lax.min_p: np.minimum, lax.pow_p: np.power,
    lax.clamp_p: lambda lo, x, hi: np.minimum(np.maximum(x, lo), hi),
    lax.gt_p: np.greater, lax.ge_p: np.greater_equal, lax.lt_p: np.less,
    lax.le_p: np.less_equal, lax.eq_p: np.equal, lax.ne_p: np.not_equal,
    lax.and_p: np.logical_and, lax.or_p: np.logical_or, lax.not_p: np.logical_not,
    lax.is_finite_p: np.isfinite,
    lax.select_n_p: lambda which, *cases: np.choose(np.asarray(which, int), cases),
}  # fmt: skip


#: Comparisons; of one value, they are step functions.
TRUTH = frozenset([lax.gt_p, lax.ge_p, lax.lt_p, lax.le_p, lax.eq_p, lax.ne_p, lax.is_finite_p])


def elementwise_function(op: Op) -> Callable | None:
    """The numpy function that an elementwise operation applies, None for any other."""
    if op.primitive is lax.integer_pow_p:
        return lambda x: np.power(x, float(op.params["y"]))
    if op.primitive is lax.select_n_p and op.inputs[0].shape != op.outputs[0].shape:
        return None
    for table in (MONOTONE, OTHER_UNARY, SEVERAL):
        if op.primitive in table:
            return table[op.primitive]
    return None


def _products(a: Interval, b: Interval) -> Interval:
    # 0 * inf is 0 here: the bound is never attained.
    corners = [0.0 if 0 in (x, y) else x * y for x in a for y in b]
    return Interval(min(corners), max(corners))


def _of_magnitude(op: Op, a: Interval) -> Interval:
    """The range of an even function that is monotone from zero on."""
    function = elementwise_function(op)
    assert function is not None
    least, most = sorted(map(abs, a))
    with np.errstate(all="ignore"):
        ends = function(np.array([0.0 if a.low < 0 < a.high else least, most]))
    return Interval(float(ends.min()), float(ends.max()))


def _reciprocal(a: Interval) -> Interval:
    if a.low < 0 < a.high:
        return ANYTHING
    with np.errstate(divide="ignore"):
        if a.low >= 0:
            return Interval(float(np.divide(1, a.high)), float(np.divide(1.0, a.low)))
        return Interval(-INF if a.high == 0 else 1 / a.high, 1 / a.low)


def _window_size(op: Op) -> int:
    if op.primitive is lax.reduce_sum_p:
        return math.prod(op.inputs[0].shape[axis] for axis in op.params["axes"])
    return math.prod(op.params["window_dimensions"])


def output_interval(op: Op, inputs: Sequence[Interval]) -> Interval:
    """Bounds of an operation's output from those of its operands; anything where unknown."""
    low, high = _output_interval(op, inputs)
    return Interval(-INF if math.isnan(low) else low, INF if math.isnan(high) else high)


def _output_interval(op: Op, inputs: Sequence[Interval]) -> Interval:
    primitive, first = op.primitive, inputs[0] if inputs else ANYTHING
    if primitive in MONOTONE:
        with np.errstate(all="ignore"):
            low, high = (float(MONOTONE[primitive](np.float64(end))) for end in first)
        return Interval(low, high)
    if primitive in TRUTH:
        return Interval(0, 1)
    if primitive in _RANGES:
        return _RANGES[primitive]
    if primitive is lax.neg_p:
        return Interval(-first.high, -first.low)
    if primitive in _EVEN or (primitive is lax.integer_pow_p and op.params["y"] % 2 == 0):
        return _of_magnitude(op, first)
    if primitive is lax.pow_p and first.low >= 0:
        return Interval(0, INF)
    if primitive in _SUMS:
        return Interval(first.low + inputs[1].low, first.high + inputs[1].high)
    if primitive is lax.sub_p:
        return Interval(first.low - inputs[1].high, first.high - inputs[1].low)
    if primitive is lax.mul_p:
        return _products(first, inputs[1])
    if primitive is lax.div_p:
        return _products(first, _reciprocal(inputs[1]))
    if primitive is lax.max_p:
        return Interval(max(first.low, inputs[1].low), max(first.high, inputs[1].high))
    if primitive is lax.min_p:
        return Interval(min(first.low, inputs[1].low), min(first.high, inputs[1].high))
    if primitive is lax.clamp_p:
        least, x, most = inputs
        return Interval(
            min(max(x.low, least.low), most.low), max(min(x.high, most.high), least.high)
        )
    if primitive is lax.cumsum_p:
        return _products(first, Interval(1, op.inputs[0].shape[op.params["axis"]]))
    if primitive in (lax.reduce_sum_p, lax.reduce_window_sum_p):
        count = _window_size(op)
        # Padding adds zeros, so a window may hold fewer of the values.
        fewest = count if primitive is lax.reduce_sum_p else 0
        if primitive is lax.reduce_window_sum_p and not any(map(any, op.params["padding"])):
            fewest = count
        counted = Interval(fewest, count)
        return _products(first, counted)
    if primitive is lax.scatter_add_p:
        added = _products(inputs[2], Interval(0, INF))  # any number of them to one element
        return Interval(first.low + added.low, first.high + added.high)
    if primitive in (lax.scatter_p, lax.dynamic_update_slice_p):
        written = inputs[2] if primitive is lax.scatter_p else inputs[1]
        return Interval(min(first.low, written.low), max(first.high, written.high))
    if primitive in _SAME_VALUES and (primitive is not lax.sort_p or len(inputs) == 1):
        return first
    if primitive in _JOINED or primitive is lax.select_n_p:
        joined = inputs[1:] if primitive is lax.select_n_p else inputs
        return Interval(min(i.low for i in joined), max(i.high for i in joined))
    return ANYTHING


# Operations whose outputs hold elements of their first operand, or of all, and nothing else.
_SAME_VALUES = frozenset(
    [
        lax.reshape_p, lax.transpose_p, lax.slice_p, lax.broadcast_in_dim_p, lax.gather_p,
        lax.squeeze_p, lax.rev_p, lax.dynamic_slice_p, lax.reduce_max_p, lax.reduce_min_p,
        lax.sort_p, lax.cummax_p, lax.cummin_p, lax.reduce_window_max_p, lax.reduce_window_min_p,
        compat.pvary_p, compat.reshard_p, *compat.existing("split", "tile", "unstack"),
    ]
)  # fmt: skip
_JOINED = frozenset([lax.concatenate_p, lax.pad_p, *compat.existing("stack")])

_NEAR = np.linspace(-30, 30, 12001)
_FAR = np.geomspace(1e-6, 1e6, 2401)
_GRID = np.sort(np.concatenate([_NEAR, -_FAR, _FAR]))
_DECADES = np.array([1e4, 1e5, 1e6])
_BETWEEN = np.linspace(0, 1, 257)


def numeric_minimum(function: Callable[[np.ndarray], np.ndarray], domain: Interval) -> float:
    """Minimum of an elementwise function on ``domain``; -inf where it falls without end."""
    points = np.clip(_GRID, *domain)
    with np.errstate(all="ignore"):
        values = np.broadcast_to(function(points), points.shape)
        ends = [function(np.clip(side * _DECADES, *domain)) for side in (-1, 1)]
    if np.isposinf(values).all() or not np.all(np.isfinite(values) | np.isposinf(values)):
        return -INF
    # The grid is too coarse for a kink, as of max(x, 1 / (1 + x)): look closer, three times.
    for _ in range(3):
        at = int(np.argmin(values))
        left, right = points[max(at - 1, 0)], points[min(at + 1, len(points) - 1)]
        points = left + (right - left) * _BETWEEN
        with np.errstate(all="ignore"):
            closer = np.broadcast_to(function(points), points.shape)
        if not closer.min() <= values[at]:
            break
        values = closer
    lowest = float(values.min())
    for end in ends:
        with np.errstate(invalid="ignore"):
            before, last = np.diff(end)
        # Towards a limit the steps from decade to decade shrink; a logarithm's stay the same.
        if last < -1e-6 * max(1.0, abs(lowest)) and last <= before / 2:
            return -INF
    return lowest
