"""The plot of categories, and the intervals."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binomtest

from excitation_jax.evaluation import plots
from excitation_jax.evaluation.intervals import wilson


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_is_that_of_scipy(counts):
    wanted = binomtest(*counts).proportion_ci(0.95, "wilson")
    np.testing.assert_allclose(wilson(*counts), wanted, rtol=1e-12, atol=1e-15)


def test_of_no_pairs_nothing_is_known():
    assert wilson(0, 0) == (0, 1)


def panels_of(methods, classes, seed=0):
    rng = np.random.default_rng(seed)
    pairs = np.tile(rng.integers(1, 300, classes), (methods, 1))
    hits = rng.binomial(pairs, 0.5)
    means = (hits / pairs).mean(axis=1).tolist()
    none = np.zeros_like(pairs)
    return [
        plots.Panel("all pairs", hits, pairs, means),
        plots.Panel("difficult", none, none, [np.nan] * methods),
    ]


def test_every_share_is_where_it_belongs_and_what_is_absent_is_left_out():
    all_pairs, difficult = panels_of(3, 5)
    all_pairs.pairs[:, 2] = all_pairs.hits[:, 2] = 0
    names = ["a", "b", "absent", "c", "d"]
    figure = plots.per_category("title", ["x", "y", "z"], names, [all_pairs, difficult])
    axes = figure.axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["mean over categories", "share of all pairs, 95 %", "a", "b", "c", "d"]
    found = [line.get_xydata() for line in axes.lines]
    for m in range(3):
        for row, c in enumerate((0, 1, 3, 4), 2):
            wanted = 100 * all_pairs.hits[m, c] / all_pairs.pairs[m, c]
            own = [
                xy for line in found for xy in line if round(xy[1]) == row and len(line) == 4
            ]  # of all methods, within the row
            assert len(own) == 3 and np.isclose(own[m][0], wanted) and abs(own[m][1] - row) < 0.45
    counts = [text.get_text() for text in axes.texts]
    total = all_pairs.pairs[0].sum()
    assert counts == [str(total), *map(str, all_pairs.pairs[0, [0, 1, 3, 4]]), "pairs"]


@pytest.mark.parametrize(("classes", "methods"), [(20, 2), (80, 6)])
def test_a_picture_is_as_high_as_its_categories_need(classes, methods):
    hostile = ["$\\frac{", "<b>", "\u718a", "a\nb", "x" * 200] * (classes // 5)
    figure = plots.per_category(
        "$ title", [f"method {m}" for m in range(methods)], hostile, panels_of(methods, classes)
    )
    with Image.open(io.BytesIO(plots.png(figure))) as image:
        assert image.format == "PNG"
        assert 1400 <= image.width <= 1500
        assert 30 <= image.height / classes <= 100  # pixels
