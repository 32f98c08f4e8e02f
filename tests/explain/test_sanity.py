"""The layer-randomisation check: what is redrawn, in which order, and what is measured."""

import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.figure import Figure

import excitation_jax as ej
from benchmarks.explain import sanity_check
from excitation_jax.explain import randomisation
from excitation_jax.maps import similarity


class Block(nn.Module):
    """A convolution with BatchNorm beside a projection; defined in another order than called."""

    def setup(self) -> None:
        self.a_projection = nn.Conv(6, (1, 1))
        self.z_conv = nn.Conv(6, (3, 3), use_bias=False)
        self.norm = nn.BatchNorm(use_running_average=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.norm(self.z_conv(x))
        return nn.relu(y + self.a_projection(x))


class Net(nn.Module):
    """A network with a scale of its own and a layer that is never used."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        nn.Dense(2, name="unused")(jnp.ones((1, 3)))
        x = nn.relu(nn.Conv(4, (3, 3), name="stem")(x))
        x = x * self.param("gain", nn.initializers.uniform(), (4,))
        x = jax.jit(lambda x: nn.max_pool(x, (2, 2), (2, 2)))(x)
        x = Block(name="block")(x)
        return nn.Dense(5, name="head")(x.mean((1, 2)))


GROUPS = ("head", "block/a_projection", "block/norm", "block/z_conv", "gain", "stem")


@pytest.fixture(scope="module")
def network() -> tuple:
    model = Net()
    x = jax.random.uniform(jax.random.key(0), (3, 16, 16, 3))
    variables = model.init(jax.random.key(1), x)
    keys = iter(jax.random.split(jax.random.key(2), 100))
    # Every array with values of its own, so that redrawing any of them changes it.
    variables = jax.tree.map(
        lambda leaf: (
            jnp.abs(leaf) * 0.1 + jax.random.uniform(next(keys), leaf.shape) - 0.3
            if leaf.ndim > 1
            else jax.random.uniform(next(keys), leaf.shape, minval=0.5)
        ),
        variables,
    )
    return model.apply, variables, x


def flat(params: dict) -> dict[str, np.ndarray]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


# --- the groups ----------------------------------------------------------------------------------


def test_groups_are_in_the_order_of_use_from_the_top(network: tuple) -> None:
    assert randomisation.parameter_groups(*network) == GROUPS


def test_groups_need_no_values(network: tuple) -> None:
    model_fn, *arguments = network
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arguments)
    assert randomisation.parameter_groups(model_fn, *shapes) == GROUPS


def test_a_module_called_twice_stands_at_its_first_call() -> None:
    def model(w: dict, x: jax.Array) -> jax.Array:
        return jnp.tanh(jnp.tanh(jnp.tanh(x @ w["twice"]) @ w["between"]) @ w["twice"]) @ w["top"]

    w = {name: jnp.ones((3, 3)) for name in ("between", "top", "twice")}
    assert randomisation.parameter_groups(model, w, jnp.ones((1, 3))) == ("top", "between", "twice")


def test_groups_of_other_trees() -> None:
    x = jnp.ones((1, 3))

    def layers(w: list, x: jax.Array) -> jax.Array:
        for kernel, bias in w[0]:
            x = jnp.tanh(x @ kernel + bias)
        return x * w[1]["steps"]

    pair = (jnp.ones((3, 3)), jnp.ones(3))
    assert randomisation.parameter_groups(layers, ([pair] * 2, {"steps": 3}), x) == ("0/1", "0/0")
    assert randomisation.parameter_groups(lambda w, x: x @ w, pair[0], x) == ("params",)

    def looped(w: dict, x: jax.Array) -> jax.Array:
        x, _ = jax.lax.scan(
            lambda x, w: (x @ w["b"]["kernel"] @ w["a"]["kernel"], None), x, w["loop"]
        )
        return x @ w["c"]

    loop = {name: {"kernel": jnp.ones((2, 3, 3))} for name in "ab"}
    w = {"c": pair[0], "loop": loop}
    assert randomisation.parameter_groups(looped, w, x) == ("c", "loop/b", "loop/a")


def test_groups_of_nnx() -> None:
    class Perceptron(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.z_first = nnx.Linear(3, 4, rngs=rngs)
            self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
            self.a_last = nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.a_last(nnx.relu(self.norm(self.z_first(x))))

    model_fn, state = ej.nnx_fn(Perceptron(nnx.Rngs(0)))
    groups = randomisation.parameter_groups(model_fn, state, jnp.ones((1, 3)))
    assert groups == ("a_last", "norm", "z_first")
    ((name, drawn),) = randomisation.randomised(
        model_fn, state, jnp.ones((1, 3)), groups=["a_last"]
    )
    assert (drawn["a_last"]["kernel"][...] != state["a_last"]["kernel"][...]).any()
    assert (drawn["z_first"]["kernel"][...] == state["z_first"]["kernel"][...]).all()


# --- what is redrawn -----------------------------------------------------------------------------


def test_cascading_keeps_what_was_redrawn_and_independent_does_not(network: tuple) -> None:
    trained = flat(network[1])
    cascade = {name: flat(params) for name, params in randomisation.randomised(*network)}
    single = {
        name: flat(params)
        for name, params in randomisation.randomised(*network, mode="independent")
    }
    assert tuple(cascade) == tuple(single) == GROUPS
    above: set[str] = set()
    for group in GROUPS:
        own = {path for path in trained if f"{path}/".split("/", 1)[1].startswith(f"{group}/")}
        assert own
        for path in trained:
            drawn = single[group][path]
            assert np.array_equal(drawn, trained[path]) == (path not in own)
            assert np.array_equal(np.sort(drawn, axis=None), np.sort(trained[path], axis=None))
            if path in own:
                np.testing.assert_array_equal(cascade[group][path], drawn)
            elif path not in above:
                np.testing.assert_array_equal(cascade[group][path], trained[path])
        assert all((cascade[group][path] != trained[path]).any() for path in above)
        above |= own
    assert {path.split("/")[1] for path in set(trained) - above} == {"unused"}


def test_a_key_of_its_own_draws_other_values(network: tuple) -> None:
    first, again, other = (
        flat(next(randomisation.randomised(*network, key=jax.random.key(seed)))[1])[
            "params/head/kernel"
        ]
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_patterns_and_what_no_group_matches(network: tuple) -> None:
    ((_, norm), (_, block)) = randomisation.randomised(*network, groups=["bl?ck/norm", "block"])
    changed = [
        {path for path, array in flat(params).items() if (array != flat(network[1])[path]).any()}
        for params in (norm, block)
    ]
    assert {path.split("/", 1)[1] for path in changed[0]} == {
        f"block/norm/{name}" for name in ("scale", "bias", "mean", "var")
    }
    assert changed[1] - changed[0] == {
        "params/block/z_conv/kernel", "params/block/a_projection/kernel",
        "params/block/a_projection/bias",
    }  # fmt: skip


def test_a_redraw_of_ones_own(network: tuple) -> None:
    seen = []

    def redraw(key: jax.Array, array: jax.Array, path: str) -> jax.Array:
        seen.append(path)
        if path.startswith("batch_stats"):
            return array
        return jax.random.normal(key, array.shape)

    ((_, drawn),) = randomisation.randomised(*network, groups=["block/norm"], redraw=redraw)
    assert set(seen) == {
        "params/block/norm/bias", "params/block/norm/scale",
        "batch_stats/block/norm/mean", "batch_stats/block/norm/var",
    }  # fmt: skip
    changed = {
        name for name, array in flat(drawn).items() if (array != flat(network[1])[name]).any()
    }
    assert changed == {path for path in seen if path.startswith("params")}


# --- the check -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["cascading", "independent"])
@pytest.mark.parametrize("layer", ["auto", None])
def test_without_randomisation_maps_stay(network: tuple, mode: str, layer: str | None) -> None:
    result = randomisation.randomisation_check(
        *network, 1, layer=layer, mode=mode, redraw=lambda key, array, path: array, draws=2
    )
    assert result.stages == GROUPS and result.mode == mode
    assert result.rank_correlation.shape == (2, len(GROUPS), 3)
    np.testing.assert_allclose(result.rank_correlation, 1, atol=1e-12)
    np.testing.assert_allclose(result.structural_similarity, 1, atol=1e-12)


def test_the_maps_are_attention_maps(network: tuple) -> None:
    model_fn, params, x = network
    for contrastive in (False, True):
        auto = randomisation.randomisation_check(
            *network, 2, contrastive=contrastive, groups=["head"]
        )
        np.testing.assert_array_equal(
            auto.original, ej.attention_map(*network, 2, contrastive=contrastive)
        )
        at_input = randomisation.randomisation_check(
            *network, 2, contrastive=contrastive, layer=None, groups=["head"]
        )
        mwp = ej.excitation_vjp(*network, 2, contrastive=contrastive).mwp.sum(-1)
        expected = jnp.maximum(mwp, 0) if contrastive else mwp
        np.testing.assert_allclose(at_input.original, expected, rtol=1e-5, atol=1e-8)


def test_the_figures_are_those_of_the_stages(network: tuple) -> None:
    model_fn, _, x = network
    key = jax.random.key(5)
    result = randomisation.randomisation_check(*network, 2, contrastive=False, key=key)
    (draw,) = jax.random.split(key, 1)
    for stage, (name, params) in enumerate(randomisation.randomised(*network, key=draw)):
        found = ej.attention_map(model_fn, params, x, 2, contrastive=False)
        assert result.stages[stage] == name
        np.testing.assert_array_equal(
            result.rank_correlation[0, stage], similarity.rank_correlation(result.original, found)
        )
        np.testing.assert_array_equal(
            result.structural_similarity[0, stage],
            similarity.structural_similarity(result.original, found),
        )
    assert (result.rank_correlation < 0.999).any()


def test_several_targets_have_an_axis(network: tuple) -> None:
    targets = jnp.array([[0, 3]] * 3)
    both = randomisation.randomisation_check(*network, targets, groups=["head", "block"])
    assert both.rank_correlation.shape == both.structural_similarity.shape == (1, 2, 3, 2)
    single = randomisation.randomisation_check(*network, 3, groups=["head", "block"])
    np.testing.assert_allclose(both.rank_correlation[..., 1], single.rank_correlation, atol=1e-6)


def test_the_model_is_traced_no_more_often_for_more_stages(network: tuple) -> None:
    model_fn, params, x = network
    traces = []

    def counted(count: int) -> int:
        def model(params: dict, x: jax.Array) -> jax.Array:
            traces.append(count)
            return model_fn(params, x)

        randomisation.randomisation_check(
            model, params, x, 0, layer=None, groups=GROUPS[:count], draws=count
        )
        return traces.count(count)

    assert counted(1) == counted(5)


def test_any_map_can_be_checked(network: tuple) -> None:
    model_fn, params, x = network

    @jax.jit
    def gradient(params: dict, x: jax.Array, target: jax.Array) -> jax.Array:
        scores, pull = jax.vjp(lambda x: model_fn(params, x), x)
        return jnp.abs(pull(jax.nn.one_hot(target, scores.shape[-1]))[0]).max(-1)

    def pixels(params: dict, x: jax.Array, target: jax.Array) -> jax.Array:
        return x.sum(-1)

    target = jnp.array([0, 1, 2])
    result = randomisation.randomisation_check(*network, target, map_fn=gradient)
    np.testing.assert_array_equal(result.original, gradient(params, x, target))
    assert result.original.shape == (3, 16, 16)
    assert result.rank_correlation.max() < 0.999
    blind = randomisation.randomisation_check(*network, target, map_fn=pixels)
    np.testing.assert_allclose(blind.rank_correlation, 1, atol=1e-12)


def test_mwp_below_a_single_channel_ignores_the_classifier() -> None:
    """The exact case of what longer chains of positive weights approach: rank one.

    Everything passes one channel, so its MWP is the same for whatever classifier gives it a
    positive weight; so are all maps below it.
    """

    def model(w: dict, x: jax.Array) -> jax.Array:
        for name in ("first", "narrow"):
            x = jax.nn.relu(jax.lax.conv(x, w[name], (1, 1), "SAME"))
        return x.reshape(x.shape[0], -1).reshape(x.shape[0], -1, 1).mean(1) @ w["head"]

    keys = jax.random.split(jax.random.key(3), 3)
    w = {
        "first": jax.random.normal(keys[0], (6, 3, 3, 3)),
        "narrow": jax.random.uniform(keys[1], (1, 6, 3, 3)),
        "head": jnp.linspace(0.1, 2.0, 7)[None],
    }
    x = jax.random.uniform(keys[2], (2, 3, 10, 10))
    result = randomisation.randomisation_check(model, w, x, 4, layer=None, contrastive=False)
    assert result.stages == ("head", "narrow", "first")
    np.testing.assert_allclose(result.rank_correlation[:, 0], 1, atol=1e-12)
    assert result.rank_correlation[:, 1:].max() < 1 - 1e-6


@pytest.mark.slow
def test_what_the_documentation_says_of_the_digits_model() -> None:
    """At the input MWP hardly sees what the top has learned, c-MWP does (docs/sanity_check.md)."""
    network = sanity_check.digits_model(10)
    found = sanity_check.outcomes(network, None, draws=2, mode="cascading")
    mean = {method: outcome.check.summary()[0] for method, outcome in found.items()}
    stage3 = list(network.groups).index("stage3_block1")
    assert mean["MWP"][0] > 0.7 and mean["MWP"][stage3] > 0.4
    assert mean["c-MWP"][0] < 0.4 and abs(mean["c-MWP"][stage3]) < 0.2
    assert found["MWP"].other_class.mean() > found["c-MWP"].other_class.mean() + 0.2
    cosine, rest = np.array(list(sanity_check.convergence(network).values())).T
    assert cosine[0] < 0.4 and cosine[-1] > 0.7
    assert rest[0] > 0.9 and 0.5 < rest[-1] < 0.8
    # A pass of Eq. 6 brings two distributions no further apart.
    assert (np.diff(rest) < 1e-5).all()


# --- the measures --------------------------------------------------------------------------------


def slow_rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    def ranks(values: np.ndarray) -> list[float]:
        values = values.ravel()
        return [(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values]

    return np.corrcoef(ranks(a), ranks(b))[0, 1]


# Small integers, so that there are ties.
PAIRS = hnp.arrays(np.float64, (2, 5, 4), elements=st.integers(-3, 3).map(float))


@settings(deadline=None)
@given(PAIRS)
def test_rank_correlation_is_that_of_the_definition(pair: np.ndarray) -> None:
    found = similarity.rank_correlation(*pair)
    if min(np.ptp(values) for values in pair) == 0:
        assert np.isnan(found)
    else:
        np.testing.assert_allclose(found, slow_rank_correlation(*pair), atol=1e-12)


def test_rank_correlation_is_scipys_for_each_of_a_batch() -> None:
    stats = pytest.importorskip("scipy.stats")
    a, b = np.random.default_rng(0).integers(0, 9, (2, 3, 2, 6, 7))
    found = similarity.rank_correlation(a, b)
    assert found.shape == (3, 2)
    for i in np.ndindex(3, 2):
        assert found[i] == pytest.approx(stats.spearmanr(a[i].ravel(), b[i].ravel()).statistic)


def slow_structural_similarity(a: np.ndarray, b: np.ndarray, sigma: float = 1.5) -> float:
    radius = int(np.ceil(4 * sigma))
    offsets = np.arange(-radius, radius + 1)
    line = np.exp(-0.5 * (offsets / sigma) ** 2)
    window = np.outer(line, line) / line.sum() ** 2
    a, b = ((values - values.min()) / np.ptp(values) for values in (a, b))
    wide_a, wide_b = (np.pad(values, radius, mode="symmetric") for values in (a, b))
    total = 0.0
    for row, column in np.ndindex(a.shape):
        part = np.s_[row : row + 2 * radius + 1, column : column + 2 * radius + 1]
        mean_a, mean_b = (window * wide_a[part]).sum(), (window * wide_b[part]).sum()
        apart_a, apart_b = wide_a[part] - mean_a, wide_b[part] - mean_b
        covariance = (window * apart_a * apart_b).sum()
        variances = (window * (apart_a**2 + apart_b**2)).sum()
        luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
        total += luminance * (2 * covariance + 9e-4) / (variances + 9e-4)
    return total / a.size


@pytest.mark.parametrize("shape", [(5, 7), (16, 13), (30, 24)])
def test_structural_similarity_is_that_of_the_definition(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    for noise in (0.1, 1.0, 10.0):
        a = rng.random(shape) * 4 - 1
        b = a + noise * rng.random(shape)
        # The blur is in float32, and the variance a difference of its results.
        np.testing.assert_allclose(
            similarity.structural_similarity(a, b), slow_structural_similarity(a, b), atol=1e-5
        )
        np.testing.assert_allclose(
            similarity.structural_similarity(a, b),
            similarity.structural_similarity(b, a),
            atol=1e-12,
        )
        np.testing.assert_allclose(similarity.structural_similarity(a, 3 * a + 2), 1, atol=1e-5)


def test_measures_take_leading_axes() -> None:
    a, b = np.random.default_rng(2).random((2, 3, 2, 9, 8))
    for measure in (similarity.rank_correlation, similarity.structural_similarity):
        found = measure(a, b)
        assert found.shape == (3, 2)
        np.testing.assert_allclose(found[2, 1], measure(a[2, 1], b[2, 1]), atol=1e-6)


def test_constant_maps_have_no_rank_correlation_and_are_left_out(network: tuple) -> None:
    def map_fn(params: dict, x: jax.Array, target: jax.Array) -> jax.Array:
        return x.sum(-1).at[1].set(0.5)

    result = randomisation.randomisation_check(*network, 0, map_fn=map_fn, groups=["head"])
    assert np.isnan(result.rank_correlation[0, 0]).tolist() == [False, True, False]
    mean, deviation = result.summary()
    assert mean == pytest.approx(1) and deviation == pytest.approx(0)
    header, row = str(result).splitlines()
    assert header.endswith("constant maps") and row.endswith("33%")
    assert np.isfinite(result.structural_similarity).all()
    constant = randomisation.randomisation_check(
        *network, 0, map_fn=lambda params, x, target: jnp.ones((3, 4, 4)), groups=["head"]
    )
    assert np.isnan(constant.summary()[0]).all()


# --- showing it ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result(network: tuple) -> randomisation.RandomisationCheck:
    return randomisation.randomisation_check(*network, 0, groups=["head", "block", "stem"], draws=2)


def test_the_table_has_a_row_for_each_stage(result: randomisation.RandomisationCheck) -> None:
    header, *rows = str(result).splitlines()
    assert header.split("  ")[0] == "stage" and "constant" not in header
    assert [row.split()[0] for row in rows] == ["head", "block", "stem"]
    assert f"{result.rank_correlation[:, 1].mean():.3f}" in rows[1]
    assert f"{result.structural_similarity[:, 2].std():.3f}" in rows[2]


@pytest.mark.parametrize("measure", ["rank_correlation", "structural_similarity"])
def test_plot_on_axes_adds_a_line(result: randomisation.RandomisationCheck, measure: str) -> None:
    axes = Figure().add_subplot()
    for label in ("one", "two"):
        assert result.plot(axes, measure=measure, label=label) is axes
    for line in axes.lines:
        values = getattr(result, measure).mean((0, 2))
        np.testing.assert_allclose(line.get_ydata(), [1, *values])
    assert [line.get_label() for line in axes.lines] == ["one", "two"]
    labels = [tick.get_text() for tick in axes.get_xticklabels()]
    assert labels == ["(none)", "head", "block", "stem"]
    assert axes.get_xlabel() == "weights redrawn down to"


def test_plot_writes_a_file(result: randomisation.RandomisationCheck, tmp_path: Path) -> None:
    result.plot(tmp_path / "check.png", label="c-MWP")
    assert (tmp_path / "check.png").read_bytes().startswith(b"\x89PNG")
    result.plot(str(tmp_path / "check.svg"))
    assert "<svg" in (tmp_path / "check.svg").read_text()


def test_plot_without_matplotlib_says_what_to_install(
    result: randomisation.RandomisationCheck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"needs matplotlib: pip install \"excitation-jax\[plots"):
        result.plot(tmp_path / "check.png")


# --- what bad input says -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"groups": ["haed"]}, ValueError, "'haed' has no floating-point parameter.* head"),
        ({"groups": ["block", "block/norm"]}, ValueError, "'block/norm' belong to groups before"),
        ({"groups": "head"}, TypeError, "sequence of names, not the string 'head'"),
        ({"mode": "upwards"}, ValueError, '"cascading" or "independent", not \'upwards\''),
        ({"draws": 0}, ValueError, "draws must be at least 1"),
        ({"layer": "tail"}, ValueError, "no layer named 'tail'"),
        (
            {"redraw": lambda key, array, path: array[:1]},
            ValueError,
            r"returned .* for params/head",
        ),
        (
            {"redraw": lambda key, array, path: array.astype(jnp.bfloat16)},
            ValueError,
            r"returned bfloat16 \(5,\) for params/head/bias, which is float32 \(5,\)",
        ),
        ({"map_fn": lambda *_: jnp.ones((4, 4))}, ValueError, r"\(N, height, width\).*\(4, 4\)"),
        (
            {"map_fn": lambda *_: jnp.full((3, 4, 4), jnp.nan)},
            ValueError,
            "map of the network as it is is not finite",
        ),
        ({"map_fn": lambda *_: 1, "layer": "stem"}, ValueError, "not with map_fn"),
        ({"map_fn": lambda *_: 1, "contrastive": False}, ValueError, "not with map_fn"),
    ],
)
def test_bad_arguments(network: tuple, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        randomisation.randomisation_check(*network, 0, **options)


def test_a_map_that_is_not_finite_after_a_stage_names_the_stage(network: tuple) -> None:
    model_fn, params, x = network

    def map_fn(redrawn: dict, x: jax.Array, target: int) -> jax.Array:
        same = redrawn["params"]["stem"]["bias"] == params["params"]["stem"]["bias"]
        return x.sum(-1) / same.all()

    with pytest.raises(ValueError, match="after redrawing stem is not finite"):
        randomisation.randomisation_check(*network, 0, map_fn=map_fn)


@pytest.mark.parametrize("measure", [similarity.rank_correlation, similarity.structural_similarity])
def test_maps_must_match(measure: object) -> None:
    with pytest.raises(ValueError, match=r"share a shape .*\(3, 3\), \(3, 4\)"):
        measure(np.ones((3, 3)), np.ones((3, 4)))
    with pytest.raises(ValueError, match="share a shape"):
        measure(np.ones(3), np.ones(3))


def test_an_unknown_measure(result: randomisation.RandomisationCheck) -> None:
    with pytest.raises(ValueError, match="rank_correlation, structural_similarity, not 'cosine'"):
        result.summary("cosine")
