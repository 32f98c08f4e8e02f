"""`explain_rules`: which rule met which operation. The first look when a map seems wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .analysis import Plan
from .prepare import prepare
from .rules.linear import Affine, Sum
from .rules.rule import Flow, Step, Through
from .rules.ruleset import EXCITATION, RuleSet

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
    """

    path: str
    primitive: str
    kind: str
    lower_bound: float
    rule: str
    source: str
    note: str


@dataclass(frozen=True)
class RuleReport:
    """Result of `explain_rules`; prints as a table.

    Attributes:
      rows: the operations that depend on the explained input, in the order of computation.
      constants: the number of operations that do not.
      rules: name of the rule set.
    """

    rows: tuple[RuleRow, ...]
    constants: int
    rules: str

    def __str__(self) -> str:
        table = [("module", "operation", "kind", "bound", "rule", "note", "source")]
        for row in self.rows:
            bound = f"{row.lower_bound:.3g}"
            source = row.source.rsplit("/", 1)[-1]
            cells = (row.path or ".", row.primitive, row.kind, bound, row.rule, row.note, source)
            table.append(cells)
        widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in table]
        lines.append(f"rules {self.rules}; {self.constants} operations on constants are not shown")
        return "\n".join(line.rstrip() for line in lines)


def explain_rules(
    fn: Callable[..., Any], *args: Any, argnums: int = -1, rules: RuleSet = EXCITATION
) -> RuleReport:
    """Which rule meets which operation of a function, and where the assumptions fail.

    Nothing is computed, and nothing raises for operations without a rule: they are shown.

    Args:
      fn, args: the function and its arguments; ``model_fn, params, x`` say. Arrays or
        `jax.ShapeDtypeStruct`s.
      argnums: the argument that is explained; by default the last.
      rules: the rule set.

    Example:
      >>> import jax.numpy as jnp
      >>> import excitation_jax as ej
      >>> def model(w, x):
      ...     return jnp.tanh(x @ w)
      >>> report = ej.explain_rules(model, jnp.ones((3, 2)), jnp.ones((1, 3)))
      >>> [(row.primitive, row.rule, row.lower_bound) for row in report.rows]
      [('dot_general', 'R1 affine, Eq. 6', -inf), ('tanh', 'R2 one child', -1.0)]
    """
    position = argnums % len(args)

    def last(*reordered: Any) -> Any:
        return fn(*reordered[:position], reordered[-1], *reordered[position:-1])

    ordered = (*args[:position], *args[position + 1 :], args[position])
    plan = prepare(last, ordered, (), False, rules, require_rules=False).plan
    rows, constants = [], 0
    refused = {op.index: reason for op, reason in plan.refused}
    for op in plan.program.ops:
        if not any(plan.facts[value].active for value in op.inputs):
            constants += 1
            continue
        step = plan.steps.get(op.index)
        if op.index in refused:
            kind, rule, note = "no rule", "", refused[op.index]
        elif step is None:
            kind, rule, note = "gate", "", ""
        else:
            why = step.plan.equation if isinstance(step.plan, Through) else None
            kind, rule, note = "signal", why or step.rule.equation, _note(step, plan)
        bound = plan.facts[op.outputs[0]].interval.low
        path = plan.program.module_path(op)
        rows.append(RuleRow(path, op.primitive.name, kind, bound, rule, op.source, note))
    return RuleReport(tuple(rows), constants, rules.name)


def _note(step: Step, plan: Plan) -> str:
    """Where A1 fails at an operation's children, and what is done about it."""
    notes = []
    if isinstance(step.plan, Flow) and isinstance(step.rule, Affine | Sum):
        for value in plan.sources(step):
            low = plan.facts[value].interval.low
            if not step.rule.clamped:
                if low < 0:
                    notes.append("A1 fails: child may be negative, taken as it is")
            elif low == -INF:
                side = "sign * x" if value in plan.orientations else "x"
                notes.append(f"A1 fails: child may be negative, h = max({side}, 0)")
            elif low < 0:
                notes.append(f"A1 fails: child shifted, h = x + {-low:.3g} (Eq. 20)")
        op = step.site.op
        weighted = isinstance(step.rule, Affine) and step.rule.effective and len(op.inputs) > 1
        if weighted and op.outputs[0] in plan.orientations:
            notes.append("scale behind it counted into the weights")
    if step.site.op in plan.contrasted:
        notes.append("contrastive top")
    return "; ".join(dict.fromkeys(notes))
