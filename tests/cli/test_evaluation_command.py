"""`excitation-jax eval`: its tables, what it continues, and how it refuses bad input."""

import argparse
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data_files import annotation_xml, object_xml, real, write, write_photograph
from PIL import Image

from excitation_jax import cli, data, models
from excitation_jax.cli import evaluation_setup
from excitation_jax.models import weight_files

DIGITS = ["--data", "digits", "--model", "digits", "--limit", "4", "--batch", "4"]


def evaluate(capsys, *arguments, gallery=0):
    """What `eval pointing` prints for these arguments."""
    code = cli.main(["eval", "pointing", *map(str, arguments), "--gallery", str(gallery)])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert err == ""
    return out


def refusal(capsys, *arguments):
    """The one line on stderr with which the command refuses these arguments."""
    assert cli.main(["eval", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("excitation-jax") and err.count("\n") == 1
    return err


def test_digits_need_no_data_and_a_run_is_continued(capsys, tmp_path):
    call = [*DIGITS, "--methods", "mwp", "--out", tmp_path / "run"]
    out = evaluate(capsys, *call)
    assert "pointing game, digit scenes test: 4 images" in out and "wrote " in out
    content = (tmp_path / "run" / "pointing.json").read_bytes()
    found = json.loads(content)
    assert list(found["methods"]) == ["mwp", "centre"]
    assert found["tolerance"] == 6.4  # 15 of 224 pixels, of 96
    assert found["methods"]["mwp"]["all"] > 0.8 > found["methods"]["centre"]["all"]
    pairs = sum(
        len(e.categories()) for e in evaluation_setup.read_examples(namespace("digits", limit=4))
    )
    counted = found["methods"]["mwp"]["categories"].values()
    assert sum(category["pairs"] for category in counted) == pairs
    # Nothing is left to do, and the files are the same.
    (tmp_path / "run" / "pointing.json").unlink()
    assert evaluate(capsys, *call) == out
    assert (tmp_path / "run" / "pointing.json").read_bytes() == content
    error = refusal(capsys, "pointing", *call, "--tolerance", "10")
    assert "holds records of other settings (--tolerance was not given, is 10.0)" in error
    error = refusal(capsys, "pointing", *call, "--plain")
    assert "holds records of other settings (--plain was False, is True)" in error
    (tmp_path / "run" / "records" / "c" / "0" / "0" / "0").write_bytes(b"?")
    assert "c/0/0/0 are damaged: remove the file" in refusal(capsys, "pointing", *call)


def test_a_run_is_to_be_looked_at(capsys, tmp_path):
    call = [*DIGITS, "--methods", "mwp", "--out", tmp_path]
    out = evaluate(capsys, *call, gallery=2)
    assert f"wrote {(tmp_path / 'gallery' / 'index.html').resolve()}\n" in out
    assert (tmp_path / "pointing.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "gallery" / "index.html").read_text()
    assert "digit scenes test, 4 photographs" in page and "digits, weights " in page
    (tmp_path / "gallery" / "index.html").write_text("of an older version")
    assert evaluate(capsys, *call, gallery=2) == out
    assert (tmp_path / "gallery" / "index.html").read_text() == page
    found = json.loads((tmp_path / "pointing.json").read_text())["methods"]["mwp"]
    low, high = found["hits"]["share_interval_95"]
    assert low < found["hits"]["share"] == found["hits"]["hits"] / found["hits"]["pairs"] <= high
    low, high = found["interval_95"]
    assert low <= found["all"] <= high


@pytest.fixture
def voc(tmp_path):
    """Three photographs in VOC's layout, and a list of what is difficult in them."""
    folder, flag = tmp_path / "VOC2007", "<difficult>1</difficult>"
    objects = {
        "a": [object_xml("cat", (1, 1, 10, 8)), object_xml("dog", (20, 15, 30, 29))],
        "b": [object_xml("dog", (1, 1, 40, 30))],
        "c": [object_xml("cow", (35, 2, 39, 6), flag)],
    }
    for seed, (name, own) in enumerate(objects.items()):
        write(folder / f"Annotations/{name}.xml", annotation_xml(*own))
        write_photograph(folder / f"JPEGImages/{name}.jpg", seed)
    write(folder / "ImageSets/Main/test.txt", "a\nb\nc\n")
    dog = data.VOC_CLASSES.index("dog")
    lines = [f"{key}\t" + "\t".join("1" if c == dog else "0" for c in range(20)) for key in "abc"]
    write(tmp_path / "list.txt", "\n".join(lines))
    return folder


@pytest.fixture
def weights(tmp_path):
    """Of a small network for VOC's classes, at random."""
    rng = np.random.default_rng(0)
    expected = models.get("cifar_resnet20").expected(20)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.1, 0.2, leaf.shape), leaf.dtype), expected
    )
    metadata = {"model": "cifar_resnet20", "num_classes": 20}
    weight_files.save(tmp_path / "weights", variables, metadata)
    return tmp_path / "weights"


