"""JAX's transformations, outside the model and inside it, change nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import excitation_jax as ej

Params = dict[str, Any]
LAYERS = ["first", "second", "pooled"]
POLICIES = {
    "nothing": None,
    "everything": jax.checkpoint_policies.everything_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots without batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "names": jax.checkpoint_policies.save_only_these_names("first"),
}


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


PARAMS: Params = {
    "w1": normal(1, 3, 3, 2, 4) / 3,
    "w2": normal(2, 3, 3, 4, 4) / 4,
    "gamma": np.array([1.0, -0.7, 0.5, -1.2], np.float32),
    "dense": normal(3, 4, 5),
}
X = normal(4, 3, 6, 6, 2)
TARGET = np.array([0, 3, 1])
SEVERAL = np.array([[0, 1], [3, 4], [1, 0]])


def convolve(x: jax.Array, w: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def first(params: Params, x: jax.Array) -> jax.Array:
    return checkpoint_name(jax.nn.gelu(convolve(x, params["w1"])), "first")


def second(params: Params, x: jax.Array) -> jax.Array:
    branch = convolve(x, params["w2"]) * params["gamma"]
    return ej.tag(jax.nn.relu(x + branch), "second")


def head(params: Params, x: jax.Array) -> jax.Array:
    pooled = ej.tag(nn.max_pool(x, (2, 2), (2, 2)), "pooled")
    return pooled.mean((1, 2)) @ params["dense"]


def model(params: Params, x: jax.Array) -> jax.Array:
    return head(params, second(params, first(params, x)))


def explain(
    fn: Callable = model, params: Any = PARAMS, x: Any = X, target: Any = TARGET, **kwargs: Any
) -> ej.Excitation:
    return ej.excitation_vjp(fn, params, x, target, **kwargs)


def assert_same(found: ej.Excitation, expected: ej.Excitation) -> None:
    def compare(a: jax.Array, b: jax.Array) -> None:
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-7)

    jax.tree.map(compare, found, expected)


CALLS = [
    pytest.param({"layer": layer, "contrastive": contrastive}, id=f"{layer} {contrastive}")
    for layer in (None, "second", LAYERS)
    for contrastive in (False, True)
]


# --- outside the model ------------------------------------------------------------------------


@pytest.mark.parametrize("kwargs", CALLS)
def test_jit(kwargs: Any) -> None:
    found = jax.jit(lambda p, x, t: explain(params=p, x=x, target=t, **kwargs))(PARAMS, X, TARGET)
    assert_same(found, explain(**kwargs))


def test_jit_with_static_arguments() -> None:
    jitted = jax.jit(
        ej.excitation_vjp, static_argnames=("model_fn", "layer", "contrastive", "rules")
    )
    found = jitted(model, PARAMS, X, TARGET, layer="second", contrastive=True)
    assert_same(found, explain(layer="second", contrastive=True))


@pytest.mark.parametrize("kwargs", CALLS)
def test_vmap_over_images(kwargs: Any) -> None:
    def one(x: jax.Array, t: jax.Array) -> ej.Excitation:
        return jax.tree.map(lambda a: a[0], explain(x=x[None], target=t[None], **kwargs))

    assert_same(jax.vmap(one)(X, TARGET), explain(**kwargs))


def test_vmap_over_targets() -> None:
    found = jax.vmap(lambda t: explain(target=t, layer="second").mwp, in_axes=1, out_axes=1)(
        SEVERAL
    )
    np.testing.assert_allclose(found, explain(target=SEVERAL, layer="second").mwp, atol=2e-7)


def test_vmap_over_parameters() -> None:
    several = jax.tree.map(lambda a: jnp.stack([a, a[::-1]]), PARAMS)
    found = jax.vmap(lambda p: explain(params=p).mwp)(several)
    for i in range(2):
        one = explain(params=jax.tree.map(lambda a, i=i: a[i], several)).mwp
        np.testing.assert_allclose(found[i], one, atol=2e-7)


def test_a_scan_over_images() -> None:
    def step(count: int, pair: Any) -> Any:
        x, t = pair
        return count + 1, explain(x=x[None], target=t[None], layer=LAYERS).mwp

    count, found = lax.scan(step, 0, (X, TARGET))
    assert count == len(X)
    expected = explain(layer=LAYERS).mwp
    for name in LAYERS:
        np.testing.assert_allclose(found[name][:, 0], expected[name], rtol=2e-5, atol=2e-7)


@pytest.mark.parametrize("contrastive", [False, True])
def test_k_targets_equal_k_calls(contrastive: bool) -> None:
    together = explain(target=SEVERAL, layer=LAYERS, contrastive=contrastive)
    for k in range(2):
        alone = explain(target=SEVERAL[:, k], layer=LAYERS, contrastive=contrastive)
        for name in LAYERS:
            assert together.mwp[name].shape == (3, 2, *alone.mwp[name].shape[1:])
            np.testing.assert_allclose(together.mwp[name][:, k], alone.mwp[name], atol=2e-7)


def test_several_layers_equal_single_calls() -> None:
    together = explain(layer=LAYERS).mwp
    for name in LAYERS:
        np.testing.assert_allclose(together[name], explain(layer=name).mwp, atol=2e-7)


def test_the_vjp_of_excite_is_the_mwp() -> None:
    outputs, vjp = jax.vjp(ej.excite(lambda x: model(PARAMS, x)), X)
    found = jax.jit(vjp)(jax.nn.one_hot(TARGET, 5))[0]
    np.testing.assert_allclose(found, explain().mwp, atol=2e-7)
    np.testing.assert_allclose(outputs, model(PARAMS, X), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("outside", [jax.jit, jax.checkpoint, lambda f: jax.jit(jax.checkpoint(f))])
def test_excite_inside_a_transformation(outside: Callable) -> None:
    plain = explain().mwp
    excited = outside(ej.excite(lambda x: model(PARAMS, x)))
    _, vjp = jax.vjp(excited, X)
    np.testing.assert_allclose(vjp(jax.nn.one_hot(TARGET, 5))[0], plain, atol=2e-7)


def test_excite_under_vmap() -> None:
    def one(x: jax.Array, p: jax.Array) -> jax.Array:
        return jax.vjp(ej.excite(lambda x: model(PARAMS, x[None])[0]), x)[1](p)[0]

    found = jax.vmap(one)(X, jax.nn.one_hot(TARGET, 5))
    np.testing.assert_allclose(found, explain().mwp, atol=2e-7)


# --- inside the model -------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_checkpoint_around_the_model(policy: str) -> None:
    fn = jax.checkpoint(model, policy=POLICIES[policy])
    assert_same(explain(fn, layer=LAYERS), explain(layer=LAYERS))
    assert_same(explain(fn), explain())


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("contrastive", [False, True])
def test_checkpoint_of_blocks(policy: str, contrastive: bool) -> None:
    def fn(params: Params, x: jax.Array) -> jax.Array:
        block = jax.checkpoint(second, policy=POLICIES[policy], prevent_cse=False)
        return jax.checkpoint(head)(params, block(params, jax.checkpoint(first)(params, x)))

    kwargs: Any = {"layer": LAYERS, "contrastive": contrastive}
    assert_same(explain(fn, **kwargs), explain(**kwargs))


def test_nested_checkpoints() -> None:
    def upper(params: Params, x: jax.Array) -> jax.Array:
        return jax.checkpoint(head)(params, jax.checkpoint(second)(params, x))

    def fn(params: Params, x: jax.Array) -> jax.Array:
        return jax.checkpoint(upper)(params, jax.checkpoint(jax.jit(first))(params, x))

    both = jax.checkpoint(fn, policy=POLICIES["names"])
    for layer in (None, *LAYERS, LAYERS):
        assert_same(explain(both, layer=layer), explain(layer=layer))


def test_a_model_that_is_mapped_inside() -> None:
    def fn(params: Params, x: jax.Array) -> jax.Array:
        return jax.vmap(lambda one: model(params, one[None])[0])(x)

    assert_same(explain(fn), explain())


def test_jit_inside() -> None:
    def fn(params: Params, x: jax.Array) -> jax.Array:
        twice = jax.jit(lambda x: jax.jit(second)(params, x))
        return jax.jit(head)(params, twice(jax.jit(first)(params, x)))

    assert_same(explain(jax.jit(fn), layer=LAYERS), explain(layer=LAYERS))


def test_custom_derivatives_inside() -> None:
    """A gradient that somebody wrote is no probability: only the function itself counts."""

    @jax.custom_jvp
    def pool(x: jax.Array) -> jax.Array:
        return ej.tag(nn.max_pool(x, (2, 2), (2, 2)), "pooled")

    @jax.custom_vjp
    def block(w: jax.Array, gamma: jax.Array, x: jax.Array) -> jax.Array:
        return second({"w2": w, "gamma": gamma}, x)

    pool.defjvp(lambda x, t: (pool(*x), jnp.full_like(pool(*x), jnp.nan)))
    block.defvjp(lambda *a: (block(*a), a), lambda a, g: jax.tree.map(lambda v: v * jnp.nan, a))

    def fn(params: Params, x: jax.Array) -> jax.Array:
        x = block(params["w2"], params["gamma"], first(params, x))
        return pool(x).mean((1, 2)) @ params["dense"]

    for layer in (None, LAYERS):
        assert_same(explain(fn, layer=layer), explain(layer=layer))
        jitted = jax.jit(lambda p, x, layer=layer: explain(fn, p, x, layer=layer))
        assert_same(jitted(PARAMS, X), explain(layer=layer))


def test_closed_over_parameters() -> None:
    def fn(params: None, x: jax.Array) -> jax.Array:
        return model(PARAMS, x)

    assert_same(explain(fn, None), explain())


def test_closed_over_traced_parameters() -> None:
    """The image is known, the parameters are another trace's: nothing of it may be kept."""

    def outer(params: Params) -> ej.Excitation:
        return explain(lambda _, x: model(params, x), None)

    with jax.checking_leaks():
        found = jax.jit(outer)(PARAMS)
    assert_same(found, explain())
    assert_same(jax.jit(outer)(PARAMS), explain())


