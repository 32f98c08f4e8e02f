"""The papers' numbers (Zhang et al., IJCV18, 6.1.1 and 6.3.1), by network and data set."""

from __future__ import annotations

from .part import Layers
from .scoring import BATCH

# "The training batch size", by the registry's families. Of others nothing is said.
_BATCHES = {"cnn_s": 64, "vgg16": 32, "googlenet": 64, "resnet": 32}


def batch_of(family: str) -> int:
    """Photographs a step for a network of a family; see `ModelSpec.family`.

    >>> batch_of("googlenet"), batch_of("vgg16"), batch_of("mobilenet_v2")
    (64, 32, 32)
    """
    return _BATCHES.get(family, BATCH)


def layers_of(data: str) -> Layers:
    """What is trained: for tags the whole network, for VOC and COCO its output layer.

    data: "tags", "voc" or "coco".
    """
    return "all" if data == "tags" else "output"


def patience_of(data: str) -> int | None:
    """When the learning rate is lowered, see `fine_tune`: for tags only, of which the papers do not
    say after how many measurements; for VOC and COCO it is fixed.

    data: "tags", "voc" or "coco".
    """
    return 5 if data == "tags" else None


def epochs_of(data: str) -> int:
    """How often every photograph is shown: tags three times. Of VOC and COCO the papers say "until
    the training error plateaus", which 30 times are, in `benchmarks.training.fine_tuning`.

    data: "tags", "voc" or "coco".
    """
    return 3 if data == "tags" else 30
