"""Fine-tuning: the readers, the transforms, and what is trained."""

import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_training import CLASSES, OBJECT, SETTINGS, Small, equal_bits, start, write_voc

from excitation_jax import training
from excitation_jax.training import images, input, output_layer
from excitation_jax.training.tags import TaggedRecord


@pytest.fixture
def voc(tmp_path):
    return write_voc(tmp_path / "voc")


@pytest.fixture
def records(voc):
    return training.read_voc(voc, "all", classes=CLASSES)


@pytest.fixture
def variables():
    return start()


# The readers.


def test_voc_is_read_in_order_with_and_without_difficult_objects(voc, records):
    assert [record.path.name for record in records] == [f"{i:06}.jpg" for i in range(12)]
    assert [int(record.labels.sum()) for record in records] == [1, 2] * 6
    assert records[0].labels.dtype == np.float32
    easy = training.read_voc(voc, "all", classes=CLASSES, difficult=False)
    assert easy[-1].labels.tolist() == [0, 0, 0]
    for one, other in zip(easy[:-1], records[:-1], strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)


def test_a_second_column_of_a_split_is_left_out(voc):
    (voc / "ImageSets/Main/cat_all.txt").write_text("000003 -1\n\n000001  1\n")
    found = training.read_voc(voc, "cat_all", classes=CLASSES)
    assert [record.path.stem for record in found] == ["000003", "000001"]


@pytest.mark.parametrize(
    ("file", "text", "error", "message"),
    [
        ("Annotations/000001.xml", None, FileNotFoundError, "no annotation .*000001.xml"),
        ("JPEGImages/000001.jpg", None, FileNotFoundError, "no photograph .*000001.jpg"),
        ("ImageSets/Main/all.txt", None, FileNotFoundError, "no split .*all.txt"),
        ("ImageSets/Main/all.txt", " \n", ValueError, "all.txt lists no photographs"),
        ("ImageSets/Main/all.txt", "000001\n000001", ValueError, "lists 000001 twice"),
        ("ImageSets/Main/all.txt", "../voc/000001", ValueError, "no name of a photograph"),
        ("Annotations/000001.xml", "<annotation>", ValueError, "000001.xml is no XML file"),
        ("Annotations/000001.xml", "<html/>", ValueError, "its root is <html>"),
        (
            "Annotations/000001.xml",
            '<!DOCTYPE a [<!ENTITY b "b">]><annotation/>',
            ValueError,
            "000001.xml .* document type",
        ),
        (
            "Annotations/000001.xml",
            f"<annotation>{OBJECT.format('unicorn', 0)}</annotation>",
            ValueError,
            "000001.xml has an object 'unicorn'",
        ),
        (
            "Annotations/000001.xml",
            f"<annotation>{OBJECT.format('cat', 'yes')}</annotation>",
            ValueError,
            "<difficult> 'yes'",
        ),
        ("Annotations/000001.xml", " " * 5_000_000, ValueError, "more than 4000000 bytes"),
    ],
)
def test_what_is_wrong_in_a_voc_folder_is_named(voc, file, text, error, message):
    (voc / file).unlink() if text is None else (voc / file).write_text(text)
    with pytest.raises(error, match=message):
        training.read_voc(voc, "all", classes=CLASSES)


@pytest.fixture
def coco(voc, tmp_path):
    """A function that writes an instances file with some entries replaced, and reads it."""
    content = {
        "images": [{"id": i, "file_name": f"{i:06}.jpg"} for i in range(4)],
        "categories": [{"id": 7, "name": "airplane"}, {"id": 9, "name": "dog"}]
        + [{"id": 11, "name": "giraffe"}],
        "annotations": [
            {"image_id": 2, "category_id": 7, "iscrowd": 0},
            {"image_id": 0, "category_id": 9, "iscrowd": 1},
            {"image_id": 2, "category_id": 9, "iscrowd": 0},
            {"image_id": 1, "category_id": 11, "iscrowd": 0},
        ],
    }

    def read(text=None, classes=training.VOC_CLASSES, **changed):
        path = tmp_path / "instances.json"
        path.write_text(json.dumps({**content, **changed}) if text is None else text)
        return training.read_coco(path, voc / "JPEGImages", classes=classes)

    return read


