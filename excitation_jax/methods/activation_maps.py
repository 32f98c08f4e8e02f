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
from ..program import compat
from ..rules.gradient import GRADIENT
from ..rules.rule import safe_divide
from .gradients import ModelFunction, linear_approximation


def cam(
    model_fn: ModelFunction, params: Any, x: Any, target: Target, *, layer: str | None = "top"
) -> jax.Array:
    """CAM (Zhou et al., CVPR 2016): ``sum_c w_c A_c``, signed, for a head that is linear.

    The head is all that lies between the layer and the scores: global average pooling and a dense
    layer, say. The map then sums to the target's score less the biases.

    Args:
      model_fn, params, x, target: as in `gradient`. The model returns scores, not probabilities.
      layer: as in `excitation_jax.attention_map`; "top" is what global pooling reads.

    Returns:
      (N, H, W), or (N, K, H, W) for K targets, at the layer's own resolution.

    Raises:
      As `gradient`; ValueError if an operation between the layer and the scores is not linear, by
      name and source line.
    """
    names = () if layer is None else (layer,)
    _require_linear_head(prepare(model_fn, (params, x), names, False, GRADIENT))
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


#: Linear in all floating-point operands together, where what selects and indexes is constant.
_LINEAR = frozenset(
    [
        lax.add_p, lax.sub_p, lax.neg_p, lax.reduce_sum_p, lax.reduce_window_sum_p, lax.cumsum_p,
        lax.reshape_p, lax.transpose_p, lax.squeeze_p, lax.broadcast_in_dim_p, lax.slice_p,
        lax.pad_p, lax.concatenate_p, lax.rev_p, lax.convert_element_type_p, lax.copy_p,
        lax.reduce_precision_p, lax.dynamic_slice_p, lax.dynamic_update_slice_p, lax.gather_p,
        lax.scatter_p, lax.scatter_add_p, lax.select_n_p, compat.name_p,
        compat.sharding_constraint_p,
        *compat.existing("split", "tile", "stack", "unstack", "optimization_barrier"),
    ]
)  # fmt: skip
#: Linear in one operand, where the others are constants.
_LINEAR_IN_ONE = frozenset([*compat.LAYERS, lax.mul_p, lax.div_p])


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
        linear = op.primitive in _LINEAR or (op.primitive in _LINEAR_IN_ONE and alone)
        if not (linear and numbers):
            raise ValueError(
                f"CAM needs scores that are linear in layer {layer.name!r}, and {op.primitive.name}"
                f" in {plan.path(program, op) or 'the model'} at {op.source} is not: read a layer "
                "above it, let the model return scores, or use grad_cam"
            )
        above.update(op.outputs)
