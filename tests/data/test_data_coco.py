"""COCO: polygons, run lengths, crowds."""

import json

import numpy as np
import pytest
from data_files import HEIGHT, WIDTH, real, write_photograph
from pycocotools import mask as mask_api

from excitation_jax import data

SQUARE = [2, 3, 12, 3, 12, 13, 2, 13]


def annotation(image: int, category: int, box=(2, 3, 10, 10), **fields) -> dict:
    return {"id": 5, "image_id": image, "category_id": category, "bbox": list(box), **fields}


def runs(mask: np.ndarray) -> list[int]:
    """The lengths of the runs of zeros and ones down the columns."""
    flat = np.concatenate([[0], mask.T.ravel(), [0]])
    edges = np.flatnonzero(np.diff(flat))
    return np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()


@pytest.fixture
def read(tmp_path):
    """A function that writes an instances file with some parts replaced, and reads it."""
    sizes = {"height": HEIGHT, "width": WIDTH}
    content = {
        "images": [{"id": i, "file_name": f"COCO_{i}.jpg", **sizes} for i in (3, 1, 2)],
        "categories": [{"id": 20, "name": "tv"}, {"id": 1, "name": "dog"}],
        "annotations": [annotation(1, 1, segmentation=[SQUARE])],
    }
    for i in (1, 2, 3):
        write_photograph(tmp_path / f"val2014/COCO_{i}.jpg", i)

    def read(*annotations, text=None, options=None, **changed):
        changed |= {"annotations": list(annotations)} if annotations else {}
        path = tmp_path / "instances_val2014.json"
        path.write_text(json.dumps({**content, **changed}) if text is None else text)
        return data.read_coco(path, tmp_path / "val2014", **(options or {}))

    return read


def test_images_are_in_the_files_order_and_classes_in_that_of_their_numbers(read):
    dataset = read(annotation(1, 20, iscrowd=1), annotation(1, 1), annotation(3, 1))
    assert dataset.name == "val2014" and dataset.classes == ("dog", "tv") and dataset.masks
    assert [example.key for example in dataset] == ["COCO_3", "COCO_1", "COCO_2"]
    crowd, dog = dataset[1].objects
    assert crowd.crowd and not dog.crowd and dog.box == (2, 3, 12, 13) and dog.mask is None
    assert dataset[2].objects == () and dataset[2].size == (HEIGHT, WIDTH)


def test_some_classes_by_the_names_of_voc(read):
    options = {"classes": data.VOC_CLASSES, "renamed": data.COCO_TO_VOC}
    dataset = read(annotation(1, 20), options=options)
    assert dataset.classes == data.VOC_CLASSES and dataset[1].categories() == ("tvmonitor",)
    assert read(annotation(1, 20), options={"classes": ("dog",)})[1].objects == ()


def test_masks_of_polygons_and_of_both_run_length_codes(read):
    ring = np.zeros((HEIGHT, WIDTH), bool)
    ring[4:20, 7:30], ring[8:12, 9:25] = True, False
    counts = runs(ring)
    compressed = mask_api.frPyObjects({"size": [30, 40], "counts": counts}, 30, 40)["counts"]
    dataset = read(
        annotation(1, 1, segmentation=[SQUARE, [20, 20, 30, 20, 20, 30], [0, 0, 5, 5]]),
        annotation(1, 20, segmentation={"size": [30, 40], "counts": counts}),
        annotation(2, 20, segmentation={"size": [30, 40], "counts": compressed.decode()}),
    )
    found = [item.mask() for example in dataset for item in example.objects]
    np.testing.assert_array_equal(found[1], ring)
    np.testing.assert_array_equal(found[2], ring)
    assert found[0].dtype == bool and found[0].shape == (HEIGHT, WIDTH)
    assert found[0][3:13, 2:12].all() and found[0][21, 21]
    assert found[0].sum() == 100 + found[0][15:].sum() and not found[0][1, 1]  # no line 0,0 to 5,5


