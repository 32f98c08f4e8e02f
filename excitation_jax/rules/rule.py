"""What a rule is: how the probability that arrives at an operation's output moves on.

A rule answers two questions. `Rule.route`, while the model is traced: which operands are
children of the output neurons? `Rule.backward`, in the backward pass: what share does each get?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..program import compat
from ..program.facts import FactTable
from ..program.reading import Reading
from ..program.record import Facts
from ..program.slope import Signed, Way
from ..program.trace import Op, Value
from .activation import Needed, Operand


class Through(NamedTuple):
    """Route: the probability passes unchanged to ``source`` (summed where it was broadcast).

    ``equation`` says why, for `explain_rules`, where the rule's own does not.
    """

    source: Value
    equation: str | None = None


class Structure(NamedTuple):
    """Route: the operation moves elements; the probability moves back by its own transpose."""

    sources: tuple[int, ...]


class Flow(NamedTuple):
    """Route: `Rule.backward` decides, for the operands at these positions."""

    sources: tuple[int, ...]


class Inside(NamedTuple):
    """Route: the operation holds functions (a loop, a branch); the rules apply inside them."""

    sources: tuple[int, ...] = ()


class Refuse(NamedTuple):
    """Route: there is no meaning for this; the reason completes the error message."""

    reason: str


#: How the probability at an operation's outputs moves on.
Route = Through | Structure | Flow | Inside | Refuse


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


@dataclass(frozen=True, eq=False, slots=True)
class Step:
    """What the backward pass does at an operation; all of it static.

    Attributes:
      site, rule, route: the operation, the rule that it meets, and what that does.
      contrastive: one of the first affine operations below the output, in a contrastive pass.
      output_sign: the direction of P at the output, where constants decide it (see direction.py).
      directions: those for which the rule is called: 1 where P wants the output larger (or, with an
        ``output_sign``, where that says so), -1 where it wants it smaller.
      readings: for operands that are made of other neurons, how.
      turn: of a route `Through`, the direction of the output in the source, if that has two
        carriers; ``between`` are the operations that make the one of the other.
      plain: of an affine operation, whether h is the operand itself, so that its output is what
        excites less what inhibits.
      identity_skip: the position of the skip in a residual sum; None where it is no such sum.
      tail: for rules that ask (`Rule.find_tails`), what they found behind the output.
    """

    site: Site
    rule: Rule
    route: Through | Structure | Flow | Inside
    contrastive: bool = False
    output_sign: Signed | None = None
    directions: tuple[int, ...] = (1,)
    readings: tuple[Reading | None, ...] = ()
    turn: Way = None
    between: tuple[Op, ...] = ()
    plain: bool = False
    identity_skip: int | None = None
    tail: Any = None

    @property
    def sources(self) -> tuple[Value, ...]:
        """The values that the probability goes to."""
        if isinstance(self.route, Through):
            return (self.route.source,)
        return tuple(self.site.op.inputs[i] for i in self.route.sources)

    def checked(self, shares: Any) -> list[jax.Array | None]:
        """What the rule returned, an array or None for each operand.

        Raises:
          TypeError: it is something else. `jax.custom_vjp` itself would accept a wrong dtype.
        """
        op = self.site.op
        where = f"the rule for {op.primitive.name} in {self.site.path or 'the model'}"
        if not isinstance(shares, (tuple, list)) or len(shares) != len(op.inputs):
            raise TypeError(
                f"{where} must return one probability per operand ({len(op.inputs)}, None for "
                f"those that get nothing), and returned {shares!r}"
            )
        for i, (share, value) in enumerate(zip(shares, op.inputs, strict=True)):
            if share is not None and share.shape != value.shape:
                raise TypeError(
                    f"{where} returned shape {share.shape} for operand {i} of shape {value.shape}"
                )
        return list(shares)


@dataclass(eq=False, slots=True)
class Call:
    """One operation with its values, as a rule sees it in the backward pass.

    Attributes:
      step: what is known statically; ``step.site.op`` has primitive and params.
      operands: the values of all operands.
      dtype: of the probabilities (float32, or float64 in a float64 model).
      output_sign: of an affine operation, where probability wants the output larger (1) and where
        smaller (-1), of the output's rank and size 1 where it does not vary; None for larger
        throughout.
      direction: the same for all elements: 1 or, in a call of its own, -1.
      input_signs: for each operand, of the constants that it was multiplied with behind a neuron;
        None where they are positive.
      neurons: for each operand that is made of other neurons, how, and what that needs.
      active: for each operand, which elements depend on the input; None where all do.
      contrastive: the negated operation's excitation is to be subtracted (Eq. 8, 9).
      upper: in a contrastive pass, before it has met the first affine operation, or there.
      tail: what `Rule.find_tails` found, read.
      output: the operation's own output, where the rule needs it.
    """

    step: Step
    operands: tuple[jax.Array, ...]
    dtype: Any
    output_sign: jax.Array | None = None
    direction: int = 1
    input_signs: tuple[jax.Array | None, ...] = ()
    neurons: tuple[tuple[Reading, Needed] | None, ...] = ()
    active: tuple[Any, ...] = ()
    contrastive: bool = False
    upper: bool = False
    tail: tuple[jax.Array, jax.Array] | None = None
    output: jax.Array | None = None

    @property
    def sources(self) -> tuple[int, ...]:
        return self.step.route.sources  # type: ignore[union-attr]

    def value(self, i: int) -> jax.Array:
        """Operand ``i``, in the dtype of the probabilities where it is floating."""
        x = self.operands[i]
        return x.astype(self.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    def weights(self, but: int) -> dict[int, jax.Array]:
        """The other operands, by position.

        Where a layer's weights depend on the input (attention), those that are not finite belong to
        outputs that are not either: P that reaches one is NaN already (see `excite`), and where
        there is none they must not matter.
        """
        found = {i: self.value(i) for i in range(len(self.operands)) if i != but}
        return {
            i: jnp.where(jnp.isfinite(w), w, 0) if self.step.site.operands[i].active else w
            for i, w in found.items()
        }

    def activation(self, i: int) -> jax.Array:
        """h of operand ``i``: x - lambda where bounded below (Eq. 20), else max(x, 0).

        Where constants, gates and moves lie between neurons and the operand, h is the neurons',
        and the constants' sizes belong to it; for their signs see ``input_signs``.
        """
        return self._amount(i, 1)

    def towards(self, i: int, direction: int) -> jax.Array:
        """What a summand contributes to the sum's being larger (1) or smaller (-1)."""
        sign = self.input_signs[i] if self.input_signs else None
        if sign is None:
            return self._amount(i, direction)
        push = direction * sign.astype(self.dtype)
        return jnp.where(push > 0, self._amount(i, 1), self._amount(i, -1))

    def _amount(self, i: int, direction: int) -> jax.Array:
        h, constants = self.operand(i).excited(direction), self.constants(i)
        return h if constants is None else jnp.where(constants, 0, h)

    def operand(self, i: int) -> Operand:
        """Operand ``i``, and the neurons that it is made of."""
        x, low = self.operands[i], self.step.site.operands[i].interval.low
        return Operand(x, low, self.dtype, self.neurons[i] if self.neurons else None)

    def field(self, i: int) -> jax.Array:
        """As what the elements of operand ``i`` count for children: 0 constants, else by gates."""
        found, constants = self.operand(i).field(), self.constants(i)
        return found if constants is None else jnp.where(constants, 0, found)

    @property
    def evenly(self) -> bool:
        """Whether what nothing excites is handed on (D10): not at the top of a contrastive pass."""
        return self.step.rule.evenly and not self.upper

    def all_children(self, i: int) -> bool:
        """Whether every element of operand ``i`` is a child, and counts as one."""
        reading = self.step.readings[i] if self.step.readings else None
        return self.constants(i) is None and (reading is None or not reading.gated)

    def constants(self, i: int) -> Any:
        """Which elements of operand ``i`` are constants and no neurons; None for none."""
        active = self.active[i] if self.active else None
        return None if active is None else ~active

    def bind(self, *operands: jax.Array) -> Any:
        """The operation itself, on other operands of the probabilities' dtype."""
        params = dict(self.step.site.op.params)
        if params.get("preferred_element_type") is not None:
            params["preferred_element_type"] = self.dtype
        out = compat.bind(self.step.site.op.primitive, params, *operands)
        return out[0] if len(out) == 1 else tuple(out)


