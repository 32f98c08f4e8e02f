"""The registered networks: what they compute, in both forms, and where they are read."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.variables import random_variables
from paths import SHARED
from PIL import Image

import excitation_jax as ej
from excitation_jax import models
from excitation_jax.models import mobilenet_v1
from excitation_jax.models.googlenet import tag_classifier
from excitation_jax.models.pooling import LocalResponseNorm, MaxPool

DATA = SHARED / "data"
WEIGHTS = DATA / "weights" / "mobilenet_v1_025_224.npz"
PHOTOGRAPHS = DATA / "imagenet_256"

SPECS = {name: models.get(name) for name in models.names()}
# By the function that they compute: some differ in their input's preparation or their classes only.
NETWORKS = {spec.build(num_classes=10): spec for spec in reversed(SPECS.values())}
WINDOWED = ("cnn_s", "vgg16")  # their dense layers read a map of one size
each_network = pytest.mark.parametrize("spec", NETWORKS.values(), ids=lambda spec: spec.name)


def image(height: int, width: int, count: int = 1) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((count, height, width, 3), np.float32)


def shapes_of(model, size: tuple[int, int]):
    x = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), x)


def small(spec: models.ModelSpec, num_classes: int | None = 10):
    """The network in both forms, narrow where it cannot take small images, and an image's size."""
    forms = [spec.build(num_classes, fully_convolutional=form) for form in (False, True)]
    if spec.family in WINDOWED:
        return [model.clone(width=1 / 16) for model in forms], (224, 224)
    return forms, (64, 64)


# The tests compile more than they compute.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


# --- the registry --------------------------------------------------------------------------------


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match="no network is named 'resnet51'; there are .*resnet50"):
        models.get("resnet51")
    for name in models.names():
        assert models.get(name).name == name


def test_networks_that_differ_in_their_input_only_are_the_same() -> None:
    for one, other in (
        ("vgg16", "vgg16_caffe"),
        ("squeezenet_v1_1", "squeezenet_v1_1_caffe"),
        ("googlenet_caffe", "googlenet_tags"),
    ):
        assert SPECS[one].build(10) == SPECS[other].build(10)
    assert len(NETWORKS) == len(SPECS) - 3


@each_network
def test_expected_variables_serve_both_forms(spec: models.ModelSpec) -> None:
    expected = spec.expected()
    classes = {"cifar10": 10, "imagenet": 1000}[spec.class_names]
    x = jax.ShapeDtypeStruct((2, *spec.input_size, 3), jnp.float32)
    # Without a classifier its variables may stay in place.
    features = jax.eval_shape(spec.build(None).apply, expected, x).shape
    assert len(features) == 2 and features[1] >= 64

    convolutional = spec.build(fully_convolutional=True)
    wide = jax.ShapeDtypeStruct((1, 224, 320, 3), jnp.float32)
    scores, variables = jax.eval_shape(convolutional.init_with_output, jax.random.key(0), wide)
    assert variables == expected
    assert len(scores.shape) == 4 and scores.shape[1] < scores.shape[2]
    assert scores.shape[3] == classes
    if spec.family in WINDOWED:
        assert scores.shape[1:3] == (1, 4)


def test_tags_have_independent_probabilities() -> None:
    scores = jnp.array([[0.0, 2.0]])
    np.testing.assert_allclose(SPECS["googlenet_tags"].probabilities(scores), [[0.5, 0.880797]])
    np.testing.assert_allclose(SPECS["resnet18"].probabilities(scores).sum(), 1, rtol=1e-6)
    assert tag_classifier(50) == SPECS["googlenet_tags"].build(50)
    assert tag_classifier() == SPECS["googlenet_tags"].build()
    assert SPECS["googlenet_tags"].expected()["params"]["fc"]["kernel"].shape == (1024, 18000)


# --- layers --------------------------------------------------------------------------------------

# name -> shape at 224x224, stride
PAPERS = {
    "cnn_s": ((1, 17, 17, 512), 12),
    "vgg16_caffe": ((1, 14, 14, 512), 16),
    "googlenet_caffe": ((1, 28, 28, 192), 8),
    "resnet50_caffe": ((1, 14, 14, 1024), 16),
}


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_layers_are_listed(name: str) -> None:
    spec = SPECS[name]
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    for form in (False, True):
        model = spec.build(fully_convolutional=form)
        table = {layer.name: layer for layer in ej.layers(model.apply, spec.expected(), x)}
        shape, stride = PAPERS[name]
        assert spec.mwp_layer == spec.cmwp_layer == spec.attention_layer
        assert table[spec.mwp_layer].shape == shape
        assert table[spec.mwp_layer].stride == (stride, stride)


def test_without_a_layer_of_the_papers_there_is_auto() -> None:
    assert SPECS["mobilenet_v2"].mwp_layer == SPECS["resnet18"].cmwp_layer == "auto"


# --- dense and fully convolutional ---------------------------------------------------------------


