"""What differs between JAX versions: the only file that knows.

Primitives are matched as objects, never by name, so that a rename in JAX cannot silently
disable a rule.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlib.version
from jax import lax
from jax.extend import core, source_info_util
from jax.extend.core import primitives
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

Primitive = core.Primitive
Literal = core.Literal

#: Calls, which are evaluated in place, and the parameter that holds the function.
BODIES: dict[Primitive, str] = {
    primitives.jit_p: "jaxpr",
    primitives.closed_call_p: "call_jaxpr",
    primitives.custom_jvp_call_p: "call_jaxpr",
    primitives.custom_vjp_call_p: "call_jaxpr",
    primitives.remat_p: "jaxpr",
}
_FUSES_WRONG = tuple(map(int, jaxlib.version.__version__.split(".")[:2])) < (0, 12)
remat_p = primitives.remat_p
jit_p = primitives.jit_p
name_p = primitives.name_p
sharding_constraint_p = lax.sharding_constraint_p
scan_p, while_p, cond_p = primitives.scan_p, primitives.while_p, primitives.cond_p


def _primitives_of_shard_map() -> tuple[Primitive, Primitive, Primitive]:
    """shard_map, psum and pvary as they are met inside it; JAX exports none of the three."""
    mesh = AbstractMesh((1,), ("axis",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("axis")

    def body(x: Any) -> Any:
        return lax.pcast(lax.psum(x, "axis"), "axis", to="varying")

    probe = jax.shard_map(body, mesh=mesh, in_specs=spec, out_specs=spec)
    (outer,) = jax.make_jaxpr(probe)(jax.ShapeDtypeStruct((1,), "float32")).jaxpr.eqns
    psum, pvary = outer.params["jaxpr"].eqns
    return outer.primitive, psum.primitive, pvary.primitive


def _primitive_of_reshard() -> Primitive:
    """What brings numbers onto the mesh of what comes out of a shard_map; not exported either."""
    mesh = AbstractMesh((1,), ("axis",), axis_types=(AxisType.Explicit,))
    sharding = NamedSharding(mesh, PartitionSpec("axis"))
    example = jax.ShapeDtypeStruct((1,), "float32")
    (eqn,) = jax.make_jaxpr(lambda x: jax.reshard(x, sharding))(example).jaxpr.eqns
    return eqn.primitive


shard_map_p, psum_invariant_p, pvary_p = _primitives_of_shard_map()
reshard_p = _primitive_of_reshard()


def existing(*names: str) -> tuple[Primitive, ...]:
    """The primitives of these names that the running JAX has (without the ``_p``)."""
    found = []
    for name in names:
        primitive = getattr(lax, f"{name}_p", None) or getattr(primitives, f"{name}_p", None)
        if primitive is not None:
            found.append(primitive)
    return tuple(found)


def body(primitive: Primitive, params: dict[str, Any]) -> tuple[Any, Sequence[Any]]:
    """The (jaxpr, constants) inside a call; remat's is open before jax 0.11."""
    return opened(params[BODIES[primitive]])


class LoopParts(NamedTuple):
    """How a scan's operands and results divide: consts, carries, xs; carries, ys."""

    consts: int
    carries: int


def scan_parts(params: dict[str, Any]) -> LoopParts:
    """Scan's numbers of constants and carries; since jax 0.11 they are in trees."""
    if "num_consts" in params:
        return LoopParts(params["num_consts"], params["num_carry"])
    consts, carries, _ = (len(part) for part in params["ft_in"].unpack())
    return LoopParts(consts, carries)


def opened(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    """The (jaxpr, constants) of a jaxpr that is closed or, from jax 0.11 on, may be either."""
    return getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())


def varying(aval: Any) -> frozenset:
    """The manual mesh axes along which a value inside shard_map differs."""
    kind = getattr(aval, "mat", None)
    return frozenset(getattr(aval, "vma", ()) if kind is None else kind.varying)


def explicitly_sharded(aval: Any) -> bool:
    """Whether a value's type says how it lies on the axes of an explicit mesh."""
    spec = getattr(getattr(aval, "sharding", None), "spec", ())
    return any(part is not None for part in spec)


def mark_varying(x: Any, axes: frozenset) -> Any:
    """``x`` as a value that may differ along these manual mesh axes."""
    missing = axes - varying(jax.typeof(x))
    return lax.pcast(x, tuple(sorted(missing)), to="varying") if missing else x


