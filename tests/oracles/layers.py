"""Networks of layers, and the neurons and connections that they stand for.

A `Network` is a list of layers with numpy arrays: what both the oracle and a spelling in JAX are
made from. Each method of `Network` adds a layer, and in the same breath its neurons, by loops over
positions and taps. Arrays of neurons have the shape of one example, channels last.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .functions import PHI
from .neurons import (
    EPSILON,
    Affine,
    Constant,
    Function,
    Gated,
    Input,
    Maximum,
    Net,
    Normalised,
    Scaled,
    signals,
)  # fmt: skip

Arrays = dict[str, np.ndarray]

#: Layers that have no neurons of their own.
MOVES = ("concat", "flatten", "channels", "token", "mask")


@dataclass(frozen=True)
class Window:
    """Where a convolution or a pooling looks. `pads` is (before, after) along each axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1

    def out_sizes(self, sizes: Sequence[int]) -> tuple[int, ...]:
        every = zip(sizes, self.kernel, self.stride, self.pads, self.dilation, strict=True)
        return tuple((n + sum(p) - (k - 1) * d - 1) // s + 1 for n, k, s, p, d in every)

    def looks(self, sizes: Sequence[int]) -> Iterator[tuple[tuple, list[tuple[tuple, tuple]]]]:
        """For each output position, the (tap, position) pairs inside the input."""
        for place in np.ndindex(*self.out_sizes(sizes)):
            seen = []
            for tap in itertools.product(*map(range, self.kernel)):
                at = tuple(
                    o * s - low + t * d
                    for o, s, (low, _), t, d in zip(
                        place, self.stride, self.pads, tap, self.dilation, strict=True
                    )
                )
                if all(0 <= a < n for a, n in zip(at, sizes, strict=True)):
                    seen.append((tap, at))
            yield place, seen


@dataclass(frozen=True)
class Part:
    """One of the affine maps that an affine layer is the sum of.

    Attributes:
      parent: the layer it reads. window: of a convolution; None for a dense one.
      sign: -1 where it is subtracted.
    """

    parent: int
    window: Window | None = None
    sign: int = 1


@dataclass(frozen=True)
class Layer:
    """A layer: its kind, what it reads, its shape, its options and its arrays."""

    kind: str
    parents: tuple[int, ...]
    shape: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)


