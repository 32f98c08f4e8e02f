"""Text to region (ECCV16, 4.3): where a phrase of a caption is, among boxes that are proposed.

A network whose outputs are words gives a map for each word of a phrase; their mean is the phrase's.
A proposal R is scored by S_R / A_R^gamma, S_R the sum of the map in it and A_R its area, and those
are left out that overlap too much with a better one. A phrase is localised at rank k if one of the
first k proposals has an intersection over union of at least 1/2 with a box of it.

How this project reads what is open:

- Words are compared case-folded, as they stand: "men" is not "man". A word that the network has no
  output for is left out of the mean, one that comes twice counts twice.
- A phrase without a known word is a miss at every rank. It has no proposals, and its boxes are
  missed in average precision, too.
- The map is resized bicubically to the photograph, as in the pointing game; S_R is the sum over
  the pixels whose centres lie in R, A_R the product of R's sides. Outside of what the network sees
  the map is zero. Of equal scores the proposal that was given first is first.
- Each mention of a phrase counts, also where two captions of a photograph have the same one. One of
  its boxes is enough, where it has several.
- Phrases without boxes and those of the group "notvisual" are left out.

A record has the first proposals of each phrase and their scores, so that scores of a whole data set
are a pure function of the records and the annotations; see `text_scores`.
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
from ...maps import Grid
from ..boxes.localisation import overlaps
from ..points import MapFunction, Questions, asked, blurred, canvas_of, grid_of, paint
from . import proposals as _proposals
from .proposals import Proposals
from .suppression import suppress

OVERLAP = 0.5  # of a proposal that localises a phrase: its intersection over union with a box of it
SUPPRESSED = 0.7  # a proposal that overlaps more than this with a better one is left out
KEPT = 20  # proposals of a phrase that are kept: those that recall needs, and more for precision

#: Flags of a phrase: its record was made; it is one of the photograph's; a word of it is known; a
#: proposal, of whatever score, overlaps enough with a box of it.
DONE, ASKED, KNOWN, COVERED = 1, 2, 4, 8


class Inputs(NamedTuple):
    """What goes to the devices about N photographs, K words, Q phrases and R proposals each.

    questions: see `points.Questions`; the classes are words.
    weights: float32 (N, Q, K), the parts of words in phrases; rows that fill up are zeros.
    proposals: float32 (N, R, 4), in pixels; those that fill up have no area.
    """

    questions: Questions
    weights: Any
    proposals: Any


class Scores(NamedTuple):
    """Scores of M methods.

    proposals: float32 (N, M, Q, R), -inf for a proposal without area.
    finite: boolean (N, M), whether the maps have no NaN or infinity.
    """

    proposals: Any
    finite: Any


class Detections(NamedTuple):
    """What is kept of a phrase: flags, and its first D <= `KEPT` proposals.

    scores: float32 (D,), decreasing. boxes: float32 (D, 4).
    """

    flags: int
    scores: NDArray[np.float32]
    boxes: NDArray[np.float32]


def phrases(example: CaptionedExample) -> list[Phrase]:
    """The phrases of a photograph's captions that are to be localised, in order."""
    return [phrase for _, phrase in example.located() if "notvisual" not in phrase.groups]


def known(phrase: Phrase, words: Mapping[str, int]) -> list[int]:
    """The outputs for a phrase's words, in their order, without words that have none.

    words: outputs by case-folded word.
    """
    folded = (word.casefold() for word in phrase.words)
    return [words[word] for word in folded if word in words]


