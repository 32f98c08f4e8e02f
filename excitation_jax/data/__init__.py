"""The papers' data sets, read from their original layouts.

    from excitation_jax import data

    dataset = data.read_voc("VOCdevkit/VOC2007", "test")
    for example in dataset:
        for category in example.categories(difficult=False):
            region = example.region(category)            # boolean (H, W)
            hard = data.is_difficult(example, category)

Reading parses all annotations and finds out that every photograph is there; nothing is decoded.
What is missing or malformed is one error that names the file and what to do about it.

records is what all readers give, difficult the papers' difficult subset. With more installed
(`pip install "excitation-jax[eval]"`): pipeline decodes photographs into batches, and the masks of
COCO can be read. scenes makes a data set of digits, which needs no download.
"""

from .coco import COCO_TO_VOC, read_coco
from .difficult import DifficultList, is_difficult
from .flickr30k import Caption, CaptionedExample, Phrase, read_flickr30k
from .imagenet import read_imagenet
from .records import Dataset, Example, Object
from .voc import VOC_CLASSES, read_voc

__all__ = [
    "COCO_TO_VOC",
    "VOC_CLASSES",
    "Caption",
    "CaptionedExample",
    "Dataset",
    "DifficultList",
    "Example",
    "Object",
    "Phrase",
    "is_difficult",
    "read_coco",
    "read_flickr30k",
    "read_imagenet",
    "read_voc",
]
