"""The command `eval text`: text to region on a data set of captions."""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Iterable
from pathlib import Path

from .. import data
from ..data.files import read
from ..data.flickr30k import CaptionedExample
from ..data.records import Dataset
from ..evaluation.progress import bar
from ..evaluation.published.figures import published
from ..evaluation.text import localisation as text
from ..evaluation.text import proposals
from ..evaluation.text.scores import score
from ..evaluation.text.table import TextTable
from . import evaluation_setup
from .evaluation import finished, records, unfinished

_DIGITS = 200  # scenes, unless the user says otherwise
_DIGITS_WORDS = "zero one two three four five six seven eight nine".split()


def text_to_region(arguments: argparse.Namespace) -> str:
    """Localises the phrases of a data set's captions, or what is left of them; writes their table.

    As `evaluation.pointing_game`.
    """
    evaluation_setup.join(arguments)
    evaluation_setup.check_run(arguments)
    if not math.isfinite(arguments.gamma):
        raise ValueError(f"--gamma must be finite, got {arguments.gamma}")
    if arguments.proposals_limit < 1:
        raise ValueError(f"--proposals-limit must be positive, got {arguments.proposals_limit}")
    with bar() as shown:
        shown.announce("reading the annotations")
        dataset = read_captioned(arguments)
        dataset = dataset.where(lambda example: bool(text.phrases(example)))
        if not len(dataset):
            raise ValueError("none of the photographs has a phrase with a box: nothing to localise")
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
            arguments.gamma,
            arguments.proposals_limit,
            arguments.blur,
            arguments.threads,
        )
        contents = {
            "experiment": {"name": "text to region", "suppressed": text.SUPPRESSED},
            "maps": made.content(arguments),
            "regions": {
                "words": _digest(words),
                "proposals": f"{proposed.name}, at most {arguments.proposals_limit}",
                "gamma": arguments.gamma,
            },
        }
        store = records(arguments, experiment, model, dataset, contents, shown)
    if store is None:
        return unfinished(arguments)
    table = TextTable(
        dataset.name,
        made.titles,
        score(store.blocks(), dataset, len(made.functions)),
        len(dataset),
        arguments.gamma,
        proposed.name,
        arguments.proposals_limit,
        published("text", dataset.name, model.name),
        published("text_groups", dataset.name, model.name),
    )
    return finished(arguments, "text", table)


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
    return proposals.read(Path(given), dataset)


def _digest(parts: Iterable[str]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode() + b"\n")
    return found.hexdigest()[:16]
