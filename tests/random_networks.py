"""Random small networks, and their absorbing Markov chains, written out in full.

Hypothesis draws a network as a plain list of nodes. JAX evaluates it, and `Chain` builds from
the same list, in numpy float64 and without tracing anything, the transition matrix Q between
all neurons and the fundamental matrix N = (I - Q)^-1 (IJCV18, Eq. 2, 3). The visits that N
gives are the marginal winning probabilities that the library has to return.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from jax import lax

import excitation_jax as ej

INF = math.inf
LEAK = 0.1
EPSILON = 1e-3
CLASSES = 3
ACTIVATIONS = ("relu", "leaky", "tanh", "elu")
# The graphs are tiny and run once: compile them quickly. (The second is gone from newer XLA.)
FAST: dict[str, Any] = {}
for option in ({"xla_backend_optimization_level": 0}, {"xla_cpu_use_fusion_emitters": False}):
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        jax.jit(jnp.negative, compiler_options=option)(1.0)
        FAST |= option

check_many = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
check_some = settings(check_many, max_examples=40)


@dataclass(frozen=True)
class Node:
    """One layer of neurons: what makes it, of which earlier nodes (node 0 is the input)."""

    kind: str
    parents: tuple[int, ...]
    shape: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Network:
    """Nodes in the order of evaluation; shapes are those of one example.

    Attributes:
        top: index of the classifier, the highest affine node.
        channels_first: layout of everything with spatial axes.
    """

    nodes: tuple[Node, ...]
    top: int
    channels_first: bool
    seed: int

    def __repr__(self) -> str:
        lines = [
            f"{i}: {n.kind}{n.parents} -> {n.shape} {n.options}" for i, n in enumerate(self.nodes)
        ]
        layout = "channels first" if self.channels_first else "channels last"
        return "\n".join([f"Network, {layout}, seed {self.seed}", *lines])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # what hypothesis reports of a failure

    @property
    def params(self) -> list[dict[str, np.ndarray]]:
        return [node.arrays for node in self.nodes]

    def inputs(self) -> np.ndarray:
        """Two examples, with negative values."""
        rng = np.random.default_rng(self.seed + 1)
        return rng.normal(0.3, 1.0, (2, *self.nodes[0].shape))


# --- the network in JAX -----------------------------------------------------------------------


def run(network: Network, params: Any, x: jax.Array) -> jax.Array:
    """Evaluates a network on a batch; node i's value is tagged ``ni``."""
    values = [x]
    for i, node in enumerate(network.nodes[1:], start=1):
        operands = [values[j] for j in node.parents]
        value = evaluate(node, params[i], operands, network.channels_first)
        values.append(ej.tag(value, f"n{i}"))
    return values[-1]


def evaluate(
    node: Node, params: dict[str, jax.Array], operands: list[jax.Array], channels_first: bool
) -> jax.Array:
    x, options = operands[0], node.options
    channel = 1 if channels_first or x.ndim == 2 else x.ndim - 1
    spatial = [axis for axis in range(1, x.ndim) if axis != channel]

    def per_channel(a: jax.Array) -> jax.Array:
        return a.reshape([-1 if axis == channel else 1 for axis in range(x.ndim)])

    def window(sizes: tuple[int, ...], fill: int = 1) -> tuple[int, ...]:
        full = [fill] * x.ndim
        for axis, size in zip(spatial, sizes, strict=True):
            full[axis] = size
        return tuple(full)

    match node.kind:
        case "conv":
            letters = "HWD"[: x.ndim - 2]
            layout = "NC" + letters if channels_first else "N" + letters + "C"
            y = lax.conv_general_dilated(
                x, params["w"], options["stride"], options["padding"],
                rhs_dilation=options["dilation"], feature_group_count=options["groups"],
                dimension_numbers=(layout, letters + "IO", layout),
            )  # fmt: skip
            return y + per_channel(params["b"])
        case "dense":
            return x @ params["w"] + params["b"]
        case "norm":
            scale = params["gamma"] * lax.rsqrt(params["var"] + EPSILON)
            x = (x - per_channel(params["mean"])) * per_channel(scale)
            return x + per_channel(params["beta"])
        case "relu":
            return jax.nn.relu(x)
        case "leaky":
            return jax.nn.leaky_relu(x, LEAK)
        case "tanh":
            return jnp.tanh(x)
        case "elu":
            return jax.nn.elu(x)
        case "max_pool" | "avg_pool":
            padding = lax.padtype_to_pads(
                x.shape, window(options["window"]), window(options["stride"]), options["padding"]
            )
            sizes = (window(options["window"]), window(options["stride"]), padding)
            if node.kind == "max_pool":
                return lax.reduce_window(x, -jnp.inf, lax.max, *sizes)
            total = lax.reduce_window(x, 0.0, lax.add, *sizes)
            if options["count_padding"]:
                return total / math.prod(options["window"])
            return total / lax.reduce_window(jnp.ones_like(x), 0.0, lax.add, *sizes)
        case "global_pool":
            return x.mean(axis=tuple(spatial))
        case "flatten":
            return x.reshape(x.shape[0], -1)
        case "sum":
            return x + operands[1]
        case "concat":
            return jnp.concatenate(operands, axis=channel)
    raise AssertionError(node.kind)


