"""Pictures become the inputs that the networks were trained on."""

import numpy as np
import pytest
from PIL import Image

from excitation_jax import models
from excitation_jax.models import Preprocessing, cifar_resnet, mobilenet_v2, squeezenet


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("name", models.names())
def test_every_network_gets_its_size(name: str) -> None:
    spec = models.get(name)
    x = spec.preprocessing(noise(90, 120))
    assert x.shape == (1, *spec.input_size, 3) and x.dtype == np.float32
    bgr = name == "cnn_s" or spec.name.endswith(("_caffe", "_tags"))
    assert spec.preprocessing.channels == ("BGR" if bgr else "RGB")


def test_torchvisions_is_rgb_over_the_deviation() -> None:
    rgb = noise(256, 256)
    x = models.get("resnet18").preprocessing(rgb)
    unit = rgb[16:240, 16:240] / 255
    wanted = (unit - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(x[0], wanted, atol=1e-5)


def test_caffes_is_bgr_minus_the_mean() -> None:
    rgb = noise(256, 256)
    x = models.get("vgg16_caffe").preprocessing(rgb)
    wanted = rgb[16:240, 16:240, ::-1] - np.array([103.939, 116.779, 123.68])
    np.testing.assert_allclose(x[0], wanted, atol=1e-4)


def test_it_is_the_networks_own() -> None:
    rgb = noise(100, 140)
    x = models.get("squeezenet_v1_0_caffe").preprocessing(rgb)
    np.testing.assert_array_equal(x, squeezenet.preprocess(rgb))
    square = noise(32, 32)
    x = models.get("cifar_resnet20").preprocessing(square)
    np.testing.assert_allclose(x, cifar_resnet.preprocess(square), atol=1e-5)
    whole = Preprocessing(mean=(127.5,) * 3, std=(127.5,) * 3, resize=224, crop=None, warp=True)
    np.testing.assert_array_equal(whole(rgb), mobilenet_v2.preprocess(rgb))


def test_the_shape_is_kept_where_it_is_not_warped() -> None:
    # Left third 0, the rest 255: a crop of the centre keeps the border's place.
    picture = np.zeros((100, 300, 3), np.uint8)
    picture[:, 100:] = 255
    crop = Preprocessing((0, 0, 0), resize=100, crop=80)(picture)
    assert crop.shape == (1, 80, 80, 3) and np.all(crop == 255)
    warped = np.asarray(Preprocessing((0, 0, 0), resize=90, crop=None, warp=True)(picture))
    assert warped.shape == (1, 90, 90, 3)
    assert np.all(warped[:, :, :28] == 0) and np.all(warped[:, :, 32:] == 255)


@pytest.mark.parametrize(
    ("size", "wanted"), [((100, 200), (224, 448)), ((500, 250), (448, 224)), ((9, 9), (224, 224))]
)
def test_keep_aspect_shows_the_whole_picture(
    size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    for name in ("vgg16_caffe", "resnet50"):
        x = models.get(name).preprocessing(Image.fromarray(noise(*size)), keep_aspect=True)
        assert x.shape == (1, *wanted, 3)


@pytest.mark.parametrize(
    "array",
    [np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8), np.zeros((2, 8, 8, 3), np.uint8)],
    ids=["float", "grey", "batch"],
)
def test_other_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"uint8 array \(H, W, 3\) in RGB, not"):
        models.get("vgg16").preprocessing(array)


@pytest.mark.parametrize(
    "sizes",
    [
        {"resize": 200, "crop": 224},
        {"resize": 0, "crop": None, "warp": True},
        {"resize": 256, "crop": None},
        {"resize": (256, 200), "crop": 200},
    ],
)
def test_sizes_that_contradict_each_other_are_refused(sizes: dict) -> None:
    with pytest.raises(ValueError, match="resize"):
        Preprocessing((0, 0, 0), **sizes)
