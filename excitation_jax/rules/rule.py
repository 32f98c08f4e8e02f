"""What a rule is: how the probability that arrives at an operation's output moves on.

A rule answers two questions. `Rule.plan`, while the model is traced: which operands are
children of the output neurons? `Rule.backward`, in the backward pass: what share does each get?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..program import compat
from ..program.facts import Facts, FactTable
from ..program.trace import Op, Program, Value


class Through(NamedTuple):
    """Plan: the probability passes unchanged to ``source`` (summed where it was broadcast).

    ``equation`` says why, for `explain_rules`, where the rule's own does not.
    """

    source: Value
    equation: str | None = None


class Structure(NamedTuple):
    """Plan: the operation moves elements; the probability moves back by its own transpose."""

    sources: tuple[int, ...]


class Flow(NamedTuple):
    """Plan: `Rule.backward` decides, for the operands at these positions."""

    sources: tuple[int, ...]


class Inside(NamedTuple):
    """Plan: the operation holds functions (a loop, a branch); the rules apply inside them."""

    sources: tuple[int, ...] = ()


class Refuse(NamedTuple):
    """Plan: there is no meaning for this; the reason completes the error message."""

    reason: str


Plan = Through | Structure | Flow | Inside | Refuse


@dataclass(eq=False, slots=True)
class Site:
    """One operation of the model, as a rule sees it while the model is traced."""

    op: Op
    facts: FactTable
    path: str = ""

    @property
    def operands(self) -> tuple[Facts, ...]:
        return tuple(self.facts[value] for value in self.op.inputs)

    @property
    def signals(self) -> tuple[int, ...]:
        """Positions of the floating operands that depend on the explained input.

        Where integers are computed from integers (the indices of a look-up), of those.
        """
        whole = not any(value.floating for value in self.op.outputs)
        return tuple(
            i
            for i, value in enumerate(self.op.inputs)
            if (value.floating or whole) and self.facts[value].active
        )

    @property
    def parent(self) -> Value | None:
        """The one value that the output is an elementwise function of, if there is one."""
        return self.facts[self.op.outputs[0]].parent

    @property
    def child(self) -> Value | None:
        """The value that all probability goes to: the parent, or the only signal operand."""
        if self.parent is None and len(self.signals) == 1:
            return self.op.inputs[self.signals[0]]
        return self.parent


@dataclass(eq=False, slots=True)
class Step:
    """A planned operation: what the backward pass has to know, all of it static."""

    site: Site
    rule: Rule
    plan: Plan
    #: One of the first affine operations below the output, in a contrastive pass.
    contrastive: bool = False
    #: Which of the outputs' values have a scale behind them (see orientation.py).
    oriented_inputs: tuple[Any, ...] = ()
    oriented_output: Any = None
    #: Reads the constant affine function behind the output (see tail.py), for rules that want it.
    tail: Any = None
    #: For operands that are a bounded signal times a gate: the signal's bound, and the gate.
    gated_inputs: tuple[tuple[float, Value] | None, ...] = ()
    #: For operands inside loops, which elements are constants in a loop's first step.
    initial_inputs: tuple[dict[Program, Any], ...] = ()
    #: The skip operand of a residual sum, by position (None: not such a sum).
    identity_skip: int | None = None


@dataclass(eq=False, slots=True)
class Call:
    """One operation with its values, as a rule sees it in the backward pass.

    Attributes:
      step: what is known statically; ``step.site.op`` has primitive and params.
      operands: the values of all operands.
      dtype: of the probabilities (float32, or float64 in a float64 model).
      output_sign: sign of the constant scale behind the output (of the output's rank, size 1
        where it does not vary), or None where there is none or it is positive.
      input_signs: the same for each operand.
      input_lows: for operands that are a bounded signal times a gate, lambda times the gate: a
        closed gate lets no excitation through.
      tail: for rules that read it (`Rule.reads_tail`), the scale and shift that follow the output;
        None where nothing does.
      input_initial: for operands inside a loop, which elements are constants in this step.
      contrastive: the negated operation's excitation is to be subtracted (Eq. 8, 9).
    """

    step: Step
    operands: tuple[jax.Array, ...]
    dtype: Any
    output_sign: jax.Array | None = None
    input_signs: tuple[jax.Array | None, ...] = ()
    input_lows: tuple[jax.Array | None, ...] = ()
    input_initial: tuple[jax.Array | None, ...] = ()
    contrastive: bool = False
    tail: tuple[jax.Array, jax.Array] | None = None

    @property
    def sources(self) -> tuple[int, ...]:
        return self.step.plan.sources  # type: ignore[union-attr]

    def value(self, i: int) -> jax.Array:
        """Operand ``i``, in the dtype of the probabilities where it is floating."""
        x = self.operands[i]
        return x.astype(self.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    def activation(self, i: int) -> jax.Array:
        """h of operand ``i``: x - lambda where bounded below (Eq. 20), else max(x, 0)."""
        x, facts = self.value(i), self.step.site.operands[i]
        low, sign = facts.interval.low, self.input_signs[i] if self.input_signs else None
        scaled = self.input_lows[i] if self.input_lows else None
        if scaled is not None:
            h = jnp.maximum(x - scaled.astype(self.dtype), 0)
        elif low == -float("inf"):
            h = jnp.maximum(x if sign is None else sign.astype(self.dtype) * x, 0)
        else:
            h = x if low == 0 else jnp.maximum(x - low, 0)
        constants = self.constants(i)
        return h if constants is None else jnp.where(constants, 0, h)

    def constants(self, i: int) -> Any:
        """Which elements of operand ``i`` are constants and no neurons; None for none.

        What was padded or concatenated to a value is, and a loop's initial state.
        """
        fixed = self.step.site.operands[i].fixed
        initial = self.input_initial[i] if self.input_initial else None
        return initial if fixed is None else fixed if initial is None else fixed | initial

    def bind(self, *operands: jax.Array) -> Any:
        """The operation itself, on other operands of the probabilities' dtype."""
        params = dict(self.step.site.op.params)
        if params.get("preferred_element_type") is not None:
            params["preferred_element_type"] = self.dtype
        out = compat.bind(self.step.site.op.primitive, params, *operands)
        return out[0] if len(out) == 1 else tuple(out)


