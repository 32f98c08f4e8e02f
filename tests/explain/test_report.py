"""`explain_rules`: what it says of a model, with and without an example."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import excitation_jax as ej

KEYS = jax.random.split(jax.random.key(0), 4)
X = jax.random.normal(KEYS[0], (2, 8, 8, 3))


class Net(nn.Module):
    """A block of everything that the report has something to say about."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.silu(nn.Conv(6, (3, 3), name="stem")(x))
        x = x + nn.Conv(6, (3, 3), name="branch")(nn.LayerNorm(name="norm")(x))
        x = nn.relu(nn.BatchNorm(True, name="bn")(nn.Conv(6, (3, 3), name="conv")(x)))
        x = x * nn.sigmoid(nn.Dense(6, name="gate")(x.mean((1, 2), keepdims=True)))
        return nn.Dense(4, name="head")(x.mean((1, 2)))


@pytest.fixture(scope="module")
def variables() -> dict:
    return Net().init(KEYS[1], X)


def test_rows_say_what_each_operation_is(variables: dict) -> None:
    rows = ej.explain_rules(Net().apply, variables, X).rows
    stem, branch, conv, head = (
        next(row for row in rows if row.path == path and row.kind == "signal")
        for path in ("stem", "branch", "conv", "head")
    )
    assert stem.rule == "R1 affine, Eq. 6" and "h = max(x, 0)" in stem.note
    assert "test_report.py" in stem.source and "Net.__call__" in stem.source
    assert "h = max(" in branch.note
    assert "scale behind it counted into the weights" in conv.note
    assert "contrastive top" in head.note and head.mass is None and head.lost is None
    (silu,) = [
        row for row in rows if row.rule == "R2 one child" and -0.28 < row.lower_bound < -0.27
    ]
    assert silu.kind == "signal"
    assert {row.path for row in rows if row.kind == "gate"} >= {"gate", "norm"}
    (total,) = [row for row in rows if row.rule == "R4 sum, Eq. 19"]
    assert "child shifted, h = x + 0.278" in total.note


def test_masses_are_those_of_the_layers(variables: dict) -> None:
    report = ej.explain_rules(Net().apply, variables, X, target=1)
    names = ["stem", "branch", "conv", "bn"]
    mwp = ej.excitation_vjp(Net().apply, variables, X, 1, layer=names).mwp
    for name in names:
        last = [row for row in report.rows if row.path == name and row.kind == "signal"][-1]
        assert last.mass == pytest.approx(float(mwp[name].sum()) / 2, rel=1e-4)
    total = float(ej.excitation_vjp(Net().apply, variables, X, 1).mwp.sum()) / 2
    assert report.reached == pytest.approx(total, rel=1e-4)


def test_what_does_not_reach_the_input_is_lost_somewhere(variables: dict) -> None:
    report = ej.explain_rules(Net().apply, variables, X, target=jnp.array([0, 3]))
    assert report.reached is not None
    lost = sum(row.lost or 0 for row in report.rows)
    assert report.reached + lost == pytest.approx(1, abs=1e-4)
    assert [row.lost for row in report.losses] == sorted(
        (row.lost for row in report.losses), reverse=True
    )


