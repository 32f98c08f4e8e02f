"""The top-down signal of a score map: a class's confidence at each position."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .targets import Target, check_target, over_positions, spread

WAYS = ("softmax", "sigmoid", "positive")


def confidence_map(target: Target, by: str = "softmax") -> Callable[[Any], jax.Array]:
    """A target for a score map: P(A0) is the class's confidence at each position (IJCV18, 6.1.1).

    The papers start from "the output confidence map of the target category" and do not say how
    scores become confidences. All ways are scaled to sum to 1.

    Args:
      target: an int, or an integer array (N,) or (N, K), as of `top_down_signal`.
      by: "softmax" over positions, what a plain integer gives: most goes to the best positions.
        "sigmoid" of each score, for networks trained with independent labels, as the papers' were:
        all positions that are confident get alike. "positive": the scores' positive parts, and
        nothing where no score is positive.

    Returns:
      A callable target, from outputs (N, h, w, C) (any number of spatial axes) to P(A0),
      (N, [K,] h, w, C).

    Raises:
      ValueError: another ``by``; when called, outputs without positions, and as `top_down_signal`.
      TypeError: when called, a target that is not of integers.

    Example:
      >>> import jax.numpy as jnp
      >>> import excitation_jax as ej
      >>> scores = jnp.array([3.0, -1.0, 1.0]).reshape(1, 1, 3, 1)
      >>> ej.confidence_map(0, by="positive")(scores).ravel().tolist()
      [0.75, 0.0, 0.25]
    """
    if by not in WAYS:
        raise ValueError(f"by must be one of {', '.join(WAYS)}, not {by!r}")

    def confidences(outputs: Any) -> jax.Array:
        checked = check_target(outputs, target)
        if callable(checked) or not jnp.issubdtype(checked.dtype, jnp.integer):
            raise TypeError(f"confidence_map takes classes, integers, and the target is {target!r}")
        if outputs.ndim < 3:
            raise ValueError(
                f"confidence_map needs a score map (N, h, w, C), and the outputs are of shape "
                f"{outputs.shape}: give the class itself as the target"
            )
        classes = jnp.asarray(checked)
        several = classes.ndim == 2
        if classes.ndim == 0:
            classes = jnp.broadcast_to(classes, outputs.shape[:1])
        dtype = jnp.promote_types(outputs.dtype, jnp.float32)
        chosen = jax.nn.one_hot(classes, outputs.shape[-1], dtype=dtype)
        return spread(chosen, several, over_positions(outputs.astype(dtype), by))

    return confidences
