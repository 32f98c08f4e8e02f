"""A network as the papers see it: neurons, and connections between them. Plain numbers and loops.

A neuron is one of eight kinds. What only moves elements (reshape, concatenate, slice, pad, ...)
does not exist here: it decides which neurons a connection joins, and is gone. Scales behind an
affine neuron do not exist either: they are in its weights. Neurons are numbered from the inputs
up, so that children come before their parents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .functions import INF, Phi


@dataclass(frozen=True)
class Input:
    """An element of the explained input."""


@dataclass(frozen=True)
class Constant:
    """A number that does not depend on the input: padding, a token, a masked element (D5)."""

    value: float


@dataclass(frozen=True)
class Affine:
    """y = sum of weight * child + bias (Eq. 4 without phi).

    Attributes:
      connections: (child, weight). A child may occur twice: connections stay separate (Eq. 6).
      learned: False for sums and means of neurons, which carry their bounds (Eq. 19).
    """

    connections: tuple[tuple[int, float], ...]
    bias: float = 0.0
    learned: bool = True


@dataclass(frozen=True)
class Function:
    """phi of one neuron (5.3)."""

    child: int
    phi: Phi


@dataclass(frozen=True)
class Scaled:
    """factor * child + shift, by constants, behind something that is not affine (D3)."""

    child: int
    factor: float
    shift: float = 0.0


@dataclass(frozen=True)
class Gated:
    """gate * child: the gate is a neuron, too, but takes no probability (R7, D7)."""

    child: int
    gate: int


@dataclass(frozen=True)
class Maximum:
    """The largest child (5.4)."""

    children: tuple[int, ...]


@dataclass(frozen=True)
class Normalised:
    """A child, divided (and shifted) by statistics of a group that it belongs to (R5).

    Attributes:
      form: "layer" (x - mean) / std, "rms" x / rms, "lrn" x / (1 + mean of squares)^0.75,
        "softmax" exp(x) / sum of exp.
    """

    child: int
    group: tuple[int, ...]
    form: str


Neuron = Input | Constant | Affine | Function | Scaled | Gated | Maximum | Normalised

EPSILON = 1e-3


class Net:
    """Neurons in order.

    Attributes:
      neurons: by number.
      whole_heads: for a score behind a pooling, the connections of the whole linear map from the
        last activations to it (D6). Other scores have their own connections only.
      low, high: bounds of each neuron's value, known before any input is (lambda is `low`).
    """

    def __init__(self) -> None:
        self.neurons: list[Neuron] = []
        self.whole_heads: dict[int, tuple[tuple[int, float], ...]] = {}
        self.low: list[float] = []
        self.high: list[float] = []

    def add(self, neuron: Neuron) -> int:
        """The number of a new neuron."""
        self.neurons.append(neuron)
        low, high = self._bounds(neuron)
        self.low.append(low)
        self.high.append(high)
        return len(self.neurons) - 1

    def active(self) -> list[bool]:
        """Which neurons depend on the input."""
        found: list[bool] = []
        for neuron in self.neurons:
            found.append(isinstance(neuron, Input) or any(found[c] for c in children(neuron)))
        return found

    def constant_sums(self) -> bool:
        """Whether a sum or a maximum reads nothing but constants."""
        found = zip(self.neurons, self.active(), strict=True)
        return any(not active and isinstance(n, Affine | Maximum) for n, active in found)

    def values(self, inputs: Sequence[float]) -> list[float]:
        """Every neuron's value; `inputs` are those of the Input neurons, in order."""
        given, x = iter(inputs), list[float]()
        for neuron in self.neurons:
            x.append(next(given) if isinstance(neuron, Input) else value(neuron, x))
        return x

    def _bounds(self, neuron: Neuron) -> tuple[float, float]:
        low, high = self.low, self.high
        match neuron:
            case Constant(number):
                return number, number
            case Affine(connections, bias, learned):
                if learned or any(weight < 0 for _, weight in connections):
                    return -INF, INF
                return (
                    sum(w * low[c] for c, w in connections if w) + bias,
                    sum(w * high[c] for c, w in connections if w) + bias,
                )
            case Function(child, phi):
                ends = low[child], high[child]
                return phi.lowest(*ends), phi.highest(*ends)
            case Scaled(child, factor, shift):
                ends = (factor * low[child], factor * high[child]) if factor else (0.0, 0.0)
                return min(ends) + shift, max(ends) + shift
            case Gated(child, gate):
                ends = [_times(a, b) for a in (low[child], high[child])
                        for b in (low[gate], high[gate])]  # fmt: skip
                return min(ends), max(ends)
            case Maximum(found):
                return max(low[c] for c in found), max(high[c] for c in found)
            case Normalised(child, _, form):
                if form == "softmax":
                    return 0.0, 1.0
                return (0.0 if form != "layer" and low[child] >= 0 else -INF), INF
        return -INF, INF


def _times(a: float, b: float) -> float:
    return 0.0 if 0 in (a, b) else a * b


def children(neuron: Neuron) -> list[int]:
    """All that a neuron's value is computed from, gates and statistics included."""
    match neuron:
        case Affine(connections):
            return [child for child, _ in connections]
        case Function(child) | Scaled(child):
            return [child]
        case Gated(child, gate):
            return [child, gate]
        case Maximum(found):
            return list(found)
        case Normalised(_, group):
            return list(group)
    return []


def signals(neuron: Neuron, subtrahends: bool = True) -> list[int]:
    """The children that can win."""
    match neuron:
        case Affine(connections, learned=False) if not subtrahends:
            return [child for child, weight in connections if weight > 0]
        case Gated(child) | Normalised(child):
            return [child]
    return children(neuron)


def value(neuron: Neuron, x: Sequence[float]) -> float:
    """A neuron's value from those of its children."""
    match neuron:
        case Constant(number):
            return number
        case Affine(connections, bias):
            total = bias
            for child, weight in connections:
                total += weight * x[child]
            return total
        case Function(child, phi):
            return phi.call(x[child])
        case Scaled(child, factor, shift):
            return factor * x[child] + shift
        case Gated(child, gate):
            return x[gate] * x[child]
        case Maximum(found):
            return max(x[c] for c in found)
        case Normalised(child, group, form):
            return _normalised(x[child], [x[c] for c in group], form)
    raise AssertionError(neuron)


def _normalised(x: float, group: list[float], form: str) -> float:
    mean = sum(group) / len(group)
    squares = sum(g * g for g in group) / len(group)
    if form == "softmax":
        most = max(group)
        return math.exp(x - most) / sum(math.exp(g - most) for g in group)
    if form == "layer":
        variance = sum((g - mean) ** 2 for g in group) / len(group)
        return (x - mean) / math.sqrt(variance + EPSILON)
    if form == "rms":
        return x / math.sqrt(squares + EPSILON)
    assert form == "lrn", form
    return x / (1 + squares) ** 0.75
