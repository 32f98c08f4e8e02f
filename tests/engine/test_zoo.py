"""Every model of the zoo, unmodified: exact outputs, and probabilities that are some.

One compiled function per model computes all that the tests look at.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from zoo import ENTRIES, Example
from zoo.convolutional import Normalised
from zoo.entry import BATCH, best, linen, signal, without_dead_units
from zoo.language import POSITION
from zoo.residual import SqueezeExciteNet
from zoo.several_inputs import SharedLayer, TwoTowers

import excitation_jax as ej
from excitation_jax.explain.markov import markov_chain

# The models are small and run once: compile them quickly.
FAST = {"xla_backend_optimization_level": 0}
TOLERANCE = 1e-4  # of sums of float32 probabilities


def parameters(names: Iterable[str]) -> list[Any]:
    return [
        pytest.param(name, marks=pytest.mark.slow if ENTRIES[name].slow else ()) for name in names
    ]


# Grouped by model, so that one process computes what all of its tests look at.
every_model = pytest.mark.parametrize("name", parameters(ENTRIES), scope="module")


@dataclass(frozen=True)
class Explained:
    """What a model says, and its maps. In those, the axis after the batch's is the targets'.

    Attributes:
        expected, outputs: the model's own outputs, and those of `ej.excitation_vjp`.
        mwp: at the input, for the first target, the second, and the first of example 0 alone.
        crossed: for the first target, the sum per example at each of the entry's crossed layers.
        contrastive: at the input, for both targets.
        slopes: of the scores that the third of these passes starts from, with respect to the
            input; None where that holds integers.
        lively: ``mwp`` for parameters and an input that leave no unit without excitatory input.
    """

    expected: Any
    outputs: Any
    mwp: Any
    crossed: dict[str, np.ndarray]
    contrastive: Any
    slopes: Any
    lively: Any


@functools.cache
def explain(name: str) -> Explained:
    entry, example = ENTRIES[name], ENTRIES[name].build()
    model_fn = example.model_fn

    def everything(params: Any, x: Any) -> dict[str, Any]:
        found = ej.excitation_vjp(model_fn, params, x, lambda o: stacked(starts(example, o)))
        layers = {}
        if entry.crossed:
            layers = ej.excitation_vjp(
                model_fn, params, x, example.targets[0], layer=entry.crossed
            ).mwp
        contrastive = ej.excitation_vjp(
            model_fn, params, x, lambda o: stacked(starts(example, o)[:2]), contrastive=True
        ).mwp

        # By all arguments: NNX' counters may not come from outside a differentiated function.
        expected, pull = jax.vjp(model_fn, params, x)
        prior = completed(starts(example, expected)[2], expected)
        return {
            "expected": expected,
            "outputs": found.outputs,
            "mwp": found.mwp,
            "crossed": {layer: per_example(mwp) for layer, mwp in layers.items()},
            "contrastive": contrastive,
            "slopes": None if entry.integers else pull(prior)[1],
        }

    run = jax.jit(everything, compiler_options=FAST)
    lively = run(without_dead_units(example.params), jax.tree.map(jnp.abs, example.x))["mwp"]
    return Explained(**jax.device_get(run(example.params, example.x) | {"lively": lively}))


def starts(example: Example, outputs: Any) -> list[Any]:
    """P(A0) of both targets, and of the first one for example 0 only."""
    first, second = (ej.top_down_signal(outputs, target) for target in example.targets)
    return [first, second, jax.tree.map(lambda p: p.at[1:].set(0), first)]


def stacked(priors: list[Any]) -> Any:
    return jax.tree.map(lambda *parts: jnp.stack(parts, axis=1), *priors)


def completed(prior: Any, outputs: Any) -> Any:
    """P(A0) with zeros for the outputs to which it gives nothing (None)."""
    return jax.tree.map(
        lambda p, o: jnp.zeros_like(o) if p is None else p.astype(o.dtype),
        prior, outputs, is_leaf=lambda p: p is None,
    )  # fmt: skip


def per_example(mwp: Any, kept: int = 1) -> Any:
    """The mass of probability in each example, and for each target with ``kept=2``."""
    return sum(leaf.sum(axis=tuple(range(kept, leaf.ndim))) for leaf in jax.tree.leaves(mwp))


@every_model
def test_outputs_are_the_model_s_own_to_the_last_bit(name: str) -> None:
    found = explain(name)
    same = jax.tree.map(np.array_equal, found.outputs, found.expected)
    if all(jax.tree.leaves(same)):
        return
    # XLA may fuse the same operations in two ways inside one program, so: one by one. The body of
    # a loop remains one program, and is compiled anew where it is differentiated: jax.vjp, too,
    # may change the last bit then.
    example = ENTRIES[name].build()
    if ENTRIES[name].integers:  # tokens have no derivative
        expected, _ = jax.vjp(lambda params: example.model_fn(params, example.x), example.params)
        outputs = ej.excitation_vjp(example.model_fn, example.params, example.x, 0).outputs
    else:
        expected, _ = jax.vjp(example.model_fn, example.params, example.x)
        outputs, _ = jax.vjp(ej.excite(example.model_fn, argnums=1), example.params, example.x)
    loops = "scan[" in str(jax.make_jaxpr(example.model_fn)(example.params, example.x))
    last_bit = np.finfo(np.float32).eps * np.abs(expected).max() if loops else 0
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=last_bit)


@every_model
def test_probabilities_are_finite_and_not_negative(name: str) -> None:
    found, x = explain(name), ENTRIES[name].build().x
    assert jax.tree.structure(found.mwp) == jax.tree.structure(x)
    for mwp, given in zip(jax.tree.leaves(found.mwp), jax.tree.leaves(x), strict=True):
        assert mwp.shape == (given.shape[0], 3, *given.shape[1:])
        assert mwp.dtype == np.float32
        assert np.isfinite(mwp).all()
        assert mwp.min() >= 0


@every_model
def test_probability_is_conserved_exactly(name: str) -> None:
    """All weights positive: no unit lacks excitatory input, and all of one arrives.

    But where a layer reads along another axis than that which a LayerNorm centres, all that one of
    its units reads may lie below the mean, and the norm's offset excites nothing (D3).
    """
    arrived = per_example(explain(name).lively, kept=2)[:, :2]
    if ENTRIES[name].centred:
        assert (arrived <= 1 + TOLERANCE).all() and (arrived >= 0.25).all()
    else:
        np.testing.assert_allclose(arrived, 1, atol=TOLERANCE)


@every_model
def test_probability_never_grows_and_most_arrives(name: str) -> None:
    """With weights of both signs some ends in units without excitatory input.

    Then there is less of it the further down a layer is, of those that every path crosses. A
    quarter at least arrives: of these random networks, transformers lose most, at sums of a
    residual stream where neither summand is positive (Eq. 19 with Z = 0) though the LayerNorm
    behind them makes the sum a winner.
    """
    found, entry = explain(name), ENTRIES[name]
    arrived = per_example(found.mwp, kept=2)[:, :2]
    assert (arrived <= 1 + TOLERANCE).all()
    assert (arrived >= 0.25).all()
    sums = [np.ones(len(arrived)), *(found.crossed[layer] for layer in entry.crossed)]
    sums.append(arrived[:, 0])
    for above, below in zip(sums[:-1], sums[1:], strict=True):
        assert (below <= above + TOLERANCE).all()


@every_model
def test_targets_have_maps_of_their_own(name: str) -> None:
    """Two targets differ; a target for one example leaves the other example without any."""
    for mwp in jax.tree.leaves(explain(name).mwp):
        first, second, alone = (mwp[:, i] for i in range(3))
        assert np.abs(first - second).sum() > 1e-3 * first.sum()
        assert not alone[1].any()
        np.testing.assert_allclose(alone[0], first[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "name", parameters(name for name, entry in ENTRIES.items() if not entry.integers)
)
def test_nothing_goes_where_the_score_does_not_look(name: str) -> None:
    """An element that the explained scores do not depend on gets no probability."""
    found = explain(name)
    for mwp, slopes in zip(jax.tree.leaves(found.mwp), jax.tree.leaves(found.slopes), strict=True):
        assert mwp[0, 2].any()
        assert not mwp[:, 2][slopes == 0].any()


@every_model
def test_contrastive_maps(name: str) -> None:
    found = explain(name)
    for signed in jax.tree.leaves(found.contrastive):
        assert np.isfinite(signed).all()
        first, second = signed[:, 0], signed[:, 1]
        assert np.abs(first - second).sum() > 1e-2 * np.abs(first).sum() > 0
    # The target's excitation minus its negated classifier's: each of them is one at most.
    assert (np.abs(per_example(found.contrastive, kept=2)) <= 1 + TOLERANCE).all()


def test_two_inputs_by_position() -> None:
    """`ej.excite` over a call with two arguments: both explained, then one."""
    picture, vector = ENTRIES["two_towers"].build().x
    params, model = ENTRIES["two_towers"].build().params, TwoTowers()
    prior = best(0)(model.apply(params, picture, vector))
    _, pull = jax.vjp(ej.excite(model.apply, argnums=(1, 2)), params, picture, vector)
    nothing, *both = pull(prior)
    assert not any(leaf.any() for leaf in jax.tree.leaves(nothing))
    for mwp, expected in zip(both, explain("two_towers").mwp, strict=True):
        np.testing.assert_allclose(mwp, expected[:, 0], rtol=1e-4, atol=1e-7)
    _, pull = jax.vjp(ej.excite(model.apply, argnums=1), params, picture, vector)
    _, alone, other = pull(prior)
    assert not other.any()
    # The constant tower is no child: the image gets what both had.
    np.testing.assert_allclose(per_example(alone), per_example(both), atol=TOLERANCE)


SILENT = {
    "gpt": (slice(None), slice(POSITION + 1, None)),
    "gpt_scan_remat": (slice(None), slice(POSITION + 1, None)),
    "llama": (slice(None), slice(POSITION + 1, None)),
    "nnx_gpt": (slice(None), slice(POSITION + 1, None)),
    "token_lstm": (0, slice(9, None)),
    "bert": (1, slice(-4, None)),
}


@pytest.mark.parametrize("name", SILENT)
def test_tokens_that_a_model_does_not_read_get_nothing(name: str) -> None:
    """Those after the position that is explained, and padding."""
    first = explain(name).mwp[:, 0]
    silent = np.zeros(first.shape, bool)
    silent[SILENT[name]] = True
    assert not first[silent].any()
    assert (first > 0).sum() > BATCH  # more than one token of each example


SMALL = {
    "shared_layer": SharedLayer(),
    "se_resnet": SqueezeExciteNet(),
    "group_norm": Normalised(functools.partial(nn.GroupNorm, num_groups=2)),
}


@pytest.mark.parametrize("name", SMALL)
def test_maps_are_the_markov_chain_s(name: str) -> None:
    example = linen(SMALL[name], signal(4, 4, 2))
    prior = np.eye(5)[[0, 3]].astype(np.float32)
    chain = markov_chain(example.model_fn, example.params, example.x)
    found = ej.excitation_vjp(example.model_fn, example.params, example.x, prior)
    assert found.mwp.any()
    np.testing.assert_allclose(found.mwp, chain.mwp(prior), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["scan", "fori_loop"])
def test_a_loop_is_its_steps(name: str) -> None:
    """Explained step by step, the loop written out (which jax.disable_jit does) is the same."""
    example = ENTRIES[name].build()

    def written_out(params: Any, x: Any) -> Any:
        with jax.disable_jit():
            return example.model_fn(params, x)

    steps = jax.make_jaxpr(written_out)(example.params, example.x)
    assert "scan[" not in str(steps)
    found = ej.excitation_vjp(written_out, example.params, example.x, example.targets[0])
    np.testing.assert_allclose(found.mwp, explain(name).mwp[:, 0], rtol=1e-4, atol=1e-7)


def test_rematerialised_blocks_are_the_blocks() -> None:
    np.testing.assert_allclose(explain("vit_remat").mwp, explain("vit").mwp, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["nnx_lstm_gru", "equinox_conv_net", "haiku_resnet"])
def test_called_directly(name: str) -> None:
    """Outside jit, with parameters as each library keeps them (keys and counters included)."""
    example = ENTRIES[name].build()
    found = ej.excitation_vjp(example.model_fn, example.params, example.x, example.targets[0])
    np.testing.assert_allclose(found.mwp, explain(name).mwp[:, 0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["resnet_v1", "mobilenet_v3", "nnx_se_net", "convnext", "vit", "swin"]
)
def test_attention_maps_of_the_automatic_layer(name: str) -> None:
    example = ENTRIES[name].build()
    maps = ej.attention_map(example.model_fn, example.params, example.x, 0, size="input")
    assert maps.shape == (BATCH, 32, 32)
    assert np.isfinite(maps).all()
    assert np.ptp(maps) > 0
