"""From a traced program to a plan: which rule meets which operation, before any compute."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax.numpy as jnp

from ..program import activity, compat, roles
from ..program.facts import FactTable
from ..program.trace import Op, Program, Value
from ..program.walk import borders, computed_from, programs
from ..rules.rule import Flow, Inside, Refuse, Site, Step
from ..rules.ruleset import RuleSet
from .direction import find_signs
from .regions import Region, find_regions


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
      regions: operations that are one step with others (see regions.py), by the one at the top.
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
    regions: dict[Op, Region] = field(default_factory=dict)
    upper: set[Value] = field(default_factory=set)
    lower: set[Value] = field(default_factory=set)

    @functools.cached_property
    def merged(self) -> frozenset[Op]:
        """The operations whose part in the pass is a region's."""
        return frozenset(op for region in self.regions.values() for op in region.merged)

    def path(self, program: Program, op: Op) -> str:
        """The module that an operation belongs to: by its scope, or by the parameters it reads."""
        return program.module_path(op) or self.facts.module(op) or ""

    def phases(self, value: Value) -> tuple[bool, ...]:
        """In which phases probability arrives: True before it met the first affine operation."""
        return tuple(
            upper for upper, region in ((True, self.upper), (False, self.lower)) if value in region
        )

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
        """The first operations with learned weights met walking down, and the values till there."""
        pending = [value for value in values if value in self.reached]
        found: dict[Op, None] = {}
        met: set[Value] = set()
        while pending:
            value = pending.pop()
            if value in met:
                continue
            met.add(value)
            op = self.facts[value].producer
            if op in self.steps and self.facts.is_learned_layer(op):
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


def analyse(
    program: Program,
    explained: Iterable[Value],
    rules: RuleSet,
    *,
    contrastive: bool = False,
    facts: FactTable | None = None,
) -> Plan:
    """Plans the backward pass from the program's outputs to the explained inputs.

    Operations without a rule are kept in ``refused``; see `Plan.require_rules`.

    Args:
      facts: those of the program, where they are known.

    Raises:
      ValueError: no output depends on the explained input, or a contrastive pass finds no
        affine operation, or one whose rule has no contrast.
    """
    plan = Plan(program, facts or FactTable(program, tuple(explained)), rules)
    outputs = {value for value in program.outputs if value.literal is None}
    plan.reached = {value for value in outputs if plan.facts[value].active and value.floating}
    if not plan.reached:
        raise ValueError(
            "no floating-point output of the model depends on the explained input: there is "
            "nothing to send probability down from"
        )
    _plan_program(plan, program)
    plan.lower = set(plan.reached)
    contrasted: Sequence[Op] = ()
    if contrastive:
        contrasted = _check_contrast(plan)
        _, plan.upper = plan.affine_below(program.outputs)
        plan.lower = plan.below(contrasted)
    _look_around(plan, frozenset(contrasted))
    return plan


def _check_contrast(plan: Plan) -> Sequence[Op]:
    if not plan.contrasted:
        raise ValueError(
            "a contrastive map needs an affine operation (a dense layer or a convolution "
            "with learned weights) below the output, and this model has none"
        )
    without = next((o for o in plan.contrasted if not plan.steps[o].rule.contrasts), None)
    if without is not None:
        raise ValueError(
            f"the rules {plan.rules.name} have no contrast ({plan.steps[without].rule.equation} at "
            f"{without.source}), which is Excitation Backprop's: give contrastive=False, or "
            "see excitation_jax.methods.contrastive"
        )
    return plan.contrasted


