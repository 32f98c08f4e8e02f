"""The scores of text to region as the papers' tables of it, and as JSON."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..published.figures import Published, Row
from ..tables import aligned, percent
from .localisation import SMALL
from .scores import GAMMAS, OVERLAP, RANKS, SUPPRESSED, TUNED, Found, Parts, TextScores, mean

#: The proposals by their own scores, as a method.
PROPOSALS = "proposals"

#: The columns of Table 6.
HEAD = ("", "gamma", *(f"R@{rank}" for rank in RANKS), "mAP (group)", "mAP (phrase)")

_AT = RANKS.index(5)  # the rank of the papers' recall by group, by its place


@dataclass(frozen=True)
class TextTable:
    """The scores of methods.

    Attributes:
        title: of the data set.
        methods: names, in the order of the scores, and what to call them; `PROPOSALS` is the last.
        gammas: the power of the area, of each method but the last.
        scores: see `scores.score`.
        images: number of photographs that were not held out.
        held_out: number of those on which gamma was chosen; 0 where it was given.
        proposals: name of what proposed the regions.
        limit: regions proposed in a photograph, at most.
        published, published_groups: what there is to show beside, of all phrases and of each group.
    """

    title: str
    methods: Mapping[str, str]
    gammas: Sequence[float]
    scores: TextScores
    images: int
    held_out: int
    proposals: str
    limit: int
    published: Sequence[Published] = ()
    published_groups: Sequence[Published] = ()

    def __str__(self) -> str:
        own = self.scores
        chosen = (
            f"gamma chosen on {self.held_out} others, by recall@{RANKS[TUNED]}"
            if self.held_out
            else "gamma as given"
        )
        lines = [
            f"text to region, {self.title}: {self.images} images, {own.phrases[0]} phrases, "
            f"{own.phrases[1]} of them of small instances; {own.unknown[0]} without a known word",
            f"proposals: {self.proposals}, at most {self.limit}; {chosen}; IoU >= {OVERLAP:g}",
            "%, of all phrases / of small instances (each box below "
            f"{SMALL:g} of the image); mAP: mean average precision over groups, over phrases",
        ]
        rows = [list(HEAD)]
        for place, name in enumerate(self.methods):
            rows.append(self.row(place))
            rows += [_beside(source, row) for source in self.published for row in source.of(name)]
        best = [
            covered / phrases if phrases else math.nan
            for covered, phrases in zip(own.covered, own.phrases, strict=True)
        ]
        rows.append(["best possible", "", *["/".join(map(percent, best))] * len(RANKS), "", ""])
        for source in self.published:
            rows += [_beside(source, row, row.method) for row in source.unplayed()]
        lines += aligned(rows)
        lines += [source.cited(self.images) for source in self.published]
        lines += ["", f"recall@{RANKS[_AT]} % of each group, and the mean over groups"]
        lines += self._by_group(lambda found: found.recall(_AT), self.published_groups)
        lines += [source.cited(self.images) for source in self.published_groups]
        lines += ["", "average precision % of each group, and the mean over groups"]
        return "\n".join([*lines, *self._by_group(Found.average_precision, ())])

    def json(self) -> str:
        """The scores between 0 and 1 (null where there are no phrases), and all counts."""
        own = self.scores
        methods = {}
        for place, ((name, title), parts) in enumerate(
            zip(self.methods.items(), own.methods, strict=True)
        ):
            gamma = self.gammas[place] if place < len(self.gammas) else None
            every, small = map(_json, parts)
            methods[name] = {"title": title, "gamma": gamma, **every, "small_instances": small}
        found = {
            "experiment": "text to region",
            "data": self.title,
            "images": self.images,
            "held_out": self.held_out,
            "phrases": own.phrases[0],
            "without_known_word": own.unknown[0],
            "covered_by_proposals": own.covered[0],
            "different_phrases": len(own.methods[0][0].by_phrase),
            "small_instances": {
                "phrases": own.phrases[1],
                "without_known_word": own.unknown[1],
                "covered_by_proposals": own.covered[1],
                "below": SMALL,
            },
            "proposals": self.proposals,
            "proposals_limit": self.limit,
            "gammas": list(GAMMAS) if self.held_out else None,
            "overlap": OVERLAP,
            "suppressed": SUPPRESSED,
            "published": [source.json() for source in (*self.published, *self.published_groups)],
            "methods": methods,
        }
        return json.dumps(found, indent=1) + "\n"

    def row(self, place: int) -> list[str]:
        """A method's row of the papers' Table 6, whose columns are `HEAD`."""
        parts = self.scores.methods[place]
        gamma = f"{self.gammas[place]:g}" if place < len(self.gammas) else "-"
        recalls = [
            _both(parts, functools.partial(Parts.recall, place=k)) for k in range(len(RANKS))
        ]
        means = [_both(parts, Parts.mean_by_group), _both(parts, Parts.mean_by_phrase)]
        return [[*self.methods.values()][place], gamma, *recalls, *means]

    def groups(self) -> list[str]:
        """The groups that have phrases."""
        return [name for name, found in self.scores.methods[0][0].groups.items() if found.phrases]

    def _by_group(
        self, figure: Callable[[Found], float], sources: Sequence[Published]
    ) -> list[str]:
        """A figure of each group by method, as in the papers' Table 7, and what is published."""
        groups = self.groups()
        rows = [["", *groups, "mean"]]
        for (name, title), (parts, _) in zip(
            self.methods.items(), self.scores.methods, strict=True
        ):
            own = [figure(parts.groups[group]) for group in groups]
            rows.append([title, *map(percent, own), percent(mean(own))])
            for source in sources:
                rows += [_groups_beside(source, row, groups) for row in source.of(name)]
        for source in sources:
            rows += [_groups_beside(source, row, groups, row.method) for row in source.unplayed()]
        return aligned(rows)


