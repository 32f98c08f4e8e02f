"""The pointing game on VOC07 test images with MobileNetV2: which rules point right?

The game of Zhang et al. (IJCV18, Sec. 6.1): for every class in an image, the map's maximum is a
hit if it lies within 15 pixels of one of the class's boxes. Which pairs of image and class are
*difficult* is said by `data.is_difficult`. The network is MobileNetV2 as trained on ImageNet, with
a linear head for VOC's 20 classes that is trained here, on its pooled features of the other images.

    python -m benchmarks.rules.mobilenet_pointing --weights MOBILENET_V2.npz --voc VOC --coco COCO

VOC holds JPEGImages/, Annotations/ and ImageSets/Main/{all,voc07test}.txt; COCO holds
annotations/instances_train2017.json and train2017/.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image, ImageDraw

import excitation_jax as ej
from benchmarks.explain.compared import methods
from benchmarks.rules.residual_rules import RULES
from excitation_jax import maps
from excitation_jax.data import Example, is_difficult, read_voc
from excitation_jax.maps import pictures
from excitation_jax.models import mobilenet_v2
from excitation_jax.training import VOC_CLASSES, Record, precision_of
from excitation_jax.training.labelled import read_splits

LAYERS = ("block3", "block5", "block8", "block11", "auto", "block13")
TOLERANCE = 15  # pixels of the photograph
BATCH = 11
SIDE = 224  # of the square that photographs are warped to: what the network was trained with
PENALTY = 0.03  # on the head's kernel; the best in a cross-validation on the training images
SHOWN = (
    ("2007_000636", "train"),
    ("2007_000762", "bottle"),
    ("2007_000762", "person"),
    ("000003", "chair"),
)

Heats = dict[str, tuple[jax.Array, jax.Array]]
Method = Callable[[jax.Array, jax.Array], Heats]


class Photograph(NamedTuple):
    """A record, its (height, width), and by class boxes (n, 4): x0, y0, x1, y1 in pixels.

    difficult: the classes that make a difficult pair with it.
    """

    record: Record
    size: tuple[int, int]
    boxes: dict[int, np.ndarray]
    difficult: frozenset[int]


class Pairs(NamedTuple):
    """What is played with, a row for each class in an image: (P, side, side, 3), (P,), (P,)."""

    photographs: list[Photograph]
    images: np.ndarray
    classes: np.ndarray
    difficult: np.ndarray


def with_boxes(record: Record, example: Example) -> Photograph:
    """A record of VOC's with its boxes, those of objects that VOC flags as difficult included."""
    names = {VOC_CLASSES.index(name): name for name in example.categories()}
    boxes = {c: example.boxes(names[c]) for c in sorted(names)}
    difficult = frozenset(c for c, name in names.items() if is_difficult(example, name))
    return Photograph(record, example.size, boxes, difficult)


def warped(records: Iterable[Record], side: int) -> np.ndarray:
    """The network's input (M, side, side, 3)."""
    images = []
    for record in records:
        with Image.open(record.path) as image:
            images.append(mobilenet_v2.preprocess(image, (side, side)))
    return np.concatenate(images)


def make_pairs(photographs: list[Photograph], side: int) -> Pairs:
    """Every class of every photograph."""
    images = warped([photograph.record for photograph in photographs], side)
    places, classes, difficult = [], [], []
    for place, photograph in enumerate(photographs):
        for c in photograph.boxes:
            places.append(place)
            classes.append(c)
            difficult.append(c in photograph.difficult)
    shown = [photographs[place] for place in places]
    return Pairs(shown, images[places], np.array(classes), np.array(difficult))


