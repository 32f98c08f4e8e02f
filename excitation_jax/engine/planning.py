"""From a traced program to a plan: which rule meets which operation, before any compute."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from ..program import activity, compat, roles
from ..program.facts import FactTable
from ..program.hints import NONE, Hints
from ..program.primitives import is_product
from ..program.slope import BOTH, slope
from ..program.trace import Op, Program, Value
from ..program.walk import borders, programs
from ..rules.rule import Flow, Inside, Refuse, Site, Step, Through
from ..rules.ruleset import RuleSet
from .direction import Directions
from .open_sums import find_open_sums
from .plan import Plan
from .regions import find_heads


def analyse(
    program: Program,
    explained: Iterable[Value],
    rules: RuleSet,
    *,
    contrastive: bool = False,
    facts: FactTable | None = None,
    hints: Hints = NONE,
) -> Plan:
    """Plans the backward pass from the program's outputs to the explained inputs.

    Operations without a rule are kept in ``refused``; see `Plan.require_rules`.

    Args:
      facts: those of the program, where they are known.
      hints: what the user says of the input's range, and of gates.

    Raises:
      ValueError: no output depends on the explained input, or a contrastive pass finds no
        affine operation, or one whose rule has no contrast.
    """
    plan = Plan(program, facts or FactTable(program, tuple(explained), hints), rules)
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
    ways = Directions(plan.program, plan.steps, plan.facts, plan.neurons)
    if any(step.rule.directed for step in plan.steps.values()):
        ways.find()
    plan.ways = ways.ways
    tails = _tails(plan, readers)
    flows = [step for step in plan.steps.values() if isinstance(step.route, Flow)]
    _want_companions(plan, (value for step in flows for value in step.site.op.inputs))
    for step in plan.steps.values():
        op = step.site.op
        found = tails.get(step.rule.find_tails)
        known = replace(step, directions=ways.of(op))
        if step.sources and plan.ways.get(step.sources[0]) is BOTH:
            known = replace(known, **_turn(plan, step))
        if isinstance(step.route, Flow):
            shares = step.rule.clamped and not step.rule.selects
            known = replace(
                known,
                contrastive=op in contrasted,
                output_sign=ways.sign(op.outputs[0]),
                readings=tuple(map(plan.neurons.reading, op.inputs)) if shares else (),
                plain=_is_plain(plan, op),
                identity_skip=roles.identity_skip(op, plan.facts),
                tail=None if found is None else found.get(op.outputs[0]),
            )
        plan.steps[op] = known
    plan.regions, plan.open = find_open_sums(
        plan.program, plan.steps, plan.facts, ways, plan.reached
    )
    plan.totals = {
        (side.value, side.direction): Value(
            side.value.shape, jnp.promote_types(side.value.dtype, jnp.float32),
            varying=side.value.varying, steps=side.value.steps,
        )
        for sides in plan.open.sides.values()
        for side in sides
    }  # fmt: skip
    readings = [reading for step in plan.steps.values() for reading in step.readings if reading]
    plan.crossed = plan.neurons.handed(v for reading in readings for v in reading.crossed)
    plan.beyond = {part for value in plan.crossed for part in plan.facts.across[value]}
    readings += filter(None, map(plan.neurons.reading, plan.beyond))
    crossed = (bound.crossed for reading in readings for bound in reading.bounds.values())
    plan.bounded = plan.neurons.bounds.handed(itertools.chain.from_iterable(crossed))
    for program in programs(plan.program) if contrasted else ():
        plan.heads |= find_heads(program, plan.steps, plan.facts, ways, contrasted)
    summed = ((*region.values, *region.leaves) for region in plan.regions.values())
    _want_companions(plan, itertools.chain.from_iterable(summed))


def _is_plain(plan: Plan, op: Op) -> bool:
    """Whether an affine operation's operand is its own activation, in full precision."""
    active = [value for value in op.inputs if plan.facts[value].active]
    if len(active) != 1 or op.outputs[0].dtype not in (jnp.float32, jnp.float64):
        return False
    (value,) = active
    whole = plan.facts[value].activity.whole and plan.neurons.reading(value) is None
    return whole and plan.facts[value].interval.low == 0


def _turn(plan: Plan, step: Step) -> dict[str, Any]:
    """How the way from a source with two carriers turns, if it does."""
    op = step.site.op
    if is_product(op):
        return {"turn": plan.neurons.factor_sign(op)}
    if not isinstance(step.route, Through):
        return {}
    turn = slope(op, step.route.source, plan.facts)
    between = plan.facts.depends(op.outputs[0], step.route.source) if turn is BOTH else None
    return {"turn": turn, "between": tuple(between or ())}


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