def only_child(site: Site) -> Through | None:
    """R2, R5: the plan for an elementwise function of one signal; None for one of several."""
    if site.child is None:
        return None
    arithmetic = len(site.signals) == 1 and len(site.op.inputs) == 2
    return Through(site.child, "R5 constant" if arithmetic else "R2 one child")


class Rule:
    """Base of all rules. ``equation`` names the source, for `explain_rules`."""

    equation: str = ""
    #: Whether `backward` reads `Call.tail`.
    reads_tail: bool = False
    #: Whether `backward` heeds `Call.contrastive`, as the rule of a top layer in a c-MWP must.
    contrasts: bool = False

    def plan(self, site: Site) -> Plan:
        return Flow(site.signals)

    def backward(self, call: Call, p: Any) -> Sequence[jax.Array | None]:
        """Shares of ``p`` (a tuple for several outputs): one array per operand, or None."""
        raise NotImplementedError


@dataclass(frozen=True)
class CustomRule(Rule):
    """A user's function ``rule(call, p) -> one probability per operand`` as a rule."""

    function: Callable[[Call, Any], Sequence[jax.Array | None]]
    equation: str = field(default="user's rule")
    contrasts = True  # it is the user's to say

    def backward(self, call: Call, p: Any) -> Sequence[jax.Array | None]:
        return self.function(call, p)


def safe_divide(p: jax.Array, total: jax.Array) -> jax.Array:
    """p / total, 0 where the total vanishes (Z_i = 0 in Eq. 6).

    The threshold is far above the denormal numbers, for which the quotient would overflow.
    """
    vanishes = jnp.abs(total) <= float(jnp.finfo(p.dtype).tiny) ** 0.8
    return jnp.where(vanishes, 0, p / jnp.where(vanishes, 1, total))


def unbroadcast(p: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Sums ``p`` over the dimensions along which an operand of ``shape`` was broadcast."""
    if p.shape == shape:
        return p
    p = p.sum(axis=tuple(range(p.ndim - len(shape))))
    axes = tuple(i for i, size in enumerate(shape) if size == 1 and p.shape[i] != 1)
    return p.sum(axis=axes, keepdims=True)
