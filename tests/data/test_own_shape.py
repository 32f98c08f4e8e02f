"""Photographs in their own shape."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from excitation_jax.data.own_shape import OwnShape, fitted, in_parts
from excitation_jax.data.pipeline import Batches, batches_of
from excitation_jax.data.records import Dataset, Example
from excitation_jax.models import Preprocessing

OWN = Preprocessing((10.0, 20.0, 30.0), crop=None, resize=96, warp=True)
SIDES = st.integers(1, 700)


@given(SIDES, SIDES, st.sampled_from([32, 224, 300]), st.sampled_from([1, 8, 16]))
def test_the_shape_is_kept_to_within_half_a_step(height, width, side, step):
    got = OwnShape(OWN, side, step).shape((height, width))
    assert min(got) == side
    assert OwnShape(OWN, side, step).shape((width, height)) == got[::-1]
    exact = side * max(height, width) / min(height, width)
    if max(got) > side:
        assert max(got) % step == 0 and abs(max(got) - exact) <= step / 2
        assert (height < width) == (got[0] < got[1])
    else:
        assert exact < side + step


def examples(*sizes):
    rng = np.random.default_rng(0)
    made = [
        Example(f"{i}", None, size, (), pixels=rng.integers(0, 256, (*size, 3), np.uint8))
        for i, size in enumerate(sizes)
    ]
    return Dataset("shapes", (), tuple(made))


def test_a_batch_is_of_one_shape_and_shows_all_of_its_photographs():
    dataset = examples((30, 60), (31, 62), (60, 30), (50, 50), (30, 61))
    own = OwnShape(OWN, 32)
    ordered = dataset.ordered(lambda example: fitted(own, example.size).size)
    parts = in_parts(own, ordered, range(5), 2)
    keys = [[ordered[place].key for place in part] for part in parts]
    assert keys == [["3"], ["0", "1"], ["4"], ["2"]]
    for part, batch in zip(parts, batches_of(parts, ordered, own, 2), strict=True):
        assert batch.valid.sum() == len(part) and batch.places[batch.valid].tolist() == part
        for row, place in enumerate(part):
            example = ordered[place]
            height, width = example.size
            assert batch.windows[row].tolist() == [0, 0, width, height]
            wanted = OWN.whole(own.shape(example.size)).on_host(example.image())
            np.testing.assert_array_equal(batch.images[row], wanted)


def test_where_all_inputs_have_one_shape_the_batches_are_the_usual_ones():
    dataset = examples((30, 60), (60, 30), (50, 50))
    parts = in_parts(OWN, dataset, range(3), 2)
    assert parts == [[0, 1], [2]]
    pairs = zip(batches_of(parts, dataset, OWN, 2), Batches(dataset, OWN, 2), strict=True)
    for one, other in pairs:
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
    assert list(batches_of([], dataset, OWN, 2)) == []


@pytest.mark.parametrize("changed", [{"side": 0}, {"step": 0}])
def test_sizes_that_make_no_sense_are_refused(changed):
    with pytest.raises(ValueError, match="side and step must be positive"):
        OwnShape(OWN, **changed)