def bind(primitive: Primitive, params: dict[str, Any], *operands: Any) -> list[Any]:
    """Applies a primitive; the outputs always as a list."""
    out = primitive.bind(*operands, **primitive.get_bind_params(params))
    return list(out) if primitive.multiple_results else [out]


def kept_apart(x: jax.Array) -> jax.Array:
    """``x`` itself, in a form that XLA does not fuse with a sum before or after it.

    On CPUs, jaxlib from 0.10.2 on and before 0.12 gets ``(h * p).sum(-1)`` wrong where ``h`` is
    broadcast along leading axes (as the activations of several targets are), another elementwise
    operation follows, and the arrays are large: later targets get the maps of earlier ones
    (found in November 2026; issue 39257 of jax is about crashes of the same fusion). A comparison
    and a selection are nothing that it fuses, while XLA removes an `optimization_barrier` before.
    """
    return jnp.where(x != x, jnp.nan, x) if _FUSES_WRONG else x


def scatter(
    primitive: Primitive, params: dict[str, Any], x: Any, indices: Any, updates: Any
) -> jax.Array:
    """A scatter of values of any dtype: the primitive's parameters hold the dtype it had."""
    place = lax.scatter_add if primitive is lax.scatter_add_p else lax.scatter
    options = {name: params[name] for name in ("indices_are_sorted", "unique_indices", "mode")}
    return place(x, indices, updates, params["dimension_numbers"], **options)


def bind_any(primitive: Primitive, params: dict[str, Any], *operands: Any) -> list[Any]:
    """`bind`, for operands of another dtype than the program's."""
    if primitive in (lax.scatter_p, lax.scatter_add_p):
        return [scatter(primitive, params, *operands)]
    return bind(primitive, params, *operands)


def why_unknown(primitive: Primitive) -> str:
    """Why a primitive has no rule; the name decides on the words only."""
    if primitive.name == "call_hi_primitive":
        return (
            "one of JAX's opt-in hi-primitives, which hides the operations inside it: switch off "
            "jax_remat3, jax_scan3, jax_custom_vjp3 and jax_custom_jvp3"
        )
    return "no rule for this primitive"


def scopes(source_info: Any) -> tuple[str, ...]:
    """Names that ``jax.named_scope`` (and so Flax) put round an equation.

    Entries that transformations such as vmap add are dropped: they are not modules. So are
    einsum's and those that name a class, not a module ("eqx.nn.Conv2d"). Linen's "module.method"
    gets brackets, since a name may hold a dot ("features.0").
    """
    names = [
        entry.name
        for entry in source_info.name_stack.stack
        if type(entry).__name__ == "Scope"
        and "->" not in entry.name
        and not entry.name.startswith("eqx.")
    ]
    if any(map(_may_be_a_method, names)) and _made_by_linen(source_info):
        names = [f"{name}()" if _may_be_a_method(name) else name for name in names]
    return tuple(names)


def _may_be_a_method(name: str) -> bool:
    module, _, method = name.partition(".")
    return module.isidentifier() and method.isidentifier()


def _made_by_linen(source_info: Any) -> bool:
    frames = getattr(source_info.traceback, "frames", ())
    return any(frame.file_name.startswith(_LINEN) for frame in frames)


def source_line(source_infos: Sequence[Any]) -> str:
    """``file:line (function)`` of the user's code that made an equation.

    Args:
      source_infos: the equation's own, and those of the calls around it, innermost first. The
        first frame outside JAX, Flax and this package is taken.
    """
    for info in source_infos:
        for frame in getattr(info.traceback, "frames", ()):
            own = os.path.dirname(frame.file_name) in _ENGINE
            if not own and not frame.file_name.startswith((*_LIBRARIES, "<frozen")):
                return f"{frame.file_name}:{frame.line_num} ({frame.function_name})"
    return source_info_util.summarize(source_infos[0])


def trace_settings() -> tuple[Any, ...]:
    """The settings of JAX that change what a function is traced to."""
    config: Any = jax.config
    return config.jax_enable_x64, config.jax_default_matmul_precision


def _folder(module: str) -> str:
    found = importlib.util.find_spec(module)
    return "" if found is None or found.origin is None else str(Path(found.origin).parent) + os.sep


_LIBRARIES = tuple(filter(None, map(_folder, ("jax", "jaxlib", "flax"))))
_LINEN = (_folder("flax") or "no flax here") + f"linen{os.sep}"
_PACKAGE = Path(__file__).parents[1]
_ENGINE = frozenset(str(_PACKAGE / room) for room in ("program", "rules", "engine", "explain"))
