"""The pointing game in pictures: where methods disagree, and each one's hits and misses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .again import Again, Look
from .choice import Outcome, choose
from .drawing import Drawing
from .gallery import Figure, Group, Page, Section, replacing
from .pointing import PointingGame, is_hit
from .store import write_whole
from .tables import PointingTable, percent

_OTHERWISE = "Computed again, in another batch, the maximum is here, and not as in the table a {}."
_CHOICE = (
    "The pairs were chosen by a rule that looks at no map: of as many categories and photographs "
    "as can be, difficult ones first. How often a method hits is in the table, not to be seen here."
)


class _Drawn(NamedTuple):
    """A picture that is in the folder, and what is to be said of it."""

    file: str
    size: tuple[int, int]
    alt: str
    score: str
    notes: list[str]
    otherwise: bool


@dataclass(frozen=True)
class PointingGallery:
    """What the gallery is of.

    Attributes:
        game: that was played.
        table: its scores.
        outcomes: all its pairs; see `pointing.outcomes`.
        look: makes the maps again.
        network: its name and that of its weights.
    """

    game: PointingGame
    table: PointingTable
    outcomes: Sequence[Outcome]
    look: Look
    network: str

    def write(self, folder: Path, count: int) -> int:
        """Writes the folder, or replaces it: index.html and its pictures.

        Args:
            folder: to be made in a folder that is there.
            count: number of hits and number of misses of each method, and number of pairs on which
                methods disagree; as many as there are where they are fewer.

        Returns:
            The number of maps that hit or miss otherwise than in the records. Programs of other
            batches round otherwise, which tells where a map has two maxima; more than a few such
            are a fault of a compiler or a device.

        Raises:
            OSError, ValueError: a photograph cannot be read, or a file cannot be written.
        """
        # The centre of the photograph, which comes last, has no map.
        outcomes = [o._replace(hits=o.hits[:-1]) for o in self.outcomes]
        contested = choose((o for o in outcomes if len(set(o.hits)) > 1), count)
        sections = []
        with replacing(folder) as new:
            of_methods = []
            for m in range(len(self.game.methods)):
                hits, misses = (
                    choose((o for o in outcomes if o.hits[m] == hit), count)
                    for hit in (True, False)
                )
                drawn = self._draw(m, dict.fromkeys([*contested, *hits, *misses]), new)
                of_methods.append(drawn)
                sections.append(self._section(m, hits, misses, drawn))
            if len(of_methods) > 1:
                sections.insert(0, self._contested(contested, of_methods))
            write_whole(new / "index.html", self._page(sections).html())
        return sum(d.otherwise for drawn in of_methods for d in drawn.values())

    def _draw(self, m: int, pairs: Iterable[Outcome], folder: Path) -> dict[Outcome, _Drawn]:
        name = list(self.game.methods)[m]
        found = {}
        for pair, again in self.look.at(self.game.methods[name], list(pairs)):
            file = f"{m}-{pair.place}-{pair.category}.jpg"
            found[pair] = self._drawn(m, pair, again, folder / file)
        return found

    def _drawn(self, m: int, pair: Outcome, again: Again, path: Path) -> _Drawn:
        dataset, rules = self.game.dataset, self.game.rules
        example, category = dataset[pair.place], dataset.classes[pair.category]
        region = example.region(category, masks=dataset.masks)
        drawing = Drawing(example.image(), again.heat)
        if dataset.masks:
            drawing.outline(region)
        else:
            drawing.boxes(map(tuple, example.boxes(category).tolist()))
        row, column = again.point
        drawing.point(row, column, rules.tolerance)
        drawing.image.save(path, quality=85, subsampling=0)  # thin lines keep their colour
        notes = ["difficult"] if pair.difficult else []
        otherwise = is_hit(region, row, column, rules) != pair.hits[m]
        if otherwise:
            notes.append(_OTHERWISE.format("hit" if pair.hits[m] else "miss"))
        verdict = "hits" if pair.hits[m] != otherwise else "misses"
        alt = (
            f"{self._title(m)} for {dataset.titles[pair.category]} on photograph {example.key}: "
            f"the maximum, in row {row} and column {column}, {verdict}"
        )
        score = f"score {again.score:.3g}, rank {again.rank} of {len(dataset.classes)}"
        return _Drawn(path.name, drawing.image.size, alt, score, notes, otherwise)

    def _contested(
        self, pairs: Sequence[Outcome], of_methods: Sequence[Mapping[Outcome, _Drawn]]
    ) -> Section:
        groups = []
        for pair in pairs:
            figures = [
                Figure(
                    d.file, d.size, d.alt, self._title(m), pair.hits[m], d.notes[pair.difficult :]
                )
                for m, d in enumerate(drawn[pair] for drawn in of_methods)
            ]
            category = self.game.dataset.titles[pair.category]
            hard = ", difficult" if pair.difficult else ""
            title = f"{category} on {self.game.dataset[pair.place].key}{hard}"
            groups.append(Group(f"{title}; {of_methods[0][pair].score}", figures))
        total = sum(len(set(o.hits[:-1])) > 1 for o in self.outcomes)
        text = f"{len(pairs)} of {total} pairs on which some methods hit and others miss."
        return Section("Where the methods disagree", text, groups)

    def _section(
        self, m: int, hits: Sequence[Outcome], misses: Sequence[Outcome],
        drawn: Mapping[Outcome, _Drawn],
    ) -> Section:  # fmt: skip
        hit, total = (int(part[m, 0].sum()) for part in self.table.counts)
        groups = []
        for kind, pairs, there in (("hits", hits, hit), ("misses", misses, total - hit)):
            figures = []
            for pair in pairs:
                d, key = drawn[pair], self.game.dataset[pair.place].key
                title = self.game.dataset.titles[pair.category]
                lines = (key, d.score, *d.notes)
                figures.append(Figure(d.file, d.size, d.alt, title, kind == "hits", lines))
            groups.append(Group(f"{len(pairs)} of {there} {kind}", figures))
        text = f"{self._title(m)} hits {hit} of {total} pairs."
        return Section(self._title(m), text, groups)

    def _page(self, sections: Sequence[Section]) -> Page:
        dataset, rules, table = self.game.dataset, self.game.rules, self.table
        total, hard = table.counts.pairs[0].sum(axis=1)
        near = "nearer than" if rules.strict else "within"
        objects = "masks" if dataset.masks else "boxes"
        hit = (
            f"the maximum lies in the category's {objects} or {near} {rules.tolerance:g} px of them"
        )
        if not rules.all_difficult:
            hit += "; categories whose objects are all flagged as difficult are left out"
        height, width = self.look.preprocessing.size
        cut = self.look.preprocessing.crop is not None
        facts = {
            "Data": f"{dataset.name}, {table.images} photographs",
            "Pairs": f"{total} of a photograph and a category, {hard} of them difficult",
            "Network": self.network,
            "Input": f"{'the middle' if cut else 'all'} of a photograph, as {width} x {height} px",
            "Hit": hit,
            "Blur": f"{100 * self.game.blur:g} % of the longer side, of maps as fine as the input",
        }
        rows = [
            ["method", "all, %", "hits", "95 % interval", "difficult, %", "hits", "95 % interval"]
        ]
        for place, title in enumerate(table.methods.values()):
            row = [title]
            for subset in (0, 1):
                hits, pairs = (int(part[place, subset].sum()) for part in table.counts)
                low, high = table.interval(place, subset)
                row += [percent(table.score(place, subset)), f"{hits} / {pairs}",
                        f"{percent(low)} to {percent(high)}"]  # fmt: skip
            rows.append(row)
        legend = (
            "A picture is the photograph in grey with the map over it, clear where it is small and "
            f"yellow where it is largest. Outlined are the category's {objects}; the cross is the "
            "map's maximum, and the ring round it is the tolerance. What the network does not see "
            "is dark."
        )
        scores = (
            "Scores are means over the categories; the intervals are Wilson's, of the plain share "
            "of hits."
        )
        return Page(
            f"Pointing game, {dataset.name}", (legend, _CHOICE), facts, rows, scores, sections
        )

    def _title(self, m: int) -> str:
        return self.table.methods[list(self.game.methods)[m]]
