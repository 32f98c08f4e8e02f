"""Sharded models; test_sharding.py runs this file in a process that has eight devices."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import excitation_jax as ej

KEYS = jax.random.split(jax.random.key(0), 4)
X = jax.random.normal(KEYS[0], (16, 8))
PARAMS = (
    jax.random.normal(KEYS[1], (8, 24)),
    jax.random.normal(KEYS[2], (24, 5)),
    jax.random.normal(KEYS[3], (24,)),
)
TARGETS = jnp.arange(16) % 5
MESH = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))


def plain(params: tuple, x: jax.Array) -> jax.Array:
    first, second, bias = params
    return ej.tag(jax.nn.relu(x @ first + bias), "hidden") @ second


def batch_in_parts(params: tuple, x: jax.Array) -> jax.Array:
    return jax.shard_map(plain, mesh=MESH, in_specs=(P(), P("d")), out_specs=P("d"))(params, x)


def features_in_parts(params: tuple, x: jax.Array) -> jax.Array:
    """Tensor parallel: each device has three of the hidden units; the sum is over devices.

    It is one neuron with the parts of the layer (D2): the same map as that of the whole.
    """

    def part(first: jax.Array, second: jax.Array, bias: jax.Array, x: jax.Array) -> jax.Array:
        return lax.psum(jax.nn.relu(x @ first + bias) @ second, "d")

    specs = (P(None, "d"), P("d"), P("d"), P())
    return jax.shard_map(part, mesh=MESH, in_specs=specs, out_specs=P())(*params, x)


def gathered(params: tuple, x: jax.Array) -> jax.Array:
    def part(first: jax.Array, bias: jax.Array, x: jax.Array) -> jax.Array:
        hidden = jax.nn.relu(x @ first + bias)
        return lax.all_gather(hidden, "d", axis=1, tiled=True)

    specs = (P(None, "d"), P("d"), P())
    hidden = jax.shard_map(
        part, mesh=MESH, in_specs=specs, out_specs=P(), check_vma=False
    )(params[0], params[2], x)  # fmt: skip
    return hidden @ params[1]


def looped(params: tuple, x: jax.Array) -> jax.Array:
    """Loops of either kind in each part; a while loop's counter is marked as varying."""
    first, second, bias = params

    def part(first: jax.Array, bias: jax.Array, x: jax.Array) -> jax.Array:
        hidden = jax.nn.relu(x @ first + bias)

        def step(state: tuple) -> tuple:
            return state[0] + 1, jnp.tanh(state[1] * 0.5)

        _, hidden = lax.while_loop(lambda state: state[0] < 2, step, (0, hidden))
        return lax.fori_loop(0, 2, lambda _, h: jax.nn.relu(h - 0.01), hidden)

    specs = (P(), P(), P("d"))
    hidden = jax.shard_map(part, mesh=MESH, in_specs=specs, out_specs=P("d"))(first, bias, x)
    return hidden @ second


def looped_on_one(params: tuple, x: jax.Array) -> jax.Array:
    first, second, bias = params
    hidden = jax.nn.relu(x @ first + bias)
    for _ in range(2):
        hidden = jnp.tanh(hidden * 0.5)
    for _ in range(2):
        hidden = jax.nn.relu(hidden - 0.01)
    return hidden @ second


@pytest.mark.parametrize("contrastive", [False, True])
def test_loops_in_the_parts(contrastive: bool) -> None:
    found, wanted = (
        ej.excitation_vjp(model, PARAMS, X, TARGETS, contrastive=contrastive)
        for model in (looped, looped_on_one)
    )
    np.testing.assert_allclose(found.mwp, wanted.mwp, rtol=1e-4, atol=1e-6)


def test_the_report_counts_what_is_lost_in_the_parts() -> None:
    for model in (batch_in_parts, features_in_parts):
        report = ej.explain_rules(model, PARAMS, X, target=TARGETS)
        (row,) = (row for row in report.rows if row.primitive == "shard_map")
        total = float(ej.excitation_vjp(model, PARAMS, X, TARGETS).mwp.sum()) / len(X)
        assert report.reached == pytest.approx(total, abs=1e-5)
        assert row.lost == pytest.approx(1 - report.reached, abs=1e-5) and row.lost > 0.01


def test_there_are_eight_devices() -> None:
    assert jax.device_count() == 8


@pytest.mark.parametrize("contrastive", [False, True])
@pytest.mark.parametrize("model", [batch_in_parts, gathered, features_in_parts])
def test_shard_map_inside_the_model(model: Callable, contrastive: bool) -> None:
    wanted = ej.excitation_vjp(plain, PARAMS, X, TARGETS, contrastive=contrastive)
    found = ej.excitation_vjp(model, PARAMS, X, TARGETS, contrastive=contrastive)
    np.testing.assert_allclose(found.outputs, wanted.outputs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.mwp, wanted.mwp, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("layer", [None, "hidden"])
def test_shard_map_around_the_explanation(layer: str | None) -> None:
    def explain(params: tuple, x: jax.Array, targets: jax.Array) -> jax.Array:
        return ej.excitation_vjp(plain, params, x, targets, layer=layer, contrastive=True).mwp

    sharded = jax.shard_map(
        explain, mesh=MESH, in_specs=(P(), P("d"), P("d")), out_specs=P("d")
    )  # fmt: skip
    wanted = explain(PARAMS, X, TARGETS)
    np.testing.assert_allclose(sharded(PARAMS, X, TARGETS), wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("model", [plain, batch_in_parts])
def test_sharded_arrays(model: Callable) -> None:
    x = jax.device_put(X, NamedSharding(MESH, P("d")))
    wanted = ej.excitation_vjp(plain, PARAMS, X, TARGETS, contrastive=True).mwp
    found = jax.jit(
        lambda x: ej.excitation_vjp(model, PARAMS, x, TARGETS, contrastive=True).mwp
    )(x)  # fmt: skip
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-7)
    assert len(found.sharding.device_set) == 8


def test_a_bound_holds_inside_shard_map() -> None:
    """The zero of a ReLU is one on every device."""
    inside = jax.shard_map(jax.nn.relu, mesh=MESH, in_specs=P("d"), out_specs=P("d"))
    report = ej.explain_rules(lambda x: inside(x), X)
    assert report.rows[-1].primitive == "shard_map" and report.rows[-1].lower_bound == 0


@pytest.mark.parametrize(
    "target",
    [1, np.array([1, 1]), np.eye(5)[[1, 1]], lambda y: jax.nn.one_hot(jnp.full(2, 1), 5)],
    ids=["int", "integers", "P(A0)", "callable"],
)
def test_targets_that_are_the_same_on_all_devices(target: object) -> None:
    """What starts the pass lies as the outputs do, wherever it comes from."""

    def explain(params: tuple, x: jax.Array) -> jax.Array:
        return ej.excitation_vjp(plain, params, x, target, contrastive=True).mwp

    sharded = jax.shard_map(explain, mesh=MESH, in_specs=(P(), P("d")), out_specs=P("d"))
    wanted = ej.excitation_vjp(plain, PARAMS, X, 1, contrastive=True).mwp
    np.testing.assert_allclose(jax.jit(sharded)(PARAMS, X), wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("around", [lambda f: f, jax.jit])
def test_explicit_axes_are_refused_in_one_sentence(around: Callable) -> None:
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh), pytest.raises(NotImplementedError, match="of type Explicit.*Auto"):
        x = jax.device_put(X, NamedSharding(mesh, P("d")))
        around(lambda x: ej.excitation_vjp(plain, PARAMS, x, 1).mwp)(x)
