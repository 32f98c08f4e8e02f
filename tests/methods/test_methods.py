"""Every method by its name: shapes, transformations, dead networks, and what bad input says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import excitation_jax as ej
from excitation_jax import methods

NAMES = methods.names()
#: As few passes as will do.
FEW = {
    "smoothgrad": {"samples": 2},
    "integrated-gradients": {"steps": 3},
    "rise": {"masks": 6},
    "feedback": {"iterations": 2},
}
AT_THE_INPUT = set(
    "gradient c-gradient input-x-gradient smoothgrad integrated-gradients deconvnet c-deconvnet "
    "guided-backprop lrp lrp-epsilon lrp-gamma lrp-zplus lrp-alpha-beta rise feedback".split()
)
#: One of those that differ in their rules, or a line of arithmetic, only.
DIFFERENT = (
    "c-mwp c-mwp-post-norm gradient smoothgrad integrated-gradients guided-backprop lrp c-cam "
    "grad-cam rise feedback winner-take-all".split()
)
KEYS = jax.random.split(jax.random.key(0), 6)
PARAMS = {
    "low": jax.random.normal(KEYS[0], (3, 3, 3, 4)) / 3,
    "high": jax.random.normal(KEYS[1], (3, 3, 4, 4)) / 4,
    "head": jax.random.normal(KEYS[2], (4, 4)),
    "bias": jax.random.normal(KEYS[3], (4,)),
}
X = jax.random.uniform(KEYS[4], (2, 8, 6, 3))
TARGETS = np.array([[0, 1, 2], [3, 0, 1]])


def conv(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride,) * 2, "SAME", dimension_numbers=numbers)


def network(p: dict, x: jax.Array) -> jax.Array:
    x = ej.tag(jax.nn.relu(conv(x, p["low"], 2)), "low")
    x = ej.tag(jax.nn.relu(conv(x, p["high"])), "high")
    return x.mean((1, 2)) @ p["head"] + p["bias"]


@pytest.mark.parametrize(
    "name",
    ["smoothgrad", "integrated-gradients", "rise", "feedback", "winner-take-all", "c-gradient"],
)
def test_a_model_and_a_target_that_have_changed_are_explained_as_they_are(name: str) -> None:
    """Of methods of many passes, which keep their compiled steps."""
    held = {"p": PARAMS, "P": np.eye(PARAMS["bias"].size, dtype=np.float32)[[0, 1]]}

    def model(p: dict, x: jax.Array) -> jax.Array:
        return network(held["p"], x)

    def target(outputs: jax.Array) -> jax.Array:
        return held["P"]

    explain(name, model, {}, X, target)
    held |= {"p": jax.tree.map(lambda a: a[::-1], PARAMS), "P": held["P"][::-1]}
    found = explain(name, model, {}, X, target)
    np.testing.assert_allclose(found, explain(name, network, held["p"], X, held["P"]), atol=1e-6)


def score_map(p: dict, x: jax.Array) -> jax.Array:
    x = jax.nn.relu(conv(jax.nn.relu(conv(x, p["low"], 2)), p["high"]))
    return x @ p["head"] + p["bias"]


def explain(name: str, *arguments: Any, **options: Any) -> jax.Array:
    return methods.get(name).function(*arguments, **FEW.get(name, {}), **options)


def assert_close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max() + 1e-12)


# Every method.


@pytest.mark.parametrize("name", NAMES)
def test_several_targets_and_images_under_transformations(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    maps = explain(name, network, PARAMS, X, TARGETS)
    assert maps.shape == ((2, 3, 8, 6) if name in AT_THE_INPUT else (2, 3, 4, 3))
    assert maps.dtype == jnp.float32 and np.isfinite(maps).all()
    assert maps.any() or name == "c-gradient"

    with jax.log_compiles():
        np.testing.assert_array_equal(explain(name, network, PARAMS, X, TARGETS), maps)
    assert not [r for r in caplog.records if "Compiling" in r.getMessage()], "compiled again"

    @jax.jit
    def alone(p: dict, x: jax.Array, targets: jax.Array) -> jax.Array:
        def one(x: jax.Array, target: jax.Array) -> jax.Array:
            return explain(name, network, p, x[None], target)[0]

        return jax.vmap(one)(x, targets)

    assert_close(alone(PARAMS, X, TARGETS[:, 1]), maps[:, 1])


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_layer_by_its_name(name: str) -> None:
    if not methods.get(name).per_layer:
        with pytest.raises(ValueError, match="layer 'low'"):
            explain(name, network, PARAMS, X, TARGETS, layer="low")
        return
    layer = "high" if "cam" in name else "low"
    assert explain(name, network, PARAMS, X, TARGETS, layer=layer).shape == (2, 3, 4, 3)


@pytest.mark.filterwarnings("ignore:.* of the probability reaches")  # as it should: MWP says so
@pytest.mark.parametrize("name", NAMES)
def test_dead_networks_and_black_images(name: str) -> None:
    dead = jax.tree.map(jnp.zeros_like, PARAMS)
    maps = explain(name, network, dead, X, TARGETS)
    assert np.isfinite(maps).all()
    assert not maps.any() or name == "rise"  # all masks score alike
    assert np.isfinite(explain(name, network, PARAMS, jnp.zeros_like(X), TARGETS)).all()


@pytest.mark.parametrize("name", DIFFERENT)
def test_score_maps_in_half_precision(name: str) -> None:
    params, x = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (PARAMS, X))
    maps = explain(name, score_map, params, x, TARGETS)
    assert maps.shape == ((2, 3, 8, 6) if name in AT_THE_INPUT else (2, 3, 4, 3))
    assert maps.dtype == jnp.float32 and np.isfinite(maps).all()
    assert maps.any() or name == "c-gradient"


def test_half_precision_is_close_to_single() -> None:
    """Slopes are float32 throughout, whatever the activations are."""
    params, x = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (PARAMS, X))
    rounded = jax.tree.map(lambda a: a.astype(jnp.float32), (params, x))

    def straight(p: dict, x: jax.Array) -> jax.Array:
        return jnp.einsum("nhwc,cd->nd", conv(x, p["low"]), p["head"])

    maps = [explain("gradient", straight, *args, TARGETS) for args in ((params, x), rounded)]
    np.testing.assert_allclose(*maps, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_what_bad_input_says(name: str) -> None:
    with pytest.raises(ValueError, match="target index 4 is out of range: the model has 4 outputs"):
        explain(name, network, PARAMS, X, 4)
    message = "nearest names are high" if methods.get(name).per_layer else "layer 'hihg'"
    with pytest.raises(ValueError, match=message):
        explain(name, network, PARAMS, X, 0, layer="hihg")
    broken = {**PARAMS, "head": PARAMS["head"] * jnp.nan}
    with pytest.raises(ValueError, match=r"not finite; NaN or inf is in params\['head'\]"):
        explain(name, network, broken, X, TARGETS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["tokens", "grey levels"])
def test_integers_have_no_map(name: str, kind: str) -> None:
    """They have no slope, and no map is to be taken for one that says that nothing matters.

    But probability, and relevance, goes to what is looked up, and so to a grid of tokens.
    """
    model, shape = (look_up, (2, 8, 6)) if kind == "tokens" else (converted, X.shape)
    x = jnp.arange(np.prod(shape), dtype=jnp.int32).reshape(shape) % 10
    if kind == "tokens" and ("mwp" in name or name.startswith(("lrp", "winner"))):
        maps = explain(name, model, PARAMS, x, 0, layer=None)
        assert maps.shape == shape and np.isfinite(maps).all() and np.any(maps)
        return
    with pytest.raises((TypeError, ValueError), match="the input x is int32|spatial axes|linear"):
        explain(name, model, PARAMS, x, 0, layer=None)


def look_up(p: dict, x: jax.Array) -> jax.Array:
    return network(p, jnp.linspace(-1, 1, 30).reshape(10, 3)[x])


def converted(p: dict, x: jax.Array) -> jax.Array:
    return network(p, x.astype(jnp.float32) / 10)


@pytest.mark.parametrize("name", ["gradient", "deconvnet", "smoothgrad", "feedback", "rise"])
def test_integers_are_named(name: str) -> None:
    with pytest.raises(TypeError, match="the input x is int32"):
        explain(name, converted, PARAMS, jnp.ones(X.shape, jnp.int32), 0)


@pytest.mark.parametrize("name", ["gradient", "smoothgrad", "integrated-gradients", "feedback"])
def test_one_array_is_explained(name: str) -> None:
    def both(p: dict, x: dict) -> jax.Array:
        return network(p, x["left"] + x["right"])

    with pytest.raises(ValueError, match="one array"):
        explain(name, both, PARAMS, {"left": X, "right": X}, 0)


@pytest.mark.parametrize("name", NAMES)
def test_options_out_of_range(name: str) -> None:
    function = methods.get(name).function
    wrong = {
        "smoothgrad": [{"samples": 0}, {"noise": -0.1}],
        "integrated-gradients": [{"steps": 0}],
        "rise": [{"masks": 0}, {"cells": 0}, {"kept": 1.0}],
        "feedback": [{"iterations": 0}],
    }
    for options in wrong.get(name, []):
        with pytest.raises(ValueError, match="needs .* >= 1"):
            function(network, PARAMS, X, 0, **options)


@pytest.mark.parametrize("name", ["integrated-gradients", "rise", "smoothgrad", "grad-cam", "mwp"])
def test_an_example_without_a_batch(name: str) -> None:
    def single(p: dict, x: jax.Array) -> jax.Array:
        return network(p, x[None])[0]

    layer = {"layer": None} if methods.get(name).per_layer else {}
    found = explain(name, single, PARAMS, X[1], TARGETS[1], **layer)
    assert_close(found, explain(name, network, PARAMS, X, TARGETS, **layer)[1])


# The registry.


def test_methods_are_found_by_any_spelling() -> None:
    assert len(set(NAMES)) == len(NAMES)
    for name in NAMES:
        method = methods.get(name)
        assert method.name == name and method.title and method.source
        for spelling in (name.upper(), name.replace("-", ""), name.replace("-", "_"), method.name):
            assert methods.get(spelling) is method
    for spelling in ("gradcam", "GRAD_CAM", "Grad-CAM", "grad cam"):
        assert methods.get(spelling).function is methods.grad_cam
    assert methods.get("GradCAM++").function is methods.grad_cam_plus_plus


def test_an_unknown_method() -> None:
    with pytest.raises(ValueError, match="no method named 'gradcan': did you mean grad-cam"):
        methods.get("gradcan")
    with pytest.raises(ValueError, match="no method named 'xyz': there are mwp, c-mwp, "):
        methods.get("xyz")


# Which layer is read.


def linen(model: nn.Module, x: jax.Array) -> tuple[Callable, Any]:
    """A model as a function, and random parameters for it."""
    shapes = jax.eval_shape(model.init, KEYS[5], x)
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    return model.apply, jax.tree.unflatten(
        tree, [rng.normal(0, 0.5, leaf.shape).astype(np.float32) for leaf in leaves]
    )


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(4, (3, 3), 2, name="stem")(x))
        for i in (1, 2):
            y = nn.relu(nn.Conv(4, (3, 3), name=f"block{i}_a")(x))
            y = nn.Conv(4, (3, 3), name=f"block{i}_b")(y)
            x = ej.tag(nn.relu(x + y), f"block{i}")
        return nn.Dense(4, name="head")(x.mean((1, 2)))


class Squeeze(nn.Module):
    """As SqueezeNet: the classifier is a convolution behind two branches, and then a ReLU."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(4, (3, 3), 2, name="stem")(x))
        x = ej.tag(nn.relu(nn.Conv(3, (1, 1), name="squeeze")(x)), "squeezed")
        parts = [nn.relu(nn.Conv(2, (k, k), name=f"expand{k}")(x)) for k in (1, 3)]
        x = ej.tag(jnp.concatenate(parts, -1), "fire")
        return ej.tag(nn.relu(nn.Conv(4, (1, 1), name="classes")(x)), "scores").mean((1, 2))


