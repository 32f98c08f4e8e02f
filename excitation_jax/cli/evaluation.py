"""The command `eval`: an experiment of the papers on a data set."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .. import __version__, data
from ..data.records import Dataset, Example
from ..data.run_directory import write_whole
from ..digits.scenes import SIDE
from ..evaluation import plots, runner
from ..evaluation.again import Look
from ..evaluation.boxes import localisation as boxes
from ..evaluation.boxes.gallery import BoxGallery
from ..evaluation.boxes.table import WHOLE, BoxTable
from ..evaluation.pair_gallery import PairGallery
from ..evaluation.pointing import pointing_game as pointing
from ..evaluation.pointing.gallery import PointingGallery
from ..evaluation.pointing.layers import SUBSETS, LayerTable
from ..evaluation.pointing.table import CENTRE, PointingTable
from ..evaluation.points import canvas_of
from ..evaluation.progress import Bar, bar
from ..evaluation.published.figures import published
from ..evaluation.store import Store
from ..models.preprocessing import Preprocessing
from ..training.checkpoints import digest
from . import dependence, evaluation_setup


def pointing_game(arguments: argparse.Namespace) -> str:
    """Plays the pointing game, or what is left of it, and writes its table.

    arguments: those of `evaluation_options`.

    Returns the table, or a line on what other processes have still to do.

    Raises ValueError or OSError for anything wrong with the arguments or the files, ImportError for
    a missing extra.
    """
    evaluation_setup.join(arguments)
    rules = pointing.TORCHRAY if arguments.rules == "torchray" else pointing.PAPER
    rules = replace(rules, tolerance=_tolerance(arguments))
    evaluation_setup.check_run(arguments)
    check_gallery(arguments)
    with bar() as shown:
        shown.announce("reading the annotations")
        dataset = evaluation_setup.read_examples(arguments)
        difficult, difficult_name = _difficult(arguments, dataset)
        dataset = dataset.where(lambda e: bool(pointing.played(e, dataset.classes, rules)))
        if not len(dataset):
            raise ValueError(f"{dataset.name} has no photograph with a category to point at")
        shown.announce(f"loading {arguments.model}")
        model = evaluation_setup.load_model(arguments, dataset.classes, dataset.name)
        shown.announce("tracing the methods")
        made = evaluation_setup.map_functions(arguments, model)
        dataset = evaluation_setup.in_order(dataset, model)
        game = pointing.PointingGame(dataset, made.functions, rules, difficult, arguments.blur)
        contents = {
            "experiment": "pointing game",
            "maps": made.content(arguments),
            "rules": {**asdict(rules), "difficult": difficult_name},
        }
        store = records(arguments, game, model, dataset, contents, shown)
        if store is None:
            return unfinished(arguments)
        outcomes = list(pointing.outcomes(store.blocks()))
        table = PointingTable(
            dataset.name,
            dataset.classes,
            {**made.titles, CENTRE: "centre"},
            pointing.count(store.blocks()),
            len(dataset),
            rules,
            pointing.intervals(outcomes, len(dataset.classes), rules),
            published("pointing", dataset.name, model.name, len(dataset.classes)),
        )
        report = [finished(arguments, "pointing", table)]
        write_whole(arguments.out / "pointing.png", _plot(table))
        if layers := evaluation_setup.layers_of(arguments):
            by_layer = LayerTable(table, layers)
            report += ["", finished(arguments, "layers", by_layer)]
            write_whole(arguments.out / "layers.png", _plot_of_layers(by_layer))
        look, network = look_at(arguments, model, dataset)
        gallery = PointingGallery(outcomes, look, network, game, table)
        report += _drawn(arguments, gallery, shown)
    return "\n".join(report)


def box_localisation(arguments: argparse.Namespace) -> str:
    """Draws the boxes of a data set's photographs, or what is left of them; writes their table.

    As `pointing_game`.
    """
    evaluation_setup.join(arguments)
    evaluation_setup.check_run(arguments)
    if arguments.held_out < 2:
        raise ValueError(f"--held-out must be at least 2, got {arguments.held_out}")
    check_gallery(arguments)
    with bar() as shown:
        shown.announce("reading the annotations")
        dataset = evaluation_setup.read_examples(arguments).where(
            lambda example: bool(example.objects)
        )
        if not len(dataset):
            raise ValueError(f"none of the photographs in {arguments.folder} has a box")
        shown.announce(f"loading {arguments.model}")
        model = evaluation_setup.load_model(arguments, dataset.classes, dataset.name)
        shown.announce("tracing the methods")
        made = evaluation_setup.map_functions(arguments, model)
        assert isinstance(model.preprocessing, Preprocessing)  # boxes have no --view papers
        experiment = boxes.BoxLocalisation(
            dataset, made.functions, model.preprocessing, blur=arguments.blur
        )
        contents = {
            "experiment": {
                "name": "boxes",
                "alphas": list(experiment.alphas),
                "overlap": boxes.OVERLAP,
            },
            "maps": made.content(arguments),
        }
        store = records(arguments, experiment, model, dataset, contents, shown)
        if store is None:
            return unfinished(arguments)
        held_out = len(range(0, len(dataset), arguments.held_out))
        table = BoxTable(
            dataset.name,
            dataset.classes,
            {**made.titles, WHOLE: "the whole photograph"},
            experiment.alphas,
            boxes.count(store.blocks(), experiment, arguments.held_out),
            len(dataset) - held_out,
            held_out,
            published("boxes", dataset.name, model.name, len(dataset.classes)),
        )
        report = [finished(arguments, "boxes", table)]
        write_whole(arguments.out / "boxes.png", _plot_of_boxes(table))
        best = [table.best(method) for method in range(len(table.methods))]
        outcomes = list(boxes.outcomes(store.blocks(), experiment, arguments.held_out, best))
        look, network = look_at(arguments, model, dataset)
        gallery = BoxGallery(outcomes, look, network, experiment, table)
        report += _drawn(arguments, gallery, shown)
    return "\n".join(report)


def records(
    arguments: argparse.Namespace,
    experiment: runner.Experiment,
    model: evaluation_setup.Model,
    dataset: Dataset[Any],
    contents: Mapping[str, Any],
    shown: Bar,
) -> Store | None:
    """The records of an experiment, all of them, or None where other processes are still at work.

    contents: by part of `dependence.EVALUATION`, all that they depend on, but for what every
        experiment depends on.
    """
    common = {
        "data": f"{len(dataset)} images, {evaluation_setup.digest_of(dataset)}",
        "network": {
            "name": model.name,
            "variables": digest(model.variables),
            "fully_convolutional": evaluation_setup.is_fully_convolutional(arguments),
        },
        "input": repr(model.preprocessing),
        "batch": arguments.batch,
    }
    settings = dependence.settings(arguments, dependence.EVALUATION, {**common, **contents})
    store = Store(
        arguments.out,
        {"version": __version__, **settings},
        count=len(dataset),
        shape=experiment.shape,
        dtype=experiment.dtype,
        batch=arguments.batch,
    )
    shown.announce("compiling")
    complete = runner.run(
        experiment,
        model.variables,
        dataset,
        model.preprocessing,
        store,
        threads=arguments.threads,
        on_progress=shown.advance,
    )
    return store if complete else None


def unfinished(arguments: argparse.Namespace) -> str:
    """What to say where `records` has given none."""
    return f"done; other processes are at work on the rest in {arguments.out.resolve()}"


class Table(Protocol):
    """An experiment's scores; as text, too."""

    def json(self) -> str:
        """The scores as JSON."""


