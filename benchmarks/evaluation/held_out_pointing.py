r"""The pointing game on VOC07 and COCO photographs, with layers that were chosen on others.

MobileNetV2 as trained on ImageNet gets a linear head for VOC's 20 classes, trained on the other
photographs at hand. Where each method is read, and how wide the gradient is blurred, is chosen by
cross-validation on these: every photograph is explained by a head that was trained on four fifths
of them, itself not included. Only then is the game played on what was kept apart: VOC07's test
images, and every third photograph of COCO with an object of VOC's classes.

    python -m benchmarks.evaluation.held_out_pointing --weights MOBILENET_V2.npz --voc VOC \
        --coco COCO --out DIR

VOC holds JPEGImages/, Annotations/ and ImageSets/Main/{all,voc07test}.txt; COCO holds
annotations/instances_train2017.json and train2017/. DIR keeps the records, so that the same
command continues after an interruption, and the head as a checkpoint for `excitation-jax eval`.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.rules.mobilenet_pointing import PENALTY, train_head
from excitation_jax import data, maps, methods, models
from excitation_jax.data.pipeline import Batches
from excitation_jax.data.records import Dataset, Example
from excitation_jax.evaluation import runner
from excitation_jax.evaluation.pointing import pointing_game as pointing
from excitation_jax.evaluation.points import PlacedMaps
from excitation_jax.evaluation.progress import bar
from excitation_jax.evaluation.store import Store
from excitation_jax.models import mobilenet_v2, weight_files

LAYERS = ("block3", "block5", "block6", "block8")  # the best ones at a side of 224
BLURS = (0.0, 0.02, 0.05)  # of the gradient, as a share of the input's side
FOLDS = 5
BATCH = 8


class Part(NamedTuple):
    """Photographs that are played with by the same rules; fold: of each, -1 for the tests."""

    dataset: Dataset[Example]
    fold: np.ndarray


class Outcome(NamedTuple):
    """A pair of photograph and class: did each method hit?"""

    category: str
    difficult: bool
    hits: np.ndarray


def read(voc: Path, coco: Path, seed: int = 0, tests: bool = True) -> tuple[Part, Part]:
    """VOC's photographs, played with boxes, and COCO's, played with masks.

    tests: keep some apart; without, each photograph is in a fold.
    """
    every = data.read_voc(voc, "all")
    apart = {example.key for example in data.read_voc(voc, "voc07test")}
    others = data.read_coco(
        coco / "annotations" / "instances_train2017.json",
        coco / "train2017",
        classes=data.VOC_CLASSES,
        renamed=data.COCO_TO_VOC,
    ).where(lambda example: bool(example.objects))
    random = np.random.default_rng(seed)
    parts = []
    for dataset, test in (
        (every, [example.key in apart for example in every]),
        (others, [place % 3 == 0 for place in range(len(others))]),
    ):
        fold = random.permutation(len(dataset)) % FOLDS
        parts.append(Part(dataset, np.where(test, -1, fold) if tests else fold))
    return parts[0], parts[1]


def features(weights: Path, part: Part, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pooled features (M, 1280) of the photographs to train with, mirrored too; labels; folds."""
    places = np.flatnonzero(part.fold >= 0)
    chosen = [part.dataset[place] for place in places]
    model = mobilenet_v2.MobileNetV2(None)
    run = jax.jit(functools.partial(model.apply, mobilenet_v2.load_npz(weights)))
    whole = models.get("mobilenet_v2").preprocessing.whole((side, side))
    found: list[list[np.ndarray]] = [[], []]
    for batch in Batches(chosen, whole, BATCH):
        for way, images in zip(found, (batch.images, batch.images[:, :, ::-1]), strict=True):
            way.append(np.asarray(run(images))[batch.valid])
    labels = [[name in example.categories() for name in data.VOC_CLASSES] for example in chosen]
    both = np.concatenate([np.concatenate(way) for way in found])
    return both, np.tile(np.array(labels, np.float32), (2, 1)), np.tile(part.fold[places], 2)


def heads(weights: Path, parts: Iterable[Part], side: int) -> list[dict[str, jax.Array]]:
    """One for each fold, which it has not seen, and one that has seen all."""
    made = [features(weights, part, side) for part in parts]
    seen, labels, fold = (np.concatenate(each) for each in zip(*made, strict=True))
    return [train_head(seen[fold != k], labels[fold != k]) for k in range(FOLDS + 1)]


def with_heads(part: Part) -> Dataset[Example]:
    """The data set for a network with the classes of all heads side by side.

    A photograph's categories are those of the head that has not seen it.
    """
    examples = []
    for example, fold in zip(part.dataset, part.fold % (FOLDS + 1), strict=True):
        objects = tuple(
            replace(item, category=f"{fold} {item.category}") for item in example.objects
        )
        examples.append(replace(example, objects=objects))
    classes = tuple(f"{k} {name}" for k in range(FOLDS + 1) for name in data.VOC_CLASSES)
    return Dataset(part.dataset.name, classes, tuple(examples), part.dataset.masks)


def candidates(
    layers: Sequence[str], variables: Any, side: int, plain: bool = False
) -> dict[str, Callable[..., jax.Array]]:
    """What is chosen from, by "method setting".

    plain: paint maps as plain tiles, and not each cell where it looked.
    """
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    model = mobilenet_v2.MobileNetV2((FOLDS + 1) * len(data.VOC_CLASSES))

    def gradient(variables: Any, x: jax.Array, classes: jax.Array, width: float) -> jax.Array:
        return maps.blur(methods.gradient(model.apply, variables, x, classes), width * x.shape[1])

    found: dict[str, Callable[..., jax.Array]] = {}
    for name in ("c-mwp", "mwp"):
        method = methods.get(name)
        for layer in layers:
            function = functools.partial(method.function, model.apply, layer=layer)
            grid = None if plain else method.grid(model.apply, variables, images, layer=layer)
            found[f"{method.title} {layer}"] = PlacedMaps(function, grid)
    for width in BLURS:
        found[f"gradient blur={width:g}"] = functools.partial(gradient, width=width)
    return found


