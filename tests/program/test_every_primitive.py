"""What holds for every primitive that the library's rule sets know, one after the other.

Each stands between two layers, in small programs some of whose states do not depend on the input.
"""

from __future__ import annotations

import contextlib
import functools
import math
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax
from metamorphic import IDENTITIES, Identity, Place, Subject
from metamorphic.examples import (
    DECIDING,
    EXAMPLES,
    REAL,
    SHAPE,
    SHARING,
    Operation,
    inputs,
    met_in,
    parameters,
    program,
)
from metamorphic.interpreted import interpreted
from metamorphic.reading import differences

import excitation_jax as ej
from excitation_jax.program import compat
from excitation_jax.rules import EXCITATION
from excitation_jax.rules.gradient import GRADIENT

KNOWN = {primitive for rules in (EXCITATION, GRADIENT) for primitive in rules.table}
LOOPS = (compat.scan_p, compat.while_p, compat.cond_p, compat.shard_map_p)
PRIOR = np.array([[0.3, 0.7]], np.float32)
CASES = [
    pytest.param(operation, id=f"{primitive.name} {i}")
    for primitive, operations in EXAMPLES.items()
    for i, operation in enumerate(operations)
]
every_example = pytest.mark.parametrize("operation", CASES)
NUMBER = {operation: i for i, one in enumerate(EXAMPLES.values()) for operation in one}


ON_DEVICES = (
    compat.shard_map_p, lax.psum_p, compat.psum_invariant_p, compat.pvary_p, lax.all_gather_p,
    lax.all_to_all_p, lax.ppermute_p,
)  # fmt: skip
APART = pytest.mark.xfail(
    strict=True, reason="inside shard_map elements are not told apart, as explain_rules says"
)


def subject(operation: Operation) -> Subject:
    return Subject(program(operation), parameters(operation), inputs(), PRIOR, ())


READINGS: dict[Operation, Any] = {}


def reading(operation: Operation) -> Any:
    if operation not in READINGS:
        READINGS[operation] = subject(operation).reading
    return READINGS[operation]


def test_every_primitive_has_an_example() -> None:
    assert KNOWN <= EXAMPLES.keys(), {p.name for p in KNOWN - EXAMPLES.keys()}


@pytest.mark.parametrize("primitive", EXAMPLES, ids=lambda primitive: primitive.name)
def test_the_examples_have_the_primitive(primitive: Any) -> None:
    for operation in EXAMPLES[primitive]:
        y = jax.ShapeDtypeStruct(SHAPE, np.float32)
        assert primitive in set(met_in(jax.make_jaxpr(operation)(y).jaxpr))


@every_example
def test_outputs_are_the_models_and_maps_are_distributions(operation: Operation) -> None:
    found = reading(operation)
    for outputs in found.outputs.values():
        np.testing.assert_array_equal(outputs, found.plain)
    mwp = found.maps["MWP at the input"]
    assert np.isfinite(mwp).all() and mwp.min() >= 0 and mwp.sum() <= 1 + 1e-5
    assert np.isfinite(found.maps["c-MWP at the input"]).all()


@every_example
def test_what_does_not_matter_gets_nothing(operation: Operation) -> None:
    for array in reading(operation).maps.values():
        np.testing.assert_allclose(array[~REAL], 0, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("operation", "head"),
    [
        pytest.param(
            operation,
            primitive not in SHARING,
            id=f"{primitive.name} {i}",
            marks=APART if primitive in ON_DEVICES else (),
        )
        for primitive, operations in EXAMPLES.items()
        if primitive not in DECIDING
        for i, operation in enumerate(operations)
    ],
)
def test_the_value_of_a_constant_does_not_matter(operation: Operation, head: bool) -> None:
    """It is no neuron, whatever it is (D5): where others are summed with it, at once or above."""
    params, x = parameters(operation), inputs()

    def mwp(fill: float) -> np.ndarray:
        model = functools.partial(program(operation, fill=fill, head=head), params)
        shape = jax.eval_shape(model, x).shape
        prior = np.random.default_rng(0).dirichlet(np.ones(math.prod(shape))).reshape(shape)
        return interpreted(
            lambda x, prior: jax.vjp(ej.excite(model), x)[1](prior)[0], x, prior.astype(x.dtype)
        )

    np.testing.assert_allclose(mwp(-0.3), mwp(0.5), rtol=0, atol=1e-6)


