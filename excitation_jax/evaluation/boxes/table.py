"""The errors of boxes as a table in the papers' form, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..published.figures import Published, Row
from ..tables import aligned, percent
from .localisation import OVERLAP, Counts

#: The box round the whole photograph, as a method.
WHOLE = "whole"


@dataclass(frozen=True)
class BoxTable:
    """The errors of methods, each at the alpha that is best on what was held out.

    Attributes:
        title: of the data set.
        classes: names, in the order of the counts.
        methods: names, in the order of the counts, and what to call them.
        alphas: thresholds, in the order of the counts.
        counts: see `boxes.count`.
        images: number of photographs that were not held out.
        held_out: number of those that were.
        published: what there is to show beside.

    Raises:
        ValueError: there are no boxes in what was held out, or none in the rest.
    """

    title: str
    classes: Sequence[str]
    methods: Mapping[str, str]
    alphas: Sequence[float]
    counts: Counts
    images: int
    held_out: int
    published: Sequence[Published] = ()

    def __post_init__(self) -> None:
        if not self.counts.pairs.sum(axis=1).all():
            raise ValueError(
                f"{self.title} has no boxes in the {self.held_out} photographs that are held out "
                f"or in the {self.images} others: hold out every second one (--held-out 2)"
            )

    def best(self, method: int) -> int:
        """The place of a method's alpha: with most right boxes held out, of several the lowest."""
        return int(self.counts.right[method, 0].sum(axis=-1).argmax())

    def error(self, method: int) -> float:
        """The share of wrong boxes, between 0 and 1, of a method at its alpha."""
        right = int(self.counts.right[method, 1, self.best(method)].sum())
        return 1 - right / int(self.counts.pairs[1].sum())

    def __str__(self) -> str:
        tuning, total = self.counts.pairs.sum(axis=1)
        lines = [
            f"boxes, {self.title}: {self.images} images, {total} pairs; alpha chosen on "
            f"{self.held_out} others, {tuning} pairs",
            f"wrong boxes (intersection over union below {OVERLAP:g}), %",
        ]
        titles = [f"{source.title}: alpha, error" for source in self.published]
        rows = [["", "alpha", "error", "", *titles]]
        for place, (name, title) in enumerate(self.methods.items()):
            right = int(self.counts.right[place, 1, self.best(place)].sum())
            alpha = "" if name == WHOLE else f"{self.alphas[self.best(place)]:g}"
            row = [title, alpha, percent(self.error(place)), f"({total - right}/{total})"]
            row += ["; ".join(map(_figures, source.of(name))) for source in self.published]
            rows.append(row)
        cited = [source.cited(self.images) for source in self.published]
        return "\n".join([*lines, *aligned(rows), *cited])

    def json(self) -> str:
        """The errors between 0 and 1, and all counts."""
        methods: dict[str, Any] = {}
        for place, (name, title) in enumerate(self.methods.items()):
            best = self.best(place)
            methods[name] = {
                "title": title,
                "alpha": self.alphas[best],
                "error": self.error(place),
                "right": self.counts.right[place, 1].sum(axis=-1).tolist(),
                "right_held_out": self.counts.right[place, 0].sum(axis=-1).tolist(),
                "categories": {
                    category: {
                        "right": int(self.counts.right[place, 1, best, c]),
                        "pairs": int(self.counts.pairs[1, c]),
                    }
                    for c, category in enumerate(self.classes)
                    if self.counts.pairs[1, c]
                },
            }
        found = {
            "experiment": "boxes",
            "data": self.title,
            "images": self.images,
            "held_out": self.held_out,
            "pairs": int(self.counts.pairs[1].sum()),
            "pairs_held_out": int(self.counts.pairs[0].sum()),
            "overlap": OVERLAP,
            "alphas": list(self.alphas),
            "methods": methods,
            "published": [source.json() for source in self.published],
        }
        return json.dumps(found, indent=1) + "\n"


def _figures(row: Row) -> str:
    """Alpha, where there is one, and the error."""
    alpha = f"{row.figures['alpha']:g}" if "alpha" in row.figures else "-"
    return f"{alpha}, {row.figures['error']:.1f} (T{row.table})"
