"""Decoding in threads: what is in the batches, resuming, sharding, memory and errors."""

import threading
import time

import numpy as np
import pytest
from data_files import HEIGHT, WIDTH, real, write_photograph
from PIL import Image

from excitation_jax import data, models
from excitation_jax.data.photographs import read
from excitation_jax.data.pipeline import Batches
from excitation_jax.data.scenes import digit_scenes
from excitation_jax.models import Preprocessing

PLAIN = Preprocessing((0.0,) * 3, resize=(6, 8), crop=None, warp=True)


class Counted(data.Dataset):
    """A data set that counts how often an example is taken."""

    def __getitem__(self, place):
        with LOCK:
            self.__dict__["taken"] = self.__dict__.get("taken", 0) + 1
        return super().__getitem__(place)


LOCK = threading.Lock()


def in_memory(count: int, kind=data.Dataset):
    """Examples whose photographs are as grey as their place."""
    examples = [
        data.Example(str(i), None, (6, 8), (), pixels=np.full((6, 8, 3), i % 256, np.uint8))
        for i in range(count)
    ]
    return kind("grey", (), tuple(examples))


def places(batches) -> list[int]:
    return [int(place) for batch in batches for place in batch.places[batch.valid]]


def test_batches_have_one_shape_and_the_last_is_filled_up():
    batches = Batches(in_memory(7), PLAIN, batch=3)
    made = list(batches)
    assert len(made) == len(batches) == 3 and places(made) == list(range(7))
    for batch in made:
        assert batch.images.shape == (3, 6, 8, 3) and batch.images.dtype == np.float32
        grey = np.where(batch.valid, batch.places, 0)
        assert (batch.images == grey[:, None, None, None]).all()
        wanted = np.where(batch.valid[:, None], [0, 0, 8, 6], 0)
        np.testing.assert_array_equal(batch.windows, wanted)
    assert made[-1].valid.tolist() == [True, False, False]
    assert made[-1].places.tolist() == [6, -1, -1]
    assert places(batches) == list(range(7))  # once more
    assert list(Batches(in_memory(0), PLAIN, batch=3)) == []


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("start", [0, 5, 16, 17])
def test_processes_side_by_side_are_the_data_set_from_the_start_on(count, start):
    dataset = in_memory(17)
    parts = [list(Batches(dataset, PLAIN, 2, start, (i, count))) for i in range(count)]
    assert len({len(part) for part in parts}) == 1
    assert places(batch for turn in zip(*parts, strict=True) for batch in turn) == list(
        range(start, 17)
    )


def test_images_are_the_networks_own_input_wherever_they_are_made(tmp_path):
    pixels = write_photograph(tmp_path / "a.jpg")
    example = data.Example("a", tmp_path / "a.jpg", (HEIGHT, WIDTH), ())
    dataset = data.Dataset("one", (), (example,))
    for preprocessing in (
        Preprocessing((1.0, 2.0, 3.0), (2.0, 3.0, 4.0), 20, 16, channels="BGR"),
        models.get("resnet18").preprocessing,
        models.get("squeezenet_v1_0_caffe").preprocessing.whole(),
        models.get("mobilenet_v2").preprocessing.whole((20, 31)),
    ):
        (batch,) = Batches(dataset, preprocessing, batch=1)
        np.testing.assert_array_equal(batch.images, preprocessing(pixels))


def test_windows_are_what_the_input_shows():
    """A picture whose pixels are their own coordinates says where the input's corners are."""
    height, width = 120, 200
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0], picture[..., 1] = np.arange(width), np.arange(height)[:, None]
    for preprocessing in (
        Preprocessing((0.0,) * 3, resize=60, crop=50),
        Preprocessing((0.0,) * 3, resize=(60, 80), crop=40, warp=True),
        Preprocessing((0.0,) * 3, resize=30, crop=None, warp=True),
    ):
        x0, y0, x1, y1 = preprocessing.window((height, width))
        shown = preprocessing.on_host(picture)
        rows, columns = preprocessing.size
        across = x0 + (np.arange(columns) + 0.5) * (x1 - x0) / columns - 0.5
        down = y0 + (np.arange(rows) + 0.5) * (y1 - y0) / rows - 0.5
        inner = slice(1, -1)  # a resized picture is flat at its borders
        np.testing.assert_allclose(shown[0, inner, 0], across[inner], atol=1)
        np.testing.assert_allclose(shown[inner, 0, 1], down[inner], atol=1)


