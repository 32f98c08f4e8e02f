"""How well a network finds the classes: its logits of records, and their mean average precision."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import flax.linen as nn
import jax
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..maps.average_precision import mean_average_precision
from .input import central_batches
from .labelled import Record

RESIZED = 256  # side of the squares that are cropped
BATCH = 32


def minus_one_to_one(images: jax.Array) -> jax.Array:
    """Pixels of 0..255 as MobileNets take them: RGB / 127.5 - 1."""
    return images / 127.5 - 1


def predict(
    model: nn.Module,
    variables: Any,
    records: Sequence[Record],
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
    for inputs in central_batches(records, batch=batch, size=size, resized=resized):
        images = inputs["image"]
        # The last batch is filled up, because another shape would be compiled anew.
        filled = np.resize(images, (batch, *images.shape[1:]))
        logits.append(np.asarray(_forward(model, normalise, variables, filled))[: len(images)])
    return np.concatenate(logits)


def precision_of(records: Sequence[Record], logits: ArrayLike) -> float:
    """Mean average precision over the classes that occur among the records.

    Args:
        records: N of them.
        logits: (N, classes), e.g. from `predict`.

    Raises:
        ValueError: no class occurs.
    """
    labels = np.array([record.labels for record in records])
    occurs = labels.any(axis=0)
    if not occurs.any():
        raise ValueError("none of the records shows any class, so their precision is undefined")
    return mean_average_precision(labels[:, occurs], np.asarray(logits)[:, occurs])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(
    model: nn.Module, normalise: Callable[[jax.Array], jax.Array], variables: Any, images: Any
) -> jax.Array:
    return cast(jax.Array, model.apply(variables, normalise(images)))
