"""What the commands do.

Each takes the parsed arguments and `announce`, which it tells what it is about to do, and
returns the text to print. `cli` imports this module once it knows that a command will run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from .. import digits, maps, methods, models
from ..explain.calls import attention_map, what_is_lost
from ..explain.calls import layers as list_layers
from .networks import ALIASES, check_name, digits_network, names, network
from .photo_question import COLUMNS, SCALE_NOTE, Announce, ask, timed

_DEMO_SIDE = 288  # pixels of a panel's side


def run(arguments: argparse.Namespace, announce: Announce) -> str:
    """What the command that `arguments` names has to say, once the names among them are known.

    Raises ValueError for an unknown network or method, before anything is read, and what the
    command raises.
    """
    if "model" in arguments:
        check_name(arguments.model)
    for method in arguments.methods.split(",") if "methods" in arguments else ():
        if method.strip():
            methods.get(method.partition("@")[0].strip())
    return _COMMANDS[arguments.command](arguments, announce)


def demo(arguments: argparse.Namespace, announce: Announce) -> str:
    """Writes the picture of the digits model on one scene.

    arguments: out (Path), seed (int).

    Raises ValueError or OSError for a bad seed or destination, ImportError for a missing extra.
    """
    from ..maps import pictures

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
            attention_map(
                shown.apply, variables, scene, targets, contrastive=contrastive, size=size
            )[0]
            for contrastive in (False, True)
        ]

    (logits, attention), timings = timed(
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
    pictures.write(pictures.figure(rows, headline, SCALE_NOTE), arguments.out)
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
    None), target (str), whole, plain and contrastive (bool).

    Raises ValueError or OSError for anything wrong with them, ImportError for a missing extra.
    """
    from ..maps import pictures

    asked = ask(arguments, announce, "excitation")
    network, layer = asked.network, arguments.layer or asked.network.layer

    def explain_targets(variables: Any, images: jax.Array) -> Any:
        logits, targets = asked.targets(variables, images)
        attention = attention_map(
            network.apply,
            variables,
            images,
            targets,
            layer=layer,
            contrastive=arguments.contrastive,
            size=asked.size,
            aligned=not arguments.plain,
            x_bounds=network.bounds,
        )
        # Of an MWP, also beside a c-MWP, whose two parts cancel.
        mwp = attention_map(
            network.apply,
            variables,
            images,
            targets,
            layer=layer,
            contrastive=False,
            x_bounds=network.bounds,
        )
        return logits, targets[0], attention[0], mwp.sum() / targets.size

    (logits, targets, attention, reached), timings = timed(
        explain_targets, network.variables, asked.images, announce
    )
    announce("drawing")
    scores = np.asarray(network.scores(logits))[0]
    kind = "c-MWP" if arguments.contrastive else "MWP"
    panels = [asked.photograph]
    for target, one in zip(np.asarray(targets), attention, strict=True):
        panels.append(asked.panel(one, asked.name(target), f"{kind}, score {scores[target]:.3f}"))
    rows = [panels[start : start + COLUMNS] for start in range(0, len(panels), COLUMNS)]
    headline = f"Where does {arguments.model} look?"
    pictures.write(pictures.figure(rows, headline, SCALE_NOTE), asked.out)
    lost = what_is_lost(float(reached), layer)
    wrote = f"wrote {asked.out.resolve()}"
    return "\n".join([*asked.ranking(scores, targets), timings, *([lost] if lost else []), wrote])


def compare(arguments: argparse.Namespace, announce: Announce) -> str:
    """Writes the picture of a photograph with the maps of several methods side by side.

    arguments: those of `explain`, less contrastive, and methods (str, names between commas).

    Raises as `explain`, and ValueError for a method without a meaning for the network.
    """
    from . import comparison

    return comparison.compare(arguments, announce)


def evaluate(arguments: argparse.Namespace, announce: Announce) -> str:
    """Plays an experiment on a data set, or what is left of it; returns its table.

    arguments: experiment (str) and those of `evaluation_options`.

    Raises ValueError or OSError for anything wrong with them, ImportError for a missing extra.
    """
    from . import evaluation, text_evaluation

    experiments = {
        "pointing": evaluation.pointing_game,
        "boxes": evaluation.box_localisation,
        "text": text_evaluation.text_to_region,
    }
    return experiments[arguments.experiment](arguments)


def train(arguments: argparse.Namespace, announce: Announce) -> str:
    """Fine-tunes a network for another data set's classes; returns what was measured.

    arguments: those of `train_options`.

    Raises ValueError or OSError for anything wrong with them, ImportError for a missing extra.
    """
    from . import train as training

    return training.train(arguments)


def layers(arguments: argparse.Namespace, announce: Announce) -> str:
    """The table of a model's layers.

    arguments: model (str), weights (str or None).

    Raises ValueError or OSError for a bad weight file.
    """
    announce(f"loading {arguments.model}")
    asked = network(arguments.model, arguments.weights, untrained=True)
    announce("tracing")
    return str(list_layers(asked.apply, asked.variables, asked.example))


def list_models(arguments: argparse.Namespace, announce: Announce) -> str:
    """The table of the networks."""
    rows = [("name", "input", "classes", "weights of")]
    for name in names():
        if name == "digits":
            rows.append((name, "96", "10", "its own, in the package"))
            continue
        spec = models.get(ALIASES.get(name, name))
        height, width = spec.input_size
        side = str(height) if height == width else f"{height}x{width}"
        own = ["its own .npz"] if spec.load_npz else []
        sources = ", ".join([*spec.sources, *own]) or "a checkpoint"
        same = f" (the same as {spec.name})" if name in ALIASES else ""
        rows.append((name, side, str(spec.num_classes), f"{sources}{same}"))
    return _table(rows)


def list_methods(arguments: argparse.Namespace, announce: Announce) -> str:
    """The table of the methods."""
    every = map(methods.get, methods.names())
    return _table([("name", "title", "of"), *((m.name, m.title, m.source) for m in every)])


def import_weights(arguments: argparse.Namespace, announce: Announce) -> str:
    """Writes the weights of a registered network as an Orbax checkpoint.

    arguments: weights (str), model (str), out (Path), num_classes (int or None), overwrite (bool).

    Raises ValueError, OSError or ImportError for anything wrong with them.
    """
    from ..models import weight_files

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


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """Lines with columns of one width each."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


#: By the name that the parser gives them.
_COMMANDS: dict[str, Callable[[argparse.Namespace, Announce], str]] = {
    "demo": demo,
    "explain": explain,
    "compare": compare,
    "evaluate": evaluate,
    "train": train,
    "layers": layers,
    "list_models": list_models,
    "list_methods": list_methods,
    "import-weights": import_weights,
}


def _enlarged(image: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.uint8]:
    """An image (H, W, 3) in [0, 1] as uint8 (*size, 3), resized as the maps are."""
    channels = maps.resize(jnp.moveaxis(jnp.asarray(image), -1, 0), size)
    pixels = np.clip(np.moveaxis(np.asarray(channels), 0, -1), 0, 1)
    return np.rint(pixels * 255).astype(np.uint8)
