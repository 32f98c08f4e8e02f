"""Every argument of `eval` and of training is declared, and a run is continued only as it began."""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import labelled_sets
import numpy as np
import pytest
from data_files import HEIGHT, WIDTH, annotation_xml, object_xml, write, write_photograph
from made_weights import checkpoint, mobilenet

from excitation_jax import data, models, training
from excitation_jax.cli import commands, dependence
from excitation_jax.cli.dependence import EVALUATION, TRAINING, option
from excitation_jax.cli.parser import _parser as parser_of_all
from excitation_jax.models import weight_files

SHORTEST = ["--data", "digits", "--model", "digits", "--out", "run"]
KINDS = ("pointing", "boxes", "text")
TENCH, SHARK = "n01440764", "n01491361"


def parsed(call):
    return parser_of_all().parse_args(["eval", *map(str, call)])


def arguments_of(kind):
    return set(vars(parsed([kind, *SHORTEST])))


def trained(call):
    return parser_of_all().parse_args(["train", *map(str, call)])


TRAINED = set(
    vars(trained("--model m --weights w --data voc --folder f --split s --out o".split()))
)


def test_every_argument_is_declared_and_nothing_else():
    assert set().union(*map(arguments_of, KINDS)) == set(EVALUATION)
    assert set(TRAINING) == TRAINED


@pytest.mark.parametrize("parts", [EVALUATION, TRAINING])
def test_an_argument_that_is_not_declared_is_an_error_before_anything_is_written(parts):
    with pytest.raises(LookupError, match="--new-one is not declared: say in .*dependence"):
        dependence.given(argparse.Namespace(batch=2, new_one=3), parts)


def test_a_part_of_which_it_is_not_known_what_it_came_to_is_an_error():
    arguments = argparse.Namespace(batch=2, model="digits", out="run")
    with pytest.raises(LookupError, match="records depend on --model, and it is not known"):
        dependence.settings(arguments, EVALUATION, {"batch": 2})


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_are_named_as_the_user_writes_them(kind, capsys):
    with pytest.raises(SystemExit):
        parsed([kind, "--help"])
    shown = capsys.readouterr().out
    for argument in arguments_of(kind) - {"experiment", "command", "stages"}:
        assert f"{option(argument)}" in shown, argument


def test_arguments_of_training_are_named_as_the_user_writes_them(capsys):
    with pytest.raises(SystemExit):
        trained(["--help"])
    shown = capsys.readouterr().out
    for argument in TRAINED - {"command", "stages"}:
        assert f"{option(argument)}" in shown, argument


def network(path, classes, name="cifar_resnet20", seed=0):
    """A checkpoint of a small network, at random."""
    rng = np.random.default_rng(seed)
    shapes = models.get(name).expected(classes)
    found = jax.tree.map(lambda s: jnp.asarray(rng.uniform(0.1, 0.2, s.shape), s.dtype), shapes)
    weight_files.save(path, found, {"model": name, "num_classes": classes})
    return path


def voc_and_coco(folder: Path, dog=(20, 15, 30, 29)) -> None:
    """Three photographs, whose folder is in the layouts of both."""
    names = "abc"
    for seed, name in enumerate(names):
        objects = [object_xml("cat", (1, 1, 10, 8)), object_xml("dog", dog)]
        write(folder / f"Annotations/{name}.xml", annotation_xml(*objects[seed % 2 :]))
        write_photograph(folder / f"JPEGImages/{name}.jpg", seed)
        write_photograph(folder / f"test/{name}.jpg", seed)
    write(folder / "ImageSets/Main/test.txt", "a\nb\nc\n")
    write(folder / "ImageSets/Main/few.txt", "b\na\n")
    categories = [{"id": i, "name": name} for i, name in enumerate(reversed(data.VOC_CLASSES), 1)]
    numbers = {item["name"]: item["id"] for item in categories}
    content = {
        "categories": categories,
        "images": [
            {"id": i, "file_name": f"{name}.jpg", "height": HEIGHT, "width": WIDTH}
            for i, name in enumerate(names)
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": numbers["dog"], "bbox": [1, 2, 20, 20]}
            for i in range(3)
        ],
    }
    write(folder / "annotations/instances_test.json", json.dumps(content))


