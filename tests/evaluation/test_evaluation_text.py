"""Text to region against an implementation of loops, on random phrases, proposals and scores."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from excitation_jax import maps
from excitation_jax.data import Caption, CaptionedExample, Dataset, Object, Phrase
from excitation_jax.data.pipeline import Batches
from excitation_jax.data.scenes import captioned_digit_scenes
from excitation_jax.evaluation import runner
from excitation_jax.evaluation.store import Store
from excitation_jax.evaluation.text import localisation as text
from excitation_jax.evaluation.text import proposals, suppression
from excitation_jax.evaluation.text.localisation import TextToRegion
from excitation_jax.evaluation.text.scores import RANKS, score
from excitation_jax.evaluation.text.table import TextTable
from excitation_jax.models import Preprocessing

GROUPS = ("people", "animals", "scene")
WORDS = {word: output for output, word in enumerate(("man", "dog", "red", "street"))}
SIDE = 12  # of the photographs


def plain_iou(box, other):
    """The float that is nearest to the exact one."""
    a, b = [list(map(Fraction, map(float, each))) for each in (box, other)]
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    both = max(width, 0) * max(height, 0)
    areas = [(each[2] - each[0]) * (each[3] - each[1]) for each in (a, b)]
    return float(Fraction(both, sum(areas) - both)) if both else 0.0


def plain_suppressed(boxes, scores, overlap, most):
    """Every box against all that are better, in their order."""
    order = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
    taken = []
    for i in order:
        if scores[i] == -math.inf or len(taken) == most:
            continue
        if all(plain_iou(boxes[i], boxes[j]) <= overlap for j in taken):
            taken.append(i)
    return taken


def plain_average_precision(ranked, total):
    """Of hits in their order: for each box, the best precision at which it has been recalled."""
    best = []
    for number in range(1, total + 1):
        precisions = [
            sum(ranked[:rank]) / rank
            for rank in range(1, len(ranked) + 1)
            if sum(ranked[:rank]) >= number
        ]
        best.append(max(precisions, default=0))
    return sum(best) / total


def plain_hits(boxes, truth):
    """Whether each detection gets a box, of which each is got once."""
    left, hits = list(truth), []
    for box in boxes:
        near = [(plain_iou(box, own), -place) for place, own in enumerate(left)]
        most, place = max(near, default=(0, 0))
        hits.append(most >= 0.5)
        if hits[-1]:
            del left[-place]
    return hits


@st.composite
def boxes_of(draw, most=8, least=0):
    """Boxes anywhere, or on so coarse a lattice that many are alike."""
    step, found = draw(st.sampled_from([1, 4, 6])), []
    for _ in range(draw(st.integers(least, most))):
        edges = []
        for _ in range(2):
            low = draw(st.integers(0, SIDE // step - 1))
            edges.append((step * low, step * draw(st.integers(low + 1, SIDE // step))))
        found.append((edges[0][0], edges[1][0], edges[0][1], edges[1][1]))
    return found


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from([0, 0.3, 0.5, 0.7]), st.integers(1, 5))
def test_suppression_equals_that_of_loops(data, overlap, most):
    boxes = data.draw(boxes_of())
    values = st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 2.0])
    scores = [data.draw(values) for _ in boxes]
    found = suppression.suppress(np.array(boxes).reshape(-1, 4), np.array(scores), overlap, most)
    assert found == plain_suppressed(boxes, scores, overlap, most)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=9), st.integers(0, 4))
def test_average_precision_equals_that_of_loops(detected, missed):
    total = sum(hit for _, hit in detected) + missed
    scores, hits = [s for s, _ in detected], [hit for _, hit in detected]
    if not total:
        with pytest.raises(ValueError, match="at least one true box, got 0"):
            suppression.interpolated_average_precision(scores, hits, total)
        return
    ranked = [hit for _, hit in sorted(detected, key=lambda pair: -pair[0])]
    found = suppression.interpolated_average_precision(scores, hits, total)
    assert found == pytest.approx(plain_average_precision(ranked, total), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(boxes_of(), boxes_of(most=3))
def test_each_box_is_found_once(boxes, truth):
    found = suppression.matches(np.array(boxes).reshape(-1, 4), np.array(truth).reshape(-1, 4), 0.5)
    assert [place >= 0 for place in found] == plain_hits(boxes, truth)
    once = [place for place in found if place >= 0]
    assert len(once) == len(set(once))


def phrase(words, entity, *groups):
    return Phrase(tuple(words.split()), 0, entity, groups)


def example(key, captions, objects, size=(SIDE, SIDE)):
    parts = tuple(Caption((), tuple(own)) for own in captions)
    return CaptionedExample(
        key,
        None,
        size,
        tuple(Object(entity, tuple(map(float, box))) for entity, box in objects),
        captions=parts,
    )


@st.composite
def captioned(draw):
    """A data set of phrases with boxes and without."""
    examples = []
    for place in range(draw(st.integers(1, 3))):
        objects = [
            (entity, box)
            for entity in "123"[: draw(st.integers(1, 3))]
            for box in draw(boxes_of(most=2, least=1))
        ]
        captions = []
        for _ in range(draw(st.integers(1, 2))):
            own = []
            for _ in range(draw(st.integers(1, 3))):
                words = draw(st.sampled_from(["A man", "a man", "red Dog", "dog dog red", "xyz"]))
                groups = draw(st.sampled_from([*GROUPS, "notvisual", "people/scene"])).split("/")
                own.append(phrase(words, draw(st.sampled_from("1234")), *groups))
            captions.append(own)
        examples.append(example(str(place), captions, objects))
    return Dataset("random", GROUPS, tuple(examples))


class Given(dict):
    """Proposals by the photographs' keys."""

    name = "given"

    def __call__(self, example):
        return np.array(self[example.key], np.float32)


