"""Signals and gates (R5, R7): attention, gated units, recurrent cells, normalisers, look-ups.

Each is compared with its formula, written out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import excitation_jax as ej

KEYS = jax.random.split(jax.random.key(0), 8)
X = jax.random.normal(KEYS[0], (5, 6))
U, V, W = (jax.random.normal(key, (6, 6)) for key in KEYS[1:4])


def mwp(f: Callable, x: jax.Array, p: jax.Array, **options: bool) -> np.ndarray:
    return np.asarray(jax.vjp(ej.excite(f, **options), x)[1](p)[0])


def affine(h: np.ndarray, w: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Eq. 6 for rows h (n, a), weights (a, b) and probabilities (n, b)."""
    h, w = np.asarray(h, float), np.maximum(np.asarray(w, float), 0)
    total = h @ w
    return h * (np.divide(p, total, out=np.zeros_like(total), where=total > 0) @ w.T)


P = np.asarray(jax.nn.softmax(jax.random.normal(KEYS[4], (5, 6)).ravel()).reshape(5, 6))


def softmaxes() -> list[Callable]:
    def by_hand(s: jax.Array) -> jax.Array:
        e = jnp.exp(s)
        return e / e.sum(-1, keepdims=True)

    def masked(s: jax.Array) -> jax.Array:
        return jax.nn.softmax(jnp.where(jnp.tri(5, dtype=bool), s, -1e9))

    return [jax.nn.softmax, by_hand, masked, jax.nn.sigmoid]


