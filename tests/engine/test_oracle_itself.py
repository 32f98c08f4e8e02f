"""The oracle of tests/oracles, held against what can be worked out by hand, and against JAX."""

from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import oracles
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles.comparison import FAST, compare, random_prior
from oracles.functions import PHI
from oracles.generator import ALL, Switches, random_inputs, random_network
from oracles.layers import Network, Part, Window
from oracles.spell import SPELLINGS, Choices, spell
from oracles.spelled_functions import FUNCTIONS
from oracles.winners import AGREED, BEFORE, BUILT, CONSERVING, Winners

some = settings(
    max_examples=15, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
NEEDS = ("D0", "D1", "D2", "D3", "D4", "D5", "D7")


@pytest.mark.parametrize("name", ["functions", "neurons", "winners", "layers", "generator"])
def test_the_oracle_imports_neither_jax_nor_the_library(name: str) -> None:
    tree = ast.parse((Path(oracles.__file__).parent / f"{name}.py").read_text())
    found = {
        alias.name.partition(".")[0]
        for node in ast.walk(tree)
        for alias in (node.names if isinstance(node, ast.Import) else ())
    } | {
        (node.module or "").partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 0
    }
    assert not found & {"jax", "excitation_jax"}, found


# --- lower bounds -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "low"),
    [
        ("relu", 0), ("sigmoid", 0), ("softplus", 0), ("tanh", -1), ("hard_tanh", -1), ("elu", -1),
        ("hard_swish", -0.375), ("selu", -1.0507009873554805 * 1.6732632423543772),
        ("silu", -0.27846454276107374), ("gelu", -0.16997120747990369),
        ("leaky_relu", -math.inf), ("minus", -math.inf), ("square", 0), ("exp_minus", 0),
    ],
)  # fmt: skip
def test_lower_bounds(name: str, low: float) -> None:
    assert PHI[name].lowest() == pytest.approx(low, abs=1e-12)


def test_lower_bound_over_a_part_of_the_line() -> None:
    assert PHI["sigmoid"].lowest(0.0) == 0.5
    assert PHI["square"].lowest(2.0, 3.0) == 4
    assert PHI["silu"].lowest(-1.0, 1.0) == pytest.approx(-0.2689414213699951)
    assert PHI["minus"].lowest(0.0, 6.0) == -6


# --- networks worked out by hand ----------------------------------------------------------------


def dense(network: Network, i: int, w: Any, b: Any = None, **more: Any) -> int:
    w = np.array(w, float)
    arrays = {"w0": w, "b": np.zeros(w.shape[1]) if b is None else np.array(b, float)}
    return network.affine([Part(i)], arrays, **more)


def at_input(network: Network, x: Any, meaning: Any = AGREED, contrastive: bool = False) -> list:
    winners = Winners(network.net, np.ravel(x).tolist(), meaning)
    start = {int(network.ids[network.outputs[0]].flat[0]): 1.0}
    found = winners.contrastive(start) if contrastive else winners.mwp(start)
    return [found[i] for i in network.ids[0].ravel()]


def chain(width: int, *layers: Any) -> Network:
    """Layers one above the other: a name of phi, or weights and perhaps a bias."""
    network, i = Network((width,)), 0
    for layer in layers:
        if isinstance(layer, str):
            i = network.phi(i, layer)
        else:
            i = dense(network, i, *layer) if isinstance(layer, tuple) else dense(network, i, layer)
    network.outputs = (i,)
    return network


def test_eq_6() -> None:
    assert at_input(chain(3, [[2], [1], [-5]]), [1, 4, 9]) == pytest.approx([1 / 3, 2 / 3, 0])
    assert at_input(chain(2, [[1], [1]]), [-1, -4]) == [0, 0]  # Z = 0


def test_eq_20() -> None:
    network = chain(2, "tanh", [[1], [1]])
    a, b = math.tanh(-0.5) + 1, math.tanh(2) + 1
    assert at_input(network, [-0.5, 2]) == pytest.approx([a / (a + b), b / (a + b)])


def test_eq_19() -> None:
    network = Network((2,))
    a, y = network.phi(0, "relu"), dense(network, 0, [[1, 0], [0, -1]])
    network.outputs = (network.sum([a, y]),)
    assert at_input(network, [3, 1]) == [1, 0]  # 3 / (3 + 3) twice
    below = Winners(network.net, [3, 1]).mwp({int(network.ids[3][0]): 1.0})
    assert [below[i] for i in network.ids[1]] == [0.5, 0]


def test_affine_parts_are_one_neuron() -> None:
    """D2: h A + h B has the weights of A and of B."""
    for a, b, right in (([2, -5], [2, -3], [1, 0]), ([2, -5], [-3, 6], [1 / 4, 3 / 4])):
        network = Network((2,))
        h = network.phi(0, "relu")
        arrays = {"w0": np.array(a, float)[:, None], "w1": np.array(b, float)[:, None]}
        network.outputs = (network.affine([Part(h), Part(h)], arrays | {"b": np.zeros(1)}),)
        assert at_input(network, [1, 1]) == pytest.approx(right)


