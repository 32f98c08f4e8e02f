"""How sure a share of hits is."""

from __future__ import annotations

import math
from statistics import NormalDist


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
