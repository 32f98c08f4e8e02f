"""The pointing game by layer: each method's score at each layer (IJCV18, Figure 6)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..tables import aligned, percent
from .table import PointingTable

#: The pairs that a subset has, by its number.
SUBSETS = ("all pairs", "difficult pairs")


@dataclass(frozen=True)
class LayerTable:
    """The scores of methods that were read at several layers.

    Attributes:
        table: the scores of all, by "name@layer"; what else is in it is left out here.
        layers: in order; at least one method was read at one of them.
    """

    table: PointingTable
    layers: Sequence[str]

    def methods(self) -> dict[str, str]:
        """The methods that were read at a layer, by name, and what to call them."""
        found = {}
        for name, title in self.table.methods.items():
            method, _, layer = name.partition("@")
            if layer in self.layers:
                found[method] = title.removesuffix(f" at {layer}")
        return found

    def scores(self, subset: int) -> NDArray[np.float64]:
        """Of each method at each layer, (methods, layers), between 0 and 1.

        NaN where a method was not read at the layer, or nothing is played with. subset: 0 of all
        pairs, 1 of the difficult ones.
        """
        places = self._places()
        scores = [
            math.nan if place is None else self.table.score(place, subset) for place in places
        ]
        return np.array(scores).reshape(-1, len(self.layers))

    def intervals(self, subset: int) -> NDArray[np.float64]:
        """Of 95 % of the scores, (methods, layers, 2); NaN where they are not known."""
        ends = [
            (None if place is None else self.table.interval(place, subset)) or (math.nan, math.nan)
            for place in self._places()
        ]
        return np.array(ends).reshape(-1, len(self.layers), 2)

    def __str__(self) -> str:
        lines = []
        for subset, title in enumerate(SUBSETS):
            lines += ["", f"mean over categories by layer, %, {title}"]
            rows = [["", *self.layers]]
            for name, scores in zip(self.methods().values(), self.scores(subset), strict=True):
                rows.append([name, *map(percent, scores.tolist())])
            lines += aligned(rows)
        return "\n".join(lines[1:])

    def json(self) -> str:
        """The scores between 0 and 1 by method and layer; null where there are none."""

        def by_layer(scores: NDArray[np.float64]) -> dict[str, float | None]:
            shown = [None if math.isnan(score) else score for score in scores.tolist()]
            return dict(zip(self.layers, shown, strict=True))

        found = {
            "experiment": "pointing game by layer",
            "data": self.table.title,
            "images": self.table.images,
            "layers": list(self.layers),
            "methods": {
                name: {
                    "title": title,
                    "all": by_layer(self.scores(0)[place]),
                    "difficult": by_layer(self.scores(1)[place]),
                }
                for place, (name, title) in enumerate(self.methods().items())
            },
        }
        return json.dumps(found, indent=1) + "\n"

    def _places(self) -> list[int | None]:
        """In the table, of each method at each layer."""
        places = {name: place for place, name in enumerate(self.table.methods)}
        return [
            places.get(f"{method}@{layer}") for method in self.methods() for layer in self.layers
        ]
