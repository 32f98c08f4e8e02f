"""Names of classes: reading a file of them, and finding the class that a user means."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

MOST_TARGETS = 20


class ClassName(NamedTuple):
    """A class's WordNet synset, such as n01440764, and its name: synonyms between commas."""

    synset: str
    name: str


def read_class_names(path: str | os.PathLike[str]) -> list[ClassName]:
    """The names in a file with one class a line: index, synset, name, separated by tabs.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no text, is empty, or a line has not its turn's index and a name.
    """
    path = Path(path)
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file of class names") from None
    names: list[ClassName] = []
    for line in lines:
        fields = line.split(maxsplit=2)
        if len(fields) != 3 or fields[0] != str(len(names)):
            raise ValueError(
                f"{path}, line {len(names) + 1}: expected {len(names)}, a synset and a name, "
                f"separated by tabs, got {line[:40]!r}"
            )
        names.append(ClassName(fields[1], fields[2].strip()))
    if not names:
        raise ValueError(f"{path} is empty: expected lines of index, synset and name")
    return names


def parse_target(
    text: str, names: Sequence[ClassName] | None, count: int
) -> tuple[int | None, int | None]:
    """What a --target of a network with `count` classes asks for.

    A class goes by its index and, where `names` are given, by its synset, its whole name and
    each of its synonyms, in any case.

    Returns:
        (K, None) for "topK", (None, index) for one class.

    Raises:
        ValueError: there is no such class (the nearest names are suggested), there are several,
            or K is not in 1 to MOST_TARGETS.
    """
    wanted = text.strip().casefold()
    if match := re.fullmatch(r"top([0-9]+)", wanted):
        top, most = int(match[1]), min(count, MOST_TARGETS)
        if not 1 <= top <= most:
            raise ValueError(f"--target {text}: top1 to top{most} are possible")
        return top, None
    if re.fullmatch(r"[+-]?[0-9]+", wanted):
        if not 0 <= int(wanted) < count:
            raise ValueError(f"--target {text}: the classes are 0 to {count - 1}")
        return None, int(wanted)
    if not names:
        raise ValueError(
            f"--target {text}: a class is named by its index, unless --classes FILE names them"
        )
    known: dict[str, list[int]] = {}
    for index, (synset, name) in enumerate(names):
        for alias in {synset, name, *name.split(",")}:
            known.setdefault(alias.strip().casefold(), []).append(index)
    found = known.get(wanted, [])
    if len(found) > 1:
        several = "; ".join(f"{index} ({names[index].name})" for index in found)
        raise ValueError(f"--target {text} names several classes, give an index: {several}")
    if not found:
        near = _suggestions(wanted, list(known))
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"--target {text}: no class has that name{hint}")
    return None, found[0]


def _suggestions(wanted: str, aliases: Sequence[str]) -> list[str]:
    """Up to five aliases that look like the one wanted, or have a word that does."""
    near = difflib.get_close_matches(wanted, aliases, n=5, cutoff=0.8)
    words = {word for alias in aliases for word in alias.split()}
    for word in difflib.get_close_matches(wanted, words, n=1, cutoff=0.8):
        near += [alias for alias in aliases if "," not in alias and word in alias.split()]
    return list(dict.fromkeys(near))[:5]
