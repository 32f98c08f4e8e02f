"""Table 3 of IJCV18 on the grid pointing game: what the norms of c-MWP are for.

    python -m benchmarks.methods.contrast cifar --weights WEIGHTS.npz --images CIFAR10.npz \\
        --layers auto,layer1_2
    python -m benchmarks.methods.contrast squeezenet --weights WEIGHTS.npz --images FOLDER \\
        --grids 40

The paper's rows (GoogLeNet, VOC07's difficult pairs, mean over categories) beside those of grids as
in comparison.py: hits, with a 95 % bootstrap interval over grids, for each layer named. Below, how
many points each variant is behind the one before it, on the same grids, with such an interval. All
variants are read at the same layer, of which "auto" is the default one.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from benchmarks.methods.comparison import NETWORKS, interval, load
from excitation_jax import methods, metrics
from excitation_jax.evaluation.published.figures import published

VARIANTS = ("c-mwp", "c-mwp-post-norm", "c-mwp-without-norm")


def paper(name: str) -> float:
    """The paper's figure, per cent."""
    (source, *_) = published("pointing", "VOC2007 test", "googlenet", 20)
    (row,) = (row for row in source.of(name) if row.table == 3)
    return row.figures["difficult"]


def play(
    network: str, weights: Path, images: Path, layers: list[str], count: int
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """For each layer, the hits (grids, 4) of each variant."""
    apply, params, grids = load(network, weights, images, count)
    for layer in layers:
        hits = {}
        for name in VARIANTS:
            method = functools.partial(methods.get(name).function, apply, layer=layer)
            run = jax.jit(method).lower(params, *grids[0]).compile()
            played = [metrics.grid_pointing(run(params, x, classes)[0])[0] for x, classes in grids]
            hits[name] = np.array(played)
        yield layer, hits


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--layers", default="auto", help="names between commas")
    parser.add_argument("--grids", type=int, default=100)
    given = parser.parse_args()
    print("| layer | method | paper | here | hits |")
    print("|---|---|---|---|---|")
    layers = given.layers.split(",")
    for layer, hits in play(given.network, given.weights, given.images, layers, given.grids):
        before = None
        for name, found in hits.items():
            low, high = interval(found)
            print(
                f"| {layer} | {methods.get(name).title} | {paper(name)} | {found.mean():.1%} "
                f"({low:.1%} to {high:.1%}) | {int(found.sum())} of {found.size} |",
                flush=True,
            )
            if before is not None:
                lost = before.astype(float) - found
                low, high = interval(lost)
                print(
                    f"| | behind the last | | {100 * lost.mean():.1f} points "
                    f"({100 * low:.1f} to {100 * high:.1f}) | |"
                )
            before = found


if __name__ == "__main__":
    main()