def finished(arguments: argparse.Namespace, name: str, table: Table) -> str:
    """Writes a table as text and as JSON; returns what to say of it."""
    write_whole(arguments.out / f"{name}.txt", f"{table}\n")
    write_whole(arguments.out / f"{name}.json", table.json())
    return f"{table}\n\nwrote {(arguments.out / f'{name}.json').resolve()}"


def check_gallery(arguments: argparse.Namespace) -> None:
    """Refuses a number of pictures that there cannot be."""
    if arguments.gallery < 0:
        raise ValueError(f"--gallery must not be negative, got {arguments.gallery}")


def look_at(
    arguments: argparse.Namespace, model: evaluation_setup.Model, dataset: Dataset[Any]
) -> tuple[Look, str]:
    """What makes the maps of a gallery again, and the network's name there."""
    look = Look(
        model.apply,
        model.variables,
        model.preprocessing,
        dataset,
        canvas_of(dataset),
        arguments.blur,
        arguments.batch,
        arguments.threads,
    )
    return look, f"{model.name}, weights {digest(model.variables)}"


def _drawn(arguments: argparse.Namespace, gallery: PairGallery, shown: Bar) -> list[str]:
    """Writes a gallery, if one is wanted; returns what to say of it."""
    if not arguments.gallery:
        return []
    shown.announce("drawing the gallery")
    otherwise = gallery.write(arguments.out / "gallery", arguments.gallery)
    report = [f"wrote {(arguments.out / 'gallery' / 'index.html').resolve()}"]
    if otherwise:
        report.append(f"{otherwise} maps fare otherwise computed again: see the gallery")
    return report


def _plot_of_boxes(table: BoxTable) -> bytes:
    right = np.stack([table.counts.right[m, 1, table.best(m)] for m in range(len(table.methods))])
    pairs = np.broadcast_to(table.counts.pairs[1], right.shape)
    there = pairs[0] > 0
    means = (right[:, there] / pairs[:, there]).mean(axis=1)
    panel = plots.Panel("right boxes", right, pairs, means.tolist())
    title = f"Boxes, {table.title}, {table.images} images"
    return plots.png(plots.per_category(title, [*table.methods.values()], table.classes, [panel]))


def _plot(table: PointingTable) -> bytes:
    panels = [
        plots.Panel(
            title,
            table.counts.hits[:, subset],
            table.counts.pairs[:, subset],
            [table.score(method, subset) for method in range(len(table.methods))],
            None if table.intervals is None else table.intervals[:, subset],
        )
        for subset, title in enumerate(SUBSETS)
    ]
    title = f"Pointing game, {table.title}, {table.images} images"
    return plots.png(plots.per_category(title, [*table.methods.values()], table.classes, panels))


def _plot_of_layers(found: LayerTable) -> bytes:
    panels = [
        plots.Curves(title, found.scores(subset), found.intervals(subset))
        for subset, title in enumerate(SUBSETS)
    ]
    title = f"Pointing game by layer, {found.table.title}, {found.table.images} images"
    return plots.png(plots.per_layer(title, [*found.methods().values()], found.layers, panels))


def _tolerance(arguments: argparse.Namespace) -> float:
    """As the user says, or the papers': the digits' scenes are as small as the network's input."""
    if arguments.tolerance is not None:
        return float(arguments.tolerance)
    return pointing.tolerance_of(SIDE) if arguments.data == "digits" else pointing.PAPER.tolerance


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
