"""A plan: which rule meets which operation of a program, and where probability goes."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax.numpy as jnp

from ..program.facts import FactTable
from ..program.neuron import Neurons
from ..program.primitives import Kind, is_product, kind
from ..program.reading import Amounts
from ..program.slope import BOTH, Way
from ..program.trace import Op, Program, Value
from ..program.walk import borders, computed_from
from ..rules.rule import Inside, Step
from ..rules.ruleset import RuleSet
from .open_sums import OpenSums
from .regions import Region


class UnsupportedPrimitiveError(NotImplementedError):
    """Operations on the path from the output to the explained input have no rule.

    Raised while the model is traced, before anything is computed. Lists every such
    operation of the whole model with its module path and source line.

    Attributes:
      operations: one ``(primitive name, module path, source line, reason)`` each.
      primitives: their primitives, the keys of `RuleSet.replace`.
    """

    def __init__(self, operations: list[tuple[Any, str, str, str]]):
        self.primitives = tuple(dict.fromkeys(primitive for primitive, *_ in operations))
        self.operations = [(primitive.name, *rest) for primitive, *rest in operations]
        lines = [
            f"{len(operations)} operation(s) between the model's output and the explained "
            "input have no excitation rule:"
        ]
        for primitive, path, source, reason in self.operations:
            lines.append(f"  {primitive} in {path or '(top level)'} at {source}: {reason}")
        lines.append(
            "Supply a rule with rules.replace({primitive: rule}), where rule(call, p) returns "
            "the probability of each operand (see excitation_jax.rules.RuleSet; the primitives "
            "are in this error's .primitives), or explain a layer above these operations."
        )
        super().__init__("\n".join(lines))


def check_floating(x: Any, what: str) -> None:
    """Raises `TypeError` unless ``x`` has real floating-point elements."""
    dtype = jnp.result_type(x)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{what} is {dtype}, and probabilities flow only to floating-point values (and to "
            "tokens, in excitation_vjp): convert it (and apply the model's pre-processing) first, "
            "e.g. x.astype(jnp.float32)"
        )


class Lane(NamedTuple):
    """One of a value's carriers.

    Attributes:
      upper: of a contrastive pass, the phase before it has met the first affine operation.
      direction: of a value that is read in both directions (see direction.py), 1 or -1; else 0.
      part: of a partial sum across a border, which part of the neuron r comes from (see
        `regions.Side`), 1 or -1; else 0.
    """

    upper: bool
    direction: int = 0
    part: int = 0


class Beside(enum.Enum):
    """What may be computed beside a value.

    Which elements depend on the input; what excites it in a direction; its elements' bounds; of the
    neurons that it is made of, `Amounts`.
    """

    ACTIVITY = 0
    LARGER = 1
    SMALLER = -1
    LOW = 2
    HIGH = 3
    H = 4
    H_SMALLER = 5
    FIELD = 6
    OFFSET = 7
    SIGN = 8


#: The parts of `Amounts`, in their order.
NEURONS = (Beside.H, Beside.H_SMALLER, Beside.FIELD, Beside.OFFSET, Beside.SIGN)


@dataclass(eq=False)
class Plan:
    """A program, with a rule for every operation on the signal path.

    Attributes:
      rules: that they were planned by.
      steps: what to do at each operation on the signal path, those inside loops and branches
        included.
      reached: values on the signal path: probability may arrive at them.
      behind: for the inputs of loops' and branches' bodies, the values that they stand for.
      refused: operations on the signal path without a rule, and why.
      companions: for values of which some elements are constants, as is known only when the model
        runs, the value that says which (see `activity`): those that some rule wants to know.
      bounded: values whose elements' bounds are carried across borders (see `ElementBounds`).
      crossed: for values whose neurons lie beyond a border, what goes beside them.
      beyond: these values on the other side of the border.
      open: the partial sums that cross the borders of loops and branches.
      totals: for each of these, and each direction, the value that says what excites it.
      neurons: what operands are made of.
      ways: the direction of the probability at the values where it is not P+ throughout.
      regions: operations that are one step with others (see regions.py), by the one at the top.
      heads: in a contrastive pass, the reverse units of scores that are pooled behind an
        activation, by the pooling (D6).
      upper, lower: in a contrastive pass, the values that probability reaches before and after
        it has met the first affine operation; a value may be in both. In an ordinary pass all
        are in ``lower``.
    """

    program: Program
    facts: FactTable
    rules: RuleSet
    steps: dict[Op, Step] = field(default_factory=dict)
    reached: set[Value] = field(default_factory=set)
    behind: dict[Value, list[Value]] = field(default_factory=dict)
    refused: dict[Op, str] = field(default_factory=dict)
    companions: dict[Value, Value] = field(default_factory=dict)
    bounded: set[Value] = field(default_factory=set)
    crossed: dict[Value, Amounts] = field(default_factory=dict)
    beyond: set[Value] = field(default_factory=set)
    open: OpenSums = field(default_factory=OpenSums)
    totals: dict[tuple[Value, int], Value] = field(default_factory=dict)
    neurons: Neurons = field(init=False)
    ways: Mapping[Value, Way] = field(default_factory=dict)
    regions: dict[Op, Region] = field(default_factory=dict)
    heads: dict[Op, Region] = field(default_factory=dict)
    upper: set[Value] = field(default_factory=set)
    lower: set[Value] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.neurons = Neurons(self.facts)

    @functools.cached_property
    def merged(self) -> frozenset[Op]:
        """The operations whose part in the pass is a region's."""
        return frozenset(op for region in self.regions.values() for op in region.merged)

    @functools.cached_property
    def headed(self) -> frozenset[Op]:
        """The affine operations whose negated neurons are parts of a head's."""
        return frozenset(op for head in self.heads.values() for op in head.members)

    def path(self, program: Program, op: Op) -> str:
        """The module that an operation belongs to: by its scope, or by the parameters it reads."""
        return program.module_path(op) or self.facts.module(op) or ""

    def phases(self, value: Value) -> tuple[bool, ...]:
        """In which phases probability arrives: True before it met the first affine operation."""
        return tuple(
            upper for upper, region in ((True, self.upper), (False, self.lower)) if value in region
        )

    def beside(self, value: Value) -> dict[Beside, Value]:
        """What is computed beside a value: `Beside` says what."""
        found = {Beside.ACTIVITY: self.companions[value]} if value in self.companions else {}
        if value in self.bounded:
            low, high = self.neurons.bounds.beside(value)
            found |= {Beside.LOW: low, Beside.HIGH: high}
        if value in self.crossed:
            parts = zip(NEURONS, self.crossed[value], strict=True)
            found |= {what: part for what, part in parts if part is not None}
        for what in (Beside.LARGER, Beside.SMALLER) if value in self.open.sides else ():
            if (value, what.value) in self.totals:
                found[what] = self.totals[value, what.value]
        return found

    def crossing(self, value: Value) -> tuple[Lane, ...]:
        """The carriers of a value as it crosses a border."""
        if value not in self.open.sides:
            return self.lanes(value)
        sides = [(side.direction, side.part) for side in self.open.sides[value]]
        return tuple(Lane(upper, *side) for upper in self.phases(value) for side in sides)

    def lanes(self, value: Value) -> tuple[Lane, ...]:
        """The carriers of a value."""
        if value in self.open.sides and value not in self.open.closings:
            return self.crossing(value)
        directions = (1, -1) if self.ways.get(value) is BOTH else (0,)
        return tuple(Lane(u, direction) for u in self.phases(value) for direction in directions)

    def lane(self, upper: bool, value: Value, direction: int) -> Lane:
        """The carrier that probability of a direction goes to."""
        return Lane(upper, direction if self.ways.get(value) is BOTH else 0)

    def children(self, value: Value) -> Sequence[Value]:
        """Where the probability that arrives at a value goes next."""
        if value in self.behind:
            return self.behind[value]
        op = self.facts[value].producer
        step = None if op is None else self.steps.get(op)
        if op is None or step is None:
            return ()
        if isinstance(step.route, Inside):
            at = op.outputs.index(value)
            ends = [border.exits[at].inner for border in borders(op)]
            return [end for end in ends if end in self.reached]
        return step.sources

    @functools.cached_property
    def contrasted(self) -> list[Op]:
        """The first affine operations met walking down from the outputs."""
        return self.affine_below(self.program.outputs)[0]

    def affine_below(self, values: Iterable[Value]) -> tuple[list[Op], set[Value]]:
        """The first operations with learned weights met walking down, and the values till there.

        In a program without any, those with weights from shapes alone (a head of ones).
        """
        found = self._first_below(values, self.facts.is_learned_layer)
        return found if found[0] else self._first_below(values, _has_weights)

    def _first_below(
        self, values: Iterable[Value], searched: Callable[[Op], bool]
    ) -> tuple[list[Op], set[Value]]:
        pending = [value for value in values if value in self.reached]
        found: dict[Op, None] = {}
        met: set[Value] = set()
        while pending:
            value = pending.pop()
            if value in met:
                continue
            met.add(value)
            op = self.facts[value].producer
            if op in self.steps and searched(op):
                found[op] = None
            else:
                pending.extend(self.children(value))
        return list(found), met

    def below(self, ops: Iterable[Op]) -> set[Value]:
        """The values that these operations send probability to, however indirectly."""
        pending = [value for op in ops for value in self.steps[op].sources]
        found: set[Value] = set()
        while pending:
            value = pending.pop()
            if value not in found:
                found.add(value)
                pending.extend(self.children(value))
        return found

    def crossed_by_every_path(self) -> set[Value]:
        """Values that all probability passes: nothing above reads what was computed before.

        Those inside loops and branches are left out.
        """
        steps = [self.steps[op] for op in self.program.ops if op in self.steps]
        last_use: dict[Value, int] = {}
        for step in steps:
            for value in step.sources:
                last_use[value] = max(last_use.get(value, -1), step.site.op.index)
        last_use.update(dict.fromkeys(self.program.outputs, len(self.program.ops)))
        latest = max((last_use.get(value, -1) for value in self.program.inputs), default=-1)
        crossed = set()
        for step in steps:
            for value in step.site.op.outputs:
                if value in self.reached:
                    if latest <= step.site.op.index:
                        crossed.add(value)
                    latest = max(latest, last_use.get(value, -1))
        return crossed

    def require_rules(self, explained: Iterable[Value]) -> None:
        """Raises unless every operation between these values and the outputs has a rule.

        Raises:
          UnsupportedPrimitiveError: naming every operation that has none.
        """
        above = computed_from(self.program, explained)
        missing = [
            (op.primitive, self.path(program, op), op.source, self.refused[op])
            for program, op in self.program.all_ops()
            if op in self.refused and above.intersection(op.inputs)
        ]
        if missing:
            raise UnsupportedPrimitiveError(missing)


def _has_weights(op: Op) -> bool:
    return kind(op.primitive) is Kind.AFFINE and not is_product(op)
