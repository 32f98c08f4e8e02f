"""Groups of parameters: the kernel and bias of a layer, and which layer comes after which."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ..program.trace import trace

#: Where an nnx.Variable keeps its array, which is no part of the parameter's own path.
_IN_VARIABLE = (jax.tree_util.GetAttrKey("value"), jax.tree_util.GetAttrKey("raw_value"))


def parameter_groups(model_fn: Callable[[Any, Any], Any], params: Any, x: Any) -> tuple[str, ...]:
    """The groups of parameters that are redrawn together unless told otherwise, top first.

    A group are the floating-point arrays with one parent in the tree: a kernel and its bias. (An
    array at the root, or beside a subtree, is a group of its own.) The collection of Flax variables
    does not count, so that a BatchNorm's scale and mean share a group. The order is the reverse of
    that in which the traced model first uses the groups on something that depends on ``x``; what it
    does not use is left out. A module that is called twice stands where it is called first; groups
    that one loop uses stand in the reverse order of the tree.

    Args:
      model_fn, params, x: as in `excitation_jax.layers`; arrays or `jax.ShapeDtypeStruct`s.

    Example:
      >>> import jax.numpy as jnp
      >>> from excitation_jax.explain.parameter_groups import parameter_groups
      >>> def model(w, x):
      ...     return (x @ w["hidden"]["kernel"] + w["hidden"]["bias"]) @ w["out"]
      >>> w = {"out": jnp.ones((4, 2)), "hidden": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}}
      >>> parameter_groups(model, w, jnp.ones((1, 3)))
      ('out', 'hidden')
    """
    leaves = _leaves(params)
    # Above these lie subtrees, not only arrays.
    branching = {leaf.place[:i] for leaf in leaves for i in range(len(leaf.place) - 1)} | {()}
    uses = _first_uses(model_fn, params, x)
    used = [leaf for leaf in leaves if leaf.floating and leaf.index in uses]
    used.sort(key=lambda leaf: uses[leaf.index])
    names = [leaf.place if leaf.place[:-1] in branching else leaf.place[:-1] for leaf in used]
    return tuple(reversed(dict.fromkeys(map("/".join, names))))


@dataclass(frozen=True)
class Leaf:
    """A parameter: its path, and the parts of that without the collection of Flax variables."""

    index: int
    path: str
    place: tuple[str, ...]
    floating: bool

    def below(self, group: str) -> bool:
        """Whether it lies below the path ``group``, or below one that the pattern stands for."""
        place = "/".join(self.place) + "/"
        return place.startswith(f"{group}/") or fnmatch.fnmatchcase(place, f"{group}/*")


def _leaves(params: Any) -> list[Leaf]:
    collections = isinstance(params, Mapping) and "params" in params
    found: list[Leaf] = []
    for keys, array in jax.tree_util.tree_leaves_with_path(params):
        if keys and keys[-1] in _IN_VARIABLE:
            keys = keys[:-1]
        parts = tuple(jax.tree_util.keystr((key,), simple=True) for key in keys) or ("params",)
        place = parts[1:] if collections and len(parts) > 1 else parts
        floating = bool(jnp.issubdtype(jnp.result_type(array), jnp.floating))
        found.append(Leaf(len(found), "/".join(parts), place, floating))
    return found


def _first_uses(model_fn: Callable[[Any, Any], Any], params: Any, x: Any) -> dict[int, int]:
    """By leaf of ``params``: the first operation that applies it to something that depends on x."""
    program, _, _ = trace(model_fn, params, x)
    count = len(jax.tree.leaves(params))
    made_of = {value: {leaf} for leaf, value in enumerate(program.inputs[:count])}
    signals = set(program.inputs[count:])
    first: dict[int, int] = {}
    for op in program.ops:
        leaves = set().union(*(made_of.get(value, ()) for value in op.inputs))
        if signals.isdisjoint(op.inputs):
            made_of.update(dict.fromkeys(op.outputs, leaves))
        else:
            signals.update(op.outputs)
            for leaf in leaves:
                first.setdefault(leaf, op.index)
    return first


def members_of(params: Any, groups: Sequence[str]) -> dict[str, list[Leaf]]:
    """The floating-point parameters of each group; one that fits several is the first one's.

    Raises:
      ValueError: a group has none.
    """
    members: dict[str, list[Leaf]] = {group: [] for group in groups}
    leaves = [leaf for leaf in _leaves(params) if leaf.floating]
    for leaf in leaves:
        group = next((group for group in groups if leaf.below(group)), None)
        if group is not None:
            members[group].append(leaf)
    for group in (group for group, found in members.items() if not found):
        if any(leaf.below(group) for leaf in leaves):
            raise ValueError(f"all parameters of the group {group!r} belong to groups before it")
        known = dict.fromkeys("/".join(leaf.place[:-1] or leaf.place) for leaf in leaves)
        near = difflib.get_close_matches(group, known, n=5, cutoff=0.4) or list(known)[:5]
        raise ValueError(
            f"the group {group!r} has no floating-point parameter; there are {', '.join(near)}"
        )
    return members