def test_a_falling_top_is_the_other_class() -> None:
    """D1, D6: 1 - sigmoid(x W) has the map of sigmoid(-x W)."""
    w = np.array([[1.0], [-2.0]])
    falling, other = chain(2, w, "sigmoid", "one_minus"), chain(2, -w, "sigmoid")
    for contrastive in (False, True):
        assert at_input(falling, [2, 1], contrastive=contrastive) == pytest.approx(
            at_input(other, [2, 1], contrastive=contrastive)
        )
    assert at_input(falling, [2, 1]) == [0, 1]


def test_what_rises_and_falls_takes_the_sign_of_its_slope() -> None:
    """D1: |a - b|."""
    network = Network((4,))
    difference = dense(network, 0, [[1, 0], [0, 1], [-1, 0], [0, -1]])
    network.outputs = (dense(network, network.phi(difference, "abs"), [[1], [1]]),)
    assert at_input(network, [3, 0, 0, 2]) == pytest.approx([0.6, 0, 0, 0.4])


def test_constants_belong_to_their_readers() -> None:
    """D3: ((x - m) / s) W is x (W / s) + b."""
    norm = {"gamma": np.array([0.5, -2.0]), "beta": np.array([0.1, 0.2])}
    norm |= {"mean": np.array([0.5, 0.3]), "var": np.array([1.0, 3.0])}
    w, x = np.array([[1.0, 2.0], [-2.0, 1.0]]), [0.4, 3.0]
    before = Network((2,))
    before.outputs = (
        dense(before, before.phi(dense(before, before.scale(0, norm), w), "relu"), [[1], [1]]),
    )
    scale = norm["gamma"] / np.sqrt(norm["var"] + 1e-3)
    shift = norm["beta"] - norm["mean"] * scale
    folded = chain(2, (scale[:, None] * w, shift @ w), "relu", [[1], [1]])
    assert at_input(before, x) == pytest.approx(at_input(folded, x))


def test_lambda_is_the_neurons_own() -> None:
    """D4: a dead ReLU beside a tanh wins nothing."""
    network = Network((2,))
    dead = network.phi(dense(network, 0, [[-1], [0]]), "relu")
    live = network.phi(dense(network, 0, [[0], [1]]), "tanh")
    network.outputs = (dense(network, network.concat([dead, live]), [[1], [1]]),)
    assert at_input(network, [1, 1]) == [0, 1]


def test_the_reverse_of_a_convolutional_head_is_one_sum() -> None:
    """D6: two positions, two channels, one class, a ReLU between the scores and their mean."""
    network = Network((2, 2))
    head = dense(network, 0, [[1], [-0.5]])
    network.outputs = (network.global_pool(network.phi(head, "relu"), head),)
    found = at_input(network, [[1, 1], [2, 1]], contrastive=True)
    assert found == pytest.approx([0.25, -0.5, 0.75, -0.5])
    as_it_was = at_input(network, [[1, 1], [2, 1]], BEFORE, contrastive=True)
    assert as_it_was == pytest.approx([0.25, -0.25, 0.75, -0.75])


def test_what_only_a_bias_drives() -> None:
    """D10."""
    network = chain(2, "relu", ([[-1, 1], [-2, 1]], [9, 0]), "relu", [[1], [0]])
    assert at_input(network, [1, 2]) == [0, 0]
    assert at_input(network, [1, 2], CONSERVING) == [0.5, 0.5]


# --- properties ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_probability_is_conserved(seed: int) -> None:
    for meaning in (AGREED, CONSERVING):
        network = random_network(seed, Switches(True, True, True, True, True, True, False))
        winners = Winners(network.net, random_inputs(network, seed)[0].ravel().tolist(), meaning)
        outputs = [int(i) for o in network.outputs for i in network.ids[o].ravel()]
        found = winners.mwp({i: 1 / len(outputs) for i in outputs})
        arrived = sum(found[i] for i in network.ids[0].ravel())
        assert min(found) >= 0
        assert arrived + winners.lost == pytest.approx(1, abs=1e-12)
        if meaning is CONSERVING:
            assert winners.lost == 0


@pytest.mark.parametrize("seed", range(10))
def test_directions_are_what_two_neurons_would_be(seed: int) -> None:
    """D1: a raw value behind two scales, or two layers with these scales in their weights."""
    rng = np.random.default_rng(seed)
    arrays = {"w0": rng.normal(size=(3, 2, 4)), "b": rng.normal(size=4)}
    norms = [
        {"gamma": rng.normal(size=4), "beta": rng.normal(size=4), "mean": rng.normal(size=4),
         "var": rng.uniform(0.2, 2, 4)}
        for _ in range(2)
    ]  # fmt: skip
    part, x = Part(0, Window((3,), (1,), ((1, 1),), (1,))), rng.normal(0.4, 1, 10)
    found = []
    for shared in (True, False):
        network = Network((5, 2))
        if shared:
            y = network.affine([part], arrays)
            both = [network.scale(y, norm) for norm in norms]
        else:
            both = [network.affine([part], arrays | norm) for norm in norms]
        top = network.concat([network.phi(i, "relu") for i in both])
        network.outputs = (dense(network, network.flatten(top), np.ones((40, 1))),)
        found.append(at_input(network, x))
    assert found[0] == pytest.approx(found[1], abs=1e-12)


