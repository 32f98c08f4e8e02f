"""Evaluating loops, branches, shard_map and remat, with carriers beside the values (R9)."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..program.reading import Reading
from ..program.trace import Op, Value, read_value
from ..program.walk import Border, Crossing, borders, choosers
from .carriers import (
    Arrays,
    Carried,
    Evaluation,
    bind,
    carrier,
    discounted,
    metered,
    taps_within,
)
from .direction import Read
from .merging import close
from .plan import Lane, Plan

#: A carrier inside: its lane (see `carriers.Carried`), and its position among the body's
#: inputs or outputs.
Key = tuple[Lane, int]


def evaluate_nest(run: Evaluation, op: Op, env: Arrays, carried: Carried) -> None:
    """Evaluates an operation that holds functions, and the carriers of its outputs."""
    assert op.nest is not None
    tapped = [tap for tap in taps_within(run.taps, [op]) if tap is not op and tap not in op.outputs]
    wanted = any(run.plan.beside(value) for value in op.outputs)
    if not tapped and not wanted and not any(key[1] in op.inputs for key in carried):
        bind(op, env)
        return
    if op.nest.length is not None:
        _Loop(run, op, tapped, env, carried).evaluate(env, carried)
    elif op.nest.devices:
        _shard_map(run, op, env, carried)
    else:
        _branch(run, op, tapped, env, carried)
    close(run, op.outputs, env, carried)


def carried_as(carried: Carried, lane: Lane, value: Value) -> jax.Array | None:
    """The carrier on one side of a border of what has a lane on the other.

    Where only one side has two carriers, the other's probability is P+.
    """
    found = carried.get((lane, value))
    if found is None and lane.direction == 0:
        found = carried.get((lane._replace(direction=1), value))
    if found is None and lane.direction == 1:
        found = carried.get((lane._replace(direction=0), value))
    return found


def _carriers_in(run: Evaluation, around: Sequence[Border], carried: Carried) -> dict[Key, Any]:
    """The carriers from outside, by the lanes of the bodies' inputs."""
    found = {}
    for i, entry in enumerate(around[0].entries):
        for lane in dict.fromkeys(
            lane for b in around for lane in run.plan.crossing(b.entries[i].inner)
        ):
            array = carried_as(carried, lane, entry.outer)
            if array is not None:
                found[lane, i] = array
    return found


def _carriers_out(run: Evaluation, op: Op) -> list[Key]:
    return [(lane, i) for i, value in enumerate(op.outputs) for lane in run.plan.crossing(value)]


def _fitted(known: Any, shape: tuple[int, ...]) -> jax.Array:
    """A pattern in the shape of a companion, of which it may lack or repeat some axes' elements.

    Totals have the shape of their value.
    """
    cut = [slice(0, 1) if wanted == 1 else slice(None) for wanted in shape]
    return jnp.broadcast_to(jnp.asarray(known)[tuple(cut)], shape)


def _inside(
    run: Evaluation, border: Border, values: Sequence[Any], carriers: dict[Key, Any], taps: dict,
    companions: Arrays,
) -> tuple[Arrays, Carried]:  # fmt: skip
    """The values and carriers of a body."""
    env: Arrays = dict(zip(border.body.inputs, values, strict=True)) | companions
    carried: Carried = {
        (lane, border.entries[i].inner): array
        for (lane, i), array in carriers.items()
        if lane in run.plan.crossing(border.entries[i].inner)
    }
    close(run._replace(taps=taps), border.body.inputs, env, carried)
    run.walk(run._replace(program=border.body, taps=taps), env, carried)
    return env, carried


def _ends(
    border: Border, env: Arrays, carried: Carried, wanted: Sequence[Key]
) -> tuple[list, list]:
    """A body's outputs and the wanted carriers of them; zeros where nothing is carried."""
    outputs = [read_value(env, exit.inner) for exit in border.exits]
    return outputs, [_or_zeros(carried, lane, border.exits[i].inner) for lane, i in wanted]


def _or_zeros(carried: Carried, lane: Lane, value: Value) -> jax.Array:
    found = carried_as(carried, lane, value)
    return carrier(value) if found is None else found


