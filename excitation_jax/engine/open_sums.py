"""Sums of affine values that go on across the borders of loops and branches (D2).

``lax.scan`` that accumulates ``x @ w`` is one neuron with the connections of all steps, as the sum
written out is. A value that crosses a border on the way is a partial sum: forward, beside it goes
what excites it (Z); backward, in place of P, r = P / Z of the whole (see merging.py). So on either
side of a border lies a region: those below it have no Z to divide by, those above it have leaves.

Whatever crosses is taken for a partial sum at first. What turns out to be none (an activation is
among its summands, something else reads it) is a value, and so is all that is handed on to it or by
it; until nothing changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

from ..program.facts import FactTable
from ..program.slope import BOTH
from ..program.trace import Op, Program, Value
from ..program.walk import borders, programs
from ..rules.rule import Step
from .direction import Directions
from .regions import Region, Side, find_regions
from .summing import adds


@dataclass(frozen=True, eq=False)
class OpenSums:
    """The partial sums of a program that cross borders.

    Attributes:
      sides: of each, those that probability arrives on.
      closings: where one is read as a value, and by no sum: a region without operations.
      contrasted: those of the first affine operations in a contrastive pass.
    """

    sides: Mapping[Value, tuple[Side, ...]] = field(default_factory=dict)
    closings: Mapping[Value, Region] = field(default_factory=dict)
    contrasted: Set[Value] = frozenset()


class _Groups:
    """Sets of values that belong together."""

    def __init__(self) -> None:
        self._next: dict[Value, Value] = {}

    def join(self, values: Iterable[Value]) -> None:
        """These, and all that belong to them."""
        first, *rest = values
        for value in rest:
            self._next[self.of(value)] = self.of(first)

    def of(self, value: Value) -> Value:
        """One of them that stands for all."""
        while (after := self._next.get(value, value)) is not value:
            value = after
        return value


def find_open_sums(
    program: Program, steps: Mapping[Op, Step], facts: FactTable, directions: Directions,
    reached: Set[Value],
) -> tuple[dict[Op, Region], OpenSums]:  # fmt: skip
    """The regions of a program and of the bodies inside it, and what is open between them."""
    search = _Search(program, steps, facts, directions, reached)
    while True:
        regions: dict[Op, Region] = {}
        for held in programs(program):
            regions |= find_regions(held, steps, facts, directions, search.open)
        out = search.no_sums(regions) or search.of_no_use(regions)
        if not out:
            return regions, search.found(regions)
        search.drop(out)


class _Search:
    """What may be a partial sum across a border, and what is one.

    Attributes:
      open: the values that may be one, still.
    """

    def __init__(
        self, program: Program, steps: Mapping[Op, Step], facts: FactTable,
        directions: Directions, reached: Set[Value],
    ):  # fmt: skip
        self.steps, self.facts, self.directions, self.reached = steps, facts, directions, reached
        self._handed = _Groups()
        self._made: dict[Value, None] = {}
        self._got: dict[Value, None] = {}
        self._reads = Counter(value for _, op in program.all_ops() for value in op.inputs)
        self._reads.update(program.outputs)
        every: dict[Value, None] = {}
        if not any(step.rule.evenly for step in steps.values()):
            for _, op in program.all_ops():
                if op in steps and op.nest is not None and not op.nest.devices:
                    every |= self._cross(op)
        self.open: Set[Value] = {v: None for v in every if facts[v].active and v.floating}.keys()

    def _cross(self, op: Op) -> dict[Value, None]:
        """Notes what crosses the borders of an operation."""
        pairs: list[tuple[Value, Value]] = []
        for border in borders(op):
            for entry in border.entries:
                pairs.append((entry.outer, entry.inner))
                self._made[entry.outer] = self._got[entry.inner] = None
            for exit in border.exits:
                pairs.append((exit.inner, exit.outer))
                self._made[exit.inner] = self._got[exit.outer] = None
                if not self.reached.isdisjoint([exit.outer, *border.next_to(exit)]):
                    self._reads[exit.inner] += 1
            pairs += border.handed
        pairs = [(a, b) for a, b in pairs if self.facts[a].active and self.facts[b].active]
        for pair in pairs:
            self._handed.join(pair)
        return dict.fromkeys(value for pair in pairs for value in pair)

    def drop(self, values: Iterable[Value]) -> None:
        """These are no partial sums, nor is what is handed on to them or by them."""
        out = {self._handed.of(value) for value in values}
        self.open = {v: None for v in self.open if self._handed.of(v) not in out}.keys()

    def no_sums(self, regions: Mapping[Op, Region]) -> list[Value]:
        """What is no sum of affine values that is read by a border alone."""
        made = {region.output for region in regions.values() if region.opens}
        return [
            value
            for value in self.open
            if value in self._made and value in self.reached
            and not (self._reads[value] == 1 and (value in made or value in self._got))
        ]  # fmt: skip

    def of_no_use(self, regions: Mapping[Op, Region]) -> list[Value]:
        """What no sum takes a part of: as values, they have the same maps."""
        joined = self._joined(regions)
        summed = {
            joined.of(leaf)
            for region in regions.values()
            if any(adds(self.steps[op]) for op in region.inner)
            for leaf in region.leaves
        }
        return [value for value in self.open if joined.of(value) not in summed]

    def _joined(self, regions: Mapping[Op, Region]) -> _Groups:
        """By the sums that they are parts of."""
        joined = _Groups()
        for value in self.open:
            joined.join((self._handed.of(value), value))
        for region in regions.values():
            if region.opens:
                joined.join((region.output, *region.leaves))
        return joined

    def found(self, regions: Mapping[Op, Region]) -> OpenSums:
        """All that is left."""
        joined = self._joined(regions)
        closings = self._closings(regions)
        closing = [region for region in regions.values() if region.leaves and not region.opens]
        opening = [region for region in regions.values() if region.opens]
        contrasted = {
            joined.of(region.output)
            for region in opening
            if any(self.steps[op].contrastive for op in region.members)
        }
        wanted: dict[Value, set[tuple[int, int]]] = {}
        for region in (*closing, *closings.values()):
            for leaf in region.leaves:
                way, group = region.signs[leaf], joined.of(leaf)
                for part in (1, -1) if group in contrasted else (1,):
                    for side in _sides(way):
                        wanted.setdefault(group, set()).update(
                            (side * part * direction, part) for direction in region.directions
                        )
        for region in opening:  # where one changes its sign on the way, on both sides
            if any(region.signs[leaf] is not None for leaf in region.leaves):
                group = joined.of(region.output)
                wanted.setdefault(group, set()).update(
                    [(-side, part) for side, part in wanted.get(group, ())]
                )
        sides = {
            value: tuple(Side(value, *side) for side in sorted(found, reverse=True))
            for value in self.open
            if (found := wanted.get(joined.of(value)))
        }
        return OpenSums(
            sides, closings, {value for value in self.open if joined.of(value) in contrasted}
        )

    def _closings(self, regions: Mapping[Op, Region]) -> dict[Value, Region]:
        """Where what comes across a border is no part of a sum, and goes on across no other."""
        leaves = {leaf for region in regions.values() for leaf in region.leaves}
        found = {}
        for value in self.open:
            on = value in self._made and self._reads[value] == 1
            if value in self._got and value in self.reached and value not in leaves and not on:
                top, both = self.facts[value].producer, self.directions.ways.get(value) is BOTH
                found[value] = Region(value, top, leaves=(value,), signs={value: None}, both=both)
        return found


def _sides(way: object) -> tuple[int, ...]:
    minus = getattr(way, "minus", None)
    return (1,) if way is None else (-1,) if minus else (1, -1)
