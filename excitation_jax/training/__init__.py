"""Fine-tuning of a network's output layer for photographs with several labels.

    from excitation_jax import training
    from excitation_jax.models import mobilenet_v2

    records = training.read_voc("VOCdevkit/VOC2007", "trainval")
    model = mobilenet_v2.MobileNetV2(20)
    variables = training.new_output_layer(model, mobilenet_v2.load_npz("mobilenet_v2.npz"))
    variables = training.fine_tune(model, variables, records, steps=1000, directory="run")

labelled reads data sets, images and input are the pipeline, finetune is the loop, checkpoints what
it keeps, scoring measures it. From a terminal: `python -m excitation_jax.training --help`.
"""

try:
    import grain  # noqa: F401
    import PIL  # noqa: F401
except ImportError as error:
    raise ImportError(
        'training needs grain and Pillow: pip install "excitation-jax[training]"'
    ) from error

from .finetune import fine_tune, load_fine_tuned
from .labelled import COCO_TO_VOC, VOC_CLASSES, Record, read_coco, read_voc
from .output_layer import new_output_layer
from .scoring import minus_one_to_one, precision_of, predict

__all__ = [
    "COCO_TO_VOC",
    "VOC_CLASSES",
    "Record",
    "fine_tune",
    "load_fine_tuned",
    "minus_one_to_one",
    "new_output_layer",
    "precision_of",
    "predict",
    "read_coco",
    "read_voc",
]
