"""What is asked of the facts of a program: what a value depends on, and what was made of it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from jax import lax

from . import activity, affine, gates, roles
from .activity import Activity
from .intervals import INF
from .primitives import Kind, is_product, kind
from .record import Facts, before_broadcast
from .trace import Op, Program, Value
from .walk import borders, choosers, programs


class Questions:
    """Answers from a table of `Facts` by value; `facts.FactTable` is the one there is.

    Some are asked while the table is made, of what is above in the program.
    """

    program: Program
    explained: frozenset[Value]

    def __getitem__(self, value: Value) -> Facts:
        raise NotImplementedError

    def apart(self, op: Op) -> bool:
        """Whether what is inside lies on several devices: its elements are not followed."""
        return op.nest is not None and op.nest.devices

    def activities(self, op: Op) -> list[Activity]:
        """Those of an operation's operands, as they count for its outputs.

        A gate does not, nor a divisor: they scale the signal, and get no probability for that.
        """
        known = [self[value].activity for value in op.inputs]
        if op.primitive not in (lax.mul_p, lax.div_p) or any(part.none for part in known):
            return known
        if all(part.whole for part in known):
            return known  # whichever it is
        signal = 0 if op.primitive is lax.div_p else gates.signal_factor(op, self)
        if signal is not None:
            known[1 - signal] = activity.uniform(len(op.inputs[1 - signal].shape), False)
        return known

    def masks(self, op: Op) -> tuple[int, ...]:
        """Positions of an operation's constant factors that may be zero: 0 where a mask hides."""
        scales = op.primitive is lax.mul_p and any(self[value].active for value in op.inputs)
        if not scales and not self.pools(op):
            return ()
        return tuple(
            i
            for i, known in enumerate(map(self.__getitem__, op.inputs))
            if not known.active and known.interval.low == 0 and known.interval.high < INF
        )

    def truths(self, op: Op, i: int) -> tuple[Value, tuple[int, ...]]:
        """What to read, and in which shape, of an operand that says which elements are meant."""
        chooses = op.primitive is lax.select_n_p and i == 0
        if chooses or i in self.masks(op):
            return before_broadcast(op, i, self)
        return op.inputs[i], op.inputs[i].shape

    @functools.cached_property
    def consumers(self) -> Mapping[Value, Sequence[Op]]:
        """The operations that read each value, those inside loops and branches included."""
        found: dict[Value, list[Op]] = {}
        for _, op in self.program.all_ops():
            for value in op.inputs:
                found.setdefault(value, []).append(op)
        return found

    @functools.cached_property
    def ends(self) -> frozenset[Value]:
        """The outputs of the program, and of the bodies inside it."""
        return frozenset(value for program in programs(self.program) for value in program.outputs)

    @functools.cached_property
    def outside(self) -> Mapping[Value, Sequence[Value]]:
        """For the inputs of loops' and branches' bodies, the values that they stand for."""
        found: dict[Value, list[Value]] = {}
        for _, op in self.program.all_ops():
            for border in borders(op):
                for entry in border.entries:
                    handed = [out for out, into in border.handed if into is entry.inner]
                    found[entry.inner] = [entry.outer, *handed]
        return found

    @functools.cached_property
    def across(self) -> Mapping[Value, Sequence[Value]]:
        """What crosses the borders of loops and branches: what it is on the other side."""
        found: dict[Value, Sequence[Value]] = {}
        for _, op in self.program.all_ops():
            if op.nest is not None and not self.apart(op):
                entries = (entry.inner for border in borders(op) for entry in border.entries)
                found.update((value, self.outside[value]) for value in entries)
                found.update((value, self._handed_out(op, value)) for value in op.outputs)
        return found

    def makers(self, value: Value) -> Sequence[Value]:
        """The values that a value was made of, at once."""
        op = self[value].producer
        if op is None:
            return self.outside.get(value, ())
        if op.nest is None:
            return op.inputs
        return [*choosers(op), *self._handed_out(op, value)]

    def _handed_out(self, op: Op, value: Value) -> list[Value]:
        """What a result of a loop or branch is inside, or, of a loop without steps, is given."""
        at = op.outputs.index(value)
        exits = [(border, border.exits[at]) for border in borders(op)]
        given = (into for border, exit in exits for into in border.next_to(exit))
        return [*(exit.inner for _, exit in exits), *given]

    def behind_a_layer(self, value: Value) -> bool:
        """Whether a learned convolution or dense layer lies between the input and a value.

        In a loop, whether one does in some step.
        """
        pending, met = [value], set()
        while pending:
            value = pending.pop()
            if value in met or value in self.explained or not self[value].active:
                continue
            met.add(value)
            op = self[value].producer
            if op is not None and self.is_learned_layer(op):
                return True
            pending.extend(self.makers(value))
        return False

    def is_learned_layer(self, op: Op) -> bool:
        """Whether it sums with weights, not of shapes alone: a convolution, a dense layer."""
        if kind(op.primitive) is Kind.SUM:
            return len(op.inputs) == 1 and affine.weighted(op.inputs[0], self)
        return self.connects(op) and any(self[value].learned for value in op.inputs)

    def connects(self, op: Op) -> bool:
        """Whether it sums with weights that may be negative, of shapes alone or not."""
        affine = kind(op.primitive) is Kind.AFFINE and not is_product(op)
        return affine and not self.pools(op)

    def pools(self, op: Op) -> bool:
        """Whether it is a sum written with weights, which are known not to be negative (D0).

        A window, an interpolation: ``einsum("npc,p->nc", x, ones / n)``. Arrays that are given as
        such are weights of a layer, whatever their numbers.
        """
        if kind(op.primitive) is not Kind.AFFINE or is_product(op):
            return False
        constants = [value for value in op.inputs if not self[value].active]
        return len(constants) == 1 and self._positive_by_construction(constants[0])

    def _positive_by_construction(self, constant: Value) -> bool:
        if self[constant].interval.low < 0:
            return False
        given = self[roles.through_layout(constant, self)].producer is None
        return not (given and self[constant].learned)

    def picks(self, op: Op) -> bool:
        """Whether a pooling may leave elements out: where one is left it is that one."""
        constants = [self[value].interval for value in op.inputs if not self[value].active]
        return self.pools(op) and constants[0].low == 0 and constants[0].high <= 1

    def module(self, op: Op) -> str | None:
        """The one module whose parameters an operation consumes (see modules.py)."""
        modules = {module for value in op.inputs for module in self[value].modules}
        return modules.pop() if len(modules) == 1 and op.nest is None else None

    def depends(self, value: Value, base: Value) -> list[Op] | None:
        """The operations that ``value`` was computed by from ``base``; None if it was not."""
        producer = self[base].producer
        start = -1 if producer is None else producer.index
        pending, ops, met = [value], {}, False
        while pending:
            current = pending.pop()
            if current is base:
                met = True
                continue
            op = self[current].producer
            if op is None or op.index in ops or op.index <= start or not self[current].active:
                continue
            ops[op.index] = op
            pending.extend(op.inputs)
        return list(ops.values()) if met else None
