"""Published figures by data set and network: a file of an experiment has a row for each.

Sources: "IJCV18" is Zhang et al., Top-Down Neural Attention by Excitation Backprop, IJCV
126(10):1084-1102, 2018, whose tables 1, 3, 5, 6 and 7 have those of the conference version (ECCV
2016), too. "TorchRay" is facebookresearch/TorchRay, docs/pointing.csv at commit 6a198ee: its own
implementations of the methods on networks of its own fine-tuning, by its own rules of the game.
Methods, networks and columns keep the sources' names; "-" in a table is an empty field.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, NamedTuple

Experiment = Literal["pointing", "boxes", "text", "text_groups"]

_CITED = {
    "IJCV18": "Zhang et al., IJCV 126, 2018",
    "TorchRay": "TorchRay, docs/pointing.csv at 6a198ee",
}
_SHORT = {"IJCV18": "paper", "TorchRay": "TorchRay"}

#: The sources' networks, by name in the registry.
_NETWORKS = {
    "cnn_s": "CNN-S",
    "vgg16": "VGG16", "vgg16_caffe": "VGG16",
    "googlenet": "GoogLeNet", "googlenet_caffe": "GoogLeNet", "googlenet_tags": "GoogLeNet",
    "resnet50": "ResNet50", "resnet50_caffe": "ResNet50",
}  # fmt: skip
#: Of a network that a source does not have, what there is to compare with: that with most methods.
_OTHERWISE = {"IJCV18": "GoogLeNet", "TorchRay": "VGG16"}

#: The papers' methods by this project's names. Their deconvolution is that of Springenberg et al.,
#: 2014, which is guided backprop (also in Table 3, which contrasts it). By which of Bach et al.'s
#: rules they propagate relevance they do not say.
_METHODS = {
    "centre": "Center", "gradient": "Grad", "guided-backprop": "Deconv", "cam": "CAM",
    "lrp-epsilon": "LRP", "lrp-alpha-beta": "LRP", "mwp": "MWP", "c-mwp": "c-MWP",
    "c-mwp-star": "c-MWP*", "winner-take-all": "d-WTA", "feedback": "Feedback", "c-cam": "c-CAM",
    "c-mwp-post-norm": "c-MWP post-norm", "c-mwp-without-norm": "c-MWP w/o norm",
    "proposals": "MCG_base",
}  # fmt: skip
#: The same method under another name, in Table 3.
_FULL = {"c-MWP full": "c-MWP"}

_FACTS = ("source", "table", "dataset", "classes", "images", "network", "method")


class Row(NamedTuple):
    """What a source has for a method.

    table: its number; None where the source has no numbers. method: as the source names it.
    figures: by column, per cent but for alpha and gamma; those that are "-" are left out.
    settings: of columns that are no figures, such as the proposals.
    """

    table: int | None
    method: str
    figures: dict[str, float]
    settings: dict[str, str]


@dataclass(frozen=True)
class Published:
    """What a source has for a network on a data set.

    Attributes:
        source: its short name.
        network: as the source names it.
        same: whether it is the network in question, and not one that the source has in its place.
        images: the number of photographs.
        rows: in the order of the tables.
    """

    source: str
    network: str
    same: bool
    images: int
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        """Of a column."""
        return f"{_SHORT[self.source]}, {self.network}"

    def of(self, method: str) -> list[Row]:
        """What there is for a method of this project, each figure once.

        method: its name, or "name@layer": the source's figure is at the layer that it chose.
        """
        method = method.partition("@")[0]
        own = _METHODS.get(method, method)
        found: list[Row] = []
        for row in self.rows:
            named = _FULL.get(row.method, row.method) in (own, method)
            if named and row.figures not in [other.figures for other in found]:
                found.append(row)
        return found

    def unplayed(self) -> list[Row]:
        """The rows of methods that this project does not have, such as a baseline."""
        own = {*_METHODS.values(), *_FULL}
        return [row for row in self.rows if self.source == "IJCV18" and row.method not in own]

    def cited(self, played: int) -> str:
        """Where the figures are from, and of how many photographs they are beside one's own.

        played: the number of one's own.
        """
        tables = sorted({row.table for row in self.rows if row.table is not None})
        where = _CITED[self.source]
        if tables:
            where += f", Table{'s'[: len(tables) > 1]} {', '.join(map(str, tables))}"
        other = "" if self.same else "; not the network that is played with here"
        return f"{self.title}: {where}, {self.images} images; here {played}{other}"

    def json(self) -> dict[str, Any]:
        """All of it, of what JSON can hold."""
        return {
            "source": _CITED[self.source],
            "network": self.network,
            "same_network": self.same,
            "images": self.images,
            "rows": [
                {"table": row.table, "method": row.method, **row.settings, **row.figures}
                for row in self.rows
            ],
        }


def published(
    experiment: Experiment, dataset: str, model: str, classes: int | None = None
) -> list[Published]:
    """What is published for a data set, the papers' first; empty where nothing is.

    Args:
        experiment: which of them.
        dataset: its name, as the readers give it.
        model: the network's name in the registry.
        classes: the data set's number of classes: COCO's photographs with VOC's are another game.

    >>> paper, torchray = published("pointing", "VOC2007 test", "resnet50", 20)
    >>> paper.of("c-mwp")[0].figures, torchray.of("c-mwp")[0].figures
    ({'all': 89.2, 'difficult': 81.3}, {'all': 90.7, 'difficult': 82.1})
    """
    every = [
        row
        for row in _read(experiment)
        if row["dataset"] == dataset and row.get("classes", str(classes)) == str(classes)
    ]
    found = []
    for source in dict.fromkeys(row["source"] for row in every):
        own = [row for row in every if row["source"] == source]
        wanted = _NETWORKS.get(model)
        same = wanted in {row["network"] for row in own}
        network = wanted if same and wanted else _OTHERWISE[source]
        rows = [row for row in own if row["network"] == network]
        if rows:
            images = int(rows[0]["images"])
            found.append(Published(source, network, same, images, tuple(map(_row, rows))))
    return found


@functools.cache
def _read(experiment: Experiment) -> Sequence[dict[str, str]]:
    """The rows of an experiment's file."""
    text = resources.files(__package__).joinpath(f"{experiment}.csv").read_text("utf-8")
    return list(csv.DictReader(text.splitlines()))


def _row(fields: dict[str, str]) -> Row:
    figures: dict[str, float] = {}
    settings: dict[str, str] = {}
    for name, field in fields.items():
        if name == "proposals":
            settings[name] = field
        elif name not in _FACTS and field:
            figures[name] = float(field)
    table = int(fields["table"]) if fields["table"] else None
    return Row(table, fields["method"], figures, settings)
