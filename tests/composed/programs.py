"""Composed programs: a chain of steps, some of which hold chains, as hypothesis draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from . import elementwise, layers, nested, structure  # noqa: F401  (they fill the table)
from .table import TABLE, Entry, Shape, mixed
from .weights import Body, Weights

#: The states that programs start from.
INPUTS: dict[str, Shape] = {
    "flat": (2, 6), "sequence": (2, 4, 4), "image": (1, 4, 4, 4), "volume": (1, 2, 3, 2, 2),
    "tokens": (2, 5),
}  # fmt: skip
VOCABULARY, CLASSES = 7, 3
LARGEST = 128  # elements of a state, for each example


@dataclass(frozen=True)
class Step:
    """A step, with the chains that it holds."""

    entry: Entry
    bodies: tuple[tuple[Step, ...], ...] = ()

    def __call__(self, w: Weights, x: jax.Array) -> jax.Array:
        return self.entry.apply(w, x, *map(chain, self.bodies))

    def __repr__(self) -> str:
        inside = " | ".join(map(described, self.bodies))
        return f"{self.entry.name}[{inside}]" if self.bodies else self.entry.name

    def entries(self) -> set[Entry]:
        """All kinds of steps in it."""
        return {self.entry}.union(*(s.entries() for body in self.bodies for s in body))


def described(steps: Sequence[Step]) -> str:
    return " > ".join(map(repr, steps)) or "identity"


def chain(steps: Sequence[Step]) -> Body:
    def run(w: Weights, x: jax.Array) -> jax.Array:
        for one in steps:
            x = one(w, x)
        return x

    return run


@dataclass(frozen=True)
class Program:
    """A model: ``program(params, x) -> outputs``.

    Attributes:
      kind: of its input, a key of `INPUTS`.
      steps: those that fit, of those that were drawn.
      head: a dense layer to three classes follows.
      seed: of its arrays, of the input and of the prior.
    """

    kind: str
    steps: tuple[Step, ...]
    head: bool
    seed: int
    positive: bool = False
    dtype: str = "float64"
    params: list = field(default_factory=list, compare=False)

    def __repr__(self) -> str:
        ends = (self.kind, described(self.steps), *(["head"] if self.head else []))
        return f"{'positive ' * self.positive}{' > '.join(ends)}  (seed {self.seed}, {self.dtype})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # what hypothesis reports of a failure

    def run(self, w: Weights, x: jax.Array) -> jax.Array:
        if self.kind == "tokens":
            x = jnp.asarray(w.matrix(VOCABULARY, 4, inputs=1))[x]
        x = chain(self.steps)(w, x)
        return mixed(w, x, (x.shape[0], CLASSES)) if self.head else x

    def __call__(self, params: Sequence[Any], x: jax.Array) -> jax.Array:
        return self.run(Weights(params, positive=self.positive), x)

    def look_up(self, tokens: np.ndarray) -> np.ndarray:
        """What a program of tokens finds in its table."""
        return self.params[0][tokens]

    def after(self, params: Sequence[Any], found: jax.Array) -> jax.Array:
        """What a program of tokens makes of it."""
        return replace(self, kind="found")(params[1:], found)

    def written_out(self, params: Sequence[Any], x: jax.Array) -> Callable:
        """The same program with its loops and choices as plain Python."""
        first = Weights(params, written_out=True)
        self.run(first, x)
        choices = list(first.taken)
        return lambda params, x: self.run(Weights(params, written_out=True, choices=choices), x)

    def input(self) -> np.ndarray:
        rng, shape = np.random.default_rng([self.seed, 1]), INPUTS[self.kind]
        if self.kind == "tokens":
            return rng.integers(0, VOCABULARY, shape).astype(np.int32)
        x = rng.normal(0.3, 1, shape).astype(self.dtype)
        return np.abs(x) + 0.1 if self.positive else x

    def prior(self, shape: Shape) -> np.ndarray:
        """A distribution over all outputs of all examples."""
        p = np.random.default_rng([self.seed, 2]).dirichlet(np.ones(math.prod(shape)))
        return p.reshape(shape).astype(self.dtype)

    def entries(self) -> set[Entry]:
        return set().union(*(one.entries() for one in self.steps))

    @property
    def loops(self) -> bool:
        return any(entry.loops for entry in self.entries())


Drawn = tuple[Entry, tuple[list, ...]]


def fitting(drawn: Sequence[Drawn], shape: Shape, dtype: str) -> tuple[tuple[Step, ...], Shape]:
    """The steps that take the state that they meet, and the shape of the last one's result."""
    steps: list[Step] = []
    for entry, bodies in drawn:
        if not entry.fits(shape):
            continue
        one = Step(entry, tuple(fitting(body, shape, dtype)[0] for body in bodies))
        if one.bodies and not any(one.bodies):
            continue
        w = Weights(dtype=dtype)
        after = jax.eval_shape(
            lambda x, one=one, w=w: one(w, x), jax.ShapeDtypeStruct(shape, dtype)
        ).shape
        if len(after) > 5 or math.prod(after[1:]) > LARGEST or 0 in after:
            continue
        steps.append(one)
        shape = after
    return tuple(steps), shape


