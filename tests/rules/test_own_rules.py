"""Rules of one's own: for a primitive, for a jitted function, for a part of a model."""

from __future__ import annotations

import pydoc
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import pallas as pl

import excitation_jax as ej

KEYS = jax.random.split(jax.random.key(0), 3)
X = jax.random.normal(KEYS[0], (4, 8))
W, HEAD = jax.random.normal(KEYS[1], (8, 16)), jax.random.normal(KEYS[2], (16, 3))


def kernel(x_ref: Any, w_ref: Any, o_ref: Any) -> None:
    o_ref[...] = jnp.maximum(x_ref[...] @ w_ref[...], 0)


def pallas_layer(x: jax.Array, w: jax.Array) -> jax.Array:
    shape = jax.ShapeDtypeStruct((x.shape[0], w.shape[1]), x.dtype)
    return pl.pallas_call(kernel, out_shape=shape, interpret=True)(x, w)


@jax.jit
def fused_layer(x: jax.Array, w: jax.Array) -> jax.Array:
    return pallas_layer(x, w)


def layer_rule(call: ej.rules.Call, p: jax.Array) -> tuple:
    """Eq. 6 for relu(x @ w)."""
    h, w = call.activation(0), jnp.maximum(call.value(1), 0)
    share = ej.rules.safe_divide(p, h @ w)
    return h * (share @ w.T), None


def plain(params: tuple, x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ params[0]) @ params[1]


def with_primitive(params: tuple, x: jax.Array) -> jax.Array:
    return pallas_layer(x, params[0]) @ params[1]


def with_function(params: tuple, x: jax.Array) -> jax.Array:
    return fused_layer(x, params[0]) @ params[1]


def test_a_primitive_without_a_rule_gets_one() -> None:
    with pytest.raises(ej.UnsupportedPrimitiveError, match="pallas_call in .*test_own_rules") as e:
        ej.excitation_vjp(with_primitive, (W, HEAD), X, 1)
    rules = ej.EXCITATION.replace({p: layer_rule for p in e.value.primitives})
    for contrastive in (False, True):
        found = ej.excitation_vjp(
            with_primitive, (W, HEAD), X, 1, rules=rules, contrastive=contrastive
        )  # fmt: skip
        wanted = ej.excitation_vjp(plain, (W, HEAD), X, 1, contrastive=contrastive)
        np.testing.assert_allclose(found.mwp, wanted.mwp, rtol=1e-4, atol=1e-7)


def test_a_jitted_function_is_one_operation_with_a_rule() -> None:
    rules = ej.EXCITATION.replace({fused_layer: layer_rule})
    found = ej.excitation_vjp(with_function, (W, HEAD), X, 1, rules=rules)
    wanted = ej.excitation_vjp(plain, (W, HEAD), X, 1)
    np.testing.assert_allclose(found.mwp, wanted.mwp, rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(found.outputs, jax.jit(with_function)((W, HEAD), X))
    report = ej.explain_rules(with_function, (W, HEAD), X, rules=rules)
    assert [row.rule for row in report.rows] == ["user's rule", "R1 affine, Eq. 6"]
    assert "fused_layer" in [
        layer.name for layer in ej.layers(with_function, (W, HEAD), X, rules=rules)
    ]


def test_inside_a_loop() -> None:
    rules = ej.EXCITATION.replace({fused_layer: layer_rule})
    square = jnp.stack([W[:, :8], W[:, 8:]])

    def looped(params: tuple, x: jax.Array) -> jax.Array:
        return lax.scan(lambda h, w: (fused_layer(h, w), None), x, params[0])[0] @ params[1]

    def written_out(params: tuple, x: jax.Array) -> jax.Array:
        for w in params[0]:
            x = jax.nn.relu(x @ w)
        return x @ params[1]

    found = ej.excitation_vjp(looped, (square, HEAD[:8]), X, 1, rules=rules)
    wanted = ej.excitation_vjp(written_out, (square, HEAD[:8]), X, 1)
    np.testing.assert_allclose(found.mwp, wanted.mwp, rtol=1e-4, atol=1e-7)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for name in ("first", "second"):
            h = nn.relu(nn.Dense(8, name=f"{name}_a")(x))
            x = nn.relu(x + nn.Dense(8, name=f"{name}_b")(h))
        return nn.Dense(3, name="head")(x)


@pytest.mark.parametrize("how", ["Linen", "dictionary"])
def test_other_rules_in_a_part_of_a_model(how: str) -> None:
    """In first_*, weights count by their magnitude; elsewhere nothing changes."""

    def by_magnitude(call: ej.rules.Call, p: jax.Array) -> tuple:
        h, w = call.activation(0), jnp.abs(call.value(1))
        return h * (ej.rules.safe_divide(p, h @ w) @ w.T), None

    model = Net()
    params = model.init(KEYS[0], X)

    def from_dictionary(params: dict, x: jax.Array) -> jax.Array:
        layers = params["params"]

        def dense(name: str, x: jax.Array) -> jax.Array:
            return x @ layers[name]["kernel"] + layers[name]["bias"]

        for name in ("first", "second"):
            x = nn.relu(x + dense(f"{name}_b", nn.relu(dense(f"{name}_a", x))))
        return dense("head", x)

    model_fn = model.apply if how == "Linen" else from_dictionary
    changed = ej.EXCITATION.replace({lax.dot_general_p: by_magnitude})
    rules = ej.EXCITATION.scoped("first_*", changed)
    report = ej.explain_rules(model_fn, params, X, rules=rules)
    found = {row.path: row.rule for row in report.rows if row.primitive == "dot_general"}
    assert found == {
        "first_a": "user's rule", "first_b": "user's rule", "second_a": "R1 affine, Eq. 6",
        "second_b": "R1 affine, Eq. 6", "head": "R1 affine, Eq. 6",
    }  # fmt: skip
    default, scoped, everywhere = (
        ej.excitation_vjp(model_fn, params, X, 0, rules=r).mwp
        for r in (ej.EXCITATION, rules, changed)
    )
    _, vjp = jax.vjp(ej.excite(model_fn, argnums=1, rules=rules), params, X)
    prior = jax.nn.one_hot(jnp.zeros(4, int), 3)
    np.testing.assert_allclose(vjp(prior)[1], scoped, rtol=1e-5, atol=1e-7)
    assert jnp.abs(scoped - default).max() > 1e-3 and jnp.abs(scoped - everywhere).max() > 1e-3


def test_a_rule_set_is_shown_by_its_name() -> None:
    """`help` shows the default of an argument, and a rule set has some eighty rules."""
    assert repr(ej.EXCITATION) == "<RuleSet EXCITATION>"
    assert repr(ej.EXCITATION.scoped("a/*", ej.EXCITATION_RESIDUAL)) == "<RuleSet EXCITATION+>"
    assert "<RuleSet EXCITATION>" in pydoc.render_doc(ej.attention_map)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            {"add": layer_rule},
            "by JAX primitive .* or by function decorated with jax.jit, not 'add'",
        ),
        ({pallas_layer: layer_rule}, "decorated with jax.jit, not <function pallas_layer"),
        ({lax.add_p: 3}, "the rule for add is not callable: 3"),
    ],
)
def test_wrong_arguments(rules: dict, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        ej.EXCITATION.replace(rules)
