"""Class activation maps: channels of a layer, weighted by what they mean for the target."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..explain.layer_table import spatial_map
from ..explain.prepared import Prepared, prepare
from ..explain.targets import Target
from ..explain.top_down import TopDown, top_down
from ..program.primitives import Kind, Missing, Primitive, Row, row
from ..rules.arithmetic import safe_divide
from ..rules.gradient import GRADIENT
from .gradients import ModelFunction, linear_approximation


def cam(
    model_fn: ModelFunction, params: Any, x: Any, target: Target, *, layer: str | None = "top"
) -> jax.Array:
    """CAM (Zhou et al., CVPR 2016): ``sum_c w_c A_c``, signed, for a head that is linear.

    The head is all that lies between the layer and the scores: global average pooling and a dense
    layer, say. The map then sums to the target's score less the biases.

    Of a score map (a fully convolutional network), w_c is the slope of P(A0) summed over positions:
    the class's weights, wherever P(A0) lies, as of a head that is alike at all positions. The map
    then is the classifier's score at each position of the features, less the biases (IJCV18,
    Eq. 16), also where an average slides over them.

    Args:
      model_fn, params, x, target: as in `gradient`. The model returns scores, not probabilities.
      layer: as in `excitation_jax.attention_map`; "top" is what global pooling reads, or an
        average that slides; without any, the score map itself.

    Returns:
      (N, H, W), or (N, K, H, W) for K targets, at the layer's own resolution.

    Raises:
      As `gradient`; ValueError if an operation between the layer and the scores is not linear, by
      name and source line.
    """
    names = () if layer is None else (layer,)
    prepared = prepare(model_fn, (params, x), names, False, GRADIENT)
    _require_linear_head(prepared)
    if len(getattr(prepared.out_shape, "shape", ())) > 2:
        found = _activations(model_fn, params, x, target, layer)
        weights = found.share.sum(found.spatial_axes, keepdims=True)
        return spatial_map(weights * found.value, found.prepared.read[0])
    return linear_approximation(model_fn, params, x, target, layer=layer)


def grad_cam(
    model_fn: ModelFunction, params: Any, x: Any, target: Target, *, layer: str | None = "last"
) -> jax.Array:
    """Grad-CAM (Selvaraju et al., ICCV 2017): ``max(0, sum_c A_c mean_xy(dS/dA_c))``.

    Arguments, result and errors are those of `gradient`; layer "last" is the highest value with
    spatial axes below the classifier.
    """
    found = _activations(model_fn, params, x, target, layer)
    weights = found.share.mean(found.spatial_axes, keepdims=True)
    return _weighted(found, weights)


def grad_cam_plus_plus(
    model_fn: ModelFunction, params: Any, x: Any, target: Target, *, layer: str | None = "last"
) -> jax.Array:
    """Grad-CAM++ (Chattopadhyay et al., WACV 2018), of the score's exponential (their Eq. 19).

    ``alpha = g^2 / (2 g^2 + g^3 sum_xy A)``, ``w_c = sum_xy alpha max(0, g)``, map
    ``max(0, sum_c w_c A_c)``. Arguments, result and errors are those of `grad_cam`.
    """
    found = _activations(model_fn, params, x, target, layer)
    slope, axes = found.share, found.spatial_axes
    total = found.value.sum(axes, keepdims=True)
    alpha = safe_divide(slope**2, 2 * slope**2 + total * slope**3)
    return _weighted(found, (alpha * jnp.maximum(slope, 0)).sum(axes, keepdims=True))


def layer_cam(
    model_fn: ModelFunction, params: Any, x: Any, target: Target, *, layer: str | None = "last"
) -> jax.Array:
    """LayerCAM (Jiang et al., TIP 2021): ``max(0, sum_c A_c max(0, dS/dA_c))``.

    Each position has its own weight, so that it can be read far below the classifier. Arguments,
    result and errors are those of `grad_cam`.
    """
    found = _activations(model_fn, params, x, target, layer)
    return _weighted(found, jnp.maximum(found.share, 0))


def _activations(
    model_fn: ModelFunction, params: Any, x: Any, target: Target, layer: str | None
) -> TopDown:
    return top_down(model_fn, params, x, target, layer, rules=GRADIENT, keep=True)


def _weighted(found: TopDown, weights: jax.Array) -> jax.Array:
    return jnp.maximum(spatial_map(weights * found.value, found.prepared.read[0]), 0)


def _require_linear_head(prepared: Prepared) -> None:
    program, plan = prepared.program, prepared.plan
    (layer,) = prepared.read
    above = {layer.value}
    for op in program.ops:
        read = [value for value in op.inputs if value in above]
        if not read or not any(value in plan.reached for value in op.outputs):
            continue
        active = [i for i, value in enumerate(op.inputs) if plan.facts[value].active]
        alone = len(active) == 1 and (op.primitive is not lax.div_p or active == [0])
        numbers = all(op.inputs[i].floating for i in active)
        linear = _is_linear(op.primitive, alone)
        if not (linear and numbers):
            raise ValueError(
                f"CAM needs scores that are linear in layer {layer.name!r}, and {op.primitive.name}"
                f" in {plan.path(program, op) or 'the model'} at {op.source} is not: read a layer "
                "above it, let the model return scores, or use grad_cam"
            )
        above.update(op.outputs)


def _is_linear(primitive: Primitive, alone: bool) -> bool:
    """Whether an operation is linear in what depends on the input, where what it reads is constant.

    Args:
      alone: only one of its operands depends on the input, and that is no divisor.
    """
    known = row(primitive)
    if known is None or primitive is lax.stop_gradient_p:
        return False
    if known.kind in (Kind.MOVE, Kind.SUM, Kind.IDENTITY):
        return True
    scales = known.kind is Kind.AFFINE or 0 in _slopes(known)
    return alone if scales else known.affine


def _slopes(known: Row) -> tuple[int | None, ...]:
    return () if isinstance(known.slope, Missing) else known.slope