def _known_outside(
    run: Evaluation, entries: Sequence[Crossing], env: Arrays, length: int | None = None
) -> dict[Value, jax.Array]:
    """What goes beside a body's inputs, of the values outside; of all steps of a loop."""
    found = {}
    for entry in entries:
        for what, companion in run.plan.beside(entry.inner).items():
            shape = companion.shape if length is None else (length, *companion.shape)
            found[companion] = _fitted(run.beside(what, entry.outer, env), shape)
    return found


class _Loop:
    """A scan over the steps, or over as many steps as a while loop takes.

    Beside the state and the rows of the values go their carriers and their companions.
    """

    def __init__(
        self, run: Evaluation, op: Op, tapped: Sequence[Value | Op], env: Arrays, carried: Carried
    ):
        self.run, self.op, self.tapped = run, op, tapped
        around = borders(op)
        (self.border,) = around
        entries, exits, lanes = self.border.entries, self.border.exits, run.plan.crossing
        self.states, self.parts = (
            [e for e in entries if e.carried],
            [e for e in entries if e.stacked],
        )
        self.ends, self.rows = [e for e in exits if e.carried], [e for e in exits if e.stacked]
        fixed = [e for e in entries if not (e.carried or e.stacked)]
        self.place = {entry.inner: i for i, entry in enumerate(entries)}
        self.given = _carriers_in(run, around, carried)
        # A step hands on the carriers of what the next one, or what is outside, takes.
        self.handed = [
            (lane, number)
            for number, (_, into) in enumerate(self.border.handed)
            for lane in dict.fromkeys((*lanes(into), *lanes(self.ends[number].outer)))
        ]
        self.stacked = [key for key in self.given if entries[key[1]].stacked]
        self.results = [key for key in _carriers_out(run, op) if exits[key[1]].stacked]
        self.kept = [
            (exit, what, companion)
            for exit in self.rows
            for what, companion in run.plan.beside(exit.outer).items()
        ]
        # What every step gets.
        self.values = {entry.inner: read_value(env, entry.outer) for entry in fixed}
        self.carriers = {k: array for k, array in self.given.items() if entries[k[1]] in fixed}
        self.known = _known_outside(run, fixed, env)
        # What the first step gets, and what each one.
        self.first = _known_outside(run, self.states, env)
        self.by_step = _known_outside(run, self.parts, env, self.border.steps)

    def evaluate(self, env: Arrays, carried: Carried) -> None:
        """Adds the outputs of the loop to the values, their companions, and their carriers."""
        start = (
            [read_value(env, entry.outer) for entry in self.states],
            [self._start(*key) for key in self.handed],
            list(self.first.values()),
        )
        rows = (
            [read_value(env, entry.outer) for entry in self.parts],
            [self.given[key] for key in self.stacked],
            [self.run.taps[value] for value in self.tapped],
            list(self.by_step.values()),
        )
        params = self.op.params
        found: Any = lax.scan(
            self._step, start, rows, length=self.border.steps,
            reverse=params.get("reverse", False), unroll=params.get("unroll", 1),
        )  # fmt: skip
        (state, state_carriers, state_known), (ys, y_carriers, y_known) = found
        beside = self.run.plan.beside
        env.update(zip((exit.outer for exit in self.ends), state, strict=True))
        env.update(zip((exit.outer for exit in self.rows), ys, strict=True))
        last = dict(zip(self.first, state_known, strict=True))
        for exit, into in self.border.ends:
            for what, companion in beside(exit.outer).items():
                env[companion] = _fitted(last[beside(into)[what]], companion.shape)
        env.update(zip((companion for *_, companion in self.kept), y_known, strict=True))
        for (lane, number), array in zip(self.handed, state_carriers, strict=True):
            if lane in self.run.plan.crossing(self.ends[number].outer):
                carried[lane, self.ends[number].outer] = array
        for (lane, i), array in zip(self.results, y_carriers, strict=True):
            carried[lane, self.op.outputs[i]] = array

    def _start(self, lane: Lane, number: int) -> Any:
        out, into = self.border.handed[number]
        known = self.given.get((lane, self.place[into]))
        return carrier(out) if known is None else known

    def _step(self, carry: tuple, x: tuple) -> tuple:
        (state, state_carriers, state_known), (xs, x_carriers, taps, x_known) = carry, x
        values = {
            **self.values,
            **dict(zip((entry.inner for entry in self.states), state, strict=True)),
            **dict(zip((entry.inner for entry in self.parts), xs, strict=True)),
        }
        carriers = {**self.carriers, **dict(zip(self.stacked, x_carriers, strict=True))}
        for (lane, number), array in zip(self.handed, state_carriers, strict=True):
            carriers[lane, self.place[self.border.handed[number][1]]] = array
        known = {
            **self.known,
            **dict(zip(self.first, state_known, strict=True)),
            **dict(zip(self.by_step, x_known, strict=True)),
        }
        tapped = dict(zip(self.tapped, taps, strict=True))
        ordered = [values[value] for value in self.border.body.inputs]
        return self._results(*_inside(self.run, self.border, ordered, carriers, tapped, known))

    def _results(self, inner: Arrays, inner_carried: Carried) -> tuple:
        """What a step hands on, and its rows of the loop's outputs."""
        run, handed = self.run, self.border.handed
        outputs, y_carriers = _ends(self.border, inner, inner_carried, self.results)
        next_carriers = [
            _or_zeros(inner_carried, lane, handed[number][0]) for lane, number in self.handed
        ]
        next_known = [
            _fitted(run.beside(what, out, inner), companion.shape)
            for out, into in handed
            for what, companion in run.plan.beside(into).items()
        ]
        y_known = [
            _fitted(run.beside(what, exit.inner, inner), companion.shape[1:])
            for exit, what, companion in self.kept
        ]
        next_state = [outputs[exit.position] for exit in self.ends]
        ys = [outputs[exit.position] for exit in self.rows]
        return (next_state, next_carriers, next_known), (ys, y_carriers, y_known)


