"""The calls: `excitation_vjp`, `attention_map`, `layers`."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from .. import maps
from ..program.gates import GATE
from ..program.hints import Bounds, hints
from ..rules.ruleset import EXCITATION, RuleSet
from .layer import LayerTable
from .layer_table import RESERVED
from .prepared import prepare
from .targets import Target
from .top_down import LayerChoice, top_down


@functools.partial(jax.tree_util.register_dataclass, data_fields=["outputs", "mwp"], meta_fields=[])
@dataclass(frozen=True)
class Excitation:
    """Result of `excitation_vjp`.

    Attributes:
      outputs: what the model returned.
      mwp: marginal winning probabilities (Eq. 1) of the layer, signed for a contrastive pass;
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
    x_bounds: Bounds | None = None,
    gates: str | Sequence[str] = (),
) -> Excitation:
    """Marginal winning probabilities of a layer, by one forward and one top-down pass.

    Args:
      model_fn: ``model_fn(params, x) -> outputs``, any JAX function; ``model.apply`` of Flax.
      params: its parameters, any pytree of arrays.
      x: the input, (N, ...), floating-point; or integers that are looked up in a table (tokens in
        an embedding), which get the probability of what was found.
      target: what to explain; see `top_down_signal`.
      layer: None for ``x`` itself, a name that `layers` lists, "auto", "last" or "top"
        (see `attention_map`), or a sequence of names, read in the same pass.
      contrastive: c-MWP (Eq. 7-9), the excitation of the target minus that of its negated
        classifier; signed, and close to zero in sum.
      rules: what happens at each operation.
      x_bounds: (low, high), the range of ``x`` as the model gets it: numbers, or arrays that
        broadcast to it (one for each channel). The lower bound lambda of Eq. 20 is known then, and
        of a normalised photograph or of signed features the negative values, too, get their share.
      gates: patterns of module paths or of tags (``"router/*"``), whose values only scale what they
        are multiplied with, where two values that depend on the input are (R7); see `gate`.

    Returns:
      The outputs, and the probabilities in float32 (float64 in a float64 model) whatever the
      model's precision. A layer inside a loop has a leading axis of the loop's steps. Nothing
      below the layer is differentiated: the cost is one forward pass plus two passes over what
      lies above the layer.

    Raises:
      UnsupportedPrimitiveError: an operation above the layer has no rule.
      ValueError: an unknown layer, a target that does not fit, an empty batch, x_bounds that do not
        fit, a pattern in ``gates`` that matches nothing; where values are
        known, also an index out of range, and NaN in the outputs (naming the parameters that
        hold NaN).
      TypeError: ``x`` holds integers that the model uses as numbers, or is complex.

    Inside `jax.jit` it is traced like any JAX code, with ``model_fn``, ``layer``,
    ``contrastive`` and ``rules`` static. Called directly, it traces ``model_fn`` (and a callable
    target) at each call, so that a model which was trained on in between, or a closure over other
    arrays, is explained as it is now; what was compiled for an equal program is used again. In a
    loop over batches, ``jax.jit`` spares the tracing.

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
    found = top_down(
        model_fn, params, x, target, layer, contrastive=contrastive, rules=rules,
        hints=hints(x_bounds, gates),
    )  # fmt: skip
    if layer is None:
        mwp = jax.tree.unflatten(jax.tree.structure(x), found.shares)
    elif isinstance(layer, str):
        (mwp,) = found.shares
    else:
        mwp = dict(zip(layer, found.shares, strict=True))
    return Excitation(found.outputs, mwp)


def attention_map(
    model_fn: Callable[[Any, Any], Any],
    params: Any,
    x: Any,
    target: Target,
    *,
    layer: str | None = "auto",
    contrastive: bool = True,
    size: tuple[int, int] | str | None = None,
    aligned: bool = True,
    rules: RuleSet = EXCITATION,
    x_bounds: Bounds | None = None,
    gates: str | Sequence[str] = (),
) -> jax.Array:
    """Attention maps: where the model looks for a target.

    Args:
      model_fn, params, x, target, contrastive, rules, x_bounds, gates: as in `excitation_vjp`.
      layer: one name; "auto": below the first affine operation, the highest activation whose
        spatial stride is at most 16 (IJCV18, 6.1.3); "last": the highest value with spatial axes
        there, whatever its stride; "top": the highest one of all; or None for ``x`` itself.
      size: None for the layer's own resolution, (height, width), or "input" for that of ``x``;
        resized bicubically (`excitation_jax.maps.resize`).
      aligned: paint each cell where it looked, at the centre of its receptive field
        (`Layer.offset`), also on a picture of another size than ``x``. Where that is not known
        (`Layer.grid` is None), and for False, the map is a plain tile, whose cells divide the
        picture evenly: in a ResNet or MobileNet half a stride beside it.

    Returns:
      (N, H, W), or (N, K, H, W) for K targets: the probabilities summed over channels; a
      contrastive map is cut off at zero. For a layer inside a loop, one such map for each step,
      along a leading axis.

    Raises:
      As `excitation_vjp`, and `ValueError` if the layer has no two spatial axes.

    Warns:
      UserWarning: less than half of the probability reaches the layer (of an MWP, outside of
        transformations).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import excitation_jax as ej
      >>> def model(w, x):  # looks at every ninth pixel of a row, and of a column
      ...     seen = jax.nn.relu(jax.lax.conv(x, w[0], (9, 9), "VALID"))
      ...     return seen.mean((2, 3)) @ w[1]
      >>> w = (jnp.ones((1, 1, 1, 1)), jnp.eye(1))
      >>> x = jnp.zeros((1, 1, 36, 36)).at[:, :, 9, 18].set(1.0)
      >>> def peak(**options):
      ...     found = ej.attention_map(model, w, x, 0, contrastive=False, **options)
      ...     return [int(place[0]) for place in ej.maps.point(found)]
      >>> peak(), peak(size="input"), peak(size="input", aligned=False)
      ([1, 2], [9, 18], [13, 22])
    """
    if layer is not None and not isinstance(layer, str):
        raise TypeError(f'layer must be one name, "auto", "last", "top" or None, not {layer!r}')
    if isinstance(size, str) and size != "input":
        raise ValueError(f'size must be None, (height, width) or "input", not {size!r}')
    found = top_down(
        model_fn, params, x, target, layer, contrastive=contrastive, rules=rules,
        hints=hints(x_bounds, gates),
    )  # fmt: skip
    attention = found.map()
    if contrastive:
        attention = jnp.maximum(attention, 0)
    elif found.reached is not None and (lost := what_is_lost(found.reached[0], layer)):
        advice = "explain_rules(model_fn, params, x, target=...) says where"
        warnings.warn(f"{lost}; {advice}, EXCITATION_CONSERVING hands it on evenly", stacklevel=2)
    if size is None:
        return attention
    height, width = found.prepared.image_size if isinstance(size, str) else size
    grid = found.prepared.read[0].grid if aligned else None
    return maps.resize(attention, (height, width), grid)


def what_is_lost(reached: float, layer: str | None) -> str | None:
    """One line, where less than half of the probability reaches a layer."""
    if not 0 <= reached < 0.5:
        return None
    where = "the input" if layer is None else f"the layer {layer!r}"
    return (
        f"{reached:.1%} of the probability reaches {where}: the rest ends at units that nothing "
        "excites"
    )


def layers(
    model_fn: Callable[[Any, Any], Any],
    params: Any,
    x: Any,
    *,
    rules: RuleSet = EXCITATION,
    x_bounds: Bounds | None = None,
    gates: str | Sequence[str] = (),
) -> LayerTable:
    """Everything that ``layer=`` accepts, from the input to the output; prints as a table.

    Args:
      model_fn, params, x: as in `excitation_vjp`; arrays or `jax.ShapeDtypeStruct`s (nothing is
        computed).
      x_bounds, gates: as in `excitation_vjp`.

    Returns:
      A list of `Layer`, with name, shape, stride, offset and lower bound.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import excitation_jax as ej
      >>> def model(w, x):
      ...     return ej.tag(jax.nn.relu(x @ w[0]), "hidden") @ w[1]
      >>> w = (jnp.ones((3, 4)), jnp.ones((4, 2)))
      >>> print(ej.layers(model, w, jnp.ones((1, 3))))
      layer    shape  stride  offset  lower bound
      dense    1x4    -       -       -inf
      relu     1x4    -       -       0
      hidden   1x4    -       -       0
      dense#2  1x2    -       -       -inf
    """
    said = hints(x_bounds, gates)
    return prepare(model_fn, (params, x), (), False, rules, hints=said).layers


def tag(x: jax.Array, name: str) -> jax.Array:
    """Names a value inside a model, so that ``layer=name`` reads it; the identity otherwise.

    Works in any transformation. (It is `jax.ad_checkpoint.checkpoint_name`, so names given
    with that can be read, too.)

    Raises:
      ValueError: the name is one of those that choose a layer ("auto", "last", "top").
    """
    if name == GATE:
        raise ValueError(f'"{name}" is no name for a value: use excitation_jax.gate')
    if name in RESERVED:
        raise ValueError(
            f'"{name}" is no name for a value: layer="{name}" lets the library choose a layer'
        )
    return checkpoint_name(x, name)


def gate(x: jax.Array) -> jax.Array:
    """Marks a value inside a model as a gate; the identity otherwise.

    A gate only scales what it is multiplied with: that gets all probability (R7). Which of two
    factors is the gate is mostly recognised (a sigmoid, attention, a statistic); where neither is
    one for sure that is an error, which asks for this mark. What is made of gates alone
    (``1 - gate``) is a gate, too. ``gates=`` of `excitation_vjp` marks from outside.

    Works in any transformation.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import excitation_jax as ej
      >>> def model(w, x):
      ...     return (x @ w[0]) * ej.gate(x @ w[1])
      >>> w = (jnp.array([[1.0], [3.0]]), jnp.array([[2.0], [0.0]]))
      >>> ej.excitation_vjp(model, w, jnp.ones((1, 2)), 0).mwp.tolist()
      [[0.25, 0.75]]
    """
    return checkpoint_name(x, GATE)