def imagenet(folder: Path) -> None:
    for number, synset in enumerate((SHARK, TENCH, SHARK), 1):
        name = f"ILSVRC2012_val_{number:08}"
        write_photograph(folder / f"val/{name}.JPEG", number, format="JPEG")
        for boxes, right in (("boxes", 28), ("others", 20)):
            text = annotation_xml(object_xml(synset, (0, 2, 39, right)))
            write(folder / f"{boxes}/{name}.xml", text)
    write(folder / "synsets.txt", f"{TENCH} tench\n{SHARK} shark\n")
    write(folder / "turned.txt", f"{SHARK} shark\n{TENCH} tench\n")
    write(folder / "two.txt", "ILSVRC2012_val_00000002 0\nILSVRC2012_val_00000003 1\n")


def flickr(folder: Path, text="[/EN#1/people Two men] with [/EN#2/bodyparts hair]") -> None:
    annotation = annotation_xml(object_xml("1", (1, 1, 20, 30)), object_xml("2", (21, 1, 40, 15)))
    for seed, name in enumerate(("36979", "65567")):
        write(folder / f"Sentences/{name}.txt", text)
        write(folder / f"Annotations/{name}.xml", annotation)
        write_photograph(folder / f"flickr30k-images/{name}.jpg", seed)
        write_photograph(folder / f"others/{name}.jpg", seed + 5)
    write(folder / "test.txt", "65567\n36979\n")
    write(folder / "few.txt", "65567\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with all that the calls below name, and a run of each."""
    folder = tmp_path_factory.mktemp("made")
    voc_and_coco(folder / "voc")
    voc_and_coco(folder / "moved")
    voc_and_coco(folder / "other", dog=(20, 15, 30, 20))
    imagenet(folder / "imagenet")
    flickr(folder / "flickr")
    flickr(folder / "flickr2", "[/EN#1/people Two men] with [/EN#2/bodyparts thick hair]")
    hard = data.VOC_CLASSES.index("cat")
    for name, flag in (("list.txt", "1"), ("list2.txt", "0")):
        columns = "\t".join(flag if c == hard else "0" for c in range(20))
        write(folder / name, "\n".join(f"{key}\t{columns}" for key in "abc"))
    words = ["men", "hair", *(f"tag{i}" for i in range(8))]
    write(folder / "words.txt", "\n".join(words))
    write(folder / "words2.txt", "\n".join(words[::-1]))
    for name, edge in (("p.jsonl", 20), ("p2.jsonl", 22)):
        lines = [{"key": k, "boxes": [[0, 0, edge, 30]]} for k in ("36979", "65567")]
        write(folder / name, "\n".join(map(json.dumps, lines)))
    for classes in (2, 10, 20):
        network(folder / f"w{classes}", classes)
        network(folder / f"w{classes}b", classes, seed=1)
    network(folder / "w32", 20, "cifar_resnet32")
    mobilenet(folder / "own.npz", 0)
    heads(folder)
    for name in BASES:
        commands.run(parsed(in_folder(folder, BASES[name], name)), lambda step: None)
    return folder


def heads(folder):
    """Two output layers for VOC, trained for a step."""
    model = models.get("mobilenet_v2").build(20)
    own = models.load("mobilenet_v2", folder / "own.npz")[1]
    records = training.read_voc(folder / "voc", "test")
    for name, rate in (("head", 0.01), ("head2", 0.5)):
        options = {"directory": folder / name, "learning_rate": rate, "steps": 1, "batch": 2}
        training.fine_tune(model, training.new_output_layer(model, own), records, **options)


CIFAR = {"model": "cifar_resnet20", "methods": "gradient", "batch": 2}
NO_GALLERY = {"gallery": 0}
VOC = {**CIFAR, "data": "voc", "folder": "@voc", "split": "test", "weights": "@w20"}
BASES = {
    "pointing": {**VOC, "experiment": "pointing", "classes": "voc", **NO_GALLERY},
    "coco": {**VOC, "experiment": "pointing", "data": "coco", "classes": "voc", **NO_GALLERY},
    "headed": {
        **VOC,
        **NO_GALLERY,
        "experiment": "pointing",
        "model": "mobilenet_v2",
        "weights": "@own.npz",
        "head": "@head",
        "side": 64,
    },
    "listed": {**VOC, "experiment": "pointing", "difficult": "@list.txt", **NO_GALLERY},
    "boxes": {**VOC, "experiment": "boxes", **NO_GALLERY},
    "imagenet": {
        **CIFAR,
        **NO_GALLERY,
        "experiment": "boxes",
        "data": "imagenet",
        "folder": "@imagenet/val",
        "annotations": "@imagenet/boxes",
        "synsets": "@imagenet/synsets.txt",
        "weights": "@w2",
    },
    "text": {
        **CIFAR,
        **NO_GALLERY,
        "experiment": "text",
        "data": "flickr30k",
        "folder": "@flickr",
        "split": "test",
        "weights": "@w10",
        "words": "@words.txt",
        "proposals": "@p.jsonl",
        "gamma": 0.5,  # so that one photograph is enough
    },
}
MAPS = [
    {"weights": "@w20b"},
    {"model": "cifar_resnet32", "weights": "@w32"},
    {"fully_convolutional": True},
    {"view": "network"},
    {"view": "papers", "side": 32},
    {"side": 48},
    {"methods": "cam"},
    {"methods": "gradient,cam"},
    {"layers": "layer1_2"},
    {"rules_set": "residual"},
    {"plain": True},
    {"blur": 0.1},
    {"batch": 3},
    {"limit": 2},
    {"split": "few"},
    {"folder": "@other"},
    {"data": "coco"},
]
CHANGES = {
    "pointing": [*MAPS, {"experiment": "boxes"}, {"rules": "torchray"}, {"tolerance": 3.0}],
    "coco": [{"classes": "own"}],
    "headed": [{"head": "@head2"}],
    "listed": [{"difficult": "@list2.txt"}, {"difficult": None}],
    "boxes": [{"experiment": "pointing"}, {"fully_convolutional": True}, {"limit": 2}],
    "imagenet": [
        {"annotations": "@imagenet/others"},
        {"synsets": "@imagenet/turned.txt"},
        {"ground_truth": "@imagenet/two.txt"},
    ],
    "text": [
        {"folder": "@flickr2"},
        {"images": "@flickr/others"},
        {"split": "few"},
        {"words": "@words2.txt"},
        {"proposals": "@p2.jsonl"},
        {"proposals": "grid"},
        {"proposals_limit": 7},
        {"data": "digits", "folder": None, "split": None, "proposals": "grid"},
    ],
}


def in_folder(folder, call, out):
    """The command line of arguments by name; an @ stands for the folder, None for nothing."""
    words = [call["experiment"], "--out", folder / "runs" / out]
    for name, value in call.items():
        if name == "experiment" or value is None:
            continue
        words.append(option(name))
        if value is not True:
            words.append(str(value).replace("@", f"{folder}/"))
    return words


def said(before, now, name):
    """What a refusal is to say of an argument."""
    values = (getattr(arguments, name) for arguments in (before, now))
    plain = (str(value) if isinstance(value, Path) else value for value in values)
    old, new = ("not given" if value is None else repr(value) for value in plain)
    assert old != new
    return f"{option(name)} was {old}, is {new}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "changed"),
    [(base, changed) for base, every in CHANGES.items() for changed in every],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_another_value_is_refused_in_a_sentence_that_names_it(made, base, changed):
    before = parsed(in_folder(made, BASES[base], base))
    now = parsed(in_folder(made, {**BASES[base], **changed}, base))
    with pytest.raises(FileExistsError) as refused:
        commands.run(now, lambda step: None)
    message = str(refused.value)
    assert message.startswith(f"{made / 'runs' / base} holds records of other settings (")
    assert message.endswith("): choose another directory, or the settings of before")
    for name in changed:
        assert said(before, now, name) in message


def test_the_changes_above_are_of_all_arguments_that_records_depend_on():
    changed = {name for every in CHANGES.values() for change in every for name in change}
    assert changed == {name for name, part in EVALUATION.items() if part is not None}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "changed"),
    [
        ("pointing", {"folder": "@moved"}),
        ("pointing", {"methods": " gradient ,"}),
        ("pointing", {"side": 32}),  # which is the network's own
        ("pointing", {"threads": 1, "gallery": 1}),
        ("boxes", {"held_out": 2}),
        ("text", {"threads": 1, "gamma": 0.25, "gallery": 1}),
        ("text", {"held_out": 2}),
    ],
)
def test_what_comes_to_the_same_continues(made, base, changed):
    call = in_folder(made, {**BASES[base], **changed}, base)
    assert "wrote " in commands.run(parsed(call), lambda step: None)


