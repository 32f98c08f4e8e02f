"""Reading what may be anything: errors name the file and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from .records import Box

# The longest annotation of VOC has some 40 kB. One of gigabytes is not read into memory.
_LONGEST_XML = 4_000_000  # bytes

# Whether pixels are counted from 0 or from 1 was not always clear to who annotated them.
_OVERHANG = 1  # pixels that a box may reach over the image's edge; they are cut off


def read(path: Path, what: str, longest: int | None = None) -> bytes:
    """The content of a file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it has more than `longest` bytes.
    """
    try:
        if longest is not None and path.stat().st_size > longest:
            raise ValueError(f"{path} has more than {longest} bytes: it is no {what}")
        return path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"there is no {what} {path}: check the folder's name, or unpack the data set again"
        ) from None


def read_lines(path: Path, what: str) -> list[str]:
    """The lines of a text file that are not blank.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no UTF-8.
    """
    try:
        text = read(path, what).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no text in UTF-8: {error}; convert it, or unpack it again"
        ) from None
    return [line for line in text.splitlines() if line.strip()]


def read_classes(path: Path) -> tuple[str, ...]:
    """The names of classes, one on each line, in the order of a network's outputs.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no UTF-8, has no line, or has a name twice.
    """
    names = tuple(line.strip() for line in read_lines(path, "file of classes"))
    if not names:
        raise ValueError(f"{path} has no names of classes: expected one on each line")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{path} has the class {twice[0]!r} twice: take one out")
    return names


def read_names(listing: Path) -> list[str]:
    """The names of photographs in the first column of a list, such as a split of VOC's.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: it is empty, or has a name twice or one that is no plain file name.
    """
    # VOC's lists of one class have a second column, which says whether the class is there.
    names = [line.split()[0] for line in read_lines(listing, "split")]
    if not names:
        raise ValueError(f"{listing} lists no photographs: expected a name on each line")
    seen = set()
    for name in names:
        check_plain(name, listing)
        if name in seen:
            raise ValueError(f"{listing} lists {name} twice: take one out")
        seen.add(name)
    return names


def check_plain(name: str, listing: Path) -> None:
    """Refuses a name that could lead out of a folder.

    Raises:
        ValueError: it is no plain file name.
    """
    if name != Path(name).name or "\\" in name or "\0" in name or name in ("..", ""):
        raise ValueError(
            f"{listing} lists {name!r}, which is no name of a photograph: "
            "expected one without folders"
        )


def check_photograph(path: Path, listing: Path) -> Path:
    """`path`, which is a file.

    Raises:
        FileNotFoundError: it is not.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no photograph {path}, which {listing} lists: "
            "put it there, or take it out of the list"
        )
    return path


class _PlainTree(ElementTree.TreeBuilder):
    """Refuses a document type: only in one can entities be defined, which can be bombs."""

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise ValueError("it has a document type, as no annotation of VOC's does")


def read_annotation(path: Path) -> ElementTree.Element:
    """The root of an XML file in the format of VOC's annotations.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no XML, is not an annotation, has a document type, or is too long.
    """
    text = read(path, "annotation", _LONGEST_XML)
    try:
        tree = ElementTree.fromstring(text, ElementTree.XMLParser(target=_PlainTree()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"{path} is no XML file of VOC's: {error}; unpack it again") from None
    if tree.tag != "annotation":
        raise ValueError(
            f"{path} is no annotation of VOC's: its root is <{tree.tag}>, not <annotation>"
        )
    return tree


def cut_box(box: Box, size: tuple[int, int], *, shown: str, empty: bool = False) -> Box:
    """A box without what reaches over the image's edge, by a pixel at most.

    Args:
        box: x0, y0, x1, y1.
        size: height and width of the image.
        shown: file and box as an error names them.
        empty: whether a box may be without area.

    Raises:
        ValueError: the box ends before it begins, reaches outside of the image, or has no area.
    """
    height, width = size
    if not (box[0] <= box[2] and box[1] <= box[3]):  # not for NaN, either
        raise ValueError(f"{shown} ends before it begins: correct it, or take the object out")
    low, high = -_OVERHANG, _OVERHANG
    outside = box[0] < low or box[1] < low or box[2] > width + high or box[3] > height + high
    x0, y0 = max(box[0], 0.0), max(box[1], 0.0)
    x1, y1 = min(box[2], float(width)), min(box[3], float(height))
    if outside or x0 > x1 or y0 > y1:
        raise ValueError(
            f"{shown} reaches outside of the image, which has a width of {width} and a height of "
            f"{height}: correct it, or take the object out"
        )
    if not empty and (x0 == x1 or y0 == y1):
        raise ValueError(f"{shown} has no area: correct it, or take the object out")
    return x0, y0, x1, y1


def listed(names: Iterable[str], most: int = 5) -> str:
    """Names for an error, the first few of them."""
    names = list(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
