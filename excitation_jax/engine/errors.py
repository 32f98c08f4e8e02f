"""Errors that are part of the interface."""

from __future__ import annotations

from typing import Any


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