def play(
    part: Part,
    variables: Any,
    functions: dict[str, Callable[..., jax.Array]],
    side: int,
    directory: Path,
    name: str,
    plain: bool = False,
) -> list[list[Outcome]]:
    """The outcomes of each photograph's pairs."""
    dataset = with_heads(part)
    game = pointing.PointingGame(dataset, functions)
    settings: dict[str, Any] = {"methods": list(functions), "side": side, "game": name}
    settings |= {"fold": part.fold.tolist(), "plain": plain}
    store = Store(
        directory / name,
        settings,
        count=len(dataset),
        shape=game.shape,
        dtype=game.dtype,
        batch=BATCH,
    )
    whole = models.get("mobilenet_v2").preprocessing.whole((side, side))
    with bar() as shown:
        shown.announce(name)
        runner.run(game, variables, dataset, whole, store, on_progress=shown.advance)
    found: list[list[Outcome]] = [[] for _ in dataset]
    for pair in pointing.outcomes(store.blocks()):
        category = dataset.classes[pair.category].split(" ", 1)[1]
        found[pair.place].append(Outcome(category, pair.difficult, np.array(pair.hits)))
    return found


def shares(outcomes: Sequence[Outcome]) -> tuple[np.ndarray, np.ndarray]:
    """Of hits: each method's plain share, and its mean over categories."""
    hits = np.array([outcome.hits for outcome in outcomes], float)
    names = np.array([outcome.category for outcome in outcomes])
    means = [hits[names == name].mean(axis=0) for name in sorted(set(names))]
    return hits.mean(axis=0), np.mean(means, axis=0)


def choose(names: Sequence[str], outcomes: Sequence[Outcome]) -> list[int]:
    """The best of each method's candidates, by the plain shares of all and difficult pairs."""
    hard = [outcome for outcome in outcomes if outcome.difficult]
    quality = shares(outcomes)[0] + shares(hard)[0]
    found = []
    for method in dict.fromkeys(name.split(" ")[0] for name in names):
        own = [i for i, name in enumerate(names) if name.split(" ")[0] == method]
        found.append(max(own, key=lambda i: quality[i]))
    return found


def table(title: str, names: Sequence[str], chosen: Sequence[int], outcomes: list[Outcome]) -> Any:
    """Prints rows of a table; returns them."""
    hard = [outcome for outcome in outcomes if outcome.difficult]
    print(f"\n{title}: {len(outcomes)} pairs, {len(hard)} difficult")
    print(f"{'':20} {'all':>15} {'over classes':>12} {'difficult':>15} {'over classes':>12}")
    rows = []
    for i in chosen:
        row: dict[str, Any] = {"method": names[i]}
        text = f"{names[i]:20}"
        for subset, pairs in (("all", outcomes), ("difficult", hard)):
            plain, mean = (float(each[i]) for each in shares(pairs))
            hits = round(plain * len(pairs))
            row[subset] = {"hits": hits, "pairs": len(pairs), "mean_over_classes": mean}
            text += f" {100 * plain:5.1f} ({hits:3}/{len(pairs):3}) {100 * mean:12.1f}"
        print(text, flush=True)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--voc", type=Path, required=True)
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--side", type=int, default=320, help="of the network's input (320)")
    parser.add_argument("--plain", action="store_true", help="maps are plain tiles")
    parser.add_argument("--layers", nargs="+", default=LAYERS, metavar="NAME")
    options = parser.parse_args()
    parts = read(options.voc, options.coco)
    trained = heads(options.weights, parts, options.side)
    body = mobilenet_v2.load_npz(options.weights)["params"]
    final = {"params": {**body, "logits": trained[-1]}}
    metadata = {"model": "mobilenet_v2", "num_classes": len(data.VOC_CLASSES)}
    options.out.mkdir(parents=True, exist_ok=True)
    weight_files.save(options.out / "head", final, metadata, overwrite=True)
    logits = jax.tree.map(lambda *each: jnp.concatenate(each, axis=-1), *trained)
    variables = {"params": {**body, "logits": logits}}
    functions = candidates(options.layers, variables, options.side, options.plain)
    names = [*functions, "centre"]
    played = [
        play(part, variables, functions, options.side, options.out, name, options.plain)
        for part, name in zip(parts, ("voc", "coco"), strict=True)
    ]
    held_out = [
        o
        for part, own in zip(parts, played, strict=True)
        for fold, some in zip(part.fold, own, strict=True)
        if fold >= 0
        for o in some
    ]
    print(f"penalty {PENALTY:g}, side {options.side}")
    results = {"choice": table("to choose with", names, range(len(names)), held_out)}
    chosen = choose(names, held_out)
    both = []
    for part, own, title in zip(parts, played, ("VOC07 test", "COCO split"), strict=True):
        tests = [o for fold, some in zip(part.fold, own, strict=True) if fold < 0 for o in some]
        results[title] = table(title, names, chosen, tests)
        both += tests
    results["both"] = table("both tests", names, chosen, both)
    results["everything"] = table("tests and training", names, chosen, both + held_out)
    (options.out / "figures.json").write_text(json.dumps(results, indent=1))
    assert all(math.isfinite(row["all"]["mean_over_classes"]) for row in results["both"])


if __name__ == "__main__":
    main()
