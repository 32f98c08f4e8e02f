"""The pointing game's scores as a table in the papers' form, and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..intervals import wilson
from ..published.figures import Published, Row
from ..tables import aligned, percent
from .pointing_game import PAPER, Counts, Rules, accuracy

CENTRE = "centre"

_TELLS = " with its 95 % interval (photographs drawn again)"


@dataclass(frozen=True)
class PointingTable:
    """The scores of methods.

    Attributes:
        title: of the data set.
        classes: names, in the order of the counts.
        methods: names, in the order of the counts, and what to call them.
        counts: see `pointing.count`.
        images: number of photographs.
        rules: of the game.
        intervals: see `pointing.intervals`; None where they are not known.
        published: what there is to show beside.
    """

    title: str
    classes: Sequence[str]
    methods: Mapping[str, str]
    counts: Counts
    images: int
    rules: Rules = PAPER
    intervals: NDArray[np.float64] | None = None
    published: Sequence[Published] = ()

    def score(self, method: int, subset: int) -> float:
        """Between 0 and 1, or NaN, of a method; subset 0: all pairs, 1: the difficult ones."""
        hits, pairs = (part[method, subset].tolist() for part in self.counts)
        return accuracy(hits, pairs, self.rules)

    def interval(self, method: int, subset: int) -> tuple[float, float] | None:
        """Of 95 % of the score, between 0 and 1; None where it is not known."""
        if self.intervals is None or not self.counts.pairs[method, subset].sum():
            return None
        low, high = self.intervals[method, subset].round(6).tolist()
        return low, high

    def __str__(self) -> str:
        total, hard = self.counts.pairs[0].sum(axis=1)
        kind = "below" if self.rules.strict else "within"
        lines = [
            f"pointing game, {self.title}: {self.images} images, {total} pairs, {hard} difficult; "
            f"{kind} {self.rules.tolerance:g} px",
            f"mean over categories, %{'' if self.intervals is None else _TELLS}, and plain hits",
        ]
        rows = [["", *self._heads("all"), *self._heads("difficult")]]
        rows[0] += [source.title for source in self.published]
        for place, (name, title) in enumerate(self.methods.items()):
            row = [title]
            for subset in (0, 1):
                row += self._cells(place, subset)
            row += ["; ".join(map(_figures, source.of(name))) for source in self.published]
            rows.append(row)
        lines += [*aligned(rows), *(source.cited(self.images) for source in self.published)]
        lines += ["", "hits / pairs of each category"]
        names = list(self.methods.values())
        rows = [["", *names]]
        for c, category in enumerate(self.classes):
            total = int(self.counts.pairs[0, 0, c])
            if total:
                own = self.counts.hits[:, 0, c].tolist()
                rows.append([category, *(f"{hit} / {total}" for hit in own)])
        return "\n".join([*lines, *aligned(rows)])

    def json(self) -> str:
        """The scores between 0 and 1 (null where nothing is played with), and all counts."""
        methods: dict[str, Any] = {}
        for place, (name, title) in enumerate(self.methods.items()):
            scores = [self.score(place, subset) for subset in (0, 1)]
            per_class = {
                category: {
                    "hits": int(self.counts.hits[place, 0, c]),
                    "pairs": int(self.counts.pairs[place, 0, c]),
                    "difficult_hits": int(self.counts.hits[place, 1, c]),
                    "difficult_pairs": int(self.counts.pairs[place, 1, c]),
                }
                for c, category in enumerate(self.classes)
            }
            methods[name] = {
                "title": title,
                "all": None if math.isnan(scores[0]) else scores[0],
                "difficult": None if math.isnan(scores[1]) else scores[1],
                "interval_95": self.interval(place, 0),
                "difficult_interval_95": self.interval(place, 1),
                "hits": self._share(place, 0),
                "difficult_hits": self._share(place, 1),
                "categories": per_class,
            }
        found = {
            "experiment": "pointing game",
            "data": self.title,
            "images": self.images,
            "tolerance": self.rules.tolerance,
            "strict": self.rules.strict,
            "all_difficult": self.rules.all_difficult,
            "absent_as_zero": self.rules.absent_as_zero,
            "methods": methods,
            "published": [source.json() for source in self.published],
        }
        return json.dumps(found, indent=1) + "\n"

    def _share(self, method: int, subset: int) -> dict[str, Any]:
        hits, pairs = (int(part[method, subset].sum()) for part in self.counts)
        interval = [round(end, 6) for end in wilson(hits, pairs)] if pairs else None
        share = hits / pairs if pairs else None
        return {"hits": hits, "pairs": pairs, "share": share, "share_interval_95": interval}

    def _heads(self, subset: str) -> list[str]:
        """The titles of a subset's columns."""
        return [subset, "hits"] if self.intervals is None else [subset, "95 %", "hits"]

    def _cells(self, method: int, subset: int) -> list[str]:
        """Score, interval of the score, and plain hits."""
        hits, pairs = (int(part[method, subset].sum()) for part in self.counts)
        cells = [percent(self.score(method, subset))]
        if self.intervals is not None:
            ends = self.interval(method, subset)
            cells.append(" to ".join(map(percent, ends)) if ends else "")
        return [*cells, f"{hits}/{pairs}"]


def _figures(row: Row) -> str:
    """Of all pairs and of the difficult ones; a table's number in brackets."""
    both = (row.figures.get(subset, math.nan) for subset in ("all", "difficult"))
    shown = " / ".join("-" if math.isnan(figure) else f"{figure:.1f}" for figure in both)
    return shown if row.table is None else f"{shown} (T{row.table})"
