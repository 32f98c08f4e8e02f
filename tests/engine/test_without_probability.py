"""Where no probability is, nothing flows, whatever the values; where it is, NaN is told (D8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import excitation_jax as ej
from excitation_jax import methods
from excitation_jax.rules.gradient import DECONVNET, GRADIENT, GUIDED

RNG = np.random.default_rng(0)
A, B = (RNG.normal(size=(4, 4)).astype(np.float32) for _ in range(2))
HEAD = RNG.normal(size=(4, 2)).astype(np.float32)
X = RNG.uniform(0.2, 1.5, (1, 5, 4)).astype(np.float32)
#: The last two of five rows are wanted nowhere.
KEEP = np.array([True, True, True, False, False])[:, None]


def attention(y: jax.Array) -> jax.Array:
    """Its last rows see nothing: the softmax of minus infinity."""
    scores = jnp.where(KEEP & KEEP.T, jnp.einsum("ntc,nsc->nts", y, y), -jnp.inf)
    return jax.nn.softmax(scores, -1) @ jnp.where(KEEP, y, 1)


OPERATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "nothing": lambda y: y,
    "dense": lambda y: y @ B,
    "relu": lambda y: jax.nn.relu(y) @ B,
    "tanh": lambda y: jnp.tanh(y) @ B,
    "log": lambda y: jnp.log(jnp.abs(y) + 0.1),
    "silu": lambda y: jax.nn.silu(y @ B),
    "sum": lambda y: y + jax.nn.relu(y @ B),
    "difference": lambda y: jax.nn.relu(y) - jax.nn.relu(y @ B),
    "maximum": lambda y: jnp.maximum(y, y @ B),
    "max": lambda y: y.max(-1, keepdims=True) * jnp.ones(4),
    "mean": lambda y: y.mean(-1, keepdims=True) * jnp.ones(4),
    "convolution": lambda y: lax.conv_general_dilated(
        y, B[None], (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")),
    "gate": lambda y: y * jax.nn.sigmoid(y @ B),
    "norm": lambda y: (y - y.mean(-1, keepdims=True)) * lax.rsqrt(y.var(-1, keepdims=True) + 0.1),
    "batch norm": lambda y: jax.nn.relu((y @ B) * np.array([1, -1, 2, 0.5], np.float32) + 0.1),
    "softmax": lambda y: jax.nn.softmax(y, -1),
    "attention": attention,
    "loop": lambda y: lax.scan(lambda s, _: (jnp.tanh(s @ B), None), y, length=2)[0],
    "added to a place": lambda y: jnp.zeros_like(y).at[:, jnp.arange(5)].add(y),
    "pad": lambda y: jnp.pad(y, ((0, 0), (0, 0), (1, 1)))[..., 1:5] @ B,
}  # fmt: skip
RULES = {
    "EXCITATION": ej.EXCITATION,
    "EXCITATION_TORCHRAY": ej.EXCITATION_TORCHRAY,
    "LRP-epsilon": methods.lrp_rules(),
    "LRP-gamma": methods.lrp_rules(methods.Gamma()),
    "LRP-alpha-beta": methods.lrp_rules(methods.AlphaBeta(2, 1)),
    "GRADIENT": GRADIENT,
    "GUIDED": GUIDED,
    "DECONVNET": DECONVNET,
}


def model(operation: Callable, params: Any, x: jax.Array) -> jax.Array:
    """``params["far"]`` is what the last rows are replaced by, before and behind the operation."""
    y = jnp.where(KEEP, x @ A, params["far"])
    return jnp.where(KEEP, operation(y), 0).mean(1) @ HEAD


#: What other rule sets treat in a way of their own.
OF_THEIR_OWN = ("dense", "relu", "log", "sum", "batch norm", "attention", "gate")
CASES = [(name, "EXCITATION") for name in OPERATIONS]
CASES += [(name, rules) for name in OF_THEIR_OWN for rules in RULES if rules != "EXCITATION"]


@pytest.mark.parametrize(("name", "rules"), CASES)
def test_values_that_no_probability_meets_do_not_matter(name: str, rules: str) -> None:
    """The input's last rows differ, and so does all that is computed from them."""

    def maps(x: Any, far: Any) -> tuple[np.ndarray, np.ndarray]:
        found = ej.excitation_vjp(run, {"far": far}, x, target, rules=RULES[rules])
        return np.asarray(found.outputs), np.asarray(found.mwp)

    run = lambda params, x: model(OPERATIONS[name], params, x)  # noqa: E731
    target = np.array([1])
    plain = maps(X, np.float32(0.3))
    for bad in (np.nan, np.inf, -np.inf):
        x = np.where(KEEP, X, np.float32(bad)) if rules.startswith("EXC") else X
        for found, right in zip(maps(x, np.float32(bad)), plain, strict=True):
            np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_number_that_probability_meets_is_told(name: str) -> None:
    """By an error; under jit, by a map that is not finite."""

    def broken(params: Any, x: jax.Array) -> jax.Array:
        y = jnp.where(np.arange(4) == 1, x @ A * params, x @ A)
        return jnp.nan_to_num(OPERATIONS[name](y), nan=1.0).sum(1) @ np.abs(HEAD)

    with pytest.raises(ValueError, match="is not finite"):
        ej.excitation_vjp(broken, jnp.nan, X, 0)
    compiled = jax.jit(lambda params, x: ej.excitation_vjp(broken, params, x, 0).mwp)
    assert not np.isfinite(compiled(jnp.nan, X)).all()


def test_an_output_that_is_not_explained_may_be_no_number() -> None:
    def two(params: Any, x: jax.Array) -> jax.Array:
        return jnp.stack([(x @ A).sum((1, 2)), jnp.log(-x).sum((1, 2))], -1)

    found = ej.excitation_vjp(two, {}, X, 0)
    assert np.isfinite(found.mwp).all() and np.isnan(found.outputs[0, 1])
    with pytest.raises(ValueError, match="is not finite"):
        ej.excitation_vjp(two, {}, X, 1)
