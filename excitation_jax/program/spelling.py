"""What is the same however it is spelled: an expression written twice, a sum of one, and more.

``(x @ w) * sigmoid(x @ w)`` has one layer. An operation that reads the same values as an earlier
one, in the same way, computes what that one did; taken for two neurons, a function of one value
would look like one of two. Only within a module, so that each keeps the layers that it has by name,
and of sums and layers only where they meet in such a function: what several sums read is a neuron
of its own (D2), and a loop that is written out adds one layer's output in each of its steps.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from . import compat
from .primitives import Kind, kind

# Those of trace.py, which imports this file.
Value: TypeAlias = Any
Program: TypeAlias = Any

#: What is written in order to be there twice, or to be found by its name.
_KEPT = frozenset([compat.name_p, lax.optimization_barrier_p])
_SUMS = (Kind.AFFINE, Kind.SUM)
#: What an operation is: its primitive, and the rest.
Key = tuple[Any, Hashable, Hashable, Hashable]


class Expressions:
    """The results of the operations met so far, by what each one is.

    Attributes:
      twins: of sums and layers that are written again, the first ones.
    """

    def __init__(self) -> None:
        self._made: dict[Key, tuple[Value, ...]] = {}
        self.twins: dict[Value, Value] = {}

    def known(self, key: Key | None) -> tuple[Value, ...] | None:
        """The results of an equal operation that may stand for this one's."""
        return None if key is None or kind(key[0]) in _SUMS else self._made.get(key)

    def note(self, key: Key | None, made: tuple[Value, ...]) -> None:
        """These are an operation's results."""
        if key is None:
            return
        first = self._made.setdefault(key, made)
        if first is not made:
            self.twins.update(zip(made, first, strict=True))


def expression(
    primitive: Any, params: dict[str, Any], inputs: Sequence[Value], where: Hashable
) -> Key | None:
    """What is equal for operations of one result; None for those that always are their own.

    Args:
      where: the calls around it.
    """
    if primitive in _KEPT:
        return None
    given = tuple(sorted(params.items(), key=lambda item: item[0]))
    key = primitive, tuple(map(_operand, inputs)), given, where
    try:
        hash(key)
    except TypeError:  # parameters that hold arrays
        return None
    return key


def _operand(value: Value) -> Hashable:
    if value.literal is None:
        return value
    number = np.asarray(value.literal)
    return number.dtype.str, value.dtype, number.shape, number.tobytes()


def unify(program: Program) -> None:
    """Takes sums and layers that are written twice for one, where a function meets both."""
    again = _meeting(program)
    if not again:
        return
    expressions = Expressions()
    same: dict[Value, Value] = {}
    ops, program.ops = program.ops, []
    for op in ops:
        op.inputs = tuple(same.get(value, value) for value in op.inputs)
        if op.nest is None and again.issuperset(op.outputs):
            same.update((v, program.expressions.twins[v]) for v in op.outputs)
            continue
        key = None
        if _is_elementwise(op):
            key = expression(op.primitive, op.params, op.inputs, (op.path, op.call, op.remats))
        if (known := expressions.known(key)) is not None:
            same.update(zip(op.outputs, known, strict=True))
            continue
        expressions.note(key, op.outputs)
        op.index = len(program.ops)
        program.ops.append(op)
    program.outputs = tuple(same.get(value, value) for value in program.outputs)
    program.unchanged = {v: same.get(before, before) for v, before in program.unchanged.items()}


def _meeting(program: Program) -> set[Value]:
    """The sums and layers of which a function of one value reads the first writing, too."""
    twins = program.expressions.twins
    found: set[Value] = set()
    bases: dict[Value, set[Value]] = {}
    for op in program.ops if twins else ():
        if op.nest is None and kind(op.primitive) in _SUMS:
            bases.update((value, {value}) for value in op.outputs)
        elif op.nest is None and _is_elementwise(op):
            met = set[Any]().union(*(bases.get(value, ()) for value in op.inputs))
            if len({_first(value, twins) for value in met}) == 1:
                found.update(met.intersection(twins) if len(met) > 1 else ())
                bases.update((value, met) for value in op.outputs)
    return found


def _is_elementwise(op: Any) -> bool:
    plain = kind(op.primitive) in (Kind.ELEMENTWISE, Kind.IDENTITY)
    return plain or op.primitive is lax.select_n_p


def _first(value: Value, twins: dict[Value, Value]) -> Value:
    return twins.get(value, value)


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


def written_out(eqn: Any) -> tuple[Any, list[Any]] | None:
    """``x.at[i].apply(f)`` as the selection that it is, a jaxpr and its constants: one of f(x), x.

    None for any other operation.
    """
    params = eqn.params
    if eqn.primitive is not lax.scatter_p or params["update_jaxpr"] is None:
        return None

    def selection(x: jax.Array, where: jax.Array, updates: jax.Array) -> jax.Array:
        def function(element: jax.Array) -> jax.Array:
            arguments = element, jnp.zeros_like(element)  # the second one is not read
            return jax.core.eval_jaxpr(params["update_jaxpr"], params["update_consts"], *arguments)[
                0
            ]

        for _ in x.shape:
            function = jax.vmap(function)
        nowhere, ones = jnp.zeros(x.shape, bool), jnp.ones(updates.shape, bool)
        return jnp.where(
            compat.scatter(lax.scatter_p, params, nowhere, where, ones), function(x), x
        )

    closed = jax.make_jaxpr(selection)(
        *(jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars)
    )
    return closed.jaxpr, closed.consts
