"""Proposals that were made before, by any program: a file of JSON lines."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...data.files import cut_box, listed, read_lines
from ...data.records import Dataset, Example
from ...data.run_lengths import area_and_box, read_runs
from .proposals import Proposed, of_boxes

_FORMAT = '{"key": "36979", "boxes": [[x0, y0, x1, y1], ...]}'
_SEGMENTS = '{"key": "36979", "segmentations": [{"size": [h, w], "counts": "..."}, ...]}'


@dataclass(frozen=True)
class FromFile:
    """Proposals of a file; see `read`. scored: whether they have scores of their own."""

    name: str
    proposed: dict[str, Proposed] = field(repr=False)
    scored: bool = False

    def __call__(self, example: Example) -> Proposed:
        return self.proposed[example.key]


def read(path: Path, dataset: Dataset[Any]) -> FromFile:
    """The proposals in a file of JSON lines, one for each photograph, in any order.

    A line is ``{"key": "36979", "boxes": [[x0, y0, x1, y1], ...]}``: the photograph's key, which is
    its file's name without suffix, and its boxes in pixels, x1 and y1 exclusive, the best first; or
    ``{"key": "36979", "segmentations": [{"size": [h, w], "counts": "..."}, ...]}``, segments as
    COCO's run-length codes, compressed or not. ``"scores": [...]`` beside them are the proposals'
    own, and they are put in the order of these. All lines are of one kind, with scores or without.

    Boxes may reach over the photograph's edge by a pixel, which is cut off. Lines of photographs
    that are not in the data set are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is none, or of another kind than the one before; a box is not in its
            photograph or has no area; a segment is of another size or empty; there are not as many
            finite scores as proposals; a photograph has two lines or no proposals.
    """
    sizes = {example.key: example.size for example in dataset}
    found: dict[str, Proposed] = {}
    kinds: dict[tuple[bool, bool], int] = {}  # whether segments, whether scored: the first line
    for number, line in enumerate(read_lines(path, "file of proposals"), 1):
        shown = f"{path}, line {number}"
        try:
            entry = json.loads(line)
            key, segments = entry["key"], "segmentations" in entry
            if not isinstance(key, str):
                raise ValueError("the key is no string")
            if key not in sizes:
                continue
            given = entry["segmentations" if segments else "boxes"]
            if not isinstance(given, list) or not given:
                raise ValueError(f"{key} has no list of proposals")
            if not segments:
                numbers = np.array(given, np.float64)
                if numbers.ndim != 2 or numbers.shape[1] != 4 or not np.isfinite(numbers).all():
                    raise ValueError(f"{key} has not four finite numbers for each of its boxes")
            scores = _scores(entry.get("scores"), len(given))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(
                f"{shown} has no proposals: expected {_FORMAT} or {_SEGMENTS}, got {line[:40]!r} "
                f"({type(error).__name__}: {error})"
            ) from None
        if key in found:
            raise ValueError(f"{shown} has {key} again: take one of its lines out")
        kinds.setdefault((segments, scores is not None), number)
        if len(kinds) > 1:
            raise ValueError(
                f"{shown} is of another kind than line {min(kinds.values())}: all lines have boxes "
                "or all have segmentations, and all of them scores or none"
            )
        order = np.arange(len(given)) if scores is None else np.argsort(-scores, kind="stable")
        given = [given[place] for place in order]
        own = None if scores is None else scores[order]
        if segments:
            found[key] = _of_segments(given, own, sizes[key], f"{shown}: {key}")
        else:
            boxes = []
            for x0, y0, x1, y1 in np.array(given, np.float64).tolist():
                named = f"{shown}: the box {[x0, y0, x1, y1]} of {key}"
                boxes.append(cut_box((x0, y0, x1, y1), sizes[key], shown=named))
            found[key] = of_boxes(boxes, own)
    missing = [key for key in sizes if key not in found]
    if missing:
        raise ValueError(
            f"{path} has no proposals for {len(missing)} of {len(sizes)} photographs "
            f"({listed(missing)}): add a line for each, {_FORMAT} or {_SEGMENTS}"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return FromFile(f"a file, {digest}", found, any(scored for _, scored in kinds))


def _scores(given: Any, count: int) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    if given is None:
        return None
    scores = np.array(given, np.float64)
    if scores.shape != (count,) or not (np.abs(scores) <= np.finfo(np.float32).max).all():
        raise ValueError(f"there are not as many finite scores as proposals, {count}")
    return scores


def _of_segments(codes: list[Any], scores: Any, size: tuple[int, int], shown: str) -> Proposed:
    """Segments as proposals, with their boxes and areas; shown: whose they are, for an error."""
    areas, boxes = [], []
    for place, code in enumerate(codes):
        area, box = area_and_box(read_runs(code, size, f"{shown}, in segment {place}"), size)
        if not area:
            raise ValueError(f"{shown} has an empty segment, {place}: take it out")
        areas.append(area)
        boxes.append(box)
    found = of_boxes(boxes, scores)
    return found._replace(areas=np.array(areas, np.float32), codes=codes)
