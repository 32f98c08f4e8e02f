"""The calls: `excitation_vjp`, `attention_map`, `layers`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from . import maps
from .errors import UnsupportedPrimitiveError
from .layers import LayerTable
from .prepare import Prepared, prepare
from .rules.ruleset import EXCITATION, RuleSet
from .targets import Target, check_target
from .transform import check_floating

LayerChoice = str | Sequence[str] | None


@functools.partial(jax.tree_util.register_dataclass, data_fields=["outputs", "mwp"], meta_fields=[])
@dataclass(frozen=True)
class Excitation:
    """Result of `excitation_vjp`.

    Attributes:
      outputs: what the model returned.
      mwp: marginal winning probabilities (Eq. 2) of the layer, signed for a contrastive pass;
        shaped like the layer, with an axis K after the batch axis for K targets; a dict by
        name for several layers.
    """

    outputs: Any
    mwp: Any


def excitation_vjp(
    model_fn: Callable[[Any, Any], Any],
    params: Any,
    x: Any,
    target: Target,
    *,
    layer: LayerChoice = None,
    contrastive: bool = False,
    rules: RuleSet = EXCITATION,
) -> Excitation:
    """Marginal winning probabilities of a layer, by one forward and one top-down pass.

    Args:
      model_fn: ``model_fn(params, x) -> outputs``, any JAX function; ``model.apply`` of Flax.
      params: its parameters, any pytree of arrays.
      x: the input, (N, ...), floating-point; or integers that are looked up in a table (tokens in
        an embedding), which get the probability of what was found.
      target: what to explain; see `top_down_signal`.
      layer: None for ``x`` itself, a name that `layers` lists, "auto" (see `attention_map`), or
        a sequence of names, read in the same pass.
      contrastive: c-MWP (Eq. 7-9), the excitation of the target minus that of its negated
        classifier; signed, and close to zero in sum.
      rules: what happens at each operation.

    Returns:
      The outputs, and the probabilities in float32 (float64 in a float64 model) whatever the
      model's precision. A layer inside a loop has a leading axis of the loop's steps. Nothing
      below the layer is differentiated: the cost is one forward pass plus two passes over what
      lies above the layer.

    Raises:
      UnsupportedPrimitiveError: an operation above the layer has no rule.
      ValueError: an unknown layer, a target that does not fit, an empty batch; where values are
        known, also an index out of range, and NaN in the outputs (naming the parameters that
        hold NaN).
      TypeError: ``x`` holds integers that the model uses as numbers, or is complex.

    Inside `jax.jit` it is traced like any JAX code, with ``model_fn``, ``layer``,
    ``contrastive`` and ``rules`` static. Called directly, it compiles itself once for each
    model function and shapes.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import excitation_jax as ej
      >>> def model(w, x):
      ...     return ej.tag(jax.nn.relu(x @ w[0]), "hidden") @ w[1]
      >>> w = (jnp.eye(3), jnp.array([[1.0, 0.0], [3.0, 1.0], [-1.0, 2.0]]))
      >>> e = ej.excitation_vjp(model, w, jnp.array([[2.0, 2.0, 1.0]]), 0, layer="hidden")
      >>> e.mwp.tolist()
      [[0.25, 0.75, 0.0]]
    """
    return _explain(model_fn, params, x, target, layer, contrastive, rules)[0]


def attention_map(
    model_fn: Callable[[Any, Any], Any],
    params: Any,
    x: Any,
    target: Target,
    *,
    layer: str = "auto",
    contrastive: bool = True,
    size: tuple[int, int] | str | None = None,
    rules: RuleSet = EXCITATION,
) -> jax.Array:
    """Attention maps: where the model looks for a target.

    Args:
      model_fn, params, x, target, contrastive, rules: as in `excitation_vjp`.
      layer: one name, or "auto": below the first affine operation, the highest activation whose
        spatial stride is at most 16 (IJCV18, 6.1.3).
      size: None for the layer's own resolution, (height, width), or "input" for that of ``x``;
        resized bicubically.

    Returns:
      (N, H, W), or (N, K, H, W) for K targets: the probabilities summed over channels; a
      contrastive map is cut off at zero. For a layer inside a loop, one such map for each step,
      along a leading axis.

    Raises:
      As `excitation_vjp`, and `ValueError` if the layer has no two spatial axes.
    """
    if not isinstance(layer, str):
        raise TypeError(f'layer must be one name or "auto", not {layer!r}')
    if isinstance(size, str) and size != "input":
        raise ValueError(f'size must be None, (height, width) or "input", not {size!r}')
    result, prepared = _explain(model_fn, params, x, target, layer, contrastive, rules)
    (picked,) = prepared.chosen
    mwp = result.mwp
    extra = mwp.ndim - len(picked.shape)
    if len(picked.spatial_axes) != 2:
        raise ValueError(
            f"layer {picked.name!r} of shape {picked.shape} has {len(picked.spatial_axes)} spatial "
            "axes and a map needs two: choose another layer, or read it with excitation_vjp"
        )
    # The axis of K targets, if there is one, follows the batch axis or stands in its place.
    first = picked.batch_axis
    batched = first not in picked.spatial_axes
    kept = {*range(first + batched), *picked.spatial_axes}
    summed = [axis for axis in range(len(picked.shape)) if axis not in kept]
    shift = [extra if batched or axis != first else 0 for axis in summed]
    attention = mwp.sum(axis=tuple(axis + by for axis, by in zip(summed, shift, strict=True)))
    if contrastive:
        attention = jnp.maximum(attention, 0)
    if size is None:
        return attention
    height, width = prepared.image_size if isinstance(size, str) else size
    return maps.resize(attention, (height, width))


def layers(
    model_fn: Callable[[Any, Any], Any], params: Any, x: Any, *, rules: RuleSet = EXCITATION
) -> LayerTable:
    """Everything that ``layer=`` accepts, from the input to the output; prints as a table.

    Args:
      model_fn, params, x: as in `excitation_vjp`; arrays or `jax.ShapeDtypeStruct`s (nothing is
        computed).

    Returns:
      A list of `Layer`, with name, shape, stride and lower bound.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import excitation_jax as ej
      >>> def model(w, x):
      ...     return ej.tag(jax.nn.relu(x @ w[0]), "hidden") @ w[1]
      >>> w = (jnp.ones((3, 4)), jnp.ones((4, 2)))
      >>> print(ej.layers(model, w, jnp.ones((1, 3))))
      layer    shape  stride  lower bound
      dense    1x4    -       -inf
      relu     1x4    -       0
      hidden   1x4    -       0
      dense#2  1x2    -       -inf
    """
    return prepare(model_fn, (params, x), (), False, rules).layers


def tag(x: jax.Array, name: str) -> jax.Array:
    """Names a value inside a model, so that ``layer=name`` reads it; the identity otherwise.

    Works in any transformation. (It is `jax.ad_checkpoint.checkpoint_name`, so names given
    with that can be read, too.)
    """
    return checkpoint_name(x, name)


def _explain(
    model_fn: Callable, params: Any, x: Any, target: Target, layer: LayerChoice,
    contrastive: bool, rules: RuleSet,
) -> tuple[Excitation, Prepared]:  # fmt: skip
    _check_input(params, x)
    names = (layer,) if isinstance(layer, str) else () if layer is None else tuple(layer)
    if layer is not None and not names:
        raise ValueError("layer names no layer: give a name, names, or None for the input itself")
    try:
        prepared = prepare(model_fn, (params, x), names, contrastive, rules)
    except UnsupportedPrimitiveError:
        for leaf in jax.tree.leaves(x):
            check_floating(leaf, "the input x")  # the likelier reason
        raise
    target = check_target(prepared.out_shape, target)
    function, array = (target, None) if callable(target) else (None, target)
    leaves = jax.tree.leaves((params, x))
    used = jax.tree.leaves((leaves, array, prepared.captured))
    traced = any(isinstance(value, jax.core.Tracer) for value in used)
    run = prepared.run if traced else prepared.compiled
    outputs, found, healthy = run(prepared.captured, leaves, array, function)
    if not traced and not healthy:
        raise ValueError(_where_not_finite(params, x))
    if layer is None:
        mwp = jax.tree.unflatten(jax.tree.structure(x), found)
    else:
        mwp = found[0] if isinstance(layer, str) else dict(zip(names, found, strict=True))
    return Excitation(outputs, mwp), prepared


def _check_input(params: Any, x: Any) -> None:
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


def _where_not_finite(params: Any, x: Any) -> str:
    bad = [
        f"{root}{jax.tree_util.keystr(path)}"
        for root, tree in (("params", params), ("x", x))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if jnp.issubdtype(jnp.result_type(leaf), np.floating) and not jnp.isfinite(leaf).all()
    ]
    if bad:
        return f"the model's output is not finite; NaN or inf is in {', '.join(bad[:8])}"
    return "the model's output is not finite, though params and x are: it overflows inside"
