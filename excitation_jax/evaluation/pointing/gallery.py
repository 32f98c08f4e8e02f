"""The pointing game in pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...data.records import Dataset
from ..again import Again
from ..choice import Outcome
from ..drawing import Drawing
from ..gallery import Page, Section
from ..pair_gallery import CHOICE, Marked, PairGallery
from ..points import MapFunction
from ..tables import percent
from .pointing_game import PointingGame, is_hit
from .table import PointingTable


@dataclass(frozen=True)
class PointingGallery(PairGallery):
    """What the gallery is of; see `PairGallery` for outcomes, look and network.

    Attributes:
        game: that was played.
        table: its scores.
    """

    game: PointingGame
    table: PointingTable

    @property
    def dataset(self) -> Dataset[Any]:
        return self.game.dataset

    @property
    def methods(self) -> Mapping[str, MapFunction]:
        return self.game.methods

    @property
    def titles(self) -> Mapping[str, str]:
        return self.table.methods

    def mark(self, drawing: Drawing, m: int, pair: Outcome, again: Again) -> Marked:
        dataset, rules = self.game.dataset, self.game.rules
        example, category = dataset[pair.place], dataset.classes[pair.category]
        region = example.region(category, masks=dataset.masks)
        if dataset.masks:
            drawing.outline(region)
        else:
            drawing.boxes(map(tuple, example.boxes(category).tolist()))
        row, column = again.point
        drawing.point(row, column, rules.tolerance)
        text = f"the maximum, in row {row} and column {column}"
        return Marked(is_hit(region, row, column, rules), text)

    def page(self, sections: Sequence[Section]) -> Page:
        dataset, rules, table = self.game.dataset, self.game.rules, self.table
        total, hard = table.counts.pairs[0].sum(axis=1)
        near = "nearer than" if rules.strict else "within"
        objects = "masks" if dataset.masks else "boxes"
        hit = (
            f"the maximum lies in the category's {objects} or {near} {rules.tolerance:g} px of them"
        )
        if not rules.all_difficult:
            hit += "; categories whose objects are all flagged as difficult are left out"
        facts = {
            "Data": f"{dataset.name}, {table.images} photographs",
            "Pairs": f"{total} of a photograph and a category, {hard} of them difficult",
            "Network": self.network,
            "Input": self.look.view(),
            "Hit": hit,
            "Blur": f"{100 * self.game.blur:g} % of the longer side, of maps as fine as the input",
        }
        rows = [
            ["method", "all, %", "95 % interval", "hits", "difficult, %", "95 % interval", "hits"]
        ]
        for place, title in enumerate(table.methods.values()):
            row = [title]
            for subset in (0, 1):
                hits, pairs = (int(part[place, subset].sum()) for part in table.counts)
                ends = table.interval(place, subset)
                row += [
                    percent(table.score(place, subset)),
                    " to ".join(map(percent, ends)) if ends else "",
                    f"{hits} / {pairs}",
                ]
            rows.append(row)
        legend = (
            "A picture is the photograph in grey with the map over it, clear where it is small and "
            f"yellow where it is largest. Outlined are the category's {objects}; the cross is the "
            "map's maximum, and the ring round it is the tolerance. What the network does not see "
            "is dark."
        )
        scores = (
            "Scores are means over the categories, and so not the share of the plain hits beside "
            "them; the intervals are of these means, by drawing the photographs again."
        )
        return Page(
            f"Pointing game, {dataset.name}", (legend, CHOICE), facts, rows, scores, sections
        )
