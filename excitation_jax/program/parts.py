"""What an axis is made of, and where its cells lie on the explained input.

A cell lies at the centre of what it was made of: a window's is the middle of its taps, padding
counted, and that of patches which were cut out is a patch's. Positions count the input's elements
along an axis: 0 is the centre of the first one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

#: The lowest and the highest centre over all ways on which a cell was made: a sum of branches whose
#: windows stand differently has both, so that the order of the summands does not matter.
Centre = tuple[Fraction, Fraction]

_HERE: Centre = (Fraction(0), Fraction(0))


class Part(NamedTuple):
    """Positions along an axis of an explained input, ``size`` of them at a stride.

    ``source`` is the number of the input, None for an axis that comes from no input. The stride is
    negative where the model has turned the axis round. ``centre`` is where the first position lies,
    None where that is not known; of several parts of one axis of the input (patches and what is
    inside of them) it is the sum of theirs.
    """

    source: int | None
    dimension: int
    stride: Fraction
    size: int
    centre: Centre | None = _HERE

    @property
    def along(self) -> tuple[int | None, int]:
        """Which axis of which input."""
        return self.source, self.dimension

    @property
    def offset(self) -> Fraction | None:
        """Where the first position lies: midway between the lowest and the highest centre."""
        return None if self.centre is None else sum(self.centre, Fraction(0)) / 2

    def resampled(self, factor: Fraction, size: int, start: Fraction | None) -> Part:
        """``size`` positions, each ``factor`` of these apart, the first at this place among them.

        start: None where it is not known.
        """
        centre = shifted(self.centre, None if start is None else self.stride * start)
        return self._replace(stride=self.stride * factor, size=size, centre=centre)


#: An axis runs along its parts, the last the fastest: several, where a reshape merged them.
Axis = tuple[Part, ...]
Axes = tuple[Axis, ...]


def new(size: int) -> Axis:
    """An axis that comes from no input."""
    return (Part(None, 0, Fraction(1), size),)


def length(axis: Axis) -> int:
    """The number of elements along an axis."""
    return math.prod(part.size for part in axis)


def shifted(centre: Centre | None, by: Fraction | None) -> Centre | None:
    """A centre, moved; None where either is not known."""
    return None if centre is None or by is None else (centre[0] + by, centre[1] + by)


def both(a: Centre | None, b: Centre | None) -> Centre | None:
    """The sum of two centres."""
    return None if a is None or b is None else (a[0] + b[0], a[1] + b[1])


def either(a: Centre | None, b: Centre | None) -> Centre | None:
    """That of a cell which was made in two ways."""
    return None if a is None or b is None else (min(a[0], b[0]), max(a[1], b[1]))


def nowhere(axis: Axis) -> Axis:
    """The axis, of which it is not known where it lies."""
    return tuple(part._replace(centre=None) for part in axis)


def scaled(axis: Axis, factor: Fraction, size: int, start: Fraction | None) -> Axis:
    """An axis that was resampled; merged ones are lost on the way. As `Part.resampled`."""
    if len(axis) == 1:
        return (axis[0].resampled(factor, size, start),)
    if factor != 1 or length(axis) != size:
        return new(size)
    return axis if start == 0 else nowhere(axis)


def agreed(axis: Axis, others: Iterable[Axis]) -> Axis:
    """An axis of what was made of several values, the first of which has it in this form.

    Values of which it comes from no input say nothing. Where it is another one, or has another
    stride, it is not known where its cells lie.
    """
    found = axis
    for other in others:
        if all(part.source is None for part in other):
            continue
        if [part._replace(centre=None) for part in other] != list(nowhere(found)):
            return nowhere(axis)
        pairs = zip(found, other, strict=True)
        found = tuple(a._replace(centre=either(a.centre, b.centre)) for a, b in pairs)
    return found


def folded(dropped: Sequence[Axis], kept: Axes) -> Axes:
    """The axes that are left of a value when its others are summed, or chosen one element of.

    Of patches whose insides were cut before, the middle moves.
    """
    for part in (part for axis in dropped for part in axis if part.source is not None):
        middle = shifted(part.centre, part.stride * Fraction(part.size - 1, 2))
        if middle == _HERE:
            continue
        for i, axis in enumerate(kept):
            for j, outer in enumerate(axis):
                inside = abs(part.stride) * part.size <= abs(outer.stride)
                if outer.along == part.along and inside:
                    found = outer._replace(centre=both(outer.centre, middle))
                    kept = (*kept[:i], (*axis[:j], found, *axis[j + 1 :]), *kept[i + 1 :])
                    break
            else:
                continue
            break
    return kept


def split(part: Part, inner: int) -> tuple[Part, Part]:
    """The runs of ``inner`` positions that a part consists of, and the positions in a run."""
    half = part.stride * Fraction(inner - 1, 2)
    runs = part.resampled(Fraction(inner), part.size // inner, Fraction(inner - 1, 2))
    return runs, part._replace(size=inner, centre=(-half, -half))


def merged(outer: Part, inner: Part) -> Part | None:
    """What was split before, in one piece again; None where these are no such parts."""
    if outer.along != inner.along or outer.stride != inner.stride * inner.size:
        return None
    return inner._replace(size=outer.size * inner.size, centre=both(outer.centre, inner.centre))
