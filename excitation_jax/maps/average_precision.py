"""Average precision, by which classifiers of several labels are judged."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def uninterpolated_average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under one class's precision-recall curve, taken as a sum of rectangles.

    AP = sum_n (R_n - R_(n-1)) P_n over the distinct scores, highest first, where P_n and R_n are
    the precision and the recall of answering "present" from the n-th score on.

    Args:
        labels: (N,) true, or 1, where the class is present.
        scores: (N,) higher where the class is thought likelier; equal scores share a threshold.

    Raises:
        ValueError: the class is never present, so that recall is undefined.
    """
    scores = np.asarray(scores)
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(np.asarray(labels)[order] > 0)
    if not len(found) or not found[-1]:
        raise ValueError("average precision is undefined for a class that is never present")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(found) - 1)  # of equal scores
    recall = found[last] / found[-1]
    precision = found[last] / (last + 1)
    return float(np.sum(np.diff(recall, prepend=0) * precision))


def mean_average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Mean over the classes of `uninterpolated_average_precision`; both are (N, classes).

    Raises:
        ValueError: some class is never present.
    """
    columns = zip(np.asarray(labels).T, np.asarray(scores).T, strict=True)
    return float(np.mean([uninterpolated_average_precision(*column) for column in columns]))
