"""Weights of torchvision's and Caffe's releases give their networks' outputs, or are refused."""

import functools
import importlib.util
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import caffe_reference
from paths import SHARED

from excitation_jax import models
from excitation_jax.models import importing

ORACLES = SHARED / "oracles"

# The tests compile more than they compute.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def relative_error(value: np.ndarray, reference: np.ndarray) -> float:
    assert value.shape == reference.shape
    return float(np.abs(value - reference).max() / np.abs(reference).max())


# --- torchvision ---------------------------------------------------------------------------------


def state_dict_and_oracle(arch: str) -> tuple[dict[str, np.ndarray], Any, dict[str, np.ndarray]]:
    """torchvision's weights and images (N, H, W, 3) as the recipe makes them, and the oracle."""
    spec = importlib.util.spec_from_file_location("oracle_recipe", ORACLES / "recipe.py")
    assert spec and spec.loader
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    with np.load(ORACLES / f"{arch}_seed0.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in ("meta", "param_names", "input_shape", "logits")}
        seed = file["image_seed"].item()
    meta = json.loads(arrays["meta"].item())
    shapes = dict(zip(arrays["param_names"].tolist(), meta["param_shapes"], strict=True))
    count, _, size, _ = arrays["input_shape"].tolist()
    image = recipe.image(seed, count, size).transpose(0, 2, 3, 1)
    return recipe.generate(shapes, meta["seed"], meta["mixed_bn"]), image, arrays


@pytest.mark.skipif(not ORACLES.is_dir(), reason=f"no reference outputs at {ORACLES}")
@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("squeezenet_v1_0", "squeezenet1_0"),
        ("resnet18", "resnet18"),
        pytest.param("googlenet", "googlenet", marks=pytest.mark.slow),
        pytest.param("resnet50", "resnet50", marks=pytest.mark.slow),
        pytest.param("vgg16", "vgg16", marks=pytest.mark.slow),
    ],
)
def test_logits_of_torchvisions_networks(name: str, arch: str) -> None:
    state_dict, images, oracle = state_dict_and_oracle(arch)
    if arch == "googlenet":
        state_dict["aux1.fc1.weight"] = np.zeros((1024, 2048), np.float32)
    spec = models.get(name)
    variables = models.convert(spec, state_dict)
    del state_dict
    forms = [spec.build(fully_convolutional=form) for form in (False, True)]
    x = images[:1]
    logits, scores = jit(lambda v, x: [form.apply(v, x) for form in forms])(variables, x)
    assert relative_error(np.asarray(logits), oracle["logits"][:1]) < 1e-4
    assert relative_error(np.asarray(scores.mean((1, 2))), np.asarray(logits)) < 1e-5
    if name == "vgg16":
        assert scores.shape == (1, 1, 1, 1000)


def test_squeezenet_v1_1_has_torchvisions_names() -> None:
    spec = models.get("squeezenet_v1_1")
    with pytest.raises(ValueError) as error:
        models.convert(spec, {})
    fires = ((3, 64), (4, 128), (6, 128), (7, 256), (9, 256), (10, 384), (11, 384), (12, 512))
    lines = [f"features.{i}.squeeze.weight: missing, expected (" for i, _ in fires]
    lines += [f", {inputs}, 1, 1)" for _, inputs in fires]
    lines += ["features.0.weight: missing, expected (64, 3, 3, 3)"]
    lines += ["classifier.1.weight: missing, expected (1000, 512, 1, 1)"]
    assert all(line in str(error.value) for line in lines)
    assert "(mismatches: 52)" in str(error.value)


# --- Caffe ---------------------------------------------------------------------------------------


