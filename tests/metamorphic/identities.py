"""Ways to write nothing: functions that give back their argument, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import excitation_jax as ej

from .mutation import Place, with_own_jvp, with_own_vjp

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Identity:
    """One way.

    Attributes:
      group: what it has to do with: "move", "wrap", "loop", "mask", "number", "sum".
      apply: ``apply(array, own)``, where ``own`` are arrays that are arguments of the mutant.
      own: those arrays, for a shape and dtype.
      fits: whether it can be put in at a place.
      needs: what of design.md's section 3 it needs beside D5 and the algebra of identities.
    """

    name: str
    group: str
    apply: Callable[[jax.Array, Any], jax.Array]
    own: Callable[[Shape, np.dtype], Any]
    fits: Callable[[Place], bool]
    needs: str = ""

    def __repr__(self) -> str:
        return self.name


#: All of them by name; hypothesis shrinks towards the first.
IDENTITIES: dict[str, Identity] = {}


def nothing(shape: Shape, dtype: np.dtype) -> tuple:
    return ()


def identity(
    name: str, group: str, *, own: Callable[[Shape, np.dtype], Any] = nothing, rank: int = 0,
    fits: Callable[[Place], bool] = lambda place: True, needs: str = "",
) -> Callable:  # fmt: skip
    """Registers ``function(array, *own)`` for places of at least this rank."""

    def register(function: Callable) -> Callable:
        assert name not in IDENTITIES, name
        IDENTITIES[name] = Identity(
            name, group, lambda y, arrays: function(y, *arrays), own,
            lambda place: len(place.shape) >= rank and fits(place), needs,
        )  # fmt: skip
        return function

    return register


def register_all(group: str, functions: dict[str, Callable], **options: Any) -> None:
    for name, function in functions.items():
        identity(name, group, **options)(function)


def longest(place: Place) -> int:
    return max(place.shape, default=1)


def axis_of(y: jax.Array) -> int:
    """The longest axis."""
    return int(np.argmax(y.shape))


def whole(y: jax.Array) -> tuple[slice, ...]:
    return tuple(slice(0, size) for size in y.shape)


# --- moves ------------------------------------------------------------------------------------


@identity("split and join", "move", rank=1, fits=lambda place: longest(place) > 1)
def split_and_join(y: jax.Array) -> jax.Array:
    axis = axis_of(y)
    return jnp.concatenate(jnp.split(y, [y.shape[axis] // 2], axis), axis)


@identity("channels split and joined", "move", rank=1, fits=lambda place: place.shape[-1] > 1)
def channels_split(y: jax.Array) -> jax.Array:
    return jnp.concatenate(jnp.split(y, [1], -1), -1)


@identity("dynamic slice", "move", rank=1)
def dynamic_slice(y: jax.Array) -> jax.Array:
    return lax.dynamic_slice(y, (0,) * y.ndim, y.shape)


@identity("dynamic slice at an argument", "move", own=lambda *_: (np.int32(0),), rank=1)
def dynamic_slice_at(y: jax.Array, start: jax.Array) -> jax.Array:
    return lax.dynamic_slice(y, (start,) * y.ndim, y.shape)


@identity("dynamic slice of constants around it", "move", rank=1)
def dynamic_slice_around(y: jax.Array) -> jax.Array:
    return lax.dynamic_slice(jnp.pad(y, 1, constant_values=1), (1,) * y.ndim, y.shape)


@identity("written into zeros", "move", rank=1)
def written_into_zeros(y: jax.Array) -> jax.Array:
    return lax.dynamic_update_slice(jnp.zeros_like(y), y, (0,) * y.ndim)


@identity("written into longer zeros", "move", rank=1)
def written_into_longer_zeros(y: jax.Array) -> jax.Array:
    room = jnp.zeros((y.shape[0] + 1, *y.shape[1:]), y.dtype)
    return lax.dynamic_update_slice(room, y, (1,) + (0,) * (y.ndim - 1))[1:]


@identity("a part written over itself", "move", rank=1)
def part_written(y: jax.Array) -> jax.Array:
    return lax.dynamic_update_slice(y, y[:1], (0,) * y.ndim)


@identity("permuted and back", "move", rank=1)
def permuted(y: jax.Array) -> jax.Array:
    order = np.random.default_rng(0).permutation(y.shape[-1])
    return y[..., order][..., np.argsort(order)]


@identity("scattered by a permutation and gathered", "move", rank=1)
def scattered(y: jax.Array) -> jax.Array:
    order = np.random.default_rng(0).permutation(y.shape[0])
    return jnp.zeros_like(y).at[order].set(y)[order]


@identity("stacked with zeros and indexed", "move")
def stacked_with_zeros(y: jax.Array) -> jax.Array:
    return jnp.stack([jnp.zeros_like(y), y])[1]


@identity("with constants, sliced off", "move", rank=1)
def with_constants(y: jax.Array) -> jax.Array:
    return jnp.concatenate([jnp.ones_like(y[:1]), y])[1:]


@identity("channels with constants, sliced off", "move", rank=1)
def channels_with_constants(y: jax.Array) -> jax.Array:
    return jnp.concatenate([y, jnp.ones_like(y)], -1)[..., : y.shape[-1]]


@identity("padded and sliced", "move", rank=1)
def padded_and_sliced(y: jax.Array) -> jax.Array:
    return jnp.pad(y, 1)[tuple(slice(1, size + 1) for size in y.shape)]


@identity("padded inside, every second", "move", rank=1)
def padded_inside(y: jax.Array) -> jax.Array:
    return lax.pad(y, jnp.ones((), y.dtype), [(0, 0, 0)] * (y.ndim - 1) + [(0, 0, 1)])[..., ::2]


@identity("padded and cropped", "move", rank=1)
def padded_and_cropped(y: jax.Array) -> jax.Array:
    zero = jnp.zeros((), y.dtype)
    config = [(0, 0, 0)] * (y.ndim - 1)
    return lax.pad(lax.pad(y, zero, [*config, (0, 2, 0)]), zero, [*config, (0, -2, 0)])


@identity("transposed twice", "move", rank=2)
def transposed_twice(y: jax.Array) -> jax.Array:
    return y.T.T


@identity("two axes swapped twice", "move", rank=2)
def swapped_twice(y: jax.Array) -> jax.Array:
    return jnp.swapaxes(jnp.swapaxes(y, 0, -1), 0, -1)


@identity("batch merged with another axis and back", "move", rank=3)
def batch_merged(y: jax.Array) -> jax.Array:
    return y.reshape(-1, *y.shape[2:]).reshape(y.shape)


@identity("last axes merged and back", "move", rank=3)
def last_merged(y: jax.Array) -> jax.Array:
    return y.reshape(*y.shape[:-2], -1).reshape(y.shape)


@identity("channels in two parts and back", "move", rank=1, fits=lambda p: p.shape[-1] % 2 == 0)
def channels_in_parts(y: jax.Array) -> jax.Array:
    return y.reshape(*y.shape[:-1], 2, -1).reshape(y.shape)


@identity("taken along an axis", "move", rank=1)
def taken_along(y: jax.Array) -> jax.Array:
    return jnp.take_along_axis(y, jnp.broadcast_to(jnp.arange(y.shape[-1]), y.shape), -1)


@identity("gathered by an argument", "move", own=lambda s, _: (np.arange(s[-1]),), rank=1)
def gathered_by(y: jax.Array, order: jax.Array) -> jax.Array:
    return y[..., order]


register_all(
    "move",
    {
        "gather of arange": lambda y: y[jnp.arange(len(y))],
        "channels gathered": lambda y: y[..., np.arange(y.shape[-1])],
        "take": lambda y: jnp.take(y, jnp.arange(y.shape[-1]), axis=-1),
        "reversed twice": lambda y: jnp.flip(jnp.flip(y)),
        "channels reversed twice": lambda y: y[..., ::-1][..., ::-1],
        "rolled there and back": lambda y: jnp.roll(jnp.roll(y, 1, -1), -1, -1),
        "unstacked and stacked": lambda y: jnp.stack(jnp.unstack(y, axis=-1), -1),
        "with nothing": lambda y: jnp.concatenate([y, y[:0]]),
        "set": lambda y: jnp.zeros_like(y).at[:].set(y),
        "set, channel by channel": lambda y: jnp.zeros_like(y).at[..., np.arange(y.shape[-1])].set(
            y),
        "first set to itself": lambda y: y.at[0].set(y[0]),
        "tiled and sliced": lambda y: jnp.tile(y, (2,) + (1,) * (y.ndim - 1))[: len(y)],
        "repeated, every second": lambda y: jnp.repeat(y, 2, -1)[..., ::2],
    },
    rank=1,
)  # fmt: skip
register_all(
    "move",
    {
        "stacked and indexed": lambda y: jnp.stack([y, y])[0],
        "flat and back": lambda y: y.reshape(-1).reshape(y.shape),
        "expanded and squeezed": lambda y: lax.squeeze(y[None], [0]),
        "expanded behind and squeezed": lambda y: y[..., None][..., 0],
        "tiled by one": lambda y: jnp.tile(y[None], (1,) * (y.ndim + 1)).reshape(y.shape),
        "broadcast and indexed": lambda y: jnp.broadcast_to(y[None], (2, *y.shape))[1],
    },
)  # fmt: skip


# --- wrappers ---------------------------------------------------------------------------------


def copied(y: jax.Array) -> jax.Array:
    return jnp.array(y, copy=True)


def cast(y: jax.Array) -> jax.Array:
    """To its own dtype, weakly and back: JAX drops any other cast to the same dtype."""
    for weak in (True, False):
        options = {"new_dtype": y.dtype, "weak_type": weak, "sharding": None}
        y = lax.convert_element_type_p.bind(y, **options)
    return y


register_all(
    "wrap",
    {
        "copy": copied,
        "tag": lambda y: ej.tag(y, "mutant"),
        "barrier": lax.optimization_barrier,
        "barrier with another": lambda y: lax.optimization_barrier((y, y + 1))[0],
        "cast": cast,
        "full precision": lambda y: lax.reduce_precision(
            y, jnp.finfo(y.dtype).nexp, jnp.finfo(y.dtype).nmant),
        "stop gradient": lax.stop_gradient,
        "jit": jax.jit(copied),
        "remat": jax.checkpoint(copied),
        "custom_jvp": with_own_jvp(copied),
        "custom_vjp": with_own_vjp(copied),
        "scope": jax.named_scope("mutant")(copied),
    },
)  # fmt: skip
identity("vmap", "wrap", rank=1)(jax.vmap(copied))


# --- loops and branches -----------------------------------------------------------------------


def counted(y: jax.Array) -> jax.Array:
    return lax.while_loop(lambda s: s[0] < 1, lambda s: (s[0] + 1, copied(s[1])), (0, y))[1]


def stepwise(y: jax.Array) -> jax.Array:
    """Row by row."""
    return lax.scan(lambda carry, row: (carry, copied(row)), 0.0, y)[1]


def gathered_in_a_loop(y: jax.Array) -> jax.Array:
    """Rows are written into zeros, one in each step."""
    return lax.fori_loop(0, len(y), lambda i, s: s.at[i].set(y[i]), jnp.zeros_like(y))


register_all(
    "loop",
    {
        "scan of one step": lambda y: lax.scan(lambda s, _: (copied(s), None), y, length=1)[0],
        "scan of one step that hands on": lambda y: lax.scan(
            lambda s, _: (s, None), y, length=1)[0],
        "scan over one row": lambda y: lax.scan(lambda s, row: (s, copied(row)), 0, y[None])[1][0],
        "scan with it as a constant": lambda y: lax.scan(
            lambda s, _: (s, copied(y)), 0, length=1)[1][0],
        "scan of two steps": lambda y: lax.scan(lambda s, _: (copied(s), None), y, length=2)[0],
        "fori_loop of one step": lambda y: lax.fori_loop(0, 1, lambda i, s: copied(s), y),
        "while of one step": counted,
        "cond, static": lambda y: lax.cond(True, copied, lambda y: jnp.flip(jnp.flip(y)), y),
        "cond by the data": lambda y: lax.cond(y.sum() > 0, copied, copied, y),
        "cond by the data, otherwise written": lambda y: lax.cond(
            y.sum() > 0, lambda y: y.reshape(-1).reshape(y.shape), copied, y),
        "switch by the data": lambda y: lax.switch(
            (y.sum() > 0).astype(int), [copied, copied, copied], y),
    },
)  # fmt: skip
register_all("loop", {"row by row": stepwise, "written in a loop": gathered_in_a_loop}, rank=1)
identity("cond by an argument", "loop", own=lambda *_: (np.bool_(True),))(
    lambda y, on: lax.cond(on, copied, copied, y)
)


# --- masks ------------------------------------------------------------------------------------

register_all(
    "mask",
    {
        "where True": lambda y: jnp.where(True, y, 0),
        "where of a static mask": lambda y: jnp.where(np.ones(y.shape, bool), y, 0),
        "select of two": lambda y: jnp.where(np.arange(y.size).reshape(y.shape) % 2 == 0, y, y),
        "times a mask": lambda y: y * np.ones(y.shape, bool).astype(y.dtype),
    },
)
register_all(
    "mask",
    {
        "where of a mask that is an argument": lambda y, mask: jnp.where(mask, y, 0),
        "times a mask that is an argument": lambda y, mask: y * mask.astype(y.dtype),
    },
    own=lambda shape, _: (np.ones(shape, bool),),
)


# --- numbers ----------------------------------------------------------------------------------


def own_number(value: float) -> Callable[[Shape, np.dtype], Any]:
    return lambda shape, dtype: (np.full(shape[-1:], value, dtype),)


def is_a_neuron(place: Place) -> bool:
    """Where parameters of no known sign may be added: not behind gates and statistics.

    A product with parameters that is summed is a layer of its own (D3), and what was in [0, 1] is
    not known to be after it.
    """
    last = place.made_by.rpartition(" > ")[2]
    return last in ("dot_general", "conv_general_dilated", "max") and not place.summed


register_all(
    "number",
    {
        "times one": lambda y: y * jnp.ones((), y.dtype),
        "plus zero": lambda y: y + jnp.zeros((), y.dtype),
        "less zero": lambda y: y - jnp.zeros((), y.dtype),
        "divided by one": lambda y: y / jnp.ones((), y.dtype),
        "negated twice": lambda y: jnp.negative(jnp.negative(y)),
        "doubled and halved": lambda y: (y * 2) / 2,
        "power of one": lambda y: lax.integer_pow(y, 1),
    },
)  # fmt: skip
# Whose values a constant has is not known from its shape: it belongs to the weights.
register_all(
    "number",
    {
        "times ones": lambda y: y * np.ones(y.shape[-1:], y.dtype),
        "plus zeros": lambda y: y + np.zeros(y.shape[-1:], y.dtype),
        "product without contraction": lambda y: jnp.einsum(
            "nc,c->nc", y.reshape(-1, y.shape[-1] if y.ndim else 1),
            np.ones(y.shape[-1] if y.ndim else 1, y.dtype)).reshape(y.shape),
    },
    needs="D3",
)  # fmt: skip
identity("times ones that are an argument", "number", own=own_number(1), fits=is_a_neuron)(
    lambda y, ones: y * ones
)
identity("plus zeros that are an argument", "number", own=own_number(0), fits=is_a_neuron)(
    lambda y, zeros: y + zeros
)


# --- sums and maxima of one -------------------------------------------------------------------


def windows_of_one(y: jax.Array, start: float, combine: Callable) -> jax.Array:
    ones = (1,) * y.ndim
    return lax.reduce_window(y, np.asarray(start, y.dtype), combine, ones, ones, "VALID")


register_all(
    "sum",
    {
        "maximum of one": lambda y: y[None].max(0),
        "minimum of one": lambda y: y[None].min(0),
        "sorted alone": lambda y: jnp.sort(y[None], 0)[0],
    },
)
register_all(
    "sum",
    {
        "window maximum of one": lambda y: windows_of_one(y, -math.inf, lax.max),
    },
    rank=1,
)
register_all(
    "sum",
    {
        "sum of one": lambda y: y[None].sum(0),
        "mean of one": lambda y: y[None].mean(0),
        "cumulative sum of one": lambda y: jnp.cumsum(y[None], 0)[0],
    },
    needs="D2",
)
register_all(
    "sum",
    {
        "segments of one": lambda y: jax.ops.segment_sum(y, np.arange(len(y)), len(y)),
        "added to zeros": lambda y: jnp.zeros_like(y).at[np.arange(len(y))].add(y),
    },
    rank=1,
    needs="D2",
)
identity("window sum of one", "sum", rank=1, needs="D2")(lambda y: windows_of_one(y, 0, lax.add))


def changes(
    put: Sequence[tuple[Place, Identity]],
) -> tuple[dict[Place, Callable], list[Any]]:
    """For `mutated`: what is done at each place, and the arrays that the mutant takes for it."""
    by_place: dict[Place, list[int]] = {}
    for i, (place, _) in enumerate(put):
        by_place.setdefault(place, []).append(i)

    def applied(positions: list[int]) -> Callable:
        def change(y: jax.Array, own: Sequence[Any]) -> jax.Array:
            for i in positions:
                y = put[i][1].apply(y, own[i])
            return y

        return change

    own = [one.own(place.shape, place.dtype) for place, one in put]
    return {place: applied(positions) for place, positions in by_place.items()}, own
