"""How a network that is being trained does on photographs that it is not trained with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .labelled import Labelled
from .scoring import cross_entropy, precision_of

#: Inputs, filled up to a batch, and how many of them count.
Inputs = Callable[[], Iterator[tuple[Any, int]]]


class Measured(NamedTuple):
    """What was measured after a step.

    precision: the mean average precision, over the classes that occur.
    error: the cross-entropy, summed over the classes and averaged over the photographs.
    learning_rate: of the next step, which the error may have lowered.
    """

    precision: float
    error: float
    learning_rate: float


class Validation:
    """Measures the trained parameters.

    Args:
        records: to measure with, of which some show a class.
        inputs: theirs, in order.
        logits: the trained parameters and inputs (N, ...) -> logits (N, classes).

    Raises:
        ValueError: no class occurs.
    """

    def __init__(
        self, records: Sequence[Labelled], inputs: Inputs, logits: Callable[[Any, Any], Any]
    ) -> None:
        self._records, self._inputs, self._logits = records, inputs, logits
        precision_of(records, np.zeros((len(records), len(records[0].labels))))  # may refuse

    def measure(self, trained: Any) -> tuple[float, float]:
        """The mean average precision and the error; see `Measured`."""
        logits: NDArray[np.float32] = np.concatenate(
            [np.asarray(self._logits(trained, given))[:count] for given, count in self._inputs()]
        )
        labels = np.array([record.labels for record in self._records])
        return precision_of(self._records, logits), float(cross_entropy(logits, labels))