def test_decoding_goes_on_while_nobody_takes_and_then_waits():
    dataset = in_memory(2000, Counted)
    iterator = iter(Batches(dataset, PLAIN, batch=4, threads=3))
    most = 0
    for taken in range(1, 11):
        next(iterator)
        deadline = time.monotonic() + 10
        # Three batches are made ahead of the one that was taken last, and no more.
        while dataset.__dict__["taken"] < 4 * (taken + 3) and time.monotonic() < deadline:
            time.sleep(0.005)
        ahead = dataset.__dict__["taken"] - 4 * taken
        assert ahead >= 12
        most = max(most, ahead)
    time.sleep(0.1)
    assert most <= 4 * 4
    iterator.close()
    done = dataset.__dict__["taken"]
    time.sleep(0.1)
    assert dataset.__dict__["taken"] <= done + 12


def test_a_damaged_photograph_ends_the_loop_with_its_name(tmp_path):
    examples = []
    for i in range(5):
        write_photograph(tmp_path / f"{i}.jpg", i)
        examples.append(data.Example(str(i), tmp_path / f"{i}.jpg", (HEIGHT, WIDTH), ()))
    path = tmp_path / "3.jpg"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(ValueError, match=r"3.jpg is no image, or a damaged one"):
        list(Batches(data.Dataset("d", (), tuple(examples)), PLAIN, batch=2))


def test_photographs_are_turned_as_their_annotations_are(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    stored = write_photograph(path, exif=exif)
    turned = read(path)
    assert turned.shape == (WIDTH, HEIGHT, 3)
    np.testing.assert_array_equal(turned, np.rot90(stored, -1))
    np.testing.assert_array_equal(read(path, (WIDTH, HEIGHT)), turned)
    np.testing.assert_array_equal(read(path, (HEIGHT, WIDTH)), stored)
    with pytest.raises(ValueError, match=r"turned.jpg has .* \(40, 30\), but .* says \(7, 8\)"):
        read(path, (7, 8))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch": 0}, "batch and threads must be positive, got 0 and 2"),
        ({"threads": 0}, "batch and threads must be positive"),
        ({"start": 4}, "start must be 0 to 3, got 4"),
        ({"process": (2, 2)}, r"process must be an index below a count, got \(2, 2\)"),
    ],
)
def test_wrong_arguments_are_named(changed, message):
    with pytest.raises(ValueError, match=message):
        Batches(in_memory(3), PLAIN, **{"batch": 2, **changed})


def test_digit_scenes_have_their_digits_in_their_boxes():
    dataset = digit_scenes(6, seed=1)
    again = digit_scenes(6, seed=1)
    assert len(dataset) == 6 and dataset.classes == tuple("0123456789")
    for example, same in zip(dataset, again, strict=True):
        assert example == same and (example.image() == same.image()).all()
        assert example.image().shape == (96, 96, 3) and 1 <= len(example.objects) <= 4
        for digit in example.categories():
            assert 30 < example.region(digit).sum() < 96 * 96 / 4
            assert data.is_difficult(example, digit) == (len(example.objects) > 1)


def test_real_photographs_have_the_size_of_their_annotations():
    dataset = data.read_voc(real("voc_mini"), "voc07test")
    preprocessing = models.get("mobilenet_v2").preprocessing.whole((64, 64))
    assert places(Batches(dataset, preprocessing, batch=16)) == list(range(43))