def test_one_function_over_changing_tracers() -> None:
    """The same function object closes over one trace's array after another's."""
    held: dict[str, Any] = {}

    def fn(_: None, x: jax.Array) -> jax.Array:
        return model(held["params"], x)

    flipped = jax.tree.map(lambda a: -a, PARAMS)
    for given in (PARAMS, flipped):

        def outer(params: Params) -> jax.Array:
            held["params"] = params
            return explain(fn, None).mwp

        np.testing.assert_allclose(jax.jit(outer)(given), explain(params=given).mwp, atol=2e-7)


def test_shared_weights() -> None:
    """One layer twice; checked against two layers that hold the same weights."""

    def fn(params: Params, x: jax.Array, again: str = "w2") -> jax.Array:
        x = first(params, x)
        for name in ("w2", again):
            x = jax.nn.relu(convolve(x, params[name]) * params["gamma"])
        return head(params, x)

    copied = {**PARAMS, "copy": PARAMS["w2"]}
    expected = explain(lambda p, x: fn(p, x, "copy"), copied)
    assert_same(explain(fn), expected)


def test_one_module_called_twice() -> None:
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            block = nn.Conv(2, (3, 3), name="block")
            x = nn.relu(block(nn.relu(block(x))))
            return nn.Dense(5, name="head")(x.mean((1, 2)))

    net = Twice()
    params = net.init(jax.random.key(0), X)
    kernel, bias = (params["params"]["block"][k] for k in ("kernel", "bias"))

    def by_hand(params: Any, x: jax.Array) -> jax.Array:
        y = ej.tag(convolve(x, kernel) + bias, "lower")
        z = ej.tag(convolve(nn.relu(y), kernel) + bias, "upper")
        dense = params["params"]["head"]
        return nn.relu(z).mean((1, 2)) @ dense["kernel"] + dense["bias"]

    found = explain(net.apply, params, layer=["block", "block#2"]).mwp
    expected = explain(by_hand, params, layer=["lower", "upper"]).mwp
    np.testing.assert_allclose(found["block"], expected["lower"], atol=2e-7)
    np.testing.assert_allclose(found["block#2"], expected["upper"], atol=2e-7)


