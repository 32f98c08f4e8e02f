"""Boxes as detections: which of them say the same, what they find, and average precision.

Pure NumPy functions of boxes (x0, y0, x1, y1), x1 and y1 exclusive, in any unit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..boxes.localisation import overlaps


def suppress(boxes: ArrayLike, scores: ArrayLike, overlap: float, most: int) -> list[int]:
    """Non-maximum suppression: the boxes that no better one says already.

    Args:
        boxes: (P, 4).
        scores: (P,). A box of -inf is none. Of equal scores the first comes first.
        overlap: a box is left out if its IoU with one that was taken exceeds this.
        most: how many are taken.

    Returns:
        The indices of at most that many boxes, the best first.

    >>> suppress([[0, 0, 9, 9], [0, 0, 9, 8], [5, 5, 9, 9]], [0.5, 0.9, 0.1], 0.7, most=10)
    [1, 2]
    """
    own, worth = np.asarray(boxes, np.float64), np.asarray(scores)
    left = np.argsort(-worth, kind="stable")
    left = left[worth[left] > -np.inf]
    taken: list[int] = []
    while len(left) and len(taken) < most:
        best, left = left[0], left[1:]
        taken.append(int(best))
        left = left[overlaps(own[best], own[left]) <= overlap]
    return taken


def matches(boxes: ArrayLike, truth: ArrayLike, overlap: float) -> list[int]:
    """Which true box each detection of a phrase in a photograph finds.

    In their order, each detection gets the box with which it has the largest IoU among those that
    no detection before it has got, if that IoU is at least `overlap`: each box is found once.

    Args:
        boxes: (D, 4), the best first.
        truth: (T, 4).
        overlap: the least IoU.

    Returns:
        For each detection the number of its true box, or -1.

    >>> matches([[0, 0, 4, 4], [0, 0, 4, 4]], [[0, 0, 4, 3]], 0.5)
    [0, -1]
    """
    common = overlaps(boxes, truth)
    found = []
    for row in common:
        best = int(row.argmax()) if len(row) else -1
        hit = best >= 0 and row[best] >= overlap
        found.append(best if hit else -1)
        if hit:
            common[:, best] = -1
    return found


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