def test_voc_by_both_rules_with_a_checkpoint_of_20_classes(capsys, tmp_path, voc, weights):
    call = ["--folder", voc, "--weights", weights, "--methods", "mwp@auto,cam"]
    call += "--data voc --split test --model cifar_resnet20 --batch 3".split()
    out = evaluate(capsys, *call, "--out", tmp_path / "paper", "--tolerance", "3")
    assert "3 images, 4 pairs, 2 difficult; within 3 px" in out and "MWP at auto" in out
    found = json.loads((tmp_path / "paper" / "pointing.json").read_text())
    assert list(found["methods"]) == ["mwp@auto", "cam", "centre"]
    centre = found["methods"]["centre"]
    # At (14.5, 19.5): in b's dog, half a pixel from a's; far from cat and cow.
    assert centre["all"] == pytest.approx(1 / 3) and centre["difficult"] == 0.5
    assert centre["categories"]["dog"] == {
        "hits": 2,
        "pairs": 2,
        "difficult_hits": 1,
        "difficult_pairs": 1,
    }
    (tmp_path / "short.txt").write_text((tmp_path / "list.txt").read_text()[:41])  # without b and c
    short = ["--out", tmp_path / "short", "--difficult", tmp_path / "short.txt"]
    error = refusal(capsys, "pointing", *call, *short)
    assert "the list of difficult images does not have b" in error
    assert not (tmp_path / "short").exists()
    torchray = ["--out", tmp_path / "torchray", "--difficult", tmp_path / "list.txt"]
    out = evaluate(capsys, *call, *torchray, "--rules", "torchray", "--tolerance", "3")
    assert "2 images, 3 pairs, 2 difficult; below 3 px" in out
    found = json.loads((tmp_path / "torchray" / "pointing.json").read_text())
    assert found["methods"]["centre"]["all"] == 1 / 20  # the dogs; 18 classes are absent


def namespace(kind, **changed):
    own = {"data": kind, "folder": None, "split": None, "classes": "own", "limit": None}
    return argparse.Namespace(**{**own, **changed})


def test_coco_in_its_own_classes_and_in_those_of_voc():
    own = {"folder": real("coco_mini"), "split": "train2017"}
    dataset = evaluation_setup.read_examples(namespace("coco", limit=5, **own))
    assert len(dataset) == 5 and dataset.masks and "couch" in dataset.classes
    dataset = evaluation_setup.read_examples(namespace("coco", classes="voc", **own))
    assert dataset.classes == data.VOC_CLASSES and len(dataset) == 147


