"""The arguments of `excitation-jax train`, without importing JAX."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "fine-tune a network for another data set's classes"
DESCRIPTION = """\
Trains a network for the classes of a data set in which a photograph shows several, as the papers
do: its output layer alone (VOC, COCO), or all of it (tags), by the cross-entropy of each class's
sigmoid. A run may be killed whenever you like: the same command continues it.

  excitation-jax train --model vgg16 --weights vgg16.safetensors --data coco --folder coco \\
      --split train2014 --out run
  excitation-jax eval pointing --model vgg16 --weights vgg16.safetensors --head run --data coco \\
      --folder coco --split val2014 --out played

  excitation-jax train --model resnet50 --weights resnet50.safetensors --data voc \\
      --folder VOCdevkit/VOC2007 --split trainval --test test --out run
  excitation-jax train --model googlenet_caffe --weights bvlc_googlenet.caffemodel --data tags \\
      --folder stock --split train --out tagger

DIR/classes.txt has the classes in the order of the outputs. Photographs of --test and of
--validation are never trained with; --test is only measured, at the end.

Tags are lines of JSON, {"image": "photographs/1.jpg", "tags": ["dog", "beach", ...]}, in a file
NAME.jsonl of the folder, from which the photographs' paths begin.
"""

# Crops and flips of each photograph whose features are computed; see benchmarks.training.
VIEWS = 2


def add(parser: argparse.ArgumentParser, network: str, weights: str) -> None:
    """Adds the arguments. network, weights: what --model and --weights may be."""
    add = parser.add_argument
    add("--model", required=True, metavar="NAME", help=f"{network}, but digits")
    add("--weights", required=True, metavar="FILE", help=weights)
    add("--out", type=Path, required=True, metavar="DIR", help="of the run: new, or to continue")
    _add_data(parser)
    add(
        "--layers",
        choices=("output", "all"),
        help="what is trained: the output layer or everything (default: output; for tags, all)",
    )
    add(
        "--views",
        type=int,
        metavar="N",
        help="crops and flips of each photograph, drawn once, which the epochs show by turns, so "
        "that all but the output layer is computed once for each; 0: they are drawn anew in every "
        f"epoch, as in the papers, which takes longer (default: {VIEWS}; with --layers all, 0)",
    )
    add(
        "--steps",
        type=int,
        metavar="N",
        help="in all (default: as many as show every photograph 30 times; of tags, 3 times)",
    )
    add(
        "--batch",
        type=int,
        metavar="N",
        help="photographs a step (default: the papers', 64 for CNN-S and GoogLeNet, 32 for others)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of order, crops, flips (default: 0)")
    add("--learning-rate", type=float, default=0.01, metavar="RATE", help="default: %(default)s")
    add("--momentum", type=float, default=0.9, metavar="SHARE", help="default: %(default)s")
    add(
        "--patience",
        type=int,
        metavar="N",
        help="the learning rate is lowered when N measurements of the validation error in a row "
        "were no better than the best before; 0: it is fixed (default, as in the papers: fixed; "
        "for tags, 5)",
    )
    add(
        "--factor", type=float, default=0.1, metavar="SHARE", help="to which (default: %(default)s)"
    )
    add(
        "--validate-every",
        type=int,
        metavar="N",
        help="steps between measurements (default: an epoch's, at most 500)",
    )
    add("--save-every", type=int, default=10, metavar="N", help="steps (default: %(default)s)")


def _add_data(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", required=True, choices=("voc", "coco", "tags"), help="the data set's layout")
    add(
        "--folder",
        type=Path,
        required=True,
        metavar="DIR",
        help="VOC: with JPEGImages, Annotations and ImageSets; COCO: with annotations and the "
        "folder of photographs; tags: with files of JSON lines",
    )
    add(
        "--split",
        required=True,
        metavar="NAME",
        help="to train with. VOC: ImageSets/Main/NAME.txt; COCO: annotations/instances_NAME.json "
        "and NAME/; tags: NAME.jsonl",
    )
    add(
        "--validation",
        metavar="NAME",
        help="another split, to lower the learning rate by (default: every tenth photograph of "
        "--split, at most 2000)",
    )
    add("--test", metavar="NAME", help="another split, to measure at the end")
    add(
        "--classes",
        default="own",
        metavar="own|voc|FILE",
        help="own: VOC's 20, or all categories of the split's COCO file; voc: of COCO, the 20 that "
        "VOC has, by VOC's names; FILE: one name on each line; of tags, FILE is the dictionary "
        "(default: %(default)s)",
    )
    add(
        "--coco",
        type=Path,
        metavar="DIR",
        help="of VOC: train also with the photographs of a folder with annotations/"
        "instances_train2017.json and train2017/ that show a class",
    )
    add(
        "--without-difficult",
        action="store_true",
        help="of VOC: objects that are flagged as difficult do not count",
    )
    add(
        "--dictionary",
        type=int,
        default=18000,
        metavar="N",
        help="of tags: the classes are the N most frequent ones (default: %(default)s)",
    )
    add(
        "--first-tags",
        type=int,
        default=5,
        metavar="N",
        help="of tags: of each photograph only the first N count (default: %(default)s)",
    )
