"""A function with an identity put in at one of the values that it computes.

The function is traced, and its equations are evaluated one after the other; what was chosen passes
through the identity. Calls, loops and branches around the place are built again with the changed
body, so that any function can be mutated without being edited.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import source_info_util
from jax.extend.core import primitives

from excitation_jax.program import compat

Function = Callable[..., Any]
#: Identities by (path, equation, output), the path relative to the jaxpr that is evaluated.
Changes = Mapping[tuple, Callable[[jax.Array], jax.Array]]


@dataclass(frozen=True)
class Place:
    """A floating-point value that depends on the input.

    Attributes:
      path: (equation, body) of the calls, loops and branches around it, the outermost first.
      equation: the equation that computes it; -1 for an input of the body.
      output: its position among the results (or inputs).
      made_by: the primitive, after those around it.
      summed: moves and scales of it are summed, by an operation without weights of its own.
    """

    path: tuple[tuple[int, int], ...]
    equation: int
    output: int
    shape: tuple[int, ...]
    dtype: np.dtype
    made_by: str
    summed: bool

    @property
    def key(self) -> tuple:
        return self.path, self.equation, self.output

    def __str__(self) -> str:
        numbers = [f"{i}.{body}" for i, body in self.path]
        return f"{'/'.join([*numbers, str(self.equation)])} {self.made_by} {list(self.shape)}"


# --- places -----------------------------------------------------------------------------------


def places(function: Function, params: Any, x: Any) -> list[Place]:
    """All places of ``function(params, x)``, in the order of computation."""
    closed = jax.make_jaxpr(function)(params, x)
    constant = len(jax.tree.leaves(params))
    depends = [i >= constant for i in range(len(closed.jaxpr.invars))]
    found: list[Place] = []
    _visit(closed.jaxpr, depends, found, (), "")
    return found


def _visit(
    jaxpr: Any, depends: Sequence[bool], found: list[Place] | None, path: tuple, around: str,
    own_inputs: bool = True,
) -> list[bool]:  # fmt: skip
    """Which outputs of a jaxpr depend on the input; its places go to ``found``."""
    active = {var for var, on in zip(jaxpr.invars, depends, strict=True) if on}
    summed = _summed(jaxpr) if found is not None else set()

    def add(equation: int, variables: Sequence[Any], name: str) -> None:
        for output, var in enumerate(variables):
            if found is not None and var in active and _is_place(var):
                shape, dtype = tuple(var.aval.shape), np.dtype(var.aval.dtype)
                made_by = around + name
                found.append(Place(path, equation, output, shape, dtype, made_by, var in summed))

    if own_inputs:
        add(-1, jaxpr.invars, "input")
    for i, eqn in enumerate(jaxpr.eqns):
        given = [not isinstance(a, compat.Literal) and a in active for a in eqn.invars]
        if not any(given):
            continue
        within = f"{around}{eqn.primitive.name} > "
        results = _nested(eqn, given, found, path, i, within)
        active |= {var for var, on in zip(eqn.outvars, results, strict=True) if on}
        add(i, eqn.outvars, eqn.primitive.name)
    return [not isinstance(a, compat.Literal) and a in active for a in jaxpr.outvars]


def _nested(
    eqn: Any, given: list[bool], found: list[Place] | None, path: tuple, i: int, within: str
) -> list[bool]:
    """Which results of an equation depend on the input, and the places inside it."""
    primitive, params = eqn.primitive, eqn.params
    if primitive in compat.BODIES:
        inner, _ = compat.body(primitive, params)
        return _visit(inner, given, found, (*path, (i, 0)), within, own_inputs=False)
    if primitive is compat.cond_p:
        chosen, *operands = given
        ends = [
            _visit(compat.opened(b)[0], operands, found, (*path, (i, k)), within)
            for k, b in enumerate(params["branches"])
        ]
        return [chosen or any(parts) for parts in zip(*ends, strict=True)]
    if primitive in (compat.scan_p, compat.while_p):
        body, skipped, consts, count = _loop(eqn)
        given = given[skipped:]
        while True:
            results = _visit(body, given, None, (), "")
            after = [a or b for a, b in zip(given[consts:], results[:count], strict=False)]
            after = [*given[:consts], *after, *given[consts + count :]]
            if after == given:
                return _visit(body, given, found, (*path, (i, 0)), within)
            given = after
    return [True] * len(eqn.outvars)


def _loop(eqn: Any) -> tuple[Any, int, int, int]:
    """The body of a loop, operands that it does not get, its constants and its carries."""
    params = eqn.params
    if eqn.primitive is compat.scan_p:
        return compat.opened(params["jaxpr"])[0], 0, *compat.scan_parts(params)
    body, _ = compat.opened(params["body_jaxpr"])
    return body, params["cond_nconsts"], params["body_nconsts"], len(eqn.outvars)


def _is_place(var: Any) -> bool:
    aval = var.aval
    return (
        type(var).__name__ != "DropVar"
        and jnp.issubdtype(aval.dtype, jnp.floating)
        and 0 not in aval.shape
    )


_SUMS = (
    lax.reduce_sum_p, lax.reduce_window_sum_p, lax.cumsum_p, lax.scatter_add_p,
)  # fmt: skip
_BETWEEN = (
    lax.reshape_p, lax.transpose_p, lax.squeeze_p, lax.broadcast_in_dim_p, lax.slice_p, lax.pad_p,
    lax.concatenate_p, lax.rev_p, lax.mul_p, lax.div_p, lax.add_p, lax.sub_p, lax.neg_p,
    lax.gather_p, lax.convert_element_type_p, lax.select_n_p, lax.copy_p, primitives.name_p,
    *compat.existing("split", "tile", "stack", "unstack", "optimization_barrier"),
)  # fmt: skip


def _summed(jaxpr: Any) -> set:
    """What is summed in the same jaxpr, at once or behind moves and scales."""
    found: set = set()
    for eqn in reversed(jaxpr.eqns):
        read = [a for a in eqn.invars if not isinstance(a, compat.Literal)]
        if eqn.primitive in _SUMS:
            found.update(read)
        elif eqn.primitive in _BETWEEN and not found.isdisjoint(eqn.outvars):
            found.update(read)
    return found


# --- mutants ----------------------------------------------------------------------------------


def mutated(function: Function, changes: Mapping[Place, Function]) -> Function:
    """``function`` with ``change(array, params)`` applied to the values at some places.

    The mutant takes a tuple of the parameters and of whatever the changes take for theirs, and the
    input: ``mutant((params, own), x)``.
    """

    def mutant(params: Any, x: Any) -> Any:
        theirs, own = params
        closed, out_shape = jax.make_jaxpr(function, return_shape=True)(theirs, x)
        keyed = {
            place.key: functools.partial(lambda change, y: change(y, own), change)
            for place, change in changes.items()
        }
        leaves = jax.tree.leaves((theirs, x))
        outputs = evaluated(closed.jaxpr, closed.consts, leaves, keyed)
        return jax.tree.unflatten(jax.tree.structure(out_shape), outputs)

    return mutant


def evaluated(
    jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any], changes: Changes
) -> list[Any]:
    """`jax.core.eval_jaxpr` with changes."""
    env: dict[Any, Any] = {}

    def write(equation: int, variables: Sequence[Any], values: Sequence[Any]) -> None:
        for output, (var, value) in enumerate(zip(variables, values, strict=True)):
            change = changes.get(((), equation, output))
            env[var] = value if change is None else change(value)

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, compat.Literal) else env[atom]

    env.update(zip(jaxpr.constvars, consts, strict=True))
    write(-1, jaxpr.invars, arguments)
    for i, eqn in enumerate(jaxpr.eqns):
        operands = [read(atom) for atom in eqn.invars]
        inside = dict(_inside(changes, i))
        stack = source_info_util.current_name_stack() + eqn.source_info.name_stack
        with source_info_util.user_context(eqn.source_info.traceback, name_stack=stack):
            made = _rebuilt(eqn, operands, inside) if inside else _as_it_was(eqn, operands)
        write(i, eqn.outvars, made)
    return [read(atom) for atom in jaxpr.outvars]


def _inside(changes: Changes, equation: int) -> Iterator[tuple[int, dict]]:
    """The changes inside an equation, by body."""
    bodies: dict[int, dict] = {}
    for (path, at, output), change in changes.items():
        if path and path[0][0] == equation:
            bodies.setdefault(path[0][1], {})[path[1:], at, output] = change
    yield from bodies.items()


def _as_it_was(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    return compat.bind(eqn.primitive, eqn.params, *operands)


def _rebuilt(eqn: Any, operands: list[Any], inside: Mapping[int, Changes]) -> list[Any]:
    """A call, loop or branch with changed bodies."""
    primitive, params = eqn.primitive, eqn.params

    def runner(jaxpr: Any, body: int = 0) -> Callable[..., list[Any]]:
        opened, consts = compat.opened(jaxpr)
        return lambda *args: evaluated(opened, consts, args, inside.get(body, {}))

    if primitive in compat.BODIES:
        return _called_again(primitive, params, runner, operands)
    if primitive is compat.cond_p:
        branches = [runner(b, k) for k, b in enumerate(params["branches"])]
        return list(lax.switch(operands[0], branches, *operands[1:]))
    _, skipped, consts, count = _loop(eqn)
    if primitive is compat.scan_p:
        step = runner(params["jaxpr"])
        fixed, start = operands[:consts], operands[consts : consts + count]

        def one(carry: list, rows: list) -> tuple[list, list]:
            out = step(*fixed, *carry, *rows)
            return out[:count], out[count:]

        carry, rows = lax.scan(
            one, start, operands[consts + count :], length=params["length"],
            reverse=params["reverse"], unroll=params["unroll"],
        )  # fmt: skip
        return [*carry, *rows]
    assert primitive is compat.while_p, primitive
    step, goes_on = runner(params["body_jaxpr"]), runner(params["cond_jaxpr"], 1)
    for_condition, fixed = operands[:skipped], operands[skipped : skipped + consts]
    return list(
        lax.while_loop(
            lambda carry: goes_on(*for_condition, *carry)[0],
            lambda carry: step(*fixed, *carry),
            operands[skipped + consts :],
        )
    )


def _called_again(
    primitive: Any, params: Any, runner: Callable, operands: Sequence[Any]
) -> list[Any]:
    run = runner(params[compat.BODIES[primitive]])
    if primitive is compat.jit_p:
        run.__name__ = run.__qualname__ = params["name"]
        return list(jax.jit(run)(*operands))
    if primitive is compat.remat_p:
        kept = {key: params[key] for key in ("policy", "prevent_cse")}
        return list(jax.checkpoint(run, **kept)(*operands))
    if primitive is primitives.custom_jvp_call_p:
        return list(with_own_jvp(run)(*operands))
    if primitive is primitives.custom_vjp_call_p:
        return list(with_own_vjp(run)(*operands))
    return run(*operands)


def with_own_jvp(f: Callable) -> Callable:
    """``f`` as a custom_jvp."""
    wrapped = jax.custom_jvp(f)
    wrapped.defjvp(lambda primals, tangents: jax.jvp(f, primals, tangents))
    return wrapped


def with_own_vjp(f: Callable) -> Callable:
    """``f`` as a custom_vjp."""
    wrapped = jax.custom_vjp(f)
    wrapped.defvjp(lambda *args: (f(*args), args), lambda args, t: jax.vjp(f, *args)[1](t))
    return wrapped
