"""A progress bar: of experiments, images done, images a second, time left."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Bar(NamedTuple):
    """What a bar is told.

    announce: what comes next, which takes a while.
    advance: the number done, of images for instance, and that of all; see `runner.run`.
    """

    announce: Callable[[str], None]
    advance: Callable[[int, int], None]


@contextlib.contextmanager
def bar(doing: str = "evaluating", what: str = "images") -> Iterator[Bar]:
    """A bar on stderr that is gone when done; none where stderr is no terminal.

    Args:
        doing: what it says once something is done.
        what: what is counted.

    Raises:
        ImportError: there is a terminal, and rich is not installed.
    """
    if not sys.stderr.isatty():
        yield Bar(lambda name: None, lambda done, total: None)
        return
    from rich import progress
    from rich.console import Console
    from rich.text import Text

    class Throughput(progress.ProgressColumn):
        """How many a second, of the last half minute."""

        def render(self, task: progress.Task) -> Text:
            return Text(f"{task.speed:.1f} {what}/s" if task.speed else "")

    with progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        Throughput(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as shown:
        task = shown.add_task("", total=None)
        found = 0

        def announce(name: str) -> None:
            shown.update(task, description=name, refresh=True)

        def advance(done: int, total: int) -> None:
            nonlocal task, found
            if shown.tasks[0].total is None:
                # What an earlier run has done is no throughput of this one.
                shown.remove_task(task)
                task = shown.add_task(doing, total=total, completed=done)
            else:
                shown.update(task, advance=done - found)
            found = done

        yield Bar(announce, advance)