def _plan_program(plan: Plan, program: Program) -> None:
    """Finds a rule for each operation that probability reaches, from the last to the first."""
    for op in reversed(program.ops):
        if not any(value in plan.reached for value in op.outputs):
            continue
        path = plan.path(program, op)
        site = Site(op, plan.facts, path)
        call = op.params["name"] if op.primitive is compat.jit_p else None
        rule = plan.rules.rule_for(op.primitive, path, call)
        route = Refuse(compat.why_unknown(op.primitive)) if rule is None else rule.route(site)
        if isinstance(route, Inside):
            route = _plan_inside(plan, op)
        if isinstance(route, Refuse):
            plan.refused[op] = route.reason
            # Go on through everything it reads, to name all offenders at once.
            plan.reached.update(v for v in op.inputs if plan.facts[v].active and v.inexact)
            continue
        assert rule is not None
        step = plan.steps[op] = Step(site, rule, route)
        plan.reached.update(step.sources)


def _plan_inside(plan: Plan, op: Op) -> Inside | Refuse:
    """Plans the bodies of a loop, branch or shard_map; a loop until its carries are settled."""

    def reach(value: Value) -> bool:
        new = value.literal is None and value not in plan.reached and plan.facts[value].active
        if new:
            plan.reached.add(value)
        return new

    positions, refused = set(), False
    for border in borders(op):
        for exit in border.exits:
            if exit.outer in plan.reached:
                reach(exit.inner)
        _plan_program(plan, border.body)
        while any([reach(out) for out, into in border.handed if into in plan.reached]):
            _plan_program(plan, border.body)
        for entry in border.entries:
            if entry.inner in plan.reached:
                active = plan.facts[entry.outer].active
                handed = [out for out, into in border.handed if into is entry.inner]
                plan.behind[entry.inner] = [entry.outer] if active else []
                plan.behind[entry.inner] += [value for value in handed if value in plan.reached]
                positions |= {entry.position} if active else set()
        refused = refused or any(inner in plan.refused for _, inner in border.body.all_ops())
    if not positions and not refused:
        return Refuse("only its condition depends on the explained input, not what it returns")
    return Inside(tuple(sorted(positions)))


def _look_around(plan: Plan, contrasted: frozenset[Op]) -> None:
    """Completes the steps by what lies behind their values and before them."""
    readers: dict[Value, list[Op]] = {}
    for step in plan.steps.values():
        for value in step.sources:
            readers.setdefault(value, []).append(step.site.op)
    signs: dict[Value, Any] = {}
    for program in programs(plan.program):
        signs |= find_signs(program, plan.facts, readers)
    tails = _tails(plan, readers)
    flows = [step for step in plan.steps.values() if isinstance(step.route, Flow)]
    _want_companions(plan, (value for step in flows for value in step.site.op.inputs))
    for step in flows:
        op = step.site.op
        found = tails.get(step.rule.find_tails)
        plan.steps[op] = replace(
            step,
            contrastive=op in contrasted,
            output_sign=signs.get(op.outputs[0]),
            input_signs=tuple(map(signs.get, op.inputs)),
            gated=tuple(roles.gated(value, plan.facts) for value in op.inputs),
            identity_skip=roles.identity_skip(op, plan.facts),
            tail=None if found is None else found.get(op.outputs[0]),
        )
    for program in programs(plan.program):
        plan.regions |= find_regions(program, plan.steps, plan.facts)
    _want_companions(plan, (value for region in plan.regions.values() for value in region.values))


def _tails(
    plan: Plan, readers: Mapping[Value, Sequence[Op]]
) -> dict[Callable[..., Any] | None, dict[Value, Any]]:
    """What the rules that look for it find behind each value."""
    found: dict[Callable[..., Any] | None, dict[Value, Any]] = {}
    for find in {step.rule.find_tails for step in plan.steps.values()} - {None}:
        assert find is not None
        found[find] = {}
        for program in programs(plan.program):
            found[find] |= find(program, plan.facts, readers)
    return found


def _want_companions(plan: Plan, values: Iterable[Value]) -> None:
    """Companions for these values where they need one, and for what those are computed from."""
    facts, pending = plan.facts, list(values)
    while pending:
        value = pending.pop()
        known = facts[value].activity
        if value in plan.companions or not known.late:
            continue
        plan.companions[value] = Value(
            known.shape, activity.TRUTHS, varying=value.varying, steps=value.steps
        )
        pending.extend(facts.makers(value))
