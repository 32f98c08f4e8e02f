"""What the commands do: demo, explain and layers.

Each takes the parsed arguments and `announce`, which it tells what it is about to do, and
returns the text to print. `cli` imports this module once it knows that a command will run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import excitation_jax as ej

from . import digits, maps
from .class_names import parse_target, read_class_names
from .models import squeezenet

if TYPE_CHECKING:
    from PIL.Image import Image

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
    network = _digits()
    scenes = digits.make_scenes(arguments.seed, 1, "test")
    present = np.flatnonzero(scenes.labels[0])
    size = (_DEMO_SIDE, _DEMO_SIDE)

    def explain_both_ways(variables: Any, scene: jax.Array) -> Any:
        targets = jnp.asarray(present[None])
        return network.apply(variables, scene), [
            ej.attention_map(
                network.apply, variables, scene, targets, contrastive=contrastive, size=size
            )[0]
            for contrastive in (False, True)
        ]

    (logits, attention), timings = _timed(
        explain_both_ways, network.variables, jnp.asarray(scenes.images), announce
    )
    announce("drawing")
    scores = np.asarray(network.scores(logits))[0]
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

    arguments: photo (Path), model (str), weights, classes and out (Path or None), target and
    layer (str), contrastive (bool).

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
    network = _network(arguments.model, arguments.weights)
    images = network.prepare(photo)
    count = jax.eval_shape(network.apply, network.variables, images).shape[-1]
    if names and len(names) != count:
        raise ValueError(
            f"{arguments.classes} names {len(names)} classes, {arguments.model} has {count}"
        )
    top, index = parse_target(arguments.target, names, count)
    view = network.view(photo)
    size = pictures.fitted_size(view, _PHOTO_SIDE)

    def explain_targets(variables: Any, images: jax.Array) -> Any:
        logits = network.apply(variables, images)
        targets = jax.lax.top_k(logits, top)[1] if top else jnp.array([[index]])
        attention = ej.attention_map(
            network.apply,
            variables,
            images,
            targets,
            layer=arguments.layer,
            contrastive=arguments.contrastive,
            size=size,
        )
        return logits, targets[0], attention[0]

    (logits, targets, attention), timings = _timed(
        explain_targets, network.variables, images, announce
    )
    announce("drawing")
    scores = np.asarray(network.scores(logits))[0]
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

    arguments: model (str), weights (Path or None).

    Raises ValueError or OSError for a bad weight file.
    """
    announce(f"loading {arguments.model}")
    network = _network(arguments.model, arguments.weights, untrained=True)
    announce("tracing")
    return str(ej.layers(network.apply, network.variables, network.example))


@dataclass(frozen=True)
class _Network:
    """A model as the commands see it.

    apply: (variables, images (N, H, W, 3)) -> logits (N, C).
    example: one input of zeros, (1, H, W, 3).
    prepare: a photograph -> its input (1, H, W, 3).
    view: a photograph -> the part of it that the input shows.
    scores: logits (N, C) -> scores in [0, 1].
    """

    apply: Callable[[Any, Any], Any]
    variables: Any
    example: jax.Array
    prepare: Callable[[Image], jax.Array]
    view: Callable[[Image], Image]
    scores: Callable[[Any], Any]


def _network(name: str, weights: Path | None, untrained: bool = False) -> _Network:
    """The network of that name; its variables are shapes only where `untrained` is allowed."""
    if name == "digits":
        if weights:
            raise ValueError("--model digits brings its own weights: leave --weights out")
        return _digits()
    if not weights and not untrained:
        raise ValueError(f"--model {name} needs --weights FILE")
    return _squeezenet(weights)


def _digits() -> _Network:
    def prepare(photo: Image) -> jax.Array:
        return jnp.asarray(np.asarray(photo.resize((96, 96)), np.float32)[None] / 255)

    model, variables = digits.load()
    example = jnp.zeros((1, 96, 96, 3))
    return _Network(model.apply, variables, example, prepare, lambda photo: photo, jax.nn.sigmoid)


def _squeezenet(weights: Path | None) -> _Network:
    def view(photo: Image) -> Image:
        # preprocess warps to 256 x 256 and keeps the pixels 14 to 240 of both axes.
        near, far = 14 / 256, 241 / 256
        width, height = photo.size
        left, top = round(width * near), round(height * near)
        right, bottom = round(width * far), round(height * far)
        return photo.crop((left, top, max(right, left + 1), max(bottom, top + 1)))

    model = squeezenet.SqueezeNet()
    example = jnp.zeros((1, 227, 227, 3))
    if weights:
        variables: Any = squeezenet.load_npz(weights)
    else:
        variables = jax.eval_shape(model.init, jax.random.key(0), example)
    return _Network(model.apply, variables, example, squeezenet.preprocess, view, jax.nn.softmax)


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
