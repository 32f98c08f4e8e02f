"""What differs between JAX versions: the only file that knows.

Primitives are matched as objects, never by name, so that a rename in JAX cannot silently
disable a rule.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax import lax
from jax.extend import core, source_info_util
from jax.extend.core import primitives

Primitive = core.Primitive
Literal = core.Literal

#: Primitives whose body is evaluated in place, and the parameter that holds the body.
INLINED: dict[Primitive, str] = {
    primitives.jit_p: "jaxpr",
    primitives.closed_call_p: "call_jaxpr",
    primitives.custom_jvp_call_p: "call_jaxpr",
    primitives.custom_vjp_call_p: "call_jaxpr",
    primitives.remat_p: "jaxpr",
}
#: A jitted function with one of these inside is (part of) a model, not an activation.
LAYERS = (lax.conv_general_dilated_p, lax.dot_general_p)
remat_p = primitives.remat_p
jit_p = primitives.jit_p
name_p = primitives.name_p
sharding_constraint_p = lax.sharding_constraint_p


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
    inner = params[INLINED[primitive]]
    consts = getattr(inner, "consts", ())
    return getattr(inner, "jaxpr", inner), consts


def bind(primitive: Primitive, params: dict[str, Any], *operands: Any) -> list[Any]:
    """Applies a primitive; the outputs always as a list."""
    out = primitive.bind(*operands, **primitive.get_bind_params(params))
    return list(out) if primitive.multiple_results else [out]


def scopes(source_info: Any) -> tuple[str, ...]:
    """Names that ``jax.named_scope`` (and so Flax) put round an equation.

    Entries that transformations such as vmap add are dropped: they are not modules.
    """
    return tuple(
        entry.name
        for entry in source_info.name_stack.stack
        if type(entry).__name__ == "Scope" and "->" not in entry.name
    )


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
_ENGINE = (os.path.dirname(__file__), os.path.join(os.path.dirname(__file__), "rules"))
