"""Of each argument of `eval` and of training: do a run's records depend on it, and through what?

What records depend on is compared before a run is continued. Arguments that come to one thing
together are a part: a folder, a split and a limit are a data set, and it is the data set that must
be that of before. An argument that is not declared here is an error, before anything is written.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.run_directory import setting

#: By argument, as `argparse` names it, the part that it belongs to. None: records do not depend on
#: it.
Parts = Mapping[str, str | None]

EVALUATION: Parts = {
    "experiment": "experiment",
    "data": "data",
    "folder": "data",
    "split": "data",
    "classes": "data",
    "limit": "data",
    "images": "data",
    "annotations": "data",
    "synsets": "data",
    "ground_truth": "data",
    "model": "network",
    "weights": "network",
    "head": "network",
    "fully_convolutional": "network",
    "view": "input",
    "side": "input",
    "methods": "maps",
    "layers": "maps",
    "rules_set": "maps",
    "plain": "maps",
    "blur": "maps",
    "rules": "rules",
    "tolerance": "rules",
    "difficult": "rules",
    "words": "regions",
    "proposals": "regions",
    "proposals_limit": "regions",
    "batch": "batch",
    # Records have the outcome of every alpha, and what every gamma's is made of.
    "held_out": None,
    "gamma": None,
    # Maps are made again for it.
    "gallery": None,
    # Where, and by how many, and what is shown meanwhile.
    "out": None,
    "threads": None,
    "distributed": None,
    "coordinator": None,
    "processes": None,
    "process": None,
    "command": None,
    "stages": None,
    "debug": None,
}

#: The parts are those of `fine_tune`'s configuration.
TRAINING: Parts = {
    "model": "variables",
    "weights": "variables",
    "data": "records",
    "folder": "records",
    "split": "records",
    "validation": "records",  # which are left out of those to train with, as is the test set
    "test": "records",
    "classes": "records",
    "coco": "records",
    "without_difficult": "records",
    "dictionary": "records",
    "first_tags": "records",
    "layers": "layers",
    "views": "views",
    "batch": "batch",
    "seed": "seed",
    "learning_rate": "learning_rate",
    "momentum": "momentum",
    "patience": "plateau",
    "factor": "plateau",
    "validate_every": "plateau",
    # More steps continue a run; fewer than it has taken are refused for their own sake.
    "steps": None,
    # The state after a step is the same, whether it is kept or not.
    "save_every": None,
    "out": None,
    "command": None,
    "stages": None,
    "debug": None,
}


def option(argument: str) -> str:
    """How a user writes an argument.

    >>> option("fully_convolutional"), option("experiment")
    ('--fully-convolutional', 'experiment')
    """
    return argument if argument == "experiment" else "--" + argument.replace("_", "-")


def given(arguments: argparse.Namespace, parts: Parts) -> dict[str, dict[str, Any]]:
    """What the user gave for each part, by option, of what JSON can hold.

    Raises:
        LookupError: an argument is not declared.
    """
    found: dict[str, dict[str, Any]] = {}
    for argument, value in vars(arguments).items():
        if argument not in parts:
            raise LookupError(
                f"{option(argument)} is not declared: say in {__name__} what records depend on it "
                "through, or that they do not"
            )
        part = parts[argument]
        if part is not None:
            plain = str(value) if isinstance(value, Path) else value
            found.setdefault(part, {})[option(argument)] = plain
    return found


def settings(
    arguments: argparse.Namespace, parts: Parts, contents: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of a run, for `run_directory.claim`.

    Args:
        arguments: the user's.
        parts: `EVALUATION` or `TRAINING`.
        contents: what each part came to.

    Raises:
        LookupError: an argument is not declared, or it is not known what its part came to.
    """
    found = given(arguments, parts)
    if lacking := found.keys() - contents.keys():
        names = ", ".join(name for part in sorted(lacking) for name in found[part])
        raise LookupError(f"records depend on {names}, and it is not known what these come to")
    return {part: setting(found.get(part, {}), content) for part, content in contents.items()}
