"""The pointing game's published scores, to show beside one's own.

Source: TorchRay (facebookresearch/TorchRay), docs/pointing.csv at commit 6a198ee: its own
implementations of the methods on fine-tuned VGG16 and ResNet-50, by its own rules of the game.
"""

from __future__ import annotations

from dataclasses import dataclass

#: In per cent, of all pairs and of the difficult ones.
Scores = tuple[float, float]

_METHODS = (
    "centre", "gradient", "deconvnet", "guided-backprop", "mwp", "c-mwp", "rise", "grad-cam",
)  # fmt: skip


@dataclass(frozen=True)
class Published:
    """The scores of a network on a data set.

    Attributes:
        dataset: its name, as the readers give it.
        images, classes: the numbers of its photographs and of its categories.
        network: its name.
        scores: of methods by name; "centre" is the centre of the photograph.
    """

    dataset: str
    images: int
    classes: int
    network: str
    scores: dict[str, Scores]

    def title(self, images: int) -> str:
        """What the scores are of, beside those of a number of the data set's photographs."""
        return self.network if images == self.images else f"{self.network}, {self.images} images"


def _published(dataset: str, images: int, classes: int, network: str, *own: Scores) -> Published:
    return Published(dataset, images, classes, network, dict(zip(_METHODS, own, strict=True)))


POINTING = (
    _published(
        "VOC2007 test", 4952, 20, "VGG16", (69.6, 42.4), (76.3, 56.9), (67.5, 44.2),
        (75.9, 53.0), (77.1, 56.6), (79.9, 66.5), (86.9, 75.1), (86.6, 74.0),
    ),
    _published(
        "VOC2007 test", 4952, 20, "ResNet-50", (69.6, 42.4), (72.3, 56.8), (68.6, 44.7),
        (77.2, 59.4), (84.5, 70.8), (90.7, 82.1), (86.4, 78.8), (90.4, 82.3),
    ),
    _published(
        "val2014", 40504, 80, "VGG16", (27.8, 19.5), (37.7, 31.4), (30.7, 23.0),
        (39.1, 31.4), (39.8, 32.8), (49.7, 44.3), (50.8, 45.3), (54.2, 49.0),
    ),
    _published(
        "val2014", 40504, 80, "ResNet-50", (27.8, 19.5), (35.0, 29.4), (30.0, 21.9),
        (42.1, 35.3), (49.6, 43.9), (58.5, 53.6), (54.7, 50.0), (57.3, 52.3),
    ),
)  # fmt: skip

#: The networks of the registry that are the published ones.
_NETWORKS = {
    "vgg16": "VGG16", "vgg16_caffe": "VGG16", "resnet50": "ResNet-50", "resnet50_caffe": "ResNet-50"
}  # fmt: skip


def pointing(dataset: str, classes: int, model: str) -> Published | None:
    """What is published for a data set; None where nothing is.

    Args:
        dataset: its name.
        classes: its number of classes: COCO's photographs with VOC's classes are another game.
        model: the network's name in the registry. Of one for which nothing is published, VGG16's
            scores are what there is to compare with.

    >>> found = pointing("VOC2007 test", 20, "resnet50")
    >>> found.network, found.scores["c-mwp"]
    ('ResNet-50', (90.7, 82.1))
    """
    wanted = dataset, classes, _NETWORKS.get(model, "VGG16")
    for found in POINTING:
        if (found.dataset, found.classes, found.network) == wanted:
            return found
    return None
