"""The digits demo: its scenes, its measure and the checkpoint that ships with the package."""

import importlib.util
import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from excitation_jax.cli import train_digits
from excitation_jax.digits import CHECKPOINT, DigitsNet, load, make_scenes, train
from excitation_jax.digits.scenes import MAX_SIZE, NUM_CLASSES, SIDE, load_digits
from excitation_jax.maps.average_precision import (
    mean_average_precision,
    uninterpolated_average_precision,
)

needs_sklearn = pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None,
    reason='the scenes need scikit-learn: pip install ".[data]"',
)


@pytest.fixture(scope="module")
def scenes():
    return make_scenes(3, 300, "test")


@pytest.fixture(scope="module")
def loaded():
    return load()


@needs_sklearn
def test_scenes_are_deterministic():
    for split in ("train", "test"):
        for first, second in zip(make_scenes(5, 40, split), make_scenes(5, 40, split), strict=True):
            np.testing.assert_array_equal(first, second)


@needs_sklearn
def test_another_seed_or_split_gives_other_scenes():
    images = [
        make_scenes(seed, 8, split).images
        for seed, split in ((0, "train"), (1, "train"), (0, "test"))
    ]
    for i, j in ((0, 1), (0, 2)):
        assert (np.abs(images[i] - images[j]).max(axis=(1, 2, 3)) > 0.1).all()


@needs_sklearn
def test_no_digit_image_is_in_both_splits():
    from sklearn.datasets import load_digits as all_digits

    train_digits, test_digits = load_digits("train"), load_digits("test")
    trained, tested = ({image.tobytes() for image in d.images} for d in (train_digits, test_digits))
    assert trained.isdisjoint(tested)
    everything = {image.tobytes() for image in (all_digits().images / 16).astype(np.float32)}
    assert trained | tested == everything
    for digits in (train_digits, test_digits):
        share = np.bincount(digits.classes, minlength=NUM_CLASSES) / len(digits.classes)
        np.testing.assert_allclose(share, 0.1, atol=0.005)


@needs_sklearn
def test_shapes_types_and_ranges(scenes):
    assert scenes.images.shape == (300, SIDE, SIDE, 3)
    assert scenes.labels.shape == (300, NUM_CLASSES)
    assert scenes.boxes.shape == (300, NUM_CLASSES, 4)
    assert all(field.dtype == np.float32 for field in scenes)
    assert scenes.images.min() >= 0 and scenes.images.max() <= 1
    assert set(scenes.labels.sum(axis=1)) == {1, 2, 3, 4}


@needs_sklearn
def test_there_is_a_box_for_every_label_and_no_other(scenes):
    present = scenes.labels == 1
    np.testing.assert_array_equal(present, scenes.labels != 0)
    np.testing.assert_array_equal(present, np.isfinite(scenes.boxes).all(axis=-1))
    np.testing.assert_array_equal(~present, np.isnan(scenes.boxes).all(axis=-1))


@needs_sklearn
def test_boxes_lie_in_the_image(scenes):
    boxes = scenes.boxes[scenes.labels == 1]
    assert boxes.min() >= 0 and boxes.max() <= SIDE
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sides.min() >= 3 and sides.max() <= MAX_SIZE + 2


@needs_sklearn
def test_boxes_hold_the_contrast(scenes):
    """A digit differs from its surroundings, so colour varies more in its box than outside it."""
    inside, outside = [], []
    for image, boxes in zip(scenes.images, scenes.boxes, strict=True):
        mask = np.zeros((SIDE, SIDE), bool)
        for x0, y0, x1, y1 in boxes[np.isfinite(boxes[:, 0])].astype(int):
            mask[y0:y1, x0:x1] = True
        inside.append(image[mask].std(axis=0).mean())
        outside.append(image[~mask].std(axis=0).mean())
    assert np.mean(np.array(inside) > outside) > 0.9


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match='"train" or "test"'):
        make_scenes(0, 1, "validation")
    with pytest.raises(ValueError, match="must not be negative, got -1 and 2"):
        make_scenes(-1, 2, "train")


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_is_that_of_sklearn(ties):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the reference")
    rng = np.random.default_rng(0)
    for _ in range(50):
        labels = rng.random((40, 3)) < 0.3
        labels[0] = True
        scores = rng.normal(size=(40, 3)) + labels
        if ties:
            scores = scores.round()
        assert mean_average_precision(labels, scores) == pytest.approx(
            metrics.average_precision_score(labels, scores), abs=1e-12
        )


def test_average_precision_by_hand():
    # Found at ranks 1 and 3: half the recall at precision 1, half at 2/3.
    assert uninterpolated_average_precision([1, 0, 1, 0], [4, 3, 2, 1]) == pytest.approx(5 / 6)
    with pytest.raises(ValueError, match="never present"):
        uninterpolated_average_precision([0, 0], [1, 2])


@needs_sklearn
def test_shipped_model_finds_the_digits(loaded, scenes):
    _, variables = loaded
    precision = mean_average_precision(scenes.labels, train.predict(variables, scenes.images))
    print(f"mAP of the shipped model on 300 test scenes: {precision:.4f}")
    assert precision >= 0.95


def test_shipped_checkpoint_is_small():
    size = sum(path.stat().st_size for path in [CHECKPOINT, *CHECKPOINT.rglob("*")])
    assert size < 1_000_000


def test_load_gives_what_the_model_needs(loaded):
    model, variables = loaded
    assert isinstance(model, DigitsNet)
    expected = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, SIDE, SIDE, 3)))
    assert jax.tree.structure(variables) == jax.tree.structure(expected)
    for restored, wanted in zip(jax.tree.leaves(variables), jax.tree.leaves(expected), strict=True):
        assert isinstance(restored, jax.Array)
        assert (restored.shape, restored.dtype) == (wanted.shape, wanted.dtype)


def test_load_on_a_machine_with_other_devices_prints_nothing():
    """Nor does it warn of a sharding that this machine does not have."""
    code = "import jax; from excitation_jax.digits import load; load(); print(jax.device_count())"
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=3"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        check=False,
        capture_output=True,
        text=True,
        env={**environment, "JAX_PLATFORMS": "cpu"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")


def test_save_is_read_back_by_load_and_never_overwrites(loaded, tmp_path):
    out = tmp_path / "new" / "checkpoint"
    train.save(loaded[1], out)
    assert list(out.parent.iterdir()) == [out]
    restored = load(out)[1]
    jax.tree.map(np.testing.assert_array_equal, restored, loaded[1])
    with pytest.raises(FileExistsError, match="exists"):
        train.save(loaded[1], out)


def test_bad_numbers_of_steps_and_seeds_are_refused():
    with pytest.raises(ValueError, match="steps must be in 1.."):
        train.train(steps=0)
    with pytest.raises(ValueError, match="seed must not be negative"):
        train.train(seed=-1)


@needs_sklearn
def test_an_interrupted_training_leaves_nothing(tmp_path, capsys, monkeypatch):
    # Between two steps. At a moment of the clock it may fall into JAX's writing of its compilation
    # cache, which leaves the file open, and Python's complaint about that to the next test.
    def interrupted(steps, seed, on_step):
        def interrupt(taken, loss):
            on_step(taken, loss)
            if taken == 3:
                signal.raise_signal(signal.SIGINT)

        return train.train(steps, seed, interrupt)

    monkeypatch.setattr(train_digits, "train", interrupted)
    assert train_digits.main(["--out", str(tmp_path / "out")]) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
