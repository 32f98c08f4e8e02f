"""Writing data sets of a few small photographs in their original layouts."""

from pathlib import Path

import numpy as np
import pytest
from paths import SHARED
from PIL import Image

HEIGHT, WIDTH = 30, 40
REAL = SHARED / "data"


def real(name: str) -> Path:
    """A folder of real data beside the checkout; skips the test where it is absent."""
    if not (REAL / name).is_dir():
        pytest.skip(f"needs the real data set {REAL / name}")
    return REAL / name


def write_photograph(path: Path, seed: int = 0, **options) -> np.ndarray:
    """A photograph of 30 x 40 noisy pixels; returns what a decoder reads of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return np.asarray(Image.open(path))


def object_xml(names, box=None, extra: str = "") -> str:
    """An <object> of one name or several, with a box xmin, ymin, xmax, ymax or without."""
    names = [names] if isinstance(names, str) else names
    text = "".join(f"<name>{name}</name>" for name in names) + extra
    if box is not None:
        sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        text += f"<bndbox>{''.join(f'<{side}>{x}</{side}>' for side, x in sides)}</bndbox>"
    return f"<object>{text}</object>"


def annotation_xml(*objects: str, height: object = HEIGHT, width: object = WIDTH) -> str:
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size}{''.join(objects)}</annotation>"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
