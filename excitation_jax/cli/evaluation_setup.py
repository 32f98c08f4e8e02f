"""What every experiment is set up from: a data set, a network and methods, by their arguments."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import flax
import jax
import jax.numpy as jnp

from .. import data, digits, methods, models
from ..data.files import read_classes
from ..data.own_shape import AnyShape, OwnShape, fitted
from ..data.records import Dataset, Example
from ..evaluation.points import MapFunction, PlacedMaps
from ..maps import Grid
from ..models.preprocessing import Preprocessing
from . import rule_sets
from .networks import ALIASES

_DIGITS = 200  # scenes, unless the user says otherwise
_LARGEST = 4096  # side of an input, in pixels
_PAPERS_SIDE = {"pointing": 224, "text": 300}  # the shorter one, in pixels: IJCV18, 6.1.1 and 6.3.1
_DIGITS_INPUT = Preprocessing((0.0,) * 3, (255.0,) * 3, resize=96, crop=None, warp=True)

#: The name of the input among layers, at which methods of pixels are read.
INPUT = "input"

D = TypeVar("D", bound=Example)


class Model(NamedTuple):
    """A network; layers: where MWP and c-MWP are read unless the user says otherwise."""

    name: str
    apply: Callable[[Any, Any], Any]
    variables: Any
    preprocessing: AnyShape
    layers: dict[str, str]


class Maps(NamedTuple):
    """Methods by "name", "name@layer", "name:rules" or "name:rules@layer".

    functions: that make maps. titles: what to call them. layers: where they are read; empty where
    that is not said. rules_sets: of Excitation Backprop.
    """

    functions: dict[str, MapFunction]
    titles: dict[str, str]
    layers: dict[str, str]
    rules_sets: list[str]

    def content(self, arguments: argparse.Namespace) -> dict[str, Any]:
        """All that the maps depend on, the network and its input apart, of what JSON can hold.

        arguments: blur and plain of `evaluation_options`.
        """
        # By layer, too: where a method is read by default may change while its name does not.
        return {
            "layers": self.layers,
            "rules_sets": self.rules_sets,
            "blur": arguments.blur,
            "plain": arguments.plain,
        }


def join(arguments: argparse.Namespace) -> None:
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


def check_run(arguments: argparse.Namespace) -> None:
    """Refuses numbers that no experiment can be run with."""
    if arguments.batch < 1 or arguments.threads < 1:
        raise ValueError("--batch and --threads must be positive")
    if arguments.limit is not None and arguments.limit < 1:
        raise ValueError(f"--limit must be positive, got {arguments.limit}")
    if not arguments.blur >= 0:
        raise ValueError(f"--blur must not be negative, got {arguments.blur}")


def read_examples(arguments: argparse.Namespace) -> Dataset[Example]:
    """The data set.

    arguments: data, folder, split, classes and limit of `evaluation_options`.

    Raises:
        ValueError: arguments that do not belong together, or what the data set's reader refuses.
        OSError: a file is missing or cannot be read.
    """
    if arguments.data == "digits":
        if arguments.folder:
            raise ValueError("--data digits is made in memory: leave --folder out")
        from ..data.scenes import digit_scenes

        if arguments.split:
            raise ValueError("--data digits has one split: leave --split out")
        return digit_scenes(arguments.limit or _DIGITS)
    if arguments.data == "imagenet":
        if not (arguments.folder and arguments.annotations and arguments.synsets):
            raise ValueError(
                "--data imagenet needs --folder DIR, --annotations DIR and --synsets FILE"
            )
        dataset = data.read_imagenet(
            arguments.folder,
            arguments.annotations,
            arguments.synsets,
            ground_truth=arguments.ground_truth,
        )
        return dataset[: arguments.limit]
    if not arguments.folder or not arguments.split:
        raise ValueError(f"--data {arguments.data} needs --folder DIR and --split NAME")
    of_voc = arguments.classes == "voc"
    named = None if of_voc or arguments.classes == "own" else read_classes(Path(arguments.classes))
    if arguments.data == "voc":
        dataset = data.read_voc(
            arguments.folder, arguments.split, classes=named or data.VOC_CLASSES
        )
    else:
        dataset = data.read_coco(
            arguments.folder / "annotations" / f"instances_{arguments.split}.json",
            arguments.folder / arguments.split,
            classes=data.VOC_CLASSES if of_voc else named,
            renamed=data.COCO_TO_VOC if of_voc else None,
        )
    return dataset[: arguments.limit]


def load_model(
    arguments: argparse.Namespace,
    classes: Sequence[str],
    of: str,
    needed: str = "classes: give the weights of a network that was fine-tuned for them, or --head "
    "with the directory that `excitation-jax train` wrote",
) -> Model:
    """The network.

    arguments: model, weights, head, fully_convolutional, side and view of `evaluation_options`.
    classes: those that it must have. of: what has them, and needed: what they are and what to do
    where the network has another number; for an error.

    Raises:
        ValueError: it has another number of outputs, or was trained for other classes; it takes no
            images of this side; or no weights are given for a network that brings none.
    """
    outputs = len(classes)
    name = ALIASES.get(arguments.model, arguments.model)
    fully = {"fully_convolutional": is_fully_convolutional(arguments)}
    if arguments.side is not None and not 1 <= arguments.side <= _LARGEST:
        raise ValueError(f"--side must lie between 1 and {_LARGEST}, got {arguments.side}")
    network: Any
    layers: dict[str, str] = {}
    if name == "digits":
        if arguments.weights or arguments.head:
            raise ValueError("--model digits brings its own weights: leave --weights out")
        if is_fully_convolutional(arguments):
            raise ValueError(
                "--model digits has no scores at each position: leave --fully-convolutional and "
                "--view papers out"
            )
        network, variables = digits.load()
        preprocessing: AnyShape = _DIGITS_INPUT
    else:
        if not arguments.weights:
            raise ValueError(f"--model {arguments.model} needs --weights FILE")
        spec = models.get(name)
        if arguments.head:
            from .. import training

            _check_head(arguments.head, classes, of)
            own = models.load(name, arguments.weights)[1]
            network, size = spec.build(outputs, **fully), min(spec.input_size)
            begun = training.new_output_layer(spec.build(outputs), own, size, spec.output_layer)
            variables = training.load_fine_tuned(begun, arguments.head)
        else:
            # A checkpoint knows how many classes it has; in a file they are to be expected.
            own_number = not Path(arguments.weights).is_file()
            network, variables = models.load(
                name, arguments.weights, num_classes="own" if own_number else outputs, **fully
            )
        preprocessing = spec.preprocessing
        layers = {"mwp": spec.mwp_layer, "c-mwp": spec.cmwp_layer}
    assert isinstance(preprocessing, Preprocessing)  # so far it is the network's own
    if arguments.view == "papers":
        side = arguments.side or _PAPERS_SIDE[arguments.experiment]
        preprocessing = OwnShape(preprocessing, side)
    elif arguments.view == "whole":
        preprocessing = preprocessing.whole(arguments.side and (arguments.side,) * 2)
    elif arguments.side is not None:
        raise ValueError("--view network has the network's own size: leave --side out")
    example = jax.ShapeDtypeStruct((1, *preprocessing.size, 3), jnp.float32)
    try:
        found = jax.eval_shape(network.apply, variables, example).shape[-1]
    except flax.errors.ScopeParamShapeError:
        found = "another number of"
    except (TypeError, ValueError, flax.errors.FlaxError) as error:
        raise ValueError(
            f"{arguments.model} takes no images of {preprocessing.size} pixels (if only its last "
            f"layers do not, --fully-convolutional helps): {str(error).splitlines()[0]}"
        ) from error
    if found != outputs:
        raise ValueError(
            f"{arguments.model} with these weights has {found} outputs, {of} has {outputs} {needed}"
        )
    return Model(name, network.apply, variables, preprocessing, layers)


def _check_head(directory: Path, classes: Sequence[str], of: str) -> None:
    """Refuses an output layer that is known to be trained for other classes, or another order."""
    from .. import training

    known = training.classes_of(directory)
    if known is None or [*map(str.casefold, known)] == [*map(str.casefold, classes)]:
        return
    if len(known) != len(classes):
        differs = f"{len(known)} classes, and {of} has {len(classes)}"
    else:
        place = next(i for i, name in enumerate(known) if name != classes[i])
        differs = f"{known[place]!r} where {of} has {classes[place]!r}, output {place}"
    raise ValueError(
        f"{directory} was trained for {differs}: evaluate it on its own classes, which "
        f"{directory / 'classes.txt'} lists and --classes or --words takes"
    )


def is_fully_convolutional(arguments: argparse.Namespace) -> bool:
    """Whether the network has scores at each position: as the papers' input needs it, too."""
    return bool(arguments.fully_convolutional or arguments.view == "papers")


