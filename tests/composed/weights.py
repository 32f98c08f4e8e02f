"""The arrays of a composed program: drawn once, then handed out in the same order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

#: What a chain of steps is: a function of its weights and of the state.
Body = Callable[["Weights", jax.Array], jax.Array]


class Weights:
    """Draws the arrays that a program asks for, or hands out those that it asked for before.

    Args:
      arrays: those of an earlier run; None to draw.
      seed, dtype: of what is drawn.
      positive: draw no negative number and no bias, so that every connection excites.
      written_out: loops and branches run as plain Python.
      choices: the branches that an earlier written-out run took, for one whose state is abstract.
    """

    def __init__(
        self, arrays: Sequence[Any] | None = None, *, seed: Any = 0, dtype: Any = "float32",
        positive: bool = False, written_out: bool = False, choices: Sequence[int] | None = None,
    ):  # fmt: skip
        self.drawn: list[Any] = []
        self.dtype, self.positive, self.written_out = dtype, positive, written_out
        self.taken: list[int] = []
        self.on_mesh = False  # inside a shard_map; they do not nest
        self._given: Iterator[Any] | None = None if arrays is None else iter(arrays)
        self._choices = None if choices is None else iter(choices)
        self._rng = np.random.default_rng(seed)

    def of(self, arrays: Sequence[Any]) -> Weights:
        """The weights of a body, from `nested`."""
        inner = Weights(arrays, positive=self.positive, written_out=self.written_out)
        inner.taken, inner._choices, inner.on_mesh = self.taken, self._choices, self.on_mesh
        return inner

    def of_part(self, arrays: Sequence[Any]) -> Weights:
        """The same, inside a shard_map."""
        inner = self.of(arrays)
        inner.on_mesh = True
        return inner

    def matrix(self, *shape: int, inputs: int) -> Any:
        """Weights of units that have so many inputs."""
        return self._next(lambda: self._signed(self._rng.normal(0, inputs**-0.5, shape)))

    def bias(self, *shape: int) -> Any:
        return self._next(
            lambda: np.zeros(shape) if self.positive else self._rng.normal(0, 0.3, shape)
        )

    def scale(self, *shape: int) -> Any:
        """Factors of both signs, none of them near zero."""

        def draw() -> np.ndarray:
            return self._signed(self._rng.choice([-1, 1], shape)) * self._rng.uniform(
                0.5, 1.5, shape
            )

        return self._next(draw)

    def nested(self, body: Body, x: jax.Array) -> list[Any]:
        """The arrays of a body that is applied to ``x``."""
        return self._next(lambda: self._drawn_by(body, x))

    def stacked(self, count: int, body: Body, x: jax.Array) -> list[Any]:
        """The arrays of several copies of a body, with a leading axis for the copies."""

        def draw() -> list[Any]:
            copies = [self._drawn_by(body, x) for _ in range(count)]
            return jax.tree.map(lambda *arrays: np.stack(arrays), *copies)

        return self._next(draw)

    def choose(self, index: jax.Array) -> int:
        """Which branch a written-out run takes."""
        chosen = int(index) if self._choices is None else next(self._choices)
        self.taken.append(chosen)
        return chosen

    def _signed(self, array: np.ndarray) -> np.ndarray:
        return np.abs(array) if self.positive else array

    def _drawn_by(self, body: Body, x: jax.Array) -> list[Any]:
        inner = Weights(dtype=self.dtype, positive=self.positive)
        inner._rng, inner.on_mesh = self._rng, self.on_mesh
        jax.eval_shape(lambda x: body(inner, x), jax.ShapeDtypeStruct(x.shape, x.dtype))
        return inner.drawn

    def _next(self, draw: Callable[[], Any]) -> Any:
        if self._given is not None:
            return next(self._given)
        self.drawn.append(jax.tree.map(lambda a: a.astype(self.dtype), draw()))
        return self.drawn[-1]
