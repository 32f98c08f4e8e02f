"""`excitation-jax train`: networks are fine-tuned on VOC, COCO and tags, and played."""

import dataclasses
import functools
import json
import re
import signal
import subprocess
import sys

import jax
import labelled_sets
import numpy as np
import pytest
from data_files import write
from made_weights import checkpoint

from excitation_jax import cli, data, models, training
from excitation_jax.models import registry
from excitation_jax.models.preprocessing import imagenet_rgb
from excitation_jax.models.vgg import VGG16

COCO = [f"thing {number}" for number in range(77)]
COCO[10:10] = ["bus", "dog", "cat"]  # 80 in all


def succeed(capsys, *arguments):
    """What the command prints for these arguments."""
    code = cli.main([*map(str, arguments)])
    out, err = capsys.readouterr()
    assert code == 0 and err == "", err
    return out


def refusal(capsys, *arguments):
    """The one line on stderr with which the command refuses these arguments."""
    assert cli.main([*map(str, arguments)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("excitation-jax") and err.count("\n") == 1
    return err


@pytest.fixture
def small(monkeypatch):
    """ResNets with inputs of 64 pixels, and VGG16, which is dense, with a 32nd of its width."""
    for name in ("resnet18", "resnet50"):
        spec = dataclasses.replace(models.get(name), preprocessing=imagenet_rgb(72, 64))
        monkeypatch.setitem(registry._REGISTRY, name, spec)
    narrow = functools.partial(VGG16, width=1 / 32)
    spec = dataclasses.replace(models.get("vgg16"), network=narrow)
    monkeypatch.setitem(registry._REGISTRY, "vgg16", spec)


def with_layout(folder, kind):
    """A made data set, and what says where it is."""
    splits = {"train": range(8), "test": range(6, 10)}
    if kind == "voc":
        labelled_sets.voc(folder, **splits)
    else:
        labelled_sets.coco(folder, COCO, **splits)
    return ["--data", kind, "--folder", folder]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("vgg16", "coco"),
        pytest.param("resnet18", "voc", marks=pytest.mark.slow),
        pytest.param("resnet18", "coco", marks=pytest.mark.slow),
        pytest.param("vgg16", "voc", marks=pytest.mark.slow),
        pytest.param("resnet50", "voc", marks=pytest.mark.slow),
        pytest.param("resnet50", "coco", marks=pytest.mark.slow),
    ],
)
def test_networks_are_fine_tuned_and_played(capsys, tmp_path, small, name, kind):
    where = with_layout(tmp_path / kind, kind)
    network = ["--model", name, "--weights", checkpoint(tmp_path / "weights", name)]
    call = ["--split", "train", "--test", "test", "--steps", 4, "--views", 1, "--batch", 4]
    out = succeed(capsys, "train", *network, *where, *call, "--out", tmp_path / "run")
    # 6 and 7 are in both splits; the first of the six that are left is for validation.
    assert "to train with: 5, to validate with: 1, to test with: 4" in out
    assert "step     4  loss " in out and "mAP on 4 photographs to test with: " in out
    names = (tmp_path / "run" / "classes.txt").read_text().splitlines()
    assert names == (list(data.VOC_CLASSES) if kind == "voc" else COCO)
    play = ["--split", "test", "--head", tmp_path / "run", "--methods", "c-mwp", "--gallery", "0"]
    out = succeed(capsys, "eval", "pointing", *network, *where, *play, "--out", tmp_path / "played")
    pairs = sum(len(set(labelled_sets.halves(number))) for number in range(6, 10))
    assert f"4 images, {pairs} pairs" in out
    found = json.loads((tmp_path / "played" / "pointing.json").read_text())
    assert list(found["methods"]) == ["c-mwp", "centre"]


CIFAR = ["--model", "cifar_resnet20", "--batch", 4, "--learning-rate", 0.03]


@pytest.fixture
def voc_call(tmp_path):
    labelled_sets.voc(tmp_path / "voc", train=range(12), val=range(12, 18), few=range(4))
    where = ["--data", "voc", "--folder", tmp_path / "voc", "--split", "train"]
    return [
        *("train", *CIFAR, *where, "--weights", checkpoint(tmp_path / "w", "cifar_resnet20")),
        *("--out", tmp_path / "run"),
    ]


def last_precision(out):
    return float(re.findall(r"mAP ([\d.]+)", out)[-1])


def test_a_run_learns_and_is_continued_and_measured_again(capsys, tmp_path, voc_call):
    call = [*voc_call, "--validation", "val", "--patience", 2, "--validate-every", 4]
    first = succeed(capsys, *call, "--steps", 6)
    assert "to train with: 12, to validate with: 6, to test with: 0" in first
    assert re.findall(r"step +(\d+)", first) == ["4", "6"]
    then = succeed(capsys, *call, "--steps", 40)
    assert re.findall(r"step +(\d+)", then) == [f"{n}" for n in range(8, 41, 4)]
    assert last_precision(then) > 0.95  # colours are easily told apart
    done = succeed(capsys, *call, "--steps", 40)
    assert "step" not in done and f"wrote {(tmp_path / 'run').resolve()}" in done
    whole = succeed(capsys, *call, "--steps", 40, "--out", tmp_path / "whole")
    own = models.load("cifar_resnet20", tmp_path / "w")[1]
    model = models.get("cifar_resnet20").build(20)
    begun = training.new_output_layer(model, own, 32, "linear")
    one, other = (training.load_fine_tuned(begun, tmp_path / run) for run in ("run", "whole"))
    assert whole.splitlines()[-2:-1] == then.splitlines()[-2:-1]
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert "--seed was 0, is 1" in refusal(capsys, *call, "--seed", 1)


