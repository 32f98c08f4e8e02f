"""The transform: a function that computes what ``fn`` does, whose VJP is excitation.

Next to every value that carries signal, the evaluation keeps a *carrier*: an array of zeros of
the value's shape, in float32 (float64 in a float64 model) whatever the model's precision. The
model's own values are computed by its own operations. Only the carriers are differentiated, and
a carrier's cotangent is the probability at its value. So the outputs are exact, probabilities
never pass through bfloat16, and JAX's jit, vmap, remat and sharding apply as usual.

How a cotangent moves from an operation's output to its operands is one `jax.custom_vjp`,
`_carry`, whose backward is the operation's rule.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from . import _compat
from .analysis import Plan, analyse
from .program import Op, Value, trace
from .rules.rule import Call, Flow, Step, Structure, Through
from .rules.ruleset import EXCITATION, RuleSet

Arrays = dict[Value, jax.Array]


def excite(
    fn: Callable[..., Any],
    *,
    argnums: int | Sequence[int] = 0,
    rules: RuleSet = EXCITATION,
    contrastive: bool = False,
) -> Callable[..., Any]:
    """Makes ``jax.vjp`` of a function emit marginal winning probabilities.

    Args:
      fn: any JAX function.
      argnums: the argument(s) that are explained. The others get zeros from the VJP.
      rules: what happens at each operation.
      contrastive: the first affine operation below the output sends its excitation minus that
        of its negated weights (c-MWP, Eq. 7-9). The result is signed.

    Returns:
      A function of the same signature and outputs. Its VJP takes P(A0), a probability
      distribution over the outputs, and returns the MWP (Eq. 2) of each explained argument, in
      that argument's shape and dtype.

    Raises:
      UnsupportedPrimitiveError: when called, before any compute, if an operation between the
        outputs and the explained arguments has no rule.
      TypeError: an explained argument is not floating-point.

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

        def flat(*leaves: Any) -> Any:
            return fn(*jax.tree.unflatten(tree, leaves), **kwargs)

        program, closed, out_shape = trace(flat, *leaves)
        inputs = [v for v, owner in zip(program.inputs, owners, strict=True) if owner in positions]
        plan = analyse(program, inputs, rules, contrastive=contrastive)
        plan.require_rules(inputs)
        outputs = _excited_call(plan, closed.jaxpr, inputs)(closed.consts, leaves)
        return jax.tree.unflatten(jax.tree.structure(out_shape), outputs)

    return excited


def check_floating(x: Any, what: str) -> None:
    """Raises `TypeError` unless ``x`` has real floating-point elements."""
    dtype = jnp.result_type(x)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{what} is {dtype}, and probabilities flow only to floating-point values: convert "
            "it (and apply the model's pre-processing) first, e.g. x.astype(jnp.float32)"
        )


def _excited_call(plan: Plan, jaxpr: Any, explained: Sequence[Value]) -> Callable[..., Any]:
    """The function of (captured, leaves), as arguments: custom_vjp must not close over them."""
    program = plan.program

    @jax.custom_vjp
    def call(captured: Sequence[Any], leaves: Sequence[Any]) -> list[Any]:
        return jax.core.eval_jaxpr(jaxpr, captured, *leaves)

    def forward(captured: Sequence[Any], leaves: Sequence[Any]) -> tuple[list[Any], Any]:
        return top_down_pass(plan, captured, leaves, explained)

    def backward(pull: Any, p: Sequence[Any]) -> tuple[None, list[Any]]:
        starts = [
            q.astype(carrier_dtype(value)) if value.floating else carrier(value)
            for q, value in zip(p, program.outputs, strict=True)
        ]
        shares = dict(zip(explained, pull(starts)[0], strict=True))
        cast = [shares[v].astype(v.dtype) if v in shares else None for v in program.inputs]
        return None, cast

    call.defvjp(forward, backward)
    return call


def carrier_dtype(value: Value) -> Any:
    """The dtype in which the probabilities of a value are kept."""
    return jnp.promote_types(value.dtype, jnp.float32)


def carrier(value: Value) -> jax.Array:
    """The carrier of a value: zeros, differentiated in its place."""
    return jnp.zeros(value.shape, carrier_dtype(value))


