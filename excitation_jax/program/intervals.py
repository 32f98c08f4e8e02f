"""Ranges of numbers: interval arithmetic, and the minimum of a function on an interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

INF = math.inf
#: Constants from here down stand for minus infinity (in float16, -65504 does).
FILL = -1e4


class Interval(NamedTuple):
    """Every element of a value lies in [low, high]."""

    low: float
    high: float


ANYTHING = Interval(-INF, INF)
TRUTH = Interval(0, 1)


def known(low: float, high: float) -> Interval:
    """An interval from ends of which a NaN means that nothing is known."""
    return Interval(-INF if math.isnan(low) else low, INF if math.isnan(high) else high)


def union(parts: Iterable[Interval]) -> Interval:
    """The smallest interval that holds all of these."""
    parts = list(parts)
    return Interval(min(part.low for part in parts), max(part.high for part in parts))


def product(a: Interval, b: Interval) -> Interval:
    """Of ``x * y``; 0 * inf is 0 here, as the bound is never attained."""
    corners = [0.0 if 0 in (x, y) else x * y for x in a for y in b]
    return Interval(min(corners), max(corners))


def reciprocal(a: Interval) -> Interval:
    """Of ``1 / x``."""
    if a.low < 0 < a.high:
        return ANYTHING
    with np.errstate(divide="ignore"):
        if a.low >= 0:
            return Interval(float(np.divide(1, a.high)), float(np.divide(1.0, a.low)))
        return Interval(-INF if a.high == 0 else 1 / a.high, 1 / a.low)


def rising(function: Callable, a: Interval) -> Interval:
    """Of a function that does not fall."""
    with np.errstate(all="ignore"):
        return Interval(*(float(function(np.float64(end))) for end in a))


def even(function: Callable, a: Interval) -> Interval:
    """Of an even function that is monotone from zero on."""
    least, most = sorted(map(abs, a))
    with np.errstate(all="ignore"):
        ends = function(np.array([0.0 if a.low < 0 < a.high else least, most]))
    return Interval(float(ends.min()), float(ends.max()))


def clamped(least: Interval, x: Interval, most: Interval) -> Interval:
    """Of ``min(max(x, least), most)``."""
    return Interval(min(max(x.low, least.low), most.low), max(min(x.high, most.high), least.high))


def integer_power(op: Any, inputs: Sequence[Interval]) -> Interval:
    """Of ``x ** y`` for a fixed whole y."""
    y = op.params["y"]

    def power(x: Any) -> Any:
        return np.power(x, float(y))

    if y % 2 == 0:
        return even(power, inputs[0])
    return rising(power, inputs[0]) if y > 0 else ANYTHING


def sum_over_axes(op: Any, inputs: Sequence[Interval]) -> Interval:
    """Of so many elements."""
    count = math.prod(op.inputs[0].shape[axis] for axis in op.params["axes"])
    return product(inputs[0], Interval(count, count))


def sum_of_window(op: Any, inputs: Sequence[Interval]) -> Interval:
    """Of as many elements as the window holds; fewer at the borders, where padding adds zeros."""
    count = math.prod(op.params["window_dimensions"])
    padded = any(map(any, op.params["padding"]))
    return product(inputs[0], Interval(0 if padded else count, count))


def pooled(op: Any, a: Interval, b: Interval) -> Interval:
    """Of a matrix product or convolution: of as many products as meet in one element."""
    if "window_strides" in op.params:
        kernel = op.inputs[1].shape
        out = op.params["dimension_numbers"].rhs_spec[0]
        count = math.prod(kernel) // kernel[out]
        dilated = any(size != 1 for size in op.params["lhs_dilation"])
        fewest = 0 if dilated or any(map(any, op.params["padding"])) else count
    else:
        (contracted, _), _ = op.params["dimension_numbers"]
        fewest = count = math.prod(op.inputs[0].shape[axis] for axis in contracted)
    return product(product(a, b), Interval(fewest, count))


def sum_so_far(op: Any, inputs: Sequence[Interval]) -> Interval:
    """Of one element to all along an axis."""
    return product(inputs[0], Interval(1, op.inputs[0].shape[op.params["axis"]]))


def any_number_added(op: Any, inputs: Sequence[Interval]) -> Interval:
    """Of ``x.at[i].add(y)``, where any number of y may meet in one element."""
    added = product(inputs[2], Interval(0, INF))
    return Interval(inputs[0].low + added.low, inputs[0].high + added.high)


_NEAR = np.linspace(-30, 30, 12001)
_FAR = np.geomspace(1e-6, 1e6, 2401)
#: Numbers at which functions of one number are tried.
GRID = np.sort(np.concatenate([_NEAR, -_FAR, _FAR]))
_DECADES = np.array([1e4, 1e5, 1e6])
_BETWEEN = np.linspace(0, 1, 257)


def minimum(function: Callable[[np.ndarray], np.ndarray], domain: Interval) -> float:
    """Minimum of an elementwise function on ``domain``; -inf where it falls without end."""
    points = np.clip(GRID, *domain)
    values = _tried(function, points)
    numbers = np.flatnonzero(~np.isnan(values))
    if numbers.size == 0:
        return -INF
    inside = slice(numbers[0], numbers[-1] + 1)
    if not _overflows(function, points[inside], domain):
        return -INF
    points, values = points[inside], values[inside]
    ends = [_tried(function, np.clip(side * _DECADES, points[0], points[-1])) for side in (-1, 1)]
    if np.isposinf(values).all() or not np.all(np.isfinite(values) | np.isposinf(values)):
        return -INF
    # The grid is too coarse for a kink, as of max(x, 1 / (1 + x)): look closer, three times.
    for _ in range(3):
        at = int(np.argmin(values))
        left, right = points[max(at - 1, 0)], points[min(at + 1, len(points) - 1)]
        points = left + (right - left) * _BETWEEN
        closer = _tried(function, points)
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


def _tried(function: Callable[[np.ndarray], np.ndarray], points: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.array(np.broadcast_to(function(points), points.shape), float)


def _overflows(function: Callable, points: np.ndarray, domain: Interval) -> bool:
    """Whether a function is a number throughout, but where parts of it overflow.

    So ``(e - 1 / e) / (e + 1 / e)`` does far out, where it has come to its limit. Where it falls
    towards the last of its numbers, these are the border of what it is defined on.

    Args:
      points: from the first number to the last one.
    """
    for edge, outermost in ((points[0], GRID[0]), (points[-1], GRID[-1])):
        if edge == np.clip(outermost, *domain):
            continue
        halfway, last = _tried(function, np.array([edge / 2, edge]))
        falls = not np.isfinite(halfway) or last < halfway - 1e-6 * max(1.0, abs(halfway))
        if falls or abs(edge) < 10:
            return False
    return True
