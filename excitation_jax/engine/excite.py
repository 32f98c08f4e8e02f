"""The transform: a function that computes what ``fn`` does, whose VJP is excitation.

Next to every value that carries signal, the evaluation keeps a *carrier*: an array of zeros of
the value's shape, in float32 (float64 in a float64 model) whatever the model's precision. The
model's own values are computed by its own operations. Only the carriers are differentiated, and
a carrier's cotangent is the probability at its value. So the outputs are exact, probabilities
never pass through bfloat16, and JAX's jit, vmap, remat and sharding apply as usual.

How a cotangent moves from an operation's output to its operands is one `jax.custom_vjp`,
`_carry`, whose backward is the operation's rule. Rules that only pass probability on, or move it,
need none: JAX's own transposition does it.

This file has the idea, for operations in a row. What holds others is in nests.py; which rule
meets which operation was decided before, in plan.py.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from ..program import compat
from ..program.hints import Bounds, hints
from ..program.modules import name_owners
from ..program.trace import Op, Value, read_value, trace
from ..rules.arithmetic import times
from ..rules.rule import Flow, Step, Structure, Through
from ..rules.ruleset import EXCITATION, RuleSet
from .carriers import (
    Arrays,
    Carried,
    Evaluation,
    add_taps,
    bind,
    call_of,
    carrier,
    carrier_dtype,
    discounted,
    knowledge,
    metered,
    mixing_precisions,
    moved,
    passed,
    tap,
)
from .direction import Read
from .lanes import Below, joined, made_for
from .merging import carry_region, carry_reverse, note_beside
from .nests import checkpointed, evaluate_nest
from .plan import Plan, check_floating
from .planning import analyse


def excite(
    fn: Callable[..., Any],
    *,
    argnums: int | Sequence[int] = 0,
    rules: RuleSet = EXCITATION,
    contrastive: bool = False,
    x_bounds: Bounds | None = None,
    gates: str | Sequence[str] = (),
) -> Callable[..., Any]:
    """Makes ``jax.vjp`` of a function emit marginal winning probabilities.

    Args:
      fn: any JAX function.
      argnums: the argument(s) that are explained. The others get zeros from the VJP.
      rules: what happens at each operation.
      contrastive: the first affine operation below the output sends its excitation minus that
        of its negated weights (c-MWP, Eq. 7-9). The result is signed.
      x_bounds, gates: see `excitation_jax.excitation_vjp`.

    Returns:
      A function of the same signature and outputs. Its VJP takes P(A0), a distribution over the
      outputs, and returns the MWP (Eq. 1) of each explained argument, in its shape and dtype.

    Raises:
      UnsupportedPrimitiveError: when called, before any compute, if an operation between the
        outputs and the explained arguments has no rule.
      TypeError: an explained argument is not floating-point, or arrays that ``fn`` closes over are
        differentiated.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import excitation_jax as ej
      >>> weights = jnp.array([[1.0, -2.0, 3.0]])
      >>> def f(x):
      ...     return jax.nn.relu(weights @ x)
      >>> x = jnp.array([2.0, 1.0, 2.0])
      >>> out, vjp = jax.vjp(ej.excite(f), x)
      >>> vjp(jnp.ones_like(out))[0].tolist()   # 1 * 2 : 0 : 3 * 2
      [0.25, 0.0, 0.75]
    """
    said = hints(x_bounds, gates)
    explained = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    @functools.wraps(fn)
    def excited(*args: Any, **kwargs: Any) -> Any:
        for i in explained:
            if not -len(args) <= i < len(args):
                raise ValueError(f"argnums={argnums}, but the call has {len(args)} arguments")
        positions = {i % len(args) for i in explained}
        leaves, tree = jax.tree.flatten(args)
        owners = [i for i, arg in enumerate(args) for _ in jax.tree.leaves(arg)]
        for leaf, owner in zip(leaves, owners, strict=True):
            if owner in positions:
                check_floating(leaf, f"argument {owner}")
                said.check(leaf)

        def flat(*leaves: Any) -> Any:
            return fn(*jax.tree.unflatten(tree, leaves), **kwargs)

        program, closed, out_shape = trace(flat, *leaves, closed_calls=rules.call_names)
        name_owners(program, jax.tree.unflatten(tree, program.inputs))
        inputs = [v for v, owner in zip(program.inputs, owners, strict=True) if owner in positions]
        plan = analyse(program, inputs, rules, contrastive=contrastive, hints=said)
        plan.require_rules(inputs)
        outputs = _excited_call(plan, closed.jaxpr, inputs)(closed.consts, leaves)
        return jax.tree.unflatten(jax.tree.structure(out_shape), outputs)

    return excited


def _excited_call(plan: Plan, jaxpr: Any, explained: Sequence[Value]) -> Callable[..., Any]:
    """The function of (captured, leaves), as arguments: custom_vjp must not close over them."""

    @jax.custom_vjp
    def call(captured: Sequence[Any], leaves: Sequence[Any]) -> list[Any]:
        return jax.core.eval_jaxpr(jaxpr, captured, *leaves)

    def forward(captured: Sequence[Any], leaves: Sequence[Any]) -> tuple[list[Any], Any]:
        if any(array.perturbed for array in captured):
            raise TypeError(
                "excite(fn) has no derivative with respect to arrays that fn closes over: make "
                "them arguments (those that argnums does not name get zeros), or take fn itself"
            )
        values = [array.value for array in captured], [array.value for array in leaves]
        outputs, pull, _ = top_down_pass(plan, *values, explained)
        return outputs, pull

    def backward(pull: Any, p: Sequence[Any]) -> tuple[None, list[Any]]:
        def start(q: Any, value: Value) -> jax.Array:
            nothing = isinstance(q, SymbolicZero) or not value.floating
            return carrier(value) if nothing else q.astype(carrier_dtype(value))

        starts = list(map(start, p, plan.program.outputs))
        shares = dict(zip(explained, pull(starts)[0], strict=True))
        inputs = plan.program.inputs
        return None, [shares[v].astype(v.dtype) if v in shares else None for v in inputs]

    call.defvjp(mixing_precisions(forward), mixing_precisions(backward), symbolic_zeros=True)
    return call


def top_down_pass(
    plan: Plan,
    captured: Sequence[Any],
    leaves: Sequence[Any],
    read: Sequence[Value | Op],
    kept: Sequence[Value] = (),
) -> tuple[list[Any], Callable[[list[jax.Array]], tuple[list[jax.Array]]], list[Any]]:
    """The model's outputs, and the way down from them.

    Args:
      captured, leaves: the values of what the program closed over, and of its inputs.
      read: the values whose probability is wanted, each once, and operations of which is wanted
        what ends there (a scalar). Nothing below them is differentiated.
      kept: values, outside of loops and branches, that are themselves wanted.

    Returns:
      The outputs; a function that takes P(A0), one array per output in its carrier's dtype,
      and returns a tuple of one list: the probability at each of the values to read, with a
      leading axis for each loop that the value is inside of; and the kept values.
    """
    program = plan.program

    def carriers_of_outputs(taps: list[jax.Array]) -> tuple[list[jax.Array], tuple]:
        tapped = dict(zip(read, taps, strict=True))
        env = dict(zip((*program.captured, *program.inputs), (*captured, *leaves), strict=True))
        carried = {
            (lane, value): tapped[value]
            for value in program.inputs
            if value in tapped
            for lane in plan.lanes(value)
        }
        run = Evaluation(plan, tapped, Read({}), program, evaluate_program, frozenset(kept))
        evaluate_program(run, env, carried)
        starts = [(plan.lane(bool(plan.upper), v, 1), v) for v in program.outputs]
        ends = [carried[key] if key in carried else carrier(key[1]) for key in starts]
        outputs = [read_value(env, value) for value in program.outputs]
        return ends, (outputs, [read_value(env, value) for value in kept])

    _, pull, (outputs, values) = jax.vjp(carriers_of_outputs, [*map(tap, read)], has_aux=True)
    return outputs, pull, values


def evaluate_program(run: Evaluation, env: Arrays, carried: Carried) -> None:
    """Adds all values to ``env``, which has the inputs', and their carriers to ``carried``."""
    env.update(run.program.constants)
    facts, active = run.plan.facts, []
    # Constants first: then the scale behind a convolution is known when its rule is met.
    for op in run.program.ops:
        if not any(facts[value].active for value in op.inputs):
            bind(op, env)
            continue
        active.append(op)
        constant = [v for v in op.outputs if not facts[v].active and v in facts.consumers]
        if constant and op.nest:  # a count that a loop hands out, say, and that is read
            zeros = {v: carrier(v).astype(v.dtype) for v in op.inputs if facts[v].active}
            alone = {**env, **zeros}
            bind(op, alone)
            env.update({value: alone[value] for value in constant})
    run = run._replace(signs=Read(env))
    _evaluate_ops(run, active, 0, env, carried)


