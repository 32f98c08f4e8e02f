"""The average of a fully convolutional network: it slides where a dense one's is global."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jax import lax

from ..engine.plan import Plan
from ..program.primitives import Kind, row
from ..program.trace import Op, Value


def above_sliding_average(plan: Plan, values: Iterable[Value]) -> set[Value]:
    """What lies between a feature map and the scores, where an average slides over the map.

    A feature map is read before its average, be it a global one or a window that moves by one
    position: behind it, a contrastive map sums to zero over the channels (IJCV18, Table 2, reads
    the layer before pooling). An average between layers that are not linear is none of a head.

    Args:
      values: where to look down from.

    Returns:
      The window's averages and all above them, up to ``values``; nothing where an operation that is
      not linear comes first.
    """
    found: set[Value] = set()
    for value in values:
        passed = []
        while (op := plan.facts[value].producer) is not None and op in plan.steps:
            passed.append(value)
            sources = plan.steps[op].sources
            if len(sources) != 1 or not _is_linear(op):
                break
            (value,) = sources
            if _slides(op):
                found.update(passed)
                break
    return found


def _slides(op: Op) -> bool:
    if op.primitive is not lax.reduce_window_sum_p:
        return False
    window, strides = (op.params[key] for key in ("window_dimensions", "window_strides"))
    return bool(np.prod(window) > 1 and set(strides) == {1})


def _is_linear(op: Op) -> bool:
    known = row(op.primitive)
    linear = (Kind.AFFINE, Kind.SUM, Kind.MOVE, Kind.IDENTITY)
    return known is not None and (known.kind in linear or known.affine)
