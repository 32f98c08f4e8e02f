"""Text to region in pictures: maps of phrases and of their words, as in IJCV18's Figure 9."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...data.flickr30k import Caption, CaptionedExample, Phrase
from ...data.run_directory import write_whole
from ..again import Again, Look
from ..choice import Outcome, choose
from ..drawing import Drawing
from ..gallery import Figure, Group, Page, Section, replacing
from .localisation import SMALL, TextToRegion, known, phrases
from .scores import OVERLAP, Localised
from .table import HEAD, TextTable

_MOST_WORDS = 6  # of a caption

_CHOICE = (
    "Phrases and captions were chosen by a rule that looks at no map: of as many groups and "
    "photographs as can be, small instances first. How often a method hits is in the table, not "
    "to be seen here."
)


class _Maps(NamedTuple):
    """The words' maps of a method, by photograph's place and output."""

    method: int
    words: dict[tuple[int, int], Again]


@dataclass(frozen=True)
class TextGallery:
    """What the gallery is of.

    Attributes:
        experiment: whose phrases these are.
        look: makes the maps again.
        network: its name and that of its weights.
        table: the scores.
    """

    experiment: TextToRegion
    look: Look
    network: str
    table: TextTable

    def write(self, folder: Path, count: int) -> None:
        """Writes the folder, or replaces it: index.html and its pictures.

        Args:
            folder: to be made in a folder that is there.
            count: number of phrases that each method localises, number of those that it misses, and
                number of captions; as many as there are where they are fewer.

        Raises:
            OSError, ValueError: a photograph cannot be read, or a file cannot be written.
        """
        captions = self._captions(count)
        sections = []
        with replacing(folder) as new:
            for m, function in enumerate(self.experiment.methods.values()):
                hits, misses = (self._phrases(m, hit, count) for hit in (True, False))
                asked = dict.fromkeys(
                    [
                        *((p.place, word) for p in (*hits, *misses) for word in self._words_of(p)),
                        *((place, word) for place, _, words in captions for word in words.values()),
                    ]
                )
                outcomes = [Outcome(place, word, False, ()) for place, word in asked]
                made = self.look.at(function, outcomes)
                maps = _Maps(m, {(pair.place, pair.category): again for pair, again in made})
                sections += self._sections(maps, hits, misses, captions, new)
            write_whole(new / "index.html", self._page(sections).html())

    def _phrases(self, m: int, hit: bool, count: int) -> list[Localised]:
        """Phrases with a known word that a method localises, or that it misses."""
        found: dict[Outcome, Localised] = {}
        groups = self.experiment.dataset.classes
        for phrase in self.table.scores.localised:
            if phrase.hits[m] == hit and phrase.boxes[m] is not None:
                own = next((g for g in self._phrase(phrase)[1].groups if g in groups), None)
                number = len(groups) if own is None else groups.index(own)
                # Of a photograph's phrases of a group that fare alike, the first stands for all.
                found.setdefault(Outcome(phrase.place, number, phrase.small, (hit,)), phrase)
        return [found[outcome] for outcome in choose(found, count)]

    def _captions(self, count: int) -> list[tuple[int, Caption, dict[str, int]]]:
        """Photographs' places, each with the caption of most known words, and their outputs."""
        outputs = self.experiment.words
        found = {}
        for place in sorted({phrase.place for phrase in self.table.scores.localised}):
            every = []
            for caption in self.experiment.dataset[place].captions:
                folded = dict.fromkeys(word.casefold() for word in caption.words)
                every.append((caption, {word: outputs[word] for word in folded if word in outputs}))
            caption, words = max(every, key=lambda pair: len(pair[1]))
            if words:
                first = dict(list(words.items())[:_MOST_WORDS])
                found[Outcome(place, 0, False, ())] = place, caption, first
        return [found[outcome] for outcome in choose(found, count)]

    def _phrase(self, found: Localised) -> tuple[Caption, Phrase]:
        """A phrase and the caption that it is in."""
        example = self.experiment.dataset[found.place]
        own = phrases(example)[found.phrase]
        return next((caption, phrase) for caption, phrase in example.located() if phrase is own)

    def _words_of(self, found: Localised) -> list[int]:
        """The outputs that are a phrase's."""
        return known(self._phrase(found)[1], self.experiment.words)

    def _sections(
        self,
        maps: _Maps,
        hits: Sequence[Localised],
        misses: Sequence[Localised],
        captions: Iterable[tuple[int, Caption, dict[str, int]]],
        folder: Path,
    ) -> list[Section]:
        dataset, title = self.experiment.dataset, self._title(maps.method)
        named = {output: word for word, output in self.experiment.words.items()}
        groups = []
        for phrase in (*hits, *misses):
            own = dict.fromkeys(self._words_of(phrase))
            figures = [self._of_phrase(maps, phrase, folder)]
            if len(own) > 1:  # else the word's map is the phrase's
                figures += [
                    self._of_word(maps, phrase.place, word, named[word], folder) for word in own
                ]
            caption, inside = self._phrase(phrase)
            shown = f"{_marked(caption, inside)} ({dataset[phrase.place].key})"
            groups.append(Group(shown, figures))
        every = [phrase.hits[maps.method] for phrase in self.table.scores.localised]
        text = (
            f"{title} localises {sum(every)} of {len(every)} phrases by its first box; here are "
            f"{len(hits)} of them, and then {len(misses)} others. Beside a phrase of several words "
            "are the words' maps, of which the phrase's is the mean."
        )
        of_captions = [
            Group(
                f"{caption} ({dataset[place].key})",
                [
                    self._of_word(maps, place, output, word, folder)
                    for word, output in words.items()
                ],
            )
            for place, caption, words in captions
        ]
        return [
            Section(f"{title}: phrases", text, groups),
            Section(
                f"{title}: words of captions",
                f"The first {_MOST_WORDS} words of a caption that the network knows, whatever they "
                "are, whether there is a box of them or not.",
                of_captions,
            ),
        ]

    def _of_phrase(self, maps: _Maps, phrase: Localised, folder: Path) -> Figure:
        example: CaptionedExample = self.experiment.dataset[phrase.place]
        own, box = self._phrase(phrase)[1], phrase.boxes[maps.method]
        words = self._words_of(phrase)
        heat: NDArray[np.floating] = np.mean(
            [maps.words[phrase.place, word].heat for word in words], axis=0
        )
        drawing = Drawing(example.image(), heat)
        drawing.boxes(map(tuple, example.boxes(own.entity).tolist()))
        assert box is not None  # of a phrase with a known word
        drawing.boxes([tuple(box.tolist())], found=True)
        file = f"{maps.method}-{phrase.place}-{phrase.phrase}.jpg"
        drawing.image.save(folder / file, quality=85, subsampling=0)  # thin lines keep their colour
        hit = phrase.hits[maps.method]
        where = ", ".join(f"{edge:.0f}" for edge in box)
        alt = (
            f"{self._title(maps.method)} for {own} on photograph {example.key}: the box {where}, "
            f"{'hits' if hit else 'misses'}"
        )
        lines = ["/".join(own.groups), *(["small instances"] if phrase.small else [])]
        return Figure(file, drawing.image.size, alt, str(own), hit, lines)

    def _of_word(self, maps: _Maps, place: int, output: int, word: str, folder: Path) -> Figure:
        example, again = self.experiment.dataset[place], maps.words[place, output]
        drawing = Drawing(example.image(), again.heat)
        file = f"{maps.method}-{place}-word-{output}.jpg"
        drawing.image.save(folder / file, quality=85, subsampling=0)
        alt = f"{self._title(maps.method)} for the word {word} on photograph {example.key}"
        score = f"score {again.score:.3g}, rank {again.rank} of {len(self.experiment.words)}"
        return Figure(file, drawing.image.size, alt, word, None, [score])

    def _title(self, m: int) -> str:
        return [*self.table.methods.values()][m]

    def _page(self, sections: Sequence[Section]) -> Page:
        table, scores = self.table, self.table.scores
        facts = {
            "Data": f"{self.experiment.dataset.name}, {table.images} photographs"
            + (f"; gamma was chosen on {table.held_out} others" if table.held_out else ""),
            "Phrases": f"{scores.phrases[0]}, {scores.phrases[1]} of them of small instances "
            f"(below {SMALL:g} of the photograph)",
            "Proposals": f"{table.proposals}, at most {table.limit}",
            "Network": self.network,
            "Input": self.look.view(),
            "Hit": f"the first box has an intersection over union of at least {OVERLAP:g} with one "
            "of the phrase's",
            "Blur": f"{100 * self.experiment.blur:g} % of the longer side, of maps as fine as the "
            "input",
        }
        legend = (
            "A picture is the photograph in grey with the map over it, clear where it is small and "
            "yellow where it is largest. Green boxes are the phrase's, the white one is the "
            "proposal that is first. What the network does not see is dark."
        )
        rows = [["method", *HEAD[1:]], *(table.row(place) for place in range(len(table.methods)))]
        caption = "Per cent, of all phrases / of those of small instances."
        title = f"Text to region, {self.experiment.dataset.name}"
        return Page(title, (legend, _CHOICE), facts, rows, caption, sections)


def _marked(caption: Caption, phrase: Phrase) -> str:
    """A caption with a phrase in brackets."""
    first, last = phrase.first, phrase.first + len(phrase.words)
    words = [*caption.words]
    words[first] = f"[{words[first]}"
    words[last - 1] += "]"
    return " ".join(words)
