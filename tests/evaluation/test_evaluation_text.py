"""Text to region against an implementation of loops, on random phrases, proposals and scores."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from excitation_jax.data import Caption, CaptionedExample, Dataset, Object, Phrase
from excitation_jax.data.pipeline import Batches
from excitation_jax.data.scenes import captioned_digit_scenes
from excitation_jax.evaluation import runner
from excitation_jax.evaluation.boxes.localisation import overlaps
from excitation_jax.evaluation.store import Store
from excitation_jax.evaluation.text import localisation as text
from excitation_jax.evaluation.text import proposals, suppression
from excitation_jax.evaluation.text.localisation import TextToRegion
from excitation_jax.evaluation.text.photograph import decoded
from excitation_jax.evaluation.text.scores import GAMMAS, RANKS, choose_gammas, score
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


def plain_suppressed(boxes, scores, overlap):
    """Every box against all that are better, in their order."""
    order = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
    taken = []
    for i in order:
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
@given(st.data(), st.sampled_from([0, 0.3, 0.5, 0.7]), st.integers(1, 3))
def test_suppression_equals_that_of_loops(data, overlap, ways):
    boxes = data.draw(boxes_of())
    values = st.sampled_from([-1.0, 0.0, 0.5, 2.0])
    scores = [[data.draw(values) for _ in boxes] for _ in range(ways)]
    own = np.array(boxes).reshape(-1, 4)
    found = suppression.suppress(own, np.array(scores).reshape(ways, -1), overlap)
    wanted = [plain_suppressed(boxes, of_way, overlap) for of_way in scores]
    assert [kept.tolist() for kept in found] == wanted


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
    common = overlaps(np.array(boxes).reshape(-1, 4), np.array(truth).reshape(-1, 4))
    found = suppression.matches(common, 0.5)
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
    """Proposals by the photographs' keys: boxes and their own scores."""

    name, scored = "given", True

    def __call__(self, example):
        return proposals.of_boxes(*self[example.key])


def plain_scores(dataset, proposed, scores, small, wordless=False):
    """phrases, unknown, hits at each rank and the average precisions, with Python's numbers.

    scores: by photograph and phrase, of each proposal. small: whether others do not count.
    """
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
                boxes, own = proposed[example.key][0], scores[example.key][place]
                place += 1
                large = any((b[2] - b[0]) * (b[3] - b[1]) >= SIDE * SIDE / 4 for b in truth)
                if small and large:
                    continue
                total += 1
                is_known = any(word.lower() in WORDS for word in phrase.words)
                unknown += not is_known
                taken = plain_suppressed(boxes, own, 0.7) if is_known or wordless else []
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


@st.composite
def recorded(draw):
    """An experiment of two methods, its records, its proposals and the sums of the maps in them."""
    dataset = draw(captioned())
    proposed, values = Given(), st.sampled_from([-0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 3.0])
    for one in dataset:
        boxes = draw(boxes_of(least=1))
        own = sorted((draw(values) for _ in boxes), reverse=True)
        proposed[one.key] = boxes, own
    experiment = TextToRegion(dataset, {"a": None, "b": None}, WORDS, proposed, limit=9)
    most = max(1, *(len(text.phrases(one)) for one in dataset))
    sums = np.zeros((len(dataset), 2, most, 9), np.float32)
    for place, one in enumerate(dataset):
        count = len(proposed[one.key][0])
        drawn = [[[draw(values) for _ in range(count)] for _ in range(most)] for _ in "ab"]
        sums[place, ..., :count] = drawn
    made = proposals.padded([proposed(one) for one in dataset], len(dataset), 9)
    outputs = text.Sums(sums, np.ones((len(dataset), 2), bool)), made
    return experiment, experiment.records(list(dataset), outputs), proposed, sums


def plain_worth(experiment, proposed, sums, method, gamma):
    """Scores of proposals by photograph and phrase: a sum over a power of the area."""
    return {
        one.key: [
            [
                float(total) / float((box[2] - box[0]) * (box[3] - box[1])) ** gamma
                for box, total in zip(proposed[one.key][0], own, strict=False)
            ]
            for own in sums[place, method]
        ]
        for place, one in enumerate(experiment.dataset)
    }


@settings(max_examples=60, deadline=None)
@given(recorded(), st.sampled_from([0, 0.25, 1]), st.sampled_from([0, 2]))
def test_scores_of_records_equal_those_of_loops(made, gamma, every):
    experiment, records, proposed, sums = made
    dataset = experiment.dataset
    found = score([records[:1], records[1:]], experiment, [gamma, 0.5], every)
    counted = dataset.where(lambda one: not every or dataset.examples.index(one) % every)
    every_score = [plain_worth(experiment, proposed, sums, m, (gamma, 0.5)[m]) for m in (0, 1)]
    many = 9 * len(dataset)
    every_score.append({key: [own] * many for key, (_, own) in proposed.items()})
    for m, scores in enumerate(every_score):
        for subset in (0, 1):
            total, unknown, hits, means = plain_scores(
                counted, proposed, scores, small=subset == 1, wordless=m == 2
            )
            parts = found.methods[m][subset]
            assert (found.phrases[subset], found.unknown[subset]) == (total, unknown)
            assert (parts.everything.phrases, parts.everything.hits) == (total, hits)
            own = [parts.mean_by_group(), parts.mean_by_phrase()]
            np.testing.assert_allclose(own, means, atol=1e-12)
            assert max(hits) <= found.covered[subset] <= total
    assert [one.place for one in found.localised] == [
        dataset.examples.index(one) for one in counted for _ in text.phrases(one)
    ]
    for m in range(3):
        of_method = [one.hits[m] for one in found.localised]
        assert sum(of_method) == found.methods[m][0].everything.hits[0]


