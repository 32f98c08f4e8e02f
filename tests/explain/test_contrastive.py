"""Where a contrastive pass subtracts the negated classifier (Eq. 7-9): once on every path."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import excitation_jax as ej
from excitation_jax import methods

KEYS = jax.random.split(jax.random.key(0), 4)
X = jnp.abs(jax.random.normal(KEYS[0], (3, 5)))
B, C = (jax.random.normal(key, (5, 5)) for key in KEYS[1:3])
P = np.asarray(jax.nn.one_hot(jnp.array([0, 2, 4]), 5))


def share(h: np.ndarray, w: np.ndarray, p: np.ndarray, contrastive: bool = False) -> np.ndarray:
    """Eq. 6, or Eq. 8 and 9: minus the same of the negated weights."""
    h = np.asarray(h, float)

    def excite(w: np.ndarray) -> np.ndarray:
        w = np.maximum(np.asarray(w, float), 0)
        total = h @ w
        return h * (np.divide(p, total, out=np.zeros_like(total), where=total > 0) @ w.T)

    return excite(w) - excite(-w) if contrastive else excite(w)


def test_a_skip_across_the_top_is_contrasted_where_it_meets_its_own_first_layer() -> None:
    def model(x: jax.Array) -> jax.Array:
        h = jax.nn.relu(x @ B)
        return h @ C + h

    h = np.maximum(X @ B, 0)
    branch, skip = np.maximum(h @ C, 0), h
    p = np.divide(P, branch + skip, out=np.zeros_like(P), where=branch + skip > 0)
    through_top = share(X, B, share(h, C, p * branch, contrastive=True))
    along_skip = share(X, B, p * skip, contrastive=True)
    _, vjp = jax.vjp(ej.excite(model, contrastive=True), X)
    np.testing.assert_allclose(
        vjp(jnp.asarray(P))[0], through_top + along_skip, rtol=1e-4, atol=1e-6
    )


def test_only_the_last_step_of_a_loop_is_contrasted() -> None:
    """The model's last layer is the last step of a loop over its layers."""

    def model(x: jax.Array) -> jax.Array:
        return lax.scan(lambda h, w: (jax.nn.relu(h) @ w, None), x, jnp.stack([B, C]))[0]

    _, vjp = jax.vjp(ej.excite(model, contrastive=True), X)
    at_hidden = share(np.maximum(X @ B, 0), C, P, contrastive=True)
    np.testing.assert_allclose(vjp(jnp.asarray(P))[0], share(X, B, at_hidden), rtol=1e-4, atol=1e-6)


def test_outputs_at_two_depths_are_contrasted_at_their_own_heads() -> None:
    def model(x: jax.Array) -> tuple:
        h = jax.nn.relu(x @ B)
        return h @ C, h

    (_, h), vjp = jax.vjp(ej.excite(model, contrastive=True), X)
    top = share(X, B, share(h, C, P, contrastive=True))
    early = share(X, B, P, contrastive=True)
    (found,) = vjp((jnp.asarray(P) / 2, jnp.asarray(P) / 2))
    np.testing.assert_allclose(found, (top + early) / 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rules", [methods.GRADIENT, methods.LRP_EPSILON, methods.WINNER_TAKE_ALL])
def test_rules_without_a_contrast_are_refused(rules: ej.RuleSet) -> None:
    """They would give the map without one, and say nothing."""
    weights, x = jnp.eye(3), jnp.ones((1, 3))
    with pytest.raises(ValueError, match="have no contrast .* give contrastive=False"):
        ej.excitation_vjp(lambda w, x: x @ w, weights, x, 0, contrastive=True, rules=rules)
    ej.excitation_vjp(lambda w, x: x @ w, weights, x, 0, rules=rules)
