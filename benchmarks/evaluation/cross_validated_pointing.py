r"""The pointing game on all photographs at hand, cross-validated: methods at their default layers.

Photographs, network and heads as in held_out_pointing.py, but none is kept apart: each is explained
by the head that was trained on the other four fifths (seed 0). MWP and c-MWP are read at each layer
and by each rule set that is named, Grad-CAM and the gradient (blurred as by the command line) where
they are read by default. Beside the hits stands a 95 % bootstrap interval, of photographs drawn
again with all their pairs; below, paired differences with theirs: c-MWP and MWP less each baseline,
and each rule set less the first one (EXCITATION_CONSERVING hands on evenly what no child excites).

    python -m benchmarks.evaluation.cross_validated_pointing --weights MOBILENET_V2.npz --voc VOC \
        --coco COCO --out DIR

DIR keeps the records, so that the same command continues after an interruption.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import excitation_jax as ej
from benchmarks.evaluation.held_out_pointing import FOLDS, Outcome, heads, play, read
from excitation_jax import data, maps, methods
from excitation_jax.evaluation.points import PlacedMaps
from excitation_jax.models import mobilenet_v2

LAYERS = ("auto", "block8")
RULES = ("EXCITATION", "EXCITATION_CONSERVING")
BASELINES = ("Grad-CAM", "gradient", "centre")
BLUR = 0.02  # of the gradient, as a share of the input's side
DRAWS = 2000


def functions(
    variables: Any, side: int, layers: Sequence[str], rules: Sequence[str]
) -> dict[str, Callable[..., jax.Array]]:
    """By "method layer rules", or a baseline's name."""
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    model = mobilenet_v2.MobileNetV2((FOLDS + 1) * len(data.VOC_CLASSES))

    def gradient(variables: Any, x: jax.Array, classes: jax.Array) -> jax.Array:
        return maps.blur(methods.gradient(model.apply, variables, x, classes), BLUR * side)

    def placed(name: str, **options: Any) -> PlacedMaps:
        method = methods.get(name)
        grid = method.grid(model.apply, variables, images, **options)
        return PlacedMaps(functools.partial(method.function, model.apply, **options), grid)

    found: dict[str, Callable[..., jax.Array]] = {}
    for name, title in (("c-mwp", "c-MWP"), ("mwp", "MWP")):
        for layer in layers:
            for rule_set in rules:
                function = placed(name, layer=layer, rules=getattr(ej, rule_set))
                found[f"{title} {layer} {rule_set}"] = function
    return {**found, "Grad-CAM": placed("grad-cam"), "gradient": gradient}


def interval(photographs: Sequence[Sequence[Outcome]], weights: np.ndarray) -> tuple[float, float]:
    """95 % of a share of hits, or of a difference of such, in points: photographs are drawn again.

    weights: what the methods' hits count, (methods,).
    """
    sums = np.array([sum(float(o.hits @ weights) for o in own) for own in photographs])
    counts = np.array([len(own) for own in photographs])
    drawn = np.random.default_rng(0).integers(0, len(sums), (DRAWS, len(sums)))
    ends = np.quantile(100 * sums[drawn].sum(1) / counts[drawn].sum(1), [0.025, 0.975])
    return float(ends[0]), float(ends[1])


def differences(names: Sequence[str]) -> Iterator[tuple[int, int]]:
    """What is compared: each of the two less the other."""
    first = next(name.split(" ")[2] for name in names if name.startswith("MWP "))
    for i, name in enumerate(names):
        if name in BASELINES:
            continue
        method, layer, rule_set = name.split(" ")
        if rule_set != first:
            yield i, names.index(f"{method} {layer} {first}")
        for other in BASELINES:
            yield i, names.index(other)


def report(title: str, names: Sequence[str], found: Sequence[Sequence[Outcome]]) -> Any:
    """Prints hits and differences of all pairs and of the difficult ones; returns them."""
    result: dict[str, Any] = {}
    for subset in ("all", "difficult"):
        chosen = [[o for o in own if subset == "all" or o.difficult] for own in found]
        chosen = [own for own in chosen if own]
        hits = np.array([o.hits for own in chosen for o in own], float)
        print(f"\n{title}, {subset}: {len(hits)} pairs in {len(chosen)} photographs")
        rows: dict[str, Any] = {}
        one = np.eye(len(names))
        for i, name in enumerate(names):
            low, high = interval(chosen, one[i])
            rows[name] = {"hits": int(hits[:, i].sum()), "pairs": len(hits), "ends": [low, high]}
            share = 100 * hits[:, i].mean()
            print(f"{name:36} {rows[name]['hits']:4} {share:5.1f} % ({low:.1f} to {high:.1f})")
        for i, j in differences(names):
            low, high = interval(chosen, one[i] - one[j])
            gain = 100 * float((hits[:, i] - hits[:, j]).mean())
            rows[f"{names[i]} less {names[j]}"] = {"points": gain, "ends": [low, high]}
            print(f"{names[i]:36} less {names[j]:30} {gain:5.1f} ({low:.1f} to {high:.1f})")
        result[subset] = rows
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name in ("weights", "voc", "coco", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--side", type=int, default=320, help="of the network's input (320)")
    parser.add_argument("--layers", nargs="+", default=LAYERS, metavar="NAME")
    parser.add_argument("--rules", nargs="+", default=RULES, help="rule sets of the package")
    options = parser.parse_args()
    parts = read(options.voc, options.coco, tests=False)
    trained = heads(options.weights, parts, options.side)
    logits = jax.tree.map(lambda *each: jnp.concatenate(each, axis=-1), *trained)
    body = mobilenet_v2.load_npz(options.weights)["params"]
    variables = {"params": {**body, "logits": logits}}
    made = functions(variables, options.side, options.layers, options.rules)
    names = [*made, "centre"]
    options.out.mkdir(parents=True, exist_ok=True)
    results, everything = {}, []
    for part, title in zip(parts, ("VOC", "COCO"), strict=True):
        found = play(part, variables, made, options.side, options.out, title.lower())
        results[title] = report(title, names, found)
        if title == "VOC":
            test = {example.key for example in data.read_voc(options.voc, "voc07test")}
            own = [
                some
                for example, some in zip(part.dataset, found, strict=True)
                if example.key in test
            ]
            results["VOC07 test"] = report("VOC07 test", names, own)
        everything += found
    results["both"] = report("both", names, everything)
    (options.out / "figures.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