def plain_scores(dataset, proposed, scores):
    """phrases, unknown, hits at each rank and the average precisions, with Python's numbers."""
    total = unknown = 0
    hits = dict.fromkeys(RANKS, 0)
    groups, same = {}, {}
    for example in dataset:
        place = 0
        for caption in example.captions:
            for phrase in caption.phrases:
                truth = [item.box for item in example.objects if item.category == phrase.entity]
                if not truth or "notvisual" in phrase.groups:
                    continue
                boxes, own = proposed[example.key], scores[example.key][place]
                place += 1
                total += 1
                if not any(word.lower() in WORDS for word in phrase.words):
                    unknown += 1
                    taken = []
                else:
                    taken = plain_suppressed(boxes, own, 0.7, 20)
                chosen = [boxes[i] for i in taken]
                for rank in RANKS:
                    hits[rank] += any(
                        plain_iou(box, true) >= 0.5 for box in chosen[:rank] for true in truth
                    )
                right = plain_hits(chosen, truth)
                detected = [(own[i], hit) for i, hit in zip(taken, right, strict=True)]
                name = " ".join(phrase.words).lower()
                for found, names in ((groups, phrase.groups), (same, [name])):
                    for part in names:
                        before = found.setdefault(part, ([], 0))
                        found[part] = before[0] + detected, before[1] + len(truth)
    means = []
    for found in (groups, same):
        parts = [
            plain_average_precision(
                [hit for _, hit in sorted(own, key=lambda pair: -pair[0])], boxes
            )
            for own, boxes in found.values()
        ]
        means.append(sum(parts) / len(parts) if parts else math.nan)
    return total, unknown, list(hits.values()), means


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_scores_of_records_equal_those_of_loops(data):
    dataset = data.draw(captioned())
    proposed = Given({one.key: data.draw(boxes_of(least=1)) for one in dataset})
    value = st.sampled_from([-0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 3.0])
    experiment = TextToRegion(dataset, {"m": None}, WORDS, proposed, limit=9)
    most = experiment.shape[1]
    values = np.full((len(dataset), 1, most, 9), -np.inf, np.float32)
    for place, one in enumerate(dataset):
        count = len(proposed[one.key])
        drawn = [[data.draw(value) for _ in range(count)] for _ in range(most)]
        values[place, 0, :, :count] = drawn
    boxes = proposals.padded([proposed(one) for one in dataset], len(dataset), 9)
    outputs = text.Scores(values, np.ones((len(dataset), 1), bool)), boxes
    records = experiment.records(list(dataset), outputs)
    assert (records[..., 0] & text.DONE).all()
    found = score([records[:1], records[1:]], dataset, 1)
    everything = found.methods[0].everything
    total, unknown, hits, means = plain_scores(
        dataset, proposed, {one.key: values[place, 0] for place, one in enumerate(dataset)}
    )
    assert (found.phrases, found.unknown, everything.hits) == (total, unknown, hits)
    own = [found.methods[0].mean_by_group(), found.methods[0].mean_by_phrase()]
    np.testing.assert_allclose(own, means, atol=1e-12)
    assert max(hits) <= found.covered <= total
    if total:
        title = {"m": "M"}
        table = TextTable("random", title, found, len(dataset), 0.5, "given", 9)
        assert f"{total} phrases, {unknown} of them without a known word" in str(table)
        assert f"({hits[0]}/{total})" in str(table) and f'"hits@10": {hits[2]}' in table.json()


