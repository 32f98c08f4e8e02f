"""The contrast of IJCV18 (Sec. 4.2) for any method: a map less that of the negated classifier."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ..combine import normalised
from ..targets import Target, top_down_signal

Method = Callable[..., jax.Array]
#: A difference of two maps that is this small a part of them is one of rounding.
ROUNDING = 1e-5


@dataclass(frozen=True)
class _Negated:
    """A model whose scores have the other sign; equal for equal models, for the caches' sake."""

    model_fn: Callable[[Any, Any], Any]

    def __call__(self, params: Any, x: Any) -> Any:
        return jax.tree.map(jnp.negative, self.model_fn(params, x))


def contrastive(method: Method) -> Method:
    """The contrastive form of a method, as IJCV18 (Table 3) tries it on other methods.

    The positive parts of the map and of the map of the negated classifier are divided by their
    sums, subtracted, and cut off at zero. It costs two runs of the method. Of the gradient's
    absolute value nothing is left: both maps are the same, but for rounding, which is cut off, too.

    Args:
      method: a method of this module. The model must return scores: behind a softmax or sigmoid,
        Excitation Backprop does not see the sign of what is negated.

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
            target = top_down_signal(model_fn(params, x), target)
        both = [
            normalised(method(function, params, x, target, **options))
            for function in (model_fn, _Negated(model_fn))
        ]
        difference, total = both[0] - both[1], both[0] + both[1]
        return jnp.where(difference > ROUNDING * total, difference, 0)

    return contrasted
