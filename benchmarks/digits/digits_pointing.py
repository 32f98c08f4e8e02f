"""The pointing game on the digits model: does a map's maximum lie in the digit's box?

    python -m benchmarks.digits.digits_pointing [--scenes 500] [--plain] [--json FILE]

Test scenes with two digits at least, so that pointing at any digit does not do; every digit
present is a target. A map points at the place where the cell of its maximum looked, or with
--plain at that cell's centre in a plain tile.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.explain.compared import centres, grids, methods
from excitation_jax.digits import Scenes, load, make_scenes
from excitation_jax.maps import Grid

BATCH = 50


def hits(maps: np.ndarray, scenes: Scenes, grid: Grid | None = None) -> np.ndarray:
    """Of maps (N, 10, h, w), one a class: whether each present digit's points into its box.

    grid: where the cells lie on the scenes; None for plain tiles.
    """
    height, width = maps.shape[2:]
    best = maps.reshape(*maps.shape[:2], -1).argmax(-1)
    size = scenes.images.shape[1]
    rows = centres(height, size, 0, grid)[best // width]
    columns = centres(width, size, 1, grid)[best % width]
    x0, y0, x1, y1 = np.moveaxis(scenes.boxes, -1, 0)
    inside = (x0 <= columns) & (columns < x1) & (y0 <= rows) & (rows < y1)
    present = (scenes.labels > 0) & (scenes.labels.sum(1, keepdims=True) >= 2)
    return inside[present]


def play(
    count: int,
    seed: int = 0,
    layer: str = "auto",
    network: tuple[Any, Any] | None = None,
    plain: bool = False,
) -> dict[str, dict[str, float]]:
    """Share of hits by method, of the demo model or another (model, variables)."""
    model, variables = network or load()
    scenes = make_scenes(seed, count, "test")
    places = {} if plain else grids(model.apply, variables, layer, scenes.images[:1])
    every = np.broadcast_to(np.arange(10), (BATCH, 10))
    results = {}
    for name, method in methods(model.apply, variables, layer).items():
        compiled = jax.jit(method)
        scored = []
        for start in range(0, count - BATCH + 1, BATCH):
            part = Scenes(*(field[start : start + BATCH] for field in scenes))
            maps = np.asarray(compiled(part.images, every))
            scored.append(hits(maps, part, places.get(name)))
        found = np.concatenate(scored)
        results[name] = {"hits": float(found.mean()), "targets": int(found.size)}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layer", default="auto")
    parser.add_argument("--plain", action="store_true", help="maps are plain tiles")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    results = play(options.scenes, options.seed, options.layer, plain=options.plain)
    print(f"{'method':10} {'hits':>7} {'targets':>8}   layer {options.layer}")
    for name, row in results.items():
        print(f"{name:10} {row['hits']:7.1%} {row['targets']:8}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