def top_down_pass(
    plan: Plan, captured: Sequence[Any], leaves: Sequence[Any], read: Sequence[Value]
) -> tuple[list[Any], Callable[[list[jax.Array]], tuple[list[jax.Array]]]]:
    """The model's outputs, and the way down from them.

    Args:
      captured, leaves: the values of what the program closed over, and of its inputs.
      read: the values whose probability is wanted. Nothing below them is differentiated.

    Returns:
      The outputs, and a function that takes P(A0), one array per output in its carrier's dtype,
      and returns a tuple of one list: the probability at each of these values.
    """

    def carriers_of_outputs(taps: list[jax.Array]) -> tuple[list[jax.Array], list[Any]]:
        outputs, carried = evaluate(plan, captured, leaves, dict(zip(read, taps, strict=True)))
        return carried, outputs

    _, pull, outputs = jax.vjp(carriers_of_outputs, list(map(carrier, read)), has_aux=True)
    return outputs, pull


def evaluate(
    plan: Plan,
    captured: Sequence[Any],
    leaves: Sequence[Any],
    taps: Mapping[Value, jax.Array],
) -> tuple[list[Any], list[jax.Array]]:
    """Evaluates a planned program, and the carriers beside it.

    Args:
      captured, leaves: as in `top_down_pass`.
      taps: zeros to add to the carriers of these values. The cotangent of a tap is the
        probability at its value.

    Returns:
      The outputs, and their carriers.
    """
    program = plan.program
    env: Arrays = {**program.constants}
    env.update(zip(program.captured, captured, strict=True))
    env.update(zip(program.inputs, leaves, strict=True))
    carried = {value: taps[value] for value in program.inputs if value in taps}
    split: tuple[list[Op], list[Op]] = ([], [])
    for op in program.ops:
        split[any(plan.facts[value].active for value in op.inputs)].append(op)
    constant, active = split
    # Constants first: then the scale behind a convolution is known when its rule is met.
    for op in constant:
        _bind(op, env)
    _evaluate_regions(Evaluation(plan, taps, dict(env)), active, 0, env, carried)
    outputs = [_read(env, value) for value in program.outputs]
    return outputs, [
        carried[value] if value in carried else carrier(value) for value in program.outputs
    ]


class Evaluation(NamedTuple):
    """What stays the same during one evaluation; ``constants`` do not depend on the input."""

    plan: Plan
    taps: Mapping[Value, jax.Array]
    constants: Arrays


def _evaluate_regions(
    run: Evaluation, ops: Sequence[Op], depth: int, env: Arrays, carried: Arrays
) -> None:
    """Evaluates operations in order, those of one remat region under one jax.checkpoint."""
    for region, group in itertools.groupby(
        ops, key=lambda op: op.regions[depth] if len(op.regions) > depth else None
    ):
        if region is not None:
            _checkpointed(run, region, list(group), depth, env, carried)
            continue
        for op in group:
            _bind(op, env)
            _carry_on(run, op, env, carried)


def _checkpointed(
    run: Evaluation, region: int, ops: list[Op], depth: int, env: Arrays, carried: Arrays
) -> None:
    program, here = run.plan.program, {op.index for op in ops}
    made = {value: None for op in ops for value in op.outputs}
    read = {v: None for op in ops for v in _reads(run.plan, op) if v not in made}
    later = {v for op in program.ops if op.index not in here for v in _reads(run.plan, op)}
    needed = [value for value in made if value in later or value in program.outputs]
    outside = {value: env[value] for value in read}
    known = {value: carried[value] for value in read if value in carried}
    taps = {value: tap for value, tap in run.taps.items() if value in made}
    with_carrier: list[Value] = []

    def body(outside: list, known: list, taps: list) -> tuple[list, list]:
        inner_env = dict(zip(keys[0], outside, strict=True))
        inner_carried = dict(zip(keys[1], known, strict=True))
        inner = run._replace(taps=dict(zip(keys[2], taps, strict=True)))
        _evaluate_regions(inner, ops, depth + 1, inner_env, inner_carried)
        with_carrier[:] = [value for value in needed if value in inner_carried]
        return [inner_env[v] for v in needed], [inner_carried[v] for v in with_carrier]

    keys = [list(part) for part in (outside, known, taps)]
    values, carriers = jax.checkpoint(body, **program.remat_params[region])(
        *(list(part.values()) for part in (outside, known, taps))
    )
    env.update(zip(needed, values, strict=True))
    carried.update(zip(with_carrier, carriers, strict=True))


