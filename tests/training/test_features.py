"""What is computed once: the backbone's features of a few views, and a training that uses them."""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_training import CLASSES, SETTINGS, Small, equal_bits, start, write_voc

from excitation_jax import models, training
from excitation_jax.models.squeezenet import SqueezeNet
from excitation_jax.training import images, input
from excitation_jax.training.backbone import Backbone
from excitation_jax.training.features import Features


@pytest.fixture
def records(tmp_path):
    return training.read_voc(write_voc(tmp_path / "voc"), "all", classes=CLASSES)


# The backbone and the head.


@pytest.mark.parametrize("name", models.names())
def test_the_registry_knows_what_a_network_without_classifier_does_not_have(name):
    spec = models.get(name)
    with_it, without_it = spec.expected(7)["params"], spec.expected(None)["params"]
    rest = {layer: held for layer, held in with_it.items() if layer != spec.output_layer}
    assert jax.tree.structure(rest) == jax.tree.structure(without_it)
    assert all(leaf.shape[-1] == 7 for leaf in jax.tree.leaves(with_it[spec.output_layer]))


@pytest.mark.parametrize(
    ("model", "size", "layer"),
    [
        (models.CifarResNet(8, num_classes=5), 32, "linear"),
        (SqueezeNet(5, version="1.1"), 31, "conv_final"),  # padded: a border of the bias alone
    ],
)
def test_both_parts_together_are_the_network(model, size, layer):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, size, size, 3)).astype(np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(1), x)
    variables = jax.tree.map(lambda s: rng.uniform(0, 0.1, s.shape).astype(np.float32), shapes)
    backbone = Backbone(model, variables, size, layer)

    @jax.jit
    def both(variables):
        features = backbone.features(variables, x)
        return backbone.logits(variables["params"][layer], features), model.apply(variables, x)

    parts, whole = both(variables)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
    if isinstance(model, SqueezeNet):  # whose last ReLU is left out: it cut nothing off above
        variables["params"][layer]["bias"] -= 1e15
        parts, whole = both(variables)
        assert (parts < 0).all() and (whole == 0).all()


def test_a_layer_that_is_none_is_named():
    with pytest.raises(ValueError, match="the layer 'top' is no module of Small: name the last"):
        Backbone(Small(), start(), 16, "top")


# Their store.


def view(record, place, number):
    return images.random_view(record, place, number, seed=5, side=8, resized=10)


def mean_colours(pixels):
    return np.asarray(pixels, np.float32).mean((1, 2))


def test_features_are_those_of_each_view_computed_once_and_kept(records, tmp_path):
    seen = []

    def compute(pixels):
        seen.append(len(pixels))
        return mean_colours(pixels)

    places, views = np.array([11, 0, 3, 3, 7]), np.array([1, 0, 1, 0, 1])
    expected = [
        mean_colours(view(records[p], p, v)[None])[0] for p, v in zip(places, views, strict=True)
    ]
    for folder in (None, tmp_path / "kept"):
        seen.clear()
        made = functools.partial(Features, records, view, compute, batch=5, folder=folder)
        features = made()
        for _ in range(2):
            np.testing.assert_allclose(features.rows(places, views), expected, rtol=1e-6)
        assert seen == [5] * 6  # 12 records in batches of 5, filled up; two views
    np.testing.assert_allclose(made().rows(places, views), expected, rtol=1e-6)
    assert len(seen) == 6
    # What is lost or damaged is computed again, and only that.
    (tmp_path / "kept" / "1-0.npy").write_bytes(b"\x93NUMPY")
    again = made()
    np.testing.assert_allclose(again.rows(places, views), expected, rtol=1e-6)
    assert len(seen) == 9
    shutil.rmtree(tmp_path / "kept")  # in the middle of a run, too
    np.testing.assert_allclose(again.rows(places, views), expected, rtol=1e-6)
    assert len(seen) == 15


def test_blocks_are_whole_batches(records, tmp_path, monkeypatch):
    monkeypatch.setattr("excitation_jax.training.features._BLOCK", 4)
    done = []
    features = Features(
        records,
        view,
        mean_colours,
        batch=2,
        folder=tmp_path,
        on_progress=lambda now, total: done.append((now, total)),
    )
    every = np.arange(12)
    whole = features.rows(every, np.zeros_like(every))
    assert {path.name for path in tmp_path.glob("*.npy")} == {"0-0.npy", "0-4.npy", "0-8.npy"}
    assert done == [(n, 12) for n in (2, 4, 6, 8, 10, 12)]
    (tmp_path / "0-4.npy").unlink()
    done.clear()
    assert equal_bits(features.rows(every, np.zeros_like(every)), whole)
    assert done == [(10, 12), (12, 12)]