def composed(
    kind: str, drawn: Sequence[Drawn], head: bool, seed: int, positive: bool, dtype: str
) -> Program:
    """The program of the drawn steps that fit."""
    shape = (*INPUTS["tokens"], 4) if kind == "tokens" else INPUTS[kind]
    steps, _ = fitting(drawn, shape, dtype)
    program = Program(kind, steps, head, seed, positive, dtype)
    w = Weights(seed=seed, dtype=dtype, positive=positive)
    jax.eval_shape(lambda x: program.run(w, x), program.input())
    program.params.extend(w.drawn)
    return program


def chains(entries: Sequence[Entry], depth: int, most: int = 4) -> st.SearchStrategy[list[Drawn]]:
    """Lists of steps; those that hold others hold chains of at most ``depth`` levels."""
    leaves = [entry for entry in entries if not entry.bodies]
    holding = [entry for entry in entries if entry.bodies]
    one: st.SearchStrategy = st.tuples(st.sampled_from(leaves), st.just(()))
    if depth and holding:
        inner = chains(entries, depth - 1, 2)
        one = one | _with_bodies(st.sampled_from(holding), inner)
    return st.lists(one, max_size=most)


def _with_bodies(
    entries: st.SearchStrategy[Entry], inner: st.SearchStrategy[list[Drawn]]
) -> st.SearchStrategy[Drawn]:
    return entries.flatmap(
        lambda entry: st.tuples(st.just(entry), st.tuples(*[inner] * entry.bodies))
    )


def programs(
    kinds: Sequence[str], entries: Sequence[Entry], *, head: bool | None = None, **options: Any
) -> st.SearchStrategy[Program]:
    """Programs of these kinds, of these steps."""
    return _built(kinds, chains(entries, 2, 5), head, **options)


def programs_around(
    middle: Sequence[Entry], kinds: Sequence[str], entries: Sequence[Entry], *,
    head: bool | None = None, **options: Any,
) -> st.SearchStrategy[Program]:  # fmt: skip
    """The same with one of certain steps in it."""
    some = chains(entries, 1, 2)
    held = _with_bodies(st.sampled_from(middle), some)
    drawn = st.tuples(some, held, some).map(lambda parts: [*parts[0], parts[1], *parts[2]])
    built = _built(kinds, drawn, head, **options)
    return built.filter(lambda program: not program.entries().isdisjoint(middle))


def _built(
    kinds: Sequence[str], drawn: st.SearchStrategy[list[Drawn]], head: bool | None,
    positive: bool = False, dtype: str = "float64",
) -> st.SearchStrategy[Program]:  # fmt: skip
    return st.builds(
        composed, st.sampled_from(kinds), drawn,
        st.sampled_from([True, False] if head is None else [head]), st.integers(0, 2**16),
        st.just(positive), st.just(dtype),
    ).filter(lambda program: program.steps)  # fmt: skip


def alone(entry: Entry, kind: str, head: bool = True, **options: Any) -> Program | None:
    """The program of one step behind a simple one; None if it does not fit."""
    relu, dense = (TABLE["relu"], ()), (TABLE["dense"], ())
    bodies = tuple([relu] if i == 0 else [dense] for i in range(entry.bodies))
    for before in ("dense", "max pool", "narrower"):
        program = composed(
            kind, [(TABLE[before], ()), (entry, bodies)], head, 0,
            options.get("positive", False), options.get("dtype", "float64"),
        )  # fmt: skip
        if len(program.steps) == 2:
            return program
    return None
