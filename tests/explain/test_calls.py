"""The calls: targets, layers, names, reports, and what bad input says."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import excitation_jax as ej


class Block(nn.Module):
    """Two convolutions and a skip."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(nn.Conv(self.features, (3, 3), name="conv1")(x))
        y = nn.BatchNorm(use_running_average=True, name="norm")(y)
        return nn.relu(x + nn.Conv(self.features, (3, 3), name="conv2")(y))


class Net(nn.Module):
    """A small network whose `shared` block is called twice."""

    fully_convolutional: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(4, (3, 3), 2, name="stem")(x))
        shared = Block(4, name="shared")
        x = nn.max_pool(shared(x), (2, 2), (2, 2))
        x = shared(x)
        if self.fully_convolutional:
            return nn.Conv(5, (1, 1), name="head")(x)
        return nn.Dense(5, name="head")(x.mean((1, 2)))


@pytest.fixture(scope="module")
def network() -> tuple:
    model = Net()
    x = jax.random.uniform(jax.random.key(0), (3, 16, 16, 3))
    return model.apply, model.init(jax.random.key(1), x), x


def total(mwp: jax.Array) -> np.ndarray:
    return np.asarray(mwp).reshape(len(mwp), -1).sum(1)


def test_layer_names_follow_modules(network: tuple) -> None:
    names = [layer.name for layer in ej.layers(*network)]
    for name in ("stem", "shared/conv1", "shared/norm", "shared", "shared#2", "head"):
        assert name in names
    assert "shared/conv2#2" in names
    assert len(set(names)) == len(names)


def test_layers_know_stride_axes_and_bound(network: tuple) -> None:
    layers = {layer.name: layer for layer in ej.layers(*network)}
    assert layers["shared"].stride == (2, 2) and layers["shared#2"].stride == (4, 4)
    assert layers["shared"].spatial_axes == (1, 2)
    assert layers["shared"].lower_bound == 0
    assert layers["stem"].lower_bound == -np.inf
    assert layers["head"].spatial_axes == ()
    table = str(ej.layers(*network))
    assert "shared#2" in table and "4x4" in table


def test_axes_come_from_dimension_numbers() -> None:
    """NCHW: spatial axes 2 and 3, although nothing in the shapes tells."""

    def model(w: jax.Array, x: jax.Array) -> jax.Array:
        y = lax.conv_general_dilated(
            x, w, (2, 2), "SAME", dimension_numbers=("NCHW", "HWIO", "NCHW")
        )
        return ej.tag(jax.nn.relu(y), "features").mean((2, 3))

    w, x = jnp.ones((3, 3, 8, 8)), jnp.ones((8, 8, 8, 8))
    (layer,) = [layer for layer in ej.layers(model, w, x) if layer.name == "features"]
    assert layer.spatial_axes == (2, 3) and layer.stride == (2, 2)