def in_order(dataset: Dataset[D], model: Model) -> Dataset[D]:
    """The data set in the order of its inputs' shapes, so that batches are of one each."""
    return dataset.ordered(lambda example: fitted(model.preprocessing, example.size).size)


def map_functions(arguments: argparse.Namespace, model: Model) -> Maps:
    """The methods; each has been traced once.

    arguments: methods, rules_set, layers (where the experiment has it), model and plain of
        `evaluation_options`.

    Raises:
        ValueError: no method or an unknown one is named, or one has no meaning for the network; the
            same of layers and rule sets.
    """
    found = Maps({}, {}, {}, rule_sets.chosen(arguments.rules_set))
    image = jax.ShapeDtypeStruct((1, *model.preprocessing.size, 3), jnp.float32)
    classes = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    every = layers_of(arguments)
    for given in filter(None, map(str.strip, arguments.methods.split(","))):
        name, at, layer = given.partition("@")
        method = methods.get(name)
        if layer and not method.per_layer:
            raise ValueError(f"{method.name} is not read at a layer: leave @{layer} out")
        several = every if every and method.per_layer and not at else [layer]
        variants = rule_sets.variants(method, found.rules_sets)
        for own, (ending, rules, options) in itertools.product(several, variants):
            read_at = own or model.layers.get(method.name, "")
            if read_at:
                options = {**options, "layer": None if read_at == INPUT else read_at}
            function = functools.partial(_maps, method, model.apply, options)
            try:
                jax.eval_shape(function, model.variables, image, classes)
                grid = method.grid(model.apply, model.variables, image, **options)
            except ValueError as error:
                shown = f"{method.name}@{own}" if own else given
                raise ValueError(f"{shown} on {arguments.model}: {error}") from error
            key, title = method.name + ending, method.title + rules
            if own or at:
                key, title = f"{key}@{read_at}", f"{title} at {read_at}"
            placed: Any = grid
            if isinstance(model.preprocessing, OwnShape):
                placed = functools.cache(functools.partial(_grid, method, model, options))
            found.functions[key] = PlacedMaps(function, None if arguments.plain else placed)
            found.titles[key] = title
            found.layers[key] = read_at
    if not found.functions:
        raise ValueError(f"--methods names none: {', '.join(methods.names())}")
    if every and not set(every) & {key.partition("@")[2] for key in found.functions}:
        raise ValueError(
            f"no method was read at {', '.join(every)}: --methods names none of a layer without @"
        )
    return found


