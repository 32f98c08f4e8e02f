"""The Feedback network (Cao et al., "Look and think twice", ICCV 2015)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..interpret import evaluate_changed
from ..layers import spatial_map
from ..prepare import Prepared, prepare
from ..program import Value
from ..rules.gradient import GRADIENT
from ..targets import Target, signal
from .compiled import compiled
from .gradients import ModelFunction, largest


def feedback(
    model_fn: ModelFunction, params: Any, x: Any, target: Target, *,
    layer: str | None = None, iterations: int = 10,
) -> jax.Array:  # fmt: skip
    """The slope of the target's score in a network whose ReLUs are gated for that target.

    Every ReLU neuron has a binary gate, open at first. Each iteration runs the gated network and
    closes the gates of the neurons whose slope dS/dy is not positive; gates stay closed.

    Args:
      model_fn, params, x, target: as in `gradient`.
      layer: None for the input, or as in `excitation_jax.attention_map`.
      iterations: passes that close gates; the paper's networks settle after 10 to 50.

    Returns:
      (N, H, W), or (N, K, H, W) for K targets: the largest absolute slope over the channels.

    Raises:
      As `gradient`; ValueError where the model has no ReLU, or one inside a loop or branch.
    """
    if iterations < 1:
        raise ValueError(f"needs iterations >= 1, got {iterations}")
    return compiled(_feedback, model_fn, params, x, target, layer=layer, iterations=iterations)


def _feedback(
    model_fn: ModelFunction, params: Any, x: Any, target: Target, layer: str | None,
    iterations: int,
) -> jax.Array:  # fmt: skip
    names = () if layer is None else (layer,)
    prepared = prepare(model_fn, (params, x), names, False, GRADIENT)
    rectified, (read,) = _rectified(prepared), prepared.read
    leaves = jax.tree.leaves((params, x))

    def outputs(gates: list[jax.Array], tapped: list[Value], taps: list[jax.Array]) -> list[Any]:
        gate, tap = (dict(zip(*pair, strict=True)) for pair in ((rectified, gates), (tapped, taps)))

        def change(value: Value, array: jax.Array) -> jax.Array:
            array = array * gate[value].astype(array.dtype) if value in gate else array
            return array + tap[value] if value in tap else array

        return evaluate_changed(prepared.program, prepared.captured, leaves, change)

    def slopes(
        gates: list[jax.Array], values: list[Value], starts: list[jax.Array]
    ) -> list[jax.Array]:
        """Of the target's score, at some values of the gated network."""

        def score(taps: list[jax.Array]) -> jax.Array:
            every = zip(outputs(gates, values, taps), starts, prepared.program.outputs, strict=True)
            parts = [(o.astype(p.dtype) * p).sum() for o, p, value in every if value.floating]
            return jnp.stack(parts).sum()

        return jax.grad(score)([jnp.zeros(value.shape, value.dtype) for value in values])

    def explain(starts: list[jax.Array]) -> jax.Array:
        def close(gates: list[jax.Array], _: None) -> tuple[list[jax.Array], None]:
            found = slopes(gates, rectified, starts)
            return [gate & (slope > 0) for gate, slope in zip(gates, found, strict=True)], None

        gates, _ = lax.scan(close, open_gates, length=iterations)
        return slopes(gates, [read.value], starts)[0]

    open_gates = [jnp.ones(value.shape, bool) for value in rectified]
    flat = outputs(open_gates, [], [])
    tree = jax.tree.structure(prepared.out_shape)
    prior, several = signal(jax.tree.unflatten(tree, flat), target)
    starts = prepared.complete(prior, several)
    if several:
        axis = prepared.target_axis
        explain = jax.vmap(explain, in_axes=axis, out_axes=axis)
    return spatial_map(explain(starts), read, largest)


def _rectified(prepared: Prepared) -> list[Value]:
    """The outputs of the ReLUs: maxima of one value with a constant."""
    found, program, facts = [], prepared.program, prepared.plan.facts
    for holder, op in program.all_ops():
        active = sum(facts[value].active for value in op.inputs)
        if op.primitive is lax.max_p and active == 1:
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