# --- the oracle -------------------------------------------------------------------------------


class Chain:
    """The absorbing Markov chain of one example: all neurons, and how a walker moves among them.

    A walker at an affine neuron i moves to its child j with probability h_j w+_ij / Z_i (Eq. 6),
    w the weights with the scales behind them counted in; at an activation or a norm to its one
    child; at a max-pool to the winner; at a sum in proportion to h (Eq. 19). h_j is x_j minus
    the lower bound of node j's values where there is one (Eq. 20), and max(x_j, 0) otherwise.
    A neuron with Z_i = 0 absorbs.
    """

    def __init__(self, network: Network, x: np.ndarray):
        self.network = network
        self.nodes = network.nodes
        self.values = [x.astype(float)]
        self.lows = [-INF]
        for node in self.nodes[1:]:
            parents = [self.values[j] for j in node.parents]
            self.values.append(self._value(node, parents))
            self.lows.append(self._low(node, [self.lows[j] for j in node.parents]))
        self.scales = self._scales()
        sizes = [value.size for value in self.values]
        self.starts = np.concatenate([[0], np.cumsum(sizes)])
        self.rows = [self._transitions(i, 1) for i in range(len(self.nodes))]

    def visits(self, start: np.ndarray, top_sign: int = 1) -> list[np.ndarray]:
        """Expected visits to each neuron, by node, from a distribution over the last node.

        ``top_sign`` -1 negates the classifier's weights (the second term of c-MWP, Eq. 8).
        """
        n = self.starts[-1]
        q = np.zeros((n, n))
        for i, node in enumerate(self.nodes):
            blocks = self.rows[i]
            if i == self.network.top and top_sign < 0:
                blocks = self._transitions(i, top_sign)
            for j, block in zip(node.parents, blocks, strict=True):
                q[self._slice(i), self._slice(j)] += block
        fundamental = np.linalg.inv(np.eye(n) - q)
        self.absorbing = np.isclose(q.sum(axis=1), 0)
        prior = np.zeros(n)
        prior[self._slice(len(self.nodes) - 1)] = start
        found = prior @ fundamental
        self.total_visits = found
        return [found[self._slice(i)].reshape(v.shape) for i, v in enumerate(self.values)]

    def absorbed_above_input(self) -> float:
        """Probability that the last walk ended in a neuron without excitatory input."""
        above = np.arange(self.starts[-1]) >= self.starts[1]
        return float(self.total_visits[above & self.absorbing].sum())

    def _slice(self, i: int) -> slice:
        return slice(self.starts[i], self.starts[i + 1])

    def _channel_axis(self, shape: tuple[int, ...]) -> int:
        return 0 if self.network.channels_first or len(shape) == 1 else len(shape) - 1

    def _per_channel(self, a: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        axis = self._channel_axis(shape)
        return a.reshape([-1 if i == axis else 1 for i in range(len(shape))])

    def _positions(self, shape: tuple[int, ...]) -> np.ndarray:
        """Flat index of each neuron, channels last."""
        index = np.arange(math.prod(shape)).reshape(shape)
        return np.moveaxis(index, self._channel_axis(shape), -1)

    def _value(self, node: Node, parents: list[np.ndarray]) -> np.ndarray:
        x, a = parents[0], node.arrays
        match node.kind:
            case "conv" | "dense":
                y = (self._matrix(node) @ x.ravel()).reshape(node.shape)
                return y + self._per_channel(a["b"], node.shape)
            case "norm":
                mean, beta = (self._per_channel(a[key], node.shape) for key in ("mean", "beta"))
                return (x - mean) * self._norm_scale(node) + beta
            case "max_pool":
                y = [x.ravel()[found].max() for found in self._windows(node)]
                return np.stack(y).reshape(node.shape)
            case "avg_pool":
                full = math.prod(node.options["window"])
                full_size = node.options["count_padding"]
                parts = [x.ravel()[found] for found in self._windows(node)]
                y = [part.sum() / (full if full_size else part.size) for part in parts]
                return np.stack(y).reshape(node.shape)
            case "global_pool":
                return np.stack([x.ravel()[found].mean() for found in self._windows(node)])
            case "flatten":
                return x.ravel()
            case "sum":
                return parents[0] + parents[1]
            case "concat":
                return np.concatenate(parents, axis=self._channel_axis(node.shape))
        return activation(node.kind, x)

    def _low(self, node: Node, lows: list[float]) -> float:
        match node.kind:
            case "conv" | "dense" | "norm":
                return -INF
            case "max_pool" | "avg_pool" | "global_pool" | "flatten":
                return lows[0]
            case "sum":
                return sum(lows)
            case "concat":
                return min(lows)
        return float(activation(node.kind, np.array(lows[0])))

    def _norm_scale(self, node: Node) -> np.ndarray:
        scale = node.arrays["gamma"] / np.sqrt(node.arrays["var"] + EPSILON)
        return self._per_channel(scale, node.shape)

    def _scales(self) -> list[np.ndarray]:
        """The constant factor behind each node's output, before the next non-affine node."""
        consumers: list[list[int]] = [[] for _ in self.nodes]
        for i, node in enumerate(self.nodes):
            for j in node.parents:
                consumers[j].append(i)
        scales = [np.ones(value.shape) for value in self.values]
        for j in reversed(range(len(self.nodes) - 1)):
            if len(consumers[j]) != 1:
                continue  # no one factor is right for several consumers
            (i,) = consumers[j]
            node, behind = self.nodes[i], scales[i]
            match node.kind:
                case "norm":
                    scales[j] = self._norm_scale(node) * behind
                case "sum":
                    scales[j] = behind
                case "flatten":
                    scales[j] = behind.reshape(self.values[j].shape)
                case "concat":
                    axis = self._channel_axis(node.shape)
                    widths = [self.values[k].shape[axis] for k in node.parents]
                    parts = np.split(behind, np.cumsum(widths)[:-1], axis=axis)
                    scales[j] = parts[node.parents.index(j)]
                case "avg_pool" | "global_pool":
                    moved = np.moveaxis(behind, self._channel_axis(behind.shape), -1)
                    first = moved.reshape(-1, moved.shape[-1])[0]
                    if np.array_equal(moved, np.broadcast_to(first, moved.shape)):
                        scales[j] = self._per_channel(first, self.values[j].shape)
                    # Else a neuron's windows disagree, and no one factor is right for it.
        return [np.broadcast_to(s, v.shape) for s, v in zip(scales, self.values, strict=True)]

    def _strength(self, j: int) -> np.ndarray:
        """h of node j's neurons."""
        x, low = self.values[j].ravel(), self.lows[j]
        return x - low if low != -INF else np.maximum(np.sign(self.scales[j]).ravel() * x, 0)

    def _transitions(self, i: int, sign: int) -> list[np.ndarray]:
        """For each parent of node i, the block of Q from node i to it."""
        node = self.nodes[i]
        if i == 0:
            return []
        size, parents = self.values[i].size, node.parents
        match node.kind:
            case "conv" | "dense":
                weights = self._matrix(node) * (sign * self.scales[i].ravel()[:, None])
                return [normalised(np.maximum(weights, 0) * self._strength(parents[0]))]
            case "avg_pool" | "global_pool":
                block = np.zeros((size, self.values[parents[0]].size))
                for row, found in enumerate(self._windows(node)):
                    block[row, found] = 1
                return [normalised(block * self._strength(parents[0]))]
            case "max_pool":
                block = np.zeros((size, self.values[parents[0]].size))
                x = self.values[parents[0]].ravel()
                for row, found in enumerate(self._windows(node)):
                    block[row, found[np.argmax(x[found])]] = 1
                return [block]
            case "sum":
                a, b = (self._strength(j) for j in parents)
                both = normalised(np.concatenate([np.diag(a), np.diag(b)], axis=1))
                return [both[:, :size], both[:, size:]]
            case "concat":
                axis, blocks, at = self._channel_axis(node.shape), [], 0
                out = np.arange(size).reshape(node.shape)
                for j in parents:
                    width = self.values[j].shape[axis]
                    taken = np.take(out, range(at, at + width), axis=axis).ravel()
                    block = np.zeros((size, taken.size))
                    block[taken, np.arange(taken.size)] = 1
                    blocks.append(block)
                    at += width
                return blocks
        return [np.eye(size)]

    def _matrix(self, node: Node) -> np.ndarray:
        """The dense matrix of a convolution or a dense node."""
        source = self.nodes[node.parents[0]].shape
        w, o = node.arrays["w"], node.options
        ins, outs = self._positions(source), self._positions(node.shape)
        matrix = np.zeros((outs.size, ins.size))
        if node.kind == "dense":
            for place in np.ndindex(outs.shape[:-1]):
                matrix[np.ix_(outs[place], ins[place])] += w.T
            return matrix
        kernel = w.shape[:-2]
        pads = padding_of(o["padding"], ins.shape[:-1], kernel, o["stride"], o["dilation"])
        wide, made = ins.shape[-1] // o["groups"], outs.shape[-1] // o["groups"]
        for place, tap in itertools.product(np.ndindex(outs.shape[:-1]), np.ndindex(kernel)):
            at = tuple(
                p * s - low + t * d
                for p, s, (low, _), t, d in zip(
                    place, o["stride"], pads, tap, o["dilation"], strict=True
                )
            )
            if any(a < 0 or a >= n for a, n in zip(at, ins.shape[:-1], strict=True)):
                continue
            for g in range(o["groups"]):
                rows = outs[place][g * made : (g + 1) * made]
                columns = ins[at][g * wide : (g + 1) * wide]
                matrix[np.ix_(rows, columns)] += w[tap][:, g * made : (g + 1) * made].T
        return matrix

    def _windows(self, node: Node) -> Iterator[np.ndarray]:
        """For each neuron of a pooling node in order, the flat indices of its children."""
        ins = self._positions(self.nodes[node.parents[0]].shape)
        if node.kind == "global_pool":
            yield from (ins[..., c].ravel() for c in range(ins.shape[-1]))
            return
        o = node.options
        ones = (1,) * len(o["window"])
        pads = padding_of(o["padding"], ins.shape[:-1], o["window"], o["stride"], ones)
        outs = self._positions(node.shape)
        found: dict[int, np.ndarray] = {}
        for place in np.ndindex(outs.shape[:-1]):
            starts = [p * s - low for p, s, (low, _) in zip(place, o["stride"], pads, strict=True)]
            ranges = [
                range(max(a, 0), min(a + k, n))
                for a, k, n in zip(starts, o["window"], ins.shape[:-1], strict=True)
            ]
            inside = np.array([ins[at] for at in itertools.product(*ranges)])
            for c in range(outs.shape[-1]):
                found[int(outs[place][c])] = inside[:, c]
        yield from (found[i] for i in range(outs.size))


def activation(kind: str, x: np.ndarray) -> np.ndarray:
    if kind == "relu":
        return np.maximum(x, 0)
    if kind == "leaky":
        return np.where(x > 0, x, LEAK * x)
    if kind == "tanh":
        return np.tanh(x)
    assert kind == "elu", kind
    return np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1)


