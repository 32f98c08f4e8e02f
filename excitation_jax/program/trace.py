"""A traced function as one flat list of operations.

Calls (jit, custom_jvp, custom_vjp, closed_call, remat) are opened. JAX shares one jaxpr
object between all calls of the same jitted function, so every call gets fresh `Value`s:
a `Value` is one array of one call, never a jaxpr variable. Loops, branches and shard_map stay
one operation, which holds a program of its own for each function inside.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from . import compat
from .primitives import Kind, kind
from .spelling import Expressions, expression, plainer, unify, written_out
from .trip_count import trip_count


@dataclass(eq=False, slots=True)
class Value:
    """One array of the traced program.

    ``varying``: the manual mesh axes along which it differs, inside shard_map. ``steps``: lengths
    of the loops around it, the outermost first: there is one such array for each step.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    literal: Any = None
    varying: frozenset = frozenset()
    steps: tuple[int, ...] = ()

    @property
    def inexact(self) -> bool:
        return bool(jax.numpy.issubdtype(self.dtype, np.inexact))

    @property
    def floating(self) -> bool:
        return bool(jax.numpy.issubdtype(self.dtype, np.floating))


def read_value(env: Mapping[Value, Any], value: Value) -> Any:
    """The array of a value, which may be a literal."""
    return env[value] if value.literal is None else value.literal


@dataclass(eq=False, slots=True)
class Op:
    """One equation: a primitive applied to values.

    ``path`` is the raw stack of scope names; ``call`` the name of the jitted function without
    layers of its own that it came from ('relu'), if any; ``remats`` the remat calls it lies in.
    """

    index: int
    primitive: Any
    params: dict[str, Any]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    path: tuple[str, ...]
    call: str | None
    remats: tuple[int, ...]
    source_infos: tuple[Any, ...]
    nest: Nest | None = None

    @property
    def source(self) -> str:
        """File, line and function of the model's code that made the operation."""
        return compat.source_line(self.source_infos)


@dataclass(eq=False, slots=True)
class Nest:
    """The functions inside a loop, a branch or a shard_map.

    Attributes:
      bodies: the branches of a cond, or the one function of a loop or shard_map. Their inputs are
        the operation's operands from position ``offset`` on; their outputs are its outputs.
      carries: (output, input) positions of what a loop's step hands to the next one.
      consts: number of a loop's inputs that are the same at each step.
      length: number of a loop's steps; None where it is no loop. What is neither a constant nor a
        carry has a leading axis of this length outside.
      devices: it runs on each device, on a part of every value.

    What that means for a value is said by `walk.borders`.
    """

    bodies: tuple[Program, ...]
    offset: int = 0
    carries: tuple[tuple[int, int], ...] = ()
    consts: int = 0
    length: int | None = None
    devices: bool = False


@dataclass(eq=False)
class Program:
    """The flat program: ``outputs = ops(captured, inputs)``.

    ``captured`` are the arrays that the function closed over; their values may be tracers and
    are given to every evaluation. ``constants`` are arrays inside calls, with their values.
    ``parent`` is the program that holds the loop or branch whose body this one is. ``owners``
    names the modules that inputs are parameters of, ``path`` is the stack of scopes around all,
    ``closed_calls`` are jitted functions that are not opened; ``unchanged`` has the value behind
    each stop_gradient, ``numbers`` the numpy arrays that the function's code holds,
    ``expressions`` finds equal ones.
    """

    inputs: tuple[Value, ...]
    captured: tuple[Value, ...] = ()
    outputs: tuple[Value, ...] = ()
    ops: list[Op] = field(default_factory=list)
    constants: dict[Value, Any] = field(default_factory=dict)
    remat_params: list[dict[str, Any]] = field(default_factory=list)
    parent: Program | None = None
    owners: dict[Value, str] = field(default_factory=dict)
    path: tuple[str, ...] = ()
    closed_calls: frozenset[str] = frozenset()
    unchanged: dict[Value, Value] = field(default_factory=dict)
    numbers: dict[Value, np.ndarray] = field(default_factory=dict)
    expressions: Expressions = field(default_factory=Expressions)

    def all_ops(self, sharded: bool = True) -> Iterator[tuple[Program, Op]]:
        """Every operation with the program that holds it, those inside another one before it.

        Args:
          sharded: also those inside shard_map, whose values are parts on different devices.
        """
        for op in self.ops:
            if op.nest is not None and (sharded or op.primitive is not compat.shard_map_p):
                for body in op.nest.bodies:
                    yield from body.all_ops(sharded)
            yield self, op

    @functools.cached_property
    def own_values(self) -> frozenset[Value]:
        """The values that are not inside a loop, branch or shard_map."""
        return frozenset(self.inputs).union(*(op.outputs for op in self.ops))

    def module_path(self, op: Op) -> str:
        """Path of the module that made ``op``, the root's class name dropped."""
        return "/".join(self.module_scopes(op))

    def module_scopes(self, op: Op) -> tuple[str, ...]:
        """The parts of `module_path`."""
        return self._module_names(op.path)

    @property
    def enclosing_scopes(self) -> tuple[str, ...]:
        """The modules around a loop or branch whose body this program is."""
        return self._module_names(self.path)

    def _module_names(self, path: tuple[str, ...]) -> tuple[str, ...]:
        names = _collapse_methods(path)
        return names[1:] if names and names[0] == self.root_scope else names

    @functools.cached_property
    def root_scope(self) -> str | None:
        """The scope that all scoped operations share: a Linen model's class name."""
        if self.parent is not None:
            return self.parent.root_scope
        roots = {_collapse_methods(op.path)[0] for _, op in self.all_ops() if op.path}
        return roots.pop() if len(roots) == 1 else None


