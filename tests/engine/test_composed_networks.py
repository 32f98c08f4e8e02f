"""Random programs, composed of every supported operation, against what must hold for all.

Hypothesis composes a chain of steps, some of which hold chains themselves: joined branches,
jitted, rematerialised and mapped functions, loops, choices (composed/ has the table of steps). A
failing example prints as the names of its steps.

What holds:

- Outputs are the model's to the last bit, operation by operation. XLA compiles the body of a loop
  or branch as a whole, with what the backward pass reads from it among its results, and so may
  fuse its operations in another way than the model's: there, outputs agree to rounding.
- Probabilities are finite, not negative, and sum to at most one. What does not arrive at the
  input is what `explain_rules` reports as lost. Where every connection excites, all arrives.
- Without loops, they are those of the Markov chain, in which every operation is a dense matrix.
- With loops and branches, they are those of the same program written out, if bounds are settled:
  the state has the same lower bound before the loop and after each step. Where it does not (a sum
  that falls by one at each step), a loop has to do with the least of them, and none is right for
  the program written out.
- c-MWP is finite, and the same under vmap and jit.

Collectives across devices have something to do in on_eight_devices.py only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from composed import TABLE, Program, alone, programs, programs_around
from hypothesis import HealthCheck, given, settings

import excitation_jax as ej
from excitation_jax import markov
from excitation_jax.rules import EXCITATION

#: For a chain to be written out: its matrix has this many rows and columns.
MOST_NEURONS = 2000
#: Steps by what may be demanded of them.
STRAIGHT = [entry for entry in TABLE.values() if not entry.loops]
EXCITING = [entry for entry in STRAIGHT if entry.excites]
LOOPS = [entry for entry in TABLE.values() if entry.loops]
SETTLED = [entry for entry in LOOPS if entry.settled]


def check_many(count: int) -> settings:
    return settings(
        max_examples=count, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def float64_compiled_quickly() -> Iterator[None]:
    """The graphs are tiny and run once; what was compiled for them is of no use to others."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.enable_x64(True):
        yield
    jax.config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()


def excited(function: Callable, **options: Any) -> Callable:
    """Outputs and map from (x, prior): in one compilation, not one for each operation."""

    @jax.jit
    def pull(x: jax.Array, prior: jax.Array) -> tuple[jax.Array, jax.Array]:
        found, down = jax.vjp(ej.excite(function, **options), x)
        return found, down(prior)[0]

    return pull


def check(program: Program) -> tuple[jax.Array, jax.Array, np.ndarray]:
    """What holds for every program with a floating-point input.

    Returns:
      The input, the prior, and the MWP.
    """
    x = jnp.asarray(program.input())
    function = functools.partial(program, program.params)
    prior = jnp.asarray(program.prior(jax.eval_shape(function, x).shape))
    outputs, mwp = map(np.asarray, excited(function)(x, prior))
    if program.loops or program.seed % 5:
        tolerance = 1e-10 if program.dtype == "float64" else 1e-4
        np.testing.assert_allclose(outputs, jax.jit(function)(x), rtol=tolerance, atol=tolerance)
    else:
        with jax.disable_jit():
            np.testing.assert_array_equal(ej.excite(function)(x), function(x))
    assert np.isfinite(outputs).all(), "a step of the table overflows"
    assert np.isfinite(mwp).all() and mwp.min() >= 0
    assert mwp.sum() <= 1 + 1e-4
    return x, prior, mwp


def check_losses(program: Program, x: jax.Array, prior: jax.Array, mwp: np.ndarray) -> None:
    report = ej.explain_rules(program, program.params, x, target=prior)
    assert report.reached == pytest.approx(mwp.sum(), abs=1e-4)
    lost = sum(row.lost or 0 for row in report.rows)
    assert report.reached + lost == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "count"), [("flat", 30), ("sequence", 40), ("image", 40), ("volume", 15)]
)
def test_without_loops(kind: str, count: int) -> None:
    compared = []

    @check_many(count)
    @given(program=programs([kind], STRAIGHT))
    def holds(program: Program) -> None:
        x, prior, mwp = check(program)
        if program.seed % 3 == 0:  # the report takes as long as all the rest
            check_losses(program, x, prior, mwp)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(markov, "LARGEST_CHAIN", MOST_NEURONS)
            try:
                chain = markov.markov_chain(program, program.params, x)
            except ValueError as error:
                assert f"for at most {MOST_NEURONS}" in str(error)
                chain = None
        compared.append(chain is not None)
        if chain is not None:
            np.testing.assert_allclose(mwp, chain.mwp(prior), rtol=0, atol=1e-5)

    holds()
    assert np.mean(compared) > 0.7


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flat", "sequence", "image"])
def test_where_every_connection_excites_all_probability_arrives(kind: str) -> None:
    @check_many(30)
    @given(program=programs([kind], EXCITING, positive=True))
    def holds(program: Program) -> None:
        _, _, mwp = check(program)
        assert mwp.sum() == pytest.approx(1, abs=1e-4)

    holds()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flat", "sequence", "image"])
