"""What does not depend on the input is no neuron (D5): ways to make constants, and to move them.

The oracle knows functions only: which elements depend on the input, and what an operation does with
each of its elements, is found by changing one element at a time. With h, the activations without
the constants, the rule is Eq. 6 on that matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import excitation_jax as ej

from .identities import IDENTITIES
from .interpreted import interpreted, traced
from .mutation import Place

SHAPE = (2, 6)
#: Those of an example that are real.
REAL = np.array([[1, 0, 1, 1, 1, 0], [1, 1, 1, 0, 1, 0]], bool)
#: Where to write the six of an example among nine.
AMONG = np.array([7, 0, 3, 4, 8, 1])


def around(y: jax.Array, fill: Any) -> jax.Array:
    return jnp.full((len(y), 9), fill, y.dtype)


def delayed(y: jax.Array, fill: Any) -> jax.Array:
    """By two steps of a loop, whose state is constant at first."""
    start = jnp.full((2, len(y)), fill, y.dtype)
    return lax.scan(lambda s, new: ((s[1], new), s[0]), (start[0], start[1]), y.T)[1].T


#: ``way(activations, constant, mask)``: an array some of whose elements are constants.
WAYS: dict[str, Callable[[jax.Array, Any, jax.Array], jax.Array]] = {
    "where": lambda y, fill, mask: jnp.where(REAL, y, fill),
    "where of an argument": lambda y, fill, mask: jnp.where(mask, y, fill),
    "select of the constant first": lambda y, fill, mask: jnp.where(~REAL, fill, y),
    "pad": lambda y, fill, mask: jnp.pad(y, ((0, 0), (1, 2)), constant_values=fill),
    "pad inside": lambda y, fill, mask: lax.pad(
        y, jnp.asarray(fill, y.dtype), [(0, 0, 0), (0, 1, 1)]
    ),
    "concatenate": lambda y, fill, mask: jnp.concatenate([y, around(y, fill)[:, :3]], 1),
    "concatenate with a row": lambda y, fill, mask: jnp.concatenate([around(y, fill)[:1, :6], y]),
    "mask times": lambda y, fill, mask: y * REAL.astype(y.dtype),
    "mask of an argument times": lambda y, fill, mask: y * mask.astype(y.dtype),
    "dynamic_update_slice": lambda y, fill, mask: lax.dynamic_update_slice(
        around(y, fill), y, (0, 2)
    ),
    "a constant written by dynamic_update_slice": lambda y, fill, mask: lax.dynamic_update_slice(
        y, around(y, fill)[:, :2], (0, 1)
    ),
    "scatter": lambda y, fill, mask: around(y, fill).at[:, AMONG].set(y),
    "a constant scattered": lambda y, fill, mask: y.at[:, np.array([0, 4])].set(fill),
    "stack": lambda y, fill, mask: jnp.stack([y, around(y, fill)[:, :6]], 1).reshape(2, -1),
    "state of a loop": lambda y, fill, mask: delayed(y, fill),
}


def convolved(z: jax.Array) -> jax.Array:
    kernel = np.array([1.0, -0.5, 2.0], z.dtype)[:, None, None]
    numbers = ("NWC", "WIO", "NWC")
    return lax.conv_general_dilated(z[..., None], kernel, (1,), "SAME", dimension_numbers=numbers)


def mixed(z: jax.Array) -> jax.Array:
    """A dense layer with weights of both signs."""
    return z @ np.random.default_rng(z.shape[1]).normal(size=(z.shape[1], 4)).astype(z.dtype)


def windows(z: jax.Array, start: float, combine: Callable, padding: str = "VALID") -> jax.Array:
    start = np.asarray(start, z.dtype)
    return lax.reduce_window(z, start, combine, (1, 3), (1, 2), padding)


#: Where elements go to; the result has two axes.
MOVES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "as it is": lambda z: z,
    "transposed": lambda z: z.T,
    "reversed": lambda z: z[:, ::-1],
    "reshaped": lambda z: z.reshape(-1, 2),
    "sliced": lambda z: z[:, 1:-1],
    "every second": lambda z: z[:, ::2],
    "rolled": lambda z: jnp.roll(z, 2, 1),
    "gathered": lambda z: z[:, np.array([3, 0, 0, 5, 2])],
    "taken": lambda z: jnp.take(z, jnp.array([1, 0, 3]), axis=1),
    "taken along": lambda z: jnp.take_along_axis(z, np.indices(z.shape)[1][:, ::-1] // 2, 1),
    "dynamic slice": lambda z: lax.dynamic_slice_in_dim(z, jnp.int32(1), 4, 1),
    "halves swapped": lambda z: jnp.concatenate(jnp.split(z, [2], 1)[::-1], 1),
    "joined with itself": lambda z: jnp.concatenate([z, z], 1),
    "stacked": lambda z: jnp.stack([z, z[:, ::-1]], 1).reshape(len(z), -1),
    "unstacked": lambda z: jnp.stack(jnp.unstack(z, axis=1)[::-1], 1),
    "tiled": lambda z: jnp.tile(z, 2),
    "repeated": lambda z: jnp.repeat(z, 2, 1),
    "broadcast": lambda z: jnp.broadcast_to(z[:, None], (len(z), 2, z.shape[1])).reshape(
        len(z), -1
    ),
    "padded": lambda z: jnp.pad(z, 1),
    "cropped": lambda z: lax.pad(z, jnp.zeros((), z.dtype), [(0, 0, 0), (-1, -1, 0)]),
    "sorted": lambda z: jnp.sort(z, 1),
    "scattered": lambda z: jnp.zeros_like(z).at[:, np.arange(z.shape[1])[::-1]].set(z),
    "row by row": lambda z: lax.map(lambda row: row[::-1], z),
    "in one step of a loop": lambda z: lax.scan(lambda s, _: (s[:, ::-1], None), z, length=1)[0],
    "in a branch": lambda z: lax.cond(z.sum() > -99, lambda z: z[:, ::-1], lambda z: z, z),
    "in a remat": jax.checkpoint(lambda z: z[:, ::-1]),
    "scaled": lambda z: z * 2,
    "divided": lambda z: z / 3,
    "shifted": lambda z: z + 0.25,
}
#: Moves that copy elements. A layer above has connections to each copy, and excitatory ones are not
#: set off against inhibitory ones: the oracle, which sees no copies, cannot tell.
COPIES = frozenset(
    ["gathered", "taken along", "repeated", "tiled", "joined with itself", "stacked", "broadcast"]
)
#: Moves that need so many elements in each row.
LONGEST = 6


def moved(name: str, z: jax.Array) -> jax.Array:
    """By a move or an identity, where it fits."""
    if name in MOVES:
        return MOVES[name](z) if z.shape[1] >= LONGEST else z
    one = IDENTITIES[name]
    fits = one.fits(Place((), 0, 0, z.shape, np.dtype(z.dtype), "", False))
    return one.apply(z, one.own(z.shape, z.dtype)) if fits else z


#: What elements are shared out by.
REDUCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "reduce_sum": lambda z: z.sum(1),
    "sum of all": lambda z: z.sum(),
    "mean": lambda z: z.mean(1),
    "dot": mixed,
    "conv": convolved,
    "window sum": lambda z: windows(z, 0, lax.add),
    "window sum with padding": lambda z: windows(z, 0, lax.add, "SAME"),
    "cumsum": lambda z: jnp.cumsum(z, 1),
    "scatter-add": lambda z: jax.ops.segment_sum(z.T, np.arange(z.shape[1]) // 2, z.shape[1]).T,
    "add": lambda z: z + z[:, ::-1],
    "maximum": lambda z: z.max(1),
    "sum of relus": lambda z: jax.nn.relu(z + 3).sum(1),
}


def derivative(f: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """(outputs, inputs), by changing one element at a time."""
    step, columns = 1e-6, []
    for i in range(x.size):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved.flat[i] += sign * step
            ends.append(np.asarray(f(moved)).ravel())
        columns.append((ends[0] - ends[1]) / (2 * step))
    return np.stack(columns, 1)


def compare(way: str, moves: tuple[str, ...], reduction: str, fill: float, seed: int) -> Any:
    """(found, right) maps of one program; None where the oracle cannot tell.

    That is where a constant is the winner of a maximum, and where a layer reads copies.
    """
    if reduction in ("dot", "conv") and COPIES.intersection(moves):
        return None
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.3, 1.5, SHAPE)

    def made(x: Any, mask: Any) -> jax.Array:
        return WAYS[way](jnp.tanh(x), fill, mask)

    def shared(z: Any) -> jax.Array:
        for move in moves:
            z = moved(move, z)
        return REDUCTIONS[reduction](z)

    def top_down(x: Any, mask: Any, p: Any) -> tuple:
        outputs, pull = jax.vjp(ej.excite(lambda x: shared(made(x, mask))), x)
        return outputs, pull(p)[0]

    make, share = traced(made, x, REAL), traced(shared, interpreted(made, x, REAL))
    z = make(x, REAL)
    plain = share(z)
    p = rng.dirichlet(np.ones(plain.size)).reshape(plain.shape)
    outputs, found = interpreted(top_down, x, REAL, p)
    np.testing.assert_array_equal(outputs, plain)

    from_x = np.abs(derivative(lambda x: make(x, REAL), x)) > 1e-9
    active = from_x.any(1)
    matrix = derivative(share, z)
    matrix[np.abs(matrix) < 1e-7] = 0
    selects = any(word in name for name in (*moves, reduction) for word in ("max", "min", "sort"))
    if selects and np.abs(matrix[:, ~active]).max(initial=0) > 0:
        return None
    h = np.where(active, z.ravel() + 1, 0)  # Eq. 20: tanh is above -1
    excites = np.maximum(matrix, 0)
    total = excites @ h
    ratio = np.divide(p.ravel(), total, out=np.zeros(total.size), where=total > 1e-9)
    right = (h * (excites.T @ ratio)) @ from_x
    return found, right.reshape(x.shape)