def _reads(plan: Plan, op: Op) -> list[Value]:
    """What an operation and its rule read."""
    step = plan.steps.get(op.index)
    sources = () if step is None else plan.sources(step)
    return [value for value in (*op.inputs, *sources) if value.literal is None]


def _read(env: Mapping[Value, Any], value: Value) -> Any:
    return env[value] if value.literal is None else value.literal


def _bind(op: Op, env: Arrays) -> None:
    outputs = _compat.bind(op.primitive, op.params, *(_read(env, v) for v in op.inputs))
    env.update(zip(op.outputs, outputs, strict=True))


def _carry_on(run: Evaluation, op: Op, env: Arrays, carried: Arrays) -> None:
    """Makes the carriers of an operation's outputs, where any of its sources has one."""
    step = run.plan.steps.get(op.index)
    if step is None:
        return
    if any(source in carried for source in run.plan.sources(step)):
        if isinstance(step.plan, Through):
            made = [jnp.broadcast_to(carried[step.plan.source], op.outputs[0].shape)]
        elif isinstance(step.plan, Structure):
            made = _move(op, env, carried)
        else:
            made = _flow(run, step, env, carried)
        for value, array in zip(op.outputs, made, strict=True):
            carried[value] = array.astype(carrier_dtype(value))
    for value in op.outputs:
        if value in run.taps:
            tap = run.taps[value]
            carried[value] = carried[value] + tap if value in carried else tap


def _move(op: Op, env: Arrays, carried: Arrays) -> list[jax.Array]:
    """Applies a structural operation to carriers; constants among its operands become zeros."""
    dtype = carrier_dtype(op.outputs[0])

    def operand(value: Value) -> Any:
        if not value.floating:
            return _read(env, value)
        known = carried.get(value)
        return jnp.zeros(value.shape, dtype) if known is None else known.astype(dtype)

    return _compat.bind(op.primitive, op.params, *map(operand, op.inputs))


def _flow(run: Evaluation, step: Step, env: Arrays, carried: Arrays) -> list[jax.Array]:
    op, plan = step.site.op, step.plan
    assert isinstance(plan, Flow)
    sources = tuple(i for i in plan.sources if op.inputs[i] in carried)
    readers = (step.oriented_output, *step.oriented_inputs)
    signs = [None if reader is None else reader(run.constants.__getitem__) for reader in readers]
    operands = [jnp.asarray(_read(env, value)) for value in op.inputs]
    return _carry(step, sources, [carried[op.inputs[i]] for i in sources], operands, signs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _carry(
    step: Step, sources: tuple[int, ...], carriers: list, operands: list, signs: list
) -> list[jax.Array]:
    """The carriers of an operation's outputs; its backward is the operation's rule.

    Args:
      sources: positions of the operands whose carriers are given.
      signs: of the scales behind the output and each operand (see orientation.py).
    """
    return [carrier(value) for value in step.site.op.outputs]


def _carry_forward(
    step: Step, sources: tuple[int, ...], carriers: list, operands: list, signs: list
) -> tuple[list[jax.Array], tuple[list, list]]:
    return _carry(step, sources, carriers, operands, signs), (operands, signs)


def _carry_backward(
    step: Step, sources: tuple[int, ...], saved: tuple[list, list], p: list[jax.Array]
) -> tuple:
    (operands, signs), op = saved, step.site.op
    call = Call(step, tuple(operands), p[0].dtype, signs[0], tuple(signs[1:]))
    shares = step.rule.backward(call, p[0] if len(p) == 1 else tuple(p))
    return [_checked(step, shares, i, op.inputs[i]) for i in sources], None, None


def _checked(step: Step, shares: Any, i: int, value: Value) -> jax.Array:
    """A rule's share for operand ``i``: custom_vjp itself would accept a wrong dtype."""
    where = f"the rule for {step.site.op.primitive.name} in {step.site.path or 'the model'}"
    if not isinstance(shares, (tuple, list)) or len(shares) != len(step.site.op.inputs):
        raise TypeError(
            f"{where} must return one probability per operand ({len(step.site.op.inputs)}, None "
            f"for those that get nothing), and returned {shares!r}"
        )
    if shares[i] is None:
        return carrier(value)
    if shares[i].shape != value.shape:
        raise TypeError(
            f"{where} returned shape {shares[i].shape} for operand {i} of shape {value.shape}"
        )
    return shares[i].astype(carrier_dtype(value))


_carry.defvjp(_carry_forward, _carry_backward)
