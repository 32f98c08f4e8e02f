"""Which affine operations and sums are one neuron, and so one step of the pass: a *region*.

``h @ A + g @ B`` is one neuron with the connections of both, as ``concatenate([h, g]) @ [A; B]``
is; so are an ensemble's mean, and a convolution below an average pooling. Rules that merge (see
`Rule.merges`) split P by the connections of all of them. What else reads an affine operation's
value makes it a neuron of its own: a residual stream, say. ``a + b + c`` is one sum of three, in
whatever order it is taken. Probability may arrive in both directions (see direction.py). A sum that
goes on across the border of a loop or branch is a region on either side (see open_sums.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from ..program.affine import centred
from ..program.facts import FactTable
from ..program.primitives import Kind, is_product, kind
from ..program.slope import BOTH, Signed, Turning, Way
from ..program.trace import Op, Program, Value
from ..rules.rule import Flow, Step, Through
from .direction import Directions, box_of, disjoint, together
from .summing import adds, behind_a_sum, is_pair, moves

#: An operand of an operation, by its position.
Place = tuple[Op, int]


class Side(NamedTuple):
    """Of a partial sum that crosses a border, what excites it on one side.

    Attributes:
      direction: what makes it larger, 1, or smaller, -1.
      part: for the neuron, 1, or for the negated one of a contrast, -1.
    """

    value: Value
    direction: int
    part: int


@dataclass(frozen=True, eq=False)
class Region:
    """Affine operations, and the sums above them, that are one neuron at each place.

    Attributes:
      output: the value at which probability arrives.
      top: the operation that makes it; None where a body is given it.
      members: the affine operations.
      leaves: the partial sums that come from across a border.
      opens: it is itself a partial sum that goes on across a border: r = P / Z arrives.
      inner: the sums, scales and moves between these and the top, the top included, in order.
      others: (operation, position) of the summands that are neurons of their own.
      constants: the values that inner operations read and that do not depend on the input.
      signs: which way a part counts for the whole (None where it is positive): of the members'
        outputs, of the leaves, of the other summands and of the whole. Where the probability
        arrives in both directions, for P+.
      both: whether it does.
      whole: values below the output that are the whole, scaled and shifted.
      skipped: activations inside that are taken for the identity (see `find_heads`).
    """

    output: Value
    top: Op | None
    members: tuple[Op, ...] = ()
    leaves: tuple[Value, ...] = ()
    opens: bool = False
    inner: tuple[Op, ...] = ()
    others: tuple[Place, ...] = ()
    constants: tuple[Value, ...] = ()
    signs: Mapping[Op | Place | Value, Signed | None] = field(default_factory=dict)
    both: bool = False
    whole: tuple[Value, ...] = ()
    skipped: frozenset[Op] = frozenset()

    @property
    def directions(self) -> tuple[int, ...]:
        """Of the probability that arrives: 1, or 1 and -1."""
        return (1, -1) if self.both else (1,)

    @property
    def merged(self) -> tuple[Op, ...]:
        """The operations whose part in the pass is the region's."""
        return (*self.members, *self.inner)

    @property
    def terms(self) -> tuple[Value, ...]:
        """The affine values that are summed."""
        return (*(op.outputs[0] for op in self.members), *self.leaves)

    @property
    def asked(self) -> tuple[Op, ...]:
        """The operations whose operands' activations the region asks for."""
        return tuple(dict.fromkeys((*self.members, *(op for op, _ in self.others))))

    @property
    def values(self) -> tuple[Value, ...]:
        """The values below its output that are its neurons' partial sums."""
        return tuple(v for op in self.merged for v in op.outputs if v is not self.output)


def find_regions(
    program: Program, steps: Mapping[Op, Step], facts: FactTable, directions: Directions,
    crossing: Set[Value] = frozenset(),
) -> dict[Op, Region]:  # fmt: skip
    """The regions of a program, by the operation at their top; the largest ones.

    Args:
      crossing: partial sums that cross borders.
    """
    found: dict[Op, Region] = {}
    taken: set[Op] = set()
    for op in reversed(program.ops):
        if op in taken or op not in steps:
            continue
        opens = op.outputs[0] in crossing and op.nest is None and len(op.outputs) == 1
        behind = set[Op]() if opens else behind_a_sum(op, steps, facts)
        if behind is None:
            continue
        region = _Growth(steps, facts, directions, op, behind, crossing=crossing).region()
        if region is None or (opens and region.others):
            continue  # what crosses is no partial sum, as `open_sums` will see
        # Constants behind a sum count where an activation shares with all affine terms.
        if not behind or (region.terms and region.others):
            found[op] = region
            taken.update(region.merged)
    return found


