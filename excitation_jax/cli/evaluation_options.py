"""The arguments of `excitation-jax eval`, without importing JAX."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from . import rule_sets, text_options

SUMMARY = "play the papers' experiments on a data set"
DESCRIPTION = """\
Evaluates methods on a data set as the papers do. A run may be killed whenever you like: the same
command continues it.

  excitation-jax eval pointing --data digits --model digits --out digits_run
"""
PLAIN = (
    "paint maps as plain tiles, as the papers' code does, and not each cell where it looked: in "
    "many networks half a stride beside it"
)
_POINTING = """\
The pointing game: for every category in a photograph, does the category's map have its maximum on
an object of it, or within 15 pixels? Prints the mean over categories with its 95 % interval (by
resampling photographs) and the plain hits, for all pairs and for the difficult ones (small objects
beside others), and writes them to DIR as pointing.json, with each category in pointing.png and hits
and misses to look at in gallery/index.html. With --layers a second table, and layers.png, have each
method's score at each layer.

  excitation-jax eval pointing --data digits --model digits --out digits_run
  excitation-jax eval pointing --data digits --model digits --methods gradient,c-mwp \\
      --layers input,stage2_block2,stage3_block2 --out digits_layers
  excitation-jax eval pointing --data voc --folder VOCdevkit/VOC2007 --split test \\
      --model mobilenet_v2 --weights mobilenet_v2_voc --methods mwp,c-mwp@block5,gradient --out run
  excitation-jax eval pointing --data coco --folder coco --split val2014 \\
      --model resnet50 --weights resnet50_coco --view papers --out run

The network's outputs must be the data set's classes. --weights is a checkpoint of such a network,
or of one that `excitation-jax train` trained, with --head its directory.
"""
_BOXES = """\
Boxes of dominant objects: the tightest box round what exceeds alpha times the mean of a map of a
photograph's class is right if it overlaps enough with an object's (intersection over union of at
least 1/2). Alpha is the best of 0, 0.5, ..., 10 on photographs that are held out. Prints the share
of wrong boxes among the others and writes it to DIR as boxes.json, with each category in boxes.png
and boxes to look at in gallery/index.html.

  excitation-jax eval boxes --data digits --model digits --out digits_boxes
  excitation-jax eval boxes --data imagenet --folder val --annotations val_annotations \\
      --synsets LOC_synset_mapping.txt --model googlenet --weights googlenet.safetensors --out run