@pytest.mark.parametrize("policy", POLICIES)
def test_flax_remat_blocks(policy: str) -> None:
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            y = nn.Conv(x.shape[-1], (3, 3), name="conv")(x)
            y = nn.BatchNorm(use_running_average=True, name="norm")(y)
            return nn.relu(x + nn.relu(y))

    class Net(nn.Module):
        block: Any

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            for i in range(2):
                x = self.block(name=f"block{i}")(x)
            return nn.Dense(5, name="head")(x.mean((1, 2)))

    plain, remat = Net(Block), Net(nn.remat(Block, policy=POLICIES[policy]))
    params = plain.init(jax.random.key(1), X)
    scales = params["params"]["block1"]["norm"]
    scales["scale"] = jnp.array([-1.0, 2.0])
    layers: Any = ["block0", "block1/conv", "block1"]
    assert_same(
        explain(remat.apply, params, layer=layers), explain(plain.apply, params, layer=layers)
    )
    assert_same(explain(remat.apply, params), explain(plain.apply, params))


def test_the_outputs_are_equal_to_the_last_bit() -> None:
    for fn in (model, jax.checkpoint(model)):
        plain = jax.jit(lambda x, fn=fn: fn(PARAMS, x))(X)
        excited = jax.jit(ej.excite(lambda x, fn=fn: fn(PARAMS, x)))(X)
        np.testing.assert_array_equal(plain, excited)


