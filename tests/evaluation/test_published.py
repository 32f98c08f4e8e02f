"""What the papers and TorchRay published: the files' rows, and which stand beside one's own."""

import csv
import json
from importlib import resources

import numpy as np
import pytest
from paths import SHARED

from excitation_jax import data, methods, models
from excitation_jax.data.flickr30k import GROUPS, Phrase
from excitation_jax.evaluation.boxes.localisation import ALPHAS, Counts
from excitation_jax.evaluation.boxes.table import WHOLE, BoxTable
from excitation_jax.evaluation.pointing import pointing_game as pointing
from excitation_jax.evaluation.pointing.table import PointingTable
from excitation_jax.evaluation.published import figures
from excitation_jax.evaluation.published.figures import published
from excitation_jax.evaluation.text.scores import Detections, Found, Parts, TextScores
from excitation_jax.evaluation.text.table import TextTable

PAPERS = SHARED / "papers"


@pytest.mark.parametrize(
    ("model", "source", "network", "method", "wanted"),
    [
        ("vgg16_caffe", 0, "VGG16", "c-mwp", [(1, 80.0, 66.8)]),
        ("vgg16_caffe", 1, "VGG16", "c-mwp", [(None, 79.9, 66.5)]),
        ("resnet50", 0, "ResNet50", "guided-backprop", [(1, 73.0, 53.0)]),
        ("resnet50", 1, "ResNet50", "guided-backprop", [(None, 77.2, 59.4)]),
        ("resnet50", 1, "ResNet50", "deconvnet", [(None, 68.6, 44.7)]),
        ("resnet50", 0, "ResNet50", "c-mwp-star", [(2, 89.1, 80.9)]),
        ("googlenet", 0, "GoogLeNet", "c-mwp", [(1, 85.1, 72.3), (3, None, 70.6)]),
        ("googlenet", 0, "GoogLeNet", "winner-take-all", [(4, 72.3, 49.7)]),
        ("googlenet", 0, "GoogLeNet", "c-mwp-without-norm", [(3, None, 41.6)]),
        ("googlenet", 0, "GoogLeNet", "lrp-epsilon", [(1, 72.8, 50.2)]),
        ("cnn_s", 0, "CNN-S", "centre", [(1, 69.5, 42.6)]),
        ("cnn_s", 0, "CNN-S", "cam", []),  # which the paper has not
        ("cnn_s", 0, "CNN-S", "rise", []),
        ("cnn_s", 0, "CNN-S", "c-mwp@conv3", [(1, 78.7, 61.7)]),
        ("mobilenet_v2", 0, "GoogLeNet", "cam", [(1, 80.8, 61.9)]),
        ("mobilenet_v2", 1, "VGG16", "rise", [(None, 86.9, 75.1)]),
    ],
)
def test_figures_are_found_by_network_and_method(model, source, network, method, wanted):
    found = published("pointing", "VOC2007 test", model, 20)[source]
    assert found.network == network and found.same == (model != "mobilenet_v2")
    rows = [(r.table, r.figures.get("all"), r.figures.get("difficult")) for r in found.of(method)]
    assert rows == wanted


def test_a_citation_says_of_how_many_images_they_are_and_of_which_network():
    paper, torchray = published("pointing", "val2014", "resnet50", 80)
    assert paper.cited(43) == (
        "paper, ResNet50: Zhang et al., IJCV 126, 2018, Tables 1, 2, 40137 images; here 43"
    )
    assert torchray.cited(43).endswith("docs/pointing.csv at 6a198ee, 40504 images; here 43")
    other, _ = published("pointing", "val2014", "mobilenet_v2", 80)
    assert other.cited(7).endswith("here 7; not the network that is played with here")


def test_nothing_is_published_for_other_data_or_classes():
    assert published("pointing", "VOC2012 val", "vgg16", 20) == []
    assert published("pointing", "val2014", "vgg16", len(data.VOC_CLASSES)) == []
    assert published("boxes", "VOC2007 test", "googlenet", 20) == []
    assert published("text", "Flickr30k Entities val", "googlenet_tags") == []


