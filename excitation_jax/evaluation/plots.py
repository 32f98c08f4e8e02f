"""Each category's share of hits, of several methods side by side."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .intervals import wilson

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
except ImportError as error:
    raise ImportError('the plot needs matplotlib: pip install "excitation-jax[eval]"') from error

# Told apart by those who see few colours, too (Okabe and Ito), and by their markers; there are
# more pairs of both than methods.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#333333")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
_LONGEST = 28  # characters of a name
_COLUMNS = 4  # of the legend
_DPI = 150


class Panel(NamedTuple):
    """Hits of pairs, of all or of some of them.

    Attributes:
        title: which pairs.
        hits, pairs: integers (methods, classes).
        means: of each method, the score of all categories, between 0 and 1 or NaN.
        intervals: of 95 % of the means, (methods, 2); None where they are not known.
    """

    title: str
    hits: NDArray[np.int64]
    pairs: NDArray[np.int64]
    means: Sequence[float]
    intervals: NDArray[np.float64] | None = None


def per_category(
    title: str,
    methods: Sequence[str],
    classes: Sequence[str],
    panels: Sequence[Panel],
    called: tuple[str, str] = ("categories", "pairs"),
) -> Figure:
    """A dot for each category and method at its share of hits, and the number of pairs beside it.

    On top are each method's score, with its interval where it is known, and its share of all pairs
    with that share's own (`intervals.wilson`), 95 % both. Categories without pairs are left out.

    Args:
        title: of the figure.
        methods, classes: what to call them.
        panels: side by side.
        called: what the classes are called, and what is counted.

    Returns:
        A figure as high as the categories need.
    """
    there = np.flatnonzero(sum(panel.pairs.sum(axis=0) for panel in panels))
    names = [
        f"mean over {called[0]}, 95 %"
        if all(panel.intervals is not None for panel in panels)
        else f"mean over {called[0]}",
        f"share of all {called[1]}, 95 %",
        *(_name(classes[c]) for c in there.tolist()),
    ]
    row = max(0.21, 0.06 * len(methods) + 0.06)  # inches, so that no dot hides another
    size = (2.4 + 3.6 * len(panels), 1.5 + 0.25 * -(-len(methods) // _COLUMNS) + row * len(names))
    figure = Figure(figsize=size, layout="constrained")
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(all_axes, panels, strict=True):
        _draw(axes, panel, there, called[1])
    # Category names stand at the left of all panels; the first row is at the top.
    all_axes[0].set_yticks(range(len(names)), names, parse_math=False)
    all_axes[0].set_ylim(len(names) - 0.5, -0.5)
    _legend(figure, title, methods, joined=False)
    return figure


class Curves(NamedTuple):
    """Scores of methods at each of some layers.

    Attributes:
        title: of which pairs.
        scores: (methods, layers), between 0 and 1; NaN where there is none.
        intervals: of 95 % of them, (methods, layers, 2); NaN where they are not known.
    """

    title: str
    scores: NDArray[np.float64]
    intervals: NDArray[np.float64]


def per_layer(
    title: str, methods: Sequence[str], layers: Sequence[str], panels: Sequence[Curves]
) -> Figure:
    """A line for each method over the layers, with the intervals of its scores.

    Args:
        title: of the figure.
        methods, layers: what to call them, the layers from left to right.
        panels: side by side.
    """
    width = max(3.4, 0.9 * len(layers) + 1)
    size = (width * len(panels), 4 + 0.25 * -(-len(methods) // _COLUMNS))
    figure = Figure(figsize=size, layout="constrained")
    for axes, panel in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True
    ):
        for m in range(len(methods)):
            aside = (m - (len(methods) - 1) / 2) * 0.3 / len(methods)
            for layer, (score, ends) in enumerate(
                zip(panel.scores[m], panel.intervals[m], strict=True)
            ):
                if np.isfinite(ends).all():
                    edges = 100 * np.clip([score - ends[0], ends[1] - score], 0, None)
                    axes.errorbar(
                        layer + aside, 100 * score, yerr=edges[:, None], **_style(m), elinewidth=1
                    )
            places = np.arange(len(layers)) + aside
            axes.plot(places, 100 * panel.scores[m], linewidth=1, **_style(m))
        axes.set_title(panel.title, fontsize=10)
        axes.set_xticks(range(len(layers)), [_name(layer) for layer in layers], rotation=30)
        for label in axes.get_xticklabels():
            label.set_parse_math(False)
        axes.set_xlim(-0.5, len(layers) - 0.5)
        axes.set_ylim(0, 102)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.tick_params(labelsize=8.5, length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
    figure.axes[0].set_ylabel("mean over categories, %")
    _legend(figure, title, methods, joined=True)
    return figure


def _legend(figure: Figure, title: str, methods: Sequence[str], joined: bool) -> None:
    """The figure's title and its methods, above it; joined: whether by lines."""
    handles = [
        Line2D([], [], linestyle="-" if joined else "", **_style(m)) for m in range(len(methods))
    ]
    legend = figure.legend(
        handles,
        [_name(method) for method in methods],
        loc="outside upper center",
        ncols=min(_COLUMNS, len(methods)),
        frameon=False,
        title=_name(title, 90),
        title_fontsize="large",
    )
    for text in (legend.get_title(), *legend.get_texts()):
        text.set_parse_math(False)


