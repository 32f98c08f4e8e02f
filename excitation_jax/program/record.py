"""The record of what is known of one value, what is left of it at a border, and reading constants.

Constants are read as they were before they were broadcast: small, and with lengths of 1.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from . import intervals
from .activity import Activity
from .activity import either as either_activity
from .intervals import ANYTHING, INF, Interval
from .trace import Op, Value


class Role(enum.Enum):
    """What a value that depends on the input is for, where it is no signal (see roles.py)."""

    NORMALISER = "it only scales: 1 / s, s^-p, or built from such"
    GATE = "it was marked as a gate, or is made of such"


@dataclass(eq=False, slots=True)
class Facts:
    """What is known of one value.

    Attributes:
      activity: which elements depend on the explained input; what does not is a constant, and no
        neuron: like a bias, it takes no probability.
      interval: the range of its elements. Its low end is the lower bound lambda of Eq. 20.
      parent: the nearest value of which it is a function element by element, whatever ways lead
        there (x, for x * sigmoid(x)). A neuron and its parent's are one: it has one child.
      depth: the number of parents above it.
      affine: a sum of others, by weights or not, with what constants make of it: those behind it
        are its own.
      origin, function: the furthest value of which it is a function element by element, through
        known numbers only, and that function (numpy), which can be evaluated while tracing.
      role: the part it plays, where it is no signal.
      known: the number that all elements of a constant share, where known.
      modules: for a constant, those whose parameters it was computed from (see modules.py).
      learned: a constant that was computed from arrays given to the program (weights), not
        from shapes alone (an interpolation matrix).
      producer: the operation that made it.
    """

    activity: Activity
    interval: Interval = ANYTHING
    parent: Value | None = None
    depth: int = 0
    affine: bool = False
    origin: Value | None = None
    function: Callable[[Any], Any] | None = None
    role: Role | None = None
    known: Any = None
    learned: bool = False
    modules: frozenset[str] = field(default_factory=frozenset)
    producer: Op | None = None

    @property
    def active(self) -> bool:
        """Whether any element may depend on the explained input."""
        return not self.activity.none


def at_border(facts: Facts, depends: Activity) -> Facts:
    """What is known of a value on the other side of a loop's, branch's or shard_map's border."""
    return Facts(
        depends, facts.interval, affine=facts.affine, role=facts.role, known=facts.known,
        learned=facts.learned, modules=facts.modules,
    )  # fmt: skip


def either(a: Facts, b: Facts, widen: bool = False) -> Facts:
    """What is known of a value that may be one or the other.

    Args:
      widen: give up an end of the interval that has moved again from ``a`` to ``b``.
    """
    signals = [known for known in (a, b) if known.active] or [a, b]  # constants are no neurons
    low, high = intervals.union(known.interval for known in signals)
    if widen:
        low = low if low == a.interval.low else -INF
        high = high if high == a.interval.high else INF
    return replace(
        a, activity=either_activity(a.activity, b.activity), interval=Interval(low, high),
        affine=all(known.affine for known in (a, b) if known.active),
        role=a.role if a.role is b.role else None, known=same_number(a.known, b.known),
        learned=a.learned or b.learned, modules=a.modules | b.modules,
    )  # fmt: skip


def agree(a: Facts, b: Facts) -> bool:
    """Whether another walk through a loop's body would find nothing new."""
    settled = a.activity.shape == b.activity.shape and a.activity.late == b.activity.late
    same = a.known is b.known or same_number(a.known, b.known) is not None
    parts = [(f.interval, f.role, f.learned, f.affine) for f in (a, b)]
    return settled and same and parts[0] == parts[1]


def same_number(a: Any, b: Any) -> Any:
    """A number that both are, None where they differ or are unknown."""
    return a if a is not None and b is not None and bool(a == b) else None


class Known(Protocol):
    """What is known of values: a `facts.FactTable`, which asks some functions as it is made."""

    def __getitem__(self, value: Value) -> Any: ...


def before_broadcast(op: Op, i: int, facts: Known) -> tuple[Value, tuple[int, ...]]:
    """A value with the elements of an operand, and their shape: 1 where it was broadcast."""
    value = op.inputs[i]
    shape, places = list(value.shape), list(range(len(value.shape)))
    while (maker := facts[value].producer) is not None and not facts[value].active:
        if maker.primitive is not lax.broadcast_in_dim_p:
            break
        value = maker.inputs[0]
        places = [places[dim] for dim in maker.params["broadcast_dimensions"]]
        shape = [1] * len(op.inputs[i].shape)
        for place, size in zip(places, value.shape, strict=True):
            shape[place] = size
    return value, tuple(shape)


def reader(op: Op, i: int, facts: Known) -> Callable[[Callable[[Value], Any]], jax.Array]:
    """Of a function that reads constants: a constant operand, with the output's rank.

    It has length 1 along the axes that it was broadcast along.
    """
    value, shape = before_broadcast(op, i, facts)
    shape = (1,) * (len(op.outputs[0].shape) - len(shape)) + shape
    if value.literal is not None:
        return lambda read: jnp.full(shape, value.literal)
    return lambda read: jnp.reshape(read(value), shape)