def _evaluate_ops(
    run: Evaluation, ops: Sequence[Op], depth: int, env: Arrays, carried: Carried
) -> None:
    """Evaluates operations in order, those of one remat call under one jax.checkpoint."""
    for remat, group in itertools.groupby(
        ops, key=lambda op: op.remats[depth] if len(op.remats) > depth else None
    ):
        if remat is not None:
            checkpointed(run, remat, list(group), depth, env, carried, _evaluate_ops)
            continue
        for op in group:
            _evaluate(run, op, env, carried)


def _evaluate(run: Evaluation, op: Op, env: Arrays, carried: Carried) -> None:
    """Evaluates an operation, and the carriers of its outputs where a source has one."""
    step = run.plan.steps.get(op)
    if op.nest is not None:
        evaluate_nest(run, op, env, carried)
    else:
        bind(op, env)
        note_beside(run, op, env)
    if step is None:
        return
    plan, region = run.plan, run.plan.regions.get(op)
    if op.nest is None and (region is not None or op not in plan.merged):
        for upper in sorted({u for value in op.outputs for u in plan.phases(value)}):
            if region is not None:
                carry_region(run, region, upper, env, carried)
            else:
                _carry_on(run, step, upper, env, carried)
        carry_reverse(run, op, env, carried)
    add_taps(run, op, env, carried)


