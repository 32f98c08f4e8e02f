"""Which values have a constant scale behind them, and of which sign.

A convolution followed by a BatchNorm is one activation neuron, whose weights are the
convolution's times the BatchNorm's scale; where the scale is negative, the negative weights
excite. So a rule needs the sign of every constant that multiplies its output before the next
operation that is not affine. Operations that move, copy or add elements let the sign through,
as ``s * (a + b) = s * a + s * b``.

An element that is read several times has the sign on which all readers agree. Where they do not
agree, no sign is right, and the scales behind it pass the probability unchanged (R5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..program import compat
from ..program.facts import FactTable
from ..program.intervals import INF
from ..program.primitives import Kind, Layout, indices, is_product, kind, layout, row
from ..program.record import reader
from ..program.trace import Op, Program, Value


class Read:
    """The values of a program's constants, and the signs that were already read off them.

    Many operations have the same scales behind them (every branch of a residual stream), so that
    each sign is computed once.
    """

    def __init__(self, constants: Mapping[Value, Any]):
        self.constants = constants
        self.signs: dict[SignReader, jax.Array] = {}

    def __call__(self, constant: Value) -> Any:
        return self.constants[constant]

    def sign(self, reader: SignReader) -> jax.Array:
        """What a reader finds."""
        if reader not in self.signs:
            self.signs[reader] = reader(self)
        return self.signs[reader]


#: Reads the sign (of the value's rank, size 1 where it does not vary) off the constants.
SignReader = Callable[[Read], jax.Array]


class Readings(NamedTuple):
    """Sums over all readings of an element: of their signs, the squares, and their number.

    The readings agree where (sum of signs)^2 = number * (sum of squares).
    """

    signs: jax.Array
    squares: jax.Array
    number: jax.Array


class Edge(NamedTuple):
    """How one operation reads a value: a sign, or readings where it reads elements apart.

    ``positive``: the readings are positive, but not of all elements.
    """

    sign: SignReader | None = None
    readings: Callable[[Read], Readings] | None = None
    positive: bool = False


#: Dimensions of these correspond one to one, so a sign that does not vary stays that way.
_SEPARABLE = (
    Layout.KEPT, Layout.SLICED, Layout.PADDED, Layout.JOINED, Layout.REVERSED, Layout.WINDOWS,
)  # fmt: skip


def find_signs(
    program: Program, facts: FactTable, consumers: dict[Value, list[Op]]
) -> dict[Value, SignReader]:
    """Sign readers, for the values that have one; none for those with a positive scale.

    Args:
      consumers: for each value on the signal path, the operations it sends probability from.
    """
    found: dict[Value, SignReader] = {}
    values = [value for op in program.ops for value in op.outputs]
    for value in (*reversed(values), *program.inputs):
        if value not in consumers or value in program.outputs:
            continue
        readers = list(dict.fromkeys(consumers[value]))
        edges = [_edge(op, value, facts, found, len(readers) == 1) for op in readers]
        known = [edge for edge in edges if edge is not None]
        # One operation that reads all of it as positive leaves no other sign to agree on.
        if len(known) == len(edges) and not all(edge.positive for edge in known):
            found[value] = _combined(known, len(value.shape))
    return found


def _combined(edges: list[Edge], rank: int) -> SignReader:
    if len(edges) == 1 and edges[0].sign is not None:
        return edges[0].sign

    def read_all(read: Read) -> jax.Array:
        every = [_readings(edge, read, rank) for edge in edges]
        signs, squares, number = (sum(parts) for parts in zip(*every, strict=True))
        mean, square = signs / jnp.maximum(number, 1), squares / jnp.maximum(number, 1)
        agree = (number > 0) & (jnp.abs(mean * mean - square) < 1e-3)
        return jnp.where(agree, jnp.round(mean), 1)

    return read_all


def _readings(edge: Edge, read: Read, rank: int) -> Readings:
    if edge.readings is not None:
        return edge.readings(read)
    sign = jnp.ones((1,) * rank) if edge.sign is None else read.sign(edge.sign)
    return Readings(sign, sign * sign, jnp.ones_like(sign))


def _edge(
    op: Op, value: Value, facts: FactTable, found: dict[Value, SignReader], alone: bool
) -> Edge | None:
    """The sign with which an operation reads a value; None where it is positive throughout."""
    if value not in op.inputs:
        return None
    if is_product(op):
        return _through_matrix(op, value, facts, found.get(op.outputs[0]))
    known = row(op.primitive)
    apart = op.primitive in (compat.pvary_p, compat.reshard_p)
    if known is None or not isinstance(known.layout, Layout) or apart:
        return None  # on several devices, a user's own: no scale behind it is counted
    if known.kind in (Kind.MOVE, Kind.SUM):
        return _apart(op, value, facts, found, alone)
    if not known.affine or value.shape != op.outputs[0].shape:
        return None
    primitive, behind = op.primitive, found.get(op.outputs[0])
    at = op.inputs.index(value)
    signals = [v for v in op.inputs if facts[v].active and v.floating]
    if len(signals) == 2:
        return _of_two(op, at, facts, behind)
    if len(signals) != 1:
        return None
    sign: SignReader | None = behind
    if primitive in (lax.mul_p, lax.div_p):
        scales = primitive is lax.mul_p or at == 0
        sign = _product(_sign_of(op, 1 - at, facts), behind) if scales else None
    elif primitive is lax.neg_p or (primitive is lax.sub_p and at == 1):
        sign = _product(_minus_one(len(value.shape)), behind)
    return None if sign is None else Edge(sign)


def _of_two(op: Op, at: int, facts: FactTable, behind: SignReader | None) -> Edge | None:
    """Through an operation of two values that depend on the input, at position ``at``."""
    if facts[op.outputs[0]].parent is not None:
        return None  # x * sigmoid(x): an activation, and no scale behind one counts
    if op.primitive is lax.add_p and behind is not None:
        # Of two activations, neither is an affine value that a sign could belong to.
        return Edge(behind) if any(facts[v].interval.low == -INF for v in op.inputs) else None
    # A gate or a normaliser, which may hold a scale (LayerNorm's), or the mean that is taken off:
    # what sends its probability to the value is unsigned otherwise.
    if op.primitive is lax.sub_p:
        return None if behind is None or at == 1 else Edge(behind)
    if op.primitive is lax.mul_p:
        sign = _product(_sign_of(op, 1 - at, facts), behind)
        return None if sign is None else Edge(sign)
    return None


def _through_matrix(
    op: Op, value: Value, facts: FactTable, behind: SignReader | None
) -> Edge | None:
    """Through a matrix product without contraction, whose other factor is a constant scale."""
    at = op.inputs.index(value)
    scale = op.inputs[1 - at]
    if facts[scale].active or (behind is None and facts[scale].interval.low >= 0):
        return None

    def readings(read: Read) -> Readings:
        full = jnp.ones(op.outputs[0].shape)
        sign = full if behind is None else jnp.broadcast_to(read.sign(behind), full.shape)
        number = scale.literal if scale.literal is not None else read(scale)
        factor = jnp.sign(number).astype(full.dtype)

        def pulled(factor: jax.Array, sign: jax.Array) -> jax.Array:
            def scaled(x: jax.Array) -> jax.Array:
                return lax.dot_general(
                    *((x, factor) if at == 0 else (factor, x)), op.params["dimension_numbers"]
                )

            return jax.vjp(scaled, jnp.zeros(value.shape))[1](sign)[0]

        return Readings(
            pulled(factor, sign), pulled(factor**2, sign**2), pulled(jnp.ones_like(factor), full)
        )

    return Edge(None, readings)


def _apart(
    op: Op, value: Value, facts: FactTable, found: dict[Value, SignReader], alone: bool
) -> Edge | None:
    """Through an operation that moves, copies or adds elements, by its own transpose.

    Args:
      alone: no other operation reads the value, so what this one leaves out does not matter.
    """
    behind = [found.get(output) for output in op.outputs]
    which = indices(op.primitive)
    if any(facts[v].active for i, v in enumerate(op.inputs) if i in which):
        return None  # where an element goes depends on the input
    if op.primitive is lax.optimization_barrier_p:
        sign = behind[op.inputs.index(value)]
        return None if sign is None else Edge(sign)
    if layout(op.primitive) is Layout.PERMUTED:
        if behind[0] is None:
            return None
        permuted, order = behind[0], op.params["permutation"]
        inverse = [order.index(i) for i in range(len(order))]
        return Edge(lambda read: jnp.transpose(read.sign(permuted), inverse))

    def readings(read: Read) -> Readings:
        signs = [
            jnp.ones((1,) * len(output.shape)) if reader is None else read.sign(reader)
            for output, reader in zip(op.outputs, behind, strict=True)
        ]

        def zeros(v: Value) -> jax.Array:
            return compat.mark_varying(jnp.zeros(v.shape), v.varying)

        def operand(i: int, v: Value, x: jax.Array) -> Any:
            if i in which:
                return read(v) if v.literal is None else v.literal
            return x if v is value else zeros(v)

        def move(x: jax.Array) -> list[jax.Array]:
            operands = [operand(i, v, x) for i, v in enumerate(op.inputs)]
            if op.primitive in (lax.scatter_p, lax.scatter_add_p):
                return [compat.scatter(op.primitive, op.params, *operands)]
            return compat.bind(op.primitive, op.params, *operands)

        _, pull = jax.vjp(move, zeros(value))
        full = [
            compat.mark_varying(jnp.broadcast_to(sign.astype(float), output.shape), output.varying)
            for sign, output in zip(signs, op.outputs, strict=True)
        ]
        sums = (full, [s * s for s in full], [jnp.ones_like(s) for s in full])
        constant = _constant_axes(op, value, [sign.shape for sign in signs])
        if not alone:
            sizes = zip(value.shape, op.outputs[0].shape, strict=False)
            whole = [i for i, (before, after) in enumerate(sizes) if before == after]
            constant = tuple(i for i in constant if i in whole)
        return Readings(*(pull(part)[0].sum(axis=constant, keepdims=True) for part in sums))

    if any(reader is not None for reader in behind):
        return Edge(None, readings)
    some = layout(op.primitive) in (Layout.SLICED, Layout.PICKED)
    return Edge(None, readings, positive=True) if some and not alone else None


def _constant_axes(op: Op, value: Value, signs: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Axes of the value along which its sign does not vary, by those of the output's sign."""
    how = layout(op.primitive)
    same_rank = op.primitive in (lax.dynamic_slice_p, lax.dynamic_update_slice_p)
    if how in _SEPARABLE or same_rank:
        every = [i for i in range(len(value.shape)) if all(sign[i] == 1 for sign in signs)]
        return tuple(every) if len(op.outputs[0].shape) == len(value.shape) else ()
    if how is Layout.REDUCED and kind(op.primitive) is Kind.SUM:
        axes = op.params["axes"]
        kept = iter(signs[0])
        return tuple(i for i in range(len(value.shape)) if i in axes or next(kept) == 1)
    if how is Layout.BROADCAST:
        return tuple(
            i for i, dim in enumerate(op.params["broadcast_dimensions"]) if signs[0][dim] == 1
        )
    if how in (Layout.RESHAPED, Layout.REDUCED):
        before = [i for i, size in enumerate(value.shape) if size != 1]
        after = [i for i, size in enumerate(op.outputs[0].shape) if size != 1]
        if [value.shape[i] for i in before] == [op.outputs[0].shape[i] for i in after]:
            return tuple(i for i, j in zip(before, after, strict=True) if signs[0][j] == 1)
    return ()


