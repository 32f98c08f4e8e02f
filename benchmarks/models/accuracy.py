"""Accuracy of the registered networks with their real weights.

    python -m benchmarks.models.accuracy --weights FOLDER --photographs FOLDER --cifar FILE.npz

The first folder holds the .npz files by the names below; a photograph's file name begins with the
index of its class; FILE.npz holds x (N, 32, 32, 3) uint8 and y (N,). Networks whose file is missing
are left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from excitation_jax import models

FILES = {
    "squeezenet_v1_0_caffe": "squeezenet_v1_0.npz",
    "mobilenet_v1_025": "mobilenet_v1_025_224.npz",
    "mobilenet_v2": "mobilenet_v2_100_224_int8.npz",
    "cifar_resnet20": "cifar10_resnet20.npz",
    "cifar_resnet32": "cifar10_resnet32.npz",
}
BATCH = 20


def logits(name: str, weights: Path, images: list[Any]) -> np.ndarray:
    """(N, classes) of pictures, each prepared as the registry says."""
    spec = models.get(name)
    model, variables = models.load(name, weights)
    forward = jax.jit(model.apply)
    found = []
    for start in range(0, len(images), BATCH):
        batch = [np.asarray(spec.preprocessing(image)) for image in images[start : start + BATCH]]
        found.append(np.asarray(forward(variables, np.concatenate(batch))))
    return np.concatenate(found)


def measure(weights: Path, photographs: Path, cifar: Path) -> Iterator[dict[str, Any]]:
    """Top-1 and top-5 of each network."""
    paths = sorted(photographs.glob("*.jpg"))
    with np.load(cifar, allow_pickle=False) as file:
        small, labels = list(file["x"]), file["y"]
    for name, file_name in FILES.items():
        if not (weights / file_name).exists():
            continue
        if models.get(name).class_names == "cifar10":
            pictures: list[Any] = small
            truth = labels
        else:
            pictures = [Image.open(path).convert("RGB") for path in paths]
            truth = np.array([int(path.name.split("_")[0]) for path in paths])
        ranked = np.argsort(-logits(name, weights / file_name, pictures), axis=1)[:, :5]
        hits = ranked == truth[:, None]
        yield {
            "network": name,
            "images": len(truth),
            "top-1": float(hits[:, 0].mean()),
            "top-5": float(hits.any(axis=1).mean()),
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--cifar", type=Path, required=True)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    rows = []
    for row in measure(options.weights, options.photographs, options.cifar):
        rows.append(row)
        print(f"{row['network']:24} {row['images']:5} {row['top-1']:7.1%} {row['top-5']:7.1%}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
