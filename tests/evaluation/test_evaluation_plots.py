"""The plot of categories, and the intervals."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binomtest

from excitation_jax.evaluation import plots
from excitation_jax.evaluation.intervals import wilson
from excitation_jax.evaluation.pointing.layers import LayerTable
from excitation_jax.evaluation.pointing.pointing_game import Counts
from excitation_jax.evaluation.pointing.table import PointingTable


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


def layer_table():
    """Methods a and b at layers x and y, but b not at x; c without a layer."""
    names = {"a@x": "A at x", "a@y": "A at y", "b@y": "B at y", "c": "C", "centre": "centre"}
    hits = np.arange(5)[:, None, None] + np.array([[1, 3], [0, 0]])
    pairs = np.tile(np.array([[8, 8], [8, 0]]), (5, 1, 1))
    counts = Counts(np.minimum(hits, pairs), pairs)
    ends = np.stack([np.full((5, 2), 0.1), np.full((5, 2), 0.9)], axis=-1)
    return LayerTable(PointingTable("t", "kl", names, counts, 4, intervals=ends), ["x", "y"])


def test_a_table_of_layers_has_each_methods_score_where_it_was_read():
    table = layer_table()
    assert table.methods() == {"a": "A", "b": "B"}
    wanted = [[4 / 16, 6 / 16], [np.nan, 8 / 16]]
    np.testing.assert_allclose(table.scores(0), wanted)
    np.testing.assert_allclose(table.scores(1), [[0, 1 / 8], [np.nan, 2 / 8]])
    assert np.isnan(table.intervals(0)[1, 0]).all() and (table.intervals(0)[0] == [0.1, 0.9]).all()
    lines = str(table).splitlines()
    assert lines[1:4] == ["      x     y", "A  25.0  37.5", "B     -  50.0"]
    found = json.loads(table.json())["methods"]
    assert found["b"]["difficult"] == {"x": None, "y": 0.25}


def test_lines_over_layers_are_where_the_scores_are():
    table = layer_table()
    panels = [
        plots.Curves(str(subset), table.scores(subset), table.intervals(subset))
        for subset in (0, 1)
    ]
    figure = plots.per_layer("title", ["A", "$B_"], ["x", "$y"], panels)
    for subset, axes in enumerate(figure.axes):
        lines = [line.get_xydata() for line in axes.lines if len(line.get_xydata()) == 2]
        found = [own for own in lines if abs(own[0, 0]) < 0.5 < own[1, 0]]
        assert len(found) == 2
        for own, wanted in zip(found, 100 * table.scores(subset), strict=True):
            np.testing.assert_allclose(own[:, 1], wanted)
            assert (abs(own[:, 0] - [0, 1]) < 0.2).all()
        assert len(axes.containers) == 3  # an interval for each score that there is
        assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "$y"]
    with Image.open(io.BytesIO(plots.png(figure))) as picture:
        assert picture.width > 900


def test_classes_and_what_is_counted_are_called_what_they_are():
    figure = plots.per_category("t", ["x"] * 2, "ab", panels_of(2, 2), ("groups", "phrases"))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:2] == ["mean over groups", "share of all phrases, 95 %"]
    assert figure.axes[0].texts[-1].get_text() == "phrases"
