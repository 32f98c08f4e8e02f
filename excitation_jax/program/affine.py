"""What is a sum, and which constants are its own: behind it, or along what is summed (D0, D3).

Constants behind a sum belong to its weights. Learned constants along the axes of a sum are the
weights of a layer, however it is written. A statistic that is subtracted from its own value is part
of a normaliser.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jax import lax

from .primitives import (
    ADDITIONS,
    Kind,
    Layout,
    elementwise_function,
    is_product,
    kind,
    layout,
    row,
)
from .record import Known, Role, before_broadcast
from .trace import Op, Value


def scaled(op: Op, facts: Known) -> int | None:
    """The operand that an operation scales and shifts by constants; None where it does not."""
    active = [i for i, value in enumerate(op.inputs) if facts[value].active]
    if len(active) != 1 or len(op.outputs) != 1:
        return None
    (at,) = active
    known = row(op.primitive)
    affine = known is not None and known.affine and op.inputs[at].floating
    divides = op.primitive is lax.div_p and at == 1
    plain = (affine and not divides) or is_product(op) or _changes_nothing(op, at, facts)
    return at if plain else None


#: Numbers on which an identity is told from other functions.
_SOME = np.array([-1e4, -3.5, -1.0, -0.1, 0.0, 0.2, 1.0, 7.5, 1e4])


def _changes_nothing(op: Op, at: int, facts: Known) -> bool:
    """Whether an elementwise operation returns its operand: ``x**1``, ``jnp.minimum(x, inf)``."""
    function = elementwise_function(op)
    others = [0.0 if i == at else facts[v].known for i, v in enumerate(op.inputs)]
    if function is None or any(other is None for other in others):
        return False
    with np.errstate(all="ignore"):
        found = function(*(_SOME if i == at else other for i, other in enumerate(others)))
    return bool(np.array_equal(found, _SOME))


def weighted(value: Value, facts: Any) -> bool:
    """Whether neurons are multiplied by learned constants, of either sign, along a sum's axes.

    That is a layer: ``(x[:, None] * weights).sum(-1)``. A mean behind a BatchNorm is none.
    """
    while (op := facts[value].producer) is not None and op.nest is None:
        if layout(op.primitive) is not Layout.PERMUTED and kind(op.primitive) is not Kind.IDENTITY:
            break
        value = op.inputs[0]
    at = None if op is None else scaled(op, facts)
    if op is None or at is None or not weighs(op, facts):
        return False
    return facts[op.inputs[1 - at]].interval.low < 0


def weighs(op: Op, facts: Any) -> bool:
    """Whether an operation multiplies with learned constants what is then summed along them."""
    at = scaled(op, facts)
    if at is None or not (op.primitive is lax.mul_p or is_product(op)):
        return False
    if not facts[op.inputs[1 - at]].learned:
        return False
    rank = len(op.outputs[0].shape)
    if is_product(op):
        (_, batch), own = op.params["dimension_numbers"], len(op.inputs[1 - at].shape)
        first = rank - own + len(batch[0]) if at == 0 else len(batch[0])
        axes = {*range(len(batch[0])), *range(first, first + own - len(batch[0]))}
    else:
        shape = before_broadcast(op, 1 - at, facts)[1]
        axes = {i for i, size in enumerate((1,) * (rank - len(shape)) + shape) if size != 1}
    (value,) = op.outputs
    while len(readers := facts.consumers.get(value, ())) == 1:
        (reader,) = readers
        if reader.primitive is lax.reduce_sum_p:
            return not axes.isdisjoint(reader.params["axes"])
        if layout(reader.primitive) is Layout.PERMUTED:
            axes = {i for i, j in enumerate(reader.params["permutation"]) if j in axes}
        elif kind(reader.primitive) is not Kind.IDENTITY:
            break
        (value,) = reader.outputs
    return False


def is_affine(op: Op, facts: Any) -> bool:
    """Whether an operation's output is a sum, with what constants make of it."""
    if kind(op.primitive) in (Kind.AFFINE, Kind.SUM) and not is_product(op):
        return True
    active = [value for value in op.inputs if facts[value].active]
    if kind(op.primitive) is Kind.MOVE or scaled(op, facts) is not None:
        return bool(active) and all(facts[v].affine for v in active) and not weighs(op, facts)
    adds = op.primitive in (*ADDITIONS, lax.sub_p) and len(active) == 2
    return adds and facts[op.outputs[0]].parent is None and centred(op, facts) is None