def _carry_on(run: Evaluation, step: Step, upper: bool, env: Arrays, carried: Carried) -> None:
    """Makes the carriers of an operation's outputs in one phase, where a source has one."""
    op, plan = step.site.op, run.plan
    contrastive = upper and step.contrastive  # what passes it is in the lower phase from then on
    phase = upper and not contrastive
    sources = [(lane, v) for v in step.sources for lane in plan.lanes(v) if lane.upper is phase]
    if not any(key in carried for key in sources):
        return

    def make(below: Below, direction: int) -> list[jax.Array]:
        given = {k: array for k, array in enumerate(below) if array is not None}
        meter = run.taps.get(op)
        if isinstance(step.route, Through):
            return metered(meter, [passed(run, op, discounted(meter, given)[0], env)])
        if isinstance(step.route, Structure):
            return metered(meter, moved(step, env, discounted(meter, given)))
        return _flow(run, step, env, given, upper, direction)

    if len(step.directions) == 2 and step.rule.joins(step) and not contrastive:
        both = made_for(run, step, phase, 0, env, carried, make)
        made = {1: both[:1], -1: both[1:]}
    else:
        made = {d: made_for(run, step, phase, d, env, carried, make) for d in step.directions}
    for k, value in enumerate(op.outputs):
        for lane in plan.lanes(value):
            if lane.upper is upper:
                array = joined(run, value, lane, {d: arrays[k] for d, arrays in made.items()})
                carried[lane, value] = array.astype(carrier_dtype(value))


def _flow(
    run: Evaluation, step: Step, env: Arrays, below: Mapping[int, jax.Array], upper: bool,
    direction: int,
) -> list[jax.Array]:  # fmt: skip
    assert isinstance(step.route, Flow)
    sources = tuple(i for k, i in enumerate(step.route.sources) if k in below)
    carriers = list(below.values())
    known = knowledge(run, step, env)
    contrastive = upper and step.contrastive and step.site.op not in run.plan.headed
    how = sources, upper, contrastive, direction
    return _carry(step, how, carriers, run.taps.get(step.site.op), known)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _carry(
    step: Step,
    how: tuple[tuple[int, ...], bool, bool, int],
    carriers: list,
    meter: jax.Array | None,
    known: tuple,
) -> list[jax.Array]:
    """The carriers of an operation's outputs; its backward is the operation's rule.

    Args:
      how: positions of the operands whose carriers are given; `Call.upper` and `contrastive`; the
        direction of the probability, 0 for both, each with a carrier.
      meter: a zero, or None; its cotangent is the probability that ends at the operation.
      known: what the rule needs (see `carriers.knowledge`).
    """
    return [carrier(value) for value in step.site.op.outputs] * (1 if how[-1] else 2)


def _carry_forward(step: Step, how: Any, carriers: list, meter: Any, known: Any) -> tuple:
    return _carry(step, how, carriers, meter, known), (known, meter)


def _carry_backward(step: Step, how: Any, saved: tuple, p: list[jax.Array]) -> tuple:
    (known, meter), op, (sources, upper, contrastive, direction) = saved, step.site.op, how
    if (value := known.value) is not None:
        p = [jnp.where(jnp.isnan(value), times(part, jnp.nan), part) for part in p]
    call = call_of(step, p[0].dtype, known, contrastive, direction or 1, upper)
    if direction == 0:
        shares = step.rule.both(call, (p[0], p[1]))
    else:
        shares = step.rule.backward(call, p[0] if len(p) == 1 else tuple(p))
    found = step.checked(shares)
    sent = [
        carrier(op.inputs[i])
        if (share := found[i]) is None
        else compat.kept_apart(share.astype(carrier_dtype(op.inputs[i])))
        for i in sources
    ]
    if meter is not None:
        ends = [*(array.sum() for array in p), *(-array.sum() for array in sent)]
        meter = jnp.stack(ends).sum().astype(meter.dtype)
    return sent, meter, None


_carry.defvjp(_carry_forward, _carry_backward)
