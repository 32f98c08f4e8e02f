"""All layers of a model: their names, and which one is read where none is named."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

from ..engine.plan import Plan
from ..engine.planning import analyse
from ..program import compat
from ..program.axes import Geometry
from ..program.gates import is_marked
from ..program.primitives import Kind, kind, row
from ..program.trace import Op, Program, Value
from ..rules.rule import Structure, Through
from ..rules.ruleset import EXCITATION
from .layer import Layer, LayerTable
from .sliding import above_sliding_average

#: IJCV18, Sec. 6.1.3: below about 14x14 of 224 pixels the localisation suffers.
LARGEST_AUTO_STRIDE = 16
#: An activation so much finer than the best place of all is not read by "auto".
SEVERAL_TIMES = 4


def find_layers(plan: Plan, geometry: Geometry) -> LayerTable:
    """All layers of a planned program, in the order in which they are computed.

    A name means the same value whatever the rules are, and so do "auto", "last" and "top": those
    that Excitation Backprop's rules give come first, and then those of what only these rules reach
    (gates, for the gradient).
    """
    named: dict[Value, str] = {}
    counts: dict[str, int] = {}
    aliases: dict[str, Value] = {}
    every = list(plan.program.all_ops(sharded=False))
    standard = plan
    if plan.rules is not EXCITATION:
        standard = analyse(plan.program, plan.facts.explained, EXCITATION, facts=plan.facts)
    for names in (_names(standard, every), _names(plan, every)):
        before = frozenset(named)
        for name, value in names:
            if value not in before:
                counts[name] = counts.get(name, 0) + 1
                full = name if counts[name] == 1 else f"{name}#{counts[name]}"
                aliases.setdefault(full, value)
                named.setdefault(value, full)
    table = LayerTable()
    read = (value for _, op in every for value in op.outputs if value in plan.reached)
    table.extend(_layer(named[value], value, plan, geometry) for value in read if value in named)
    by_value = {layer.value: layer for layer in table}
    table.aliases = {
        name: by_value[value]
        for name, value in aliases.items()
        if named[value] != name and value in by_value
    }
    for paths in (standard, plan):
        crossed, below = paths.crossed_by_every_path(), paths.below(paths.contrasted)
        table.auto = table.auto or _choose_automatically(table, paths)
        # Class activation maps are read at these, before the average, whatever the stride.
        with_positions = [x for x in reversed(table) if x.spatial_axes and x.value in crossed]
        head = above_sliding_average(paths, paths.program.outputs)
        table.top = table.top or next((x for x in with_positions if x.value not in head), None)
        head |= above_sliding_average(paths, _read_by(paths, paths.contrasted))
        last = (x for x in with_positions if x.value in below and x.value not in head)
        table.last = table.last or next(last, None)
    return table


def _names(plan: Plan, every: Sequence[tuple[Program, Op]]) -> Iterator[tuple[str, Value]]:
    """(name, value) of all that has one, the best name first; a name may come several times."""
    for _, op in every:
        named = op.primitive is compat.name_p and not is_marked(op)
        if named and op.outputs[0] in plan.reached:
            yield op.params["name"], op.outputs[0]
    for program in dict.fromkeys([plan.program, *(program for program, _ in every)]):
        yield from _module_values(plan, program)
        yield from _values_of_owners(plan, program)
    for program, op in every:
        label = _operation_label(plan, program, op)
        if label is not None:
            yield "/".join((*program.module_scopes(op), label)), op.outputs[0]


def _layer(name: str, value: Value, plan: Plan, geometry: Geometry) -> Layer:
    steps, spatial = len(value.steps), geometry.spatial(value)
    parts = geometry.parts(value)
    batch = geometry.batch(value)
    if not any(len(output.shape) > 1 for output in plan.program.outputs):
        batch = None  # the outputs are one example's
    elif batch is None and 0 not in spatial:
        batch = 0  # the model has taken the axes apart in a way that is not followed
    return Layer(
        name,
        (*value.steps, *value.shape),
        value.dtype,
        tuple(part.stride for part in parts),
        tuple(part.offset for part in parts),
        plan.facts[value].interval.low,
        tuple(steps + axis for axis in spatial),
        None if batch is None else steps + batch,
        steps,
        geometry.extent(value),
        value,
    )


def input_layers(plan: Plan, geometry: Geometry, explained: Sequence[Value]) -> list[Layer]:
    """The explained input's arrays as layers, named "input"."""
    return [_layer("input", value, plan, geometry) for value in explained]


