"""What is known of JAX's primitives: one table, one row each, read by every analysis.

Where a cell has nothing to say, it says why (`Missing`): an analysis that meets such a cell, or a
primitive without a row, has to decide in the open what that means.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jax import lax
from jax.extend.core import primitives as named

from . import compat
from .intervals import (
    ANYTHING,
    INF,
    TRUTH,
    Interval,
    any_number_added,
    clamped,
    even,
    integer_power,
    known,
    product,
    reciprocal,
    rising,
    sum_of_window,
    sum_over_axes,
    sum_so_far,
    union,
)

Primitive = compat.Primitive


class Kind(enum.Enum):
    """What an operation does to the elements of its operands."""

    ELEMENTWISE = "a function of the operands' elements at one place"
    IDENTITY = "each operand, unchanged but for its precision"
    MOVE = "elements of the operands in other places"
    SUM = "sums of one operand's elements"
    AFFINE = "sums of products of two operands' elements"
    WINNER = "elements that are chosen by their size"
    NEST = "holds functions that run as often as its operands say"
    CALL = "holds one function that runs once"


class Layout(enum.Enum):
    """What becomes of the axes."""

    KEPT = "each axis stays"
    PERMUTED = "axes change places"
    RESHAPED = "axes are split and merged"
    BROADCAST = "axes are added, those of length 1 repeated"
    REDUCED = "axes are dropped"
    SLICED = "axes are cut"
    PADDED = "axes get constants around and between their elements"
    JOINED = "operands follow each other along an axis"
    SPLIT = "the outputs are pieces along an axis"
    STACKED = "the operands along a new axis"
    UNSTACKED = "the outputs are what lies along an axis"
    TILED = "axes are repeated"
    REVERSED = "axes run backwards"
    PICKED = "indices pick slices"
    PLACED = "indices place slices in an operand"
    CHOSEN = "along an axis elements are chosen by their size"
    WINDOWS = "windows move along axes"
    CONVOLVED = "windows move along spatial axes and sum over channels"
    CONTRACTED = "axes that are summed over vanish, those of both operands follow each other"


@dataclass(frozen=True)
class Missing:
    """An empty cell, and why it is empty."""

    reason: str


#: Signs of an elementwise function's slope in each operand: 1 rises, -1 falls, 0 has the sign of
#: the other factor, None turns.
Slope = tuple[int | None, ...]


@dataclass(frozen=True)
class Row:
    """What is known of one primitive.

    Attributes:
      kind, layout: see there.
      function: from an operation's parameters to the numpy function that it applies element by
        element.
      slope: the signs of that function's slope, one for each operand; the last holds for any more.
      span: from an operation and its operands' intervals to its outputs' interval.
      indices: positions of the operands that say which elements are meant, not what they are.
      label: what to call a layer that is this operation, if it may be one.
      affine: element by element, it only scales its operand by constants and adds such.
    """

    kind: Kind
    layout: Layout | Missing
    function: Callable[[dict[str, Any]], Callable] | Missing
    slope: Slope | Missing
    span: Callable[[Any, Sequence[Interval]], Interval] | Missing
    indices: range = range(0)
    label: str | None = None
    affine: bool = False


def row(primitive: Primitive) -> Row | None:
    """What is known of a primitive; None where it has no row."""
    return TABLE.get(primitive)


def kind(primitive: Primitive) -> Kind | None:
    """The kind of a primitive; None where it has no row."""
    return TABLE[primitive].kind if primitive in TABLE else None


def layout(primitive: Primitive) -> Layout | None:
    """What becomes of axes; None where that is unknown."""
    found = TABLE[primitive].layout if primitive in TABLE else None
    return found if isinstance(found, Layout) else None


def indices(primitive: Primitive) -> range:
    """Positions of the operands that say which elements are meant."""
    return TABLE[primitive].indices if primitive in TABLE else range(0)


def elementwise_function(op: Any) -> Callable | None:
    """The numpy function that an operation applies element by element, None for any other."""
    found = TABLE.get(op.primitive)
    if found is None or isinstance(found.function, Missing):
        return None
    if op.primitive is lax.select_n_p and op.inputs[0].shape != op.outputs[0].shape:
        return None  # one truth chooses for all elements
    return found.function(op.params)


def output_range(op: Any, inputs: Sequence[Interval]) -> Interval:
    """Bounds of an operation's outputs from those of its operands; anything where unknown."""
    found = TABLE.get(op.primitive)
    if found is None or isinstance(found.span, Missing):
        return ANYTHING
    return known(*found.span(op, inputs))


