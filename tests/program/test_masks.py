"""Elements that a mask hides are constants: they take no probability where they are summed.

The oracle for a masked sequence is the sequence without what the mask hides.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import excitation_jax as ej
from excitation_jax.explain.markov import markov_chain

rng = np.random.default_rng(0)
X = rng.normal(size=(3, 6, 4)).astype(np.float32)
PARAMS = {"w": rng.normal(size=(4, 5)).astype(np.float32), "lengths": np.array([6, 4, 1])}


def mask_of(params: dict) -> jax.Array:
    return jnp.arange(6) < params["lengths"][:, None]


def mean_of(hidden: jax.Array, mask: jax.Array) -> jax.Array:
    return hidden.sum(1) / mask.sum(1, keepdims=True)


def by_where(params: dict, x: jax.Array) -> jax.Array:
    mask = mask_of(params)
    return mean_of(jnp.where(mask[..., None], jnp.tanh(x @ params["w"]), 0), mask)


def by_product(params: dict, x: jax.Array) -> jax.Array:
    mask = mask_of(params)
    return mean_of(jax.nn.gelu(x @ params["w"]) * mask[..., None], mask)


def by_numbers(params: dict, x: jax.Array) -> jax.Array:
    mask = mask_of(params)
    return mean_of(mask.astype(x.dtype)[..., None] * jax.nn.silu(x @ params["w"]), mask)


def moved_afterwards(params: dict, x: jax.Array) -> jax.Array:
    mask = mask_of(params)
    hidden = jnp.where(mask[..., None], jnp.tanh(x @ params["w"]), 0) * 2 + 3
    turned = hidden.reshape(3, 2, 3, 5).transpose(0, 3, 1, 2)[..., ::-1]
    return turned.sum((2, 3)) / mask.sum(1, keepdims=True)


def joined_afterwards(params: dict, x: jax.Array) -> jax.Array:
    mask = mask_of(params)
    hidden = jnp.where(mask[..., None], jnp.tanh(x @ params["w"]), 0)
    both = jnp.concatenate([hidden, jnp.where(mask[..., None], jax.nn.elu(x @ params["w"]), 0)], 1)
    return mean_of(both, mask)


MODELS = [by_where, by_product, by_numbers, moved_afterwards, joined_afterwards]


def without_what_is_hidden(model: Callable, x: np.ndarray, target: int) -> np.ndarray:
    """The maps of the examples one by one, cut to their lengths."""
    found = np.zeros_like(x)
    activation = {"by_product": jax.nn.gelu, "by_numbers": jax.nn.silu}.get(
        model.__name__, jnp.tanh
    )

    def cut(params: dict, x: jax.Array) -> jax.Array:
        hidden = activation(x @ params["w"])
        if model is joined_afterwards:
            hidden = jnp.concatenate([hidden, jax.nn.elu(x @ params["w"])], 1)
        return hidden.sum(1)

    for i, length in enumerate(PARAMS["lengths"]):
        shown = x[i : i + 1, :length]
        found[i, :length] = ej.excitation_vjp(cut, PARAMS, shown, target).mwp[0]
    return found


@pytest.mark.parametrize("model", MODELS)
def test_equals_the_sequence_without_what_is_hidden(model: Callable) -> None:
    wanted = without_what_is_hidden(model, X, 2)
    assert wanted.sum() > 1  # not everything is lost
    for way in (model, jax.checkpoint(model), jax.jit(model)):
        found = ej.excitation_vjp(way, PARAMS, X, 2).mwp
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)

    def one(length: jax.Array, x: jax.Array) -> jax.Array:
        padded = {"w": PARAMS["w"], "lengths": jnp.full(3, length)}
        return ej.excitation_vjp(model, padded, jnp.stack([x] * 3), 2).mwp[0]

    mapped = jax.vmap(one)(PARAMS["lengths"], X)
    np.testing.assert_allclose(mapped, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_the_markov_chain_agrees(model: Callable) -> None:
    chain = markov_chain(model, PARAMS, X)
    prior = np.zeros((3, 5), np.float32)
    prior[:, 2] = 1
    wanted = ej.excitation_vjp(model, PARAMS, X, 2).mwp
    np.testing.assert_allclose(chain.mwp(prior), wanted, rtol=1e-4, atol=1e-6)


WRITTEN: list[Callable] = [
    lambda x: lax.dynamic_update_slice(x, jnp.ones((3, 2, 5)), (0, 1, 0)),
    lambda x: x.at[:, 1:3].set(1.0),
    lambda x: x.at[:, jnp.array([2, 1])].set(jnp.ones((3, 2, 5))),
]


@pytest.mark.parametrize("write", WRITTEN)
def test_what_is_written_into_a_signal_takes_nothing(write: Callable) -> None:
    def model(params: dict, x: jax.Array) -> jax.Array:
        return write(jnp.tanh(x @ params["w"])).sum(1)

    def rest(params: dict, x: jax.Array) -> jax.Array:
        return jnp.tanh(x[:, np.array([0, 3, 4, 5])] @ params["w"]).sum(1)

    found, wanted = (ej.excitation_vjp(f, PARAMS, X, 2).mwp for f in (model, rest))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-7)
    assert not np.any(found[:, 1:3])


@pytest.mark.parametrize("fill", [-1e9, float(np.finfo(np.float32).min), -np.inf])
def test_a_fill_value_is_no_bound(fill: float) -> None:
    """Behind a masked maximum the neurons count from GELU's minimum, and not from the fill."""
    head = rng.normal(size=(5, 3)).astype(np.float32)

    def model(params: dict, x: jax.Array) -> jax.Array:
        hidden = jax.nn.gelu(x @ params["w"])
        return jnp.where(mask_of(params)[..., None], hidden, fill).max(1) @ head

    found = ej.excitation_vjp(model, PARAMS, X, 2).mwp
    for i, length in enumerate(PARAMS["lengths"]):
        shown = X[i : i + 1, :length]
        alone = ej.excitation_vjp(
            lambda p, x: jax.nn.gelu(x @ p["w"]).max(1) @ head, PARAMS, shown, 2
        )
        np.testing.assert_allclose(found[i, :length], alone.mwp[0], rtol=1e-4, atol=1e-6)
        assert not np.any(found[i, length:])