def normalised(rows: np.ndarray) -> np.ndarray:
    """Rows that sum to one, or to zero where nothing is there."""
    total = rows.sum(axis=1, keepdims=True)
    return np.divide(rows, total, out=np.zeros_like(rows), where=total > 0)


def padding_of(
    padding: Any, sizes: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> list[tuple[int, int]]:  # fmt: skip
    """(before, after) along each spatial axis."""
    if padding == "VALID":
        return [(0, 0)] * len(sizes)
    if padding != "SAME":
        return list(padding)
    pads = []
    for n, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        total = max((math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0)
        pads.append((total // 2, total - total // 2))
    return pads


# --- the generator ----------------------------------------------------------------------------


class Builder:
    """Grows a network node by node; `draw` is hypothesis's."""

    def __init__(self, draw: Any, shape: tuple[int, ...], channels_first: bool, seed: int):
        self.draw, self.channels_first, self.seed = draw, channels_first, seed
        self.rng = np.random.default_rng(seed)
        self.nodes = [Node("input", (), self._laid_out(shape))]

    def pick(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def _laid_out(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[-1], *shape[:-1]) if self.channels_first and len(shape) > 1 else shape

    def shape(self, i: int) -> tuple[int, ...]:
        """Channels last."""
        shape = self.nodes[i].shape
        return (*shape[1:], shape[0]) if self.channels_first and len(shape) > 1 else shape

    def add(self, kind: str, parents: tuple[int, ...], shape: tuple[int, ...], **more: Any) -> int:
        arrays, options = more.pop("arrays", {}), more
        self.nodes.append(Node(kind, parents, self._laid_out(shape), options, arrays))
        return len(self.nodes) - 1

    def dense(self, i: int, features: int) -> int:
        *free, width = self.shape(i)
        arrays = {
            "w": self.rng.normal(0, 1, (width, features)) / math.sqrt(width),
            "b": self.rng.normal(0, 0.3, features),
        }
        return self.add("dense", (i,), (*free, features), arrays=arrays)

    def conv(self, i: int, features: int | None = None, *, same: bool = False) -> int:
        """A convolution; ``same`` keeps the spatial shape."""
        *sizes, width = self.shape(i)
        rank = len(sizes)
        features = features or self.pick(2, 3, 4)
        kernel = tuple(min(self.pick(1, 2, 3), n) for n in sizes)
        dilation = tuple(self.pick(1, 1, 2) if k > 1 else 1 for k in kernel)
        stride = (1,) * rank if same else tuple(self.pick(1, 1, 2) for _ in sizes)
        padding: Any = "SAME" if same else self.pick("SAME", "VALID", "explicit")
        if padding == "explicit":
            padding = tuple((self.pick(0, 1), self.pick(0, 1, 2)) for _ in sizes)
        pads = padding_of(padding, tuple(sizes), kernel, stride, dilation)
        out = [
            (n + sum(pad) - (k - 1) * d - 1) // s + 1
            for n, pad, k, d, s in zip(sizes, pads, kernel, dilation, stride, strict=True)
        ]
        if min(out) < 1:
            return self.conv(i, features, same=True)
        groups = self.pick(*(g for g in (1, 2, width) if width % g == 0 and features % g == 0))
        scale = 1 / math.sqrt(math.prod(kernel) * width / groups)
        arrays = {
            "w": self.rng.normal(0, scale, (*kernel, width // groups, features)),
            "b": self.rng.normal(0, 0.3, features),
        }
        return self.add(
            "conv", (i,), (*out, features), arrays=arrays,
            stride=stride, padding=padding, dilation=dilation, groups=groups,
        )  # fmt: skip

    def low(self, i: int) -> float:
        """The lower bound of a node's values."""
        node = self.nodes[i]
        lows = [self.low(j) for j in node.parents]
        if node.kind in ("input", "conv", "dense", "norm"):
            return -INF
        if node.kind == "sum":
            return sum(lows)
        if node.kind in ACTIVATIONS:
            return float(activation(node.kind, np.array(lows[0])))
        return min(lows)

    def norm(self, i: int) -> int:
        """Behind a layer, whose weights it belongs to. (What else D1 and D3 say: tests/oracles.)"""
        if self.nodes[i].kind not in ("conv", "dense"):
            return i
        width = self.shape(i)[-1]
        gamma = self.rng.normal(0, 1, width)
        if self.pick(False, False, False, True):
            gamma[self.rng.integers(width)] = 0
        arrays = {
            "gamma": gamma,
            "beta": self.rng.normal(0.2, 0.3, width),
            "mean": self.rng.normal(0, 0.3, width),
            "var": self.rng.uniform(0.2, 2, width),
        }
        return self.add("norm", (i,), self.shape(i), arrays=arrays)

    def act(self, i: int) -> int:
        return self.add(self.pick(*ACTIVATIONS), (i,), self.shape(i))

    def pool(self, i: int) -> int:
        *sizes, width = self.shape(i)
        window = tuple(min(self.pick(2, 3), n) for n in sizes)
        stride = tuple(self.pick(1, 2) for _ in sizes)
        padding = self.pick("SAME", "VALID")
        pads = padding_of(padding, tuple(sizes), window, stride, (1,) * len(sizes))
        out = [
            (n + sum(pad) - k) // s + 1
            for n, pad, k, s in zip(sizes, pads, window, stride, strict=True)
        ]
        kind = self.pick("max_pool", "avg_pool")
        options = dict(window=window, stride=stride, padding=padding)
        if kind == "avg_pool":
            # A window over the border has another bound (D4).
            options["count_padding"] = self.low(i) in (0, -INF) and self.pick(True, False)
        return self.add(kind, (i,), (*out, width), **options)

    def linear(self, i: int, features: int | None = None) -> int:
        """A convolution that keeps the spatial shape, or a dense node without one."""
        if len(self.shape(i)) == 1:
            return self.dense(i, features or self.pick(3, 4, 5))
        return self.conv(i, features, same=True)

    def decorated(self, i: int) -> int:
        """Perhaps a norm, perhaps an activation."""
        ending = self.pick("norm act", "norm act", "norm", "act", "")
        i = self.norm(i) if "norm" in ending else i
        return self.act(i) if "act" in ending else i

    def residual(self, i: int) -> int:
        width = self.shape(i)[-1]
        branch = self.decorated(self.linear(i))
        branch = self.linear(branch, width)
        branch = self.norm(branch) if self.draw(st.booleans()) else branch
        skip = i
        if self.draw(st.booleans()):
            skip = self.linear(i, width)
            skip = self.norm(skip) if self.draw(st.booleans()) else skip
        pair = (skip, branch) if self.draw(st.booleans()) else (branch, skip)
        return self.add("sum", pair, self.shape(i))

    def concat(self, i: int) -> int:
        first = i if self.draw(st.booleans()) else self.decorated(self.linear(i))
        second = self.decorated(self.linear(i))
        if self.low(first) != self.low(second):  # each keeps its own (D4)
            first, second = (self.add("relu", (j,), self.shape(j)) for j in (first, second))
        *sizes, a = self.shape(first)
        return self.add("concat", (first, second), (*sizes, a + self.shape(second)[-1]))

    def step(self, i: int) -> int:
        spatial = len(self.shape(i)) > 1
        kinds = ["linear", "linear", "norm", "act", "residual", "concat"]
        if spatial:
            kinds += ["conv", "pool", "pool"] + ([] if self.channels_first else ["dense"])
        match self.pick(*kinds):
            case "dense":
                return self.dense(i, self.pick(2, 3))
            case "pool" if max(self.shape(i)[:-1]) > 1:
                return self.pool(i)
            case "conv":
                return self.decorated(self.conv(i))
            case "norm":
                return self.norm(i)
            case "act":
                return self.act(i)
            case "residual":
                return self.residual(i)
            case "concat" if self.shape(i)[-1] <= 5:
                return self.concat(i)
        return self.decorated(self.linear(i))


@st.composite
def networks(draw: Any) -> Network:
    shape = draw(st.sampled_from([(5,), (8, 3), (5, 4, 2), (6, 6, 2)]))
    channels_first = len(shape) > 1 and draw(st.booleans())
    seed = draw(st.integers(0, 2**16))
    b = Builder(draw, shape, channels_first, seed)
    i = 0
    for _ in range(draw(st.integers(1, 5))):
        i = b.step(i)
    if len(b.shape(i)) > 1:
        kind = b.pick("flatten", "global_pool")
        size = math.prod(b.shape(i)) if kind == "flatten" else b.shape(i)[-1]
        i = b.add(kind, (i,), (size,))
        i = b.norm(i) if draw(st.booleans()) else i
    top = i = b.dense(i, CLASSES)
    if draw(st.booleans()):
        b.act(i)
    return Network(tuple(b.nodes), top, channels_first, seed)