def test_photographs_that_changed_are_refused_under_the_same_name(tmp_path):
    voc_and_coco(tmp_path / "voc")
    network(tmp_path / "w20", 20)
    call = in_folder(tmp_path, BASES["pointing"], "run")
    commands.run(parsed(call), lambda step: None)
    voc_and_coco(tmp_path / "voc", dog=(20, 15, 30, 20))
    with pytest.raises(
        FileExistsError, match="what .*--folder, --split.* stand for has changed: it"
    ):
        commands.run(parsed(call), lambda step: None)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A folder with training runs of a small network at random, and the calls that began them."""
    folder = tmp_path_factory.mktemp("training")
    for name in ("voc", "other"):
        labelled_sets.voc(folder / name, all=range(7), few=range(2), one=range(1), some=range(5))
    write(folder / "other/ImageSets/Main/all.txt", "000001\n000002\n000003\n")
    flagged = object_xml("cow", (1, 1, 9, 9), "<difficult>1</difficult>")
    sides = {"height": labelled_sets.HEIGHT, "width": labelled_sets.WIDTH}
    write(folder / "voc/Annotations/000006.xml", annotation_xml(flagged, **sides))
    for name in ("voc", "coco"):
        categories = ["cow", "cat", "dog", "bus"]
        labelled_sets.coco(folder / name, categories, all=range(7), train2017=range(7, 9))
    labelled_sets.tagged(folder / "tags", all=range(7))
    write(folder / "classes.txt", "bus\ndog\ncat\ncow\n")
    for name, seed in (("weights", 0), ("weights2", 1)):
        checkpoint(folder / name, "cifar_resnet20", seed)
    checkpoint(folder / "deep", "cifar_resnet32")
    for name, call in TRAININGS.items():
        commands.run(trained(as_words(folder, call, name)), lambda step: None)
    return folder


def as_words(folder, call, out):
    words = ["--out", folder / "runs" / out]
    for name, value in call.items():
        if value is not None:
            words.append(option(name))
            words += [] if value is True else [str(value).replace("@", f"{folder}/")]
    return words


ON_VOC = {
    "model": "cifar_resnet20",
    "weights": "@weights",
    "data": "voc",
    "folder": "@voc",
    "split": "all",
    "test": "one",
    "batch": 2,
    "steps": 1,
}
TRAININGS = {
    "voc": ON_VOC,
    "named": {**ON_VOC, "validation": "few", "test": None},
    "lowered": {**ON_VOC, "patience": 2},
    "tags": {**ON_VOC, "data": "tags", "folder": "@tags", "test": None, "layers": "output"},
}
TRAINING_CHANGES = {
    "voc": [
        {"weights": "@weights2"},
        {"model": "cifar_resnet32", "weights": "@deep"},
        {"folder": "@other"},
        {"split": "some"},
        {"data": "coco", "classes": "voc", "test": None},
        {"coco": "@coco"},
        {"classes": "@classes.txt"},
        {"test": "few"},
        {"without_difficult": True},
        {"layers": "all"},
        {"views": 3},
        {"views": 0},
        {"batch": 3},
        {"seed": 1},
        {"learning_rate": 0.1},
        {"momentum": 0.5},
        {"patience": 1},
    ],
    "named": [{"validation": "some"}],
    "lowered": [{"patience": 0}, {"factor": 0.5}, {"validate_every": 1}],
    "tags": [{"dictionary": 2}, {"first_tags": 1}],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "changed"),
    [(base, changed) for base, every in TRAINING_CHANGES.items() for changed in every],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_another_training_is_refused_in_a_sentence_that_names_what_differs(begun, base, changed):
    before = trained(as_words(begun, TRAININGS[base], base))
    now = trained(as_words(begun, {**TRAININGS[base], **changed}, base))
    with pytest.raises(FileExistsError) as refused:
        commands.run(now, lambda step: None)
    message = str(refused.value)
    assert f"{begun / 'runs' / base} holds another run (" in message
    assert message.endswith("): choose another directory, or the settings of before")
    for name in changed:
        assert said(before, now, name) in message


def test_the_changes_above_are_of_all_arguments_that_training_depends_on():
    changed = {name for every in TRAINING_CHANGES.values() for change in every for name in change}
    assert changed == {name for name, part in TRAINING.items() if part is not None}