def _both(parts: tuple[Parts, Parts], figure: Callable[[Parts], float]) -> str:
    """A figure of all phrases, and of those of small instances, as in the papers' Table 6."""
    return "/".join(percent(figure(part)) for part in parts)


def _name(source: Published, row: Row, method: str) -> str:
    """Of a published row, by its proposals, and by its method where that is not above."""
    parts = [source.title, method, row.settings["proposals"]]
    return f"  {', '.join(filter(None, parts))} (T{row.table})"


def _beside(source: Published, row: Row, method: str = "") -> list[str]:
    """A published row beneath one's own."""

    def shown(column: str) -> str:
        found = (row.figures.get(name) for name in (column, f"{column}_small"))
        return "/".join("-" if figure is None else f"{figure:.1f}" for figure in found)

    gamma = f"{row.figures['gamma']:g}" if "gamma" in row.figures else "-"
    columns = [*(f"recall@{rank}" for rank in RANKS), "AP_groups", "AP_phrases"]
    return [_name(source, row, method), gamma, *map(shown, columns)]


def _groups_beside(
    source: Published, row: Row, groups: Sequence[str], method: str = ""
) -> list[str]:
    return [_name(source, row, method), *(f"{row.figures[g]:.1f}" for g in (*groups, "mean"))]


def _json(parts: Parts) -> dict[str, Any]:
    return {
        **_found(parts.everything),
        "mean_recall@5_by_group": _number(
            mean([found.recall(_AT) for found in parts.groups.values()])
        ),
        "mean_average_precision_by_group": _number(parts.mean_by_group()),
        "mean_average_precision_by_phrase": _number(parts.mean_by_phrase()),
        "groups": {
            group: {**_found(part), "average_precision": _number(part.average_precision())}
            for group, part in parts.groups.items()
        },
    }


def _found(found: Found) -> dict[str, Any]:
    recalls = {f"recall@{rank}": _number(found.recall(place)) for place, rank in enumerate(RANKS)}
    hits = {f"hits@{rank}": count for rank, count in zip(RANKS, found.hits, strict=True)}
    return {"phrases": found.phrases, "boxes": found.boxes, **recalls, **hits}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