def test_names_are_those_of_the_registries():
    assert set(figures._NETWORKS) <= set(models.names())
    assert set(figures._METHODS) <= {*methods.names(), "centre", "proposals"}


#: Of a file at hand, the file here, and for each of its columns the one here.
FILES = {
    "pointing": ("pointing", 1, {"all": "all", "difficult": "difficult"}),
    "cam": ("pointing", 2, {"all": "all", "difficult": "difficult"}),
    "contrast": ("pointing", 3, {"mean_acc": "difficult"}),
    "winner_take_all": ("pointing", 4, {"all": "all", "difficult": "difficult"}),
    "boxes": ("boxes", 5, {"opt_alpha": "alpha", "loc_error": "error"}),
    "text": (
        "text",
        6,
        {
            "opt_gamma": "gamma",
            **{f"R@{k}{s}": f"recall@{k}{s}" for k in (1, 5, 10) for s in ("", "_small")},
            "mAP_group": "AP_groups",
            "mAP_group_small": "AP_groups_small",
            "mAP_phrase": "AP_phrases",
            "mAP_phrase_small": "AP_phrases_small",
        },
    ),
    "text_groups": (
        "text_groups",
        7,
        {
            "People": "people",
            "Bodypart": "bodyparts",
            "Vehicle": "vehicles",
            "Scene": "scene",
            "Mean": "mean",
        },
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_every_figure_is_the_papers(name):
    """Against the tables that were checked with the papers' text, where they are at hand."""
    own, table, columns = FILES[name]
    if not PAPERS.is_dir():
        pytest.skip(f"needs the papers' tables in {PAPERS}")
    text = resources.files(figures.__package__).joinpath(f"{own}.csv").read_text()
    rows = [row for row in csv.DictReader(text.splitlines()) if row["table"] == str(table)]
    with (PAPERS / f"table_{name}.csv").open() as file:
        wanted = [
            {there: row[column].replace("N.A.", "") for column, there in columns.items()}
            | {"method": row["method"]}
            for row in csv.DictReader(file)
        ]
    wanted = [row for row in wanted if any(row[there] for there in columns.values())]
    assert [{key: row[key] for key in wanted[0]} for row in rows] == wanted


def test_the_table_of_the_game_has_them_beside_ones_own():
    hits = np.array([[[1, 0, 3], [0, 0, 1]], [[0, 1, 1], [0, 0, 0]]])
    pairs = np.array([[[2, 1, 3], [1, 0, 1]]] * 2)
    counts = pointing.Counts(hits, pairs)
    beside = published("pointing", "VOC2007 test", "googlenet", 20)
    names = {"c-mwp": "c-MWP", "centre": "centre"}
    table = PointingTable("VOC2007 test", "abc", names, counts, 4, published=beside)
    head, mwp, centre = str(table).splitlines()[2:5]
    assert head.split()[-4:] == ["paper,", "GoogLeNet", "TorchRay,", "VGG16"]
    assert mwp.endswith("85.1 / 72.3 (T1); - / 70.6 (T3)      79.9 / 66.5")
    assert centre.endswith("69.5 / 42.6 (T1)      69.6 / 42.4")
    cited = [line for line in str(table).splitlines() if "images; here 4" in line]
    assert len(cited) == 2 and "not the network" in cited[1] and "not the" not in cited[0]
    found = json.loads(table.json())["published"]
    assert [source["images"] for source in found] == [4952, 4952]
    plain = PointingTable("digits", "abc", names, counts, 4)
    assert "paper" not in str(plain) and json.loads(plain.json())["published"] == []


def test_the_table_of_boxes_has_them_beside_ones_own():
    right = np.zeros((3, 2, len(ALPHAS), 1), np.int64)
    counts = Counts(right, np.array([[4], [8]]))
    beside = published("boxes", "ImageNet validation", "googlenet_caffe", 1000)
    names = {"mwp": "MWP", "feedback": "Feedback", WHOLE: "whole"}
    table = BoxTable("ImageNet validation", "a", names, ALPHAS, counts, 8, 4, beside)
    lines = str(table).splitlines()
    assert lines[2].endswith("paper, GoogLeNet: alpha, error")
    assert lines[3].endswith("1.5, 38.7 (T5)") and lines[4].endswith("-, 38.8 (T5)")
    assert lines[-1].startswith("paper, GoogLeNet: Zhang et al.") and "Table 5, 50000" in lines[-1]


def test_the_tables_of_text_have_the_papers_rows_columns_and_figures():
    """Tables 6 and 7: each published row stands beneath one's own, in the same columns."""
    none = Detections((False,) * 3, np.zeros(0, np.float32), np.zeros(0, bool), None)
    groups = [column for column in figures._read("text_groups")[0] if column in GROUPS]
    assert groups == list(GROUPS)

    def parts(ranks):
        found = Parts(Found(), {group: Found() for group in GROUPS}, {})
        right = Detections(ranks, np.array([0.5], np.float32), np.array([ranks[0]]), None)
        for group in GROUPS:
            found.add(Phrase(("a", "thing"), 0, "1", (group,)), right, 1)
        found.add(Phrase(("it",), 0, "1", ("people", "x")), none, 1)
        return found

    names = {"c-mwp": "c-MWP", "rise": "RISE", "proposals": "proposals by their scores"}
    both = [(parts((False, True, True)), parts((True,) * 3)) for _ in names]
    name = "Flickr30k Entities test"
    beside, beside_groups = (
        published(of, name, "googlenet_tags") for of in ("text", "text_groups")
    )
    scores = TextScores(both, [9, 9], [1, 1], [9, 8])
    table = TextTable(name, names, [0.5, 1.0], scores, 9, 3, "grid", 5, beside, beside_groups)
    lines = str(table).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("c-MWP"))
    head = "gamma R@1 R@5 R@10 mAP (group) mAP (phrase)"
    assert " ".join(lines[start - 1].split()) == head
    own = "c-MWP 0.5 0.0/88.9 88.9/88.9 88.9/88.9 0.0/93.8 0.0/50.0"
    assert " ".join(lines[start].split()) == own
    paper = "paper, GoogLeNet, MCG (T6) 0.5 26.2/21.2 54.3/43.4 62.2/51.7 15.2/10.8 30.8/24.0"
    assert " ".join(lines[start + 1].split()) == paper
    assert lines[start + 2].startswith("  paper, GoogLeNet, EB (T6)")
    assert lines[start + 3].split()[:2] == ["RISE", "1"]
    assert lines[start + 4].startswith("proposals by their scores ")
    mcg = "paper, GoogLeNet, MCG (T6) - 10.7/7.7 30.3/22.4 40.5/30.3 6.9/4.5 16.8/12.9"
    assert " ".join(lines[start + 5].split()) == mcg
    assert " ".join(lines[start + 6].split()) == "best possible" + " 100.0/88.9" * 3
    cca = "paper, GoogLeNet, CCA, EB (T6) - 25.3/- -/- 59.7/- 11.2/- -/-"
    assert cca in [" ".join(line.split()) for line in lines]
    start = lines.index("recall@5 % of each group, and the mean over groups")
    assert lines[start + 1].split() == [*GROUPS, "mean"]
    assert lines[start + 2].split() == ["c-MWP", "50.0", *["100.0"] * 7, "93.8"]
    paper = "MCG (T7) 63.5 47.6 24.5 69.9 72.0 54.3 61.0 40.2 54.1"
    assert " ".join(lines[start + 3].split()).endswith(paper)
    shown = [" ".join(line.split()) for line in lines[start:]]
    assert sum("EB (T7)" in line for line in shown) == 2  # c-MWP, and CCA*, which is not played
    assert sum("1000 images; here 9" in line for line in lines) == 2
    content = json.loads(table.json())
    assert content["methods"]["c-mwp"]["small_instances"]["hits@1"] == 8
    assert content["methods"]["proposals"]["gamma"] is None and content["held_out"] == 3
