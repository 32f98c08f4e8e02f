"""A traced function as one flat list of operations.

Calls (jit, custom_jvp, custom_vjp, closed_call, remat) are opened. JAX shares one jaxpr
object between all calls of the same jitted function, so every call gets fresh `Value`s:
a `Value` is one array of one call, never a jaxpr variable.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from . import _compat


@dataclass(eq=False, slots=True)
class Value:
    """One array of the traced program."""

    shape: tuple[int, ...]
    dtype: np.dtype
    literal: Any = None

    @property
    def inexact(self) -> bool:
        return bool(jax.numpy.issubdtype(self.dtype, np.inexact))

    @property
    def floating(self) -> bool:
        return bool(jax.numpy.issubdtype(self.dtype, np.floating))


@dataclass(eq=False, slots=True)
class Op:
    """One equation: a primitive applied to values.

    ``path`` is the raw stack of scope names; ``call`` the name of the jitted function without
    layers of its own that it came from ('relu'), if any; ``regions`` the remat regions it lies in.
    """

    index: int
    primitive: Any
    params: dict[str, Any]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    path: tuple[str, ...]
    call: str | None
    regions: tuple[int, ...]
    source_infos: tuple[Any, ...]

    @property
    def source(self) -> str:
        """File, line and function of the model's code that made the operation."""
        return _compat.source_line(self.source_infos)


@dataclass(eq=False)
class Program:
    """The flat program: ``outputs = ops(captured, inputs)``.

    ``captured`` are the arrays that the function closed over; their values may be tracers and
    are given to every evaluation. ``constants`` are arrays inside calls, with their values.
    """

    inputs: tuple[Value, ...]
    captured: tuple[Value, ...] = ()
    outputs: tuple[Value, ...] = ()
    ops: list[Op] = field(default_factory=list)
    constants: dict[Value, Any] = field(default_factory=dict)
    remat_params: list[dict[str, Any]] = field(default_factory=list)

    def module_path(self, op: Op) -> str:
        """Path of the module that made ``op``, the root's class name dropped."""
        return "/".join(self.module_scopes(op))

    def module_scopes(self, op: Op) -> tuple[str, ...]:
        names = _collapse_methods(op.path)
        return names[1:] if names and names[0] == self.root_scope else names

    @functools.cached_property
    def root_scope(self) -> str | None:
        """The scope that all scoped operations share: a Linen model's class name."""
        roots = {_collapse_methods(op.path)[0] for op in self.ops if op.path}
        return roots.pop() if len(roots) == 1 else None


def trace(fn: Callable[..., Any], *args: Any) -> tuple[Program, Any, Any]:
    """Traces ``fn(*args)``.

    Returns:
      The flat program (its inputs are the leaves of ``args``), the closed jaxpr, and the tree
      of the outputs as ``jax.ShapeDtypeStruct``.
    """
    closed, out_shape = jax.make_jaxpr(fn, return_shape=True)(*args)
    jaxpr = closed.jaxpr
    program = Program(
        inputs=tuple(_value(var.aval) for var in jaxpr.invars),
        captured=tuple(_value(var.aval) for var in jaxpr.constvars),
    )
    context = _Context((), None, (), ())
    outputs = _inline(program, jaxpr, [*program.captured, *program.inputs], context)
    program.outputs = tuple(outputs)
    return program, closed, out_shape


def _value(aval: Any, literal: Any = None) -> Value:
    return Value(tuple(aval.shape), aval.dtype, literal)


class _Context(NamedTuple):
    """The calls around an equation; the fields are those of `Op`."""

    path: tuple[str, ...]
    call: str | None
    regions: tuple[int, ...]
    source_infos: tuple[Any, ...]


def _inline(
    program: Program, jaxpr: Any, arguments: Sequence[Value], context: _Context
) -> list[Value]:
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], arguments, strict=True))

    def read(atom: Any) -> Value:
        return _value(atom.aval, atom.val) if isinstance(atom, _compat.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        inputs = tuple(read(atom) for atom in eqn.invars)
        # Scopes inside a call are relative to it.
        here = context._replace(
            path=context.path + _compat.scopes(eqn.source_info),
            source_infos=(eqn.source_info, *context.source_infos),
        )
        if eqn.primitive in _compat.INLINED:
            inner, consts = _compat.body(eqn.primitive, eqn.params)
            const_values = [_value(var.aval) for var in inner.constvars]
            program.constants.update(zip(const_values, consts, strict=True))
            if eqn.primitive is _compat.jit_p:
                name = _function_name(eqn.params["name"], inner)
                here = here._replace(call=here.call or name)
            elif eqn.primitive is _compat.remat_p:
                here = here._replace(regions=(*here.regions, len(program.remat_params)))
                kept = {key: eqn.params[key] for key in ("policy", "prevent_cse")}
                program.remat_params.append(kept)
            outputs = _inline(program, inner, [*const_values, *inputs], here)
            env.update(zip(eqn.outvars, outputs, strict=True))
            continue
        made = tuple(_value(var.aval) for var in eqn.outvars)
        env.update(zip(eqn.outvars, made, strict=True))
        program.ops.append(Op(len(program.ops), eqn.primitive, eqn.params, inputs, made, *here))
    return [read(atom) for atom in jaxpr.outvars]


def _function_name(name: str, jaxpr: Any) -> str | None:
    """The name of a jitted function that is no model: it has no module and no layer inside."""
    if name.startswith("_"):
        return None
    for eqn in jaxpr.eqns:
        if _compat.scopes(eqn.source_info) or eqn.primitive in _compat.LAYERS:
            return None
        if eqn.primitive in _compat.INLINED:
            inner, _ = _compat.body(eqn.primitive, eqn.params)
            if _function_name("inner", inner) is None:
                return None
    return name


@functools.lru_cache(maxsize=4096)
def _collapse_methods(path: tuple[str, ...]) -> tuple[str, ...]:
    """Drops Linen's ``Module.method`` scopes, which stand beside the module's own."""
    return tuple(
        name.split(".")[0]
        for i, name in enumerate(path)
        if "." not in name or i + 1 == len(path) or path[i + 1] != name.split(".")[0]
    )
