"""The pointing game's scores as a table in the papers' form, and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..intervals import wilson
from ..tables import aligned, percent
from .pointing_game import PAPER, Counts, Rules, accuracy

CENTRE = "centre"


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
        published: scores in per cent (all, difficult) by method, to show beside.
        published_for: what network and data set they are for.
    """

    title: str
    classes: Sequence[str]
    methods: Mapping[str, str]
    counts: Counts
    images: int
    rules: Rules = PAPER
    published: Mapping[str, tuple[float, float]] | None = None
    published_for: str = ""

    def score(self, method: int, subset: int) -> float:
        """Between 0 and 1, or NaN, of a method; subset 0: all pairs, 1: the difficult ones."""
        hits, pairs = (part[method, subset].tolist() for part in self.counts)
        return accuracy(hits, pairs, self.rules)

    def interval(self, method: int, subset: int) -> tuple[float, float]:
        """Of 95 % of the plain share of hits, which is not the score; see `intervals.wilson`."""
        return wilson(*(int(part[method, subset].sum()) for part in self.counts))

    def __str__(self) -> str:
        total, hard = self.counts.pairs[0].sum(axis=1)
        kind = "below" if self.rules.strict else "within"
        lines = [
            f"pointing game, {self.title}: {self.images} images, {total} pairs, {hard} difficult; "
            f"{kind} {self.rules.tolerance:g} px",
            "mean over categories, % (hits)",
        ]
        shown = dict(self.published or {})
        rows = [["", "all", "", "difficult", ""]]
        if shown:
            rows[0] += [f"published, {self.published_for}"]
        for place, (name, title) in enumerate(self.methods.items()):
            row = [title]
            for subset in (0, 1):
                row += [percent(self.score(place, subset)), f"({self._hits(place, subset)})"]
            if shown:
                row += ["{:.1f} / {:.1f}".format(*shown[name]) if name in shown else ""]
            rows.append(row)
        lines += aligned(rows)
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
        }
        return json.dumps(found, indent=1) + "\n"

    def _share(self, method: int, subset: int) -> dict[str, Any]:
        hits, pairs = (int(part[method, subset].sum()) for part in self.counts)
        interval = [round(end, 6) for end in self.interval(method, subset)] if pairs else None
        return {"hits": hits, "pairs": pairs, "interval_95": interval}

    def _hits(self, method: int, subset: int) -> str:
        hits, pairs = (int(part[method, subset].sum()) for part in self.counts)
        return f"{hits}/{pairs}"