def layers_of(arguments: argparse.Namespace) -> list[str]:
    """The layers of --layers, each once; empty where it is not given or the experiment has none.

    Raises:
        ValueError: it names none.
    """
    given = getattr(arguments, "layers", None)
    if given is None:
        return []
    found = list(dict.fromkeys(filter(None, map(str.strip, given.split(",")))))
    if not found:
        raise ValueError("--layers names none: `excitation-jax layers` lists them")
    return found


def _grid(
    method: methods.Method, model: Model, options: dict[str, Any], size: tuple[int, int]
) -> Grid | None:
    """Where the cells of a method's maps of images of this (height, width) lie."""
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    return method.grid(model.apply, model.variables, image, **options)


def _maps(
    method: methods.Method,
    apply: Callable[[Any, Any], Any],
    options: dict[str, Any],
    variables: Any,
    images: jax.Array,
    classes: jax.Array,
) -> jax.Array:
    return method.function(apply, variables, images, classes, **options)


def digest_of(dataset: Dataset[Example]) -> str:
    """A short name for the annotations and the photographs' sizes, in whatever folder they are."""
    found = hashlib.sha256(repr(dataset.classes).encode())
    for example in dataset:
        stored = example.path.stat().st_size if example.path else None
        found.update(repr((stored, dataclasses.replace(example, path=None))).encode())
    return found.hexdigest()[:16]
