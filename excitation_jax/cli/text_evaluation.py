"""The command `eval text`: text to region on a data set of captions."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from .. import data
from ..data.files import read
from ..data.flickr30k import CaptionedExample
from ..data.records import Dataset
from ..data.run_directory import write_whole
from ..evaluation import plots
from ..evaluation.progress import bar
from ..evaluation.published.figures import published
from ..evaluation.text import localisation as text
from ..evaluation.text import proposal_files, proposals, scores
from ..evaluation.text.gallery import TextGallery
from ..evaluation.text.table import PROPOSALS, TextTable
from . import evaluation_setup
from .evaluation import check_gallery, finished, look_at, records, unfinished

_LARGEST_GAMMA = 10
_DIGITS = 200  # scenes, unless the user says otherwise
_DIGITS_WORDS = "zero one two three four five six seven eight nine".split()


def text_to_region(arguments: argparse.Namespace) -> str:
    """Localises the phrases of a data set's captions, or what is left of them; writes their table.

    As `evaluation.pointing_game`.
    """
    evaluation_setup.join(arguments)
    evaluation_setup.check_run(arguments)
    _check(arguments)
    check_gallery(arguments)
    with bar() as shown:
        shown.announce("reading the annotations")
        dataset = read_captioned(arguments)
        dataset = dataset.where(lambda example: bool(text.phrases(example)))
        if not len(dataset):
            raise ValueError("none of the photographs has a phrase with a box: nothing to localise")
        every = arguments.held_out if arguments.gamma is None else 0
        if every and len(dataset) < 2:
            raise ValueError(
                "there is one photograph with phrases, and gamma is chosen on others than those "
                "that count: take more, or give it, such as --gamma 0.5"
            )
        words = read_words(arguments)
        proposed = _proposals(arguments, dataset)
        shown.announce(f"loading {arguments.model}")
        source = f"{arguments.words}" if arguments.words else "the list of digits"
        model = evaluation_setup.load_model(
            arguments,
            tuple(words),
            source,
            "words: give a file with one word on each line, in the order of the outputs",
        )
        shown.announce("tracing the methods")
        made = evaluation_setup.map_functions(arguments, model)
        dataset = evaluation_setup.in_order(dataset, model)
        experiment = text.TextToRegion(
            dataset,
            made.functions,
            words,
            proposed,
            arguments.proposals_limit,
            arguments.blur,
            arguments.threads,
        )
        contents = {
            "experiment": "text to region",
            "maps": made.content(arguments),
            "regions": {
                "words": _digest(words),
                "proposals": f"{proposed.name}, at most {arguments.proposals_limit}",
            },
        }
        store = records(arguments, experiment, model, dataset, contents, shown)
        if store is None:
            return unfinished(arguments)
        shown.announce("scoring")
        gammas = (
            scores.choose_gammas(store.blocks(), experiment, every)
            if every
            else [arguments.gamma] * len(made.functions)
        )
        held_out = len(range(0, len(dataset), every)) if every else 0
        own = "by their scores" if proposed.scored else "in their order"
        table = TextTable(
            dataset.name,
            {**made.titles, PROPOSALS: f"proposals {own}"},
            gammas,
            scores.score(store.blocks(), experiment, gammas, every),
            len(dataset) - held_out,
            held_out,
            proposed.name,
            arguments.proposals_limit,
            published("text", dataset.name, model.name),
            published("text_groups", dataset.name, model.name),
        )
        report = [finished(arguments, "text", table)]
        write_whole(arguments.out / "text.png", _plot(table))
        if arguments.gallery:
            shown.announce("drawing the gallery")
            look, network = look_at(arguments, model, dataset)
            gallery = TextGallery(experiment, look, network, table)
            gallery.write(arguments.out / "gallery", arguments.gallery)
            report.append(f"wrote {(arguments.out / 'gallery' / 'index.html').resolve()}")
    return "\n".join(report)


def _check(arguments: argparse.Namespace) -> None:
    """Refuses what no proposals can be ranked with."""
    if arguments.gamma is not None and not 0 <= arguments.gamma <= _LARGEST_GAMMA:
        raise ValueError(f"--gamma must lie between 0 and {_LARGEST_GAMMA}, got {arguments.gamma}")
    if arguments.proposals_limit < 1:
        raise ValueError(f"--proposals-limit must be positive, got {arguments.proposals_limit}")
    if arguments.held_out < 2:
        raise ValueError(f"--held-out must be at least 2, got {arguments.held_out}")


def _plot(table: TextTable) -> bytes:
    """Recall of each group, of all phrases and of those of small instances."""
    groups, place = table.groups(), scores.TUNED
    panels = []
    for subset, title in enumerate(("all phrases", "phrases of small instances")):
        parts = [method[subset].groups for method in table.scores.methods]
        hits = np.array([[part[group].hits[place] for group in groups] for part in parts])
        asked = np.array([[part[group].phrases for group in groups] for part in parts])
        means = [scores.mean([part[group].recall(place) for group in groups]) for part in parts]
        panels.append(plots.Panel(title, hits, asked, means))
    title = f"Text to region, recall@{scores.RANKS[place]}, {table.title}, {table.images} images"
    methods, called = [*table.methods.values()], ("groups", "phrases")
    return plots.png(plots.per_category(title, methods, groups, panels, called))


def read_captioned(arguments: argparse.Namespace) -> Dataset[CaptionedExample]:
    """The data set.

    arguments: data, folder, images, split and limit of `text_options`.

    Raises:
        ValueError: arguments that do not belong together, or what the data set's reader refuses.
        OSError: a file is missing or cannot be read.
    """
    if arguments.data == "digits":
        if arguments.folder or arguments.images or arguments.split:
            raise ValueError(
                "--data digits is made in memory: leave --folder, --images and --split out"
            )
        from ..data.scenes import captioned_digit_scenes

        return captioned_digit_scenes(arguments.limit or _DIGITS)
    if not arguments.folder or not arguments.split:
        raise ValueError(f"--data {arguments.data} needs --folder DIR and --split NAME")
    images = arguments.images or arguments.folder / "flickr30k-images"
    listing = arguments.folder / f"{arguments.split}.txt"
    return data.read_flickr30k(arguments.folder, images, listing)[: arguments.limit]


def read_words(arguments: argparse.Namespace) -> dict[str, int]:
    """The outputs by their words, case-folded.

    arguments: model and words of `text_options`. The words of the digits model are built in.

    Raises:
        ValueError: no file is given for another network; it is no text, is empty, or a line is
            blank or has the word of another.
        OSError: the file is missing or cannot be read.
    """
    path: Path | None = arguments.words
    if path is None:
        if arguments.model != "digits":
            raise ValueError(
                f"--model {arguments.model} needs --words FILE: one word on each line, in the "
                "order of the network's outputs"
            )
        return {word: output for output, word in enumerate(_DIGITS_WORDS)}
    try:
        lines = read(path, "file of words").decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}; convert it") from None
    found: dict[str, int] = {}
    for output, line in enumerate(lines):
        word = line.strip().casefold()
        if not word:
            raise ValueError(
                f"{path}, line {output + 1} is blank: each line is the word of an output; name one "
                "that no phrase is to have, such as -"
            )
        if word in found:
            raise ValueError(
                f"{path}, line {output + 1} has {word!r}, as line {found[word] + 1}: which of the "
                "two outputs is meant? Name one of them differently"
            )
        found[word] = output
    if not found:
        raise ValueError(f"{path} is empty: expected one word on each line")
    return found


def _proposals(
    arguments: argparse.Namespace, dataset: Dataset[CaptionedExample]
) -> proposals.Proposals:
    given: str = arguments.proposals
    if given == "grid":
        return proposals.Grid()
    if given == "selective-search":
        return proposals.SelectiveSearch()
    return proposal_files.read(Path(given), dataset)


def _digest(parts: Iterable[str]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode() + b"\n")
    return found.hexdigest()[:16]
