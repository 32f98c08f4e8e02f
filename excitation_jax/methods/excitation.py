"""MWP and c-MWP, and the variants that IJCV18 analyses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from ..explain.calls import attention_map
from ..explain.targets import Target
from ..explain.top_down import top_down
from ..maps.combine import normalised
from ..program.hints import Bounds
from ..rules.ruleset import EXCITATION, RuleSet, without_norm
from .contrast import difference
from .gradients import ModelFunction


def mwp(
    model_fn: ModelFunction,
    params: Any,
    x: Any,
    target: Target,
    *,
    layer: str | None = "auto",
    rules: RuleSet = EXCITATION,
    x_bounds: Bounds | None = None,
    gates: str | Sequence[str] = (),
) -> jax.Array:
    """Marginal winning probabilities (Eq. 1), summed over channels.

    Arguments, result and errors are those of `excitation_jax.attention_map`.
    """
    return attention_map(
        model_fn, params, x, target, layer=layer, contrastive=False, rules=rules,
        x_bounds=x_bounds, gates=gates,
    )  # fmt: skip


def c_mwp(
    model_fn: ModelFunction,
    params: Any,
    x: Any,
    target: Target,
    *,
    layer: str | None = "auto",
    rules: RuleSet = EXCITATION,
    x_bounds: Bounds | None = None,
    gates: str | Sequence[str] = (),
) -> jax.Array:
    """Contrastive MWP (Eq. 7-9), summed over channels and cut off at zero.

    Arguments, result and errors are those of `excitation_jax.attention_map`.
    """
    return attention_map(
        model_fn, params, x, target, layer=layer, rules=rules, x_bounds=x_bounds, gates=gates
    )


def c_mwp_star(
    model_fn: ModelFunction,
    params: Any,
    x: Any,
    target: Target,
    *,
    layer: str | None = "last",
    rules: RuleSet = EXCITATION,
) -> jax.Array:
    """c-MWP* (IJCV18, Table 2): c-MWP at the layer before global pooling, where CAM is read.

    There the two are the same map but for Z+ and Z- (Eq. 14, 15): CAM is ``sum_c A_c (w+ - w-)``
    (Eq. 16), c-MWP* is ``sum_c A_c (Z+ w+ - Z- w-)`` (Eq. 13). Of a fully convolutional network,
    so in each window of an average that slides, by P(A0) there. Without an average it is zero
    wherever a position has both, and says little.

    Arguments, result and errors are those of `c_mwp`; layer "last" lies before the average.

    >>> import jax, jax.numpy as jnp
    >>> from excitation_jax import methods
    >>> def model(w, x):
    ...     return jax.nn.relu(jax.lax.conv(x, w[0], (1, 1), "VALID")).mean((2, 3)) @ w[1]
    >>> w = (jnp.eye(2)[..., None, None], jnp.array([[1.0], [-1.0]]))
    >>> x = jnp.array([[[[2.0, 6.0]], [[2.0, 2.0]]]])  # Z+ is 1/8, Z- is 1/4
    >>> print(methods.c_mwp_star(model, w, x, 0))
    [[[0.   0.25]]]
    >>> print(methods.cam(model, w, x, 0))  # a half of (2, 6) - (2, 2)
    [[[0. 2.]]]
    """
    return c_mwp(model_fn, params, x, target, layer=layer, rules=rules)


def c_mwp_without_norm(
    model_fn: ModelFunction,
    params: Any,
    x: Any,
    target: Target,
    *,
    layer: str | None = "auto",
    rules: RuleSet = EXCITATION,
) -> jax.Array:
    """c-MWP "w/o norm" (IJCV18, 6.1.3, Table 3): the contrastive signal without Z of Eq. 6.

    At the top layer ``P h (w+ - w-)``, and at every affine operation below, pooling too,
    ``P h w+``: a product of activations and weights along each path, where c-MWP has their shares.
    The paper's network there has no sums; of a residual sum Eq. 19 is kept (see
    `excitation_jax.rules.without_norm`). It shows what Z is for: use `c_mwp`.

    Arguments and errors are those of `c_mwp`, and ValueError where the products leave float32:
    they start at 2**-64, and may grow by 6e57. (At the pixels of SqueezeNet, whose input is 0 to
    255, it is 1e38 or more, and below 1e32 in the other networks of the registry with weights.)

    Returns:
      Maps (N, [K,] H, W), cut off at zero and scaled so that each sums to one: without Z they
      have no unit.

    >>> import jax, jax.numpy as jnp
    >>> from excitation_jax import methods
    >>> def model(w, x):
    ...     return jax.nn.relu(jax.lax.conv(x, w[0], (1, 1), "VALID")).mean((2, 3)) @ w[1]
    >>> w = (jnp.eye(2)[..., None, None], jnp.array([[1.0], [-1.0]]))
    >>> x = jnp.array([[[[2.0, 6.0]], [[2.0, 0.0]]]])  # of the means 4 and 1
    >>> print(methods.c_mwp_without_norm(model, w, x, 0))  # of 4 (2, 6) - 1 (2, 0)
    [[[0.2 0.8]]]
    >>> print(methods.c_mwp(model, w, x, 0))  # of (1/4, 3/4) - (1, 0)
    [[[0.   0.75]]]
    """
    return normalised(_without_norm(model_fn, params, x, target, layer, rules, (1, -1)))


def c_mwp_post_norm(
    model_fn: ModelFunction,
    params: Any,
    x: Any,
    target: Target,
    *,
    layer: str | None = "auto",
    rules: RuleSet = EXCITATION,
) -> jax.Array:
    """c-MWP "post-norm" (IJCV18, 6.1.3, Table 3): normalised at the layer that is read alone.

    The map and its reverse, of the negated classifier, are each made as in `c_mwp_without_norm`,
    divided by their sums (L1), subtracted, and cut off at zero: two passes. Arguments and errors
    are those of `c_mwp_without_norm`.

    Returns:
      Maps (N, [K,] H, W) of at most 1 in sum.

    >>> import jax, jax.numpy as jnp
    >>> from excitation_jax import methods
    >>> def model(w, x):
    ...     return jax.nn.relu(jax.lax.conv(x, w[0], (1, 1), "VALID")).mean((2, 3)) @ w[1]
    >>> w = (jnp.eye(2)[..., None, None], jnp.array([[1.0], [-1.0]]))
    >>> x = jnp.array([[[[2.0, 6.0]], [[2.0, 2.0]]]])
    >>> print(methods.c_mwp_post_norm(model, w, x, 0))  # (1/4, 3/4) - (1/2, 1/2)
    [[[0.   0.25]]]
    """
    up = _without_norm(model_fn, params, x, target, layer, rules, (1,))
    return difference(up, -_without_norm(model_fn, params, x, target, layer, rules, (-1,)))


def _without_norm(
    model_fn: ModelFunction, params: Any, x: Any, target: Target, layer: str | None,
    rules: RuleSet, sides: tuple[int, ...],
) -> jax.Array:  # fmt: skip
    """The signed map of a contrastive pass without Z, times 2**-64."""
    plain = without_norm(rules, sides)
    found = top_down(
        model_fn, params, x, target, layer, contrastive=True, rules=plain, start=_small
    )
    return found.map()


def _small(outputs: jax.Array, p: jax.Array) -> jax.Array:
    """P(A0), so small that products of activations along a path of 30 layers stay in float32.

    Smaller still, and what little an average pooling hands on would be denormal. No scale for each
    layer would do: all paths, also those that skip layers, must be scaled alike.
    """
    return p * 2.0**-64