def find_heads(
    program: Program, steps: Mapping[Op, Step], facts: FactTable, directions: Directions,
    contrasted: frozenset[Op],
) -> dict[Op, Region]:  # fmt: skip
    """The linear heads of scores that are pooled behind an activation, by the pooling (D6).

    The reverse unit of such a score is the whole linear map from the layer's operand: with the
    pooling's weights, and the identity in place of the activation.
    """
    found: dict[Op, Region] = {}
    taken: set[Op] = set()
    for op in reversed(program.ops):
        step = steps.get(op)
        if step is None or op in taken or not adds(step) or is_pair(op):
            continue
        region = _Growth(steps, facts, directions, op, set(), skips=True).region()
        if region is None or not region.members or region.others:
            continue  # a score that shares with activations is no linear head
        if region.skipped and contrasted.issuperset(region.members):
            found[op] = region
            taken.update(region.merged)
    return found


class _Growth:
    """Grows a region from its top down, as far as nothing else reads what it takes in.

    Args:
      behind: scales and shifts from the top down to the first sum.
      skips: activations are taken for the identity.
      crossing: partial sums that cross borders.
    """

    def __init__(
        self, steps: Mapping[Op, Step], facts: FactTable, directions: Directions, top: Op,
        behind: set[Op], skips: bool = False, crossing: Set[Value] = frozenset(),
    ):  # fmt: skip
        self.steps, self.facts, self.directions, self.top = steps, facts, directions, top
        self.behind, self.skips, self.crossing = behind, skips, crossing
        self.opens = top.outputs[0] in crossing and len(top.outputs) == 1
        self.members: list[Op] = []
        self.inner: list[Op] = []
        self.leaves: list[Value] = []

    def region(self) -> Region | None:
        """The region; None where the operation merges nothing."""
        barred: set[Op] = set()
        if self.opens and not self._is_partial_sum():
            return None
        while True:
            self._grow(barred)
            out = mixed if (mixed := self._mixed()) else self._unclear()
            if self.top in out:
                return None
            if not out:
                break
            barred |= out
        others = self._others()
        terms = self.members or self.leaves
        if not terms and sum(adds(self.steps[op]) for op in self.inner) < 2:
            return None
        read = {v: None for op in self.inner for v in op.inputs if not self.facts[v].active}
        constants = tuple(value for value in read if value.literal is None)
        ways = self._ways()
        parts: dict[Op | Place | Value, Way] = {op: ways[op.outputs[0]] for op in self.members}
        parts |= {value: ways[value] for value in (*self.leaves, self.top.outputs[0])}
        parts |= {(op, i): self.directions.of_part(op, op.inputs[i], ways) for op, i in others}
        signs = {part: way for part, way in parts.items() if not isinstance(way, Turning)}
        both = self.directions.ways.get(self.top.outputs[0]) is BOTH and not self.opens
        return Region(
            self.top.outputs[0], self.top, tuple(self.members[::-1]), tuple(self.leaves),
            self.opens, tuple(self.inner[::-1]), tuple(others), constants, signs, both,
            tuple(v for op in self.behind for v in self.steps[op].sources),
            frozenset(op for op in self.inner if self._activates(op)),
        )  # fmt: skip

    def _others(self) -> list[Place]:
        made = {*self.leaves, *(v for op in (*self.members, *self.inner) for v in op.outputs)}
        return [
            (op, i)
            for op in self.inner
            for i, value in enumerate(op.inputs)
            if value not in made and value in self._parts(op)
        ]

    def _parts(self, op: Op) -> list[Value]:
        """What an operation adds, moves or scales."""
        if self._activates(op):  # the rest says how
            return list(self.steps[op].sources)
        return [value for value in op.inputs if self.facts[value].active]

    def _grow(self, barred: set[Op]) -> None:
        self.members, self.inner, self.leaves = [], [self.top], []
        if self.opens and self._connects(self.steps[self.top]):
            self.members, self.inner = [self.top], []
            return
        inside, pending = {self.top}, self._makers(self.top)
        activated, summed = set[Op](), set[Op]()
        while pending:
            op = max(pending, key=lambda op: op.index)  # all that reads it has been met
            pending.remove(op)
            step = self.steps.get(op)
            if step is None or op in barred or not self._is_read_inside_only(op, inside):
                continue
            if self._connects(step):
                self.members.append(op)
            elif self._takes(op, step, activated, summed):
                self.inner.append(op)
                inside.add(op)
                pending |= self._makers(op)
                if self._activates(op) or self._readers(op) <= activated:
                    activated.add(op)
                if op in activated and (adds(step) or self._readers(op) & summed):
                    summed.add(op)
        for value in dict.fromkeys(v for op in self.inner for v in self._parts(op)):
            alone = value not in self.facts.ends and inside.issuperset(self.facts.consumers[value])
            if value in self.crossing and alone:
                self.leaves.append(value)

    def _is_partial_sum(self) -> bool:
        step = self.steps[self.top]
        return self._connects(step) or adds(step) or moves(step, self.facts)

    def _takes(self, op: Op, step: Step, activated: set[Op], summed: set[Op]) -> bool:
        """Whether an operation adds, moves or scales parts of the whole.

        Args:
          activated: what lies below an activation that is skipped.
          summed: what lies below a sum of layers' scores there. Only the activation between the
            scores and their pooling is skipped.
        """
        if self._activates(op):
            return not self._readers(op) & summed
        pair = adds(step) and is_pair(op)
        whole = not self.skips or not pair or self._readers(op) <= activated
        return (adds(step) and whole) or moves(step, self.facts)

    def _makers(self, op: Op) -> set[Op]:
        made = (self.facts[value].producer for value in op.inputs)
        return {maker for maker in made if maker is not None}

    def _connects(self, step: Step) -> bool:
        op = step.site.op
        if not step.rule.connects or not isinstance(step.route, Flow) or is_product(op):
            return False
        if self.facts.pools(op):
            return False
        if step.contrastive and not step.rule.reverses:
            return False
        if kind(op.primitive) is Kind.AFFINE:  # with weights that do not depend on the input
            return sum(self.facts[value].active for value in op.inputs) == 1
        return self.facts.is_learned_layer(op)

    def _activates(self, op: Op) -> bool:
        """Whether it is an activation that is skipped."""
        step = self.steps[op]
        through = self.skips and isinstance(step.route, Through) and not moves(step, self.facts)
        if not through:
            return False
        # The y - max of a logsumexp is part of its activation.
        return self.facts[op.outputs[0]].parent is not None or centred(op, self.facts) is not None

    def _readers(self, op: Op) -> set[Op]:
        every = [self.facts.consumers.get(value, ()) for value in op.outputs]
        if len(every) > 1:  # of a split, the parts that gates alone read are none of the sum's
            every = [readers for readers in every if any(r in self.steps for r in readers)]
        readers = {reader for some in every for reader in some}
        if self.skips:  # what an activation is computed from besides is no reader
            readers = {reader for reader in readers if reader in self.steps}
        apart = {r for r in readers if r not in self.steps and self._reads_apart(r, readers - {r})}
        return readers - apart

    def _reads_apart(self, reader: Op, others: set[Op]) -> bool:
        """Whether an operation reads elements that no other one does."""
        (value, *_) = reader.inputs
        mine, theirs = box_of(reader, value), [box_of(other, value) for other in others]
        return mine is not None and all(box is not None and disjoint(mine, box) for box in theirs)

    def _is_read_inside_only(self, op: Op, inside: set[Op]) -> bool:
        readers = self._readers(op)
        leaves = any(value in self.facts.ends for value in op.outputs)
        return bool(readers) and readers <= inside and not leaves

    def _mixed(self) -> set[Op]:
        """Moves and scales that stay outside: those of other values than affine ones and sums."""
        summed = {*self.leaves, *(value for op in self.members for value in op.outputs)}
        mixed = set()
        for op in reversed(self.inner):
            if adds(self.steps[op]) or summed.issuperset(self._parts(op)):
                summed.update(op.outputs)
            elif op not in self.behind:
                mixed.add(op)
        return mixed

    def _ways(self) -> dict[Value, Way]:
        """Which way the values inside count for the whole; `BOTH` where they do not agree."""
        whole = self.directions.ways.get(self.top.outputs[0])
        known = not self.opens and whole is not BOTH
        ways: dict[Value, Way] = {self.top.outputs[0]: whole if known else None}
        made = {*self.leaves, *(v for op in (*self.members, *self.inner) for v in op.outputs)}
        edges: dict[Value, list[tuple[Op | None, Way]]] = {}
        for op in (*self.inner, *self.members):
            ways.update((v, together(edges[v], v)) for v in op.outputs if v in edges)
            for value in dict.fromkeys(v for v in op.inputs if v in made):
                way = self.directions.of_part(op, value, ways)
                edges.setdefault(value, []).append((op, way))
        return ways | {value: together(edges[value], value) for value in self.leaves}

    def _unclear(self) -> set[Op]:
        """Operations of which the outputs' ways are not known, or those of what they add."""
        ways = self._ways()
        made = {op for op in (*self.members, *self.inner) if ways.get(op.outputs[0]) is BOTH}
        leaves = {value for value in self.leaves if ways[value] is BOTH}
        made |= {op for op in self.inner if leaves.intersection(op.inputs)}
        return made | {
            op for op, i in self._others()
            if op not in made and self.directions.of_part(op, op.inputs[i], ways) is BOTH
        }  # fmt: skip
