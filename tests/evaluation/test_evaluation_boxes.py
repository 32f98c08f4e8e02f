"""Boxes of dominant objects against an implementation of loops, on random maps and objects."""

import json
import re
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data_files import HEIGHT, WIDTH, annotation_xml, object_xml, write, write_photograph
from hypothesis import given, settings
from hypothesis import strategies as st

from excitation_jax import cli, maps, models
from excitation_jax.data import Dataset, Example, Object
from excitation_jax.data.pipeline import Batch
from excitation_jax.evaluation.boxes import localisation as boxes
from excitation_jax.evaluation.boxes.localisation import BoxLocalisation, overlaps
from excitation_jax.evaluation.boxes.table import WHOLE, BoxTable
from excitation_jax.evaluation.points import PlacedMaps
from excitation_jax.models import Preprocessing, weight_files

CLASSES = ("cat", "dog", "cow")
SIDE = 8  # of the network's input
ALPHAS = (0, 0.5, 1, 2.5)
OWN = Preprocessing((0.0,) * 3, resize=SIDE, crop=None, warp=True)


def plain_box(heat, alpha):
    """The tightest box, as a loop over all pixels finds it; None where there is none."""
    limit = np.float32(alpha) * heat.mean(dtype=np.float32)
    inside = [(x, y) for y in range(SIDE) for x in range(SIDE) if heat[y, x] > limit]
    if not inside:
        return None
    across, down = zip(*inside, strict=True)
    return min(across), min(down), max(across) + 1, max(down) + 1


def plain_overlap(box, other):
    """In exact arithmetic."""
    a, b = [list(map(Fraction, map(float, each))) for each in (box, other)]
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    areas = [(each[2] - each[0]) * (each[3] - each[1]) for each in (a, b)]
    return Fraction(both, sum(areas) - both) if both else Fraction(0)


def plain_error(dataset, heats, alpha, places):
    """Right boxes and pairs, photograph by photograph."""
    right = total = 0
    for place in places:
        example = dataset[place]
        height, width = example.size
        for c, name in enumerate(CLASSES):
            own = [item.box for item in example.objects if item.category == name]
            if not own:
                continue
            total += 1
            found = plain_box(heats[place, c], alpha)
            if found is not None:
                x0, y0, x1, y1 = found
                scale = Fraction(width, SIDE), Fraction(height, SIDE)
                box = x0 * scale[0], y0 * scale[1], x1 * scale[0], y1 * scale[1]
                right += any(plain_overlap(box, each) >= Fraction(1, 2) for each in own)
    return right, total


@st.composite
def data_sets(draw):
    """Photographs with objects, and a map of few different values for each class."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    examples = []
    for place in range(draw(st.integers(2, 6))):
        # Multiples of the side, so that boxes of pixels are often boxes of objects.
        height, width = (SIDE * rng.integers(1, 4, 2)).tolist()
        objects = []
        for category in rng.choice(CLASSES, rng.integers(0, 4)):
            (x0, x1), (y0, y1) = (
                sorted(rng.choice(np.arange(side + 1), 2, replace=False).tolist())
                for side in (width, height)
            )
            objects.append(Object(str(category), (float(x0), float(y0), float(x1), float(y1))))
        examples.append(Example(str(place), None, (height, width), tuple(objects)))
    heats = rng.integers(0, 4, (len(examples), len(CLASSES), SIDE, SIDE)).astype(np.float32)
    heats *= rng.random((len(examples), len(CLASSES), 1, 1)) < 0.9  # some are 0 throughout
    return Dataset("random", CLASSES, tuple(examples)), heats


def records_of(experiment, heats, batch):
    made = []
    for first in range(0, len(experiment.dataset), batch):
        examples = list(experiment.dataset)[first : first + batch]
        rows = Batch(
            np.zeros((batch, SIDE, SIDE, 3), np.float32),
            np.zeros(batch, bool),
            np.arange(first, first + batch),
            np.zeros((batch, 4)),
        )
        rows.images[: len(examples), 0, 0, 0] = np.arange(first, first + len(examples))
        outputs = experiment.compute(jnp.asarray(heats), experiment.inputs(examples, rows))
        outputs = jax.tree.map(lambda leaf: np.asarray(leaf)[: len(examples)], outputs)  # noqa: B023
        made.append(experiment.records(examples, outputs))
    return made


def given_maps(heats, images, classes):
    """The maps of the photographs whose places are in the images' first pixels."""
    return heats[images[:, 0, 0, 0].astype(jnp.int32)[:, None], classes]


