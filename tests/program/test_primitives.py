"""The table of primitives is complete: every primitive of every rule set has a full row."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import excitation_jax as ej
from excitation_jax import methods
from excitation_jax.program import axis_moves, patterns
from excitation_jax.program.facts import FactTable
from excitation_jax.program.intervals import Interval
from excitation_jax.program.primitives import TABLE, Kind, Layout, Missing, Row
from excitation_jax.program.trace import trace

RULE_SETS = {
    **{name: getattr(ej, name) for name in ej.__all__ if name.startswith("EXCITATION")},
    "GRADIENT": methods.GRADIENT,
    "DECONVNET": methods.DECONVNET,
    "GUIDED": methods.GUIDED,
    "LRP": methods.LRP_EPSILON,
    "WINNER_TAKE_ALL": methods.WINNER_TAKE_ALL,
}
ROWS = {primitive.name: row for primitive, row in TABLE.items()}
every_row = pytest.mark.parametrize("name", ROWS)


@pytest.mark.parametrize("rules", RULE_SETS)
def test_every_primitive_of_a_rule_set_has_a_row(rules: str) -> None:
    missing = [p.name for p in RULE_SETS[rules].table if p not in TABLE]
    assert not missing


@every_row
def test_an_empty_cell_says_why(name: str) -> None:
    row = ROWS[name]
    for cell in fields(Row):
        value = getattr(row, cell.name)
        if cell.name in ("layout", "function", "slope", "span"):
            assert value is not None
            assert not isinstance(value, Missing) or len(value.reason) > 10, (name, cell.name)


@every_row
def test_a_kind_has_the_cells_that_its_analyses_read(name: str) -> None:
    row = ROWS[name]
    if row.kind in (Kind.ELEMENTWISE, Kind.IDENTITY):
        assert callable(row.function) and callable(row.span)
        assert isinstance(row.slope, tuple) and row.layout is Layout.KEPT
    if row.kind in (Kind.MOVE, Kind.SUM, Kind.WINNER, Kind.AFFINE):
        on_devices = isinstance(row.layout, Missing)
        assert on_devices == (
            name in ("psum", "psum_invariant", "all_gather", "all_to_all", "ppermute")
        )


@pytest.mark.parametrize("layout", Layout)
def test_every_layout_is_followed(layout: Layout) -> None:
    """By the activity and by the axes; what is kept needs no function of its own."""
    assert layout is Layout.KEPT or layout in patterns._BY_LAYOUT
    own = (Layout.KEPT, Layout.CONVOLVED, Layout.CONTRACTED)
    assert layout in own or layout in axis_moves._BY_LAYOUT


# What a row says of an elementwise function is true of the function that JAX applies.


def unary() -> list[str]:
    one = [n for n, r in ROWS.items() if r.kind is Kind.ELEMENTWISE and len(r.slope) == 1]
    return [n for n in one if n not in ("not", "and", "or", *COMPARISONS)]


ON_DEVICES = ("psum", "psum_invariant", "all_gather", "all_to_all", "ppermute")
COMPARISONS = ("gt", "ge", "lt", "le", "eq", "ne", "is_finite")
PARAMETERS: dict[str, dict] = {
    "integer_pow": {"y": 3},
    "convert_element_type": {
        "new_dtype": np.dtype("float32"), "weak_type": False, "sharding": None
    },
    "round": {"rounding_method": lax.RoundingMethod.TO_NEAREST_EVEN},
    **dict.fromkeys(("exp", "exp2", "log", "log1p", "expm1", "logistic", "tanh", "sqrt", "rsqrt",
                     "cbrt", "log2", "sin", "cos"), {"accuracy": None}),
}  # fmt: skip


@pytest.mark.parametrize("name", unary())
@settings(deadline=None, max_examples=15)
@given(ends=st.tuples(st.integers(-800, 800), st.integers(-800, 800)).map(sorted))
def test_functions_slopes_and_ranges_are_those_of_jax(name: str, ends: list[int]) -> None:
    primitive = next(p for p in TABLE if p.name == name)
    row, parameters = TABLE[primitive], PARAMETERS.get(name, {})
    x = np.linspace(*ends, 41, dtype=np.float32) / 100
    right = np.asarray(primitive.bind(jnp.asarray(x), **parameters), float)
    with np.errstate(all="ignore"):
        ours = row.function(parameters)(x.astype(float))  # type: ignore[operator]
    finite = np.isfinite(right)
    np.testing.assert_allclose(np.asarray(ours, float)[finite], right[finite], rtol=2e-5, atol=2e-6)

    class Op:
        params = parameters

    low, high = row.span(Op, [Interval(float(x[0]), float(x[-1]))])  # type: ignore[operator]
    low, high = (-math.inf if math.isnan(low) else low), (math.inf if math.isnan(high) else high)
    assert (right[finite] >= low - 1e-5 - 1e-5 * abs(low)).all()
    assert (right[finite] <= high + 1e-5 + 1e-5 * abs(high)).all()
    (slope,) = row.slope  # type: ignore[misc]
    steps = np.diff(right[finite])
    if slope is not None:
        assert (slope * steps >= -1e-6).all()


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: jax.nn.relu(x) * 2,
        lambda x: lax.optimization_barrier((x, x))[1],
        lambda x: jnp.sort(x, axis=-1),
    ],
)
def test_describe_says_all_that_is_known(fn: Callable) -> None:
    program, _, _ = trace(fn, jnp.ones((2, 3)))
    facts = FactTable(program, program.inputs)
    text = facts.describe(program.outputs[0])
    assert "float32 2x3" in text and "every element" in text and "range: " in text
