"""A specification of layers, written as a JAX function in one of many ways.

For every spelling, the library's maps have to be the oracle's:

    network = ...                                    # layers.Network
    model, params = spell(network, Choices(seed=3))  # model(params, x), x a batch
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import excitation_jax as ej

from . import spelled_layers as ways
from .layers import Layer, Network, Part, batch_norm
from .spelled_functions import FUNCTIONS, IDENTITIES

#: What can be spelled in several ways: (the D-rule it needs or "", the function), by name.
SPELLINGS: dict[str, dict[str, tuple[str, Any]]] = {
    **{f"phi {name}": spelled for name, spelled in FUNCTIONS.items()},
    **{f"normalise {form}": spelled for form, spelled in ways.NORMALISE.items()},
    "identity": IDENTITIES,
    "conv": ways.CONV,
    "dense": ways.DENSE,
    "norm": ways.NORM | {ways.FOLDED: ("", None)},
    "scale": ways.NORM,
    "sum": ways.SUM,
    "avg_pool": ways.AVG_POOL,
    "global_pool": ways.GLOBAL_POOL,
    "max_pool": ways.MAX_POOL,
    "maximum": ways.MAXIMUM,
    "concat": ways.CONCAT,
    "flatten": ways.FLATTEN,
    "mask": ways.MASK,
    "attend": ways.ATTEND,
    "minus": {"sub": ("", operator.sub), "add of neg": ("D2", lambda a, b: a + -b)},
    "bias": {"behind": ("", None), "first": ("", None)},
    "constants": {"arguments": ("", None), "captured": ("", None)},
}


class Choices:
    """Picks a spelling wherever there are several.

    Args:
      seed: of the random choices; None takes the first, plain one everywhere.
      needs: the D-rules whose spellings may be chosen.
      fixed: spellings that are given, by the keys of `SPELLINGS`.
      identities: how many identities to strew over a network, on average.

    Attributes:
      made: what was chosen, for an error message.
    """

    def __init__(
        self, seed: int | None = None, needs: Collection[str] = (),
        fixed: Mapping[str, str] | None = None, identities: float = 1.0,
        without: Collection[str] = (),
    ):  # fmt: skip
        self.rng = None if seed is None else np.random.default_rng(seed)
        self.needs = frozenset(needs)
        self.fixed = dict(fixed or {})
        self.identities = identities
        self.without = frozenset(without)
        self.made: list[str] = []

    def __call__(self, what: str, without: Iterable[str] = ()) -> Any:
        """The function that was chosen to spell `what`."""
        return SPELLINGS[what][self.name(what, without)][1]

    def name(self, what: str, without: Iterable[str] = ()) -> str:
        found = self.fixed.get(what)
        if found is None:
            allowed = [
                how
                for how, (need, _) in SPELLINGS[what].items()
                if how not in without
                and how not in self.without
                and (not need or need in self.needs)
            ]
            found = allowed[0] if self.rng is None else str(self.rng.choice(allowed))
        self.made.append(f"{what}: {found}")
        return found

    def somewhere(self, places: int) -> bool:
        """Whether to put an identity at this place, out of so many."""
        if "identity" in self.fixed:
            return True
        return self.rng is not None and self.rng.random() < self.identities / places


Model = Callable[[Any, jax.Array], Any]


def spell(network: Network, choices: Choices, tags: Collection[int] = ()) -> tuple[Model, Any]:
    """The network as a JAX function of (params, a batch), and its params.

    Args:
      tags: the layers whose values are named: "ni" for layer i.
    """
    steps = [_step(network, layer, choices) for layer in network.layers[1:]]
    captured = choices.name("constants") == "captured"
    held = [{}, *(step.arrays for step in steps)]

    def model(params: Any, x: jax.Array) -> Any:
        params = jax.tree.map(jnp.asarray, held) if captured else params
        values = [ej.tag(x, "n0") if 0 in tags else x]
        for i, (layer, step) in enumerate(zip(network.layers[1:], steps, strict=True), start=1):
            value = step.run(params[i], [values[p] for p in layer.parents])
            values.append(ej.tag(value, f"n{i}") if i in tags else value)
        found = tuple(values[i] for i in network.outputs)
        return found if len(found) > 1 else found[0]

    return model, held


class _Step:
    """One layer, spelled: its arrays, and a function of them and the operands."""

    def __init__(self, arrays: dict[str, np.ndarray], run: Callable[[Any, list], jax.Array]):
        self.arrays, self.run = arrays, run


def _step(network: Network, layer: Layer, choices: Choices) -> _Step:
    # Constants are lost where some operations move them (D5).
    kinds = [network.layers[p].kind for p in layer.parents]
    careful = {"mask", "token"} & {layer.kind, *kinds} and "D5" not in choices.needs
    if layer.kind == "affine":
        step = _affine(layer, choices, MOVING_CONVS if careful else ())
    else:
        step = _plain(layer, choices)
    if careful or not choices.somewhere(len(network.layers)):
        return step
    identity, run = choices("identity"), step.run
    return _Step(step.arrays, lambda p, x: identity(run(p, x)))


#: Convolutions that pad or cut what they read before they read it.
MOVING_CONVS = ("pad, then conv", "dot over patches", "by groups")


def _affine(layer: Layer, choices: Choices, without: Collection[str]) -> _Step:
    parts: tuple[Part, ...] = layer.options["parts"]
    arrays, mean = dict(layer.arrays), layer.options["mean"]
    applied = [_part(part, choices, without) for part in parts]
    norm = None
    if "gamma" in arrays:
        how = choices.name("norm")
        norm = SPELLINGS["norm"][how][1]
        if norm is None:  # folded into the weights
            scale, shift = batch_norm(arrays)
            arrays = {k: v * scale for k, v in arrays.items() if k[0] == "w" or k == "b"}
            arrays["b"] = arrays["b"] + shift
    pool = choices("global_pool") if mean else None
    minus = choices("minus")
    first = choices.name("bias") == "first"

    def run(p: Any, operands: list[jax.Array]) -> jax.Array:
        pieces = [f(x, p[f"w{k}"]) for k, (f, x) in enumerate(zip(applied, operands, strict=True))]
        y = pieces[0] + p["b"] if first else pieces[0]
        for part, piece in zip(parts[1:], pieces[1:], strict=True):
            y = minus(y, piece) if part.sign < 0 else y + piece
        y = y if first else y + p["b"]
        y = y if norm is None else norm(y, p)
        return y if pool is None else pool(y)

    return _Step(arrays, run)


def _part(
    part: Part, choices: Choices, without: Collection[str]
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    if part.window is None:
        return choices("dense")
    how = choices("conv", without)
    return lambda x, w: how(x, w, part.window)


def _plain(layer: Layer, choices: Choices) -> _Step:
    options = layer.options
    match layer.kind:
        case "phi":
            return _of_one(choices(f"phi {options['name']}"))
        case "normalise":
            return _of_one(choices(f"normalise {options['form']}"))
        case "scale":
            norm = choices("scale")
            return _Step(layer.arrays, lambda p, x: norm(x[0], p))
        case "sum" if -1 not in options["signs"]:
            total = choices("sum")
            return _Step({}, lambda p, x: total(x))
        case "sum":
            return _Step({}, _difference(options["signs"], choices("minus")))
        case "maximum" | "concat":
            joined = choices(layer.kind)
            return _Step({}, lambda p, x: joined(x))
        case "max_pool":
            pool = choices("max_pool")
            return _of_one(lambda x: pool(x, options["window"]))
        case "avg_pool":
            # A sum of slices counts what it adds up: where padding is not counted, its mean is a
            # product with constants.
            without = () if options["count_padding"] else ("sum of slices",)
            pool = choices("avg_pool", without)
            return _of_one(lambda x: pool(x, options["window"], options["count_padding"]))
        case "global_pool" | "flatten":
            return _of_one(choices(layer.kind))
        case "channels":
            return _of_one(lambda x: x[..., options["start"] : options["stop"]])
        case "mask":
            mask = choices("mask")
            return _of_one(lambda x: mask(x, jnp.asarray(options["keep"])))
        case "token":
            return _Step(layer.arrays, lambda p, x: _with_token(x[0], p["value"]))
        case "gate":
            return _Step({}, lambda p, x: x[0] * _spread(x[1], x[0]))
        case "attend":
            attend = choices("attend")
            return _Step({}, lambda p, x: attend(*x))
    raise AssertionError(layer.kind)


def _of_one(function: Callable[[jax.Array], jax.Array]) -> _Step:
    return _Step({}, lambda p, x: function(x[0]))


def _difference(signs: tuple[int, ...], minus: Callable) -> Callable[[Any, list], jax.Array]:
    def run(p: Any, parts: list[jax.Array]) -> jax.Array:
        pairs = zip(signs[1:], parts[1:], strict=True)
        steps = [(operator.add if sign > 0 else minus, part) for sign, part in pairs]
        return functools.reduce(lambda y, step: step[0](y, step[1]), steps, parts[0])

    return run


def _with_token(x: jax.Array, token: jax.Array) -> jax.Array:
    tokens = jnp.broadcast_to(token, (x.shape[0], 1, *token.shape))
    return jnp.concatenate([tokens.astype(x.dtype), x], 1)


def _spread(gate: jax.Array, x: jax.Array) -> jax.Array:
    """A gate of one number per channel, for all positions."""
    return gate.reshape(gate.shape[0], *(1,) * (x.ndim - gate.ndim), *gate.shape[1:])
