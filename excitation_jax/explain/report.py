"""`explain_rules`: which rule met which operation. The first look when a map seems wrong."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ..engine.excite import top_down_pass
from ..engine.plan import Plan
from ..program.gates import gate_of
from ..program.hints import Bounds, hints
from ..program.primitives import Kind, Layout, kind, row
from ..program.slope import BOTH
from ..program.trace import Op, Value
from ..rules.rule import Flow, Inside, Step, Structure, Through
from ..rules.ruleset import EXCITATION, RuleSet
from .prepared import Prepared, prepare
from .targets import Target, check_target, signal

INF = float("inf")


@dataclass(frozen=True)
class RuleRow:
    """One operation that depends on the explained input.

    Attributes:
      path: module path. primitive: name of the JAX primitive.
      kind: "signal" (probability passes), "gate" (it only scales or selects), or "no rule".
      lower_bound: lambda (Eq. 20) of its output.
      rule: the rule and its equation; empty for a gate.
      source: file and line of the model's code.
      note: where assumption A1 (children are activations, not negative) fails and what is done
        about it, and scales that were counted into weights.
      steps: lengths of the loops that it is inside of.
      mass: the share of all probability that arrives at its output (of all steps of a loop
        together); None where the report was made without a target.
      lost: the share that ends there: at units without excitatory input (Z_i = 0 in Eq. 6), or at
        constants that were padded or masked into a signal. What ends inside a shard_map is shown
        as lost at the shard_map.
      shares: the rule gives parts to several children.
    """

    path: str
    primitive: str
    kind: str
    lower_bound: float
    rule: str
    source: str
    note: str
    steps: tuple[int, ...] = ()
    mass: float | None = None
    lost: float | None = None
    shares: bool = False


@dataclass(frozen=True)
class RuleReport:
    """Result of `explain_rules`; prints as a table.

    Attributes:
      rows: the operations that depend on the explained input, in the order of computation; those
        inside a loop or branch before the loop itself.
      constants: the number of operations that do not.
      rules: name of the rule set.
      reached: the share of the probability that reached the explained input; None where the
        report was made without a target.
    """

    rows: tuple[RuleRow, ...]
    constants: int
    rules: str
    reached: float | None = None

    @property
    def failures(self) -> tuple[RuleRow, ...]:
        """The rows where assumption A1 fails."""
        return tuple(row for row in self.rows if "A1 fails" in row.note)

    @property
    def losses(self) -> tuple[RuleRow, ...]:
        """The rows where at least a thousandth of the probability ends, the largest first."""
        lossy = [row for row in self.rows if row.lost is not None and row.lost >= 1e-3]
        return tuple(sorted(lossy, key=lambda row: -(row.lost or 0)))

    def __str__(self) -> str:
        measured = self.reached is not None
        head = ("module", "operation", "bound", "rule", "mass", "lost", "note", "source")
        table = [head]
        for _, group in itertools.groupby(self.rows, key=lambda row: (row.kind, row.path)):
            rows = list(group)
            if rows[0].kind == "gate":  # what only scales needs no line for each step
                several = f"{len(rows)} operations" if len(rows) > 1 else rows[0].primitive
                table.append((_place(rows[0]), several, "", "gate", "", "", "", _line(rows[0])))
                continue
            table += [
                (
                    _place(row), row.primitive, f"{row.lower_bound:.3g}", row.rule or row.kind,
                    _percent(row.mass), _percent(row.lost, hide=True), row.note, _line(row),
                )
                for row in rows
            ]  # fmt: skip
        shown = [i for i in range(len(head)) if measured or head[i] not in ("mass", "lost")]
        widths = {i: max(len(row[i]) for row in table) for i in shown}
        lines = ["  ".join(row[i].ljust(widths[i]) for i in shown).rstrip() for row in table]
        return "\n".join([*lines, "", *self._summary()])

    def _summary(self) -> list[str]:
        lines = [f"rules {self.rules}; {self.constants} operations on constants are not shown"]
        missing = sum(row.kind == "no rule" for row in self.rows)
        if missing:
            lines.append(f"{missing} operations have no rule: nothing below them can be explained")
        sharing = sum(row.shares for row in self.rows)
        if self.failures:
            lines.append(
                f"assumption A1 (children are not negative) fails at {len(self.failures)} of the "
                f"{sharing} operations that share probability out; the notes say what is done"
            )
        if self.reached is not None:
            lines.append(f"{self.reached:.1%} of the probability reached the explained input")
            where = [f"{row.lost:.1%} at {_place(row)} ({row.primitive})" for row in self.losses]
            more = f" and {len(where) - 5} other places" if len(where) > 5 else ""
            if where:
                places = ", ".join(where[:5]) + more
                lines.append(f"lost where no input excites, or at constants: {places}")
        return lines


def _place(row: RuleRow) -> str:
    return (row.path or ".") + "".join(f" x{length}" for length in row.steps)


def _line(row: RuleRow | Op) -> str:
    return row.source.rsplit("/", 1)[-1].split(" (")[0]


def _percent(share: float | None, hide: bool = False) -> str:
    return "" if share is None or (hide and share < 5e-4) else f"{share:.1%}"


def explain_rules(
    fn: Callable[..., Any],
    *args: Any,
    argnums: int = -1,
    rules: RuleSet = EXCITATION,
    target: Target = None,
    x_bounds: Bounds | None = None,
    gates: str | Sequence[str] = (),
) -> RuleReport:
    """Which rule meets which operation of a function, and where the assumptions fail.

    Nothing raises for operations without a rule: they are shown. Without a target nothing is
    computed.

    Args:
      fn, args: the function and its arguments; ``model_fn, params, x`` say. Arrays or, without a
        target, `jax.ShapeDtypeStruct`s.
      argnums: the argument that is explained; by default the last.
      rules: the rule set.
      target: as in `excitation_vjp`, one per example. The report then says which share of the
        probability reached each operation, and where the rest was lost.
      x_bounds, gates: as in `excitation_vjp`.

    Raises:
      UnsupportedPrimitiveError: a target is given, and an operation has no rule.

    Example:
      >>> import jax.numpy as jnp
      >>> import excitation_jax as ej
      >>> def model(w, x):
      ...     return jnp.tanh(x @ w)
      >>> w = jnp.array([[1.0, -1.0], [2.0, -1.0], [3.0, -1.0]])
      >>> report = ej.explain_rules(model, w, jnp.ones((1, 3)), target=0)
      >>> [(row.primitive, row.rule, row.lower_bound) for row in report.rows]
      [('dot_general', 'R1 affine, Eq. 6', -inf), ('tanh', 'R2 one child', -1.0)]
      >>> report.reached
      1.0
      >>> ej.explain_rules(model, w, jnp.ones((1, 3)), target=1).rows[0].lost
      1.0
    """
    position = argnums % len(args)

    def last(*reordered: Any) -> Any:
        return fn(*reordered[:position], reordered[-1], *reordered[position:-1])

    ordered = (*args[:position], *args[position + 1 :], args[position])
    prepared = prepare(
        last, ordered, (), False, rules, require_rules=target is not None, sources=True,
        hints=hints(x_bounds, gates),
    )  # fmt: skip
    plan, rows, constants = prepared.plan, [], 0
    masses, lost, reached = ({}, {}, None) if target is None else _run(prepared, ordered, target)
    for program, op in plan.program.all_ops():
        if not any(plan.facts[value].active for value in op.inputs):
            constants += 1
            continue
        step = plan.steps.get(op)
        if op in plan.refused:
            kind, rule, note = "no rule", "", plan.refused[op]
        elif step is None:
            kind, rule, note = "gate", "", ""
        else:
            why = step.route.equation if isinstance(step.route, Through) else None
            kind, rule, note = "signal", why or step.rule.equation, _note(step, plan)
        if not op.outputs:  # it prints, say
            path = plan.path(program, op)
            rows.append(RuleRow(path, op.primitive.name, kind, -INF, rule, op.source, note))
            continue
        shares = step is not None and step.rule.shares and isinstance(step.route, Flow)
        value = next((v for v in op.outputs if v in plan.reached), op.outputs[0])
        rows.append(
            RuleRow(
                plan.path(program, op), op.primitive.name, kind, plan.facts[value].interval.low,
                rule, op.source, note, value.steps, masses.get(op), lost.get(op), shares,
            )
        )  # fmt: skip
    return RuleReport(tuple(rows), constants, rules.name, reached)


def _run(
    prepared: Prepared, args: Sequence[Any], target: Target
) -> tuple[dict[Op, float], dict[Op, float], float]:
    """The shares of the probability at each operation, lost at each, and at the input."""
    plan = prepared.plan
    target = check_target(prepared.out_shape, target, args[-1])
    planned = [op for _, op in plan.program.all_ops(sharded=False) if op in plan.steps]
    arriving = {op: [v for v in op.outputs if v in plan.reached][:1] for op in planned}
    # Where probability can end: at units that nothing excites, at padding and other constants.
    parts = (Flow, Structure, Inside)
    ending = [
        op
        for op in planned
        if isinstance(plan.steps[op].route, parts) or plan.facts.masks(op) or op in plan.regions
    ]
    closed = {op for op in ending if not plan.open.closings.keys().isdisjoint(op.outputs)}
    ending = [op for op in ending if op.nest is None or op.nest.devices or op in closed]
    values = [value for (value,) in arriving.values()]
    read: list[Value | Op] = [*prepared.explained, *values, *ending]

    @jax.jit
    def sums(captured: Sequence[Any], leaves: Sequence[Any]) -> tuple[Any, list[Any]]:
        flat, pull, _ = top_down_pass(plan, captured, leaves, read)
        outputs = jax.tree.unflatten(jax.tree.structure(prepared.out_shape), flat)
        prior, several = signal(outputs, target)
        if several:
            raise ValueError("the report needs one target for each example, not several")
        starts = prepared.complete(prior, several)
        total = jnp.stack([start.sum() for start in starts]).sum()
        return total, [array.sum() for array in pull(starts)[0]]

    total, found = sums(prepared.captured, jax.tree.leaves(args))
    shares = [float(mass / total) for mass in found]
    first, second = len(prepared.explained), len(prepared.explained) + len(arriving)
    masses = dict(zip(arriving, shares[first:second], strict=True))
    lost = dict(zip(ending, shares[second:], strict=True))
    return masses, lost, sum(shares[:first])


def _note(step: Step, plan: Plan) -> str:
    """Where A1 fails at an operation's children, and what is done about it."""
    notes, op = [], step.site.op
    if isinstance(step.route, Flow) and step.rule.shares:
        for value in step.sources:
            if not step.rule.clamped:
                if plan.facts[value].interval.low < 0:
                    notes.append("A1 fails: child may be negative, taken as it is")
                continue
            notes += _of_child(value, plan)
        weighted = step.rule.effective and kind(op.primitive) is Kind.AFFINE
        if weighted and step.output_sign is not None:
            notes.append("scale behind it counted into the weights")
    if (gate := gate_of(op, plan.facts)) is not None:
        maker = plan.facts[gate].producer
        notes.append(
            "gate: " + ("the input" if maker is None else f"{maker.primitive.name}, {_line(maker)}")
        )
    if any(plan.ways.get(value) is BOTH for value in op.outputs):
        notes.append("read in both directions: P+ and P- (D1)")
    notes.append(_what_is_unknown(step.site.op))
    if isinstance(step.route, Inside) and step.site.op.nest is not None:
        length = step.site.op.nest.length
        notes.append("" if length is None else f"{length} steps, listed above")
    if step.site.op in plan.contrasted:
        notes.append("contrastive top")
    return "; ".join(dict.fromkeys(note for note in notes if note))


def _of_child(value: Value, plan: Plan) -> list[str]:
    """What a neuron's activation is, where its value is not."""
    reading, notes = plan.neurons.reading(value), []
    low = plan.neurons.low(value)
    if low == -INF:
        notes.append("A1 fails: child may be negative, h = max(x, 0)")
    elif low < 0:
        notes.append(f"A1 fails: child shifted, h = x + {-low:.3g} (Eq. 20)")
    if reading is not None and (
        reading.crossed or any(kind(op.primitive) is not Kind.MOVE for op in reading.ops)
    ):
        notes.append("constants and gates before it counted into the weights (D3)")
    return notes


def _what_is_unknown(op: Op) -> str:
    """What no analysis can say of an operation, in words; the map is as if nothing were."""
    known = row(op.primitive)
    if op.nest is not None:
        return "on several devices, elements are not told apart" if op.nest.devices else ""
    if known is None or known.kind is Kind.CALL:
        return "unknown operation: no bound, no axes, every element counts as a neuron"
    return "" if isinstance(known.layout, Layout) else known.layout.reason
