"""`nnx_fn`: names, values, modes, and that it leaves the model alone."""

import subprocess
import sys
import threading
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax import lax

import excitation_jax as ej

IMAGES = jax.random.normal(jax.random.key(5), (2, 12, 12, 3))
ROWS = jax.random.normal(jax.random.key(6), (2, 4))


class Block(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(width, width, (3, 3), use_bias=False, rngs=rngs)
        self.bn1 = nnx.BatchNorm(width, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return x + jax.nn.relu(self.drop(self.bn1(self.conv1(x))))


class ResNet(nnx.Module):
    """Modules in attributes, lists, dicts and an nnx.Sequential; ``block`` is called by ``run``."""

    run: Callable = nnx.static()

    def __init__(self, rngs: nnx.Rngs, block: type = Block, run: Callable = lambda b, x: b(x)):
        self.run = run
        self.stem = nnx.Sequential(nnx.Conv(3, 4, (3, 3), strides=2, rngs=rngs), jax.nn.relu)
        self.layer1 = nnx.List([block(4, rngs), block(4, rngs)])
        self.layer2 = nnx.data([{"a": block(4, rngs)}])
        self.head = nnx.Linear(4, 5, rngs=rngs)

    def features(self, x):
        x = self.stem(x)
        for block in self.layer1:
            x = self.run(block, x)
        return self.run(self.layer2[0]["a"], x)

    def __call__(self, x):
        return self.head(self.features(x).mean((1, 2)))


RESNET_LAYERS = [
    "stem/layers/0", "stem",
    "layer1/0/conv1", "layer1/0/bn1", "layer1/0/relu", "layer1/0",
    "layer1/1/conv1", "layer1/1/bn1", "layer1/1/relu", "layer1/1",
    "layer2/0/a/conv1", "layer2/0/a/bn1", "layer2/0/a/relu", "layer2/0/a",
    "reduce_sum", "head",
]  # fmt: skip


def resnet(**options) -> ResNet:
    """A ResNet in evaluation mode whose BatchNorms do something, with scales of both signs."""
    model = ResNet(nnx.Rngs(0), **options)
    for path, module in nnx.iter_modules(model):
        if isinstance(module, nnx.BatchNorm):
            keys = jax.random.split(jax.random.key(len(path)), 4)
            for key, variable in zip(keys, (module.scale, module.bias, module.mean), strict=False):
                variable[...] = jax.random.normal(key, variable.shape)
            module.var[...] = jax.random.uniform(keys[3], module.var.shape, minval=0.5, maxval=2)
    model.eval()
    return model


def names(fn, state, x) -> list[str]:
    return [layer.name for layer in ej.layers(fn, state, x)]


def scopes(fn, *args) -> list[str]:
    """Name stacks of all products in the jaxpr, also inside loops, which need no rule for it."""
    found = []

    def walk(jaxpr, outside):
        for eqn in jaxpr.eqns:
            stack = [*outside, *filter(None, [str(eqn.source_info.name_stack)])]
            if eqn.primitive is lax.dot_general_p:
                found.append("/".join(stack))
            for value in jax.tree.leaves(eqn.params, is_leaf=lambda p: hasattr(p, "eqns")):
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    walk(inner, stack)

    walk(jax.make_jaxpr(fn)(*args).jaxpr, [])
    return found


def wrapped(transform: Callable) -> type:
    """`Block` with ``transform`` around its ``__call__``."""
    return type("Block", (Block,), {"__call__": transform(Block.__call__)})


@pytest.fixture(scope="module")
def plain_excitation() -> jax.Array:
    fn, state = ej.nnx_fn(resnet())
    mwp = ej.excitation_vjp(fn, state, IMAGES, 3, layer="layer1/0", contrastive=True).mwp
    assert jnp.abs(mwp).max() > 1e-3
    return mwp


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"block": wrapped(nnx.jit)},
        {"block": wrapped(nnx.remat)},
        {"run": nnx.jit(lambda block, x: block(x))},
        {"run": nnx.remat(lambda block, x: block(x))},
        {"run": lambda block, x: nnx.remat(type(block).__call__)(block, x)},
        {"run": lambda block, x: jax.checkpoint(lambda x: block(x))(x)},
    ],
    ids=["plain", "nnx.jit method", "nnx.remat method", "nnx.jit", "nnx.remat",
         "nnx.remat unbound", "jax.checkpoint"],
)  # fmt: skip
def test_layers_have_the_paths_of_the_modules(options: dict, plain_excitation) -> None:
    model = resnet(**options)
    fn, state = ej.nnx_fn(model)
    assert names(fn, state, IMAGES) == RESNET_LAYERS
    np.testing.assert_array_equal(fn(state, IMAGES), model(IMAGES))
    e = ej.excitation_vjp(fn, state, IMAGES, 3, layer="layer1/0", contrastive=True)
    np.testing.assert_allclose(e.mwp, plain_excitation, atol=1e-6)