def centred(op: Op, facts: Any) -> int | None:
    """The operand that is a statistic of the other one, subtracted from it: ``x - x.mean()`` (R5).

    A statistic sums, or takes the largest, of many elements, with no learned layer on the way. The
    two may have been normalised apart: ``x * r + (offset - mean * r)``.
    """
    if op.primitive not in (*ADDITIONS, lax.sub_p):
        return None
    if not all(facts[value].active for value in op.inputs):
        return None
    if op.primitive is lax.sub_p and _is_statistic(op.inputs[1], op.inputs[0], facts):
        return 1
    for at in (1, 0):
        statistic, minus, scale = _taken_apart(op.inputs[at], facts)
        whole, turned, same = _taken_apart(op.inputs[1 - at], facts)
        minus ^= op.primitive is lax.sub_p and at == 1
        turned ^= op.primitive is lax.sub_p and at == 0
        apart = scale is not None and scale is same and minus != turned
        if apart and _is_statistic(statistic, whole, facts):
            return at
    return None


def _is_statistic(value: Value, whole: Value, facts: Any) -> bool:
    between = None
    for base in _moved_from(whole, facts):
        between = facts.depends(value, base)
        if between is not None:
            break
    if between is None or any(facts.is_learned_layer(other) for other in between):
        return False
    kinds = (Kind.SUM, Kind.WINNER, Kind.AFFINE)
    return any(
        kind(other.primitive) in kinds and layout(other.primitive) is not Layout.KEPT
        for other in between
    )


def _taken_apart(value: Value, facts: Known) -> tuple[Value, bool, Value | None]:
    """What a value is but for offsets, signs and a normaliser; whether negated; the normaliser."""
    negated, scale, part = False, None, value
    while (op := facts[part].producer) is not None and op.nest is None:
        active = [i for i, v in enumerate(op.inputs) if facts[v].active]
        if op.primitive is lax.mul_p and len(active) == 2 and scale is None:
            norms = [i for i in active if facts[op.inputs[i]].role is Role.NORMALISER]
            if len(norms) != 1:
                break
            scale = _moved_from(op.inputs[norms[0]], facts)[-1]
            part = op.inputs[1 - norms[0]]
        elif op.primitive in (*ADDITIONS, lax.sub_p, lax.neg_p) and len(active) == 1:
            negated ^= op.primitive is lax.neg_p or (op.primitive is lax.sub_p and active == [1])
            part = op.inputs[active[0]]
        elif kind(op.primitive) is Kind.IDENTITY or layout(op.primitive) is Layout.BROADCAST:
            part = op.inputs[0]
        else:
            break
    return part, negated, scale


def put_back(op: Op, facts: Any) -> int | None:
    """The summand that was subtracted from its own value, and is added again to what came of it.

    The maximum of a logsumexp, or the mean that a series was freed of before a network (R5).
    """
    if op.primitive not in ADDITIONS or not all(facts[value].active for value in op.inputs):
        return None
    for i, value in enumerate(op.inputs):
        roots = [twin for root in _moved_from(value, facts) for twin in _twins(root, facts)]
        for copy in (copy for root in roots for copy in _copies(root, facts)):
            for reader in facts.consumers.get(copy, ()):
                at = centred(reader, facts)
                if at is None or reader.inputs[at] is not copy:
                    continue
                if facts.depends(op.inputs[1 - i], reader.outputs[0]) is not None:
                    return i
    return None


def _twins(value: Value, facts: Any) -> list[Value]:
    """A value, and the same computed again: ``y.max()``, written twice."""
    op = facts[value].producer
    if op is None or kind(op.primitive) not in (Kind.SUM, Kind.WINNER):
        return [value]
    again = [
        other.outputs[0]
        for other in facts.consumers.get(op.inputs[0], ())
        if other is not op and other.primitive is op.primitive and other.inputs == op.inputs
        and other.params == op.params
    ]  # fmt: skip
    return [value, *again]


def _copies(value: Value, facts: Any) -> list[Value]:
    """A value, and what merely moves it."""
    found = [value]
    for copy in found:
        for reader in facts.consumers.get(copy, ()):
            same = kind(reader.primitive) in (Kind.MOVE, Kind.IDENTITY) and len(reader.inputs) == 1
            found += reader.outputs if same else ()
    return found


def _moved_from(value: Value, facts: Known) -> list[Value]:
    """The values that it is a moved, cut and joined copy of, itself the first."""
    found, pending = [value], {value}
    while pending:
        last = max(pending, key=lambda v: -1 if (op := facts[v].producer) is None else op.index)
        op = facts[last].producer
        moves = op is not None and kind(op.primitive) in (Kind.MOVE, Kind.IDENTITY)
        if op is None or not (moves or op.primitive is lax.convert_element_type_p):
            break
        pending.remove(last)
        pending.update(v for v in op.inputs if facts[v].active and v.inexact)
        if len(pending) == 1:
            found += pending
    return found
