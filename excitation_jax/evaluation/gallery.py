"""A page of pictures in a folder of its own: HTML and CSS, to be read where it lies or moved.

The folder is there as a whole or not at all, whatever happens to the process and however many write
it. Every text may hold anything.
"""

from __future__ import annotations

import contextlib
import errno
import html
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_STALE = 3600  # seconds without a new picture after which a process is taken for dead


class Figure(NamedTuple):
    """A picture with a caption.

    Attributes:
        file: its name in the folder.
        size: its width and height.
        alt: what is to be seen, for who does not see it.
        title: the caption's first line.
        hit: what the verdict beside it is; None: there is none.
        lines: of the caption, under the title.
    """

    file: str
    size: tuple[int, int]
    alt: str
    title: str
    hit: bool | None
    lines: Sequence[str] = ()


class Group(NamedTuple):
    """Figures side by side."""

    title: str
    figures: Sequence[Figure]


class Section(NamedTuple):
    """Groups of figures under a heading and a text."""

    title: str
    text: str
    groups: Sequence[Group]


@dataclass(frozen=True)
class Page:
    """All that the page says.

    Attributes:
        title: its heading.
        text: below it, paragraphs.
        facts: on the experiment, by name.
        table: rows of text, of which the first has the columns' names and each other one begins
            with its own.
        caption: of the table.
        sections: of figures.
    """

    title: str
    text: Sequence[str]
    facts: Mapping[str, str]
    table: Sequence[Sequence[str]]
    caption: str
    sections: Sequence[Section]

    def html(self) -> str:
        """The page."""
        title = _text(self.title)
        paragraphs = "".join(f"<p>{_text(paragraph)}</p>\n" for paragraph in self.text)
        facts = "".join(
            f"<dt>{_text(name)}</dt><dd>{_text(fact)}</dd>\n" for name, fact in self.facts.items()
        )
        links = "".join(
            f'<li><a href="#s{number}">{_text(section.title)}</a></li>\n'
            for number, section in enumerate(self.sections)
        )
        sections = "".join(_section(n, section) for n, section in enumerate(self.sections))
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<header>\n"
            f"<h1>{title}</h1>\n{paragraphs}<dl>\n{facts}</dl>\n{self._table()}"
            f'<nav aria-label="Sections"><ul>\n{links}</ul></nav>\n</header>\n'
            f"<main>\n{sections}</main>\n</body>\n</html>\n"
        )

    def _table(self) -> str:
        head, *rows = self.table
        columns = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in head)
        lines = []
        for first, *cells in rows:
            others = "".join(f"<td>{_text(cell)}</td>" for cell in cells)
            lines.append(f'<tr><th scope="row">{_text(first)}</th>{others}</tr>\n')
        return (
            # What is scrolled sideways on a phone can be reached by the keyboard, too.
            '<div class="wide" tabindex="0" role="region" aria-label="Scores"><table>\n'
            f"<caption>{_text(self.caption)}</caption>\n"
            f"<thead><tr>{columns}</tr></thead>\n<tbody>\n{''.join(lines)}</tbody>\n"
            "</table></div>\n"
        )


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder`, and of what was in it, at the end.

    On an error, and where the process is killed, `folder` stays what it was. Several processes may
    replace it at once: the last one's is left, whole.

    Raises:
        OSError: it cannot be written.
    """
    for left in folder.parent.glob(f".{folder.name}.*"):  # by a process that was killed
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _STALE:
                shutil.rmtree(left, ignore_errors=True)
    new, older = (folder.with_name(f".{folder.name}.{secrets.token_hex(8)}") for _ in range(2))
    new.mkdir()
    try:
        yield new
        while True:
            try:
                os.rename(new, folder)
                break
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            # No call replaces a folder that is not empty: the older one goes out of the way first.
            with contextlib.suppress(FileNotFoundError):  # another process has moved it
                os.rename(folder, older)
            shutil.rmtree(older, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _section(number: int, section: Section) -> str:
    groups = "".join(_group(group) for group in section.groups)
    return (
        f'<section aria-labelledby="s{number}">\n<h2 id="s{number}">{_text(section.title)}</h2>\n'
        f"<p>{_text(section.text)}</p>\n{groups}</section>\n"
    )


def _group(group: Group) -> str:
    figures = "".join(map(_figure, group.figures))
    shown = f'<div class="figures">\n{figures}</div>\n' if figures else ""
    return f"<h3>{_text(group.title)}</h3>\n{shown}"


def _figure(figure: Figure) -> str:
    verdict = "" if figure.hit is None else "hit" if figure.hit else "miss"
    shown = f' <span class="verdict">{verdict}</span>' if verdict else ""
    width, height = figure.size
    lines = "".join(f"<br>{_text(line)}" for line in figure.lines)
    return (
        f'<figure class="{verdict or "plain"}"><a href="{_text(figure.file)}">'
        f'<img src="{_text(figure.file)}" width="{width}" height="{height}" '
        f'alt="{_text(figure.alt)}" loading="lazy"></a>\n'
        f"<figcaption><strong>{_text(figure.title)}</strong>{shown}"
        f"{lines}</figcaption></figure>\n"
    )


def _text(text: str) -> str:
    """Text for HTML, in an attribute's quotes, too.

    What cannot be printed has no place in a page, and some of it, as in names of files that are not
    in UTF-8, cannot be written.
    """
    return html.escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text))


_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1b1c1d; --muted: #5c6166;
  --card: #f3f4f5; --line: #d4d7da; --hit: #116b3a; --miss: #a8201a; --link: #0b57a4; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #16181a; --ink: #e8e9ea; --muted: #a3a9ae; --card: #222527;
    --line: #3b4044; --hit: #6fd79b; --miss: #ff9088; --link: #8ec2ff; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 100rem; padding: 1rem; background: var(--ground);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1, h2, h3 { line-height: 1.25; }
h2 { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { max-width: 50rem; }
a { color: var(--link); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; margin: 1rem 0; }
dt { color: var(--muted); }
dd { margin: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
caption { caption-side: bottom; text-align: left; color: var(--muted); padding: .25rem 0; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; font-variant-numeric: tabular-nums; }
tr > :first-child { text-align: left; padding-left: 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr));
  gap: .75rem; align-items: start; }
figure { margin: 0; background: var(--card); border-top: 4px solid var(--miss);
  border-radius: 4px; overflow: hidden; }
figure.hit { border-top-color: var(--hit); }
figure.plain { border-top-color: var(--line); }
figure a { display: block; }
img { display: block; width: 100%; height: auto; }
figcaption { padding: .5rem .75rem; font-size: .875rem; color: var(--muted); }
strong { color: var(--ink); }
.verdict { float: right; font-weight: bold; color: var(--miss); }
.hit .verdict { color: var(--hit); }
@media (max-width: 30rem) { dl { display: block; } dd { margin-bottom: .5rem; } }
"""