CHOSEN = {
    Residual: {"auto": "block1", "last": "block2", "top": "block2"},
    Squeeze: {"auto": "squeezed", "last": "fire", "top": "scores"},
}


@pytest.mark.parametrize("model", CHOSEN)
def test_auto_last_and_top(model: type[nn.Module]) -> None:
    apply, params = linen(model(), X)
    layers = ej.layers(apply, params, X)
    values = {layer.name: layer.value for layer in layers} | {
        name: layer.value for name, layer in layers.aliases.items()
    }
    for special, name in CHOSEN[model].items():
        assert getattr(layers, special).value is values[name], special
        maps = [ej.attention_map(apply, params, X, 1, layer=layer) for layer in (special, name)]
        np.testing.assert_array_equal(*maps)
    star = methods.c_mwp_star(apply, params, X, 1)
    np.testing.assert_array_equal(star, maps_at(apply, params, "last"))
    # CAM's own layer is what global pooling reads.
    top = methods.linear_approximation(apply, params, X, 1, layer="top")
    np.testing.assert_array_equal(methods.cam(apply, params, X, 1), top)


def maps_at(apply: Callable, params: Any, layer: str) -> jax.Array:
    return ej.attention_map(apply, params, X, 1, layer=layer)


def gated(p: dict, x: jax.Array) -> jax.Array:
    """The first of the ReLUs that have no name lies in a gate, which only the gradient reaches."""
    x = jnp.tanh(conv(x, p["low"], 2))
    gate = jax.nn.sigmoid(jax.nn.relu(x.mean((1, 2)) @ p["head"]) @ p["head"].T)
    x = jax.nn.relu(x * gate[:, None, None])
    return jax.nn.relu(conv(x, p["high"])).mean((1, 2)) @ p["head"]


