"""Errors that are part of the interface."""

from __future__ import annotations


class UnsupportedPrimitiveError(NotImplementedError):
    """Operations on the path from the output to the explained input have no rule.

    Raised while the model is traced, before anything is computed. Lists every such
    operation of the whole model with its module path and source line.

    Attributes:
      operations: one ``(primitive name, module path, source line, reason)`` each.
    """

    def __init__(self, operations: list[tuple[str, str, str, str]]):
        self.operations = operations
        lines = [
            f"{len(operations)} operation(s) between the model's output and the explained "
            "input have no excitation rule:"
        ]
        for primitive, path, source, reason in operations:
            lines.append(f"  {primitive} in {path or '(top level)'} at {source}: {reason}")
        lines.append(
            "Supply a rule with rules.replace({primitive: rule}), where rule(call, p) returns "
            "the probability of each operand (see excitation_jax.rules.RuleSet), or explain a "
            "layer above these operations."
        )
        super().__init__("\n".join(lines))
