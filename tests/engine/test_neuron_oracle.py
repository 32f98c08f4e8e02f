"""The library's maps of random networks, spelled at random, are the oracle's.

The oracle (tests/oracles) knows neurons and connections, and nothing of the engine: Eq. 6, 19, 20
by loops over numbers. Networks, inputs, priors and spellings come from a seed; a failure prints
the network and how it was spelled.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from oracles import winners
from oracles.comparison import Comparison, compare, random_prior
from oracles.generator import ALL, BUILT, Switches, random_inputs, random_network
from oracles.layers import Network
from oracles.spell import SPELLINGS, Choices, spell
from oracles.winners import AGREED, CONSERVING, Meaning

import excitation_jax as ej

SEEDS, MORE = range(64), range(64, 300)
EXACT = 1e-9

#: The rules that the spellings may need.
NEEDS = ("D0", "D1", "D2", "D3", "D4", "D5", "D7")
#: Identities that hide a linear head from its pooling (D6), and a gate from what reads the product
#: (D3): neither is seen across a border yet.
HIDING = ("cond", "scan of one step")


def on_one_network(
    seed: int, switches: Switches, meaning: Meaning, needs: tuple[str, ...] = (),
    without: tuple[str, ...] = HIDING,
) -> Comparison:  # fmt: skip
    """One prior or several targets an example; every fifth network is read at its input only."""
    network = random_network(seed, switches)
    x = random_inputs(network, seed)
    prior = random_prior(network, seed, len(x), targets=seed % 3)
    choices = Choices(seed, needs, without=without)
    return compare(network, x, prior, choices, meaning=meaning, everywhere=seed % 5 != 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_maps_are_those_of_the_neurons(seed: int) -> None:
    found = on_one_network(seed, BUILT, winners.BUILT, NEEDS)
    assert found.largest < EXACT, found


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(16))
def test_networks_of_all_that_may_be_drawn(seed: int) -> None:
    found = on_one_network(seed, ALL, AGREED, NEEDS)
    assert found.largest < EXACT, found


@pytest.mark.slow
@pytest.mark.parametrize("seed", MORE)
def test_maps_of_many_more_networks(seed: int) -> None:
    found = on_one_network(seed, BUILT, winners.BUILT, NEEDS)
    assert found.largest < EXACT, found


#: Spellings that fill the weights up with zeros, which count as connections where nothing excites.
FILLED = (
    "zeros in the kernel", "dot over patches", "sum of dots", "product and sum",
    "patches primitive",
)  # fmt: skip


@pytest.mark.parametrize("seed", range(24))
def test_what_nothing_excites_hands_on_evenly(seed: int) -> None:
    """D10, under the rules that do so; of equal maxima (zeros) either may be the winner."""
    network = random_network(seed, replace(BUILT, maxima=False))
    x = random_inputs(network, seed)
    prior = random_prior(network, seed, len(x), targets=seed % 3)
    choices = Choices(seed, NEEDS, without=(*HIDING, *FILLED))
    rules = ej.EXCITATION_CONSERVING
    found = compare(
        network, x, prior, choices, meaning=CONSERVING, rules=rules, everywhere=seed % 5 != 0
    )
    assert found.largest < EXACT, found


def test_the_networks_have_all_that_they_may_have() -> None:
    """Every kind of layer, and every spelling that is understood, occurs in the default seeds."""
    kinds: Counter[str] = Counter()
    made: set[str] = set()
    for seed in SEEDS:
        network = random_network(seed, BUILT)
        kinds.update(layer.kind for layer in network.layers)
        choices = Choices(seed, NEEDS, without=HIDING)
        spell(network, choices)
        made.update(choices.made)
    assert min(kinds[kind] for kind in KINDS) >= 2, kinds
    groups = {part.window.groups for n in map(random_network, SEEDS) for part in parts(n)}
    assert groups >= {1, 2, 3}
    spellings = {f"{what}: {how}" for what, ways in SPELLINGS.items()
                 for how, (need, _) in ways.items()
                 if (not need or need in NEEDS) and how not in HIDING}  # fmt: skip
    unmet = {found for found in spellings - made if not found.startswith(NOT_DRAWN)}
    assert len(unmet) <= 0.1 * len(spellings), sorted(unmet)


KINDS = (
    "affine", "phi", "normalise", "sum", "maximum", "max_pool", "avg_pool", "global_pool", "concat",
    "flatten", "channels", "mask", "token", "gate", "attend",
)  # fmt: skip
#: What only other switches draw.
NOT_DRAWN = ("phi identity:", "phi minus:")


def parts(network: Network) -> list:
    every = [part for layer in network.layers for part in layer.options.get("parts", ())]
    return [part for part in every if part.window is not None]


# --- what issue 13 turns on: its rules one by one, then together --------------------------------

#: For each rule: the switches that draw what needs it, the meaning, the spellings it makes right.
LATER = {
    "D6 across borders": (BUILT, winners.BUILT, NEEDS, ()),
}


@pytest.mark.xfail(
    raises=(AssertionError, ValueError, ej.UnsupportedPrimitiveError),
    reason="a rule of design.md, section 3, that is to come",
)
@pytest.mark.parametrize("rule", LATER)
def test_rules_to_come(rule: str) -> None:
    """Sixteen networks each; the first wrong one ends it. Take the mark off what is built."""
    for seed in range(16):
        found = on_one_network(seed + FIRST.get(rule, 0), *LATER[rule])
        assert found.largest < EXACT, found


#: Where to begin: at a network that shows the difference.
FIRST = {"D6 across borders": 187}


# --- the oracle can fail ------------------------------------------------------------------------


def network_to_spoil() -> tuple[Network, np.ndarray, list[np.ndarray]]:
    network = random_network(7)
    x = random_inputs(network, 7)
    return network, x, random_prior(network, 7, len(x))


def test_a_changed_weight_is_seen() -> None:
    """In the engine's copy of the weights only; the outputs' difference is not counted."""
    network, x, prior = network_to_spoil()
    assert compare(network, x, prior, meaning=winners.BUILT).largest < EXACT
    for i, layer in enumerate(network.layers):
        if layer.kind == "affine":
            w = layer.arrays["w0"]
            place = np.unravel_index(np.abs(w).argmax(), w.shape)
            w[place] *= -1
            found = compare(network, x, prior, meaning=winners.BUILT).differences
            w[place] *= -1
            maps = [d for name, d in found.items() if "MWP" in name]
            assert max(maps) > 1e-4, (i, found)


def test_another_lower_bound_is_seen() -> None:
    for seed in range(20):
        network = random_network(seed)
        below = [n for ids in network.ids for n in ids.ravel() if -9 < network.net.low[n] < 0]
        if below:
            x = random_inputs(network, seed)
            prior = random_prior(network, seed, len(x))
            for n in below:
                network.net.low[n] -= 0.01
            assert compare(network, x, prior, meaning=winners.BUILT).largest > 1e-6
            return
    raise AssertionError("no network with an activation of negative values")


def test_other_rules_are_seen() -> None:
    network, x, prior = network_to_spoil()
    rules = ej.EXCITATION_TORCHRAY
    assert compare(network, x, prior, meaning=winners.BUILT, rules=rules).largest > 1e-4