def test_a_name_is_the_same_layer_for_every_method() -> None:
    sets = (ej.EXCITATION, methods.GRADIENT, methods.LRP_EPSILON)
    tables = [ej.layers(gated, PARAMS, X, rules=rules) for rules in sets]
    named = [{layer.name: (layer.shape, layer.lower_bound) for layer in table} for table in tables]
    assert named[0].items() < named[1].items() and named[0].items() <= named[2].items()
    assert named[1]["relu"] == named[1]["relu#2"] and named[1]["relu#3"][0] == (2, 4)
    for special in ("auto", "last", "top"):
        assert len({getattr(table, special).name for table in tables}) == 1
    shapes = {explain(name, gated, PARAMS, X, 0, layer="relu").shape for name in ("mwp", "lrp")}
    assert shapes == {explain("gradient", gated, PARAMS, X, 0, layer="relu").shape}


def test_a_map_of_the_input_itself() -> None:
    mwp = ej.excitation_vjp(network, PARAMS, X, TARGETS).mwp.sum(-1)
    found = ej.attention_map(network, PARAMS, X, TARGETS, layer=None, contrastive=False)
    assert found.shape == (2, 3, 8, 6)
    np.testing.assert_array_equal(found, mwp)
    resized = ej.attention_map(network, PARAMS, X, TARGETS, layer=None, size=(4, 4))
    assert resized.shape == (2, 3, 4, 4)


