"""PASCAL VOC, the records that all readers give, and the difficult subset."""

import dataclasses

import numpy as np
import pytest
from data_files import HEIGHT, WIDTH, annotation_xml, object_xml, real, write, write_photograph
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from excitation_jax import data, metrics

DIFFICULT = "<difficult>1</difficult>"
FIRST = annotation_xml(
    object_xml("cat", (1, 1, 10, 20)),
    object_xml("dog", (11, 5, 40, 30), "<part><name>head</name></part>"),
    object_xml("cat", (30, 21, 35, 22), DIFFICULT),
)


@pytest.fixture
def folder(tmp_path):
    """Two photographs, of which the first has masks."""
    voc = tmp_path / "VOC2007"
    write(voc / "Annotations/a.xml", FIRST)
    write(voc / "Annotations/b.xml", annotation_xml(object_xml("dog", (3, 4, 5, 6), DIFFICULT)))
    write(voc / "ImageSets/Main/test.txt", "b\na\n")
    write(voc / "ImageSets/Main/cat_test.txt", "a  1\n")
    for seed, name in enumerate("ab"):
        write_photograph(voc / f"JPEGImages/{name}.jpg", seed)
    numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
    numbers[2:20, 3:9], numbers[5:8, 12:30], numbers[0] = 1, 2, 255
    (voc / "SegmentationObject").mkdir()
    image = Image.fromarray(numbers)
    image.putpalette(range(30))
    image.save(voc / "SegmentationObject/a.png")
    return voc


def test_a_split_in_its_order_with_boxes_from_zero(folder):
    dataset = data.read_voc(folder, "test")
    assert [example.key for example in dataset] == ["b", "a"] and dataset.name == "VOC2007 test"
    assert dataset.classes == data.VOC_CLASSES and not dataset.masks
    example = dataset.find("a")
    assert example.size == (HEIGHT, WIDTH) and example.path == folder / "JPEGImages/a.jpg"
    assert [(item.category, item.box, item.difficult) for item in example.objects] == [
        ("cat", (0, 0, 10, 20), False),
        ("dog", (10, 4, 40, 30), False),
        ("cat", (29, 20, 35, 22), True),
    ]
    assert example.categories() == ("cat", "dog") == example.categories(difficult=False)
    assert dataset[0].categories() == ("dog",) and not dataset[0].categories(difficult=False)
    assert dataset[0].objects[0].mask is None
    assert [e.key for e in data.read_voc(folder, "cat_test")] == ["a"]


def test_a_region_is_the_union_of_boxes_or_of_masks(folder):
    example = data.read_voc(folder, "test").find("a")
    wanted = np.zeros((HEIGHT, WIDTH), bool)
    wanted[:20, :10] = wanted[20:22, 29:35] = True
    np.testing.assert_array_equal(example.region("cat"), wanted)
    masks = np.zeros((HEIGHT, WIDTH), bool)
    masks[2:20, 3:9] = True
    np.testing.assert_array_equal(example.region("cat", masks=True), masks)
    assert example.region("dog", masks=True).sum() == 3 * 18
    with pytest.raises(ValueError, match="a has no object 'bird', but cat, dog"):
        example.region("bird")


edges = st.integers(0, 60).map(lambda n: n / 4)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.tuples(edges, edges, edges, edges), min_size=2, max_size=2))
def test_regions_are_those_of_the_metrics(corners):
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners]
    objects = tuple(data.Object("cat", box) for box in boxes)
    example = data.Example("a", None, (15, 13), objects)
    wanted = metrics.boxes_to_mask(np.array(boxes), (15, 13))
    np.testing.assert_array_equal(example.region("cat"), wanted)


