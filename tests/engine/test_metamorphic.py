"""One network, one map (design, section 3): an identity, however it is written, changes nothing.

An identity is put in at a place of a program: a value on the way from the input to the output,
inside loops and branches, too. What must be the same: outputs (bit for bit those of the program
with the identity in it), MWP and c-MWP at the input, at a layer and at what "auto" reads, shapes,
strides and axes, and which value "auto" reads. `python -m tests.metamorphic.survey` tells, for each
identity, where it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from composed import TABLE, Program
from composed.programs import chains, composed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from metamorphic import IDENTITIES, NETWORKS, Identity, Place, Subject, changes, mutated
from metamorphic.constants import MOVES, REDUCTIONS, WAYS, compare
from metamorphic.interpreted import interpreted

import excitation_jax as ej

#: On a mesh of devices; it has tests of its own.
SHARDED = [entry for entry in TABLE.values() if "shard" in entry.name or "coll" in entry.name]
STEPS = [entry for entry in TABLE.values() if entry not in SHARDED]
LAYER = TABLE["tagged"]
KINDS = ["flat", "sequence", "image", "volume"]


#: Networks with a scale behind a layer, whose sign does not cross a loop's border yet.
SIGNED = ("CNN with batch norms", "residual sums")
#: What computes the parts of one function of one value.
PARTS = frozenset(
    [
        "abs", "div", "erf", "exp", "expm1", "integer_pow", "log", "log1p", "logistic", "lt", "gt",
        "max", "min", "mul", "neg", "pow", "rsqrt", "select_n", "sqrt", "square", "sub", "tanh",
    ]
)  # fmt: skip


def to_come(name: str, place: Place, identity: Identity) -> str:
    """The rule of the design that an identity needs at a place, of those still to be built."""
    if identity.needs:
        return identity.needs
    made_by = place.made_by.rpartition(" ")[2]
    if identity.group == "loop" and name == "residual sums" and made_by == "add":
        return "D2"  # with an activation among the summands, what crosses a border is a value
    if name == "softmax over a mixture" and made_by == "reduce_sum":
        return "D7"  # a softmax written by hand is one for what it is divided by
    inner = place.made_by.endswith("> jit")  # jnp.where inside of an activation
    if identity.group != "wrap" and (made_by in PARTS or inner):
        return "D0"  # a function of one value is taken apart
    return ""


def many(count: int) -> settings:
    return settings(
        max_examples=count, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def put_in(
    name: str, subject: Subject, later: bool = False
) -> st.SearchStrategy[tuple[Place, Identity]]:
    """A place, and an identity that fits there."""
    fit = {
        place: [
            one
            for one in IDENTITIES.values()
            if one.fits(place) and bool(to_come(name, place, one)) == later
        ]
        for place in subject.places
    }
    return st.sampled_from([place for place in fit if fit[place]]).flatmap(
        lambda place: st.tuples(st.just(place), st.sampled_from(fit[place]))
    )


class Failures:
    """Tells all at once, the shortest first: each stands for a kind."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.tried: set[tuple] = set()

    def check(self, name: str, subject: Subject, put: list[tuple[Place, Identity]]) -> None:
        self.tried.update((name, place, identity.name) for place, identity in put)
        if differ := subject.differences(put):
            where = " and ".join(f"{identity} at {place}" for place, identity in put)
            self.told.append(f"{name}: {where}: {'; '.join(differ)}")

    def report(self) -> None:
        told = sorted(set(self.told), key=len)
        rows = "\n".join(f"- {text}" for text in told)
        assert not told, f"{len(told)} of {len(self.tried)} mutants differ\n{rows}"


# --- the helpers themselves -------------------------------------------------------------------


@pytest.mark.parametrize("name", IDENTITIES)
def test_an_identity_is_one_and_leaves_something_in_the_program(name: str) -> None:
    identity = IDENTITIES[name]
    rng = np.random.default_rng(0)
    for shape in [(), (3,), (2, 4), (1, 3, 2), (2, 3, 1, 4)]:
        place = Place((), 0, 0, shape, np.dtype("float32"), "dot_general", False)
        if not identity.fits(place):
            continue
        y, own = rng.normal(size=shape).astype("float32"), identity.own(shape, place.dtype)
        found = interpreted(identity.apply, y, own)
        assert found.dtype == y.dtype
        np.testing.assert_array_equal(found, y)
    assert jax.make_jaxpr(identity.apply)(y, own).eqns  # of the last shape


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_worth_it(name: str) -> None:
    """All probability arrives, not all of it at one element, and the contrast counts."""
    maps = NETWORKS[name].reading.maps
    mwp, contrastive = maps["MWP at the input"], maps["c-MWP at the input"]
    assert mwp.sum() == pytest.approx(len(mwp), abs=1e-4)
    assert (mwp > 0.01).sum() >= 3
    assert np.abs(mwp - contrastive).sum() > 0.1


@pytest.mark.parametrize("name", NETWORKS)
def test_a_mutant_under_jit_gives_what_the_interpreter_does(name: str) -> None:
    """A program with identities at all places, compiled as users do."""
    subject = NETWORKS[name]
    every = [one for one in IDENTITIES.values() if one.group in ("move", "wrap", "mask")]
    put = []
    for i, place in enumerate(subject.places):
        fit = [one for one in every if one.fits(place)]
        put.append((place, fit[i * 7 % len(fit)]))
    by_place, own = changes(put)
    args = (subject.params, own), subject.x
    plain = subject.model(subject.params, jnp.asarray(subject.x))
    for model in (mutated(subject.model, by_place), jax.jit(mutated(subject.model, by_place))):
        np.testing.assert_allclose(interpreted(model, *args), plain, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        jax.jit(mutated(subject.model, by_place))(*args), plain, rtol=1e-4, atol=1e-6
    )