A class is one that has a box in the photograph, and the network's outputs must be the classes.
"""


def add(
    parser: argparse.ArgumentParser,
    network: str,
    weights: str,
    add_debug: Callable[[argparse.ArgumentParser], None],
) -> None:
    """Adds the experiments to the command `eval`.

    network, weights: what --model and --weights may be. add_debug: adds --debug.
    """
    experiments = parser.add_subparsers(
        title="experiments", dest="experiment", metavar="EXPERIMENT", required=True
    )
    pointing = experiments.add_parser(
        "pointing",
        help="the pointing game",
        description=textwrap.dedent(_POINTING),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_debug(pointing)
    _add_data(pointing, ("voc", "coco", "digits"))
    _add_maps(pointing, network, weights, papers=224)
    add = pointing.add_argument
    add(
        "--layers",
        metavar="NAMES",
        help="read each method of a layer that has no @layer at each of these, with commas between "
        "them (input: pixels), and show them side by side in layers.png, too",
    )
    add(
        "--rules",
        choices=("paper", "torchray"),
        default="paper",
        help="torchray: a hit is nearer than the tolerance, objects that are all flagged as "
        "difficult are left out, and absent categories count as 0 (default: %(default)s)",
    )
    add(
        "--tolerance",
        type=float,
        metavar="PX",
        help="pixels of the photograph (default: 15; for the digits' scenes, whose side is 96 and "
        "not 224, in proportion: 6.4)",
    )
    add(
        "--difficult",
        type=Path,
        metavar="FILE",
        help="a list of the difficult pairs in TorchRay's format (default: by the papers' rule)",
    )
    _add_gallery(pointing)
    _add_run(pointing)

    boxes = experiments.add_parser(
        "boxes",
        help="boxes round dominant objects",
        description=textwrap.dedent(_BOXES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_debug(boxes)
    _add_data(boxes, ("imagenet", "voc", "coco", "digits"))
    add = boxes.add_argument
    add("--annotations", type=Path, metavar="DIR", help="ImageNet: of a file for each photograph")
    add(
        "--synsets",
        type=Path,
        metavar="FILE",
        help="ImageNet: the classes in the order of the network's outputs, one on each line, such "
        "as LOC_synset_mapping.txt",
    )
    add(
        "--ground-truth",
        type=Path,
        metavar="FILE",
        help="ImageNet: the photographs' classes, such as LOC_val_solution.csv; only those in it "
        "are read (default: those of the annotations)",
    )
    _add_maps(boxes, network, weights)
    add(
        "--held-out",
        type=int,
        default=10,
        metavar="N",
        help="alpha is chosen on every N-th photograph, the first included (default: %(default)s)",
    )
    _add_gallery(boxes)
    _add_run(boxes)

    text = experiments.add_parser(
        "text",
        help="regions of the phrases of captions",
        description=textwrap.dedent(text_options.DESCRIPTION),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_debug(text)
    text_options.add_data(text)
    _add_maps(text, network, weights, papers=300)
    text.set_defaults(methods="c-mwp")
    text_options.add_regions(text)
    _add_gallery(text, "misses, and words of N captions, in DIR/gallery/index.html")
    _add_run(text)


def _add_data(parser: argparse.ArgumentParser, layouts: Sequence[str]) -> None:
    add = parser.add_argument
    add("--data", required=True, choices=layouts, help="the data set's layout")
    add(
        "--folder",
        type=Path,
        metavar="DIR",
        help="VOC: with JPEGImages, Annotations and ImageSets; COCO: with annotations and the "
        "folder of photographs; ImageNet: the photographs",
    )
    add(
        "--split",
        metavar="NAME",
        help="VOC: ImageSets/Main/NAME.txt; COCO: annotations/instances_NAME.json and NAME/",
    )
    add(
        "--classes",
        default="own",
        metavar="own|voc|FILE",
        help="voc: of COCO, the 20 categories that VOC has, by VOC's names and in its order; FILE: "
        "of COCO and VOC, those that a file names, one on each line (default: %(default)s)",
    )
    add("--limit", type=int, metavar="N", help="only the first N photographs")


def _add_maps(
    parser: argparse.ArgumentParser, network: str, weights: str, papers: int | None = None
) -> None:
    """papers: the shorter side of the papers' input; None: it is the network's own, warped."""
    add = parser.add_argument
    add("--model", required=True, metavar="NAME", help=network)
    add("--weights", metavar="FILE", help=f"{weights} (digits brings its own)")
    add(
        "--head",
        type=Path,
        metavar="DIR",
        help="what `excitation-jax train` trained, beginning with these weights",
    )
    add(
        "--fully-convolutional",
        action="store_true",
        help="scores at each position (of GoogLeNet and ResNet, behind an average that slides), "
        "over which the signal of a class is spread by a softmax",
    )
    add(
        "--methods",
        default="mwp,c-mwp,gradient",
        metavar="NAMES",
        help="with commas between them, each with @layer if it is not to be read at its own "
        "(default: %(default)s; `excitation-jax methods` lists them)",
    )
    add("--rules-set", default=rule_sets.DEFAULT, metavar="NAMES", help=rule_sets.HELP)
    add("--plain", action="store_true", help=PLAIN)
    own_shape = (
        ", or, papers, the whole photograph in its own shape (the longer side to the nearest 16 "
        "pixels), by the network's fully convolutional form"
    )
    add(
        "--view",
        choices=("whole", "network", *(["papers"] if papers else [])),
        default="whole",
        help="what the network sees: the whole photograph, warped to its input, or the part that "
        f"it was trained to see{own_shape if papers else ''} (default: %(default)s)",
    )
    add(
        "--side",
        type=int,
        metavar="PX",
        help="of the square that whole photographs are warped to (default: the network's own)"
        + (f"; with --view papers, the shorter side (default: {papers})" if papers else ""),
    )
    add(
        "--blur",
        type=float,
        default=0.02,
        metavar="SHARE",
        help="of maps as fine as the input: standard deviation as a share of the longer side "
        "(default: %(default)s)",
    )


def _add_gallery(
    parser: argparse.ArgumentParser,
    shown: str = "misses in DIR/gallery/index.html, and N pairs on which methods disagree",
) -> None:
    """shown: what there is, beside N hits."""
    parser.add_argument(
        "--gallery",
        type=int,
        default=12,
        metavar="N",
        help=f"of each method, show N hits and N {shown}; 0: no gallery (default: %(default)s)",
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="of the run: new, or to continue")
    add("--batch", type=int, default=16, metavar="N", help="photographs (default: %(default)s)")
    add("--threads", type=int, default=2, metavar="N", help="that decode (default: %(default)s)")
    add(
        "--distributed",
        action="store_true",
        help="this is one of several processes that a cluster started, which share DIR",
    )
    add("--coordinator", metavar="HOST:PORT", help="the same without a cluster: of process 0,")
    add("--processes", type=int, metavar="N", help="with the number of processes")
    add("--process", type=int, metavar="I", help="and which of them this one is, from 0")