def png(figure: Figure) -> bytes:
    """The figure as the content of a file."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script that the font does not have is shown as boxes.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(content, format="png", dpi=_DPI)
    return content.getvalue()


def _draw(axes: Axes, panel: Panel, there: NDArray[np.intp], counted: str) -> None:
    methods = len(panel.hits)
    hits, pairs = panel.hits[:, there], panel.pairs[:, there]
    rows = 2 + np.arange(len(there))
    for band in range(1, len(rows) + 2, 2):
        axes.axhspan(band - 0.5, band + 0.5, color="#f2f3f4", linewidth=0, zorder=0)
    axes.axhline(1.5, color="#666666", linewidth=0.8)
    for m in range(methods):
        aside = (m - (methods - 1) / 2) * 0.8 / methods
        style = {**_style(m), "linestyle": "", "zorder": 3}
        ends = None if panel.intervals is None else panel.intervals[m]
        _bar(axes, panel.means[m], ends, aside, style)
        total = int(pairs[m].sum())
        if total:
            ends = np.array(wilson(int(hits[m].sum()), total))
            _bar(axes, int(hits[m].sum()) / total, ends, 1 + aside, style)
        own = pairs[m] > 0
        axes.plot(100 * hits[m, own] / pairs[m, own], rows[own] + aside, **style)
    counts = [int(pairs[0].sum()), *pairs[0].tolist()]
    for row, count in enumerate(counts, 1):
        axes.text(
            1.02,
            row,
            str(count),
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=8,
            color="#444444" if count else "#aaaaaa",
        )
    axes.text(1.02, 0, counted, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlim(-3, 103)
    axes.set_xlabel("hits, %")
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="both", labelsize=8.5, length=0)
    # Where there are many categories, no one has to look for the scale at the other end.
    axes.tick_params(axis="x", top=True, labeltop=True)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _bar(
    axes: Axes, share: float, ends: NDArray[np.float64] | None, row: float, style: dict[str, Any]
) -> None:
    """A dot at a share, with its interval where there is one."""
    sides = None
    if ends is not None and np.isfinite(ends).all():
        sides = [[100 * max(share - ends[0], 0)], [100 * max(ends[1] - share, 0)]]
    axes.errorbar(100 * share, row, xerr=sides, elinewidth=1, **style)


def _style(method: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[method % len(_COLOURS)],
        "marker": _MARKERS[method % len(_MARKERS)],
        "markersize": 4.5,
        "markeredgewidth": 0,
    }


def _name(text: str, longest: int = _LONGEST) -> str:
    """A name on one line, cut short where it is long."""
    line = "".join(c if c.isprintable() else "?" for c in text)
    return line if len(line) <= longest else f"{line[: longest - 3]}..."