def _branch(
    run: Evaluation, op: Op, tapped: Sequence[Value | Op], env: Arrays, carried: Carried
) -> None:
    """The branch that was taken."""
    around, plan = borders(op), run.plan
    (index,) = (read_value(env, value) for value in choosers(op))
    operands = [read_value(env, entry.outer) for entry in around[0].entries]
    given = _carriers_in(run, around, carried)
    carriers = list(given.values())
    wanted = _carriers_out(run, op)
    kept = [companion for value in op.outputs for companion in plan.beside(value).values()]

    def taken(border: Border) -> Any:
        known = _known_outside(run, border.entries, env)

        def branch(operands: list, carriers: list, taps: list) -> tuple[list, list, list]:
            inner, inner_carried = _inside(
                run, border, operands, dict(zip(given, carriers, strict=True)),
                dict(zip(tapped, taps, strict=True)), known,
            )  # fmt: skip
            beside = [
                _fitted(run.beside(what, exit.inner, inner), companion.shape)
                for exit in border.exits
                for what, companion in plan.beside(exit.outer).items()
            ]
            return *_ends(border, inner, inner_carried, wanted), beside

        return branch

    outputs, found, beside = lax.switch(
        index, [taken(border) for border in around],
        operands, carriers, [run.taps[value] for value in tapped],
    )  # fmt: skip
    env.update(zip(op.outputs, outputs, strict=True))
    env.update(zip(kept, beside, strict=True))
    carried.update({(lane, op.outputs[i]): c for (lane, i), c in zip(wanted, found, strict=True)})


def _shard_map(run: Evaluation, op: Op, env: Arrays, carried: Carried) -> None:
    """The carriers are sharded as their values are.

    What ends inside is metered at the border: a meter inside would be one on each device.
    """
    around, params = borders(op), op.params
    (border,) = around
    given, meter = _carriers_in(run, around, carried), run.taps.get(op)
    below = discounted(meter, given)
    wanted = _carriers_out(run, op)

    def sharded(operands: list, carriers: list) -> tuple[list, list]:
        by_key = dict(zip(given, carriers, strict=True))
        return _ends(border, *_inside(run, border, operands, by_key, {}, {}), wanted)

    specs, out_specs = list(params["in_specs"]), list(params["out_specs"])
    outputs, found = jax.shard_map(
        sharded,
        mesh=params["mesh"],
        in_specs=(specs, [specs[i] for _, i in given]),
        out_specs=(out_specs, [out_specs[i] for _, i in wanted]),
        axis_names=set(params["newly_manual_axes"]),
        check_vma=params["check_vma"],
    )(
        [read_value(env, value) for value in op.inputs],
        list(below.values()),
    )
    found = metered(meter, found)
    env.update(zip(op.outputs, outputs, strict=True))
    carried.update({(lane, op.outputs[i]): c for (lane, i), c in zip(wanted, found, strict=True)})