def in_batches(function: Callable[..., Any], *arrays: np.ndarray) -> Any:
    """A compiled function of the arrays' rows, called for `BATCH` of them at a time."""
    count = len(arrays[0])
    rows = np.minimum(np.arange(-(-count // BATCH) * BATCH), count - 1).reshape(-1, BATCH)
    parts = [jax.device_get(function(*(array[i] for array in arrays))) for i in rows]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts)


@jax.jit
def train_head(features: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """A linear classifier {'kernel', 'bias'}: logistic loss of every class, penalty on the kernel.

    The loss is convex: nothing depends on where it starts.
    """

    def loss(head: dict[str, jax.Array]) -> jax.Array:
        scores = features @ head["kernel"] + head["bias"]
        entropies = optax.sigmoid_binary_cross_entropy(scores, labels).sum(axis=1)
        return entropies.mean() + PENALTY / 2 * jnp.square(head["kernel"]).sum()

    optimiser = optax.lbfgs()
    value_and_slope = optax.value_and_grad_from_state(loss)

    def step(state: Any, _: None) -> tuple[Any, None]:
        head, memory = state
        value, slope = value_and_slope(head, state=memory)
        context = {"value": value, "grad": slope, "value_fn": loss}
        update, memory = optimiser.update(slope, memory, head, **context)
        return (optax.apply_updates(head, update), memory), None

    width, count = features.shape[1], labels.shape[1]
    head = {"kernel": jnp.zeros((width, count)), "bias": jnp.zeros(count)}
    (head, _), _ = jax.lax.scan(step, (head, optimiser.init(head)), None, length=200)
    return head


def fine_tuned(weights: Path, training: Sequence[Record], side: int) -> dict[str, Any]:
    """Variables of MobileNetV2(20), the head trained on photographs and their mirror images."""
    variables = mobilenet_v2.load_npz(weights)
    features = jax.jit(functools.partial(mobilenet_v2.MobileNetV2(None).apply, variables))
    images = warped(training, side)
    seen = np.concatenate([in_batches(features, x) for x in (images, images[:, :, ::-1])])
    labels = np.array([record.labels for record in training])
    head = train_head(seen, np.tile(labels, (2, 1)))
    return {"params": {**variables["params"], "logits": head}}


def attention(
    variables: dict[str, Any], rules: ej.RuleSet, contrastive: bool, layers: tuple[str, ...]
) -> Method:
    """A function of images (N, H, W, 3) and classes (N,) to maps (N, H, W), sums (N,) by layer.

    The sums are those of the absolute values: at most 1 if an MWP consists of probabilities.
    """
    model = mobilenet_v2.MobileNetV2(len(VOC_CLASSES))

    def at_layers(x: jax.Array, classes: jax.Array) -> Heats:
        mwp = ej.excitation_vjp(
            model.apply, variables, x, classes, layer=layers, contrastive=contrastive, rules=rules
        ).mwp
        return {
            layer: (maps.resize(p.sum(axis=-1), x.shape[1:3]), jnp.abs(p).sum(axis=(1, 2, 3)))
            for layer, p in mwp.items()
        }

    return at_layers


def gradients(variables: dict[str, Any]) -> Method:
    """The same by name for the input gradient, as it is and blurred."""
    model = mobilenet_v2.MobileNetV2(len(VOC_CLASSES))
    slopes = methods(model.apply, variables, "auto")["gradient"]

    def at_input(x: jax.Array, classes: jax.Array) -> Heats:
        sharp = slopes(x, classes[:, None])[:, 0]
        # As wide as in published comparisons.
        blurred = maps.blur(sharp, 0.02 * x.shape[1])
        no_sum = jnp.full(len(x), jnp.nan)
        return {"gradient": (sharp, no_sum), "gradient, blurred": (blurred, no_sum)}

    return at_input


def distances(points: np.ndarray, pairs: Pairs) -> np.ndarray:
    """From points (P, 2), in pixels of the photographs, to the nearest box of the pair's class."""
    found = []
    for (y, x), photograph, c in zip(points, pairs.photographs, pairs.classes, strict=True):
        x0, y0, x1, y1 = photograph.boxes[c].T
        across, down = np.maximum(x0 - x, x - x1), np.maximum(y0 - y, y - y1)
        found.append(np.hypot(np.maximum(across, 0), np.maximum(down, 0)).min())
    return np.array(found)


def play(
    variables: dict[str, Any],
    pairs: Pairs,
    rules: Mapping[str, ej.RuleSet] = RULES,
    layers: tuple[str, ...] = LAYERS,
    draws: int = 3,
    gradient: bool = True,
    contrastive: tuple[bool, ...] = (False, True),
) -> Iterator[dict[str, Any]]:
    """One row after the other: the baselines, then MWP and c-MWP with every rule set and layer.

    "all" and "difficult" are shares of hits. Then `draws` times every value of every image
    changes at random by one grey level at most: "disturbed" is the share of hits among all pairs
    after that, "moved" that of maxima which move by more than the tolerance (NaN for both if
    `draws` is 0). "sum" is the median over pairs of the sum of the absolute values.
    """
    sizes = np.array([photograph.size for photograph in pairs.photographs])

    def near(points: np.ndarray) -> np.ndarray:
        return distances(points * sizes, pairs) <= TOLERANCE

    def row(
        names: tuple[str, str, str], points: np.ndarray, others: list[np.ndarray], sums: Any
    ) -> dict[str, Any]:
        moves = [np.linalg.norm((other - points) * sizes, axis=1) for other in others]
        return {
            **dict(zip(("method", "rules", "layer"), names, strict=True)),
            "all": float(near(points).mean()),
            "difficult": float(near(points)[pairs.difficult].mean()),
            "disturbed": float(np.mean([near(other) for other in others])) if others else np.nan,
            "moved": float((np.array(moves) > TOLERANCE).mean()) if others else np.nan,
            "sum": float(np.median(sums)),
        }

    def scored(method: Method, names: Iterable[str]) -> Iterator[tuple[Any, ...]]:
        @jax.jit
        def points(x: jax.Array, classes: jax.Array) -> Heats:
            return {
                name: ((jnp.stack(maps.point(heat), axis=-1) + 0.5) / x.shape[1], total)
                for name, (heat, total) in method(x, classes).items()
            }

        found = in_batches(points, pairs.images, pairs.classes)
        random = np.random.default_rng(0)
        again = []
        for _ in range(draws):
            noise = random.integers(-1, 2, pairs.images.shape).astype(np.float32) / 127.5
            again.append(in_batches(points, pairs.images + noise, pairs.classes))
        for name in names:
            yield name, found[name][0], [other[name][0] for other in again], found[name][1]

    middle = np.full((len(sizes), 2), 0.5)
    yield row(("centre", "", ""), middle, [middle], np.nan)
    if gradient:
        for name, *figures in scored(gradients(variables), ("gradient", "gradient, blurred")):
            yield row((name, "", "input"), *figures)
    for signed, rule_set in itertools.product(contrastive, rules):
        method = attention(variables, rules[rule_set], signed, layers)
        for layer, *figures in scored(method, layers):
            yield row(("c-MWP" if signed else "MWP", rule_set, layer), *figures)


def split(voc: Path, coco: Path) -> tuple[list[Record], list[Photograph]]:
    """The photographs to train with, and the VOC07 test images to play with."""
    training, tests = read_splits(voc, "all", "voc07test", coco)
    examples = read_voc(voc, "voc07test")
    return training, [with_boxes(record, examples.find(record.path.stem)) for record in tests]


def draw(variables: dict[str, Any], pairs: Pairs, path: Path) -> None:
    """A picture of the pairs in `SHOWN`: the class's boxes; maps at block 8, their maxima."""
    columns = {
        "MWP, default rules": (ej.EXCITATION, False),
        "MWP, TorchRay's rules": (ej.EXCITATION_TORCHRAY, False),
        "c-MWP, default rules": (ej.EXCITATION, True),
    }
    rows = []
    for name, class_name in SHOWN:
        named = [photograph.record.path.stem == name for photograph in pairs.photographs]
        (i,) = np.flatnonzero(named & (pairs.classes == VOC_CLASSES.index(class_name)))
        one = Pairs(pairs.photographs[i : i + 1], *(field[[i]] for field in pairs[1:]))
        with Image.open(one.photographs[0].record.path) as opened:
            height, width = pictures.fitted_size(opened, 260)
            photograph = opened.convert("RGB").resize((width, height))
        scale = np.array([height, width]) / one.photographs[0].size
        marked = photograph.copy()
        for box in one.photographs[0].boxes[one.classes[0]]:
            ImageDraw.Draw(marked).rectangle(
                tuple(box * np.tile(scale[::-1], 2)), None, "#fcffa4", 3
            )
        row = [pictures.Panel(np.asarray(marked), class_name, "and its boxes")]
        for title, (rules, contrastive) in columns.items():
            at_layers = attention(variables, rules, contrastive, ("block8",))
            heat, _ = at_layers(one.images, one.classes)["block8"]
            place = (np.stack(maps.point(heat), axis=-1) + 0.5) / heat.shape[1:]
            hit = distances(place * one.photographs[0].size, one)[0] <= TOLERANCE
            fitted = maps.resize(heat, (height, width))[0]
            painted = maps.overlay(pictures.greyed(np.asarray(photograph)), fitted)
            sheet = Image.fromarray(painted)
            ImageDraw.Draw(sheet).circle((place[0] * (height, width))[::-1], 8, None, "#7ad151", 3)
            row.append(pictures.Panel(np.asarray(sheet), title, "a hit" if hit else "missed"))
        rows.append(row)
    footnote = (
        "Photographs of the VOC07 test set. The circle is the map's maximum; it hits within 15 "
        "pixels of one of the class's boxes."
    )
    pictures.write(pictures.figure(rows, "MobileNetV2, maps at block 8", footnote), path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--voc", type=Path, required=True)
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--side", type=int, default=SIDE, help=f"of the network's input ({SIDE})")
    parser.add_argument("--layers", nargs="+", default=LAYERS, metavar="NAME")
    parser.add_argument("--draws", type=int, default=3, help="disturbed copies of the images (3)")
    parser.add_argument("--picture", type=Path, help="draw some maps into this file instead")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if options.picture:
        pictures.check_writable(options.picture)
    training, tests = split(options.voc, options.coco)
    variables = fine_tuned(options.weights, training, options.side)
    pairs = make_pairs(tests, options.side)
    if options.picture:
        draw(variables, pairs, options.picture)
        return
    classify = jax.jit(
        functools.partial(mobilenet_v2.MobileNetV2(len(VOC_CLASSES)).apply, variables)
    )
    records = [photograph.record for photograph in tests]
    precision = precision_of(records, in_batches(classify, warped(records, options.side)))
    print(
        f"{len(training)} images to train the head, {len(tests)} to play with at {options.side}: "
        f"mAP {precision:.3f}, {len(pairs.classes)} pairs, {pairs.difficult.sum()} difficult"
    )
    print(
        f"{'method':17} {'rules':19} {'layer':7} {'all':>6} {'diff.':>6} {'disturbed':>9} "
        f"{'moved':>6} {'sum':>8}"
    )
    rows = []
    for row in play(variables, pairs, layers=tuple(options.layers), draws=options.draws):
        rows.append(row)
        print(
            f"{row['method']:17} {row['rules']:19} {row['layer']:7} {row['all']:6.1%} "
            f"{row['difficult']:6.1%} {row['disturbed']:9.1%} {row['moved']:6.1%} "
            f"{row['sum']:8.2g}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
