"""An experiment in pictures: where methods disagree on a pair, and each one's hits and misses."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..data.records import Dataset
from ..data.run_directory import write_whole
from .again import Again, Look
from .choice import Outcome, choose
from .drawing import Drawing
from .gallery import Figure, Group, Page, Section, replacing
from .points import MapFunction

_OTHERWISE = "Computed again, in another batch, it is as drawn here, and not as in the table a {}."

#: For a page: how its pairs were chosen.
CHOICE = (
    "The pairs were chosen by a rule that looks at no map: of as many categories and photographs "
    "as can be, difficult ones first. How often a method hits is in the table, not to be seen here."
)


class Marked(NamedTuple):
    """What was drawn of a map: whether it hits, and what it is, in words."""

    hit: bool
    text: str


class _Drawn(NamedTuple):
    """A picture that is in the folder, and what is to be said of it."""

    file: str
    size: tuple[int, int]
    alt: str
    score: str
    notes: list[str]
    otherwise: bool


@dataclass(frozen=True)
class PairGallery(abc.ABC):
    """What the gallery is of.

    Attributes:
        outcomes: all pairs of the experiment; its last method, a baseline, has no map.
        look: makes the maps again.
        network: its name and that of its weights.
    """

    outcomes: Sequence[Outcome]
    look: Look
    network: str

    @property
    @abc.abstractmethod
    def dataset(self) -> Dataset[Any]:
        """Of the experiment."""

    @property
    @abc.abstractmethod
    def methods(self) -> Mapping[str, MapFunction]:
        """Functions that make maps, by name."""

    @property
    @abc.abstractmethod
    def titles(self) -> Mapping[str, str]:
        """What to call the methods."""

    @abc.abstractmethod
    def mark(self, drawing: Drawing, m: int, pair: Outcome, again: Again) -> Marked:
        """Draws what belongs on method m's map of a pair."""

    @abc.abstractmethod
    def page(self, sections: Sequence[Section]) -> Page:
        """The page of these sections."""

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
        outcomes = [o._replace(hits=o.hits[:-1]) for o in self.outcomes]
        contested = choose((o for o in outcomes if o.contested), count)
        sections = []
        with replacing(folder) as new:
            of_methods = []
            for m in range(len(self.methods)):
                hits, misses = (
                    choose((o for o in outcomes if o.hits[m] == hit), count)
                    for hit in (True, False)
                )
                drawn = self._draw(m, dict.fromkeys([*contested, *hits, *misses]), new)
                of_methods.append(drawn)
                sections.append(self._section(m, hits, misses, drawn))
            if len(of_methods) > 1:
                sections.insert(0, self._contested(contested, of_methods))
            write_whole(new / "index.html", self.page(sections).html())
        return sum(d.otherwise for drawn in of_methods for d in drawn.values())

    def title(self, m: int) -> str:
        """What to call a method."""
        return self.titles[list(self.methods)[m]]

    def _draw(self, m: int, pairs: Iterable[Outcome], folder: Path) -> dict[Outcome, _Drawn]:
        name = list(self.methods)[m]
        found = {}
        for pair, again in self.look.at(self.methods[name], list(pairs)):
            file = f"{m}-{pair.place}-{pair.category}.jpg"
            found[pair] = self._drawn(m, pair, again, folder / file)
        return found

    def _drawn(self, m: int, pair: Outcome, again: Again, path: Path) -> _Drawn:
        dataset = self.dataset
        example, title = dataset[pair.place], dataset.titles[pair.category]
        drawing = Drawing(example.image(), again.heat)
        hit, what = self.mark(drawing, m, pair, again)
        drawing.image.save(path, quality=85, subsampling=0)  # thin lines keep their colour
        notes = ["difficult"] if pair.difficult else []
        otherwise = hit != pair.hits[m]
        if otherwise:
            notes.append(_OTHERWISE.format("hit" if pair.hits[m] else "miss"))
        verdict = "hits" if hit else "misses"
        alt = f"{self.title(m)} for {title} on photograph {example.key}: {what}, {verdict}"
        score = f"score {again.score:.3g}, rank {again.rank} of {len(dataset.classes)}"
        return _Drawn(path.name, drawing.image.size, alt, score, notes, otherwise)

    def _contested(
        self, pairs: Sequence[Outcome], of_methods: Sequence[Mapping[Outcome, _Drawn]]
    ) -> Section:
        groups = []
        for pair in pairs:
            figures = [
                Figure(
                    d.file, d.size, d.alt, self.title(m), pair.hits[m], d.notes[pair.difficult :]
                )
                for m, d in enumerate(drawn[pair] for drawn in of_methods)
            ]
            category = self.dataset.titles[pair.category]
            hard = ", difficult" if pair.difficult else ""
            title = f"{category} on {self.dataset[pair.place].key}{hard}"
            groups.append(Group(f"{title}; {of_methods[0][pair].score}", figures))
        total = sum(len(set(o.hits[:-1])) > 1 for o in self.outcomes)
        text = f"{len(pairs)} of {total} pairs on which some methods hit and others miss."
        return Section("Where the methods disagree", text, groups)

    def _section(
        self,
        m: int,
        hits: Sequence[Outcome],
        misses: Sequence[Outcome],
        drawn: Mapping[Outcome, _Drawn],
    ) -> Section:
        total, hit = len(self.outcomes), sum(o.hits[m] for o in self.outcomes)
        groups = []
        for kind, pairs, there in (("hits", hits, hit), ("misses", misses, total - hit)):
            figures = []
            for pair in pairs:
                d, key = drawn[pair], self.dataset[pair.place].key
                title = self.dataset.titles[pair.category]
                lines = (key, d.score, *d.notes)
                figures.append(Figure(d.file, d.size, d.alt, title, kind == "hits", lines))
            groups.append(Group(f"{len(pairs)} of {there} {kind}", figures))
        text = f"{self.title(m)} hits {hit} of {total} pairs."
        return Section(self.title(m), text, groups)
