"""The Feedback network (Cao et al., "Look and think twice", ICCV 2015)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..engine.carriers import bind, carrier_dtype
from ..explain.layer_table import spatial_map
from ..explain.prepared import Prepared, prepare
from ..explain.targets import Target, signal
from ..program.roles import rectified
from ..program.trace import Program, Value, read_value
from ..rules.gradient import GRADIENT
from .gradients import ModelFunction, largest
from .passes import Passes, check_one_array, poisoned


def feedback(
    model_fn: ModelFunction,
    params: Any,
    x: Any,
    target: Target,
    *,
    layer: str | None = None,
    iterations: int = 10,
) -> jax.Array:
    """The slope of the target's score in a network whose ReLUs are gated for that target.

    Every ReLU neuron has a binary gate, open at first. Each iteration runs the gated network and
    closes the gates of the neurons whose slope dS/dy is not positive; gates stay closed.

    Args:
      model_fn, params, x, target: as in `gradient`; without a layer, x is one array.
      layer: None for the input, or as in `excitation_jax.attention_map`.
      iterations: passes that close gates; the paper's networks settle after 10 to 50.

    Returns:
      (N, H, W), or (N, K, H, W) for K targets: the largest absolute slope over the channels.

    Raises:
      As `gradient`; ValueError where the model has no ReLU, or one inside a loop or branch.
    """
    if layer is None:
        check_one_array(x)
    if iterations < 1:
        raise ValueError(f"needs iterations >= 1, got {iterations}")
    prepared, passes = _prepared(model_fn, params, x, layer), Passes(model_fn, params, x, target)
    gated = _gated(prepared)
    starts = passes.checked(passes.run(_starts, layer=layer))
    several = starts[0].ndim > len(prepared.program.outputs[0].shape)
    axis = prepared.target_axis if several else None
    open_gates = [jnp.ones(value.shape, bool) for value in gated]
    if axis is not None:
        count = starts[0].shape[axis]
        open_gates = [jnp.stack([gate] * count, axis) for gate in open_gates]
    options = {"layer": layer, "axis": axis}
    gates = passes.iterate(_close, open_gates, jnp.arange(iterations), starts, **options)
    return spatial_map(passes.run(_slope, gates, starts, **options), prepared.read[0], largest)


def _prepared(model_fn: ModelFunction, params: Any, x: Any, layer: str | None) -> Prepared:
    return prepare(model_fn, (params, x), () if layer is None else (layer,), False, GRADIENT)


def _starts(
    model_fn: ModelFunction, params: Any, x: Any, target: Target, layer: str | None
) -> list[jax.Array]:
    """P(A0) for each output, of the network as it is."""
    outputs = model_fn(params, x)
    prepared = _prepared(model_fn, params, x, layer)
    return poisoned(outputs, prepared.complete(*signal(outputs, target)))


def _close(
    model_fn: ModelFunction,
    params: Any,
    x: Any,
    target: Target,
    gates: list[jax.Array],
    iteration: jax.Array,
    starts: list[jax.Array],
    layer: str | None,
    axis: int | None,
) -> list[jax.Array]:
    """The gates, those closed where the slope is not positive."""
    prepared = _prepared(model_fn, params, x, layer)
    gated = _gated(prepared)

    def close(gates: list[jax.Array], starts: list[jax.Array]) -> list[jax.Array]:
        found = _slopes(prepared, (params, x), gated, gates, gated, starts)
        return [gate & (slope > 0) for gate, slope in zip(gates, found, strict=True)]

    return _over_targets(close, axis)(gates, starts)


def _slope(
    model_fn: ModelFunction,
    params: Any,
    x: Any,
    target: Target,
    gates: list[jax.Array],
    starts: list[jax.Array],
    layer: str | None,
    axis: int | None,
) -> jax.Array:
    """At the layer that is read."""
    prepared = _prepared(model_fn, params, x, layer)

    def slope(gates: list[jax.Array], starts: list[jax.Array]) -> jax.Array:
        read = [prepared.read[0].value]
        return _slopes(prepared, (params, x), _gated(prepared), gates, read, starts)[0]

    return _over_targets(slope, axis)(gates, starts)


def _over_targets(function: Callable, axis: int | None) -> Callable:
    return function if axis is None else jax.vmap(function, axis, axis)


def _slopes(
    prepared: Prepared,
    arguments: Any,
    gated: list[Value],
    gates: list[jax.Array],
    values: list[Value],
    starts: list[jax.Array],
) -> list[jax.Array]:
    """Of the target's score in the gated network, at some values."""
    gate, program = dict(zip(gated, gates, strict=True)), prepared.program

    def score(taps: list[jax.Array]) -> jax.Array:
        tap = dict(zip(values, taps, strict=True))

        def change(value: Value, array: jax.Array) -> jax.Array:
            if value in gate:  # a silent unit has no slope, as that of `jax.nn.relu`
                array = array * (gate[value] & (array > 0)).astype(array.dtype)
            return array + tap[value].astype(array.dtype) if value in tap else array

        leaves = jax.tree.leaves(arguments)
        outputs = _evaluate_changed(program, prepared.captured, leaves, change)
        every = zip(outputs, starts, program.outputs, strict=True)
        return jnp.stack([(o * p).sum() for o, p, value in every if value.floating]).sum()

    return jax.grad(score)([jnp.zeros(value.shape, carrier_dtype(value)) for value in values])


def _evaluate_changed(
    program: Program,
    captured: Sequence[Any],
    leaves: Sequence[Any],
    change: Callable[[Value, jax.Array], jax.Array],
) -> list[Any]:
    """The outputs of a program, some of whose own values are changed on the way.

    Args:
      captured, leaves: as in `evaluate`.
      change: takes each value that is computed, or an input, and what it is.
    """
    env = dict(zip((*program.captured, *program.inputs), (*captured, *leaves), strict=True))
    env.update(program.constants)
    env.update({value: change(value, env[value]) for value in program.inputs})
    for op in program.ops:
        bind(op, env)
        env.update({value: change(value, env[value]) for value in op.outputs})
    return [read_value(env, value) for value in program.outputs]


def _gated(prepared: Prepared) -> list[Value]:
    """The outputs of the ReLUs."""
    found, program, facts = [], prepared.program, prepared.plan.facts
    for holder, op in program.all_ops():
        if rectified(op, facts) is not None:
            if holder is not program:
                raise ValueError(
                    f"the ReLU at {op.source} lies inside a loop or branch, where it cannot be "
                    "gated: the Feedback network has no form of this model"
                )
            found.append(op.outputs[0])
    if not found:
        raise ValueError("the Feedback network gates ReLUs, and this model has none")
    if prepared.read[0].value not in program.own_values:
        raise ValueError(f"layer {prepared.read[0].name!r} lies inside a loop or branch")
    return found
