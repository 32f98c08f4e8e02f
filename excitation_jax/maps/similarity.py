"""How similar two maps are: rank correlation and structural similarity."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import arrays


def rank_correlation(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Spearman's rank correlation of maps (..., H, W); equal values share their mean rank.

    Returns (...): between -1 and 1, and NaN where a map is constant.

    >>> float(rank_correlation([[1.0, 2.0], [3.0, 4.0]], [[1.0, 4.0], [9.0, 16.0]]))
    1.0
    """
    flat = (values.reshape(*values.shape[:-2], -1) for values in _pair(a, b))
    first, second = (np.apply_along_axis(_centred_ranks, -1, values) for values in flat)
    norms = np.sqrt((first**2).sum(-1) * (second**2).sum(-1))
    return np.divide(
        (first * second).sum(-1), norms, out=np.full(norms.shape, np.nan), where=norms > 0
    )


def structural_similarity(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """SSIM (Wang et al. 2004) of maps (..., H, W), each scaled so that it runs from 0 to 1.

    The window is their Gaussian of 1.5 cells, the constants are theirs; maps are mirrored at their
    borders, so that small ones have an SSIM, too, and the mean is over all positions. Where both
    are flat they count as alike: a few sharp peaks on flat ground give a high value wherever they
    are.

    Returns (...): between -1 and 1.

    >>> round(float(structural_similarity([[0.0, 1.0], [2.0, 3.0]], [[3.0, 5.0], [7.0, 9.0]])), 5)
    1.0
    """
    a, b = (_scaled(values) for values in _pair(a, b))
    mean_a, mean_b, square_a, square_b, product = (
        np.asarray(arrays.blur(jnp.asarray(values, jnp.float32), 1.5), np.float64)
        for values in (a, b, a * a, b * b, a * b)
    )
    luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
    variances = square_a - mean_a**2 + square_b - mean_b**2
    structure = (2 * (product - mean_a * mean_b) + 0.03**2) / (variances + 0.03**2)
    return np.asarray((luminance * structure).mean((-2, -1)))


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.ndim < 2 or first.shape != second.shape:
        raise ValueError(f"maps must share a shape (..., H, W): {first.shape}, {second.shape}")
    return first, second


def _centred_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks minus their mean; equal values share one."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + len(values)) / 2)[place]


def _scaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    low = values.min((-2, -1), keepdims=True)
    extent = values.max((-2, -1), keepdims=True) - low
    return (values - low) / np.where(extent > 0, extent, 1)
