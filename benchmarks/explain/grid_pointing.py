"""The grid pointing game on real photographs with the real SqueezeNet, or MobileNetV2.

Four photographs that the network recognises with confidence make a 2x2 grid (Boehle et al.,
CVPR 2021). For each of the four classes: does the map's maximum lie in the right quarter
(hit; the maximum's cell counts where its centre is), and what share of its positive part does
(energy)?

    python -m benchmarks.explain.grid_pointing --weights SQUEEZENET.npz --images FOLDER
    python -m benchmarks.explain.grid_pointing --network mobilenet_v2 --weights MOBILENET_V2.npz \\
        --images FOLDER --grids 12 --layer block8 --rules EXCITATION_CONSERVING

FOLDER holds photographs named <class index>_<anything>.jpg.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

import excitation_jax as ej
from benchmarks.explain.compared import methods
from excitation_jax import metrics
from excitation_jax.models import mobilenet_v2, squeezenet

NETWORKS = {
    "squeezenet": (squeezenet.SqueezeNet, squeezenet),
    "mobilenet_v2": (mobilenet_v2.MobileNetV2, mobilenet_v2),
}


def recognised(
    model: Any, params: dict, preprocess: Callable, folder: Path, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pre-processed photographs (M, H, W, 3) and classes (M,) that the network is sure of."""
    predict = jax.jit(lambda x: jax.nn.softmax(model.apply(params, x)))
    images, classes = [], []
    for path in sorted(folder.glob("*.jpg")):
        index = int(path.name.split("_")[0])
        with Image.open(path) as photograph:
            image = preprocess(photograph)
        if predict(image)[0, index] > confidence:
            images.append(np.asarray(image[0]))
            classes.append(index)
    return np.stack(images), np.array(classes)


def grids(
    images: np.ndarray, classes: np.ndarray, count: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(grid (1, 2h, 2w, 3), its four classes (1, 4)), the classes of a grid being distinct."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        while True:
            chosen = rng.choice(len(images), 4, replace=False)
            if len(set(classes[chosen])) == 4:
                break
        top, bottom = (np.concatenate(images[chosen[i : i + 2]], axis=1) for i in (0, 2))
        yield np.concatenate([top, bottom])[None], classes[chosen][None]


def play(
    weights: Path, images: Path, count: int, seed: int, layer: str, confidence: float = 0.8,
    network: str = "squeezenet", rules: ej.RuleSet = ej.EXCITATION,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Share of hits and mean energy by method."""
    make, module = NETWORKS[network]
    model, params = make(), module.load_npz(weights)
    photographs, classes = recognised(model, params, module.preprocess, images, confidence)
    results: dict[str, dict[str, float]] = {}
    for name, method in methods(model.apply, params, layer, rules).items():
        compiled = jax.jit(method)
        scores = [
            metrics.grid_pointing(compiled(grid, targets)[0])
            for grid, targets in grids(photographs, classes, count, seed)
        ]
        hits, energies = (np.concatenate(part) for part in zip(*scores, strict=True))
        results[name] = {
            "hits": float(hits.mean()),
            "energy": float(energies.mean()),
            "targets": hits.size,
            "photographs": len(classes),
        }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--grids", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layer", default="auto")
    parser.add_argument("--network", choices=NETWORKS, default="squeezenet")
    parser.add_argument("--rules", default="EXCITATION", help="a rule set of the package")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    results = play(
        options.weights, options.images, options.grids, options.seed, options.layer,
        network=options.network, rules=getattr(ej, options.rules),
    )  # fmt: skip
    print(f"{'method':10} {'hits':>7} {'energy':>7} {'targets':>8}   layer {options.layer}")
    for name, row in results.items():
        print(f"{name:10} {row['hits']:7.1%} {row['energy']:7.2f} {row['targets']:8}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
