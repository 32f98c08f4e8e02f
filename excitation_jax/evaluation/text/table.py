"""The scores of text to region as a table, and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..tables import aligned, percent
from .localisation import KEPT, OVERLAP, SUPPRESSED
from .scores import RANKS, Found, MethodScores, TextScores


@dataclass(frozen=True)
class TextTable:
    """The scores of methods.

    Attributes:
        title: of the data set.
        methods: names, in the order of the scores, and what to call them.
        scores: see `text_scores.score`.
        images: number of photographs.
        gamma: the power of the area.
        proposals: name of what proposed the boxes.
        limit: boxes proposed in a photograph, at most.
    """

    title: str
    methods: Mapping[str, str]
    scores: TextScores
    images: int
    gamma: float
    proposals: str
    limit: int

    def __str__(self) -> str:
        own = self.scores
        lines = [
            f"text to region, {self.title}: {self.images} images, {own.phrases} phrases, "
            f"{own.unknown} of them without a known word; IoU >= {OVERLAP:g}",
            f"proposals: {self.proposals}, at most {self.limit}; gamma {self.gamma:g}",
            "% of phrases (hits); average precision of the first "
            f"{KEPT} proposals of each phrase, mean over groups and over phrases, %",
        ]
        rows = [["", *_spread(f"recall@{rank}" for rank in RANKS), "AP groups", "AP phrases"]]
        for title, method in zip(self.methods.values(), own.methods, strict=True):
            found = method.everything
            rows.append(
                [
                    title,
                    *self._recalls(found),
                    percent(method.mean_by_group()),
                    percent(method.mean_by_phrase()),
                ]
            )
        best = own.covered / own.phrases if own.phrases else math.nan
        at_best = [percent(best), f"({own.covered}/{own.phrases})"]
        rows.append(["best possible", *at_best * len(RANKS), "", ""])
        lines += aligned(rows)
        lines += ["", "recall@1 % (hits) and average precision % of each group"]
        rows = [["", *(cell for title in self.methods.values() for cell in (title, "", "AP"))]]
        for group, first in own.methods[0].groups.items():
            if first.phrases:
                parts = [method.groups[group] for method in own.methods]
                cells = [
                    cell
                    for part in parts
                    for cell in (*self._recalls(part)[:2], percent(part.average_precision()))
                ]
                rows.append([group, *cells])
        return "\n".join([*lines, *aligned(rows)])

    def json(self) -> str:
        """The scores between 0 and 1 (null where there are no phrases), and all counts."""
        own = self.scores
        found = {
            "experiment": "text to region",
            "data": self.title,
            "images": self.images,
            "phrases": own.phrases,
            "without_known_word": own.unknown,
            "covered_by_proposals": own.covered,
            "different_phrases": len(own.methods[0].by_phrase),
            "proposals": self.proposals,
            "proposals_limit": self.limit,
            "gamma": self.gamma,
            "overlap": OVERLAP,
            "suppressed": SUPPRESSED,
            "kept": KEPT,
            "methods": {
                name: {"title": title, **_json(method)}
                for (name, title), method in zip(self.methods.items(), own.methods, strict=True)
            },
        }
        return json.dumps(found, indent=1) + "\n"

    @staticmethod
    def _recalls(found: Found) -> list[str]:
        cells = []
        for place, hits in enumerate(found.hits):
            cells += [percent(found.recall(place)), f"({hits}/{found.phrases})"]
        return cells


def _spread(titles: Any) -> list[str]:
    """Titles of columns that have two cells each."""
    return [cell for title in titles for cell in (title, "")]


def _json(method: MethodScores) -> dict[str, Any]:
    return {
        **_found(method.everything),
        "mean_average_precision_by_group": _number(method.mean_by_group()),
        "mean_average_precision_by_phrase": _number(method.mean_by_phrase()),
        "groups": {
            group: {**_found(part), "average_precision": _number(part.average_precision())}
            for group, part in method.groups.items()
        },
    }


def _found(found: Found) -> dict[str, Any]:
    recalls = {f"recall@{rank}": _number(found.recall(place)) for place, rank in enumerate(RANKS)}
    hits = {f"hits@{rank}": count for rank, count in zip(RANKS, found.hits, strict=True)}
    return {"phrases": found.phrases, "boxes": found.boxes, **recalls, **hits}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
