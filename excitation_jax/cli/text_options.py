"""The arguments of `excitation-jax eval text` that other experiments do not have."""

from __future__ import annotations

import argparse
from pathlib import Path

DESCRIPTION = """\
Text to region: where in a photograph is what a phrase of its caption names? A phrase's map is the
mean of its words', and regions that are proposed are ranked by the sum of the map in them, divided
by a power of their area, gamma: the best of 0, 0.25, ..., 1 on photographs that are held out.
Prints the papers' Tables 6 and 7: how many phrases are localised by the first 1, 5 and 10 boxes
(with an intersection over union of at least 1/2) and mean average precision, of all phrases and of
small instances, and recall of each group. Writes them to DIR as text.json, with each group in
text.png and maps of phrases and words to look at in gallery/index.html.

  excitation-jax eval text --data digits --model digits --proposals grid --out digits_text
  excitation-jax eval text --data flickr30k --folder Flickr30kEntities --split test \\
      --model googlenet_tags --weights tags.caffemodel --words tags.txt --view papers \\
      --methods gradient,guided-backprop,cam,mwp,c-mwp --proposals mcg.jsonl --out run

The network's outputs must be words; the digits model knows "zero" to "nine". Proposals in a file
are lines of JSON, {"key": "36979", "boxes": [[x0, y0, x1, y1], ...]}, in pixels, the best first,
or {"key": "36979", "segmentations": [...]}, COCO's run-length codes; "scores": [...] beside them
are the proposals' own, which make a row of the table.
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
        metavar="POWER",
        help="of a region's area, by which the sum of the map in it is divided: 0 favours large "
        "ones, 1 small ones (default: for each method the best of 0, 0.25, ..., 1)",
    )
    add(
        "--held-out",
        type=int,
        default=10,
        metavar="N",
        help="gamma is chosen on every N-th photograph, the first included, unless it is given "
        "(default: %(default)s)",
    )