def test_auto_is_the_highest_activation_at_stride_16() -> None:
    def model(w: list, x: jax.Array) -> jax.Array:
        for i, kernel in enumerate(w[:-1]):
            x = lax.conv_general_dilated(
                x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = ej.tag(jax.nn.relu(x), f"stride{2 ** (i + 1)}")
        return x.mean((1, 2)) @ w[-1]

    w = [jnp.ones((3, 3, 3, 4))] + [jnp.ones((3, 3, 4, 4))] * 4 + [jnp.ones((4, 2))]
    x = jnp.ones((1, 64, 64, 3))
    assert ej.attention_map(model, w, x, 0, contrastive=False).shape == (1, 4, 4)


def test_attention_map_sizes_and_cut(network: tuple) -> None:
    assert ej.attention_map(*network, 1).shape == (3, 4, 4)
    assert ej.attention_map(*network, 1, size="input").shape == (3, 16, 16)
    assert ej.attention_map(*network, 1, size=(7, 9)).shape == (3, 7, 9)
    several = ej.attention_map(*network, jnp.array([[0, 1]] * 3), layer="shared")
    assert several.shape == (3, 2, 8, 8)
    assert several.min() >= 0
    signed = ej.excitation_vjp(*network, 1, layer="shared", contrastive=True).mwp.sum(-1)
    single = ej.attention_map(*network, 1, layer="shared")
    np.testing.assert_allclose(single, jnp.maximum(signed, 0), rtol=1e-5, atol=1e-8)


def test_targets_of_every_kind_agree(network: tuple) -> None:
    by_int = ej.excitation_vjp(*network, 2, layer="shared").mwp
    targets = [
        np.int64(2), np.array([2, 2, 2]), jnp.array([2, 2, 2]),
        jax.nn.one_hot(jnp.array([2] * 3), 5),
        lambda outputs: jax.nn.one_hot(jnp.full(3, 2), outputs.shape[-1]),
    ]  # fmt: skip
    for target in targets:
        found = ej.excitation_vjp(*network, target, layer="shared").mwp
        np.testing.assert_allclose(found, by_int, rtol=1e-6)
    several = ej.excitation_vjp(*network, jnp.array([[0, 2]] * 3), layer="shared").mwp
    np.testing.assert_allclose(several[:, 1], by_int, rtol=1e-5, atol=1e-9)


def test_score_map_signal_is_a_softmax_over_positions() -> None:
    scores = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    prior = ej.top_down_signal(scores, jnp.array([1, 4]))
    expected = np.zeros((2, 3, 4, 5))
    for n, c in enumerate((1, 4)):
        exponentials = np.exp(np.asarray(scores[n, :, :, c], float))
        expected[n, :, :, c] = exponentials / exponentials.sum()
    np.testing.assert_allclose(prior, expected, rtol=1e-5)
    several = ej.top_down_signal(scores, jnp.array([[1, 0], [4, 4]]))
    np.testing.assert_allclose(several[:, 0], expected, rtol=1e-5)


def test_fully_convolutional_network(network: tuple) -> None:
    model = Net(fully_convolutional=True)
    x = jax.random.uniform(jax.random.key(0), (2, 16, 24, 3))
    params = model.init(jax.random.key(1), x)
    found = ej.excitation_vjp(model.apply, params, x, 3, layer="shared#2")
    np.testing.assert_allclose(total(found.mwp), 1, atol=1e-5)


def test_several_layers_in_one_pass(network: tuple) -> None:
    names = ["shared#2", "shared", "stem"]
    together = ej.excitation_vjp(*network, 1, layer=names).mwp
    assert list(together) == names
    for name in names:
        alone = ej.excitation_vjp(*network, 1, layer=name).mwp
        np.testing.assert_allclose(together[name], alone, rtol=1e-5, atol=1e-9)
    assert ej.excitation_vjp(*network, 1).mwp.shape == network[2].shape


def test_model_with_several_outputs_takes_a_callable_target(network: tuple) -> None:
    apply, params, x = network

    def two_heads(params: dict, x: jax.Array) -> dict:
        scores = apply(params, x)
        return {"scores": scores, "count": scores.sum(-1), "best": scores.argmax(-1)}

    found = ej.excitation_vjp(
        two_heads, params, x,
        lambda out: {"scores": jax.nn.one_hot(jnp.full(3, 2), 5), "count": None, "best": None},
        layer="shared",
    )  # fmt: skip
    assert set(found.outputs) == {"scores", "count", "best"}
    np.testing.assert_allclose(
        found.mwp, ej.excitation_vjp(*network, 2, layer="shared").mwp, rtol=1e-5, atol=1e-9
    )


@pytest.mark.parametrize("contrastive", [False, True])
def test_one_number_an_example_is_a_column_of_scores(network: tuple, contrastive: bool) -> None:
    """Outputs (N,), as (N, 1)."""
    apply, params, x = network

    def column(params: dict, x: jax.Array) -> jax.Array:
        return apply(params, x)[:, 2:3]

    def numbers(params: dict, x: jax.Array) -> jax.Array:
        return column(params, x)[:, 0]

    right = ej.excitation_vjp(column, params, x, 0, contrastive=contrastive).mwp
    for target in (0, np.zeros(3, int), np.ones(3, np.float32)):
        found = ej.excitation_vjp(numbers, params, x, target, contrastive=contrastive)
        assert found.outputs.shape == (3,)
        np.testing.assert_allclose(found.mwp, right, atol=1e-6)
    inside = jax.jit(lambda x, t: ej.excitation_vjp(numbers, params, x, t).mwp)
    assert not np.any(inside(x, 1))
    report = ej.explain_rules(numbers, params, x, target=0)
    assert report.reached == ej.explain_rules(column, params, x, target=0).reached
    for target, message in ((1, "out of range"), (np.zeros((3, 2), int), "one target")):
        with pytest.raises(ValueError, match=message):
            ej.excitation_vjp(numbers, params, x, target)


def test_out_of_range_under_jit_gives_zeros(network: tuple) -> None:
    run = jax.jit(lambda target: ej.excitation_vjp(*network, target, layer="shared").mwp)
    assert float(jnp.abs(run(jnp.array([9, 9, 9]))).max()) == 0


# Bad input: one clear line that says what is wrong, and what to do.

BAD_TARGETS = [
    (7, "target index 7 is out of range: the model has 5 outputs, 0 to 4"),
    (-1, "target index -1 is out of range"),
    (np.array([0, 1]), r"target has shape \(2,\), and the outputs \(3, 5\)"),
    (np.zeros((3, 2, 2), int), "one row per example"),
    (np.full((3, 5), -0.1), "negative or non-finite"),
    (np.ones((2, 5)), r"must have shape \(3, 5\) or \(3, K, ...\), not \(2, 5\)"),
]


@pytest.mark.parametrize("target, message", BAD_TARGETS)
def test_wrong_targets(network: tuple, target: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ej.excitation_vjp(*network, target, layer="shared")


@pytest.mark.parametrize("target", ["cat", None, np.array([True] * 3)])
def test_targets_of_no_kind(network: tuple, target: object) -> None:
    with pytest.raises(TypeError, match="target"):
        ej.excitation_vjp(*network, target, layer="shared")


def test_integer_image(network: tuple) -> None:
    apply, params, x = network
    image = (np.asarray(x) * 255).astype(np.uint8)
    with pytest.raises(TypeError, match="the input x is uint8.*convert it"):
        ej.excitation_vjp(apply, params, image, 0)
    with pytest.raises(TypeError, match="argument 0 is int32"):
        ej.excite(lambda x: x * 1.0)(jnp.arange(3))


def test_empty_batch(network: tuple) -> None:
    apply, params, x = network
    with pytest.raises(ValueError, match="the batch is empty"):
        ej.excitation_vjp(apply, params, x[:0], 0)


def test_unknown_layer_gives_the_nearest_names(network: tuple) -> None:
    with pytest.raises(ValueError, match="no layer named 'sharde'.*nearest names are shared"):
        ej.excitation_vjp(*network, 0, layer="sharde")


def test_several_outputs_without_a_callable(network: tuple) -> None:
    apply, params, x = network
    with pytest.raises(ValueError, match="returns a tuple of 2 arrays.*callable target"):
        ej.excitation_vjp(lambda p, x: (apply(p, x), apply(p, x)), params, x, 0)


def test_params_of_the_wrong_structure(network: tuple) -> None:
    apply, params, x = network
    with pytest.raises(Exception, match="stem") as caught:
        ej.excitation_vjp(apply, {"params": {}}, x, 0)
    assert any("excitation_jax" in note for note in caught.value.__notes__)
    with pytest.raises(TypeError, match=r"params\['name'\] is a str"):
        ej.excitation_vjp(apply, {"name": "resnet"}, x, 0)


def test_nan_weights_are_named(network: tuple) -> None:
    apply, params, x = network
    broken = jax.tree.map(lambda w: w, params)
    kernel = broken["params"]["shared"]["conv1"]["kernel"]
    broken["params"]["shared"]["conv1"]["kernel"] = kernel.at[0, 0, 0, 0].set(jnp.nan)
    with pytest.raises(ValueError, match=r"\['shared'\]\['conv1'\]\['kernel'\]") as caught:
        ej.excitation_vjp(apply, broken, x, 0, layer="shared")
    assert "stem" not in str(caught.value)


def test_nothing_to_explain() -> None:
    with pytest.raises(ValueError, match="no floating-point output of the model depends"):
        ej.excitation_vjp(lambda p, x: p, jnp.ones((1, 2)), jnp.ones((1, 3)), 0)
    with pytest.raises(ValueError, match="contrastive map needs an affine operation"):
        ej.excitation_vjp(lambda p, x: jnp.tanh(x), (), jnp.ones((1, 3)), 0, contrastive=True)


def test_unsupported_operations_are_all_named_before_any_compute() -> None:
    ran = []

    class Spectral(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            jax.debug.callback(lambda: ran.append(1))
            x = jnp.fft.fft(x).real
            with jax.named_scope("ratio"):
                x = jnp.cumprod(x, axis=-1)
            return nn.Dense(2)(x)

    model, x = Spectral(), jnp.ones((1, 4))
    params = {"params": {"Dense_0": {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)}}}
    with pytest.raises(ej.UnsupportedPrimitiveError) as caught:
        ej.excitation_vjp(model.apply, params, x, 0)
    jax.effects_barrier()
    message = str(caught.value)
    assert {op[0] for op in caught.value.operations} >= {"cumprod", "real", "fft"}
    assert "cumprod in ratio" in message and "test_calls.py:" in message
    assert "rules.replace({primitive: rule})" in message
    assert not ran
    # A layer above them can be read all the same.
    assert ej.excitation_vjp(model.apply, params, x, 0, layer="Dense_0").mwp.shape == (1, 2)


def test_callable_targets_agree_on_the_number_of_targets() -> None:
    def two_heads(w: jax.Array, x: jax.Array) -> tuple:
        return x @ w, x @ w * 2

    w, x = jnp.ones((3, 2)), jnp.ones((4, 3))

    def explain(first: int | None, second: int | None) -> jax.Array:
        shapes = [(4, 2) if k == 0 else (4, k, 2) for k in (first, second) if k is not None]
        priors = iter(shapes)
        parts = tuple(None if k is None else jnp.ones(next(priors)) for k in (first, second))
        return ej.excitation_vjp(two_heads, w, x, lambda outputs: parts).mwp

    assert explain(3, 3).shape == explain(3, None).shape == (4, 3, 3)
    assert explain(0, 0).shape == explain(None, 0).shape == (4, 3)
    for wrong in ((3, 5), (3, 0), (None, None)):
        with pytest.raises(ValueError, match="same number K of targets, along axis 1"):
            explain(*wrong)


def test_a_look_up_by_the_input_is_no_silent_zero_map() -> None:
    with pytest.raises(ej.UnsupportedPrimitiveError, match="only its condition depends"):
        ej.excite(lambda x: lax.select(x.sum() > 0, jnp.ones(3), jnp.zeros(3)))(jnp.ones(2))
    table = jnp.arange(12.0).reshape(4, 3)
    with pytest.raises(ej.UnsupportedPrimitiveError, match="numbers become indices"):
        ej.excite(lambda x: table[x.astype(int)].sum(-1))(jnp.ones(2))


def test_of_a_model_of_tokens_the_operation_is_named_that_has_no_rule() -> None:
    def model(table: jax.Array, tokens: jax.Array) -> jax.Array:
        return jnp.linalg.eigvalsh(table[tokens]).sum(1)

    with pytest.raises(ej.UnsupportedPrimitiveError, match="eigh in") as caught:
        ej.excitation_vjp(model, jnp.ones((4, 3, 3)), jnp.array([[1, 2]]), 0)
    assert "int32" not in str(caught.value)


def test_wrong_arguments(network: tuple) -> None:
    with pytest.raises(ValueError, match="argnums=2, but the call has 1 arguments"):
        ej.excite(jnp.tanh, argnums=2)(jnp.ones(2))
    with pytest.raises(ValueError, match='size must be None, .height, width. or "input"'):
        ej.attention_map(*network, 0, size="output")
    with pytest.raises(ValueError, match="0 spatial axes and a map needs two"):
        ej.attention_map(*network, 0, layer="head")
    with pytest.raises(TypeError, match="layer must be one name"):
        ej.attention_map(*network, 0, layer=["shared"])
    with pytest.raises(TypeError, match="given by JAX primitive"):
        ej.EXCITATION.replace({"add": lambda call, p: p})


# Rules.


def test_a_rule_of_ones_own_and_its_mistakes() -> None:
    def model(x: jax.Array) -> jax.Array:
        return jnp.exp(x) + jnp.exp(x[::-1])

    def pull(rule: object) -> jax.Array:
        rules = ej.EXCITATION.replace({lax.add_p: rule})
        return jax.vjp(ej.excite(model, rules=rules), jnp.array([1.0, 2.0]))[1](jnp.eye(2)[0])[0]

    assert pull(lambda call, p: (p, None)).tolist() == [1, 0]
    assert pull(lambda call, p: (None, p)).tolist() == [0, 1]
    with pytest.raises(TypeError, match="rule for add in the model must return one probability"):
        pull(lambda call, p: p)
    with pytest.raises(TypeError, match=r"returned shape \(\) for operand 0 of shape \(2,\)"):
        pull(lambda call, p: (p.sum(), None))


def test_rules_for_a_part_of_a_model(network: tuple) -> None:
    scoped = ej.EXCITATION.scoped("shared*", ej.EXCITATION_RESIDUAL)
    names = ["shared/conv2", "shared"]
    default = ej.excitation_vjp(*network, 1, layer=names).mwp
    branch = ej.excitation_vjp(*network, 1, layer=names, rules=scoped).mwp
    np.testing.assert_allclose(total(branch["shared/conv2"]), total(branch["shared"]), rtol=1e-4)
    assert (total(default["shared/conv2"]) < total(default["shared"])).all()
    elsewhere = ej.EXCITATION.scoped("head*", ej.EXCITATION_RESIDUAL)
    same = ej.excitation_vjp(*network, 1, layer=names, rules=elsewhere).mwp
    np.testing.assert_allclose(same["shared"], default["shared"], rtol=1e-6)


def test_rule_sets_do_not_change() -> None:
    before = ej.EXCITATION.rule_for(lax.add_p, "")
    ej.EXCITATION.replace({lax.add_p: lambda call, p: (p, None)})
    assert ej.EXCITATION.rule_for(lax.add_p, "") is before
    with pytest.raises(TypeError):
        ej.EXCITATION.table[lax.add_p] = before  # type: ignore[index]


def test_explain_rules_says_where_the_assumption_fails(network: tuple) -> None:
    report = ej.explain_rules(*network)
    rows = {(row.path, row.primitive): row for row in report.rows}
    stem = rows["stem", "conv_general_dilated"]
    assert stem.rule.startswith("R1") and "h = max(x, 0)" in stem.note
    assert "test_calls.py:" in stem.source
    assert rows["head", "dot_general"].note == "contrastive top"
    assert rows["shared", "add"].rule.startswith("R4")
    assert rows["shared/norm", "mul"].rule == "R5 constant"
    text = str(report)
    assert "conv_general_dilated" in text and "operations on constants" in text
    unsupported = ej.explain_rules(lambda x: jnp.cumprod(x), jnp.ones(3))
    assert [row.kind for row in unsupported.rows] == ["no rule"]


def test_what_is_padded_or_joined_to_a_signal_takes_nothing() -> None:
    """Explicit zeros below GELU (lambda < 0) have h = 0, as a convolution's own padding has."""
    kernel = jax.random.uniform(jax.random.key(0), (3, 3, 2, 4), minval=0.1)
    x = jax.random.normal(jax.random.key(1), (2, 6, 6, 2))

    def convolve(x: jax.Array, padding: str) -> jax.Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=numbers)

    def own(x: jax.Array) -> jax.Array:
        return convolve(jax.nn.gelu(x), "SAME")

    def explicit(x: jax.Array) -> jax.Array:
        return convolve(jnp.pad(jax.nn.gelu(x), ((0, 0), (1, 1), (1, 1), (0, 0))), "VALID")

    def before(x: jax.Array) -> jax.Array:
        return convolve(jax.nn.gelu(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))), "VALID")

    p = jax.random.uniform(jax.random.key(2), (2, 6, 6, 4))
    expected = jax.vjp(ej.excite(own), x)[1](p)[0]
    np.testing.assert_allclose(expected.sum(), p.sum(), rtol=1e-5)
    for model in (explicit, before):
        np.testing.assert_allclose(jax.vjp(ej.excite(model), x)[1](p)[0], expected, rtol=1e-5)

    def with_constants(x: jax.Array) -> jax.Array:
        return jnp.concatenate([jax.nn.sigmoid(x), jnp.ones((2, 3))], axis=1) @ jnp.ones((5, 1))

    joined = jax.vjp(ej.excite(with_constants), jnp.zeros((2, 2)))[1](jnp.ones((2, 1)))[0]
    np.testing.assert_allclose(joined, 0.5)


