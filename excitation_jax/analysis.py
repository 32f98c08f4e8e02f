"""From a traced program to a plan: which rule meets which operation, before any compute."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

from . import _compat
from .errors import UnsupportedPrimitiveError
from .facts import FactTable
from .orientation import SignReader, orientations
from .program import Op, Program, Value
from .rules.rule import Flow, Refuse, Site, Step, Structure, Through
from .rules.ruleset import RuleSet


@dataclass(eq=False)
class Plan:
    """A program, with a rule for every operation on the signal path.

    Attributes:
      steps: what to do at each operation on the signal path, by the operation's index.
      reached: values on the signal path: probability may arrive at them.
      orientations: which values have a constant scale behind them (see orientation.py).
      refused: operations on the signal path without a rule, and why.
    """

    program: Program
    facts: FactTable
    steps: dict[int, Step]
    reached: set[Value]
    orientations: dict[Value, SignReader]
    refused: list[tuple[Op, str]]

    def sources(self, step: Step) -> tuple[Value, ...]:
        """The values that an operation sends its probability to."""
        return _sources(step)

    @functools.cached_property
    def contrasted(self) -> list[Op]:
        """The first affine operations met walking down from the outputs."""
        return self.affine_below(self.program.outputs)

    def affine_below(self, values: Iterable[Value]) -> list[Op]:
        """The first operations with learned weights met walking down from these values."""
        pending, found = set(values), []
        for step in reversed(self.steps.values()):
            op = step.site.op
            if not pending.intersection(op.outputs):
                continue
            weights = any(self.facts[value].learned for value in op.inputs)
            if op.primitive in _compat.LAYERS and weights:
                found.append(op)
            else:
                pending.update(self.sources(step))
        return found[::-1]

    def below(self, ops: Iterable[Op]) -> set[Value]:
        """The values that these operations send probability to, however indirectly."""
        found = {value for op in ops for value in self.sources(self.steps[op.index])}
        for step in reversed(self.steps.values()):
            if found.intersection(step.site.op.outputs):
                found.update(self.sources(step))
        return found

    def crossed_by_every_path(self) -> set[Value]:
        """Values that all probability passes: nothing above reads what was computed before."""
        last_use: dict[Value, int] = {}
        for step in self.steps.values():
            for value in self.sources(step):
                last_use[value] = max(last_use.get(value, -1), step.site.op.index)
        last_use.update(dict.fromkeys(self.program.outputs, len(self.program.ops)))
        latest = max((last_use.get(value, -1) for value in self.program.inputs), default=-1)
        crossed = set()
        for step in self.steps.values():
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
        above = set(explained)
        for op in self.program.ops:
            if above.intersection(op.inputs):
                above.update(op.outputs)
        missing = [(op, reason) for op, reason in self.refused if above.intersection(op.inputs)]
        if missing:
            raise UnsupportedPrimitiveError(
                [
                    (op.primitive.name, self.program.module_path(op), op.source, reason)
                    for op, reason in missing
                ]
            )


def analyse(
    program: Program,
    explained: Iterable[Value],
    rules: RuleSet,
    *,
    contrastive: bool = False,
) -> Plan:
    """Plans the backward pass from the program's outputs to the explained inputs.

    Operations without a rule are kept in ``refused``; see `Plan.require_rules`.

    Raises:
      ValueError: no output depends on the explained input, or a contrastive pass finds no
        affine operation.
    """
    facts = FactTable(program, tuple(explained))
    steps, reached, refused = _plan_steps(program, facts, rules)
    consumers: dict[Value, list[Op]] = {}
    for step in steps.values():
        for value in _sources(step):
            consumers.setdefault(value, []).append(step.site.op)
    found = orientations(program, facts, consumers)
    for step in steps.values():
        if isinstance(step.plan, Flow):
            op = step.site.op
            step.oriented_output = found.get(op.outputs[0])
            step.oriented_inputs = tuple(found.get(value) for value in op.inputs)
            step.identity_skip = _identity_skip(facts, op)
    plan = Plan(program, facts, steps, reached, found, refused)
    if contrastive:
        if not plan.contrasted:
            raise ValueError(
                "a contrastive map needs an affine operation (a dense layer or a convolution "
                "with learned weights) below the output, and this model has none"
            )
        for op in plan.contrasted:
            steps[op.index].contrastive = True
    return plan


def _plan_steps(
    program: Program, facts: FactTable, rules: RuleSet
) -> tuple[dict[int, Step], set[Value], list[tuple[Op, str]]]:
    outputs = {value for value in program.outputs if value.literal is None}
    reached = {value for value in outputs if facts[value].active and value.floating}
    if not reached:
        raise ValueError(
            "no floating-point output of the model depends on the explained input: there is "
            "nothing to send probability down from"
        )
    steps: dict[int, Step] = {}
    refused = []
    for op in reversed(program.ops):
        if not any(value in reached for value in op.outputs):
            continue
        path = program.module_path(op)
        site = Site(op, facts, path)
        rule = rules.rule_for(op.primitive, path)
        plan = Refuse("no rule for this primitive") if rule is None else rule.plan(site)
        if isinstance(plan, Refuse):
            refused.append((op, plan.reason))
            # Go on through everything it reads, to name all offenders at once.
            reached.update(value for value in op.inputs if facts[value].active and value.inexact)
            continue
        assert rule is not None
        step = steps[op.index] = Step(site, rule, plan)
        reached.update(_sources(step))
    return dict(sorted(steps.items())), reached, refused[::-1]


def _sources(step: Step) -> tuple[Value, ...]:
    if isinstance(step.plan, Through):
        return (step.plan.source,)
    assert isinstance(step.plan, Flow | Structure)
    return tuple(step.site.op.inputs[i] for i in step.plan.sources)


def _identity_skip(facts: FactTable, op: Op) -> int | None:
    """Which operand of a sum is the other branch's own input, unchanged but for its layout."""
    signals = [i for i, value in enumerate(op.inputs) if facts[value].active]
    if len(signals) != 2:
        return None
    for skip, branch in (signals, signals[::-1]):
        base = _before_layout(facts, op.inputs[skip])
        between = facts.depends(op.inputs[branch], base) or ()
        if any(other.primitive in _compat.LAYERS for other in between):
            return skip
    return None


def _before_layout(facts: FactTable, value: Value) -> Value:
    while (op := facts[value].producer) is not None and op.primitive in _LAYOUT:
        value = op.inputs[0]
    return value


_LAYOUT = frozenset(
    _compat.existing(
        "reshape", "transpose", "slice", "pad", "squeeze", "concatenate", "convert_element_type",
        "gather", "name", "stop_gradient", "copy", "reduce_precision", "broadcast_in_dim",
    )
)  # fmt: skip