def test_there_may_be_no_such_layer() -> None:
    def dense(w: jax.Array, x: jax.Array) -> jax.Array:
        return x @ w

    for name, layer in (("grad-cam", "last"), ("mwp", "auto"), ("cam", "top")):
        with pytest.raises(ValueError, match=f'layer="{layer}" looks for a value with spatial'):
            explain(name, dense, jnp.ones((3, 4)), jnp.ones((2, 3)), 0)


# Loops and branches.


def unrolled(p: dict, x: jax.Array) -> jax.Array:
    x = jax.nn.relu(conv(x, p["low"], 2))
    for scale in (1.0, -1.0):
        x = ej.tag(jax.nn.relu(conv(x, scale * p["high"]) + 0.1), "step")
    return x.mean((1, 2)) @ p["head"]


def scanned(p: dict, x: jax.Array) -> jax.Array:
    def step(h: jax.Array, scale: jax.Array) -> tuple:
        return ej.tag(jax.nn.relu(conv(h, scale * p["high"]) + 0.1), "step"), None

    x = jax.nn.relu(conv(x, p["low"], 2))
    scales = jnp.array([1, -1], x.dtype)
    return lax.scan(step, x, scales)[0].mean((1, 2)) @ p["head"]


def branched(p: dict, x: jax.Array) -> jax.Array:
    def step(sign: float) -> Callable:
        return lambda h: jax.nn.relu(conv(h, sign * p["high"]) + 0.1)

    x = jax.nn.relu(conv(x, p["low"], 2))
    for above in (-jnp.inf, jnp.inf):
        x = lax.cond(x.sum() > above, step(1.0), step(-1.0), x)
    return x.mean((1, 2)) @ p["head"]


@pytest.mark.parametrize("name", ["gradient", "deconvnet", "lrp", "mwp", "c-mwp"])
@pytest.mark.parametrize("model", [scanned, branched])
def test_models_with_loops_and_branches(name: str, model: Callable) -> None:
    found, expected = (explain(name, f, PARAMS, X, 1, layer=None) for f in (model, unrolled))
    assert_close(found, expected)


def test_layers_inside_a_loop() -> None:
    for name in ("gradient", "mwp", "guided-backprop"):
        found = explain(name, scanned, PARAMS, X, TARGETS, layer="step")
        assert found.shape == (2, 2, 3, 4, 3)
        for i, layer in enumerate(("step", "step#2")):
            assert_close(found[i], explain(name, unrolled, PARAMS, X, TARGETS, layer=layer))
    for name in ("grad-cam", "grad-cam++", "layer-cam", "linear-approximation", "cam"):
        with pytest.raises(ValueError, match="'step' lies inside a loop or branch"):
            explain(name, scanned, PARAMS, X, 0, layer="step")


@pytest.mark.parametrize("model", [scanned, branched])
def test_feedback_cannot_gate_inside_a_loop(model: Callable) -> None:
    with pytest.raises(ValueError, match=r"ReLU at .*test_methods.py:.* lies inside a loop"):
        methods.feedback(model, PARAMS, X, 0)