TABLE: dict[Primitive, Row] = {}


def _add(primitives: Iterable[Primitive], entry: Row) -> None:
    for primitive in primitives:
        assert primitive not in TABLE, primitive
        TABLE[primitive] = entry


# -- elementwise --------------------------------------------------------------------------------

_erf = np.vectorize(math.erf, otypes=[float])


def _same(x: Any) -> Any:
    return x


def _elementwise(
    primitive: Primitive | Iterable[Primitive], function: Callable, slope: Slope, span: Callable
) -> None:
    which = (primitive,) if isinstance(primitive, Primitive) else primitive
    entry = Row(Kind.ELEMENTWISE, Layout.KEPT, lambda params: function, slope, span)
    _add(which, entry)


def _rises(primitive: Primitive | Iterable[Primitive], function: Callable) -> None:
    _elementwise(primitive, function, (1,), lambda op, i: rising(function, i[0]))


def _even(primitive: Primitive | Iterable[Primitive], function: Callable) -> None:
    _elementwise(primitive, function, (None,), lambda op, i: even(function, i[0]))


def _falls(primitive: Primitive, function: Callable, span: Callable) -> None:
    _elementwise(primitive, function, (-1,), span)


_rises(lax.exp_p, np.exp)
_rises(lax.exp2_p, np.exp2)
_rises(lax.expm1_p, np.expm1)
_rises(lax.log_p, np.log)
_rises(lax.log1p_p, np.log1p)
_rises(compat.existing("log2"), np.log2)
_rises(lax.logistic_p, lambda x: 0.5 * (1 + np.tanh(0.5 * x)))
_rises(lax.tanh_p, np.tanh)
_rises(lax.erf_p, _erf)
_rises(lax.sqrt_p, np.sqrt)
_rises(lax.cbrt_p, np.cbrt)
_rises(lax.atan_p, np.arctan)
_rises(lax.asinh_p, np.arcsinh)
_rises(lax.sinh_p, np.sinh)
_rises(lax.floor_p, np.floor)
_rises(lax.ceil_p, np.ceil)
_rises(lax.round_p, np.round)
_rises(lax.sign_p, np.sign)
# Casts: a comparison's result is no number yet.
_rises(lax.convert_element_type_p, lambda x: np.asarray(x, float))
_even(lax.abs_p, np.abs)
_even(lax.square_p, np.square)
_even(lax.cosh_p, np.cosh)
_even(compat.existing("one_minus_square"), lambda x: 1 - np.square(x))
_elementwise(lax.sin_p, np.sin, (None,), lambda op, i: Interval(-1, 1))
_elementwise(lax.cos_p, np.cos, (None,), lambda op, i: Interval(-1, 1))
_falls(lax.neg_p, np.negative, lambda op, i: Interval(-i[0].high, -i[0].low))
_falls(lax.rsqrt_p, lambda x: 1 / np.sqrt(x), lambda op, i: Interval(0, INF))
_falls(lax.erfc_p, lambda x: 1 - _erf(x), lambda op, i: Interval(0, 2))
_add(
    [lax.integer_pow_p],
    Row(
        Kind.ELEMENTWISE, Layout.KEPT, lambda params: lambda x: np.power(x, float(params["y"])),
        (None,), integer_power,
    ),
)  # fmt: skip
#: jax.grad sums with the second one (in a slope taken inside a model).
ADDITIONS = (lax.add_p, named.add_jaxvals_p)
_elementwise(
    ADDITIONS, np.add, (1, 1),
    lambda op, i: Interval(i[0].low + i[1].low, i[0].high + i[1].high),
)  # fmt: skip
_elementwise(
    lax.sub_p, np.subtract, (1, -1),
    lambda op, i: Interval(i[0].low - i[1].high, i[0].high - i[1].low),
)  # fmt: skip
_elementwise(lax.mul_p, np.multiply, (0, 0), lambda op, i: product(i[0], i[1]))
_elementwise(lax.div_p, np.divide, (0, None), lambda op, i: product(i[0], reciprocal(i[1])))
_elementwise(
    lax.max_p, np.maximum, (1, 1),
    lambda op, i: Interval(max(i[0].low, i[1].low), max(i[0].high, i[1].high)),
)  # fmt: skip
_elementwise(
    lax.min_p, np.minimum, (1, 1),
    lambda op, i: Interval(min(i[0].low, i[1].low), min(i[0].high, i[1].high)),
)  # fmt: skip
_elementwise(
    lax.pow_p, np.power, (None, None),
    lambda op, i: Interval(0, INF) if i[0].low >= 0 else ANYTHING,
)  # fmt: skip
_elementwise(
    lax.clamp_p, lambda lo, x, hi: np.minimum(np.maximum(x, lo), hi), (1, 1, 1),
    lambda op, i: clamped(*i),
)  # fmt: skip
for _primitive, _function in {
    lax.gt_p: np.greater, lax.ge_p: np.greater_equal, lax.lt_p: np.less, lax.le_p: np.less_equal,
    lax.eq_p: np.equal, lax.ne_p: np.not_equal, lax.is_finite_p: np.isfinite,
    lax.and_p: np.logical_and, lax.or_p: np.logical_or, lax.not_p: np.logical_not,
}.items():  # fmt: skip
    _elementwise(_primitive, _function, (None,), lambda op, i: TRUTH)