def test_a_dead_layer_is_found() -> None:
    def model(params: dict, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(x @ params["first"]["w"])
        x = jax.nn.relu(x @ params["dead"]["w"] + params["dead"]["b"])
        return x @ params["head"]["w"]

    params = {
        "first": {"w": jnp.ones((3, 4))},
        "dead": {"w": -jnp.ones((4, 4)), "b": 20 * jnp.ones(4)},
        "head": {"w": jnp.ones((4, 2))},
    }
    report = ej.explain_rules(model, params, jnp.ones((1, 3)), target=0)
    (row,) = report.losses
    assert (row.path, row.primitive, row.lost) == ("dead", "dot_general", 1)
    assert report.reached == 0
    text = str(report)
    assert "0.0% of the probability reached the explained input" in text
    assert "lost where no input excites, or at constants: 100.0% at dead (dot_general)" in text


def test_loops() -> None:
    w = jnp.abs(jax.random.normal(KEYS[2], (5, 4, 4)))

    def model(w: jax.Array, x: jax.Array) -> jax.Array:
        return lax.scan(lambda h, w: (jax.nn.relu(h @ w), None), x, w)[0]

    report = ej.explain_rules(model, w, jnp.ones((1, 4)), target=1)
    inside = [row for row in report.rows if row.steps == (5,)]
    assert [row.primitive for row in inside] == ["dot_general", "max"]
    assert inside[0].mass == pytest.approx(5, rel=1e-5)  # 1 at each step
    assert report.reached == pytest.approx(1, rel=1e-5)
    assert "x5" in str(report) and "5 steps, listed above" in str(report)


def test_a_while_loop_has_the_bound_of_its_signal() -> None:
    def model(x: jax.Array) -> jax.Array:
        step = lambda state: (state[0] - 1, jnp.tanh(2 * state[1]))  # noqa: E731
        return lax.while_loop(lambda state: state[0] > 0, step, (2, jnp.tanh(x)))[1]

    rows = ej.explain_rules(lambda _, x: model(x), None, jnp.ones((1, 4))).rows
    (row,) = (row for row in rows if row.primitive == "while")
    assert row.lower_bound == -1


def test_what_ends_at_constants_is_lost_there() -> None:
    def model(_: None, x: jax.Array) -> jax.Array:
        return jnp.pad(-jax.nn.softplus(x), ((0, 0), (1, 0))).max(1, keepdims=True)

    report = ej.explain_rules(model, None, jnp.ones((2, 4)), target=0)
    assert report.reached == 0
    (row,) = report.losses
    assert (row.primitive, row.lost) == ("pad", 1)
    assert "lost where no input excites, or at constants: 100.0% at . (pad)" in str(report)


def test_what_a_mask_hides_is_lost_there() -> None:
    seen = jnp.arange(3) != 1
    report = ej.explain_rules(lambda _, x: x * seen, None, jnp.ones((2, 3)), target=1)
    assert report.reached == 0
    (row,) = report.losses
    assert (row.primitive, row.lost) == ("mul", 1)


def test_operations_without_a_rule_are_shown_and_nothing_is_computed() -> None:
    def model(x: jax.Array) -> jax.Array:
        return jnp.fft.irfft(jnp.fft.rfft(jax.nn.relu(x)), 8)

    report = ej.explain_rules(model, jax.ShapeDtypeStruct((8,), jnp.float32))
    missing = [row for row in report.rows if row.kind == "no rule"]
    assert [row.primitive for row in missing] == ["fft", "fft"]
    assert "2 operations have no rule: nothing below them can be explained" in str(report)
    with pytest.raises(ej.UnsupportedPrimitiveError):
        ej.explain_rules(model, jnp.ones(8), target=1)


def test_several_targets_are_refused() -> None:
    with pytest.raises(ValueError, match="one target for each example, not several"):
        ej.explain_rules(lambda w, x: x @ w, jnp.ones((3, 2)), jnp.ones((1, 3)), target=[[0, 1]])


def test_the_table_can_be_read(variables: dict) -> None:
    text = str(ej.explain_rules(Net().apply, variables, X, target=1))
    lines = text.splitlines()
    assert lines[0].split() == [
        "module", "operation", "bound", "rule", "mass", "lost", "note", "source",
    ]  # fmt: skip
    assert any("operations" in line and "gate" in line for line in lines)
    assert "assumption A1 (children are not negative) fails at" in text
    without = str(ej.explain_rules(Net().apply, variables, X)).splitlines()
    assert "mass" not in without[0] and "probability reached" not in "\n".join(without)
    np.testing.assert_array_less([len(line) for line in without], 200)


def test_an_operation_that_no_analysis_knows_is_told() -> None:
    """A rule of one's own makes it pass; that its elements are not followed is said."""
    rules = ej.EXCITATION.replace({lax.erf_inv_p: lambda call, p: [p]})
    report = ej.explain_rules(
        lambda w, x: lax.erf_inv(x) @ w, jnp.ones((3, 2)), jnp.full((2, 3), 0.5), rules=rules
    )
    (row,) = (row for row in report.rows if row.primitive == "erf_inv")
    assert "unknown operation: no bound, no axes, every element counts" in row.note
    assert not any("unknown" in row.note for row in report.rows if row.primitive != "erf_inv")


def test_a_report_of_a_model_that_prints() -> None:
    def model(w: jax.Array, x: jax.Array) -> jax.Array:
        jax.debug.print("{}", x.max())
        return x @ w

    report = ej.explain_rules(model, jnp.ones((3, 2)), jnp.full((2, 3), 0.5), target=0)
    assert [row.kind for row in report.rows if row.primitive == "dot_general"] == ["signal"]