# torchvision's largest are compared at 224x224, with the reference logits (test_importing.py).
@pytest.mark.parametrize(
    "spec",
    [spec for spec in NETWORKS.values() if spec.name not in ("googlenet", "resnet50")],
    ids=lambda spec: spec.name,
)
def test_both_forms_agree(spec: models.ModelSpec) -> None:
    (dense, convolutional), size = small(spec)
    variables = random_variables(shapes_of(dense, size))
    x = image(*size, count=2)
    logits, scores = jit(lambda v, x: (dense.apply(v, x), convolutional.apply(v, x)))(variables, x)
    assert logits.shape == (2, 10) and scores.ndim == 4
    if spec.family in WINDOWED:
        assert scores.shape == (2, 1, 1, 10)
    peak = np.abs(logits).max()
    assert 1e-3 < peak < np.inf
    np.testing.assert_allclose(scores.mean((1, 2)), logits, rtol=0, atol=1e-5 * peak)


@pytest.mark.parametrize("name", ["vgg16", "cnn_s"])
def test_larger_images_have_a_score_map_in_the_fully_convolutional_form_only(name: str) -> None:
    (dense, convolutional), _ = small(SPECS[name])
    variables = random_variables(shapes_of(dense, (224, 224)))
    scores = jit(convolutional.apply)(variables, image(224, 320))
    assert scores.shape == (1, 1, 4, 10)
    assert np.isfinite(scores).all()
    assert np.ptp(scores, axis=2).max() > 1e-2 * np.abs(scores).max()
    with pytest.raises(ValueError, match="fc6 is dense.*fully_convolutional=True"):
        jax.eval_shape(dense.apply, variables, image(224, 320))
    with pytest.raises(ValueError, match="fc6 needs at least .* positions.*enlarge the image"):
        jax.eval_shape(convolutional.apply, variables, image(64, 224))


@pytest.mark.parametrize("name", [s.name for s in SPECS.values() if s.family not in WINDOWED])
def test_the_average_of_the_papers_networks_slides(name: str) -> None:
    """7x7 positions of stride 32 on 224x320: 7x10 positions have 1x4 places for it."""
    (dense, convolutional), _ = small(SPECS[name])
    variables = shapes_of(dense, (224, 224))
    places = jax.eval_shape(convolutional.apply, variables, image(224, 320)).shape[1:3]
    slides = SPECS[name].family in ("googlenet", "resnet", "resnet_tdam")
    assert (places == (1, 4)) == slides


@pytest.mark.parametrize("side", [1, 3, 9])
def test_scores_are_those_of_the_average_in_each_window(side: int) -> None:
    """By a loop over windows, which are cut to the feature map of 6x8."""
    options = {"depth": 8, "fully_convolutional": True}
    model = models.cifar_resnet.CifarResNet(**options, average_window=side)
    features = models.cifar_resnet.CifarResNet(num_classes=None, **options)
    x = image(24, 32)
    variables = model.init(jax.random.key(0), x)
    linear = {name: np.asarray(value) for name, value in variables["params"]["linear"].items()}
    rest = {key: value for key, value in variables["params"].items() if key != "linear"}
    found = model.apply(variables, x)[0]
    a = np.asarray(features.apply({**variables, "params": rest}, x))[0]
    high, wide = min(side, 6), min(side, 8)
    assert found.shape == (7 - high, 9 - wide, 10)
    for row, column in np.ndindex(found.shape[:2]):
        mean = a[row : row + high, column : column + wide].mean((0, 1))
        expected = mean @ linear["kernel"] + linear["bias"]
        np.testing.assert_allclose(found[row, column], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "least"), [("vgg16", 193), ("cnn_s", 211)])