def test_an_object_without_a_mask_counts_with_its_box(read):
    example = read(
        annotation(1, 1, (0, 0, 2, 2), segmentation=[]),
        annotation(1, 1, segmentation=[SQUARE]),
        annotation(1, 1, (7, 7, 3, 0)),
    )[1]
    region = example.region("dog", masks=True)
    assert region[:2, :2].all() and region[3:13, 2:12].all() and region.sum() == 104


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"text": '{"images": ['}, ValueError, "val2014.json is no JSON file: .* unpack it again"),
        ({"text": '{"a": 1}'}, ValueError, "is not in COCO's layout.*'categories'; give the file"),
        ({"categories": [{"id": 1}]}, ValueError, "COCO's layout.*KeyError 'name'"),
        ({"images": [], "annotations": []}, ValueError, "lists no photographs: is it"),
        ({"images": [{"id": 1, "file_name": "COCO_1.jpg"}]}, ValueError, "image 1 has a height"),
        ({"images": [{"id": 1, "file_name": "../x.jpg"}]}, ValueError, "'../x.jpg', which is out"),
        ({"images": [{"id": 1, "file_name": "/x.jpg"}]}, ValueError, "'/x.jpg', which is outside"),
        ({"images": [{"id": 1, "file_name": 7}]}, ValueError, "COCO's layout.*file_name is 7"),
        ({"images": [{"id": 1, "file_name": "x"}] * 2}, ValueError, "two images with the same"),
        (
            {"images": [{"id": 1, "file_name": "x.jpg", "height": 30, "width": 30}]},
            FileNotFoundError,
            r"x.jpg, which .*val2014.json lists: put it there",
        ),
        ({"annotations": [annotation(9, 1)]}, ValueError, "annotates image 9, but lists none"),
        ({"annotations": [annotation(1, 9)]}, ValueError, "category 9, but lists none"),
        ({"annotations": [annotation(1, 1, (1, 2))]}, ValueError, "annotation 5 of image 1 has a"),
        ({"annotations": [annotation(1, 1, (1, 2, "3", 4))]}, ValueError, "expected its x, y, wi"),
        ({"annotations": [annotation(1, 1, (1, 2, 10**400, 4))]}, ValueError, "expected its x, y"),
        ({"annotations": [annotation(1, 1, (1, 2, float("nan"), 4))]}, ValueError, "its x, y, wi"),
        ({"annotations": [annotation(1, 1, (9, 9, -3, 4))]}, ValueError, "ends before it begins"),
        ({"annotations": [annotation(1, 1, (9, 9, 33, 4))]}, ValueError, "reaches outside of the"),
        ({"annotations": [annotation(1, 1, iscrowd=3)]}, ValueError, "has iscrowd 3: expected"),
        ({"annotations": [annotation(1, 1, segmentation="x")]}, ValueError, "neither polygons nor"),
        ({"annotations": [annotation(1, 1, segmentation=[[1] * 7])]}, ValueError, "list of x, y, "),
        (
            {"annotations": [annotation(1, 1, segmentation=[[-5e8, 0, 3e8, 0, 3, 3]])]},
            ValueError,
            "polygon far outside of the image",
        ),
    ],
)
def test_what_is_wrong_is_named(read, changed, error, message):
    with pytest.raises(error, match=message):
        read(**changed)


@pytest.mark.parametrize(
    "code",
    [
        {"counts": [1199]},  # too short: pycocotools leaves the rest of the mask unset
        {"counts": [1200, 1]},
        {"counts": [-1, 1201]},
        {"counts": "11P1"},
        {"counts": "zz"},
        {"counts": "\xff"},
        {"counts": None},
        {"counts": [1200], "size": [40, 30]},
    ],
)
def test_run_lengths_that_do_not_fill_the_image_are_named(read, code):
    with pytest.raises(ValueError, match=r"annotation 5 .* run-length code .* are \(30, 40\)"):
        read(annotation(1, 1, segmentation=code))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_real_photographs_have_the_masks_of_pycocotools():
    folder = real("coco_mini")
    path = folder / "annotations/instances_train2017.json"
    dataset = data.read_coco(path, folder / "train2017")
    assert len(dataset) == 147 and len(dataset.classes) == 80
    assert dataset.classes[:3] == ("person", "bicycle", "car")
    content = json.loads(path.read_text())
    keys = {image["id"]: image["file_name"].removesuffix(".jpg") for image in content["images"]}
    items = {key: [] for key in keys.values()}
    for item in content["annotations"]:
        items[keys[item["image_id"]]].append(item)
    assert sum(len(example.objects) for example in dataset) == len(content["annotations"]) == 1217
    assert sum(item.crowd for example in dataset for item in example.objects) == 11
    compared = 0
    for example in dataset:
        for item, found in zip(items[example.key], example.objects, strict=True):
            x, y, width, height = item["bbox"]
            np.testing.assert_allclose(found.box, (x, y, x + width, y + height))
            code = item["segmentation"]
            if not code:
                assert found.mask is None
                continue
            encoded = mask_api.frPyObjects(code, *example.size)
            encoded = mask_api.merge(encoded) if isinstance(code, list) else encoded
            assert (mask_api.decode(encoded) == found.mask()).all()
            compared += 1
    assert compared == 1216
