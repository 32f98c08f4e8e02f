"""The transform: a function that computes what ``fn`` does, whose VJP is excitation.

Next to every value that carries signal, the evaluation keeps a *carrier*: an array of zeros of
the value's shape, in float32 (float64 in a float64 model) whatever the model's precision. The
model's own values are computed by its own operations. Only the carriers are differentiated, and
a carrier's cotangent is the probability at its value. So the outputs are exact, probabilities
never pass through bfloat16, and JAX's jit, vmap, remat and sharding apply as usual.

How a cotangent moves from an operation's output to its operands is in carriers.py; walking
through the program, in interpret.py and nests.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..program import compat
from ..program.modules import name_owners
from ..program.trace import Op, Value, trace
from ..rules.ruleset import EXCITATION, RuleSet
from .carriers import carrier, carrier_dtype
from .interpret import evaluate
from .plan import Plan, analyse


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
      distribution over the outputs, and returns the MWP (Eq. 1) of each explained argument, in
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

        program, closed, out_shape = trace(flat, *leaves, closed_calls=rules.call_names)
        name_owners(program, jax.tree.unflatten(tree, program.inputs))
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
            f"{what} is {dtype}, and probabilities flow only to floating-point values (and to "
            "tokens, in excitation_vjp): convert it (and apply the model's pre-processing) first, "
            "e.g. x.astype(jnp.float32)"
        )


def _excited_call(plan: Plan, jaxpr: Any, explained: Sequence[Value]) -> Callable[..., Any]:
    """The function of (captured, leaves), as arguments: custom_vjp must not close over them."""
    program = plan.program

    @jax.custom_vjp
    def call(captured: Sequence[Any], leaves: Sequence[Any]) -> list[Any]:
        return jax.core.eval_jaxpr(jaxpr, captured, *leaves)

    def forward(captured: Sequence[Any], leaves: Sequence[Any]) -> tuple[list[Any], Any]:
        outputs, pull, _ = top_down_pass(plan, captured, leaves, explained)
        return outputs, pull

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


def top_down_pass(
    plan: Plan, captured: Sequence[Any], leaves: Sequence[Any], read: Sequence[Value | Op],
    kept: Sequence[Value] = (),
) -> tuple[list[Any], Callable[[list[jax.Array]], tuple[list[jax.Array]]], list[Any]]:  # fmt: skip
    """The model's outputs, and the way down from them.

    Args:
      captured, leaves: the values of what the program closed over, and of its inputs.
      read: the values whose probability is wanted, and operations of which is wanted what ends
        there (a scalar). Nothing below them is differentiated.
      kept: values, outside of loops and branches, that are themselves wanted.

    Returns:
      The outputs; a function that takes P(A0), one array per output in its carrier's dtype,
      and returns a tuple of one list: the probability at each of the values to read, with a
      leading axis for each loop that the value is inside of; and the kept values.
    """

    def carriers_of_outputs(taps: list[jax.Array]) -> tuple[list[jax.Array], tuple]:
        tapped = dict(zip(read, taps, strict=True))
        outputs, carried, values = evaluate(plan, captured, leaves, tapped, kept)
        return carried, (outputs, values)

    taps = [_tap(value) for value in read]
    _, pull, (outputs, values) = jax.vjp(carriers_of_outputs, taps, has_aux=True)
    return outputs, pull, values


def _tap(read: Value | Op) -> jax.Array:
    """Zeros to add to a value's carriers, or for an operation, for each step of the loops."""
    value = read if isinstance(read, Value) else read.outputs[0]
    shape = value.shape if isinstance(read, Value) else ()
    zeros = jnp.zeros((*value.steps, *shape), carrier_dtype(value))
    return compat.mark_varying(zeros, value.varying)
