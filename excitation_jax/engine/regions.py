"""Which affine operations and sums are one neuron, and so one step of the pass: a *region*.

``h @ A + g @ B`` is one neuron with the connections of both, as ``concatenate([h, g]) @ [A; B]``
is; so are an ensemble's mean, and a convolution below an average pooling. Rules that merge (see
`Rule.merges`) split P by the connections of all of them. What else reads an affine operation's
value makes it a neuron of its own: a residual stream, say. ``a + b + c`` is one sum of three, in
whatever order it is taken. Probability may arrive in both directions (see direction.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jax import lax

from ..program.affine import centred
from ..program.facts import FactTable
from ..program.primitives import Kind, indices, is_product, kind, row
from ..program.slope import BOTH, Signed, Turning, Way, slope
from ..program.trace import Op, Program, Value
from ..rules.rule import Flow, Step, Structure, Through
from .direction import Directions, box_of, disjoint, together

#: An operand of an operation, by its position.
Place = tuple[Op, int]


@dataclass(frozen=True, eq=False)
class Region:
    """Affine operations, and the sums above them, that are one neuron at each place.

    Attributes:
      top: the operation at whose output probability arrives.
      members: the affine operations.
      inner: the sums, scales and moves between these and the top, the top included, in order.
      others: (operation, position) of the summands that are neurons of their own.
      constants: the values that inner operations read and that do not depend on the input.
      signs: which way a part counts for the whole (None where it is positive): of the members'
        outputs, of the other summands and of the whole. Where the probability arrives in both
        directions, for P+.
      both: whether it does.
      whole: values below the output that are the whole, scaled and shifted.
      skipped: activations inside that are taken for the identity (see `find_heads`).
    """

    top: Op
    members: tuple[Op, ...]
    inner: tuple[Op, ...]
    others: tuple[Place, ...]
    constants: tuple[Value, ...]
    signs: Mapping[Op | Place, Signed | None]
    both: bool
    whole: tuple[Value, ...]
    skipped: frozenset[Op]

    @property
    def directions(self) -> tuple[int, ...]:
        """Of the probability that arrives: 1, or 1 and -1."""
        return (1, -1) if self.both else (1,)

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


def find_regions(
    program: Program, steps: Mapping[Op, Step], facts: FactTable, directions: Directions
) -> dict[Op, Region]:
    """The regions of a program, by the operation at their top; the largest ones."""
    found: dict[Op, Region] = {}
    taken: set[Op] = set()
    for op in reversed(program.ops):
        if op in taken or op not in steps:
            continue
        behind = _behind_a_sum(op, steps, facts)
        if behind is None:
            continue
        region = _Growth(steps, facts, directions, op, behind).region()
        # Constants behind a sum count where an activation shares with all affine terms.
        if region is not None and (not behind or (region.members and region.others)):
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
        if step is None or op in taken or not _adds(step) or _is_pair(op):
            continue
        region = _Growth(steps, facts, directions, op, set(), skips=True).region()
        if region is None or not region.members or region.others:
            continue  # a score that shares with activations is no linear head
        if region.skipped and contrasted.issuperset(region.members):
            found[op] = region
            taken.update(region.merged)
    return found


def _behind_a_sum(op: Op, steps: Mapping[Op, Step], facts: FactTable) -> set[Op] | None:
    """The scales and shifts behind a sum, down from one of them; None where there is no sum.

    What turns the sum, or is written inside of a function with a name (the 3 in ``hard_sigmoid``),
    is the activation's.
    """
    behind: set[Op] = set()
    while (step := steps.get(op)) is not None and not _adds(step):
        if not isinstance(step.route, Through) or not _moves(step, facts):
            return None
        way = slope(op, step.route.source, facts)
        producer = facts[step.route.source].producer
        readers = facts.consumers[step.route.source]
        if (isinstance(way, Signed) and way.minus) or producer is None or len(readers) != 1:
            return None
        behind.add(op)
        op = producer
    return None if step is None or any(o.call != op.call for o in behind) else behind


def _adds(step: Step) -> bool:
    op = step.site.op
    pools = step.rule.connects and step.site.facts.pools(op)
    sums = isinstance(step.route, Flow) and len(op.outputs) == 1
    return sums and (step.rule.merges or pools) and step.rule.left_out(step) is None


def _is_pair(op: Op) -> bool:
    """Whether a sum is one of two operands."""
    return kind(op.primitive) is Kind.ELEMENTWISE


def _moves(step: Step, facts: FactTable) -> bool:
    """Whether an operation is linear in one value, with constants that are known by then."""
    op = step.site.op
    if isinstance(step.route, Structure) or op.primitive is lax.scatter_p:
        which = [v for i, v in enumerate(op.inputs) if i in indices(op.primitive)]
        return not any(facts[value].active for value in which)
    known = row(op.primitive)
    if not isinstance(step.route, Through) or known is None or not known.affine:
        return False
    active = [value for value in op.inputs if facts[value].active]
    divides = op.primitive is lax.div_p and op.inputs[0] not in active
    return active == [step.route.source] and not divides


class _Growth:
    """Grows a region from its top down, as far as nothing else reads what it takes in.

    Args:
      behind: scales and shifts from the top down to the first sum.
      skips: activations are taken for the identity.
    """

    def __init__(
        self, steps: Mapping[Op, Step], facts: FactTable, directions: Directions, top: Op,
        behind: set[Op], skips: bool = False,
    ):  # fmt: skip
        self.steps, self.facts, self.directions, self.top = steps, facts, directions, top
        self.behind, self.skips = behind, skips
        self.members: list[Op] = []
        self.inner: list[Op] = []

    def region(self) -> Region | None:
        """The region; None where the operation merges nothing."""
        barred: set[Op] = set()
        while True:
            self._grow(barred)
            out = mixed if (mixed := self._mixed()) else self._unclear()
            if self.top in out:
                return None
            if not out:
                break
            barred |= out
        others = self._others()
        if not self.members and len(others) < 3 and not self._hides_constants(others):
            return None
        read = {v: None for op in self.inner for v in op.inputs if not self.facts[v].active}
        constants = tuple(value for value in read if value.literal is None)
        ways = self._ways()
        parts: dict[Op | Place, Way] = {op: ways[op.outputs[0]] for op in self.members}
        parts |= {(op, i): self.directions.of_part(op, op.inputs[i], ways) for op, i in others}
        parts[self.top] = ways[self.top.outputs[0]]
        signs = {part: way for part, way in parts.items() if not isinstance(way, Turning)}
        both = self.directions.ways.get(self.top.outputs[0]) is BOTH
        return Region(
            self.top, tuple(self.members[::-1]), tuple(self.inner[::-1]), tuple(others), constants,
            signs, both, tuple(v for op in self.behind for v in self.steps[op].sources),
            frozenset(op for op in self.inner if self._activates(op)),
        )  # fmt: skip

    def _others(self) -> list[Place]:
        made = {v for op in (*self.members, *self.inner) for v in op.outputs}
        return [
            (op, i)
            for op in self.inner
            for i, value in enumerate(op.inputs)
            if value not in made and value in self._parts(op)
        ]

    def _hides_constants(self, others: list[Place]) -> bool:
        """Whether a sum of sums has constants among its summands, which partial sums would hide."""
        several = sum(_adds(self.steps[op]) for op in self.inner) > 1
        return several and any(not self.facts[op.inputs[i]].activity.whole for op, i in others)

    def _parts(self, op: Op) -> list[Value]:
        """What an operation adds, moves or scales."""
        if self._activates(op):  # the rest says how
            return list(self.steps[op].sources)
        return [value for value in op.inputs if self.facts[value].active]

    def _grow(self, barred: set[Op]) -> None:
        self.members, self.inner = [], [self.top]
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
                if op in activated and (_adds(step) or self._readers(op) & summed):
                    summed.add(op)

    def _takes(self, op: Op, step: Step, activated: set[Op], summed: set[Op]) -> bool:
        """Whether an operation adds, moves or scales parts of the whole.

        Args:
          activated: what lies below an activation that is skipped.
          summed: what lies below a sum of layers' scores there. Only the activation between the
            scores and their pooling is skipped.
        """
        if self._activates(op):
            return not self._readers(op) & summed
        pair = _adds(step) and _is_pair(op)
        whole = not self.skips or not pair or self._readers(op) <= activated
        return (_adds(step) and whole) or _moves(step, self.facts)

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
        through = self.skips and isinstance(step.route, Through) and not _moves(step, self.facts)
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
        """Moves and scales that stay outside: those of more than affine values, or than sums."""
        pure = {value for op in self.members for value in op.outputs}
        mixed = set()
        for op in reversed(self.inner):
            adds = _adds(self.steps[op])
            if pure.issuperset(self._parts(op)) or (adds and not self.members):
                pure.update(op.outputs)
            elif not adds and op not in self.behind:
                mixed.add(op)
        return mixed

    def _ways(self) -> dict[Value, Way]:
        """Which way the values inside count for the whole; `BOTH` where they do not agree."""
        whole = self.directions.ways.get(self.top.outputs[0])
        ways: dict[Value, Way] = {self.top.outputs[0]: None if whole is BOTH else whole}
        made = {v for op in (*self.members, *self.inner) for v in op.outputs}
        edges: dict[Value, list[tuple[Op | None, Way]]] = {}
        for op in (*self.inner, *self.members):
            ways.update((v, together(edges[v], v)) for v in op.outputs if v in edges)
            for value in dict.fromkeys(v for v in op.inputs if v in made):
                way = self.directions.of_part(op, value, ways)
                edges.setdefault(value, []).append((op, way))
        return ways

    def _unclear(self) -> set[Op]:
        """Operations of which the outputs' ways are not known, or those of what they add."""
        ways = self._ways()
        made = {op for op in (*self.members, *self.inner) if ways.get(op.outputs[0]) is BOTH}
        return made | {
            op for op, i in self._others()
            if op not in made and self.directions.of_part(op, op.inputs[i], ways) is BOTH
        }  # fmt: skip
