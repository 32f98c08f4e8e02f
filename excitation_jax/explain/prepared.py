"""A model, traced and planned: all that does not depend on values, and running it."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from ..engine.carriers import carrier_dtype
from ..engine.excite import top_down_pass
from ..engine.plan import Plan
from ..engine.planning import analyse
from ..program import compat
from ..program.axes import Geometry
from ..program.fingerprint import fingerprint
from ..program.hints import NONE, Hints
from ..program.modules import name_owners
from ..program.trace import Program, Value, flatten, refuse_explicit
from ..program.walk import programs
from ..rules.ruleset import RuleSet
from .layer import Layer, LayerTable
from .layer_table import choose, find_layers, input_layers, target_axis
from .targets import TracedTarget, prior_leaves, signal

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
      kept: what equal programs share.
    """

    program: Program
    plan: Plan
    captured: list[Any]
    out_shape: Any
    explained: list[Value]
    chosen: list[Layer]
    tapped: list[Value]
    kept: Prepared | None = None

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

    @property
    def compiled(self) -> Callable[..., Any]:
        """`run` under jit; ``function``, ``start`` and ``keep`` are static."""
        return (self.kept or self)._compiled

    @functools.cached_property
    def _compiled(self) -> Callable[..., Any]:
        return jax.jit(self.run, static_argnums=(3, 4, 5))

    def run(
        self, captured: Sequence[Any], leaves: Sequence[Any], target: Any,
        function: TracedTarget | None, start: Start | None = None, keep: bool = False,
    ) -> tuple[Any, list[jax.Array], list[jax.Array], jax.Array, jax.Array]:  # fmt: skip
        """One forward and one top-down pass.

        Args:
          captured, leaves: the values of the program's captured arrays and inputs.
          target: an array; where ``function`` is a traced target, the arrays that it closes over.
          start: what the pass starts from, of an output and P(A0) there; P(A0) by default.
          keep: also return the tapped values themselves.

        Returns:
          The outputs, the probabilities at the tapped values, the values if kept, whether all are
          numbers, and the share of P(A0) that reached each tapped value.
        """
        kept = self.tapped if keep else []
        # "auto" may be a layer that is also read by its name.
        read = list(dict.fromkeys(self.tapped))
        flat, pull, values = top_down_pass(self.plan, captured, leaves, read, kept)
        outputs = jax.tree.unflatten(jax.tree.structure(self.out_shape), flat)
        given = target if function is None else functools.partial(function, target)
        prior, several = signal(outputs, given)
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
            ~(jnp.isnan(array) & _starts(prior, several, self.target_axis)).any()
            for array, prior, value in zip(flat, starts, self.program.outputs, strict=True)
            if value.floating
        ]
        total = jnp.stack([given.sum() for given in starts]).sum()
        reached = jnp.stack([array.sum() / total for array in found])
        return outputs, found, values, jnp.stack(numbers).all(), reached

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
            # Inside shard_map it differs from device to device, as the output does.
            part = compat.mark_varying(part.astype(carrier_dtype(value)), value.varying)
            complete.append(part)
        return complete


def _starts(prior: jax.Array, several: bool, axis: int) -> jax.Array:
    """Where P(A0) is, for any of several targets."""
    return (prior != 0).any(axis) if several else prior != 0


def prepare(
    model_fn: Callable[..., Any], args: tuple[Any, ...], names: tuple[str, ...],
    contrastive: bool, rules: RuleSet, require_rules: bool = True, sources: bool = False,
    hints: Hints = NONE,
) -> Prepared:  # fmt: skip
    """Traces and plans ``model_fn(*args)``, whose last argument is explained.

    The function is traced at each call: what it closes over is read anew. For arguments that are no
    tracers, equal programs share one plan and what was compiled for it.

    Args:
      names: the layers to read; () for the explained argument itself.
      require_rules: raise where an operation above the layers has no rule.
      sources: programs made by different lines of code are not equal.
      hints: what the user says of the input's range, and of gates.
    """
    leaves, tree = jax.tree.flatten(args)
    inside = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
    given = leaves if inside else list(map(_abstract, leaves))
    refuse_explicit([jax.typeof(leaf) for leaf in leaves if isinstance(leaf, jax.Array)])

    def flat(*leaves: Any) -> Any:
        return model_fn(*jax.tree.unflatten(tree, leaves))

    try:
        closed, out_shape = jax.make_jaxpr(flat, return_shape=True)(*given)
    except Exception as error:
        error.add_note("raised while excitation_jax traced the model function")
        raise
    options = tree, out_shape, names, contrastive, rules, require_rules, hints
    if inside or any(isinstance(array, jax.core.Tracer) for array in closed.consts):
        return _prepare(closed, *options)
    outputs = jax.tree.structure(out_shape)
    key = (
        fingerprint(closed, sources), tree, outputs, names, contrastive, rules, require_rules,
        hints, compat.trace_settings(),
    )  # fmt: skip
    with _LOCK:
        found = _PREPARED.get(key)
        if found is not None:
            _PREPARED.move_to_end(key)
    if found is None:
        # Kept without the arrays that the function closes over.
        found = replace(_prepare(closed, *options), captured=[])
        for program in programs(found.program):
            program.numbers.clear()
        with _LOCK:
            _PREPARED[key] = found
            if len(_PREPARED) > MOST_PREPARED:
                _PREPARED.popitem(last=False)
    return replace(found, captured=list(closed.consts), kept=found)


#: The last programs, by what makes them equal.
_PREPARED: OrderedDict[Any, Prepared] = OrderedDict()
_LOCK = threading.Lock()
MOST_PREPARED = 64


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    aval = leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf)
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type)


def _prepare(
    closed: Any, tree: Any, out_shape: Any, names: tuple[str, ...], contrastive: bool,
    rules: RuleSet, require_rules: bool, hints: Hints,
) -> Prepared:  # fmt: skip
    program = flatten(closed, rules.call_names)
    arguments = jax.tree.unflatten(tree, program.inputs)
    explained = jax.tree.leaves(arguments[-1])
    name_owners(program, arguments)
    plan = analyse(program, explained, rules, contrastive=contrastive, hints=hints)
    chosen = []
    if names:
        table = find_layers(plan, Geometry(program, plan.facts, explained))
        chosen = [choose(table, name) for name in names]
    tapped = [picked.value for picked in chosen] or explained
    if require_rules:
        plan.require_rules(tapped)
    return Prepared(program, plan, list(closed.consts), out_shape, explained, chosen, tapped)
