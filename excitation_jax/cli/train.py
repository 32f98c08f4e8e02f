"""The command `train`: a network of the registry for the classes of another data set."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import models
from ..data.files import read_classes
from ..evaluation.progress import bar
from ..training import tags
from ..training.finetune import fine_tune
from ..training.labelled import (
    COCO_TO_VOC,
    VOC_CLASSES,
    Labelled,
    coco_classes,
    held_out,
    read_coco,
    read_voc,
    without,
)
from ..training.output_layer import new_output_layer
from ..training.recipe import batch_of, epochs_of, layers_of, patience_of
from ..training.scoring import precision_of, predict
from ..training.validation import Measured
from .dependence import TRAINING, given
from .networks import ALIASES
from .train_options import VIEWS

_MOST_SPARED = 500  # steps between two measurements, unless the user says otherwise


class Photographs(NamedTuple):
    """What the network is trained, validated and tested with, and the classes' names."""

    training: Sequence[Labelled]
    validation: Sequence[Labelled]
    test: Sequence[Labelled]
    classes: tuple[str, ...]


def train(arguments: argparse.Namespace) -> str:
    """Trains, or what is left of it, and measures.

    arguments: those of `train_options`.

    Returns what was measured. On the way the validation's figures are printed as they come.

    Raises ValueError or OSError for anything wrong with the arguments or the files, ImportError for
    a missing extra.
    """
    if arguments.model == "digits":
        raise ValueError("--model digits is trained by python -m excitation_jax.digits")
    spec = models.get(ALIASES.get(arguments.model, arguments.model))
    layers = arguments.layers or layers_of(arguments.data)
    views = (VIEWS if layers == "output" else 0) if arguments.views is None else arguments.views
    patience = patience_of(arguments.data) if arguments.patience is None else arguments.patience
    batch = batch_of(spec.family) if arguments.batch is None else arguments.batch
    if batch < 1:
        raise ValueError(f"--batch must be positive, got {batch}")
    with bar("training", "steps") as shown:
        shown.announce("reading the annotations")
        photographs = read_photographs(arguments)
        every = photographs.training, photographs.validation, photographs.test
        print(
            "photographs to train with: {}, to validate with: {}, to test with: {}".format(
                *map(len, every)
            )
        )
        epoch = -(-len(photographs.training) // batch)
        steps = epochs_of(arguments.data) * epoch if arguments.steps is None else arguments.steps
        shown.announce(f"loading {arguments.model}")
        size = min(spec.input_size)
        model = spec.build(len(photographs.classes))
        _, own = models.load(spec.name, arguments.weights)
        variables = new_output_layer(model, own, size, spec.output_layer)
        losses: list[float] = []
        measured: list[Measured] = []

        def on_step(taken: int, loss: float, found: Measured | None) -> None:
            losses.append(loss)
            shown.announce("training")
            shown.advance(taken, steps)
            if found is not None:
                mean = sum(losses) / len(losses)
                print(
                    f"step {taken:5d}  loss {mean:.3f}  validation: error {found.error:.3f}, "
                    f"mAP {found.precision:.3f}  learning rate {found.learning_rate:g}",
                    flush=True,
                )
                losses.clear()
                measured.append(found)

        scale = spec.preprocessing
        resized = scale.resize if scale.crop is not None else round(size * 8 / 7)
        assert isinstance(resized, int)  # a crop is of a square
        show: dict[str, Any] = {
            "batch": batch,
            "size": size,
            "resized": resized,
            "normalise": scale.normalise,
        }
        shown.announce("compiling")
        try:
            tuned = fine_tune(
                model,
                variables,
                photographs.training,
                steps=steps,
                seed=arguments.seed,
                output_layer=spec.output_layer,
                layers=layers,
                views=views or None,
                learning_rate=arguments.learning_rate,
                momentum=arguments.momentum,
                patience=patience or None,
                factor=arguments.factor,
                directory=arguments.out,
                given=given(arguments, TRAINING),
                classes=photographs.classes,
                save_every=arguments.save_every,
                validation=photographs.validation,
                validate_every=arguments.validate_every or min(epoch, _MOST_SPARED),
                on_step=on_step,
                on_features=lambda done, total: shown.announce(f"features: {done} of {total}"),
                **show,
            )
        except FloatingPointError as error:
            raise ValueError(f"{error}: try a lower --learning-rate") from None
        report = []
        if photographs.test:
            shown.announce("testing")
            logits = predict(model, tuned, photographs.test, **show)
            precision = precision_of(photographs.test, logits)
            report = [f"mAP on {len(photographs.test)} photographs to test with: {precision:.3f}"]
    return "\n".join([*report, f"wrote {arguments.out.resolve()}"])


def read_photographs(arguments: argparse.Namespace) -> Photographs:
    """The data set, in parts that have no photograph in common.

    arguments: data, folder, split, validation, test, classes, coco, without_difficult, dictionary
    and first_tags of `train_options`.

    Raises:
        ValueError: arguments that do not belong together, or what a reader refuses.
        OSError: a file is missing or cannot be read.
    """
    if arguments.coco and arguments.data != "voc":
        raise ValueError(f"--coco adds photographs to VOC's: leave it out with {arguments.data}")
    if arguments.without_difficult and arguments.data != "voc":
        raise ValueError(f"--without-difficult is of VOC: leave it out with {arguments.data}")
    classes, read = _READERS[arguments.data](arguments)
    apart = functools.partial(without, key=_name) if arguments.data == "coco" else without
    test = read(arguments.test) if arguments.test else []
    validation: Sequence[Labelled] = []
    if arguments.validation:
        validation = apart(read(arguments.validation), test)
    training = apart(read(arguments.split), test, validation)
    if not training:
        raise ValueError(
            f"--split {arguments.split} has no photograph that is not also one to validate or to "
            "test with"
        )
    if arguments.coco:
        folder = arguments.coco
        instances = folder / "annotations" / "instances_train2017.json"
        training += read_coco(instances, folder / "train2017", classes=classes)
    if not arguments.validation:
        training, validation = held_out(training)
    return Photographs(training, validation, test, classes)


def _name(record: Labelled) -> str:
    """What a photograph of COCO is called, in whichever split's folder a copy of it lies."""
    return record.path.name


Read = Callable[[str], Sequence[Labelled]]


def _voc(arguments: argparse.Namespace) -> tuple[tuple[str, ...], Read]:
    named = arguments.classes in ("own", "voc")
    classes = VOC_CLASSES if named else read_classes(Path(arguments.classes))
    difficult = not arguments.without_difficult
    read = functools.partial(read_voc, arguments.folder, difficult=difficult, classes=classes)
    return classes, read


def _coco(arguments: argparse.Namespace) -> tuple[tuple[str, ...], Read]:
    def instances(split: str) -> Path:
        return arguments.folder / "annotations" / f"instances_{split}.json"

    renamed = {}
    if arguments.classes == "voc":
        classes, renamed = VOC_CLASSES, COCO_TO_VOC
    elif arguments.classes == "own":
        classes = coco_classes(instances(arguments.split))
    else:
        classes = read_classes(Path(arguments.classes))

    def read(split: str) -> Sequence[Labelled]:
        folder = arguments.folder / split
        return read_coco(instances(split), folder, classes=classes, renamed=renamed)

    return classes, read


def _tags(arguments: argparse.Namespace) -> tuple[tuple[str, ...], Read]:
    def tagged(split: str) -> list[tags.Tagged]:
        return tags.read_tags(arguments.folder / f"{split}.jsonl")

    if arguments.classes == "own":
        classes = tags.dictionary_of(tagged(arguments.split), arguments.dictionary)
    elif arguments.classes == "voc":
        raise ValueError("--classes voc is of COCO: give own, or a file of tags")
    else:
        classes = tuple(map(tags.normalised, read_classes(Path(arguments.classes))))
    return classes, lambda split: tags.with_first_tags(tagged(split), classes, arguments.first_tags)


_READERS = {"voc": _voc, "coco": _coco, "tags": _tags}