def target_axis(layer: Layer) -> int:
    """Where an array that is shaped like the layer has its axis of K targets.

    Behind the batch axis; where there is none, behind those of loops' steps.
    """
    return layer.steps if layer.batch_axis is None else layer.batch_axis + 1


def with_targets(layer: Layer, axes: Sequence[int]) -> tuple[int, ...]:
    """Axes of the layer, in an array that has one of K targets, too."""
    return tuple(axis + (axis >= target_axis(layer)) for axis in axes)


def spatial_map(
    array: jax.Array, layer: Layer, reduce: Callable[..., jax.Array] = jnp.sum
) -> jax.Array:
    """What was found at a layer, reduced to its spatial axes.

    Args:
      array: shaped like the layer, or with an axis of K targets (see `target_axis`).
      reduce: takes the array and ``axis``, a tuple: the channels'.

    Returns:
      (N, H, W), or (N, K, H, W), the axes in the order of the input's, wherever the model has
      moved them; for a layer inside a loop with a leading axis of its steps.

    Raises:
      ValueError: the layer has no two spatial axes.
    """
    if len(layer.spatial_axes) != 2:
        raise ValueError(
            f"layer {layer.name!r} of shape {layer.shape} has {len(layer.spatial_axes)} spatial "
            "axes and a map needs two: choose another layer, or read it with excitation_vjp"
        )
    several = array.ndim > len(layer.shape)
    batch = [] if layer.batch_axis is None else [layer.batch_axis]
    ahead: Sequence[int] = [*range(layer.steps), *batch]
    spatial: Sequence[int] = layer.spatial_axes
    targets = []
    if several:
        ahead, spatial = with_targets(layer, ahead), with_targets(layer, spatial)
        targets = [target_axis(layer)]
    kept = [*ahead, *targets, *spatial]
    reduced = tuple(axis for axis in range(array.ndim) if axis not in kept)
    found = compat.kept_apart(reduce(array, axis=reduced))
    left = sorted(kept)
    return jnp.transpose(found, [left.index(axis) for axis in kept])


def _module_values(plan: Plan, program: Program) -> list[tuple[str, Value]]:
    """(path, value) of every call of a module: its last signal that leaves it.

    A call is a run of consecutive operations below one path. One without a signal has no value.
    """
    readers: dict[Value, list[int]] = {}
    for op in program.ops:
        for value in op.inputs:
            readers.setdefault(value, []).append(op.index)
    calls: list[tuple[str, int, int]] = []
    open_since: list[tuple[str, int]] = []
    for op in program.ops:
        scopes = program.module_scopes(op)
        shared = 0
        for scope, (name, _) in zip(scopes, open_since, strict=False):
            if scope != name:
                break
            shared += 1
        for depth in range(len(open_since), shared, -1):
            path = "/".join(name for name, _ in open_since[:depth])
            calls.append((path, open_since[depth - 1][1], op.index))
        open_since = open_since[:shared] + [(name, op.index) for name in scopes[shared:]]
    for depth in range(len(open_since), 0, -1):
        path = "/".join(name for name, _ in open_since[:depth])
        calls.append((path, open_since[depth - 1][1], len(program.ops)))
    outputs = set(program.outputs)

    def leaves(value: Value, end: int) -> bool:
        return value in outputs or any(reader >= end for reader in readers.get(value, ()))

    found = []
    around = "/".join(program.enclosing_scopes)
    for path, start, end in sorted(calls, key=lambda call: (call[1], len(call[0]))):
        if around == path or around.startswith(path + "/"):
            continue  # the module holds this loop or branch, and is left outside of it
        last = None
        for op in program.ops[start:end]:
            for value in op.outputs:
                if value in plan.reached and leaves(value, end):
                    last = value
        if last is not None:
            found.append((path, last))
    return found


def _values_of_owners(plan: Plan, program: Program) -> Iterator[tuple[str, Value]]:
    """(module, value): the last value of each run of operations that consume one's parameters."""
    run: tuple[str, Value] | None = None
    for op in program.ops:
        step = plan.steps.get(op)
        if step is None or program.module_scopes(op):
            continue
        owner = plan.facts.module(op)
        if run is not None and owner != run[0] and not isinstance(step.route, Structure):
            yield run
            run = None
        if owner is not None:
            if run is not None and owner != run[0]:
                yield run  # another module's parameters are joined to it (a class token)
            run = (owner, op.outputs[0])
    if run is not None:
        yield run


