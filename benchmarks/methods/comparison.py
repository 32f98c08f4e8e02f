"""All methods on the grid pointing game, and what they cost beside one gradient.

    python -m benchmarks.methods.comparison squeezenet --weights WEIGHTS.npz --images FOLDER
    python -m benchmarks.methods.comparison cifar --weights WEIGHTS.npz --images CIFAR10.npz

2x2 grids of images that the network recognises (grid_pointing.py, residual_rules.py): the share of
maps whose maximum lies in the right quarter (hits, with a 95 % bootstrap interval over grids) and
the mean share of their positive part there (energy). Maps of pixels also with a blur of 2 % of the
side, as IJCV18 does with them. Methods of many passes play on a tenth of the grids only.

FLOPs are XLA's own, for one image and one target, relative to `jax.grad` of the score to the
pixels. XLA counts the body of a loop once; here it counts as often as it runs. Wall times are
medians of pairs that take turns with that gradient.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.explain import grid_pointing
from benchmarks.rules import residual_rules
from excitation_jax import maps, methods, metrics
from excitation_jax.models import cifar_resnet, squeezenet

BLUR = 0.02
#: Methods of many passes: their options here, how often the loop runs, and the forward passes (a
#: gradient is two) that lie outside of it.
STEPS = {
    "smoothgrad": ({"samples": 25}, 25, 0),
    "integrated-gradients": ({"steps": 32}, 32, 0),
    "rise": ({"masks": 500}, 500, 0),
    "feedback": ({"iterations": 10}, 10, 2),
}

#: "cifar" is the ResNet-20.
NETWORKS = ("squeezenet", "cifar", "cifar32")

Grids = list[tuple[np.ndarray, np.ndarray]]


def load(network: str, weights: Path, images: Path, count: int) -> tuple[Any, Any, Grids]:
    """The model function, its parameters, and the grids."""
    if network == "squeezenet":
        model, params = squeezenet.SqueezeNet(), squeezenet.load_npz(weights)
        known = grid_pointing.recognised(model, params, squeezenet.preprocess, images, 0.8)
    else:
        depth = 32 if network == "cifar32" else 20
        model, params = cifar_resnet.CifarResNet(depth), cifar_resnet.load_npz(weights, depth)
        known = residual_rules.recognised(model, params, images, 0.99)
    return model.apply, params, list(grid_pointing.grids(*known, count, 0))


def interval(hits: np.ndarray) -> tuple[float, float]:
    """95 % of the means of grids (G, 4) drawn with replacement."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(hits), (2000, len(hits)))
    low, high = np.quantile(hits.mean(1)[drawn].mean(1), [0.025, 0.975])
    return float(low), float(high)


def score(found: Sequence[jax.Array], sigma: float) -> dict[str, Any]:
    """Of maps (4, h, w) of each grid, after a blur of sigma times the side."""
    played = [metrics.grid_pointing(maps.blur(m, sigma * max(m.shape[-2:]))) for m in found]
    hits, energies = (np.array(part) for part in zip(*played, strict=True))
    return {
        "hits": float(hits.mean()),
        "interval": interval(hits),
        "energy": float(energies.mean()),
        "targets": hits.size,
    }


def cost(
    function: Callable[[Any, Any, Any], Any],
    baseline: Callable[[Any, Any, Any], Any],
    loop: tuple[int, int],
    arguments: tuple[Any, ...],
    pairs: int,
) -> dict[str, float]:
    """FLOPs and wall time relative to the baseline's, which is a gradient.

    Args:
      loop: how often the function's loop runs, and the forward passes outside of it.
    """
    compiled = [jax.jit(one).lower(*arguments).compile() for one in (function, baseline)]
    flops, gradient = (one.cost_analysis()["flops"] for one in compiled)
    times, outside = loop[0], loop[1] * gradient / 2
    if times > 1:  # called directly, as a loop of Python's: see methods/passes.py
        compiled[0] = function
    ratios = []
    for _ in range(pairs + 1):
        spent = []
        for one in compiled:
            start = time.perf_counter()
            jax.block_until_ready(one(*arguments))
            spent.append(time.perf_counter() - start)
        ratios.append(spent[0] / spent[1])
    total = outside + times * (flops - outside)
    return {"flops": total / gradient, "time": statistics.median(ratios[1:])}


def play(
    network: str, weights: Path, images: Path, count: int, only: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """One row for each method, two for those whose maps are of pixels."""
    apply, params, grids = load(network, weights, images, count)

    def gradient(params: Any, x: jax.Array, target: jax.Array) -> jax.Array:
        return jax.grad(lambda x: apply(params, x)[jnp.arange(len(x)), target].sum())(x)

    for name in only or methods.names():
        method, (options, *loop) = methods.get(name), STEPS.get(name, ({}, 1, 0))
        function = functools.partial(method.function, apply, **options)
        played = grids[: max(1, len(grids) // 10)] if options else grids
        try:
            run = function if options else jax.jit(function).lower(params, *played[0]).compile()
        except ValueError as error:
            yield {"method": method.title, "not defined": str(error)}
            continue
        found = [run(params, x, classes)[0] for x, classes in played]
        x, classes = played[0]
        spent = cost(
            function, gradient, tuple(loop), (params, x, classes[:, 0]), 3 if options else 7
        )
        pixels = found[0].shape[-2:] == x.shape[1:3]
        yield {"method": method.title, "blur": 0.0, **score(found, 0), **spent}
        if pixels:
            yield {"method": method.title, "blur": BLUR, **score(found, BLUR), **spent}


def line(row: dict[str, Any]) -> str:
    """A row of the table in Markdown."""
    if "not defined" in row:
        return f"| {row['method']} | not defined here | | | | |"
    low, high = row["interval"]
    blurred = ", blurred" if row["blur"] else ""
    return (
        f"| {row['method']}{blurred} | {row['hits']:.1%} ({low:.0%} to {high:.0%}) | "
        f"{row['energy']:.2f} | {row['targets']} | {row['flops']:.2f} | {row['time']:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--grids", type=int, default=100)
    parser.add_argument("--methods", default="", help="names between commas; all by default")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    print("| method | hits | energy | targets | FLOPs / gradient | wall / gradient |")
    print("|---|---|---|---|---|---|")
    rows = []
    only = [name for name in options.methods.split(",") if name]
    for row in play(options.network, options.weights, options.images, options.grids, only):
        rows.append(row)
        print(line(row), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