def test_classes_of_a_file_and_a_head_of_other_classes(capsys, tmp_path, voc_call):
    write(tmp_path / "classes.txt", "bus\ncat\ndog\n")
    write(tmp_path / "turned.txt", "bus\ndog\ncat\n")
    succeed(capsys, *voc_call, "--steps", 1, "--classes", tmp_path / "classes.txt")
    play = ["eval", "pointing", "--data", "voc", "--folder", tmp_path / "voc", "--split", "few"]
    play += ["--model", "cifar_resnet20", "--weights", tmp_path / "w", "--head", tmp_path / "run"]
    play += ["--methods", "gradient", "--gallery", 0, "--out", tmp_path / "played"]
    error = refusal(capsys, *play)
    assert "run was trained for 3 classes, and voc few has 20: evaluate it on its own" in error
    error = refusal(capsys, *play, "--classes", tmp_path / "turned.txt")
    assert "run was trained for 'cat' where voc few has 'dog', output 1: " in error
    assert not (tmp_path / "played").exists()
    classes = tmp_path / "run" / "classes.txt"
    assert "4 images, " in succeed(capsys, *play, "--classes", classes)


def test_a_tagger_is_trained_and_localises_words(capsys, tmp_path):
    labelled_sets.tagged(tmp_path / "stock", train=range(24), val=range(24, 30))
    call = ["train", *CIFAR, "--weights", checkpoint(tmp_path / "w", "cifar_resnet20")]
    call += ["--data", "tags", "--folder", tmp_path / "stock", "--split", "train"]
    call += ["--validation", "val", "--dictionary", 6, "--steps", 40, "--out", tmp_path / "run"]
    out = succeed(capsys, *call)
    words = (tmp_path / "run" / "classes.txt").read_text().splitlines()
    # Each photograph has three of these; "bird" comes too late in it to count.
    assert sorted(words) == ["bird", "bus", "cat", "dog", "very nice", "x"]
    assert last_precision(out) > 0.95
    configuration = training.checkpoints.configuration_of(tmp_path / "run")
    assert configuration["layers"] == "all" and configuration["views"] is None
    labelled_sets.voc(tmp_path / "flickr", test=range(3))
    for number in range(3):
        left, right = labelled_sets.halves(number)
        text = f"[/EN#1/other The {left}] beside [/EN#2/other the {right} there]\n"
        write(tmp_path / f"flickr/Sentences/{number:06}.txt", text)
        annotation = (tmp_path / f"flickr/Annotations/{number:06}.xml").read_text()
        for name, entity in ((left, "1"), (right, "2")):
            annotation = annotation.replace(f"<name>{name}</name>", f"<name>{entity}</name>", 1)
        write(tmp_path / f"flickr/Annotations/{number:06}.xml", annotation)
    write(tmp_path / "flickr/test.txt", "000000\n000001\n000002\n")
    play = ["eval", "text", "--data", "flickr30k", "--folder", tmp_path / "flickr"]
    play += ["--split", "test", "--images", tmp_path / "flickr/JPEGImages", "--proposals", "grid"]
    play += ["--model", "cifar_resnet20", "--weights", tmp_path / "w", "--head", tmp_path / "run"]
    play += ["--words", tmp_path / "run" / "classes.txt", "--out", tmp_path / "played"]
    play += ["--gamma", 0.5]  # none of three photographs is held out to choose it on
    out = succeed(capsys, *play)
    found = json.loads((tmp_path / "played" / "text.json").read_text())
    assert found["phrases"] == 6 and found["without_known_word"] == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--model", "digits"], "digits is trained by python -m excitation_jax.digits"),
        (["--model", "resnet"], "no network is named 'resnet': did you mean resnet"),
        (["--weights", "none.npz"], "none.npz"),
        (["--split", "none"], "there is no split "),
        (["--validation", "none"], "there is no split "),
        (["--test", "train"], "--split train has no photograph that is not also"),
        (["--batch", "0"], "--batch must be positive, got 0"),
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--layers", "all", "--views", "2"], "views are of use where only the output layer"),
        (["--learning-rate", "1e38"], "try a lower --learning-rate"),
        (["--factor", "2"], "factor must lie between 0 and 1"),
        (["--classes", "none.txt"], "there is no file of classes none.txt"),
        (["--data", "coco", "--without-difficult"], "--without-difficult is of VOC: leave it out"),
        (["--data", "tags", "--coco", "x"], "--coco adds photographs to VOC's"),
        (["--data", "tags", "--classes", "voc"], "--classes voc is of COCO"),
        (["--data", "tags"], "there is no file of tags "),
    ],
)
def test_a_wrong_argument_is_one_line(capsys, tmp_path, monkeypatch, voc_call, changed, message):
    monkeypatch.chdir(tmp_path)
    assert message in refusal(capsys, *voc_call, "--steps", 9, *changed)


@pytest.mark.slow
def test_a_killed_process_is_continued_by_the_same_command(capsys, tmp_path, voc_call):
    call = [*map(str, voc_call), "--steps", "30", "--save-every", "1"]
    program = [sys.executable, "-m", "excitation_jax", *call]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as started:
        for line in started.stdout:
            if line.startswith("step"):
                started.send_signal(signal.SIGKILL)
    assert started.returncode == -signal.SIGKILL
    out = succeed(capsys, *call)
    steps = [int(step) for step in re.findall(r"step +(\d+)", out)]
    assert steps[-1] == 30 and steps[0] > 3  # the first epoch's measurement is not made again
