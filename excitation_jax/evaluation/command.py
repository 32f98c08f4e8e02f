"""The command `eval`: an experiment of the papers on a data set."""

from __future__ import annotations

import argparse
import functools
import hashlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import excitation_jax as ej

from .. import data, digits, methods, models
from ..data.records import Dataset, Example
from ..models.preprocessing import Preprocessing
from ..networks import ALIASES
from ..training.checkpoints import digest
from . import pointing, runner, tables
from .points import MapFunction
from .progress import bar
from .store import Store, write_whole

_DIGITS = 200  # scenes, unless the user says otherwise
_DIGITS_INPUT = Preprocessing((0.0,) * 3, (255.0,) * 3, resize=96, crop=None, warp=True)


class _Model(NamedTuple):
    """A network; layers: where MWP and c-MWP are read unless the user says otherwise."""

    name: str
    apply: Callable[[Any, Any], Any]
    variables: Any
    preprocessing: Preprocessing
    layers: dict[str, str]


def pointing_game(arguments: argparse.Namespace) -> str:
    """Plays the pointing game, or what is left of it, and writes its table.

    arguments: those of `cli_evaluation`.

    Returns the table, or a line on what other processes have still to do.

    Raises ValueError or OSError for anything wrong with the arguments or the files, ImportError for
    a missing extra.
    """
    _join(arguments)
    rules = pointing.TORCHRAY if arguments.rules == "torchray" else pointing.PAPER
    rules = replace(rules, tolerance=arguments.tolerance)
    if arguments.batch < 1 or arguments.threads < 1:
        raise ValueError("--batch and --threads must be positive")
    if not arguments.blur >= 0:
        raise ValueError(f"--blur must not be negative, got {arguments.blur}")
    with bar() as shown:
        shown.announce("reading the annotations")
        dataset = _dataset(arguments)
        difficult, difficult_name = _difficult(arguments, dataset)
        dataset = dataset.where(lambda e: bool(pointing.played(e, dataset.classes, rules)))
        if not len(dataset):
            raise ValueError(f"{dataset.name} has no photograph with a category to point at")
        shown.announce(f"loading {arguments.model}")
        model = _model(arguments, dataset)
        shown.announce("tracing the methods")
        functions, titles = _methods(arguments, model)
        game = pointing.PointingGame(dataset, functions, rules, difficult, arguments.blur)
        settings = {
            "experiment": "pointing game",
            "version": ej.__version__,
            "data": f"{dataset.name}, {len(dataset)} images, {_digest(dataset)}",
            "model": f"{model.name}, {digest(model.variables)}",
            "input": repr(model.preprocessing),
            "methods": list(functions),
            "rules": asdict(rules),
            "difficult": difficult_name,
            "blur": arguments.blur,
        }
        store = Store(
            arguments.out, settings, count=len(dataset), shape=game.shape, dtype="uint8",
            batch=arguments.batch,
        )  # fmt: skip
        shown.announce("compiling")
        complete = runner.run(
            game, model.variables, dataset, model.preprocessing, store,
            threads=arguments.threads, on_progress=shown.advance,
        )  # fmt: skip
    if not complete:
        return f"done; other processes are at work on the rest in {arguments.out.resolve()}"
    on_voc07 = arguments.data == "voc" and dataset.name == "VOC2007 test" and not arguments.limit
    table = tables.PointingTable(
        dataset.name, dataset.classes, {**titles, tables.CENTRE: "centre"},
        pointing.count(store.blocks()), len(dataset), rules,
        {k: v for k, v in tables.VGG16_VOC07.items() if on_voc07 and k in titles} or None,
        "VGG16",
    )  # fmt: skip
    write_whole(arguments.out / "pointing.txt", f"{table}\n")
    write_whole(arguments.out / "pointing.json", table.json())
    return f"{table}\n\nwrote {(arguments.out / 'pointing.json').resolve()}"


def _join(arguments: argparse.Namespace) -> None:
    """Starts `jax.distributed` where it is asked for, before JAX looks for devices."""
    given = (arguments.coordinator, arguments.processes, arguments.process)
    if any(value is not None for value in given):
        if any(value is None for value in given):
            raise ValueError("--coordinator, --processes and --process belong together")
        if not 0 <= arguments.process < arguments.processes:
            raise ValueError(
                f"--process must be 0 to {arguments.processes - 1}, got {arguments.process}"
            )
        jax.distributed.initialize(*given)
    elif arguments.distributed:
        jax.distributed.initialize()


