"""Loops, branches and shard_map inside a model (R9): the rules apply inside them.

Each is compared with the same model written without control flow.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import excitation_jax as ej

KEYS = jax.random.split(jax.random.key(0), 8)
X = jax.random.normal(KEYS[0], (2, 6))
W = jax.random.normal(KEYS[1], (4, 6, 6))
B = jax.random.normal(KEYS[2], (4, 6))
HEAD = jax.random.normal(KEYS[3], (6, 3))
PARAMS = {"w": W, "b": B, "head": HEAD}


def layer(w: jax.Array, b: jax.Array, h: jax.Array) -> jax.Array:
    return h + jax.nn.relu(h @ w + b)


def unrolled(params: dict, x: jax.Array) -> jax.Array:
    h = x
    for w, b in zip(params["w"], params["b"], strict=True):
        h = ej.tag(layer(w, b, h), "block")
    return h @ params["head"]


def scanned(params: dict, x: jax.Array, **options: int) -> jax.Array:
    def step(h: jax.Array, p: tuple) -> tuple:
        return ej.tag(layer(*p, h), "block"), None

    return lax.scan(step, x, (params["w"], params["b"]), **options)[0] @ params["head"]


def looped(params: dict, x: jax.Array) -> jax.Array:
    def step(i: jax.Array, h: jax.Array) -> jax.Array:
        return layer(params["w"][i], params["b"][i], h)

    return lax.fori_loop(0, 4, step, x) @ params["head"]


def counted(params: dict, x: jax.Array) -> jax.Array:
    def step(state: tuple) -> tuple:
        i, h = state
        return i + 2, layer(params["w"][i // 2], params["b"][i // 2], h)

    return lax.while_loop(lambda state: state[0] < 7, step, (0, x))[1] @ params["head"]


def rematted(params: dict, x: jax.Array) -> jax.Array:
    @jax.checkpoint
    def step(h: jax.Array, p: tuple) -> tuple:
        return layer(*p, h), None

    return lax.scan(step, x, (params["w"], params["b"]))[0] @ params["head"]


def branched(params: dict, x: jax.Array) -> jax.Array:
    def step(h: jax.Array, p: tuple) -> tuple:
        return lax.cond(h.sum() > -1e9, layer, lambda w, b, h: h * 2, *p, h), None

    return lax.scan(step, x, (params["w"], params["b"]))[0] @ params["head"]


def nested(params: dict, x: jax.Array) -> jax.Array:
    def outer(h: jax.Array, p: tuple) -> tuple:
        return lax.scan(lambda h, q: (layer(*q, h), None), h, p)[0], None

    pairs = (params["w"].reshape(2, 2, 6, 6), params["b"].reshape(2, 2, 6))
    return lax.scan(outer, x, pairs)[0] @ params["head"]


MODELS = [scanned, looped, counted, rematted, branched, nested]


@pytest.mark.parametrize("contrastive", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_equals_the_model_without_control_flow(model: Callable, contrastive: bool) -> None:
    wanted = ej.excitation_vjp(unrolled, PARAMS, X, 1, contrastive=contrastive)
    found = ej.excitation_vjp(model, PARAMS, X, 1, contrastive=contrastive)
    np.testing.assert_allclose(found.outputs, wanted.outputs, rtol=1e-6)
    np.testing.assert_allclose(found.mwp, wanted.mwp, rtol=1e-5, atol=1e-7)
    if not contrastive:  # less than one where a bias drives a unit without excitatory input
        assert (found.mwp >= 0).all() and (found.mwp.sum(1) <= 1 + 1e-5).all()


@pytest.mark.parametrize("model", MODELS)
def test_outputs_are_the_models_own(model: Callable) -> None:
    outputs, _ = jax.vjp(jax.jit(ej.excite(model, argnums=1)), PARAMS, X)
    np.testing.assert_array_equal(outputs, jax.jit(model)(PARAMS, X))


@pytest.mark.parametrize("options", [{"unroll": 2}, {"reverse": True}, {"unroll": 4}])
def test_options_of_scan(options: dict) -> None:
    params = dict(PARAMS)
    if options.get("reverse"):
        params.update(w=W[::-1], b=B[::-1])
    found = ej.excitation_vjp(lambda p, x: scanned(p, x, **options), params, X, 1)
    wanted = ej.excitation_vjp(unrolled, PARAMS, X, 1)
    np.testing.assert_allclose(found.mwp, wanted.mwp, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("contrastive", [False, True])
def test_a_layer_inside_a_loop_has_an_axis_of_steps(contrastive: bool) -> None:
    def explain(model: Callable, names: object, target: object = 1) -> ej.Excitation:
        return ej.excitation_vjp(model, PARAMS, X, target, layer=names, contrastive=contrastive)

    names = ["block", "block#2", "block#3", "block#4"]
    wanted = explain(unrolled, names).mwp
    found = explain(scanned, "block").mwp
    assert found.shape == (4, 2, 6)
    for step, name in enumerate(names):
        np.testing.assert_allclose(found[step], wanted[name], rtol=1e-5, atol=1e-7)
    several = explain(scanned, "block", jnp.array([[1, 0], [1, 2]])).mwp
    assert several.shape == (4, 2, 2, 6)
    np.testing.assert_allclose(several[:, :, 0], found, rtol=1e-5, atol=1e-7)
    (row,) = [row for row in ej.layers(scanned, PARAMS, X) if row.name == "block"]
    assert row.shape == (4, 2, 6)


def test_what_every_step_returns_can_be_explained() -> None:
    def model(params: dict, x: jax.Array) -> jax.Array:
        def step(h: jax.Array, p: tuple) -> tuple:
            h = layer(*p, h)
            return h, h @ params["head"]

        return lax.scan(step, x, (params["w"], params["b"]))[1]

    outputs, vjp = jax.vjp(ej.excite(model, argnums=1), PARAMS, X)
    prior = jnp.zeros_like(outputs).at[2, :, 1].set(1)
    shorter = {**PARAMS, "w": W[:3], "b": B[:3]}
    np.testing.assert_allclose(
        vjp(prior)[1], ej.excitation_vjp(unrolled, shorter, X, 1).mwp, rtol=1e-5, atol=1e-7
    )
    # The head lies inside the loop, whose later steps must not contrast once more.
    _, vjp = jax.vjp(ej.excite(model, argnums=1, contrastive=True), PARAMS, X)
    wanted = ej.excitation_vjp(unrolled, shorter, X, 1, contrastive=True).mwp
    np.testing.assert_allclose(vjp(prior)[1], wanted, rtol=1e-5, atol=1e-6)


def test_a_sequence_gets_probability_per_step() -> None:
    """An Elman network: x is what the loop runs over."""
    w, u = jnp.abs(W[0]) / 5, jnp.abs(W[1]) / 5

    def recurrent(params: tuple, x: jax.Array) -> jax.Array:
        def step(h: jax.Array, x: jax.Array) -> tuple:
            h = jnp.tanh(x @ params[0] + h @ params[1])
            return h, None

        return lax.scan(step, jnp.zeros(6), x)[0][None] @ HEAD

    def plain(params: tuple, x: jax.Array) -> jax.Array:
        h = jnp.zeros(6)
        for x_t in x:
            h = jnp.tanh(x_t @ params[0] + h @ params[1])
        return h[None] @ HEAD

    x = jnp.abs(jax.random.normal(KEYS[4], (5, 6)))
    for contrastive in (False, True):
        args = ((w, u), x, 2)
        found = ej.excitation_vjp(recurrent, *args, contrastive=contrastive)
        wanted = ej.excitation_vjp(plain, *args, contrastive=contrastive)
        assert found.mwp.shape == (5, 6)
        np.testing.assert_allclose(found.mwp, wanted.mwp, rtol=1e-4, atol=1e-6)
    # Nothing is negative, so each step's input has a share.
    assert (ej.excitation_vjp(recurrent, *args).mwp.sum(1) > 0).all()


@pytest.mark.parametrize("joined", [False, True])
def test_a_constant_initial_state_takes_no_probability(joined: bool) -> None:
    """As if the loop were written out, where it is a constant like any other."""
    w, u = jnp.abs(W[0]) / 5, jnp.abs(W[1]) / 5

    def cell(h: jax.Array, x: jax.Array) -> jax.Array:
        if joined:  # as Haiku's LSTM has it
            return jnp.tanh(jnp.concatenate([x, h]) @ jnp.concatenate([w, u]) + 0.1)
        return jnp.tanh(x @ w + (h @ u + 0.1))

    def looped(x: jax.Array) -> jax.Array:
        return lax.scan(lambda h, x: (cell(h, x), None), jnp.full(6, 0.3), x)[0]

    def written_out(x: jax.Array) -> jax.Array:
        h = jnp.full(6, 0.3)
        for x_t in x:
            h = cell(h, x_t)
        return h

    x, p = jnp.abs(X[0].reshape(1, 6)), jax.nn.one_hot(2, 6)
    x = jnp.concatenate([x, x / 2, x[:, ::-1]])
    found, wanted = (jax.vjp(ej.excite(f), x)[1](p)[0] for f in (looped, written_out))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.sum(), 1, rtol=1e-4)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_switch_takes_the_branch_that_was_taken(index: int) -> None:
    branches: list[Callable] = [
        lambda p, x: jax.nn.relu(x @ p["w"][0]),
        lambda p, x: x,
        lambda p, x: jnp.abs(x @ p["w"][1]) + x,
    ]

    def model(p: dict, i: jax.Array, x: jax.Array) -> jax.Array:
        return lax.switch(i, branches, p, x) @ p["head"]

    outputs, vjp = jax.vjp(lambda x: ej.excite(model, argnums=2)(PARAMS, index, x), X)
    plain = ej.excite(lambda x: branches[index](PARAMS, x) @ HEAD)
    wanted, wanted_vjp = jax.vjp(plain, X)
    np.testing.assert_allclose(outputs, wanted, rtol=1e-6)
    prior = jax.nn.one_hot(jnp.array([0, 2]), 3)
    np.testing.assert_allclose(vjp(prior)[0], wanted_vjp(prior)[0], rtol=1e-5, atol=1e-7)


def test_a_choice_for_each_example() -> None:
    """vmap of a cond makes selects, also of the weights, which are no signals for it."""

    def one(x: jax.Array) -> jax.Array:
        first, second = lambda x: jax.nn.relu(x @ W[0]), lambda x: jnp.tanh(x @ W[1])
        return lax.cond(x.sum() > 0, first, second, x)

    def written_out(x: jax.Array) -> jax.Array:
        positive = x.sum(1, keepdims=True) > 0
        return jnp.where(positive, jax.nn.relu(x @ W[0]), jnp.tanh(x @ W[1]))

    x = jnp.concatenate([X, -X])
    found, wanted = (
        jax.vjp(ej.excite(lambda x, f=f: f(x) @ HEAD), x) for f in (jax.vmap(one), written_out)
    )
    np.testing.assert_array_equal(found[0], wanted[0])
    prior = jax.nn.one_hot(jnp.array([0, 2, 1, 1]), 3)
    np.testing.assert_allclose(found[1](prior)[0], wanted[1](prior)[0], rtol=1e-5, atol=1e-7)


MESH = jax.make_mesh((1,), ("d",), axis_types=(AxisType.Auto,))
MASK = np.array([True, False, True, True, False, True])
SCALE = jax.random.normal(KEYS[5], (12,))
WITH_CONSTANTS: dict[str, Callable] = {
    "padded": lambda x: jnp.pad(x, ((0, 0), (1, 0))),
    "joined": lambda x: jnp.concatenate([x, jnp.ones((len(x), 2))], 1),
    "masked": lambda x: jnp.where(MASK, x, 0),
    "a masked case": lambda x: jnp.where(MASK[::-1], x, jnp.where(MASK, x, 0)),
    "written into": lambda x: lax.dynamic_update_slice_in_dim(x, jnp.ones((len(x), 2)), 1, 1),
    "padded before a scale": lambda x: jnp.pad(x @ W[0], ((0, 0), (0, 1))) * SCALE[:7],
    "joined before a scale": lambda x: jnp.concatenate([x @ W[0], x @ W[1]], 1) * SCALE,
}


@pytest.mark.parametrize("name", WITH_CONSTANTS)
def test_constants_meet_the_signal_inside_shard_map(name: str) -> None:
    """They are the same on every device, and JAX wants them marked as what they are joined to."""
    weights = jax.random.normal(KEYS[6], (12, 3))

    def part(x: jax.Array) -> jax.Array:
        h = WITH_CONSTANTS[name](x)
        return jnp.tanh(h) @ weights[: h.shape[1]]

    sharded = jax.shard_map(part, mesh=MESH, in_specs=P("d"), out_specs=P("d"))
    p = jnp.array([[0.2, 0.1, 0.3], [0.1, 0.1, 0.2]])
    found, wanted = (jax.vjp(ej.excite(f), X)[1](p)[0] for f in (sharded, part))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


def test_numbers_are_known_behind_shard_map() -> None:
    """JAX brings them onto the mesh of what comes out of it."""
    slope, spec = jax.grad(lambda x: jnp.tanh(x).sum()), P("d")
    mapped = jax.shard_map(lambda x: x @ W[0], mesh=MESH, in_specs=spec, out_specs=spec)
    report = ej.explain_rules(lambda x: slope(mapped(x)), X)
    assert report.rows[-1].lower_bound == pytest.approx(0, abs=1e-6)


def test_a_while_loop_of_unknown_length_is_refused() -> None:
    def model(x: jax.Array) -> jax.Array:
        return lax.while_loop(lambda h: h.sum() < 100, lambda h: h * 2, jax.nn.relu(x) + 1)

    with pytest.raises(ej.UnsupportedPrimitiveError) as error:
        ej.excite(model)(X)
    message = str(error.value)
    assert "while in (top level) at" in message and "test_control_flow.py" in message
    assert "the number of steps of this while loop depends on the data" in message
    assert "jax.lax.scan, or fori_loop with fixed bounds" in message


def test_a_while_loop_that_only_scales_is_no_obstacle() -> None:
    def model(x: jax.Array) -> jax.Array:
        scale = lax.while_loop(lambda s: s > 1, lambda s: s / 2, jnp.abs(x).max())
        return x * jax.nn.sigmoid(scale)

    _, vjp = jax.vjp(ej.excite(model), X)
    np.testing.assert_allclose(vjp(jnp.ones_like(X))[0], 1, rtol=1e-6)


def test_only_the_condition_depends_on_the_input() -> None:
    def model(x: jax.Array) -> jax.Array:
        return lax.cond(x.sum() > 0, lambda: jnp.ones(3), lambda: jnp.zeros(3))

    with pytest.raises(ej.UnsupportedPrimitiveError, match="only its condition depends"):
        ej.excite(model)(X)


def test_every_offender_inside_is_named() -> None:
    def model(x: jax.Array) -> jax.Array:
        def step(h: jax.Array, _: None) -> tuple:
            return jnp.fft.irfft(jnp.fft.rfft(h), 6), None

        return lax.scan(step, x, None, length=2)[0]

    with pytest.raises(ej.UnsupportedPrimitiveError, match="2 operation"):
        ej.excite(model)(X)


def hidden_forms() -> dict[str, Callable]:
    """Models by the option of JAX that turns a part of them into a hi-primitive."""
    halve = jax.custom_vjp(lambda x: x / 2)
    halve.defvjp(lambda x: (x / 2, None), lambda _, g: (g / 2,))
    double = jax.custom_jvp(lambda x: x * 2)
    double.defjvps(lambda t, _, x: t * 2)
    models = {
        "jax_remat3": lambda x: jax.checkpoint(jnp.sin)(x) * 2,
        "jax_custom_vjp3": lambda x: halve(x) * 2,
        "jax_custom_jvp3": lambda x: double(x) * 2,
        "jax_scan3": lambda x: lax.scan(lambda c, _: (c * 2, None), x, length=2)[0],
    }
    return {name: model for name, model in models.items() if hasattr(jax.config, name)}


@pytest.mark.parametrize("option", hidden_forms())
def test_forms_that_hide_what_is_inside_are_refused(option: str) -> None:
    """JAX has some of these options only from a version on; where it has one, it is tested."""
    before = getattr(jax.config, option)
    jax.config.update(option, True)
    try:
        jaxpr = jax.make_jaxpr(hidden_forms()[option])(X)
        hidden = any(eqn.primitive.name == "call_hi_primitive" for eqn in jaxpr.eqns)
        # jax 0.10 has the option for custom_vjp but not yet the form.
        assert hidden or jax.__version__.startswith("0.10")
        # jax_scan3 also makes arrays that are written in place, and those are met first.
        reason = "new_ref" if option == "jax_scan3" else f"hi-primitives.*{option}"
        if hidden:
            with pytest.raises(ej.UnsupportedPrimitiveError, match=reason):
                ej.excite(hidden_forms()[option])(X)
        else:
            jax.vjp(ej.excite(hidden_forms()[option]), X)
    finally:
        jax.config.update(option, before)
