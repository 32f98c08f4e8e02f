"""What a user says of a model beside the model itself: its input's range, and what is a gate."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .intervals import ANYTHING, Interval

#: The range of the explained input: (low, high), numbers or arrays that broadcast to it.
Bounds = tuple[Any, Any]


@dataclass(frozen=True)
class Hints:
    """Static, like a rule set.

    Attributes:
      low, high: the range of the explained input's elements, numbers or tuples of such that
        broadcast to it; None where nothing is said.
      gates: patterns of the paths of modules, or of tags, whose values are gates.
    """

    low: Any = None
    high: Any = None
    gates: tuple[str, ...] = ()

    @property
    def interval(self) -> Interval:
        """The range of all elements."""
        if self.low is None:
            return ANYTHING
        return Interval(float(np.min(self.low)), float(np.max(self.high)))

    @property
    def varies(self) -> bool:
        """Whether elements have different ranges."""
        return self.low is not None and np.size(self.low) * np.size(self.high) > 1

    def marks(self, name: str) -> bool:
        """Whether the values of a module, or of one inside it, or a tag, are gates."""
        return any(matches(name, pattern) for pattern in self.gates)

    def check_gates(self, names: Iterable[str]) -> None:
        """Raises `ValueError` where a pattern matches none of the model's modules and tags."""
        found = sorted(set(names) - {""})
        for pattern in self.gates:
            if any(matches(name, pattern) for name in found):
                continue
            near = difflib.get_close_matches(pattern, found, n=3, cutoff=0.4) or found[:8]
            there = f"; there are {', '.join(near)}" if near else ""
            raise ValueError(f"gates: {pattern!r} matches no module and no tag{there}")

    def check(self, x: Any) -> None:
        """Raises `ValueError` where the range does not fit an array, nor its values if known."""
        check_shape(self, jnp.shape(x))
        if self.low is None or isinstance(x, jax.core.Tracer):
            return
        if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
            raise ValueError(
                f"x_bounds is the range of a floating-point input, and x is {jnp.result_type(x)}"
            )
        low, high = (np.asarray(end) for end in (self.low, self.high))
        # The bounds may have been computed in another precision.
        rounding = 4 * float(jnp.finfo(jnp.result_type(x)).eps)
        slack = [rounding * np.where(np.isfinite(end), np.abs(end), 0) for end in (low, high)]
        if bool(((x < low - slack[0]) | (x > high + slack[1])).any()):
            raise ValueError(
                f"x has values from {float(jnp.min(x)):.4g} to {float(jnp.max(x)):.4g}, which is "
                f"not within x_bounds, {low.min():.4g} to {high.max():.4g}: give the range of the "
                "input as the model gets it, after its pre-processing"
            )


def matches(name: str, pattern: str) -> bool:
    """Whether a path, or one around it, matches a shell-style pattern.

    A module's own values are among those of ``"module/*"``.
    """
    parts = name.split("/")
    around = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    return any(fnmatch.fnmatchcase(path, pattern) for path in (*around, f"{name}/"))


NONE = Hints()


def hints(x_bounds: Bounds | None, gates: str | Sequence[str]) -> Hints:
    """What was said, in a form that can be compared.

    Raises:
      TypeError, ValueError: it is no range, or no pattern.
    """
    patterns = (gates,) if isinstance(gates, str) else gates
    several = isinstance(patterns, (tuple, list))
    if not several or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(f'gates are patterns of module paths, ("router/*",) say, not {gates!r}')
    if x_bounds is None:
        return Hints(gates=tuple(patterns))
    what = "x_bounds must be (low, high), numbers or arrays that broadcast to x"
    if not isinstance(x_bounds, Iterable) or len(ends := tuple(x_bounds)) != 2:
        raise TypeError(f"{what}, not {x_bounds!r}")
    if any(isinstance(end, jax.core.Tracer) for end in ends):
        raise TypeError(f"{what}, and known while the model is traced: close over them, or numpy's")
    try:
        low, high = (np.asarray(end, float) for end in ends)
        within = bool((low <= high).all())
    except (TypeError, ValueError):
        raise TypeError(f"{what}, not {x_bounds!r}") from None
    if not within or low.max() == np.inf or high.min() == -np.inf:
        raise ValueError(f"{what}, with low <= high, not {x_bounds!r}")
    return Hints(_nested(low.tolist()), _nested(high.tolist()), tuple(patterns))


def check_shape(said: Hints, shape: Sequence[int]) -> None:
    """Raises `ValueError` where the range does not broadcast to an input's shape."""
    if said.low is None:
        return
    ends = [np.shape(end) for end in (said.low, said.high)]
    try:
        fits = np.broadcast_shapes(*ends, tuple(shape)) == tuple(shape)
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"x_bounds of shapes {ends[0]} and {ends[1]} do not broadcast to the input's "
            f"{tuple(shape)}: give numbers, or one for each channel along the input's last axes"
        )


def _nested(parts: Any) -> Any:
    return tuple(map(_nested, parts)) if isinstance(parts, list) else parts