def test_coco_is_read_by_the_names_of_voc(coco):
    found = coco()
    assert [record.path.stem for record in found] == ["000000", "000002"]
    present = [{training.VOC_CLASSES[c] for c in np.flatnonzero(r.labels)} for r in found]
    assert present == [{"dog"}, {"aeroplane", "dog"}]


def test_coco_is_read_by_its_own_names(coco, tmp_path):
    found = coco(classes=None)
    assert training.coco_classes(tmp_path / "instances.json") == ("airplane", "dog", "giraffe")
    assert [record.path.stem for record in found] == ["000000", "000001", "000002"]
    assert [record.labels.tolist() for record in found] == [[0, 1, 0], [0, 0, 1], [1, 1, 0]]


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"text": "{"}, ValueError, "instances.json is no JSON"),
        ({"text": "[" * 100_000}, ValueError, "instances.json is no JSON"),
        ({"text": "[]"}, ValueError, "instances.json is not in COCO's layout"),
        ({"images": None}, ValueError, "not in COCO's layout"),
        ({"images": [{"id": 0}]}, ValueError, "COCO's layout.*KeyError 'file_name'"),
        ({"images": []}, ValueError, "annotates image 2, but lists none"),
        ({"categories": []}, ValueError, "category 7, but lists none"),
        ({"annotations": []}, ValueError, "no object of the classes aeroplane, "),
        (
            {"images": [{"id": i, "file_name": "../secret.jpg"} for i in range(4)]},
            ValueError,
            "'../secret.jpg', which is outside",
        ),
        (
            {"images": [{"id": i, "file_name": "gone.jpg"} for i in range(4)]},
            FileNotFoundError,
            "no photograph .*gone.jpg, which .*instances.json lists",
        ),
    ],
)
def test_what_is_wrong_in_a_coco_file_is_named(coco, changed, error, message):
    with pytest.raises(error, match=message):
        coco(**changed)


# The transforms.


@pytest.mark.parametrize("shape", [(5, 9), (9, 4), (1, 10), (6, 6)])
def test_mirrored_squares_are_symmetric_about_the_borders(shape):
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    square = images.mirror_to_square(image)
    side = max(shape)
    assert square.shape == (side, side, 3)
    top, left = (side - shape[0]) // 2, (side - shape[1]) // 2
    np.testing.assert_array_equal(square[top : top + shape[0], left : left + shape[1]], image)
    # Along both axes a pixel outside is the one as far inside, however often that mirrors.
    for axis, first in ((0, top), (1, left)):
        lines = np.moveaxis(square, axis, 0)
        for place in range(side):
            period = (place - first) % (2 * shape[axis])
            inside = first + min(period, 2 * shape[axis] - 1 - period)
            np.testing.assert_array_equal(lines[place], lines[inside])


def test_a_strip_does_not_fill_the_memory():
    with pytest.raises(ValueError, match="image of 1 x 10001 is too long"):
        images.mirror_to_square(np.zeros((1, 10001, 3), np.uint8))


def test_crops_are_parts_of_the_image_and_reach_every_corner():
    image = np.arange(8 * 9).reshape(8, 9, 1).astype(np.uint8)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        crop = images.random_crop(image, 6, rng)
        top, left = divmod(int(crop[0, 0, 0]), 9)
        np.testing.assert_array_equal(crop, image[top : top + 6, left : left + 6])
        seen.add((top, left))
    assert seen == {(top, left) for top in range(3) for left in range(4)}
    np.testing.assert_array_equal(images.central_crop(image, 6), image[1:7, 1:7])
    for crop in (lambda: images.random_crop(image, 9, rng), lambda: images.central_crop(image, 9)):
        with pytest.raises(ValueError, match="crop of 9 does not fit into an image of 8 x 9"):
            crop()


def test_flips_mirror_half_of_the_images():
    image = np.arange(6, dtype=np.uint8).reshape(1, 6, 1)
    rng = np.random.default_rng(0)
    flipped = [bool((images.random_flip(image, rng) == image[:, ::-1]).all()) for _ in range(400)]
    assert 160 < sum(flipped) < 240


