"""The top-down attention module, TDAM [Jaiswal, Fernando and Tan 2022], around a group of blocks.

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = Stem()(x)
            x = TopDownAttention(Stage(64, name="stage3"))(x)
            return nn.Dense(10)(x.mean((1, 2)))

The group runs several times on one image. What it found at its top the first time says where and
for what it looks the next time: a searchlight, made of the top's features, scales the group's
input. With one step the module is the group alone, with the same parameters.

For Excitation Backprop a searchlight is a gate: it scales the group's input and takes nothing, so
probability goes down through the group's last run, whose layers are the ones that can be read. For
the map of an earlier computation step, explain the model with fewer steps and the same variables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class TopDownAttention(nn.Module):
    """Runs a group of blocks on its input, and again on what its searchlight leaves of it.

    With x (N, H, W, C) the group's input and top (N, h, w, D) its output,

        s = U2 relu(U1 mean_hw(top))           searchlight (N, C), without biases
        x' = x * sigmoid(s)                    along channels
        x'' = x' * sigmoid(sum_c s_c x'_c)     over space

    and x'' is the group's input in the next step; x is the same in all steps.

    Attributes:
      group: the blocks, as a module or a function of modules: ``group(x, *args)`` -> (N, h, w, D).
      steps: how often it runs in all; 1 leaves the attention out.
      reduction: U1 has D / reduction outputs.
    """

    group: Callable[..., jax.Array]
    steps: int = 2
    reduction: int = 16

    @nn.compact
    def __call__(self, x: jax.Array, *args: Any) -> jax.Array:
        """The group's last output (N, h, w, D).

        Args:
          x: (N, H, W, C). args: passed on to the group at each step (``train``, say).

        Raises:
          ValueError: fewer than one step, or more outputs of U1 asked for than there are inputs.
        """
        if self.steps < 1 or self.reduction < 1:
            raise ValueError(
                f"TopDownAttention needs steps and reduction of at least 1, not {self.steps} and "
                f"{self.reduction}"
            )
        top = self.group(x, *args)
        if self.steps == 1:
            return top
        narrow = nn.Dense(max(top.shape[-1] // self.reduction, 1), use_bias=False, name="reduce")
        wide = nn.Dense(x.shape[-1], use_bias=False, name="searchlight")
        for _ in range(self.steps - 1):
            pooled = jnp.mean(top, axis=(1, 2), keepdims=True)
            light = wide(nn.relu(narrow(pooled)))
            lit = x * nn.sigmoid(light)
            lit = lit * nn.sigmoid(jnp.sum(light * lit, axis=-1, keepdims=True))
            top = self.group(lit, *args)
        return top
