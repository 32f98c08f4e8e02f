"""The record of a photograph: its proposals, and what each phrase's map is worth in them.

It has all that scores are made of, whatever the power of the area, and whatever is held out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Flags of a phrase: its photograph was done; it is one of the photograph's; a word of it is known.
DONE, ASKED, KNOWN = 1, 2, 4

_OF_PROPOSALS = 6  # rows of a record: the box's edges, area and score of each proposal


class Photograph(NamedTuple):
    """What a record says of P proposals, M methods and up to Q phrases.

    boxes: float32 (P, 4). areas, scores: float32 (P,), see `proposals.Proposed`.
    flags: int32 (Q,), of phrases.
    sums: float32 (M, Q, P), of the maps in the proposals.
    """

    boxes: NDArray[np.float32]
    areas: NDArray[np.float32]
    scores: NDArray[np.float32]
    flags: NDArray[np.int32]
    sums: NDArray[np.float32]

    def worth(self, gamma: float) -> NDArray[np.float64]:
        """S_R / A_R^gamma, (M, Q, P)."""
        return self.sums / np.float64(self.areas) ** gamma


def shape_of(methods: int, phrases: int, limit: int) -> tuple[int, int]:
    """Of a record of so many methods, phrases and proposals at most."""
    return _OF_PROPOSALS + methods * phrases, 1 + limit


def encoded(proposals: ArrayLike, flags: ArrayLike, sums: ArrayLike) -> NDArray[np.int32]:
    """A record, int32 of `shape_of`; floats are there as their bits.

    Args:
        proposals: (limit, 6), as of `proposals.padded`.
        flags: (Q,).
        sums: (M, Q, limit).
    """
    own, of_maps = np.asarray(proposals, np.float32), np.asarray(sums, np.float32)
    methods, phrases, limit = of_maps.shape
    found = np.zeros(shape_of(methods, phrases, limit), np.int32)
    found[:_OF_PROPOSALS, 0] = DONE
    found[_OF_PROPOSALS:, 0] = np.tile(np.asarray(flags), methods)
    rows = np.concatenate([own.T, of_maps.reshape(-1, limit)])
    found[:, 1:] = np.ascontiguousarray(rows).view(np.int32)
    return found


def decoded(record: NDArray[np.int32], methods: int) -> Photograph:
    """What a record of so many methods says.

    Raises:
        ValueError: it is not done.

    >>> record = encoded([[0, 0, 2, 2, 4, -1]], [DONE | ASKED], [[[8.0]]])
    >>> decoded(record, 1).worth(0.5).tolist()
    [[[4.0]]]
    """
    if not (record[:_OF_PROPOSALS, 0] == DONE).all():
        raise ValueError("a record is not done")
    flags = record[_OF_PROPOSALS:, 0].reshape(methods, -1)[0]
    rows = np.ascontiguousarray(record[:, 1:]).view(np.float32)
    rows = rows[:, rows[4] > 0]  # the others fill up
    boxes, (areas, scores) = rows[:4].T, rows[4:_OF_PROPOSALS]
    sums = rows[_OF_PROPOSALS:].reshape(methods, len(flags), len(areas))
    return Photograph(np.ascontiguousarray(boxes), areas, scores, flags, sums)