def test_excitation_is_that_of_the_same_network_as_a_function() -> None:
    def conv(x, kernel, stride=1):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=dimensions
        )

    def block(p, x):
        n = p["bn1"]
        y = conv(x, p["conv1"]["kernel"]) - n["mean"]
        y = y * (n["scale"] * lax.rsqrt(n["var"] + 1e-5)) + n["bias"]
        return x + jax.nn.relu(y)

    def network(p, x):
        stem = p["stem"]["layers"][0]
        x = jax.nn.relu(conv(x, stem["kernel"], 2) + stem["bias"])
        x = block(p["layer2"][0]["a"], block(p["layer1"][1], block(p["layer1"][0], x)))
        return x.mean((1, 2)) @ p["head"]["kernel"] + p["head"]["bias"]

    fn, state = ej.nnx_fn(resnet())
    params = nnx.to_pure_dict(state)
    targets = jnp.array([[0, 1, 2], [4, 3, 3]])
    for contrastive in (False, True):
        ours = ej.excitation_vjp(fn, state, IMAGES, targets, contrastive=contrastive)
        plain = ej.excitation_vjp(network, params, IMAGES, targets, contrastive=contrastive)
        assert ours.mwp.shape == (2, 3, 12, 12, 3)
        np.testing.assert_allclose(ours.outputs, plain.outputs, rtol=1e-5)
        np.testing.assert_allclose(ours.mwp, plain.mwp, atol=1e-6)
        assert np.abs(plain.mwp).max() > 1e-3


def test_under_jit_the_function_is_static_and_traced_once() -> None:
    traced = []

    class Counts(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.head = nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, x):
            traced.append(x.shape)
            return self.head(jax.nn.relu(self.conv(x)).mean((1, 2)))

    model = Counts(nnx.Rngs(0))
    fn, state = ej.nnx_fn(model)
    expected = ej.attention_map(fn, state, IMAGES, 1, layer="relu")
    compiled = jax.jit(ej.attention_map, static_argnames=("model_fn", "layer"))
    found = compiled(fn, state, IMAGES, 1, layer="relu")
    np.testing.assert_allclose(found, expected, atol=1e-6)
    before = len(traced)
    _, later = ej.nnx_fn(model)
    compiled(fn, later, IMAGES, 1, layer="relu")
    assert len(traced) == before
    ej.attention_map(fn, later, IMAGES, 1, layer="relu")  # outside jit, each call traces once
    assert len(traced) == before + 1


def test_in_a_jitted_step_of_the_user() -> None:
    model = resnet()
    fn, state = ej.nnx_fn(model)

    @nnx.jit
    def step(model, images):
        inner, state = ej.nnx_fn(model)
        return ej.attention_map(inner, state, images, 1, layer="layer1/0")

    expected = ej.attention_map(fn, state, IMAGES, 1, layer="layer1/0")
    np.testing.assert_allclose(step(model, IMAGES), expected, atol=1e-6)


