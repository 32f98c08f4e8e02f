"""The pointing benchmarks, at a small scale: maps point better than the gradient does."""

import pytest
from paths import SHARED

from benchmarks.digits import digits_pointing
from benchmarks.explain import grid_pointing

DATA = SHARED / "data"


def test_digits() -> None:
    results = digits_pointing.play(100, seed=1)
    assert results["MWP"]["hits"] > 0.9
    assert results["c-MWP"]["hits"] > 0.9
    assert results["gradient"]["hits"] < 0.8


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent")
def test_grids_of_photographs() -> None:
    weights = DATA / "weights" / "squeezenet_v1_0.npz"
    results = grid_pointing.play(weights, DATA / "imagenet_256", 25, seed=0, layer="auto")
    print(results)
    assert results["MWP"]["hits"] > 0.9
    assert results["c-MWP"]["hits"] > 0.85
    assert results["gradient"]["hits"] < 0.8
    assert results["MWP"]["energy"] > results["gradient"]["energy"] + 0.1