@dataclass(frozen=True, eq=False)
class TextToRegion:
    """The experiment for `runner.run`: its records are int32 (methods, most phrases, numbers).

    Attributes:
        dataset: for the phrases and their boxes.
        methods: functions that make maps, by name.
        words: the network's outputs by case-folded word.
        proposals: what proposes boxes.
        gamma: the power of the area by which S_R is divided.
        limit: proposals of a photograph, at most; the first ones.
        blur: see `points.blurred`.
        threads: that make proposals.
    """

    dataset: Dataset[CaptionedExample]
    methods: Mapping[str, MapFunction]
    words: Mapping[str, int]
    proposals: Proposals
    gamma: float = 0.5
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
    def shape(self) -> tuple[int, int, int]:
        """Of a record: for each phrase its flags, and score and box of each proposal, as bits."""
        return len(self.methods), self._most, 1 + 5 * KEPT

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
        return Inputs(questions, weights, _proposals.padded(made, rows, self.limit))

    def compute(self, variables: Any, inputs: Inputs) -> tuple[Scores, Any]:
        """See `runner.Experiment`. The proposals come back with their scores."""
        images, classes, windows, sizes = inputs.questions
        del sizes  # proposals lie in the photograph
        scores, finite = [], []
        for function in self.methods.values():
            words = function(variables, images, classes).astype(jnp.float32)
            words = blurred(words, images.shape[1:3], self.blur)
            finite.append(jnp.isfinite(words).all(axis=(1, 2, 3)))
            maps = jnp.einsum("nqk,nkhw->nqhw", inputs.weights, words, precision="highest")
            grid = grid_of(function, images.shape[1:3])
            score = functools.partial(
                region_scores, canvas=self._canvas, gamma=self.gamma, grid=grid
            )
            scores.append(jax.vmap(score)(maps, inputs.proposals, windows))
        found = Scores(jnp.stack(scores, axis=1), jnp.stack(finite, axis=1))
        return found, inputs.proposals

    def records(self, examples: Sequence[Any], outputs: tuple[Scores, Any]) -> NDArray[np.int32]:
        """See `runner.Experiment`.

        Raises:
            ValueError: a map is not finite.
        """
        (scores, finite), boxes = outputs
        found = np.zeros((len(examples), *self.shape), np.int32)
        found[..., 0] = DONE
        for row, example in enumerate(examples):
            if not finite[row].all():
                name = list(self.methods)[int(np.argmin(finite[row]))]
                raise ValueError(
                    f"{name} made a map of {example.key} that is not finite: are the network's "
                    "weights, and is the photograph?"
                )
            covered = functools.cache(functools.partial(_covered, example, boxes[row]))
            for place, phrase in enumerate(phrases(example)):
                flags = ASKED | KNOWN * bool(known(phrase, self.words))
                flags |= COVERED * covered(phrase.entity)
                found[row, :, place, 0] |= flags
                if not flags & KNOWN:
                    continue
                for method in range(len(self.methods)):
                    own = scores[row, method, place]
                    taken = suppress(boxes[row], own, SUPPRESSED, KEPT)
                    kept = np.concatenate([own[taken, None], boxes[row, taken]], axis=1)
                    found[row, method, place, 1 : 1 + kept.size] = kept.view(np.int32).ravel()
        return found


def region_scores(
    maps: jax.Array,
    proposals: jax.Array,
    window: jax.Array,
    *,
    canvas: tuple[int, int],
    gamma: float,
    grid: Grid | None = None,
) -> jax.Array:
    """S_R / A_R^gamma of each proposal and each map of a photograph.

    Maps are resized bicubically to what they show of the photograph, which is linear in rows and in
    columns: so sums over boxes are taken of the kernel, and not of a large map. Unlike differences
    of an integral image they are exactly zero where the resized map is.

    Args:
        maps: float32 (Q, h, w).
        proposals: (R, 4), in pixels of the photograph.
        window: (4,), what the maps show of it: x0, y0, x1, y1 in its pixels.
        canvas: (height, width) that the photograph does not exceed; static.
        gamma: the power of the area.
        grid: where the maps' cells lie on the network's input; None for plain tiles.

    Returns:
        (Q, R); -inf for proposals without area.
    """
    sums = []  # over the pixels in each proposal of what a row or a column of the map is worth
    for axis, pixels in enumerate(canvas):
        painted = paint(maps.shape[1 + axis], pixels, window, axis, grid)
        first, last = 1 - axis, 3 - axis  # in a box: y before rows, x before columns
        centres = jnp.arange(pixels) + 0.5
        inside = (centres >= proposals[:, first, None]) & (centres < proposals[:, last, None])
        inside &= painted.inside(pixels)
        sums.append(jnp.matmul(inside.astype(jnp.float32), painted.weights, precision="highest"))
    # Rows first: a product of both, (R, h, w), would be large for maps as fine as the input.
    of_rows = jnp.einsum("rh,qhw->qrw", sums[0], maps, precision="highest")
    total = jnp.einsum("qrw,rw->qr", of_rows, sums[1], precision="highest")
    area = (proposals[:, 2] - proposals[:, 0]) * (proposals[:, 3] - proposals[:, 1])
    return jnp.where(area > 0, total / jnp.where(area > 0, area, 1) ** gamma, -jnp.inf)


def detections(record: NDArray[np.int32]) -> Detections:
    """What a record (1 + 5 `KEPT`,) of a phrase and a method says."""
    rows = np.ascontiguousarray(record[1:]).view(np.float32).reshape(-1, 5)
    rows = rows[rows[:, 3] > rows[:, 1]]  # the others fill up: their boxes have no width
    return Detections(int(record[0]), rows[:, 0], rows[:, 1:])


def _covered(example: CaptionedExample, boxes: NDArray[np.float32], entity: str) -> bool:
    """Whether a proposal overlaps enough with a box of an entity."""
    return bool((overlaps(boxes, example.boxes(entity)) >= OVERLAP).any())
