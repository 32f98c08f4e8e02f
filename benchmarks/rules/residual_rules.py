"""The grid pointing game on CIFAR ResNets: which rules suit residual networks?

2x2 grids of CIFAR images that the network recognises with confidence, as in grid_pointing.py:
does the map's maximum lie in the quarter of the class (hit), and what share of its positive part
does (energy)?

    python -m benchmarks.rules.residual_rules --weights CIFAR10_RESNET20.npz --images CIFAR10.npz

The images are arrays x (N, 32, 32, 3) uint8 and y (N,). For ResNet-32 add --depth 32.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import excitation_jax as ej
from benchmarks.explain.compared import methods
from benchmarks.explain.grid_pointing import grids
from excitation_jax import metrics
from excitation_jax.models import cifar_resnet

RULES = {
    "EXCITATION": ej.EXCITATION,
    "EXCITATION_CONSERVING": ej.EXCITATION_CONSERVING,
    "EXCITATION_RESIDUAL": ej.EXCITATION_RESIDUAL,
    "EXCITATION_TORCHRAY": ej.EXCITATION_TORCHRAY,
}


def recognised(
    model: cifar_resnet.CifarResNet, variables: dict[str, Any], path: Path, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pre-processed images (M, 32, 32, 3) and classes (M,) that the network is sure of."""
    with np.load(path, allow_pickle=False) as file:
        images, classes = cifar_resnet.preprocess(file["x"]), file["y"]
    probabilities = np.asarray(jax.nn.softmax(jax.jit(model.apply)(variables, images)))
    sure = probabilities[np.arange(len(classes)), classes] > confidence
    return np.asarray(images)[sure], classes[sure]


def attention(
    model: cifar_resnet.CifarResNet,
    variables: dict[str, Any],
    rules: ej.RuleSet,
    contrastive: bool,
    layers: tuple[str | None, ...],
) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, ...]]:
    """A function of images (N, H, W, 3) and classes (N, K) to a map (N, K, h, w) for each layer."""

    def at_layers(x: jax.Array, classes: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(
            ej.excitation_vjp(
                model.apply,
                variables,
                x,
                classes,
                layer=layer,
                contrastive=contrastive,
                rules=rules,
            ).mwp.sum(axis=-1)
            for layer in layers
        )

    return at_layers


def play(
    weights: Path,
    images: Path,
    depth: int,
    count: int,
    seed: int = 0,
    confidence: float = 0.99,
    rules: Mapping[str, ej.RuleSet] = RULES,
) -> Iterator[dict[str, Any]]:
    """Share of hits and mean energy of the gradient, then of every rule set at every layer."""
    model = cifar_resnet.CifarResNet(depth)
    variables = cifar_resnet.load_npz(weights, depth)
    played = list(grids(*recognised(model, variables, images, confidence), count, seed))
    x, classes = (np.concatenate(part) for part in zip(*played, strict=True))
    last = (depth - 2) // 6 - 1
    layers = ("auto", f"layer2_{last}", f"layer1_{last}", None)

    def row(method: str, rule_set: str, layer: str, attention: jax.Array) -> dict[str, Any]:
        hits, energies = map(np.asarray, metrics.grid_pointing(attention))
        return {
            "method": method,
            "rules": rule_set,
            "layer": layer,
            "hits": float(hits.mean()),
            "energy": float(energies.mean()),
            "targets": hits.size,
        }

    gradient = jax.jit(methods(model.apply, variables, "auto")["gradient"])
    yield row("gradient", "", "input", gradient(x, classes))
    for contrastive, rule_set in itertools.product((False, True), rules):
        method = jax.jit(attention(model, variables, rules[rule_set], contrastive, layers))
        for layer, found in zip(layers, method(x, classes), strict=True):
            name = "c-MWP" if contrastive else "MWP"
            yield row(name, rule_set, layer or "input", found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--grids", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    print(
        f"ResNet-{options.depth}, {options.grids} grids\n"
        f"{'method':8} {'rules':21} {'layer':8} {'hits':>7} {'energy':>7}"
    )
    rows = []
    for row in play(options.weights, options.images, options.depth, options.grids, options.seed):
        rows.append(row)
        print(
            f"{row['method']:8} {row['rules']:21} {row['layer']:8} {row['hits']:7.1%} "
            f"{row['energy']:7.3f}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
