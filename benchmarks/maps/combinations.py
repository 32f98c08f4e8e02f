"""Do maps of several layers, flips and a blur point better than one map? A search with care.

    python -m benchmarks.maps.combinations squeezenet --weights SQUEEZENET.npz --images FOLDER
    python -m benchmarks.maps.combinations cifar --weights CIFAR10_RESNET20.npz --images CIFAR10.npz

Grid pointing as in methods/comparison.py. Every combination is scored on the first half of the
grids; the best few are then scored on the other half, which had no part in choosing them, and
compared there with the best single map of the first half: the difference in hits, with a 95 %
bootstrap interval of the paired difference over grids. A combination is worth a name only if that
lies above zero.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.methods.comparison import load
from excitation_jax import combine, maps, methods, metrics

LAYERS = {
    "squeezenet": ("auto", "pool8", "fire8", "fire7", "fire6", "pool4"),
    "cifar": ("auto", "layer3_0", "layer2_2", "layer2_0", "layer1_2", "layer1_0"),
}
SIGMAS = (0.0, 0.02, 0.04)

#: What a combination averages: (method, layer) pairs, whether flipped too, the mean, the blur.
Choice = tuple[tuple[tuple[str, str], ...], bool, str, float]


def choices(network: str) -> Iterator[Choice]:
    """Single maps, and pairs and triples of layers of one method, or of both at one layer."""
    layers, names = LAYERS[network], ("mwp", "c-mwp")
    parts = [((name, layer),) for name in names for layer in layers]
    for count in (2, 3):
        for name in names:
            parts += [
                tuple((name, layer) for layer in chosen)
                for chosen in itertools.combinations(layers, count)
            ]
    parts += [(("mwp", layer), ("c-mwp", layer)) for layer in layers]
    for part, flipped, sigma in itertools.product(parts, (False, True), SIGMAS):
        for mean in ("geometric", "arithmetic") if len(part) > 1 or flipped else ("arithmetic",):
            yield part, flipped, mean, sigma


def base_maps(network: str, weights: Path, images: Path, count: int) -> dict[Any, jax.Array]:
    """(G, 4, h, w) by (method, layer, flipped)."""
    apply, params, grids = load(network, weights, images, count)
    found: dict[Any, list] = {}
    runs = {
        (name, layer): jax.jit(functools.partial(methods.get(name).function, apply, layer=layer))
        for name in ("mwp", "c-mwp")
        for layer in LAYERS[network]
    }
    for x, classes in grids:
        for key, run in runs.items():
            found.setdefault((*key, False), []).append(run(params, x, classes)[0])
            mirrored = run(params, x[:, :, ::-1], classes)[0][..., ::-1]
            found.setdefault((*key, True), []).append(mirrored)
    return {key: jnp.stack(value) for key, value in found.items()}


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def hits(parts: list[jax.Array], mean: str, sigma: float, size: tuple[int, int]) -> jax.Array:
    """(G, 4) of the combined maps."""
    average = combine.geometric_mean if mean == "geometric" else combine.arithmetic_mean
    return metrics.grid_pointing(maps.blur(average(parts, size), sigma * max(size)))[0]


def scores(base: dict[Any, jax.Array], choice: Choice, half: slice) -> np.ndarray:
    """Mean hits of each grid of one half."""
    part, flipped, mean, sigma = choice
    parts = [
        base[(*key, flip)][half]
        for key in part
        for flip in ((False, True) if flipped else (False,))
    ]
    size = max(tuple(p.shape[-2:]) for p in parts)
    return np.asarray(hits(parts, mean, sigma, size)).mean(axis=1)


def difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    """The mean paired difference and its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    paired = ours - theirs
    means = paired[rng.integers(0, len(paired), (5000, len(paired)))].mean(axis=1)
    return float(paired.mean()), *(float(q) for q in np.quantile(means, [0.025, 0.975]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("network", choices=list(LAYERS))
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--grids", type=int, default=400)
    parser.add_argument("--best", type=int, default=5, help="how many go to the second half")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    base = base_maps(options.network, options.weights, options.images, options.grids)
    first, second = slice(None, options.grids // 2), slice(options.grids // 2, None)
    ranked = sorted(
        choices(options.network), key=lambda choice: -scores(base, choice, first).mean()
    )
    plain = next(c for c in ranked if len(c[0]) == 1 and not c[1] and c[3] == 0)
    print(f"{len(ranked)} combinations; the best single map is {plain[0]}")
    rows = []
    for choice in dict.fromkeys(
        [plain, (((("c-mwp", "auto"),)), False, "arithmetic", 0.0), *ranked[: options.best]]
    ):
        mean, low, high = difference(scores(base, choice, second), scores(base, plain, second))
        rows.append(
            {
                "choice": choice,
                "first half": float(scores(base, choice, first).mean()),
                "second half": float(scores(base, choice, second).mean()),
                "difference": mean,
                "interval": (low, high),
            }
        )
        print({key: f"{v:.3f}" if isinstance(v, float) else v for key, v in rows[-1].items()})
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
