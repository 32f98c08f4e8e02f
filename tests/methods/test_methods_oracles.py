"""Gradient, guided backprop, DeconvNet and Grad-CAM against maps of an independent implementation.

The tolerances are those of ../shared/oracles/README.md, but that the pseudo-gradients are stored in
float32: in float64 they have to agree to the last bit of that.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import load_oracle
from paths import SHARED

import excitation_jax as ej
from excitation_jax import methods

ORACLES = SHARED / "oracles"

PSEUDO_GRADIENTS = {
    "grad_input_absmax": methods.gradient,
    "guided": methods.guided_backprop,
    "deconvnet": methods.deconvnet,
}


@pytest.mark.skipif(not ORACLES.is_dir(), reason="../shared/oracles is absent")
@pytest.mark.parametrize(
    ("arch", "dtype"),
    [
        ("alexnet", "float64"),
        ("squeezenet1_0", "float64"),
        ("resnet18", "float64"),
        pytest.param("googlenet", "float64", marks=pytest.mark.slow),
        # In float64 these two take twice the time.
        pytest.param("resnet50", "float32", marks=pytest.mark.slow),
        pytest.param("vgg16", "float32", marks=pytest.mark.slow),
    ],
)
def test_maps_of_generated_networks(arch: str, dtype: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        oracle = load_oracle(arch, ORACLES, dtype=np.dtype(dtype), tag=ej.tag)
        (name,) = (name for name in oracle.arrays if name.startswith("grad_cam:"))

        @jax.jit  # one forward pass for all four
        def explain(variables: Any, x: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
            args = oracle.model.apply, variables, x, oracle.target
            slopes = {stored: method(*args) for stored, method in PSEUDO_GRADIENTS.items()}
            return slopes, methods.grad_cam(*args, layer=name.removeprefix("grad_cam:"))

        found = explain(oracle.variables, oracle.x)
        slopes, grad_cam = jax.tree.map(np.asarray, found)
        assert {map_.dtype for map_ in (grad_cam, *slopes.values())} == {np.dtype(dtype)}
    reference = {stored: oracle.arrays[stored].astype(float) for stored in (*slopes, name)}
    peak = reference[name].max()
    tolerance = 1e-9 if dtype == "float64" else 1e-4
    np.testing.assert_allclose(grad_cam, reference[name], rtol=0, atol=tolerance * peak)
    for stored, found in slopes.items():
        error = np.abs(found - reference[stored])
        if dtype == "float64":
            rounding = np.finfo("float32").eps / 2 * reference[stored]
            assert (error <= rounding + 1e-9 * reference[stored].max()).all(), stored
        else:  # isolated spikes, where the winner of a max pool is a tie up to rounding
            assert error.sum() <= 3e-3 * reference[stored].sum(), stored


def lower(w: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    x = jax.lax.conv_general_dilated(x, w["a"], (1, 1), "SAME", dimension_numbers=LAYOUT)
    return jax.nn.relu(x * w["scale"] + w["shift"])


def upper(w: dict[str, jax.Array], h: jax.Array) -> jax.Array:
    pooled = jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    conv = jax.lax.conv_general_dilated(pooled, w["b"], (1, 1), "SAME", dimension_numbers=LAYOUT)
    normed = jax.nn.standardize(pooled + jnp.tanh(conv)) * jax.nn.sigmoid(pooled)
    return jax.nn.gelu(normed).mean((1, 2)) @ w["head"]


LAYOUT = ("NHWC", "HWIO", "NHWC")


def test_gradient_at_a_layer_is_that_of_the_part_above() -> None:
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 3, 3, 6), "b": (3, 3, 6, 6), "head": (6, 4), "scale": 6, "shift": 6}
    w = {name: np.float32(rng.normal(size=shape)) for name, shape in shapes.items()}
    x = np.float32(rng.normal(size=(2, 8, 8, 3)))

    def model(w: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return upper(w, ej.tag(lower(w, x), "hidden"))

    @jax.jit
    def both(w: dict[str, jax.Array], x: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
        """At the layer and at the input, of every class."""
        every, slopes = jnp.tile(jnp.arange(4), (2, 1)), jax.vmap(jax.jacrev(upper, 1), (None, 0))
        found = [methods.gradient(model, w, x, every, layer=layer) for layer in ("hidden", None)]
        whole = jax.vmap(jax.jacrev(model, 1), (None, 0))(w, x[:, None])
        return list(zip(found, (slopes(w, lower(w, x)[:, None]), whole), strict=True))

    for found, expected in both(w, x):
        largest = jnp.abs(expected[:, 0, :, 0]).max(-1)
        np.testing.assert_allclose(found, largest, rtol=1e-4, atol=1e-6)


def test_no_slope_passes_a_stop_gradient() -> None:
    """Not even none of an infinite one, which is no number."""
    w, x = jnp.array([1.0, 2.0]), jnp.linspace(-1, 1, 8).reshape(4, 2)

    def model(w: jax.Array, x: jax.Array) -> jax.Array:
        scale = jax.lax.stop_gradient(1 + jnp.sqrt(jnp.abs(x - x)))
        return jax.nn.softmax(x * scale) * w

    expected = jax.grad(lambda x: model(w, x)[:, 1].sum())(x)
    found = ej.excitation_vjp(model, w, x, 1, rules=methods.GRADIENT).mwp
    np.testing.assert_allclose(found, expected, rtol=1e-5)