@settings(max_examples=30, deadline=None)
@given(data_sets(), st.integers(1, 3), st.integers(2, 3))
def test_counts_equal_those_of_loops(made, batch, every):
    dataset, heats = made
    experiment = BoxLocalisation(dataset, {"m": given_maps}, OWN, ALPHAS)
    counts = boxes.count(records_of(experiment, heats, batch), experiment, every)
    held_out = list(range(0, len(dataset), every))
    rest = [place for place in range(len(dataset)) if place not in held_out]
    for part, places in enumerate([held_out, rest]):
        for a, alpha in enumerate(ALPHAS):
            right, total = plain_error(dataset, heats, alpha, places)
            assert counts.right[0, part, a].sum() == right
            assert counts.pairs[part].sum() == total
    # Pairs to look at are those that are not held out, at one alpha for each method.
    blocks = records_of(experiment, heats, batch)
    for a in range(len(ALPHAS)):
        pairs = list(boxes.outcomes(blocks, experiment, every, [a, 0]))
        assert len(pairs) == counts.pairs[1].sum() and {p.place for p in pairs} <= set(rest)
        assert [sum(pair.hits[m] for pair in pairs) for m in (0, 1)] == [
            counts.right[0, 1, a].sum(),
            counts.right[1, 1, 0].sum(),
        ]
    # The whole photograph's box does not depend on the map or alpha.
    assert (counts.right[1] == counts.right[1, :, :1]).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 6)] * 4), min_size=2, max_size=4))
def test_overlaps_equal_exact_ones(corners):
    made = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners]
    found = overlaps(made, made)
    for row, one in enumerate(made):
        for column, other in enumerate(made):
            assert found[row, column] == pytest.approx(float(plain_overlap(one, other)), abs=1e-15)


def test_alpha_is_the_best_of_what_is_held_out_and_the_lowest_of_several():
    right = np.zeros((2, 2, 3, 1), int)
    right[0, 0, :, 0], right[0, 1, :, 0] = [1, 2, 2], [9, 4, 9]
    right[1, 0, :, 0], right[1, 1, :, 0] = 0, 5
    counts = boxes.Counts(right, np.array([[2], [10]]))
    methods = {"mwp": "MWP", WHOLE: "the whole photograph"}
    table = BoxTable("d", ("cat",), methods, (0.0, 0.5, 1.0), counts, 10, 2)
    assert table.best(0) == 1 and table.error(0) == pytest.approx(0.6)
    assert "MWP                     0.5   60.0  (6/10)\n" in str(table)
    assert "the whole photograph          50.0  (5/10)" in str(table)
    found = json.loads(table.json())
    assert found["methods"]["mwp"]["right_held_out"] == [1, 2, 2]
    assert found["methods"]["mwp"]["categories"] == {"cat": {"right": 4, "pairs": 10}}
    nothing = boxes.Counts(right, np.array([[0], [10]]))
    with pytest.raises(ValueError, match="d has no boxes in the 2 photographs that are held out"):
        BoxTable("d", ("cat",), methods, (0.0, 0.5, 1.0), nothing, 10, 2)


