"""Evaluating loops, branches and shard_map, with carriers beside the values (R9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..program import compat
from ..program.trace import Op, Value, read_value
from ..program.walk import Border, Crossing, borders, choosers
from .carriers import (
    Arrays,
    Carried,
    Evaluation,
    carrier,
    discounted,
    metered,
    taps_within,
)

#: A carrier inside: its phase (see `carriers.Carried`), and its position among the body's
#: inputs or outputs.
Key = tuple[bool, int]


def evaluate_nest(run: Evaluation, op: Op, env: Arrays, carried: Carried) -> None:
    """Evaluates an operation that holds functions, and the carriers of its outputs."""
    assert op.nest is not None
    tapped = [tap for tap in taps_within(run.taps, [op]) if tap is not op and tap not in op.outputs]
    wanted = any(value in run.plan.companions for value in op.outputs)
    if not tapped and not wanted and not any(key[1] in op.inputs for key in carried):
        outputs = compat.bind(
            op.primitive, op.params, *(read_value(env, value) for value in op.inputs)
        )
        env.update(zip(op.outputs, outputs, strict=True))
        return
    if op.nest.length is not None:
        _loop(run, op, tapped, env, carried)
    elif op.nest.devices:
        _shard_map(run, op, env, carried)
    else:
        _branch(run, op, tapped, env, carried)


def _carriers_in(run: Evaluation, around: Sequence[Border], carried: Carried) -> list[Key]:
    """Which inputs of the bodies get a carrier from outside."""
    return [
        (upper, i)
        for i, entry in enumerate(around[0].entries)
        for upper in (True, False)
        if (upper, entry.outer) in carried
        and any(upper in run.plan.phases(border.entries[i].inner) for border in around)
    ]


def _carriers_out(run: Evaluation, op: Op) -> list[Key]:
    return [(u, i) for i, value in enumerate(op.outputs) for u in run.plan.phases(value)]


def _fitted(pattern: Any, shape: tuple[int, ...]) -> jax.Array:
    """A pattern in the shape of a companion, of which it may lack or repeat some axes' elements."""
    cut = [slice(0, 1) if wanted == 1 else slice(None) for wanted in shape]
    return jnp.broadcast_to(jnp.asarray(pattern)[tuple(cut)], shape)


def _inside(
    run: Evaluation, border: Border, values: Sequence[Any], carriers: dict[Key, Any], taps: dict,
    companions: Arrays,
) -> tuple[Arrays, Carried]:  # fmt: skip
    """The values and carriers of a body."""
    env: Arrays = dict(zip(border.body.inputs, values, strict=True)) | companions
    carried: Carried = {
        (upper, border.entries[i].inner): array
        for (upper, i), array in carriers.items()
        if upper in run.plan.phases(border.entries[i].inner)
    }
    run.walk(run._replace(program=border.body, taps=taps), env, carried)
    return env, carried


def _ends(
    border: Border, env: Arrays, carried: Carried, wanted: Sequence[Key]
) -> tuple[list, list]:
    """A body's outputs and the wanted carriers of them; zeros where nothing is carried."""
    outputs = [read_value(env, exit.inner) for exit in border.exits]
    inner = [(upper, border.exits[i].inner) for upper, i in wanted]
    return outputs, [carried[key] if key in carried else carrier(key[1]) for key in inner]


def _known_outside(
    run: Evaluation, entries: Sequence[Crossing], env: Arrays, length: int | None = None
) -> dict[Value, jax.Array]:
    """Companions of a body's inputs, of the values outside; of all steps of a loop."""
    found = {}
    for entry in entries:
        companion = run.plan.companions.get(entry.inner)
        if companion is not None:
            shape = companion.shape if length is None else (length, *companion.shape)
            found[companion] = _fitted(run.active(entry.outer, env), shape)
    return found


