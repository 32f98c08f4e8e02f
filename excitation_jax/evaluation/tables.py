"""Tables of figures as lines of text."""

from __future__ import annotations

import math
from collections.abc import Sequence


def percent(score: float) -> str:
    """A share in per cent; a dash for NaN."""
    return "-" if math.isnan(score) else f"{100 * score:.1f}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of equal length as lines, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
