"""A model, traced and planned: all that does not depend on values, and running it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ..engine.carriers import carrier_dtype
from ..engine.excite import top_down_pass
from ..engine.plan import Plan, analyse
from ..program import compat
from ..program.axes import Geometry
from ..program.modules import name_owners
from ..program.trace import Program, Value, trace
from ..rules.ruleset import RuleSet
from .layer_table import Layer, LayerTable, choose, find_layers, input_layers, target_axis
from .targets import prior_leaves, signal

#: Where a pass starts: of an output and P(A0) there, both of the output's shape.
Start = Callable[[jax.Array, jax.Array], jax.Array]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A traced and planned model function.

    Attributes:
      captured: the arrays that the function closed over.
      out_shape: its outputs, as `jax.ShapeDtypeStruct`s.
      explained: the values of the explained input.
      chosen: the layers that are read; none for the explained input itself.
      tapped: their values, or the explained input's.
    """

    program: Program
    plan: Plan
    captured: list[Any]
    out_shape: Any
    explained: list[Value]
    chosen: list[Layer]
    tapped: list[Value]

    @functools.cached_property
    def read(self) -> list[Layer]:
        """The layers that are read, one for each tapped value."""
        return self.chosen or input_layers(self.plan, self.geometry, self.explained)

    @property
    def layers(self) -> LayerTable:
        """All layers of the model."""
        return find_layers(self.plan, self.geometry)

    @property
    def geometry(self) -> Geometry:
        """The axes of all values."""
        return Geometry(self.program, self.plan.facts, self.explained)

    @property
    def image_size(self) -> tuple[int, ...]:
        """Lengths of the input's spatial axes."""
        image = self.explained[0]
        return tuple(image.shape[axis] for axis in self.geometry.spatial(image))

    @functools.cached_property
    def compiled(self) -> Callable[..., Any]:
        """`run` under jit; ``function``, ``start`` and ``keep`` are static."""
        return jax.jit(self.run, static_argnums=(3, 4, 5))

    def run(
        self, captured: Sequence[Any], leaves: Sequence[Any], target: Any,
        function: Callable | None, start: Start | None = None, keep: bool = False,
    ) -> tuple[Any, list[jax.Array], list[jax.Array], jax.Array]:  # fmt: skip
        """One forward and one top-down pass.

        Args:
          captured, leaves: the values of the program's captured arrays and inputs.
          target: an array, or None where ``function`` is a callable target.
          start: what the pass starts from, of an output and P(A0) there; P(A0) by default.
          keep: also return the tapped values themselves.

        Returns:
          The outputs, the probabilities at the tapped values, the values if kept, and whether all
          are numbers.
        """
        kept = self.tapped if keep else []
        # "auto" may be a layer that is also read by its name.
        read = list(dict.fromkeys(self.tapped))
        flat, pull, values = top_down_pass(self.plan, captured, leaves, read, kept)
        outputs = jax.tree.unflatten(jax.tree.structure(self.out_shape), flat)
        prior, several = signal(outputs, target if function is None else function)
        starts = self.complete(prior, several)

        def top_down(starts: list[jax.Array]) -> list[jax.Array]:
            if start is not None:
                starts = [
                    start(output.astype(prior.dtype), prior) if value.floating else prior
                    for output, prior, value in zip(flat, starts, self.program.outputs, strict=True)
                ]
            return pull(starts)[0]

        if several:
            axis = self.target_axis
            by_value = {layer.value: target_axis(layer) for layer in self.chosen}
            placed = [by_value.get(value, axis) for value in read]
            top_down = jax.vmap(top_down, in_axes=axis, out_axes=placed)
        shares = dict(zip(read, top_down(starts), strict=True))
        found = [shares[value] for value in self.tapped]
        numbers = [jnp.isfinite(array).all() for array in found]
        numbers += [
            ~jnp.isnan(array).any()
            for array, value in zip(flat, self.program.outputs, strict=True)
            if value.floating
        ]
        return outputs, found, values, jnp.stack(numbers).all()

    @property
    def target_axis(self) -> int:
        """Where the axis of K targets stands: after the batch axis, if there is one."""
        return 1 if any(len(value.shape) > 1 for value in self.program.outputs) else 0

    def complete(self, prior: Any, several: bool) -> list[jax.Array]:
        """P(A0) for every output, in its carrier's dtype; zeros where the target gives none."""
        parts = prior_leaves(jax.tree.structure(self.out_shape), prior)
        axis = self.target_axis
        count = max(part.shape[axis] for part in parts if part is not None) if several else None
        complete = []
        for part, value in zip(parts, self.program.outputs, strict=True):
            if part is None:
                shape = list(value.shape)
                shape[axis:axis] = [] if count is None else [count]
                part = jnp.zeros(shape)
            complete.append(part.astype(carrier_dtype(value)))
        return complete


