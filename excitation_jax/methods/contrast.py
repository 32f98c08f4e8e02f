"""The contrast of IJCV18 (Sec. 6.1.3) for any method: a map less that of the negated classifier."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ..explain.targets import Target
from ..maps.combine import normalised
from .passes import Passes

Method = Callable[..., jax.Array]
#: A difference of two maps that is this small a part of them is one of rounding.
ROUNDING = 1e-5


@dataclass(frozen=True)
class _Negated:
    """A model whose scores have the other sign; equal for equal models, for the caches' sake."""

    model_fn: Callable[[Any, Any], Any]

    def __call__(self, params: Any, x: Any) -> Any:
        return _negated(self.model_fn(params, x))


@dataclass(frozen=True)
class _OfNegated:
    """A callable target of the negated model: P(A0) is what it is for the scores themselves."""

    target: Callable[[Any], Any]

    def __call__(self, outputs: Any) -> Any:
        return self.target(_negated(outputs))


def contrastive(method: Method) -> Method:
    """The contrastive form of a method, as IJCV18 (Table 3) tries it on other methods.

    The positive parts of the map and of the map of the negated classifier are divided by their
    sums, subtracted, and cut off at zero. It costs two runs of the method. Of the gradient's
    absolute value nothing is left: both maps are the same, but for rounding, which is cut off, too.

    Args:
      method: a method of this module. What is negated are the scores. Where an activation lies
        between the classifier and the scores (a softmax; SqueezeNet's ReLU before its global
        pooling), DeconvNet's map of the negated ones is zero, and MWP's that of the scores
        themselves: for MWP there is `c_mwp`, which negates the classifier's weights.

    Returns:
      A method of the same signature, with the errors of the method.
    """

    @functools.wraps(method)
    def contrasted(
        model_fn: Callable[[Any, Any], Any], params: Any, x: Any, target: Target, **options: Any
    ) -> jax.Array:
        outputs = jax.eval_shape(model_fn, params, x)
        if not callable(target) and len(getattr(outputs, "shape", ())) > 2:
            # The softmax over a score map's positions is the scores', not their negatives'.
            target, _ = Passes(model_fn, params, x, target).prior_of_scores()
        opposite = _OfNegated(target) if callable(target) else target
        return difference(
            method(model_fn, params, x, target, **options),
            method(_Negated(model_fn), params, x, opposite, **options),
        )

    return contrasted


def difference(maps: jax.Array, opposite: jax.Array) -> jax.Array:
    """What is left of maps less those of the negated classifier, their positive parts' sums 1."""
    first, second = normalised(maps), normalised(opposite)
    return jnp.where(first - second > ROUNDING * (first + second), first - second, 0)


def _negated(outputs: Any) -> Any:
    """The outputs, what is real among them with the other sign."""
    return jax.tree.map(
        lambda array: -array if jnp.issubdtype(array.dtype, jnp.floating) else array, outputs
    )