def trace(
    fn: Callable[..., Any], *args: Any, closed_calls: frozenset[str] = frozenset()
) -> tuple[Program, Any, Any]:
    """Traces ``fn(*args)``.

    Args:
      closed_calls: names of jitted functions that stay one operation.

    Returns:
      The flat program (its inputs are the leaves of ``args``), the closed jaxpr, and the tree
      of the outputs as ``jax.ShapeDtypeStruct``.
    """
    closed, out_shape = jax.make_jaxpr(fn, return_shape=True)(*args)
    return flatten(closed, closed_calls), closed, out_shape


def flatten(closed: Any, closed_calls: frozenset[str] = frozenset()) -> Program:
    """The flat program of a closed jaxpr."""
    jaxpr = closed.jaxpr
    refuse_explicit(closed.in_avals)
    program = Program(
        inputs=tuple(_value(var.aval) for var in jaxpr.invars),
        captured=tuple(_value(var.aval) for var in jaxpr.constvars),
        closed_calls=closed_calls,
    )
    program.numbers.update(_numbers(program.captured, closed.consts))
    context = _Context((), None, (), ())
    outputs = _inline(program, jaxpr, [*program.captured, *program.inputs], context)
    program.outputs = tuple(outputs)
    unify(program)
    return program


def refuse_explicit(avals: Sequence[Any]) -> None:
    """Raises `NotImplementedError` for arrays that are sharded over axes of an explicit mesh."""
    if any(map(compat.explicitly_sharded, avals)):
        raise NotImplementedError(
            "arrays are sharded over mesh axes of type Explicit, where each value's type says how "
            "it lies: use axes of type Auto (jax.make_mesh(..., axis_types=...)), or call "
            "excitation_jax inside jax.shard_map"
        )


def _value(aval: Any, literal: Any = None, steps: tuple[int, ...] = ()) -> Value:
    return Value(tuple(aval.shape), aval.dtype, literal, compat.varying(aval), steps)


#: Larger arrays are not looked through.
MOST_NUMBERS = 2**20


class _Context(NamedTuple):
    """The calls around an equation; the fields are those of `Op`."""

    path: tuple[str, ...]
    call: str | None
    remats: tuple[int, ...]
    source_infos: tuple[Any, ...]
    steps: tuple[int, ...] = ()


