"""The scores of text to region as a table, and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..published.figures import Published, Row
from ..tables import aligned, percent
from .localisation import KEPT, OVERLAP, SUPPRESSED
from .scores import RANKS, Found, MethodScores, TextScores

_AT = 5  # the rank of the papers' recall by group


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
        published, published_groups: what there is to show beside, of all phrases and of each group.
    """

    title: str
    methods: Mapping[str, str]
    scores: TextScores
    images: int
    gamma: float
    proposals: str
    limit: int
    published: Sequence[Published] = ()
    published_groups: Sequence[Published] = ()

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
        for (name, title), method in zip(self.methods.items(), own.methods, strict=True):
            found = method.everything
            rows.append(
                [
                    title,
                    *self._recalls(found),
                    percent(method.mean_by_group()),
                    percent(method.mean_by_phrase()),
                ]
            )
            rows += [_beside(source, row) for source in self.published for row in source.of(name)]
        best = own.covered / own.phrases if own.phrases else math.nan
        at_best = [percent(best), f"({own.covered}/{own.phrases})"]
        rows.append(["best possible", *at_best * len(RANKS), "", ""])
        for source in self.published:
            rows += [_beside(source, row, row.method) for row in source.unplayed()]
        lines += aligned(rows)
        if self.published:
            lines.append("published rows: of all phrases, and of small instances")
        lines += [source.cited(self.images) for source in self.published]
        lines += ["", f"recall@{_AT} % of each group, and the mean over groups", *self._groups()]
        lines += [source.cited(self.images) for source in self.published_groups]
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
            "published": [source.json() for source in (*self.published, *self.published_groups)],
            "methods": {
                name: {"title": title, **_json(method)}
                for (name, title), method in zip(self.methods.items(), own.methods, strict=True)
            },
        }
        return json.dumps(found, indent=1) + "\n"

    def _groups(self) -> list[str]:
        """Recall of each group by method, as in the papers' Table 7, and what is published."""
        own = self.scores.methods
        groups = [group for group, found in own[0].groups.items() if found.phrases]
        rows = [["", *groups, "mean"]]
        place = RANKS.index(_AT)
        for (name, title), method in zip(self.methods.items(), own, strict=True):
            recalls = [method.groups[group].recall(place) for group in groups]
            mean = math.fsum(recalls) / len(recalls) if recalls else math.nan
            rows.append([title, *map(percent, recalls), percent(mean)])
            for source in self.published_groups:
                for row in source.of(name):
                    shown = [f"{row.figures[group]:.1f}" for group in (*groups, "mean")]
                    rows.append([_name(source, row), *shown])
        return aligned(rows)

    @staticmethod
    def _recalls(found: Found) -> list[str]:
        cells = []
        for place, hits in enumerate(found.hits):
            cells += [percent(found.recall(place)), f"({hits}/{found.phrases})"]
        return cells


def _name(source: Published, row: Row, method: str = "") -> str:
    """Of a published row, by its proposals and gamma, and by its method where that is not above."""
    gamma = [f"gamma {row.figures['gamma']:g}"] if "gamma" in row.figures else []
    parts = [source.title, method, row.settings["proposals"], *gamma]
    return f"  {', '.join(filter(None, parts))} (T{row.table})"


def _beside(source: Published, row: Row, method: str = "") -> list[str]:
    """A published row beneath one's own: each figure, and that of small instances."""

    def shown(column: str) -> str:
        return f"{row.figures[column]:.1f}" if column in row.figures else "-"

    cells = [_name(source, row, method)]
    for rank in RANKS:
        cells += [shown(f"recall@{rank}"), f"small {shown(f'recall@{rank}_small')}"]
    for column in ("AP_groups", "AP_phrases"):
        cells.append(f"{shown(column)}, small {shown(f'{column}_small')}")
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
