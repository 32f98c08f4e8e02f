"""Stochastic gradient descent with momentum, of which the learning rate falls at plateaus.

Zhang et al. fix the rate where they train an output layer (IJCV18, 6.1.1), and lower it to a tenth
when the validation error plateaus where they train the tag classifier (6.3.1).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import optax


class DescentState(NamedTuple):
    """Optax's states: momentum, of the descent; plateau, of `optax.contrib.reduce_on_plateau`."""

    momentum: Any
    plateau: Any


class Descent:
    """The optimizer.

    Args:
        learning_rate: that it begins with.
        momentum: of the gradient.
        patience: the learning rate is lowered when so many measurements in a row were no better
            than the best before. None: it is fixed.
        factor: by which it is lowered.

    Raises:
        ValueError: the patience is below 1, or the factor not between 0 and 1.

    >>> import jax.numpy as jnp
    >>> descent = Descent(0.5, 0.9, patience=2)
    >>> state = descent.init(jnp.zeros(3))
    >>> for error in (4.0, 3.0, 3.5, 3.0):
    ...     state = descent.measured(state, error)
    >>> round(descent.learning_rate(state), 3)
    0.05
    """

    def __init__(
        self, learning_rate: float, momentum: float, patience: int | None, factor: float = 0.1
    ) -> None:
        if patience is not None and patience < 1:
            raise ValueError(f"patience must be at least 1, got {patience}")
        if not 0 < factor < 1:
            raise ValueError(f"factor must lie between 0 and 1, got {factor}")
        self._start, self._fixed = learning_rate, patience is None
        self._descent = optax.sgd(learning_rate, momentum)
        self._plateau = plateau = optax.contrib.reduce_on_plateau(factor, patience or 1)
        # There is nothing to update here: Optax's transformation keeps count, and gives the scale.
        self._count = jax.jit(lambda state, error: plateau.update((), state, value=error)[1])

    def init(self, parameters: Any) -> DescentState:
        """The state before the first step."""
        return DescentState(self._descent.init(parameters), self._plateau.init(parameters))

    def step(self, gradient: Any, state: DescentState, parameters: Any) -> tuple[Any, DescentState]:
        """The parameters after a step, and the state. Can be jitted."""
        updates, momentum = self._descent.update(gradient, state.momentum, parameters)
        updates = jax.tree.map(lambda update: state.plateau.scale * update, updates)
        return optax.apply_updates(parameters, updates), state._replace(momentum=momentum)

    def measured(self, state: DescentState, error: float) -> DescentState:
        """The state after a validation error was measured."""
        if self._fixed:
            return state
        return state._replace(plateau=self._count(state.plateau, error))

    def learning_rate(self, state: DescentState) -> float:
        """Of the next step."""
        return self._start * float(state.plateau.scale)