def _operation_label(plan: Plan, program: Program, op: Op) -> str | None:
    """A name for the value of an operation that is a layer in itself; None for any other."""
    step = plan.steps.get(op)
    if step is None or op.outputs[0] not in plan.reached:
        return None
    if op.primitive is compat.jit_p:
        return str(op.params["name"])
    if op.call is not None:
        inside = [o for o in _same_call(program, op) if o.call == op.call]
        return op.call if op is inside[-1] else None
    layer = kind(op.primitive) is Kind.AFFINE
    if layer and (program.module_scopes(op) or plan.facts.module(op)):
        return None  # the module that it is has a name, and the same probability
    known = row(op.primitive)
    if known is None or (known.affine and isinstance(step.route, Through)):
        return None  # the sum with a constant, say, is no layer
    return known.label


def _same_call(program: Program, op: Op) -> list[Op]:
    """The run of operations of one jitted function around ``op``."""
    end = op.index
    while end + 1 < len(program.ops) and program.ops[end + 1].call == op.call:
        if program.ops[end + 1].path != op.path:
            break
        end += 1
    return program.ops[op.index : end + 1]


_SPECIAL = {
    "auto": f", at a stride of at most {LARGEST_AUTO_STRIDE} below the first affine operation",
    "last": " below the first affine operation",
    "top": "",
}
#: Names that choose a layer.
RESERVED = tuple(_SPECIAL)


def choose(layers: LayerTable, name: str) -> Layer:
    """The layer of this name, or "auto", "last" or "top".

    Raises:
      ValueError: there is none; the message gives the nearest names.
    """
    if name in _SPECIAL:
        found = {"auto": layers.auto, "last": layers.last, "top": layers.top}[name]
        if found is None:
            raise ValueError(
                f'layer="{name}" looks for a value with spatial axes on every path'
                f"{_SPECIAL[name]}, and this model has none: name a layer (excitation_jax.layers "
                "lists them), or layer=None for the input"
            )
        return found
    for layer in layers:
        if layer.name == name:
            return layer
    if name in layers.aliases:
        return layers.aliases[name]
    names = [layer.name for layer in layers]
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.4)
    near += [n for n in names if name in n and n not in near][:3]
    hint = f"the nearest names are {', '.join(near)}" if near else f"the model has {len(names)}"
    raise ValueError(
        f"no layer named {name!r} on the way from the output to the input; {hint}. "
        "excitation_jax.layers(model_fn, params, x) lists them all."
    )


def _read_by(plan: Plan, ops: Sequence[Op]) -> list[Value]:
    return [value for op in ops for value in plan.steps[op].sources]


def _choose_automatically(layers: LayerTable, plan: Plan) -> Layer | None:
    """The highest activation that is worth a map, at a spatial stride of 16 at most.

    It lies below the first affine operation, on every path (inside a residual branch there is
    only a part of the probability), and, where the model allows, below a second affine
    operation. Right at the first one's input a contrastive map is the difference of two shares
    of the same probability: at the input of a 1x1 convolution it sums to zero over the channels
    of every position, where the score is not pooled. (On the digits model, whose classifier
    follows a pooling, c-MWP hits 96 % at both.)
    Where no activation with a bound is on every path, as in a ConvNeXt's residual stream or behind
    a ViT's patches, an affine value is; so it is where every activation is several times finer (a
    stem's, below blocks without any between them). What only moves an activation (pads it, cuts a
    part out) is none.
    """
    crossed = plan.crossed_by_every_path()
    first = plan.below(plan.contrasted)
    second = plan.below(plan.affine_below(_read_by(plan, plan.contrasted))[0])
    for below in (second, first):
        fitting = [
            layer
            for layer in reversed(layers)
            if layer.value in below
            and layer.value in crossed
            and layer.spatial_axes
            and _step(layer) <= LARGEST_AUTO_STRIDE
            and not _only_moves(layer.value, plan)
        ]
        bounded = [layer for layer in fitting if layer.lower_bound != -np.inf]
        if bounded and _step(bounded[0]) * SEVERAL_TIMES > _step(fitting[0]):
            return bounded[0]
        if fitting:
            return fitting[0]
    return None


def _step(layer: Layer) -> Fraction:
    return max(map(abs, layer.stride))


def _only_moves(value: Value, plan: Plan) -> bool:
    """Whether a value is made of padded, cut or moved elements of one other."""
    origins, pending = set(), [value]
    while pending:
        current = pending.pop()
        op = plan.facts[current].producer
        if op is not None and kind(op.primitive) is Kind.MOVE:
            pending += [operand for operand in op.inputs if plan.facts[operand].active]
        else:
            origins.add(current)
    return value not in origins and len(origins) == 1
