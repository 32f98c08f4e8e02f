"""`models.load` and `excitation-jax import-weights`: every format of file, one network."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import weight_bytes as wb
from flax import traverse_util

from excitation_jax import cli, models
from excitation_jax.models import caffe, timm, torchvision, weight_files

RELEASES = {"torchvision": torchvision.release, "timm": timm.release, "caffe": caffe.release}
SMALL, SMALL_CAFFE = "squeezenet_v1_1", "squeezenet_v1_1_caffe"


def released(spec: models.ModelSpec, source: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Random arrays by the names, and of the shapes, of a release."""
    rng = np.random.default_rng(seed)
    leaves = traverse_util.flatten_dict(spec.expected())
    release = RELEASES[source](spec.family, {place: leaf.shape for place, leaf in leaves.items()})
    shapes = {n: s for origin in release.origins.values() for n, s in origin.shapes.items()}
    # In order, since a Caffe file numbers the blobs of a layer by their places.
    return {name: rng.uniform(0.5, 1, shapes[name]).astype(np.float32) for name in sorted(shapes)}


def same(found: dict, wanted: dict) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


FORMATS: dict[str, tuple[str, str, Callable]] = {
    "safetensors": (SMALL, "torchvision", wb.safetensors_file),
    "npz": (SMALL, "torchvision", wb.npz),
    "caffemodel": (SMALL_CAFFE, "caffe", wb.caffemodel),
    "caffemodel of 2014": (SMALL_CAFFE, "caffe", functools.partial(wb.caffemodel, v1=True)),
    "npz of blobs": (SMALL_CAFFE, "caffe", wb.npz),
}


@pytest.mark.parametrize("form", FORMATS)
def test_a_file(form: str, tmp_path: Path) -> None:
    name, source, write = FORMATS[form]
    spec = models.get(name)
    arrays = released(spec, source)
    path = tmp_path / "weights"  # the suffix says nothing
    path.write_bytes(write(arrays))
    model, variables = models.load(name, path)
    same(variables, models.convert(spec, arrays, source))
    assert model == spec.build()
    assert models.load(name, path, fully_convolutional=True)[0].fully_convolutional


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    spec = models.get(SMALL)
    arrays = {name: a.astype(np.float16) for name, a in released(spec, "torchvision").items()}
    path = tmp_path / "half.safetensors"
    path.write_bytes(wb.safetensors_file(arrays))
    _, variables = models.load(SMALL, path)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    same(variables, models.convert(spec, arrays))


def test_from_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    arrays = released(models.get(SMALL), "torchvision")
    (snapshot / "model.safetensors").write_bytes(wb.safetensors_file(arrays))
    fetch = functools.partial(weight_files.from_hub, cache_dir=tmp_path, local_files_only=True)
    monkeypatch.setattr(weight_files, "from_hub", fetch)
    _, variables = models.load(SMALL, "hub:org/name")
    same(variables, models.convert(models.get(SMALL), arrays))


@pytest.mark.parametrize("name", ["resnet18", "vgg16"])
def test_timms_names(name: str) -> None:
    """The same weights under timm's names and torchvision's are the same variables."""
    spec = models.get(name)
    if name == "vgg16":
        spec = dataclasses.replace(spec, network=functools.partial(models.VGG16, width=1 / 32))
    arrays = released(spec, "torchvision")
    renamed = {
        {
            "classifier.0": "pre_logits.fc1",
            "classifier.3": "pre_logits.fc2",
            "classifier.6": "head.fc",
        }.get(key.rpartition(".")[0], key.rpartition(".")[0])
        + "."
        + key.rpartition(".")[2]: array
        for key, array in arrays.items()
    }
    for key, window in (("pre_logits.fc1.weight", 7), ("pre_logits.fc2.weight", 1)):
        if key in renamed:
            rows = renamed[key]
            renamed[key] = rows.reshape(len(rows), -1, window, window)
    assert {k: a.shape for k, a in released(spec, "timm").items()} == {
        k: a.shape for k, a in renamed.items()
    }
    same(models.convert(spec, renamed, "timm"), models.convert(spec, arrays))


def test_what_does_not_fit_names_the_file(tmp_path: Path) -> None:
    arrays = released(models.get(SMALL), "torchvision")
    del arrays["features.0.bias"]
    arrays["more"] = np.zeros(3, np.float32)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(wb.safetensors_file(arrays))
    with pytest.raises(ValueError) as error:
        models.load(SMALL, path)
    message = str(error.value)
    assert message.startswith(f"{path}: these are not the weights of {SMALL} from torchvision")
    assert "mismatches: 2" in message and "more: unexpected" in message
    assert "features.0.bias: missing, expected (64,)" in message


def test_the_other_release_of_a_network(tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(wb.caffemodel(released(models.get(SMALL_CAFFE), "caffe")))
    with pytest.raises(ValueError, match="is not converted from 'caffe', but from 'torchvision'"):
        models.load(SMALL, path)


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_import_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = released(models.get(SMALL), "torchvision")
    path, out = tmp_path / "weights.safetensors", tmp_path / "checkpoint"
    path.write_bytes(wb.safetensors_file(arrays))
    assert run("import-weights", path, "--model", SMALL, "--out", out) == 0
    assert f"{SMALL}: {len(arrays)} arrays" in capsys.readouterr().out
    model, variables = models.load(SMALL, out)
    same(variables, models.convert(models.get(SMALL), arrays))
    assert model == models.get(SMALL).build()
    assert weight_files.metadata(out) == {
        "model": SMALL,
        "num_classes": 1000,
        "imported_from": "weights.safetensors",
    }

    assert run("import-weights", path, "--model", SMALL, "--out", out) == 2
    assert "exists: give another directory" in capsys.readouterr().err
    assert run("import-weights", path, "--model", SMALL, "--out", out, "--overwrite") == 0
    with pytest.raises(ValueError, match=f"holds weights of {SMALL}, not of resnet18"):
        models.load("resnet18", out)


def test_import_weights_writes_nothing_of_a_wrong_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "model.pt", tmp_path / "checkpoint"
    path.write_bytes(b"\x80\x02}q\x00.")
    assert run("import-weights", path, "--model", SMALL, "--out", out) == 2
    assert "is a pickle" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]


def test_a_classifier_of_another_size(tmp_path: Path) -> None:
    spec = models.get(SMALL)
    arrays = released(spec, "torchvision")
    arrays["classifier.1.weight"] = arrays["classifier.1.weight"][:20]
    arrays["classifier.1.bias"] = arrays["classifier.1.bias"][:20]
    path, out = tmp_path / "weights.safetensors", tmp_path / "checkpoint"
    path.write_bytes(wb.safetensors_file(arrays))
    assert run("import-weights", path, "--model", SMALL, "--out", out, "--num-classes", 20) == 0
    model, variables = models.load(SMALL, out)
    assert model.num_classes == 20
    assert variables["params"]["conv_final"]["bias"].shape == (20,)


def test_the_command_line_lists_the_registry(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models"]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["digits", "squeezenet", *models.names()]