def test_the_smallest_image_is_as_stated(name: str, least: int) -> None:
    (dense, model), _ = small(SPECS[name])
    variables = shapes_of(dense, (224, 224))
    assert jax.eval_shape(model.apply, variables, image(least, least)).shape == (1, 1, 1, 10)
    with pytest.raises(ValueError, match="enlarge"):
        jax.eval_shape(model.apply, variables, image(least - 1, least))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("googlenet", {"form": "keras"}, "form must be"),
        ("resnet50", {"depth": 19}, "no ResNet of depth 19"),
        ("resnet50_caffe", {"depth": 18}, "no ResNet of depth 18 in the form 'caffe'"),
        ("squeezenet_v1_0", {"version": "2"}, "version must be"),
    ],
)
def test_networks_that_there_are_not(name: str, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shapes_of(SPECS[name].build().clone(**changes), (224, 224))


# --- excitation ----------------------------------------------------------------------------------


def excitation(spec: models.ModelSpec, form: str, size: tuple[int, int], contrastive: bool):
    """MWP at the layer that the registry names for the network."""
    forms, own = small(spec)
    model = forms[form == "fully convolutional"]
    variables = random_variables(shapes_of(forms[0], own))

    def explain(variables, x):
        # The class that scores highest: another's score may have been cut off by a last ReLU.
        scores = model.apply(variables, x)
        target = jnp.argmax(scores.reshape(-1, 10).mean(0))[None]
        return ej.excitation_vjp(
            model.apply, variables, x, target, layer=spec.mwp_layer, contrastive=contrastive
        ).mwp

    return np.asarray(jit(explain)(variables, image(*size)))


@pytest.mark.parametrize(
    ("name", "form", "size"),
    [
        ("cnn_s", "dense", (224, 224)),
        ("cnn_s", "fully convolutional", (224, 320)),
        ("vgg16", "dense", (224, 224)),
        ("vgg16", "fully convolutional", (224, 320)),
        ("squeezenet_v1_1", "dense", (64, 96)),
        ("squeezenet_v1_1", "fully convolutional", (64, 96)),
        pytest.param("googlenet_caffe", "dense", (64, 96), marks=pytest.mark.slow),
        pytest.param("resnet50_caffe", "fully convolutional", (64, 96), marks=pytest.mark.slow),
    ],
)
def test_probability_is_conserved(name: str, form: str, size: tuple[int, int]) -> None:
    mwp = excitation(SPECS[name], form, size, contrastive=False)
    assert np.isfinite(mwp).all() and mwp.min() >= 0
    np.testing.assert_allclose(mwp.sum(), 1, atol=1e-4)


@pytest.mark.parametrize("form", ["dense", "fully convolutional"])
def test_mobilenet_loses_only_what_biases_drive(form: str) -> None:
    # A depthwise unit has nine inputs of which none may excite it.
    mwp = excitation(SPECS["mobilenet_v1_025"], form, (64, 96), contrastive=False)
    assert np.isfinite(mwp).all() and mwp.min() >= 0
    assert 0.95 < mwp.sum() < 1 + 1e-5


@pytest.mark.parametrize("form", ["dense", "fully convolutional"])
def test_contrastive_maps_have_both_signs(form: str) -> None:
    mwp = excitation(SPECS["vgg16"], form, (224, 224), contrastive=True)
    assert np.isfinite(mwp).all()
    assert mwp.min() < 0 < mwp.max()
    np.testing.assert_allclose(mwp.sum(), 0, atol=1e-4)


# --- layers of their own -------------------------------------------------------------------------


def test_local_response_normalisation_is_the_formula() -> None:
    x = image(2, 3)[..., :1] * np.arange(1, 8, dtype=np.float32)
    wanted = np.empty_like(x)
    for c in range(7):
        neighbours = x[..., max(c - 2, 0) : c + 3]
        wanted[..., c] = x[..., c] / (2 + 0.5 / 5 * (neighbours**2).sum(-1)) ** 0.75
    normalise = LocalResponseNorm(size=5, alpha=0.5, k=2.0)
    np.testing.assert_allclose(normalise.apply({}, x), wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "window", "stride", "ceil", "wanted"),
    [(109, 3, 3, True, 37), (33, 2, 2, True, 17), (112, 3, 2, True, 56), (112, 3, 2, False, 55)],
)
def test_pooling_rounds_as_told(
    size: int, window: int, stride: int, ceil: bool, wanted: int
) -> None:
    x = -np.arange(size, dtype=np.float32).reshape(1, 1, size, 1) - 1
    pooled = MaxPool(window, stride, ceil=ceil).apply({}, np.repeat(x, size, 1))
    assert pooled.shape == (1, wanted, wanted, 1)
    # The values fall, so the first of a window wins, also where the window hangs over.
    np.testing.assert_array_equal(pooled[0, 0, :, 0], x[0, 0, ::stride, 0][:wanted])


# --- MobileNet v1 --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(
    not (WEIGHTS.is_file() and PHOTOGRAPHS.is_dir()),
    reason=f"no weights at {WEIGHTS} or no photographs at {PHOTOGRAPHS}",
)
def test_mobilenet_v1_on_photographs_has_its_known_accuracy() -> None:
    files = sorted(PHOTOGRAPHS.glob("*.jpg"))[::3]
    labels = np.array([int(file.name[:4]) for file in files])
    spec = SPECS["mobilenet_v1_025"]
    variables, apply = mobilenet_v1.load_npz(WEIGHTS), jax.jit(spec.build().apply)
    logits = []
    for start in range(0, len(files), 20):
        images = [spec.preprocessing(Image.open(f)) for f in files[start : start + 20]]
        logits.append(np.asarray(apply(variables, jnp.concatenate(images))))
    order = np.argsort(-np.concatenate(logits))
    top1 = float((order[:, 0] == labels).mean())
    top5 = float((order[:, :5] == labels[:, None]).any(1).mean())
    print(f"MobileNet v1 0.25 on {len(files)} photographs: top-1 {top1:.1%}, top-5 {top5:.1%}")
    # 58.4 and 80.6 % on 1000 originals; a sample of 100 has standard errors of 5 and 4 points.
    assert 0.45 < top1 < 0.75
    assert top5 > 0.68


def test_mobilenet_v1_refuses_a_file_for_another_width(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **{"conv1/kernel": np.zeros((3, 3, 3, 16), np.float32)})
    message = r"conv1/kernel: float32 \(3, 3, 3, 16\), expected float32 \(3, 3, 3, 8\)"
    with pytest.raises(ValueError, match=message):
        mobilenet_v1.load_npz(tmp_path / "w.npz")