def only_child(site: Site) -> Through | None:
    """R2, R5: the route of an elementwise function of one signal; None for one of several."""
    if site.child is None:
        return None
    arithmetic = len(site.signals) == 1 and len(site.op.inputs) == 2
    return Through(site.child, "R5 constant" if arithmetic else "R2 one child")


class Rule:
    """Base of all rules.

    Attributes:
      equation: names the source, for `explain_rules`.
      contrasts: whether `backward` heeds `Call.contrastive`, as the rule of a top layer in a c-MWP
        must.
      shares: whether it gives each child a part in proportion to its excitation h * w+.
      connects: whether `connections` says how its neurons are connected, so that a sum may be one
        neuron with them.
      reverses: whether its contrast is that of `connections`, Z+ and Z- each by its own part.
      merges: whether the sum is one neuron with affine operations that it alone reads: P is split
        by the connections of all of them, wherever the partial sums lie (see regions.py).
      evenly: whether a neuron that nothing excites hands its P on to all its children (D10).
      selects: whether P goes where the operation's own gradient says.
      clamped: whether h is `Call.activation`; the value as it is otherwise.
      effective: whether the scale behind an operation counts into its weights.
      directed: of an affine operation's rule, whether it tells probability that wants the output
        larger from probability that wants it smaller (D1).
      find_tails: from a program, its facts and its readers, what to know of that which follows an
        output, by value; a function of what reads constants. None for rules that do not ask.
    """

    equation: str = ""
    contrasts: bool = False
    shares: bool = False
    connects: bool = False
    reverses: bool = False
    merges: bool = False
    evenly: bool = False
    selects: bool = False
    clamped: bool = True
    effective: bool = True
    directed: bool = False
    find_tails: Callable[..., Any] | None = None

    def route(self, site: Site) -> Route:
        """Where the probability at an operation's outputs may go."""
        return Flow(site.signals)

    def left_out(self, step: Step) -> int | None:
        """The operand of a sum that gets nothing, whatever its value; None for most rules."""
        return None

    def connections(self, call: Call, p: jax.Array) -> Any:
        """`connections.Connections` of an affine operation; nothing is computed before ``p`` is."""
        raise NotImplementedError

    def backward(self, call: Call, p: Any) -> Sequence[jax.Array | None]:
        """Shares of ``p`` (a tuple for several outputs): one array per operand, or None."""
        raise NotImplementedError

    def joins(self, step: Step) -> bool:
        """Whether `both` is less work than `backward` for each direction."""
        return False

    def both(self, call: Call, p: tuple[jax.Array, jax.Array]) -> Sequence[jax.Array | None]:
        """Shares of what wants the output larger, and of what wants it smaller, together."""
        raise NotImplementedError


@dataclass(frozen=True)
class CustomRule(Rule):
    """A user's function ``rule(call, p) -> one probability per operand`` as a rule."""

    function: Callable[[Call, Any], Sequence[jax.Array | None]]
    equation: str = field(default="user's rule")
    contrasts = True  # it is the user's to say

    def backward(self, call: Call, p: Any) -> Sequence[jax.Array | None]:
        return self.function(call, p)
