"""The library's maps of a specified network beside the oracle's.

found = compare(network, x, prior, Choices(seed=3), meaning=BUILT)
assert found.largest < 1e-9, found
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

import excitation_jax as ej

from .layers import Network
from .spell import Choices, spell
from .winners import AGREED, Meaning, Winners

# The programs are tiny and run once: compile them quickly. (The second is gone from newer XLA.)
FAST: dict[str, Any] = {}
for option in ({"xla_backend_optimization_level": 0}, {"xla_cpu_use_fusion_emitters": False}):
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        jax.jit(jax.numpy.negative, compiler_options=option)(1.0)
        FAST |= option

Arrays = dict[str, np.ndarray]


@dataclass
class Maps:
    """Outputs, MWP by layer, c-MWP of the input.

    MWP and c-MWP have an axis K behind the batch axis if the prior has one.
    """

    outputs: list[np.ndarray]
    mwp: Arrays
    contrastive: np.ndarray


@dataclass
class Comparison:
    """Maps of the same network from two sides, and the largest difference of anything in them."""

    network: Network
    choices: Choices
    library: Maps
    oracle: Maps

    @property
    def differences(self) -> dict[str, float]:
        a, b = self.library, self.oracle
        pairs = {
            f"output {i}": pair for i, pair in enumerate(zip(a.outputs, b.outputs, strict=True))
        }
        pairs |= {f"MWP at {name}": (a.mwp[name], b.mwp[name]) for name in a.mwp}
        pairs["c-MWP at the input"] = a.contrastive, b.contrastive
        found = {}
        for name, (x, y) in pairs.items():
            assert x.shape == y.shape, (name, x.shape, y.shape)
            with np.errstate(invalid="ignore"):
                found[name] = float(np.abs(x - y).max())
        return found

    @property
    def largest(self) -> float:
        return float(np.max(list(self.differences.values())))  # NaN if one is

    def __repr__(self) -> str:
        wrong = {name: d for name, d in self.differences.items() if not d < 1e-9}
        return f"{self.network!r}\n{self.choices.made}\ndiffering: {wrong}"


def random_prior(network: Network, seed: int, batch: int, targets: int = 0) -> list[np.ndarray]:
    """P(A0) for each output, of one distribution over all of them; with K targets if any."""
    rng = np.random.default_rng(seed + 20_000)
    shapes = [network.layers[o].shape for o in network.outputs]
    sizes = [int(np.prod(shape)) for shape in shapes]
    leading = (batch, targets) if targets else (batch,)
    flat = rng.dirichlet(np.ones(sum(sizes)), leading)
    parts = np.split(flat, np.cumsum(sizes)[:-1], axis=-1)
    return [part.reshape(*leading, *shape) for part, shape in zip(parts, shapes, strict=True)]


def oracle_maps(
    network: Network, x: np.ndarray, prior: Sequence[np.ndarray], meaning: Meaning,
    layers: Sequence[int],
) -> Maps:  # fmt: skip
    """Example by example, target by target."""
    ids, several = network.ids, prior[0].ndim > network.ids[network.outputs[0]].ndim + 1
    values, mwp, contrastive = [], [], []
    for n, example in enumerate(x):
        winners = Winners(network.net, example.ravel().tolist(), meaning)
        values.append(np.array(winners.values))
        rows = range(prior[0].shape[1]) if several else [()]
        starts = [
            {
                int(i): float(p)
                for o, part in zip(network.outputs, prior, strict=True)
                for i, p in zip(ids[o].ravel(), part[n][row].ravel(), strict=True)
            }
            for row in rows
        ]
        mwp.append([winners.mwp(start) for start in starts])
        contrastive.append([winners.contrastive(start) for start in starts])
    stacked = [
        np.array(found) if several else np.array(found)[:, 0] for found in (mwp, contrastive)
    ]
    return Maps(
        [np.stack([value[ids[o]] for value in values]) for o in network.outputs],
        {f"n{i}": stacked[0][..., ids[i]] for i in layers},
        stacked[1][..., ids[0]],
    )


def library_maps(
    model: Any, params: Any, x: np.ndarray, prior: Sequence[np.ndarray], layers: Sequence[int],
    rules: Any = ej.EXCITATION,
) -> Maps:  # fmt: skip
    """MWP of all these layers and c-MWP, in one compilation."""
    names = [f"n{i}" for i in layers]

    def run(params: Any, x: Any, prior: Any) -> Any:
        target = prior[0] if len(prior) == 1 else lambda outputs: tuple(prior)
        found = ej.excitation_vjp(model, params, x, target, layer=names, rules=rules)
        other = ej.excitation_vjp(model, params, x, target, contrastive=True, rules=rules)
        return jax.tree.leaves(found.outputs), found.mwp, other.mwp

    with jax.enable_x64(True):
        outputs, mwp, contrastive = jax.jit(run, compiler_options=FAST)(params, x, list(prior))
        return Maps(
            [np.asarray(o) for o in outputs],
            {name: np.asarray(p) for name, p in mwp.items()},
            np.asarray(contrastive),
        )


def compare(
    network: Network, x: np.ndarray, prior: Sequence[np.ndarray], choices: Choices | None = None,
    *, meaning: Meaning = AGREED, rules: Any = ej.EXCITATION, everywhere: bool = True,
) -> Comparison:  # fmt: skip
    """The maps of one spelling of a network, and the oracle's.

    Args:
      everywhere: at every layer that the engine can read; otherwise at the input only, in a
        program without tags.
    """
    choices = choices or Choices()
    # A tag between a gated value and its reader would hide the gate from today's engine.
    plain = [i for i in network.on_the_way() if network.layers[i].kind != "gate"]
    layers = plain if everywhere else [0]
    with jax.enable_x64(True):
        model, params = spell(network, choices, tags=layers)
    library = library_maps(model, params, x, prior, layers, rules)
    return Comparison(network, choices, library, oracle_maps(network, x, prior, meaning, layers))