OUT = ["--out", "run"]
VOC = ["--data", "voc", "--folder", "none", "--split", "test", "--model", "mobilenet_v2", *OUT]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "EXPERIMENT"),
        (["pointing", *DIGITS], "--out"),
        (["pointing", "--data", "voc", "--model", "digits", *OUT], "needs --folder DIR and --spl"),
        (["pointing", *VOC], "there is no split none/ImageSets/Main/test.txt"),
        (["pointing", *DIGITS, *OUT, "--folder", "x"], "is made in memory: leave --folder out"),
        (["pointing", *DIGITS, *OUT, "--split", "val"], "leave --split out"),
        (["pointing", *DIGITS, *OUT, "--weights", "x"], "leave --weights out"),
        (["pointing", *DIGITS, *OUT, "--limit", "0"], "--limit must be positive, got 0"),
        (["pointing", *DIGITS, *OUT, "--batch", "0"], "--batch and --threads must be positive"),
        (["pointing", *DIGITS, *OUT, "--gallery", "-1"], "--gallery must not be negative"),
        (["pointing", *DIGITS, *OUT, "--blur", "-1"], "--blur must not be negative"),
        (["pointing", *DIGITS, *OUT, "--tolerance", "nan"], "tolerance must be finite"),
        (["pointing", *DIGITS, *OUT, "--side", "0"], "--side must lie between 1 and 4096, got 0"),
        (["pointing", *DIGITS, *OUT, "--side", "9", "--view", "network"], "leave --side out"),
        (
            ["pointing", *DIGITS, *OUT, "--fully-convolutional"],
            "has no scores at each position",
        ),
        (["pointing", *DIGITS, *OUT, "--methods", "mpw"], "no method named 'mpw': did you"),
        (["pointing", *DIGITS, *OUT, "--methods", ","], "--methods names none: mwp, "),
        (["pointing", *DIGITS, *OUT, "--methods", "mwp@x"], "mwp@x on digits: "),
        (["pointing", *DIGITS, *OUT, "--methods", "rise@x"], "rise is not read at a layer"),
        (["pointing", *DIGITS, *OUT, "--difficult", "none"], "there is no list of difficult"),
        (["pointing", *DIGITS, *OUT, "--process", "1"], "--process belong together"),
        (["pointing", "--data", "digits", "--model", "vgg16", *OUT], "vgg16 needs --weights"),
    ],
)
def test_a_wrong_argument_is_one_line_and_nothing_is_written(
    capsys, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert message in refusal(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_network_of_other_classes_is_refused(capsys, voc, tmp_path):
    call = ["--data", "voc", "--folder", voc, "--split", "test", "--model", "digits"]
    error = refusal(capsys, "pointing", *call, "--out", tmp_path / "run")
    assert "digits with these weights has 10 outputs, VOC2007 test has 20 classes: give" in error
    assert not (tmp_path / "run").exists()


def test_a_file_of_other_classes_is_refused(capsys, voc, tmp_path):
    call = ["--data", "voc", "--folder", voc, "--split", "test", "--out", tmp_path / "run"]
    weights = real("weights") / "mobilenet_v2_100_224_int8.npz"
    error = refusal(capsys, "pointing", *call, "--model", "mobilenet_v2", "--weights", weights)
    assert "has another number of outputs, VOC2007 test has 20 classes: give" in error
    assert not (tmp_path / "run").exists()


def test_a_larger_view_and_scores_at_each_position(capsys, tmp_path, voc, weights):
    call = ["--folder", voc, "--weights", weights, "--methods", "c-mwp,gradient"]
    call += "--data voc --split test --model cifar_resnet20 --batch 3".split()
    out = evaluate(capsys, *call, "--side", "48", "--fully-convolutional", "--out", tmp_path / "a")
    assert "3 images, 4 pairs" in out
    found = json.loads((tmp_path / "a" / "settings.json").read_text())
    assert "resize=(48, 48), crop=None, warp=True" in found["input"]["content"]


def shaped(voc):
    """Photographs of other shapes, two of them nearly of one."""
    sizes = {"a": (30, 60), "b": (60, 31), "c": (30, 61)}
    for seed, (name, (height, width)) in enumerate(sizes.items()):
        objects = [object_xml("cat", (1, 1, 12, height)), object_xml("dog", (20, 15, 30, 29))]
        text = annotation_xml(*objects, height=height, width=width)
        write(voc / f"Annotations/{name}.xml", text)
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(voc / f"JPEGImages/{name}.jpg")


def test_the_papers_view_is_the_same_alone_and_in_batches(capsys, tmp_path, voc, weights):
    shaped(voc)
    call = ["--folder", voc, "--weights", weights, "--methods", "c-mwp,gradient", "--side", "48"]
    call += "--data voc --split test --model cifar_resnet20 --view papers --tolerance 1".split()
    contents = []
    for batch in (1, 3):
        out = tmp_path / f"{batch}"
        assert "3 images, 6 pairs" in evaluate(capsys, *call, "--batch", batch, "--out", out)
        contents.append((out / "pointing.json").read_bytes())
    assert contents[0] == contents[1]
    found = json.loads((tmp_path / "1" / "settings.json").read_text())
    assert "side=48, step=16" in found["input"]["content"]
    assert found["network"]["content"]["fully_convolutional"] is True
    said = evaluate(capsys, *call, "--batch", "1", "--out", tmp_path / "1", gallery=2)
    assert "fare otherwise" not in said
    page = (tmp_path / "1" / "gallery" / "index.html").read_text()
    assert "all of a photograph in its own shape, 48 px the shorter side" in page


def test_the_papers_view_is_not_for_boxes_nor_for_networks_without_scores_at_positions(
    capsys, tmp_path
):
    digits = [*DIGITS, "--out", tmp_path / "run", "--view", "papers"]
    error = refusal(capsys, "pointing", *digits)
    assert "leave --fully-convolutional and --view papers out" in error
    assert "invalid choice: 'papers'" in refusal(capsys, "boxes", *digits)
    assert not (tmp_path / "run").exists()


def test_help_shows_how_to_begin(capsys):
    for arguments in (["eval", "--help"], ["eval", "pointing", "--help"]):
        assert cli.main(arguments) == 0
        assert "excitation-jax eval pointing --data digits" in capsys.readouterr().out