@pytest.mark.parametrize("window", [(0.0, 0.0, 30.0, 20.0), (4.0, -2.0, 26.0, 20.0)])
@pytest.mark.parametrize("gamma", [0, 0.5, 1.3])
@pytest.mark.parametrize("grid", [None, maps.Grid((3, 2), (1, 4), (18, 16))])
def test_scores_are_sums_of_resized_maps(window, gamma, grid):
    """Of a photograph of 20 x 30 pixels on a canvas of 24 x 32."""
    rng = np.random.default_rng(3)
    heat = rng.random((2, 5, 6)).astype(np.float32)
    low = rng.uniform(0, [20, 12], (40, 2))
    boxes = np.concatenate([low, low + rng.uniform(1, [10, 8], (40, 2))], axis=1)
    boxes[:20] = boxes[:20].round()
    found = np.asarray(
        text.region_scores(
            jnp.asarray(heat),
            jnp.asarray(boxes, jnp.float32),
            jnp.asarray(window),
            canvas=(24, 32),
            gamma=gamma,
            grid=grid,
        )
    )
    x0, y0, x1, y1 = map(int, window)
    spread = np.zeros((2, 24, 36))
    spread[:, y0 + 2 : y1 + 2, x0:x1] = maps.resize(jnp.asarray(heat), (y1 - y0, x1 - x0), grid)
    spread = spread[:, 2:]  # which left room for what lies above the photograph
    for q in range(2):
        for r, (left, top, right, bottom) in enumerate(boxes.astype(np.float32).tolist()):
            total = math.fsum(
                spread[q, row, column]
                for row in range(20)
                for column in range(30)
                if top <= row + 0.5 < bottom and left <= column + 0.5 < right
            )
            wanted = total / ((right - left) * (bottom - top)) ** gamma
            assert found[q, r] == pytest.approx(wanted, rel=1e-5, abs=1e-5)


def test_boxes_where_the_map_is_zero_score_zero_and_those_without_area_lose():
    heat = jnp.zeros((1, 6, 6)).at[0, 0, 0].set(-3.0)
    boxes = jnp.array([[0.0, 0, 6, 6], [20, 20, 30, 28], [0, 0, 0, 0], [3, 3, 3, 9]])
    found = text.region_scores(heat, boxes, jnp.array([0.0, 0, 30, 30]), canvas=(30, 30), gamma=0.5)
    assert found[0, 0] < 0 and found[0, 1:].tolist() == [0, -math.inf, -math.inf]


def patches(variables, images, classes):
    """Maps of an image's brightness, another one for each class."""
    cells = images.reshape(len(images), 12, 8, 12, 8, 3).mean((2, 4, 5))
    return jax.vmap(lambda own, those: jax.vmap(lambda c: jnp.roll(own, c, 1))(those))(
        cells, classes
    )


SCENES = captioned_digit_scenes(7, seed=2)
NUMERALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PLAIN = Preprocessing((0.0,) * 3, (255.0,) * 3, resize=96, crop=None, warp=True)


def experiment_of(**changed):
    own = {
        "words": {word: place for place, word in enumerate(NUMERALS)},
        "limit": 500,
        "proposals": proposals.Grid(),
        **changed,
    }
    return TextToRegion(SCENES, {"patches": patches}, **own)


def store_of(directory, experiment, batch=3):
    return Store(
        directory,
        {"of": "scenes"},
        count=len(SCENES),
        batch=batch,
        shape=experiment.shape,
        dtype=experiment.dtype,
    )


def records_of(directory, experiment=None, batch=3, **options):
    experiment = experiment or experiment_of()
    store = store_of(directory, experiment, batch)
    runner.run(experiment, {}, SCENES, PLAIN, store, **options)
    return np.concatenate(list(store.blocks()))