def test_epochs_are_in_the_same_order_and_show_the_views_by_turns(records):
    drawn = input.training_batches(records, batch=4, seed=2, size=8, resized=10)
    named = input.place_batches(records, batch=4, seed=2, views=2)
    for turn in range(12):  # four epochs
        photographs, names = next(drawn), next(named)
        assert equal_bits(photographs["labels"], names["labels"])
        assert names["view"].tolist() == [turn // 3 % 2] * 4
        for place, labels in zip(names["place"], names["labels"], strict=True):
            assert equal_bits(records[place].labels, labels)
    drawn.close()
    named.close()


def test_views_differ_between_photographs_numbers_and_seeds(records):
    def drawn(place, number, seed):
        pixels = images.random_view(records[0], place, number, seed=seed, side=8, resized=20)
        return pixels.tobytes()

    assert len({drawn(p, n, s) for p in range(4) for n in range(4) for s in range(4)}) > 50
    assert drawn(1, 2, 3) == drawn(1, 2, 3)


# Training with them.


@pytest.fixture
def run(records, tmp_path):
    def train(steps=9, **changed):
        settings = {"directory": tmp_path / "run", "views": 2, **SETTINGS, **changed}
        return training.fine_tune(Small(), start(), records, steps=steps, **settings)

    return train


def test_a_step_is_that_of_the_views(records):
    """Three steps of momentum descent, written out, each of the views that it is to show."""
    tuned = training.fine_tune(
        Small(), start(), records, steps=6, seed=3, views=1, learning_rate=0.1, momentum=0.8,
        **SETTINGS,
    )["params"]["logits"]  # fmt: skip
    variables = start()
    named = input.place_batches(records, batch=4, seed=3, views=1)

    def loss_of(head, pixels, labels):
        params = {**variables["params"], "logits": head}
        logits = Small().apply({**variables, "params": params}, pixels / 127.5 - 1)
        signs = 2 * labels - 1
        return jnp.log1p(jnp.exp(-signs * logits)).sum() / 4

    head = variables["params"]["logits"]
    velocity = jax.tree.map(jnp.zeros_like, head)
    for _ in range(6):
        batch = next(named)
        pixels = np.stack(
            [
                images.random_view(records[p], p, 0, seed=3, side=16, resized=20)
                for p in batch["place"].tolist()
            ]
        )
        slope = jax.grad(loss_of)(head, pixels, batch["labels"])
        velocity = jax.tree.map(lambda v, g: 0.8 * v + g, velocity, slope)
        head = jax.tree.map(lambda p, v: p - 0.1 * v, head, velocity)
    named.close()
    for key in head:
        np.testing.assert_allclose(tuned[key], head[key], rtol=1e-4, atol=1e-6)


def test_no_photograph_is_read_more_often_than_it_has_views(run, records, monkeypatch):
    read, inner = [], images.read
    monkeypatch.setattr(images, "read", lambda path: [read.append(path), inner(path)][1])
    run(steps=15, directory=None, validation=records[:3], validate_every=1)
    assert sorted(read) == sorted([record.path for record in (*records * 2, *records[:3])])


def test_an_interrupted_run_with_views_continues_bit_for_bit(run, tmp_path):
    def interrupt(taken, loss, measured):
        if taken == 5:
            raise KeyboardInterrupt

    whole = run(directory=None)
    with pytest.raises(KeyboardInterrupt):
        run(on_step=interrupt)
    assert {path.name for path in (tmp_path / "run/features/training").iterdir()} == {
        "0-0.npy",
        "1-0.npy",
    }
    shutil.rmtree(tmp_path / "run" / "features")  # which may be done at any time
    assert equal_bits(run(), whole)
    assert not equal_bits(run(directory=None, views=1), whole)
    with pytest.raises(FileExistsError, match=r"views was 2, is 1"):
        run(views=1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"views": 0}, "views must be at least 1, got 0"),
        ({"layers": "all"}, "views are of use where only the output layer is trained"),
        ({"patience": 3}, "patience counts measurements: give validation"),
        ({"classes": ("cat", "dog")}, "there are 2 names of classes, but 3 logits"),
        ({"classes": ("cat", "dog", "a\nb")}, r"each be one line, got \['a\\nb'\]"),
        ({"classes": ("cat", "cat", "dog")}, "the names of classes must differ"),
    ],
)
def test_what_does_not_belong_together_is_named(run, changed, message):
    with pytest.raises(ValueError, match=message):
        run(**changed)
