"""What a model or target closes over is read at every call; equal programs compile once (D9)."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import excitation_jax as ej
from excitation_jax.program.fingerprint import fingerprint

X = jnp.array([[1.0, 2.0, 3.0]])
BEFORE = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
AFTER = jnp.array([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]])


class Model:
    """A callable object, a bound method and a closure over one; all models are equal."""

    def __init__(self, weights: Any):
        self.weights = weights

    def __call__(self, params: Any, x: jax.Array) -> jax.Array:
        return x @ self.weights

    def method(self, params: Any, x: jax.Array) -> jax.Array:
        return self(params, x)

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


def explained(model_fn: Callable, target: Any = 0) -> list[float]:
    return np.asarray(ej.excitation_vjp(model_fn, {}, X, target).mwp)[0].tolist()


WAYS = [lambda m: m, lambda m: m.method, lambda m: lambda params, x: m(params, x)]


@pytest.mark.parametrize("way", WAYS, ids=["object", "bound method", "closure"])
def test_a_model_that_has_changed_is_explained_as_it_is(way: Callable) -> None:
    model = Model(BEFORE)
    function = way(model)
    assert explained(function) == [1, 0, 0]
    model.weights = AFTER
    assert explained(function) == [0, 0, 1]


def test_models_that_say_they_are_equal_are_two() -> None:
    assert explained(Model(BEFORE)) == [1, 0, 0]
    assert explained(Model(AFTER)) == [0, 0, 1]


def test_a_model_trained_in_between() -> None:
    model = nnx.Linear(3, 2, use_bias=False, rngs=nnx.Rngs(0))
    model.kernel[...] = BEFORE
    function = lambda params, x: model(x)  # noqa: E731
    assert explained(function) == [1, 0, 0]
    model.kernel[...] = AFTER
    assert explained(function) == [0, 0, 1]


def test_numbers_of_the_code_are_read_anew() -> None:
    """A mask of numpy's is part of the program: it decides what is a neuron."""
    keep = np.array([True, True, False])
    function = lambda params, x: jnp.where(keep, x, 0.5) @ jnp.ones((3, 2))  # noqa: E731
    assert explained(function)[2] == 0
    keep[:] = [False, True, True]
    assert explained(function)[0] == 0 < explained(function)[2]


def test_a_target_that_has_changed() -> None:
    prior = {"P": jnp.array([[1.0, 0.0]])}
    model = Model(BEFORE)
    target = lambda outputs: prior["P"]  # noqa: E731
    assert explained(model, target) == [1, 0, 0]
    prior["P"] = jnp.array([[0.0, 1.0]])
    assert explained(model, target) == [0, 1, 0]


def test_equal_programs_compile_once(caplog: pytest.LogCaptureFixture) -> None:
    """New closures over other arrays of the same shapes, and their targets."""

    def call(weights: jax.Array, prior: jax.Array) -> None:
        ej.excitation_vjp(lambda params, x: x @ weights, {}, X, lambda outputs: prior)

    priors = [jnp.array([[1.0, 0.0]]), jnp.array([[0.5, 0.5]])]
    call(BEFORE, priors[0])
    with jax.log_compiles():
        for weights in (BEFORE, AFTER):
            for prior in priors:
                call(weights, prior)
        assert not [r for r in caplog.records if "Compiling jit(run)" in r.getMessage()]
        call(jnp.ones((3, 3)), jnp.ones((1, 3)) / 3)
        assert [r for r in caplog.records if "Compiling jit(run)" in r.getMessage()]


def test_arrays_of_closures_are_let_go() -> None:
    def call() -> list[weakref.ref]:
        weights, prior = jnp.array(np.asarray(BEFORE)), jnp.array([[1.0, 0.0]])
        ej.excitation_vjp(lambda params, x: x @ weights, {}, X, lambda outputs: prior)
        return [weakref.ref(weights), weakref.ref(prior)]

    held = call()
    jax.clear_caches()  # JAX' own, of what it traced
    gc.collect()
    assert [ref() for ref in held] == [None, None]


# --- fingerprints -------------------------------------------------------------------------------

STEPS: dict[str, Callable[[Any], Any]] = {
    "tanh": jnp.tanh,
    "scale": lambda x: x * 2,
    "other scale": lambda x: x * 3,
    "integer": lambda x: x * jnp.float32(2),
    "relu": jax.nn.relu,
    "loop": lambda x: lax.scan(lambda s, _: (s + 1, None), x, length=3)[0],
    "longer loop": lambda x: lax.scan(lambda s, _: (s + 1, None), x, length=4)[0],
    "branch": lambda x: lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x),
    "other branch": lambda x: lax.cond(x.sum() > 0, jnp.cos, jnp.sin, x),
    "remat": jax.checkpoint(lambda x: jnp.exp(x) - 1),
    "scope": jax.named_scope("here")(jnp.tanh),
    "mask": lambda x: jnp.where(np.array([True, False, True]), x, 0),
    "other mask": lambda x: jnp.where(np.array([True, True, True]), x, 0),
    "tag": lambda x: ej.tag(x, "tagged"),
}


def traced(names: list[str]) -> Any:
    def program(x: jax.Array) -> jax.Array:
        for name in names:
            x = STEPS[name](x)
        return x

    closed = jax.make_jaxpr(program)(X)
    return closed


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=4),
       st.lists(st.sampled_from(sorted(STEPS)), max_size=4))  # fmt: skip
def test_fingerprints_tell_programs_apart(first: list[str], second: list[str]) -> None:
    same = [n.replace("integer", "scale") for n in first] == [
        n.replace("integer", "scale") for n in second
    ]
    a, b = fingerprint(traced(first)), fingerprint(traced(second))
    assert fingerprint(traced(first)) == a and hash(fingerprint(traced(first))) == hash(a)
    assert (a == b) == same
