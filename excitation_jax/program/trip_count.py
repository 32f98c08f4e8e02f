"""How many steps a while loop takes, where that does not depend on the data.

Probability moves down through a loop step by step, from the last to the first, so the number of
steps has to be known while the model is traced. `jax.lax.fori_loop` with fixed bounds and
`jax.lax.scan` say it themselves. A while loop is counted by running the part of its state that
evolves by itself from known numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from . import compat

#: A loop that is not over by then counts as one of unknown length.
MOST_STEPS = 10_000


def trip_count(params: dict[str, Any], operands: Sequence[Any]) -> int | None:
    """The number of steps of a while loop; None where it depends on unknown values.

    Args:
      params: the parameters of the while primitive.
      operands: the values of its scalar operands that are known, None for all others.
    """
    first, second = params["cond_nconsts"], params["body_nconsts"]
    for_cond, for_body = operands[:first], operands[first : first + second]
    state = list(operands[first + second :])
    with jax.ensure_compile_time_eval():
        for step in range(MOST_STEPS):
            (goes_on,) = _known_results(params["cond_jaxpr"], [*for_cond, *state])
            if goes_on is None:
                return None
            if not goes_on:
                return step
            state = _known_results(params["body_jaxpr"], [*for_body, *state])
    return None


def _known_results(jaxpr: Any, arguments: Sequence[Any]) -> list[Any]:
    """The scalar results that follow from the arguments that are known (not None)."""
    opened, consts = compat.opened(jaxpr)
    env = dict(zip([*opened.constvars, *opened.invars], [*consts, *arguments], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, compat.Literal) else env[atom]

    for eqn in opened.eqns:
        operands = [read(atom) for atom in eqn.invars]
        scalars = all(var.aval.shape == () for var in eqn.outvars)
        if not scalars or eqn.effects or any(operand is None for operand in operands):
            env.update(dict.fromkeys(eqn.outvars))
            continue
        if eqn.primitive is compat.pvary_p:  # the same number on each device
            env.update(zip(eqn.outvars, operands, strict=True))
            continue
        results = compat.bind(eqn.primitive, eqn.params, *operands)
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in opened.outvars]