# -- identities, moves, sums, winners -----------------------------------------------------------

_NOT_AT_ONE_PLACE = Missing("its outputs' elements are not functions of elements at one place")
_LINEAR = Missing("linear in what it moves or sums: direction passes by its own transpose")
_TWO_FACTORS = Missing("linear in each operand, with the sign of the other one: see direction.py")
_OF_ITS_PARTS = Missing("as the functions inside say")


def _first(op: Any, inputs: Sequence[Interval]) -> Interval:
    return inputs[0]


def _all_but_indices(op: Any, inputs: Sequence[Interval]) -> Interval:
    which = TABLE[op.primitive].indices
    return union(interval for i, interval in enumerate(inputs) if i not in which)


def _of_kind(
    of: Kind, where: Layout, *primitives: Primitive, span: Callable = _first, **cells: Any
) -> None:
    function: Any = (lambda params: _same) if of is Kind.IDENTITY else _NOT_AT_ONE_PLACE
    slope: Any = (1,) if of in (Kind.IDENTITY, Kind.WINNER) else _LINEAR
    _add(primitives, Row(of, where, function, slope, span, **cells))


_of_kind(
    Kind.IDENTITY, Layout.KEPT,
    lax.stop_gradient_p, lax.copy_p, lax.reduce_precision_p, compat.name_p,
    compat.sharding_constraint_p,
)  # fmt: skip
# A barrier's outputs are the operands at their positions. The others change on which devices.
_of_kind(Kind.MOVE, Layout.KEPT, lax.optimization_barrier_p, span=lambda op, i: union(i))
_of_kind(Kind.MOVE, Layout.KEPT, compat.pvary_p, compat.reshard_p)
_of_kind(Kind.MOVE, Layout.PERMUTED, lax.transpose_p)
_of_kind(Kind.MOVE, Layout.RESHAPED, lax.reshape_p)
_of_kind(Kind.MOVE, Layout.REDUCED, lax.squeeze_p)
_of_kind(Kind.MOVE, Layout.BROADCAST, lax.broadcast_in_dim_p)
_of_kind(Kind.MOVE, Layout.SLICED, lax.slice_p)
_of_kind(Kind.MOVE, Layout.REVERSED, lax.rev_p)
_of_kind(Kind.MOVE, Layout.PADDED, lax.pad_p, span=_all_but_indices)
_of_kind(Kind.MOVE, Layout.JOINED, lax.concatenate_p, span=_all_but_indices, label="concatenate")
_of_kind(Kind.MOVE, Layout.SPLIT, *compat.existing("split"))
_of_kind(Kind.MOVE, Layout.STACKED, *compat.existing("stack"), span=_all_but_indices)
_of_kind(Kind.MOVE, Layout.UNSTACKED, *compat.existing("unstack"))
_of_kind(Kind.MOVE, Layout.TILED, *compat.existing("tile"))
_of_kind(Kind.MOVE, Layout.PICKED, lax.gather_p, indices=range(1, 2))
_of_kind(Kind.MOVE, Layout.PICKED, lax.dynamic_slice_p, indices=range(1, 99))
_of_kind(
    Kind.MOVE, Layout.PLACED, lax.dynamic_update_slice_p, span=_all_but_indices,
    indices=range(2, 99),
)  # fmt: skip
_of_kind(Kind.MOVE, Layout.PLACED, lax.scatter_p, span=_all_but_indices, indices=range(1, 2))
_add(
    [lax.select_n_p],
    Row(
        Kind.MOVE,
        Layout.KEPT,
        lambda params: lambda which, *cases: np.choose(np.asarray(which, int), cases),
        _LINEAR,
        _all_but_indices,
        indices=range(1),
    ),
)
_ON_DEVICES = Missing("a shard's axes are parts of the array's")
for _primitive in (lax.all_gather_p, lax.all_to_all_p, lax.ppermute_p):
    _add([_primitive], Row(Kind.MOVE, _ON_DEVICES, _NOT_AT_ONE_PLACE, _LINEAR, _first))
