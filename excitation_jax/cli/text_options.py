"""The arguments of `excitation-jax eval text` that other experiments do not have."""

from __future__ import annotations

import argparse
from pathlib import Path

DESCRIPTION = """\
Text to region: where in a photograph is what a phrase of its caption names? A phrase's map is the
mean of its words', and boxes that are proposed are ranked by the sum of the map in them, divided by
a power of their area. Prints how many phrases are localised by the first 1, 5 and 10 boxes (with an
intersection over union of at least 1/2) and mean average precision, and writes them to DIR as
text.json.

  excitation-jax eval text --data digits --model digits --proposals grid --out digits_text
  excitation-jax eval text --data flickr30k --folder Flickr30kEntities --split test \\
      --model googlenet_tags --weights tags.caffemodel --words tags.txt --view papers --out run

The network's outputs must be words; the digits model knows "zero" to "nine". Proposals in a file
are lines of JSON, {"key": "36979", "boxes": [[x0, y0, x1, y1], ...]}, in pixels, the best first.
"""


def add_data(parser: argparse.ArgumentParser) -> None:
    """Adds what says which captions of which photographs."""
    add = parser.add_argument
    add("--data", required=True, choices=("flickr30k", "digits"), help="the data set's layout")
    add("--folder", type=Path, metavar="DIR", help="with Sentences, Annotations and NAME.txt")
    add("--split", metavar="NAME", help="the photographs that NAME.txt lists, such as test")
    add(
        "--images",
        type=Path,
        metavar="DIR",
        help="the photographs (default: flickr30k-images in the folder)",
    )
    add("--limit", type=int, metavar="N", help="only the first N photographs")


def add_regions(parser: argparse.ArgumentParser) -> None:
    """Adds what says how words become boxes."""
    add = parser.add_argument
    add(
        "--words",
        type=Path,
        metavar="FILE",
        help="one word on each line, in the order of the network's outputs (digits has its own)",
    )
    add(
        "--proposals",
        default="selective-search",
        metavar="WHAT",
        help="selective-search (OpenCV's), grid (boxes at even distances) or a file of proposals "
        "(default: %(default)s)",
    )
    add(
        "--proposals-limit",
        type=int,
        default=500,
        metavar="N",
        help="of a photograph, the first ones (default: %(default)s)",
    )
    add(
        "--gamma",
        type=float,
        default=0.5,
        metavar="POWER",
        help="of a box's area, by which the sum of the map in it is divided: 0 favours large "
        "boxes, 1 small ones (default: %(default)s, this project's choice)",
    )