def test_boxes_lie_where_a_crop_shows_the_photograph():
    """The middle half of a wide photograph is shown, and a map is large on the left of it."""
    own = Preprocessing((0.0,) * 3, resize=SIDE, crop=SIDE)
    example = Example("a", None, (20, 40), (Object("cat", (10.0, 0.0, 20.0, 20.0)),))
    heat = np.zeros((1, 3, SIDE, SIDE), np.float32)
    heat[0, 0, :, : SIDE // 2] = 1
    experiment = BoxLocalisation(Dataset("d", CLASSES, (example,)), {"m": given_maps}, own, ALPHAS)
    (record,) = records_of(experiment, heat, 1)
    assert record[0, 0, 0] == boxes.DONE | boxes.PLAYED | 0b0111  # 2.5 times the mean is too much
    assert record[0, 1, 0] == boxes.DONE | boxes.PLAYED  # the box of all is 4 times the object's
    assert maps.box(jnp.asarray(heat[0, 0]), 1.0).tolist() == [0, 0, SIDE // 2, SIDE]


def test_boxes_lie_where_cells_looked():
    """Of 4 x 4 cells, which look at the first 4 x 4 of 8 x 8 pixels, one is bright."""
    grid = maps.Grid((1, 1), (0, 0), (SIDE, SIDE))
    example = Example("a", None, (SIDE, SIDE), (Object("cat", (1.0, 2.0, 2.0, 3.0)),))
    heat = np.zeros((1, 3, 4, 4), np.float32)
    heat[0, 0, 2, 1] = 1
    found = []
    for method in (PlacedMaps(given_maps, grid), given_maps):
        experiment = BoxLocalisation(Dataset("d", CLASSES, (example,)), {"m": method}, OWN, (8.0,))
        (record,) = records_of(experiment, heat, 1)
        found.append(int(record[0, 0, 0]) & 1)
    assert found == [1, 0]


def test_a_map_that_is_not_finite_is_refused_by_name():
    example = Example("000007", None, (8, 8), (Object("cat", (0.0, 0.0, 3.0, 3.0)),))
    experiment = BoxLocalisation(Dataset("d", CLASSES, (example,)), {"bad": given_maps}, OWN)
    with pytest.raises(ValueError, match="bad made a map of 000007 that is not finite"):
        records_of(experiment, np.full((1, 3, SIDE, SIDE), np.nan, np.float32), 1)


def test_records_that_are_missing_or_not_done_are_not_counted():
    example = Example("a", None, (8, 8), (Object("cat", (0.0, 0.0, 3.0, 3.0)),))
    experiment = BoxLocalisation(Dataset("d", CLASSES, (example,)), {"m": given_maps}, OWN)
    with pytest.raises(ValueError, match="a record is not done"):
        boxes.count([np.zeros((1, 2, 1), np.uint32)], experiment, 2)
    with pytest.raises(ValueError, match="there are 0 records of 1 photographs"):
        boxes.count([], experiment, 2)
    with pytest.raises(ValueError, match="there must be 1 to 30 alphas, got 31"):
        BoxLocalisation(experiment.dataset, {}, OWN, tuple(range(31)))


def evaluate(capsys, *arguments):
    code = cli.main(["eval", "boxes", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_digits_from_the_command_line_and_a_run_is_continued(capsys, tmp_path):
    call = "--data digits --model digits --limit 12 --batch 4 --methods c-mwp --gallery 0".split()
    call += ["--out", tmp_path / "run"]
    code, out, err = evaluate(capsys, *call, "--held-out", "3", "--gallery", "2")
    assert code == 0 and err == "", err
    assert "gallery/index.html" in out and "fare otherwise" not in out
    page = (tmp_path / "run" / "gallery" / "index.html").read_text("utf-8")
    shown = set(re.findall(r'<img src="(.*?)"', page))
    assert len(shown) == 4 and page.count('<figure class="hit">') == 2
    assert {path.name for path in (tmp_path / "run/gallery").iterdir()} == {"index.html", *shown}
    assert len(re.findall(r"IoU 0\.[5-9]\d, hits|IoU 0\.[0-4]\d, misses", page)) == 4
    assert (tmp_path / "run" / "boxes.png").read_bytes().startswith(b"\x89PNG")
    assert "boxes, digit scenes test: 8 images" in out and "alpha chosen on 4 others" in out
    found = json.loads((tmp_path / "run" / "boxes.json").read_text())
    assert found["methods"]["c-mwp"]["error"] < 0.5 < found["methods"]["whole"]["error"]
    # The records know nothing of what is held out.
    (tmp_path / "run" / "boxes.json").unlink()
    code, out, _ = evaluate(capsys, *call, "--held-out", "2")
    assert code == 0 and "6 images" in out
    code, out, err = evaluate(capsys, *call, "--held-out", "100")
    assert code == 0 and "11 images" in out
    code, _, err = evaluate(capsys, *call, "--held-out", "1")
    assert code == 2 and "--held-out must be at least 2, got 1" in err
    code, _, err = evaluate(capsys, "--data", "imagenet", "--model", "digits", "--out", "x")
    assert code == 2 and "needs --folder DIR, --annotations DIR and --synsets FILE" in err


def test_imagenet_in_its_own_layout(capsys, tmp_path):
    synsets = [f"n{place:08}" for place in range(10)]
    for place in range(4):
        write_photograph(tmp_path / f"val/{place}.JPEG", place, format="JPEG")
        text = annotation_xml(object_xml(synsets[place], (0, 0, WIDTH - 1, HEIGHT - 1)))
        write(tmp_path / f"boxes/{place}.xml", text)
    write(tmp_path / "synsets.txt", "\n".join(f"{name} name" for name in synsets))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.1, 0.2, leaf.shape), leaf.dtype),
        models.get("cifar_resnet20").expected(),
    )
    metadata = {"model": "cifar_resnet20", "num_classes": 10}
    weight_files.save(tmp_path / "weights", variables, metadata)
    call = "--data imagenet --model cifar_resnet20 --held-out 2 --methods mwp --gallery 1".split()
    call += ["--folder", tmp_path / "val", "--annotations", tmp_path / "boxes"]
    call += ["--synsets", tmp_path / "synsets.txt", "--weights", tmp_path / "weights"]
    code, out, err = evaluate(capsys, *call, "--out", tmp_path / "run")
    assert code == 0, err
    assert "boxes, ImageNet validation: 2 images, 2 pairs" in out
    assert "the whole photograph" in out and "(0/2)" in out
