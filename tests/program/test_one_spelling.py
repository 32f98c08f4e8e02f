"""What is the same program however it is written (design, D0): on drawn layers and numbers."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax

import excitation_jax as ej
from excitation_jax.program.intervals import ANYTHING, INF, Interval, minimum
from excitation_jax.program.trace import trace

Model = Callable[[jax.Array], jax.Array]
drawn = settings(deadline=None, max_examples=8)


def maps(model: Model, x: np.ndarray, contrastive: bool) -> np.ndarray:
    out, pull = jax.vjp(ej.excite(model, contrastive=contrastive), jnp.asarray(x))
    return np.asarray(pull(jnp.eye(out.shape[-1])[jnp.zeros(out.shape[:-1], int)])[0])


def same(a: Model, b: Model, x: np.ndarray) -> None:
    with jax.enable_x64(True):
        np.testing.assert_allclose(a(jnp.asarray(x)), b(jnp.asarray(x)), atol=1e-9)
        for contrastive in (False, True):
            found, wanted = (maps(model, x, contrastive) for model in (a, b))
            assume(np.abs(wanted).sum() > 0.01)  # a dead network has no map
            np.testing.assert_allclose(found, wanted, atol=1e-9)


def numbers(seed: int, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


# -- an expression written twice -----------------------------------------------------------------

#: Functions of one value, by two of it.
TWICE: dict[str, Callable] = {
    "SiLU": lambda y, z: y * jax.nn.sigmoid(z),
    "GELU": lambda y, z: 0.5 * y * (1 + lax.erf(z / np.sqrt(2))),
    "Mish": lambda y, z: y * jnp.tanh(jax.nn.softplus(z)),
    "ReLU": lambda y, z: jnp.where(y > 0, z, 0),
    "clipped": lambda y, z: y - jnp.minimum(z, 0),
    "both signs": lambda y, z: jnp.concatenate([jax.nn.relu(y), jax.nn.relu(-z)], -1),
}


@drawn
@given(name=st.sampled_from(list(TWICE)), seed=st.integers(0, 10**6), bias=st.booleans())
def test_a_layer_that_is_written_twice_is_one(name: str, seed: int, bias: bool) -> None:
    x, w, b, v = numbers(seed, (2, 4), (4, 3), (3,), (6, 3))
    head = v if name == "both signs" else v[:3]

    def layer(x: jax.Array) -> jax.Array:
        return x @ w + b if bias else x @ w

    def once(x: jax.Array) -> jax.Array:
        y = layer(x)
        return TWICE[name](y, y) @ head

    same(lambda x: TWICE[name](layer(x), layer(x)) @ head, once, np.abs(x))


def test_names_and_remat_calls_keep_what_they_have() -> None:
    def model(x: jax.Array) -> jax.Array:
        with jax.named_scope("a"):
            a = jnp.sin(x)
        with jax.named_scope("b"):
            b = jnp.sin(x)
        c = jax.checkpoint(jnp.sin)(x)
        return ej.tag(a, "first") + ej.tag(a, "second") + b + c + jnp.sin(x) + jnp.sin(x)

    program, _, _ = trace(model, jnp.ones(3))
    made = [op.primitive.name for op in program.ops]
    assert made.count("sin") == 4  # a's, b's, that of the remat call, and the last two
    assert made.count("name") == 2


# -- sums by known weights, and sums of one ------------------------------------------------------


@drawn
@given(
    how=st.sampled_from(["einsum", "dot", "convolution", "matrix product", "average, times"]),
    act=st.sampled_from([jax.nn.relu, jnp.tanh, jax.nn.gelu, lambda y: y]),
    seed=st.integers(0, 10**6),
)
def test_a_mean_is_one_however_its_weights_are_written(how: str, act: Callable, seed: int) -> None:
    """Behind a layer and in front of one; it carries bounds, and is no top of a contrast."""
    x, w, v = numbers(seed, (2, 6, 4), (4, 3), (3, 3))
    n = x.shape[1]

    def mean(y: jax.Array) -> jax.Array:
        if how == "einsum":
            return jnp.einsum("npc,p->nc", y, jnp.full(n, 1 / n))
        if how == "dot":
            return jnp.tensordot(y, jnp.ones(n), ((1,), (0,))) / n
        if how == "convolution":
            kernel = jnp.ones((n, 1, y.shape[-1])) / n
            return lax.conv_general_dilated(
                y, kernel, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"),
                feature_group_count=y.shape[-1],
            )[:, 0]  # fmt: skip
        if how == "matrix product":
            return ((jnp.ones((1, n)) / n) @ y)[:, 0]
        return (y * jnp.full((n, 1), 1 / n)).sum(1)

    x = np.abs(x)
    same(lambda x: mean(act(x @ w)) @ v, lambda x: act(x @ w).mean(1) @ v, x)
    same(lambda x: mean(act(x @ w) @ v), lambda x: (act(x @ w) @ v).mean(1), x)


@drawn
@given(seed=st.integers(0, 10**6), score=st.integers(0, 2))
def test_a_score_that_a_matrix_picks_is_the_score(seed: int, score: int) -> None:
    """Where it is negative, too."""
    x, w, v = numbers(seed, (2, 4), (4, 5), (5, 3))

    def model(x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ w + 1) @ v

    picked = lambda x: model(x) @ jax.nn.one_hot(jnp.array([score]), 3).T  # noqa: E731
    same(picked, lambda x: model(x)[:, score : score + 1], np.abs(x))


@drawn
@given(seed=st.integers(0, 10**6), contraction=st.sampled_from(["eye", "flip", "patches"]))
def test_zeros_and_ones_move_what_was_scaled(seed: int, contraction: str) -> None:
    """Constants in front of them are their reader's (D3), and each element keeps its bound (D4)."""
    x, scale, w = numbers(seed, (2, 6, 3), (3,), (9, 3))

    def neurons(x: jax.Array) -> jax.Array:
        y = jnp.concatenate([jnp.tanh(x[..., :1]), jax.nn.relu(x[..., 1:])], -1)
        return y * scale

    def moved(y: jax.Array) -> jax.Array:
        if contraction == "patches":
            return lax.conv_general_dilated_patches(
                y, (3,), (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
            )
        matrix = jnp.eye(3) if contraction == "eye" else jnp.eye(3)[:, ::-1]
        return y @ matrix

    def plain(y: jax.Array) -> jax.Array:
        if contraction == "patches":
            shifted = jnp.stack([y[:, i : i + 4] for i in range(3)], -1)
            return shifted.reshape(*shifted.shape[:2], -1)
        return y if contraction == "eye" else y[..., ::-1]

    head = w if contraction == "patches" else w[:3]
    same(lambda x: moved(neurons(x)) @ head, lambda x: plain(neurons(x)) @ head, x)


ONE: dict[str, Callable] = {
    "sum": lambda y: y[..., None].sum(-1),
    "mean": lambda y: y[:, None].mean(1),
    "maximum": lambda y: y[..., None].max(-1),
    "so far": lambda y: jnp.cumsum(y[..., None], -1)[..., 0],
    "window": lambda y: lax.reduce_window(y, 0.0, lax.add, (1,) * y.ndim, (1,) * y.ndim, "VALID"),
    "segment": lambda y: jax.ops.segment_sum(y, np.arange(len(y)), len(y)),
    "scatter": lambda y: jnp.zeros_like(y).at[np.arange(len(y))].add(y),
}


@drawn
@given(how=st.sampled_from(list(ONE)), seed=st.integers(0, 10**6), hidden=st.booleans())
def test_a_sum_of_one_is_what_it_sums(how: str, seed: int, hidden: bool) -> None:
    x, w, v = numbers(seed, (3, 4), (4, 5), (5, 3))

    def model(between: Callable) -> Model:
        if hidden:
            return lambda x: jax.nn.relu(between(x @ w)) @ v
        return lambda x: between(jax.nn.relu(x @ w) @ v)

    same(model(ONE[how]), model(lambda y: y), np.abs(x))


@drawn
@given(seed=st.integers(0, 10**6))
def test_messages_along_edges_are_one_neuron_with_their_sum(seed: int) -> None:
    """A layer before the sum over a node's edges is the layer after it."""
    x, w, v = numbers(seed, (5, 3), (3, 4), (4, 3))
    ends = np.random.default_rng(seed).integers(0, 5, (2, 8))
    for collect in (
        lambda m: jax.ops.segment_sum(m, ends[1], 5),
        lambda m: jnp.zeros((5, m.shape[-1])).at[ends[1]].add(m),
    ):
        same(
            lambda x, c=collect: jax.nn.relu(c((x @ w)[ends[0]])) @ v,
            lambda x, c=collect: jax.nn.relu(c(x[ends[0]]) @ w) @ v,
            np.abs(x),
        )


# -- further ------------------------------------------------------------------------------------


@drawn
@given(seed=st.integers(0, 10**6), act=st.sampled_from([jnp.tanh, jax.nn.relu, jax.nn.gelu]))
def test_a_function_applied_in_some_places(seed: int, act: Callable) -> None:
    x, w, v = numbers(seed, (2, 4), (4, 5), (5, 3))

    def apart(x: jax.Array) -> jax.Array:
        y = x @ w
        return jnp.concatenate([y[:, :2], act(y[:, 2:])], 1) @ v

    same(lambda x: (x @ w).at[:, 2:].apply(act) @ v, apart, np.abs(x))


def _moe(form: str, r: np.ndarray, e: np.ndarray, v: np.ndarray) -> Model:
    def model(x: jax.Array) -> jax.Array:
        largest, which = lax.top_k(x @ r, 2)
        p, y = jax.nn.softmax(largest), jax.nn.relu(jnp.einsum("bi,eio->beo", x, e))
        hot, rows = jax.nn.one_hot(which, len(e)), jnp.arange(len(x))[:, None]
        weights = {
            "product and sum": lambda: (p[..., None] * hot).sum(1),
            "einsum": lambda: jnp.einsum("bk,bke->be", p, hot),
            "written": lambda: jnp.zeros((len(x), len(e))).at[rows, which].set(p),
            "added": lambda: jnp.zeros((len(x), len(e))).at[rows, which].add(p),
        }
        if form == "gathered":
            return jnp.einsum("bk,bko->bo", p, jnp.take_along_axis(y, which[..., None], 1)) @ v
        return jnp.einsum("be,beo->bo", weights[form](), y) @ v

    return model


@drawn
@given(
    seed=st.integers(0, 10**6),
    form=st.sampled_from(["product and sum", "einsum", "written", "added"]),
)
def test_what_weighs_experts_is_a_gate(seed: int, form: str) -> None:
    x, r, e, v = numbers(seed, (2, 4), (4, 3), (3, 4, 5), (5, 3))
    same(_moe(form, r, e, v), _moe("gathered", r, e, v), np.abs(x))


FAR = {
    "tanh": (lambda x: (np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x)), -1.0),
    "sigmoid": (lambda x: np.exp(x) / (1 + np.exp(x)), 0.0),
    "SiLU": (lambda x: x * np.exp(x) / (1 + np.exp(x)), -0.27846),
    "a line": (lambda x: -x * np.exp(x) / np.exp(x), -INF),
    "logarithm": (np.log, -INF),
    "logarithm far out": (lambda x: np.log(x - 20), -INF),
}


@pytest.mark.parametrize("name", FAR)
def test_the_minimum_of_a_function_that_overflows(name: str) -> None:
    function, low = FAR[name]
    assert minimum(function, ANYTHING) == pytest.approx(low, abs=1e-4)


def test_a_function_is_no_number_where_it_is_not_defined() -> None:
    assert minimum(np.sqrt, ANYTHING) == -INF
    assert minimum(np.sqrt, Interval(0, INF)) == 0


@pytest.mark.parametrize("function", [np.tanh, np.exp, lambda x: x, lambda x: -x])
def test_the_minimum_between_two_numbers(function: Callable) -> None:
    ends = function(np.array([-1.0, 1.0]))
    assert minimum(function, Interval(-1, 1)) == pytest.approx(ends.min())
