"""How sure a share of hits is, and a mean of such shares over categories."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

DRAWS = 1000  # of the bootstrap


def wilson(hits: int, pairs: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share: what it may be of, had there been infinitely many pairs.

    It takes the pairs for independent, which those of one photograph are not quite.

    Args:
        hits: of the pairs.
        pairs: their number. Of none nothing is known: (0, 1).
        confidence: the share of such intervals that contain what they are of.

    >>> [round(end, 3) for end in wilson(49, 66)]
    [0.626, 0.833]
    """
    if not pairs:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, slack = hits / pairs, z**2 / pairs
    centre = (share + slack / 2) / (1 + slack)
    half = math.sqrt(slack * (share * (1 - share) + slack / 4)) / (1 + slack)
    # Both ends are exact where all or none hit, but for rounding.
    return max(0.0, centre - half), min(1.0, centre + half)


def of_mean_over_categories(
    places: ArrayLike,
    categories: ArrayLike,
    hits: ArrayLike,
    *,
    of: int | None = None,
    confidence: float = 0.95,
    draws: int = DRAWS,
) -> NDArray[np.float64]:
    """A bootstrap interval of the mean over categories of their shares of hits.

    Photographs are drawn again, as many as there are, with all their pairs: so it is not taken for
    granted that those of one photograph are independent. A category that none of those drawn has is
    left out of the mean, as in the score. It is the percentile interval, from the same draws for
    the same pairs.

    Args:
        places: of each of P pairs, its photograph: (P,).
        categories: of each pair: (P,).
        hits: whether each of M methods hits: boolean (P, M).
        of: the number of categories that the mean is over, whether they have pairs or not; None:
            those that have.
        confidence: see `wilson`.
        draws: how often all photographs are drawn.

    Returns:
        (M, 2), the lower and the upper end, between 0 and 1; NaN where there are no pairs.

    >>> found = of_mean_over_categories([0, 1, 2, 3], [0, 0, 1, 1], [[1], [0], [1], [1]])
    >>> found.tolist()
    [[0.5, 1.0]]
    """
    right = np.asarray(hits, np.float64)
    if not len(right):
        return np.full((right.shape[1] if right.ndim == 2 else 0, 2), math.nan)
    photographs, own = np.unique(np.asarray(places), return_inverse=True)
    order = np.argsort(np.asarray(categories), kind="stable")
    starts = np.flatnonzero(np.diff(np.asarray(categories)[order], prepend=-1))
    # The pairs themselves count as the hits of one more method that always hits.
    counted = np.concatenate([right, np.ones((len(right), 1))], axis=1)[order]
    random = np.random.default_rng(0)
    means = np.empty((draws, right.shape[1]))
    for draw in range(draws):
        drawn = random.integers(0, len(photographs), len(photographs))
        times = np.bincount(drawn, minlength=len(photographs))[own[order]]
        sums = np.add.reduceat(counted * times[:, None], starts, axis=0)
        there = sums[:, -1] > 0
        shares = sums[there, :-1] / sums[there, -1:]
        means[draw] = shares.sum(axis=0) / (of or there.sum())
    ends = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return np.asarray(ends.T)