# --- several inputs ---------------------------------------------------------------------------


def two_towers(a: jax.Array, b: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.concatenate([jax.nn.relu(a @ w), jax.nn.relu(b @ w)], -1).sum(-1, keepdims=True)


def test_two_inputs_by_argnums() -> None:
    a, b, w = np.abs(normal(1, 2, 3)), np.abs(normal(2, 2, 3)), normal(3, 3, 4)
    p = jnp.ones((2, 1))
    outputs, vjp = jax.vjp(ej.excite(two_towers, argnums=(0, 1)), a, b, w)
    found = vjp(p)
    np.testing.assert_allclose(outputs, two_towers(a, b, w), rtol=1e-6)
    both = jax.vjp(ej.excite(lambda ab: two_towers(ab[0], ab[1], w)), (a, b))[1](p)[0]
    np.testing.assert_allclose(found[0], both[0], atol=1e-7)
    np.testing.assert_allclose(found[1], both[1], atol=1e-7)
    np.testing.assert_array_equal(found[2], 0)
    np.testing.assert_allclose(found[0].sum(-1) + found[1].sum(-1), 1, rtol=1e-5)
    only = jax.vjp(ej.excite(two_towers, argnums=-2), a, b, w)[1](p)
    np.testing.assert_array_equal(only[0], 0)
    assert np.all(np.asarray(only[1]).sum(-1) > 0)


def test_an_input_of_several_arrays() -> None:
    x = {"a": normal(1, 2, 3), "b": normal(2, 2, 3)}
    w = normal(3, 3, 4)
    e = ej.excitation_vjp(lambda w, x: two_towers(x["a"], x["b"], w), w, x, 0)
    both = jax.vjp(ej.excite(two_towers, argnums=(0, 1)), x["a"], x["b"], w)[1](jnp.ones((2, 1)))
    np.testing.assert_allclose(e.mwp["a"], both[0], atol=1e-7)
    np.testing.assert_allclose(e.mwp["b"], both[1], atol=1e-7)


def test_integer_arguments_and_keywords_are_passed_on() -> None:
    def f(x: jax.Array, index: jax.Array, *, scale: float) -> jax.Array:
        return jnp.take(x, index, axis=0) * scale

    _, vjp = jax.vjp(
        lambda x: ej.excite(f)(x, jnp.array([2, 0]), scale=2.0), np.ones(3, np.float32)
    )
    np.testing.assert_array_equal(vjp(jnp.array([0.25, 0.75]))[0], [0.75, 0, 0.25])


# --- derivatives of the probabilities ---------------------------------------------------------


@pytest.mark.parametrize("contrastive", [False, True])
@pytest.mark.parametrize("layer", [None, "hidden"])
def test_gradient_of_a_function_of_the_mwp(layer: str | None, contrastive: bool) -> None:
    with jax.enable_x64(True):
        rng = np.random.default_rng(8)
        shapes = {"a": (4, 5), "gamma": (5,), "b": (5, 3)}
        params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
        x, weight = rng.uniform(0.2, 1, (2, 4)), rng.normal(size=(2, 5))

        def net(params: Params, x: jax.Array) -> jax.Array:
            y = jnp.tanh((x @ params["a"]) * params["gamma"])
            return ej.tag(y, "hidden") @ params["b"]

        def loss(params: Params) -> jax.Array:
            e = ej.excitation_vjp(net, params, x, 1, layer=layer, contrastive=contrastive)
            return jnp.sum(jnp.square(e.mwp) * weight[:, : e.mwp.shape[1]])

        loss = jax.jit(loss)
        gradient = jax.grad(loss)(params)
        for name, value in params.items():
            found = np.asarray(gradient[name])
            assert np.all(np.isfinite(found))
            for at in np.ndindex(value.shape):
                step = np.zeros(value.shape)
                step[at] = 1e-6
                up, down = (float(loss({**params, name: value + s * step})) for s in (1, -1))
                assert float(found[at]) == pytest.approx((up - down) / 2e-6, abs=1e-6)
        if not (layer == "hidden"):
            assert np.abs(gradient["a"]).max() > 1e-3


def test_gradient_through_convolutions_is_finite() -> None:
    def loss(params: Params) -> jax.Array:
        return jnp.sum(jnp.square(explain(params=params, layer="first").mwp))

    gradient = jax.jit(jax.grad(loss))(PARAMS)
    for name, value in gradient.items():
        assert np.all(np.isfinite(value)), name
    assert np.abs(gradient["dense"]).max() > 0
    checkpointed = jax.checkpoint(model)

    def again(params: Params) -> jax.Array:
        return jnp.sum(jnp.square(explain(checkpointed, params, layer="first").mwp))

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        jax.jit(jax.grad(again))(PARAMS),
        gradient,
    )