def test_feedback_of_a_layer_inside_a_loop() -> None:
    def smooth(p: dict, x: jax.Array) -> jax.Array:
        def step(h: jax.Array, scale: jax.Array) -> tuple:
            return ej.tag(jnp.tanh(scale * h), "step"), None

        x = lax.scan(step, jax.nn.relu(conv(x, p["low"], 2)), jnp.array([2.0, 3]))[0]
        return x.mean((1, 2)) @ p["head"]

    assert explain("feedback", smooth, PARAMS, X, TARGETS).any()
    with pytest.raises(ValueError, match="layer 'step' lies inside a loop"):
        methods.feedback(smooth, PARAMS, X, 0, layer="step")


# Other models.


class Small(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Conv(3, 4, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.deep = nnx.Conv(4, 4, (3, 3), rngs=rngs)
        self.head = nnx.Linear(4, 4, rngs=rngs)

    def features(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.norm(self.stem(x)))

    def scores(self, x: jax.Array) -> jax.Array:
        return self.head(jax.nn.relu(self.deep(x)).mean((1, 2)))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.scores(self.features(x))


def test_nnx() -> None:
    model = Small(nnx.Rngs(0))
    model.eval()
    fn, state = ej.nnx_fn(model)
    a = model.features(X)
    slope = jax.grad(lambda a: model.scores(a)[:, 2].sum())(a)
    found = methods.gradient(fn, state, X, 2, layer="relu")
    assert_close(found, np.abs(slope).max(-1))
    found = methods.grad_cam(fn, state, X, 2, layer="relu")
    assert_close(found, np.maximum((a * slope.mean((1, 2), keepdims=True)).sum(-1), 0))
    for name in ("c-mwp", "lrp", "feedback", "cam"):
        assert explain(name, fn, state, X, TARGETS).any()


class Block(nn.Module):
    """A transformer's block."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.LayerNorm(name="norm1")(x)
        x = x + nn.MultiHeadDotProductAttention(2, name="attention")(y, y)
        y = nn.gelu(nn.Dense(8, name="up")(nn.LayerNorm(name="norm2")(x)))
        return x + nn.Dense(4, name="down")(y)


class Patches(nn.Module):
    """A vision transformer."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = ej.tag(nn.Conv(4, (2, 2), 2, name="patches")(x), "embedding")
        x = Block(name="block")(x.reshape(len(x), -1, 4))
        return nn.Dense(4, name="head")(nn.LayerNorm(name="norm")(x).mean(1))


class Words(nn.Module):
    """A transformer on tokens."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = ej.tag(nn.Embed(9, 4, name="embed")(x), "embedding")
        return nn.Dense(4, name="head")(Block(name="block")(x).mean(1))


def test_a_vision_transformer() -> None:
    apply, params = linen(Patches(), X)
    expected = jax.jit(jax.grad(lambda x: apply(params, x)[:, 2].sum()))(X)
    # Nothing in it is a ReLU, though LayerNorm and softmax compute maxima.
    assert_close(methods.deconvnet(apply, params, X, 2), np.abs(expected).max(-1))
    for name in ("c-mwp", "lrp", "layer-cam"):
        found = explain(name, apply, params, X, TARGETS, layer="embedding")
        assert found.shape == (2, 3, 4, 3) and found.any()
    with pytest.raises(ValueError, match="gates ReLUs, and this model has none"):
        methods.feedback(apply, params, X, 0)
    with pytest.raises(ValueError, match="linear in layer 'embedding', and .* in .*norm1 at"):
        methods.cam(apply, params, X, 0, layer="embedding")


def test_tokens_are_read_at_their_embedding() -> None:
    tokens = jnp.array([[1, 5, 0, 3], [8, 2, 2, 7]])
    apply, params = linen(Words(), tokens)

    def slope_of(table: jax.Array) -> jax.Array:
        changed = {"params": {**params["params"], "embed": {"embedding": table}}}
        return apply(changed, tokens)[:, 1].sum()

    at_table = jax.jit(jax.grad(slope_of))(params["params"]["embed"]["embedding"])
    arguments = (apply, params, tokens, 1)
    found = ej.excitation_vjp(*arguments, layer="embedding", rules=methods.GRADIENT).mwp
    assert_close(jax.ops.segment_sum(found.reshape(-1, 4), tokens.ravel(), 9), at_table)
    with pytest.raises(TypeError, match="x is int32, and GRADIENT sends nothing to integers"):
        ej.excitation_vjp(*arguments, rules=methods.GRADIENT)
    with pytest.raises(ValueError, match="'embedding' .* 0 spatial axes and a map needs two"):
        methods.gradient(*arguments, layer="embedding")
