"""Boxes of dominant objects in pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from ... import maps
from ...data.records import Dataset
from ..again import Again
from ..choice import Outcome
from ..drawing import Drawing
from ..gallery import Page, Section
from ..pair_gallery import CHOICE, Marked, PairGallery
from ..points import MapFunction, grid_of
from ..tables import percent
from .localisation import OVERLAP, BoxLocalisation, overlaps
from .table import WHOLE, BoxTable


@dataclass(frozen=True)
class BoxGallery(PairGallery):
    """What the gallery is of; see `PairGallery` for outcomes, look and network.

    Attributes:
        experiment: whose boxes these are.
        table: its errors, and each method's alpha.
    """

    experiment: BoxLocalisation
    table: BoxTable

    @property
    def dataset(self) -> Dataset[Any]:
        return self.experiment.dataset

    @property
    def methods(self) -> Mapping[str, MapFunction]:
        return self.experiment.methods

    @property
    def titles(self) -> Mapping[str, str]:
        return self.table.methods

    def mark(self, drawing: Drawing, m: int, pair: Outcome, again: Again) -> Marked:
        example = self.dataset[pair.place]
        true = example.boxes(self.dataset.classes[pair.category])
        grid = grid_of([*self.methods.values()][m], self.experiment.preprocessing.size)
        cells = maps.resize(jnp.asarray(again.cells), self.experiment.preprocessing.size, grid)
        alpha = self.table.alphas[self.table.best(m)]
        found = self.experiment.in_photograph(maps.box(cells, alpha), example)
        drawing.boxes(map(tuple, true.tolist()))
        drawing.boxes([tuple(found.tolist())], found=True)
        common = float(overlaps(found, true).max())
        text = f"the box {', '.join(f'{edge:.0f}' for edge in found)}, IoU {common:.2f}"
        return Marked(common >= OVERLAP, text)

    def page(self, sections: Sequence[Section]) -> Page:
        table = self.table
        tuning, total = table.counts.pairs.sum(axis=1)
        facts = {
            "Data": f"{self.dataset.name}, {table.images} photographs; alpha was chosen on "
            f"{table.held_out} others, {tuning} pairs",
            "Pairs": f"{total} of a photograph and a category",
            "Network": self.network,
            "Input": self.look.view(),
            "Hit": f"the box has an intersection over union of at least {OVERLAP:g} with an "
            "object's",
            "Blur": f"{100 * self.experiment.blur:g} % of the longer side, of maps as fine as the "
            "input",
        }
        rows = [["method", "alpha", "wrong boxes, %", "right boxes"]]
        for place, (name, title) in enumerate(table.methods.items()):
            right = int(table.counts.right[place, 1, table.best(place)].sum())
            alpha = "" if name == WHOLE else f"{table.alphas[table.best(place)]:g}"
            rows.append([title, alpha, percent(table.error(place)), f"{right} / {total}"])
        legend = (
            "A picture is the photograph in grey with the map over it, clear where it is small and "
            "yellow where it is largest. Green boxes are the objects', the white one is the "
            "tightest box round what exceeds alpha times the map's mean. What the network does "
            "not see is dark."
        )
        return Page(
            f"Boxes, {self.dataset.name}",
            (legend, CHOICE),
            facts,
            rows,
            "Errors of the photographs that were not held out.",
            sections,
        )
