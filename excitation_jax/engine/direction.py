"""In which direction probability arrives at each value: wanting it larger (P+), or smaller (P-).

Falling functions, negative factors and subtrahends turn P+ into P-, and back (D1). At an affine
operation P+ meets the positive, P- the negative part of its weights, and below it all is P+ again.
A convolution and the BatchNorm behind it are one neuron in this way: where the scale is negative,
the negative weights excite.

Mostly the direction of every element is one, which constants decide: None (P+ throughout) or
`Signed`. Then there is one carrier, and the signs are folded into the weights. Where an element is
read in both directions, or which one depends on the input, it has two carriers: `BOTH`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..program import compat
from ..program.bounds import Bounds
from ..program.facts import FactTable
from ..program.intervals import INF
from ..program.neuron import Neurons
from ..program.primitives import ADDITIONS, Kind, Layout, indices, is_product, kind, layout, row
from ..program.slope import BOTH, Signed, Way, negative, slope, times
from ..program.trace import Op, Program, Value
from ..program.walk import borders
from ..rules.rule import Flow, Inside, Step, Structure, Through


class Read:
    """The values of a program's constants, and the signs that were already read off them.

    Many operations have the same scales behind them (every branch of a residual stream), so that
    each sign is computed once.
    """

    def __init__(self, constants: Mapping[Value, Any]):
        self.constants = constants
        self.signs: dict[Signed | Bounds, jax.Array] = {}

    def __call__(self, constant: Value) -> Any:
        return self.constants[constant]

    def sign(self, signed: Signed | Bounds) -> jax.Array:
        """What is read."""
        if signed not in self.signs:
            self.signs[signed] = signed.read(self)
        return self.signs[signed]


class Directions:
    """The directions of the values that probability reaches, but for those where all is P+."""

    def __init__(
        self, program: Program, steps: Mapping[Op, Step], facts: FactTable, neurons: Neurons
    ):
        self.steps, self.facts, self.neurons = steps, facts, neurons
        self.ways: dict[Value, Way] = {}
        self._readers: dict[Value, dict[Op, None]] = {}
        for step in steps.values():
            for value in step.sources:
                self._readers.setdefault(value, {})[step.site.op] = None
        self._forced: set[Value] = set()
        self._program = program

    def find(self) -> None:
        """Fills ``ways``, from the outputs down."""
        self._walk(self._program)

    def sign(self, value: Value) -> Signed | None:
        """The constants' signs, where they decide a value's direction."""
        way = self.ways.get(value)
        return way if isinstance(way, Signed) else None

    def of(self, op: Op) -> tuple[int, ...]:
        """The directions for which an operation's part in the pass is to be made: 1, -1 or both.

        Where constants decide, an affine operation folds their signs into its weights.
        """
        step, outs = self.steps[op], [self.ways.get(value) for value in op.outputs]
        if all(way is None for way in outs):
            return (1,)
        if BOTH in outs or any(self.ways.get(value) is BOTH for value in step.sources):
            return (1,) if self.facts.connects(op) and BOTH not in outs else (1, -1)
        sums = isinstance(step.route, Flow) and step.rule.shares
        layer = is_product(op) or self.facts.connects(op) or self.facts.is_learned_layer(op)
        return (1, -1) if sums and not layer else (1,)

    def _walk(self, program: Program) -> None:
        for op in reversed(program.ops):
            for value in op.outputs:
                self._note(value, program)
            if op.nest is not None and op in self.steps:
                self._inside(op)
        for value in program.inputs:
            self._note(value, program)

    def _note(self, value: Value, program: Program) -> None:
        """The direction in which all that reads a value wants it."""
        if value in self._forced:
            self.ways[value] = BOTH
            return
        edges: list[tuple[Op | None, Way]] = [
            (op, way) for op in self._readers.get(value, ()) for way in self._edges(op, value)
        ]
        if value in program.outputs:
            edges.append((None, None))
        found = together(edges, value)
        if found is None:
            self.ways.pop(value, None)
        else:
            self.ways[value] = found

    def _inside(self, op: Op) -> None:
        """What crosses a border has one direction, P+, or two carriers."""
        for border in borders(op):
            for exit in border.exits:
                if self.ways.get(exit.outer) is not None:
                    self.ways[exit.outer] = BOTH
                    self._forced.update((exit.outer, exit.inner))
            while True:
                before = len(self._forced)
                self._walk(border.body)
                inner = [entry.inner for entry in border.entries]
                self._forced.update(v for v in inner if self.ways.get(v) is not None)
                self._forced.update(out for out, into in border.handed if into in self._forced)
                if len(self._forced) == before:
                    break

    def _edges(self, op: Op, value: Value) -> list[Way]:
        """The directions in which an operation reads a value, one for each time."""
        step = self.steps[op]
        out = self.ways.get(op.outputs[0])
        reading = self.neurons.reading(op.outputs[0]) if len(op.outputs) == 1 else None
        if reading is not None and op in reading.ops and out is not None and out is reading.sign:
            # Behind all readers' constants, P+ arrives at the neurons.
            return [self.neurons.sign(value)]
        if isinstance(step.route, Inside):
            ends = [e.inner for border in borders(op) for e in border.entries if e.outer is value]
            return [BOTH if self.ways.get(end) is not None else None for end in ends]
        if isinstance(step.route, Through):
            turn = slope(op, value, self.facts)
            if isinstance(turn, Signed) and turn.late:
                return [BOTH]
            return [_narrowed(times(out, turn), op.outputs[0].shape, value.shape)]
        places = [i for i, v in enumerate(op.inputs) if v is value]
        if isinstance(step.route, Structure):
            return [self._moved(op, value, len(places), self.ways)]
        if is_product(op):  # by a constant, or a gate
            scales = [self.facts[op.inputs[1 - i]] for i in places]
            positive = out is None and all(x.active or x.interval.low >= 0 for x in scales)
            return [None if positive else BOTH]
        if self.facts.connects(op):
            return [self.neurons.sign(value) if step.rule.directed else None]
        if not step.rule.shares:
            return [self._moved(op, value, len(places), self.ways)]
        if resets(op, value, self.facts, self.neurons):
            return [self.neurons.sign(value)]
        return self._summed(op, value, self.ways)

    def _summed(self, op: Op, value: Value, ways: Mapping[Value, Way]) -> list[Way]:
        """Through a sum or a difference."""
        places = [i for i, v in enumerate(op.inputs) if v is value]
        pair = op.primitive in (*ADDITIONS, lax.sub_p)
        found = self._moved(op, value, 1 if pair else len(places), ways)
        turned = [op.primitive is lax.sub_p and i == 1 for i in places]
        return [times(found, negative(len(value.shape)) if turn else None) for turn in turned]

    def of_part(self, op: Op, value: Value, ways: Mapping[Value, Way]) -> Way:
        """How a part of a sum counts for the whole, by the ways of what is made of it.

        Args:
          op: adds, moves or scales, inside of a sum that is one neuron (see regions.py).
        """
        route = self.steps[op].route
        if isinstance(route, Through):
            way = times(ways[op.outputs[0]], slope(op, value, self.facts))
            return _narrowed(way, op.outputs[0].shape, value.shape)
        found = self._summed(op, value, ways)
        return found[0] if all(way is found[0] for way in found) else BOTH

    def _moved(self, op: Op, value: Value, count: int, ways: Mapping[Value, Way]) -> Way:
        """Through what moves, adds or chooses elements."""
        behind = [ways.get(output) for output in op.outputs]
        if op.primitive is lax.optimization_barrier_p:
            return behind[op.inputs.index(value)]
        if all(way is None for way in behind):
            return None
        if any(way is BOTH for way in behind):
            return BOTH
        signs = [way if isinstance(way, Signed) else _ones(len(o.shape))
                 for way, o in zip(behind, op.outputs, strict=True)]  # fmt: skip
        rank = len(value.shape)
        if all(size == 1 for sign in signs for size in sign.shape) and len(signs) == 1:
            (one,) = signs
            return Signed((1,) * rank, lambda read: one.read(read).reshape((1,) * rank), one.minus)
        known = row(op.primitive)
        if known is None or not isinstance(known.layout, Layout):
            return BOTH
        if known.kind is Kind.ELEMENTWISE:  # a sum or a maximum of two
            (one,) = signs
            return _narrowed(one, op.outputs[0].shape, value.shape)
        which = indices(op.primitive)
        if any(self.facts[v].active for i, v in enumerate(op.inputs) if i in which):
            return BOTH  # where an element goes depends on the input
        if known.kind is Kind.AFFINE or not _reads_once(op, signs[0].shape, count):
            return BOTH
        if layout(op.primitive) is Layout.PERMUTED:
            order = op.params["permutation"]
            inverse = [order.index(i) for i in range(len(order))]
            shape = tuple(signs[0].shape[i] for i in inverse)
            return Signed(shape, lambda read: jnp.transpose(signs[0].read(read), inverse))
        if known.kind in (Kind.SUM, Kind.WINNER) and known.layout is not Layout.PLACED:
            return _before_reduction(op, signs[0])
        return BOTH if known.kind is Kind.WINNER else _pulled(op, value, signs)


def resets(op: Op, value: Value, facts: FactTable, neurons: Neurons) -> bool:
    """Whether what a summand gets always is for its neurons' being larger."""
    return neurons.low(value) > -INF or facts.is_learned_layer(op)


