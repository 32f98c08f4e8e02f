"""Marginal winning probabilities of a `Net`, neuron by neuron: Eq. 6, 19, 20, and D1, D3, D6, D10.

`transition` says where a walker goes from one neuron, written out from the text of the papers and
of the design; `Winners.mwp` adds up Eq. 1 from the outputs down. No jax, no numpy, no matrices.

A walker has a direction: +1 where the neuron's being larger is what is to be explained, -1 where
its being smaller is (D1).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from .functions import INF
from .neurons import Affine, Function, Gated, Input, Maximum, Net, Normalised, Scaled


@dataclass(frozen=True)
class Meaning:
    """What a map means where earlier texts and the design's D-rules differ.

    Attributes:
      constants_of_readers: D3. A constant scale behind an activation belongs to its reader's
        weights; before, it was passed unchanged, and h taken behind it.
      whole_heads: D6. Of a score behind a pooling, the reverse unit is the whole linear map.
      evenly: D10. A neuron that nothing excites hands its probability on evenly.

    D1, D2 and D4 need no switch: a network that has no use for them has the same map either way.
    """

    constants_of_readers: bool = True
    whole_heads: bool = True
    evenly: bool = False


#: Before D3.
BEFORE = Meaning(constants_of_readers=False, whole_heads=False)
#: D0 to D9.
AGREED = Meaning()
#: What the library computes.
BUILT = AGREED
#: D10, too.
CONSERVING = Meaning(evenly=True)

Step = tuple[int, int, float]  # child, direction there, probability


class Winners:
    """The walk on one network and one input.

    Attributes:
      values: of every neuron.
      lost: probability that ended in neurons without an excitatory child, in the last `mwp`.
    """

    def __init__(self, net: Net, inputs: Sequence[float], meaning: Meaning = AGREED):
        self.net, self.meaning = net, meaning
        self.values = net.values(inputs)
        self.active = net.active()
        self.lost = 0.0

    def mwp(self, prior: Mapping[int, float]) -> list[float]:
        """Eq. 1: P of every neuron, from P(A0) by neuron."""
        return self._walk({(i, 1): p for i, p in prior.items()})

    def contrastive(self, prior: Mapping[int, float]) -> list[float]:
        """Eq. 7 to 9: c-MWP, of neurons below the heads.

        D10 does not act at the top of a contrastive pass, on either side.
        """
        tops = {output: self._top(output, 1) for output in prior}
        heads = {head for top, _ in tops.values() for head in self._head(top)}
        above = self._walk({(i, 1): p for i, p in prior.items()}, uneven=heads)
        start: dict[tuple[int, int], float] = {}
        for output, p in prior.items():
            top, direction = tops[output]
            for child, way, share in self._reverse(top, -direction):
                start[child, way] = start.get((child, way), 0.0) + p * share
        below = self._walk(start)
        return [plus - minus for plus, minus in zip(above, below, strict=True)]

    def _walk(
        self, start: Mapping[tuple[int, int], float], uneven: Collection[int] = ()
    ) -> list[float]:
        """Eq. 1, from probabilities by neuron and direction; `uneven` ones never hand on evenly."""
        size = len(self.net.neurons)
        p = {1: [0.0] * size, -1: [0.0] * size}
        for (i, direction), share in start.items():
            p[direction][i] += share
        self.lost = 0.0
        for i in reversed(range(size)):
            for direction in (1, -1):
                here = p[direction][i]
                if here == 0:  # nothing flows, whatever the values are (D8)
                    continue
                steps = self.transition(i, direction, self.meaning.evenly and i not in uneven)
                if not steps and not isinstance(self.net.neurons[i], Input):
                    self.lost += here
                for child, way, share in steps:
                    p[way][child] += here * share
        return [plus + minus for plus, minus in zip(p[1], p[-1], strict=True)]

    def transition(self, i: int, direction: int, evenly: bool = False) -> list[Step]:
        """Where a walker goes from neuron i: children, directions there, probabilities."""
        neuron, x = self.net.neurons[i], self.values
        if not self.active[i]:
            return []
        match neuron:
            case Affine(connections, _, learned):
                return self._excited(connections, learned, direction, evenly)
            case Function(child, phi):
                return [(child, direction * phi.direction(x[child]), 1.0)]
            case Scaled(child, factor):
                turned = factor < 0 and (self.meaning.constants_of_readers or self._own(i))
                return [(child, -direction if turned else direction, 1.0)]
            case Gated(child, gate):
                return [(child, -direction if x[gate] < 0 else direction, 1.0)]
            case Maximum(found):
                return [(max(found, key=x.__getitem__), direction, 1.0)]
            case Normalised(child):
                return [(child, direction, 1.0)]
        return []

    def _excited(
        self, connections: Sequence[tuple[int, float]], learned: bool, direction: int, evenly: bool
    ) -> list[Step]:
        """Eq. 6, 19 and 20: each connection's share of what excites a sum."""
        alone = [(c, w) for c, w in connections if w and self.active[c]]
        if not learned and len(alone) == 1:  # a neuron and constants: a shift (R5)
            ((child, weight),) = alone
            return [(child, 1 if direction * weight > 0 else -1, 1.0)]
        found: list[Step] = []
        for child, weight in connections:
            excitation = self._excitation(child, weight, learned, direction)
            if excitation > 0:
                found.append((child, 1 if direction * weight > 0 else -1, excitation))
        total = sum(excitation for *_, excitation in found)
        if total > 0:
            return [(child, way, excitation / total) for child, way, excitation in found]
        if not evenly:
            return []
        field = [child for child, _ in connections if self.active[child]]
        # Whatever scales it on the way, a neuron is handed it for its being larger.
        between = [self._base(child)[1:] for child in field]
        number = sum(abs(gates) for gates, _ in between)
        return [
            (child, 1 if gates * constants >= 0 else -1, abs(gates) / number)
            for child, (gates, constants) in zip(field, between, strict=True)
            if gates
        ]

    def _excitation(self, child: int, weight: float, learned: bool, direction: int) -> float:
        """What one connection contributes towards a neuron's being larger (or smaller)."""
        if not self.active[child]:
            return 0.0  # a constant is no neuron (D5)
        base, gates, constants = self._base(child)
        if not self.active[base]:
            return 0.0  # and a gate makes none of it
        x, low = self.values[base], self.net.low[base]
        push = direction * weight * gates * constants
        if low > -INF:
            return max(push, 0.0) * (x - low)
        if learned:  # an inhibited neuron cannot win
            return max(push, 0.0) * max(x, 0.0)
        # A sum of neurons whose values have both signs: a negative one makes the sum smaller.
        return max(push * x, 0.0)

    def _base(self, child: int) -> tuple[int, float, float]:
        """The neuron that a connection reads, the gates and the constants in between."""
        gates = constants = 1.0
        while True:
            neuron = self.net.neurons[child]
            if isinstance(neuron, Gated):
                child, gates = neuron.child, gates * self.values[neuron.gate]
            elif isinstance(neuron, Scaled) and not self._own(child):
                if not self.meaning.constants_of_readers:
                    return child, gates, constants
                child, constants = neuron.child, constants * neuron.factor
            else:
                return child, gates, constants

    def _own(self, i: int) -> bool:
        """Whether a scale stands behind an affine neuron, and so belongs to that."""
        neuron = self.net.neurons[i]
        while isinstance(neuron, Scaled):
            neuron = self.net.neurons[neuron.child]
        return isinstance(neuron, Affine)

    def _top(self, output: int, direction: int) -> tuple[int, int]:
        """The score below an output's activation or softmax, and the direction there."""
        neuron = self.net.neurons[output]
        if isinstance(neuron, Function | Scaled | Normalised) and output not in (
            self.net.whole_heads
        ):
            for child, way, _ in self.transition(output, direction):  # none, if it is constant
                return self._top(child, way)
        return output, direction

    def _head(self, top: int) -> list[int]:
        """The affine neurons that a score is made of: itself, or those below its pooling."""
        neuron = self.net.neurons[top]
        if isinstance(neuron, Affine) and not neuron.learned:
            below = [self._top(child, 1)[0] for child, _ in neuron.connections]
            return [top, *(head for child in below for head in self._head(child))]
        return [top]

    def _reverse(self, top: int, direction: int) -> list[Step]:
        """Eq. 8: the winners among the children of the negated linear head."""
        neuron = self.net.neurons[top]
        whole = self.net.whole_heads.get(top) if self.meaning.whole_heads else None
        if whole is not None:
            return self._excited(whole, True, direction, False)
        if isinstance(neuron, Affine) and neuron.learned:
            return self._excited(neuron.connections, True, direction, False)
        found: list[Step] = []  # a pooled head as it was: the reverse at each position
        for child, way, share in self.transition(top, -direction):
            inner, way = self._top(child, way)
            found += [(c, d, share * s) for c, d, s in self._reverse(inner, -way)]
        return found
