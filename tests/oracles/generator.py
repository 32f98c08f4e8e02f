"""Random networks from a seed, out of what a set of switches allows.

A switch that is off leaves out what the library does not get right yet, so that nothing has to be
excused afterwards: a network is drawn from what is right, or it is not drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .functions import ACTIVATIONS, INF
from .layers import Arrays, Network, Part, Window


@dataclass(frozen=True)
class Switches:
    """What networks may contain.

    Attributes:
      directions: D1. Falling functions and |y|; raw sums read behind scales of different signs.
      sums_of_affine: D2. Layers of several affine parts that only their sum reads, means of
        affine layers, raw sums beside activations.
      constants_before: D3. Constant scales behind the input, an activation or a maximum.
      mixed_bounds: D4. Concatenations of activations of different lambda.
      whole_heads: D6. A convolutional head with an activation between it and the pooling.
      gates: D7. Gates that are no sigmoid, and so may be negative.
      constants: D5. Masks and constant tokens.
      moved_constants: D5. Layers some of whose neurons read nothing but constants.
      maxima: max pooling and maxout. (Where probability reaches zeros, D10, several may be
        largest.)
    """

    directions: bool = False
    sums_of_affine: bool = False
    constants_before: bool = False
    mixed_bounds: bool = False
    whole_heads: bool = False
    gates: bool = False
    constants: bool = True
    moved_constants: bool = False
    maxima: bool = True


#: What is built.
BUILT = Switches(
    directions=True, sums_of_affine=True, constants_before=True, mixed_bounds=True,
    whole_heads=True, gates=True, moved_constants=True,
)  # fmt: skip
ALL = Switches(*[True] * 9)

SHAPES = ((5,), (8, 2), (5, 4, 2), (6, 6, 2), (7, 3))
CLASSES = 3


def random_network(seed: int, switches: Switches = BUILT) -> Network:
    """A network of some hundred neurons."""
    rng = np.random.default_rng(seed)
    network = Builder(rng, switches).build()
    while not switches.moved_constants and network.net.constant_sums():
        network = Builder(rng, switches).build()
    return network


def random_inputs(network: Network, seed: int, batch: int = 2) -> np.ndarray:
    """A batch of inputs, with negative values."""
    rng = np.random.default_rng(seed + 10_000)
    return rng.normal(0.3, 1.0, (batch, *network.layers[0].shape))


class Builder:
    """Grows a network layer by layer."""

    def __init__(self, rng: np.random.Generator, switches: Switches):
        self.rng, self.on = rng, switches
        self.network = Network(SHAPES[rng.integers(len(SHAPES))])

    def build(self) -> Network:
        i = 0
        for _ in range(self.rng.integers(1, 4)):
            i = self.step(i)
        self.heads(i)
        return self.network

    def pick(self, *options: Any) -> Any:
        return options[self.rng.integers(len(options))]

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def shape(self, i: int) -> tuple[int, ...]:
        return self.network.layers[i].shape

    # --- steps --------------------------------------------------------------------------------

    def step(self, i: int) -> int:
        spatial = len(self.shape(i)) > 1 and max(self.shape(i)[:-1]) > 1
        kinds = [
            "block",
            "block",
            "residual",
            "join",
            "join",
            "difference",
            "gate",
            "normalise",
            "raw sum",
        ]
        kinds += ["maxout"] if self.on.maxima else []
        kinds += ["pool", "pool", "block"] if spatial else []
        if len(self.shape(i)) == 2:
            kinds += ["attend", "attend"] + ["token", "token"] * self.on.constants
        kinds += ["mask"] * self.on.constants
        kinds += ["two readers"] if self.on.directions else []
        kinds += ["several parts", "several parts"] if self.on.sums_of_affine else []
        kinds += ["scale"] if self.on.constants_before and not self._affine(i) else []
        return getattr(self, self.pick(*kinds).replace(" ", "_"))(i)

    def block(self, i: int) -> int:
        """An affine layer, and mostly an activation; without one, a linear bottleneck."""
        i = self.affine(i, keep=False)
        return i if self.chance(0.15) else self.act(i)

    def residual(self, i: int) -> int:
        """A skip past two layers; around an activation, unless raw sums are allowed."""
        bare = i == 0 or (self._bounded(i) and self.network.layers[i].kind != "scale")
        skip = i if bare else self.act(self.affine(i))
        branch = self.affine(self.act(self.affine(skip)), self.shape(skip)[-1])
        total = self.network.sum(self._shuffled([skip, branch]))
        return self.act(total, rising=True) if self.chance(0.7) else total

    def join(self, i: int) -> int:
        """Two readers of one layer, concatenated or added up."""
        name = self.pick(*ACTIVATIONS)
        same = not self.on.mixed_bounds
        first = self.act(self.affine(i), name)
        if self.chance(0.4):
            second = self.act(self.affine(i, self.shape(first)[-1]))
            third = self.act(self.affine(i, self.shape(first)[-1]))
            three = self.on.sums_of_affine or all(map(self._bounded, (first, second, third)))
            return self.network.sum([first, second, third][: self.pick(2, 3 if three else 2)])
        second = self.act(self.affine(i), name if same else None)
        joined = self.network.concat([first, second])
        return self.network.channels(joined, 1, self.shape(joined)[-1])

    def difference(self, i: int) -> int:
        """a - b of two activations without an upper bound (R8), and perhaps an activation.

        Where P reaches a - b, a excites it: what happens where nothing does is D10.
        """
        a = self.act(self.affine(i), self.pick("relu", "softplus", "gelu", "silu", "elu"))
        b = self.act(self.affine(i, self.shape(a)[-1]), self.pick("relu", "softplus"))
        i = self.network.sum([a, b], (1, -1))
        return self.act(i, "relu") if self.chance(0.6) else i

    def maxout(self, i: int) -> int:
        a = self.affine(i, norm=False)
        i = self.network.maximum([a, self.affine(i, self.shape(a)[-1], norm=False)])
        return self.act(i) if self.chance(0.6) else i

    def gate(self, i: int) -> int:
        """An activation or a raw layer, times sigmoids, element by element or for whole channels.

        With `gates`, also times tanh, or times anything that is the same at all positions (D7).
        """
        signal = self.affine(i)
        # A sigmoid times a sigmoid says not which of them is the gate.
        names = ("relu", "softplus", "leaky_relu") + (("elu", "selu") if self.on.gates else ())
        if self.chance(0.6):
            signal = self.act(signal, self.pick(*names))
        positions = self.shape(signal)[:-1]
        squeezed = math.prod(positions) > 1 and self._bounded(signal) and self.chance(0.5)
        read = self.network.global_pool(signal) if squeezed else i
        kinds = ["sigmoid"]
        if self.on.gates:
            kinds += ["tanh", "identity"] if squeezed else ["tanh"]
        gate = self.network.phi(self.affine(read, self.shape(signal)[-1]), self.pick(*kinds))
        return self.network.gate(signal, gate)

    def normalise(self, i: int) -> int:
        """Of an activation; what follows reads it."""
        i = i if self._bounded(i) else self.act(self.affine(i))
        form = self.pick("layer", "rms", "lrn") if self.network.low(i) == (0, 0) else "layer"
        return self.network.normalise(i, form)

    def pool(self, i: int) -> int:
        i = i if self._bounded(i) else self.act(self.affine(i))
        window = self.window(self.shape(i)[:-1], dilated=False)
        if self.on.maxima and self.chance(0.5):
            return self.network.max_pool(i, window)
        # Where padding is counted, windows at the border have another lambda (D4).
        counted = self.on.mixed_bounds or self.network.low(i) == (0, 0)
        return self.network.avg_pool(i, window, count_padding=counted and self.chance(0.5))

    def attend(self, i: int) -> int:
        positions = self.shape(i)[0]
        p = self.network.normalise(self.affine(i, positions, norm=False, dense=True), "softmax")
        value = self.affine(i, dense=True)
        # Of two values in [0, 1], neither is surely the gate.
        names = [name for name in ACTIVATIONS if name != "sigmoid"]
        value = self.act(value, self.pick(*names)) if self.chance(0.7) else value
        return self.network.attend(p, value)

    def mask(self, i: int) -> int:
        """Zeros in place of some elements. Their lambda is another than their neighbours' (D4)."""
        i = i if self._bounded(i) else self.act(self.affine(i))
        masked = self.network.mask(i, self.rng.random(self.shape(i)) < 0.8)
        alike = self.network.low(i) == (0, 0) or self.on.mixed_bounds
        return masked if alike else self.act(self.affine(masked))

    def token(self, i: int) -> int:
        """A constant row in front of a sequence of activations."""
        if not self._bounded(i) or (self.network.low(i) != (0, 0) and not self.on.mixed_bounds):
            i = self.act(self.affine(i), "relu")
        joined = self.network.token(i, self.rng.uniform(-1, 1, self.shape(i)[-1]))
        if self.on.mixed_bounds or self.on.moved_constants:
            return joined
        return self.act(self.affine(self.network.flatten(joined)))

    def two_readers(self, i: int) -> int:
        """A raw sum that two norms read, with signs of their own (a pre-activation ResNet's)."""
        y = self.affine(i, norm=False)
        name = None if self.on.mixed_bounds else self.pick(*ACTIVATIONS)
        scaled = [self.network.scale(y, self.norm(self.shape(y)[-1])) for _ in range(2)]
        readers = [self.act(s, name) for s in scaled]
        return self.network.sum(readers) if self.chance(0.5) else self.network.concat(readers)

    def several_parts(self, i: int) -> int:
        """One neuron of two or three affine maps: a projection shortcut, an ensemble's member."""
        other, features = self.act(self.affine(i)), self.pick(2, 3)
        parts = [Part(p, self.kernel(p), self.pick(1, 1, -1)) for p in (i, other, i)]
        parts = [replace(parts[0], sign=1), *parts[1 : self.pick(2, 3)]]
        arrays = self.weights(parts, features) | (self.norm(features) if self.chance(0.5) else {})
        mean = len(self.shape(i)) > 1 and self.chance(0.3)
        made = self.network.affine(parts, arrays, mean=mean)
        return self.act(made) if self.chance(0.8) else made

    def raw_sum(self, i: int) -> int:
        """An affine neuron that is read beside the sum it is in: a residual stream."""
        y = self.affine(i)
        branch = self.affine(self.act(y), self.shape(y)[-1])
        return self.act(self.network.sum(self._shuffled([y, branch])), rising=True)

    def scale(self, i: int) -> int:
        return self.network.scale(i, self.norm(self.shape(i)[-1]))

    # --- heads --------------------------------------------------------------------------------

    def heads(self, i: int) -> None:
        """One or two heads over pooled or flattened features."""
        spatial = len(self.shape(i)) > 1
        several = math.prod(self.shape(i)[:-1]) > 1
        if spatial and several and self.on.whole_heads and self.chance(0.6):
            self.network.outputs = (self.convolutional_head(i),)
            return
        if spatial and self.on.sums_of_affine and self.chance(0.3):
            i = i if self._bounded(i) else self.act(self.affine(i))
            parts = [Part(i, self.kernel(i))]
            arrays = self.weights(parts, CLASSES)
            self.network.outputs = (self.network.affine(parts, arrays, mean=True),)
            return
        if spatial:
            i = self.network.flatten(i) if self.chance(0.5) or not self._poolable(i) else (
                self.network.global_pool(i)
            )  # fmt: skip
        if self.chance(0.25) and not self._bounded(i):
            i = self.act(self.affine(i))
        found = [self.head(i) for _ in range(2 if self.chance(0.25) else 1)]
        self.network.outputs = tuple(found)

    def head(self, i: int) -> int:
        i = self.affine(i, CLASSES, norm=self.chance(0.2), dense=True)
        match self.pick("", "", "softmax", "sigmoid", "falling"):
            case "softmax":
                return self.network.normalise(i, "softmax")
            case "falling" if self.on.directions:
                return self.network.phi(self.network.phi(i, "sigmoid"), "one_minus")
            case "sigmoid":
                return self.network.phi(i, "sigmoid")
        return i

    def convolutional_head(self, i: int) -> int:
        if not self._bounded(i):
            i = self.act(self.affine(i))
        head = self.affine(i, CLASSES, norm=False)
        return self.network.global_pool(self.network.phi(head, "relu"), head)

    # --- layers -------------------------------------------------------------------------------

    def act(self, i: int, name: str | None = None, rising: bool = False) -> int:
        """An activation; of a falling kind where those are allowed."""
        if name is None and self.on.directions and not rising and self.chance(0.15):
            name = self.pick("abs", "square", "exp_minus")
        return self.network.phi(i, name or self.pick(*ACTIVATIONS))

    def affine(
        self, i: int, features: int | None = None, *, keep: bool = True,
        norm: bool | None = None, dense: bool = False,
    ) -> int:  # fmt: skip
        """A dense layer or a convolution (which keeps the positions where `keep`), and a norm."""
        features = features or self.pick(2, 3, 4)
        parts = [Part(i, None if dense else self.kernel(i, keep))]
        norm = self.chance(0.5) if norm is None else norm
        arrays = self.weights(parts, features) | (self.norm(features) if norm else {})
        return self.network.affine(parts, arrays)

    def kernel(self, i: int, keep: bool = True) -> Window | None:
        """The window of a convolution, mostly; a dense layer has none."""
        convolved = len(self.shape(i)) > 1 and self.chance(0.8)
        return self.window(self.shape(i)[:-1], keep) if convolved else None

    def window(self, sizes: tuple[int, ...], keep: bool = False, *, dilated: bool = True) -> Window:
        """A random window that fits; the same positions come out where `keep`."""
        pad_mode = "same" if keep else self.pick("same", "none", "any")
        kernel, strides, pads, dilation = [], [], [], []
        for n in sizes:
            k = min(self.pick(1, 2, 3), n) if dilated else min(self.pick(2, 3), n)
            # XLA 0.10.2 aborts on the gradient of some dilated convolutions with one position.
            d = self.pick(1, 1, 2) if dilated and 2 * (k - 1) < n - 2 else 1
            span = (k - 1) * d
            low = {"same": span // 2, "none": 0, "any": min(self.pick(0, 1), k - 1)}[pad_mode]
            high = span - low if pad_mode == "same" else {"none": 0, "any": low}[pad_mode]
            kernel.append(k)
            dilation.append(d)
            pads.append((low, high))
            strides.append(1 if keep else self.pick(1, 1, 2))
        return Window(tuple(kernel), tuple(strides), tuple(pads), tuple(dilation))

    def weights(self, parts: list[Part], features: int) -> Arrays:
        """Weights of all parts, and a bias; convolutions among the parts get their groups."""
        found: Arrays = {"b": self.rng.normal(0, 0.3, features)}
        for k, part in enumerate(parts):
            width = self.shape(part.parent)[-1]
            if part.window is not None:
                groups = self.pick(*(g for g in (1, 2, 3) if width % g == 0 and features % g == 0))
                part = replace(part, window=replace(part.window, groups=groups))
                parts[k], width = part, width // groups
            kernel = () if part.window is None else part.window.kernel
            size = math.sqrt(math.prod(kernel) * width)
            found[f"w{k}"] = self.rng.normal(0, 1, (*kernel, width, features)) / size
        return found

    def norm(self, features: int) -> Arrays:
        """A BatchNorm with scales of both signs."""
        return {
            "gamma": self.rng.normal(0, 1, features),
            "beta": self.rng.normal(0.2, 0.3, features),
            "mean": self.rng.normal(0, 0.3, features),
            "var": self.rng.uniform(0.2, 2, features),
        }

    def _affine(self, i: int) -> bool:
        return self.network.layers[i].kind in ("affine", "sum", "avg_pool", "global_pool", "attend")

    def _bounded(self, i: int) -> bool:
        return self.network.low(i)[0] > -INF

    def _poolable(self, i: int) -> bool:
        """Whether a mean over positions is no sum of affine neurons."""
        return self._bounded(i) and (self.on.mixed_bounds or len(set(self.network.low(i))) == 1)

    def _shuffled(self, found: list[int]) -> list[int]:
        return found if self.chance(0.5) else found[::-1]
