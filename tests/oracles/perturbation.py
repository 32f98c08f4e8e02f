"""Which elements of every value depend on the input, found by changing the input.

A program is evaluated equation by equation on an input and on several others; an element that
ever differs is active. Jitted functions, rematerialised ones and custom derivatives are evaluated
inside, loops and branches as a whole. What is found is a lower bound: an element may depend on the
input and not show it (a dead ReLU), so an analysis must call active whatever is active here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.extend import core


@dataclass
class Activity:
    """What was found.

    Attributes:
      outputs: a pytree like the function's outputs, of boolean arrays.
      tagged: by name, of the values that `ej.tag` names. A name that occurs again gets #2, #3.
      values: one boolean array for each value, in the order of the equations.
    """

    outputs: Any
    tagged: dict[str, np.ndarray] = field(default_factory=dict)
    values: list[np.ndarray] = field(default_factory=list)


def perturbed_activity(
    f: Callable[[Any], Any], x: Any, *, draws: int = 12, seed: int = 0
) -> Activity:
    """Which elements of f's values depend on x: found by evaluating f at other inputs.

    Args:
      f: any JAX function of one pytree of floating arrays.
      x: the input at which to start.
      draws: the number of other inputs. Their sizes differ, so that what a small change does not
        reach (a clipped value, a maximum that stays) is reached by a large one.
    """
    closed, shape = jax.make_jaxpr(f, return_shape=True)(x)
    rng = np.random.default_rng(seed)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(x)]
    names: list[str | None] = []

    @jax.jit  # one program in place of one for each equation
    def evaluate(*leaves: Any) -> list[Any]:
        found = list(_values(closed, leaves))
        names[:] = [name for name, _ in found]
        return [value for _, value in found]

    base = evaluate(*leaves)
    changed = [np.zeros(np.shape(value), bool) for value in base]
    for draw in range(draws):
        size = (0.5, 2.0, 8.0, 32.0)[draw % 4]
        moved = [(leaf + size * rng.normal(size=leaf.shape)).astype(leaf.dtype) for leaf in leaves]
        for seen, before, after in zip(changed, base, evaluate(*moved), strict=True):
            seen |= ~_same(before, after)
    count = len(closed.jaxpr.outvars)
    outputs = jax.tree.unflatten(jax.tree.structure(shape), changed[len(changed) - count :])
    found = Activity(outputs, values=changed[: len(changed) - count])
    for name, seen in zip(names, found.values, strict=False):
        if name is not None:
            found.tagged[_new(name, found.tagged)] = seen
    return found


def _same(before: Any, after: Any) -> np.ndarray:
    before, after = np.asarray(before), np.asarray(after)
    return (before == after) | ((before != before) & (after != after))  # NaN stays NaN


def _new(name: str, taken: dict[str, np.ndarray]) -> str:
    count = 1
    while (name if count == 1 else f"{name}#{count}") in taken:
        count += 1
    return name if count == 1 else f"{name}#{count}"


def _values(closed: Any, arguments: Sequence[Any]) -> Iterator[tuple[str | None, Any]]:
    """(tag, value) of every equation, those of functions inside included, then the outputs."""
    outputs = yield from _run(closed.jaxpr, closed.consts, arguments)
    for value in outputs:
        yield None, value


def _run(jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any]) -> Any:
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, arguments, strict=True))

    def read(v: Any) -> Any:
        return v.val if isinstance(v, core.Literal) else env[v]

    for eqn in jaxpr.eqns:
        operands = [read(v) for v in eqn.invars]
        inner = _inside(eqn)
        if inner is not None:
            found = yield from _run(inner.jaxpr, inner.consts, operands)
        else:
            found = eqn.primitive.bind(*operands, **eqn.params)
            found = found if eqn.primitive.multiple_results else [found]
            for value in found:
                yield eqn.params.get("name") if eqn.primitive.name == "name" else None, value
        env.update(zip(eqn.outvars, found, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _inside(eqn: Any) -> Any:
    """The program of a call that runs once with just these operands; None for all else."""
    if eqn.primitive.name not in (
        "jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint",
        "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr",
    ):  # fmt: skip
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if name in eqn.params:
            found = eqn.params[name]
            return found if hasattr(found, "consts") else core.ClosedJaxpr(found, ())
    return None