def test_a_data_set_is_a_sequence(folder):
    dataset = data.read_voc(folder, "test")
    part = dataset[1:]
    assert isinstance(part, data.Dataset) and [e.key for e in part] == ["a"]
    assert part.classes == dataset.classes and part.name == dataset.name
    assert [e.key for e in dataset.where(lambda e: "cat" in e.categories())] == ["a"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset.name = "other"
    with pytest.raises(ValueError, match="VOC has two examples 'b'"):
        data.Dataset("VOC", (), (dataset[0], dataset[1], dataset[0]))


@pytest.mark.parametrize(
    ("file", "text", "error", "message"),
    [
        ("ImageSets/Main/test.txt", None, FileNotFoundError, r"no split .*test.txt: check"),
        ("ImageSets/Main/test.txt", "\n", ValueError, "test.txt lists no photographs: expected"),
        ("ImageSets/Main/test.txt", "../a", ValueError, r"'../a', which is no name of a photo"),
        ("ImageSets/Main/test.txt", "..", ValueError, r"'..', which is no name of a photograph"),
        ("ImageSets/Main/test.txt", "a\na", ValueError, "lists a twice"),
        ("Annotations/a.xml", None, FileNotFoundError, r"no annotation .*a.xml: check"),
        ("JPEGImages/a.jpg", None, FileNotFoundError, r"a.jpg, which .*test.txt lists: put it"),
        ("Annotations/a.xml", FIRST[:200], ValueError, r"a.xml is no XML .*; unpack it again"),
        ("Annotations/a.xml", "<html/>", ValueError, "root is <html>, not <annotation>"),
        ("Annotations/a.xml", "<annotation/>", ValueError, "a.xml has a <size> with height ''"),
        (
            "Annotations/a.xml", annotation_xml(height="-3"),
            ValueError, "<size> with height '-3' and width '40': expected",
        ),
        (
            "Annotations/a.xml", annotation_xml(object_xml("cat")),
            ValueError, r"a.xml: the box xmin , .* is no box: expected four numbers in <bndbox>",
        ),
        (
            "Annotations/a.xml", annotation_xml(object_xml("cat", (9, 1, 8, 5))),
            ValueError, r"a.xml: the box xmin 9, ymin 1, xmax 8, ymax 5 has no area: correct",
        ),
        (
            "Annotations/a.xml", annotation_xml(object_xml("cat", (9, 1, 5, 5))),
            ValueError, r"a.xml: the box .* ends before it begins: correct it",
        ),
        (
            "Annotations/a.xml", annotation_xml(object_xml("cat", ("nan", 1, 5, 5))),
            ValueError, r"a.xml: the box .* ends before it begins: correct it",
        ),
        (
            "Annotations/a.xml", annotation_xml(object_xml("cat", (1, 1, 42, 5))),
            ValueError, r"reaches outside of the image, which has a width of 40 and a height of 30",
        ),
        (
            "Annotations/a.xml", annotation_xml(object_xml("yeti", (1, 1, 4, 5))),
            ValueError, r"a.xml has an object 'yeti', .*\(aeroplane, .*\): give the classes",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(folder, file, text, error, message):
    (folder / file).unlink() if text is None else (folder / file).write_text(text)
    with pytest.raises(error, match=message):
        data.read_voc(folder, "test")


@pytest.mark.parametrize(
    ("box", "cut"), [((0, 1, 5, 5), (0, 0, 5, 5)), ((30, 9, 41, 31), (29, 8, 40, 30))]
)
def test_a_pixel_over_the_edge_is_cut_off(folder, box, cut):
    (folder / "Annotations/a.xml").write_text(annotation_xml(object_xml("cat", box)))
    assert data.read_voc(folder, "test").find("a").objects[0].box == cut


def test_masks_that_do_not_belong_are_named(folder):
    mask = data.read_voc(folder, "test").find("a").objects[0].mask
    path = folder / "SegmentationObject/a.png"
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(path)
    with pytest.raises(
        ValueError, match=r"a.png is no image of objects' numbers: expected .*30, 40"
    ):
        mask()
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"a.png is no image, or a damaged one"):
        mask()


# The difficult subset.


@pytest.mark.parametrize(
    ("objects", "difficult"),
    [
        ([("cat", (0, 0, 10, 10), False), ("dog", (0, 0, 90, 90), False)], True),
        ([("cat", (0, 0, 10, 10), False)], False),  # no other category
        ([("cat", (0, 0, 10, 10), False), ("dog", (0, 0, 90, 90), True)], False),
        ([("cat", (0, 0, 10, 10), True), ("dog", (0, 0, 90, 90), False)], False),  # not played
        ([("cat", (0, 0, 50, 50), False), ("dog", (0, 0, 9, 9), False)], False),  # just 1/4
        ([("cat", (0, 0, 50, 49.9), False), ("dog", (0, 0, 9, 9), False)], True),
        # Two objects together have more than a quarter, a difficult one counted.
        (
            [("cat", (0, 0, 50, 40), False), ("cat", (0, 0, 50, 40), True)]
            + [("dog", (0, 0, 9, 9), False)],
            False,
        ),
    ],
)
def test_the_rule_of_the_difficult_subset(objects, difficult):
    objects = tuple(data.Object(*fields) for fields in objects)
    example = data.Example("a", None, (100, 100), objects)
    assert data.is_difficult(example, "cat") is difficult


def test_masks_make_a_category_difficult_whose_boxes_do_not():
    mask = np.zeros((10, 10), bool)
    mask[:2] = True
    cat = data.Object("cat", (0, 0, 10, 10), mask=lambda: mask)
    example = data.Example("a", None, (10, 10), (cat, data.Object("dog", (0, 0, 1, 1))))
    assert data.is_difficult(example, "cat", masks=True) and not data.is_difficult(example, "cat")


def test_a_list_of_the_difficult_subset(tmp_path, folder):
    path = tmp_path / "difficult.txt"
    path.write_text("a\t0\t1\nx\t0\t0\n")
    flags = data.DifficultList.read(path, ("cat", "dog"))
    dataset = data.read_voc(folder, "test")
    assert flags(dataset.find("a"), "dog") and not flags(dataset.find("a"), "cat")
    with pytest.raises(ValueError, match="does not have b, but a, x: is it the list of this data"):
        flags(dataset.find("b"), "dog")
    for text in ("a\t0\n", "a\t0\t1\na\t0\t1\n", "a\t0\t2\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"difficult.txt, line \d: expected .* of 2 classes"):
            data.DifficultList.read(path, ("cat", "dog"))
    path.write_text("\n")
    with pytest.raises(ValueError, match="difficult.txt lists no images"):
        data.DifficultList.read(path, ("cat", "dog"))


# The real data.


def test_real_photographs_have_the_counts_of_their_readme():
    dataset = data.read_voc(real("voc_mini"), "all")
    assert len(dataset) == 110
    assert sum(len(example.categories()) for example in dataset) == 180
    assert sum(len(example.categories()) > 1 for example in dataset) == 50
    assert {name for example in dataset for name in example.categories()} == {*data.VOC_CLASSES}
    for example in dataset:
        height, width = example.size
        for item in example.objects:
            x0, y0, x1, y1 = item.box
            assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
    masked = [e for e in dataset if all(item.mask for item in e.objects)]
    assert len(masked) == 3
    for example in masked:
        for item in example.objects:
            rows, columns = np.nonzero(item.mask())
            found = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            # What is unclear, such as an aeroplane's fin, is in the box but not in the mask.
            outwards = np.array([1, 1, -1, -1]) * (np.array(item.box) - found)
            assert (outwards < 6).all() and np.sort(outwards)[1] > -7


def test_the_rule_is_torchrays_list_of_real_photographs():
    folder = real("voc_mini")
    dataset = data.read_voc(folder, "voc07test")
    flags = data.DifficultList.read(folder / "voc07test_difficult_flags.txt", data.VOC_CLASSES)
    pairs = [(example, name) for example in dataset for name in example.categories()]
    assert len(dataset) == len(flags) == 43 and len(pairs) == 66
    assert [data.is_difficult(*pair) for pair in pairs] == [flags(*pair) for pair in pairs]
    assert sum(flags(*pair) for pair in pairs) == 24
    everything = folder / "pointing_game_ebp_voc07_difficult.txt"
    assert len(data.DifficultList.read(everything, data.VOC_CLASSES)) == 4952
