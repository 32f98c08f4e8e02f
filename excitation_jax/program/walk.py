"""Walking through a program and what is inside it: loops, branches, shard_map.

`borders` is the only place that knows where an operation's operands and results stand inside of it:
how many operands come before, what a loop's step hands to the next one, and what has an axis of the
steps outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .trace import Op, Program, Value


class Crossing(NamedTuple):
    """A value on both sides of a border.

    Attributes:
      outer, inner: the value outside, and inside of the body.
      position: of the operand or result outside.
      stacked: outside it has a leading axis of a loop's steps.
      carried: inside it changes from step to step.
    """

    outer: Value
    inner: Value
    position: int
    stacked: bool = False
    carried: bool = False


class Border(NamedTuple):
    """Where values cross into and out of one function inside an operation.

    Attributes:
      body: the function. entries: its inputs. exits: its outputs.
      handed: (output, input) that one step of a loop hands to the next.
      steps: number of a loop's steps; None where it is no loop.
    """

    body: Program
    entries: Sequence[Crossing]
    exits: Sequence[Crossing]
    handed: Sequence[tuple[Value, Value]]
    steps: int | None

    @property
    def ends(self) -> list[tuple[Crossing, Value]]:
        """A loop's last states, and what each one is at the start of a step."""
        carried = (exit for exit in self.exits if exit.carried)
        return [(exit, into) for exit, (_, into) in zip(carried, self.handed, strict=True)]

    def next_to(self, exit: Crossing) -> list[Value]:
        """What a loop's result is at the start of the next step; nothing for other results."""
        return [into for end, into in self.ends if end is exit]


def borders(op: Op) -> list[Border]:
    """The borders of the functions inside an operation; none for an operation without any."""
    nest, found = op.nest, []
    for body in nest.bodies if nest else ():
        assert nest is not None
        into = {i for _, i in nest.carries}
        outs = {o for o, _ in nest.carries}
        looped = nest.length is not None
        entries = [
            Crossing(
                op.inputs[i + nest.offset], inner, i + nest.offset,
                looped and i >= nest.consts + len(into), i in into,
            )
            for i, inner in enumerate(body.inputs)
        ]  # fmt: skip
        exits = [
            Crossing(op.outputs[i], inner, i, looped and i not in outs, i in outs)
            for i, inner in enumerate(body.outputs)
        ]
        handed = [(body.outputs[o], body.inputs[i]) for o, i in nest.carries]
        found.append(Border(body, entries, exits, handed, nest.length))
    return found


def choosers(op: Op) -> Sequence[Value]:
    """The operands that say which body runs, or how often, and are not handed into it."""
    return op.inputs[: op.nest.offset] if op.nest else ()


class Forward:
    """A walk from the inputs to the outputs. A loop's body is walked until its facts are settled.

    Subclasses say what happens at an operation, on the way into a body, between a loop's steps and
    on the way out.
    """

    def walk(self, program: Program) -> None:
        """Visits every operation of a program in order."""
        for op in program.ops:
            if op.nest is None:
                self.visit(op)
                continue
            around = borders(op)
            for border in around:
                self.enter(op, border)
                self.walk(border.body)
                rounds = 1
                while border.handed and self.hand_on(border, rounds):
                    self.walk(border.body)
                    rounds += 1
            self.leave(op, around)

    def visit(self, op: Op) -> None:
        """An operation that holds no function."""
        raise NotImplementedError

    def enter(self, op: Op, border: Border) -> None:
        """From an operation's operands to its body's inputs."""
        raise NotImplementedError

    def hand_on(self, border: Border, rounds: int) -> bool:
        """From one step of a loop to the next; whether anything has changed for that."""
        raise NotImplementedError

    def leave(self, op: Op, around: Sequence[Border]) -> None:
        """From the outputs of the bodies to those of the operation."""
        raise NotImplementedError


class _Spread(Forward):
    def __init__(self, above: set[Value]):
        self.above = above

    def visit(self, op: Op) -> None:
        if self.above.intersection(op.inputs):
            self.above.update(op.outputs)

    def enter(self, op: Op, border: Border) -> None:
        self.above.update(e.inner for e in border.entries if e.outer in self.above)

    def hand_on(self, border: Border, rounds: int) -> bool:
        new = {into for out, into in border.handed if out in self.above} - self.above
        self.above |= new
        return bool(new)

    def leave(self, op: Op, around: Sequence[Border]) -> None:
        every = (exit for border in around for exit in border.exits)
        self.above.update(exit.outer for exit in every if exit.inner in self.above)


def computed_from(program: Program, values: Iterable[Value]) -> set[Value]:
    """These values, and everything that is computed from them, inside and outside of bodies."""
    above = set(values)
    _Spread(above).walk(program)
    return above


def programs(program: Program) -> list[Program]:
    """A program, and the bodies inside it."""
    return list(dict.fromkeys([program, *(held for held, _ in program.all_ops())]))
