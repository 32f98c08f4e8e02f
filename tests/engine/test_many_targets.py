"""Maps of many targets in one large program are those of one target at a time.

XLA:CPU gave later targets the maps of earlier ones (jaxlib 0.10.2): see `_compat.kept_apart`.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from jax import lax

import excitation_jax as ej
from excitation_jax import methods
from excitation_jax.rules.gradient import GRADIENT

IMAGES, TARGETS, SIDE = 16, 6, 28
RNG = np.random.default_rng(0)
PARAMS = {
    "first": RNG.normal(size=(3, 3, 3, 32)).astype(np.float32),
    "second": RNG.normal(size=(1, 1, 32, 48)).astype(np.float32),
    "head": RNG.normal(size=(48, TARGETS)).astype(np.float32),
}
IMAGE = RNG.normal(size=(IMAGES, SIDE, SIDE, 3)).astype(np.float32)


def model(params: dict[str, Any], x: jax.Array) -> jax.Array:
    for name in ("first", "second"):
        x = lax.conv_general_dilated(
            x, params[name], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = ej.tag(jax.nn.relu(x), name)
    return x.mean((1, 2)) @ params["head"]


def maps_of(name: str) -> Any:
    """Maps (N, K, H, W), and what a user may do with them in the same program."""

    def shares(x: jax.Array, target: jax.Array, **options: Any) -> jax.Array:
        return ej.excitation_vjp(model, PARAMS, x, target, layer="first", **options).mwp.sum(-1)

    def maps(x: jax.Array, target: jax.Array) -> jax.Array:
        if name == "shares":
            found = shares(x, target)
        elif name == "contrastive shares":
            found = shares(x, target, contrastive=True)
        elif name == "slopes":
            found = shares(x, target, rules=GRADIENT)
        else:
            found = methods.get(name).function(model, PARAMS, x, target, layer="first")
        return found * 2

    return jax.jit(maps)


@pytest.mark.parametrize(
    "name",
    ["c-mwp", "mwp", "shares", "contrastive shares", "slopes", "gradient", "input-x-gradient",
     "grad-cam", "layer-cam", "grad-cam++", "lrp-epsilon", "lrp-zplus"],
)  # fmt: skip
def test_maps_of_many_targets_under_jit_are_those_of_one_at_a_time(name: str) -> None:
    function = maps_of(name)
    together = np.asarray(function(IMAGE, np.tile(np.arange(TARGETS), (IMAGES, 1))))
    for k in range(TARGETS):
        alone = np.asarray(function(IMAGE[:2], np.full((2, 1), k)))[:, 0]
        assert abs(alone).max() > 0
        np.testing.assert_allclose(together[:2, k], alone, rtol=1e-3, atol=1e-4 * abs(alone).max())
    rest = np.asarray(function(IMAGE[-2:], np.tile(np.arange(TARGETS), (2, 1))))
    np.testing.assert_allclose(together[-2:], rest, rtol=1e-3, atol=1e-4 * abs(rest).max())
