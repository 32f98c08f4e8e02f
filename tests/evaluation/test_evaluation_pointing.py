"""The pointing game's scores against an implementation of loops, on random maps and regions."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from excitation_jax import maps, metrics
from excitation_jax.data import Dataset, Example, Object, is_difficult
from excitation_jax.data.own_shape import OwnShape
from excitation_jax.data.pipeline import Batch
from excitation_jax.evaluation import runner
from excitation_jax.evaluation.choice import Outcome
from excitation_jax.evaluation.pointing import pointing_game as pointing
from excitation_jax.evaluation.pointing.pointing_game import PAPER, TORCHRAY, PointingGame, Rules
from excitation_jax.evaluation.pointing.table import PointingTable
from excitation_jax.evaluation.points import PlacedMaps, Questions, points
from excitation_jax.evaluation.store import Store
from excitation_jax.models import Preprocessing

CLASSES = ("cat", "dog", "cow", "owl")


def plain_hit(region, point, rules):
    """Loops over all pixels, in exact arithmetic."""
    for row in range(region.shape[0]):
        for column in range(region.shape[1]):
            if region[row, column]:
                squared = (row - point[0]) ** 2 + (column - point[1]) ** 2
                limit = rules.tolerance**2
                if squared < limit or (squared == limit and not rules.strict):
                    return True
    return False


def plain_scores(dataset, found, rules, difficult):
    """(all, difficult) of points {(place, class): (row, column)}, with Python's numbers only."""
    scores = []
    for subset in (False, True):
        hits, misses = dict.fromkeys(CLASSES, 0), dict.fromkeys(CLASSES, 0)
        for place, example in enumerate(dataset):
            for category in CLASSES:
                own = [item for item in example.objects if item.category == category]
                if not own:
                    continue
                if not rules.all_difficult and all(item.difficult for item in own):
                    continue
                if subset and not difficult(example, category, masks=dataset.masks):
                    continue
                region = np.zeros(example.size, bool)
                for item in own:
                    if dataset.masks and item.mask is not None:
                        region |= item.mask()
                    else:
                        for row in range(example.size[0]):
                            for column in range(example.size[1]):
                                x0, y0, x1, y1 = item.box
                                if x0 <= column + 0.5 < x1 and y0 <= row + 0.5 < y1:
                                    region[row, column] = True
                hit = plain_hit(region, found[place, CLASSES.index(category)], rules)
                (hits if hit else misses)[category] += 1
        shares = [
            hits[c] / max(hits[c] + misses[c], 1)
            for c in CLASSES
            if hits[c] + misses[c] or rules.absent_as_zero
        ]
        scores.append(sum(shares) / len(shares) if shares else math.nan)
    return scores


class Bitmap:
    """A mask."""

    def __init__(self, pixels):
        self.pixels = pixels

    def __call__(self):
        return self.pixels