# --- specification and JAX ----------------------------------------------------------------------


@st.composite
def windows(draw: Any, dilated: bool) -> tuple[tuple[int, ...], Window]:
    """Sizes, and a window that fits."""
    sizes = tuple(draw(st.lists(st.integers(3, 6), min_size=1, max_size=2)))
    pick = lambda low, high: tuple(draw(st.integers(low, high)) for _ in sizes)  # noqa: E731
    kernel = pick(1, 3)
    pads = tuple((draw(st.integers(0, k - 1)), draw(st.integers(0, k - 1))) for k in kernel)
    dilation = tuple(draw(st.integers(1, 2)) if dilated and 2 * (k - 1) < n + sum(p) - 3 else 1
                     for k, n, p in zip(kernel, sizes, pads, strict=True))  # fmt: skip
    return sizes, Window(kernel, pick(1, 3), pads, dilation, draw(st.sampled_from([1, 2])))


@some
@given(found=windows(True), seed=st.integers(0, 99), how=st.sampled_from(sorted(SPELLINGS["conv"])))
def test_a_convolution_is_its_connections(found: Any, seed: int, how: str) -> None:
    """In every spelling's values; in those that are understood, also in the maps."""
    (sizes, window), rng = found, np.random.default_rng(seed)
    network = Network((*sizes, 4))
    w = rng.normal(size=(*window.kernel, 4 // window.groups, 2))
    i = network.affine([Part(network.phi(0, "relu"), window)], {"w0": w, "b": rng.normal(size=2)})
    network.outputs = (network.phi(i, "tanh"),)
    check(network, seed, {"conv": how}, maps=not SPELLINGS["conv"][how][0])


@some
@given(found=windows(False), seed=st.integers(0, 99), kind=st.sampled_from(["max", "avg", "all"]))
def test_a_pooling_is_its_windows(found: Any, seed: int, kind: str) -> None:
    sizes, window = found
    network = Network((*sizes, 2))
    i = network.phi(0, "softplus")
    if kind == "max":
        i = network.max_pool(i, window)
    else:
        i = network.avg_pool(i, window, count_padding=kind == "all")
    network.outputs = (dense(network, i, [[1, -1], [2, 1]]),)
    check(network, seed, {})


def check(network: Network, seed: int, fixed: dict[str, str], maps: bool = True) -> None:
    x, choices = random_inputs(network, seed), Choices(seed, fixed=fixed)
    if maps:
        found = compare(network, x, random_prior(network, seed, 2), choices, meaning=BUILT)
        assert found.largest < 1e-9, found
    else:
        np.testing.assert_allclose(
            values_in_jax(network, choices, x), values(network, x), atol=1e-9
        )


@pytest.mark.parametrize("seed", range(12))
def test_every_spelling_computes_the_network(seed: int) -> None:
    """Values only: also what the library is still to understand."""
    network = random_network(seed, ALL)
    x, choices = random_inputs(network, seed), Choices(seed, NEEDS, identities=4)
    np.testing.assert_allclose(values_in_jax(network, choices, x), values(network, x), atol=1e-9)


def test_every_activation_in_every_spelling() -> None:
    y = np.linspace(-8, 8, 201)
    with jax.enable_x64(True):
        spelled = {f"{name}: {how}": function for name, ways in FUNCTIONS.items()
                   for how, (_, function) in ways.items()}  # fmt: skip
        found = jax.jit(lambda y: {name: f(y) for name, f in spelled.items()})(y)
    for name, got in found.items():
        right = [PHI[name.partition(":")[0]].call(float(v)) for v in y]
        np.testing.assert_allclose(got, right, atol=1e-12, err_msg=name)


def values_in_jax(network: Network, choices: Choices, x: np.ndarray) -> np.ndarray:
    with jax.enable_x64(True):
        model, params = spell(network, choices)
        outputs = jax.jit(model, compiler_options=FAST)(params, x)
        return flat(outputs if isinstance(outputs, tuple) else (outputs,), len(x))


def values(network: Network, x: np.ndarray) -> np.ndarray:
    every = [np.array(network.net.values(row.ravel().tolist())) for row in x]
    return flat([np.stack([v[network.ids[o]] for v in every]) for o in network.outputs], len(x))


def flat(outputs: Any, batch: int) -> np.ndarray:
    return np.concatenate([np.asarray(o).reshape(batch, -1) for o in outputs], 1)