@functools.cache
def release(name: str) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Blobs, an image (1, H, W, 3) and the logits of the reference network."""
    reference, size = {
        "cnn_s": (functools.partial(caffe_reference.cnn_s, width=16), (224, 224)),
        "googlenet_caffe": (caffe_reference.googlenet, (64, 96)),
        "resnet50_caffe": (caffe_reference.resnet50, (64, 96)),
        "squeezenet_v1_1_caffe": (caffe_reference.squeezenet_v1_1, (64, 96)),
    }[name]
    drawn = caffe_reference.Blobs()
    x = np.random.default_rng(3).standard_normal((1, *size, 3), np.float32)
    nchw = x.transpose(0, 3, 1, 2)
    jax.eval_shape(functools.partial(reference, drawn), nchw)
    blobs = dict(drawn)
    logits = jit(lambda blobs, x: reference(caffe_reference.Blobs(blobs), x))(blobs, nchw)
    return blobs, x, np.asarray(logits)


def narrow(spec: models.ModelSpec, width: float) -> models.ModelSpec:
    """The specification of a narrower network."""
    network: Callable[..., Any] = functools.partial(spec.network, width=width)
    return models.ModelSpec(**{**vars(spec), "network": network})


@pytest.mark.parametrize(
    "name", ["cnn_s", "googlenet_caffe", "resnet50_caffe", "squeezenet_v1_1_caffe"]
)
def test_logits_of_caffes_networks(name: str) -> None:
    blobs, x, wanted = release(name)
    spec = models.get(name)
    if name == "cnn_s":
        spec = narrow(spec, 1 / 16)
    variables = models.convert(spec, blobs, "caffe")
    logits = np.asarray(jit(spec.build().apply)(variables, x))
    assert relative_error(logits, wanted) < 1e-4


def test_old_caffe_files_have_four_axes_and_auxiliary_classifiers() -> None:
    blobs, _, _ = release("googlenet_caffe")
    spec = models.get("googlenet_caffe")
    old = dict(blobs)
    for blob in ("conv1/7x7_s2/1", "loss3/classifier/0"):
        old[blob] = old[blob].reshape((1,) * (4 - old[blob].ndim) + old[blob].shape)
    old["loss1/conv/0"] = old["loss2/classifier/1"] = np.zeros(3, np.float32)
    jax.tree.map(
        np.testing.assert_array_equal,
        models.convert(spec, old, "caffe"),
        models.convert(spec, blobs, "caffe"),
    )


def test_statistics_that_caffe_has_not_gathered_are_zero() -> None:
    blobs = dict(release("resnet50_caffe")[0])
    blobs["bn_conv1/2"] = np.zeros(1, np.float32)
    variables = models.convert(models.get("resnet50_caffe"), blobs, "caffe")
    assert not variables["batch_stats"]["bn1"]["mean"].any()
    assert not variables["batch_stats"]["bn1"]["var"].any()


def test_vgg16_reads_feature_maps_by_rows_columns_channels() -> None:
    spec = narrow(models.get("vgg16_caffe"), 1 / 32)
    shapes = jax.tree.map(lambda leaf: leaf.shape, spec.expected()["params"])
    blobs = {}
    for layer, leaves in shapes.items():
        shape = leaves["kernel"]
        stored = (shape[-1], *shape[-2:-1], *shape[:-2])
        if layer.startswith("fc"):
            stored = (shape[-1], int(np.prod(shape[:-1])))
        blobs[f"{layer}/0"] = np.random.default_rng(0).standard_normal(stored)
        blobs[f"{layer}/1"] = np.zeros(shape[-1])
    kernel = np.asarray(models.convert(spec, blobs, "caffe")["params"]["fc6"]["kernel"])
    assert kernel.shape == (7, 7, 16, 128)
    stored = blobs["fc6/0"].reshape(128, 16, 7, 7)
    np.testing.assert_array_equal(kernel[2, 5, 11], stored[:, 11, 2, 5].astype(np.float32))


# --- refusals ------------------------------------------------------------------------------------


def test_every_array_that_does_not_fit_is_listed() -> None:
    blobs = dict(release("resnet50_caffe")[0])
    del blobs["res2a_branch1/0"], blobs["bn3b_branch2a/2"]
    blobs["fc1000/1"] = blobs["fc1000/1"][:20]
    blobs["scale_conv1/0"] = blobs["scale_conv1/0"].astype(np.int32)
    blobs["conv1/0"] = np.full_like(blobs["conv1/0"], np.nan)
    blobs["loss1/conv/0"] = blobs["conv1/1"]
    with pytest.raises(ValueError, match=r"resnet50_caffe from caffe.*\(mismatches: 6\)") as error:
        models.convert(models.get("resnet50_caffe"), blobs, "caffe")
    for line in (
        "res2a_branch1/0: missing, expected (256, 64, 1, 1)",
        "bn3b_branch2a/2: missing, expected (1,)",
        "fc1000/1: (20,), expected (1000,)",
        "scale_conv1/0: int32, expected floating point",
        "conv1/0: holds NaN or infinite values",
        "loss1/conv/0: unexpected",
    ):
        assert f"\n  {line}" in str(error.value)


def test_torchvisions_counters_are_ignored_and_its_auxiliary_classifiers_only_there() -> None:
    with pytest.raises(ValueError) as error:
        models.convert(
            models.get("resnet18"),
            {"bn1.num_batches_tracked": np.zeros((), np.int64), "aux1.fc1.bias": np.zeros(3)},
        )
    assert "num_batches_tracked" not in str(error.value)
    assert "aux1.fc1.bias: unexpected" in str(error.value)


def test_a_network_is_converted_from_its_own_releases_only() -> None:
    with pytest.raises(ValueError, match="vgg16_caffe is not converted from 'torchvision', but"):
        models.convert(models.get("vgg16_caffe"), {})
    with pytest.raises(ValueError, match="from its own .npz file only: use models.load"):
        models.convert(models.get("mobilenet_v2"), {})
    for name in models.names():
        spec = models.get(name)
        assert spec.sources or spec.load_npz or spec.family == "resnet_tdam"
        for source in spec.sources:
            assert source in importing._RELEASES


def test_another_number_of_classes() -> None:
    blobs = dict(release("squeezenet_v1_1_caffe")[0])
    blobs["conv10/0"], blobs["conv10/1"] = blobs["conv10/0"][:20], blobs["conv10/1"][:20]
    spec = models.get("squeezenet_v1_1_caffe")
    variables = models.convert(spec, blobs, "caffe", num_classes=20)
    x = jnp.zeros((1, 64, 64, 3))
    assert jax.eval_shape(spec.build(20).apply, variables, x).shape == (1, 20)
