r"""The pointing game with a fully convolutional network: which signal, and which average?

Photographs as in held_out_pointing.py, all of them, by the head that has not seen them. Their
shorter side is 224 and the longer one 320 (the papers keep each one's own shape).
Scores are made at each position of the feature map, or behind an average that slides over 7x7
positions, as the papers' networks have it; P(A0) is `ej.confidence_map` by softmax over positions,
sigmoid, or the positive part. With the average, CAM and c-MWP* are IJCV18's Table 2.

    python -m benchmarks.evaluation.score_maps --weights MOBILENET_V2.npz --voc VOC --coco COCO \
        --out DIR

DIR keeps the records, so that the same command continues after an interruption.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import excitation_jax as ej
from benchmarks.evaluation.held_out_pointing import (
    FOLDS,
    Outcome,
    Part,
    heads,
    read,
    table,
    with_heads,
)
from benchmarks.methods.comparison import interval
from excitation_jax import data, methods, models
from excitation_jax.data.records import Dataset
from excitation_jax.evaluation import runner
from excitation_jax.evaluation.pointing import pointing_game as pointing
from excitation_jax.evaluation.points import PlacedMaps
from excitation_jax.evaluation.progress import bar
from excitation_jax.evaluation.store import Store
from excitation_jax.explain.confidence import WAYS
from excitation_jax.models import mobilenet_v2

SHORT, LONG, WINDOW, BATCH = 224, 320, 7, 8
LAYER = "block8"


def functions(variables: Any, size: tuple[int, int]) -> dict[str, Callable[..., jax.Array]]:
    """By "method head signal"."""
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    classes = (FOLDS + 1) * len(data.VOC_CLASSES)
    found: dict[str, Callable[..., jax.Array]] = {}

    def add(model: mobilenet_v2.MobileNetV2, name: str, title: str, by: str | None) -> None:
        layer = LAYER if name in ("mwp", "c-mwp") else "last"
        method = methods.get(name)

        def explain(variables: Any, x: jax.Array, classes: jax.Array) -> jax.Array:
            target = classes if by is None else ej.confidence_map(classes, by=by)
            return method.function(model.apply, variables, x, target, layer=layer)

        grid = method.grid(model.apply, variables, images, layer=layer)
        found[f"{method.title} {title}"] = PlacedMaps(explain, grid)

    dense = mobilenet_v2.MobileNetV2(classes)
    for name in ("mwp", "c-mwp", "cam", "c-mwp-star"):
        add(dense, name, "dense", None)
    for window, title in ((None, "positions"), (WINDOW, "sliding")):
        model = mobilenet_v2.MobileNetV2(classes, True, window)
        for by in WAYS:
            for name in ("mwp", "c-mwp", "c-mwp-star")[: 3 if window else 2]:
                add(model, name, f"{title} {by}", by)
        add(model, "cam", title, None)
    return found


def play(part: Part, variables: Any, directory: Path, name: str) -> tuple[list[str], list[Outcome]]:
    """The outcomes of all pairs."""
    dataset, found, names = with_heads(part), [], []
    for turned, size in ((False, (SHORT, LONG)), (True, (LONG, SHORT))):
        chosen = tuple(e for e in dataset if (e.size[0] > e.size[1]) == turned)
        some = Dataset(dataset.name, dataset.classes, chosen, dataset.masks)
        game = pointing.PointingGame(some, functions(variables, size))
        names = [*game.methods, "centre"]
        settings = {"methods": names, "size": size, "keys": [example.key for example in chosen]}
        store = Store(
            directory / f"{name}_{size[0]}x{size[1]}", settings,
            count=len(some), shape=game.shape, dtype=game.dtype, batch=BATCH,
        )  # fmt: skip
        whole = models.get("mobilenet_v2").preprocessing.whole(size)
        with bar() as shown:
            shown.announce(f"{name} {size}")
            runner.run(game, variables, some, whole, store, on_progress=shown.advance)
        for pair in pointing.outcomes(store.blocks()):
            category = some.classes[pair.category].split(" ", 1)[1]
            found.append(Outcome(category, pair.difficult, np.array(pair.hits)))
    return names, found


def compare(names: Sequence[str], outcomes: Sequence[Outcome]) -> None:
    """Each signal beside the softmax, in points of all pairs, with a 95 % bootstrap interval."""
    hits = np.array([outcome.hits for outcome in outcomes], float)
    print()
    for i, name in enumerate(names):
        other = name.replace("sigmoid", "softmax").replace("positive", "softmax")
        if other != name:
            gain = 100 * (hits[:, i] - hits[:, names.index(other)])
            low, high = interval(gain[:, None])
            print(f"{name:26} less softmax {gain.mean():5.1f} points ({low:.1f} to {high:.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name in ("weights", "voc", "coco", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    parts = read(options.voc, options.coco)
    trained = heads(options.weights, parts, SHORT)
    logits = jax.tree.map(lambda *each: jnp.concatenate(each, axis=-1), *trained)
    body = mobilenet_v2.load_npz(options.weights)["params"]
    variables = {"params": {**body, "logits": logits}}
    options.out.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    names: list[str] = []
    for part, title in zip(parts, ("VOC", "COCO"), strict=True):
        names, played = play(part, variables, options.out, title.lower())
        table(title, names, range(len(names)), played)
        outcomes += played
    table("all", names, range(len(names)), outcomes)
    compare(names, outcomes)


if __name__ == "__main__":
    main()