def _loop(
    run: Evaluation, op: Op, tapped: Sequence[Value | Op], env: Arrays, carried: Carried
) -> None:
    """A scan over the steps, or over as many steps as a while loop takes."""
    around, plan = borders(op), run.plan
    (border,) = around
    entries, exits = border.entries, border.exits
    states, parts = [e for e in entries if e.carried], [e for e in entries if e.stacked]
    fixed = [e for e in entries if not (e.carried or e.stacked)]
    ends, rows = [e for e in exits if e.carried], [e for e in exits if e.stacked]
    place = {entry.inner: i for i, entry in enumerate(entries)}
    given = {(u, i): carried[u, entries[i].outer] for u, i in _carriers_in(run, around, carried)}
    # A step hands on the carriers of what it hands on, in each phase of either end.
    handed = [
        (upper, number)
        for number, pair in enumerate(border.handed)
        for upper in (True, False)
        if any(upper in plan.phases(value) for value in pair)
    ]
    same = {key: given[key] for key in given if entries[key[1]] in fixed}
    stacked = [key for key in given if entries[key[1]].stacked]
    results = [key for key in _carriers_out(run, op) if exits[key[1]].stacked]
    kept = [exit for exit in rows if exit.outer in plan.companions]
    always, first = _known_outside(run, fixed, env), _known_outside(run, states, env)
    by_step = _known_outside(run, parts, env, border.steps)

    def start(upper: bool, number: int) -> Any:
        out, into = border.handed[number]
        known = given.get((upper, place[into]))
        return carrier(out) if known is None else known

    def one(carry: tuple, x: tuple) -> tuple:
        (state, state_carriers, state_known), (xs, x_carriers, taps, x_known) = carry, x
        carriers = {**same, **dict(zip(stacked, x_carriers, strict=True))}
        for (upper, number), array in zip(handed, state_carriers, strict=True):
            carriers[upper, place[border.handed[number][1]]] = array
        values = {entry.inner: read_value(env, entry.outer) for entry in fixed}
        values.update(zip((entry.inner for entry in states), state, strict=True))
        values.update(zip((entry.inner for entry in parts), xs, strict=True))
        inner, inner_carried = _inside(
            run, border, [values[value] for value in border.body.inputs], carriers,
            dict(zip(tapped, taps, strict=True)),
            {
                **always,
                **dict(zip(first, state_known, strict=True)),
                **dict(zip(by_step, x_known, strict=True)),
            },
        )  # fmt: skip
        outputs, y_carriers = _ends(border, inner, inner_carried, results)
        outs = [(upper, border.handed[number][0]) for upper, number in handed]
        next_carriers = [
            inner_carried[key] if key in inner_carried else carrier(key[1]) for key in outs
        ]
        next_state = [outputs[exit.position] for exit in ends]
        next_known = [
            _fitted(run.active(out, inner), plan.companions[into].shape)
            for out, into in border.handed
            if into in plan.companions
        ]
        rows_known = [
            _fitted(run.active(exit.inner, inner), plan.companions[exit.outer].shape[1:])
            for exit in kept
        ]
        ys = [outputs[exit.position] for exit in rows]
        return (next_state, next_carriers, next_known), (ys, y_carriers, rows_known)

    found: Any = lax.scan(
        one,
        (
            [read_value(env, entry.outer) for entry in states],
            [start(*key) for key in handed],
            list(first.values()),
        ),
        (
            [read_value(env, entry.outer) for entry in parts],
            [given[key] for key in stacked],
            [run.taps[value] for value in tapped],
            list(by_step.values()),
        ),
        length=border.steps,
        reverse=op.params.get("reverse", False),
        unroll=op.params.get("unroll", 1),
    )
    (state, state_carriers, state_known), (ys, y_carriers, rows_known) = found
    env.update(zip((exit.outer for exit in ends), state, strict=True))
    env.update(zip((exit.outer for exit in rows), ys, strict=True))
    last = dict(zip(first, state_known, strict=True))
    for exit, (_, into) in zip(ends, border.handed, strict=True):
        if exit.outer in plan.companions:
            companion = plan.companions[exit.outer]
            env[companion] = _fitted(last[plan.companions[into]], companion.shape)
    for exit, pattern in zip(kept, rows_known, strict=True):
        env[plan.companions[exit.outer]] = pattern
    for (upper, number), array in zip(handed, state_carriers, strict=True):
        carried[upper, ends[number].outer] = array
    for (upper, i), array in zip(results, y_carriers, strict=True):
        carried[upper, op.outputs[i]] = array


def _branch(
    run: Evaluation, op: Op, tapped: Sequence[Value | Op], env: Arrays, carried: Carried
) -> None:
    """The branch that was taken."""
    around, plan = borders(op), run.plan
    (index,) = (read_value(env, value) for value in choosers(op))
    operands = [read_value(env, entry.outer) for entry in around[0].entries]
    given = _carriers_in(run, around, carried)
    carriers = [carried[upper, around[0].entries[i].outer] for upper, i in given]
    wanted = _carriers_out(run, op)
    kept = [value for value in op.outputs if value in plan.companions]

    def taken(border: Border) -> Any:
        known = _known_outside(run, border.entries, env)

        def branch(operands: list, carriers: list, taps: list) -> tuple[list, list, list]:
            inner, inner_carried = _inside(
                run, border, operands, dict(zip(given, carriers, strict=True)),
                dict(zip(tapped, taps, strict=True)), known,
            )  # fmt: skip
            patterns = [
                _fitted(run.active(exit.inner, inner), plan.companions[exit.outer].shape)
                for exit in border.exits
                if exit.outer in plan.companions
            ]
            return *_ends(border, inner, inner_carried, wanted), patterns

        return branch

    outputs, found, patterns = lax.switch(
        index, [taken(border) for border in around],
        operands, carriers, [run.taps[value] for value in tapped],
    )  # fmt: skip
    env.update(zip(op.outputs, outputs, strict=True))
    env.update(zip((plan.companions[value] for value in kept), patterns, strict=True))
    carried.update({(u, op.outputs[i]): c for (u, i), c in zip(wanted, found, strict=True)})


def _shard_map(run: Evaluation, op: Op, env: Arrays, carried: Carried) -> None:
    """The carriers are sharded as their values are.

    What ends inside is metered at the border: a meter inside would be one on each device.
    """
    around, params = borders(op), op.params
    (border,) = around
    given, meter = _carriers_in(run, around, carried), run.taps.get(op)
    below = discounted(meter, {key: carried[key[0], op.inputs[key[1]]] for key in given})
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
    carried.update({(u, op.outputs[i]): c for (u, i), c in zip(wanted, found, strict=True)})