def test_batches_processes_padding_and_interruptions_change_nothing(tmp_path):
    whole = records_of(tmp_path / "whole")
    # Sums may be in other orders here, and their last bits differ.
    for other in (
        records_of(tmp_path / "batch", batch=7),
        records_of(tmp_path / "padded", experiment_of(limit=531)),
    ):
        assert (other[..., 0] == whole[..., 0]).all()
        for own, wanted in zip(other.reshape(-1, 101), whole.reshape(-1, 101), strict=True):
            own, wanted = text.detections(own), text.detections(wanted)
            np.testing.assert_array_equal(own.boxes, wanted.boxes)
            np.testing.assert_allclose(own.scores, wanted.scores, rtol=1e-5)
    assert (records_of(tmp_path / "threads", experiment_of(threads=3)) == whole).all()
    experiment = experiment_of()
    for process in ((1, 2), (0, 2)):
        store = store_of(tmp_path / "two", experiment)
        runner.run(experiment, {}, SCENES, PLAIN, store, process=process)
    assert (np.concatenate(list(store.blocks())) == whole).all()

    class Interrupted(TextToRegion):
        def records(self, examples, outputs):
            if any(example.key == SCENES[4].key for example in examples):
                raise KeyboardInterrupt
            return super().records(examples, outputs)

    cut = Interrupted(SCENES, {"patches": patches}, experiment.words, experiment.proposals)
    with pytest.raises(KeyboardInterrupt):
        records_of(tmp_path / "killed", cut)
    assert store_of(tmp_path / "killed", cut).is_done(0)
    assert (records_of(tmp_path / "killed") == whole).all()
    fewer = score([records_of(tmp_path / "fewer", experiment_of(limit=9))], SCENES, 1)
    assert fewer.covered < score([whole], SCENES, 1).covered


def test_a_phrase_map_is_the_mean_of_its_words_that_are_known():
    """The pair's scores are the means of the two digits'; "a" and "and" change nothing."""
    experiment, outputs = experiment_of(), {}
    (batch,) = Batches(SCENES, PLAIN, len(SCENES))
    given = experiment.inputs(list(SCENES), batch)
    (scores, finite), _ = jax.device_get(jax.jit(experiment.compute)({}, given))
    assert finite.all() and (scores[..., :479] > -np.inf).all()
    assert (scores[..., 479:] == -np.inf).all()
    for row, scene in enumerate(SCENES):
        for place, named in enumerate(text.phrases(scene)):
            outputs[row, str(named)] = scores[row, 0, place, :479]
    for (row, name), own in outputs.items():
        if " and " in name:
            parts = [outputs[row, part] for part in name.split(" and ")]
            np.testing.assert_allclose(own, np.mean(parts, axis=0), rtol=1e-5, atol=1e-6)
    assert any(" and " in name for _, name in outputs)


def test_phrases_of_unknown_words_are_misses_and_counted(tmp_path):
    known = score([records_of(tmp_path / "all")], SCENES, 1)
    words = {"SEVEN".casefold(): 7}
    fewer = score([records_of(tmp_path / "seven", experiment_of(words=words))], SCENES, 1)
    mentioned = [str(phrase) for one in SCENES for phrase in text.phrases(one)]
    assert known.unknown == 0 and known.phrases == fewer.phrases == len(mentioned)
    assert fewer.unknown == sum("seven" not in name for name in mentioned) > 0
    for name, found in fewer.methods[0].by_phrase.items():
        if "seven" not in name:
            assert found.hits == [0, 0, 0] and found.average_precision() == 0
    assert fewer.covered == known.covered  # the proposals are what they were


def test_records_that_are_not_of_the_data_set_are_refused(tmp_path):
    whole = records_of(tmp_path)
    with pytest.raises(ValueError, match="there are 6 records of 7 photographs"):
        score([whole[:6]], SCENES, 1)
    with pytest.raises(ValueError, match="record of 000000 is not done, or of other phrases"):
        score([np.zeros_like(whole)], SCENES, 1)
    with pytest.raises(ValueError, match="is not done, or of other phrases"):
        score([np.roll(whole, 1, axis=0)], SCENES, 1)


def test_a_map_that_is_not_finite_is_refused_by_name(tmp_path):
    def broken(variables, images, classes):
        return jnp.full((*classes.shape, 3, 3), jnp.nan)

    own = experiment_of()
    broken = TextToRegion(SCENES, {"bad": broken}, own.words, own.proposals)
    with pytest.raises(ValueError, match="bad made a map of 000000 that is not finite"):
        records_of(tmp_path, broken)


def test_scenes_have_captions_whose_phrases_have_boxes():
    for scene in SCENES:
        digits = {item.category for item in scene.objects if len(item.category) == 1}
        first, *more = scene.captions
        assert {named.entity for named in first.phrases} == digits
        assert str(first) == " next to ".join(map(str, first.phrases))
        lefts = [scene.boxes(named.entity)[0, 0] for named in first.phrases]
        assert lefts == sorted(lefts) and len(more) == (len(digits) > 1)
        for caption in scene.captions:
            for named in caption.phrases:
                assert caption.words[named.first :][: len(named.words)] == named.words
        for caption in more:
            (pair,) = caption.phrases
            assert pair.groups == ("pair",) and len(scene.boxes(pair.entity)) == 2
