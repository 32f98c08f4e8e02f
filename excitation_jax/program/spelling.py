"""What is the same however it is spelled: an expression written twice, and a sum of one.

``(x @ w) * sigmoid(x @ w)`` has one layer. An operation that reads the same values as an earlier
one, in the same way, computes what that one did: taken for two neurons they would share what is one
neuron's, and a function of one value would look like one of two. Only within a module, so that each
keeps the layers that it has by name.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jax import lax

from . import compat

if TYPE_CHECKING:
    from .trace import Value

#: What is written in order to be there twice, or to be found by its name.
_KEPT = frozenset([compat.name_p, lax.optimization_barrier_p])


class Expressions:
    """The results of the operations met so far, by what each one is."""

    def __init__(self) -> None:
        self._made: dict[Hashable, tuple[Value, ...]] = {}

    def key(self, eqn: Any, inputs: Sequence[Value], where: Hashable) -> Hashable | None:
        """What is equal for equations of one result; None for those that always are their own.

        Args:
          where: the calls around it.
        """
        if eqn.effects or eqn.primitive in _KEPT:
            return None
        params = tuple(sorted(eqn.params.items(), key=lambda item: item[0]))
        key = eqn.primitive, tuple(map(_operand, inputs)), params, where
        try:
            hash(key)
        except TypeError:  # parameters that hold arrays
            return None
        return key

    def find(self, key: Hashable | None) -> tuple[Value, ...] | None:
        """The results of an equal operation, if there was one."""
        return None if key is None else self._made.get(key)

    def note(self, key: Hashable | None, made: tuple[Value, ...]) -> None:
        """These are an operation's results."""
        if key is not None:
            self._made[key] = made


def _operand(value: Value) -> Hashable:
    if value.literal is None:
        return value
    number = np.asarray(value.literal)
    return number.dtype.str, value.dtype, number.shape, number.tobytes()


_REDUCTIONS = (lax.reduce_sum_p, lax.reduce_max_p, lax.reduce_min_p, lax.reduce_prod_p)
_WINDOWS = (lax.reduce_window_sum_p, lax.reduce_window_max_p, lax.reduce_window_min_p)
_SO_FAR = (lax.cumsum_p, lax.cummax_p, lax.cummin_p, lax.cumprod_p)


def plainer(primitive: Any, params: dict[str, Any], shape: Sequence[int]) -> tuple[Any, dict]:
    """An operation, or for a sum, product or maximum of one element each, what moves it.

    Args:
      shape: of its first operand.
    """
    if primitive in _REDUCTIONS and all(shape[axis] == 1 for axis in params["axes"]):
        return lax.squeeze_p, {"dimensions": tuple(params["axes"])}
    alone = primitive in _SO_FAR and shape[params["axis"]] == 1
    if primitive in _WINDOWS:
        ones = (*params["window_dimensions"], *params["base_dilation"])
        alone = all(size == 1 for size in ones) and not any(map(any, params["padding"]))
    if not alone:
        return primitive, params
    strides = tuple(params["window_strides"]) if primitive in _WINDOWS else None
    start, limit = (0,) * len(shape), tuple(shape)
    return lax.slice_p, {"start_indices": start, "limit_indices": limit, "strides": strides}