def checkpointed(
    run: Evaluation, remat: int, ops: Sequence[Op], depth: int, env: Arrays, carried: Carried,
    evaluate: Callable[..., None],
) -> None:  # fmt: skip
    """Evaluates the operations of one remat call under one jax.checkpoint.

    Args:
      depth: number of remat calls around this one.
      evaluate: ``evaluate(run, ops, depth, env, carried)``, from that one on.
    """
    program, plan, here = run.program, run.plan, {op.index for op in ops}
    made = {value: None for op in ops for value in _made(plan, op)}
    read = {v: None for op in ops for v in _read(plan, op) if v not in made}
    later = {v for op in program.ops if op.index not in here for v in _read(plan, op)}
    later.update(program.outputs, run.kept)
    later.update(known for value in program.outputs for known in plan.beside(value).values())
    later.update(_said_beyond(plan, program.outputs))
    needed = [value for value in made if value in later]
    outside = {value: env[value] for value in read}
    known = {key: array for key, array in carried.items() if key[1] in read}
    taps = {value: run.taps[value] for value in taps_within(run.taps, ops)}
    with_carrier: list[tuple[Lane, Value]] = []

    def body(arrays: list, carriers: list, tapping: list) -> tuple[list, list]:
        inner_env = dict(zip(outside, arrays, strict=True))
        inner_carried = dict(zip(known, carriers, strict=True))
        # Signs that are read in here are values of this checkpoint, and must not leave it.
        signs = Read(ChainMap(inner_env, run.signs.constants))  # type: ignore[arg-type]
        inner = run._replace(taps=dict(zip(taps, tapping, strict=True)), signs=signs)
        evaluate(inner, ops, depth + 1, inner_env, inner_carried)
        with_carrier[:] = [key for key in inner_carried if key[1] in needed]
        return [inner_env[v] for v in needed], [inner_carried[key] for key in with_carrier]

    values, carriers = jax.checkpoint(body, **program.remat_params[remat])(
        *(list(part.values()) for part in (outside, known, taps))
    )
    env.update(zip(needed, values, strict=True))
    carried.update(zip(with_carrier, carriers, strict=True))


def _made(plan: Plan, op: Op) -> list[Value]:
    """An operation's outputs, and what is computed beside them."""
    return [*op.outputs, *(known for v in op.outputs for known in plan.beside(v).values())]


def _read(plan: Plan, op: Op) -> list[Value]:
    """What an operation, its rule and its outputs' activities read."""
    read = [*op.inputs, *(known for v in op.inputs for known in plan.beside(v).values())]
    if any(value in plan.companions for value in op.outputs) and op.nest is None:
        read += [plan.facts.truths(op, i)[0] for i in range(len(op.inputs))]
    read += _said_beyond(plan, op.inputs)
    step = plan.steps.get(op)
    if step is not None:
        read += step.sources
        for reading in filter(None, step.readings):
            read += _needed(plan, reading)
        read += [v for other in step.between for v in other.inputs]
    if op in plan.regions:  # of which parts may lie in another call
        region = plan.regions[op]
        read += region.constants
        for part in region.merged:
            if part is not op:
                read += [*part.outputs, *_read(plan, part)]
    return [value for value in read if value.literal is None]


def _said_beyond(plan: Plan, values: Sequence[Value]) -> list[Value]:
    """What is read to say, across a border, of which neurons these are made."""
    readings = (plan.neurons.reading(value) for value in values if value in plan.beyond)
    return [v for reading in readings if reading is not None for v in _needed(plan, reading)]


def _needed(plan: Plan, reading: Reading) -> list[Value]:
    """What a reading reads, beside values, too."""
    crossed = {*reading.crossed, *(v for b in reading.bounds.values() for v in b.crossed)}
    return [*reading.needed, *(known for v in crossed for known in plan.beside(v).values())]