def test_a_model_of_shapes_has_layers() -> None:
    model = nnx.eval_shape(resnet)
    fn, state = ej.nnx_fn(model)
    assert names(fn, state, jax.ShapeDtypeStruct(IMAGES.shape, IMAGES.dtype)) == RESNET_LAYERS


def test_the_root_does_not_swallow_an_only_child() -> None:
    class Wrapper(nnx.Module):
        def __init__(self, rngs):
            self.net = nnx.Sequential(nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs))

        def __call__(self, x):
            return self.net(x)

    fn, state = ej.nnx_fn(Wrapper(nnx.Rngs(0)))
    assert names(fn, state, ROWS) == ["net/layers/0", "net"]
    fn, state = ej.nnx_fn(Wrapper(nnx.Rngs(0)).net)
    assert names(fn, state, ROWS) == ["layers/0", "layers/1"]


def test_shared_modules_have_one_name() -> None:
    class Affine(nnx.Module):
        def __init__(self, dense):
            self.dense = dense

        def __call__(self, x):
            return jax.nn.relu(self.dense(x))

    class Shares(nnx.Module):
        def __init__(self, rngs):
            dense = nnx.Linear(4, 4, rngs=rngs)
            self.first, self.second = Affine(dense), Affine(dense)
            self.third = self.first

        def __call__(self, x):
            return self.third(self.second(self.first(x)))

    model = Shares(nnx.Rngs(0))
    fn, state = ej.nnx_fn(model)
    assert len(jax.tree.leaves(state)) == 2
    np.testing.assert_array_equal(fn(state, ROWS), model(ROWS))
    assert names(fn, state, ROWS) == [
        "first/dense", "first", "second/dense", "second", "first/dense#2", "first#2",
    ]  # fmt: skip


def test_types_and_calls_are_the_models_own() -> None:
    class Dense(nnx.Linear):
        def __call__(self, x):
            return jax.nn.relu(super().__call__(x))

    class Asks(nnx.Module):
        def __init__(self, rngs):
            self.parts = nnx.Dict({"in.1": Dense(4, 4, rngs=rngs), "out": Dense(4, 4, rngs=rngs)})

        def __call__(self, x):
            for part in self.parts.values():
                assert type(part) is Dense and isinstance(part, nnx.Linear)
                x = part(x)
            return x

    fn, state = ej.nnx_fn(Asks(nnx.Rngs(0)))
    assert names(fn, state, ROWS) == ["parts/in_1", "parts/out"]


def test_methods() -> None:
    model = resnet()
    fn, state = ej.nnx_fn(model, method="features")
    np.testing.assert_array_equal(fn(state, IMAGES), model.features(IMAGES))
    assert names(fn, state, IMAGES) == RESNET_LAYERS[:-2]

    class Calls(nnx.Module):
        def __init__(self):
            self.net = model

        def __call__(self, x, *, scale):
            return scale * self.net.features(x)

    fn, state = ej.nnx_fn(Calls())
    np.testing.assert_array_equal(fn(state, IMAGES, scale=2.0), 2 * model.features(IMAGES))
    layers = names(lambda state, x: fn(state, x, scale=2.0), state, IMAGES)
    assert layers == [f"net/{name}" for name in RESNET_LAYERS[:-2]]


