"""Less than half of the probability reaches the layer: one line says so."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import pytest

import excitation_jax as ej

X = jnp.stack([jnp.ones((4, 4, 1)), -jnp.ones((4, 4, 1))])


def model(bias: float, x: jax.Array) -> jax.Array:
    """One class a channel: the first has the input for its child, the second a bias alone."""
    kernel, numbers = jnp.array([[[[1.0, -1.0]]]]), ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)
    return jax.nn.relu(y + jnp.array([0.0, bias])).mean((1, 2)) @ jnp.eye(2)


@pytest.mark.parametrize("target", [0, 1])
def test_a_map_that_little_reaches_says_so(target: int) -> None:
    """Unit 1 fires by its bias alone."""

    def attend(**options: object) -> jax.Array:
        return ej.attention_map(model, 9.0, X[:1], target, layer=None, **options)

    if target == 0:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            attend(contrastive=False)
        return
    with pytest.warns(UserWarning, match="0.0% of the probability reaches the input.*explain_rule"):
        attend(contrastive=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attend(contrastive=True)  # whose parts cancel anyway
        attend(contrastive=False, rules=ej.EXCITATION_CONSERVING)
        jax.jit(lambda x: ej.attention_map(model, 9.0, x, 1, layer=None, contrastive=False))(X)
