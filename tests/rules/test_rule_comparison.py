"""The comparison of rule sets in docs/choosing_rules.md, at a smaller scale: its orderings hold."""

from typing import Any

import pytest
from paths import SHARED

import excitation_jax as ej
from benchmarks.rules import mobilenet_pointing, residual_rules

DATA = SHARED / "data"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent"),
]


def test_pointing_game_on_mobilenet() -> None:
    voc, coco = DATA / "voc_mini", DATA / "coco_mini"
    training, tests = mobilenet_pointing.split(voc, coco)
    assert len(training) == 184 and len(tests) == 43
    weights = DATA / "weights" / "mobilenet_v2_100_224_int8.npz"
    variables = mobilenet_pointing.fine_tuned(weights, training, mobilenet_pointing.SIDE)
    pairs = mobilenet_pointing.make_pairs(tests, mobilenet_pointing.SIDE)
    assert len(pairs.classes) == 66 and pairs.difficult.sum() == 24

    rules = {"default": ej.EXCITATION, "TorchRay": ej.EXCITATION_TORCHRAY}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    games = [
        {"rules": rules, "contrastive": (False,), "draws": 2},
        {"rules": {"default": ej.EXCITATION}, "contrastive": (True,), "draws": 0},
    ]
    for game in games:
        for row in mobilenet_pointing.play(
            variables, pairs, layers=("block8",), gradient=False, **game
        ):
            print(row)
            rows[row["method"], row["rules"]] = row
    ours, torchray = rows["MWP", "default"], rows["MWP", "TorchRay"]
    assert ours["all"] > 0.65
    assert rows["c-MWP", "default"]["difficult"] > rows["centre", ""]["difficult"] + 0.1
    # What one image gives with the signed rule is chance: changes by a grey level move nearly
    # every maximum. So hits are compared over disturbed copies. Ten give a ratio of 1.4,
    # single copies 1.2 to 1.7.
    assert ours["disturbed"] > 1.25 * torchray["disturbed"]
    assert ours["moved"] < 0.15 and torchray["moved"] > 0.8
    # The reason: no probabilities, but large shares of both signs.
    assert ours["sum"] <= 1 and torchray["sum"] > 10


def test_grid_pointing_on_a_residual_network() -> None:
    weights = DATA / "weights" / "cifar10_resnet20.npz"
    images = DATA / "cifar10_jpeg_1000.npz"
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in residual_rules.play(weights, images, depth=20, count=50):
        print(row)
        rows[row["method"], row["rules"], row["layer"]] = row
    assert {row["targets"] for row in rows.values()} == {200}

    assert rows["gradient", "", "input"]["hits"] < 0.7
    for rules in residual_rules.RULES:
        assert rows["MWP", rules, "auto"]["hits"] > 0.8
        assert rows["c-MWP", rules, "auto"]["hits"] > 0.92
        assert rows["c-MWP", rules, "auto"]["energy"] > rows["MWP", rules, "auto"]["energy"] + 0.25
    skips = rows["c-MWP", "EXCITATION_RESIDUAL", "layer2_2"]["energy"]
    assert skips > rows["c-MWP", "EXCITATION", "layer2_2"]["energy"] + 0.02
    # At the input, the only value that is not an activation, the signed rule is at a loss.
    for method in ("MWP", "c-MWP"):
        assert rows[method, "EXCITATION", "input"]["hits"] > 0.7
        assert rows[method, "EXCITATION_TORCHRAY", "input"]["hits"] < 0.55