def _ones(rank: int) -> Signed:
    return Signed((1,) * rank, lambda read: jnp.ones((1,) * rank))


def _narrowed(way: Way, wide: tuple[int, ...], shape: tuple[int, ...]) -> Way:
    """The direction of an operand, which may be broadcast to the output's shape."""
    if not isinstance(way, Signed) or wide == shape:
        return way
    if any(size != 1 for size in way.shape):
        return BOTH
    rank = len(shape)
    return Signed((1,) * rank, lambda read: way.read(read).reshape((1,) * rank), way.minus)


def together(edges: Sequence[tuple[Op | None, Way]], value: Value) -> Way:
    """One direction for all readings of a value, `BOTH` where there is none."""
    ways = [way for _, way in edges]
    if all(way is None for way in ways):
        return None
    if BOTH in ways:
        return BOTH
    first = ways[0]
    if all(way is first for way in ways):
        return first
    if all(isinstance(way, Signed) and way.minus for way in ways):
        return negative(len(value.shape))
    boxes = [box_of(op, value) for op, _ in edges]
    pairs = itertools.combinations(boxes, 2)
    if not all(a is not None and b is not None and disjoint(a, b) for a, b in pairs):
        return BOTH

    def read_all(read: Any) -> jax.Array:
        """Each part by its own reader."""
        found = jnp.ones(value.shape)
        for box, way in zip(boxes, ways, strict=True):
            if isinstance(way, Signed):
                assert box is not None
                part = tuple(slice(*bounds) for bounds in box)
                spread = jnp.broadcast_to(way.read(read), value.shape)
                found = found.at[part].set(spread[part])
        return found

    return Signed(value.shape, read_all)