@st.composite
def games(draw):
    """A data set of boxes or masks, and a point for each of its photographs and classes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    masks = draw(st.booleans())
    examples, found = [], {}
    for place in range(draw(st.integers(1, 5))):
        size = height, width = tuple(rng.integers(4, 30, 2).tolist())
        objects = []
        for category in rng.choice(CLASSES, rng.integers(0, 5)):
            x0, y0 = rng.uniform(0, width - 1), rng.uniform(0, height - 1)
            box = (x0, y0, rng.uniform(x0, width), rng.uniform(y0, height))
            if rng.random() < 0.5:
                box = tuple(map(float, map(math.floor, box)))
            pixels = Bitmap(rng.random(size) < 0.1) if rng.random() < 0.8 else None
            objects.append(Object(str(category), box, bool(rng.random() < 0.3), mask=pixels))
        examples.append(Example(str(place), None, size, tuple(objects)))
        for c in range(len(CLASSES)):
            found[place, c] = (int(rng.integers(height)), int(rng.integers(width)))
    return Dataset("random", CLASSES, tuple(examples), masks=masks), found


def records_of(game, dataset, found, batch):
    """The records of points that are given, in batches."""
    made = []
    for first in range(0, len(dataset), batch):
        examples = list(dataset)[first : first + batch]
        images, windows = np.zeros((batch, 2, 2, 3), np.float32), np.zeros((batch, 4))
        rows = Batch(images, np.zeros(batch, bool), np.full(batch, -1), windows)
        classes = game.inputs(examples, rows).classes
        places = np.array(
            [[[found[first + row, c] for c in classes[row]]] for row in range(len(examples))]
        )
        finite = np.ones((len(examples), 1), bool)
        made.append(game.records(examples, pointing.Points(places, finite)))
    return made


@settings(max_examples=60, deadline=None)
@given(
    games(),
    st.sampled_from([PAPER, TORCHRAY]),
    st.sampled_from([0.0, 1, 2.5, 5, 15]),
    st.integers(1, 3),
)
def test_scores_equal_those_of_loops(game, rules, tolerance, batch):
    dataset, found = game
    rules = Rules(tolerance, rules.strict, rules.all_difficult, rules.absent_as_zero)
    played = PointingGame(dataset, {"m": lambda *_: None}, rules)
    blocks = records_of(played, dataset, found, batch)
    counts = pointing.count(blocks)
    middle = {
        (place, c): tuple((side - 1) / 2 for side in dataset[place].size) for place, c in found
    }
    for method, at in enumerate([found, middle]):
        wanted = plain_scores(dataset, at, rules, is_difficult)
        got = [
            pointing.accuracy(counts.hits[method, s], counts.pairs[method, s], rules)
            for s in (0, 1)
        ]
        np.testing.assert_allclose(got, wanted, rtol=1e-12)
    # Records are pairs, and a table is the same whatever the order that they came in.
    whole = np.concatenate(blocks)
    listed = list(pointing.outcomes(blocks))
    assert listed == list(pointing.outcomes([whole]))
    assert len({(o.place, o.category) for o in listed}) == len(listed) == counts.pairs[0, 0].sum()
    assert sum(o.difficult for o in listed) == counts.pairs[0, 1].sum()
    for method in range(len(whole[0])):
        assert sum(o.hits[method] for o in listed) == counts.hits[method, 0].sum()
    again = pointing.count(reversed(blocks))
    tables = [
        PointingTable("random", CLASSES, {"m": "M", "c": "centre"}, own, len(dataset), rules)
        for own in (counts, again)
    ]
    assert str(tables[0]) == str(tables[1]) and tables[0].json() == tables[1].json()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 3, 15]))
def test_a_hit_is_that_of_the_metric_on_arrays(seed, tolerance):
    rng = np.random.default_rng(seed)
    region = rng.random((40, 33)) < rng.choice([0, 0.002, 0.05])
    heat = rng.random((40, 33)).astype(np.float32)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    wanted = metrics.pointing_game(jnp.asarray(heat), jnp.asarray(region), tolerance)
    assert pointing.is_hit(region, row, column, Rules(tolerance)) == bool(wanted)


def test_exactly_the_tolerance_hits_for_the_paper_and_misses_for_torchray():
    region = np.zeros((50, 50), bool)
    region[9, 12] = True
    assert pointing.is_hit(region, 0, 0, PAPER) and not pointing.is_hit(region, 0, 0, TORCHRAY)
    assert pointing.is_hit(region, 0, 1, TORCHRAY)
    assert not pointing.is_hit(region, 25, 12, PAPER) and pointing.is_hit(region, 24, 12, PAPER)


def ask(heats, windows, sizes, canvas, blur=0.0, side=12, grid=None):
    """The points of maps (N, K, h, w) of one method, whose cells lie on this grid."""
    heats = jnp.asarray(heats, jnp.float32)
    count, k = heats.shape[:2]
    questions = Questions(
        jnp.zeros((count, side, side, 3)),
        jnp.zeros((count, k), jnp.int32),
        jnp.asarray(windows, jnp.float32),
        jnp.asarray(sizes, jnp.int32),
    )

    def run(heats):
        method = PlacedMaps(lambda *_: heats, grid)
        return points({"m": method}, None, questions, canvas, blur)

    run = jax.jit(run)
    found = run(heats)
    return np.asarray(found.places)[:, 0], np.asarray(found.finite)[:, 0]


def test_points_are_those_of_maps_resized_to_the_photographs():
    rng = np.random.default_rng(1)
    sizes = [(31, 45), (50, 20), (5, 50)]
    heats = rng.normal(size=(3, 4, 7, 6))
    windows = [(0, 0, width, height) for height, width in sizes]
    found, finite = ask(heats, windows, sizes, (50, 50))
    assert finite.all()
    for row, size in enumerate(sizes):
        wanted = maps.point(maps.resize(jnp.asarray(heats[row], jnp.float32), size))
        np.testing.assert_array_equal(found[row], np.stack(wanted, axis=-1))


def test_points_are_where_cells_looked():
    """At 5, 17, ... of 64 pixels in rows, which a photograph of 100 pixels shows twice as large."""
    grid = maps.Grid((12, 8), (5, 7.5), (64, 48))
    sizes, window = [(100, 90)], (0.0, -14.0, 96.0, 114.0)
    for cell in ((2, 1), (3, 5), (4, 0)):
        heats = np.zeros((1, 1, 5, 6))
        heats[(0, 0, *cell)] = 1
        (((row, column),),), _ = ask(heats, [window], sizes, (110, 100), grid=grid)
        assert abs(row + 0.5 - (2 * (5 + 12 * cell[0] + 0.5) - 14)) <= 0.5
        assert abs(column + 0.5 - min(2 * (7.5 + 8 * cell[1] + 0.5), 90)) <= 0.5
    whole = np.random.default_rng(5).normal(size=(1, 3, 5, 6))
    found, _ = ask(whole, [(0, 0, 96, 128)], [(128, 96)], (128, 96), grid=grid)
    wanted = maps.point(maps.resize(jnp.asarray(whole[0], jnp.float32), (128, 96), grid))
    np.testing.assert_array_equal(found[0], np.stack(wanted, axis=-1))


def test_where_cells_looked_may_depend_on_the_size_of_the_images():
    whole = np.random.default_rng(5).normal(size=(1, 3, 5, 6))
    args = whole, [(0, 0, 96, 128)], [(128, 96)], (128, 96)
    grids = {(12, 12): maps.Grid((2, 2), (2, 1), (12, 12))}
    of_size, plain = (ask(*args, grid=grid)[0] for grid in (grids.__getitem__, None))
    np.testing.assert_array_equal(of_size, ask(*args, grid=grids[12, 12])[0])
    assert (of_size != plain).any()


def test_points_of_photographs_in_their_own_shape_lie_where_these_are_bright(tmp_path):
    rng = np.random.default_rng(0)
    examples = []
    for place, (height, width) in enumerate([(60, 90), (90, 61), (60, 91), (50, 50)]):
        y, x = (int(rng.integers(4, side - 8)) for side in (height, width))
        pixels = rng.integers(0, 60, (height, width, 3), np.uint8)
        pixels[y : y + 4, x : x + 4] = 255
        found = (Object("cat", (x, y, x + 4, y + 4)),)
        examples.append(Example(str(place), None, (height, width), found, pixels=pixels))
    dataset = Dataset("bright", CLASSES, tuple(examples))
    bright = {"bright": lambda v, x, c: jnp.tile(x[:, None, ..., 0], (1, c.shape[1], 1, 1))}
    game = PointingGame(dataset, bright, Rules(tolerance=1))
    store = Store(tmp_path, {}, count=4, shape=game.shape, dtype=game.dtype, batch=4)
    own = OwnShape(Preprocessing((0.0,) * 3), 48)
    assert runner.run(game, jnp.zeros(()), dataset, own, store)
    assert [pair.hits for pair in pointing.outcomes(store.blocks())] == [(True, False)] * 4


def test_points_lie_in_the_window_that_the_input_shows():
    """Negative maps, so that what is outside of them would be larger."""
    rng = np.random.default_rng(2)
    heats = -1 - rng.random((1, 3, 5, 5))
    found, _ = ask(heats, [(10.0, 4.0, 30.0, 24.0)], [(30, 40)], (40, 48))
    wanted = np.stack(maps.point(maps.resize(jnp.asarray(heats[0], jnp.float32), (20, 20))), -1)
    np.testing.assert_array_equal(found[0], wanted + [4, 10])


def test_maps_of_pixels_are_blurred_and_others_are_not():
    fine = np.zeros((1, 1, 12, 12))
    fine[0, 0, 2, 9] = 1.0  # alone; the others together are more once blurred
    fine[0, 0, 7:10, 3:6] = 0.9
    args = [(0, 0, 12, 12)], [(12, 12)], (12, 12)
    assert ask(fine, *args)[0][0, 0].tolist() == [2, 9]
    assert ask(fine, *args, blur=0.1)[0][0, 0].tolist() == [8, 4]
    assert ask(fine, *args, blur=0.1, side=24)[0][0, 0].tolist() == [2, 9]


def test_a_map_that_is_not_finite_is_refused_by_name():
    example = Example("000007", None, (6, 6), (Object("cat", (0, 0, 3, 3)),))
    dataset = Dataset("d", CLASSES, (example,))

    def broken(variables, images, classes):
        return jnp.full((*classes.shape, 3, 3), jnp.nan)

    game = PointingGame(
        dataset, {"fine": lambda v, x, c: jnp.ones((*c.shape, 3, 3)), "bad": broken}
    )
    batch = Batch(
        np.zeros((1, 6, 6, 3), np.float32),
        np.ones(1, bool),
        np.zeros(1, np.int64),
        np.array([[0.0, 0, 6, 6]]),
    )
    outputs = jax.device_get(game.compute(None, game.inputs([example], batch)))
    with pytest.raises(ValueError, match="bad made a map of 000007 that is not finite"):
        game.records([example], outputs)


def test_the_table_has_scores_and_hits():
    hits = np.array([[[1, 0, 3, 0], [0, 0, 1, 0]], [[0, 1, 1, 0], [0, 0, 0, 0]]])
    total = np.array([[[2, 1, 3, 0], [1, 0, 1, 0]]] * 2)
    table = PointingTable(
        "VOC2007 test",
        CLASSES,
        {"c-mwp": "c-MWP", "centre": "centre"},
        pointing.Counts(hits, total),
        4,
    )
    text = str(table)
    assert "4 images, 6 pairs, 2 difficult; within 15 px" in text
    assert "mean over categories, %, and plain hits" in text
    assert "c-MWP   50.0   4/6       50.0   1/2\n" in text
    assert "centre  44.4   2/6        0.0   0/2\n" in text
    assert "cow  3 / 3   1 / 3" in text and "owl" not in text
    assert '"all": 0.5' in table.json()


def test_the_interval_is_that_of_the_score_and_not_of_the_hits_beside_it():
    """Two categories, one of 40 pairs and always hit, one of 2 and never: the score is 50 %."""
    listed = [Outcome(place, 0, False, (True,)) for place in range(40)]
    listed += [Outcome(40 + place, 1, True, (False,)) for place in range(2)]
    counts = pointing.Counts(np.array([[[40, 0], [0, 0]]]), np.array([[[40, 2], [0, 2]]]))
    found = pointing.intervals(listed, 2)
    table = PointingTable("d", ("cat", "dog"), {"m": "M"}, counts, 42, intervals=found)
    assert table.score(0, 0) == 0.5
    # Where a draw has no dog the score is that of the cats.
    assert table.interval(0, 0) == (0.5, 1.0) and table.interval(0, 1) == (0.0, 0.0)
    text = str(table)
    assert "mean over categories, % with its 95 % interval (photographs drawn again), and" in text
    assert "M  50.0  50.0 to 100.0  40/42        0.0  0.0 to 0.0   0/2" in text
    content = json.loads(table.json())["methods"]["m"]
    assert content["interval_95"] == [0.5, 1.0] and content["all"] == 0.5
    low, high = content["hits"]["share_interval_95"]
    assert low < 40 / 42 == content["hits"]["share"] < high
    absent = pointing.intervals(listed, 20, TORCHRAY)
    assert absent[0, 0].tolist() == [0.05, 0.05]  # one of 20 categories


def test_an_interval_of_nothing_is_no_number():
    found = pointing.intervals([Outcome(0, 0, False, (True, False))], 1)
    assert found[:, 0].tolist() == [[1, 1], [0, 0]] and np.isnan(found[:, 1]).all()


@pytest.mark.parametrize("tolerance", [-1, math.nan, math.inf])
def test_a_tolerance_that_makes_no_sense_is_refused(tolerance):
    with pytest.raises(ValueError, match="tolerance must be finite"):
        Rules(tolerance)


def test_records_that_are_not_done_are_not_counted():
    with pytest.raises(ValueError, match="a record is not done"):
        pointing.count([np.zeros((1, 1, 1), np.uint8)])
    with pytest.raises(ValueError, match="there are no records"):
        pointing.count([])