@pytest.mark.parametrize("weights_of", softmaxes())
def test_attention_is_affine_in_the_values(weights_of: Callable) -> None:
    def attend(x: jax.Array) -> jax.Array:
        return weights_of((x @ U) @ (x @ V).T) @ (x @ W)

    a = np.asarray(weights_of((X @ U) @ (X @ V).T), float)
    values = np.maximum(X @ W, 0)
    at_values = affine(values.T, a.T, P.T).T
    wanted = affine(np.maximum(X, 0), W, at_values)
    np.testing.assert_allclose(mwp(attend, X, P), wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("order", [1, -1])
def test_attention_whose_probabilities_come_second(order: int) -> None:
    def attend(x: jax.Array) -> jax.Array:
        a = jax.nn.softmax(x @ U[:, :5])
        return jnp.einsum("ij,jk->ik", *(a, x)[::order]) if order == 1 else (x.T @ a.T).T

    a = np.asarray(jax.nn.softmax(X @ U[:, :5]), float)
    wanted = affine(np.maximum(X, 0).T, a.T, P.T).T
    np.testing.assert_allclose(mwp(attend, X, P), wanted, rtol=1e-4, atol=1e-7)


def test_dot_product_attention_of_jax() -> None:
    x = jax.random.normal(KEYS[5], (2, 5, 3, 4))

    def attend(x: jax.Array) -> jax.Array:
        return jax.nn.dot_product_attention(x + 1, x * 2, x, is_causal=True)

    found = mwp(attend, x, jnp.ones(x.shape) / x.size)
    scores = np.einsum("bthd,bshd->bhts", x + 1, x * 2) / 2
    a = jax.nn.softmax(jnp.where(jnp.tri(5, dtype=bool), scores, -np.inf), axis=-1)
    for b in range(2):
        for head in range(3):
            p = np.full((5, 4), 1 / x.size)
            wanted = affine(np.maximum(x[b, :, head], 0).T, a[b, head].T, p.T).T
            np.testing.assert_allclose(found[b, :, head], wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "gated",
    [
        lambda a, b: jax.nn.sigmoid(a) * b,
        lambda a, b: b * jax.nn.sigmoid(a),
        lambda a, b: jax.nn.silu(a) * b,
        lambda a, b: b * jax.nn.gelu(a),
        lambda a, b: jax.nn.relu(a) * b,
        lambda a, b: jax.nn.hard_sigmoid(a) * b,
        lambda a, b: nn.glu(jnp.concatenate([b, a], -1)),
    ],
    ids=["GLU", "GLU reversed", "SwiGLU", "GEGLU", "ReGLU", "hard sigmoid", "nn.glu"],
)
def test_of_a_gated_unit_the_linear_half_gets_all(gated: Callable) -> None:
    found = mwp(lambda x: gated(x @ U, x @ V), X, P)
    np.testing.assert_allclose(found, affine(np.maximum(X, 0), V, P), rtol=1e-4, atol=1e-7)


def test_squeeze_and_excitation() -> None:
    def block(x: jax.Array) -> jax.Array:
        x = jax.nn.relu(x @ U)
        return x * jax.nn.sigmoid(jax.nn.relu(x.mean(0) @ V) @ W)

    wanted = affine(np.maximum(X, 0), U, P)
    np.testing.assert_allclose(mwp(block, X, P), wanted, rtol=1e-4, atol=1e-7)


def test_a_closed_gate_lets_nothing_through() -> None:
    """h of a gated signal is gate * (x - lambda), so that it is 0 where the gate is."""

    def mixed(x: jax.Array) -> jax.Array:
        gate = jax.nn.relu(jnp.sign(x[:, :1]))  # exactly 0 or 1
        return gate * jnp.tanh(x @ U) + jnp.tanh(x @ V)

    open_ = np.maximum(np.sign(X[:, :1]), 0)
    assert 0 < open_.sum() < len(X)
    h = open_ * (np.tanh(X @ U) + 1), np.tanh(X @ V) + 1
    shares = [P * part / (h[0] + h[1]) for part in h]
    wanted = sum(affine(np.maximum(X, 0), w, p) for w, p in zip((U, V), shares, strict=True))
    # tanh(x) + 1 is only good to 1e-7 near -1.
    np.testing.assert_allclose(mwp(mixed, X, P), wanted, rtol=1e-4, atol=1e-5)


def test_an_update_gate_mixes_bounds() -> None:
    """g * a + (1 - g) * b lies between a and b, so a GRU's state is bounded by -1."""
    cell = nn.RNN(nn.GRUCell(4))
    x = jax.random.normal(KEYS[6], (2, 5, 3))
    params = cell.init(KEYS[7], x)
    report = ej.explain_rules(cell.apply, params, x)
    (scan,) = [row for row in report.rows if row.primitive == "scan"]
    assert scan.lower_bound == -1


def test_a_sigmoid_gates_a_state_between_zero_and_one() -> None:
    def model(x: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(x @ V) * jnp.clip(x @ U, 0, 1)

    rows = ej.explain_rules(lambda _, x: model(x), None, X).rows
    (row,) = (row for row in rows if row.primitive == "mul" and row.kind == "signal")
    assert row.rule == "R7 gate"
    np.testing.assert_allclose(
        mwp(model, X, P), affine(np.maximum(X, 0), U, P), rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm, lambda: nn.GroupNorm(2)])
def test_a_normaliser_passes_probability_and_its_scale_has_a_sign(norm: Callable) -> None:
    module = norm()
    params = module.init(KEYS[7], X)
    scale = jnp.array([1.0, -1, 2, -2, 0.5, -0.5])
    params = jax.tree.map(lambda a: scale if a.shape == (6,) and a[0] == 1 else a, params)
    found = mwp(lambda x: jax.nn.relu(module.apply(params, x @ U)), X, P)
    wanted = affine(np.maximum(X, 0), U * np.sign(scale), P)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-7)


REGROUPED = {
    "apart": lambda x, m, r: x * r - m * r,
    "the mean first": lambda x, m, r: -m * r + x * r,
    "an offset of nothing": lambda x, m, r: x * r + (jnp.zeros(6) - m * r),
    "negated": lambda x, m, r: -(r * m - r * x),
    "spread": lambda x, m, r: (
        x * jnp.broadcast_to(r, x.shape) + jnp.broadcast_to(-(m * r), x.shape)
    ),
}