def test_two_names_of_one_value_read_the_same() -> None:
    """ "auto" may be a layer that is also read by its name."""
    subject = NETWORKS["residual sums"]
    table = ej.layers(subject.model, subject.params, subject.x)
    assert table.auto is not None and table.auto.name == "layer"
    mwp = ej.excitation_vjp(
        subject.model, subject.params, subject.x, 1, layer=["layer", "auto"]
    ).mwp
    np.testing.assert_array_equal(mwp["layer"], mwp["auto"])


# --- networks of each kind --------------------------------------------------------------------


def check_networks(count: int, most: int, later: bool = False) -> Failures:
    failures = Failures()

    @many(count)
    @given(data=st.data(), name=st.sampled_from(list(NETWORKS)))
    def holds(data: st.DataObject, name: str) -> None:
        subject = NETWORKS[name]
        put = data.draw(st.lists(put_in(name, subject, later), min_size=1, max_size=most))
        failures.check(name, subject, put)

    holds()
    return failures


def test_identities_in_networks_of_each_kind() -> None:
    failures = check_networks(150, 1)
    failures.report()
    assert len(failures.tried) >= 130


@pytest.mark.xfail(strict=True, reason="D0 of the design is still to be built")
def test_identities_that_need_more_than_that() -> None:
    """Inside of a function of one value, in loops behind layers, sums of one, unknown constants."""
    check_networks(25, 1, later=True).report()


# --- composed programs ------------------------------------------------------------------------


@pytest.fixture
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


#: Steps whose maps depend on what is known of values: bounds, signs, gates, constants.
TELLING = [
    TABLE[name]
    for name in (
        "conv, batch norm, relu", "batch norm", "scale of every unit", "layer norm", "RMS norm",
        "group norm", "elu", "tanh", "gelu", "silu", "hard swish", "relu", "softmax",
        "softmax by hand", "squeeze and excitation", "padded with zeros", "padded with ones",
        "masked", "masked by a product", "masked by an argument", "an element set",
        "put into zeros", "class token", "attention", "SwiGLU", "GLU", "transformer block",
        "sum", "update gate", "weighted sum", "global average", "average pool, padding counted",
        "GRU", "LSTM", "RNN", "scan (tanh)", "cond (elu)", "while (gelu)",
    )
]  # fmt: skip


def programs() -> st.SearchStrategy[Program]:
    """Chains of steps with a head, one of which names the layer that is read."""
    layer = (TABLE["dense"], ())
    part = st.tuples(st.just([layer]), chains(TELLING, 1, 2), chains(STEPS, 1, 1))
    return st.builds(
        lambda kind, below, above, seed, positive: composed(
            kind, [*sum(below, []), (LAYER, ()), *sum(above, [])], True, seed, positive, "float64"
        ),
        st.sampled_from(KINDS), part, part, st.integers(0, 2**16), st.booleans(),
    )  # fmt: skip


def check_composed(count: int, each: int, entries: Callable[[], Any] = programs) -> Failures:
    failures = Failures()

    @many(count)
    @given(data=st.data(), program=entries())
    def holds(data: st.DataObject, program: Program) -> None:
        x = program.input()
        subject = Subject(program, program.params, x, 1, ("tagged",))
        for put in data.draw(st.lists(put_in(SIGNED[0], subject), min_size=each, max_size=each)):
            failures.check(repr(program), subject, [put])

    holds()
    return failures


def test_identities_in_composed_programs(float64: None) -> None:
    failures = check_composed(35, 3)
    failures.report()
    assert len(failures.tried) >= 60


# --- constants stay constants -----------------------------------------------------------------


def check_constants(count: int, fills: list[float]) -> Failures:
    failures = Failures()
    # To which operation a constant factor belongs is another question (D3).
    moving = [
        name for name, one in IDENTITIES.items() if one.group != "number" and one.needs != "D3"
    ]

    @many(count)
    @given(
        way=st.sampled_from(list(WAYS)),
        moves=st.lists(st.sampled_from([*MOVES, *moving]), min_size=1, max_size=2),
        reduction=st.sampled_from(list(REDUCTIONS)),
        fill=st.sampled_from(fills),
        seed=st.integers(0, 99),
    )
    def holds(way: str, moves: list[str], reduction: str, fill: float, seed: int) -> None:
        name = f"{way} ({fill}) > {' > '.join(moves)} > {reduction}"
        try:
            compared = compare(way, tuple(moves), reduction, fill, seed)
        except Exception as error:
            failures.told.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")
            return
        if compared is not None:
            failures.tried.add((way, *moves, reduction))
            worst = np.abs(np.subtract(*compared)).max()
            if not worst < 1e-6:
                failures.told.append(f"{name}: differs by {worst:.2g}")

    holds()
    return failures


def test_constants_get_nothing_wherever_they_are_moved(float64: None) -> None:
    """What does not depend on the input is no neuron (D5), against changing one element at once."""
    failures = check_constants(150, [0.5, 0.0, 2.0])
    failures.report()
    assert len(failures.tried) >= 100


def test_a_constant_below_all_activations_is_not_their_bound(float64: None) -> None:
    check_constants(25, [-2.0]).report()
