"""A network and photographs so small that a training run takes seconds, and such a run.

    python small_training.py VOC DIRECTORY OUT [SECONDS]

trains on the folder VOC with checkpoints in DIRECTORY and writes the result to OUT, unless it is
killed before: it does so itself, SECONDS after its first step.
"""

import os
import signal
import sys
import threading
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from excitation_jax import training

CLASSES = ("cat", "dog", "bus")
COLOURS = np.array([[220, 40, 40], [40, 220, 40], [40, 40, 220]])
OBJECT = "<object><name>{}</name><difficult>{}</difficult></object>"
SETTINGS = dict(batch=4, size=16, resized=20, save_every=3)
LONG = {**SETTINGS, "steps": 60, "seed": 5, "save_every": 1}


class Small(nn.Module):
    """(N, 16, 16, 3) -> (N, 3) by a convolution, a BatchNorm and a classifier."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(8, (3, 3), 2, name="stem")(x))
        x = nn.BatchNorm(use_running_average=True, name="norm")(x)
        return nn.Dense(3, name="logits")(x.mean((1, 2)))


def start():
    """Variables of `Small` before training."""
    found = Small().init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    return training.new_output_layer(Small(), found, size=16)


def write_voc(folder: Path, count: int = 12) -> Path:
    """Photographs of one or two coloured stripes in VOC's layout; the last is only difficult."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"{i:06}" for i in range(count)]
    for i, name in enumerate(names):
        present = rng.permutation(3)[: 1 + i % 2]
        stripes = np.repeat(COLOURS[present], 14 // len(present), axis=0)[:, None]
        pixels = rng.integers(0, 30, (14, 24, 3)) + stripes
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"JPEGImages/{name}.jpg")
        objects = [OBJECT.format(CLASSES[c], int(i == count - 1)) for c in present]
        text = f"<annotation>{''.join(objects)}</annotation>"
        (folder / f"Annotations/{name}.xml").write_text(text)
    (folder / "ImageSets/Main/all.txt").write_text("\n".join(names) + "\n")
    return folder


def equal_bits(one, other) -> bool:
    """Whether two pytrees hold the same bytes."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


def main(voc: str, directory: str, out: str, seconds: str = "") -> None:
    records = training.read_voc(voc, "all", classes=CLASSES)
    kill = threading.Timer(float(seconds or 0), os.kill, (os.getpid(), signal.SIGKILL))

    def on_step(taken: int, loss: float, measured: object) -> None:
        if seconds and not kill.ident:
            kill.start()

    tuned = training.fine_tune(
        Small(), start(), records, directory=directory, on_step=on_step, **LONG
    )
    np.savez(out, **tuned["params"]["logits"])


if __name__ == "__main__":
    main(*sys.argv[1:])
