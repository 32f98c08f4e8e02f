"""ImageNet's validation photographs."""

import pytest
from data_files import annotation_xml, object_xml, write, write_photograph

from excitation_jax import data

TENCH, SHARK = "n01440764", "n01491361"


@pytest.fixture
def folder(tmp_path):
    for number, synset in enumerate((SHARK, TENCH, SHARK), 1):
        name = f"ILSVRC2012_val_{number:08}"
        write_photograph(tmp_path / f"val/{name}.JPEG", number, format="JPEG")
        text = annotation_xml(object_xml(synset, (0, 2, 39, 28)), object_xml(synset, (4, 5, 6, 7)))
        write(tmp_path / f"boxes/{name}.xml", text)
    write(tmp_path / "synset_words.txt", f"{TENCH} tench, Tinca tinca\n{SHARK} tiger shark\n")
    return tmp_path


def read(folder, ground_truth=None, synsets="synset_words.txt"):
    if ground_truth is not None:
        write(folder / "truth.txt", ground_truth)
    return data.read_imagenet(
        folder / "val",
        folder / "boxes",
        folder / synsets,
        ground_truth=None if ground_truth is None else folder / "truth.txt",
    )


def test_boxes_count_from_zero_and_categories_are_synsets(folder):
    dataset = read(folder)
    assert dataset.classes == (TENCH, SHARK)
    assert dataset.titles == ("tench, Tinca tinca", "tiger shark")
    assert [e.categories() for e in dataset] == [(SHARK,), (TENCH,), (SHARK,)]
    assert dataset[0].key == "ILSVRC2012_val_00000001"
    assert [item.box for item in dataset[0].objects] == [(0, 2, 40, 29), (4, 5, 7, 8)]


def test_synsets_with_an_index(folder):
    write(folder / "classes.txt", f"0\t{TENCH}\ttench\n1\t{SHARK}\ttiger shark\n")
    assert read(folder, synsets="classes.txt").titles == ("tench", "tiger shark")


@pytest.mark.parametrize(
    ("ground_truth", "numbers"),
    [
        ("490\n361\n490\n", [1, 2, 3]),  # the devkit's, in its own order of classes
        ("ILSVRC2012_val_00000003.JPEG 1\nILSVRC2012_val_00000002.JPEG 0\n", [2, 3]),  # Caffe's
        (f"ImageId,PredictionString\nILSVRC2012_val_00000002,{TENCH} 0 2 39 28 \n", [2]),
    ],
)
def test_a_list_of_classes_in_three_formats(folder, ground_truth, numbers):
    dataset = read(folder, ground_truth)
    assert [int(example.key[-8:]) for example in dataset] == numbers


@pytest.mark.parametrize(
    ("ground_truth", "error", "message"),
    [
        ("490\n490\n490\n", ValueError, f"00002.xml has objects {TENCH}, but .* says {SHARK}: are"),
        ("490\n361\n", ValueError, r"truth.txt has 2 numbers for 3 photographs .*ILSVRC2012_val_0"),
        ("ILSVRC2012_val_00000002 1", ValueError, f"has objects {TENCH}, but .* says {SHARK}"),
        ("ILSVRC2012_val_00000002 2", ValueError, "line 1: expected .* index below 2, got"),
        ("ILSVRC2012_val_00000002", ValueError, "line 1: expected a photograph and its synset"),
        ("../x 1", ValueError, "'../x', which is no name of a photograph"),
        ("ILSVRC2012_val_00000009 1", FileNotFoundError, "no annotation .*00000009.xml: check"),
        (f"ILSVRC2012_val_00000002,{TENCH}\n" * 2, ValueError, "lists ILSVRC2012_val_00000002 tw"),
        ("\n", ValueError, "truth.txt lists no photographs"),
    ],
)
def test_a_list_that_does_not_belong_is_named(folder, ground_truth, error, message):
    with pytest.raises(error, match=message):
        read(folder, ground_truth)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("synset_words.txt", "tench\n", "synset_words.txt, line 1: expected a synset such as"),
        ("synset_words.txt", f"1 {TENCH}\n", "line 1: expected the index 0"),
        ("synset_words.txt", f"{TENCH}\n{TENCH}\n", "no synsets, or one of them twice"),
        ("synset_words.txt", f"{TENCH}\n", f"00001.xml has an object '{SHARK}', which is none"),
        ("boxes/ILSVRC2012_val_00000001.xml", "<annotation>", "00001.xml is no XML"),
        (
            "boxes/ILSVRC2012_val_00000001.xml",
            annotation_xml(object_xml(SHARK, (0, 0, 41, 3))),
            "00001.xml: the box .*xmax 41.* reaches outside",
        ),
    ],
)
def test_what_is_wrong_is_named(folder, file, text, message):
    (folder / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        read(folder)


def test_missing_folders_and_photographs_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of photographs .*nowhere"):
        data.read_imagenet(folder / "nowhere", folder / "boxes", folder / "synset_words.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty has no photographs: expected ILSVRC2012_val_0"):
        data.read_imagenet(tmp_path / "empty", folder / "boxes", folder / "synset_words.txt")
    (folder / "val/ILSVRC2012_val_00000002.JPEG").unlink()
    with pytest.raises(FileNotFoundError, match="00002.JPEG, which .*truth.txt lists: put it"):
        read(folder, "ILSVRC2012_val_00000002 0")
