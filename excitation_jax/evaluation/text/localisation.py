"""Text to region (ECCV16, 4.3; IJCV18, 6.3): where a caption's phrase is, of proposed regions.

A network whose outputs are words gives a map for each word of a phrase; their mean is the phrase's.
A proposal R, a box or a segment, is scored by S_R / A_R^gamma, S_R the sum of the map in it and A_R
its area. What counts from there on are boxes: of a segment, the tightest one round it. Those are
left out that overlap too much with a better one. A phrase is localised at rank k if one of the
first k has an intersection over union of at least 1/2 with a box of it.

How this project reads what is open:

- Words are compared case-folded, as they stand: "men" is not "man". A word that the network has no
  output for is left out of the mean, one that comes twice counts twice.
- A phrase without a known word is a miss at every rank. It has no proposals, and its boxes are
  missed in average precision, too.
- The map is resized bicubically to the photograph, as in the pointing game; S_R is the sum over
  the pixels whose centres lie in R, A_R the product of a box's sides or the number of a segment's
  pixels. Outside of what the network sees the map is zero. Of equal scores the proposal that was
  given first is first.
- Each mention of a phrase counts, also where two captions of a photograph have the same one. One of
  its boxes is enough, where it has several.
- A phrase is of small instances if each of its boxes is smaller than a quarter of the photograph.
- Phrases without boxes and those of the group "notvisual" are left out.

A record has the proposals of a photograph and S_R of each phrase and method in each, so that scores
of a whole data set are a pure function of the records and the annotations; see `scores`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from ...data.flickr30k import CaptionedExample, Phrase
from ...data.pipeline import Batch
from ...data.records import Dataset
from ..points import MapFunction, Questions, asked, blurred, canvas_of, grid_of
from . import proposals as _proposals
from .photograph import ASKED, DONE, KNOWN, encoded, shape_of
from .proposals import Proposals
from .sums import box_sums, segment_sums

SMALL = 0.25  # of the photograph's area: below, a box is of a small instance


class Inputs(NamedTuple):
    """What goes to the devices about N photographs, K words, Q phrases and R proposals each.

    questions: see `points.Questions`; the classes are words.
    weights: float32 (N, Q, K), the parts of words in phrases; rows that fill up are zeros.
    proposals: float32 (N, R, 6), see `proposals.padded`.
    masks: uint8 (N, R, height, bytes), see `proposals.packed`; None of boxes.
    """

    questions: Questions
    weights: Any
    proposals: Any
    masks: Any


class Sums(NamedTuple):
    """What the maps of M methods are worth in proposals.

    sums: float32 (N, M, Q, R), 0 for a proposal that fills up.
    finite: boolean (N, M), whether the maps have no NaN or infinity.
    """

    sums: Any
    finite: Any


def phrases(example: CaptionedExample) -> list[Phrase]:
    """The phrases of a photograph's captions that are to be localised, in order."""
    return [phrase for _, phrase in example.located() if "notvisual" not in phrase.groups]


def known(phrase: Phrase, words: Mapping[str, int]) -> list[int]:
    """The outputs for a phrase's words, in their order, without words that have none.

    words: outputs by case-folded word.
    """
    folded = (word.casefold() for word in phrase.words)
    return [words[word] for word in folded if word in words]


def is_small(example: CaptionedExample, phrase: Phrase) -> bool:
    """Whether each of a phrase's boxes covers less than `SMALL` of its photograph."""
    boxes = example.boxes(phrase.entity)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    height, width = example.size
    return bool(areas.max() < SMALL * height * width)


