"""Names for modules that leave no scope in a trace: from the parameters that they consume.

Flax Linen and Haiku put a scope round each module's operations. A function of a dictionary of
parameters, an Equinox module or the split state of an NNX module does not; but an operation that
reads ``params["block1"]["conv"]["kernel"]`` belongs to block1/conv.
"""

from __future__ import annotations

from typing import Any

import jax

from .trace import Program

#: Collections of Linen's variables; no modules.
_COLLECTIONS = ("params", "batch_stats")


def module_of(path: tuple[Any, ...]) -> str | None:
    """The module that a parameter at this key path belongs to; None where the path has no name.

    >>> import jax
    >>> ((path, _),) = jax.tree_util.tree_leaves_with_path({"block": {"conv": {"kernel": 1.0}}})
    >>> module_of(path)
    'block/conv'
    """
    parts = [jax.tree_util.keystr((key,), simple=True) for key in path]
    names = [isinstance(key, jax.tree_util.DictKey | jax.tree_util.GetAttrKey) for key in path]
    while parts and names[-1] and parts[-1] in ("value", "raw_value"):  # an nnx.Param's array
        parts, names = parts[:-1], names[:-1]
    if parts and parts[0] in _COLLECTIONS:
        parts, names = parts[1:], names[1:]
    if not any(names):
        return None
    return "/".join(parts[:-1] if any(names[:-1]) else parts)


def name_owners(program: Program, arguments: tuple[Any, ...]) -> None:
    """Names the modules of a program's inputs, given as the pytrees of its arguments."""
    for path, value in jax.tree_util.tree_leaves_with_path(arguments):
        if (owner := module_of(path[1:])) is not None:
            program.owners[value] = owner
