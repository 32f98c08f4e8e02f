"""The gallery: which pairs it shows, what is in its pictures, and that a page is whole and safe."""

import os
import threading
import time
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from excitation_jax import maps
from excitation_jax.data import Dataset, Example, Object
from excitation_jax.evaluation import runner
from excitation_jax.evaluation.again import Look
from excitation_jax.evaluation.choice import Outcome, choose
from excitation_jax.evaluation.drawing import Drawing
from excitation_jax.evaluation.gallery import replacing
from excitation_jax.evaluation.pointing import pointing_game as pointing
from excitation_jax.evaluation.pointing.gallery import PointingGallery
from excitation_jax.evaluation.pointing.table import PointingTable
from excitation_jax.evaluation.store import Store
from excitation_jax.models import Preprocessing

HOSTILE = ('<script>alert("x")</script>', "&lt;$x$'</h2>", "line\nbreak\x00", "cat \udcff")
KEYS = ("../../<img src=x>", "quote\"'", "plain")
WHOLE = Preprocessing((0.0,) * 3, (255.0,) * 3, resize=(24, 20), crop=None, warp=True)
MIDDLE = Preprocessing((0.0,) * 3, (255.0,) * 3, resize=26, crop=18)


@st.composite
def many_outcomes(draw):
    """Pairs of up to 12 photographs and 5 categories, each at most once."""
    pairs = draw(st.sets(st.tuples(st.integers(0, 11), st.integers(0, 4)), max_size=40))
    return [Outcome(place, category, draw(st.booleans()), (True,)) for place, category in pairs]


@settings(max_examples=80, deadline=None)
@given(many_outcomes(), st.integers(0, 12), st.randoms(use_true_random=False))
def test_a_choice_is_spread_over_categories_whatever_the_order(outcomes, count, rng):
    chosen = choose(outcomes, count)
    assert len(chosen) == len(set(chosen)) == min(count, len(outcomes))
    assert set(chosen) <= set(outcomes)
    shuffled = list(outcomes)
    rng.shuffle(shuffled)
    assert choose(shuffled, count) == chosen
    # No category is chosen twice more often than one of which there is still a pair.
    there, found = (Counter(o.category for o in part) for part in (outcomes, chosen))
    spare = [found[category] for category in there if found[category] < there[category]]
    assert max(found.values(), default=0) <= min(spare, default=count) + 1


def test_difficult_pairs_come_first_and_photographs_are_spread():
    alike = [Outcome(place, 0, place % 100 == 7, (True,)) for place in range(1000)]
    chosen = choose(alike, 10)
    assert all(pair.difficult for pair in chosen)
    easy = [Outcome(place, 0, False, (True,)) for place in range(1000)]
    places = sorted(pair.place for pair in choose(easy, 10))
    assert max(np.diff([0, *places, 1000])) < 250
    # Of several categories in a photograph one is shown while there are other photographs.
    crowded = [Outcome(place, c, False, (True,)) for place in range(8) for c in range(8)]
    assert len({pair.place for pair in choose(crowded, 8)}) == 8


def dataset_of(masks, count=9):
    """Photographs of noise with two or three categories each."""
    rng = np.random.default_rng(4)
    examples = []
    for place in range(count):
        height, width = size = tuple(rng.integers(30, 60, 2).tolist())
        objects = []
        for c in rng.choice(4, 3):
            x0, y0 = rng.uniform(0, width - 12), rng.uniform(0, height - 12)
            box = (x0, y0, x0 + rng.uniform(5, 12), y0 + rng.uniform(5, 12))
            pixels = np.zeros(size, bool)
            pixels[int(y0) : int(y0) + 6, int(x0) : int(x0) + 3] = True
            objects.append(Object(HOSTILE[c], box, mask=lambda pixels=pixels: pixels))
        key = f"{KEYS[place % 3]} {place}"
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        examples.append(Example(key, None, size, tuple(objects), pixels=pixels))
    return Dataset("noise <i>", HOSTILE, tuple(examples), masks=masks)


def red(variables, images, classes):
    """A map of 8 x 8 for each class, from one of the image's channels."""
    small = jax.image.resize(images, (len(images), 8, 8, 3), "linear")
    turned = [jnp.roll(small, k, axis=1)[..., k % 3] for k in range(len(HOSTILE))]
    every = variables * jnp.stack(turned, axis=1)
    return jnp.take_along_axis(every, classes[..., None, None], axis=1)


def fine(variables, images, classes):
    """A map as fine as the input."""
    return red(variables, images[:, ::-1], classes).repeat(3, 2).repeat(3, 3)[..., :18, :18]


def scores(variables, images):
    return variables * images.mean((1, 2))[:, :1] * jnp.arange(4.0)


