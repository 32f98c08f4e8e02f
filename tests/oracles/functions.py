"""Activations as functions of one number, and the least value that each can take (Eq. 20).

`math` only. An activation is a name, a function, and which way it goes; its lower bound is not
written down but found, by a search over the numbers its argument can be.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

INF = math.inf


@dataclass(frozen=True)
class Phi:
    """An elementwise function.

    Attributes:
      call: of one float.
      way: "rises", "falls", or "both"; what is x times a rising gate in [0, 1] counts as rising
        (design, D1).
    """

    name: str
    call: Callable[[float], float]
    way: str = "rises"

    def direction(self, x: float) -> int:
        """+1 where a larger value wants a larger argument, -1 where it wants a smaller one."""
        if self.way == "both":  # the sign of the slope, where 0 counts as rising
            step = 1e-6 * max(1.0, abs(x))
            return -1 if self.call(x + step) < self.call(x - step) else 1
        return 1 if self.way == "rises" else -1

    def lowest(self, low: float = -INF, high: float = INF) -> float:
        """The infimum over [low, high]; -inf where it falls without end."""
        return lowest(self.call, low, high)

    def highest(self, low: float = -INF, high: float = INF) -> float:
        """The supremum over [low, high]."""
        return -lowest(_negated(self.call), low, high)


@functools.cache
def _negated(call: Callable[[float], float]) -> Callable[[float], float]:
    return lambda x: -call(x)


@functools.cache
def lowest(call: Callable[[float], float], low: float, high: float) -> float:
    """The infimum of a function over an interval: a coarse walk, then a search by thirds."""
    ladder = [math.sinh(i / 40) / 10 for i in range(-520, 521)]  # +-2e4, 0.0025 apart at 0
    points = [low, *(p for p in ladder if low < p < high), high]
    points = [p for p in points if math.isfinite(p)]
    values = [call(p) for p in points]
    at = min(range(len(points)), key=values.__getitem__)
    for end, beyond in ((0, -1e8), (len(points) - 1, 1e8)):
        endless = low == -INF if end == 0 else high == INF
        if endless and call(beyond) < values[end] - 1e-3:
            return -INF
    left, right = points[max(at - 1, 0)], points[min(at + 1, len(points) - 1)]
    for _ in range(200):
        a, b = left + (right - left) / 3, right - (right - left) / 3
        if call(a) <= call(b):
            right = b
        else:
            left = a
    return min(values[at], call((left + right) / 2))


def _exp(x: float) -> float:
    return math.exp(min(x, 700.0))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(max(x, -700.0)) / (1 + _exp(x))


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-min(abs(x), 700.0)))


def _selu(x: float) -> float:
    return 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * math.expm1(x))


def _gelu_tanh(x: float) -> float:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1 + math.tanh(inner))


LEAK = 0.1

PHI: dict[str, Phi] = {
    phi.name: phi
    for phi in [
        Phi("identity", lambda x: x),
        Phi("relu", lambda x: max(x, 0.0)),
        Phi("relu6", lambda x: min(max(x, 0.0), 6.0)),
        Phi("leaky_relu", lambda x: x if x > 0 else LEAK * x),
        Phi("elu", lambda x: x if x > 0 else math.expm1(x)),
        Phi("selu", _selu),
        Phi("gelu", lambda x: 0.5 * x * math.erfc(-x / math.sqrt(2))),
        Phi("gelu_tanh", _gelu_tanh),
        Phi("silu", lambda x: x * _sigmoid(x)),
        Phi("mish", lambda x: x * math.tanh(_softplus(x))),
        Phi("hard_swish", lambda x: x * min(max(x + 3, 0.0), 6.0) / 6),
        Phi("hard_tanh", lambda x: min(max(x, -1.0), 1.0)),
        Phi("tanh", math.tanh),
        Phi("sigmoid", _sigmoid),
        Phi("softplus", _softplus),
        Phi("minus", lambda x: -x, "falls"),
        Phi("one_minus", lambda x: 1 - x, "falls"),
        Phi("exp_minus", lambda x: _exp(-x), "falls"),
        Phi("abs", abs, "both"),
        Phi("square", lambda x: x * x, "both"),
    ]
}

#: What networks use between layers.
ACTIVATIONS = (
    "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "gelu_tanh", "silu", "mish", "hard_swish",
    "hard_tanh", "tanh", "sigmoid", "softplus",
)  # fmt: skip
