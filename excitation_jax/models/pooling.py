"""Max-pooling and local response normalisation as Caffe and PyTorch compute them."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class MaxPool(nn.Module):
    """A square max-pool; padded positions never win. (N, H, W, C) -> (N, h, w, C).

    A module only so that its value has a path to be read by.

    Attributes:
        window, stride, padding: in positions, the same in height and width.
        ceil: round sizes up, as Caffe does: the last window may hang over the edge, and
            h = ceil((H + 2 padding - window) / stride) + 1. False rounds down, PyTorch's default.
    """

    window: int = 3
    stride: int = 2
    padding: int = 0
    ceil: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Pool `x`."""
        edges = []
        for size in x.shape[1:3]:
            overhang = -(size + 2 * self.padding - self.window) % self.stride if self.ceil else 0
            edges.append((self.padding, self.padding + overhang))
        window, strides = (self.window, self.window), (self.stride, self.stride)
        pooled: jax.Array = nn.max_pool(x, window, strides, edges)
        return pooled


class LocalResponseNorm(nn.Module):
    """x / (k + alpha / size * sum of x^2 over `size` neighbouring channels)^beta, as in Caffe.

    (N, H, W, C) -> (N, H, W, C). Channels beyond the first and the last count as zero.
    """

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise `x`."""
        before = (self.size - 1) // 2
        padding = ((0, 0), (0, 0), (0, 0), (before, self.size - 1 - before))
        squares = lax.reduce_window(
            jnp.square(x), np.zeros((), x.dtype), lax.add, (1, 1, 1, self.size), (1,) * 4, padding
        )
        return x / (self.k + self.alpha / self.size * squares) ** self.beta