def prepare(
    model_fn: Callable[..., Any], args: tuple[Any, ...], names: tuple[str, ...],
    contrastive: bool, rules: RuleSet, require_rules: bool = True,
) -> Prepared:  # fmt: skip
    """Traces and plans ``model_fn(*args)``, whose last argument is explained.

    Args:
      names: the layers to read; () for the explained argument itself.
      require_rules: raise where an operation above the layers has no rule.

    For arguments that are no tracers the result is cached by function and shapes.
    """
    leaves, tree = jax.tree.flatten(args)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return _prepare(model_fn, tree, tuple(leaves), names, contrastive, rules, require_rules)
    shapes = tuple(map(_abstract, leaves))
    try:
        hash(model_fn)
    except TypeError:  # a callable object that holds arrays, say: it cannot be a cache's key
        return _prepare(model_fn, tree, shapes, names, contrastive, rules, require_rules)
    try:
        return _cached(
            model_fn, tree, shapes, names, contrastive, rules, require_rules,
            compat.trace_settings(),
        )  # fmt: skip
    except _ClosesOverTracers as closure:
        return closure.prepared


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    aval = leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf)
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type)


def _prepare(
    model_fn: Callable[..., Any], tree: Any, leaves: tuple[Any, ...], names: tuple[str, ...],
    contrastive: bool, rules: RuleSet, require_rules: bool,
) -> Prepared:  # fmt: skip
    def flat(*leaves: Any) -> Any:
        return model_fn(*jax.tree.unflatten(tree, leaves))

    try:
        program, closed, out_shape = trace(flat, *leaves, closed_calls=rules.call_names)
    except Exception as error:
        error.add_note("raised while excitation_jax traced the model function")
        raise
    arguments = jax.tree.unflatten(tree, program.inputs)
    explained = jax.tree.leaves(arguments[-1])
    name_owners(program, arguments)
    plan = analyse(program, explained, rules, contrastive=contrastive)
    chosen = []
    if names:
        table = find_layers(plan, Geometry(program, plan.facts, explained))
        chosen = [choose(table, name) for name in names]
    tapped = [picked.value for picked in chosen] or explained
    if require_rules:
        plan.require_rules(tapped)
    return Prepared(program, plan, list(closed.consts), out_shape, explained, chosen, tapped)


@functools.lru_cache(maxsize=64)
def _cached(
    model_fn: Callable[..., Any], tree: Any, shapes: tuple[Any, ...], names: tuple[str, ...],
    contrastive: bool, rules: RuleSet, require_rules: bool, settings: tuple[Any, ...],
) -> Prepared:  # fmt: skip
    """`_prepare`, for the last models; keeps the arrays that they closed over, too."""
    prepared = _prepare(model_fn, tree, shapes, names, contrastive, rules, require_rules)
    if any(isinstance(array, jax.core.Tracer) for array in prepared.captured):
        raise _ClosesOverTracers(prepared)  # what raises is not kept
    return prepared


class _ClosesOverTracers(Exception):
    """The function closed over values of a trace that will end."""

    def __init__(self, prepared: Prepared):
        self.prepared = prepared
