"""Decoding photographs, in any number of threads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps


def read(path: Path, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """The RGB picture (H, W, 3) in a file, turned the way up its EXIF data say.

    `pictures.read_photograph` silences warnings, which one thread would do to all others.

    Args:
        path: of the file.
        size: its height and width according to its annotation. Some annotations are of the picture
            as it is stored: it stays so where only then it has this size.

    Raises:
        FileNotFoundError, PermissionError, IsADirectoryError: as `open` does.
        ValueError: the file is no image, is damaged or cut off, is suspiciously large, or has
            another size.
    """
    with path.open("rb") as file:
        try:
            stored = Image.open(file)
            turned = ImageOps.exif_transpose(stored)
            wanted = None if size is None else size[::-1]
            image = stored if turned.size != wanted == stored.size else turned
            pixels = np.asarray(image.convert("RGB"))
        except Exception as error:  # what a decoder raises depends on the byte that is wrong
            raise ValueError(f"{path} is no image, or a damaged one: {error}") from error
    if size is not None and pixels.shape[:2] != size:
        raise ValueError(
            f"{path} has a height and width of {pixels.shape[:2]}, but its annotation says {size}: "
            "take both from the same data set, and do not resize the photographs"
        )
    return pixels