@dataclass(frozen=True, eq=False)
class TextToRegion:
    """The experiment for `runner.run`; see `photograph` for its records.

    Attributes:
        dataset: for the phrases and their boxes.
        methods: functions that make maps, by name.
        words: the network's outputs by case-folded word.
        proposals: what proposes regions.
        limit: proposals of a photograph, at most; the first ones.
        blur: see `points.blurred`.
        threads: that make proposals.
    """

    dataset: Dataset[CaptionedExample]
    methods: Mapping[str, MapFunction]
    words: Mapping[str, int]
    proposals: Proposals
    limit: int = 500
    blur: float = 0.0
    threads: int = 1
    dtype: ClassVar[str] = "int32"
    _most: int = field(init=False, repr=False)
    _canvas: tuple[int, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        most = max([1, *(len(phrases(example)) for example in self.dataset)])
        object.__setattr__(self, "_most", most)
        object.__setattr__(self, "_canvas", canvas_of(self.dataset))

    @property
    def shape(self) -> tuple[int, int]:
        """Of a record."""
        return shape_of(len(self.methods), self._most, self.limit)

    def inputs(self, examples: Sequence[Any], batch: Batch) -> Inputs:
        """See `runner.Experiment`.

        Raises:
            ValueError, OSError: a photograph has no proposals.
        """
        outputs = [
            [known(phrase, self.words) for phrase in phrases(example)] for example in examples
        ]
        lists = [sorted({word for phrase in own for word in phrase}) for own in outputs]
        questions = asked(examples, batch, lists)
        rows, most_words = questions.classes.shape
        weights = np.zeros((rows, self._most, most_words), np.float32)
        for row, (own, wanted) in enumerate(zip(outputs, lists, strict=True)):
            for phrase, words in enumerate(own):
                for word in words:
                    weights[row, phrase, wanted.index(word)] += 1 / len(words)
        made = _proposals.of(self.proposals, examples, self.limit, self.threads)
        masks = _proposals.packed(made, examples, rows, self.limit, self._canvas)
        return Inputs(questions, weights, _proposals.padded(made, rows, self.limit), masks)

    def compute(self, variables: Any, inputs: Inputs) -> tuple[Sums, Any]:
        """See `runner.Experiment`. The proposals come back with their sums."""
        images, classes, windows, sizes = inputs.questions
        found, finite = [], []
        for function in self.methods.values():
            words = function(variables, images, classes).astype(jnp.float32)
            words = blurred(words, images.shape[1:3], self.blur)
            finite.append(jnp.isfinite(words).all(axis=(1, 2, 3)))
            maps = jnp.einsum("nqk,nkhw->nqhw", inputs.weights, words, precision="highest")
            placed: Any = {"canvas": self._canvas, "grid": grid_of(function, images.shape[1:3])}
            if inputs.masks is None:
                sums: Any = functools.partial(box_sums, **placed)
                found.append(jax.vmap(sums)(maps, inputs.proposals[..., :4], windows))
                continue

            def of_photograph(one: Any, placed: Any = placed) -> jax.Array:
                return segment_sums(*one, **placed)

            # One photograph after the other: its canvases, one a phrase, are memory enough.
            found.append(jax.lax.map(of_photograph, (maps, inputs.masks, windows, sizes)))
        return Sums(jnp.stack(found, axis=1), jnp.stack(finite, axis=1)), inputs.proposals

    def records(self, examples: Sequence[Any], outputs: tuple[Sums, Any]) -> NDArray[np.int32]:
        """See `runner.Experiment`.

        Raises:
            ValueError: a map is not finite.
        """
        (sums, finite), proposals = outputs
        found = np.empty((len(examples), *self.shape), np.int32)
        for row, example in enumerate(examples):
            if not finite[row].all():
                name = list(self.methods)[int(np.argmin(finite[row]))]
                raise ValueError(
                    f"{name} made a map of {example.key} that is not finite: are the network's "
                    "weights, and is the photograph?"
                )
            flags = np.full(self._most, DONE)
            for place, phrase in enumerate(phrases(example)):
                flags[place] |= ASKED | KNOWN * bool(known(phrase, self.words))
            found[row] = encoded(proposals[row], flags, sums[row])
        return found