@pytest.mark.parametrize("grouped", REGROUPED)
@pytest.mark.parametrize("contrastive", [False, True])
def test_a_mean_that_is_subtracted_takes_nothing_however_it_is_grouped(
    grouped: str, contrastive: bool
) -> None:
    def model(x: jax.Array, group: Callable) -> jax.Array:
        y = x @ U
        mean = y.mean(-1, keepdims=True)
        scale = lax.rsqrt(((y - mean) ** 2).mean(-1, keepdims=True) + 1e-6)
        return jax.nn.relu(group(y, mean, scale)) @ W

    plain = lambda x, m, r: (x - m) * r  # noqa: E731
    found, wanted = (
        mwp(lambda x, g=g: model(x, g), X, P, contrastive=contrastive)
        for g in (REGROUPED[grouped], plain)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_offset_and_scale_in_a_regrouped_norm_leave_the_mean_without_a_share() -> None:
    """Keras' LayerNormalization: inv = r * gamma; x * inv + (beta - mean * inv)."""
    gamma, beta = jnp.array([1.0, -1, 2, -2, 0.5, -0.5]), jnp.linspace(-1, 1, 6)

    def model(x: jax.Array) -> jax.Array:
        y = x @ U
        mean = y.mean(-1, keepdims=True)
        scale = lax.rsqrt(((y - mean) ** 2).mean(-1, keepdims=True) + 1e-6) * gamma
        return y * scale + (beta - mean * scale)

    wanted = affine(np.maximum(X, 0), U * np.sign(gamma), P)
    np.testing.assert_allclose(mwp(model, X, P), wanted, rtol=1e-4, atol=1e-6)


def test_a_norm_behind_a_norm_is_one_too() -> None:
    """The mean is of what the first one made, whatever that was scaled with (post-norm blocks)."""
    first, second = nn.LayerNorm(), nn.LayerNorm()
    params = first.init(KEYS[7], X)

    def model(x: jax.Array) -> jax.Array:
        return second.apply(params, first.apply(params, x @ U))

    report = ej.explain_rules(lambda w, x: model(x), (), X)
    assert sum(row.rule == "R5 normaliser" for row in report.rows) >= 2
    assert not any(row.rule.startswith("R4") for row in report.rows)
    np.testing.assert_allclose(mwp(model, X, P), affine(np.maximum(X, 0), U, P), atol=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        lambda x: x @ U - (x @ U).mean(-1, keepdims=True) @ W[:1],  # a layer between
        lambda x: x @ U + (x @ U).max(-1, keepdims=True),  # not subtracted
        lambda x: (x @ U) * jnp.exp(X) - (x @ V).mean(-1, keepdims=True),  # of another value
    ],
)
def test_other_statistics_are_summands(model: Callable) -> None:
    report = ej.explain_rules(lambda w, x: model(x), (), X)
    assert not any("R5 normaliser" in row.rule for row in report.rows)


LOGSUMEXPS = {
    "jax": lambda y: jax.nn.logsumexp(y, -1, keepdims=True),
    "one maximum": lambda y: (lambda m: jnp.log(jnp.exp(y - m).sum(-1, keepdims=True)) + m)(
        y.max(-1, keepdims=True)
    ),
    "the maximum twice": lambda y: (
        jnp.log(jnp.exp(y - y.max(-1, keepdims=True)).sum(-1, keepdims=True)) + y.max(-1)[:, None]
    ),
}


