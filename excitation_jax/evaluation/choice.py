"""Which of a data set's pairs to look at, of the many that an experiment has."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple


class Outcome(NamedTuple):
    """A pair, and what became of each method's map.

    Attributes:
        place: of the photograph in the data set.
        category: the number of what the maps are of.
        difficult: whether the pair is.
        hits: of each method, whether its map hit.
    """

    place: int
    category: int
    difficult: bool
    hits: tuple[bool, ...]

    @property
    def contested(self) -> bool:
        """Whether some methods hit and others miss."""
        return len(set(self.hits)) > 1


def choose(outcomes: Iterable[Outcome], count: int) -> list[Outcome]:
    """At most `count`: of as many categories and photographs as can be, difficult ones first.

    The choice depends on nothing but which pairs there are: not on their order, and on no map's
    looks. Of several methods' pairs it takes the same where it can.

    >>> pairs = [Outcome(place, place % 2, False, (True,)) for place in range(100)]
    >>> sorted((pair.place, pair.category) for pair in choose(pairs, 4))
    [(0, 0), (13, 1), (34, 0), (89, 1)]
    """
    by_category: dict[int, list[Outcome]] = {}
    for outcome in outcomes:
        by_category.setdefault(outcome.category, []).append(outcome)
    # Photographs may be used up by other categories: so some more than `count` of each.
    left = [
        outcome
        for own in by_category.values()
        for outcome in heapq.nsmallest(2 * count, own, key=_order)
    ]
    categories: Counter[int] = Counter()
    places: Counter[int] = Counter()
    found: list[Outcome] = []
    while left and len(found) < count:
        best = min(left, key=lambda o: (categories[o.category], places[o.place], *_order(o)))
        left.remove(best)
        found.append(best)
        categories[best.category] += 1
        places[best.place] += 1
    return found


def _order(outcome: Outcome) -> tuple[bool, int, int]:
    # Multiples of the golden ratio: the smallest of them lie far apart in the data set.
    scattered = outcome.place * 2654435769 % 2**32
    return not outcome.difficult, scattered, outcome.category