def test_no_layer_named(network: tuple) -> None:
    with pytest.raises(ValueError, match="layer names no layer: give a name"):
        ej.excitation_vjp(*network, 0, layer=())


def test_strict_promotion_and_a_transfer_guard_are_the_model_s_own() -> None:
    """What the library adds may mix precisions, and moves nothing to a device unasked."""

    def model(params: tuple, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ params[0]) @ params[1]

    keys = jax.random.split(jax.random.key(0), 3)
    params = jax.random.normal(keys[0], (4, 5)), jax.random.normal(keys[1], (5, 3))
    x = jax.random.normal(keys[2], (2, 4))
    params, x = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (params, x))
    excited = lambda x: jax.vjp(ej.excite(lambda x: model(params, x)), x)[1]  # noqa: E731
    start = jnp.zeros((2, 3), jnp.bfloat16).at[:, 1].set(1)
    wanted = ej.excitation_vjp(model, params, x, 1, contrastive=True).mwp
    with jax.numpy_dtype_promotion("strict"):
        found = ej.excitation_vjp(model, params, x, 1, contrastive=True).mwp
        (by_hand,) = excited(x)(start)
        with pytest.raises(ValueError, match="promotion"):  # the model's own mixing
            ej.excitation_vjp(lambda p, x: model(p, x) + jnp.ones(3), params, x, 1)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(by_hand, excited(x)(start)[0])
    with jax.transfer_guard("disallow"):
        guarded = ej.excitation_vjp(model, params, x, 1, contrastive=True).mwp
    np.testing.assert_array_equal(guarded, wanted)