for _primitive in (lax.psum_p, compat.psum_invariant_p):
    _add(
        [_primitive],
        Row(
            Kind.SUM, _ON_DEVICES, _NOT_AT_ONE_PLACE, _LINEAR,
            Missing("the number of devices is not looked up"),
        ),
    )  # fmt: skip
_of_kind(Kind.SUM, Layout.REDUCED, lax.reduce_sum_p, label="reduce_sum", span=sum_over_axes)
_of_kind(Kind.SUM, Layout.WINDOWS, lax.reduce_window_sum_p, label="window_sum", span=sum_of_window)
_of_kind(Kind.SUM, Layout.KEPT, lax.cumsum_p, span=sum_so_far)
_of_kind(Kind.SUM, Layout.PLACED, lax.scatter_add_p, span=any_number_added, indices=range(1, 2))
_of_kind(
    Kind.WINNER, Layout.PLACED, lax.scatter_max_p, lax.scatter_min_p, span=_all_but_indices,
    indices=range(1, 2),
)  # fmt: skip
_of_kind(Kind.WINNER, Layout.REDUCED, lax.reduce_max_p, label="reduce_max")
_of_kind(Kind.WINNER, Layout.REDUCED, lax.reduce_min_p)
_of_kind(Kind.WINNER, Layout.WINDOWS, lax.reduce_window_max_p, label="max_pool")
_of_kind(Kind.WINNER, Layout.WINDOWS, lax.reduce_window_min_p)
_of_kind(Kind.WINNER, Layout.KEPT, lax.cummax_p, lax.cummin_p)
_of_kind(Kind.WINNER, Layout.CHOSEN, lax.top_k_p)
_of_kind(Kind.WINNER, Layout.KEPT, lax.sort_p, span=lambda op, i: i[0] if len(i) == 1 else union(i))

# -- layers, and what holds functions -----------------------------------------------------------


def is_product(op: Any) -> bool:
    """Whether it is a matrix product without contraction, which is a product of elements."""
    return op.primitive is lax.dot_general_p and not op.params["dimension_numbers"][0][0]


for _primitive, _layout, _label in (
    (lax.conv_general_dilated_p, Layout.CONVOLVED, "conv"),
    (lax.dot_general_p, Layout.CONTRACTED, "dense"),
):
    _entry = Row(
        Kind.AFFINE, _layout, _NOT_AT_ONE_PLACE, _TWO_FACTORS,
        # Of a sum by weights nothing is said, whatever these are.
        lambda op, i: product(i[0], i[1]) if is_product(op) else ANYTHING,
        label=_label,
    )  # fmt: skip
    _add([_primitive], _entry)


def _held(of: Kind, primitives: Iterable[Primitive]) -> None:
    _add(primitives, Row(of, _OF_ITS_PARTS, _OF_ITS_PARTS, _OF_ITS_PARTS, _OF_ITS_PARTS))


_held(Kind.NEST, [compat.scan_p, compat.while_p, compat.cond_p, compat.shard_map_p])
_held(Kind.CALL, compat.BODIES)

for _primitive, _label in {lax.add_p: "sum", lax.max_p: "max"}.items():
    TABLE[_primitive] = replace(TABLE[_primitive], label=_label)
for _primitive, _entry in TABLE.items():
    _scales = _primitive in (
        lax.neg_p, *ADDITIONS, lax.sub_p, lax.mul_p, lax.div_p,
        lax.convert_element_type_p,
    )  # fmt: skip
    TABLE[_primitive] = replace(_entry, affine=_scales or _entry.kind is Kind.IDENTITY)
del _primitive, _function, _layout, _label, _entry, _scales
