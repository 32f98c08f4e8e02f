"""Fine-tuning of a network for photographs with several labels: of its output layer, or of all.

    from excitation_jax import training
    from excitation_jax.models import mobilenet_v2

    records = training.read_voc("VOCdevkit/VOC2007", "trainval")
    model = mobilenet_v2.MobileNetV2(20)
    variables = training.new_output_layer(model, mobilenet_v2.load_npz("mobilenet_v2.npz"))
    variables = training.fine_tune(model, variables, records, steps=1000, directory="run")

labelled and tags read data sets; images, input, features and sources are the pipeline; backbone,
part and output_layer take networks apart; descent and finetune are the loop, checkpoints what it
keeps; scoring and validation measure it; recipe has the papers' numbers. From a terminal:
`excitation-jax train --help`.
"""

try:
    import grain  # noqa: F401
    import PIL  # noqa: F401
except ImportError as error:
    raise ImportError(
        'training needs grain and Pillow: pip install "excitation-jax[training]"'
    ) from error

from .checkpoints import classes_of
from .finetune import fine_tune, load_fine_tuned
from .labelled import (
    COCO_TO_VOC,
    VOC_CLASSES,
    Record,
    coco_classes,
    held_out,
    read_coco,
    read_voc,
    without,
)
from .output_layer import new_output_layer
from .scoring import minus_one_to_one, precision_of, predict
from .tags import dictionary_of, read_tags, with_first_tags
from .validation import Measured

__all__ = [
    "COCO_TO_VOC",
    "VOC_CLASSES",
    "Measured",
    "Record",
    "classes_of",
    "coco_classes",
    "dictionary_of",
    "fine_tune",
    "held_out",
    "load_fine_tuned",
    "minus_one_to_one",
    "new_output_layer",
    "precision_of",
    "predict",
    "read_coco",
    "read_tags",
    "read_voc",
    "with_first_tags",
    "without",
]
