"""Layer-wise relevance propagation against its definition (Bach et al. 2015), written out.

The networks are those of random_networks.py, and so are their values and the matrices of their
layers: written from the layers' specifications in numpy float64, without tracing anything. Here a
BatchNorm and a bias are merged into the neuron before the definition is applied.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import PartitionSpec
from random_networks import CLASSES, FAST, Chain, Network, check_some, networks, run

import excitation_jax as ej
from excitation_jax import methods
from excitation_jax.explain.top_down import top_down
from excitation_jax.methods import AlphaBeta, Epsilon, Flat, Gamma, lrp_rules

# --- the definition ---------------------------------------------------------------------------
# Each takes the parts z_i of one neuron y = sum_i z_i + c and gives the parts of its relevance.

Definition = Callable[[np.ndarray, float], np.ndarray]


def stabilised(y: float, epsilon: float) -> float:
    return y + epsilon if y >= 0 else y - epsilon


def divided(parts: np.ndarray, whole: float) -> np.ndarray:
    return parts / whole if whole != 0 else 0 * parts


def epsilon(value: float) -> Definition:
    """Bach et al., Eq. 58."""
    return lambda z, c: divided(z, stabilised(z.sum() + c, value))


def alpha_beta(alpha: float, beta: float) -> Definition:
    """Bach et al., Eq. 60: the constant is a part of the sum of its sign."""

    def shares(z: np.ndarray, c: float) -> np.ndarray:
        up, down = np.maximum(z, 0), np.minimum(z, 0)
        excited = divided(up, up.sum() + max(c, 0))
        return alpha * excited - beta * divided(down, down.sum() + min(c, 0))

    return shares


def gamma(value: float) -> Definition:
    """Montavon et al. 2019, for both signs as in zennit: parts of the sign of y count more."""

    def shares(z: np.ndarray, c: float) -> np.ndarray:
        sign = 1 if z.sum() + c >= 0 else -1
        z, c = (np.where(sign * part > 0, (1 + value) * part, part) for part in (z, c))
        return divided(z, stabilised(z.sum() + c, 1e-6))

    return shares


def flat(z: np.ndarray, c: float) -> np.ndarray:
    return np.ones(len(z)) / len(z)


class Relevance:
    """Relevance of all neurons of a network for one example."""

    def __init__(self, network: Network, x: np.ndarray, rules: dict[str, Definition]):
        self.nodes, self.chain, self.rules = network.nodes, Chain(network, x), rules
        self.values = self.chain.values

    def propagate(self, start: np.ndarray) -> list[np.ndarray]:
        found = [np.zeros(value.shape) for value in self.values]
        found[-1] = start
        for i in reversed(range(1, len(self.nodes))):
            node = self.nodes[i]
            if node.kind in ("conv", "dense", "avg_pool", "global_pool", "sum"):
                shares = self._shared(i, found[i])
            elif node.kind == "max_pool":
                (parent,) = node.parents
                x, share = self.values[parent].ravel(), np.zeros(self.values[parent].size)
                for r, window in zip(found[i].ravel(), self.chain._windows(node), strict=True):
                    share[window[np.argmax(x[window])]] += r
                shares = [share]
            elif node.kind == "concat":
                shares = self._parts(i, found[i])
            else:
                shares = [found[i]]
            for j, share in zip(node.parents, shares, strict=True):
                found[j] = found[j] + share.reshape(found[j].shape)
        return found

    def _shared(self, i: int, relevance: np.ndarray) -> list[np.ndarray]:
        node, parents = self.nodes[i], [self.values[j].ravel() for j in self.nodes[i].parents]
        scale, shift = (part.ravel() for part in self._behind(i))
        if "b" in node.arrays:
            bias = np.zeros(node.shape) + self.chain._per_channel(node.arrays["b"], node.shape)
            shift = shift + scale * bias.ravel()
        share = np.zeros(sum(x.size for x in parents))
        x = np.concatenate(parents)
        rule = self.rules["sum"]
        if node.kind in ("conv", "dense"):
            rule = self.rules[node.kind]
            if "first" in self.rules and not self._behind_a_layer(i):
                rule = self.rules["first"]
        for row, (children, w) in enumerate(self._connections(i)):
            z = scale[row] * w * x[children]
            share[children] += rule(z, shift[row]) * relevance.ravel()[row]
        return np.split(share, np.cumsum([x.size for x in parents])[:-1])

    def _connections(self, i: int) -> Any:
        """For each neuron of a node, its children and the weights."""
        node = self.nodes[i]
        if node.kind == "sum":
            size = self.values[i].size
            yield from ((np.array([k, size + k]), np.ones(2)) for k in range(size))
        elif node.kind in ("avg_pool", "global_pool"):
            for window in self.chain._windows(node):
                count = len(window)
                if node.options.get("count_padding"):
                    count = np.prod(node.options["window"])
                yield window, np.ones(len(window)) / count
        else:
            ones = dataclasses.replace(node, arrays={"w": np.ones_like(node.arrays["w"])})
            weights, connected = self.chain._matrix(node), self.chain._matrix(ones) > 0
            for w, there in zip(weights, connected, strict=True):
                yield np.flatnonzero(there), w[there]

    def _behind(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """The scale and shift of the BatchNorms between a node and the next activation."""
        none = np.ones(self.values[i].shape), np.zeros(self.values[i].shape)
        readers = [k for k, node in enumerate(self.nodes) if i in node.parents]
        if len(readers) != 1:
            return none
        (k,) = readers
        node, (scale, shift) = self.nodes[k], self._behind(k)
        match node.kind:
            case "norm":
                here = self.chain._norm_scale(node) * none[0]
                mean, beta = (
                    self.chain._per_channel(node.arrays[name], node.shape)
                    for name in ("mean", "beta")
                )
                return scale * here, scale * (beta - mean * here) + shift
            case "flatten":
                return scale.reshape(none[0].shape), shift.reshape(none[0].shape)
            case "concat":
                at = node.parents.index(i)
                return self._parts(k, scale)[at], self._parts(k, shift)[at]
        return none

    def _parts(self, i: int, whole: np.ndarray) -> list[np.ndarray]:
        node = self.nodes[i]
        axis = self.chain._channel_axis(node.shape)
        widths = [self.values[j].shape[axis] for j in node.parents]
        return np.split(whole, np.cumsum(widths)[:-1], axis=axis)

    def _behind_a_layer(self, i: int) -> bool:
        return any(
            self.nodes[j].kind in ("conv", "dense") or self._behind_a_layer(j)
            for j in self.nodes[i].parents
        )


def every(
    dense: Definition, conv: Definition | None = None, first: Definition | None = None
) -> dict[str, Definition]:
    rules = {"dense": dense, "conv": conv or dense, "sum": epsilon(1e-6)}
    return rules if first is None else {**rules, "first": first}


# --- the library --------------------------------------------------------------------------------

RULES = {
    "epsilon": (lrp_rules(Epsilon()), every(epsilon(1e-6))),
    "epsilon 0.1": (lrp_rules(Epsilon(0.1)), every(epsilon(0.1))),
    "LRP-0": (lrp_rules(Epsilon(0)), every(epsilon(0))),
    "z+": (lrp_rules(AlphaBeta(1, 0)), every(alpha_beta(1, 0))),
    "alpha 2 beta 1": (lrp_rules(AlphaBeta(2, 1)), every(alpha_beta(2, 1))),
    "alpha 1.5 beta 0.5": (lrp_rules(AlphaBeta(1.5, 0.5)), every(alpha_beta(1.5, 0.5))),
    "gamma": (lrp_rules(Gamma(0.25)), every(gamma(0.25))),
    "composite": (
        lrp_rules(Epsilon(0.01), Gamma(1.0), Flat()),
        every(epsilon(0.01), gamma(1.0), flat),
    ),
    "flat": (lrp_rules(Flat()), every(flat)),
}


def every_relevance(
    network: Network, rules: ej.rules.RuleSet, x: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The outputs, and the relevance of every node, by the library."""
    names = [f"n{i}" for i in range(len(network.nodes))]

    def model(params: Any, x: jax.Array) -> jax.Array:
        return run(network, params, ej.tag(x, "n0"))

    def explain(params: Any, x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        found = top_down(model, params, x, target, names, rules=rules, start=score)
        return found.outputs, found.shares

    with jax.enable_x64(True):
        found = jax.jit(explain, compiler_options=FAST)(network.params, x)
        return jax.tree.map(np.asarray, found)


def score(outputs: jax.Array, p: jax.Array) -> jax.Array:
    return outputs * p


# --- the properties -----------------------------------------------------------------------------


@pytest.mark.slow
@settings(check_some, max_examples=80)
@given(network=networks(), name=st.sampled_from(list(RULES)))
def test_relevance_of_every_neuron_is_as_defined(network: Network, name: str) -> None:
    rules, definitions = RULES[name]
    x, target = network.inputs(), np.array([0, 2])
    outputs, found = every_relevance(network, rules, x, target)
    for n in range(len(x)):
        start = outputs[n] * np.eye(CLASSES)[target[n]]
        expected = Relevance(network, x[n], definitions).propagate(start)
        largest = max(np.abs(r).max() for r in expected)
        for i, r in enumerate(expected):
            np.testing.assert_allclose(found[i][n], r, rtol=0, atol=1e-9 * largest, err_msg=f"{i}")


def without_constants(network: Network) -> Network:
    none = {name: np.zeros_like for name in ("b", "mean", "beta")}
    nodes = [
        dataclasses.replace(
            node, arrays={name: none.get(name, np.copy)(a) for name, a in node.arrays.items()}
        )
        for node in network.nodes
    ]
    return dataclasses.replace(network, nodes=tuple(nodes))


@settings(check_some, max_examples=15)
@given(network=networks().map(without_constants), rule=st.sampled_from([Epsilon(0), Gamma(1, 0)]))
def test_without_constants_and_epsilon_relevance_is_conserved(network: Network, rule: Any) -> None:
    x, target = network.inputs(), np.array([0, 2])
    outputs, found = every_relevance(network, lrp_rules(rule, epsilon=0), x, target)
    for n in range(len(x)):
        largest = max(np.abs(r[n]).sum() for r in found)
        assert found[0][n].sum() == pytest.approx(outputs[n, target[n]], rel=0, abs=1e-10 * largest)


class ResNet(nn.Module):
    """Without biases."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def convolution(x: jax.Array) -> jax.Array:
            x = nn.Conv(8, (3, 3), use_bias=False)(x)
            return nn.BatchNorm(use_running_average=True, use_bias=False)(x)

        x = nn.max_pool(nn.relu(convolution(x)), (2, 2), (2, 2))
        x = nn.avg_pool(nn.relu(x + convolution(nn.relu(convolution(x)))), (2, 2), (2, 2))
        return nn.Dense(5, use_bias=False)(x.mean((1, 2)))


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def random_variables(model: nn.Module, x: jax.Array) -> Any:
    """Of a scale that keeps values near 1, and means of 0."""
    rng, statistics = np.random.default_rng(0), {"var": np.exp, "mean": np.zeros_like}

    def draw(path: Any, leaf: Any) -> np.ndarray:
        values = rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        return np.float32(statistics.get(path[-1].key, np.asarray)(values))

    return jax.tree.map_with_path(draw, jax.eval_shape(model.init, jax.random.key(0), x))


def test_a_map_in_float32_sums_to_the_score() -> None:
    model, x, target = ResNet(), normal(3, 16, 16, 3), jnp.array([[0, 1], [2, 3], [4, 0]])
    variables = random_variables(model, x)
    rules = lrp_rules(Epsilon(0), Gamma(0.25, 0), Flat(), epsilon=0)
    maps = methods.lrp(model.apply, variables, x, target, rules=rules)
    assert maps.shape == (3, 2, 16, 16)
    scores = jnp.take_along_axis(model.apply(variables, x), target, 1)
    np.testing.assert_allclose(maps.sum((2, 3)), scores, rtol=1e-5)


def test_one_by_one_all_at_once_and_compiled() -> None:
    model, x, targets = ResNet(), normal(3, 16, 16, 3), jnp.array([[0, 1], [2, 3], [4, 0]])
    variables = random_variables(model, x)

    def explain(x: jax.Array, target: jax.Array) -> jax.Array:
        return methods.lrp(model.apply, variables, x, target)

    def explain_one(x: jax.Array, target: jax.Array) -> jax.Array:
        return explain(x[None], target[None])[0]

    together = explain(x, targets)
    assert together.shape == (3, 2, 16, 16)
    peak = jnp.abs(together).max()
    compiled = jax.jit(explain)(x, targets)
    mapped = jax.jit(jax.vmap(jax.vmap(explain_one, (None, 0))))(x, targets)
    single = jnp.stack([explain(x, targets[:, k]) for k in range(2)], 1)
    for found in (compiled, mapped, single):
        np.testing.assert_allclose(found, together, rtol=0, atol=1e-5 * peak)


# A network, and the same network written in other ways.


def conv(x: jax.Array, w: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def first_layer(w: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    scale = w["gamma"] * lax.rsqrt(w["var"])
    return jnp.tanh((conv(x, w["first"]) - w["mean"]) * scale + w["beta"])


def second_layer(w: dict[str, jax.Array], h: jax.Array) -> jax.Array:
    return jax.nn.relu(conv(h, w["second"]) + w["b"])


def head(w: dict[str, jax.Array], h: jax.Array) -> jax.Array:
    h = h.mean((1, 2))
    for _ in range(2):
        h = jnp.tanh(h @ w["third"] + w["c"])
    return h @ w["last"] + w["d"]


def plain(w: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return head(w, second_layer(w, first_layer(w, x)))


def vmapped(w: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jax.vmap(lambda x: plain(w, x[None])[0])(x)


def vmapped_inside(w: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return head(w, jax.vmap(lambda h: second_layer(w, h[None])[0])(first_layer(w, x)))


def rematerialised(w: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jax.checkpoint(plain)(w, x)


def looped(w: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    def step(h: jax.Array, layer: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return jnp.tanh(h @ layer[0] + layer[1]), None

    layers = tuple(jnp.stack([w[name]] * 2) for name in ("third", "c"))
    h = second_layer(w, first_layer(w, x)).mean((1, 2))
    return lax.scan(step, h, layers)[0] @ w["last"] + w["d"]


def branching(w: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return lax.cond(x.sum() < 1e9, plain, lambda w, x: x[:, 0, 0, :1] * w["d"], w, x)


def sharded(w: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """By images."""
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    data = PartitionSpec("data")
    return jax.shard_map(plain, mesh=mesh, in_specs=(PartitionSpec(), data), out_specs=data)(w, x)


def rearranged(w: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Other signs, and the constants behind transposed, split and joined arrays."""
    deviation = jnp.sqrt(w["var"])
    h = jnp.tanh(w["beta"] - (w["mean"] - conv(x, w["first"])) * -w["gamma"] / -deviation)
    h = jnp.squeeze(conv(h, w["second"]).transpose(0, 3, 1, 2)[:, :, None], 2)
    h = jax.nn.relu(h + w["b"][:, None, None]).transpose(0, 2, 3, 1).mean((1, 2))
    for _ in range(2):
        h = jnp.tanh(-(-(w["third"].T @ h.T).T - w["c"]))
    outputs = jnp.concatenate([h @ w["last"][:, :1], h @ w["last"][:, 1:]], -1)
    return outputs * jnp.full(3, w["one"]) + w["d"]


FORMS = (vmapped, vmapped_inside, rematerialised, looped, branching, rearranged, sharded)


def test_how_a_network_is_written_does_not_matter() -> None:
    rules = lrp_rules(Gamma(1), AlphaBeta(2, 1), Flat())
    shapes = dict(first=(3, 3, 2, 4), second=(3, 3, 4, 4), third=(4, 4), last=(4, 3), d=3)
    shapes |= dict.fromkeys(("b", "c", "beta", "gamma", "mean", "var"), 4)
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        w = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
        w |= {"var": jnp.exp(w["var"]), "one": jnp.array(1.0)}
        x = jnp.asarray(rng.normal(size=(2, 5, 5, 2)))

        @jax.jit
        def explain(w: dict[str, jax.Array], x: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
            every = [top_down(f, w, x, 1, None, rules=rules, start=score) for f in (plain, *FORMS)]
            return [(found.outputs, found.share) for found in every]

        (outputs, expected), *found = jax.tree.map(np.asarray, explain(w, x))
    for form, (same, share) in zip(FORMS, found, strict=True):
        np.testing.assert_allclose(same, outputs, rtol=1e-9, err_msg=form.__name__)
        atol = 1e-9 * np.abs(expected).max()
        np.testing.assert_allclose(share, expected, rtol=0, atol=atol, err_msg=form.__name__)


# Composites.


class Dense(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for name in ("first", "second"):
            x = nn.relu(nn.Dense(6, name=name)(x))
        return nn.Dense(3, name="head")(x)


def test_a_rule_for_a_part_of_a_network() -> None:
    model, x = Dense(), normal(1, 5)
    params = random_variables(model, x)
    rules = lrp_rules(Epsilon(0.1)).scoped("first", lrp_rules(Gamma(1)))
    rules = rules.scoped("sec*", lrp_rules(AlphaBeta(2, 1)))
    found = top_down(model.apply, params, x, 2, None, rules=rules, start=score).share[0]
    values, layers = [np.asarray(x[0], float)], []
    for name in ("first", "second", "head"):
        w, b = (np.asarray(params["params"][name][key], float) for key in ("kernel", "bias"))
        layers.append((w, b))
        values.append(values[-1] @ w + b if name == "head" else np.maximum(values[-1] @ w + b, 0))
    relevance = values.pop() * [0, 0, 1]
    for (w, b), rule in zip(layers[::-1], (epsilon(0.1), alpha_beta(2, 1), gamma(1)), strict=True):
        below = values.pop()
        parts = [rule(below * w[:, j], b[j]) * relevance[j] for j in range(len(b))]
        relevance = np.sum(parts, axis=0)
    np.testing.assert_allclose(found, relevance, rtol=0, atol=1e-5 * np.abs(relevance).max())


def test_the_first_rule_is_for_layers_not_for_resizing() -> None:
    """A matrix of shapes alone, which jax.image.resize multiplies by, has no weights."""
    kernel, x = normal(3, 3, 1, 2), normal(1, 6, 6, 1, seed=1)

    def resize(x: jax.Array) -> jax.Array:
        return jax.image.resize(x, (1, 3, 3, 1), "linear")

    def network(kernel: jax.Array, x: jax.Array) -> jax.Array:
        return jax.nn.relu(conv(x, kernel)).sum((1, 2))

    def resizing(kernel: jax.Array, x: jax.Array) -> jax.Array:
        return network(kernel, ej.tag(resize(x), "small"))

    rules = lrp_rules(Epsilon(0.1), first=Flat())
    small, back = jax.vjp(resize, x)
    found = methods.lrp(resizing, kernel, x, 0, layer="small", rules=rules)
    np.testing.assert_allclose(
        found, methods.lrp(network, kernel, small, 0, rules=rules), rtol=1e-5
    )
    rules = lrp_rules(Epsilon(0), first=Flat())
    (share,) = back(found[..., None] / small)
    found = methods.lrp(resizing, kernel, x, 0, rules=rules)
    np.testing.assert_allclose(found, (x * share)[..., 0], rtol=1e-3, atol=1e-5)


def test_what_is_subtracted_takes_its_part_unless_it_normalises() -> None:
    w, x = (normal(4, 4, seed=1), normal(4, 3, seed=2)), normal(2, 4)

    def difference(w: tuple, x: jax.Array) -> jax.Array:
        h = jnp.tanh(x)
        return (h - jnp.tanh(h @ w[0])) @ w[1]

    def total(w: tuple, x: jax.Array) -> jax.Array:
        h = jnp.tanh(x)
        return (h + jnp.tanh(h @ -w[0])) @ w[1]

    def centred(w: tuple, x: jax.Array) -> jax.Array:
        return (x - x.mean(-1, keepdims=True)) @ w[1]

    def explain(model: Callable, x: jax.Array) -> jax.Array:
        return top_down(model, w, x, 1, None, rules=methods.LRP_EPSILON, start=score).share

    np.testing.assert_allclose(explain(difference, x), explain(total, x), rtol=1e-5, atol=1e-6)
    centre = x - x.mean(-1, keepdims=True)
    np.testing.assert_allclose(explain(centred, x), centre * w[1][:, 1], rtol=1e-4, atol=1e-6)


class Block(nn.Module):
    """Of a transformer, without biases; the image's rows are the tokens."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = nn.Conv(8, (2, 2), (2, 2), use_bias=False)(x)
        tokens = h.reshape(len(h), -1, 8)
        normed = nn.LayerNorm(use_bias=False)(tokens)
        tokens += nn.MultiHeadDotProductAttention(2, use_bias=False)(normed)
        wide = nn.gelu(nn.Dense(16, use_bias=False)(nn.LayerNorm(use_bias=False)(tokens)))
        tokens += nn.Dense(8, use_bias=False)(wide)
        return nn.Dense(3, use_bias=False)(nn.LayerNorm(use_bias=False)(tokens).mean(1))


def test_a_transformer_conserves_relevance() -> None:
    """Attention's probabilities are weights, and a LayerNorm passes relevance on."""
    model, x, target = Block(), normal(2, 8, 8, 3), jnp.array([0, 2])
    conserving = (methods.LRP_EPSILON, methods.LRP_GAMMA)
    others = (methods.LRP_ALPHA_BETA, methods.LRP_ZPLUS, methods.LRP_COMPOSITE)

    @jax.jit
    def explain(params: Any, x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        args = model.apply, params, x, target
        maps = [methods.lrp(*args, rules=rules) for rules in (*conserving, *others)]
        return model.apply(params, x)[jnp.arange(2), target], maps

    scores, maps = explain(random_variables(model, x), x)
    for found in maps:
        assert found.shape == (2, 8, 8) and jnp.isfinite(found).all()
    for found in maps[: len(conserving)]:
        assert np.abs(found.sum((1, 2)) - scores).max() <= 1e-3 * np.abs(found).sum((1, 2)).max()


@pytest.mark.parametrize(("alpha", "beta"), [(2, 0.5), (1, 1), (0.5, -0.5)])
def test_alpha_and_beta_have_to_conserve_relevance(alpha: float, beta: float) -> None:
    with pytest.raises(ValueError, match="alpha - beta must be 1 and beta not negative"):
        AlphaBeta(alpha, beta)


def test_a_sum_over_devices_is_refused() -> None:
    mesh = jax.make_mesh((1,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))

    def model(w: jax.Array, x: jax.Array) -> jax.Array:
        by_row, by_column = PartitionSpec("model"), PartitionSpec(None, "model")
        part = jax.shard_map(
            lambda w, x: lax.psum(x @ w, "model"),
            mesh=mesh,
            in_specs=(by_row, by_column),
            out_specs=PartitionSpec(),
        )
        return part(w, x)

    with pytest.raises(ej.UnsupportedPrimitiveError, match="psum.* at .*test_relevance.py") as e:
        top_down(model, normal(4, 3), normal(2, 4), 0, None, rules=methods.LRP_EPSILON)
    assert "these lie on several devices: run the model without shard_map" in str(e.value)