def _minus_one(rank: int) -> SignReader:
    return lambda read: jnp.full((1,) * rank, -1.0)


def _product(first: SignReader | None, second: SignReader | None) -> SignReader | None:
    if first is None or second is None:
        return first or second
    return lambda read: read.sign(first) * read.sign(second)


def _sign_of(op: Op, i: int, facts: FactTable) -> SignReader | None:
    """Reads the sign of a factor, or of the constants in a gate; None where it is positive."""
    scale, rank = op.inputs[i], len(op.outputs[0].shape)
    if facts[scale].active:
        return _sign_in_gate(scale, rank, facts)
    low, high = facts[scale].interval
    if low >= 0 and (scale.shape == () or not facts[scale].learned):
        return None
    if high < 0:
        return _minus_one(rank)
    constant = reader(op, i, facts)
    return lambda read: jnp.sign(constant(read))


def _sign_in_gate(gate: Value, rank: int, facts: FactTable) -> SignReader | None:
    """The sign of the constant factors of a product that depends on the input."""
    producer = facts[gate].producer
    if facts[gate].interval.low >= 0 or producer is None or len(gate.shape) != rank:
        return None
    if producer.primitive is lax.mul_p:
        return _product(_sign_of(producer, 0, facts), _sign_of(producer, 1, facts))
    if producer.primitive is lax.broadcast_in_dim_p:
        inner, dims = producer.inputs[0], producer.params["broadcast_dimensions"]
        sign = _sign_in_gate(inner, len(inner.shape), facts)
        if sign is None:
            return None

        def spread(read: Read) -> jax.Array:
            found, shape = read.sign(sign), [1] * rank
            for position, dim in enumerate(dims):
                shape[dim] = found.shape[position]
            return found.reshape(shape)

        return spread
    return None
