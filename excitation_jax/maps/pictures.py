"""Photographs in, figures out: reading, composing and writing pictures with Pillow.

Reading refuses with one sentence whatever is no sound photograph. Writing never leaves half a
file: the picture goes to a temporary file beside its destination, which then takes the
destination's name in one step.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

# Suffix of a file name -> Pillow's name of the format.
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

_MARGIN, _GAP = 28, 20  # round the figure; between panels
_PAPER, _INK, _MUTED = "#ffffff", "#1a1a1a", "#5f6368"
_HEADLINE, _TITLE, _DETAIL = 26, 20, 16  # font sizes in pixels
_TITLE_LINE, _DETAIL_LINE, _HEADLINE_LINE = 26, 25, 46


@dataclass(frozen=True)
class Panel:
    """One picture of a figure.

    image: uint8 (H, W, 3).
    title, detail: one line each above it; cut short where wider than the picture.
    """

    image: NDArray[np.uint8]
    title: str
    detail: str = ""


def read_photograph(path: str | os.PathLike[str]) -> Image.Image:
    """The RGB picture in a file, turned the way up its EXIF data say, transparency on white.

    Raises:
        FileNotFoundError, PermissionError, IsADirectoryError: as `open` does.
        ValueError: the file is no image, is damaged or cut off, or has so many pixels that
            Pillow suspects a decompression bomb.
    """
    with open(path, "rb") as file, warnings.catch_warnings():
        # What Pillow has to say about sloppy metadata is not the reader's concern.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(file)
            image.load()
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):  # convert() would cut off, not scale
                upright = upright.point(lambda level: level / 256).convert("L")
            if upright.has_transparency_data:
                layer = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
            return upright.convert("RGB")
        except UnidentifiedImageError:
            raise ValueError(f"{path} is not an image that Pillow can read") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ValueError(f"{path} is too large an image: {error}") from None
        except Exception as error:  # what a decoder raises depends on the byte that is wrong
            raise ValueError(f"{path} is a damaged image: {error}") from error


def check_writable(path: str | os.PathLike[str]) -> None:
    """Finds out whether `write` will be able to write `path`, by writing beside it.

    Call it before a long computation. Leaves nothing behind.

    Raises:
        ValueError: the suffix is none of FORMATS.
        OSError: `path` is a directory, or its folder is missing or cannot be written.
    """
    path = Path(path)
    _format(path)
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a directory")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {path.parent}")
    partial = _partial(path)
    try:
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise type(error)(f"cannot write {path}: {error.strerror}") from error


def write(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Writes a picture in the format its suffix names: all of it or, on any failure, nothing.

    An older file of that name is replaced, and stays as it was where writing fails.

    Raises:
        ValueError: the suffix is none of FORMATS.
        OSError: the file cannot be written, for instance because the disk is full.
    """
    path = Path(path)
    form = _format(path)
    partial = _partial(path)
    try:
        with partial.open("wb") as file:
            image.save(file, format=form)
        os.replace(partial, path)
    except OSError as error:
        raise type(error)(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()


def figure(rows: Sequence[Sequence[Panel]], headline: str, footnote: str) -> Image.Image:
    """Composes panels into one picture: a headline, rows of panels and a footnote.

    All panels take the width of the widest and, within a row, the height of the highest; a
    smaller picture keeps its size and stands at the top left of its place.
    """
    columns = max(len(row) for row in rows)
    cell = max(panel.image.shape[1] for row in rows for panel in row)
    heights = [max(panel.image.shape[0] for panel in row) for row in rows]
    caption = _TITLE_LINE + _DETAIL_LINE
    inner = columns * cell + (columns - 1) * _GAP
    notes = _wrapped(footnote, _font(_DETAIL), inner)
    size = (
        inner + 2 * _MARGIN,
        2 * _MARGIN
        + _HEADLINE_LINE
        + sum(height + caption + _GAP for height in heights)
        + len(notes) * _DETAIL_LINE,
    )
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text(
        (_MARGIN, _MARGIN), _fitted(headline, _font(_HEADLINE), inner), _INK, _font(_HEADLINE)
    )

    top = _MARGIN + _HEADLINE_LINE
    for row, height in zip(rows, heights, strict=True):
        for column, panel in enumerate(row):
            left = _MARGIN + column * (cell + _GAP)
            draw.text((left, top), _fitted(panel.title, _font(_TITLE), cell), _INK, _font(_TITLE))
            draw.text(
                (left, top + _TITLE_LINE),
                _fitted(panel.detail, _font(_DETAIL), cell),
                _MUTED,
                _font(_DETAIL),
            )
            sheet.paste(Image.fromarray(panel.image), (left, top + caption))
        top += height + caption + _GAP
    for line in notes:
        draw.text((_MARGIN, top), line, _MUTED, _font(_DETAIL))
        top += _DETAIL_LINE
    return sheet


def bars(values: Sequence[float], names: Sequence[str], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A bar for each value in [0, 1] with its name and figure; uint8 (H, W, 3) for size (H, W)."""
    height, width = size
    image = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(image)
    font = _font(min(_DETAIL, max(8, height // len(values) - 6)))
    left = max(font.getlength(name) for name in names) + 10
    right = width - font.getlength("0.000") - 10
    step = height / len(values)
    for row, (value, name) in enumerate(zip(values, names, strict=True)):
        middle = (row + 0.5) * step
        draw.text((0, middle), name, _INK, font, anchor="lm")
        draw.rectangle((left, middle - step / 4, right, middle + step / 4), "#eceff1")
        draw.rectangle(
            (left, middle - step / 4, left + value * (right - left), middle + step / 4), "#bc3754"
        )
        draw.text((width, middle), f"{value:.3f}", _MUTED, font, anchor="rm")
    return np.asarray(image)


def greyed(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image (H, W, 3) without its colours, which would be taken for those of a map."""
    return np.asarray(Image.fromarray(image).convert("L").convert("RGB"))


def fitted_size(image: Image.Image, side: int) -> tuple[int, int]:
    """The (height, width) of an image scaled, aspect kept, so that its longer side is `side`."""
    scale = side / max(image.size)
    return max(1, round(image.height * scale)), max(1, round(image.width * scale))


def _format(path: Path) -> str:
    """Pillow's name of the format that the suffix of `path` stands for."""
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        known = ", ".join(FORMATS)
        raise ValueError(
            f"cannot tell the format of {path}: end its name in one of {known}"
        ) from None


def _partial(path: Path) -> Path:
    """The temporary name beside `path` that its content is written under."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """`text`, cut short with dots where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip(" ,") + "..."


def _wrapped(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> list[str]:
    """`text` broken at its blanks into lines of at most `width` pixels."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
