"""How well a network finds the classes: its logits of records, and their mean average precision."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import flax.linen as nn
import jax
import numpy as np
import optax
from numpy.typing import ArrayLike, NDArray

from ..maps.average_precision import mean_average_precision
from .input import central_batches
from .labelled import Labelled

RESIZED = 256  # side of the squares that are cropped
BATCH = 32


def minus_one_to_one(images: jax.Array) -> jax.Array:
    """Pixels of 0..255 as MobileNets take them: RGB / 127.5 - 1."""
    return images / 127.5 - 1


def predict(
    model: nn.Module,
    variables: Any,
    records: Sequence[Labelled],
    *,
    batch: int = BATCH,
    size: int = 224,
    resized: int = RESIZED,
    normalise: Callable[[jax.Array], jax.Array] = minus_one_to_one,
) -> NDArray[np.float32]:
    """Logits (N, classes) of the records' central crops, at the scale that training shows.

    Args:
        model, variables, records, batch, size, resized, normalise: as of `fine_tune`.

    Raises:
        ValueError: there are no records, or a photograph is damaged.
    """
    if not records:
        raise ValueError("there are no records to predict")
    logits = []
    for images in central_batches(records, batch=batch, size=size, resized=resized):
        found = _forward(model, normalise, variables, filled_up(images, batch))
        logits.append(np.asarray(found)[: len(images)])
    return np.concatenate(logits)


def filled_up(rows: NDArray[Any], batch: int) -> NDArray[Any]:
    """(batch, ...), of at most so many rows: another shape would be compiled anew.

    >>> filled_up(np.array([1, 2]), 5).tolist()
    [1, 2, 1, 2, 1]
    """
    return np.resize(rows, (batch, *rows.shape[1:]))


def cross_entropy(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    """The papers' loss: of each class's sigmoid, summed over the classes, averaged over the rest.

    Summed as in Caffe, which they used: averaged over the classes, too, a learning rate would count
    that many times less.

    Args:
        logits: (N, classes).
        labels: (N, classes), 1 where the class is there and 0 where it is not.
    """
    return optax.sigmoid_binary_cross_entropy(logits, labels).sum(axis=-1).mean()


def precision_of(records: Sequence[Labelled], logits: ArrayLike) -> float:
    """Mean average precision over the classes that occur among the records.

    Args:
        records: N of them.
        logits: (N, classes), e.g. from `predict`.

    Raises:
        ValueError: no class occurs, or a logit is infinite or NaN.
    """
    labels = np.array([record.labels for record in records])
    occurs = labels.any(axis=0)
    if not occurs.any():
        raise ValueError("none of the records shows any class, so their precision is undefined")
    if not np.isfinite(logits).all():
        raise ValueError(
            "the network's logits are not all finite, so their precision is undefined: its "
            "weights, or the learning rate that it is trained with, are too large"
        )
    return mean_average_precision(labels[:, occurs], np.asarray(logits)[:, occurs])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(
    model: nn.Module, normalise: Callable[[jax.Array], jax.Array], variables: Any, images: Any
) -> jax.Array:
    return cast(jax.Array, model.apply(variables, normalise(images)))