@settings(max_examples=60, deadline=None)
@given(recorded(), st.integers(2, 3))
def test_gamma_is_that_of_most_hits_at_rank_five_on_what_is_held_out(made, every):
    experiment, records, proposed, sums = made
    dataset = experiment.dataset
    held_out = dataset.where(lambda one: dataset.examples.index(one) % every == 0)
    wanted = []
    for m in (0, 1):
        hits = [
            plain_scores(
                held_out, proposed, plain_worth(experiment, proposed, sums, m, gamma), False
            )[2][1]
            for gamma in GAMMAS
        ]
        wanted.append(GAMMAS[hits.index(max(hits))])
    assert choose_gammas([records[:1], records[1:]], experiment, every) == wanted


def test_gammas_differ_where_methods_do():
    """A large map is best divided by a large power of the area, a small one by none."""
    box, whole = (2, 2, 5, 5), (0, 0, SIDE, SIDE)
    examples, sums = [], np.zeros((2, 2, 1, 9), np.float32)
    others = [(i, 0, i + 4, 3) for i in range(6)]
    for place in (0, 1):
        examples.append(example(str(place), [[phrase("dog", "1", "animals")]], [("1", box)]))
    proposed = Given({str(i): ([whole, box, *others], range(8, 0, -1)) for i in (0, 1)})
    sums[:, 0, 0, :8] = [9, 3, *[4.0] * 6]  # the others are better for a gamma of 0.25 or less
    sums[:, 1, 0, :8] = [9, 5, *[1.0] * 6]
    dataset = Dataset("two", GROUPS, tuple(examples))
    experiment = TextToRegion(dataset, {"a": None, "b": None}, WORDS, proposed, limit=9)
    made = proposals.padded([proposed(one) for one in dataset], 2, 9)
    records = experiment.records(examples, (text.Sums(sums, np.ones((2, 2), bool)), made))
    found = choose_gammas([records], experiment, 2)
    assert found[1] == 0 and found[0] > 0
    for gamma, hits in ((found[0], 1), (0, 0)):
        scores = score([records], experiment, [gamma, 0], 2)
        assert scores.methods[0][1].everything.hits[1] == hits


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
        for own, wanted in zip(other, whole, strict=True):
            own, wanted = decoded(own, 1), decoded(wanted, 1)
            for part in ("boxes", "areas", "scores", "flags"):
                np.testing.assert_array_equal(getattr(own, part), getattr(wanted, part))
            np.testing.assert_allclose(own.sums, wanted.sums, rtol=1e-5, atol=1e-5)
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
    nine = experiment_of(limit=9)
    fewer = score([records_of(tmp_path / "fewer", nine)], nine, [0.5])
    assert fewer.covered < score([whole], experiment, [0.5]).covered


def test_a_phrase_map_is_the_mean_of_its_words_that_are_known():
    """The pair's sums are the means of the two digits'; "a" and "and" change nothing."""
    experiment, outputs = experiment_of(), {}
    (batch,) = Batches(SCENES, PLAIN, len(SCENES))
    given = experiment.inputs(list(SCENES), batch)
    (sums, finite), _ = jax.device_get(jax.jit(experiment.compute)({}, given))
    assert finite.all() and (sums[..., 479:] == 0).all()
    for row, scene in enumerate(SCENES):
        for place, named in enumerate(text.phrases(scene)):
            outputs[row, str(named)] = sums[row, 0, place, :479]
    for (row, name), own in outputs.items():
        if " and " in name:
            parts = [outputs[row, part] for part in name.split(" and ")]
            np.testing.assert_allclose(own, np.mean(parts, axis=0), rtol=1e-5, atol=1e-3)
    assert any(" and " in name for _, name in outputs)


def test_phrases_of_unknown_words_are_misses_and_counted(tmp_path):
    known = score([records_of(tmp_path / "all")], experiment_of(), [0.5])
    seven = experiment_of(words={"SEVEN".casefold(): 7})
    fewer = score([records_of(tmp_path / "seven", seven)], seven, [0.5])
    mentioned = [str(phrase) for one in SCENES for phrase in text.phrases(one)]
    assert known.unknown == [0, 0] and known.phrases == fewer.phrases == [len(mentioned)] * 2
    assert fewer.unknown[0] == sum("seven" not in name for name in mentioned) > 0
    for name, found in fewer.methods[0][0].by_phrase.items():
        if "seven" not in name:
            assert found.hits == [0, 0, 0] and found.average_precision() == 0
    assert fewer.covered == known.covered  # the proposals are what they were


def test_records_that_are_not_of_the_data_set_are_refused(tmp_path):
    whole, experiment = records_of(tmp_path), experiment_of()
    with pytest.raises(ValueError, match="there are 6 records of 7 photographs"):
        score([whole[:6]], experiment, [0.5])
    with pytest.raises(ValueError, match="a record is not done"):
        score([np.zeros_like(whole)], experiment, [0.5])
    with pytest.raises(ValueError, match="the record of 00000. is of other phrases"):
        score([np.roll(whole, 1, axis=0)], experiment, [0.5])


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
