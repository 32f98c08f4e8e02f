"""Boxes as detections: which of them say the same, what they find, and average precision.

Pure NumPy functions of boxes (x0, y0, x1, y1), x1 and y1 exclusive, in any unit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..boxes.localisation import overlaps


def suppress(boxes: ArrayLike, scores: ArrayLike, overlap: float) -> list[NDArray[np.intp]]:
    """Non-maximum suppression: the boxes that no better one says already.

    Args:
        boxes: (P, 4).
        scores: (K, P), K ways to score them. Of equal scores the first comes first.
        overlap: a box is left out if its IoU with one that was taken exceeds this.

    Returns:
        Of each way the indices of the boxes that are left, the best first.

    >>> [kept.tolist() for kept in suppress(
    ...     [[0, 0, 9, 9], [0, 0, 9, 8], [5, 5, 9, 9]], [[0.5, 0.9, 0.1], [0.5, 0.4, 0.7]], 0.7)]
    [[1, 2], [2, 0]]
    """
    own = np.asarray(boxes, np.float64).reshape(-1, 4)
    order = np.argsort(-np.asarray(scores), axis=-1, kind="stable")
    alike = overlaps(own, own) > overlap
    np.fill_diagonal(alike, False)
    left = np.ones(order.shape, bool)
    ways = np.arange(len(order))
    for turn in order.T:  # the best of each way, then the second, and so on
        left &= ~(alike[turn] & left[ways, turn][:, None])
    return [turns[there[turns]] for turns, there in zip(order, left, strict=True)]


def matches(common: ArrayLike, overlap: float) -> list[int]:
    """Which true box each detection of a phrase in a photograph finds.

    In their order, each detection gets the box with which it has the largest IoU among those that
    no detection before it has got, if that IoU is at least `overlap`: each box is found once.

    Args:
        common: (D, T), the IoUs of detections, the best first, with true boxes.
        overlap: the least IoU, positive.

    Returns:
        For each detection the number of its true box, or -1.

    >>> matches([[0.75], [0.75]], 0.5)
    [0, -1]
    """
    free = np.array(common, np.float64)
    found = np.full(len(free), -1)
    # Most detections are near no box.
    for place in np.flatnonzero((free >= overlap).any(axis=1)):
        best = int(free[place].argmax())
        if free[place, best] >= overlap:
            found[place] = best
            free[:, best] = -1
    return found.tolist()


def interpolated_average_precision(scores: ArrayLike, hits: ArrayLike, total: int) -> float:
    """The area under the curve of precision over recall, as VOC has computed it since 2010.

    The precision at a recall is the best at that recall or a larger one. (VOC07's own mean over 11
    recalls is coarser.)

    Args:
        scores: (D,), of the detections. Of equal scores the first comes first.
        hits: (D,), whether each has found a true box that no better one had found.
        total: number of true boxes, those that no detection finds, too.

    Raises:
        ValueError: total is not positive.

    >>> interpolated_average_precision([0.9, 0.8, 0.7, 0.6], [True, False, True, False], total=2)
    0.8333333333333333
    """
    if total < 1:
        raise ValueError(f"average precision is of at least one true box, got {total}")
    order = np.argsort(-np.asarray(scores), kind="stable")
    hit = np.asarray(hits, bool)[order]
    precision = np.cumsum(hit) / np.arange(1, len(hit) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best_from_here[hit].sum() / total)
