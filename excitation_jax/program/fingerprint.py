"""Whether two traces are of one program: then a plan, and what was compiled, serve both.

A function is traced anew at each call, since nothing says whether what it closes over (arrays, a
model that is trained in between) is still the same. What the trace is made of is compared here:
operations, parameters, shapes and scopes, but not the arrays that were captured, which are
arguments of the compiled program.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from . import compat
from .trace import is_code


class Itself:
    """Of something that says of nothing else that it is equal: a function, a JAX array."""

    def __init__(self, object_: Any):
        self.object = object_

    def __hash__(self) -> int:
        return id(self.object)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Itself) and self.object is other.object


def fingerprint(closed: Any, sources: bool = False) -> Hashable:
    """What is equal for two closed jaxprs that are one program.

    Args:
      sources: two programs made by different lines of code differ.
    """
    numbers = tuple(_content(array) if is_code(array) else None for array in closed.consts)
    return numbers, _Encoder(sources).jaxpr(closed.jaxpr)


def identity(arrays: Iterable[Any]) -> Hashable:
    """What is equal for the same arrays: JAX's are not written to, of numpy's the numbers count."""
    return tuple(Itself(a) if isinstance(a, jax.Array) else _content(a) for a in arrays)


def _content(array: Any) -> Hashable:
    numbers = np.asarray(array)
    return numbers.dtype.str, numbers.shape, hashlib.sha256(numbers.tobytes()).digest()


class _Encoder:
    def __init__(self, sources: bool):
        self.sources = sources
        self._inner: dict[int, tuple[Any, Hashable]] = {}  # jitted functions are called repeatedly

    def jaxpr(self, jaxpr: Any) -> Hashable:
        """An open jaxpr, its variables numbered in order."""
        known = self._inner.get(id(jaxpr))
        if known is None:
            known = self._inner[id(jaxpr)] = jaxpr, self._encoded(jaxpr)
        return known[1]

    def _encoded(self, jaxpr: Any) -> Hashable:
        numbers: dict[Any, int] = {}
        given = [*jaxpr.constvars, *jaxpr.invars]

        def read(atom: Any) -> Hashable:
            if isinstance(atom, compat.Literal):
                return atom.aval, _content(atom.val)
            return numbers[atom]

        def new(variables: Any) -> Hashable:
            numbers.update({var: len(numbers) + i for i, var in enumerate(variables)})
            return tuple(var.aval for var in variables)

        ahead = new(given)
        eqns = tuple(
            (tuple(map(read, eqn.invars)), *self._operation(eqn), new(eqn.outvars))
            for eqn in jaxpr.eqns
        )
        return len(jaxpr.constvars), ahead, eqns, tuple(map(read, jaxpr.outvars))

    def _operation(self, eqn: Any) -> tuple[Hashable, ...]:
        params = eqn.params
        if eqn.primitive in compat.BODIES:  # the rules for its derivative are made at each trace
            kept = (compat.BODIES[eqn.primitive], "name", "policy", "prevent_cse")
            params = {name: params[name] for name in kept if name in params}
        line = compat.source_line([eqn.source_info]) if self.sources else None
        return eqn.primitive, self._value(params), compat.scopes(eqn.source_info), line

    def _value(self, value: Any) -> Hashable:
        if isinstance(value, Mapping):
            return tuple((name, self._value(value[name])) for name in sorted(value))
        if isinstance(value, tuple | list):
            return type(value), tuple(map(self._value, value))
        opened, consts = compat.opened(value)
        if hasattr(opened, "eqns"):
            # Arrays that a jitted function closes over stay in it, for JAX, too.
            return self.jaxpr(opened), tuple(map(Itself, consts))
        if isinstance(value, np.ndarray | np.generic):
            return _content(value)
        if callable(value) and not isinstance(value, type):
            return Itself(value)
        try:
            hash(value)
        except TypeError:
            return Itself(value)
        return type(value), value