def test_batches_are_a_function_of_the_seed_and_continue_where_they_were(records):
    def batches(seed):
        return input.training_batches(records, batch=5, seed=seed, size=16, resized=20)

    one, other = batches(0), batches(1)
    first = [next(one) for _ in range(3)]
    state = json.loads(json.dumps(one.get_state()))
    following = [next(one) for _ in range(4)]
    assert first[0]["image"].shape == (5, 16, 16, 3) and first[0]["image"].dtype == np.uint8
    assert first[0]["labels"].shape == (5, 3) and first[0]["labels"].dtype == np.float32
    assert not equal_bits(first[0], next(other))
    other.close()
    again = batches(0)
    again.set_state(state)
    assert all(equal_bits(batch, next(again)) for batch in following)
    # Every epoch has every record once, and new crops of them.
    epochs = np.concatenate([b["labels"] for b in first + following])[:24].reshape(2, 12, 3)
    assert (epochs.sum(1) == np.sum([r.labels for r in records], 0)).all()
    assert not np.array_equal(*epochs)
    for iterator in (one, again):
        iterator.close()


# Training.


def test_only_the_output_layer_changes_and_the_loss_falls(records, variables):
    losses, precisions = [], []

    def on_step(taken, loss, measured):
        assert taken == len(losses) + 1
        losses.append(loss)
        precisions.append(measured and measured.precision)

    before = jax.tree.map(np.array, variables)
    tuned = training.fine_tune(
        Small(),
        variables,
        records,
        steps=60,
        learning_rate=0.5,
        validation=records,
        validate_every=25,
        on_step=on_step,
        **SETTINGS,
    )
    assert losses[0] == pytest.approx(3 * np.log(2)) and np.mean(losses[-10:]) < 0.5 * losses[0]
    assert [i + 1 for i, p in enumerate(precisions) if p is not None] == [25, 50, 60]
    assert precisions[-1] > 0.9
    assert equal_bits(before, variables)
    assert equal_bits(output_layer.with_layer(tuned, "logits", before["params"]["logits"]), before)
    assert not equal_bits(tuned["params"]["logits"], before["params"]["logits"])
    logits = training.predict(Small(), tuned, records, batch=5, size=16, resized=20)
    assert training.precision_of(records, logits) == precisions[-1]


def test_a_step_is_that_of_the_gradient_of_the_whole_network(records, variables):
    """One step of momentum descent from the same batch, written out, with the full gradient."""
    batches = input.training_batches(records, batch=4, seed=3, size=16, resized=20)
    first, second = next(batches), next(batches)
    batches.close()

    def loss_of(params, batch):
        logits = Small().apply({**variables, "params": params}, batch["image"] / 127.5 - 1)
        return optax.sigmoid_binary_cross_entropy(logits, batch["labels"]).sum() / 4

    params, velocity = variables["params"], 0.0
    for batch in (first, second):
        slope = jax.grad(loss_of)(params, batch)["logits"]["kernel"]
        velocity = 0.8 * velocity + slope
        head = {
            "kernel": params["logits"]["kernel"] - 0.1 * velocity,
            "bias": params["logits"]["bias"],
        }
        if batch is first:
            head["bias"] -= 0.1 * jax.grad(loss_of)(params, batch)["logits"]["bias"]
        params = {**params, "logits": head}
    tuned = training.fine_tune(
        Small(), variables, records, steps=2, seed=3, learning_rate=0.1, momentum=0.8, **SETTINGS
    )
    np.testing.assert_allclose(
        tuned["params"]["logits"]["kernel"], params["logits"]["kernel"], rtol=1e-5, atol=1e-7
    )


def test_every_parameter_is_trained_and_no_statistics(records, variables, tmp_path):
    """Two steps of momentum descent from the same batches, written out, with the full gradient."""
    batches = input.training_batches(records, batch=4, seed=3, size=16, resized=20)
    rng = np.random.default_rng(0)
    begun = jax.tree.map(lambda leaf: rng.uniform(0, 0.5, leaf.shape).astype("f4"), variables)
    before = jax.tree.map(np.array, begun)

    def loss_of(params, batch):
        logits = Small().apply({**begun, "params": params}, batch["image"] / 127.5 - 1)
        return optax.sigmoid_binary_cross_entropy(logits, batch["labels"]).sum() / 4

    params, velocity = begun["params"], jax.tree.map(jnp.zeros_like, begun["params"])
    for _ in range(2):
        slope = jax.grad(loss_of)(params, next(batches))
        velocity = jax.tree.map(lambda v, g: 0.8 * v + g, velocity, slope)
        params = jax.tree.map(lambda p, v: p - 0.1 * v, params, velocity)
    batches.close()
    options = {"seed": 3, "learning_rate": 0.1, "momentum": 0.8, "layers": "all", **SETTINGS}
    options["directory"] = tmp_path / "run"
    tuned = training.fine_tune(Small(), begun, records, steps=2, **options)
    assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(assert_close, tuned["params"], params)
    assert not any(map(equal_bits, jax.tree.leaves(params), jax.tree.leaves(begun["params"])))
    assert equal_bits(begun, before)
    assert equal_bits(tuned["batch_stats"], before["batch_stats"])
    assert equal_bits(training.load_fine_tuned(begun, tmp_path / "run"), tuned)


