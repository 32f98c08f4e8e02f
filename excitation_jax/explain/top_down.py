"""One forward and one top-down pass of a model function: what all methods are built on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..engine.carriers import mixing_precisions
from ..engine.plan import UnsupportedPrimitiveError, check_floating
from ..program.hints import NONE, Hints
from ..rules.ruleset import EXCITATION, RuleSet
from .layer_table import spatial_map, target_axis, with_targets
from .prepared import Prepared, Start, prepare
from .targets import Target, check_target, trace_target

LayerChoice = str | Sequence[str] | None


@dataclass(frozen=True)
class TopDown:
    """What a pass found.

    Attributes:
      outputs: what the model returned.
      shares: what arrived at each layer that was read, with an axis K after the batch axis for K
        targets.
      values: the layers' own values, where asked for.
      reached: the share of P(A0) that reached each layer; None inside a transformation.
    """

    outputs: Any
    shares: list[jax.Array]
    values: list[jax.Array]
    prepared: Prepared
    reached: list[float] | None

    @property
    def spatial_axes(self) -> tuple[int, ...]:
        """Where the share's spatial axes are."""
        (layer,) = self.prepared.read
        several = self.share.ndim > len(layer.shape)
        return with_targets(layer, layer.spatial_axes) if several else layer.spatial_axes

    def map(self, reduce: Callable[..., jax.Array] = jnp.sum) -> jax.Array:
        """The one layer's share, reduced over channels (see `layer_table.spatial_map`)."""
        return spatial_map(self.one(self.shares), self.prepared.read[0], reduce)

    @property
    def share(self) -> jax.Array:
        """The one layer's."""
        return self.one(self.shares)

    @property
    def value(self) -> jax.Array:
        """The one layer's, with an axis of size 1 where the share has one of K targets."""
        value = self.one(self.values).astype(self.share.dtype)
        several = self.share.ndim > value.ndim
        (layer,) = self.prepared.read
        return jnp.expand_dims(value, target_axis(layer)) if several else value

    def one(self, arrays: list[jax.Array]) -> jax.Array:
        """The only one of several arrays that were to be read."""
        if len(arrays) != 1:
            raise ValueError(f"a map needs one array to look at, and x holds {len(arrays)}")
        return arrays[0]


def top_down(
    model_fn: Callable[[Any, Any], Any],
    params: Any,
    x: Any,
    target: Target,
    layer: LayerChoice,
    *,
    contrastive: bool = False,
    rules: RuleSet = EXCITATION,
    start: Start | None = None,
    keep: bool = False,
    hints: Hints = NONE,
) -> TopDown:
    """One forward and one top-down pass; the arguments are those of `excitation_vjp`, and

    Args:
      start: what the pass starts from in place of P(A0), of an output and P(A0) there: a function
        of a module, since it is a key of the cache of compiled programs.
      keep: also return the layers' values.
      hints: what the user says of the input's range, and of gates.

    Raises:
      As `excitation_vjp`, and ValueError where the value of a layer inside a loop is asked for.
    """
    check_input(params, x)
    for leaf in jax.tree.leaves(x):
        hints.check(leaf)
    names = (layer,) if isinstance(layer, str) else () if layer is None else tuple(layer)
    if layer is not None and not names:
        raise ValueError("layer names no layer: give a name, names, or None for the input itself")
    try:
        prepared = prepare(model_fn, (params, x), names, contrastive, rules, hints=hints)
    except UnsupportedPrimitiveError as error:
        if set(error.primitives) == {lax.convert_element_type_p}:  # integers are used as numbers
            for leaf in jax.tree.leaves(x):
                check_floating(leaf, "the input x")
        raise
    if not any(value.floating or value in prepared.plan.reached for value in prepared.tapped):
        raise TypeError(
            f"the input x is {prepared.tapped[0].dtype}, and {rules.name} sends nothing to "
            "integers: convert x before the model is called, or read a layer above its look-up"
        )
    for read in prepared.chosen if keep else ():
        if read.value not in prepared.program.own_values:
            raise ValueError(
                f"layer {read.name!r} lies inside a loop or branch, and this method needs its "
                "value, which does not leave it: choose another layer"
            )
    target = check_target(prepared.out_shape, target, x)
    traceable = callable(target)
    function, given = trace_target(target, prepared.out_shape) if traceable else (None, target)
    leaves = jax.tree.leaves((params, x))
    used = jax.tree.leaves((leaves, given, prepared.captured))
    traced = any(isinstance(value, jax.core.Tracer) for value in used)
    run = prepared.run if traced else prepared.compiled
    given = given if traced else jax.device_put(given)
    outputs, shares, values, healthy, reached = mixing_precisions(run)(
        prepared.captured, leaves, given, function, start, keep
    )
    if traced:
        return TopDown(outputs, shares, values, prepared, None)
    sound, reached = jax.device_get((healthy, reached))
    if not sound:
        raise ValueError(where_not_finite(params, x))
    return TopDown(outputs, shares, values, prepared, reached.tolist())


def check_input(params: Any, x: Any) -> None:
    """Raises where params or x are no arrays that can be explained."""
    arrays = jax.tree.leaves(x)
    if not arrays:
        raise ValueError("x holds no array to explain")
    for leaf in arrays:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.integer):
            check_floating(leaf, "the input x")
        if 0 in jnp.shape(leaf):
            raise ValueError(f"x has shape {jnp.shape(leaf)}: the batch is empty")
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        try:
            jnp.result_type(leaf)
        except TypeError:
            name = jax.tree_util.keystr(path)
            raise TypeError(
                f"params{name} is a {type(leaf).__name__}, not an array: pass arrays as params and "
                "close over the rest"
            ) from None


def where_not_finite(params: Any, x: Any) -> str:
    """What is wrong with a model whose output is not finite, for an error message."""
    bad = [
        f"{root}{jax.tree_util.keystr(path)}"
        for root, tree in (("params", params), ("x", x))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if jnp.issubdtype(jnp.result_type(leaf), np.floating) and not jnp.isfinite(leaf).all()
    ]
    if bad:
        return f"the model's output is not finite; NaN or inf is in {', '.join(bad[:8])}"
    return (
        "the model's output, or what was sent down from it, is not finite, though params and x "
        "are: it overflows inside"
    )