@pytest.mark.parametrize("how", LOGSUMEXPS)
@pytest.mark.parametrize("contrastive", [False, True])
def test_the_maximum_of_a_logsumexp_is_no_part_of_it(how: str, contrastive: bool) -> None:
    plain = lambda y: jnp.log(jnp.exp(y).sum(-1, keepdims=True))  # noqa: E731
    p = jnp.full((5, 1), 0.2)
    found, wanted = (
        mwp(lambda x, f=f: f(x @ U), X, p, contrastive=contrastive)
        for f in (LOGSUMEXPS[how], plain)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    assert np.abs(wanted).max() > 0.01


def test_two_signals_are_refused_by_name() -> None:
    with pytest.raises(ej.UnsupportedPrimitiveError, match="dot_general.*neither of them recogn"):
        ej.excite(lambda x: (x @ U) @ (x @ V).T)(X)
    with pytest.raises(ej.UnsupportedPrimitiveError, match="mul.*neither of them recognised"):
        ej.excite(lambda x: (x @ U) * (x @ V))(X)


def test_a_tie_names_both_factors_and_says_how_to_mark_one() -> None:
    def model(x: jax.Array) -> jax.Array:
        return (x @ U) * jnp.sinh(x @ V)[:, ::-1]

    with pytest.raises(ej.UnsupportedPrimitiveError) as raised:
        ej.excite(model)(X)
    said = str(raised.value)
    assert "that of dot_general at" in said and "and that of sinh at" in said
    assert "excitation_jax.gate" in said and "gates=(" in said


class Routed(nn.Module):
    """Features times what another layer makes of the input, which nothing says to be a gate."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(3)(nn.Dense(6, name="values")(x) * nn.Dense(6, name="router")(x))


def marked_from_inside(a: jax.Array, b: jax.Array) -> jax.Array:
    return a * ej.gate(b)


def marked_before_it_was_moved(a: jax.Array, b: jax.Array) -> jax.Array:
    return a * jnp.flip(2 * ej.gate(b[:, ::-1]) / 2, 1)


@pytest.mark.parametrize("product", [marked_from_inside, marked_before_it_was_moved])
@pytest.mark.parametrize("around", [lambda f: f, jax.jit, jax.checkpoint])
def test_what_the_user_marks_is_the_gate(product: Callable, around: Callable) -> None:
    """P goes to the other factor, with the gate's sign: above it (h g) W is h (g W)."""

    def model(x: jax.Array) -> jax.Array:
        return product(jax.nn.relu(x @ U), x @ V) @ W

    h, gate = np.maximum(X @ U, 0), np.asarray(X @ V)
    at_h = np.stack([
        affine(h[i : i + 1], gate[i][:, None] * np.asarray(W), P[i : i + 1])[0] for i in range(5)
    ])  # fmt: skip
    wanted = affine(np.maximum(X, 0), U, at_h)
    np.testing.assert_allclose(mwp(around(model), X, P), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("pattern", ["router", "router/*", "*outer", ("router",)])
def test_modules_are_marked_from_outside(pattern: str) -> None:
    module = Routed()
    params = module.init(KEYS[7], X)

    def by_hand(params: Any, x: jax.Array) -> jax.Array:
        layer = params["params"]
        dense = lambda name, x: x @ layer[name]["kernel"] + layer[name]["bias"]  # noqa: E731
        return dense("Dense_0", dense("values", x) * ej.gate(dense("router", x)))

    with pytest.raises(ej.UnsupportedPrimitiveError):
        ej.excitation_vjp(module.apply, params, X, 0)
    found = ej.excitation_vjp(module.apply, params, X, 0, gates=pattern).mwp
    wanted = ej.excitation_vjp(by_hand, params, X, 0).mwp
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)
    assert np.asarray(wanted).sum() > 1
    through = jax.vjp(ej.excite(lambda x: module.apply(params, x), gates=pattern), X)[1]
    top = jnp.zeros((5, 3)).at[:, 0].set(1)
    np.testing.assert_allclose(through(top)[0], wanted, rtol=1e-5, atol=1e-7)


def test_a_mark_is_first_in_the_order_and_no_layer() -> None:
    def model(x: jax.Array) -> jax.Array:
        return ej.gate(x @ U) * jax.nn.sigmoid(x @ V)

    report = ej.explain_rules(lambda w, x: model(x), (), X)
    (product,) = (row for row in report.rows if row.primitive == "mul")
    assert product.note.startswith("gate: dot_general") or "gate: name" in product.note
    layers = ej.layers(lambda w, x: model(x), (), X)
    assert not any("excitation_jax" in layer.name for layer in layers)
    turned = np.where(X @ U < 0, P, 0)  # a sigmoid that a negative gate wants small
    wanted = affine(np.maximum(X, 0), V, P - turned) + affine(np.maximum(X, 0), -V, turned)
    np.testing.assert_allclose(mwp(model, X, P), wanted, rtol=1e-4, atol=1e-6)


def test_marks_that_are_no_patterns_or_match_nothing_are_errors() -> None:
    module = Routed()
    params = module.init(KEYS[7], X)
    with pytest.raises(ValueError, match="'ruter/x' matches no module and no tag.*router"):
        ej.excitation_vjp(module.apply, params, X, 0, gates="ruter/x")
    with pytest.raises(TypeError, match="patterns of module paths"):
        ej.excite(lambda x: x @ U, gates=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"use excitation_jax\.gate"):
        ej.tag(X, "excitation_jax.gate")


TANHS = {
    "tanh": jnp.tanh,
    "by hand": lambda y: 1 - 2 / (jnp.exp(2 * y) + 1),
    "of a sigmoid": lambda y: 2 * jax.nn.sigmoid(2 * y) - 1,
}
LAYERS = {
    "dot": lambda h, w: h @ w,
    "product and sum": lambda h, w: (h[..., None] * w).sum(-2),
    "moved before": lambda h, w: h.T[::-1].T @ w[::-1],
}


@pytest.mark.parametrize("tanh", TANHS)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("around", [lambda f: f, jax.checkpoint])
def test_the_sign_of_a_gate_counts(tanh: str, layer: str, around: Callable) -> None:
    """(h g) W is h (g W), whatever the sign of g in each example; h of ELU is x - lambda (D3)."""

    def model(x: jax.Array) -> jax.Array:
        gated = around(lambda x: jax.nn.elu(x @ U) * TANHS[tanh](x @ V))
        return LAYERS[layer](gated(x), W)

    h, gate = np.asarray(jax.nn.elu(X @ U)) + 1, np.asarray(jnp.tanh(X @ V))
    at_h = np.stack([
        affine(h[i : i + 1], gate[i][:, None] * np.asarray(W), P[i : i + 1])[0] for i in range(5)
    ])  # fmt: skip
    wanted = affine(np.maximum(X, 0), U, at_h)
    np.testing.assert_allclose(mwp(model, X, P), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "sigmoid",
    [
        lambda y: 1 / (1 + jnp.exp(-y)),
        lambda y: jnp.exp(y) / (jnp.exp(y) + 1),
        lambda y: 0.5 * (jnp.tanh(y / 2) + 1),
        lambda y: 1 - jax.nn.sigmoid(-y),
    ],
)
def test_a_sigmoid_by_hand_is_a_gate_and_no_normaliser(sigmoid: Callable) -> None:
    """h of what it gates is g (s - lambda), with the lambda of ELU."""

    def model(x: jax.Array, gate: Callable) -> jax.Array:
        return (jax.nn.elu(x @ U) * gate(x @ V)) @ W

    found, wanted = (mwp(lambda x, g=g: model(x, g), X, P) for g in (sigmoid, jax.nn.sigmoid))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_features_scaled_by_signed_conditions() -> None:
    """FiLM on raw features: where the scale is negative, they are wanted smaller (D1)."""

    def model(x: jax.Array) -> jax.Array:
        scale = (x @ V).mean(0)
        return jax.nn.relu((x @ U) * scale + x.mean(0) @ W)

    scale = np.asarray((X @ V).mean(0))
    film = lambda x: (x @ U) * (x @ V).mean(0)  # noqa: E731
    wanted = affine(np.maximum(X, 0), np.asarray(U) * np.sign(scale), P)
    np.testing.assert_allclose(mwp(film, X, P), wanted, rtol=1e-4, atol=1e-6)
    assert np.isfinite(mwp(model, X, P)).all()


TOKENS = jnp.array([[3, 0, 2, 2], [1, 1, 0, 3]])
TABLE = jnp.abs(jax.random.normal(KEYS[5], (4, 6)))


def look_ups() -> list[Callable]:
    embed = nn.Embed(4, 6)
    return [
        lambda t: TABLE[t],
        lambda t: jnp.take(TABLE, t, axis=0),
        lambda t: embed.apply({"params": {"embedding": TABLE}}, t),
        lambda t: jax.nn.one_hot(t, 4) @ TABLE,
        lambda t: TABLE[jnp.clip(t, 0, 3)],
    ]


@pytest.mark.parametrize("look_up", look_ups())
def test_probability_per_token(look_up: Callable) -> None:
    def model(w: jax.Array, tokens: jax.Array) -> jax.Array:
        return ej.tag(look_up(tokens), "found").sum(1) @ w

    result = ej.excitation_vjp(model, W, TOKENS, 2)
    assert result.mwp.shape == TOKENS.shape and result.mwp.dtype == jnp.float32
    found = ej.excitation_vjp(model, W, TOKENS, 2, layer="found").mwp
    np.testing.assert_allclose(result.mwp, found.sum(-1), rtol=1e-5)
    np.testing.assert_allclose(result.mwp.sum(1), 1, rtol=1e-5)


def test_integers_used_as_numbers_are_refused() -> None:
    with pytest.raises(TypeError, match="the input x is int32.*convert it"):
        ej.excitation_vjp(lambda w, x: x.astype(float) @ w, W[:4], TOKENS, 0)


def test_a_class_token_takes_no_probability() -> None:
    """Constants that are joined to the tokens are no neurons, also behind a layer."""
    token = jnp.ones((1, 6))

    def model(w: jax.Array, x: jax.Array) -> jax.Array:
        tokens = jnp.concatenate([token, x]) + 0.1
        tokens = (tokens - tokens.mean(-1, keepdims=True)) * 2
        values = ej.tag(tokens @ jnp.abs(w), "values")
        return (jax.nn.softmax(tokens @ tokens.T) @ values)[:1]

    found = ej.excitation_vjp(model, W, X, 0, layer="values").mwp
    assert (found[0] == 0).all()
    np.testing.assert_allclose(found.sum(), 1, rtol=1e-5)


def test_a_hidden_state_that_wraps_around_is_followed_to_its_start() -> None:
    """cumsum and scan of the same recurrence agree."""

    def scanned(x: jax.Array) -> jax.Array:
        return lax.scan(lambda s, x: (s + x, s + x), jnp.zeros(6), x)[1]

    x = jnp.abs(X)
    found, wanted = (mwp(f, x, P) for f in (scanned, lambda x: jnp.cumsum(x, 0)))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("activation", [jax.nn.silu, jax.nn.gelu, jax.nn.hard_swish])
def test_an_activation_of_several_ways_rises(activation: Callable) -> None:
    """x * sigmoid(x) is one child's activation, not a signal and its gate, and rises (D1).

    What wants a negative multiple of it larger wants it, and so its argument, smaller.
    """
    scale = jnp.array([1.0, -1, 2, -2, 0.5, -0.5])
    found = mwp(lambda x: activation(x @ U) * scale, X, P)
    right = affine(np.maximum(X, 0), U * np.sign(scale), P)
    np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-7)


