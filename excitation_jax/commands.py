"""What the commands do: demo, explain, layers and import-weights.

Each takes the parsed arguments and `announce`, which it tells what it is about to do, and
returns the text to print. `cli` imports this module once it knows that a command will run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import excitation_jax as ej

from . import digits, maps
from .class_names import parse_target, read_class_names
from .networks import ALIASES, digits_network, network

if TYPE_CHECKING:
    pass

_DEMO_SIDE, _PHOTO_SIDE = 288, 384  # pixels of a panel's longer side
_COLUMNS = 4
_SCALE_NOTE = "Each map is scaled to its own maximum: grey is no attention, yellow the most."

Announce = Callable[[str], None]


def demo(arguments: argparse.Namespace, announce: Announce) -> str:
    """Writes the picture of the digits model on one scene.

    arguments: out (Path), seed (int).

    Raises ValueError or OSError for a bad seed or destination, ImportError for a missing extra.
    """
    from . import pictures

    pictures.check_writable(arguments.out)
    if arguments.seed < 0:
        raise ValueError(f"--seed must not be negative, got {arguments.seed}")
    announce("loading the digits model")
    shown = digits_network()
    scenes = digits.make_scenes(arguments.seed, 1, "test")
    present = np.flatnonzero(scenes.labels[0])
    size = (_DEMO_SIDE, _DEMO_SIDE)

    def explain_both_ways(variables: Any, scene: jax.Array) -> Any:
        targets = jnp.asarray(present[None])
        return shown.apply(variables, scene), [
            ej.attention_map(
                shown.apply, variables, scene, targets, contrastive=contrastive, size=size
            )[0]
            for contrastive in (False, True)
        ]

    (logits, attention), timings = _timed(
        explain_both_ways, shown.variables, jnp.asarray(scenes.images), announce
    )
    announce("drawing")
    scores = np.asarray(shown.scores(logits))[0]
    scene = _enlarged(scenes.images[0], size)
    bars = pictures.bars(scores, [str(digit) for digit in range(len(scores))], size)
    rows = [
        [pictures.Panel(scene, f"scene {arguments.seed}", "what the model was shown")],
        [pictures.Panel(bars, "scores", "what the model says is there")],
    ]
    for row, kind, every in zip(rows, ("MWP", "c-MWP"), attention, strict=True):
        for digit, one in zip(present, every, strict=True):
            painted = maps.overlay(pictures.greyed(scene), one)
            row.append(pictures.Panel(painted, f"{digit}: {kind}", f"score {scores[digit]:.3f}"))
    headline = "Where does the model see each digit?"
    pictures.write(pictures.figure(rows, headline, _SCALE_NOTE), arguments.out)
    return "\n".join(
        [
            *(f"digit {digit}: score {scores[digit]:.3f}" for digit in present),
            timings,
            f"wrote {arguments.out.resolve()}",
        ]
    )


def explain(arguments: argparse.Namespace, announce: Announce) -> str:
    """Writes the picture of a photograph with the maps of the classes asked for.

    arguments: photo (Path), model (str), weights and layer (str or None), classes and out (Path or
    None), target (str), whole and contrastive (bool).

    Raises ValueError or OSError for anything wrong with them, ImportError for a missing extra.
    """
    from . import pictures

    out = arguments.out or Path(f"{arguments.photo.stem}_excitation.png")
    pictures.check_writable(out)
    photo = pictures.read_photograph(arguments.photo)
    if out.exists() and out.samefile(arguments.photo):
        raise ValueError(f"{out} is the photograph itself: give another --out")
    names = read_class_names(arguments.classes) if arguments.classes else None

    announce(f"loading {arguments.model}")
    asked = network(arguments.model, arguments.weights, whole=arguments.whole)
    images = asked.prepare(photo)
    count = jax.eval_shape(asked.apply, asked.variables, images).shape[-1]
    if names and len(names) != count:
        raise ValueError(
            f"{arguments.classes} names {len(names)} classes, {arguments.model} has {count}"
        )
    top, index = parse_target(arguments.target, names, count)
    view = asked.view(photo)
    layer = arguments.layer or asked.layer
    size = pictures.fitted_size(view, _PHOTO_SIDE)

    def explain_targets(variables: Any, images: jax.Array) -> Any:
        logits = asked.logits(asked.apply(variables, images))
        targets = jax.lax.top_k(logits, top)[1] if top else jnp.array([[index]])
        attention = ej.attention_map(
            asked.apply,
            variables,
            images,
            targets,
            layer=layer,
            contrastive=arguments.contrastive,
            size=size,
        )
        return logits, targets[0], attention[0]

    (logits, targets, attention), timings = _timed(
        explain_targets, asked.variables, images, announce
    )
    announce("drawing")
    scores = np.asarray(asked.scores(logits))[0]
    base = np.asarray(view.resize(size[::-1]))
    kind = "c-MWP" if arguments.contrastive else "MWP"
    panels = [pictures.Panel(base, "photograph", arguments.photo.name)]
    for target, one in zip(np.asarray(targets), attention, strict=True):
        title = names[target].name if names else f"class {target}"
        detail = f"{kind}, score {scores[target]:.3f}"
        painted = maps.overlay(pictures.greyed(base), one)
        panels.append(pictures.Panel(painted, title, detail))
    rows = [panels[start : start + _COLUMNS] for start in range(0, len(panels), _COLUMNS)]
    headline = f"Where does {arguments.model} look?"
    pictures.write(pictures.figure(rows, headline, _SCALE_NOTE), out)

    explained = {int(target) for target in targets}
    ranking = [int(i) for i in np.argsort(-scores)]
    lines = ["  index   score  class  (* = explained)"]
    for i in sorted({*ranking[:5], *explained}, key=ranking.index):
        mark = "*" if i in explained else " "
        lines.append(f"{mark} {i:5d}  {scores[i]:6.4f}  {names[i].name if names else i}")
    return "\n".join([*lines, timings, f"wrote {out.resolve()}"])


def layers(arguments: argparse.Namespace, announce: Announce) -> str:
    """The table of a model's layers.

    arguments: model (str), weights (str or None).

    Raises ValueError or OSError for a bad weight file.
    """
    announce(f"loading {arguments.model}")
    asked = network(arguments.model, arguments.weights, untrained=True)
    announce("tracing")
    return str(ej.layers(asked.apply, asked.variables, asked.example))


def import_weights(arguments: argparse.Namespace, announce: Announce) -> str:
    """Writes the weights of a registered network as an Orbax checkpoint.

    arguments: weights (str), model (str), out (Path), num_classes (int or None), overwrite (bool).

    Raises ValueError, OSError or ImportError for anything wrong with them.
    """
    from . import models, weight_files

    weight_files.check_free(arguments.out, overwrite=arguments.overwrite)
    name = ALIASES.get(arguments.model, arguments.model)
    announce(f"reading {arguments.weights}")
    classes: int | Literal["own"] = arguments.num_classes or "own"
    _, variables = models.load(name, arguments.weights, num_classes=classes)
    count = arguments.num_classes or models.get(name).num_classes
    announce(f"writing {arguments.out}")
    metadata = {"model": name, "num_classes": count, "imported_from": Path(arguments.weights).name}
    weight_files.save(arguments.out, variables, metadata, overwrite=arguments.overwrite)
    leaves = jax.tree.leaves(variables)
    size = sum(leaf.size for leaf in leaves)
    return f"{name}: {len(leaves)} arrays, {size} numbers\nwrote {arguments.out.resolve()}"


def _timed(
    function: Callable[[Any, Any], Any], variables: Any, images: jax.Array, announce: Announce
) -> tuple[Any, str]:
    """function(variables, images) under jit, and a line on how long compiling and running took."""
    announce("compiling")
    start = time.perf_counter()
    compiled = jax.jit(function).lower(variables, images).compile()
    middle = time.perf_counter()
    announce("explaining")
    result = jax.block_until_ready(compiled(variables, images))
    end = time.perf_counter()
    return result, f"compiled in {middle - start:.2f} s (once), explained in {end - middle:.3f} s"


def _enlarged(image: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.uint8]:
    """An image (H, W, 3) in [0, 1] as uint8 (*size, 3), resized as the maps are."""
    channels = maps.resize(jnp.moveaxis(jnp.asarray(image), -1, 0), size)
    pixels = np.clip(np.moveaxis(np.asarray(channels), 0, -1), 0, 1)
    return np.rint(pixels * 255).astype(np.uint8)