class Loops(nnx.Module):
    def __init__(self, rngs):
        keys = jax.random.split(jax.random.key(0), 3)
        self.blocks = nnx.vmap(lambda key: nnx.Sequential(nnx.Linear(4, 4, rngs=nnx.Rngs(key))))(
            keys
        )
        self.rnn = nnx.RNN(nnx.SimpleCell(4, 5, rngs=rngs), rngs=rngs)

    def __call__(self, x):
        x = nnx.scan(lambda x, b: b(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.blocks)
        x = nnx.vmap(lambda b, x: b(x), in_axes=(0, None), out_axes=1)(self.blocks, x)
        return self.rnn(x)


def test_names_and_values_inside_loops() -> None:
    model = Loops(nnx.Rngs(0))
    fn, state = ej.nnx_fn(model)
    np.testing.assert_array_equal(fn(state, ROWS), model(ROWS))
    assert scopes(fn, state, ROWS) == [
        "Loops/blocks/layers/0", "Loops/vmap(blocks)/layers/0",
        "Loops/rnn/cell/dense_i", "Loops/rnn/cell/dense_h",
    ]  # fmt: skip


def test_random_keys_stay_inside_and_changes_are_discarded() -> None:
    class Noisy(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(4, 3, rngs=rngs)
            self.rngs = rngs
            self.key = nnx.Variable(jax.random.key(3))
            self.width = nnx.Variable(4)
            self.calls = nnx.Variable(jnp.array(0))

        @nnx.jit
        def __call__(self, x):
            self.calls[...] += 1
            noise = jax.random.normal(self.rngs(), x.shape)
            return self.dense(x + noise + jax.random.normal(self.key[...], x.shape)), self.calls[
                ...
            ]

    model = Noisy(nnx.Rngs(0))
    fn, state = ej.nnx_fn(model)
    assert sorted(nnx.to_pure_dict(state)) == ["calls", "dense"]
    for _ in range(2):
        outputs, calls = fn(state, ROWS)
        e = ej.excitation_vjp(lambda state, x: fn(state, x)[0], state, ROWS, 1)
        np.testing.assert_allclose(e.outputs, outputs, rtol=1e-6)
        assert calls == 1
    assert model.calls[...] == 0
    np.testing.assert_array_equal(model(ROWS)[0], outputs)
    assert (model(ROWS)[0] != outputs).all()


@pytest.mark.parametrize("kind", ["ref", "hijax"])
def test_variables_that_are_references(kind: str) -> None:
    if not hasattr(nnx, "with_vars"):
        pytest.skip("this flax has no such variables")
    with nnx.var_defaults(**{kind: True}):
        model = nnx.Sequential(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), jax.nn.relu)
    fn, state = ej.nnx_fn(model)
    e = ej.excitation_vjp(fn, state, ROWS, 1)
    np.testing.assert_array_equal(e.outputs, model(ROWS))
    assert names(fn, state, ROWS) == ["layers/0", "relu"]


def test_training_mode_is_an_error_with_paths() -> None:
    model = resnet()
    model.train()
    with pytest.raises(ValueError) as caught:
        ej.nnx_fn(model)
    text = str(caught.value)
    assert "use_running_average=False in layer1/0/bn1, layer1/1/bn1, layer2/0/a/bn1;" in text
    assert "deterministic=False in layer1/0/drop, layer1/1/drop, layer2/0/a/drop." in text
    assert "model.eval()" in text
    advice = "nnx.with_attributes(model, use_running_average=True, deterministic=True)"
    assert advice in text
    fn, state = ej.nnx_fn(eval(advice))
    model.eval()
    np.testing.assert_array_equal(fn(state, IMAGES), model(IMAGES))
    ej.nnx_fn(nnx.Dropout(0.0))
    with pytest.raises(ValueError, match="deterministic=False in the model itself"):
        ej.nnx_fn(
            nnx.MultiHeadAttention(2, 4, dropout_rate=0.1, deterministic=False, rngs=nnx.Rngs(0))
        )


@pytest.mark.parametrize("flag", ["use_running_average", "deterministic"])
def test_training_mode_by_argument_is_an_error(flag: str) -> None:
    class Norm(nnx.BatchNorm):
        def __call__(self, x, average):
            return super().__call__(x, average)

    class Flags(nnx.Module):
        def __init__(self, rngs):
            self.bn = Norm(4, use_running_average=None, rngs=rngs)
            self.drop = nnx.Dropout(0.1, deterministic=None, rngs=rngs)

        def __call__(self, x, use_running_average=True, deterministic=True):
            return self.drop(self.bn(x, use_running_average), deterministic=deterministic)

    fn, state = ej.nnx_fn(Flags(nnx.Rngs(0)))
    assert fn(state, ROWS).shape == ROWS.shape
    path = {"use_running_average": "bn", "deterministic": "drop"}[flag]
    with pytest.raises(ValueError, match=f"{path} is called with {flag}=False"):
        ej.layers(lambda state, x: fn(state, x, **{flag: False}), state, ROWS)


def test_the_model_is_left_alone() -> None:
    model = resnet()
    model.head.kernel[...] = model.head.kernel.at[0, 0].set(jnp.nan)
    classes = {type(module) for _, module in nnx.iter_modules(model)}
    calls = {cls: cls.__call__ for cls in classes if "__call__" in vars(cls)}
    graphdef, before = nnx.graphdef(model), jax.tree.leaves(nnx.state(model))
    fn, state = ej.nnx_fn(model)
    with pytest.raises(ValueError, match="NaN"):
        ej.attention_map(fn, state, IMAGES, 1)
    with pytest.raises(ValueError, match="feature dimension") as caught:
        fn(state, IMAGES[..., :2])
    assert caught.value.__context__ is None
    assert nnx.graphdef(model) == graphdef
    assert all(a is b for a, b in zip(jax.tree.leaves(nnx.state(model)), before, strict=True))
    assert {type(module) for _, module in nnx.iter_modules(model)} == classes
    assert {cls: cls.__call__ for cls in calls} == calls

    model.head.kernel[...] = jnp.zeros_like(model.head.kernel)
    assert jnp.isnan(state["head"]["kernel"][0, 0])
    grads = nnx.grad(lambda model: model(IMAGES).sum())(model)
    assert grads["head"]["bias"].tolist() == [2.0] * 5


def test_calls_in_two_threads() -> None:
    inside, left = threading.Barrier(2, timeout=60), threading.Barrier(2, timeout=60)

    class Waits(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x, last):
            inside.wait()
            if last:
                left.wait()  # the other call is over, and has changed the classes back
            return self.dense(x)

    own = nnx.Linear.__call__
    fn, state = ej.nnx_fn(Waits(nnx.Rngs(0)))
    found = {}

    def call(last):
        found[last] = scopes(lambda state, x: fn(state, x, last), state, ROWS)
        if not last:
            left.wait()

    threads = [threading.Thread(target=call, args=(last,)) for last in (False, True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {False: ["Waits/dense"], True: ["Waits/dense"]}
    assert nnx.Linear.__call__ is own


def test_a_model_that_names_break_runs_without() -> None:
    class Stacks(nnx.Module):
        """Its parts are one pytree only as long as they have no path of their own."""

        def __init__(self, rngs):
            self.parts = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(2)])

        def __call__(self, x):
            mean = jax.tree.map(lambda a, b: (a + b) / 2, *self.parts)
            return jax.nn.relu(mean(x))

    model = Stacks(nnx.Rngs(0))
    fn, state = ej.nnx_fn(model)
    with pytest.warns(UserWarning, match="the layers of Stacks go without the names"):
        np.testing.assert_array_equal(fn(state, ROWS), model(ROWS))
    assert names(fn, state, ROWS) == ["dense", "relu"]


def test_what_is_no_model_is_an_error() -> None:
    with pytest.raises(TypeError, match="Dense is a Linen module and needs no adapter: pass"):
        ej.nnx_fn(linen.Dense(3))
    with pytest.raises(TypeError, match=r"a function of \(params, x\) is a model_fn as it is"):
        ej.nnx_fn(lambda params, x: x)
    with pytest.raises(TypeError, match="Block is a class: pass a model"):
        ej.nnx_fn(Block)
    with pytest.raises(TypeError, match="List has no method '__call__'"):
        ej.nnx_fn(nnx.List([]))
    with pytest.raises(TypeError, match="ResNet has no method 'encode'"):
        ej.nnx_fn(resnet(), method="encode")


def test_import_does_not_import_flax() -> None:
    code = "import sys, excitation_jax; assert not {'flax', 'flax.nnx'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