def _put_together(name: str, w: list[np.ndarray], frozen: np.ndarray | None) -> Any:
    """A model with a gate; ``frozen``: the input at which the gate is a constant."""
    at = (lambda x: x) if frozen is None else (lambda x: jnp.asarray(frozen))
    relu, first, second, third, experts = jax.nn.relu, *w

    def dynamic(x: jax.Array) -> jax.Array:
        kernel = jnp.einsum("ne,edh->ndh", jax.nn.softmax(at(x)[:, 0] @ first[:, :2]), experts)
        return jnp.einsum("npd,ndh->nph", relu(x @ second), kernel).sum(1)

    def film(x: jax.Array) -> jax.Array:
        scale = jnp.exp(at(x).mean(1, keepdims=True) @ first) + 1
        return (relu(x @ second) * scale).sum(1) @ third

    def self_gated(x: jax.Array) -> jax.Array:
        return (relu(x @ second) * jax.nn.silu(at(x) @ first + 20)).sum(1) @ third

    def divided(x: jax.Array) -> jax.Array:
        size = jnp.abs(at(x)).max((1, 2), keepdims=True)
        return (relu((x / size) @ second) * size).sum(1) @ third

    def put_back(x: jax.Array) -> jax.Array:
        mean = x.mean(1, keepdims=True)
        made = relu((x - mean) @ second) @ third
        return (made + mean[..., :3] if frozen is None else made)[:, 2]

    return {"dynamic": dynamic, "film": film, "self-gated": self_gated, "divided": divided,
            "put back": put_back}[name]  # fmt: skip


@pytest.mark.parametrize("name", ["dynamic", "film", "self-gated", "divided", "put back"])
@pytest.mark.parametrize("seed", range(3))
def test_d7_a_gate_takes_nothing(name: str, seed: int) -> None:
    """The map is that of the same network with the gate's value as a constant."""
    rng = np.random.default_rng(seed)
    w = [rng.normal(size=(4, 4)), rng.normal(size=(4, 4)), np.abs(rng.normal(size=(4, 3)))]
    w.append(np.abs(rng.normal(size=(2, 4, 3))))
    x = rng.uniform(0.1, 1, (1, 3, 4))
    with jax.enable_x64(True):
        found, right = (
            np.asarray(ej.excitation_vjp(lambda _, x, m=m: m(x), {}, x, 1).mwp)
            for m in (_put_together(name, w, None), _put_together(name, w, x))
        )
    np.testing.assert_allclose(found, right, atol=1e-9)
    assert right.sum() > 0.1
