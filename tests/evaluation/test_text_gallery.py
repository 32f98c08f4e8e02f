"""The gallery of text to region: whose maps and boxes its pictures show."""

import re
from dataclasses import replace
from html import unescape

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from excitation_jax import maps
from excitation_jax.data import Caption, Dataset, Phrase
from excitation_jax.data.scenes import captioned_digit_scenes
from excitation_jax.evaluation import runner
from excitation_jax.evaluation.again import Look
from excitation_jax.evaluation.drawing import Drawing
from excitation_jax.evaluation.store import Store
from excitation_jax.evaluation.text import gallery as module
from excitation_jax.evaluation.text import localisation, proposals
from excitation_jax.evaluation.text.gallery import TextGallery
from excitation_jax.evaluation.text.localisation import TextToRegion
from excitation_jax.evaluation.text.scores import score
from excitation_jax.evaluation.text.table import PROPOSALS, TextTable
from excitation_jax.models import Preprocessing

WHOLE = Preprocessing((0.0,) * 3, (255.0,) * 3, resize=96, crop=None, warp=True)
NUMERALS = "zero one two three four five six seven eight nine".split()
COUNT = 12


def bright(variables, images, classes):
    """A map of 12 x 12 cells for each class."""
    cells = images.reshape(len(images), 12, 8, 12, 8, 3).mean((2, 4, 5))
    every = jnp.stack([(1 + k) * cells for k in range(10)], axis=1)
    return jnp.take_along_axis(every, classes[..., None, None], axis=1)


def scores_of(variables, images):
    return images.mean((1, 2))[:, :1] * jnp.arange(10.0)


def scenes():
    """Boxes instead of digits, one of which is brightest; a caption has hostile words, too."""
    made, examples = captioned_digit_scenes(COUNT, seed=5), []
    for place, scene in enumerate(made):
        pixels = np.zeros((96, 96, 3), np.uint8)
        for level, item in enumerate(scene.objects):
            x0, y0, x1, y1 = map(int, item.box)
            pixels[y0:y1, x0:x1] = 255 // (1 + 9 * level)
        captions = scene.captions
        if place == 1:
            named, *others = captions
            words = ("<script>", "one", *named.words)
            moved = [Phrase(p.words, p.first + 2, p.entity, p.groups) for p in named.phrases]
            captions = (Caption(words, tuple(moved)), *others)
        examples.append(replace(scene, pixels=pixels, captions=captions))
    return Dataset(made.name, made.classes, tuple(examples))


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    dataset = scenes()
    words = {name: output for output, name in enumerate(NUMERALS) if name != "four"}
    experiment = TextToRegion(dataset, {"bright": bright}, words, proposals.Grid(), limit=479)
    store = Store(
        tmp_path_factory.mktemp("run"),
        {"of": "scenes"},
        count=COUNT,
        shape=experiment.shape,
        dtype=experiment.dtype,
        batch=4,
    )
    runner.run(experiment, {}, dataset, WHOLE, store)
    found = score(store.blocks(), experiment, [0.75], every=4)
    titles = {"bright": "Bright <b>", PROPOSALS: "proposals"}
    table = TextTable(dataset.name, titles, [0.75], found, 9, 3, "grid", 479)
    look = Look(scores_of, {}, WHOLE, dataset, (96, 96), 0.0, batch=4)
    return TextGallery(experiment, look, "network", table)


def test_pictures_are_of_the_words_and_boxes_that_the_page_says(gallery, tmp_path, monkeypatch):
    drawn = []

    class Spy(Drawing):
        def __init__(self, photograph, heat):
            super().__init__(photograph, heat)
            self.seen = {"photograph": photograph, "heat": heat, "true": [], "found": []}
            drawn.append(self.seen)

        def boxes(self, boxes, found=False):
            boxes = list(boxes)
            self.seen["found" if found else "true"] += boxes
            super().boxes(boxes, found)

    monkeypatch.setattr(module, "Drawing", Spy)
    gallery.write(tmp_path / "gallery", 3)
    page = (tmp_path / "gallery/index.html").read_text("utf-8")
    files = {path.name for path in tmp_path.glob("gallery/*.jpg")}
    shown = re.findall(r'<figure class="(\w+)"><a href="([^"]+)">.*?width="(\d+)"', page)
    assert {file for _, file, _ in shown} == files and len(shown) == len(drawn)
    dataset, experiment = gallery.experiment.dataset, gallery.experiment
    of_phrase = {(one.place, one.phrase): one for one in gallery.table.scores.localised}
    verdicts, held_out = [], 0
    for (verdict, file, width), seen in zip(shown, drawn, strict=True):
        with Image.open(tmp_path / "gallery" / file) as image:
            assert image.width == int(width)
        _, place, rest = file.removesuffix(".jpg").split("-", 2)
        example = dataset[int(place)]
        assert seen["photograph"] is example.image()
        held_out += int(place) % 4 == 0
        if rest.startswith("word-"):
            outputs = [int(rest.removeprefix("word-"))]
            assert verdict == "plain" and not seen["true"] and not seen["found"]
        else:
            one = of_phrase[int(place), int(rest)]
            phrase = localisation.phrases(example)[one.phrase]
            outputs = localisation.known(phrase, experiment.words)
            assert verdict == ("hit" if one.hits[0] else "miss")
            assert seen["true"] == [tuple(box) for box in example.boxes(phrase.entity)]
            assert seen["found"] == [tuple(one.boxes[0].tolist())]
            verdicts.append(verdict)
        heats = []
        for output in outputs:
            cells = bright({}, WHOLE.on_host(example.image())[None], jnp.array([[output]]))[0, 0]
            heats.append(maps.resize(cells, (96, 96)))
        np.testing.assert_allclose(seen["heat"], np.mean(heats, axis=0), atol=1e-4)
    assert held_out == 0  # which count for nothing, and are not shown
    assert verdicts == ["hit"] * 3 + ["miss"] * 3
    text = unescape(page)
    assert "Bright <b>: phrases" in text and "<script>" not in page and "<b>" not in page


def test_phrases_without_a_known_word_are_not_shown_and_captions_have_most_words(gallery):
    chosen = [one for hit in (True, False) for one in gallery._phrases(0, hit, 99)]
    groups = {(one.place, gallery._phrase(one)[1].groups, one.hits[0]) for one in chosen}
    assert len(groups) == len(chosen)  # one stands for all of a group that fare alike
    assert all(gallery._words_of(one) for one in chosen)
    unknown = [one for one in gallery.table.scores.localised if one.boxes[0] is None]
    assert unknown and not set(map(id, unknown)) & set(map(id, chosen))
    dataset = gallery.experiment.dataset
    captions = gallery._captions(99)
    assert sorted(place for place, _, _ in captions) == [p for p in range(COUNT) if p % 4]
    for place, caption, words in captions:
        most = max(
            len({word for word in other.words if word in gallery.experiment.words})
            for other in dataset[place].captions
        )
        assert len(words) == most and set(words) <= set(caption.words)


def test_a_phrase_is_marked_in_its_caption():
    caption = Caption(("a", "red", "dog", "runs"), ())
    for first, words, wanted in (
        (0, ("a", "red", "dog"), "[a red dog] runs"),
        (3, ("runs",), "a red dog [runs]"),
    ):
        assert module._marked(caption, Phrase(words, first, "1", ("other",))) == wanted