def test_the_traced_pass_grows_with_the_model_not_faster() -> None:
    """Every scale behind a residual stream is read once, however many branches have it behind."""

    class Stream(nn.Module):
        depth: int

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            for _ in range(self.depth):
                x = x + nn.Dense(8)(nn.gelu(nn.LayerNorm()(x)))
            return nn.Dense(3)(x)

    def equations(depth: int) -> int:
        model, x = Stream(depth), jnp.ones((1, 8))
        params = jax.eval_shape(model.init, jax.random.key(0), x)
        text = str(jax.make_jaxpr(lambda p: ej.excitation_vjp(model.apply, p, x, 0).mwp)(params))
        return text.count(" = ")

    four, eight, sixteen = map(equations, (4, 8, 16))
    assert sixteen - eight <= 2.2 * (eight - four)


def test_no_derivative_with_respect_to_what_the_function_closes_over() -> None:
    """It would be zero without a word. Of the maps themselves there is one."""
    x, w = jnp.array([1.0, 2.0, 3.0]), jnp.array([[1.0, -1.0], [2.0, -1.0], [3.0, 1.0]])

    def excited(w: jax.Array) -> Callable:
        return ej.excite(lambda x: jax.nn.relu(x @ w))

    with pytest.raises(TypeError, match="no derivative with respect to arrays that fn closes over"):
        jax.grad(lambda w: excited(w)(x).sum())(w)

    def mwp(w: jax.Array) -> jax.Array:
        _, pull = jax.vjp(excited(w), x)
        return (pull(jnp.array([1.0, 0.0]))[0] ** 2).sum()

    slope, step = jax.jit(jax.grad(mwp))(w), 1e-2
    up, down = (mwp(w.at[2, 0].add(sign * step)) for sign in (1, -1))
    assert slope[2, 0] == pytest.approx(float(up - down) / (2 * step), rel=1e-2)