class Network:
    """Layers and their neurons; layer 0 is the input.

    Attributes:
      layers: in order. ids: for each layer, the numbers of its neurons in `net`.
      outputs: the layers that the network returns.
    """

    def __init__(self, shape: tuple[int, ...]):
        self.net = Net()
        self.layers: list[Layer] = []
        self.ids: list[np.ndarray] = []
        self.outputs: tuple[int, ...] = ()
        self._note("input", (), self._each(shape, lambda _: Input()))

    def __repr__(self) -> str:
        lines = [
            f"{i}: {layer.kind}{layer.parents} -> {layer.shape} {layer.options or ''}"
            for i, layer in enumerate(self.layers)
        ]
        return "\n".join([*lines, f"outputs {self.outputs}"])

    @property
    def params(self) -> list[Arrays]:
        return [layer.arrays for layer in self.layers]

    def on_the_way(self, *, subtrahends: bool = False) -> list[int]:
        """The layers with neurons of their own that a walk from the outputs may visit.

        Args:
          subtrahends: count what is only subtracted, too (D1).
        """
        reached, pending = set[int](), [int(n) for o in self.outputs for n in self.ids[o].ravel()]
        while pending:
            n = pending.pop()
            if n not in reached:
                reached.add(n)
                pending += signals(self.net.neurons[n], subtrahends)
        own = [i for i, layer in enumerate(self.layers) if layer.kind not in MOVES]
        return [i for i in own if reached.intersection(self.ids[i].ravel().tolist())]

    def low(self, i: int) -> tuple[float, float]:
        """Least and greatest lambda of a layer's neurons."""
        found = [self.net.low[n] for n in self.ids[i].ravel()]
        return min(found), max(found)

    def constant(self, i: int) -> np.ndarray:
        """Which elements of a layer are no neurons."""
        active = np.array(self.net.active())
        return ~active[self.ids[i]]

    def _note(
        self, kind: str, parents: Sequence[int], ids: np.ndarray,
        options: dict[str, Any] | None = None, arrays: Arrays | None = None,
    ) -> int:  # fmt: skip
        self.layers.append(Layer(kind, tuple(parents), ids.shape, options or {}, arrays or {}))
        self.ids.append(ids)
        return len(self.layers) - 1

    def _each(self, shape: tuple[int, ...], make: Any) -> np.ndarray:
        ids = np.zeros(shape, int)
        for place in np.ndindex(*shape):
            ids[place] = self.net.add(make(place))
        return ids

    # --- layers that are sums ---------------------------------------------------------------

    def affine(self, parts: Sequence[Part], arrays: Arrays, *, mean: bool = False) -> int:
        """A sum of dense layers and convolutions, a BatchNorm behind it, and a mean over positions.

        Args:
          arrays: "w0", "w1", ... of the parts, (*kernel, in, out); "b"; for a BatchNorm "gamma",
            "beta", "mean" and "var".
          mean: the layer is the mean over positions: one neuron per channel (D2).
        """
        features = arrays["b"].size
        scale, shift = batch_norm(arrays) if "gamma" in arrays else (np.ones(features), 0.0)
        bias = arrays["b"] * scale + shift
        found: dict[tuple, list[tuple[int, float]]] = {}
        for k, part in enumerate(parts):
            for place, connections in self._part(part, arrays[f"w{k}"]):
                factor = part.sign * scale[place[-1]]
                found.setdefault(place, []).extend((c, w * factor) for c, w in connections)
        shape = tuple(1 + n for n in map(max, *found)) if len(found) > 1 else (1,) * len(min(found))
        if mean:
            count, positions = math.prod(shape[:-1]), list(np.ndindex(*shape[:-1]))
            pooled = {
                (c,): [(i, w / count) for p in positions for i, w in found[(*p, c)]]
                for c in range(features)
            }
            found, shape = pooled, (features,)
        ids = self._each(shape, lambda at: Affine(tuple(found[at]), float(bias[at[-1]])))
        parents = [part.parent for part in parts]
        return self._note("affine", parents, ids, {"parts": tuple(parts), "mean": mean}, arrays)

    def _part(self, part: Part, w: np.ndarray) -> Iterator[tuple[tuple, list[tuple[int, float]]]]:
        source = self.ids[part.parent]
        if part.window is None:
            for place in np.ndindex(*source.shape[:-1]):
                for o in range(w.shape[-1]):
                    row = source[place]
                    yield (*place, o), [(int(row[i]), float(w[i, o])) for i in range(row.size)]
            return
        ins, outs = source.shape[-1] // part.window.groups, w.shape[-1] // part.window.groups
        for place, seen in part.window.looks(source.shape[:-1]):
            for o in range(w.shape[-1]):
                first = o // outs * ins
                yield (
                    (*place, o),
                    [
                        (int(source[(*at, first + i)]), float(w[(*tap, i, o)]))
                        for tap, at in seen
                        for i in range(ins)
                    ],
                )

    def sum(self, parents: Sequence[int], signs: Sequence[int] | None = None) -> int:
        """A sum of layers of one shape (Eq. 19), or with signs a difference (R8)."""
        signs = tuple(signs or (1,) * len(parents))
        ids = self._each(
            self.layers[parents[0]].shape,
            lambda at: Affine(
                tuple(
                    (int(self.ids[p][at]), float(s)) for p, s in zip(parents, signs, strict=True)
                ),
                learned=False,
            ),
        )
        return self._note("sum", parents, ids, {"signs": signs})

    def avg_pool(self, i: int, window: Window, *, count_padding: bool = False) -> int:
        source, full = self.ids[i], math.prod(window.kernel)
        ids = np.zeros((*window.out_sizes(source.shape[:-1]), source.shape[-1]), int)
        for place, seen in window.looks(source.shape[:-1]):
            size = full if count_padding else len(seen)
            for c in range(source.shape[-1]):
                joined = tuple((int(source[(*at, c)]), 1 / size) for _, at in seen)
                ids[(*place, c)] = self.net.add(Affine(joined, learned=False))
        return self._note("avg_pool", [i], ids, {"window": window, "count_padding": count_padding})

    def global_pool(self, i: int, head: int | None = None) -> int:
        """The mean over positions.

        Args:
          head: a convolutional head that layer `i` is an activation of: the scores' reverse units
            are then the whole linear map (D6).
        """
        rows = self.ids[i].reshape(-1, self.ids[i].shape[-1])
        scores = rows if head is None else self.ids[head].reshape(rows.shape)
        ids = np.zeros(rows.shape[1], int)
        for c in range(rows.shape[1]):
            joined = tuple((int(n), 1 / len(rows)) for n in rows[:, c])
            ids[c] = self.net.add(Affine(joined, learned=False))
            if head is not None:
                below = [self.net.neurons[n] for n in scores[:, c]]
                self.net.whole_heads[int(ids[c])] = tuple(
                    (child, w / len(rows)) for score in below for child, w in score.connections
                )
        return self._note("global_pool", [i], ids)

    # --- layers of one neuron each ----------------------------------------------------------

    def phi(self, i: int, name: str) -> int:
        ids = self._of(i, lambda n, _: Function(n, PHI[name]))
        return self._note("phi", [i], ids, {"name": name})

    def scale(self, i: int, arrays: Arrays) -> int:
        """A BatchNorm, or (x - mean) / std of the input, behind what is not affine (D3)."""
        scale, shift = batch_norm(arrays)
        shift = np.broadcast_to(shift, scale.shape)
        ids = self._of(i, lambda n, at: Scaled(n, float(scale[at[-1]]), float(shift[at[-1]])))
        return self._note("scale", [i], ids, {}, arrays)

    def normalise(self, i: int, form: str) -> int:
        """Over channels, at each position."""
        ids = self._of(
            i, lambda n, at: Normalised(n, tuple(int(g) for g in self.ids[i][at[:-1]]), form)
        )
        return self._note("normalise", [i], ids, {"form": form})

    def gate(self, i: int, gate: int) -> int:
        """layer i * gate, of its shape, or of one number for each channel."""
        gates = np.broadcast_to(self.ids[gate], self.layers[i].shape)
        ids = self._of(i, lambda n, at: Gated(n, int(gates[at])))
        return self._note("gate", [i, gate], ids)

    def attend(self, probabilities: int, values: int) -> int:
        """probabilities (T, T) @ values (T, C): a mean by gates (R7)."""
        p, v = self.ids[probabilities], self.ids[values]
        ids = np.zeros(v.shape, int)
        for t, c in np.ndindex(*v.shape):
            weighted = [Gated(int(v[s, c]), int(p[t, s])) for s in range(len(v))]
            joined = tuple((self.net.add(g), 1.0) for g in weighted)
            ids[t, c] = self.net.add(Affine(joined))
        return self._note("attend", [probabilities, values], ids)

    def max_pool(self, i: int, window: Window) -> int:
        source = self.ids[i]
        ids = np.zeros((*window.out_sizes(source.shape[:-1]), source.shape[-1]), int)
        for place, seen in window.looks(source.shape[:-1]):
            for c in range(source.shape[-1]):
                joined = tuple(int(source[(*at, c)]) for _, at in seen)
                ids[(*place, c)] = self.net.add(Maximum(joined))
        return self._note("max_pool", [i], ids, {"window": window})

    def maximum(self, parents: Sequence[int]) -> int:
        """Maxout: the largest of several layers, element by element."""
        ids = self._each(
            self.layers[parents[0]].shape,
            lambda at: Maximum(tuple(int(self.ids[p][at]) for p in parents)),
        )
        return self._note("maximum", parents, ids)

    def _of(self, i: int, make: Any) -> np.ndarray:
        """A neuron for each of layer i's; a function of a constant is a constant."""
        return self._each(self.layers[i].shape, lambda at: make(int(self.ids[i][at]), at))

    # --- moves: no neurons of their own -----------------------------------------------------

    def concat(self, parents: Sequence[int]) -> int:
        """Along channels."""
        return self._note("concat", parents, np.concatenate([self.ids[p] for p in parents], -1))

    def flatten(self, i: int) -> int:
        return self._note("flatten", [i], self.ids[i].reshape(-1))

    def channels(self, i: int, start: int, stop: int) -> int:
        ids = self.ids[i][..., start:stop]
        return self._note("channels", [i], ids, {"start": start, "stop": stop})

    def token(self, i: int, value: np.ndarray) -> int:
        """Constants (of one position's shape) in front of the positions of a sequence (T, C)."""
        ids = self._each((1, *value.shape), lambda at: Constant(float(value[at[1:]])))
        return self._note("token", [i], np.concatenate([ids, self.ids[i]]), {}, {"value": value})

    def mask(self, i: int, keep: np.ndarray) -> int:
        """Zero where `keep` (of the layer's shape) is False."""
        ids = self.ids[i].copy()
        for at in zip(*np.nonzero(~keep), strict=True):
            ids[at] = self.net.add(Constant(0.0))
        return self._note("mask", [i], ids, {"keep": keep})


def batch_norm(arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """(scale, shift) of a BatchNorm in inference."""
    scale = arrays["gamma"] / np.sqrt(arrays["var"] + EPSILON)
    return scale, arrays["beta"] - arrays["mean"] * scale
