"""From a traced program to a plan: which rule meets which operation, before any compute."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..program import compat
from ..program.facts import FactTable
from ..program.hidden import Hidden
from ..program.trace import Op, Program, Value
from ..rules.elementwise import Product
from ..rules.rule import Flow, Inside, Refuse, Site, Step, Structure, Through
from ..rules.ruleset import RuleSet
from .errors import UnsupportedPrimitiveError
from .initial import find_initial
from .orientation import SignReader, orientations
from .tail import TailReader, tails


@dataclass(eq=False)
class Plan:
    """A program, with a rule for every operation on the signal path.

    Attributes:
      steps: what to do at each operation on the signal path, those inside loops and branches
        included.
      reached: values on the signal path: probability may arrive at them.
      behind: for the inputs of loops' and branches' bodies, the values that they stand for.
      hidden: which elements are constants behind a mask (see hidden.py).
      orientations: which values have a constant scale behind them (see orientation.py).
      refused: operations on the signal path without a rule, and why.
      upper, lower: in a contrastive pass, the values that probability reaches before and after
        it has met the first affine operation; a value may be in both. In an ordinary pass all
        are in ``lower``.
    """

    program: Program
    facts: FactTable
    steps: dict[Op, Step] = field(default_factory=dict)
    reached: set[Value] = field(default_factory=set)
    behind: dict[Value, list[Value]] = field(default_factory=dict)
    orientations: dict[Value, SignReader] = field(default_factory=dict)
    refused: dict[Op, str] = field(default_factory=dict)
    upper: set[Value] = field(default_factory=set)
    lower: set[Value] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.hidden = Hidden(self.facts)

    def sources(self, step: Step) -> tuple[Value, ...]:
        """The values that an operation sends its probability to."""
        return _sources(step)

    def path(self, program: Program, op: Op) -> str:
        """The module that an operation belongs to: by its scope, or by the parameters it reads."""
        return program.module_path(op) or self.facts.owner(op) or ""

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
        if isinstance(step.plan, Inside):
            assert op.nest is not None
            ends = [body.outputs[op.outputs.index(value)] for body in op.nest.bodies]
            return [end for end in ends if end in self.reached]
        return _sources(step)

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
        pending = [value for op in ops for value in _sources(self.steps[op])]
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
            for value in _sources(step):
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
        above = set(explained)
        _spread_upwards(self.program, above)
        missing = [
            (op.primitive, self.path(program, op), op.source, self.refused[op])
            for program, op in self.program.all_ops()
            if op in self.refused and above.intersection(op.inputs)
        ]
        if missing:
            raise UnsupportedPrimitiveError(missing)


def _spread_upwards(program: Program, above: set[Value]) -> None:
    """Adds everything that is computed from the values in ``above``."""
    for op in program.ops:
        if op.nest is None:
            if above.intersection(op.inputs):
                above.update(op.outputs)
            continue
        for body in op.nest.bodies:
            outer = zip(body.inputs, op.inputs[op.nest.offset :], strict=True)
            above.update(inner for inner, value in outer if value in above)
            _spread_upwards(body, above)
            handed = {body.inputs[i] for o, i in op.nest.carries if body.outputs[o] in above}
            while not handed <= above:
                above |= handed
                _spread_upwards(body, above)
                handed = {body.inputs[i] for o, i in op.nest.carries if body.outputs[o] in above}
            ends = zip(op.outputs, body.outputs, strict=True)
            above.update(value for value, inner in ends if inner in above)


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
    plan = Plan(program, facts or FactTable(program, tuple(explained)))
    outputs = {value for value in program.outputs if value.literal is None}
    plan.reached = {value for value in outputs if plan.facts[value].active and value.floating}
    if not plan.reached:
        raise ValueError(
            "no floating-point output of the model depends on the explained input: there is "
            "nothing to send probability down from"
        )
    _plan_program(plan, program, rules)
    _look_behind(plan)
    plan.lower = set(plan.reached)
    if contrastive:
        if not plan.contrasted:
            raise ValueError(
                "a contrastive map needs an affine operation (a dense layer or a convolution "
                "with learned weights) below the output, and this model has none"
            )
        without = next((o for o in plan.contrasted if not plan.steps[o].rule.contrasts), None)
        if without is not None:
            raise ValueError(
                f"the rules {rules.name} have no contrast ({plan.steps[without].rule.equation} at "
                f"{without.source}), which is Excitation Backprop's: give contrastive=False, or "
                "see excitation_jax.methods.contrastive"
            )
        _, plan.upper = plan.affine_below(program.outputs)
        plan.lower = plan.below(plan.contrasted)
        for op in plan.contrasted:
            plan.steps[op].contrastive = True
    return plan


def _plan_program(plan: Plan, program: Program, rules: RuleSet) -> None:
    """Finds a rule for each operation that probability reaches, from the last to the first."""
    for op in reversed(program.ops):
        if not any(value in plan.reached for value in op.outputs):
            continue
        path = plan.path(program, op)
        site = Site(op, plan.facts, path)
        call = op.params["name"] if op.primitive is compat.jit_p else None
        rule = rules.rule_for(op.primitive, path, call)
        what = Refuse(compat.why_unknown(op.primitive)) if rule is None else rule.plan(site)
        if isinstance(what, Inside):
            what = _plan_inside(plan, op, rules)
        if isinstance(what, Refuse):
            plan.refused[op] = what.reason
            # Go on through everything it reads, to name all offenders at once.
            plan.reached.update(v for v in op.inputs if plan.facts[v].active and v.inexact)
            continue
        assert rule is not None
        step = plan.steps[op] = Step(site, rule, what)
        plan.reached.update(_sources(step))


def _plan_inside(plan: Plan, op: Op, rules: RuleSet) -> Inside | Refuse:
    """Plans the bodies of a loop, branch or shard_map; a loop until its carries are settled."""
    nest = op.nest
    assert nest is not None

    def reach(value: Value) -> bool:
        new = value.literal is None and value not in plan.reached and plan.facts[value].active
        if new:
            plan.reached.add(value)
        return new

    for body in nest.bodies:
        for outer, inner in zip(op.outputs, body.outputs, strict=True):
            if outer in plan.reached:
                reach(inner)
        _plan_program(plan, body, rules)
        while any(
            [reach(body.outputs[o]) for o, i in nest.carries if body.inputs[i] in plan.reached]
        ):
            _plan_program(plan, body, rules)
        for i, (inner, outer) in enumerate(zip(body.inputs, op.inputs[nest.offset :], strict=True)):
            if inner not in plan.reached:
                continue
            plan.behind[inner] = [outer] if plan.facts[outer].active else []
            handed = [body.outputs[o] for o, into in nest.carries if into == i]
            plan.behind[inner] += [value for value in handed if value in plan.reached]
    positions = [
        i + nest.offset
        for body in nest.bodies
        for i, inner in enumerate(body.inputs)
        if inner in plan.reached and plan.facts[op.inputs[i + nest.offset]].active
    ]
    hidden = any(inner in plan.refused for body in nest.bodies for _, inner in body.all_ops())
    if not positions and not hidden:
        return Refuse("only its condition depends on the explained input, not what it returns")
    return Inside(tuple(sorted(set(positions))))


def _look_behind(plan: Plan) -> None:
    consumers: dict[Value, list[Op]] = {}
    for step in plan.steps.values():
        for value in _sources(step):
            consumers.setdefault(value, []).append(step.site.op)
    programs = dict.fromkeys([plan.program, *(held for held, _ in plan.program.all_ops())])
    wanted = any(step.rule.reads_tail for step in plan.steps.values())
    tail: dict[Value, TailReader] = {}
    for program in programs:
        plan.orientations |= orientations(program, plan.facts, consumers)
        tail |= tails(program, plan.facts, consumers) if wanted else {}
    initial = find_initial(plan)
    for step in plan.steps.values():
        if isinstance(step.plan, Flow):
            op = step.site.op
            step.oriented_output = plan.orientations.get(op.outputs[0])
            step.oriented_inputs = tuple(plan.orientations.get(value) for value in op.inputs)
            step.identity_skip = _identity_skip(plan.facts, op)
            step.gated_inputs = tuple(_gated(plan, value) for value in op.inputs)
            step.tail = tail.get(op.outputs[0]) if step.rule.reads_tail else None
            step.initial_inputs = tuple(initial.get(value, {}) for value in op.inputs)


def _gated(plan: Plan, value: Value) -> tuple[float, Value] | None:
    """The lower bound and the gate of a value that is a bounded signal times a gate (R7)."""
    op = plan.facts[value].producer
    step = None if op is None else plan.steps.get(op)
    if op is None or step is None or not isinstance(step.rule, Product):
        return None
    (source,) = _sources(step)
    gates = [v for v in op.inputs if v is not source and plan.facts[v].active]
    if source not in op.inputs or len(gates) != 1 or len(gates[0].shape) != len(value.shape):
        return None
    low = plan.facts[source].interval.low
    bounded = -float("inf") < low < 0 and plan.facts[gates[0]].interval.low >= 0
    return (low, gates[0]) if bounded else None


def _sources(step: Step) -> tuple[Value, ...]:
    if isinstance(step.plan, Through):
        return (step.plan.source,)
    assert isinstance(step.plan, Flow | Structure | Inside)
    return tuple(step.site.op.inputs[i] for i in step.plan.sources)


def _identity_skip(facts: FactTable, op: Op) -> int | None:
    """Which operand of a sum is the other branch's own input, unchanged but for its layout."""
    signals = [i for i, value in enumerate(op.inputs) if facts[value].active]
    if len(signals) != 2:
        return None
    for skip, branch in (signals, signals[::-1]):
        base = _before_layout(facts, op.inputs[skip])
        between = facts.depends(op.inputs[branch], base) or ()
        if any(other.primitive in compat.LAYERS for other in between):
            return skip
    return None


def _before_layout(facts: FactTable, value: Value) -> Value:
    while (op := facts[value].producer) is not None and op.primitive in _LAYOUT:
        value = op.inputs[0]
    return value


_LAYOUT = frozenset(
    compat.existing(
        "reshape", "transpose", "slice", "pad", "squeeze", "concatenate", "convert_element_type",
        "gather", "name", "stop_gradient", "copy", "reduce_precision", "broadcast_in_dim",
    )
)  # fmt: skip
