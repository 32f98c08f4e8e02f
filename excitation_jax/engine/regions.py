"""Which affine operations and sums are one neuron, and so one step of the pass: a *region*.

``h @ A + g @ B`` is one neuron with the connections of both, as ``concatenate([h, g]) @ [A; B]``
is; so are an ensemble's mean, and a convolution below an average pooling. Rules that merge (see
`Rule.merges`) split P by the connections of all of them. What else reads an affine operation's
value makes it a neuron of its own: a residual stream, say. ``a + b + c`` is one sum of three, in
whatever order it is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from jax import lax

from ..program.facts import FactTable
from ..program.primitives import Kind, indices, kind, row
from ..program.trace import Op, Program, Value
from ..rules.rule import Flow, Step, Structure, Through

#: An operand of an operation, by its position.
Place = tuple[Op, int]


class Region(NamedTuple):
    """Affine operations, and the sums above them, that are one neuron at each place.

    Attributes:
      top: the operation at whose output probability arrives.
      members: the affine operations.
      inner: the sums, scales and moves between these and the top, the top included, in order.
      others: (operation, position) of the summands that are neurons of their own.
      constants: the values that inner operations read and that do not depend on the input.
    """

    top: Op
    members: tuple[Op, ...]
    inner: tuple[Op, ...]
    others: tuple[Place, ...]
    constants: tuple[Value, ...]

    @property
    def merged(self) -> tuple[Op, ...]:
        """The operations whose part in the pass is the region's."""
        return (*self.members, *self.inner)

    @property
    def asked(self) -> tuple[Op, ...]:
        """The operations whose operands' activations, or whose sign, the region asks for."""
        ops = (*self.members, *(op for op, _ in self.others), self.top)
        return tuple(dict.fromkeys(ops))

    @property
    def values(self) -> tuple[Value, ...]:
        """The values below its output that are its neurons' partial sums."""
        return tuple(v for op in self.merged if op is not self.top for v in op.outputs)


def find_regions(program: Program, steps: Mapping[Op, Step], facts: FactTable) -> dict[Op, Region]:
    """The regions of a program, by the operation at their top; the largest ones."""
    found: dict[Op, Region] = {}
    taken: set[Op] = set()
    for op in reversed(program.ops):
        step = steps.get(op)
        if step is None or op in taken or not _adds(step):
            continue
        both = len(step.directions) == 2 and step.output_sign is None
        if not both:
            region = _Growth(program, steps, facts, op).region()
            if region is not None:
                found[op] = region
                taken.update(region.merged)
    return found


def _adds(step: Step) -> bool:
    return step.rule.merges and isinstance(step.route, Flow) and step.rule.left_out(step) is None


def _moves(step: Step, facts: FactTable) -> bool:
    """Whether an operation is linear in one value, with constants that are known by then."""
    op = step.site.op
    if isinstance(step.route, Structure):
        which = [v for i, v in enumerate(op.inputs) if i in indices(op.primitive)]
        return not any(facts[value].active for value in which)
    known = row(op.primitive)
    if not isinstance(step.route, Through) or known is None or not known.affine:
        return False
    active = [value for value in op.inputs if facts[value].active]
    divides = op.primitive is lax.div_p and op.inputs[0] not in active
    return active == [step.route.source] and not divides


class _Growth:
    """Grows a region from its top down, as far as nothing else reads what it takes in."""

    def __init__(self, program: Program, steps: Mapping[Op, Step], facts: FactTable, top: Op):
        self.program, self.steps, self.facts, self.top = program, steps, facts, top
        self.members: list[Op] = []
        self.inner: list[Op] = []

    def region(self) -> Region | None:
        """The region; None where the operation merges nothing."""
        barred: set[Op] = set()
        self._grow(barred)
        while mixed := self._mixed():  # a move or scale of more than affine values stays outside
            barred |= mixed
            self._grow(barred)
        made = {v for op in (*self.members, *self.inner) for v in op.outputs}
        others = [
            (op, i)
            for op in self.inner
            for i, value in enumerate(op.inputs)
            if value not in made and self.facts[value].active
        ]
        if not self.members and len(others) < 3:
            return None
        read = {v: None for op in self.inner for v in op.inputs if not self.facts[v].active}
        constants = tuple(value for value in read if value.literal is None)
        return Region(
            self.top, tuple(self.members[::-1]), tuple(self.inner[::-1]), tuple(others), constants
        )

    def _grow(self, barred: set[Op]) -> None:
        self.members, self.inner = [], [self.top]
        inside = {self.top}
        for op in reversed(self.program.ops[: self.top.index]):
            step = self.steps.get(op)
            if step is None or op in barred or not self._is_read_inside_only(op, inside):
                continue
            connects = step.rule.connects and kind(op.primitive) is Kind.AFFINE
            if connects and isinstance(step.route, Flow) and self._has_constant_weights(op):
                self.members.append(op)
            elif _adds(step) or _moves(step, self.facts):
                self.inner.append(op)
                inside.add(op)

    def _is_read_inside_only(self, op: Op, inside: set[Op]) -> bool:
        readers = {reader for v in op.outputs for reader in self.facts.consumers.get(v, ())}
        leaves = any(value in self.facts.ends for value in op.outputs)
        return bool(readers) and readers <= inside and not leaves and op.remats == self.top.remats

    def _has_constant_weights(self, op: Op) -> bool:
        return sum(self.facts[value].active for value in op.inputs) == 1

    def _mixed(self) -> set[Op]:
        pure = {value for op in self.members for value in op.outputs}
        mixed = set()
        for op in reversed(self.inner):
            active = [value for value in op.inputs if self.facts[value].active]
            if pure.issuperset(active):
                pure.update(op.outputs)
            elif not _adds(self.steps[op]):
                mixed.add(op)
        return mixed