def box_of(op: Op | None, value: Value) -> list[tuple[int, int]] | None:
    """Which elements an operation reads, by axis; None for all."""
    if op is None or op.primitive is not lax.slice_p:
        return None
    return list(zip(op.params["start_indices"], op.params["limit_indices"], strict=True))


def disjoint(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> bool:
    """Whether no element is in both."""
    return any(p[1] <= q[0] or q[1] <= p[0] for p, q in zip(a, b, strict=True))


def _reads_once(op: Op, sign: tuple[int, ...], count: int) -> bool:
    """Whether each element of an operand is read once, or several times with one sign.

    Args:
      sign: the shape of the output's signs.
      count: how often the operation has it among its operands.
    """
    how = layout(op.primitive)
    if count > 1:
        return how is Layout.JOINED and sign[op.params["dimension"]] == 1
    varies = {i for i, size in enumerate(sign) if size != 1}
    if how is Layout.BROADCAST:
        before = dict(zip(op.params["broadcast_dimensions"], op.inputs[0].shape, strict=True))
        after = op.outputs[0].shape
        return all(dim in before and before[dim] == after[dim] for dim in varies)
    if how is Layout.TILED:
        return all(op.params["reps"][i] == 1 for i in varies)
    if how is Layout.WINDOWS:
        names = ("window_dimensions", "window_strides", "base_dilation")
        return all(op.params[name][i] == 1 for i in varies for name in names)
    if op.primitive in (lax.cumsum_p, lax.cummax_p, lax.cummin_p):
        return op.params["axis"] not in varies
    if op.primitive in (lax.sort_p, lax.top_k_p):
        axis = op.params["dimension" if op.primitive is lax.sort_p else "axis"]
        return axis not in varies
    if op.primitive is lax.gather_p:
        numbers, sizes = op.params["dimension_numbers"], op.params["slice_sizes"]
        gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
        kept = [i for i in range(len(sizes)) if i not in gone]
        whole = {
            j
            for j, i in zip(numbers.offset_dims, kept, strict=True)
            if sizes[i] == op.inputs[0].shape[i]
        }
        return varies <= whole
    return True


def _before_reduction(op: Op, sign: Signed) -> Signed:
    """Of an operation that sums or chooses along axes on which its output's signs do not vary."""
    if layout(op.primitive) is not Layout.REDUCED:
        return sign
    axes = tuple(op.params["axes"])
    shape = tuple(np.insert(sign.shape, [a - i for i, a in enumerate(sorted(axes))], 1).tolist())
    return Signed(shape, lambda read: jnp.expand_dims(sign.read(read), axes), sign.minus)


def _pulled(op: Op, value: Value, signs: Sequence[Signed]) -> Signed:
    """By the operation's own transpose; where nothing is read, the direction does not matter."""
    constant = _constant_axes(op, value, [sign.shape for sign in signs])
    shape = tuple(1 if i in constant else size for i, size in enumerate(value.shape))
    which = indices(op.primitive)

    def read_all(read: Any) -> jax.Array:
        def zeros(v: Value) -> jax.Array:
            return compat.mark_varying(jnp.zeros(v.shape), v.varying)

        def operand(i: int, v: Value, x: jax.Array) -> Any:
            if i in which:
                return v.literal if v.literal is not None else read(v)
            return x if v is value else zeros(v)

        def move(x: jax.Array) -> list[jax.Array]:
            operands = [operand(i, v, x) for i, v in enumerate(op.inputs)]
            return compat.bind_any(op.primitive, op.params, *operands)

        _, pull = jax.vjp(move, zeros(value))
        full = [
            compat.mark_varying(
                jnp.broadcast_to(sign.read(read).astype(float), output.shape), output.varying
            )
            for sign, output in zip(signs, op.outputs, strict=True)
        ]
        found = pull(full)[0].sum(axis=constant, keepdims=True)
        return jnp.where(found < 0, -1.0, 1.0)

    return Signed(shape, read_all)


#: Dimensions of these correspond one to one, so a sign that does not vary stays that way.
_SEPARABLE = (
    Layout.KEPT, Layout.SLICED, Layout.PADDED, Layout.JOINED, Layout.REVERSED, Layout.WINDOWS,
)  # fmt: skip


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