def played(folder, *, masks, preprocessing, count=9):
    """The gallery of a game that was played."""
    dataset = dataset_of(masks, count)
    methods = {"red": red, "fine": fine}
    game = pointing.PointingGame(dataset, methods, pointing.Rules(7), blur=0.05)
    store = Store(folder, {"of": "noise"}, count=count, shape=game.shape, dtype=game.dtype, batch=4)
    runner.run(game, jnp.float32(2), dataset, preprocessing, store)
    titles = {"red": "Red <b>", "fine": "fine", "centre": "centre"}
    counts = pointing.count(store.blocks())
    table = PointingTable(dataset.name, dataset.classes, titles, counts, count, game.rules)
    look = Look(scores, jnp.float32(2), preprocessing, dataset, game.canvas, game.blur, batch=4)
    outcomes = list(pointing.outcomes(store.blocks()))
    return PointingGallery(outcomes, look, "network & weights", game, table)


class Reader(HTMLParser):
    """What is on a page, of which every element is closed."""

    VOID = {"meta", "img", "br"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.text, self.images, self.figures = (
            [],
            [],
            [],
            "",
            [],
            [],
        )
        self.links = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        own = dict(attributes)
        assert len(own) == len(attributes)
        self.tags.append(tag)
        self.ids += [own["id"]] if "id" in own else []
        if tag == "figure":
            self.figures.append([own["class"]])
        if tag == "a":
            self.links.append(own["href"])
        if tag == "img":
            self.images.append(own)
            self.figures[-1].append(own["src"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize(
    ("masks", "preprocessing"), [(False, WHOLE), (True, MIDDLE)], ids=["boxes", "masks, cropped"]
)
def test_a_page_shows_what_the_records_say_and_nothing_breaks_it(tmp_path, masks, preprocessing):
    gallery = played(tmp_path, masks=masks, preprocessing=preprocessing)
    assert gallery.write(tmp_path / "gallery", 3) == 0
    content = (tmp_path / "gallery" / "index.html").read_text("utf-8")
    page = Reader(content)
    assert set(page.tags) <= set(
        "html head meta title style body header h1 p dl dt dd div table caption thead tbody tr th "
        "td nav ul li a main section h2 h3 figure img figcaption strong span br".split()
    )
    assert len(set(page.ids)) == len(page.ids) == 3
    shown = "line\N{REPLACEMENT CHARACTER}break\N{REPLACEMENT CHARACTER}"
    for text in ("noise <i>", "Red <b>", HOSTILE[0], HOSTILE[1], shown, KEYS[0], KEYS[1]):
        assert text in page.text
    # Every picture is there, is shown and is as large as the page says.
    files = {path.name for path in (tmp_path / "gallery").iterdir()} - {"index.html"}
    assert {own["src"] for own in page.images} == files
    assert set(page.links) == files | {f"#{name}" for name in page.ids}
    for own in page.images:
        with Image.open(tmp_path / "gallery" / own["src"]) as image:
            assert (str(image.width), str(image.height)) == (own["width"], own["height"])
            assert max(image.size) >= 256
        assert own["alt"]
    # A hit is a hit, and a miss is a miss.
    by_place = {(o.place, o.category): o.hits for o in gallery.outcomes}
    for verdict, file in page.figures:
        m, place, category = map(int, file.removesuffix(".jpg").split("-"))
        assert by_place[place, category][m] == (verdict == "hit")
    # At most three of each kind: of both methods where they disagree, and then of each method.
    maps_hit = [hits[:-1] for hits in by_place.values()]
    shown = [
        min(3, sum(len(set(hits)) > 1 for hits in maps_hit)) * 2,
        *(min(3, sum(hits[m] == kind for hits in maps_hit)) for m in (0, 1) for kind in (0, 1)),
    ]
    assert len(page.figures) == sum(shown) and min(shown) > 0


@pytest.mark.parametrize("preprocessing", [WHOLE, MIDDLE], ids=["whole", "cropped"])
def test_maps_are_those_of_the_game_and_lie_where_the_network_looks(tmp_path, preprocessing):
    gallery = played(tmp_path, masks=True, preprocessing=preprocessing)
    game, look, seen = gallery.game, gallery.look, 0
    for m, (name, function) in enumerate(game.methods.items()):
        for pair, again in look.at(function, gallery.outcomes):
            example, category = game.dataset[pair.place], game.dataset.classes[pair.category]
            region = example.region(category, masks=True)
            assert pointing.is_hit(region, *again.point, game.rules) == pair.hits[m]
            assert np.unravel_index(again.heat.argmax(), again.heat.shape) == again.point
            x0, y0, x1, y1 = preprocessing.window(example.size)
            rows, columns = (np.arange(side) + 0.5 for side in example.size)
            inside = ((rows > y0) & (rows < y1))[:, None] & (columns > x0) & (columns < x1)
            np.testing.assert_array_equal(np.isfinite(again.heat), inside)
            image = preprocessing.on_host(example.image())[None]
            wanted = np.asarray(scores(2.0, image))[0]
            np.testing.assert_allclose(again.score, wanted[pair.category], rtol=1e-5)
            assert again.rank == 4 - pair.category
            if name == "red" and preprocessing is WHOLE:
                heat = red(2.0, image, jnp.array([[pair.category]]))[0, 0]
                wanted = maps.resize(heat, example.size)
                np.testing.assert_allclose(again.heat, wanted, atol=1e-5)
            seen += 1
    assert seen == 2 * len(gallery.outcomes) > 30


def test_another_verdict_than_that_of_the_records_is_said(tmp_path):
    gallery = played(tmp_path, masks=False, preprocessing=WHOLE, count=2)
    first, *others = gallery.outcomes
    turned = first._replace(hits=(not first.hits[0], *first.hits[1:]))
    other = replace(gallery, outcomes=[turned, *others])
    assert other.write(tmp_path / "gallery", 9) == 1
    text = Reader((tmp_path / "gallery" / "index.html").read_text("utf-8")).text
    assert "Computed again, in another batch, it is as drawn here, and not as in the" in text


def test_where_drawing_fails_the_older_gallery_stays(tmp_path):
    gallery = played(tmp_path, masks=False, preprocessing=WHOLE, count=4)
    gallery.write(tmp_path / "gallery", 1)
    before = sorted((p.name, p.read_bytes()) for p in (tmp_path / "gallery").iterdir())
    examples = list(gallery.game.dataset)
    examples[-1] = Example(examples[-1].key, tmp_path / "gone.jpg", (9, 9), examples[-1].objects)
    object.__setattr__(gallery.look, "dataset", examples)
    with pytest.raises(FileNotFoundError, match="gone.jpg"):
        gallery.write(tmp_path / "gallery", 9)
    assert sorted((p.name, p.read_bytes()) for p in (tmp_path / "gallery").iterdir()) == before
    assert {p.name for p in tmp_path.iterdir()} == {"gallery", "records", "settings.json"}


def test_a_folder_is_replaced_whole_by_several_at_once(tmp_path):
    failed = []

    def write(who):
        try:
            for turn in range(30):
                with replacing(tmp_path / "gallery") as new:
                    for name in "ab":
                        (new / name).write_text(f"{who} {turn}")
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    a, b = (tmp_path / "gallery" / name for name in "ab")
    assert a.read_text() == b.read_text() and a.read_text().endswith(" 29")
    assert [path.name for path in tmp_path.iterdir()] == ["gallery"]


def test_what_a_killed_process_left_is_removed_once_it_is_old(tmp_path):
    for name, age in (("old", 7200), ("new", 0)):
        left = tmp_path / f".gallery.{name}"
        left.mkdir()
        (left / "0-0-0.jpg").touch()
        os.utime(left, (time.time() - age,) * 2)
    (tmp_path / "gallery").write_text("no folder, and not to be replaced")
    with pytest.raises(NotADirectoryError), replacing(tmp_path / "gallery"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"gallery", ".gallery.new"}


def test_marks_are_drawn_where_they_belong():
    grey = np.full((64, 64, 3), 90, np.uint8)
    heat = np.zeros((64, 64))
    heat[:, 48:] = -np.inf

    def changed(draw):
        drawing = Drawing(grey, heat)
        before = np.asarray(drawing.image).astype(int)
        draw(drawing)
        return before, np.abs(np.asarray(drawing.image) - before).sum(-1) > 0

    # Enlarged four times: 256 pixels.
    before, box = changed(lambda drawing: drawing.boxes([(10, 20, 30, 50)]))
    assert before.shape == (256, 256, 3)
    assert (before[:, :192] == 90).all() and (before[:, 192:] < 40).all()
    rows, columns = np.nonzero(box)
    assert (rows.min(), rows.max()) == (79, 200) and (columns.min(), columns.max()) == (39, 120)
    assert not box[84:196, 44:116].any()
    region = np.zeros((64, 64), bool)
    region[20:50, 10:30] = True
    np.testing.assert_array_equal(changed(lambda drawing: drawing.outline(region))[1], box)
    rows, columns = np.nonzero(changed(lambda drawing: drawing.point(30, 40, 5))[1])
    assert abs(rows.mean() - 121.5) < 1 and abs(columns.mean() - 161.5) < 1
    assert 20 <= rows.max() - 122 <= 23
    # Boxes at the border and beyond, and a box of no area, are no obstacle.
    assert changed(lambda drawing: drawing.boxes([(0, 0, 64, 64)]))[1][:, 0].all()
    changed(lambda drawing: drawing.boxes([(64, 64, 64, 64), (0, 0, 0, 0)]))