def check_report(operation: Operation) -> None:
    loops = set(met_in(jax.make_jaxpr(program(operation))(parameters(operation), inputs()).jaxpr))
    # Operation by operation, nothing has to be compiled; but a loop would be written out.
    quickly = contextlib.nullcontext() if loops.intersection(LOOPS) else jax.disable_jit()
    with quickly:
        report = ej.explain_rules(program(operation), parameters(operation), inputs(), target=PRIOR)
    lost = sum(row.lost or 0 for row in report.rows)
    mwp = reading(operation).maps["MWP at the input"]
    assert mwp.sum() == pytest.approx(report.reached, abs=1e-5)
    assert report.reached + lost == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("primitive", EXAMPLES, ids=lambda primitive: primitive.name)
def test_what_does_not_arrive_is_reported_as_lost(primitive: Any) -> None:
    check_report(EXAMPLES[primitive][0])


@pytest.mark.slow
@every_example
def test_what_does_not_arrive_is_reported_as_lost_always(operation: Operation) -> None:
    check_report(operation)


# --- identities before and behind -------------------------------------------------------------


#: What puts constants among the elements and takes them off again: where all elements lie above
#: them, their bound is lost (D4).
ADDS = (
    "zeros",
    "constants",
    "pad",
    "set",
    "written",
    "scatter",
    "where",
    "mask",
    "select",
    "slice",
)


def fitting(shape: tuple[int, ...]) -> list[Identity]:
    place = Place((), 0, 0, shape, np.dtype("float32"), "", False)
    among = [one for one in IDENTITIES.values() if one.fits(place) and not one.needs]
    among = [one for one in among if not any(word in one.name for word in ADDS)]
    # Signs of scales do not cross a loop's border or a maximum of one yet (D1).
    return [one for one in among if one.group != "loop" and one.group != "sum"]


def rotated(every: list, by: int) -> list:
    """So that the first examples are not the same for all primitives."""
    return every[by % len(every) :] + every[: by % len(every)]


def check(operation: Operation, count: int) -> None:
    """Identities that take no arguments of their own, one before, one behind."""
    after = jax.eval_shape(operation, jax.ShapeDtypeStruct(SHAPE, np.float32)).shape
    told = []

    def closed(one: Identity, shape: tuple[int, ...]) -> Operation:
        return lambda y: one.apply(y, one.own(shape, y.dtype))

    @settings(
        max_examples=count, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(
        before=st.sampled_from(rotated(fitting(SHAPE), 7 * NUMBER[operation])),
        behind=st.sampled_from(rotated(fitting(after), 11 * NUMBER[operation])),
        where=st.sampled_from(rotated(["before", "behind", "both"], NUMBER[operation])),
    )
    def holds(before: Identity, behind: Identity, where: str) -> None:
        put = {"before": closed(before, SHAPE), "behind": closed(behind, after)}
        put = {side: one for side, one in put.items() if where in (side, "both")}
        names = {"before": before.name, "behind": behind.name}
        name = ", ".join(f"{names[side]} {side}" for side in put)
        model = program(operation, **put)
        try:
            found = Subject(model, parameters(operation), inputs(), PRIOR, ()).reading
        except Exception as error:
            told.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:150]}")
            return
        told.extend(f"{name}: {text}" for text in differences(found, reading(operation)))

    holds()
    assert not told, "\n" + "\n".join(sorted(set(told), key=len))


@every_example
def test_an_identity_before_or_behind_changes_nothing(operation: Operation) -> None:
    check(operation, 1)