def _inline(
    program: Program, jaxpr: Any, arguments: Sequence[Value], context: _Context
) -> list[Value]:
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], arguments, strict=True))

    def read(atom: Any) -> Value:
        return _value(atom.aval, atom.val) if isinstance(atom, compat.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        inputs = tuple(read(atom) for atom in eqn.invars)
        # Scopes inside a call are relative to it.
        here = context._replace(
            path=context.path + compat.scopes(eqn.source_info),
            source_infos=(eqn.source_info, *context.source_infos),
        )
        if (same := _selected_from_one(program, eqn, inputs)) is not None:
            env[eqn.outvars[0]] = same
            continue
        stays = eqn.primitive is compat.jit_p and eqn.params["name"] in program.closed_calls
        written = written_out(eqn)
        if written is not None or (eqn.primitive in compat.BODIES and not stays):
            body = written or compat.body(eqn.primitive, eqn.params)
            inner, const_values = _open(program, body, here)
            if eqn.primitive is compat.jit_p:
                name = _function_name(eqn.params["name"], inner)
                here = here._replace(call=here.call or name)
            elif eqn.primitive is compat.remat_p:
                here = here._replace(remats=(*here.remats, len(program.remat_params)))
                kept = {key: eqn.params[key] for key in ("policy", "prevent_cse")}
                program.remat_params.append(kept)
            outputs = _inline(program, inner, [*const_values, *inputs], here)
            env.update(zip(eqn.outvars, outputs, strict=True))
            continue
        where = here.path, here.call, here.remats
        key = None if eqn.effects else expression(eqn.primitive, eqn.params, inputs, where)
        if (known := program.expressions.known(key)) is not None:
            env.update(zip(eqn.outvars, known, strict=True))
            continue
        made = tuple(_value(var.aval, None, context.steps) for var in eqn.outvars)
        env.update(zip(eqn.outvars, made, strict=True))
        program.expressions.note(key, made)
        if eqn.primitive is lax.stop_gradient_p:
            program.unchanged[made[0]] = program.unchanged.get(inputs[0], inputs[0])
        nest = _nest(program, eqn, inputs, here)
        index = len(program.ops)
        primitive, params = plainer(eqn.primitive, eqn.params, inputs[0].shape if inputs else ())
        program.ops.append(
            Op(
                index, primitive, params, inputs, made,
                here.path, here.call, here.remats, here.source_infos, nest,
            )
        )  # fmt: skip
    return [read(atom) for atom in jaxpr.outvars]


def _selected_from_one(program: Program, eqn: Any, inputs: Sequence[Value]) -> Value | None:
    """The value that a select's cases all are.

    vmap of a cond with mapped conditions makes such selects of each branch's operands, weights
    included, for the sake of gradients; they would seem to depend on the condition.
    """
    if eqn.primitive is not lax.select_n_p:
        return None
    cases = {program.unchanged.get(value, value) for value in inputs[1:]}
    return cases.pop() if len(cases) == 1 else None


def _open(program: Program, closed: Any, context: _Context) -> tuple[Any, list[Value]]:
    """The jaxpr of a call, and values for the arrays that it holds."""
    inner, consts = closed
    values = [_value(var.aval, None, context.steps) for var in inner.constvars]
    program.constants.update(zip(values, consts, strict=True))
    program.numbers.update(_numbers(values, consts))
    return inner, values


def is_code(array: Any) -> bool:
    """Whether an array is part of the code, like its literals: numpy's. JAX's are weights."""
    return not isinstance(array, jax.Array) and np.size(array) <= MOST_NUMBERS


def _numbers(values: Sequence[Value], arrays: Sequence[Any]) -> dict[Value, np.ndarray]:
    every = zip(values, arrays, strict=True)
    return {value: np.asarray(array) for value, array in every if is_code(array)}


def _nest(program: Program, eqn: Any, inputs: Sequence[Value], context: _Context) -> Nest | None:
    """The functions inside a loop of known length, a branch or a shard_map; None for others."""
    params = eqn.params

    def body(jaxpr: Any, length: int | None = None) -> Program:
        steps = context.steps if length is None else (*context.steps, length)
        inside = context._replace(remats=(), steps=steps)
        opened, consts = compat.opened(jaxpr)
        arguments = tuple(_value(var.aval, None, steps) for var in opened.invars)
        inner = Program(
            arguments, parent=program, path=context.path, closed_calls=program.closed_calls
        )
        _, const_values = _open(inner, (opened, consts), inside)
        inner.outputs = tuple(_inline(inner, opened, [*const_values, *arguments], inside))
        unify(inner)
        return inner

    if eqn.primitive is compat.scan_p:
        length, (consts, count) = params["length"], compat.scan_parts(params)
        carries = tuple((i, consts + i) for i in range(count))
        return Nest((body(params["jaxpr"], length),), 0, carries, consts, length)
    if eqn.primitive is compat.cond_p:
        return Nest(tuple(map(body, params["branches"])), 1)
    if eqn.primitive is compat.shard_map_p:
        return Nest((body(params["jaxpr"]),), devices=True)
    if eqn.primitive is compat.while_p:
        known = [value.literal for value in inputs]
        length = trip_count(params, known)
        if length is not None:
            skipped, consts = params["cond_nconsts"], params["body_nconsts"]
            carries = tuple((i, consts + i) for i in range(len(eqn.outvars)))
            return Nest((body(params["body_jaxpr"], length),), skipped, carries, consts, length)
    return None


def _function_name(name: str, jaxpr: Any) -> str | None:
    """The name of a jitted function that is no model: it has no module and no layer inside."""
    if name.startswith("_"):
        return None
    for eqn in jaxpr.eqns:
        if compat.scopes(eqn.source_info) or kind(eqn.primitive) is Kind.AFFINE:
            return None
        if eqn.primitive in compat.BODIES:
            inner, _ = compat.body(eqn.primitive, eqn.params)
            if _function_name("inner", inner) is None:
                return None
    return name


@functools.lru_cache(maxsize=4096)
def _collapse_methods(path: tuple[str, ...]) -> tuple[str, ...]:
    """Drops Linen's ``Module.method()`` scopes where they stand beside the module's own."""
    names: list[str] = []
    for i, name in enumerate(path):
        module = name.partition(".")[0] if name.endswith("()") else None
        if module is None:
            names.append(name)
        elif module not in (*names[-1:], *path[i + 1 : i + 2]):
            names.append(module)
    return tuple(names)