def test_photographs_of_many_classes_are_trained_with_as_those_of_few(records, variables):
    tagged = [
        TaggedRecord(r.path, tuple(np.flatnonzero(r.labels).tolist()), len(r.labels))
        for r in records
    ]
    options = {"steps": 3, "seed": 1, **SETTINGS}
    one, other = (training.fine_tune(Small(), variables, r, **options) for r in (records, tagged))
    assert equal_bits(one, other)


def test_parts_of_a_data_set_have_nothing_in_common(records):
    rest, held = training.held_out(records)
    assert held == [records[0], records[10]]
    assert rest == training.without(records, held) == [*records[1:10], records[11]]
    assert len(training.held_out(records * 5, most=3)[1]) == 3
    with pytest.raises(ValueError, match="1 photographs cannot be parted"):
        training.held_out(records[:1])


def test_a_nested_output_layer_of_another_size(records):
    class Top(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="classifier")(nn.relu(nn.Dense(4, name="hidden")(x)))

    class Nested(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Top(name="top")(x.mean((1, 2)))

    found = Nested().init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    top = found["params"]["top"]
    top["hidden"]["kernel"] = jnp.ones((3, 4))
    top["classifier"] = {"kernel": jnp.ones((4, 1000)), "bias": jnp.ones(1000)}
    name = "top/classifier"
    with pytest.raises(ValueError, match=r"needs a layer 'top/classifier' of .*\(4, 3\).*new_out"):
        training.fine_tune(Nested(), found, records, steps=1, output_layer=name, **SETTINGS)
    made = training.new_output_layer(Nested(), found, size=16, output_layer=name)
    tuned = training.fine_tune(Nested(), made, records, steps=2, output_layer=name, **SETTINGS)
    assert tuned["params"]["top"]["classifier"]["bias"].all()
    assert equal_bits(tuned["params"]["top"]["hidden"], top["hidden"])
    with pytest.raises(ValueError, match="no layer 'logits' .* but top/classifier, top/hidden"):
        training.fine_tune(Nested(), made, records, steps=1, **SETTINGS)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"validate_every": 0}, "validate_every must be at least 1"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"resized": 12}, "crops of size 16 do not fit into squares of resized 12"),
        ({"records": []}, "no records to train with"),
        ({"validation": []}, "no records for validation"),
    ],
)
def test_wrong_arguments_are_named(records, variables, changed, message):
    with pytest.raises(ValueError, match=message):
        training.fine_tune(
            Small(), variables, **{"records": records, "steps": 1, **SETTINGS, **changed}
        )


def test_wrong_labels_photographs_and_losses_are_named(voc, records, variables):
    wide = [training.Record(records[0].path, np.ones(20, np.float32))]
    with pytest.raises(ValueError, match=r"000000.jpg has labels of shape \(20,\).* 3 logits"):
        training.fine_tune(Small(), variables, wide, steps=1, **SETTINGS)
    none = [training.Record(records[0].path, np.zeros(3, np.float32))]
    with pytest.raises(ValueError, match="none of the records shows any class"):
        training.fine_tune(Small(), variables, records, steps=1, validation=none, **SETTINGS)
    with pytest.raises(FloatingPointError, match="the loss is .* at step"):
        training.fine_tune(Small(), variables, records, steps=99, learning_rate=1e38, **SETTINGS)
    for record in records:
        record.path.write_bytes(record.path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"0000\d\d.jpg is no image, or a damaged one"):
        training.fine_tune(Small(), variables, records, steps=1, **SETTINGS)
