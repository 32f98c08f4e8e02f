"""Flickr30k Entities: captions, phrases and their boxes."""

import pytest
from data_files import annotation_xml, object_xml, write, write_photograph

from excitation_jax import data

SENTENCES = """\
[/EN#1/people Two young guys] with [/EN#2/bodyparts shaggy hair] look [/EN#0/notvisual away] .
[/EN#1/people Two men] in [/EN#5/clothing/other green , long shirts] in [/EN#9/scene a yard]
"""
FLAGS = "<scene>{}</scene><nobndbox>{}</nobndbox>"
ANNOTATION = annotation_xml(
    object_xml("1", (1, 2, 10, 20)),
    object_xml(["1", "5"], (11, 2, 20, 20)),
    object_xml("2", extra=FLAGS.format(0, 1)),
    object_xml("9", extra=FLAGS.format(1, 1)),
)


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate(("36979", "65567")):
        write(tmp_path / f"Sentences/{name}.txt", SENTENCES)
        write(tmp_path / f"Annotations/{name}.xml", ANNOTATION)
        write_photograph(tmp_path / f"images/{name}.jpg", seed)
    write(tmp_path / "test.txt", "65567\n36979\n")
    return tmp_path


def read(folder, listing=True):
    return data.read_flickr30k(folder, folder / "images", folder / "test.txt" if listing else None)


def test_captions_and_phrases(folder):
    dataset = read(folder)
    assert [example.key for example in dataset] == ["65567", "36979"]
    assert [example.key for example in read(folder, listing=False)] == ["36979", "65567"]
    assert dataset.classes[:2] == ("people", "clothing")
    first, second = dataset[0].captions
    assert str(first) == "Two young guys with shaggy hair look away ."
    assert [str(phrase) for phrase in second.phrases] == [
        "Two men",
        "green , long shirts",
        "a yard",
    ]
    shirts = second.phrases[1]
    assert (shirts.entity, shirts.groups, shirts.first) == ("5", ("clothing", "other"), 3)
    assert second.words[3:7] == shirts.words
    assert first.phrases[2].groups == ("notvisual",)


def test_boxes_are_the_entities(folder):
    example = read(folder)[0]
    assert example.boxes("1").tolist() == [[0, 1, 10, 20], [10, 1, 20, 20]]
    assert example.boxes("5").tolist() == [[10, 1, 20, 20]]
    assert example.region("1").sum() == 19 * 20
    assert example.scenes == {"9"} and example.without_box == {"2", "9"}
    located = [str(phrase) for _, phrase in example.located()]
    assert located == ["Two young guys", "Two men", "green , long shirts"]


@pytest.mark.parametrize(
    ("file", "text", "error", "message"),
    [
        ("test.txt", "", ValueError, "test.txt lists no photographs"),
        ("test.txt", "../36979", ValueError, "no name of a photograph"),
        ("test.txt", None, FileNotFoundError, "no split .*test.txt"),
        ("images/36979.jpg", None, FileNotFoundError, "36979.jpg, which .*test.txt lists: put it"),
        ("Sentences/36979.txt", None, FileNotFoundError, "no file of sentences .*36979.txt"),
        ("Sentences/36979.txt", "\n", ValueError, "36979.txt has no sentences: expected"),
        ("Sentences/36979.txt", "a [/EN#1/people b", ValueError, "sentence 1: a phrase does not"),
        ("Sentences/36979.txt", "a [/EN#1/people ]", ValueError, "a phrase has no words; expected"),
        ("Sentences/36979.txt", "a b] c", ValueError, "'b]' ends a phrase that did not begin"),
        ("Sentences/36979.txt", "x\n[1/people b]", ValueError, r"2: '\[1/people' begins no phrase"),
        (
            "Sentences/36979.txt",
            "[/EN#1/people a [/EN#2/other b]",
            ValueError,
            "a phrase begins within another",
        ),
        ("Annotations/36979.xml", ANNOTATION[:-9], ValueError, "36979.xml is no XML"),
        (
            "Annotations/36979.xml",
            annotation_xml(object_xml("x", (1, 1, 2, 2))),
            ValueError,
            r"36979.xml has an object with <name> \['x'\]: expected numbers",
        ),
        (
            "Annotations/36979.xml",
            annotation_xml(object_xml("7")),
            ValueError,
            "36979.xml has an object 7 with neither a <bndbox> nor a <scene> of 0 or 1",
        ),
        (
            "Annotations/36979.xml",
            annotation_xml(object_xml("7", (1, 1, 2, 99))),
            ValueError,
            "36979.xml: the box .* reaches outside of the image",
        ),
    ],
)
def test_what_is_wrong_is_named(folder, file, text, error, message):
    (folder / file).unlink() if text is None else (folder / file).write_text(text)
    with pytest.raises(error, match=message):
        read(folder)


def test_text_that_is_not_utf8_and_missing_sentences_are_named(folder, tmp_path):
    (folder / "Sentences/36979.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="36979.txt is no text in UTF-8: .*; convert it"):
        read(folder)
    with pytest.raises(FileNotFoundError, match="no sentences in .*images/Sentences: expected"):
        data.read_flickr30k(folder / "images", folder / "images")