def test_a_zero_in_the_code_hides_everything() -> None:
    """It is a mask like any other, though no array of the model's holds it."""
    outputs, pull = jax.vjp(ej.excite(lambda x: (0 * jnp.abs(x)).sum(-1)), jnp.asarray(X[0]))
    assert not np.any(outputs) and not np.any(pull(jnp.ones(6) / 6)[0])


def test_a_sum_of_two_that_one_mask_hides_takes_nothing_twice() -> None:
    """A maximum may send probability to a hidden element; its two summands share it, not more."""
    mask = np.array([True, False, True])

    def model(params: None, x: jax.Array) -> jax.Array:
        hide = lambda x: jnp.where(mask, x, 0.0)  # noqa: E731
        first, second = hide(-jnp.abs(x)), hide(-jax.nn.sigmoid(x))
        return (ej.tag(first, "first") + ej.tag(second, "second")).max(-1, keepdims=True)

    report = ej.explain_rules(model, None, np.ones((1, 3)), target=0)
    assert report.reached == 0 and sum(row.lost or 0 for row in report.rows) == 1
    maps = ej.excitation_vjp(model, None, np.ones((1, 3)), 0, layer=["first", "second"]).mwp
    assert not np.any(maps["first"]) and not np.any(maps["second"])


def test_padded_steps_of_a_loop() -> None:
    """A recurrent network that keeps its state at padded steps, and is read by a masked mean."""

    def model(params: dict, x: jax.Array) -> jax.Array:
        mask = mask_of(params)

        def step(state: jax.Array, at: tuple) -> tuple:
            x, shown = at
            state = jnp.where(shown[:, None], jnp.tanh(x @ params["w"] + state), state)
            return state, jnp.where(shown[:, None], state, 0)

        _, states = lax.scan(step, jnp.zeros((3, 5)), (x.swapaxes(0, 1), mask.T))
        return states.sum(0)

    found = ej.excitation_vjp(model, PARAMS, X, 2).mwp
    for i, length in enumerate(PARAMS["lengths"]):
        params = {"w": PARAMS["w"], "lengths": np.full(3, length)}
        shown = np.where(np.arange(6)[None, :, None] < length, X, 100.0).astype(np.float32)
        alone = ej.excitation_vjp(model, params, shown, 2).mwp
        np.testing.assert_allclose(found[i], alone[i], rtol=1e-4, atol=1e-6)
        assert not np.any(found[i, length:])