def test_settled_loops_and_branches_against_the_program_written_out(kind: str) -> None:
    @check_many(20)
    @given(program=programs_around(SETTLED, [kind], STRAIGHT, head=True))
    def holds(program: Program) -> None:
        x, prior, mwp = check(program)
        written_out = program.written_out(program.params, x)
        _, wanted = excited(functools.partial(written_out, program.params))(x, prior)
        np.testing.assert_allclose(mwp, wanted, rtol=0, atol=1e-5)

    holds()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_loops_and_branches_of_all_kinds(dtype: str) -> None:
    @check_many(15)
    @given(program=programs_around(LOOPS, ["flat", "sequence"], list(TABLE.values()), dtype=dtype))
    def holds(program: Program) -> None:
        check_losses(program, *check(program))

    holds()


@pytest.mark.slow
def test_tokens_get_the_probability_of_what_was_found() -> None:
    @check_many(15)
    @given(program=programs(["tokens"], STRAIGHT))
    def holds(program: Program) -> None:
        tokens = program.input()
        found = jnp.asarray(program.look_up(tokens))
        function = functools.partial(program.after, program.params)
        prior = jnp.asarray(program.prior(jax.eval_shape(function, found).shape))
        outputs, wanted = excited(function)(found, prior)
        result = jax.jit(functools.partial(ej.excitation_vjp, program))(
            program.params, tokens, prior
        )
        np.testing.assert_allclose(result.outputs, outputs, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(result.mwp, wanted.sum(-1), rtol=0, atol=1e-5)

    holds()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entries", "count"), [(STRAIGHT, 20), (list(TABLE.values()), 10)], ids=["straight", "all"]
)
def test_contrastive_maps_under_vmap_and_jit(entries: list, count: int) -> None:
    @check_many(count)
    @given(program=programs(["flat", "sequence"], entries, head=True))
    def holds(program: Program) -> None:
        x = jnp.asarray(program.input())
        function = functools.partial(program, program.params)
        pull = excited(function, contrastive=True)
        outputs = jax.eval_shape(function, x)
        priors = jnp.eye(outputs.size)[:3].reshape(3, *outputs.shape)
        each = np.stack([pull(x, prior)[1] for prior in priors])
        assert np.isfinite(each).all()
        together = jax.jit(jax.vmap(lambda x, prior: pull(x, prior)[1], (None, 0)))
        np.testing.assert_allclose(together(x, priors), each, rtol=0, atol=1e-6)

    holds()


@functools.cache
def met_by() -> dict[str, Program]:
    """For each primitive that a rule met, the program of one step that it met it in."""
    found: dict[str, Program] = {}
    for entry in TABLE.values():
        candidates = (alone(entry, kind) for kind in ("sequence", "image", "flat"))
        program = next((candidate for candidate in candidates if candidate is not None), None)
        assert program is not None, f"{entry} fits no input"
        report = ej.explain_rules(program, program.params, program.input())
        for row in report.rows:
            if row.kind == "signal":
                found.setdefault(row.primitive, program)
    return found


#: Without a gradient in JAX, and so without a matrix in the chain: tests/rules/test_scatter.py has
#: them, against a loop.
WITHOUT_GRADIENT = {"scatter-max", "scatter-min"}


def test_every_supported_primitive_is_met() -> None:
    known = {primitive.name for primitive in EXCITATION.table}
    assert known - WITHOUT_GRADIENT <= met_by().keys()


@pytest.mark.slow
def test_every_supported_primitive_alone() -> None:
    for program in {repr(program): program for program in met_by().values()}.values():
        check(program)
