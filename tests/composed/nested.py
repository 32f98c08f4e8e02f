"""Steps that hold other steps: joined branches, wrapped functions, loops, choices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from .layers import projections
from .structure import mask_of
from .table import fitted, mixed, step
from .weights import Body, Weights

# --- joined branches --------------------------------------------------------------------------


def join(name: str, *ranks: int, **options: Any) -> Callable[[Callable], Callable]:
    """Registers ``combine(weights, a, b)`` of two branches; b is given the shape of a."""

    def register(combine: Callable) -> Callable:
        def apply(w: Weights, x: jax.Array, first: Body, second: Body) -> jax.Array:
            a = first(w, x)
            return combine(w, a, fitted(w, second(w, x), a.shape))

        step(name, *ranks, bodies=2, **options)(apply)
        return combine

    return register


def cross_attention(w: Weights, a: jax.Array, b: jax.Array) -> jax.Array:
    a, b = (state.reshape(len(state), -1, state.shape[-1]) for state in (a, b))
    (query,), (key, value) = projections(w, a, 1), projections(w, b, 2)
    return jax.nn.softmax(query @ key.mT) @ value


def update_gate(w: Weights, a: jax.Array, b: jax.Array) -> jax.Array:
    control, old, new = projections(w, a, 3)
    gate = jax.nn.sigmoid(control)
    return gate * jnp.tanh(old + b) + (1 - gate) * jnp.tanh(new)


join("sum")(lambda w, a, b: a + b)
join("mean")(lambda w, a, b: 0.5 * (a + b))
join("joined")(lambda w, a, b: jnp.concatenate([a, b], -1))
join("maximum")(lambda w, a, b: jnp.maximum(a, b))
join("minimum")(lambda w, a, b: jnp.minimum(a, b))
join("mosaic")(lambda w, a, b: jnp.where(mask_of(a), a, b))
join("the larger of squares")(lambda w, a, b: jnp.where(a * a > b * b, a, b))
join("stacked and summed")(lambda w, a, b: jnp.stack([a, b], 1).sum(1))
join("stacked and maximum")(lambda w, a, b: jnp.stack([a, b]).max(0))
join("interleaved")(lambda w, a, b: jnp.stack([a, b], -1).reshape(*a.shape[:-1], -1))
join("gated by the other")(lambda w, a, b: projections(w, a, 1)[0] * jax.nn.sigmoid(b))
join("update gate")(update_gate)
join("cross attention", 3)(cross_attention)
join("difference", excites=False)(lambda w, a, b: a - b)
join("weighted sum", excites=False)(lambda w, a, b: a * w.scale(a.shape[-1]) - 2 * b)


# --- wrapped functions ------------------------------------------------------------------------


def wrap(transform: Callable[[Callable], Callable]) -> Callable:
    """A step that applies its body through a transformed function of (arrays, x)."""

    def apply(w: Weights, x: jax.Array, body: Body) -> jax.Array:
        arrays = w.nested(body, x)
        if w.written_out:
            return body(w.of(arrays), x)
        return transform(lambda arrays, x: body(w.of(arrays), x))(arrays, x)

    return apply


def with_custom_jvp(f: Callable) -> Callable:
    wrapped = jax.custom_jvp(f)
    wrapped.defjvp(lambda primals, tangents: jax.jvp(f, primals, tangents))
    return wrapped


def with_custom_vjp(f: Callable) -> Callable:
    wrapped = jax.custom_vjp(f)
    wrapped.defvjp(lambda *args: (f(*args), None), lambda _, t: (None, None))
    return wrapped


def over_examples(f: Callable) -> Callable:
    return jax.vmap(lambda arrays, x: f(arrays, x[None])[0], in_axes=(None, 0))


step("jit", bodies=1)(wrap(jax.jit))
step("checkpoint", bodies=1)(wrap(jax.checkpoint))
step("custom_jvp", bodies=1)(wrap(with_custom_jvp))
step("custom_vjp", bodies=1)(wrap(with_custom_vjp))
step("vmap", bodies=1)(wrap(over_examples))


# --- loops and choices ------------------------------------------------------------------------

STEPS = 3


def same_shape(body: Body) -> Body:
    return lambda w, x: fitted(w, body(w, x), x.shape)


def settled(act: Callable) -> Callable[[Body], Body]:
    """A body that ends in a dense layer and this activation."""
    return lambda body: lambda w, x: act(mixed(w, body(w, x), x.shape))


def identity(w: Weights, x: jax.Array) -> jax.Array:
    return x


def part(arrays: Any, i: Any) -> Any:
    return jax.tree.map(lambda a: jnp.asarray(a)[i], arrays)


def scanned(w: Weights, x: jax.Array, body: Body, **options: Any) -> jax.Array:
    stacked = w.stacked(STEPS, body, x)
    if w.written_out:
        order = range(STEPS)[:: -1 if options.get("reverse") else 1]
        for i in order:
            x = body(w.of(part(stacked, i)), x)
        return x

    def one(x: jax.Array, arrays: list) -> tuple:
        return body(w.of(arrays), x), None

    return lax.scan(one, x, stacked, length=STEPS, **options)[0]


def fori(w: Weights, x: jax.Array, body: Body) -> jax.Array:
    stacked = w.stacked(STEPS, body, x)
    if w.written_out:
        for i in range(STEPS):
            x = body(w.of(part(stacked, i)), x)
        return x
    return lax.fori_loop(0, STEPS, lambda i, x: body(w.of(part(stacked, i)), x), x)


def counted(w: Weights, x: jax.Array, body: Body) -> jax.Array:
    """A while loop that counts down by two from a number that is not a multiple of it."""
    arrays = w.nested(body, x)
    if w.written_out:
        for _ in range(STEPS):
            x = body(w.of(arrays), x)
        return x

    def one(state: tuple) -> tuple:
        return state[0] - 2, body(w.of(arrays), state[1])

    return lax.while_loop(lambda state: state[0] > 0, one, (2 * STEPS - 1, x))[1]


def chosen(w: Weights, x: jax.Array, *bodies: Body) -> jax.Array:
    """By a predicate of the state: cond for two bodies, switch for more."""
    arrays = [w.nested(body, x) for body in bodies]
    index = (jnp.abs(x).sum() * 7).astype(jnp.int32) % len(bodies)
    if w.written_out:
        i = w.choose(index)
        return bodies[i](w.of(arrays[i]), x)

    def branch(i: int) -> Callable:
        return lambda arrays, x: bodies[i](w.of(arrays[i]), x)

    if len(bodies) == 2:
        return lax.cond(index > 0, branch(1), branch(0), arrays, x)
    return lax.switch(index, [branch(i) for i in range(len(bodies))], arrays, x)


def mapped(w: Weights, x: jax.Array, body: Body) -> jax.Array:
    """One example after the other."""
    arrays = w.nested(body, x[:1])
    if w.written_out:
        return jnp.concatenate([body(w.of(arrays), row[None]) for row in x])
    return lax.map(lambda row: body(w.of(arrays), row[None])[0], x)


def sharded(w: Weights, x: jax.Array, body: Body) -> jax.Array:
    """On the one device there is."""
    arrays = w.nested(body, x)
    if w.written_out or w.on_mesh:
        return body(w.of(arrays), x)
    return on_a_mesh(lambda arrays, x: body(w.of_part(arrays), x), (P(), P("d")))(arrays, x)


def on_a_mesh(f: Callable, in_specs: Any, **options: Any) -> Callable:
    mesh = jax.make_mesh((1,), ("d",), axis_types=(AxisType.Auto,))
    return jax.shard_map(f, mesh=mesh, in_specs=in_specs, out_specs=P("d"), **options)


LOOPS: dict[str, tuple[Callable, int]] = {
    "scan": (scanned, 1), "fori_loop": (fori, 1), "while": (counted, 1), "cond": (chosen, 2),
    "switch": (chosen, 3), "scan, two at a time": (lambda *a: scanned(*a, unroll=2), 1),
    "scan, from the end": (lambda *a: scanned(*a, reverse=True), 1), "map": (mapped, 1),
    "shard_map": (sharded, 1),
}  # fmt: skip


def loop(apply: Callable, closing: Callable[[Body], Body], ready: Body) -> Callable:
    def looped(w: Weights, x: jax.Array, *bodies: Body) -> jax.Array:
        return apply(w, ready(w, x), *map(closing, bodies))

    return looped


for name, (apply, count) in LOOPS.items():
    options = {"bodies": count, "loops": True}
    step(name, excites=False, **options)(loop(apply, same_shape, identity))
    for act in (jax.nn.relu, jnp.tanh, jax.nn.sigmoid, jax.nn.gelu, jax.nn.elu):
        ready = settled(act)
        made = loop(apply, ready, ready(identity))
        step(f"{name} ({act.__name__})", settled=True, **options)(made)


@step("collectives", loops=True, excites=False)
def collectives(w: Weights, x: jax.Array) -> jax.Array:
    """On one device, a sum over devices is one over an axis of length 1, all else the identity."""
    if w.written_out or w.on_mesh:
        return x[None].sum(0)[None].sum(0)

    def moved(x: jax.Array) -> jax.Array:
        x = lax.ppermute(x, "d", [(0, 0)])
        x = lax.all_to_all(x, "d", 0, 0, tiled=True)
        return lax.psum(lax.all_gather(x, "d", tiled=True), "d")

    def summed(x: jax.Array) -> jax.Array:
        return lax.pcast(lax.psum(x, "d"), "d", to="varying")

    return on_a_mesh(summed, P("d"))(on_a_mesh(moved, P("d"), check_vma=False)(x))


# --- recurrences ------------------------------------------------------------------------------


def over_time(
    w: Weights, x: jax.Array, cell: Callable[[Any, jax.Array], tuple], state: Any
) -> jax.Array:
    """Scans over the positions of (N, T, C)."""
    if w.written_out:
        found = []
        for row in jnp.unstack(x, axis=1):
            state, y = cell(state, row)
            found.append(y)
        return jnp.stack(found, 1)
    return jnp.swapaxes(lax.scan(cell, state, jnp.swapaxes(x, 0, 1))[1], 0, 1)


@step("RNN", 3, loops=True, excites=False)
def rnn(w: Weights, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    into, own = (w.matrix(width, width, inputs=width) for _ in range(2))

    def cell(h: jax.Array, row: jax.Array) -> tuple:
        h = jax.nn.relu(row @ into + h @ own)
        return h, h

    return over_time(w, x, cell, jnp.zeros_like(x[:, 0]))


@step("GRU", 3, loops=True, excites=False)
def gru(w: Weights, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    into, own = (w.matrix(3, width, width, inputs=width) for _ in range(2))

    def cell(h: jax.Array, row: jax.Array) -> tuple:
        z, r = (jax.nn.sigmoid(row @ into[i] + h @ own[i]) for i in range(2))
        new = jnp.tanh(row @ into[2] + r * (h @ own[2]))
        h = (1 - z) * new + z * h
        return h, h

    return over_time(w, x, cell, jnp.zeros_like(x[:, 0]))


@step("LSTM", 3, loops=True, excites=False)
def lstm(w: Weights, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    into, own = (w.matrix(4, width, width, inputs=width) for _ in range(2))

    def cell(state: tuple, row: jax.Array) -> tuple:
        h, c = state
        f, i, o = (jax.nn.sigmoid(row @ into[k] + h @ own[k]) for k in range(3))
        c = f * c + i * jnp.tanh(row @ into[3] + h @ own[3])
        h = o * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros_like(x[:, 0])
    return over_time(w, x, cell, (zeros, zeros))


@step("running sum", 3, loops=True)
def running_sum(w: Weights, x: jax.Array) -> jax.Array:
    return over_time(w, x, lambda s, row: (s + row, s + row), jnp.zeros_like(x[:, 0]))


@step("associative scan", 3, 4)
def associative_scan(w: Weights, x: jax.Array) -> jax.Array:
    return lax.associative_scan(jnp.add, x, axis=1)