def _dataset(arguments: argparse.Namespace) -> Dataset[Example]:
    if arguments.limit is not None and arguments.limit < 1:
        raise ValueError(f"--limit must be positive, got {arguments.limit}")
    if arguments.data == "digits":
        if arguments.folder:
            raise ValueError("--data digits is made in memory: leave --folder out")
        from ..data.scenes import digit_scenes

        if arguments.split:
            raise ValueError("--data digits has one split: leave --split out")
        return digit_scenes(arguments.limit or _DIGITS)
    if not arguments.folder or not arguments.split:
        raise ValueError(f"--data {arguments.data} needs --folder DIR and --split NAME")
    if arguments.data == "voc":
        dataset = data.read_voc(arguments.folder, arguments.split)
    else:
        of_voc = arguments.classes == "voc"
        dataset = data.read_coco(
            arguments.folder / "annotations" / f"instances_{arguments.split}.json",
            arguments.folder / arguments.split,
            classes=data.VOC_CLASSES if of_voc else None,
            renamed=data.COCO_TO_VOC if of_voc else None,
        )
    return dataset[: arguments.limit]


def _difficult(
    arguments: argparse.Namespace, dataset: Dataset[Example]
) -> tuple[pointing.Difficult, str]:
    """What tells which pairs are difficult, and its name in the settings."""
    path: Path | None = arguments.difficult
    if path is None:
        return data.is_difficult, "by the papers' rule"
    found = data.DifficultList.read(path, dataset.classes)
    for example in dataset:
        found(example, "")  # which says now, and not in the middle, what the list does not have
    return found, hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _model(arguments: argparse.Namespace, dataset: Dataset[Example]) -> _Model:
    """The network, whose outputs are the data set's classes."""
    name, classes = ALIASES.get(arguments.model, arguments.model), len(dataset.classes)
    network: Any
    layers: dict[str, str] = {}
    if name == "digits":
        if arguments.weights or arguments.head:
            raise ValueError("--model digits brings its own weights: leave --weights out")
        network, variables = digits.load()
        preprocessing = _DIGITS_INPUT
    else:
        if not arguments.weights:
            raise ValueError(f"--model {arguments.model} needs --weights FILE")
        spec = models.get(name)
        if arguments.head:
            from .. import training

            network = spec.build(classes)
            own = models.load(name, arguments.weights)[1]
            variables = training.load_fine_tuned(
                training.new_output_layer(network, own, min(spec.input_size)), arguments.head
            )
        else:
            network, variables = models.load(name, arguments.weights)
        preprocessing = spec.preprocessing
        layers = {"mwp": spec.mwp_layer, "c-mwp": spec.cmwp_layer}
    if arguments.view == "whole":
        preprocessing = preprocessing.whole()
    example = jax.ShapeDtypeStruct((1, *preprocessing.size, 3), jnp.float32)
    outputs = jax.eval_shape(network.apply, variables, example)
    if outputs.shape[-1] != classes:
        raise ValueError(
            f"{arguments.model} with these weights has {outputs.shape[-1]} outputs, "
            f"{dataset.name} has {classes} classes: give the weights of a network that was "
            "fine-tuned for them, or --head with the directory that "
            "`python -m excitation_jax.training` wrote"
        )
    return _Model(name, network.apply, variables, preprocessing, layers)


def _methods(
    arguments: argparse.Namespace, model: _Model
) -> tuple[dict[str, MapFunction], dict[str, str]]:
    """Functions and titles by "name" or "name@layer"; each has been traced once.

    Raises:
        ValueError: no method or an unknown one is named, or one has no meaning for the network.
    """
    functions: dict[str, MapFunction] = {}
    titles: dict[str, str] = {}
    image = jax.ShapeDtypeStruct((1, *model.preprocessing.size, 3), jnp.float32)
    classes = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    for given in filter(None, map(str.strip, arguments.methods.split(","))):
        name, _, layer = given.partition("@")
        method = methods.get(name)
        if layer and not method.per_layer:
            raise ValueError(f"{method.name} is not read at a layer: leave @{layer} out")
        layer = layer or model.layers.get(method.name, "")
        function = functools.partial(_maps, method, model.apply, {"layer": layer} if layer else {})
        try:
            jax.eval_shape(function, model.variables, image, classes)
        except ValueError as error:
            raise ValueError(f"{given} on {arguments.model}: {error}") from error
        key = f"{method.name}@{layer}" if "@" in given else method.name
        functions[key] = function
        titles[key] = f"{method.title} at {layer}" if "@" in given else method.title
    if not functions:
        raise ValueError(f"--methods names none: {', '.join(methods.names())}")
    return functions, titles


def _maps(
    method: methods.Method, apply: Callable[[Any, Any], Any], options: dict[str, Any],
    variables: Any, images: jax.Array, classes: jax.Array,
) -> jax.Array:  # fmt: skip
    return method.function(apply, variables, images, classes, **options)


def _digest(dataset: Dataset[Example]) -> str:
    """A short name for the annotations, wherever the photographs are."""
    found = hashlib.sha256(repr(dataset.classes).encode())
    for example in dataset:
        found.update(repr((example.key, example.size, example.objects)).encode())
    return found.hexdigest()[:16]
